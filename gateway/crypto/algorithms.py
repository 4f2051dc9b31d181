"""One question for every signature that a network makes: `verify(key, alg, message, signature)`.

The set of algorithms is closed. The algorithm is named by the caller from what it expects of a network, never read from
the document that is being verified: a header that chooses its own check is how `"alg":"none"` was born. The name fixes
the curve, the hash, the padding and the spelling of the signature.

| name | key | signature |
|---|---|---|
| `ed25519` | 32 bytes | 64 bytes, RFC 8032 |
| `eip191`, `eip191-low-s` | 20-byte address, or a secp256k1 key | r, s, v: 65 bytes |
| `es256k`, `es256k-low-s`, `es256`, `es384` | a key of the curve | r, s: 64 or 96 bytes |
| `es256k-der`, `es256-der`, `es384-der` | a key of the curve | DER |
| `ps256`, `ps384`, `rs256`, `rs384` | SubjectPublicKeyInfo | as long as the modulus |
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable
from functools import partial

from cryptography.hazmat.primitives.hashes import SHA256, SHA384

from .ecdsa import P256, P384, SECP256K1, Curve, der, fixed, is_low, verify_ecdsa
from .rsa import pkcs1, pss, verify_rsa
from .secp256k1 import verify_eip191, verify_secp256k1
from .signatures import verify_ed25519

_Numbers = Callable[[Curve, bytes], tuple[int, int] | None]
_Verifier = Callable[[bytes, bytes, bytes], bool]


class Alg(enum.StrEnum):
    """The signature algorithms. Where JOSE has a name it is the name here, with what it leaves open behind a hyphen."""

    ED25519 = "ed25519"
    EIP191 = "eip191"
    EIP191_LOW_S = "eip191-low-s"
    ES256K = "es256k"
    ES256K_LOW_S = "es256k-low-s"
    ES256K_DER = "es256k-der"
    ES256 = "es256"
    ES256_DER = "es256-der"
    ES384 = "es384"
    ES384_DER = "es384-der"
    PS256 = "ps256"
    PS384 = "ps384"
    RS256 = "rs256"
    RS384 = "rs384"


def verify(key: bytes, alg: Alg, message: bytes, signature: bytes) -> bool:
    """Whether `signature` over `message` holds under `key`, by `alg`. False, never an exception, for any bytes."""
    return _VERIFIERS[alg](key, message, signature)


def _nist(curve: Curve, read: _Numbers) -> _Verifier:
    def check(key: bytes, message: bytes, signature: bytes) -> bool:
        numbers = read(curve, signature)
        return numbers is not None and verify_ecdsa(curve, key, _digest(curve, message), numbers)

    return check


def _koblitz(read: _Numbers) -> _Verifier:
    def check(key: bytes, message: bytes, signature: bytes) -> bool:
        numbers = read(SECP256K1, signature)
        return numbers is not None and verify_secp256k1(key, _digest(SECP256K1, message), numbers)

    return check


def _digest(curve: Curve, message: bytes) -> bytes:
    return hashlib.new(curve.hash.name, message).digest()


def _low(curve: Curve, signature: bytes) -> tuple[int, int] | None:
    numbers = fixed(curve, signature)
    return numbers if numbers is not None and is_low(curve, numbers[1]) else None


def _eip191_low(key: bytes, message: bytes, signature: bytes) -> bool:
    return verify_eip191(key, message, signature, low_s=True)


_VERIFIERS: dict[Alg, _Verifier] = {
    Alg.ED25519: verify_ed25519,
    Alg.EIP191: verify_eip191,
    Alg.EIP191_LOW_S: _eip191_low,
    Alg.ES256K: _koblitz(fixed),
    Alg.ES256K_LOW_S: _koblitz(_low),
    Alg.ES256K_DER: _koblitz(der),
    Alg.ES256: _nist(P256, fixed),
    Alg.ES256_DER: _nist(P256, der),
    Alg.ES384: _nist(P384, fixed),
    Alg.ES384_DER: _nist(P384, der),
    Alg.PS256: partial(verify_rsa, pss(SHA256())),
    Alg.PS384: partial(verify_rsa, pss(SHA384())),
    Alg.RS256: partial(verify_rsa, pkcs1(SHA256())),
    Alg.RS384: partial(verify_rsa, pkcs1(SHA384())),
}
