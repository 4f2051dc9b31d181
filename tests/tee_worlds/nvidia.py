"""The synthetic devices of `gateway.testing.tee.nvidia`, and what is said about them: manifests and OCSP answers.

Everything chains to roots made for tests (`roots` pins them as test anchors) and to no other. Keys follow from their
names, and ECDSA nonces from what is signed, so a world is the same in every run (but for OCSP answers).
"""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Sequence
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.crypto.xml import Element, canonical, parse_xml
from gateway.testing.tee.nvidia import *  # noqa: F403
from gateway.testing.tee.nvidia import (
    DAY,
    DRIVER,
    FOREVER,
    LINE,
    NONCE,
    NOW,
    anchor,
    at,
    certificate,
    der_of,
    device_chain,
    issuers,
    key_of,
    name_of,
    payload,
    pem_of,
    raw_signature,
    report,
    values,
)  # fmt: skip
from gateway.verify.tee import nvidia_gpu, nvidia_payload
from gateway.verify.tee.roots import TrustRoots

# ------------------------------------------------------------------------------------------------- manifests
SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
HASHES = "http://www.w3.org/2001/04/xmlenc#sha384"
SIGNER_SINCE, SIGNER_UNTIL = NOW - 100 * DAY, NOW + 600 * DAY


@cache
def rim_chain(since: float = SIGNER_SINCE, until: float = SIGNER_UNTIL) -> tuple[x509.Certificate, ...]:
    root = certificate(name_of("rim root"), key_of("rim root"), name_of("rim root"), key_of("rim root"), ca=True)
    leaf = certificate(
        name_of("rim signer"),
        key_of("rim signer"),
        name_of("rim root"),
        key_of("rim root"),
        ca=False,
        since=since,
        until=until,
    )
    return leaf, root


def resource(index: int, alternatives: Sequence[bytes], *, active: bool = True) -> str:
    digests = " ".join(f'h:Hash{place}="{value.hex()}"' for place, value in enumerate(alternatives))
    return (
        f'<s:Resource type="Measurement" index="{index}" active="{active}" '
        f'alternatives="{len(alternatives)}" {digests} name="M{index}" size="48"/>'
    )


def manifest(version: str = DRIVER, indices: Sequence[int] = (1, 4, 9), product: str = "GH100") -> str:
    """An unsigned manifest whose active values are the device's own blocks, each beside a wrong alternative."""
    own = values()
    rows = [resource(i, [hashlib.sha384(b"older").digest(), own[i + 1]]) for i in indices]
    rows.append(resource(60, [bytes(48)], active=False))
    return document("\n".join(rows), version, product)


def document(rows: str, version: str = DRIVER, product: str = "GH100") -> str:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<SoftwareIdentity xmlns="{SWID}" xmlns:s="{SWID}" xmlns:h="{HASHES}" '
        f'name="{product}" tagId="tag-1">\n<!-- dropped --><s:Meta colloquialVersion="{version}" edition="GPU" '
        f'product="{product}"/>\n<s:Payload xmlns:x="urn:unused">\n{rows}\n</s:Payload>\n</SoftwareIdentity>'
    )


DS = "http://www.w3.org/2000/09/xmldsig#"
SIGNED_INFO = (
    '<d:SignedInfo><d:CanonicalizationMethod Algorithm="http://www.w3.org/2006/12/xml-c14n11"/>'
    '<d:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"/><d:Reference URI="">'
    '<d:Transforms><d:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/>'
    '<d:Transform Algorithm="http://www.w3.org/2006/12/xml-c14n11"/></d:Transforms>'
    '<d:DigestMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#sha384"/>'
    "<d:DigestValue>DIGEST</d:DigestValue></d:Reference></d:SignedInfo>"
)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def signed(
    text: str,
    chain: Sequence[x509.Certificate] | None = None,
    *,
    key: str = "rim signer",
    signed_info: str = SIGNED_INFO,
) -> bytes:
    """`text` with an enveloped signature. The canonical forms come from the code under test: that they are NVIDIA's
    is shown by the shared vectors, that they are W3C's by the table in test_xml.py."""
    digest = b64(hashlib.sha384(canonical(parse_xml(text.encode()))).digest())
    certificates = "".join(
        f"<d:X509Certificate>{b64(der_of(c))}</d:X509Certificate>" for c in (rim_chain() if chain is None else chain)
    )
    template = (
        f'<d:Signature xmlns:d="{DS}">{signed_info.replace("DIGEST", digest)}<d:SignatureValue>VALUE</d:SignatureValue>'
        f"<d:KeyInfo><d:X509Data>{certificates}</d:X509Data></d:KeyInfo></d:Signature>"
    )
    root, _, end = text.rpartition("</")
    whole = f"{root}{template}</{end}"
    info = next(e for e in _walk(parse_xml(whole.encode())) if e.local == "SignedInfo")
    return whole.replace("VALUE", b64(raw_signature(key, canonical(info)))).encode()


def _walk(element: Element) -> list[Element]:
    return [element, *(inner for child in element.elements() for inner in _walk(child))]


# ------------------------------------------------------------------------------------------------- OCSP
def ocsp_response(
    chain: Sequence[x509.Certificate],
    place: int = 0,
    *,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    since: float = NOW - DAY,
    until: float | None = NOW + DAY,
    issuer_key: str | None = None,
    responder: x509.Certificate | None = None,
    more: Sequence[x509.Certificate] = (),
    responder_key: object = None,
    digest: hashes.HashAlgorithm | None = None,
    id_digest: hashes.HashAlgorithm | None = None,
) -> bytes:
    """A response about `chain[place]`, signed by its issuer or by `responder`."""
    issuer = chain[place + 1]
    revoked = status is ocsp.OCSPCertStatus.REVOKED
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=chain[place],
        issuer=issuer,
        algorithm=id_digest or hashes.SHA1(),
        cert_status=status,
        this_update=at(since),
        next_update=None if until is None else at(until),
        revocation_time=at(since) if revoked else None,
        revocation_reason=x509.ReasonFlags.certificate_hold if revoked else None,
    )
    key = responder_key or key_of(issuer_key or LINE[len(LINE) - 1 - place])
    # The builder wants a certificate of the signing key to name; which one is sent along is another matter.
    own = certificate(name_of("responder"), key, name_of("responder"), key_of("responder"), ca=False)
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.NAME, own)
    if responder is not None:
        builder = builder.certificates([responder, *more])
    chosen = None if isinstance(key, ed25519.Ed25519PrivateKey) else digest or hashes.SHA384()
    made = builder.sign(key, chosen)  # type: ignore[arg-type]
    return made.public_bytes(Encoding.DER)


def responder(key: object, *, usage: bool = True, until: float = FOREVER, by: str = LINE[-1]) -> x509.Certificate:
    """A responder's certificate of the device's issuer, for OCSP or (`usage=False`) not."""
    extensions = [x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])] if usage else []
    return certificate(name_of("responder"), key, name_of(by), key_of(by), ca=False, until=until, extensions=extensions)


@cache
def roots() -> TrustRoots:
    return TrustRoots((anchor("nvidia_device", issuers()[0]), anchor("nvidia_rim", rim_chain()[-1])))


# ------------------------------------------------------------------------------------------------- long fuzzing
def seeds() -> list[bytes]:
    """One kind byte, then the item: a report, a manifest, an OCSP response, a payload."""
    chain = device_chain()
    return [
        b"s" + report(),
        b"r" + signed(manifest()),
        b"o" + ocsp_response(chain),
        b"p" + payload((report(), pem_of(chain))),
    ]


@cache
def _genuine() -> tuple[bytes, bytes]:
    return report(), pem_of(device_chain())


def run(data: bytes) -> None:
    """One input of the long fuzz target: only a result may come back, and altered signed bytes are never authentic."""
    kind, item = data[:1], data[1:]
    genuine, chain = _genuine()
    common = {"roots": roots(), "now": NOW}
    if kind == b"r":
        nvidia_gpu.verify_spdm(genuine, chain, rims=[item], **common)  # type: ignore[arg-type]
    elif kind == b"o":
        nvidia_gpu.verify_spdm(genuine, chain, ocsp=[item], **common)  # type: ignore[arg-type]
    elif kind == b"p":
        result = nvidia_payload.verify_payload(item, **common)  # type: ignore[arg-type]
        if result.claims.authentic:
            whole = hashlib.sha256(genuine).hexdigest()
            assert {child.evidence_sha256 for child in result.claims.children} == {whole}, "nobody signed it"
    else:
        result = nvidia_gpu.verify_spdm(item, chain, nonce=NONCE, **common)  # type: ignore[arg-type]
        assert not result.claims.authentic or item == genuine, "authentic, and nobody signed it"


def mutations(seed: bytes, dice: random.Random) -> bytes:
    """A neighbour of `seed`: bits flipped, cut, or a piece put somewhere else."""
    data = bytearray(seed)
    match dice.randrange(4):
        case 0:
            for _ in range(dice.randint(1, 4)):
                data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        case 1:
            del data[dice.randrange(len(data)) :]
        case 2:
            start, to = dice.randrange(len(data)), dice.randrange(len(data))
            data[to:to] = data[start : start + dice.randint(1, 64)]
        case _:
            start = dice.randrange(len(data))
            data[start : start + dice.randint(1, 16)] = dice.randbytes(dice.randint(0, 16))
    return bytes(data)
