"""Test material: a small Intel of our own: root, PCK Platform CA, PCK, TCB signer, lists, documents and quotes.

    world = World()
    result = verify_intel(world.quote(report_data=b"..."), world.collateral(), roots=world.roots, now=world.now)

Everything is signed for real, in the forms that Intel's services use, so that dcap-qvl verifies it too when it is given
`world.root_der`. Keys follow from a seed and signatures are deterministic: the same arguments give the same bytes.
`world.anchor` says `test=True`, and so does every verdict under it. The seeds that tests use are known to everybody.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.verify.tee.roots import Anchor, TrustRoots

NOW = 1_800_000_000
DAY = 86_400
ROOT, PLATFORM_CA, PROCESSOR_CA = "Intel SGX Root CA", "Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA"
SIGNER, PCK = "Intel SGX TCB Signing", "Intel SGX PCK Certificate"
SGX_OID = "1.2.840.113741.1.13.1"
COMPONENTS = bytes([3, 3, 2, 2, 4, 1, 0, 5, *[0] * 8])
PCE_SVN = 13
TEE_TCB_SVN = bytes([7, 1, 3, *[0] * 13])
QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
QE_SIGNER = hashlib.sha256(b"the signer of quoting enclaves").digest()
_SHA256 = hashes.SHA256()


@lru_cache(maxsize=256)
def key_of(seed: str, curve: type[ec.EllipticCurve] = ec.SECP256R1) -> ec.EllipticCurvePrivateKey:
    """The key that follows from `seed`."""
    number = int.from_bytes(hashlib.sha512(b"veriroute test|" + seed.encode()).digest(), "big")
    return ec.derive_private_key(number % (1 << 255) + 1, curve())


def sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """r||s, 32 bytes each."""
    r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(_SHA256, deterministic_signing=True)))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """x||y of the public key."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def iso(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _when(moment: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(moment), datetime.UTC)


def certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    begins: float,
    ends: float,
    ca: bool = False,
    extension: bytes | None = None,
) -> x509.Certificate:
    """One certificate with the extensions that Intel's have; `extension` is the SGX one."""
    subject = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.COMMON_NAME, name),
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Veriroute Tests"),
        ]
    )
    serial = int.from_bytes(hashlib.sha256(name.encode() + point(key) + struct.pack(">d", begins)).digest()[:18], "big")
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(serial + 1)
        .not_valid_before(_when(begins))
        .not_valid_after(_when(ends))
        .add_extension(x509.BasicConstraints(ca, None), True)
        .add_extension(x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False)
    )
    if extension is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(SGX_OID), extension), False)
    return builder.sign(issuer_key, _SHA256, ecdsa_deterministic=True)


def crl(
    issuer: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    revoked: Iterable[x509.Certificate] = (),
    *,
    begins: float,
    ends: float,
    extra: x509.ExtensionType | None = None,
) -> bytes:
    """A revocation list in DER; `extra` is an extension that Intel's lists do not have."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(_when(begins))
        .next_update(_when(ends))
        .add_extension(x509.CRLNumber(1), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False)
    )
    if extra is not None:
        builder = builder.add_extension(extra, True)
    for one in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(one.serial_number).revocation_date(_when(begins - DAY))
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(key, _SHA256, ecdsa_deterministic=True).public_bytes(Encoding.DER)


def pem(*chain: x509.Certificate) -> str:
    return b"".join(one.public_bytes(Encoding.PEM) for one in chain).decode()


# --- The SGX extension of a PCK certificate


def tlv(tag: int, content: bytes) -> bytes:
    """One DER element."""
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    if len(content) < 0x100:
        return bytes([tag, 0x81, len(content)]) + content
    return bytes([tag, 0x82]) + struct.pack(">H", len(content)) + content


def number(value: int, tag: int = 0x02) -> bytes:
    return tlv(tag, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def pair(arcs: Sequence[int], value: bytes) -> bytes:
    """{OID, value} below the SGX extension's own OID."""
    return tlv(0x30, tlv(0x06, bytes.fromhex("2a864886f84d010d01") + bytes(arcs)) + value)


def sgx_extension(
    *,
    fmspc: bytes = bytes.fromhex("10A06F000000"),
    components: bytes = COMPONENTS,
    pce_svn: int = PCE_SVN,
    ppid: bytes = hashlib.md5(b"ppid", usedforsecurity=False).digest(),
    platform: bool = True,
    smt: bool = True,
    instance: bytes = hashlib.md5(b"platform instance", usedforsecurity=False).digest(),
) -> bytes:
    """The extension's DER; without `platform`, as the Processor CA writes it."""
    tcb = [pair((2, place), number(svn)) for place, svn in enumerate(components, 1)]
    tcb += [pair((2, 17), number(pce_svn)), pair((2, 18), tlv(0x04, components))]
    members = [
        pair((1,), tlv(0x04, ppid)),
        pair((2,), tlv(0x30, b"".join(tcb))),
        pair((3,), tlv(0x04, bytes(2))),
        pair((4,), tlv(0x04, fmspc)),
        pair((5,), number(int(platform), 0x0A)),
    ]
    if platform:
        flags = [pair((7, arc), tlv(0x01, b"\xff" if on else b"\0")) for arc, on in ((1, True), (2, False), (3, smt))]
        members += [
            pair((6,), tlv(0x04, instance)),
            pair((7,), tlv(0x30, b"".join(flags))),
        ]
    return tlv(0x30, b"".join(members))


# --- Reports


def mark(name: str, size: int = 48) -> bytes:
    """A measurement that is recognisably `name`'s."""
    return hashlib.sha384(name.encode()).digest()[:size]


def td_report(
    *,
    report_data: bytes = bytes(64),
    mrtd: bytes = mark("mrtd"),
    rtmrs: Sequence[bytes] = (mark("rtmr0"), mark("rtmr1"), mark("rtmr2"), bytes(48)),
    attributes: int = 1 << 28,
    tee_tcb_svn: bytes = TEE_TCB_SVN,
    mr_signer_seam: bytes = bytes(48),
    seam_attributes: bytes = bytes(8),
    mr_config_id: bytes = bytes(48),
    mr_owner: bytes = bytes(48),
    mr_owner_config: bytes = bytes(48),
    tee_tcb_svn2: bytes | None = None,
    mr_service_td: bytes = bytes(48),
) -> bytes:
    """A TDREPORT of 584 bytes, or of 648 (TD 1.5) with `tee_tcb_svn2`."""
    report = tee_tcb_svn + mark("mr_seam") + mr_signer_seam + seam_attributes
    report += attributes.to_bytes(8, "little") + bytes.fromhex("e702060000000000")
    report += mrtd + mr_config_id + mr_owner + mr_owner_config + b"".join(rtmrs) + report_data.ljust(64, b"\0")
    return report if tee_tcb_svn2 is None else report + tee_tcb_svn2 + mr_service_td


def enclave_report(
    *,
    report_data: bytes = bytes(64),
    mr_enclave: bytes = mark("mr_enclave", 32),
    mr_signer: bytes = mark("mr_signer", 32),
    attributes: int = 0x05,
    misc_select: int = 0,
    product: int = 1,
    svn: int = 2,
) -> bytes:
    """The REPORT of an enclave, 384 bytes."""
    report = COMPONENTS + struct.pack("<I", misc_select) + bytes(28)
    report += attributes.to_bytes(8, "little") + bytes.fromhex("e700000000000000")
    report += mr_enclave + bytes(32) + mr_signer + bytes(96)
    return report + struct.pack("<HH", product, svn) + bytes(60) + report_data.ljust(64, b"\0")


def level(
    status: str = "UpToDate",
    *,
    sgx: Sequence[int] = (2, 2, 2, 2, 3, 1, 0, 5),
    pce: int = PCE_SVN,
    tdx: Sequence[int] | None = (5, 0, 2),
    advisories: Sequence[str] = (),
) -> dict[str, Any]:
    """One level of TCB info; short lists of versions are filled up with zeros."""
    tcb: dict[str, Any] = {"sgxtcbcomponents": _components(sgx), "pcesvn": pce}
    if tdx is not None:
        tcb["tdxtcbcomponents"] = _components(tdx)
    return _row(tcb, status, advisories)


def part_level(svn: int, status: str = "UpToDate", advisories: Sequence[str] = ()) -> dict[str, Any]:
    """One level of a TDX module or of the quoting enclave."""
    return _row({"isvsvn": svn}, status, advisories)


def module(name: str, *levels: dict[str, Any], **changes: str) -> dict[str, Any]:
    """One entry of tdxModuleIdentities."""
    plain = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    return {"id": name, **plain, **changes, "tcbLevels": list(levels)}


def _components(svns: Sequence[int]) -> list[dict[str, int]]:
    return [{"svn": svn} for svn in [*svns, *[0] * (16 - len(svns))]]


def _row(tcb: dict[str, Any], status: str, advisories: Sequence[str]) -> dict[str, Any]:
    row = {"tcb": tcb, "tcbDate": "2026-06-10T00:00:00Z", "tcbStatus": status}
    return {**row, "advisoryIDs": list(advisories)} if advisories else row


class World:
    """One platform, its vendor and the vendor's documents at `now`. `seed` tells one world's keys from another's."""

    def __init__(
        self,
        *,
        now: float = NOW,
        seed: str = "intel",
        fmspc: str = "10A06F000000",
        processor: bool = False,
        extension: bytes | None = None,
    ) -> None:
        self.now, self.fmspc = now, fmspc
        self.root_key, self.ca_key, self.signer_key, self.pck_key, self.attestation_key = (
            key_of(f"{seed}|{role}") for role in ("root", "ca", "signer", "pck", "attestation")
        )
        old, young = (
            {"begins": now - 900 * DAY, "ends": now + 3000 * DAY},
            {"begins": now - DAY, "ends": now + 900 * DAY},
        )
        self.root = certificate(ROOT, self.root_key, None, self.root_key, ca=True, **old)
        ca_name = PROCESSOR_CA if processor else PLATFORM_CA
        self.ca = certificate(ca_name, self.ca_key, self.root, self.root_key, ca=True, **old)
        self.signer = certificate(SIGNER, self.signer_key, self.root, self.root_key, **old)
        if extension is None:
            extension = sgx_extension(fmspc=bytes.fromhex(fmspc), platform=not processor)
        self.pck = certificate(PCK, self.pck_key, self.ca, self.ca_key, extension=extension, **young)

    @property
    def root_der(self) -> bytes:
        return self.root.public_bytes(Encoding.DER)

    @property
    def anchor(self) -> Anchor:
        digest = hashlib.sha256(self.root_der).hexdigest()
        return Anchor("intel", "Intel SGX Root CA (test)", digest, test=True)

    @property
    def roots(self) -> TrustRoots:
        return TrustRoots((self.anchor,))

    # Quotes

    def quote(self, *, version: int = 4, **report: Any) -> bytes:
        """A TDX quote; `report` are `td_report`'s arguments. Version 5 holds TD 1.5 unless `tee_tcb_svn2` is None."""
        if version == 5:
            report.setdefault("tee_tcb_svn2", report.get("tee_tcb_svn", TEE_TCB_SVN))
        return self.sign_quote(td_report(**report), version=version)

    def sgx_quote(self, **report: Any) -> bytes:
        """An SGX quote of version 3; `report` are `enclave_report`'s arguments."""
        return self.sign_quote(enclave_report(**report), version=3)

    def sign_quote(
        self,
        body: bytes,
        *,
        version: int = 4,
        signed: bytes | None = None,
        attestation_key: ec.EllipticCurvePrivateKey | None = None,
        named_key: bytes | None = None,
        pck_key: ec.EllipticCurvePrivateKey | None = None,
        chain: Sequence[x509.Certificate] | None = None,
        chain_text: bytes | None = None,
        qe: dict[str, Any] | None = None,
        auth: bytes = bytes(range(32)),
    ) -> bytes:
        """Sign any body. `named_key` is the attestation key that the QE report commits to; `qe` changes that report."""
        sgx = len(body) == 384
        header = struct.pack("<HHIHH", version, 2, 0 if sgx else 0x81, 0, 0) + QE_VENDOR + bytes(20)
        if version == 5:
            header += struct.pack("<HI", 3 if len(body) == 648 else 2, len(body))
        signed = header + body if signed is None else signed
        key = attestation_key or self.attestation_key
        committed = hashlib.sha256((named_key or point(key)) + auth).digest()
        quoting = {"attributes": 0x15, "mr_signer": QE_SIGNER, "product": 1 if sgx else 2, "svn": 6}
        report = enclave_report(**{**quoting, "report_data": committed, **(qe or {})})
        if chain_text is None:
            chain_text = pem(*(chain or (self.pck, self.ca, self.root))).encode() + b"\0"
        inner = report + sign(pck_key or self.pck_key, report) + struct.pack("<H", len(auth)) + auth
        inner += struct.pack("<HI", 5, len(chain_text)) + chain_text
        if version != 3:
            inner = struct.pack("<HI", 6, len(inner)) + inner
        block = sign(key, signed) + point(key) + inner
        return signed + struct.pack("<I", len(block)) + block

    # Documents

    def tcb_info(self, *, sgx: bool = False, **changes: Any) -> dict[str, Any]:
        """TCB info; `changes` replace members by their names in Intel's JSON."""
        document: dict[str, Any] = {
            "id": "SGX" if sgx else "TDX",
            "version": 3,
            "issueDate": iso(self.now - DAY),
            "nextUpdate": iso(self.now + 29 * DAY),
            "fmspc": self.fmspc,
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": 20,
        }
        tdx = None if sgx else (5, 0, 2)
        if not sgx:
            document["tdxModule"] = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
            document["tdxModuleIdentities"] = [
                module("TDX_01", part_level(7), part_level(4, "OutOfDate", ["INTEL-SA-01036"])),
                module("TDX_03", part_level(3)),
            ]
        document["tcbLevels"] = [
            level(tdx=tdx),
            level("OutOfDate", pce=5, tdx=tdx, advisories=["INTEL-SA-00106"]),
        ]
        return {**document, **changes}

    def qe_identity(self, *, sgx: bool = False, **changes: Any) -> dict[str, Any]:
        """QE identity; `changes` replace members by their names in Intel's JSON."""
        document: dict[str, Any] = {
            "id": "QE" if sgx else "TD_QE",
            "version": 2,
            "issueDate": iso(self.now - DAY),
            "nextUpdate": iso(self.now + 29 * DAY),
            "tcbEvaluationDataNumber": 20,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": QE_SIGNER.hex().upper(),
            "isvprodid": 1 if sgx else 2,
            "tcbLevels": [part_level(6), part_level(2, "OutOfDate", ["INTEL-SA-00615"])],
        }
        return {**document, **changes}

    def collateral(
        self,
        *,
        sgx: bool = False,
        tcb_info: dict[str, Any] | str | None = None,
        qe_identity: dict[str, Any] | str | None = None,
        revoked: Sequence[x509.Certificate] = (),
        signer_chain: Sequence[x509.Certificate] | None = None,
        signer_key: ec.EllipticCurvePrivateKey | None = None,
        crl_begins: float | None = None,
        crl_ends: float | None = None,
        **members: Any,
    ) -> bytes:
        """The envelope as JSON; `revoked` stand on both lists; `members` replace what stands in the envelope."""
        chain = pem(*(signer_chain or (self.signer, self.root)))
        key = signer_key or self.signer_key
        envelope: dict[str, Any] = {"pck_crl_issuer_chain": pem(self.ca, self.root)}
        dates = {"begins": crl_begins or self.now - DAY, "ends": crl_ends or self.now + 29 * DAY}
        envelope["root_ca_crl"] = crl(self.root, self.root_key, revoked, **dates).hex()
        envelope["pck_crl"] = crl(self.ca, self.ca_key, revoked, **dates).hex()
        documents = {
            "tcb_info": self.tcb_info(sgx=sgx) if tcb_info is None else tcb_info,
            "qe_identity": self.qe_identity(sgx=sgx) if qe_identity is None else qe_identity,
        }
        for name, document in documents.items():
            text = document if isinstance(document, str) else json.dumps(document, separators=(",", ":"))
            envelope[name] = text
            envelope[f"{name}_signature"] = sign(key, text.encode()).hex()
            envelope[f"{name}_issuer_chain"] = chain
        return json.dumps({**envelope, **members}).encode()
