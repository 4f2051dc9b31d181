"""The confidential computing event log (CCEL): the binary TCG log that TDX firmware and boot loaders leave.

    TCG_PCR_EVENT    index u32 | type u32 = 3 | SHA-1 20, zero | size u32 | "Spec ID Event03" header
    TCG_PCR_EVENT2   index u32 | type u32 | count u32 | count x {algorithm u16, digest} | size u32 | event   (repeated)
    end              0xFF or 0x00 bytes up to the end of the ACPI table's area, or nothing

All integers are little-endian. The index counts measurement registers: 0 is MRTD, which no log extends, and 1 to 4 are
RTMR0 to RTMR3 (UEFI 2.10 section 38.4.1). Layout: TCG PC Client Platform Firmware Profile, section 10.

The replay shows that the digests are what was measured. The event bytes beside a digest are only believed where the
digest is their SHA-384 (`measured`); for most boot events it is not, and nothing here reads names out of them.
"""

from __future__ import annotations

import hashlib
import struct

import msgspec

from gateway.errors import FormatError
from gateway.model.tee import TeeClaims
from gateway.model.verdict import Check

from .outcomes import holds, refused, unknown
from .rtmr import compare_registers, extend

MAX_BYTES = 1 << 20
MAX_EVENTS = 4096
#: The largest event that is read; UEFI variables with key databases are a few kB.
MAX_EVENT_BYTES = 256 * 1024
NO_ACTION = 3
SHA384 = 0x000C
_SIGNATURE = b"Spec ID Event03\0"
#: Digest sizes of the TCG algorithm registry that a log may declare; any other is refused, for its size is unknown.
_SIZES = {0x0004: 20, 0x000B: 32, SHA384: 48, 0x000D: 64, 0x0012: 32}
_ENDS = (b"\xff", b"\0")


class CcelEvent(msgspec.Struct, frozen=True):
    """One event. `register` is the RTMR that it extends, None for one that extends nothing."""

    register: int | None
    type: int
    digest: bytes
    data: bytes

    @property
    def measured(self) -> bool:
        """Whether the digest is that of `data`, so that a replay proves `data` too."""
        return self.register is not None and hashlib.sha384(self.data).digest() == self.digest


def parse_ccel(data: bytes) -> tuple[CcelEvent, ...]:
    """Every event after the header, in order. Raises `FormatError`."""
    if len(data) > MAX_BYTES:
        raise FormatError(f"a CCEL of {len(data)} bytes is over the limit of {MAX_BYTES}")
    reader = _Reader(data)
    algorithms = _header(reader)
    events: list[CcelEvent] = []
    while not reader.at_end():
        if len(events) == MAX_EVENTS:
            raise FormatError(f"a CCEL has more than {MAX_EVENTS} events")
        events.append(_event(reader, algorithms))
    return tuple(events)


def replay_ccel(events: tuple[CcelEvent, ...]) -> tuple[bytes, bytes, bytes, bytes]:
    """RTMR0 to RTMR3 as the events would leave them."""
    registers = [bytes(48)] * 4
    for event in events:
        if event.register is not None:
            registers[event.register] = extend(registers[event.register], event.digest)
    return registers[0], registers[1], registers[2], registers[3]


def appraise_ccel(claims: TeeClaims, ccel: bytes | None) -> tuple[Check, Check]:
    """The checks `rtmr_log` and `rtmr_replay` for a guest whose log is a CCEL (0G's `tapp`; docs/verification.md).

    They prove the digests and nothing by name: whether RTMR0 to RTMR3 are good is a question for reference values.
    """
    if not claims.authentic:
        return unknown("rtmr_log", "quote_not_authentic"), unknown("rtmr_replay", "quote_not_authentic")
    if ccel is None:
        return unknown("rtmr_log", "no_event_log"), unknown("rtmr_replay", "no_event_log")
    try:
        events = parse_ccel(ccel)
    except FormatError as error:
        return refused("rtmr_log", error), unknown("rtmr_replay", "log_not_read")
    named = frozenset(e.register for e in events if e.register is not None)
    found = f"{len(events)} events, {sum(e.measured for e in events)} with their own digest"
    return holds("rtmr_log", found), compare_registers(claims.measurements, replay_ccel(events), named)


def _header(reader: _Reader) -> dict[int, int]:
    """The algorithms that the log declares, with their digest sizes."""
    index, kind = reader.u32(), reader.u32()
    if index > 1 or kind != NO_ACTION or any(reader.take(20)):
        raise FormatError("a CCEL begins with the specification's event")
    header = _Reader(reader.take(reader.u32()))
    if header.take(16) != _SIGNATURE:
        raise FormatError("a CCEL is not of the form Spec ID Event03")
    header.take(8)  # platform class, version, errata, size of a native integer: nothing depends on them
    algorithms = {}
    for _ in range(_bounded(header.u32(), 8, "algorithms")):
        algorithm, size = header.u16(), header.u16()
        if algorithm in algorithms or _SIZES.get(algorithm) != size:
            raise FormatError(f"a CCEL declares algorithm {algorithm:#x} twice or with digests of {size} bytes")
        algorithms[algorithm] = size
    header.take(header.take(1)[0])
    if header.left() or SHA384 not in algorithms:
        raise FormatError("a CCEL's header has bytes left over, or no SHA-384")
    return algorithms


def _event(reader: _Reader, algorithms: dict[int, int]) -> CcelEvent:
    index, kind = reader.u32(), reader.u32()
    digests: dict[int, bytes] = {}
    for _ in range(_bounded(reader.u32(), len(algorithms), "digests")):
        algorithm = reader.u16()
        if algorithm in digests or algorithm not in algorithms:
            raise FormatError(f"an event of a CCEL has algorithm {algorithm:#x} twice or undeclared")
        digests[algorithm] = reader.take(algorithms[algorithm])
    data = reader.take(_bounded(reader.u32(), MAX_EVENT_BYTES, "bytes in an event"))
    if SHA384 not in digests:
        raise FormatError("an event of a CCEL has no SHA-384 digest")
    if kind == NO_ACTION:  # informative: extends nothing, whatever digest it carries
        return CcelEvent(None, kind, digests[SHA384], data)
    if not 1 <= index <= 4:
        raise FormatError(f"an event of a CCEL extends register {index}; 1 to 4 are RTMR0 to RTMR3")
    return CcelEvent(index - 1, kind, digests[SHA384], data)


def _bounded(value: int, largest: int, what: str) -> int:
    if value > largest:
        raise FormatError(f"a CCEL has {value} {what}; at most {largest} are read")
    return value


class _Reader:
    """A cursor over bytes that never reads past their end."""

    __slots__ = ("data", "offset")

    def __init__(self, data: bytes) -> None:
        self.data, self.offset = data, 0

    def take(self, count: int) -> bytes:
        end = self.offset + count
        if end > len(self.data):
            raise FormatError(f"a CCEL ends inside a field (byte {len(self.data)})")
        taken, self.offset = self.data[self.offset : end], end
        return taken

    def u16(self) -> int:
        return int(struct.unpack("<H", self.take(2))[0])

    def u32(self) -> int:
        return int(struct.unpack("<I", self.take(4))[0])

    def left(self) -> int:
        return len(self.data) - self.offset

    def at_end(self) -> bool:
        """Whether only filling is left: the area is larger than the log, and firmware fills it with one byte."""
        rest = self.data[self.offset :]
        # no event begins with index 0xFFFFFFFF, or with index 0 and type 0: four equal bytes are enough to tell, and
        # all of the rest must then be the same, so that nothing hides behind the end
        if len(rest) >= 8 and rest[:8] not in (b"\xff" * 8, bytes(8)):
            return False
        if any(rest.count(end) == len(rest) for end in _ENDS):
            return True
        raise FormatError("a CCEL has bytes behind its end")
