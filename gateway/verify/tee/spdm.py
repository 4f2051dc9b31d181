"""SPDM measurement reports as NVIDIA's devices give them: bytes in, fields out, nothing judged.

    request   11 e0 param1 param2 | nonce 32 | slot 1                                     37 bytes
    response  11 60 param1 param2 | blocks u8 | record length u24
              blocks { index u8, specification u8 = 1, size u16, type u8, value size u16, value }
              responder nonce 32 | opaque length u16 | opaque { type u16, size u16, value }
              signature 96: ECDSA P-384 with SHA-384, r then s, over everything before it, request included

Integers are little-endian, the signature's big-endian. Nothing may follow the signature, for the devices' own tools
take the last 96 bytes whatever comes before.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import msgspec

from .findings import NotAuthentic

REQUEST_BYTES = 37
SIGNATURE_BYTES = 96
MAX_REPORT_BYTES = 65_536
_NONCES_AND_LENGTH = 32 + 2

DRIVER_VERSION, VBIOS_VERSION, NVDEC0_STATUS, CHIP_SKU = 3, 6, 11, 15
PROJECT, PROJECT_SKU, FWID, PROTECTED_PCIE, CHIP_INFO = 17, 18, 20, 21, 35


class Report(msgspec.Struct, frozen=True):
    """A report taken apart. `blocks` are measurement values by index, `opaque` the vendor's fields by type."""

    nonce: bytes
    slot: int
    responder_nonce: bytes
    blocks: Mapping[int, bytes]
    opaque: Mapping[int, bytes]
    signed: bytes
    signature: bytes

    def text(self, field: int) -> str | None:
        """An opaque field that holds text, its padding of zeros removed; None when absent or not printable ASCII."""
        value = self.opaque.get(field)
        if value is None:
            return None
        text = value.rstrip(b"\0")
        return text.decode() if text.isascii() and text.decode().isprintable() and len(text) <= 64 else None


def parse_report(data: bytes) -> Report:
    """Take a report apart (DSP0274 1.1, GET_MEASUREMENTS and MEASUREMENTS). Raises `NotAuthentic` nv_* for anything
    but the exact form."""
    if not REQUEST_BYTES + 8 + _NONCES_AND_LENGTH + SIGNATURE_BYTES <= len(data) <= MAX_REPORT_BYTES:
        raise NotAuthentic(f"{len(data)} bytes are no report", reason="nv_too_short")
    request, response = data[:REQUEST_BYTES], data[REQUEST_BYTES:]
    if request[:2] != b"\x11\xe0":
        raise NotAuthentic("the report does not begin with a request for measurements", reason="nv_bad_request")
    if response[:2] != b"\x11\x60":
        raise NotAuthentic("the request is not followed by measurements", reason="nv_bad_response")
    end = 8 + int.from_bytes(response[5:8], "little")
    if end + _NONCES_AND_LENGTH + SIGNATURE_BYTES > len(response):
        raise NotAuthentic("the measurement record is longer than the report", reason="nv_truncated")
    blocks = _blocks(response[8:end], response[4])
    opaque_at = end + _NONCES_AND_LENGTH
    opaque_end = opaque_at + int.from_bytes(response[end + 32 : opaque_at], "little")
    if opaque_end + SIGNATURE_BYTES != len(response):
        raise NotAuthentic("the report does not end where its lengths say", reason="nv_trailing_bytes")
    return Report(
        nonce=request[4:36],
        slot=request[36],
        responder_nonce=response[end : end + 32],
        blocks=blocks,
        opaque=_opaque(response[opaque_at:opaque_end]),
        signed=data[:-SIGNATURE_BYTES],
        signature=data[-SIGNATURE_BYTES:],
    )


def vbios_version(report: Report) -> str | None:
    """The firmware's version as manifests write it, `96.00.5E.00.01`; None when absent or of another form.

    A GPU gives eight bytes: the first four hold the first four groups backwards, the fifth byte the fifth group.
    A switch gives the text itself.
    """
    value = report.opaque.get(VBIOS_VERSION)
    if value is None:
        return None
    if len(value) != 8:
        return report.text(VBIOS_VERSION)
    return ".".join(f"{byte:02X}" for byte in (*value[3::-1], value[4]))


def _blocks(record: bytes, count: int) -> dict[int, bytes]:
    blocks: dict[int, bytes] = {}
    at = 0
    while at < len(record):
        if at + 7 > len(record):
            raise NotAuthentic("a measurement block is cut off", reason="nv_bad_block")
        index, specification, size, _kind, value_size = struct.unpack_from("<BBHBH", record, at)
        if specification != 1 or value_size != size - 3 or at + 4 + size > len(record):
            raise NotAuthentic(f"measurement block {index} is malformed", reason="nv_bad_block")
        if index in blocks:
            raise NotAuthentic(f"measurement block {index} comes twice", reason="nv_duplicate_block")
        blocks[index] = record[at + 7 : at + 4 + size]
        at += 4 + size
    if len(blocks) != count:
        raise NotAuthentic(f"{len(blocks)} measurement blocks, {count} announced", reason="nv_block_count")
    return blocks


def _opaque(data: bytes) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise NotAuthentic("an opaque field is cut off", reason="nv_bad_opaque")
        kind, size = struct.unpack_from("<HH", data, at)
        if kind in fields or at + 4 + size > len(data):
            raise NotAuthentic(f"opaque field {kind} is malformed or comes twice", reason="nv_bad_opaque")
        fields[kind] = data[at + 4 : at + 4 + size]
        at += 4 + size
    return fields
