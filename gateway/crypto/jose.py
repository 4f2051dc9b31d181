"""Compact JWS and JWK, as attestation services use them: RFC 7515, 7517, 7518, narrowed to what cannot mislead.

    token = read_compact(text, algs=("ES384",))      # the caller pins the algorithms; the header only agrees or fails
    check_signature(token, key)                       # `key` comes from a pinned chain or set, never from the header

The header names an algorithm, a key id, sometimes a URL of keys. None of these is believed: the algorithm must be one
that the caller listed, the key is the caller's, `jku` and `x5u` are not looked at, `crit` is refused. Base64url has one
spelling (no padding, no spare bits), JSON is read strictly (`strict_json`), so one text means one token.
"""

from __future__ import annotations

import binascii
from collections.abc import Collection, Mapping
from typing import TypeAlias

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from gateway.errors import FormatError

from .canonical import strict_json
from .certificates import MAX_CHAIN, load_certificate
from .encoding import unb64

MAX_TOKEN_BYTES = 65_536
MAX_KEY_SET_BYTES = 1 << 20  # NVIDIA's is about 80 kB
MAX_KEYS = 1024
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
Json: TypeAlias = Mapping[str, object]

_CURVES: dict[str, tuple[ec.EllipticCurve, int]] = {"P-256": (ec.SECP256R1(), 32), "P-384": (ec.SECP384R1(), 48)}
_ECDSA: dict[str, tuple[str, hashes.HashAlgorithm, int]] = {
    "ES256": ("secp256r1", hashes.SHA256(), 32),
    "ES384": ("secp384r1", hashes.SHA384(), 48),
}


class JoseError(FormatError):
    """A token or key that does not hold. `reason` is jwt_not_compact|jwt_bad_base64|jwt_bad_json|jwt_bad_alg|jwt_crit|
    jwt_key_alg_mismatch|jwt_bad_signature|jwt_unknown_kid|jwks_malformed|jwks_duplicate_kid|jwk_bad_key|jwk_bad_x5c."""

    code = "not_authentic"


class Jws(msgspec.Struct, frozen=True):
    """A token taken apart. Nothing in it is believed before `check_signature`; `alg` is one that the caller allows."""

    alg: str
    header: Json
    claims: Json
    signed: bytes
    signature: bytes


def unb64url(text: str, what: str) -> bytes:
    """The bytes that `text` spells in base64url without padding (RFC 7515 section 2), in its one spelling.

    Raises `JoseError` jwt_bad_base64 naming `what`; the spare bits of the last character must be zero.
    """
    try:
        if "=" in text or "+" in text or "/" in text:
            raise ValueError
        data = binascii.a2b_base64(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), strict_mode=True)
    except ValueError:  # binascii.Error is one, and so is text that is not ASCII
        raise JoseError(f"{what} is not base64url", reason="jwt_bad_base64") from None
    if b64url(data) != text:
        raise JoseError(f"{what} is not base64url in its one spelling", reason="jwt_bad_base64")
    return data


def b64url(data: bytes) -> str:
    """`data` in base64url without padding."""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").decode().replace("+", "-").replace("/", "_")


def read_compact(text: bytes, *, algs: Collection[str]) -> Jws:
    """Take apart `header.claims.signature`; `algs` are the algorithms that the caller accepts.

    Raises `JoseError`. A header that asks for anything that must be understood (`crit`) is refused.
    """
    if len(text) > MAX_TOKEN_BYTES:
        raise JoseError(f"a token of {len(text)} bytes is over the limit", reason="jwt_not_compact")
    parts = text.split(b".")
    if len(parts) != 3 or not text.isascii():
        raise JoseError("a token is not three parts with two points", reason="jwt_not_compact")
    first, second, third = (part.decode() for part in parts)
    header = _object(unb64url(first, "the header"), "header")
    claims = _object(unb64url(second, "the claims"), "claims")
    signature = unb64url(third, "the signature")
    alg = header.get("alg")
    if not isinstance(alg, str) or alg not in algs:
        raise JoseError(f"the token's algorithm is {alg!a:.40}", reason="jwt_bad_alg")
    if "crit" in header:
        raise JoseError("the header has members that must be understood", reason="jwt_crit")
    return Jws(alg, header, claims, parts[0] + b"." + parts[1], signature)


def _object(data: bytes, what: str) -> Json:
    try:
        value = strict_json(data, max_bytes=MAX_TOKEN_BYTES, max_depth=32)
    except FormatError as error:
        raise JoseError(f"the token's {what}: {error.message}", reason="jwt_bad_json") from None
    if not isinstance(value, dict):
        raise JoseError(f"the token's {what} is no object", reason="jwt_bad_json")
    return value


def check_signature(token: Jws, key: PublicKey) -> None:
    """Hold the token to `key` (RFC 7518 sections 3.3 and 3.4). Raises `JoseError`.

    The key decides the family: an RSA key with an ECDSA token is a mismatch, not another way to verify.
    """
    try:
        if token.alg in _ECDSA:
            _check_ecdsa(token, key)
        elif token.alg == "RS256" and isinstance(key, rsa.RSAPublicKey):
            key.verify(token.signature, token.signed, padding.PKCS1v15(), hashes.SHA256())
        else:
            raise JoseError("the key is of another kind than the algorithm", reason="jwt_key_alg_mismatch")
    except InvalidSignature:
        raise JoseError("the token's signature does not hold", reason="jwt_bad_signature") from None


def _check_ecdsa(token: Jws, key: PublicKey) -> None:
    curve, digest, size = _ECDSA[token.alg]
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != curve:
        raise JoseError("the key is of another kind than the algorithm", reason="jwt_key_alg_mismatch")
    if len(token.signature) != 2 * size:
        raise JoseError(f"the signature has {len(token.signature)} bytes", reason="jwt_bad_signature")
    r, s = (int.from_bytes(half, "big") for half in (token.signature[:size], token.signature[size:]))
    key.verify(utils.encode_dss_signature(r, s), token.signed, ec.ECDSA(digest))


def find_key(key_set: bytes, kid: object) -> Json:
    """The one JWK of the set (RFC 7517 section 5) that has this `kid`. Raises `JoseError`.

    `kid` chooses among keys that are all to be believed on other grounds; it is never itself a ground.
    """
    try:
        document = strict_json(key_set, max_bytes=MAX_KEY_SET_BYTES, max_depth=8)
    except FormatError as error:
        raise JoseError(f"the key set: {error.message}", reason="jwks_malformed") from None
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or len(keys) > MAX_KEYS:
        raise JoseError("the key set has no list of keys", reason="jwks_malformed")
    found = [key for key in keys if isinstance(key, dict) and key.get("kid") == kid] if isinstance(kid, str) else []
    if not found:
        raise JoseError("the token's key is not in the key set", reason="jwt_unknown_kid")
    if len(found) > 1:
        raise JoseError("two keys of the set have the same id", reason="jwks_duplicate_kid")
    return found[0]


def key_of(jwk: Json) -> PublicKey:
    """The public key of an EC (P-256, P-384) or RSA (2048 to 8192 bits) JWK. Raises `JoseError` jwk_bad_key."""
    try:
        if jwk.get("use", "sig") != "sig":
            raise JoseError("the key is not for signatures", reason="jwk_bad_key")
        if jwk.get("kty") == "EC":
            return _ec_key(jwk)
        if jwk.get("kty") == "RSA":
            return _rsa_key(jwk)
        raise JoseError("the key is neither EC nor RSA", reason="jwk_bad_key")
    except ValueError:
        raise JoseError("the key is not one of its kind", reason="jwk_bad_key") from None


def _ec_key(jwk: Json) -> PublicKey:
    name = jwk.get("crv")
    if not isinstance(name, str) or name not in _CURVES:
        raise JoseError("the key's curve is neither P-256 nor P-384", reason="jwk_bad_key")
    curve, size = _CURVES[name]
    x, y = _member(jwk, "x"), _member(jwk, "y")
    if len(x) != size or len(y) != size:
        raise JoseError("a coordinate has another length than the curve's", reason="jwk_bad_key")
    return ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve).public_key()


def _rsa_key(jwk: Json) -> PublicKey:
    n, e = _member(jwk, "n"), _member(jwk, "e")
    modulus, exponent = int.from_bytes(n, "big"), int.from_bytes(e, "big")
    if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS or not 3 <= exponent < 1 << 32:
        raise JoseError("the RSA key is too short or too long, or its exponent is out of range", reason="jwk_bad_key")
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def _member(jwk: Json, name: str) -> bytes:
    value = jwk.get(name)
    if not isinstance(value, str) or len(value) > 2048:
        raise JoseError(f"the key has no {name}", reason="jwk_bad_key")
    return unb64url(value, f"the key's {name}")


def certificates_of(x5c: object) -> tuple[x509.Certificate, ...]:
    """The chain of an `x5c` member, leaf first (RFC 7515 section 4.1.6: standard base64). Raises `JoseError`."""
    if not isinstance(x5c, list) or not 1 <= len(x5c) <= MAX_CHAIN or not all(isinstance(c, str) for c in x5c):
        raise JoseError(f"x5c is not a list of 1 to {MAX_CHAIN} certificates", reason="jwk_bad_x5c")
    try:
        return tuple(load_certificate(unb64(text, "a certificate of x5c")) for text in x5c)
    except FormatError as error:
        raise JoseError(error.message, reason="jwk_bad_x5c") from None
