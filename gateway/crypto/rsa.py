"""RSA signatures: PSS with the salt as long as the digest, and PKCS #1 v1.5 (RFC 8017).

A key is a SubjectPublicKeyInfo in DER that re-encodes to the same bytes, its modulus 2048 to 4096 bits, its exponent
65537: what every network and vendor that this project reads uses. That leaves no room for e = 1, under which any
padded text is its own signature, for short moduli, nor for moduli that only cost time.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

MIN_BITS, MAX_BITS, EXPONENT = 2048, 4096, 65537
#: A SubjectPublicKeyInfo of a 4096-bit key has 550 bytes.
MAX_KEY_BYTES = 1024


class Scheme(msgspec.Struct, frozen=True):
    """A padding and the hash that goes with it."""

    padding: padding.AsymmetricPadding
    hash: HashAlgorithm


def pss(digest: HashAlgorithm) -> Scheme:
    """RSASSA-PSS with MGF1 over the same hash and a salt of the digest's length; other salts don't hold."""
    return Scheme(padding.PSS(padding.MGF1(digest), digest.digest_size), digest)


def pkcs1(digest: HashAlgorithm) -> Scheme:
    """RSASSA-PKCS1-v1_5."""
    return Scheme(padding.PKCS1v15(), digest)


@lru_cache(64)
def load_rsa(spki: bytes) -> RSAPublicKey | None:
    """The key behind a SubjectPublicKeyInfo; None when it is not one that this project takes."""
    if len(spki) > MAX_KEY_BYTES:
        return None
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm):
        return None
    if not isinstance(key, RSAPublicKey) or not MIN_BITS <= key.key_size <= MAX_BITS:
        return None
    numbers = key.public_numbers()
    if numbers.e != EXPONENT or numbers.n % 2 == 0:
        return None
    return key if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == spki else None


def verify_rsa(scheme: Scheme, spki: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature`, exactly as long as the modulus, over `message` holds under the key `spki`."""
    key = load_rsa(spki)
    if key is None or len(signature) != (key.key_size + 7) // 8:
        return False
    try:
        key.verify(signature, message, scheme.padding, scheme.hash)
    except (InvalidSignature, ValueError):
        return False
    return True
