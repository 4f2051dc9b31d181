"""The signature object of the dstack family: `{text, signature, signing_address, signing_algo}`.

    GET /v1/signature/{chat_id}  →  {"text": "model:req:resp", "signature": "0x…", "signing_address": "0x…", …}

The object names its own signer and its own hashes, so nothing of it is believed: the text must be the one that follows
from the bytes of this exchange, and the address must be the key that attested evidence binds. What differs is fatal,
and named. A gateway may answer 200 with an `error_code` for an exchange that nobody signed; that is no signature.
"""

from __future__ import annotations

import enum
import re

import msgspec

from gateway.crypto.algorithms import Alg, verify
from gateway.crypto.canonical import strict_json
from gateway.crypto.secp256k1 import ADDRESS_BYTES, address
from gateway.errors import FormatError

from .preimages import Covers, Preimage, PreimageRule, algorithms

MAX_OBJECT = 16_384

_HEX = re.compile(r"(?:0x)?((?:[0-9a-fA-F]{2})+)")
_TEXT_RULES = frozenset({PreimageRule.DSTACK, PreimageRule.NEAR, PreimageRule.PHALA_JSON, PreimageRule.ZERO_G})
_ALGS = {"ecdsa": Alg.EIP191, "ed25519": Alg.ED25519}


class SignerKind(enum.StrEnum):
    """Who a gateway says signed: the model's own node, or the gateway over what it passed on. Their bytes differ."""

    PROVIDER = "provider_tee"
    GATEWAY = "gateway"


class SignedText(msgspec.Struct, frozen=True):
    """A signature object, unjudged. `signer` is the 20-byte address or the 32-byte Ed25519 key that it names.

    `kind` is what the object says of its signer, None where it says nothing. It chooses whose evidence the caller has
    to have the key from, and proves nothing itself.
    """

    text: str
    alg: Alg
    signature: bytes
    signer: bytes
    kind: SignerKind | None = None


def parse_signed_text(data: bytes) -> SignedText:
    """The signature object in `data`. Raises `FormatError`, with the reason response_unsigned for an `error_code`."""
    document = strict_json(data, max_bytes=MAX_OBJECT)
    if not isinstance(document, dict):
        raise FormatError("a signature object is not a JSON object")
    if "error_code" in document:
        raise FormatError("the network says that nobody signed this response", reason="response_unsigned")
    named = document.get("signing_algo")
    alg = _ALGS.get(named) if isinstance(named, str) else None
    text = document.get("text")
    if alg is None or not isinstance(text, str):
        raise FormatError("a signature object lacks text, or names an algorithm that is neither ecdsa nor ed25519")
    signature, signer = (
        _bytes(document.get("signature"), "signature"),
        _bytes(document.get("signing_address"), "address"),
    )
    if len(signer) != (ADDRESS_BYTES if alg is Alg.EIP191 else 32):
        raise FormatError("signing_address has not the length of its algorithm")
    kind = document.get("signature_kind")
    if kind not in (None, *SignerKind):
        raise FormatError("a signature object names an unknown signature_kind")
    return SignedText(text, alg, signature, signer, None if kind is None else SignerKind(kind))


def judge_signed_text(signed: SignedText, expected: Preimage, key: bytes) -> str | None:
    """None when `key` signed `expected`; otherwise the reason, the first that applies of

    signing_algo_mismatch, signing_address_mismatch, text_form_mismatch, model_mismatch, request_hash_mismatch,
    response_hash_mismatch, signature_invalid. `key` is the one that evidence binds, as an address (20 bytes), a
    secp256k1 key (64, 65) or an Ed25519 key (32); `expected` comes from this exchange's own bytes.
    """
    if expected.rule not in _TEXT_RULES:
        return "text_form_mismatch"
    if signed.alg not in algorithms(expected.rule):
        return "signing_algo_mismatch"
    if signed.signer != (key if signed.alg is Alg.ED25519 or len(key) == ADDRESS_BYTES else address(key)):
        return "signing_address_mismatch"
    if signed.text.encode("utf-8", "surrogatepass") != expected.message:
        return _difference(signed.text, expected)
    return None if verify(key, signed.alg, expected.message, signed.signature) else "signature_invalid"


def _difference(text: str, expected: Preimage) -> str:
    """Which part of `text` is not the expected one. Split from the right: nothing forbids a colon in a model's name."""
    parts = 3 if Covers.MODEL in expected.covers else 2
    found, wanted = text.rsplit(":", parts - 1), expected.message.decode().rsplit(":", parts - 1)
    if len(found) != parts or (parts == 2 and ":" in found[0]):
        return "text_form_mismatch"
    reasons = ("model_mismatch", "request_hash_mismatch", "response_hash_mismatch")[-parts:]
    return next(reason for reason, a, b in zip(reasons, found, wanted, strict=True) if a != b)


def _bytes(value: object, name: str) -> bytes:
    match = _HEX.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise FormatError(f"a signature object's {name} is not hex")
    return bytes.fromhex(match[1])
