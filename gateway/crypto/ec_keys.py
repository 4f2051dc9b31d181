"""Public keys on the NIST curves as evidence carries them, and the plain ECDSA signatures that they check.

Four encodings, each strict: SEC1 uncompressed points, SubjectPublicKeyInfo, JWK (RFC 7517, 7518 section 6.2) and
COSE_Key (RFC 9052 section 7). A point that is not on its curve, a coordinate of another length, a compressed point and
anything private are refused. Signatures are r || s, each as long as the curve's order (IEEE P1363, RFC 9053 section
2.1); the digest goes with the curve: P-256 with SHA-256, P-384 with SHA-384, P-521 with SHA-512.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from gateway.errors import FormatError

from . import cbor
from .canonical import strict_json

EcKey = ec.EllipticCurvePublicKey

MAX_KEY_BYTES = 4_096
_COSE_KTY, _COSE_CRV, _COSE_X, _COSE_Y, _COSE_D = 1, -1, -2, -3, -4
_EC2 = 2


class Curve(msgspec.Struct, frozen=True):
    """A curve, its names, the bytes of a coordinate and the digest that goes with it."""

    name: str
    jwk: str
    cose: int
    size: int
    curve: ec.EllipticCurve
    digest: hashes.HashAlgorithm


P256 = Curve("secp256r1", "P-256", 1, 32, ec.SECP256R1(), hashes.SHA256())
P384 = Curve("secp384r1", "P-384", 2, 48, ec.SECP384R1(), hashes.SHA384())
P521 = Curve("secp521r1", "P-521", 3, 66, ec.SECP521R1(), hashes.SHA512())
_CURVES = (P256, P384, P521)


class KeyFormatError(FormatError):
    """A public key that is not one. `reason` is always bad_public_key."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="bad_public_key")


def curve_of(key: object) -> Curve | None:
    """Which of the three curves `key` is on; None for any other kind of key."""
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return None
    return next((curve for curve in _CURVES if curve.name == key.curve.name), None)


def verify_rs(key: EcKey, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (r || s) over `message` holds under `key`. False for any other length or curve."""
    curve = curve_of(key)
    if curve is None or len(signature) != 2 * curve.size:
        return False
    r, s = (int.from_bytes(half, "big") for half in (signature[: curve.size], signature[curve.size :]))
    try:
        key.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(curve.digest))
    except InvalidSignature:
        return False
    return True


def public_key(data: bytes) -> EcKey:
    """The key in any of the four encodings, which their first byte tells apart. Raises `KeyFormatError`."""
    if len(data) > MAX_KEY_BYTES:
        raise KeyFormatError(f"a public key has {len(data)} bytes; at most {MAX_KEY_BYTES} are read")
    if data[:1] == b"\x04":
        return from_sec1(data)
    if data[:1] == b"\x30":
        return from_spki(data)
    if data[:1] == b"{":
        return from_jwk(data)
    return from_cose(data)


def from_sec1(point: bytes) -> EcKey:
    """04 || x || y; the length tells the curve (SEC 1 section 2.3.3)."""
    curve = next((c for c in _CURVES if len(point) == 1 + 2 * c.size), None)
    if curve is None or point[0] != 4:
        raise KeyFormatError(f"{len(point)} bytes are no uncompressed point of P-256, P-384 or P-521")
    return _on_curve(curve, point[1:])


def from_spki(der: bytes) -> EcKey:
    """A SubjectPublicKeyInfo with a named curve (RFC 5480), in the one DER spelling that it has."""
    try:
        key = load_der_public_key(der)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFormatError("not a SubjectPublicKeyInfo") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or curve_of(key) is None or spki_der(key) != der:
        raise KeyFormatError("not a SubjectPublicKeyInfo of P-256, P-384 or P-521")
    return key


def from_jwk(text: bytes) -> EcKey:
    """A public JWK of type EC. Members that say nothing of the point are ignored; a private one is refused."""
    try:
        jwk = strict_json(text, max_bytes=MAX_KEY_BYTES)
    except FormatError as error:
        raise KeyFormatError(f"not a JWK: {error.message}") from None
    if not isinstance(jwk, dict) or jwk.get("kty") != "EC" or "d" in jwk:
        raise KeyFormatError("not a public JWK of type EC")
    curve = next((c for c in _CURVES if c.jwk == jwk.get("crv")), None)
    if curve is None:
        raise KeyFormatError("the JWK's curve is none of P-256, P-384, P-521")
    return _on_curve(curve, b"".join(_coordinate(_unb64url(jwk.get(name)), curve) for name in ("x", "y")))


def from_cose(data: bytes) -> EcKey:
    """A COSE_Key of type EC2 with both coordinates (RFC 9053 section 7.1.1). Other members are ignored."""
    try:
        key = cbor.load(data, max_bytes=MAX_KEY_BYTES)
    except FormatError as error:
        raise KeyFormatError(f"not a COSE_Key: {error.message}") from None
    if not isinstance(key, Mapping) or not _is(key.get(_COSE_KTY), _EC2) or _COSE_D in key:
        raise KeyFormatError("not a public COSE_Key of type EC2")
    curve = next((c for c in _CURVES if _is(key.get(_COSE_CRV), c.cose)), None)
    if curve is None:
        raise KeyFormatError("the COSE_Key's curve is none of P-256, P-384, P-521")
    return _on_curve(curve, b"".join(_coordinate(key.get(name), curve) for name in (_COSE_X, _COSE_Y)))


def spki_sha256(key: EcKey) -> str:
    """SHA-256 of the key's SubjectPublicKeyInfo, lower-case hex: what names a key in a list of anchors."""
    return hashlib.sha256(spki_der(key)).hexdigest()


def spki_der(key: EcKey) -> bytes:
    """The key's SubjectPublicKeyInfo, DER."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _on_curve(curve: Curve, coordinates: bytes) -> EcKey:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(curve.curve, b"\x04" + coordinates)
    except ValueError:
        raise KeyFormatError(f"the point is not on {curve.jwk}") from None


def _coordinate(value: object, curve: Curve) -> bytes:
    if not isinstance(value, bytes) or len(value) != curve.size:
        raise KeyFormatError(f"a coordinate of {curve.jwk} is a string of {curve.size} bytes")
    return value


def _is(value: Any, number: int) -> bool:
    return type(value) is int and value == number  # true is not 1


def _unb64url(text: object) -> bytes | None:
    """Unpadded base64url in its one spelling (RFC 7515 section 2); None for anything else."""
    if not isinstance(text, str):
        return None
    standard = text.translate(_URL_SAFE)
    try:
        data = binascii.a2b_base64(standard + "=" * (-len(standard) % 4), strict_mode=True)
    except (binascii.Error, ValueError):
        return None
    again = binascii.b2a_base64(data, newline=False).decode().rstrip("=")
    return data if again == standard else None


#: The URL-safe alphabet to the standard one; the standard one's own two letters and padding become invalid.
_URL_SAFE = str.maketrans({"-": "+", "_": "/", "+": " ", "/": " ", "=": " "})
