"""The statement of OpenGradient's tee-gateway: five members of an answer, and what the enclave's key signed.

    request_hash = keccak256(canonical request)          64 lower-case hex digits, no 0x
    output_hash  = keccak256(output, UTF-8)              the same
    timestamp    = Unix seconds in the enclave           a JSON integer
    tee_id       = 0x || keccak256(SPKI DER of the key)  64 lower-case hex digits
    signature    = RSASSA-PSS(RSA-2048, e = 65537, SHA-256, MGF1-SHA-256, salt 32) over
                   keccak256(request_hash || output_hash || uint256(timestamp)), base64

The key signs other messages too (heartbeats, OHTTP key configurations); only the length of what is hashed tells them
apart, and it is fixed here at 96 bytes. Reading is strict, so that one statement has one spelling: a decoder that skips
foreign characters would take a signature that differs from the one that was logged.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from functools import lru_cache

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256

from gateway.crypto.keccak import keccak256
from gateway.crypto.rsa import pss, verify_rsa
from gateway.errors import FormatError

MEMBERS = ("tee_signature", "tee_request_hash", "tee_output_hash", "tee_timestamp", "tee_id")
SIGNATURE_BYTES = 256
#: Beyond this nothing of a signature is decoded.
MAX_SIGNATURE_TEXT = 1024
MAX_TIMESTAMP = 2**53 - 1
#: What og-x402 writes where an answer came without a signature. It is read as an empty one, which never holds.
PLACEHOLDER = "0x"

_HASH = re.compile(r"[0-9a-f]{64}")
_TEE_ID = re.compile(r"0x[0-9a-f]{64}")
_PSS = pss(SHA256())


class Statement(msgspec.Struct, frozen=True):
    """A statement that is well-formed; whether it holds is another question. Hashes are 32 raw bytes, `timestamp`
    Unix seconds, `signature` raw bytes of any length."""

    tee_id: str
    request_hash: bytes
    output_hash: bytes
    timestamp: int
    signature: bytes


def parse_statement(document: Mapping[str, object]) -> Statement:
    """The statement among the members of an answer.

    Raises `FormatError` with the reason evidence_missing when one of the five is absent or null, and
    malformed_encoding when one is not spelled as the node spells it.
    """
    for name in MEMBERS:
        if document.get(name) is None:
            raise FormatError(f"the answer has no {name}", reason="evidence_missing")
    return Statement(
        _matched(document, "tee_id", _TEE_ID),
        bytes.fromhex(_matched(document, "tee_request_hash", _HASH)),
        bytes.fromhex(_matched(document, "tee_output_hash", _HASH)),
        _timestamp(document["tee_timestamp"]),
        _signature(document["tee_signature"]),
    )


def message_hash(statement: Statement) -> bytes:
    """The 32 bytes that the key signs (and RSA-PSS hashes once more with SHA-256)."""
    return keccak256(statement.request_hash + statement.output_hash + statement.timestamp.to_bytes(32, "big"))


def replay_key(statement: Statement) -> bytes:
    """What a journal of statements remembers: 64 bytes, who signed and what. Two signatures over one message are one
    statement, since PSS makes a new one every time."""
    return bytes.fromhex(statement.tee_id[2:]) + message_hash(statement)


@lru_cache(maxsize=256)
def tee_id_of(spki: bytes) -> str:
    """The id of the TEE that signs with the key `spki` (SubjectPublicKeyInfo, DER)."""
    return "0x" + keccak256(spki).hex()


def verify_statement(spki: bytes, statement: Statement) -> bool:
    """Whether the key `spki` is the one that `statement` names, and signed it. False for keys other than RSA-2048."""
    # With a signature of exactly 256 bytes, `verify_rsa` takes no modulus of another length.
    return (
        len(statement.signature) == SIGNATURE_BYTES
        and tee_id_of(spki) == statement.tee_id
        and verify_rsa(_PSS, spki, message_hash(statement), statement.signature)
    )


def _matched(document: Mapping[str, object], name: str, form: re.Pattern[str]) -> str:
    value = document[name]
    if not isinstance(value, str) or form.fullmatch(value) is None:
        raise FormatError(f"{name} is not a digest as the node writes it", reason="malformed_encoding")
    return value


def _timestamp(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_TIMESTAMP:
        raise FormatError("tee_timestamp is not a whole number of seconds", reason="malformed_encoding")
    return value


def _signature(value: object) -> bytes:
    if value == PLACEHOLDER:
        return b""
    if isinstance(value, str) and 0 < len(value) <= MAX_SIGNATURE_TEXT and value.isascii():
        try:
            raw = base64.b64decode(value, validate=True)
        except binascii.Error:
            raw = b""
        # Padding bits that are not zero, and padding that is not needed, spell the same bytes in another way.
        if base64.b64encode(raw).decode() == value:
            return raw
    raise FormatError("tee_signature is not base64", reason="malformed_encoding")
