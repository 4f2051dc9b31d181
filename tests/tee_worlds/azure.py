"""Azure confidential VMs of our own making: HCL reports over synthetic SNP reports, and quotes of a software TPM key."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from gateway.model.tee import TeeResult
from gateway.verify.tee.azure_vtpm import from_inputs, verify_azure_vtpm

from . import amd

NONCE = b"challenge"
ID_KEY = hashlib.sha384(b"synthetic id key").digest()
PCRS = {index: hashlib.sha256(f"pcr {index}".encode()).digest() for index in range(24)}


def sized(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value


def attest(
    *,
    nonce: bytes = NONCE,
    pcrs: Mapping[int, bytes] = PCRS,
    selection: bytes | None = None,
    magic: bytes = b"\xffTCG",
    kind: bytes = b"\x80\x18",
    safe: int = 1,
    tail: bytes = b"",
) -> bytes:
    """A TPMS_ATTEST over `pcrs` in the SHA-256 bank."""
    if selection is None:
        selection = struct.pack(">IHB", 1, 0x0B, 3) + sum(1 << index for index in pcrs).to_bytes(3, "little")
    digest = hashlib.sha256(b"".join(pcrs[index] for index in sorted(pcrs))).digest()
    clock = struct.pack(">QIIB", 1000, 2, 3, safe)
    signer = sized(b"\0\x0b" + hashlib.sha256(b"name").digest())
    return (
        magic + kind + signer + sized(nonce) + clock + struct.pack(">Q", 0x20200312) + selection + sized(digest) + tail
    )


def ak() -> rsa.RSAPrivateKey:
    return amd.rsa_key("tpm ak", 2048)


def rsassa(message: bytes, key: rsa.RSAPrivateKey | None = None) -> bytes:
    return (key or ak()).sign(message, padding.PKCS1v15(), hashes.SHA256())


def jwk(key: rsa.RSAPrivateKey | None = None, **changes: Any) -> dict[str, Any]:
    numbers = (key or ak()).public_key().public_numbers()
    n = base64.urlsafe_b64encode(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()
    return {"kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": "AQAB", "n": n} | changes


def runtime(**changes: Any) -> bytes:
    """The runtime data of an HCL report."""
    members = {
        "keys": [jwk(), {"kid": "HCLEkPub", "kty": "RSA", "e": "AQAB", "n": "AQAB"}],
        "vm-configuration": {"console-enabled": False, "secure-boot": True, "tpm-enabled": True, "vmUniqueId": "0"},
        "user-data": "00" * 64,
    }
    return json.dumps(members | changes, separators=(",", ":")).encode()


def hcl(
    report: bytes,
    data: bytes,
    *,
    version: int = 1,
    kind: int = 2,
    algorithm: int = 1,
    layout: int = 1,
    request: int = 2,
    tail: bytes = bytes(100),
    length: int | None = None,
    used: int | None = None,
    size: int | None = None,
    reserved: bytes = bytes(16),
) -> bytes:
    """An HCL blob."""
    length = len(data) if length is None else length
    size = 32 + 1184 + 20 + length if size is None else size
    head = b"HCLA" + struct.pack("<III", version, size, request) + reserved
    used = 20 + length if used is None else used
    return head + report + struct.pack("<5I", used, layout, kind, algorithm, length) + data + tail


def td_quote(report_data: bytes, *, version: int = 4) -> bytes:
    """A TD quote as far as it is read here: nothing of it is signed."""
    body = bytes(520) + report_data.ljust(64, b"\0")
    head = struct.pack("<HHI", version, 2, 0x81).ljust(48, b"\0")
    return head + (struct.pack("<HI", 2, 584) if version == 5 else b"") + body + bytes(700)


def td_report(report_data: bytes) -> bytes:
    return (bytes(128) + report_data.ljust(64, b"\0")).ljust(1184, b"\0")


class AzureWorld:
    """A virtual machine on `hardware`, whose SNP report vouches for the key that quotes."""

    def __init__(self, hardware: amd.World | None = None) -> None:
        self.hardware = hardware or amd.World("Milan")

    def evidence(
        self,
        *,
        data: bytes | None = None,
        report: Mapping[str, Any] = {},
        blob: Mapping[str, Any] = {},
        quote: bytes | None = None,
        signature: bytes | None = None,
        pcrs: Mapping[int, bytes] = PCRS,
        **members: Any,
    ) -> bytes:
        """The JSON of an SNP machine, with members changed or (None) dropped."""
        data = runtime() if data is None else data
        what = {"report_data": hashlib.sha256(data).digest(), "id_key_digest": ID_KEY} | dict(report)
        quote = attest() if quote is None else quote
        whole = {
            "hcl_report": hcl(self.hardware.report(**what), data, **blob).hex(),
            "quote_message": quote.hex(),
            "quote_signature": (rsassa(quote) if signature is None else signature).hex(),
            "pcrs_sha256": [pcrs[index].hex() for index in sorted(pcrs)],
            "vcek_der": self.hardware.ek.hex(),
            "ask_der": self.hardware.ask.hex(),
        } | members
        return json.dumps({k: v for k, v in whole.items() if v is not None}).encode()

    def tdx_evidence(self, *, quote_data: bytes | None = None, version: int = 4, **members: Any) -> bytes:
        """The JSON of a TDX machine."""
        data = runtime()
        digest = hashlib.sha256(data).digest()
        td = td_quote(digest if quote_data is None else quote_data, version=version)
        members = {"hcl_report": hcl(td_report(digest), data, kind=4).hex(), "td_quote": td.hex()} | members
        return self.evidence(vcek_der=None, ask_der=None, **members)

    def verify(self, evidence: bytes, **changes: Any) -> TeeResult:
        """`verify_azure_vtpm` in this world."""
        what = {"roots": self.hardware.roots, "now": amd.NOW, "nonce": NONCE, "id_keys": frozenset({ID_KEY.hex()})}
        return verify_azure_vtpm(evidence, changes.pop("arks", [self.hardware.ark]), **(what | changes))


@functools.cache
def _fuzz_evidence() -> tuple[AzureWorld, dict[str, Any]]:
    world = AzureWorld()
    return world, json.loads(world.evidence())


def seeds() -> list[bytes]:
    """The HCL blob, the TPMS_ATTEST, the signature and the runtime data, behind the byte that `run` looks at."""
    _, members = _fuzz_evidence()
    whole = [b"j" + json.dumps(members).encode()]
    parts = (b"h", "hcl_report"), (b"q", "quote_message"), (b"s", "quote_signature")
    return [kind + bytes.fromhex(members[role]) for kind, role in parts] + whole


def run(data: bytes) -> TeeResult:
    """Appraise `data` in the place that its first byte names; raises when something altered is authentic."""
    world, members = _fuzz_evidence()
    role = {b"h": "hcl_report", b"q": "quote_message", b"s": "quote_signature"}.get(data[:1])
    blob = json.dumps(members | {role: data[1:].hex()}).encode() if role else data[1:]
    inputs = {"evidence": blob, "root:ark": world.hardware.ark}
    result = from_inputs(inputs, {"nonce": NONCE.hex()}, world.hardware.roots, amd.NOW)
    if result.claims.authentic:
        assert _signed(json.loads(blob)) == _signed(members), "authentic, and nobody signed it"
    return result


def _signed(members: Mapping[str, Any]) -> tuple[object, ...]:
    """What of the evidence a signature or a digest covers: report, runtime data, quote and PCR values."""
    blob = bytes.fromhex(members["hcl_report"])
    pcrs = [bytes.fromhex(value) for value in members["pcrs_sha256"]]
    return blob[32 : 32 + 0x2A0], runtime() in blob, bytes.fromhex(members["quote_message"]), pcrs
