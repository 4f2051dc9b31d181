"""Keys and acts against the entries of a log: what no command can have done is named, whoever entered or stored it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from receipt_world import World

from gateway.crypto.merkle import leaf_hash
from gateway.errors import FormatError
from gateway.log.acts import key_row, read_act
from gateway.log.audit_acts import Acts, StoredAct
from gateway.log.audit_keys import Keys, StoredKey
from gateway.log.audit_rows import StoredRow, check_rows
from gateway.log.receipt import event_statement
from gateway.model.line import Line
from gateway.model.verdict import Outcome

KEY = StoredKey("key_1", "one", b"d" * 32, None, "inference", 5, None, "abcd")
ROW = key_row(**{name: value for name, value in KEY._asdict().items() if name != "revoked_ms"})
CREATE: dict[str, object] = {
    "act": "create", "keyId": "key_1", "policy": None, "scopes": ["inference"], "timeMs": 5, "row": {"sha256": ROW},
    "nonce": "n",
}  # fmt: skip
REVOKE: dict[str, object] = {"act": "revoke", "keyId": "key_1", "timeMs": 9, "nonce": "m"}


class Stored:
    """What is stored beside the log: acts, as (kind, document, whether it is marked), and keys."""

    crowded = False

    def __init__(self, acts: list[tuple[str, object, bool]], keys: list[StoredKey]) -> None:
        self.acts, self.keys = acts, keys

    def administration(self) -> Iterator[StoredAct | StoredKey]:
        for number, (kind, document, done) in enumerate(self.acts, 1):
            content = document if isinstance(document, bytes) else json.dumps(document).encode()
            ms = document.get("timeMs", 7) if isinstance(document, dict) else 7
            yield StoredAct(number, kind, content, ms, int(done), waited=not done)
        yield from self.keys


def audited(payloads: list[tuple[str, bytes]], stored: Stored) -> tuple[list[tuple[str, str]], list[Line]]:
    """What is at fault, and the lines of what is not, for a log of these entries."""
    world, found, acts = World(), [], Acts(stored)

    def fail(step: str, _: int, sentence: str) -> None:
        found.append((step, sentence))

    rows = []
    for kind, payload in payloads:
        place = world.add(kind, payload)
        leaf = world.leaves[place]
        rows.append(StoredRow(place, leaf_hash(leaf), leaf, kind, "x", world.envelopes[place], *[None] * 4))
    report = check_rows(rows, 0, None)
    assert report.bad == {}
    acts.take(report, fail)
    acts.close(len(rows), fail)
    return found, list(acts.lines())


def entered(*acts: tuple[str, dict[str, object]]) -> list[tuple[str, bytes]]:
    return [(kind, event_statement(kind, None, document)) for kind, document in acts]


def test_what_commands_do_is_affirmed():
    """A key that was made, and then revoked, and an export: each with its entry, in whatever order of members."""
    log = entered(("key", CREATE), ("export", {"count": 1}), ("key", REVOKE))
    turned = dict(reversed(CREATE.items()))
    stored = Stored([("key", turned, True), ("export", {"count": 1}, True), ("key", REVOKE, True)], [])
    stored.keys = [KEY._replace(revoked_ms=9)]
    found, lines = audited(log, stored)
    assert (found, {line.outcome for line in lines}) == ([], {Outcome.AFFIRMING})
    assert lines[0].sentence == "1 keys are stored as entries of the log made and revoked them, and no others"


def test_an_export_may_wait():
    """It is said to, and no key rests on it."""
    found, lines = audited([], Stored([("export", {"count": 1}, False)], []))
    assert (found, [line.outcome for line in lines]) == ([], [Outcome.AFFIRMING, Outcome.WARNING])


AGAIN = {**REVOKE, "timeMs": 11, "nonce": "o"}


@pytest.mark.parametrize(
    ("acts", "sentence"),
    [
        ([REVOKE], "entry 0 revokes key 'key_1', which nothing before it made"),
        ([CREATE, {**CREATE, "nonce": "o"}], "entry 1 makes key 'key_1' a second time, after entry 0"),
        ([CREATE, REVOKE, AGAIN], "entry 2 revokes key 'key_1' again, which entry 1 had revoked already"),
    ],
)
def test_a_key_has_one_beginning_and_one_end(acts: list[dict[str, object]], sentence: str):
    """A second revocation means that the first was undone beside the log, though the last one holds."""
    ends = [act["timeMs"] for act in acts if act["act"] == "revoke"]
    keys = [KEY._replace(revoked_ms=ends[-1] if ends else None)] if CREATE in acts else []
    found, _ = audited(entered(*[("key", act) for act in acts]), Stored([("key", act, True) for act in acts], keys))
    assert found == [("keys", sentence)]
    found, _ = audited([], Stored([("key", act, False) for act in acts], keys))
    assert [step for step, _ in found] == ["keys"]


@pytest.mark.parametrize("payload", [b'{"predicate":[]}', b"{}", b"x", b'{"predicate":{"a":' + b"[" * 5000])
def test_an_entry_without_an_act_is_named(payload: bytes):
    """What was entered as a key and is none stops nothing."""
    found, _ = audited([("key", payload)], Stored([], []))
    assert found == [("acts", "entry 0 (key) holds no act")]


@pytest.mark.parametrize(
    "change",
    [{"act": "rename"}, {"keyId": 7}, {"timeMs": "5"}, {"timeMs": True}, {"scopes": None}, {"row": "x"}, {"policy": 1}],
)
def test_an_entry_that_cannot_be_read_as_ours_is_undecided(change: dict[str, object]):
    """Another version may have made it: whatever the keys are, they are not affirmed."""
    act = CREATE | change
    found, (line, _) = audited(entered(("key", act)), Stored([("key", act, True)], []))
    assert (line.outcome, line.sentence) == (Outcome.NONE, "entry 0 says of a key what this version cannot read")
    assert [step for step, _ in found] == (["acts"] if "timeMs" in change else [])  # the row's time is that


@pytest.mark.parametrize("name", ["id", "name", "digest", "policy", "scopes", "created_ms", "last4"])
def test_the_digest_of_a_key_covers_each_column(name: str):
    """It is another when one of them is; a revocation, which comes later, it leaves out."""
    values = {name: value for name, value in KEY._asdict().items() if name != "revoked_ms"}
    changed = {"digest": b"e" * 32, "created_ms": 6}.get(name, "other")
    assert key_row(**{**values, name: changed}) != ROW
    with pytest.raises(FormatError):
        key_row(**{**values, name: object()})


@pytest.mark.parametrize("document", [b"", b"[]", b"\xff", b'{"a":"\\ud800"}', b'{"a":1e999}', b'{"a":' + b"[" * 5000])
def test_what_is_no_document_of_an_act_is_refused(document: bytes):
    """The gateway could not enter it either."""
    with pytest.raises(FormatError):
        read_act("key", document)


ACT = StoredAct(1, "key", json.dumps(CREATE).encode(), 5, 1, waited=False)
EXPORT = {"count": 1}


def held(*rows: StoredAct | StoredKey, log: list[tuple[str, bytes]]) -> list[tuple[str, int, str]]:
    """What is at fault, with its place, where these rows are stored beside a log of these entries."""
    found, _ = placed(log, Rows(rows))
    return found


class Rows(Stored):
    def __init__(self, rows: tuple[StoredAct | StoredKey, ...]) -> None:
        self.rows = rows

    def administration(self) -> Iterator[StoredAct | StoredKey]:
        yield from self.rows


def placed(log: list[tuple[str, bytes]], stored: Stored) -> tuple[list[tuple[str, int, str]], list[Line]]:
    world, found, acts = World(), [], Acts(stored)
    for kind, payload in log:
        place = world.add(kind, payload)
        leaf = world.leaves[place]
        row = StoredRow(place, leaf_hash(leaf), leaf, kind, "x", world.envelopes[place], *[None] * 4)
        acts.take(check_rows([row], place, None), lambda *fault: found.append(fault))
    acts.close(len(log), lambda *fault: found.append(fault))
    return found, list(acts.lines())


def test_each_entry_has_its_act_stored():
    """An entry of which no act is stored is named with its place, the first entry too."""
    log = entered(("key", CREATE), ("export", EXPORT))
    assert held(KEY, log=log) == [
        ("acts", 0, "the act of entry 0 is not stored"),
        ("acts", 1, "the act of entry 1 is not stored"),
    ]
    assert held(ACT, KEY, log=log[:1]) == []


def test_an_act_that_was_entered_again_is_one_act():
    """As after a crash between entry and mark: neither is a second key made, nor is a second act missed."""
    log = entered(("key", CREATE), ("key", CREATE))
    assert held(ACT, KEY, log=log) == []
    assert held(KEY, log=log) == [("acts", 0, "the act of entry 0 is not stored")]
    later = entered(("export", EXPORT), ("key", CREATE), ("key", CREATE))
    again = ACT._replace(number=2)
    sentences = [sentence for _, _, sentence in held(ACT, again, KEY, log=later)]
    assert sentences == ["act 2 is that of entry 1, and stored twice", "the act of entry 0 is not stored"]
    assert held(ACT, again, KEY, log=log) == [("acts", 2, "act 2 is that of entry 0, and stored twice")]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kind": 7}, "act 1 is of kind 7, which no command leaves"),
        ({"kind": "receipt"}, "act 1 is of kind 'receipt', which no command leaves"),
        ({"document": "{}"}, "the document of act 1 (key) is none that a command leaves"),
        ({"document": b"["}, "the document of act 1 (key) is none that a command leaves"),
        ({"created_ms": 6}, "act 1 (key) is stored with another time than its own"),
        ({"created_ms": 5.0}, "act 1 (key) is stored with another time than its own"),
        ({"created_ms": "5"}, "act 1 (key) is stored with another time than its own"),
        ({"done": 2}, "act 1 (key) is marked neither as logged nor as waiting"),
        ({"done": True}, "act 1 (key) is marked neither as logged nor as waiting"),
        ({"done": None}, "act 1 (key) is marked neither as logged nor as waiting"),
    ],
)
def test_a_row_that_no_command_leaves_is_named(change: dict[str, object], sentence: str):
    """Whatever stands in the columns of an act, its document's entry being in the log."""
    found = held(ACT._replace(**change), KEY, log=entered(("key", CREATE)))
    assert ("acts", 1, sentence) in found
    unread = "kind" in change or "document" in change  # then its entry has no act
    assert [text for _, _, text in found if text != sentence] == ["the act of entry 0 is not stored"] * unread


def test_an_export_has_no_time_of_its_own():
    """Any number passes, and nothing else."""
    row = StoredAct(1, "export", json.dumps(EXPORT).encode(), 123, 1, waited=False)
    assert held(row, log=entered(("export", EXPORT))) == []
    found = held(row._replace(created_ms="123"), log=entered(("export", EXPORT)))
    assert [sentence for _, _, sentence in found] == ["act 1 (export) is stored with another time than its own"]


def test_an_act_without_an_entry_waits_or_is_named():
    """One that is marked as logged is at fault, unless it waited as the audit began; a key of one that waits does too."""
    sentence = "act 1 (key) is marked as logged, and no entry of the log has it"
    found = held(ACT, KEY, log=[])
    assert found[0] == ("acts", 0, sentence)
    assert found[1:] == [("keys", 0, "key 'key_1' is stored, and no entry of the log made it")]
    for row in (ACT._replace(done=0), ACT._replace(waited=True)):
        found, (keys, acts) = placed(
            [],
            Rows(
                (
                    row,
                    row._replace(number=2, document=json.dumps(REVOKE).encode(), created_ms=9),
                    KEY._replace(revoked_ms=9),
                )
            ),
        )
        assert found == []
        assert keys.sentence == "1 of 1 keys rest on acts that wait for their entry in the log, 'key_1' among them"
        assert acts.sentence == (
            "2 of 2 acts wait for their entry in the log, which a gateway makes when it runs; act 1 is the first"
        )
        assert (keys.outcome, acts.outcome) == (Outcome.WARNING, Outcome.WARNING)


def test_a_fault_of_an_act_that_waits_stands_at_the_end_of_the_log():
    """It has no place yet."""
    row = ACT._replace(document=json.dumps(REVOKE).encode(), created_ms=9, done=0)
    sentence = "act 1, which waits, revokes key 'key_1', which nothing before it made"
    first = StoredAct(0, "export", json.dumps(EXPORT).encode(), 1, 1, waited=False)
    assert held(first, row, log=entered(("export", EXPORT))) == [("keys", 1, sentence)]


def test_where_too_many_wait_both_lines_are_undecided():
    """It cannot be told which of them always did."""
    stored = Rows(())
    stored.crowded = True
    _, lines = placed([], stored)
    assert [(line.step, line.outcome) for line in lines] == [("keys", Outcome.NONE), ("acts", Outcome.NONE)]


def test_what_is_affirmed_is_counted():
    """Each line says of how many it speaks."""
    _, lines = placed(entered(("key", CREATE)), Rows((ACT, KEY)))
    assert [line.sentence.split(" ", 1)[0] for line in lines] == ["1", "1"]
    _, lines = placed([], Rows(()))
    assert [line.sentence.split(" ", 1)[0] for line in lines] == ["0", "0"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"policy": "signed"}, "is stored with another policy than that of entry 0"),
        ({"scopes": "admin"}, "is stored with another scopes than that of entry 0"),
        ({"scopes": b"inference"}, "is stored with another scopes than that of entry 0"),
        ({"created_ms": 6}, "is stored with another created_ms than that of entry 0"),
        ({"created_ms": 5.0}, "is stored with another created_ms than that of entry 0"),
        ({"name": "two"}, "is stored with another name, digest or last4 than that of entry 0"),
        ({"digest": b"e" * 32}, "is stored with another name, digest or last4 than that of entry 0"),
        ({"digest": "d" * 32}, "is stored with another name, digest or last4 than that of entry 0"),
        ({"last4": "abce"}, "is stored with another name, digest or last4 than that of entry 0"),
        ({"revoked_ms": 9}, "is stored as revoked, and no entry of the log revoked it"),
    ],
)
def test_a_key_that_is_not_what_its_entry_made_is_named(change: dict[str, object], problem: str):
    """Each column counts, and its type."""
    found = held(ACT, KEY._replace(**change), log=entered(("key", CREATE)))
    assert found == [("keys", 0, f"key 'key_1' {problem}")]


def test_a_key_ends_as_and_when_its_entry_says():
    """One that is stored as in force is named, and another time."""
    log = entered(("key", CREATE), ("key", REVOKE))
    rows = ACT, ACT._replace(number=2, document=json.dumps(REVOKE).encode(), created_ms=9)
    assert held(*rows, KEY._replace(revoked_ms=9), log=log) == []
    assert held(*rows, KEY, log=log) == [("keys", 0, "key 'key_1' is stored as in force, and entry 1 revoked it")]
    sentence = "key 'key_1' is stored with another revoked_ms than that of entry 0"
    assert held(*rows, KEY._replace(revoked_ms=8), log=log) == [("keys", 0, sentence)]


def test_keys_are_stored_once_each_and_no_others():
    """A key of no entry, one that is stored twice, one that is not stored."""
    log = entered(("key", CREATE))
    assert held(ACT, log=log) == [("keys", 0, "key 'key_1', which entry 0 made, is not stored")]
    assert held(ACT, KEY, KEY, log=log) == [("keys", 0, "key 'key_1' is stored twice")]
    for id in ("key_2", 7, None):
        sentence = f"key {id!a} is stored, and no entry of the log made it"
        assert held(ACT, KEY, KEY._replace(id=id), log=log) == [("keys", 0, sentence)]


BARE = {name: value for name, value in CREATE.items() if name != "row"}


def test_a_key_of_an_earlier_version_is_what_its_entry_tells():
    """Name and secret are none that the entry commits to: in force it is undecided, revoked it is affirmed."""
    row = ACT._replace(document=json.dumps(BARE).encode())
    found, (keys, _) = placed(entered(("key", BARE)), Rows((row, KEY._replace(name="other"))))
    assert (found, keys.outcome, keys.detail) == ([], Outcome.NONE, "the first is 'key_1'")
    assert keys.sentence.startswith("1 keys in force were made by an earlier version")
    for change in ({"name": 7}, {"digest": "d"}, {"last4": None}):
        (fault,) = held(row, KEY._replace(**change), log=entered(("key", BARE)))
        assert fault[2] == "key 'key_1' is stored with another name, digest or last4 than that of entry 0"
    ended = row, ACT._replace(number=2, document=json.dumps(REVOKE).encode(), created_ms=9)
    log = entered(("key", BARE), ("key", REVOKE))
    found, (keys, _) = placed(log, Rows((*ended, KEY._replace(revoked_ms=9))))
    assert (found, keys.outcome) == ([], Outcome.AFFIRMING)
    assert keys.sentence.endswith("; of 1 revoked ones, made by an earlier version, without name and secret")


def called(*callers: dict[str, int], unread: bool = False) -> list[tuple[str, int, str]]:
    found: list[tuple[str, int, str]] = []
    keys = Keys()
    for each in callers:
        keys.call(each)
    if unread:
        keys.take("entry 1", None, lambda *fault: found.append(fault), waits=False, place=1)
    keys.close(lambda *fault: found.append(fault))
    return found


def test_a_receipt_is_of_a_key_that_an_entry_made():
    """The first receipt of another is named; callers without a key have names of another form."""
    sentence = "the receipt of entry 3 is of key 'key_0123456789ab', which no entry of the log made"
    assert called({"key_0123456789ab": 3}, {"key_0123456789ab": 4}) == [("keys", 3, sentence)]
    assert called({"local": 3, "veriroute:canary": 4, "key_0123456789AB": 5, "key_0123456789abc": 6}) == []
    assert called({"key_0123456789ab": 3}, unread=True) == []  # that one may have made it


def test_callers_of_each_run_are_looked_at():
    """As reports name them."""
    found: list[tuple[str, int, str]] = []
    acts = Acts(Rows(()))
    acts.take(check_rows([], 0, None)._replace(callers={"key_0123456789ab": 3}), lambda *fault: found.append(fault))
    acts.close(0, lambda *fault: found.append(fault))
    assert [(step, place) for step, place, _ in found] == [("keys", 3)]


@pytest.mark.parametrize("before", [True, False])
def test_a_receipt_may_stand_before_the_entry_that_made_its_key(before: bool):
    """A key serves from its row on, and a gateway enters the act when it comes to it."""
    act = read_act("key", json.dumps(CREATE | {"keyId": "key_0123456789ab"}).encode())
    found: list[tuple[str, int, str]] = []
    keys = Keys()
    keys.call({"key_0123456789ab": 0} if before else {})
    keys.take("entry 1", act.key, lambda *fault: found.append(fault), waits=False, place=1)
    keys.call({"key_0123456789ab": 2})
    keys.close(lambda *fault: found.append(fault))
    assert found == [("keys", 0, "key 'key_0123456789ab', which entry 1 made, is not stored")]


def test_the_first_act_that_cannot_be_read_is_named():
    """However many there are."""
    keys = Keys()
    for place in (1, 2):
        keys.take(f"entry {place}", None, lambda *fault: None, waits=False, place=place)
    assert keys.line().sentence == "entry 1 says of a key what this version cannot read"
