"""A world of NVIDIA's own: a device CA and devices that sign reports, a RIM signer and its manifests, OCSP answers.

Everything chains to roots made here (`ROOTS` pins them as test anchors) and to no other. Keys follow from their names,
and ECDSA nonces from what is signed, so a world is the same in every run (but for OCSP answers).
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import random
import struct
from collections.abc import Mapping, Sequence
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.crypto.xml import Element, canonical, parse_xml
from gateway.verify.tee import nvidia_gpu, nvidia_payload
from gateway.verify.tee.roots import Anchor, TrustRoots

NOW = 1_800_000_000.0
DAY = 86_400
FOREVER = 253_402_300_799
NONCE = bytes(range(32))
DRIVER, VBIOS = "590.12", "96.00.A5.00.01"
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973


@cache
def key_of(name: str) -> ec.EllipticCurvePrivateKey:
    """The P-384 key of that name."""
    secret = int.from_bytes(hashlib.sha512(f"tee world {name}".encode()).digest(), "big") % (_ORDER - 1) + 1
    return ec.derive_private_key(secret, ec.SECP384R1())


def name_of(common: str, organisation: str = "Test Device Maker") -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
        ]
    )


def at(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def certificate(
    subject: x509.Name,
    key: object,
    issuer: x509.Name,
    signing: object,
    *,
    ca: bool,
    since: float = NOW - 400 * DAY,
    until: float = FOREVER,
    extensions: Sequence[x509.ExtensionType] = (),
    serial: int | None = None,
    digest: hashes.HashAlgorithm | None = None,
) -> x509.Certificate:
    """A certificate; `ca` writes BasicConstraints when true."""
    builder = x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),  # type: ignore[attr-defined]
        serial_number=serial or int.from_bytes(hashlib.sha256(repr(subject).encode()).digest()[:8], "big") + 1,
        not_valid_before=at(since),
        not_valid_after=at(until),
    )
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(
        signing, digest or hashes.SHA384(), ecdsa_deterministic=isinstance(signing, ec.EllipticCurvePrivateKey) or None
    )  # type: ignore[arg-type]


def pem_of(chain: Sequence[x509.Certificate]) -> bytes:
    return b"".join(c.public_bytes(Encoding.PEM) for c in chain)


def der_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def anchor(vendor: str, certificate: x509.Certificate) -> Anchor:
    return Anchor(vendor, f"test {vendor}", hashlib.sha256(der_of(certificate)).hexdigest(), test=True)


def raw_signature(name: str, data: bytes) -> bytes:
    r, s = utils.decode_dss_signature(key_of(name).sign(data, ec.ECDSA(hashes.SHA384(), deterministic_signing=True)))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


# ------------------------------------------------------------------------------------------------- devices
_LINE = ("device root", "device arch", "device provisioner", "device brom")
FIRMWARE = hashlib.sha384(b"firmware").digest()


def fwid_extension(value: bytes = b"\x30\x32\x04\x30" + FIRMWARE) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("2.23.133.5.4.1"), value)


@cache
def issuers() -> tuple[x509.Certificate, ...]:
    """The CA certificates above a device, root first."""
    made = []
    for place, name in enumerate(_LINE):
        above = _LINE[max(place - 1, 0)]
        made.append(certificate(name_of(name), key_of(name), name_of(above), key_of(above), ca=True))
    return tuple(made)


@cache
def device_chain(
    device: str = "GH100 A01 GSP FMC LF",
    serial: str = "device 1",
    extensions: tuple[x509.ExtensionType, ...] | None = None,
    ca: bool = False,
) -> tuple[x509.Certificate, ...]:
    """Leaf first, root last. `serial` names the leaf's key."""
    leaf = certificate(
        name_of(device),
        key_of(serial),
        name_of(_LINE[-1]),
        key_of(_LINE[-1]),
        ca=ca,
        extensions=(fwid_extension(),) if extensions is None else extensions,
    )
    return (leaf, *reversed(issuers()))


def values() -> dict[int, bytes]:
    """The measurements of a device, block by block; every fourth is unused."""
    return {i: bytes(48) if i % 4 == 0 else hashlib.sha384(f"block {i}".encode()).digest() for i in range(1, 65)}


def opaque_of(
    driver: str | None = DRIVER, vbios: bytes = bytes.fromhex("00a5009601000000"), **more: bytes
) -> dict[int, bytes]:
    """The opaque fields of a GPU; `more` are `f<type>=value`."""
    fields = {6: vbios, 11: b"\x55", 15: b"885\0", 17: b"G520\0", 18: b"0200\0", 20: FIRMWARE, 21: b"\xaa"}
    if driver is not None:
        fields[3] = driver.encode() + b"\0"
    return fields | {int(name[1:]): value for name, value in more.items()}


def block(index: int, value: bytes) -> bytes:
    return struct.pack("<BBHBH", index, 1, 3 + len(value), 1, len(value)) + value


def assemble(
    record: bytes,
    count: int,
    opaque: bytes,
    *,
    nonce: bytes = NONCE,
    serial: str = "device 1",
    request: bytes = b"\x11\xe0\x01\xff",
    response: bytes = b"\x11\x60\x00\x00",
) -> bytes:
    """Request and response around a record and opaque data, signed by the device's key."""
    body = request + nonce + b"\0" + response + bytes([count]) + len(record).to_bytes(3, "little") + record
    body += hashlib.sha256(b"responder").digest() + struct.pack("<H", len(opaque)) + opaque
    return body + raw_signature(serial, body)


def report(
    blocks: Mapping[int, bytes] | None = None,
    opaque: Mapping[int, bytes] | None = None,
    *,
    nonce: bytes = NONCE,
    serial: str = "device 1",
) -> bytes:
    """A genuine report of the device."""
    blocks = values() if blocks is None else blocks
    fields = opaque_of() if opaque is None else opaque
    record = b"".join(block(index, value) for index, value in sorted(blocks.items()))
    packed = b"".join(struct.pack("<HH", kind, len(value)) + value for kind, value in sorted(fields.items()))
    return assemble(record, len(blocks), packed, nonce=nonce, serial=serial)


def payload(*devices: tuple[bytes, bytes], nonce: bytes = NONCE) -> bytes:
    """A payload of (report, PEM chain) pairs."""
    entries = [
        f'{{"certificate":"{base64.b64encode(chain).decode()}","evidence":"{base64.b64encode(data).decode()}"}}'
        for data, chain in devices
    ]
    return f'{{"nonce":"{nonce.hex()}","arch":"HOPPER","evidence_list":[{",".join(entries)}]}}'.encode()


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
    key = responder_key or key_of(issuer_key or _LINE[len(_LINE) - 1 - place])
    # The builder wants a certificate of the signing key to name; which one is sent along is another matter.
    own = certificate(name_of("responder"), key, name_of("responder"), key_of("responder"), ca=False)
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.NAME, own)
    if responder is not None:
        builder = builder.certificates([responder])
    chosen = None if isinstance(key, ed25519.Ed25519PrivateKey) else digest or hashes.SHA384()
    made = builder.sign(key, chosen)  # type: ignore[arg-type]
    return made.public_bytes(Encoding.DER)


def responder(key: object, *, usage: bool = True, until: float = FOREVER, by: str = _LINE[-1]) -> x509.Certificate:
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
        nvidia_payload.verify_payload(item, **common)  # type: ignore[arg-type]
    else:
        nvidia_gpu.verify_spdm(item, chain, nonce=NONCE, **common)  # type: ignore[arg-type]


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
