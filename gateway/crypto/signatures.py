"""Ed25519, through libsodium alone.

Other libraries differ at the edges of RFC 8032: some accept public keys of small order, under which an all-zero
signature holds for any message. libsodium refuses those, non-canonical points and S >= L, so every Ed25519 signature
that this project makes or believes passes through this file.
"""

from __future__ import annotations

from nacl.bindings import (
    crypto_core_ed25519_is_valid_point,
    crypto_sign,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import BadSignatureError

from gateway.errors import FormatError

SEED_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64


class Ed25519Signer:
    """Signs with one Ed25519 key (RFC 8032, pure, deterministic).

    `seed32` is the 32-byte private seed; any other length raises `FormatError`. `public_key` is the raw 32 bytes. The
    seed is not kept in a readable attribute and never appears in `repr`.
    """

    __slots__ = ("_secret", "public_key")

    def __init__(self, seed32: bytes) -> None:
        if len(seed32) != SEED_BYTES:
            raise FormatError(f"an Ed25519 seed has {SEED_BYTES} bytes, not {len(seed32)}")
        self.public_key, self._secret = crypto_sign_seed_keypair(seed32)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature over `message`."""
        return crypto_sign(message, self._secret)[:SIGNATURE_BYTES]

    def __repr__(self) -> str:
        return f"Ed25519Signer(public_key={self.public_key.hex()})"


def verify_ed25519(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` over `message` holds under `public_key`.

    False, never an exception, for wrong lengths, small-order or non-canonical keys, small-order R and S >= L.
    """
    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        return False
    return True


def is_weak_ed25519(public_key: bytes) -> bool:
    """Whether `public_key` must not be trusted whatever it signs.

    True for a wrong length, an encoding that is not canonical or not on the curve, and a point of small order or
    outside the prime-order subgroup. No key made by the book is any of these. Ask once for each key, at pinning or
    appraisal: it costs about as much as a verification.
    """
    return len(public_key) != PUBLIC_KEY_BYTES or not crypto_core_ed25519_is_valid_point(public_key)
