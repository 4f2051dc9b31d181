"""The answers of Intel's, AMD's and NVIDIA's services, as verifiers take them. Form alone; nothing is believed.

    Intel PCS version 4    GET …/tcb?fmspc=          {"tcbInfo": {…}, "signature": "<hex>"}
                           GET …/qe/identity         {"enclaveIdentity": {…}, "signature": "<hex>"}
                           GET …/pckcrl?ca=&encoding=der, and the root's list: DER, or DER in hex as a PCCS gives it
                           the issuer chains stand in response headers, PEM, percent-encoded
    AMD KDS                GET …/cert_chain          PEM, ASK (or ASVK) then ARK
    NVIDIA RIM service     GET …/v1/rim/<id>         {"rim": "<base64 of the manifest>", …}
    OCSP (RFC 6960)        POST, one certificate by the SHA-384 of its issuer's name and key; no nonce, since answers
                           are kept until their nextUpdate

Intel signed the text of `tcbInfo` and `enclaveIdentity` byte for byte, so they are cut out of the answer as they stand.
"""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import unquote

import msgspec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from gateway.crypto.canonical import strict_json
from gateway.crypto.certificates import MAX_PEM_BYTES, der_of, load_certificate, load_pem_chain
from gateway.crypto.encoding import unb64
from gateway.errors import FormatError

from .needs import OcspNeed

_T = TypeVar("_T")

#: The largest answer that is read.
MAX_ANSWER_BYTES = 262_144


class _TcbAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tcbInfo: msgspec.Raw
    signature: str


class _IdentityAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    enclaveIdentity: msgspec.Raw
    signature: str


class PcsAnswers(msgspec.Struct, frozen=True):
    """Four bodies and the three issuer chains of their headers, as they came."""

    tcb: bytes
    tcb_chain: str
    qe: bytes
    qe_chain: str
    pck_crl: bytes
    pck_crl_chain: str
    root_crl: bytes


def envelope_of(answers: PcsAnswers) -> bytes:
    """The nine members of dcap-qvl's QuoteCollateralV3 as JSON. Raises `FormatError` (`collateral_malformed`)."""
    info, identity = _decode(answers.tcb, _TcbAnswer), _decode(answers.qe, _IdentityAnswer)
    return msgspec.json.encode(
        {
            "pck_crl_issuer_chain": _unquoted(answers.pck_crl_chain),
            "root_ca_crl": _der(answers.root_crl).hex(),
            "pck_crl": _der(answers.pck_crl).hex(),
            "tcb_info_issuer_chain": _unquoted(answers.tcb_chain),
            "tcb_info": _text(info.tcbInfo),
            "tcb_info_signature": info.signature,
            "qe_identity_issuer_chain": _unquoted(answers.qe_chain),
            "qe_identity": _text(identity.enclaveIdentity),
            "qe_identity_signature": identity.signature,
        }
    )


def amd_chain_of(pem: bytes) -> tuple[bytes, bytes]:
    """ASK and ARK, DER, of a `cert_chain`. Raises `FormatError`."""
    chain = load_pem_chain(pem)
    if len(chain) != 2:
        raise FormatError(f"the chain has {len(chain)} certificates, not 2", reason="collateral_malformed")
    return der_of(chain[0]), der_of(chain[1])


def manifest_of(body: bytes) -> bytes:
    """The manifest in an answer of NVIDIA's RIM service. Members beside it are anybody's words and are not read.

    Raises `FormatError` (`collateral_malformed`).
    """
    try:
        answer = strict_json(body, max_bytes=MAX_ANSWER_BYTES, max_depth=8)
        text = answer.get("rim") if isinstance(answer, dict) else None
        if not isinstance(text, str) or not text:
            raise FormatError("it holds no manifest")
        return unb64(text, "the manifest")
    except FormatError as error:
        raise _bad(f"an answer of the RIM service: {error.message}") from None


def ocsp_request(need: OcspNeed) -> bytes:
    """The DER of a request (RFC 6960 section 4.1). Raises `FormatError` for certificates that are none."""
    own, by = load_certificate(need.certificate), load_certificate(need.issuer)
    request = ocsp.OCSPRequestBuilder().add_certificate(own, by, SHA384()).build()
    return request.public_bytes(Encoding.DER)


def _decode(body: bytes, kind: type[_T]) -> _T:
    if len(body) > MAX_ANSWER_BYTES:
        raise _bad(f"an answer has {len(body)} bytes; at most {MAX_ANSWER_BYTES} are read")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _bad("an answer is not the document that was asked for") from None


def _text(raw: msgspec.Raw) -> str:
    try:
        return bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise _bad("a document is not UTF-8") from None


def _unquoted(header: str) -> str:
    if not header or len(header) > MAX_PEM_BYTES:
        raise _bad("an issuer chain is missing, or too long")
    return unquote(header, errors="replace")


def _der(body: bytes) -> bytes:
    """A revocation list that came as DER or as hex of it."""
    if body[:1] == b"\x30" and body[1:2] >= b"\x80":
        return body
    try:
        return bytes.fromhex(body.decode("ascii").strip().strip('"'))
    except ValueError:
        raise _bad("a revocation list is neither DER nor hex") from None


def _bad(message: str) -> FormatError:
    return FormatError(message, reason="collateral_malformed")
