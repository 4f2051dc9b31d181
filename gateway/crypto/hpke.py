"""Hybrid Public Key Encryption (RFC 9180), base mode: anybody seals to a public key, its holder alone opens.

    enc, sender = setup_base_s(public_key, info, ephemeral_private)      # 32 fresh random bytes, from the caller
    ciphertext = sender.seal(b"", plaintext)
    setup_base_r(enc, private_key, info).open(b"", ciphertext)           # the plaintext
    sender.export(b"label", 32)                                          # a secret that both sides share

KEM DHKEM(X25519, HKDF-SHA256) 0x0020 and KDF HKDF-SHA256 0x0001, always; the AEAD is one of `Aead`. Base mode says
nothing about who sealed. There is no randomness here: an ephemeral key that is used twice for one recipient and `info`
repeats key and nonce, which gives both plaintexts away, so whoever calls draws a new one for every context.
"""

from __future__ import annotations

import enum
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.errors import FormatError

KEM_ID, KDF_ID = 0x0020, 0x0001
#: Bytes of a key pair's halves and of `enc` (Nsk, Npk, Nenc), of a nonce (Nn), of an AEAD tag (Nt), of a hash (Nh).
KEY_SIZE, NONCE_SIZE, TAG_SIZE, HASH_SIZE = 32, 12, 16, 32

_VERSION = b"HPKE-v1"
_KEM_SUITE = b"KEM" + KEM_ID.to_bytes(2, "big")
_LAST_SEQUENCE = 2 ** (8 * NONCE_SIZE) - 1
_BASE = b"\0"

Cipher = AESGCM | ChaCha20Poly1305


class Aead(enum.IntEnum):
    """The AEADs of RFC 9180 section 7.3, by their registered numbers."""

    AES_128_GCM = 0x0001
    AES_256_GCM = 0x0002
    CHACHA20_POLY1305 = 0x0003

    @property
    def key_size(self) -> int:
        """Nk, in bytes."""
        return 16 if self is Aead.AES_128_GCM else 32

    def cipher(self, key: bytes) -> Cipher:
        """The cipher under `key` (`key_size` bytes)."""
        return ChaCha20Poly1305(key) if self is Aead.CHACHA20_POLY1305 else AESGCM(key)


class _Context:
    """What both sides hold after the key schedule (RFC 9180 section 5.2)."""

    __slots__ = ("_base_nonce", "_cipher", "_exporter", "_sequence", "_suite", "aead")

    def __init__(self, aead: Aead, shared: bytes, info: bytes) -> None:
        self.aead = aead
        self._suite = b"HPKE" + b"".join(n.to_bytes(2, "big") for n in (KEM_ID, KDF_ID, aead))
        schedule = _BASE + _labeled_extract(self._suite, b"", b"psk_id_hash", b"")
        schedule += _labeled_extract(self._suite, b"", b"info_hash", info)
        secret = _labeled_extract(self._suite, shared, b"secret", b"")
        self._cipher = aead.cipher(_labeled_expand(self._suite, secret, b"key", schedule, aead.key_size))
        self._base_nonce = _labeled_expand(self._suite, secret, b"base_nonce", schedule, NONCE_SIZE)
        self._exporter = _labeled_expand(self._suite, secret, b"exp", schedule, HASH_SIZE)
        self._sequence = 0

    def export(self, context: bytes, length: int) -> bytes:
        """A secret of `length` bytes (at most 8160) for `context`, the same on both sides (section 5.3)."""
        return _labeled_expand(self._suite, self._exporter, b"sec", context, length)

    def _nonce(self) -> bytes:
        if self._sequence >= _LAST_SEQUENCE:  # one more would come round to a nonce that was used
            raise FormatError("the HPKE context has sealed as much as it may", reason="hpke_exhausted")
        return counter_nonce(self._base_nonce, self._sequence)


class Sender(_Context):
    """The side that sealed to a public key."""

    __slots__ = ()

    def seal(self, aad: bytes, plaintext: bytes) -> bytes:
        """The next message's ciphertext, 16 bytes longer than `plaintext` (under 2**31 bytes)."""
        sealed = self._cipher.encrypt(self._nonce(), plaintext, aad)
        self._sequence += 1
        return sealed


class Receiver(_Context):
    """The side that holds the private key."""

    __slots__ = ()

    def open(self, aad: bytes, ciphertext: bytes) -> bytes:
        """The next message's plaintext. `FormatError` hpke_decrypt for any other bytes; the place in line is kept."""
        opened = open_aead(self._cipher, self._nonce(), ciphertext, aad)
        if opened is None:
            raise FormatError("the HPKE ciphertext doesn't open", reason="hpke_decrypt")
        self._sequence += 1
        return opened


def setup_base_s(
    public_key: bytes, info: bytes, ephemeral_private: bytes, aead: Aead = Aead.CHACHA20_POLY1305
) -> tuple[bytes, Sender]:
    """`enc` (32 bytes, for the receiver) and the context to seal with (RFC 9180 section 5.1.1).

    `ephemeral_private` is 32 fresh random bytes (`ValueError` for another length). `FormatError` hpke_malformed for a
    `public_key` that has not 32 bytes, hpke_weak_key for one of small order.
    """
    ephemeral = X25519PrivateKey.from_private_bytes(ephemeral_private)
    enc = _public(ephemeral)
    return enc, Sender(aead, _shared(_dh(ephemeral, public_key), enc, public_key), info)


def setup_base_r(enc: bytes, private_key: bytes, info: bytes, aead: Aead = Aead.CHACHA20_POLY1305) -> Receiver:
    """The context to open with what was sealed to `private_key`'s public half. Raises as `setup_base_s`, for `enc`."""
    private = X25519PrivateKey.from_private_bytes(private_key)
    return Receiver(aead, _shared(_dh(private, enc), enc, _public(private)), info)


def public_key_of(private_key: bytes) -> bytes:
    """The public half, 32 bytes, of a 32-byte X25519 private key."""
    return _public(X25519PrivateKey.from_private_bytes(private_key))


def is_weak_x25519(public_key: bytes) -> bool:
    """Whether `public_key` is of small order, in any spelling: each such shared secret is zero, so anybody knows it.

    Bytes that are no key at all are weak too.
    """
    try:
        _dh(_ANY_KEY, public_key)
    except FormatError:
        return True
    return False


def counter_nonce(base: bytes, counter: int) -> bytes:
    """`base` XOR `counter` as 12 bytes, big-endian: the nonce of one message."""
    return (int.from_bytes(base, "big") ^ counter).to_bytes(NONCE_SIZE, "big")


def open_aead(cipher: Cipher, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes | None:
    """The plaintext, or None when `ciphertext` (any bytes) is not authentic."""
    try:
        return cipher.decrypt(nonce, ciphertext, aad)
    except InvalidTag:
        return None


def extract(salt: bytes, ikm: bytes) -> bytes:
    """HKDF-Extract with SHA-256 (RFC 5869)."""
    return hmac.digest(salt, ikm, "sha256")


def expand(prk: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand with SHA-256, `length` up to 255 * 32 bytes (`ValueError` beyond)."""
    if length > 255 * HASH_SIZE:
        raise ValueError(f"HKDF gives at most {255 * HASH_SIZE} bytes")
    block = out = b""
    for n in range(1, -(-length // HASH_SIZE) + 1):
        block = hmac.digest(prk, block + info + bytes((n,)), "sha256")
        out += block
    return out[:length]


def _labeled_extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return extract(salt, _VERSION + suite + label + ikm)


def _labeled_expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return expand(prk, length.to_bytes(2, "big") + _VERSION + suite + label + info, length)


def _public(private: X25519PrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def _dh(private: X25519PrivateKey, public_key: bytes) -> bytes:
    if len(public_key) != KEY_SIZE:
        raise FormatError(f"an X25519 key has {KEY_SIZE} bytes, not {len(public_key)}", reason="hpke_malformed")
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public_key))
    except ValueError:  # the shared secret is all zeros (RFC 9180 section 7.1.4)
        raise FormatError("the X25519 key is of small order", reason="hpke_weak_key") from None


def _shared(dh: bytes, enc: bytes, public_key: bytes) -> bytes:
    """ExtractAndExpand of the KEM (RFC 9180 section 4.1)."""
    prk = _labeled_extract(_KEM_SUITE, b"", b"eae_prk", dh)
    return _labeled_expand(_KEM_SUITE, prk, b"shared_secret", enc + public_key, HASH_SIZE)


#: Multiplication by any clamped scalar takes every point of small order to zero, and no other.
_ANY_KEY = X25519PrivateKey.from_private_bytes(b"\1" * KEY_SIZE)
