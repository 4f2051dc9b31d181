"""Checking runs of stored rows: each fault is named with its index, and nothing that is stored makes it raise."""

import json
from functools import partial

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from receipt_world import ANSWER, REQUEST, SEED, T0_MS, World, small_world

from gateway.crypto.merkle import leaf_hash
from gateway.errors import FormatError
from gateway.log.audit_rows import Columns, Report, StoredRow, check_rows, read_envelope
from gateway.log.dsse import Envelope, parse_envelope, wrap
from gateway.log.receipt import event_statement
from gateway.model.receipt import Annotations, PolicyRef, Sha256, Subject, Verifier, instant

WORLD, INTENT, RECEIPT = small_world()
PREDICATE = WORLD.predicate(1)
KEYS = {WORLD.receipts.keyid: WORLD.receipts.public_key}
COLUMNS = Columns(
    key_id="key_1",
    client_request_id=None,
    created_ms=T0_MS,
    verdict="affirming",
    release="released",
    reason=None,
    policy="signed",
    network="aci",
    node="node-1",
    model="m",
    endpoint="/v1/chat/completions",
    stream=False,
    intent=INTENT,
)


def row(index: int, **changes: object) -> StoredRow:
    kind, leaf = WORLD.kinds[index], WORLD.leaves[index]
    receipt = kind == "receipt"
    id = PREDICATE.receipt_id if index in (INTENT, RECEIPT) else "x"
    made = StoredRow(
        index,
        leaf_hash(leaf),
        leaf,
        kind,
        id,
        WORLD.envelopes[index],
        COLUMNS if receipt else None,
        SEED if receipt else None,
        None,
        None,
    )
    return made._replace(**changes)


def check(*rows: StoredRow, first: int | None = None) -> Report:
    return check_rows(rows, rows[0].place if first is None else first, KEYS)


def test_good_rows_have_nothing_bad():
    """An intent and its receipt report their hashes and what pairs them."""
    report = check(row(INTENT), row(RECEIPT))
    assert (report.bad, report.first_bad, report.unknown_keys) == ({}, {}, 0)
    assert report.hashes == [leaf_hash(WORLD.leaves[i]) for i in (INTENT, RECEIPT)]
    assert [(s.kind, s.id, s.forwarded, s.opening) for s in report.seen] == [
        ("intent", PREDICATE.receipt_id, False, ""),
        ("receipt", PREDICATE.receipt_id, True, "seed"),
    ]


def test_of_a_tightened_policy_the_files_are_named():
    """The policy in force has the digest of several files: no file has it, and those behind it are looked for."""
    refs = tuple(PolicyRef(name, f"veriroute:policy/{name}@1", Sha256(name * 64)) for name in "cab")
    world = World()
    for policies in (refs, refs[:1]):
        world.add_receipt(world.predicate(verifier=Verifier("urn:veriroute:verifier:0.1.0", policies)))
    several, one = (
        [name.digest for name in check(_bare(world, place)).named if name.what == "policy file"] for place in (0, 1)
    )
    assert (several, one) == (["a" * 64, "b" * 64], ["c" * 64])


def _bare(world: World, place: int) -> StoredRow:
    leaf = world.leaves[place]
    return StoredRow(place, leaf_hash(leaf), leaf, "receipt", "x", world.envelopes[place], None, None, None, None)


@pytest.mark.parametrize(
    ("kind", "predicate", "time"),
    [
        ("start", {"timeMs": T0_MS}, instant(T0_MS)),
        ("stop", {"timeCreated": T0_MS}, instant(T0_MS)),
        ("alarm", {"alarm": "log_unavailable", "since": "a", "until": "b", "unrecorded": "c"}, "b"),
        ("alarm", {"alarm": "log_unavailable", "since": "a", "until": 7}, ""),
        ("alarm", {"alarm": "surplus_bytes", "timeMs": -1}, ""),
        ("key", {"timeMs": T0_MS}, ""),
        ("start", [], ""),
    ],
)
def test_entries_say_when_the_gateway_made_them(kind: str, predicate: object, time: str):
    """The time of an entry is that of the clock by which it is stored; keys are made by another process, before."""
    world = World()
    payload = json.dumps({"predicate": predicate}).encode()
    leaf = world.leaves[world.add(kind, payload)]
    report = check(StoredRow(0, leaf_hash(leaf), leaf, kind, "x", world.envelopes[0], None, None, None, None))
    assert [seen.time for seen in report.seen] == [time]
    assert [tuple(outage) for outage in report.outages] == ([("a", "b", 0)] if time == "b" else [])


UNSIGNED = wrap(parse_envelope(WORLD.envelopes[RECEIPT]).payload, "application/vnd.in-toto+json").envelope
STRANGE_LEAF = b"veriroute/9 receipt\n"
FAULTS = {
    "gap": (row(RECEIPT), 0, "leaves"),
    "hash": (row(RECEIPT, hash=b"h" * 32), RECEIPT, "leaves"),
    "entry_of_another_form": (row(RECEIPT, leaf=STRANGE_LEAF, hash=leaf_hash(STRANGE_LEAF)), RECEIPT, "leaves"),
    "no_document": (row(RECEIPT, envelope=None), RECEIPT, "documents"),
    "malformed_document": (row(RECEIPT, envelope=b"{"), RECEIPT, "documents"),
    "document_of_another": (row(RECEIPT, envelope=WORLD.envelopes[INTENT]), RECEIPT, "documents"),
    "filed_elsewhere": (row(RECEIPT, kind="alarm"), RECEIPT, "documents"),
    "other_id": (row(RECEIPT, id=None), RECEIPT, "columns"),
    "other_columns": (row(RECEIPT, columns=COLUMNS._replace(node=None, verdict="none")), RECEIPT, "columns"),
    "signed_by_nobody": (row(RECEIPT, envelope=UNSIGNED), RECEIPT, "signatures"),
    "other_payload": (row(RECEIPT, response=b"{}"), RECEIPT, "openings"),
}


@pytest.mark.parametrize(("bad", "first", "step"), FAULTS.values(), ids=FAULTS.keys())
def test_each_fault_is_named(bad: StoredRow, first: int, step: str):
    """One wrong value in a row gives the step that it fails and the index."""
    report = check(bad, first=first)
    assert set(report.bad) == {step}
    assert report.first_bad[step][0] == (first if step == "leaves" else RECEIPT)


def test_an_entry_that_only_unknown_keys_signed_is_counted():
    """A signature by a key that the reader does not trust shows nothing, and is no fault of the row."""
    report = check_rows([row(RECEIPT)], RECEIPT, {})
    assert (report.bad, report.unknown_keys) == ({}, 1)
    assert report.first_bad["unknown_keys"][0] == RECEIPT


def test_a_signed_document_that_is_not_of_its_kind_is_said():
    """A document under a receipt's leaf that has no predicate is a fault of the document."""
    world = World()
    index = world.add("receipt", b'{"predicate":1}')
    made = StoredRow(
        0, leaf_hash(world.leaves[index]), world.leaves[index], "receipt", "x", world.envelopes[index], *[None] * 4
    )
    assert set(check(made).bad) == {"documents"}


def test_a_receipt_without_the_payloads_subject_is_a_fault_of_the_opening():
    """A kept payload that the receipt does not commit to at all is named."""
    world = World()
    index = world.add_receipt(world.predicate(1), world.subjects()[:1])
    made = row(RECEIPT, response=b"x")._replace(
        leaf=world.leaves[index], hash=leaf_hash(world.leaves[index]), envelope=world.envelopes[index]
    )
    assert set(check(made).bad) == {"openings"}


def filed(world: World, index: int, **changes: object) -> StoredRow:
    """A receipt of another world as a stored row."""
    leaf = world.leaves[index]
    return row(RECEIPT, leaf=leaf, hash=leaf_hash(leaf), envelope=world.envelopes[index], **changes)


def streamed() -> list[Subject]:
    """Subjects of an answer that came as a stream; the first says nothing of its form."""
    request, stream = WORLD.subjects()[:2]
    lines = Annotations("salt32||sse-data-lf")
    return [msgspec.structs.replace(request, annotations=None), msgspec.structs.replace(stream, annotations=lines)]


@pytest.mark.parametrize(
    ("kept", "wrong"),
    [
        ({"request": REQUEST}, None),
        ({"request": b"wrong"}, "request.body"),
        ({"request": REQUEST, "response": b"data: x"}, "response.body"),
    ],
)
def test_a_kept_body_has_to_open_its_digest_whatever_the_form(kept: dict[str, bytes], wrong: str | None):
    """A stream's body is never kept, so one that is stored and does not open is none; the request is checked too."""
    world = World()
    index = world.add_receipt(world.predicate(1, stored="full"), streamed())
    report = check(filed(world, index, **kept))
    assert report.bad == ({} if wrong is None else {"openings": 1})
    assert [s.opening for s in report.seen] == ["kept" if wrong is None else ""]
    assert wrong is None or wrong in report.first_bad["openings"][1]


@pytest.mark.parametrize(
    ("stored", "kept", "word"),
    [
        ("full", {"request": REQUEST, "response": ANSWER}, "kept"),
        ("full", {"request": REQUEST}, "gone"),
        ("full", {"response": ANSWER}, "gone"),
        ("full", {}, "gone"),
        ("salted", {}, "seed"),
        (None, {}, "seed"),
    ],
)
def test_a_body_that_the_receipt_says_was_kept_has_to_be_there(stored: str | None, kept: dict[str, bytes], word: str):
    """With `full`, a missing body makes the opening gone; a seed alone is never called kept."""
    world = World()
    index = world.add_receipt(world.predicate(1, stored=stored))
    report = check(filed(world, index, **kept))
    assert (report.bad, [s.opening for s in report.seen]) == ({}, [word])


def test_a_request_that_was_never_answered_needs_no_kept_answer():
    """With `full` and no response in the receipt, the request alone is the whole opening."""
    world = World()
    index = world.add_receipt(world.predicate(1, stored="full"), world.subjects()[:1])
    assert [s.opening for s in check(filed(world, index, request=REQUEST)).seen] == ["kept"]


@pytest.mark.parametrize("seed", [b"", b"x" * 31])
def test_a_seed_of_another_length_is_none(seed: bytes):
    """A seed has 32 bytes: another is named, and counts as no opening."""
    report = check(row(RECEIPT, seed=seed))
    assert report.bad == {"openings": 1}
    assert f"the kept seed has {len(seed)} bytes" in report.first_bad["openings"][1]
    assert [s.opening for s in report.seen] == [""]


@pytest.mark.parametrize(
    ("reason", "columns", "names"),
    [
        ("no_node", {"network": None, "node": None}, None),
        ("no_node", {"network": "aci", "node": "innocent"}, "network, node"),
        ("no_node", {"network": None, "node": ""}, "node"),
        ("crash", {"network": "aci", "node": "node-1"}, None),
    ],
)
def test_a_receipt_that_names_no_node_is_listed_under_none(
    reason: str, columns: dict[str, str | None], names: str | None
):
    """Nothing that was served stands beside a refusal; what a crash left is left to the pair with its intent."""
    world = World()
    index = world.add_receipt(world.predicate(1, served=None, reason=reason))
    report = check(filed(world, index, columns=COLUMNS._replace(reason=reason, **columns)))
    assert report.bad == ({} if names is None else {"columns": 1})
    assert names is None or f"the stored {names} are not" in report.first_bad["columns"][1]
    assert [s.node for s in report.seen] == [("aci", "node-1") if reason == "crash" else None]


def test_an_intent_reports_what_it_announced_and_when():
    """Network and node of the destination, and the time that it says; a time of another form is none."""
    for time, seen in ((instant(T0_MS), instant(T0_MS)), (T0_MS, "")):
        world = World()
        said = {"receiptId": "R", "timeCreated": time, "destination": {"network": "aci", "node": "n", "session": "s"}}
        index = world.add("intent", event_statement("intent", None, said))
        leaf = world.leaves[index]
        made = row(INTENT, leaf=leaf, hash=leaf_hash(leaf), envelope=world.envelopes[index], id="R")
        assert [(s.node, s.time, s.intent) for s in check(made).seen] == [(("aci", "n"), seen, None)]


def test_a_receipt_without_its_row_has_no_columns_to_compare():
    """A receipt's document that is filed as another kind is named for that, and nothing else of it is."""
    report = check(row(RECEIPT, kind="alarm", columns=None, seed=None))
    assert report.bad == {"documents": 1}
    assert [(s.intent, s.node) for s in report.seen] == [(None, None)]


@pytest.mark.parametrize(
    ("stored", "word"), [("none", "never"), ("salted", "gone"), ("full", "gone"), (None, "unknown")]
)
def test_an_absent_opening_is_what_the_receipt_says(stored: str | None, word: str):
    """Never kept, gone, or unknown: by the receipt's own word."""
    world = World()
    index = world.add_receipt(world.predicate(1, stored=stored))
    made = row(RECEIPT, seed=None)._replace(
        leaf=world.leaves[index], hash=leaf_hash(world.leaves[index]), envelope=world.envelopes[index]
    )
    assert [s.opening for s in check(made).seen] == [word]


def test_a_backfilled_receipt_needs_no_intent_before_it():
    """What the log took later says so, and is not held to have been announced."""
    payload = json.loads(parse_envelope(WORLD.envelopes[RECEIPT]).payload)
    payload["predicate"]["log"]["backfilled"] = True
    world = World()
    index = world.add("receipt", json.dumps(payload).encode())
    made = row(RECEIPT)._replace(
        leaf=world.leaves[index], hash=leaf_hash(world.leaves[index]), envelope=world.envelopes[index]
    )
    assert [s.forwarded for s in check(made).seen] == [False]


def test_a_document_with_bad_text_or_endless_nesting_is_named():
    """A payload that the JSON library refuses in other words than its own errors is a finding, not an exception."""
    for payload in (b'{"predicate":{"receiptId":"\xff"}}', b'{"x":' + b"[" * 100_000):
        world = World()
        index = world.add("receipt", payload)
        made = row(RECEIPT, leaf=world.leaves[index], envelope=world.envelopes[index])
        assert any("is not a receipt" in sentence for _, sentence in check(made).first_bad.values())


def both(data: bytes) -> tuple[Envelope | str, Envelope | str]:
    found: list[Envelope | str] = []
    for read in (read_envelope, partial(parse_envelope, unsigned=True)):
        try:
            found.append(read(data))
        except FormatError as error:
            found.append(str(error))
    return found[0], found[1]


STORED = (WORLD.envelopes[INTENT], WORLD.envelopes[RECEIPT])  # one without and one with a signature


@given(st.sampled_from(STORED), st.integers(0, 8000), st.binary(max_size=2), st.integers(0, 2))
def test_the_short_cut_reads_what_the_strict_reader_reads(stored: bytes, at: int, piece: bytes, cut: int):
    """For every mutated envelope, the fast reader gives the same value or the same refusal."""
    at %= len(stored)
    fast, strict = both(stored[:at] + piece + stored[at + cut :])
    assert fast == strict


@pytest.mark.parametrize("stored", STORED, ids=["unsigned", "signed"])
@pytest.mark.parametrize(
    "change",
    [
        lambda d: json.dumps(json.loads(d)).encode(),
        lambda d: d.replace(b'{"payload":"', b'{"payload":"\\/', 1),
        lambda d: d.replace(b'{"payload":"', b'{"payload":"=', 1),
        lambda d: d.replace(b"in-toto", b"in-tutu", 1),
        lambda d: d[:-1] + b',"payload":""}',
        lambda d: b"",
    ],
)
def test_other_spellings_go_through_the_strict_reader(change: object, stored: bytes):
    """Pretty-printed, escaped, non-canonical and doubled forms are judged by the strict reader."""
    assert callable(change)
    fast, strict = both(change(stored))
    assert fast == strict


@given(st.binary(max_size=120), st.one_of(st.none(), st.binary(max_size=200)), st.text(max_size=5), st.integers())
def test_nothing_that_is_stored_makes_it_raise(leaf: bytes, envelope: bytes | None, text: str, number: int):
    """Whatever bytes, text and numbers stand in a row, the answer is a report with something bad in it."""
    columns = COLUMNS._replace(verdict=text, created_ms=number, node=text)
    report = check(row(RECEIPT, leaf=leaf, envelope=envelope, id=text, columns=columns, seed=leaf, request=leaf))
    assert report.bad


@pytest.mark.parametrize(
    ("name", "other"),
    [
        *(("key_id", "key_2"), ("client_request_id", "c"), ("created_ms", T0_MS + 1), ("created_ms", -1)),
        *(("verdict", "none"), ("release", "withheld"), ("reason", "crash"), ("policy", "other")),
        *(("network", "other"), ("network", None), ("node", "node-2"), ("node", None), ("model", "n"), ("model", None)),
        *(("endpoint", "/v1/completions"), ("stream", True), ("stream", -1)),
    ],
)
def test_each_column_is_the_one_that_was_signed(name: str, other: object):
    """One that is not is named, and it alone."""
    report = check(row(RECEIPT, columns=COLUMNS._replace(**{name: other})))
    sentence = f"entry {RECEIPT}: the stored {name} are not those of the signed receipt"
    assert report.first_bad == {"columns": (RECEIPT, sentence)}


@pytest.mark.parametrize(
    ("member", "names"),
    [
        ("caller", "key_id, client_request_id"),
        ("timings", "created_ms"),
        ("verifier", "policy"),
        ("request", "model, endpoint, stream"),
        ("served", "network, node"),
    ],
)
def test_columns_of_what_was_not_signed_are_named(member: str, names: str):
    """A receipt that lacks a member says nothing of the columns that are taken from it."""
    payload = json.loads(parse_envelope(WORLD.envelopes[RECEIPT]).payload)
    del payload["predicate"][member]
    world = World()
    index = world.add("receipt", json.dumps(payload).encode())
    report = check(filed(world, index))
    assert f"the stored {names} are not those of the signed receipt" in report.first_bad["columns"][1]


def test_a_key_that_is_unknown_beside_a_known_one_is_no_fault():
    """The known signature decides."""
    assert check(row(RECEIPT)).unknown_keys == 0
    assert "is signed by" in check_rows([row(RECEIPT)], RECEIPT, {}).first_bad["unknown_keys"][1]


def test_an_erasure_names_receipts_and_is_seen_as_nothing_else():
    """Its ids are handed on, and nothing is paired with it."""
    world = World()
    index = world.add("erasure", json.dumps({"predicate": {"receiptIds": ["R1", "R2"]}}).encode())
    report = check(filed(world, index, kind="erasure", columns=None, seed=None)._replace(place=0), first=0)
    assert (report.erased, report.seen, report.bad) == (["R1", "R2"], [], {})
