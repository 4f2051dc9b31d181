"""Offers and receipts that a payee signs: the offer-receipt extension of x402, in both of its forms.

    eip712   domain {name "x402 offer" or "x402 receipt", version "1", chainId 1}, signed by the payee's address
    jws      compact, ES256K or EdDSA, the payload in canonical JSON; the key is one that the operator pinned

A receipt names URL, payer, hour and transaction, and nothing of request or answer: it is evidence of a payment and
never of where an answer came from. An `invalid` one is a failure, an absent one is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Literal, TypeAlias, cast

import msgspec

from gateway.crypto.canonical import jcs, strict_json
from gateway.crypto.ecdsa import SECP256K1, fixed, is_low
from gateway.crypto.jose import Jws, b64url, read_compact
from gateway.crypto.secp256k1 import address as address_of
from gateway.crypto.secp256k1 import recover, verify_secp256k1
from gateway.crypto.signatures import verify_ed25519
from gateway.errors import FormatError

from . import eip712
from .evm import address
from .terms import MAX_HEADER_BYTES, Artifact, Requirement

Status = Literal["absent", "valid", "invalid", "unchecked"]
#: Public keys by key id: 32 bytes are Ed25519, 33, 64 or 65 bytes secp256k1.
KeySet: TypeAlias = Mapping[str, bytes]
_Json: TypeAlias = Mapping[str, object]

#: How far the payee's clock may be from ours.
CLOCK_S = 300
_OFFER = (
    "Offer(uint256 version,string resourceUrl,string scheme,string network,string asset,string payTo,string amount,"
    "uint256 validUntil)"
)
_RECEIPT = "Receipt(uint256 version,string network,string resourceUrl,string payer,uint256 issuedAt,string transaction)"
_OFFER_MEMBERS = ("version", "resourceUrl", "scheme", "network", "asset", "payTo", "amount", "validUntil")
_RECEIPT_MEMBERS = ("version", "network", "resourceUrl", "payer", "issuedAt", "transaction")
_NUMBERS = frozenset(("version", "validUntil", "issuedAt"))
_OPTIONAL = frozenset(("validUntil", "transaction"))


class Finding(msgspec.Struct, frozen=True):
    """What an offer or receipt is worth, and, where it is not `valid`, why."""

    status: Status
    reason: str | None = None


class Paid(msgspec.Struct, frozen=True):
    """What a receipt has to speak of: the payment that was made. `transaction` None where the node named none."""

    requirement: Requirement
    pay_to: bytes
    payer: bytes
    created: float
    transaction: str | None


class _Invalid(Exception):
    pass


def check_offer(offer: Artifact, asked: Requirement, payee: bytes, keys: KeySet, now: float) -> Finding:
    """Whether the payee offered exactly what is `asked`, still at `now`."""
    try:
        members, kind = _members(offer, _OFFER_MEMBERS)
        _equal(members, "resourceUrl", asked.resource)
        _equal(members, "scheme", asked.scheme)
        _equal(members, "network", asked.network)
        _equal(members, "amount", str(asked.amount))
        _same_address(members, "asset", address(asked.asset, "asset"))
        _same_address(members, "payTo", payee)
        until = members["validUntil"]
        if isinstance(until, int) and until and until < now:
            raise _Invalid("offer_expired")
        return _signer(offer, kind, members, ("x402 offer", _OFFER), payee, keys)
    except _Invalid as error:
        return Finding("invalid", str(error))


def check_receipt(receipt: Artifact | None, paid: Paid, keys: KeySet, now: float) -> Finding:
    """Whether `receipt` is the payee's, for the payment `paid`, as of `now`; `absent` where there is none."""
    if receipt is None:
        return Finding("absent", "receipt_absent")
    try:
        members, kind = _members(receipt, _RECEIPT_MEMBERS)
        _equal(members, "network", paid.requirement.network)
        _equal(members, "resourceUrl", paid.requirement.resource)
        _same_address(members, "payer", paid.payer)
        if members["transaction"] not in ("", paid.transaction):
            raise _Invalid("receipt_mismatch")
        issued = members["issuedAt"]
        if not isinstance(issued, int) or not paid.created - CLOCK_S <= issued <= now + CLOCK_S:
            raise _Invalid("receipt_time")
        return _signer(receipt, kind, members, ("x402 receipt", _RECEIPT), paid.pay_to, keys)
    except _Invalid as error:
        return Finding("invalid", str(error))


def _members(found: Artifact, names: tuple[str, ...]) -> tuple[dict[str, int | str], Jws | None]:
    """The members of a payload, strictly those of its type; absent optional ones as their empty value."""
    token = None
    if found.format == "eip712" and found.payload is not None:
        value = _payload(found.payload)
    elif found.format == "jws" and found.payload is None:
        token = _token(found.signature)
        value = token.claims
    else:
        raise _Invalid("receipt_format")
    if set(value) - set(names) or value.get("version") != 1:
        raise _Invalid("receipt_malformed")
    return {name: _member(value, name) for name in names}, token


def _payload(data: bytes) -> _Json:
    try:
        value = strict_json(data, max_bytes=MAX_HEADER_BYTES)
    except FormatError:
        value = None
    if not isinstance(value, dict):
        raise _Invalid("receipt_malformed")
    return cast("_Json", value)


def _member(value: _Json, name: str) -> int | str:
    found = value.get(name)
    if found is None and name in _OPTIONAL:
        return 0 if name in _NUMBERS else ""
    if name in _NUMBERS:
        if type(found) is not int or found < 0:
            raise _Invalid("receipt_malformed")
    elif not isinstance(found, str):
        raise _Invalid("receipt_malformed")
    return found


def _token(text: str) -> Jws:
    try:
        token = read_compact(text.encode(), algs=("ES256K", "EdDSA"))
        canonical = b64url(jcs(token.claims)).encode()
    except FormatError:
        raise _Invalid("receipt_malformed") from None
    if token.signed.split(b".")[1] != canonical:
        raise _Invalid("receipt_not_canonical")
    return token


def _equal(members: Mapping[str, int | str], name: str, expected: str | None) -> None:
    if members[name] != expected:
        raise _Invalid("receipt_mismatch")


def _same_address(members: Mapping[str, int | str], name: str, expected: bytes) -> None:
    try:
        found = address(str(members[name]), name)
    except FormatError:
        raise _Invalid("receipt_malformed") from None
    if found != expected:
        raise _Invalid("receipt_mismatch")


def _signer(
    found: Artifact,
    token: Jws | None,
    members: Mapping[str, int | str],
    kind: tuple[str, str],
    payee: bytes,
    keys: KeySet,
) -> Finding:
    if token is not None:
        return _jws_signer(token, keys)
    name, type_text = kind
    digest = eip712.digest(eip712.domain(name, 1, version="1"), eip712.struct(type_text, *members.values()))
    if _recovered(digest, found.signature) != payee:
        raise _Invalid("receipt_signer")
    return Finding("valid")


def _recovered(digest: bytes, text: str) -> bytes | None:
    """The address that made a signature of 0x and 65 bytes with v of 27 or 28 and the lower s; None for any other."""
    try:
        signature = bytes.fromhex(text[2:]) if text.startswith("0x") and len(text) == 132 else b""
    except ValueError:
        return None
    numbers = fixed(SECP256K1, signature[:64])
    if len(signature) != 65 or numbers is None or not is_low(SECP256K1, numbers[1]) or signature[64] not in (27, 28):
        return None
    key = recover(digest, numbers, signature[64] - 27)
    return None if key is None else address_of(key)


def _jws_signer(token: Jws, keys: KeySet) -> Finding:
    kid = token.header.get("kid")
    key = keys.get(kid) if isinstance(kid, str) else None
    if key is None:
        return Finding("unchecked", "receipt_key_unknown")
    if token.alg == "EdDSA":
        holds = verify_ed25519(key, token.signed, token.signature)
    else:
        numbers = fixed(SECP256K1, token.signature)
        holds = numbers is not None and verify_secp256k1(key, sha256(token.signed).digest(), numbers)
    return Finding("valid") if holds else Finding("invalid", "receipt_signer")
