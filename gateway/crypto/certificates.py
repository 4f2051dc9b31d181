"""X.509 as attestation uses it: read one certificate, and hold a chain against pinned roots at a given time.

This is not web PKI. Attestation certificates lack what a generic path validator asks for (AMD's have serial number 0
and no extensions of RFC 5280 at all), end in 9999, and are believed because one digest is pinned. So a chain is given
in order, leaf first, root last; each certificate must be in date at `now`, be signed by the next, and (where the caller
says so) every issuer must be a CA. Names, key usages and path lengths beyond that are each family's own checks.
"""

from __future__ import annotations

import binascii
import hashlib
import warnings
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.errors import FormatError

MAX_CERTIFICATE_BYTES = 16_384
MAX_CHAIN = 10
MAX_PEM_BYTES = 131_072


class ChainError(FormatError):
    """A chain that does not hold. `reason` is chain_empty|chain_untrusted_root|chain_broken|issuer_not_ca|
    cert_expired_or_not_yet_valid."""

    code = "not_authentic"


def load_certificate(der: bytes) -> x509.Certificate:
    """One DER certificate, its eager fields parsed. Raises `FormatError` for anything else, trailing bytes included."""
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise FormatError(f"a certificate has {len(der)} bytes; at most {MAX_CERTIFICATE_BYTES} are read")
    try:
        with warnings.catch_warnings():
            # AMD's VCEKs all have serial number 0, which the library warns of and will refuse one day.
            warnings.simplefilter("ignore")
            certificate = x509.load_der_x509_certificate(der)
            certificate.public_key()
            certificate.not_valid_before_utc  # noqa: B018  parses; absurd dates raise here and nowhere later
            certificate.not_valid_after_utc  # noqa: B018
            certificate.extensions  # noqa: B018
            certificate.subject, certificate.issuer  # noqa: B018
    except (
        ValueError,
        TypeError,
        OverflowError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,  # no ValueError, unlike everything else that is wrong with a version
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise FormatError(f"not a certificate: {type(error).__name__}") from None
    return certificate


def load_pem_chain(pem: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM text in its order, at most `MAX_CHAIN`. Text around the blocks is ignored."""
    if len(pem) > MAX_PEM_BYTES:
        raise FormatError(f"a chain has {len(pem)} bytes; at most {MAX_PEM_BYTES} are read")
    ders = []
    rest = pem
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    while begin in rest:
        _, _, rest = rest.partition(begin)
        body, mark, rest = rest.partition(end)
        if not mark:
            raise FormatError("a PEM block has no end")
        ders.append(_unpem(body))
        if len(ders) > MAX_CHAIN:
            raise FormatError(f"a chain has more than {MAX_CHAIN} certificates")
    return tuple(load_certificate(der) for der in ders)


def _unpem(body: bytes) -> bytes:
    try:
        return binascii.a2b_base64(b"".join(body.split()), strict_mode=True)
    except (binascii.Error, ValueError):
        raise FormatError("a PEM block is not base64") from None


def der_of(certificate: x509.Certificate) -> bytes:
    """The certificate's DER, the bytes that it was read from."""
    return certificate.public_bytes(Encoding.DER)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate's DER, lower-case hex."""
    return hashlib.sha256(der_of(certificate)).hexdigest()


def in_date(certificate: x509.Certificate, now: float) -> bool:
    """Whether `now` (Unix seconds) lies in the certificate's validity, ends included (RFC 5280 section 4.1.2.5)."""
    return certificate.not_valid_before_utc.timestamp() <= now <= certificate.not_valid_after_utc.timestamp()


def expires(chain: Sequence[x509.Certificate]) -> float:
    """When the first certificate of `chain` runs out, in Unix seconds."""
    return min(certificate.not_valid_after_utc.timestamp() for certificate in chain)


def check_chain(chain: Sequence[x509.Certificate], now: float, *, issuers_are_cas: bool = True) -> None:
    """Hold `chain` (leaf first, root last) together at `now`; the caller then pins `chain[-1]`.

    Raises `ChainError`. The root's own signature over itself is checked too: a root that is not self-signed is not one.
    """
    if not chain:
        raise ChainError("there is no certificate", reason="chain_empty")
    if len(chain) > MAX_CHAIN:
        raise ChainError(f"a chain has more than {MAX_CHAIN} certificates", reason="chain_broken")
    for place, certificate in enumerate(chain):
        issuer = chain[min(place + 1, len(chain) - 1)]
        if not in_date(certificate, now):
            raise ChainError(
                f"certificate {place} of the chain is valid {certificate.not_valid_before_utc:%Y-%m-%d} to "
                f"{certificate.not_valid_after_utc:%Y-%m-%d}",
                reason="cert_expired_or_not_yet_valid",
            )
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            raise ChainError(
                f"certificate {place} of the chain is not signed by the next", reason="chain_broken"
            ) from None
        if issuers_are_cas and issuer is not certificate and not is_ca(issuer):
            raise ChainError(f"certificate {place + 1} of the chain is not a CA", reason="issuer_not_ca")


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether BasicConstraints says so."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
