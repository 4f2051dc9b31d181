"""Test material: AMD's hierarchy under a root that is not AMD's: ARK, ASK, ASVK, VCEK, VLEK, CRLs and reports.

    world = World(product="Genoa")
    report = world.report(report_data=digest, measurement=launch)
    result = world.verify(report)

RSA keys are made once a process, or given. Certificates are written in DER by hand, because AMD's have serial number 0,
which the X.509 library refuses to build. The root is known to `world.roots` as a test anchor and to nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.model.tee import TeeResult
from gateway.verify.tee.roots import Anchor, TrustRoots
from gateway.verify.tee.snp import verify_snp

NOW = 1_790_000_000
DAY = 86_400
AMD = "1.3.6.1.4.1.3704.1."
CPUID = {"Milan": (0x19, 0x01, 1), "Genoa": (0x19, 0x11, 1), "Turin": (0x1A, 0x02, 1)}
LEVELS = {"fmc": 1, "bl": 4, "tee": 0, "snp": 24, "ucode": 219}


# ---- DER, written


def tlv(tag: int, *parts: bytes) -> bytes:
    value = b"".join(parts)
    size = len(value)
    if size < 0x80:
        return bytes([tag, size]) + value
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + value


def integer(value: int) -> bytes:
    return tlv(2, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    out = bytes([first * 40 + second])
    for number in rest:
        septets = [number & 0x7F]
        while number := number >> 7:
            septets.insert(0, number & 0x7F | 0x80)
        out += bytes(septets)
    return tlv(6, out)


def utc_time(at: float) -> bytes:
    return tlv(0x17, datetime.fromtimestamp(at, UTC).strftime("%y%m%d%H%M%SZ").encode())


_SHA384 = tlv(0x30, oid("2.16.840.1.101.3.4.2.2"), b"\x05\x00")


def pss(*, salt: int = 48, trailer: bool = False, digest: bytes = _SHA384) -> bytes:
    mgf1 = tlv(0x30, oid("1.2.840.113549.1.1.8"), digest)
    parts = [tlv(0xA0, digest), tlv(0xA1, mgf1), tlv(0xA2, integer(salt))] + [tlv(0xA3, integer(1))] * trailer
    return tlv(0x30, oid("1.2.840.113549.1.1.10"), tlv(0x30, *parts))


def name(*common_names: str, organisation: str = "Synthetic test PKI") -> bytes:
    parts = [("2.5.4.10", organisation), *(("2.5.4.3", cn) for cn in common_names)]
    return tlv(0x30, *(tlv(0x31, tlv(0x30, oid(kind), tlv(0x0C, text.encode()))) for kind, text in parts))


def extension(dotted: str, value: bytes, critical: bool = False) -> bytes:
    return tlv(0x30, oid(dotted), b"\x01\x01\xff" * critical, tlv(4, value))


CA = extension("2.5.29.19", tlv(0x30, b"\x01\x01\xff"), critical=True)


def signed(tbs: bytes, key: rsa.RSAPrivateKey, algorithm: bytes) -> bytes:
    signature = key.sign(tbs, padding.PSS(padding.MGF1(hashes.SHA384()), 48), hashes.SHA384())
    return tlv(0x30, tbs, algorithm, tlv(3, b"\0", signature))


def spki(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def certificate(
    subject: bytes,
    public: bytes,
    issuer: bytes,
    key: rsa.RSAPrivateKey,
    *,
    extensions: Iterable[bytes],
    serial: int = 0,
    not_before: float = NOW - 100 * DAY,
    not_after: float = NOW + 2000 * DAY,
    algorithm: bytes | None = None,
    version: int = 2,
) -> bytes:
    algorithm = algorithm or pss()
    validity = tlv(0x30, utc_time(not_before), utc_time(not_after))
    tbs = tlv(
        0x30, tlv(0xA0, integer(version)), integer(serial), algorithm, issuer, validity, subject, public,
        tlv(0xA3, tlv(0x30, *extensions)),
    )  # fmt: skip
    return signed(tbs, key, algorithm)


@functools.cache
def rsa_key(label: str, bits: int = 3072) -> rsa.RSAPrivateKey:
    """One key a label a process; every product shares ARK, ASK and ASVK keys, so that names alone tell them apart."""
    return rsa.generate_private_key(65537, bits)


@functools.cache
def ec_key(label: str, curve: type[ec.EllipticCurve] = ec.SECP384R1) -> ec.EllipticCurvePrivateKey:
    seed = hashlib.sha512(b"amd world|" + label.encode()).digest()[: curve().key_size // 8 - 1]
    return ec.derive_private_key(int.from_bytes(seed, "big"), curve())


class World:
    """One machine of `product` and the certificates above its key. `ark`, `ask` and `ek` are DER."""

    def __init__(
        self,
        product: str = "Genoa",
        *,
        vlek: bool = False,
        tcb: Mapping[str, int] | None = None,
        chip: bytes | None = None,
        csp_id: str = "CN=cc-test-1.example",
        wrapped_hwid: bool = False,
        not_before: float = NOW - 100 * DAY,
        not_after: float = NOW + 2000 * DAY,
        label: str = "",
        keys: tuple[rsa.RSAPrivateKey, rsa.RSAPrivateKey] | None = None,
        ark: bytes | None = None,
        **ek: Any,
    ) -> None:
        """`label` tells one machine's EK and chip from another's. `keys` are those of ARK and ASK, `ark` the former's
        certificate: its signature is salted, so a root that is to stay the same has to be kept."""
        self.product, self.vlek, self.turin = product, vlek, product == "Turin"
        self.levels = dict(LEVELS if tcb is None else tcb)
        chip = chip or hashlib.sha512(b"chip|" + f"{product}{label}".encode()).digest()
        self.chip = chip[:8].ljust(64, b"\0") if self.turin else chip
        self.ark_key, self.ask_key = keys or (rsa_key("ark"), rsa_key("asvk" if vlek else "ask"))
        self.ek_key = ec_key(f"{product}|{vlek}|{label}")
        self.ark_name = name(f"ARK-{product}")
        self.ask_name = name(f"SEV-VLEK-{product}" if vlek else f"SEV-{product}")
        self.ark = ark or self.issuer(self.ark_name, self.ark_key, serial=65536)
        self.ask = self.issuer(self.ask_name, self.ask_key, serial=65793 if vlek else 65537)
        hwid = self.chip[:8] if self.turin else self.chip
        self.hwid = tlv(4, hwid) if wrapped_hwid else hwid
        self.csp_id = csp_id
        self.ek = self.endorsement(not_before=not_before, not_after=not_after, **ek)
        self.roots = TrustRoots(
            (Anchor("amd", f"TEST ARK-{product}", hashlib.sha256(self.ark).hexdigest(), test=True),)
        )

    def issuer(self, subject: bytes, key: rsa.RSAPrivateKey, **changes: Any) -> bytes:
        """A CA certificate by the ARK, the ARK's own included."""
        what = {
            "extensions": [CA],
            "not_before": NOW - 2000 * DAY,
            "not_after": NOW + 7000 * DAY,
            "algorithm": pss(trailer=True),
        }
        return certificate(subject, changes.pop("public", spki(key)), self.ark_name, self.ark_key, **(what | changes))

    def extensions(self, changes: Mapping[str, bytes | None]) -> list[bytes]:
        """AMD's extensions by the rest of their OID; a change to None drops one."""
        text = self.product + "-B0" * (self.product == "Milan" and not self.vlek)
        values: dict[str, bytes | None] = {"1": integer(1), "2": tlv(0x16, text.encode())}
        values |= {
            f"3.{n}": integer(self.levels[part]) for n, part in ((1, "bl"), (2, "tee"), (3, "snp"), (8, "ucode"))
        }
        if self.turin:
            values["3.9"] = integer(self.levels["fmc"])
        values |= {"5": tlv(0x16, self.csp_id.encode())} if self.vlek else {"4": self.hwid}
        return [extension(AMD + rest, value) for rest, value in (values | dict(changes)).items() if value is not None]

    def endorsement(
        self, *, common_name: str | None = None, amd: Mapping[str, bytes | None] = {}, **changes: Any
    ) -> bytes:
        """The VCEK or VLEK certificate, with `amd` extensions and fields changed."""
        role = common_name or ("SEV-VLEK" if self.vlek else "SEV-VCEK")
        public = changes.pop("public", spki(self.ek_key))
        what = {"extensions": self.extensions(amd)} | changes
        return certificate(name(role), public, what.pop("issuer", self.ask_name), what.pop("key", self.ask_key), **what)

    def crl(
        self,
        revoked: Iterable[int] = (),
        *,
        this_update: float = NOW - DAY,
        next_update: float | None = NOW + 29 * DAY,
        key: rsa.RSAPrivateKey | None = None,
        issuer: bytes | None = None,
        version: bytes = integer(1),
        extensions: Iterable[bytes] | None = (extension("2.5.29.20", integer(7)),),
        entry: bytes = b"",
    ) -> bytes:
        """A revocation list by the ARK."""
        entries = [tlv(0x30, integer(serial), utc_time(this_update), entry) for serial in revoked]
        parts = [version, pss(), issuer or self.ark_name, utc_time(this_update)]
        parts += [utc_time(next_update)] if next_update is not None else []
        parts += [tlv(0x30, *entries)] if entries else []
        parts += [tlv(0xA0, tlv(0x30, *extensions))] if extensions is not None else []
        return signed(tlv(0x30, *parts), key or self.ark_key, pss())

    def tcb(self, levels: Mapping[str, int]) -> bytes:
        out = bytearray(8)
        places = (
            {"fmc": 0, "bl": 1, "tee": 2, "snp": 3, "ucode": 7}
            if self.turin
            else {"bl": 0, "tee": 1, "snp": 6, "ucode": 7}
        )
        for part, at in places.items():
            out[at] = levels[part]
        return bytes(out)

    def report(
        self,
        *,
        report_data: bytes = bytes(64),
        measurement: bytes = hashlib.sha384(b"synthetic launch").digest(),
        host_data: bytes = bytes(32),
        id_key_digest: bytes = bytes(48),
        author_key_digest: bytes = bytes(48),
        version: int = 3,
        guest_svn: int = 0,
        policy: int = 0x30000,
        debug: bool = False,
        migrate_ma: bool = False,
        vmpl: int = 0,
        algorithm: int = 1,
        platform_info: int = 0x25,
        flags: int | None = None,
        mask_chip: bool = False,
        reported: Mapping[str, int] | None = None,
        current: Mapping[str, int] | None = None,
        committed: Mapping[str, int] | None = None,
        launch: Mapping[str, int] | None = None,
        firmware: tuple[int, int, int] = (1, 55, 40),
        committed_firmware: tuple[int, int, int] | None = None,
        cpuid: tuple[int, int, int] | None = None,
        mitigations: tuple[int, int] = (0, 0),
        patch: Mapping[int, bytes] = {},
    ) -> bytes:
        """A signed report; `patch` overwrites bytes by offset before the signature is made."""
        data = bytearray(0x4A0)
        struct.pack_into("<IIQ", data, 0, version, guest_svn, policy | debug << 19 | migrate_ma << 18)
        struct.pack_into("<II", data, 0x30, vmpl, algorithm)
        struct.pack_into(
            "<QI", data, 0x40, platform_info, int(self.vlek) << 2 | mask_chip << 1 if flags is None else flags
        )
        levels = dict(reported or self.levels)
        shown = committed_firmware or firmware
        cpu = bytes(cpuid or CPUID[self.product]) if version >= 3 else b""
        fields = {
            0x38: self.tcb(current or levels), 0x50: report_data.ljust(64, b"\0"), 0x90: measurement, 0xC0: host_data,
            0xE0: id_key_digest, 0x110: author_key_digest, 0x140: hashlib.sha256(b"report id").digest(),
            0x160: b"\xff" * 32, 0x180: self.tcb(levels), 0x188: cpu, 0x1A0: bytes(64) if self.vlek else self.chip,
            0x1E0: self.tcb(committed or levels), 0x1E8: bytes(reversed(firmware)), 0x1EC: bytes(reversed(shown)),
            0x1F0: self.tcb(launch or levels), 0x1F8: struct.pack("<QQ", *mitigations),
        }  # fmt: skip
        for at, value in (fields | dict(patch)).items():
            data[at : at + len(value)] = value
        return self.sign(bytes(data[:0x2A0]))

    def sign(self, body: bytes) -> bytes:
        """The first 672 bytes of a report, signed."""
        r, s = utils.decode_dss_signature(self.ek_key.sign(body, ec.ECDSA(hashes.SHA384())))
        return body + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(368)

    def inputs(self, report: bytes, **changes: bytes) -> dict[str, bytes]:
        """The roles that `from_inputs` takes."""
        return {"report": report, "ek": self.ek, "ask": self.ask, "root:ark": self.ark} | changes

    def verify(self, report: bytes, *, now: float = NOW, roots: TrustRoots | None = None, **changes: Any) -> TeeResult:
        """`verify_snp` with this world's certificates, or others in `changes`."""
        parts = {"ek": self.ek, "ask": self.ask, "ark": self.ark} | changes
        return verify_snp(report, **parts, roots=self.roots if roots is None else roots, now=now)
