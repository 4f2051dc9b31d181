"""The signer's certificate: issued by a trusted CA, in date when it signed, seen by certificate logs, and for whom.

Fulcio certificates live ten minutes, so validity is judged at the log's time and never at the time of asking; a
bundle then reads the same in five years. Whom a certificate is for stands in Fulcio's extensions under
1.3.6.1.4.1.57264.1; those below .7 hold raw text and are deprecated, the later ones a DER UTF8String.
"""

from __future__ import annotations

import calendar
import hashlib
from collections.abc import Sequence

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.certificate_transparency import SignedCertificateTimestamp
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.crypto.certificates import ChainError, check_chain, in_date, is_ca
from gateway.verify.tee.findings import NotAuthentic

from .trust_root import Authority, LogKey, find_log

#: Fulcio's arc, github.com/sigstore/fulcio docs/oid-info.md.
FULCIO = "1.3.6.1.4.1.57264.1."
_MAX_TEXT = 2048
_UTF8_STRING = 0x0C


class Identity(msgspec.Struct, frozen=True):
    """Whom the certificate is for. `issuer` vouched for the rest; a member that the certificate lacks is None."""

    issuer: str | None
    repository: str | None
    ref: str | None
    signer: str | None
    commit: str | None


def issuing_chain(
    leaf: x509.Certificate, authorities: tuple[Authority, ...], times: Sequence[float]
) -> tuple[x509.Certificate, ...]:
    """The chain from `leaf` to a trusted root that holds at each of `times`; `NotAuthentic` when there is none."""
    for at in times:
        if not in_date(leaf, at):
            raise NotAuthentic(
                "the certificate was not valid when the log saw the signature",
                reason="cert_expired",
                expected=f"{leaf.not_valid_before_utc:%Y-%m-%d %H:%M} to {leaf.not_valid_after_utc:%Y-%m-%d %H:%M}",
            )
    for authority in authorities:
        chain = (leaf, *authority.chain)
        if all(authority.period.holds(at) and _holds(chain, at) for at in times):
            return chain
    raise NotAuthentic("the certificate does not chain to a CA of the trust root", reason="fulcio_chain_invalid")


def _holds(chain: tuple[x509.Certificate, ...], at: float) -> bool:
    try:
        check_chain(chain, at)
    except ChainError:
        return False
    return True


def check_usage(leaf: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """The key of a certificate that may sign code and nothing else; `NotAuthentic` for any other."""
    key = leaf.public_key()
    try:
        signs = leaf.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
        code = ExtendedKeyUsageOID.CODE_SIGNING in leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        signs = code = False
    fits = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, (ec.SECP256R1, ec.SECP384R1))
    if is_ca(leaf) or not signs or not code or not fits:
        raise NotAuthentic("the certificate is not one for signing code", reason="cert_usage_invalid")
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def count_scts(leaf: x509.Certificate, issuer: x509.Certificate, logs: tuple[LogKey, ...]) -> int:
    """How many certificate logs of the trust root signed that they saw `leaf` (RFC 6962 section 3.2), embedded only."""
    try:
        kind = x509.PrecertificateSignedCertificateTimestamps
        stamps = tuple(leaf.extensions.get_extension_for_class(kind).value)
        tbs = leaf.tbs_precertificate_bytes
    except (x509.ExtensionNotFound, ValueError):
        return 0
    spki = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    entry = hashlib.sha256(spki).digest() + len(tbs).to_bytes(3, "big") + tbs
    return len({stamp.log_id for stamp in stamps if _sct_holds(stamp, entry, logs)})


def _sct_holds(stamp: SignedCertificateTimestamp, entry: bytes, logs: tuple[LogKey, ...]) -> bool:
    try:
        when = stamp.timestamp
    except (ValueError, OverflowError):  # 64 bits of milliseconds reach past the year 9999
        return False
    seconds = calendar.timegm(when.timetuple())
    log = find_log(logs, stamp.log_id, seconds)
    # version v1, signature type certificate_timestamp, time, entry type precert_entry, entry, extensions
    signed = b"".join(
        [
            b"\0\0",
            (seconds * 1000 + when.microsecond // 1000).to_bytes(8, "big"),
            b"\0\1",
            entry,
            len(stamp.extension_bytes).to_bytes(2, "big"),
            stamp.extension_bytes,
        ]
    )
    return log is not None and log.signed(stamp.signature, signed)


def read_identity(leaf: x509.Certificate) -> Identity:
    """What Fulcio wrote of the signer; `NotAuthentic` when it contradicts itself or is no text.

    The issuer of the second form wins over the first: the first is deprecated, and a CA may fill both differently.
    """
    texts = {oid: _text(leaf, oid) for oid in (1, 3, 5, 6, 8, 12, 13, 14)}
    repository, source = texts[5], texts[12]
    if repository is not None and source is not None and not source.endswith("/" + repository):
        raise NotAuthentic("the certificate names two repositories", reason="workflow_repository_mismatch")
    if texts[6] is not None and texts[14] is not None and texts[6] != texts[14]:
        raise NotAuthentic("the certificate names two refs", reason="workflow_ref_prefix_mismatch")
    return Identity(
        texts[8] if texts[8] is not None else texts[1],
        repository if repository is not None else source,
        texts[6] if texts[6] is not None else texts[14],
        _subject(leaf),
        texts[13] if texts[13] is not None else texts[3],
    )


def _text(leaf: x509.Certificate, oid: int) -> str | None:
    try:
        extension = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier(f"{FULCIO}{oid}")).value
    except x509.ExtensionNotFound:
        return None
    assert isinstance(extension, x509.UnrecognizedExtension)  # no library knows these OIDs
    raw = extension.value if oid < 7 else _utf8_string(extension.value)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = ""
    if not 0 < len(text) <= _MAX_TEXT or not text.isprintable():
        raise NotAuthentic("an extension of the certificate is not plain text", reason="bundle_malformed")
    return text


def _utf8_string(der: bytes) -> bytes:
    """The content of one DER UTF8String (X.690 section 8.1); nothing when it is another element."""
    if len(der) < 2 or der[0] != _UTF8_STRING:
        return b""
    count, at = der[1], 2
    if count >= 0x80:
        at += count & 0x7F
        count = int.from_bytes(der[2:at], "big")
    return der[at:] if len(der) - at == count else b""


def _subject(leaf: x509.Certificate) -> str | None:
    """The one URI that the certificate is for, or None."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0] if len(uris) == 1 and uris[0].isprintable() and len(uris[0]) <= _MAX_TEXT else None
