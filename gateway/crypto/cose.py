"""COSE_Sign1 (RFC 9052 section 4.2) as attestation uses it: one algorithm header, nothing unprotected, payload inside.

    [protected: bstr, unprotected: {}, payload: bstr, signature: bstr]        tagged 18 or not, as the format says

Every byte of an accepted message is either signed or can only be what it is: the array and its strings have definite,
shortest heads; the protected header is exactly one of the three encodings below; the unprotected one is empty. What is
left to whoever passes a message on is the tag, where it is optional, and ECDSA's second form of the same signature, so
a digest of the whole message is not an identity.

The signature covers Sig_structure over the payload bytes as they came, never over a payload written again.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.errors import FormatError

from . import cbor
from .ec_keys import P256, P384, P521, Curve, EcKey, curve_of, verify_rs

TAG = 18

#: {1: alg} in its one encoding, and the curve that the algorithm goes with here (RFC 9053 section 2.1).
_ALGORITHMS: dict[bytes, tuple[str, Curve]] = {
    bytes.fromhex("a10126"): ("ES256", P256),
    bytes.fromhex("a1013822"): ("ES384", P384),
    bytes.fromhex("a1013823"): ("ES512", P521),
}


class CoseError(FormatError):
    """Not a COSE_Sign1 that is read here. `reason` is one of cbor's, or cose_not_sign1|cose_bad_types|
    cose_bad_protected_header|cose_unprotected_header|cose_bad_length."""


class CoseSign1(msgspec.Struct, frozen=True):
    """One signed message. `alg` is ES256|ES384|ES512; `tagged` whether tag 18 stood around it."""

    protected: bytes
    alg: str
    payload: bytes
    signature: bytes
    tagged: bool


def read_sign1(
    data: bytes,
    *,
    algs: tuple[str, ...] = ("ES384",),
    max_bytes: int = cbor.MAX_BYTES,
    max_payload: int = cbor.MAX_BYTES,
    tags: tuple[int | None, ...] = (None, TAG),
) -> CoseSign1:
    """The message that `data` is, to its last byte. Raises `CoseError` or `cbor.CborError`."""
    tag, array = cbor.load_tagged(data, tags, max_bytes=max_bytes, indefinite=False)
    if not isinstance(array, (list, tuple)) or len(array) != 4:
        raise CoseError("not an array of four", reason="cose_not_sign1")
    protected, unprotected, payload, signature = array
    if not isinstance(protected, bytes) or not isinstance(payload, bytes) or not isinstance(signature, bytes):
        raise CoseError("header, payload and signature must be byte strings", reason="cose_bad_types")
    alg, curve = _ALGORITHMS.get(protected, (None, None))
    if alg is None or curve is None or alg not in algs:
        raise CoseError(
            f"the protected header is {protected[:16].hex()}, not one of {', '.join(algs)}",
            reason="cose_bad_protected_header",
        )
    if not isinstance(unprotected, Mapping) or unprotected:
        raise CoseError("the unprotected header is not an empty map", reason="cose_unprotected_header")
    if len(signature) != 2 * curve.size or not 1 <= len(payload) <= max_payload:
        raise CoseError(f"payload of {len(payload)}, signature of {len(signature)} bytes", reason="cose_bad_length")
    return CoseSign1(protected, alg, payload, signature, tag == TAG)


def sig_structure(protected: bytes, payload: bytes) -> bytes:
    """What is signed: ["Signature1", protected, h'', payload] (RFC 9052 section 4.4)."""
    return b"\x84\x6aSignature1" + _bstr(protected) + b"\x40" + _bstr(payload)


def verify_sign1(message: CoseSign1, key: EcKey) -> bool:
    """Whether `key` signed `message`. False for a key on another curve than the algorithm's."""
    _, curve = _ALGORITHMS.get(message.protected, (None, None))
    if curve is None or curve_of(key) is not curve:
        return False
    return verify_rs(key, sig_structure(message.protected, message.payload), message.signature)


def _bstr(data: bytes) -> bytes:
    size = len(data)
    if size < 24:
        return bytes((0x40 | size,)) + data
    if size < 0x100:
        return bytes((0x58, size)) + data
    if size < 0x10000:
        return b"\x59" + size.to_bytes(2, "big") + data
    return b"\x5a" + size.to_bytes(4, "big") + data
