"""The enclave's end of OHTTP (RFC 9458, chunks by draft-ietf-ohai-chunked-ohttp-08), over pyhpke.

JSON travels inside where RFC 9458 has binary HTTP; the suite is fixed: X25519, HKDF-SHA256, ChaCha20-Poly1305.
"""

from __future__ import annotations

import base64
import os
from typing import Any

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey, PyHPKEError

from .wire import keccak, sign, u256

KEM, KDF, AEAD = 0x0020, 0x0001, 0x0003
DOMAIN = b"OPENGRADIENT_TEE_OHTTP_CONFIG_V1"
_SUITE = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.CHACHA20_POLY1305)
SINGLE, CHUNKED = b"message/bhttp response", b"message/bhttp chunked response"


class Refused(Exception):
    """A sealed request that does not open."""


class Sealer:
    """Seals one answer, whole or in chunks; made when its request was opened."""

    def __init__(self, context: Any, enc: bytes) -> None:
        self._context, self._enc = context, enc

    def _keys(self, label: bytes, nonce: bytes) -> tuple[ChaCha20Poly1305, bytes]:
        mac = hmac.HMAC(self._enc + nonce, hashes.SHA256())
        mac.update(self._context.export(label, 32))
        prk = mac.finalize()
        return ChaCha20Poly1305(_expand(prk, b"key", 32)), _expand(prk, b"nonce", 12)

    def whole(self, data: bytes) -> bytes:
        nonce = os.urandom(32)
        key, base = self._keys(SINGLE, nonce)
        return nonce + key.encrypt(base, data, b"")

    def chunks(self, pieces: list[bytes], *, cut: bool = False) -> list[bytes]:
        """The sealed stream, piece by piece, the response nonce first. `cut`: its final chunk is missing."""
        nonce = os.urandom(32)
        key, base = self._keys(CHUNKED, nonce)
        sealed = [nonce]
        for counter, piece in enumerate(pieces):
            final = counter == len(pieces) - 1
            at = bytes(a ^ b for a, b in zip(base, counter.to_bytes(12, "big"), strict=True))
            data = key.encrypt(at, piece, b"final" if final else b"")
            sealed.append((varint(0) if final else varint(len(data))) + data)
        return sealed[:-1] if cut else sealed


class Opener:
    """One key pair that requests are sealed to, under one key id."""

    def __init__(self, private: X25519PrivateKey, key_id: int = 1) -> None:
        self._private, self.key_id = private, key_id
        self.public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.header = bytes([key_id]) + b"".join(n.to_bytes(2, "big") for n in (KEM, KDF, AEAD))

    def open(self, sealed: bytes) -> tuple[bytes, Sealer]:
        """The plaintext of a sealed request, and what seals its answer. Raises `Refused`."""
        if sealed[:7] != self.header or len(sealed) < 7 + 32 + 16:
            raise Refused("another key or suite")
        enc, data = sealed[7:39], sealed[39:]
        key = KEMKey.from_pyca_cryptography_key(self._private)
        try:
            context = _SUITE.create_recipient_context(enc, key, info=b"message/bhttp request\0" + self.header)
            return context.open(data, b""), Sealer(context, enc)
        except PyHPKEError as error:
            raise Refused(str(error)) from None

    def blob(self) -> bytes:
        """The key configuration of RFC 9458 section 3.1."""
        symmetric = KDF.to_bytes(2, "big") + AEAD.to_bytes(2, "big")
        return (
            bytes([self.key_id]) + KEM.to_bytes(2, "big") + self.public + len(symmetric).to_bytes(2, "big") + symmetric
        )

    def config_hash(self, tee_id: bytes) -> bytes:
        numbers = b"".join(map(u256, (self.key_id, KEM, KDF, AEAD)))
        return keccak(keccak(DOMAIN) + tee_id + numbers + keccak(self.public) + keccak(self.blob()))

    def config(self, signer: rsa.RSAPrivateKey, tee_id: bytes) -> dict[str, Any]:
        """What GET /v1/ohttp/config answers."""
        digest = self.config_hash(tee_id)
        return {
            "key_id": self.key_id,
            "kem_id": KEM,
            "kdf_id": KDF,
            "aead_id": AEAD,
            "public_key": self.public.hex(),
            "key_config": base64.b64encode(self.blob()).decode(),
            "tee_id": f"0x{tee_id.hex()}",
            "signature": base64.b64encode(sign(signer, digest)).decode(),
            "signature_hash": f"0x{digest.hex()}",
        }


def _expand(prk: bytes, info: bytes, length: int) -> bytes:
    return HKDFExpand(hashes.SHA256(), length, info).derive(prk)


def varint(number: int) -> bytes:
    """A QUIC variable-length integer (RFC 9000 section 16), in its shortest form."""
    for size, mark in ((1, 0x00), (2, 0x40), (4, 0x80), (8, 0xC0)):
        if number < 1 << (8 * size - 2):
            return (number | mark << (8 * size - 8)).to_bytes(size, "big")
    raise ValueError(number)
