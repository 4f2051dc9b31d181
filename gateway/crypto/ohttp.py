"""Oblivious HTTP messages (RFC 9458 section 4): a request sealed to a key, its answer sealed to that request.

    request    key identifier (1) | KEM (2) | KDF (2) | AEAD (2) | enc (32) | ciphertext
    response   nonce (as long as the AEAD's key) | ciphertext

    sealed = encapsulate(config, b'{"model":…}', ephemeral_private)              # the client
    sealed.wire; sealed.exchange.open(response), sealed.exchange.opener()
    request = decapsulate(wire, key_id, private_key)                             # the enclave
    request.plaintext; request.exchange.seal(answer, nonce), request.exchange.sealer(nonce)

What is inside is the caller's business: HTTP in binary form by the RFC, plain JSON in OpenGradient's tee-gateway. The
outside shows lengths, times and, of a chunked response, the length and time of each piece.
"""

from __future__ import annotations

import struct

import msgspec

from gateway.errors import FormatError

from .hpke import (
    KDF_ID,
    KEM_ID,
    KEY_SIZE,
    NONCE_SIZE,
    TAG_SIZE,
    Aead,
    Cipher,
    Receiver,
    Sender,
    expand,
    extract,
    open_aead,
    setup_base_r,
    setup_base_s,
)
from .ohttp_chunks import MAX_CHUNK, MAX_TOTAL, ChunkOpener, ChunkSealer, Derive
from .ohttp_keys import KeyConfig

REQUEST_MEDIA = b"message/ohttp-req"
RESPONSE_MEDIA = b"message/ohttp-res"
CHUNKED_MEDIA = b"message/ohttp-chunked-res"

MAX_REQUEST = 20 * 1024 * 1024
MAX_RESPONSE = 64 * 1024 * 1024

_REQUEST_LABEL = b"message/bhttp request"
_RESPONSE_LABEL = b"message/bhttp response"
_CHUNKED_LABEL = b"message/bhttp chunked response"
_HEADER = struct.Struct(">BHHH")


class Exchange:
    """What is left of a request, on either side: the keys of its answer. An answer to another request does not open."""

    __slots__ = ("_context", "enc")

    def __init__(self, context: Sender | Receiver, enc: bytes) -> None:
        self._context = context
        self.enc = enc

    @property
    def nonce_size(self) -> int:
        """Bytes of a response nonce: max(Nn, Nk)."""
        return max(NONCE_SIZE, self._context.aead.key_size)

    def open(self, response: bytes, *, max_bytes: int = MAX_RESPONSE) -> bytes:
        """The plaintext of a whole response.

        Raises `FormatError`: ohttp_too_large, ohttp_malformed when too short to be one, ohttp_decrypt.
        """
        if len(response) > max_bytes:
            raise FormatError("the sealed response is larger than the cap", reason="ohttp_too_large")
        if len(response) < self.nonce_size + TAG_SIZE:
            raise FormatError(f"a sealed response of {len(response)} bytes is too short", reason="ohttp_malformed")
        cipher, nonce = self._keys(_RESPONSE_LABEL)(response[: self.nonce_size])
        opened = open_aead(cipher, nonce, response[self.nonce_size :], b"")
        if opened is None:
            raise FormatError("the sealed response doesn't open", reason="ohttp_decrypt")
        return opened

    def opener(self, *, max_chunk: int = MAX_CHUNK, max_total: int = MAX_TOTAL) -> ChunkOpener:
        """Opens a chunked response."""
        return ChunkOpener(self._keys(_CHUNKED_LABEL), self.nonce_size, max_chunk=max_chunk, max_total=max_total)

    def seal(self, plaintext: bytes, response_nonce: bytes) -> bytes:
        """A whole response under `response_nonce`: `nonce_size` fresh random bytes (`ValueError` for other lengths)."""
        cipher, nonce = self._keys(_RESPONSE_LABEL)(self._checked(response_nonce))
        return response_nonce + cipher.encrypt(nonce, plaintext, b"")

    def sealer(self, response_nonce: bytes) -> ChunkSealer:
        """Seals a chunked response; `response_nonce` as for `seal`."""
        return ChunkSealer(self._keys(_CHUNKED_LABEL), self._checked(response_nonce))

    def _checked(self, response_nonce: bytes) -> bytes:
        if len(response_nonce) != self.nonce_size:
            raise ValueError(f"a response nonce has {self.nonce_size} bytes")
        return response_nonce

    def _keys(self, label: bytes) -> Derive:
        """RFC 9458 section 4.4; the label keeps a whole response and a chunked one apart."""
        aead = self._context.aead
        secret = self._context.export(label, self.nonce_size)

        def derive(response_nonce: bytes) -> tuple[Cipher, bytes]:
            prk = extract(self.enc + response_nonce, secret)
            return aead.cipher(expand(prk, b"key", aead.key_size)), expand(prk, b"nonce", NONCE_SIZE)

        return derive


class Encapsulated(msgspec.Struct, frozen=True):
    """The client's side of one request: the bytes to send, and what opens the answer."""

    wire: bytes
    exchange: Exchange


class Decapsulated(msgspec.Struct, frozen=True):
    """The enclave's side of one request: what was inside, and what seals the answer."""

    plaintext: bytes
    exchange: Exchange


def encapsulate(
    config: KeyConfig, plaintext: bytes, ephemeral_private: bytes, aead: Aead = Aead.CHACHA20_POLY1305
) -> Encapsulated:
    """Seal a request to `config`. `ephemeral_private` is 32 fresh random bytes, never used before.

    Raises `FormatError`: ohttp_suite when the configuration does not offer `aead`, ohttp_too_large beyond 20 MiB, and
    as `hpke.setup_base_s` for the configuration's key.
    """
    if not config.offers(aead):
        raise FormatError(f"the key configuration does not offer AEAD {aead:#06x}", reason="ohttp_suite")
    if len(plaintext) > MAX_REQUEST:
        raise FormatError(f"a request of {len(plaintext)} bytes is too large to be sealed", reason="ohttp_too_large")
    header = _HEADER.pack(config.key_id, KEM_ID, KDF_ID, aead)
    enc, context = setup_base_s(config.public_key, _info(header), ephemeral_private, aead)
    return Encapsulated(header + enc + context.seal(b"", plaintext), Exchange(context, enc))


def decapsulate(wire: bytes, key_id: int, private_key: bytes, aead: Aead = Aead.CHACHA20_POLY1305) -> Decapsulated:
    """Open a request that was sealed to the key `key_id`.

    Raises `FormatError`: ohttp_too_large, ohttp_malformed, ohttp_key_unknown for another key identifier, ohttp_suite
    for other algorithms than `aead` with the fixed KEM and KDF, ohttp_decrypt.
    """
    start = _HEADER.size + KEY_SIZE
    if len(wire) > MAX_REQUEST + start + TAG_SIZE:
        raise FormatError("the sealed request is larger than the cap", reason="ohttp_too_large")
    if len(wire) < start + TAG_SIZE:
        raise FormatError(f"a sealed request of {len(wire)} bytes is too short", reason="ohttp_malformed")
    named, *suite = _HEADER.unpack_from(wire)
    if named != key_id:
        raise FormatError(f"the request is sealed to key {named}, which is not here", reason="ohttp_key_unknown")
    if suite != [KEM_ID, KDF_ID, aead]:
        raise FormatError("the request is sealed with other algorithms", reason="ohttp_suite")
    enc = wire[_HEADER.size : start]
    try:
        context = setup_base_r(enc, private_key, _info(wire[: _HEADER.size]), aead)
        plaintext = context.open(b"", wire[start:])
    except FormatError:  # one reason for all: which step failed is nobody's business
        raise FormatError("the sealed request doesn't open", reason="ohttp_decrypt") from None
    return Decapsulated(plaintext, Exchange(context, enc))


def _info(header: bytes) -> bytes:
    return _REQUEST_LABEL + b"\0" + header
