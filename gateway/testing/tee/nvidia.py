"""Test material: a device CA and accelerators that sign SPDM reports, under a root that is not NVIDIA's.

    chain = device_chain(seed="of this world ")
    evidence = report(nonce=nonce, serial="of this world device 1")
    text = payload((evidence, pem_of(chain)), nonce=nonce)

Keys follow from their names, and ECDSA nonces from what is signed, so a world is the same in every run. `seed` stands
before the names: without one they are known to everybody, and whoever trusts such a root trusts everybody.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import struct
from collections.abc import Mapping, Sequence
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from gateway.verify.tee.roots import Anchor

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


# --- Devices

LINE = ("device root", "device arch", "device provisioner", "device brom")
FIRMWARE = hashlib.sha384(b"firmware").digest()


def fwid_extension(value: bytes = b"\x30\x32\x04\x30" + FIRMWARE) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("2.23.133.5.4.1"), value)


@cache
def issuers(seed: str = "") -> tuple[x509.Certificate, ...]:
    """The CA certificates above a device, root first."""
    made: list[x509.Certificate] = []
    for place, name in enumerate(LINE):
        above = LINE[max(place - 1, 0)]
        made.append(certificate(name_of(name), key_of(seed + name), name_of(above), key_of(seed + above), ca=True))
    return tuple(made)


@cache
def device_chain(
    device: str = "GH100 A01 GSP FMC LF",
    serial: str = "device 1",
    extensions: tuple[x509.ExtensionType, ...] | None = None,
    ca: bool = False,
    seed: str = "",
) -> tuple[x509.Certificate, ...]:
    """Leaf first, root last. `serial` names the leaf's key, after `seed`."""
    leaf = certificate(
        name_of(device),
        key_of(seed + serial),
        name_of(LINE[-1]),
        key_of(seed + LINE[-1]),
        ca=ca,
        extensions=(fwid_extension(),) if extensions is None else extensions,
    )
    return (leaf, *reversed(issuers(seed)))


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
