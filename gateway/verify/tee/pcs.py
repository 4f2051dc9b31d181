"""Intel's provisioning documents as they travel: one JSON envelope, issuer chains in PEM, revocation lists in DER.

The envelope is dcap-qvl's `QuoteCollateralV3`, nine members, all text: `tcb_info` and `qe_identity` are the documents
byte for byte as Intel signed them, `..._signature` their r||s in hex, `..._issuer_chain` PEM, `..._crl` DER in hex.
What the documents say is `tcb`'s business. docs/verification.md.

A gateway sees the same collateral and the same platform again and again, so whatever does not depend on the time is
remembered: parsed envelopes, and which chain, list and document was found to be signed by whom. Dates are looked at
anew each time. What is remembered is a function of the bytes alone, and bounded.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from gateway.crypto.canonical import strict_json
from gateway.crypto.certificates import ChainError, check_chain, fingerprint, in_date, is_ca, load_pem_chain
from gateway.errors import FormatError
from gateway.text import plain

from .findings import NotAuthentic

MAX_COLLATERAL_BYTES = 524_288
ROOT_NAME, TCB_SIGNER_NAME, PCK_NAME = "Intel SGX Root CA", "Intel SGX TCB Signing", "Intel SGX PCK Certificate"
PCK_CA_NAMES = ("Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA")
TCB_CHAIN = ((TCB_SIGNER_NAME,), (ROOT_NAME,))
PCK_CHAIN = ((PCK_NAME,), PCK_CA_NAMES, (ROOT_NAME,))
_SHA256 = ec.ECDSA(hashes.SHA256())
#: CRLNumber and AuthorityKeyIdentifier. Another (a delta list, a list for some certificates only) changes the meaning.
_CRL_EXTENSIONS = {x509.CRLNumber.oid, x509.AuthorityKeyIdentifier.oid}
_CRL_ERRORS = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

Chain = tuple[x509.Certificate, ...]


class Crl(msgspec.Struct, frozen=True):
    """A revocation list; `this_update` and `next_update` in Unix seconds."""

    der: bytes
    parsed: x509.CertificateRevocationList
    issuer: x509.Name
    this_update: float
    next_update: float


class Document(msgspec.Struct, frozen=True):
    """A signed document before anybody believed it: its exact text, signature r||s, and issuer chain leaf first."""

    text: bytes
    signature: bytes
    chain: Chain


class Collateral(msgspec.Struct, frozen=True):
    """The envelope taken apart; `members` are its nine texts, for whoever wants them as they came."""

    tcb_info: Document
    qe_identity: Document
    root_crl: Crl
    pck_crl: Crl
    members: Mapping[str, str]

    @property
    def hashes(self) -> tuple[str, ...]:
        """SHA-256 of TCB info, QE identity, root CRL and PCK CRL, lower-case hex."""
        parts = (self.tcb_info.text, self.qe_identity.text, self.root_crl.der, self.pck_crl.der)
        return tuple(hashlib.sha256(part).hexdigest() for part in parts)


@contextmanager
def malformed(reason: str) -> Iterator[None]:
    """Give every `FormatError` of the block that has no reason of its own this one."""
    try:
        yield
    except FormatError as error:
        raise FormatError(error.message, reason=error.reason or reason) from None


# --- The envelope


class _Envelope(msgspec.Struct, frozen=True):
    pck_crl_issuer_chain: str
    root_ca_crl: str
    pck_crl: str
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: str
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: str


@lru_cache(maxsize=16)
def read_collateral(data: bytes) -> Collateral:
    """The envelope's parts, parsed; nothing is judged. Raises `FormatError` with the reason `collateral_malformed`."""
    with malformed("collateral_malformed"):
        value = strict_json(data, max_bytes=MAX_COLLATERAL_BYTES)
        try:
            envelope = msgspec.convert(value, _Envelope)
        except msgspec.ValidationError as error:
            raise FormatError(f"the collateral is not what it should be: {plain(str(error), 80)}") from None
        return Collateral(
            tcb_info=_document(envelope.tcb_info, envelope.tcb_info_signature, envelope.tcb_info_issuer_chain),
            qe_identity=_document(
                envelope.qe_identity, envelope.qe_identity_signature, envelope.qe_identity_issuer_chain
            ),
            root_crl=load_crl(_unhex(envelope.root_ca_crl, "root_ca_crl")),
            pck_crl=load_crl(_unhex(envelope.pck_crl, "pck_crl")),
            members=msgspec.structs.asdict(envelope),
        )


def _document(text: str, signature: str, chain: str) -> Document:
    raw = _unhex(signature, "a signature")
    if len(raw) != 64:
        raise FormatError(f"a document's signature has {len(raw)} bytes, not 64")
    return Document(text.encode(), raw, load_chain(chain.encode()))


def _unhex(text: str, what: str) -> bytes:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if not data or data.hex() != text.lower():
        raise FormatError(f"the collateral's {what} is not hex")
    return data


def load_crl(der: bytes) -> Crl:
    """One DER revocation list. Raises `FormatError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a country of 25 letters, for one; nobody is named by it
            crl = x509.load_der_x509_crl(der)
            oids = {extension.oid for extension in crl.extensions}
            # The library reads these only when asked, so that a broken one is found here and nowhere later.
            issuer, begins, ends = crl.issuer, crl.last_update_utc, crl.next_update_utc
            for entry in crl:
                entry.serial_number  # noqa: B018
    except _CRL_ERRORS as error:
        raise FormatError(f"a revocation list is malformed: {type(error).__name__}") from None
    if ends is None or not oids <= _CRL_EXTENSIONS:
        raise FormatError("a revocation list has no end, or an extension that changes its meaning")
    return Crl(der, crl, issuer, begins.timestamp(), ends.timestamp())


@lru_cache(maxsize=64)
def load_chain(pem: bytes) -> Chain:
    """The certificates of a PEM text, leaf first. Raises `FormatError`."""
    return load_pem_chain(pem)


# --- Who signed what


@lru_cache(maxsize=64)
def check_roles(chain: Chain, roles: tuple[tuple[str, ...], ...]) -> None:
    """Hold the length and the common names of `chain` to `roles`: a PCK certificate must not sign documents.

    Raises `NotAuthentic` with the reason `cert_wrong_role`.
    """
    found = [_common_name(certificate) for certificate in chain]
    if len(found) != len(roles) or any(name not in role for name, role in zip(found, roles, strict=True)):
        raise NotAuthentic(
            "a chain's certificates are not those that this place is for",
            reason="cert_wrong_role",
            found=f"{len(found)} certificates",
            expected=" <- ".join(role[0] for role in roles),
        )
    if is_ca(chain[0]):
        raise NotAuthentic("the leaf of a chain is a CA", reason="cert_wrong_role")


@lru_cache(maxsize=256)
def print_of(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate's DER, lower-case hex."""
    return fingerprint(certificate)


def _common_name(certificate: x509.Certificate) -> str | None:
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else None


def check_held(chain: Chain, now: float) -> None:
    """Every certificate of two or more in date at `now` and signed by the next, the root by itself.

    Raises `ChainError`.
    """
    for place, certificate in enumerate(chain):
        if not in_date(certificate, now):
            raise ChainError(
                f"certificate {place} of the chain is valid {certificate.not_valid_before_utc:%Y-%m-%d} to "
                f"{certificate.not_valid_after_utc:%Y-%m-%d}",
                reason="cert_expired_or_not_yet_valid",
            )
    _held_together(chain[1:])
    _check_leaf(chain[0], chain[1])


@lru_cache(maxsize=256)
def _check_leaf(leaf: x509.Certificate, issuer: x509.Certificate) -> None:
    try:
        leaf.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        raise ChainError("certificate 0 of the chain is not signed by the next", reason="chain_broken") from None
    if not is_ca(issuer):
        raise ChainError("certificate 1 of the chain is not a CA", reason="issuer_not_ca")


@lru_cache(maxsize=64)
def _held_together(chain: Chain) -> None:
    # All above the leaf, apart from it: PCK certificates are many, and the two above them nearly always the same.
    # Asked at the moment when the youngest begins. If not all are in date then, they never are together, and
    # `check_held` has said so before it comes here.
    check_chain(chain, max(certificate.not_valid_before_utc.timestamp() for certificate in chain))


@lru_cache(maxsize=64)
def document_holds(document: Document) -> bool:
    """Whether the leaf of the document's chain signed its exact text."""
    return p256_holds(document.chain[0].public_key(), document.signature, document.text)


def p256_holds(key: object, signature: bytes, message: bytes) -> bool:
    """Whether `signature`, 64 bytes r||s, is that of P-256 key `key` over `message` (ECDSA with SHA-256)."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(utils.encode_dss_signature(r, s), message, _SHA256)
    except InvalidSignature:
        return False
    return True


def check_crl(crl: Crl, issuer: x509.Certificate, now: float) -> None:
    """Hold `crl` to its issuer and to `now`.

    Raises `NotAuthentic` with the reason crl_bad_signature|crl_not_yet_valid|crl_expired.
    """
    if not _crl_holds(crl.der, issuer):
        raise NotAuthentic("a revocation list is not signed by its issuer", reason="crl_bad_signature")
    if now < crl.this_update:
        raise NotAuthentic("a revocation list was issued after this moment", reason="crl_not_yet_valid")
    if now >= crl.next_update:  # at that second the next list is due; webpki counts so too
        raise NotAuthentic("a revocation list is past its next update", reason="crl_expired")


@lru_cache(maxsize=64)
def _crl_holds(der: bytes, issuer: x509.Certificate) -> bool:
    try:
        return load_crl(der).parsed.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False


def lists(crl: Crl, certificate: x509.Certificate) -> bool:
    """Whether `crl` names the certificate's serial number, whatever reason the entry gives."""
    return crl.parsed.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
