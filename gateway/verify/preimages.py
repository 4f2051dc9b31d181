"""What a network's response signature covers: a closed registry from rule to the exact bytes that the key signs.

A rule builds the bytes that must have been signed from what the caller itself sent and received. The text that comes
with a signature is never an input: it is what a signer claims to have seen, and taking hashes from it (or from a header
that a caller may set) proves nothing of this exchange. One rule is tried, the one that the adapter declared; trying all
and taking any that fits would let the weakest speak for the rest.

    dstack-req-resp      hex(SHA-256(request)) ":" hex(SHA-256(response))                    wire bytes, raw SSE
    near-model-req-resp  model ":" hex(SHA-256(request)) ":" hex(SHA-256(response))          wire bytes, raw SSE
    phala-req-json       as dstack, the response as Python's json.dumps writes its document  no streams
    0g-req-resp          as dstack, the response before its content encoding is undone       wire bytes, raw SSE
    nilai-json           the response with an empty `signature` member                       no streams, no request
    aci-receipt          JCS(receipt without `signature`), its hashes being those of these bytes
    gonka-request        hex(SHA-256(request)) timestamp address                             the request alone

`request` and `response` are complete bodies as they crossed the wire: of a stream every byte, its last blank line
included. `byte_exact` is False where a match proves the parsed document and not its spelling.
(docs: verification, "Signatures, preimages, bindings".)
"""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from itertools import islice

import msgspec

from gateway.crypto.algorithms import Alg
from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError

from . import aci

#: A response that is read as JSON. Bodies that are only hashed have no limit of their own here.
MAX_JSON = 16 * 1024 * 1024
MAX_MODEL = 256

_NILAI_SIGNATURE = re.compile(rb'(?<=[{,])"signature":"[^"\\]*"')
_TIMESTAMP = re.compile(r"[1-9][0-9]{0,19}")
_GONKA_ADDRESS = re.compile(r"[a-z][0-9a-z]{7,89}")

Params = Mapping[str, str]


class PreimageRule(enum.StrEnum):
    """The registered rules."""

    DSTACK = "dstack-req-resp"
    NEAR = "near-model-req-resp"
    PHALA_JSON = "phala-req-json"
    ZERO_G = "0g-req-resp"
    NILAI = "nilai-json"
    ACI = "aci-receipt"
    GONKA = "gonka-request"


class Covers(enum.StrEnum):
    """What of an exchange a signature over a preimage binds."""

    MODEL = "model"
    REQUEST = "request"
    RESPONSE = "response"


class Preimage(msgspec.Struct, frozen=True):
    """The bytes that the signature must hold over, and what follows for the exchange when it does."""

    rule: PreimageRule
    message: bytes
    covers: frozenset[Covers]
    byte_exact: bool = True


class _Rule(msgspec.Struct, frozen=True):
    build: Callable[[bytes, bytes, Params], bytes]
    covers: frozenset[Covers]
    algs: frozenset[Alg]
    byte_exact: bool = True


def preimage(rule: PreimageRule, request: bytes, response: bytes, params: Params) -> Preimage:
    """The preimage of one exchange by `rule`.

    `params` holds what the rule needs besides: `model` (the one that was asked for; near, aci), `receipt` (the
    signed document, aci), `timestamp` and `address` (gonka). Raises `FormatError` with the reason input_missing for a
    parameter that is not there, model_mismatch, request_hash_mismatch or response_hash_mismatch where a signed
    document states something else than these, and without one where the response is not what the rule reads.
    """
    found = _RULES[rule]
    return Preimage(rule, found.build(request, response, params), found.covers, found.byte_exact)


def algorithms(rule: PreimageRule) -> frozenset[Alg]:
    """The algorithms that the networks of `rule` sign with; any other is no signature of theirs."""
    return _RULES[rule].algs


def _param(params: Params, name: str) -> str:
    value = params.get(name)
    if not value:
        raise FormatError(f"the rule needs {name}", reason="input_missing")
    return value


def _hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _req_resp(request: bytes, response: bytes, params: Params) -> bytes:
    return f"{_hex(request)}:{_hex(response)}".encode()


def _model_req_resp(request: bytes, response: bytes, params: Params) -> bytes:
    model = _param(params, "model")
    if len(model) > MAX_MODEL or not model.isprintable():
        raise FormatError(f"a model name is printable and has at most {MAX_MODEL} characters")
    return model.encode() + b":" + _req_resp(request, response, params)


def _req_json(request: bytes, response: bytes, params: Params) -> bytes:
    # The proxy hashes json.dumps(document) with Python's defaults and sends another spelling of the same document.
    document = strict_json(response, max_bytes=MAX_JSON)
    return _req_resp(request, json.dumps(document).encode(), params)


def _nilai(request: bytes, response: bytes, params: Params) -> bytes:
    """The response as it was before it was signed: the one `signature` member emptied, no other byte touched."""
    document = strict_json(response, max_bytes=MAX_JSON)
    found = list(islice(_NILAI_SIGNATURE.finditer(response), 2))
    if not isinstance(document, dict) or not isinstance(document.get("signature"), str) or len(found) != 1:
        raise FormatError("the response has not exactly one `signature` member, in compact form")
    emptied = response[: found[0].start()] + b'"signature":""' + response[found[0].end() :]
    document["signature"] = ""
    if strict_json(emptied, max_bytes=MAX_JSON) != document:  # what was found is a member of something further in
        raise FormatError("the response's `signature` is not a member of the document itself")
    return emptied


def _aci(request: bytes, response: bytes, params: Params) -> bytes:
    sealed = aci.parse_receipt(_param(params, "receipt").encode("utf-8", "surrogatepass"))
    if sealed.receipt.model != _param(params, "model"):
        raise FormatError("the receipt states another model than the one asked for", reason="model_mismatch")
    for event, body, reason in (
        ("request.received", request, "request_hash_mismatch"),
        ("response.returned", response, "response_hash_mismatch"),
    ):
        if sealed.receipt.body_hash(event) != "sha256:" + _hex(body):
            raise FormatError(f"the receipt's {event} states another body than this one", reason=reason)
    return sealed.signed


def _gonka(request: bytes, response: bytes, params: Params) -> bytes:
    # Three values without separators: their lengths or alphabets must keep them apart, or two splits sign alike.
    timestamp, address = _param(params, "timestamp"), _param(params, "address")
    if _TIMESTAMP.fullmatch(timestamp) is None or _GONKA_ADDRESS.fullmatch(address) is None:
        raise FormatError("timestamp is not a decimal number, or address not a bech32 address")
    return f"{_hex(request)}{timestamp}{address}".encode()


_BOTH = frozenset({Covers.REQUEST, Covers.RESPONSE})
_DSTACK_ALGS = frozenset({Alg.EIP191, Alg.ED25519})
_RULES: dict[PreimageRule, _Rule] = {
    PreimageRule.DSTACK: _Rule(_req_resp, _BOTH, _DSTACK_ALGS),
    PreimageRule.NEAR: _Rule(_model_req_resp, _BOTH | {Covers.MODEL}, _DSTACK_ALGS),
    PreimageRule.PHALA_JSON: _Rule(_req_json, _BOTH, _DSTACK_ALGS, byte_exact=False),
    PreimageRule.ZERO_G: _Rule(_req_resp, _BOTH, frozenset({Alg.EIP191})),
    PreimageRule.NILAI: _Rule(_nilai, frozenset({Covers.RESPONSE}), frozenset({Alg.ES256K_DER})),
    PreimageRule.ACI: _Rule(_aci, _BOTH | {Covers.MODEL}, frozenset({Alg.ED25519})),
    PreimageRule.GONKA: _Rule(_gonka, frozenset({Covers.REQUEST}), frozenset({Alg.ES256K_LOW_S})),
}
