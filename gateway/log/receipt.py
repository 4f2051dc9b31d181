"""Leaves, salts and statements: how an exchange, or an event of the gateway, becomes bytes that a log can commit to.

    payload = encode(Statement(...))                        # signed as it stands, stored as it stands
    leaf    = leaf("receipt", PAYLOAD_TYPE, payload)        # b"veriroute/1 receipt sha256:<hex of SHA-256(PAE)>\\n"

The leaf holds nothing but the kind and a digest over a document with a 128-bit nonce in it, so it may be published. The
PAE is hashed and not the envelope: a second signature can be added later without touching the log.

Payloads are committed to as SHA-256(salt || data), with one salt a name derived from one seed a receipt:

    salt(name) = SHA-256("veriroute opening v1" || 00 || seed || name)

so deleting the 32-byte seed erases: what is left is the digest of data behind 256 unknown bits (docs/receipts.md).
Reading is strict about what is read and silent about members it does not know; only FormatError is raised.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError
from gateway.model.entry import KINDS
from gateway.model.receipt import (
    RECEIPT_TYPE,
    STATEMENT_TYPE,
    Annotations,
    EventStatement,
    Receipt,
    Sha256,
    Statement,
    Subject,
)

from .dsse import pae

#: Longest statement that is read. A receipt is some 3 kB; evidence stands in it by digest only.
MAX_PAYLOAD = 1 << 20
SALT_LENGTH = 32

_SALT_LABEL = b"veriroute opening v1\0"
_LEAF = re.compile(rb"veriroute/1 ([a-z]{1,16}) sha256:([0-9a-f]{64})\n")
_encoder = msgspec.json.Encoder()
_receipts = msgspec.json.Decoder(Statement)
_events = msgspec.json.Decoder(EventStatement)


class Leaf(msgspec.Struct, frozen=True):
    """A log entry, read back: its kind and the digest of the PAE that it commits to."""

    kind: str
    digest: bytes


def leaf(kind: str, payload_type: str, payload: bytes) -> bytes:
    """The log entry for a signed document: one line with its kind and the digest of its PAE."""
    return leaf_of(kind, hashlib.sha256(pae(payload_type, payload)).digest())


def leaf_of(kind: str, digest: bytes) -> bytes:
    """The log entry when SHA-256 of the PAE is known already (the hot path signs over the same PAE)."""
    return f"veriroute/1 {kind} sha256:{digest.hex()}\n".encode("ascii")


def parse_leaf(entry: bytes) -> Leaf:
    """Read a log entry; FormatError when it is not exactly one of ours, of a kind in the closed list."""
    found = _LEAF.fullmatch(entry)
    if found is None:
        raise FormatError("the log entry is not of the form 'veriroute/1 <kind> sha256:<64 hex digits>'")
    kind = found[1].decode("ascii")
    if kind not in KINDS:
        raise FormatError(f"the log entry is of kind {kind!r}, which this version does not know")
    return Leaf(kind, bytes.fromhex(found[2].decode("ascii")))


def salt_for(seed: bytes, name: str) -> bytes:
    """The 32-byte salt of the subject `name` under a receipt's 32-byte `seed`."""
    return hashlib.sha256(_SALT_LABEL + seed + name.encode()).digest()


def salted(salt: bytes, data: bytes) -> str:
    """SHA-256 of `salt || data`, as lower-case hex: the digest that stands in a receipt."""
    digest = hashlib.sha256(salt)
    digest.update(data)
    return digest.hexdigest()


def subject(seed: bytes, name: str, data: bytes, form: str) -> Subject:
    """The subject that commits to `data` under `name`; `form` says what the data is (a `FORM_…` of model.receipt)."""
    return Subject(name, Sha256(salted(salt_for(seed, name), data)), Annotations(form))


def encode_receipt(subjects: Iterable[Subject], predicate: Receipt) -> bytes:
    """The payload of a receipt: the bytes that are signed, stored and handed out. At least one subject."""
    return _encoder.encode(Statement(subject=tuple(subjects), predicate=predicate))


def event_statement(kind: str, about: Subject | None, predicate: Mapping[str, object]) -> bytes:
    """The payload of a log entry that is no receipt: intent, start, stop, key, policy, config, export, alarm, ….

    `about` names the thing by digest. An event with no artifact of its own passes None: an in-toto statement needs a
    subject, and gets one named for the kind, over the predicate's own bytes. A predicate whose content could be guessed
    needs a random member (`nonce`), or its public leaf would confirm the guess.
    """
    if kind not in KINDS or kind == "receipt":
        raise FormatError(f"{kind!r} is not a kind of event; one of {', '.join(k for k in KINDS if k != 'receipt')}")
    body = _encoder.encode(predicate)
    named = about or Subject(f"veriroute.{kind}", Sha256(hashlib.sha256(body).hexdigest()))
    return _encoder.encode(
        EventStatement(subject=(named,), predicate_type=event_type(kind), predicate=msgspec.Raw(body))
    )


def event_type(kind: str) -> str:
    """The predicateType of a kind of log entry."""
    return RECEIPT_TYPE if kind == "receipt" else f"urn:veriroute:{kind}:v1"


def parse_receipt(payload: bytes) -> Statement:
    """Read the payload of a receipt whose signature was checked already.

    FormatError when it is not one JSON document with unambiguous members, not a receipt of version 1, has a value
    outside the format (digests, ULID, times, integers above 2^53) or names a subject twice.
    """
    strict_json(payload, max_bytes=MAX_PAYLOAD)
    try:
        statement = _receipts.decode(payload)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise FormatError(f"not a receipt: {error}") from error
    if statement.predicate_type != RECEIPT_TYPE:
        raise FormatError(f"the statement's predicateType is not {RECEIPT_TYPE}")
    _check_frame(statement.type_, statement.subject)
    return statement


def parse_event(payload: bytes, kind: str) -> EventStatement:
    """Read the payload of a log entry of `kind`, which is not a receipt; FormatError as for `parse_receipt`."""
    strict_json(payload, max_bytes=MAX_PAYLOAD)
    try:
        statement = _events.decode(payload)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise FormatError(f"not a statement: {error}") from error
    if statement.predicate_type != event_type(kind):
        raise FormatError(f"the statement's predicateType is not {event_type(kind)}")
    _check_frame(statement.type_, statement.subject)
    if not bytes(statement.predicate).startswith(b"{"):
        raise FormatError("the statement's predicate is not an object")
    return statement


def _check_frame(statement_type: str, subjects: tuple[Subject, ...]) -> None:
    if statement_type != STATEMENT_TYPE:
        raise FormatError(f"the statement's _type is not {STATEMENT_TYPE}")
    names = [s.name for s in subjects]
    if not names:
        raise FormatError("the statement has no subject")
    if len(set(names)) != len(names):
        raise FormatError(
            "the statement names a subject twice"
        )  # which of the two an opening belongs to is anyone's guess
