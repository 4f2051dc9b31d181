"""Ed25519, as libsodium decides it.

Other libraries differ at the edges of RFC 8032: some accept public keys of small order, under which an all-zero
signature holds for any message. libsodium refuses those, non-canonical points and S >= L, so every Ed25519 signature
that this project makes or believes passes through this file.

A gateway may let another library do the work (`accelerate`). It can only confirm, and only where the two cannot differ:
under a key that libsodium calls a point of prime order (and so canonical), for an R that is not the identity. Its
equation then holds without the cofactor, so libsodium's holds too; R is what the equation gave, so it is canonical and,
like the key, of prime order. Everything that is not confirmed is decided by libsodium.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from nacl.bindings import (
    crypto_core_ed25519_is_valid_point,
    crypto_sign,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import BadSignatureError

from gateway.errors import FormatError

from .accelerator import Accelerator, answers_rightly

SEED_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
_IDENTITY = b"\1" + bytes(31)
#: Keys whose order is remembered; a node signs with one or two.
_KEYS = 4096

_fast: Accelerator | None = None


def accelerate(library: Accelerator | None) -> bool:
    """Let `library` work for this process from here on, if it answers rightly; whether it does.

    For signers made afterwards and for every check. None: libsodium alone.
    """
    global _fast
    _fast = library if library is not None and answers_rightly(library) else None
    return _fast is not None


class Ed25519Signer:
    """Signs with one Ed25519 key (RFC 8032, pure, deterministic).

    `seed32` is the 32-byte private seed; any other length raises `FormatError`. `public_key` is the raw 32 bytes. The
    seed is not kept in a readable attribute and never appears in `repr`.
    """

    __slots__ = ("_sign", "public_key")

    def __init__(self, seed32: bytes) -> None:
        if len(seed32) != SEED_BYTES:
            raise FormatError(f"an Ed25519 seed has {SEED_BYTES} bytes, not {len(seed32)}")
        self.public_key, secret = crypto_sign_seed_keypair(seed32)
        self._sign = _fast.signer(seed32) if _fast is not None else _libsodium_signer(secret)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature over `message`."""
        return self._sign(message)

    def __repr__(self) -> str:
        return f"Ed25519Signer(public_key={self.public_key.hex()})"


def _libsodium_signer(secret: bytes) -> Callable[[bytes], bytes]:
    return lambda message: crypto_sign(message, secret)[:SIGNATURE_BYTES]


def verify_ed25519(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` over `message` holds under `public_key`.

    False, never an exception, for wrong lengths, small-order or non-canonical keys, small-order R and S >= L.
    """
    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    if _fast is not None and _confirmed(_fast, public_key, message, signature):
        return True
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        return False
    return True


def _confirmed(fast: Accelerator, public_key: bytes, message: bytes, signature: bytes) -> bool:
    return (
        _of_prime_order(public_key)
        and not signature.startswith(_IDENTITY)
        and fast.confirms(public_key, message, signature)
    )


@lru_cache(_KEYS)
def _of_prime_order(public_key: bytes) -> bool:
    return not is_weak_ed25519(public_key)


def is_weak_ed25519(public_key: bytes) -> bool:
    """Whether `public_key` must not be trusted whatever it signs.

    True for a wrong length, an encoding that is not canonical or not on the curve, and a point of small order or
    outside the prime-order subgroup. No key made by the book is any of these. Ask once for each key, at pinning or
    appraisal: it costs about as much as a verification.
    """
    return len(public_key) != PUBLIC_KEY_BYTES or not crypto_core_ed25519_is_valid_point(public_key)
