"""The quote of Intel DCAP: TDX version 4 and 5, SGX version 3. A strict parser that judges structure and nothing else.

Layout, little-endian (Intel, "Intel TDX DCAP Quoting Library API", appendix A; docs/verification.md):

    header 48       version u16 | key type u16 (2 = ECDSA P-256) | TEE type u32 (0 SGX, 0x81 TDX) | qe_svn u16 |
                    pce_svn u16 | QE vendor 16 | user data 20
    version 5 only  body type u16 (2 = TD report 1.0, 3 = TD report 1.5) | body size u32
    body            SGX report 384 | TD report 1.0 584 | TD report 1.5 648
    length u32      of the signature data that follows
    signature data  signature 64 (r||s, over header to body) | attestation key 64 (x||y) |
                    version 4 and 5: certification type u16 = 6 | size u32 |
                    QE report 384 | its signature 64 | u16 + authentication data | type u16 = 5 | u32 + PEM chain

After the signature data nothing may follow but zeros: guests of Google's cloud hand out a buffer of 8000 bytes that is
zero to its end, and anything else there is unsigned bytes that somebody added. The zeros and the text around the
certificates are not signed, so a digest of the whole quote is no name for it: `Quote.identity` is.
"""

from __future__ import annotations

import hashlib
import struct

import msgspec

from gateway.errors import FormatError

MAX_QUOTE_BYTES = 65_536
INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
TEE_SGX, TEE_TDX = 0x00, 0x81
#: (version, TEE type) that are read. SGX quotes of version 4 and 5 exist on paper; none was seen.
_KINDS = {(3, TEE_SGX), (4, TEE_TDX), (5, TEE_TDX)}
_V5_BODIES = {2: 584, 3: 648}
_ENCLAVE_REPORT, _TD_REPORT = 384, 584
_QE_REPORT_DATA, _PCK_CHAIN = 6, 5

#: TDATTRIBUTES. The whole first byte (TUD) is for TDs under debug: "if any of these bits is set, the TD is untrusted".
TD_DEBUG, TD_PROFILING, TD_SERVICE_EXT, TD_SEPT_VE_DISABLE, TD_MIGRATABLE = 0xFF, 0x70, 1 << 17, 1 << 28, 1 << 29
_DEBUG_BIT = 1
#: All bits with a name: those above, and ICSSD, LASS, PKS, KL, TPA, PERFMON.
_TD_NAMED = (
    _DEBUG_BIT | TD_PROFILING | TD_SERVICE_EXT | TD_SEPT_VE_DISABLE | TD_MIGRATABLE
    | 1 << 16 | 1 << 27 | 1 << 30 | 1 << 31 | 1 << 62 | 1 << 63
)  # fmt: skip
_SGX_DEBUG = 1 << 1


class TdReport(msgspec.Struct, frozen=True):
    """The TDREPORT of a trust domain, field by field; the last two exist in version 1.5 only."""

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    rtmr3: bytes
    report_data: bytes
    tee_tcb_svn2: bytes | None = None
    mr_service_td: bytes | None = None

    @property
    def attributes(self) -> int:
        return int.from_bytes(self.td_attributes, "little")

    @property
    def debug(self) -> bool:
        """Whether the host may look into the TD: the debug bit, or any other of its byte."""
        return bool(self.attributes & TD_DEBUG)

    @property
    def profiling(self) -> bool:
        """Whether the host may profile the TD: HGS+, performance or platform monitoring."""
        return bool(self.attributes & TD_PROFILING)

    @property
    def service_td_ext(self) -> bool:
        return bool(self.attributes & TD_SERVICE_EXT)

    @property
    def sept_ve_disable(self) -> bool:
        return bool(self.attributes & TD_SEPT_VE_DISABLE)

    @property
    def migratable(self) -> bool:
        return bool(self.attributes & TD_MIGRATABLE)

    @property
    def unnamed_attributes(self) -> bool:
        """Whether a bit of TDATTRIBUTES is set that the layout above gives no name to."""
        return bool(self.attributes & ~_TD_NAMED)

    @property
    def service_td(self) -> bool:
        return self.mr_service_td is not None and any(self.mr_service_td)


class EnclaveReport(msgspec.Struct, frozen=True):
    """The REPORT of an SGX enclave, the quoting enclave's own included. `raw` is what its signature covers."""

    raw: bytes
    cpu_svn: bytes
    misc_select: bytes
    attributes: bytes
    mr_enclave: bytes
    mr_signer: bytes
    isv_prod_id: int
    isv_svn: int
    report_data: bytes

    @property
    def debug(self) -> bool:
        return bool(self.attributes[0] & _SGX_DEBUG)


class Quote(msgspec.Struct, frozen=True):
    """A quote taken apart. `signed` is the region that the attestation key signs; `data` the quote without padding."""

    version: int
    data: bytes
    signed: bytes
    body: TdReport | EnclaveReport
    signature: bytes
    attestation_key: bytes
    qe_report: EnclaveReport
    qe_report_signature: bytes
    qe_auth: bytes
    pck_chain: bytes

    @property
    def tee(self) -> str:
        return "tdx" if isinstance(self.body, TdReport) else "sgx"

    @property
    def identity(self) -> str:
        """SHA-256 over what is signed and the key that signed it, lower-case hex: the same for every padded copy."""
        return hashlib.sha256(self.signed + self.attestation_key).hexdigest()


def is_sgx(data: bytes) -> bool:
    """Whether the header says SGX. Only a label for what may turn out not to be a quote at all."""
    return data[4:8] == bytes(4)


class _Cursor:
    """Takes fields off the front of `data`; a field that runs past the end is a `FormatError` with `reason`."""

    def __init__(self, data: bytes, reason: str) -> None:
        self.data, self.at, self.reason = data, 0, reason

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise FormatError(f"a field of {size} bytes runs past the end at {len(self.data)}", reason=self.reason)
        field, self.at = self.data[self.at : end], end
        return field

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "little")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)


def parse_quote(data: bytes) -> Quote:
    """Take a quote apart. Raises `FormatError` whose reason is one of the `quote_...` words."""
    if len(data) > MAX_QUOTE_BYTES:
        raise FormatError(f"a quote has {len(data)} bytes; at most {MAX_QUOTE_BYTES} are read", reason="quote_too_long")
    if len(data) < 48 + _ENCLAVE_REPORT + 4:
        raise FormatError(f"{len(data)} bytes are too few for a quote", reason="quote_too_short")
    version, tee = _header(data)
    cursor = _Cursor(data, "quote_truncated")
    cursor.take(48)
    body = cursor.take(_body_size(cursor, version, tee))
    signed = data[: cursor.at]
    signature = cursor.take(cursor.u32())
    if any(cursor.data[cursor.at :]):
        raise FormatError("bytes other than zero follow the signature data", reason="quote_trailing_bytes")
    report = enclave_report(body) if tee == TEE_SGX else _td_report(body)
    return _with_signature(version, data[: cursor.at], signed, report, signature)


def _header(data: bytes) -> tuple[int, int]:
    version, key_type, tee = struct.unpack_from("<HHI", data)
    if key_type != 2:
        raise FormatError(f"the attestation key type is {key_type}, not 2", reason="quote_unsupported_key_type")
    if data[12:28] != INTEL_QE_VENDOR:
        raise FormatError("the quoting enclave is not Intel's", reason="quote_bad_qe_vendor")
    if (version, tee) not in _KINDS:
        raise FormatError(f"version {version} with TEE type {tee:#x} is not read", reason="quote_bad_version_tee")
    return version, tee


def _body_size(cursor: _Cursor, version: int, tee: int) -> int:
    if version != 5:
        return _TD_REPORT if tee == TEE_TDX else _ENCLAVE_REPORT
    kind, size = cursor.u16(), cursor.u32()
    if _V5_BODIES.get(kind) != size:
        raise FormatError(f"body type {kind} of {size} bytes is not read", reason="quote_bad_body_type")
    return size


_TD_SIZES = (16, 48, 48, 8, 8, 8, *[48] * 8, 64)


def _td_report(body: bytes) -> TdReport:
    cursor = _Cursor(body, "quote_truncated")
    sizes = _TD_SIZES if len(body) == _TD_REPORT else (*_TD_SIZES, 16, 48)
    return TdReport(*[cursor.take(size) for size in sizes])


def enclave_report(raw: bytes) -> EnclaveReport:
    """The REPORT of exactly 384 bytes; its reserved fields are covered by its signature and not looked at."""
    product, svn = struct.unpack_from("<HH", raw, 256)
    return EnclaveReport(
        raw, raw[:16], raw[16:20], raw[48:64], raw[64:96], raw[128:160], product, svn, raw[320:_ENCLAVE_REPORT]
    )


def _with_signature(version: int, data: bytes, signed: bytes, body: TdReport | EnclaveReport, block: bytes) -> Quote:
    """Read the signature data; every length in it must come out even."""
    outer = _Cursor(block, "quote_bad_cert_len")
    signature, key = outer.take(64), outer.take(64)
    if version != 3:
        kind, size = outer.u16(), outer.u32()
        if kind != _QE_REPORT_DATA or size != len(block) - outer.at:
            raise FormatError(f"certification data of type {kind} has {size} bytes", reason="quote_bad_cert_data")
    qe_report, qe_signature = outer.take(_ENCLAVE_REPORT), outer.take(64)
    auth = outer.take(outer.u16())
    kind, size = outer.u16(), outer.u32()
    if kind != _PCK_CHAIN:
        raise FormatError(f"certification data of type {kind} holds no PCK chain", reason="quote_no_pck_chain")
    if size != len(block) - outer.at:
        raise FormatError(f"a PCK chain of {size} bytes does not fill its place", reason="quote_bad_cert_len")
    return Quote(
        version, data, signed, body, signature, key, enclave_report(qe_report), qe_signature, auth, outer.rest()
    )
