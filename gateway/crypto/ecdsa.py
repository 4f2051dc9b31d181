"""ECDSA on the NIST curves, with one spelling of every key and signature (FIPS 186-5, SEC 1).

Public keys come as `04 || x || y`, as bare `x || y`, compressed, or as the SubjectPublicKeyInfo of an uncompressed
point. Signatures come as `r || s` of fixed width (IEEE P1363, JOSE, COSE) or as DER; BER spellings that many libraries
let pass are refused, so that one signature has one spelling in one form. (r, n - s) holds wherever (r, s) does: that is
ECDSA, and whoever needs a signature to be an identity asks for low s.

Nothing here raises for bytes from outside: what is not a key or a signature is None, and verifies as False.
"""

from __future__ import annotations

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm


class Curve(msgspec.Struct, frozen=True):
    """One curve with the hash that its networks pair it with. `size` is bytes of a coordinate; `order` of the group."""

    curve: ec.EllipticCurve
    hash: HashAlgorithm
    size: int
    order: int
    spki: bytes  # what stands before `04 || x || y` in a SubjectPublicKeyInfo (RFC 5480)


P256 = Curve(
    ec.SECP256R1(),
    SHA256(),
    32,
    0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200"),
)
P384 = Curve(
    ec.SECP384R1(),
    SHA384(),
    48,
    0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    bytes.fromhex("3076301006072a8648ce3d020106052b81040022036200"),
)
SECP256K1 = Curve(
    ec.SECP256K1(),
    SHA256(),
    32,
    0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
    bytes.fromhex("3056301006072a8648ce3d020106052b8104000a034200"),
)


def sec1(curve: Curve, key: bytes) -> bytes | None:
    """`key` in its SEC 1 form (`04 || x || y` or compressed); None for any other form. The point is not looked at.

    Hybrid points (06, 07), which some libraries read, and the point at infinity (00) are no keys here.
    """
    if len(key) == 2 * curve.size:
        return b"\x04" + key
    if len(key) == curve.size + 1:
        return key if key[0] in (2, 3) else None
    point = key.removeprefix(curve.spki)
    return point if len(point) == 2 * curve.size + 1 and point[0] == 4 else None


def in_range(curve: Curve, r: int, s: int) -> bool:
    """Whether 0 < r, s < n: anything else is no signature, and zero is how ECDSA has been broken before."""
    return 0 < r < curve.order and 0 < s < curve.order


def is_low(curve: Curve, s: int) -> bool:
    """Whether s is the smaller of s and n - s (BIP 62, EIP-2)."""
    return s <= curve.order // 2


def fixed(curve: Curve, signature: bytes) -> tuple[int, int] | None:
    """(r, s) of `r || s`, each as wide as the curve; None for another length or numbers out of range."""
    if len(signature) != 2 * curve.size:
        return None
    r, s = int.from_bytes(signature[: curve.size], "big"), int.from_bytes(signature[curve.size :], "big")
    return (r, s) if in_range(curve, r, s) else None


def der(curve: Curve, signature: bytes) -> tuple[int, int] | None:
    """(r, s) of a DER `SEQUENCE { INTEGER, INTEGER }`; None for every spelling that is not DER's own."""
    if len(signature) > 2 * curve.size + 9:
        return None
    try:
        r, s = decode_dss_signature(signature)
    except ValueError:
        return None
    if not in_range(curve, r, s) or encode_dss_signature(r, s) != signature:
        return None
    return r, s


def verify_ecdsa(curve: Curve, key: bytes, digest: bytes, numbers: tuple[int, int]) -> bool:
    """Whether the signature `numbers` over `digest` (as long as the curve's hash) holds under `key`, in any form."""
    point = sec1(curve, key)
    if point is None or not in_range(curve, *numbers):
        return False
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(curve.curve, point)  # refuses what is not on the curve
        public.verify(encode_dss_signature(*numbers), digest, ec.ECDSA(Prehashed(curve.hash)))
    except (ValueError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
