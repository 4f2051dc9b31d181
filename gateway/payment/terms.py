"""What a node asks for in a 402, and what it says of the settlement: x402 versions 1 and 2, parsed strictly.

    version 2   402 with the header PAYMENT-REQUIRED = base64(JSON {x402Version: 2, resource, accepts, extensions})
                2xx with the header PAYMENT-RESPONSE = base64(JSON {success, transaction, network, payer, ...})
    version 1   402 with the body JSON {x402Version: 1, accepts}, 2xx with the header X-PAYMENT-RESPONSE

All of it is the node's word. Nothing here says that a payment is wise (`policy`) or that a settlement happened. Both
parsers raise `TermsError` and nothing else, whatever the bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.crypto.encoding import unb64
from gateway.errors import FormatError
from gateway.text import plain

MAX_HEADER_BYTES = 32_768
MAX_BODY_BYTES = 65_536
MAX_ACCEPTS = 16
MAX_OFFERS = 16
MAX_DEPTH = 16
MAX_TEXT = 256
MAX_URL = 2048
MAX_TIMEOUT_S = 2**40

_AMOUNT = re.compile(r"0|[1-9][0-9]{0,77}")
_NAME = re.compile(r"[\x21-\x7e]{1,128}")
#: The names of version 1 for the chains that it was used on.
_V1_NETWORKS = {"base": "eip155:8453", "base-sepolia": "eip155:84532"}

Headers = Sequence[tuple[bytes, bytes]]
Json = Mapping[str, object]


class TermsError(FormatError):
    """Terms that cannot be paid as they stand. `reason` is malformed | terms_absent | scheme_unsupported."""

    def __init__(self, message: str, *, reason: str = "malformed") -> None:
        super().__init__(message, reason=reason)


class Extra(msgspec.Struct, frozen=True):
    """The members of a requirement's `extra` that a payment needs; None where absent."""

    name: str | None = None
    version: str | None = None
    transfer_method: str | None = None
    facilitator: str | None = None


class Requirement(msgspec.Struct, frozen=True):
    """One way to pay. `amount` in atomic units of `asset`; `max_timeout_s` seconds; `resource` the URL it is for.

    `network` is a CAIP-2 name; `accepted` the requirement as it came, as JSON, to be given back with the payment.
    """

    scheme: str
    network: str
    asset: str
    amount: int
    pay_to: str
    max_timeout_s: int
    extra: Extra
    resource: str | None
    accepted: bytes


class Artifact(msgspec.Struct, frozen=True):
    """A signed offer or receipt of the offer-receipt extension. `payload` is JSON, None in the `jws` form."""

    format: str
    payload: bytes | None
    signature: str


class Terms(msgspec.Struct, frozen=True):
    """A whole 402. `resource` and `extensions` are JSON as they came, to be given back with a payment of version 2."""

    version: int
    requirements: tuple[Requirement, ...]
    offers: tuple[Artifact, ...] = ()
    resource: bytes | None = None
    extensions: bytes | None = None


class Settlement(msgspec.Struct, frozen=True):
    """What the node says of the settlement. `transaction` is None where nothing was sent; `amount` in atomic units."""

    success: bool
    network: str
    transaction: str | None
    payer: str | None
    amount: int | None
    error: str | None
    receipt: Artifact | None


def parse_terms(headers: Headers, body: bytes) -> Terms:
    """The terms of a 402 with these `headers` (names in any case) and this `body`.

    The header of version 2 decides; without it the body of version 1. Raises `TermsError`: `malformed`, `terms_absent`
    where there are none, `scheme_unsupported` for another way of asking (the `Payment` scheme of HTTP, L402).
    """
    found = _values(headers, b"payment-required")
    if found:
        return _terms_2(_object(_header_json(found, "PAYMENT-REQUIRED"), "the terms"))
    _refuse_other_schemes(headers)
    if not body.lstrip(b" \t\r\n").startswith(b"{"):
        raise TermsError("the node asks for payment and names no terms", reason="terms_absent")
    return _terms_1(_object(_json(body, MAX_BODY_BYTES, "the terms"), "the terms"))


def parse_settlement(headers: Headers) -> Settlement | None:
    """The settlement that an answer's headers tell of; None where they tell of none. Raises `TermsError`."""
    for name in (b"payment-response", b"x-payment-response"):
        found = _values(headers, name)
        if found:
            return _settlement(_object(_header_json(found, "the settlement"), "the settlement"))
    return None


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


def _refuse_other_schemes(headers: Headers) -> None:
    for value in _values(headers, b"www-authenticate"):
        scheme = value.split(b" ", 1)[0].lower()
        if scheme in (b"payment", b"l402", b"lsat"):
            raise TermsError(f"the node asks for payment by {scheme.decode()}", reason="scheme_unsupported")


def _header_json(found: list[bytes], what: str) -> object:
    if len(found) != 1:
        raise TermsError(f"{what} comes in {len(found)} headers")
    if len(found[0]) > MAX_HEADER_BYTES:
        raise TermsError(f"{what} is over {MAX_HEADER_BYTES} bytes")
    try:
        data = unb64(found[0].decode("ascii"), what)
    except (FormatError, UnicodeDecodeError):
        raise TermsError(f"{what} is not base64") from None
    return _json(data, MAX_HEADER_BYTES, what)


def _json(data: bytes, limit: int, what: str) -> object:
    try:
        return strict_json(data, max_bytes=limit, max_depth=MAX_DEPTH)
    except FormatError as error:
        raise TermsError(f"{what}: {plain(error.message, 80)}") from None


def _terms_2(value: Json) -> Terms:
    _version(value, 2)
    resource = value.get("resource")
    url = None if resource is None else _text(_object(resource, "resource"), "url", MAX_URL)
    extensions = value.get("extensions")
    return Terms(
        2,
        tuple(_requirement(item, "amount", url) for item in _accepts(value)),
        _offers(extensions),
        None if resource is None else msgspec.json.encode(resource),
        None if extensions is None else msgspec.json.encode(extensions),
    )


def _terms_1(value: Json) -> Terms:
    _version(value, 1)
    found = []
    for item in _accepts(value):
        found.append(_requirement(item, "maxAmountRequired", _text(item, "resource", MAX_URL)))
    return Terms(1, tuple(found))


def _version(value: Json, expected: int) -> None:
    found = value.get("x402Version")
    if type(found) is not int or found != expected:
        raise TermsError(f"the terms are not of x402 version {expected}")


def _accepts(value: Json) -> list[Json]:
    accepts = value.get("accepts")
    if not isinstance(accepts, list) or not 1 <= len(accepts) <= MAX_ACCEPTS:
        raise TermsError(f"accepts is not a list of 1 to {MAX_ACCEPTS}")
    return [_object(item, "a requirement") for item in accepts]


def _requirement(item: Json, amount: str, url: str | None) -> Requirement:
    network = _text(item, "network")
    value = _amount(item, amount)
    if value == 0:
        raise TermsError(f"{amount} is nothing")
    return Requirement(
        _text(item, "scheme"),
        _V1_NETWORKS.get(network, network),
        _text(item, "asset"),
        value,
        _text(item, "payTo"),
        _seconds(item),
        _extra(item.get("extra")),
        url,
        msgspec.json.encode(item),
    )


def _extra(value: object) -> Extra:
    if value is None:
        return Extra()
    extra = _object(value, "extra")
    return Extra(
        _optional(extra, "name", MAX_TEXT),
        _optional(extra, "version", MAX_TEXT),
        _optional(extra, "assetTransferMethod", MAX_TEXT),
        _optional(extra, "facilitatorAddress", MAX_TEXT),
    )


def _offers(extensions: object) -> tuple[Artifact, ...]:
    info = _info(extensions)
    offers = None if info is None else info.get("offers")
    if offers is None:
        return ()
    if not isinstance(offers, list) or len(offers) > MAX_OFFERS:
        raise TermsError(f"offers is not a list of at most {MAX_OFFERS}")
    return tuple(_artifact(offer) for offer in offers)


def _info(extensions: object) -> Json | None:
    """`info` of the offer-receipt extension, where there is one."""
    value = extensions
    for name in ("offer-receipt", "info"):
        if value is None:
            return None
        value = _object(value, "extensions").get(name)
    return None if value is None else _object(value, "info")


def _artifact(value: object) -> Artifact:
    found = _object(value, "an offer or receipt")
    form, payload = _text(found, "format"), found.get("payload")
    encoded = None if payload is None else msgspec.json.encode(_object(payload, "the payload"))
    return Artifact(form, encoded, _text(found, "signature", MAX_HEADER_BYTES))


def _settlement(value: Json) -> Settlement:
    success = value.get("success")
    if type(success) is not bool:
        raise TermsError("success is neither true nor false")
    info = _info(value.get("extensions"))
    receipt = None if info is None else info.get("receipt")
    network = _text(value, "network")
    return Settlement(
        success,
        _V1_NETWORKS.get(network, network),
        _optional(value, "transaction", 128) or None,
        _optional(value, "payer", MAX_TEXT) or None,
        None if value.get("amount") is None else _amount(value, "amount"),
        _shown(value.get("errorReason")),
        None if receipt is None else _artifact(receipt),
    )


def _object(value: object, what: str) -> Json:
    if not isinstance(value, dict):
        raise TermsError(f"{what} is no object")
    return cast("Json", value)


def _text(item: Json, name: str, limit: int = 128) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= limit:
        raise TermsError(f"{name} is not a text of 1 to {limit} characters")
    if limit == 128 and _NAME.fullmatch(value) is None:
        raise TermsError(f"{name} has characters that no name has")
    return value


def _optional(item: Json, name: str, limit: int) -> str | None:
    value = item.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > limit or not value.isprintable():
        raise TermsError(f"{name} is not a printable text of at most {limit} characters")
    return value


def _amount(item: Json, name: str) -> int:
    """Atomic units: a decimal without sign, point, exponent or leading zeros, below 2**256."""
    value = item.get(name)
    if not isinstance(value, str) or _AMOUNT.fullmatch(value) is None or int(value) >= 2**256:
        raise TermsError(f"{name} is not a whole number of atomic units")
    return int(value)


def _seconds(item: Json) -> int:
    value = item.get("maxTimeoutSeconds")
    if type(value) is not int or not 0 < value <= MAX_TIMEOUT_S:
        raise TermsError("maxTimeoutSeconds is not a number of seconds")
    return value


def _shown(value: object) -> str | None:
    return None if value is None else plain(value if isinstance(value, str) else "not a text", 80)
