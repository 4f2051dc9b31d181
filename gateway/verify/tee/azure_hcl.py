"""The evidence of an Azure confidential VM, taken apart: the JSON of hex, the HCL blob, the TD quote's REPORT_DATA.

    hcl_report        the HCL blob: header 32 ("HCLA", version 1 or 2, size, 2, zeros) | hardware report 1184
                      | size, version 1, type 2 SNP or 4 TDX, hash 1 SHA-256 2 SHA-384 3 SHA-512, length, u32 each
                      | runtime data (JSON) | zeros
    quote_message     TPMS_ATTEST
    quote_signature   RSASSA with SHA-256
    pcrs_sha256       list of the SHA-256 bank's values
    vcek_der, ask_der on SNP
    td_quote          on TDX

Nothing is judged here: what the parts prove about each other is `azure_vtpm`'s.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError

from .findings import MAX_EVIDENCE_BYTES, NotAuthentic
from .tpm import TpmQuote, parse_attest, parse_pcrs, unhex

MAX_HCL_BYTES = 16_384
_HEADER = struct.Struct("<4sIII16s")
_REPORT_BYTES = 1184
_RUNTIME_HEADER = struct.Struct("<5I")
_TYPES = {2: "snp", 4: "tdx"}
_HASHES = {1: "sha256", 2: "sha384", 3: "sha512"}
#: Where a TD report (TDREPORT_STRUCT) has its REPORTDATA.
TDREPORT_DATA = slice(128, 192)


class Hcl(msgspec.Struct, frozen=True):
    """A parsed HCL blob. `kind` is snp or tdx; `runtime` the JSON's bytes, `runtime_hash` as REPORT_DATA has it."""

    version: int
    report: bytes
    kind: str
    runtime: bytes
    runtime_hash: bytes


class Evidence(msgspec.Struct, frozen=True):
    """The parsed evidence. On SNP `certificates` are VCEK and ASK; on TDX they are None and `td_quote` is there."""

    hcl: Hcl
    quote: TpmQuote
    quote_message: bytes
    quote_signature: bytes
    pcrs: Mapping[int, bytes]
    certificates: tuple[bytes, bytes] | None
    td_quote: bytes | None


def parse_hcl(data: bytes) -> Hcl:
    """The HCL blob in `data`. Raises `NotAuthentic` or `FormatError`."""
    if data[:4] != b"HCLA":
        raise NotAuthentic("the HCL report does not begin with HCLA", reason="hcl_bad_magic")
    start = _HEADER.size + _REPORT_BYTES + _RUNTIME_HEADER.size
    if not start <= len(data) <= MAX_HCL_BYTES:
        raise NotAuthentic("the HCL report is too short or too long", reason="hcl_bad_length", found=str(len(data)))
    _, version, size, request, reserved = _HEADER.unpack_from(data)
    used, layout, kind, algorithm, length = _RUNTIME_HEADER.unpack_from(data, start - _RUNTIME_HEADER.size)
    if (
        version not in (1, 2)
        or request != 2
        or any(reserved)
        or layout != 1
        or kind not in _TYPES
        or algorithm not in _HASHES
    ):
        raise NotAuthentic("a field of the HCL report is not known", reason="hcl_bad_runtime_data")
    runtime = data[start : start + length]
    if len(runtime) != length or used != length + _RUNTIME_HEADER.size or size != start + length:
        raise NotAuthentic("the lengths of the HCL report disagree", reason="hcl_bad_runtime_data")
    if any(data[start + length :]):
        raise NotAuthentic("bytes after the runtime data are not zero", reason="hcl_trailing_bytes")
    return Hcl(
        version,
        data[_HEADER.size : _HEADER.size + _REPORT_BYTES],
        _TYPES[kind],
        runtime,
        hashlib.new(_HASHES[algorithm], runtime).digest(),
    )


def parse_evidence(data: bytes) -> Evidence:
    """The evidence in `data`. Members that are not named above are not read. Raises `FormatError`."""
    members = json_object(strict_json(data, max_bytes=MAX_EVIDENCE_BYTES, max_depth=4), "the evidence")
    hcl = parse_hcl(_blob(members, "hcl_report"))
    snp = hcl.kind == "snp"
    message = _blob(members, "quote_message")
    td_quote = None if snp else _blob(members, "td_quote")
    if td_quote is not None:
        td_report_data(td_quote)
    return Evidence(
        hcl=hcl,
        quote=parse_attest(message),
        quote_message=message,
        quote_signature=_blob(members, "quote_signature"),
        pcrs=parse_pcrs(members.get("pcrs_sha256")),
        certificates=(_blob(members, "vcek_der"), _blob(members, "ask_der")) if snp else None,
        td_quote=td_quote,
    )


def _blob(members: Mapping[str, object], name: str) -> bytes:
    return unhex(members.get(name), name)


def json_object(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise FormatError(f"{what} is not a JSON object")
    return value


def td_report_data(quote: bytes) -> bytes:
    """REPORT_DATA of a TD quote of version 4 (body at 48) or 5 (body at 54, after its type and size)."""
    body = {4: 48, 5: 54}.get(int.from_bytes(quote[:2], "little"))
    if body is None or quote[4:8] != b"\x81\0\0\0" or len(quote) < body + 584:
        raise FormatError("the TD quote is not one of version 4 or 5")
    return quote[body + 520 : body + 584]
