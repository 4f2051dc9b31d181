"""Sigstore's trusted_root.json: the CAs, transparency logs and certificate logs that the operator trusts, and when.

Read strictly where a value is used and not at all elsewhere. Keys other than ECDSA on P-256 and P-384 (the tiled log's
Ed25519 key) and timestamp authorities are passed over: nothing that they sign is read here, so nothing is believed
because of them.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from gateway.crypto.canonical import strict_json
from gateway.crypto.certificates import MAX_CHAIN, load_certificate
from gateway.crypto.encoding import unb64
from gateway.errors import FormatError
from gateway.verify.tee.findings import NotAuthentic

#: Sigstore's own file has about 7 kB.
MAX_TRUST_ROOT_BYTES = 262_144
_MAX_ENTRIES = 64
_MEDIA_TYPES = (
    "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
    "application/vnd.dev.sigstore.trustedroot.v0.2+json",
)
_HASHES: dict[str, tuple[type[ec.EllipticCurve], type[hashes.HashAlgorithm]]] = {
    "PKIX_ECDSA_P256_SHA_256": (ec.SECP256R1, hashes.SHA256),
    "PKIX_ECDSA_P384_SHA_384": (ec.SECP384R1, hashes.SHA384),
}

_Time = Annotated[datetime, msgspec.Meta(tz=True)]


class _Period(msgspec.Struct, frozen=True):
    start: _Time | None = None
    end: _Time | None = None


class _RawBytes(msgspec.Struct, frozen=True, rename="camel"):
    raw_bytes: str


class _Key(msgspec.Struct, frozen=True, rename="camel"):
    raw_bytes: str
    key_details: str
    valid_for: _Period = _Period()


class _LogId(msgspec.Struct, frozen=True, rename="camel"):
    key_id: str


class _Log(msgspec.Struct, frozen=True, rename="camel"):
    base_url: str
    hash_algorithm: str
    public_key: _Key
    log_id: _LogId


class _Chain(msgspec.Struct, frozen=True):
    certificates: list[_RawBytes]


class _Authority(msgspec.Struct, frozen=True, rename="camel"):
    cert_chain: _Chain
    valid_for: _Period = _Period()


class _Root(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str
    tlogs: list[_Log] = []
    certificate_authorities: list[_Authority] = []
    ctlogs: list[_Log] = []


class Period(msgspec.Struct, frozen=True):
    """From `start` to `end`, both included, in Unix seconds; None is open."""

    start: float | None
    end: float | None

    def holds(self, at: float) -> bool:
        """Whether `at` lies in it."""
        return (self.start is None or self.start <= at) and (self.end is None or at <= self.end)


class LogKey(msgspec.Struct, frozen=True):
    """The key of one log. `id` is SHA-256 of its SubjectPublicKeyInfo (RFC 6962 section 3.2), 32 raw bytes."""

    id: bytes
    key: ec.EllipticCurvePublicKey
    hash: hashes.HashAlgorithm
    period: Period

    def signed(self, signature: bytes, message: bytes) -> bool:
        """Whether the DER ECDSA `signature` over `message` is this key's. False, never an exception."""
        try:
            self.key.verify(signature, message, ec.ECDSA(self.hash))
        except InvalidSignature:
            return False
        return True


class Authority(msgspec.Struct, frozen=True):
    """A CA: its certificates from the one that issues leaves to the self-signed root."""

    chain: tuple[x509.Certificate, ...]
    period: Period


class TrustRoot(msgspec.Struct, frozen=True):
    """What a bundle is held against."""

    authorities: tuple[Authority, ...]
    tlogs: tuple[LogKey, ...]
    ctlogs: tuple[LogKey, ...]


def find_log(logs: tuple[LogKey, ...], log_id: bytes, at: float) -> LogKey | None:
    """The key of `log_id` that is trusted at the time `at`, or None."""
    return next((log for log in logs if log.id == log_id and log.period.holds(at)), None)


def parse_trust_root(data: bytes) -> TrustRoot:
    """The trust root in `data`; `NotAuthentic` with the reason `trust_root_invalid` for anything else.

    An empty list of logs or CAs is well-formed: it trusts nobody, and each check that needs one then fails.
    """
    try:
        document = strict_json(data, max_bytes=MAX_TRUST_ROOT_BYTES, max_depth=12)
        root = msgspec.convert(document, _Root)
        if root.media_type not in _MEDIA_TYPES:
            raise FormatError("the media type is not that of a Sigstore trusted root")
        if max(len(root.tlogs), len(root.ctlogs), len(root.certificate_authorities)) > _MAX_ENTRIES:
            raise FormatError(f"a list has more than {_MAX_ENTRIES} entries")
        return TrustRoot(
            tuple(map(_authority, root.certificate_authorities)),
            tuple(key for log in root.tlogs if (key := _log_key(log))),
            tuple(key for log in root.ctlogs if (key := _log_key(log))),
        )
    except msgspec.ValidationError:
        why = "a member is missing or has another type"
    except FormatError as error:
        why = error.message
    raise NotAuthentic(f"the trust root cannot be used: {why}", reason="trust_root_invalid")


def _period(period: _Period) -> Period:
    return Period(
        period.start.timestamp() if period.start else None,
        period.end.timestamp() if period.end else None,
    )


def _authority(authority: _Authority) -> Authority:
    certificates = authority.cert_chain.certificates
    if not 1 <= len(certificates) < MAX_CHAIN:
        raise FormatError(f"a CA has 1 to {MAX_CHAIN - 1} certificates")
    return Authority(
        tuple(load_certificate(unb64(item.raw_bytes, "a CA certificate")) for item in certificates),
        _period(authority.valid_for),
    )


def _log_key(log: _Log) -> LogKey | None:
    """The log's key, or None when it is of a kind that nothing here uses."""
    kind = _HASHES.get(log.public_key.key_details)
    if kind is None or log.hash_algorithm != "SHA2_256":
        return None
    curve, algorithm = kind
    spki = unb64(log.public_key.raw_bytes, "a log's key")
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm):
        raise FormatError("a log's key is not a SubjectPublicKeyInfo") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, curve):
        raise FormatError("a log's key is not of the kind that its details say")
    log_id = hashlib.sha256(spki).digest()
    if unb64(log.log_id.key_id, "a log id", length=32) != log_id:
        raise FormatError("a log id is not the SHA-256 of the log's key")
    return LogKey(log_id, key, algorithm(), _period(log.public_key.valid_for))
