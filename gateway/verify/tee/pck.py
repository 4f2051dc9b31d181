"""What a PCK certificate says of the machine that it was made for: Intel's SGX extension, 1.2.840.113741.1.13.1.

A SEQUENCE of {OID, value} pairs (Intel, "SGX PCK Certificate and CRL Profile Specification", section 1.3.5):

    .1 PPID, 16 bytes               .4 FMSPC, 6 bytes                  .7 configuration, three BOOLEANs:
    .2 TCB: .1 to .16 components    .5 SGX type, ENUMERATED               .1 dynamic platform, .2 cached keys, .3 SMT
       u8, .17 PCESVN u16,          .6 platform instance id, 16 bytes
       .18 CPUSVN 16 bytes          (.6 and .7 only under the Platform CA)
    .3 PCEID, 2 bytes
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import msgspec
from cryptography import x509

from gateway.errors import FormatError

SGX_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
_PREFIX = bytes.fromhex("2a864886f84d010d01")
_BOOLEAN, _INTEGER, _OCTETS, _OID, _ENUMERATED, _SEQUENCE = 0x01, 0x02, 0x04, 0x06, 0x0A, 0x30

_Values = dict[bytes, tuple[int, bytes]]


class Pck(msgspec.Struct, frozen=True):
    """The members of the extension. The last four are None under the Processor CA; nothing rests on `sgx_type`."""

    ppid: bytes
    components: bytes
    pce_svn: int
    cpu_svn: bytes
    pce_id: bytes
    fmspc: bytes
    sgx_type: int | None = None
    platform_instance_id: bytes | None = None
    dynamic_platform: bool | None = None
    cached_keys: bool | None = None
    smt_enabled: bool | None = None

    @property
    def machine_id(self) -> str:
        """SHA-256 of the PPID, lower-case hex: the same machine gives the same, whatever it runs."""
        return hashlib.sha256(self.ppid).hexdigest()


@lru_cache(maxsize=64)
def read_pck(certificate: x509.Certificate) -> Pck:
    """The SGX extension of a PCK certificate. Raises `FormatError` with the reason `pck_malformed`."""
    try:
        extension = certificate.extensions.get_extension_for_oid(SGX_EXTENSION).value
    except x509.ExtensionNotFound:
        raise _bad("the certificate has no SGX extension") from None
    if not isinstance(extension, x509.UnrecognizedExtension):  # pragma: no cover  a library that reads it would say so
        raise _bad("the SGX extension is not raw DER")
    return _pck(_only(extension.value, _SEQUENCE))


def _pck(content: bytes) -> Pck:
    top = _pairs(content, b"")
    tcb = _pairs(_value(top, 2, _SEQUENCE), b"\x02")
    flags = _pairs(_value(top, 7, _SEQUENCE), b"\x07") if b"\x07" in top else {}
    return Pck(
        ppid=_octets(top, 1, 16),
        components=bytes(_number(tcb, place, 0xFF) for place in range(1, 17)),
        pce_svn=_number(tcb, 17, 0xFFFF),
        cpu_svn=_octets(tcb, 18, 16),
        pce_id=_octets(top, 3, 2),
        fmspc=_octets(top, 4, 6),
        sgx_type=_number(top, 5, 0xFF, _ENUMERATED) if b"\x05" in top else None,
        platform_instance_id=_octets(top, 6, 16) if b"\x06" in top else None,
        dynamic_platform=_flag(flags, 1),
        cached_keys=_flag(flags, 2),
        smt_enabled=_flag(flags, 3),
    )


def _bad(message: str) -> FormatError:
    return FormatError(message, reason="pck_malformed")


def _pairs(content: bytes, below: bytes) -> _Values:
    """The {OID, value} pairs of `content`, by the OID's arcs below the extension's own and `below`."""
    found: _Values = {}
    for tag, pair in _elements(content):
        parts = _elements(pair) if tag == _SEQUENCE else []
        if len(parts) != 2 or parts[0][0] != _OID or not parts[0][1].startswith(_PREFIX + below):
            raise _bad("the SGX extension holds something that is no pair of its own")
        arc = parts[0][1][len(_PREFIX + below) :]
        if arc in found:
            raise _bad("the SGX extension names a member twice")
        found[arc] = parts[1]
    return found


def _value(pairs: _Values, arc: int, tag: int) -> bytes:
    found = pairs.get(bytes([arc]))
    if found is None or found[0] != tag:
        raise _bad(f"the SGX extension's member {arc} is missing or of another type")
    return found[1]


def _octets(pairs: _Values, arc: int, size: int) -> bytes:
    value = _value(pairs, arc, _OCTETS)
    if len(value) != size:
        raise _bad(f"the SGX extension's member {arc} has {len(value)} bytes, not {size}")
    return value


def _number(pairs: _Values, arc: int, most: int, tag: int = _INTEGER) -> int:
    value = _value(pairs, arc, tag)
    if not value or value[0] >= 0x80 or (len(value) > 1 and value[0] == 0 and value[1] < 0x80):
        raise _bad(f"the SGX extension's member {arc} is no plain number")
    number = int.from_bytes(value, "big")
    if number > most:
        raise _bad(f"the SGX extension's member {arc} is over {most}")
    return number


def _flag(pairs: _Values, arc: int) -> bool | None:
    if bytes([arc]) not in pairs:
        return None
    value = _value(pairs, arc, _BOOLEAN)
    if value not in (b"\x00", b"\xff"):
        raise _bad(f"the SGX extension's member {arc} is no boolean")
    return value == b"\xff"


def _only(der: bytes, tag: int) -> bytes:
    """The content of the one element that `der` consists of."""
    elements = _elements(der)
    if len(elements) != 1 or elements[0][0] != tag:
        raise _bad("the SGX extension is not one sequence")
    return elements[0][1]


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    """The DER elements that stand side by side in `der`, as (tag, content); lengths of at most two bytes, minimal."""
    found, at = [], 0
    while at < len(der):
        head = der[at : at + 4].ljust(4, b"\0")
        tag, size, start = head[0], head[1], at + 2
        if size == 0x81 and head[2] >= 0x80:
            size, start = head[2], at + 3
        elif size == 0x82 and head[2] > 0:
            size, start = int.from_bytes(head[2:4], "big"), at + 4
        elif size >= 0x80:
            raise _bad("the SGX extension has a length that DER does not allow")
        if start + size > len(der):
            raise _bad("the SGX extension ends within an element")
        found.append((tag, der[start : start + size]))
        at = start + size
    return found
