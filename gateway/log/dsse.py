"""DSSE v1.0.2: a signature over exact payload bytes and their type.

    PAE(type, body) = "DSSEv1" SP len(type) SP type SP len(body) SP body
    {"payload": base64, "payloadType": type, "signatures": [{"keyid": "<name>+<hex8>", "sig": base64}]}

Nothing is canonicalised: the signed bytes are the stored bytes, and whoever verifies parses `Envelope.payload`, never
a copy from elsewhere. `keyid` says which key to try and nothing more.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple, Protocol

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.crypto.encoding import unb64
from gateway.crypto.signatures import verify_ed25519
from gateway.errors import FormatError, ProofError

#: The largest envelope that `parse_envelope` reads; ours are about 3 kB.
MAX_ENVELOPE_BYTES = 4 << 20
MAX_SIGNATURES = 16

_string = lru_cache(maxsize=64)(msgspec.json.Encoder().encode)  # of payload types and key ids, which are few


class Signer(Protocol):
    """What signs an envelope: `gateway.log.note.NoteSigner` is one."""

    @property
    def keyid(self) -> str: ...

    def sign(self, message: bytes) -> bytes: ...


class Signature(NamedTuple):
    """One signature of an envelope; `keyid` is empty when the envelope has none."""

    keyid: str
    sig: bytes


class Envelope(msgspec.Struct, frozen=True):
    """A parsed envelope. Nothing in it is to be believed before `verify_envelope` has returned."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]


class Sealed(NamedTuple):
    """A document with its one signature, and the SHA-256 of its PAE that the log's leaf holds.

    `keyid` and `signature` are empty where nobody signed it.
    """

    payload: bytes
    payload_type: str
    keyid: str
    signature: bytes
    pae_sha256: bytes

    @property
    def envelope(self) -> bytes:
        """It as the compact JSON of a DSSE envelope."""
        return write_envelope(self.payload, self.payload_type, self.keyid, self.signature)


def pae(payload_type: str, body: bytes) -> bytes:
    """The bytes that a DSSE signature covers. `FormatError` when the type is not Unicode text."""
    try:
        kind = payload_type.encode()
    except UnicodeEncodeError:
        raise FormatError("a DSSE payload type is Unicode text without lone surrogates") from None
    return b"DSSEv1 %d %b %d " % (len(kind), kind, len(body)) + body


def seal(payload: bytes, payload_type: str, signer: Signer) -> Sealed:
    """Sign `payload`; the digest for its leaf is of the same pass."""
    message = pae(payload_type, payload)
    return Sealed(payload, payload_type, signer.keyid, signer.sign(message), sha256(message).digest())


def wrap(payload: bytes, payload_type: str) -> Sealed:
    """`payload` signed by nobody: for a document that the log's checkpoint vouches for."""
    return Sealed(payload, payload_type, "", b"", sha256(pae(payload_type, payload)).digest())


def sign_envelope(payload: bytes, payload_type: str, signer: Signer) -> bytes:
    """`payload` signed by `signer`, as the compact JSON of a DSSE envelope."""
    return seal(payload, payload_type, signer).envelope


def write_envelope(payload: bytes, payload_type: str, keyid: str, signature: bytes) -> bytes:
    """The compact JSON of an envelope with one signature, or without any where `keyid` is empty."""
    # Written by hand: base64 needs no escaping, and whoever reads a whole log writes every envelope of it.
    signed = b'{"keyid":%b,"sig":"%b"}' % (_string(keyid), b2a_base64(signature, newline=False)) if keyid else b""
    return b'{"payload":"%b","payloadType":%b,"signatures":[%b]}' % (
        b2a_base64(payload, newline=False),
        _string(payload_type),
        signed,
    )


def parse_envelope(data: bytes, *, max_bytes: int = MAX_ENVELOPE_BYTES, unsigned: bool = False) -> Envelope:
    """The envelope in `data`, unverified. Members that DSSE does not know are ignored, as it asks; else `FormatError`.

    Base64 is the standard alphabet in canonical form only. DSSE wants a signature; `unsigned` takes none as well.
    """
    document = strict_json(data, max_bytes=max_bytes, max_depth=8)
    if not isinstance(document, dict):
        raise FormatError("a DSSE envelope is a JSON object")
    signatures = document.get("signatures")
    least = 0 if unsigned else 1
    if not isinstance(signatures, list) or not least <= len(signatures) <= MAX_SIGNATURES:
        raise FormatError(f"DSSE signatures must be a list of {least} to {MAX_SIGNATURES}")
    payload_type = _text(document, "payloadType")
    if not payload_type:
        raise FormatError("DSSE payloadType is empty")
    return Envelope(
        unb64(_text(document, "payload"), "DSSE payload"),
        payload_type,
        tuple(_signature(item) for item in signatures),
    )


def _signature(item: object) -> Signature:
    if not isinstance(item, dict):
        raise FormatError("a DSSE signature is a JSON object")
    keyid = _text(item, "keyid") if item.get("keyid") is not None else ""
    return Signature(keyid, unb64(_text(item, "sig"), "DSSE sig"))


def _text(members: dict[str, object], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise FormatError(f"DSSE {name} must be a string")
    return value


def verify_envelope(envelope: Envelope, keys: Mapping[str, bytes]) -> tuple[str, ...]:
    """The key ids, in order, whose Ed25519 signatures hold. `keys` maps key id to raw public key.

    Signatures by unknown keys are passed over. Raises `ProofError` when a known key's signature does not hold, even
    beside one that does, and when no known key has signed.
    """
    message = pae(envelope.payload_type, envelope.payload)
    good: list[str] = []
    for keyid, signature in envelope.signatures:
        public_key = keys.get(keyid)
        if public_key is None:
            continue
        if not verify_ed25519(public_key, message, signature):
            raise ProofError(f"the envelope's signature by {keyid!a} does not hold")
        if keyid not in good:
            good.append(keyid)
    if not good:
        raise ProofError("the envelope is not signed by any known key")
    return tuple(good)
