"""The signed members of an answer, and their signature."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from support_og_answers import KEY, NOW, OTHER, OTHER_SPKI, SPKI, TEE_ID, members, new_key, sign, spki_of

from gateway.crypto.keccak import keccak256
from gateway.errors import FormatError
from gateway.verify.opengradient.statement import (
    MEMBERS,
    Statement,
    message_hash,
    parse_statement,
    replay_key,
    tee_id_of,
    verify_statement,
)

GOOD = members(b"request", "output")


def statement(**other: Any) -> Statement:
    return parse_statement({**GOOD, **other})


def test_a_statement_holds_what_was_signed() -> None:
    """The members of an honest answer parse, and hold under the key that they name and no other."""
    found = statement()
    assert (found.tee_id, found.timestamp) == (TEE_ID, NOW)
    assert (found.request_hash, found.output_hash) == (keccak256(b"request"), keccak256(b"output"))
    assert verify_statement(SPKI, found)
    assert not verify_statement(OTHER_SPKI, found)
    assert tee_id_of(SPKI) == TEE_ID != tee_id_of(OTHER_SPKI)


def test_the_message_is_fixed() -> None:
    """What is signed is the hash of 96 bytes: two hashes and the time as a big-endian uint256."""
    made = Statement(TEE_ID, b"\1" * 32, b"\2" * 32, 0x0102, b"")
    assert message_hash(made) == keccak256(b"\1" * 32 + b"\2" * 32 + b"\0" * 30 + b"\1\2")


def test_a_journal_knows_a_statement_by_signer_and_message() -> None:
    """Another signature over the same message is the same statement; another signer's is another."""
    found = statement()
    again = statement(tee_signature=base64.b64encode(sign(KEY, message_hash(found))).decode())
    assert again.signature != found.signature
    assert replay_key(again) == replay_key(found)
    assert len(replay_key(found)) == 64
    assert replay_key(parse_statement(members(b"request", "output", key=OTHER))) != replay_key(found)
    assert replay_key(parse_statement(members(b"request", "output", at=NOW + 1))) != replay_key(found)


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("null", [True, False])
def test_a_member_that_is_not_there_is_missing_evidence(name: str, null: bool) -> None:
    """Each of the five members has to be there, and null is not."""
    document = {k: v for k, v in GOOD.items() if k != name}
    if null:
        document[name] = None
    with pytest.raises(FormatError) as error:
        parse_statement(document)
    assert error.value.reason == "evidence_missing"


SIGNATURE = GOOD["tee_signature"]


def _id(value: Any) -> str:
    """Keys are new in every run and must not become part of a test's name."""
    return value if isinstance(value, str) and value in GOOD else type(value).__name__


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tee_id", TEE_ID[2:]),
        ("tee_id", TEE_ID.upper()),
        ("tee_id", TEE_ID + "0"),
        ("tee_id", TEE_ID + "\n"),
        ("tee_id", ""),
        ("tee_id", 5),
        ("tee_request_hash", "0x" + "a" * 64),
        ("tee_request_hash", "A" * 64),
        ("tee_request_hash", "a" * 63),
        ("tee_output_hash", "a" * 63 + " "),
        ("tee_output_hash", "ａ" * 64),
        ("tee_output_hash", ["a" * 64]),
        ("tee_timestamp", str(NOW)),
        ("tee_timestamp", f" {NOW} "),
        ("tee_timestamp", float(NOW)),
        ("tee_timestamp", True),
        ("tee_timestamp", -1),
        ("tee_timestamp", 2**53),
        ("tee_timestamp", 2**256),
        ("tee_signature", ""),
        ("tee_signature", "0X"),
        ("tee_signature", "!!" + SIGNATURE),
        ("tee_signature", SIGNATURE[:40] + "\n" + SIGNATURE[40:]),
        ("tee_signature", SIGNATURE + "\n"),
        ("tee_signature", SIGNATURE.rstrip("=")),
        ("tee_signature", SIGNATURE + "=="),
        ("tee_signature", "AB=="),
        ("tee_signature", "AAB="),
        ("tee_signature", "=" * 4),
        ("tee_signature", "ä" * 4),
        ("tee_signature", "A" * 1028),
        ("tee_signature", SIGNATURE.encode()),
    ],
    ids=_id,
)
def test_a_member_has_one_spelling(name: str, value: Any) -> None:
    """What is not spelled as the node spells it is malformed, whatever a lenient reader would make of it."""
    with pytest.raises(FormatError) as error:
        statement(**{name: value})
    assert error.value.reason == "malformed_encoding"


@pytest.mark.parametrize(
    ("key", "signature"),
    [
        (SPKI, b""),
        (SPKI, bytes(256)),
        (SPKI, b"\xff" * 256),
        (SPKI, statement().signature[:-1]),
        (SPKI, statement().signature + b"\0"),
        (SPKI, sign(OTHER, message_hash(statement()))),
        (SPKI, sign(KEY, message_hash(statement()), salt=20)),
        (SPKI, sign(KEY, message_hash(statement()), salt=64)),
        (SPKI, KEY.sign(message_hash(statement()), padding.PKCS1v15(), SHA256())),
        (SPKI, KEY.sign(message_hash(statement()), padding.PSS(padding.MGF1(SHA256()), 32), utils.Prehashed(SHA256()))),
        (SPKI + b"\0", statement().signature),
    ],
)
def test_only_the_protocols_signature_holds(key: bytes, signature: bytes) -> None:
    """Another salt, padding, number of hashes, length or key is no signature."""
    found = statement()
    assert not verify_statement(key, Statement(
        found.tee_id, found.request_hash, found.output_hash, found.timestamp, signature
    ))  # fmt: skip


@pytest.mark.parametrize(
    "key",
    [pytest.param(new_key(3072), id="3072 bits"), pytest.param(new_key(2048, 3), id="exponent 3")],
)
def test_only_rsa_2048_signs(key: Any) -> None:
    """A longer modulus or another exponent is not the protocol's, though the signature would hold."""
    found = parse_statement(members(b"request", "output", key=key))
    assert not verify_statement(spki_of(key), found)


def test_another_kind_of_key_signs_nothing() -> None:
    """A key that is not RSA is refused without a word."""
    spki = (
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    found = statement(tee_id=tee_id_of(spki))
    assert not verify_statement(spki, found)


def test_a_statement_holds_only_under_the_key_that_it_names() -> None:
    """A signature that holds under a key proves nothing for a statement that names another."""
    assert not verify_statement(SPKI, statement(tee_id=tee_id_of(OTHER_SPKI)))


def test_the_placeholder_is_a_signature_that_never_holds() -> None:
    """`0x`, which the network's payment code writes for none, parses and does not hold."""
    assert statement(tee_signature="0x").signature == b""
    assert not verify_statement(SPKI, statement(tee_signature="0x"))


VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80) | st.binary(max_size=8)
    | st.from_regex(r"(0x)?[0-9a-f]{63,65}", fullmatch=True)
    | st.binary(max_size=300).map(lambda raw: base64.b64encode(raw).decode())
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(MEMBERS), VALUES))
def test_any_members_are_a_statement_or_are_refused(found: dict[str, Any]) -> None:
    """Whatever the members are, they are a statement with one spelling or raise `FormatError` with a reason."""
    document = {**GOOD, **found}
    try:
        parsed = parse_statement(document)
    except FormatError as error:
        reason = error.reason
    else:
        reason = None
    if reason is not None:
        assert reason in ("evidence_missing", "malformed_encoding")
        return
    assert parsed.tee_id == document["tee_id"]
    assert parsed.request_hash.hex() == document["tee_request_hash"]
    assert (base64.b64encode(parsed.signature).decode() or "0x") == document["tee_signature"]
    assert verify_statement(SPKI, parsed) is (document == GOOD)
