"""Leaves, salts and statements, and reading receipts strictly."""

import base64
import contextlib
import hashlib
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import FormatError
from gateway.log.dsse import pae
from gateway.log.receipt import (
    encode_receipt,
    event_statement,
    event_type,
    leaf,
    leaf_of,
    parse_event,
    parse_leaf,
    parse_receipt,
    salt_for,
    salted,
    subject,
)
from gateway.model.entry import KINDS
from gateway.model.receipt import (
    FORM_BYTES,
    PAYLOAD_TYPE,
    Caller,
    Delivery,
    LogRef,
    PolicyRef,
    Receipt,
    RequestPart,
    Route,
    Sha256,
    Subject,
    Timings,
    Verifier,
    instant,
)
from gateway.model.verdict import Check, Outcome, Release

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "tlog" / "receipt"
SEED = b"seed" * 8
DIGEST = Sha256("ab" * 32)
PREDICATE = Receipt(
    receipt_id="01JD3W6H7K9Q2M4N8P0R5S7T9V",
    nonce="I2qRCZEdb4vutZWPBev1LA==",
    verifier=Verifier("urn:veriroute:verifier:0.1.0", (PolicyRef("p", "veriroute:policy/p@1", DIGEST),)),
    time_created=instant(1764000000123),
    request=RequestPart(DIGEST, "/v1/embeddings", "m", False),
    caller=Caller("key_1"),
    route=Route("refused", 0, 0),
    verdict=Outcome.NONE,
    release=Release.REFUSED,
    reason="no_eligible_node",
    delivery=Delivery(form="none", mode="buffer", bytes=0, uncovered=(), dropped=()),
    checks=(Check("evidence", Outcome.NONE, "evidence_fetch"),),
    claims=(),
    evidence=(),
    timings=Timings(instant(1764000000001)),
    log=LogRef("veriroute.test/log"),
)
PAYLOAD = encode_receipt([subject(SEED, "request.body", b"{}", FORM_BYTES)], PREDICATE)


def test_a_leaf_is_one_line_over_the_pae():
    """The leaf is the format's line, 86 bytes for a receipt, and reads back."""
    entry = leaf("receipt", PAYLOAD_TYPE, PAYLOAD)
    digest = hashlib.sha256(pae(PAYLOAD_TYPE, PAYLOAD)).digest()
    assert entry == b"veriroute/1 receipt sha256:" + digest.hex().encode() + b"\n"
    assert entry == leaf_of("receipt", digest)
    assert (parse_leaf(entry).kind, parse_leaf(entry).digest) == ("receipt", digest)


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"veriroute/1 receipt sha256:" + b"ab" * 32,
        b"veriroute/1 receipt sha256:" + b"AB" * 32 + b"\n",
        b"veriroute/1 receipt sha256:" + b"ab" * 32 + b"\n\n",
        b"veriroute/2 receipt sha256:" + b"ab" * 32 + b"\n",
        b"veriroute/1 gossip sha256:" + b"ab" * 32 + b"\n",
        b"veriroute/1  sha256:" + b"ab" * 32 + b"\n",
    ],
)
def test_anything_else_is_no_leaf(entry: bytes):
    """Another version, kind, case or ending is refused."""
    with pytest.raises(FormatError):
        parse_leaf(entry)


def test_salts_differ_by_name_and_seed():
    """Each name under each seed has its own 32-byte salt, by the documented formula."""
    assert salt_for(SEED, "request.body") == hashlib.sha256(b"veriroute opening v1\0" + SEED + b"request.body").digest()
    assert len({salt_for(s, n) for s in (SEED, b"x" * 32) for n in ("request.body", "response.body")}) == 4


@pytest.mark.skipif(not VECTORS.is_dir(), reason="no test vectors beside the repository")
@pytest.mark.parametrize("name", ["response.body", "response.content"])
def test_a_strangers_commitments_open(name: str):
    """Salted digests made elsewhere are the ones that we compute."""
    opening = json.loads((VECTORS / "openings.json").read_text())[name]
    subjects = {s["name"]: s for s in json.loads((VECTORS / "statement.json").read_text())["subject"]}
    salt, data = base64.b64decode(opening["salt"]), base64.b64decode(opening["bytes"])
    assert salted(salt, data) == subjects[name]["digest"]["sha256"]


def test_a_receipt_reads_back():
    """What `encode_receipt` writes, `parse_receipt` gives back."""
    statement = parse_receipt(PAYLOAD)
    assert statement.predicate == PREDICATE
    assert statement.subject[0].digest.sha256 == salted(salt_for(SEED, "request.body"), b"{}")


def test_members_of_a_later_version_are_ignored():
    """Unknown members, in the predicate and beside it, are passed over."""
    document = json.loads(PAYLOAD)
    document["later"] = document["predicate"]["later"] = {"x": [1]}
    assert parse_receipt(json.dumps(document).encode()).predicate == PREDICATE


def changed(path: str, value: object) -> bytes:
    document = json.loads(PAYLOAD)
    *parents, last = path.split(".")
    inner = document
    for name in parents:
        inner = inner[int(name)] if name.isdigit() else inner[name]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(document).encode()


REJECTED = {
    "another_predicate_type": changed("predicateType", "urn:veriroute:inference-receipt:v2"),
    "another_statement_type": changed("_type", "https://in-toto.io/Statement/v0.1"),
    "no_subject": changed("subject", []),
    "subject_named_twice": changed("subject", [msgspec.to_builtins(Subject("x", DIGEST))] * 2),
    "digest_too_short": changed("subject.0.digest.sha256", "ab" * 31),
    "digest_in_upper_case": changed("predicate.request.digest.sha256", "AB" * 32),
    "id_in_lower_case": changed("predicate.receiptId", PREDICATE.receipt_id.lower()),
    "id_beyond_128_bits": changed("predicate.receiptId", "8" + PREDICATE.receipt_id[1:]),
    "integer_above_2_53": changed("predicate.delivery.bytes", 2**53 + 1),
    "float_for_integer": changed("predicate.delivery.bytes", 0.5),
    "outcome_unknown": changed("predicate.checks.0.outcome", "verified"),
    "check_without_outcome": changed("predicate.checks.0.outcome", ...),
    "verdict_missing": changed("predicate.verdict", ...),
    "checks_missing": changed("predicate.checks", ...),
    "time_without_milliseconds": changed("predicate.timeCreated", "2026-11-20T23:21:05Z"),
    "duplicate_member": PAYLOAD[:-1] + b',"predicateType":"x"}',
    "duplicate_verdict": PAYLOAD.replace(b'"verdict":"none"', b'"verdict":"none","verdict":"affirming"'),
    "duplicate_in_escapes": PAYLOAD.replace(b'"verdict":"none"', b'"verdict":"none","\\u0076erdict":"affirming"'),
    "byte_order_mark": b"\xef\xbb\xbf" + PAYLOAD,
    "trailing_bytes": PAYLOAD + b"x",
    "over_the_limit": PAYLOAD[:-1] + b" " * (1 << 20) + b"}",
    "nothing": b"",
    "null": b"null",
    "deep": b'{"a":' * 5000,
}


@pytest.mark.parametrize("payload", REJECTED.values(), ids=REJECTED.keys())
def test_a_malformed_receipt_is_a_format_error(payload: bytes):
    """Each kind of malformed payload is refused with FormatError."""
    with pytest.raises(FormatError):
        parse_receipt(payload)


@given(st.binary(max_size=300))
def test_bytes_from_anywhere_raise_format_error_alone(data: bytes):
    """Arbitrary bytes never raise anything but FormatError."""
    with pytest.raises(FormatError):
        parse_receipt(data)
    with pytest.raises(FormatError):
        parse_event(data, "start")


@given(st.integers(0, len(PAYLOAD) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_a_mutated_receipt_parses_or_is_a_format_error(at: int, piece: bytes, cut: int):
    """A payload with bytes replaced, added or removed either parses or raises FormatError."""
    with contextlib.suppress(FormatError):
        parse_receipt(PAYLOAD[:at] + piece + PAYLOAD[at + cut :])


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "receipt"])
def test_every_other_kind_has_a_statement(kind: str):
    """An event's statement names its kind, holds its predicate and has one subject."""
    payload = event_statement(kind, None, {"timeCreated": instant(0), "n": 1})
    event = parse_event(payload, kind)
    assert event.predicate_type == event_type(kind) == f"urn:veriroute:{kind}:v1"
    assert event.fields() == {"timeCreated": instant(0), "n": 1}
    body = json.dumps(event.fields(), separators=(",", ":")).encode()
    assert event.subject == (Subject(f"veriroute.{kind}", Sha256(hashlib.sha256(body).hexdigest())),)


def test_an_event_may_name_its_artifact():
    """A subject that is given is the one that stands in the statement."""
    about = subject(SEED, "request.body", b"{}", FORM_BYTES)
    assert parse_event(event_statement("intent", about, {}), "intent").subject == (about,)


@pytest.mark.parametrize("kind", ["receipt", "gossip"])
def test_only_known_kinds_of_event_are_written(kind: str):
    """A receipt is not an event, and kinds are a closed list."""
    with pytest.raises(FormatError):
        event_statement(kind, None, {})


@pytest.mark.parametrize(
    "payload",
    [
        event_statement("stop", None, {}),
        event_statement("start", None, {}).replace(b'"predicate":{}', b'"predicate":[]'),
        event_statement("start", None, {}).replace(b"Statement/v1", b"Statement/v2"),
        b'{"_type":1}',
    ],
    ids=["other_kind", "predicate_as_list", "other_statement_type", "not_a_statement"],
)
def test_a_malformed_event_is_a_format_error(payload: bytes):
    """An event of another kind or form is refused."""
    with pytest.raises(FormatError):
        parse_event(payload, "start")
