"""The other end of Oblivious HTTP, made from the specifications on pyhpke and `cryptography`'s HKDF alone.

It judges `gateway.crypto.hpke` and `gateway.crypto.ohttp`, so it uses nothing of them.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey

PRIVATE = bytes(range(32))
EPHEMERAL = bytes(range(100, 132))
SMALL_ORDER = [
    (0).to_bytes(32, "little"),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),  # p - 1
    (2**255 - 19).to_bytes(32, "little"),  # p, another spelling of 0
    (2**255 - 18).to_bytes(32, "little"),  # p + 1, of 1
    (2**255).to_bytes(32, "little"),  # 0 with the bit that is ignored
]


def raw_public(private: bytes) -> bytes:
    key = X25519PrivateKey.from_private_bytes(private).public_key()
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def suite(aead: int = 3) -> CipherSuite:
    return CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId(aead))


def private_key(private: bytes = PRIVATE) -> object:
    return KEMKey.from_pyca_cryptography_key(X25519PrivateKey.from_private_bytes(private))


def public_key(private: bytes = PRIVATE) -> object:
    return KEMKey.from_pyca_cryptography_key(X25519PrivateKey.from_private_bytes(private).public_key())


def key_config(private: bytes = PRIVATE, key_id: int = 1, pairs: bytes = b"\0\1\0\3") -> bytes:
    return bytes([key_id]) + b"\0\x20" + raw_public(private) + len(pairs).to_bytes(2, "big") + pairs


class Enclave:
    """Opens one request and seals its answers."""

    def __init__(self, wire: bytes, private: bytes = PRIVATE) -> None:
        self.header, self.enc, sealed = wire[:7], wire[7:39], wire[39:]
        self.aead = int.from_bytes(wire[5:7], "big")
        self.size = 16 if self.aead == 1 else 32
        info = b"message/bhttp request\0" + self.header
        self.context = suite(self.aead).create_recipient_context(self.enc, private_key(private), info=info)
        self.plaintext = self.context.open(sealed, aad=b"")

    def cipher(self, nonce: bytes, label: bytes) -> tuple[AESGCM | ChaCha20Poly1305, bytes]:
        mac = hmac.HMAC(self.enc + nonce, hashes.SHA256())
        mac.update(self.context.export(label, self.size))
        prk = mac.finalize()
        key = HKDFExpand(hashes.SHA256(), self.size, b"key").derive(prk)
        return (
            ChaCha20Poly1305(key) if self.aead == 3 else AESGCM(key),
            HKDFExpand(hashes.SHA256(), 12, b"nonce").derive(prk),
        )

    def whole(self, plaintext: bytes, fill: int = 7) -> bytes:
        nonce = bytes([fill]) * self.size
        cipher, base = self.cipher(nonce, b"message/bhttp response")
        return nonce + cipher.encrypt(base, plaintext, b"")

    def chunked(self, *plaintexts: bytes, final: bool = True, fill: int = 7) -> list[bytes]:
        """The nonce, then one piece for each plaintext; the last one is the final chunk, unless `final` is false."""
        nonce = bytes([fill]) * self.size
        cipher, base = self.cipher(nonce, b"message/bhttp chunked response")
        pieces = [nonce]
        for n, plaintext in enumerate(plaintexts):
            last = final and n == len(plaintexts) - 1
            own = bytes(a ^ b for a, b in zip(base, n.to_bytes(12, "big"), strict=True))
            sealed = cipher.encrypt(own, plaintext, b"final" if last else b"")
            pieces.append((b"\0" if last else length(len(sealed))) + sealed)
        return pieces


def length(value: int, size: int | None = None) -> bytes:
    """A variable-length integer, in `size` bytes whether or not fewer would do."""
    size = size or next(n for n in (1, 2, 4, 8) if value < 2 ** (8 * n - 2))
    return ({1: 0, 2: 1, 4: 2, 8: 3}[size] << (8 * size - 2) | value).to_bytes(size, "big")
