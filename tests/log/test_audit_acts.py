"""Keys and acts against the entries of a log: what no command can have done is named, whoever entered it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from receipt_world import World

from gateway.crypto.merkle import leaf_hash
from gateway.errors import FormatError
from gateway.log.acts import key_row, read_act
from gateway.log.audit_acts import Acts, StoredAct
from gateway.log.audit_keys import StoredKey
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
