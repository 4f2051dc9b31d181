"""One profile of XML signatures (XML-DSig 1.1), the one that NVIDIA signs reference manifests with, and no other.

    root element, with as one of its children exactly one ds:Signature, made of SignedInfo, SignatureValue, KeyInfo
    SignedInfo   canonicalised and signed with ECDSA P-384 and SHA-384 (r then s, 96 bytes)
    Reference    one, URI "" (the whole document), enveloped-signature then Canonical XML 1.1, SHA-384
    KeyInfo      X509Data with certificates only, leaf first, root last

XML signatures allow references to parts, transforms that run programs, keys by name and a dozen wrappings of signed
into unsigned content. A document that uses any of that is refused as out of profile: what is signed here is always the
whole document, so what a reader takes from the same tree is what was signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from gateway.errors import FormatError

from .certificates import MAX_CHAIN, load_certificate
from .encoding import unb64
from .xml import Element, canonical

DS = "http://www.w3.org/2000/09/xmldsig#"
C14N11 = "http://www.w3.org/2006/12/xml-c14n11"
ENVELOPED = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
ECDSA_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
SHA384 = "http://www.w3.org/2001/04/xmldsig-more#sha384"


class XmlSignatureError(FormatError):
    """A signature that does not hold. `reason` is xml_unsigned|xml_signature_profile|xml_digest_mismatch|
    xml_bad_signature."""

    code = "not_authentic"


class _Parts(msgspec.Struct, frozen=True):
    signed_info: Element
    digest: bytes
    value: bytes
    chain: tuple[x509.Certificate, ...]


def check_enveloped(root: Element) -> tuple[x509.Certificate, ...]:
    """Hold `root` to the signature inside it; the signer's chain, leaf first, which the caller then pins.

    Raises `XmlSignatureError` for a signature that is absent, of another profile, or wrong.
    """
    found = [element for element in _all(root) if (element.uri, element.local) == (DS, "Signature")]
    if not found:
        raise XmlSignatureError("the document is not signed", reason="xml_unsigned")
    if len(found) > 1 or found[0] not in root.elements():
        raise _profile("there is not exactly one signature below the root element")
    parts = _parts(found[0])
    if hashlib.sha384(canonical(root, without=found[0])).digest() != parts.digest:
        raise XmlSignatureError("the document is not what was signed", reason="xml_digest_mismatch")
    _check_value(parts)
    return parts.chain


def _check_value(parts: _Parts) -> None:
    key = parts.chain[0].public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise _profile("the signer's key is not on P-384")
    r, s = int.from_bytes(parts.value[:48], "big"), int.from_bytes(parts.value[48:], "big")
    try:
        key.verify(utils.encode_dss_signature(r, s), canonical(parts.signed_info), ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise XmlSignatureError("the document's signature does not hold", reason="xml_bad_signature") from None


def _parts(signature: Element) -> _Parts:
    signed_info, value, key_info = _children(signature, "SignedInfo", "SignatureValue", "KeyInfo")
    method, algorithm, reference = _children(signed_info, "CanonicalizationMethod", "SignatureMethod", "Reference")
    _leaf(method, C14N11)
    _leaf(algorithm, ECDSA_SHA384)
    if reference.attributes != {("", "URI"): ""}:
        raise _profile("the signature refers to something else than the whole document")
    transforms, digest_method, digest = _children(reference, "Transforms", "DigestMethod", "DigestValue")
    first, second = _children(transforms, "Transform", "Transform")
    _leaf(first, ENVELOPED)
    _leaf(second, C14N11)
    _leaf(digest_method, SHA384)
    return _Parts(signed_info, _bytes(digest, 48), _bytes(value, 96), _chain(key_info))


def _chain(key_info: Element) -> tuple[x509.Certificate, ...]:
    (data,) = _children(key_info, "X509Data")
    certificates = data.elements()
    if not 1 <= len(certificates) <= MAX_CHAIN:
        raise _profile(f"the signature has not 1 to {MAX_CHAIN} certificates")
    if any((c.uri, c.local) != (DS, "X509Certificate") for c in certificates):
        raise _profile("the signature's key is not given by certificates alone")
    try:
        return tuple(load_certificate(_bytes(c, None)) for c in certificates)
    except XmlSignatureError:
        raise
    except FormatError as error:
        raise _profile(error.message) from None


def _children(element: Element, *names: str) -> list[Element]:
    """The child elements, which must be exactly these of the signature's namespace, with white space between."""
    children = element.elements()
    if [(c.uri, c.local) for c in children] != [(DS, name) for name in names] or element.text().strip():
        raise _profile(f"{element.local!a:.40} is not made of {', '.join(names)}")
    return children


def _leaf(element: Element, algorithm: str) -> None:
    if element.attributes != {("", "Algorithm"): algorithm} or element.children:
        raise _profile(f"{element.local} is not {algorithm}")


def _bytes(element: Element, length: int | None) -> bytes:
    if element.elements():
        raise _profile(f"{element.local} is not text")
    try:
        return unb64("".join(element.text().split()), element.local, length=length)
    except FormatError as error:
        raise _profile(error.message) from None


def _all(element: Element) -> Iterator[Element]:
    yield element
    for child in element.elements():
        yield from _all(child)


def _profile(message: str) -> XmlSignatureError:
    return XmlSignatureError(message, reason="xml_signature_profile")
