"""The one profile of XML signatures: what holds, and everything that XML signatures allow and this refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tee_worlds import nvidia as w
from tee_worlds.tokens import rsa_key

from gateway.crypto.xml import parse_xml
from gateway.crypto.xmldsig import XmlSignatureError, check_enveloped

SIGNED = w.signed(w.manifest())
TEXT = SIGNED.decode()


def code(data: bytes) -> str | None:
    try:
        check_enveloped(parse_xml(data))
    except XmlSignatureError as refused:
        return refused.reason
    return None


def test_a_signed_document() -> None:
    """The chain comes back leaf first."""
    assert check_enveloped(parse_xml(SIGNED)) == w.rim_chain()


def resigned(change: Callable[[str], str]) -> bytes:
    return w.signed(w.manifest(), signed_info=change(w.SIGNED_INFO))


def certificates(change: Callable[[str], str]) -> bytes:
    head, mark, tail = TEXT.partition("<d:KeyInfo>")
    return (head + mark + change(tail)).encode()


@pytest.mark.parametrize(
    ("reason", "data"),
    [
        ("xml_unsigned", w.manifest().encode()),
        ("xml_digest_mismatch", SIGNED.replace(b'edition="GPU"', b'edition="GPV"')),
        ("xml_digest_mismatch", SIGNED.replace(b"<s:Payload", b"\n<s:Payload")),
        ("xml_bad_signature", w.signed(w.manifest(), key="somebody")),
    ],
)
def test_what_does_not_hold(reason: str, data: bytes) -> None:
    """Absent, of another document, of another key."""
    assert code(data) == reason


def test_comments_are_not_signed_and_not_read() -> None:
    """Canonical XML drops them, and so does the reader: adding one changes nothing that anybody sees."""
    assert code(SIGNED.replace(b"<s:Payload", b"<!-- x --><s:Payload")) is None


@pytest.mark.parametrize(
    "data",
    [
        resigned(lambda s: s.replace("2006/12/xml-c14n11", "TR/2001/REC-xml-c14n-20010315")),
        resigned(lambda s: s.replace("ecdsa-sha384", "hmac-sha384")),
        resigned(lambda s: s.replace("more#sha384", "more#md5")),
        resigned(lambda s: s.replace('URI=""', 'URI="#part"')),
        resigned(lambda s: s.replace('URI=""', 'URI="" Type="x"')),
        resigned(lambda s: s.replace("<d:Reference ", "<d:Reference/><d:Reference ")),
        resigned(lambda s: s.replace("enveloped-signature", "base64")),
        resigned(lambda s: s.replace("<d:Transforms>", '<d:Transforms><d:Transform Algorithm="x"/>')),
        resigned(lambda s: s.replace("<d:SignedInfo>", "<d:SignedInfo>text")),
        resigned(lambda s: s.replace('#enveloped-signature"/>', '#enveloped-signature"><d:X/></d:Transform>')),
        resigned(lambda s: s.replace("DIGEST", "DIGEST<d:X/>")),
        resigned(lambda s: s.replace("DIGEST", "AAAA")),
        TEXT.replace("</d:SignatureValue>", "=</d:SignatureValue>").encode(),
        TEXT.replace("<d:Signature ", "<s:Wrap><d:Signature ")
        .replace("</d:Signature>", "</d:Signature></s:Wrap>")
        .encode(),
        TEXT.replace("</SoftwareIdentity>", f'<d:Signature xmlns:d="{w.DS}"/></SoftwareIdentity>').encode(),
        certificates(lambda s: s.replace("X509Data", "KeyValue")),
        certificates(lambda s: s.replace("X509Certificate", "X509CRL")),
        certificates(lambda s: s.replace(">M", ">!", 1)),
        certificates(
            lambda s: s.replace(
                "<d:X509Certificate>M", "<d:X509Certificate>AAAA</d:X509Certificate><d:X509Certificate>M", 1
            )
        ),
        w.signed(w.manifest(), ()),
        w.signed(w.manifest(), w.rim_chain()[:1] * 11),
    ],
)
def test_pitfall_the_document_chooses_what_is_signed(data: bytes) -> None:
    """Other algorithms, references to parts, transforms, wrappings and keys without certificates: out of profile."""
    assert code(data) == "xml_signature_profile"


@pytest.mark.parametrize("key", [rsa_key("rim"), ec.derive_private_key(5, ec.SECP256R1())], ids=["RSA", "P-256"])
def test_a_signer_with_another_kind_of_key(key: object) -> None:
    """The certificate's key must be of the signature's kind."""
    leaf = w.certificate(w.name_of("rim signer"), key, w.name_of("rim root"), w.key_of("rim root"), ca=False)
    assert code(w.signed(w.manifest(), (leaf, w.rim_chain()[1]))) == "xml_signature_profile"
