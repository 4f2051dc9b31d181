"""DSSE envelopes: exact bytes, strict reading, and verdicts on signatures."""

import base64
import contextlib
import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import FormatError, ProofError
from gateway.log.dsse import (
    MAX_SIGNATURES,
    Envelope,
    pae,
    parse_envelope,
    seal,
    sign_envelope,
    verify_envelope,
    wrap,
)
from gateway.log.note import NoteSigner

ALICE = NoteSigner("alice.example/receipts", bytes(31) + b"\1")
BOB = NoteSigner("bob.example/receipts", bytes(31) + b"\2")
KEYS = {ALICE.keyid: ALICE.public_key}
TYPE = "application/vnd.in-toto+json"
PAYLOAD = b'{"a":"\xc3\xa9"}'
DATA = sign_envelope(PAYLOAD, TYPE, ALICE)


def test_pae_is_the_specifications_example():
    """The encoding of the DSSE specification's example is the specification's."""
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("é", b"") == "DSSEv1 2 é 0 ".encode()
    with pytest.raises(FormatError, match="surrogates"):
        pae("\ud800", b"")


def test_an_envelope_reads_back_and_holds():
    """A signed envelope is compact JSON that reads back and verifies under its signer's key."""
    document = json.loads(DATA)
    assert json.dumps(document, separators=(",", ":")).encode() == DATA
    assert document["payload"] == base64.b64encode(PAYLOAD).decode()
    envelope = parse_envelope(DATA)
    assert (envelope.payload, envelope.payload_type) == (PAYLOAD, TYPE)
    assert verify_envelope(envelope, KEYS) == (ALICE.keyid,)


def test_sealing_gives_the_digest_for_the_leaf():
    """The digest that comes with a sealed envelope is that of the signed bytes."""
    sealed = seal(PAYLOAD, TYPE, ALICE)
    assert sealed.envelope == DATA
    assert sealed.pae_sha256 == hashlib.sha256(pae(TYPE, PAYLOAD)).digest()


def test_type_and_key_id_are_escaped():
    """A payload type or key name with quotes can't break out of its string."""
    odd = NoteSigner('a"},\\é', bytes(32))
    envelope = parse_envelope(sign_envelope(b"x", 'ty"pe\n', odd))
    assert (envelope.payload_type, envelope.signatures[0].keyid) == ('ty"pe\n', odd.keyid)
    assert verify_envelope(envelope, {odd.keyid: odd.public_key})


def document(**changes) -> bytes:
    return json.dumps({**json.loads(DATA), **changes}).encode()


def signature(**changes) -> dict:
    return {**json.loads(DATA)["signatures"][0], **changes}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated"),
        (b"[]", "is a JSON object"),
        (b"{}", "signatures must be a list of 1 to 16"),
        (document(signatures={}), "must be a list"),
        (document(signatures=[]), "must be a list"),
        (document(signatures=[signature()] * (MAX_SIGNATURES + 1)), "must be a list"),
        (document(signatures=["x"]), "signature is a JSON object"),
        (document(signatures=[signature(sig=1)]), "sig must be a string"),
        (document(signatures=[signature(sig="QQ")]), "sig is not base64"),
        (document(signatures=[signature(keyid=1)]), "keyid must be a string"),
        (document(payload=None), "payload must be a string"),
        (document(payload="eyJ9_w=="), "payload is not base64"),
        (document(payload="eyJ9 fQ=="), "payload is not base64"),
        (document(payloadType=3), "payloadType must be a string"),
        (document(payloadType=""), "payloadType is empty"),
        (b'{"payload":"","payload":"",' + DATA[1:], "the key 'payload' twice"),
        (document(x=[[[[[[[[]]]]]]]]), "nested deeper than 8"),
    ],
)
def test_refuses_what_is_no_envelope(data, message):
    """Missing members, other types, other base64 and duplicate members are refused."""
    with pytest.raises(FormatError, match=message):
        parse_envelope(data)


def test_a_wrapped_document_is_read_only_where_no_signature_is_asked_for():
    """A document that nobody signed has its leaf's digest, is refused as an envelope, and never verifies."""
    wrapped = wrap(PAYLOAD, TYPE)
    assert wrapped.pae_sha256 == seal(PAYLOAD, TYPE, ALICE).pae_sha256
    with pytest.raises(FormatError, match="list of 1 to 16"):
        parse_envelope(wrapped.envelope)
    envelope = parse_envelope(wrapped.envelope, unsigned=True)
    assert (envelope.payload, envelope.payload_type, envelope.signatures) == (PAYLOAD, TYPE, ())
    with pytest.raises(ProofError, match="not signed by any known key"):
        verify_envelope(envelope, KEYS)
    assert parse_envelope(DATA, unsigned=True) == parse_envelope(DATA)
    with pytest.raises(FormatError, match="list of 0 to 16"):
        parse_envelope(document(signatures=[signature()] * 17), unsigned=True)


def test_reads_as_many_signatures_as_its_bound():
    """Sixteen signatures are read."""
    assert len(parse_envelope(document(signatures=[signature()] * MAX_SIGNATURES)).signatures) == MAX_SIGNATURES


def test_bounds_the_envelope():
    """An envelope over the limit is refused unread."""
    with pytest.raises(FormatError, match="over the limit of 10"):
        parse_envelope(DATA, max_bytes=10)


def test_ignores_members_that_dsse_does_not_know():
    """Unknown members are ignored, and an absent key id is empty and known to nobody."""
    assert parse_envelope(document(extra=1, signatures=[signature(cert="x")])) == parse_envelope(DATA)
    for absent in (signature(keyid=None), {"sig": signature()["sig"]}):
        envelope = parse_envelope(document(signatures=[absent]))
        assert envelope.signatures[0].keyid == ""
        with pytest.raises(ProofError, match="not signed by any known key"):
            verify_envelope(envelope, KEYS)


def test_strangers_are_passed_over_and_twins_listed_once():
    """Signatures by unknown keys do no harm, and a key that signed twice is one signer."""
    both = [json.loads(sign_envelope(PAYLOAD, TYPE, signer))["signatures"][0] for signer in (BOB, ALICE, ALICE)]
    envelope = parse_envelope(document(signatures=both))
    assert verify_envelope(envelope, KEYS) == (ALICE.keyid,)
    assert verify_envelope(envelope, {**KEYS, BOB.keyid: BOB.public_key}) == (BOB.keyid, ALICE.keyid)
    with pytest.raises(ProofError, match="not signed by any known key"):
        verify_envelope(envelope, {})


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": base64.b64encode(PAYLOAD + b" ").decode()},
        {"payloadType": TYPE + "x"},
        {"signatures": [signature(sig=base64.b64encode(bytes(64)).decode())]},
        {"signatures": [signature(sig="")]},
        {"signatures": [signature(), signature(sig=base64.b64encode(bytes(64)).decode())]},
        {"signatures": [signature(keyid=ALICE.keyid, sig=signature()["sig"][:-4] + "AA==")]},
    ],
)
def test_a_known_keys_bad_signature_refuses_the_envelope(changes):
    """Another payload, type or signature under a known key id refuses the whole envelope."""
    with pytest.raises(ProofError, match="does not hold"):
        verify_envelope(parse_envelope(document(**changes)), KEYS)


def test_a_key_id_is_a_hint_and_nothing_more():
    """Naming another known key does not make its signature hold."""
    with pytest.raises(ProofError, match="does not hold"):
        verify_envelope(parse_envelope(document(signatures=[signature(keyid=BOB.keyid)])), {BOB.keyid: BOB.public_key})


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
def test_any_payload_and_type_round_trip(payload, payload_type):
    """Whatever is signed reads back byte for byte and verifies."""
    envelope = parse_envelope(sign_envelope(payload, payload_type, ALICE))
    assert (envelope.payload, envelope.payload_type) == (payload, payload_type)
    assert verify_envelope(envelope, KEYS)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(DATA) - 1), st.binary(max_size=3), st.binary(max_size=60))
def test_damage_never_verifies_as_something_else(at, replacement, noise):
    """A damaged envelope raises a FormatError or still says what was signed."""
    for data in (DATA[:at] + replacement + DATA[at + 1 :], noise):
        with contextlib.suppress(FormatError):
            envelope = parse_envelope(data)
            assert isinstance(envelope, Envelope)
            verify_envelope(envelope, KEYS)
            assert (envelope.payload, envelope.payload_type) == (PAYLOAD, TYPE)
