"""OCSP responses as collateral: signed statements, stored with the evidence, that a certificate was not revoked.

A response is believed for a certificate when it names it by serial number and by the digests of its issuer's name and
key, is in date, and is signed by the issuer, or by a responder that the issuer certified for OCSP (RFC 6960 section
4.2.2.2). A nonce is not asked for: these are answers that anybody may have fetched, and `nextUpdate` bounds their age.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.crypto.certificates import der_of, in_date, load_certificate
from gateway.errors import FormatError

from .findings import NotAuthentic

MAX_RESPONSE_BYTES = 65_536
MAX_RESPONSES = 32
#: Certificates that a response may bring for its signer. Nobody signs how many, and each costs two verifications.
MAX_RESPONDERS = 4
#: Seconds by which the responder's clock and ours may differ.
SKEW = 300.0


class Answer(msgspec.Struct, frozen=True):
    """What a response says of one certificate. `since` and `until` (thisUpdate, nextUpdate) in Unix seconds."""

    revoked: bool
    since: float
    until: float


def answer_about(der: bytes, certificate: x509.Certificate, issuer: x509.Certificate, now: float) -> Answer:
    """What one response says of one certificate, for whoever keeps it: that it is revoked is an answer like another.

    Raises `NotAuthentic` ocsp_malformed|ocsp_foreign|ocsp_bad_signature|ocsp_stale|ocsp_unknown.
    """
    found = [answer for _, answer in _judged(_load(der), (certificate, issuer), now)]
    return Answer(
        any(answer.revoked for answer in found),
        max(answer.since for answer in found),
        min(answer.until for answer in found),
    )


def covered(responses: Sequence[bytes], chain: Sequence[x509.Certificate], now: float) -> dict[int, float]:
    """Which certificates of `chain` (leaf first, root last) a response shows good: place to `nextUpdate`.

    Raises `NotAuthentic` ocsp_malformed|ocsp_bad_signature|ocsp_stale|ocsp_revoked|ocsp_unknown. A response about
    none of the certificates is an error too (ocsp_foreign): collateral that speaks of something else was mixed up.
    """
    if len(responses) > MAX_RESPONSES:
        raise NotAuthentic(f"more than {MAX_RESPONSES} OCSP responses", reason="ocsp_malformed")
    good: dict[int, float] = {}
    for der in responses:
        good.update(_one(_load(der), chain, now))
    return good


def _load(der: bytes) -> ocsp.OCSPResponse:
    if len(der) > MAX_RESPONSE_BYTES:
        raise NotAuthentic("an OCSP response is too long", reason="ocsp_malformed")
    try:
        response = ocsp.load_der_ocsp_response(der)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise NotAuthentic("an OCSP response is an error message", reason="ocsp_malformed")
        response.signature_hash_algorithm  # noqa: B018  parsed here and nowhere later
        if len(response.certificates) > MAX_RESPONDERS:
            raise NotAuthentic("an OCSP response has too many certificates", reason="ocsp_malformed")
    except (ValueError, TypeError, OverflowError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise NotAuthentic("an OCSP response is malformed", reason="ocsp_malformed") from None
    return response


def _one(response: ocsp.OCSPResponse, chain: Sequence[x509.Certificate], now: float) -> dict[int, float]:
    good: dict[int, float] = {}
    for place, answer in _judged(response, chain, now):
        if answer.revoked:
            raise NotAuthentic(f"certificate {place} of the chain is revoked or on hold", reason="ocsp_revoked")
        good[place] = answer.until
    return good


def _judged(response: ocsp.OCSPResponse, chain: Sequence[x509.Certificate], now: float) -> Iterator[tuple[int, Answer]]:
    """Each answer about a certificate of `chain`, once it is found signed, in date and a good or a bad word."""
    try:
        found = list(_about(response, chain))
    except (ValueError, OverflowError, UnsupportedAlgorithm):
        raise NotAuthentic("an OCSP response is malformed", reason="ocsp_malformed") from None
    if not found:
        raise NotAuthentic("an OCSP response is about another certificate", reason="ocsp_foreign")
    for place, status, since, until in found:
        _check_signer(response, chain[place + 1], now)
        if not since - SKEW <= now <= until:
            raise NotAuthentic(f"the OCSP response for certificate {place} is not in date", reason="ocsp_stale")
        if status is ocsp.OCSPCertStatus.UNKNOWN:
            raise NotAuthentic(f"the responder does not know certificate {place}", reason="ocsp_unknown")
        yield place, Answer(status is ocsp.OCSPCertStatus.REVOKED, since, until)


def _about(
    response: ocsp.OCSPResponse, chain: Sequence[x509.Certificate]
) -> Iterator[tuple[int, ocsp.OCSPCertStatus, float, float]]:
    """(place in the chain, status, thisUpdate, nextUpdate) of each answer that is about a certificate of the chain."""
    for single in response.responses:
        for place in range(len(chain) - 1):
            if _names(single, chain[place], chain[place + 1]):
                until = single.next_update_utc
                since = single.this_update_utc.timestamp()
                yield place, single.certificate_status, since, until.timestamp() if until else since


def _names(single: ocsp.OCSPSingleResponse, certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    algorithm = single.hash_algorithm.name
    if single.serial_number != certificate.serial_number or algorithm not in ("sha1", "sha256", "sha384", "sha512"):
        return False
    # SHA-1 is what responders use to name an issuer; nothing is authenticated by it.
    name = hashlib.new(algorithm, issuer.subject.public_bytes(), usedforsecurity=False).digest()
    return single.issuer_name_hash == name and single.issuer_key_hash == _key_hash(issuer, algorithm)


def _key_hash(issuer: x509.Certificate, algorithm: str) -> bytes:
    """The digest of the key's BIT STRING content, which is what CertID holds, not of SubjectPublicKeyInfo."""
    key = issuer.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        bits = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    elif isinstance(key, rsa.RSAPublicKey):
        bits = key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    else:
        return b""
    return hashlib.new(algorithm, bits, usedforsecurity=False).digest()


def _check_signer(response: ocsp.OCSPResponse, issuer: x509.Certificate, now: float) -> None:
    if _signed(response, issuer):
        return
    for responder in response.certificates:
        if _is_responder(responder, issuer, now) and _signed(response, responder):
            return
    raise NotAuthentic("an OCSP response is not signed by the issuer or its responder", reason="ocsp_bad_signature")


def _is_responder(responder: x509.Certificate, issuer: x509.Certificate, now: float) -> bool:
    try:
        load_certificate(der_of(responder))  # parses its fields, each of which may raise something of its own
        responder.verify_directly_issued_by(issuer)
        usage = responder.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        return ExtendedKeyUsageOID.OCSP_SIGNING in usage and in_date(responder, now)
    except (FormatError, ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound):
        return False


def _signed(response: ocsp.OCSPResponse, certificate: x509.Certificate) -> bool:
    algorithm = response.signature_hash_algorithm
    if algorithm is None or algorithm.name not in ("sha256", "sha384", "sha512"):
        return False
    try:
        key = certificate.public_key()
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(response.signature, response.tbs_response_bytes, padding.PKCS1v15(), algorithm)
        else:
            return False
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True
