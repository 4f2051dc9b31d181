"""Event logs of dstack guests: a strict reader, and the replay of RTMR0 to RTMR3.

    [{"imr": 3, "event_type": 134217729, "digest": "<96 hex>", "event": "app-id", "event_payload": "<hex>"}, …]

The log is untrusted text that comes beside a quote. It says what was measured; the registers in the quote say whether
that is true: RTMR_i = SHA-384(RTMR_i || digest) over the entries of register i, from 48 zero bytes. A digest alone
carries no name, so names are believed by these rules and no others:

- A name is read from entries of type 0x08000001 in RTMR3 only, and its digest is computed from name and payload.
- Every entry of RTMR3 is of that type. An entry of another type has a digest that anyone may have put beside any text:
  one such entry could carry a forged name, or hide the genuine `system-ready`.
- The labels that newer guests give to the ACPI entries of RTMR0 (`acpi-loader` and its kin) are passed over, unread.
- Only entries before the first `system-ready` are the system's. What follows, the application wrote.
- Among the system's, a name stands once. `init-script-hash` alone may repeat: the guest writes one a script.

Digest of a runtime event, SHA-384 of (docs/verification.md; dstack `cc-eventlog/src/runtime_events.rs`):

    v1   01 00 00 08 || ":" || name || ":" || payload
    v2   JCS of {"name": name, "payload": "<hex>", "type": 134217729}

An entry may bring these bytes, as hex, in a member `preimage`: then they have to give its digest.

The two preimages differ in their first byte, so a digest that is stated says itself which one it is. One that is left
empty (the `tdx-lite` form) is computed, by the version that the entry or the caller names. In v1 a name with a colon
could be cut at another place with the same digest, so such names are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated

import msgspec

from gateway.crypto.canonical import jcs, strict_json
from gateway.errors import FormatError
from gateway.model.verdict import Check
from gateway.text import plain

from .findings import NotAuthentic
from .outcomes import fails, holds, unknown, warns

RUNTIME_EVENT = 0x08000001
#: The register that the guest extends with named events.
RUNTIME_REGISTER = 3
SYSTEM_READY = "system-ready"
MAX_LOG_BYTES = 1 << 20
MAX_EVENTS = 2048
MAX_NAME = 128
MAX_PAYLOAD = 64 * 1024

_REPEATABLE = "init-script-hash"
#: Register, type and names of the boot entries that a guest labels itself (dstack `cc-eventlog/src/tdx.rs`).
_ACPI = 0, 10
_ACPI_LABELS = frozenset(("acpi-loader", "acpi-rsdp", "acpi-tables"))
_TYPE = RUNTIME_EVENT.to_bytes(4, "little")


class Event(msgspec.Struct, frozen=True):
    """One entry. `digest` is what the register is extended with, 48 bytes; a boot event has no name."""

    imr: int
    type: int
    digest: bytes
    name: str
    payload: bytes


class _Entry(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """An entry as it is written, its members in dstack's order."""

    imr: Annotated[int, msgspec.Meta(ge=0, le=3)]
    event_type: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
    digest: str
    event: Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
    event_payload: str
    version: Annotated[int, msgspec.Meta(ge=1, le=2)] | None = None
    preimage: str | None = None


_decode = msgspec.json.Decoder(list[_Entry]).decode
_encode = msgspec.json.Encoder().encode


class EventLog(msgspec.Struct, frozen=True):
    """A log that holds together in itself. Nothing in it is true until a replay equals a genuine quote's registers.

    `system` are the named events before the first `system-ready`, that one included; `application` those after it.
    `computed` counts the digests that the log left empty.
    """

    events: tuple[Event, ...]
    system: tuple[Event, ...]
    application: tuple[Event, ...]
    computed: int

    @property
    def ready(self) -> bool:
        """Whether the guest had finished starting, so that there is a line between its events and others'."""
        return bool(self.system) and self.system[-1].name == SYSTEM_READY

    def payload(self, name: str) -> bytes | None:
        """The payload of the one system event of that name, None where there is none."""
        return next((e.payload for e in self.system if e.name == name), None)

    def payloads(self, name: str) -> tuple[bytes, ...]:
        """The payloads of every system event of that name, in order."""
        return tuple(e.payload for e in self.system if e.name == name)

    def registers_named(self) -> frozenset[int]:
        """The registers that at least one entry extends."""
        return frozenset(e.imr for e in self.events)


def parse_event_log(data: bytes, *, version: int = 1) -> EventLog:
    """Read the JSON list, or the JSON string that holds one. `version` is for digests that are left empty.

    Raises `FormatError` (`malformed`) for anything that is no such list, `NotAuthentic` with `event_digest`,
    `event_relabelled`, `event_name` or `event_twice` for a log that contradicts itself.
    docs/verification.md.
    """
    entries = _entries(data)
    events = [_checked(entry, index, version) for index, entry in enumerate(entries)]
    system, application = _split(events)
    return EventLog(tuple(events), system, application, sum(not entry.digest for entry in entries))


def event_digest(name: str, payload: bytes, version: int = 1) -> bytes:
    """The 48 bytes with which a guest extends RTMR3 for a named event. Raises `FormatError` for another version."""
    if version == 1:
        return hashlib.sha384(b":".join((_TYPE, name.encode(), payload))).digest()
    if version == 2:
        document = {"name": name, "payload": payload.hex(), "type": RUNTIME_EVENT}
        return hashlib.sha384(jcs(document)).digest()
    raise FormatError("an event log is of version 1 or 2")


def replay(log: EventLog) -> tuple[bytes, bytes, bytes, bytes]:
    """RTMR0 to RTMR3 as the entries of the log would leave them."""
    registers = [bytes(48)] * 4
    for event in log.events:
        registers[event.imr] = extend(registers[event.imr], event.digest)
    return registers[0], registers[1], registers[2], registers[3]


def extend(register: bytes, digest: bytes) -> bytes:
    """What a register of 48 bytes becomes (TDX module, TDG.MR.RTMR.EXTEND)."""
    return hashlib.sha384(register + digest).digest()


def compare_registers(
    measurements: Mapping[str, str], replayed: tuple[bytes, bytes, bytes, bytes], named: frozenset[int]
) -> Check:
    """The check `rtmr_replay`: four replayed registers against a quote's, which are lower-case hex.

    `named` are the registers that the log has entries for. A log without any entry for some of RTMR0 to RTMR2 leaves
    those to `os_image`, and is a warning; one that disagrees with a register is refused.
    """
    quoted = [measurements.get(f"rtmr{i}") for i in range(4)]
    if None in quoted:
        return unknown("rtmr_replay", "no_registers")
    differ = [i for i in range(4) if replayed[i].hex() != quoted[i]]
    if 3 in differ or any(i in named for i in differ):
        first = next(i for i in differ if i == 3 or i in named)
        found, expected = f"RTMR{first} {replayed[first].hex()[:16]}…", f"{str(quoted[first])[:16]}…"
        return fails("rtmr_replay", "replay_mismatch", found, expected)
    if differ:
        missing = ", ".join(f"RTMR{i}" for i in differ)
        return warns("rtmr_replay", "boot_log_missing", f"no entries for {missing}")
    return holds("rtmr_replay", "RTMR0 to RTMR3", "event log")


def _entries(data: bytes) -> list[_Entry]:
    if len(data) > MAX_LOG_BYTES:
        raise FormatError(f"an event log of {len(data)} bytes is over the limit of {MAX_LOG_BYTES}")
    entries = _canonical(data)
    if entries is None:
        value = strict_json(data, max_bytes=MAX_LOG_BYTES)
        if isinstance(value, str):
            value = strict_json(value.encode(), max_bytes=MAX_LOG_BYTES)
        try:
            entries = msgspec.convert(value, list[_Entry])
        except msgspec.ValidationError as error:
            raise FormatError(f"event log: {plain(str(error), 80)}") from None
    if len(entries) > MAX_EVENTS:
        raise FormatError(f"an event log has {len(entries)} entries; at most {MAX_EVENTS} are read")
    return entries


def _canonical(data: bytes) -> list[_Entry] | None:
    """The entries of a list written exactly as dstack writes it, None for any other text.

    Strict at a third of the cost: what encodes to the same bytes again has no key twice and nothing left out.
    """
    try:
        entries = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return entries if _encode(entries) == data else None


def _checked(entry: _Entry, index: int, version: int) -> Event:
    event = _event(entry, index, version)
    if entry.preimage is not None:
        preimage = _hex(entry.preimage, index, MAX_LOG_BYTES)
        if hashlib.sha384(preimage).digest() != event.digest:
            raise NotAuthentic(
                "the digest of an event is not that of its preimage",
                reason="event_digest",
                found=f"event {index} {plain(entry.event, 40)}".rstrip(),
            )
    return event


def _event(entry: _Entry, index: int, version: int) -> Event:
    payload = _hex(entry.event_payload, index, MAX_PAYLOAD)
    digest = _hex(entry.digest, index, 48)
    if len(digest) not in (0, 48):
        raise FormatError(f"event {index}: its digest has {len(digest)} bytes, not 48")
    if entry.event_type != RUNTIME_EVENT:
        return _boot(entry, index, digest, payload)
    if not entry.event or ":" in entry.event:
        raise NotAuthentic(
            "the name of a runtime event is empty, or holds a colon and could be cut at another place",
            reason="event_name",
            found=f"event {index} {plain(entry.event, 40)}".rstrip(),
        )
    if not digest:
        declared = version if entry.version is None else entry.version
        return Event(entry.imr, RUNTIME_EVENT, event_digest(entry.event, payload, declared), entry.event, payload)
    for version in (1, 2):
        if event_digest(entry.event, payload, version) == digest:
            return Event(entry.imr, RUNTIME_EVENT, digest, entry.event, payload)
    raise NotAuthentic(
        "the digest of a runtime event is not that of its name and payload",
        reason="event_digest",
        found=f"event {index} {plain(entry.event, 40)}",
    )


def _boot(entry: _Entry, index: int, digest: bytes, payload: bytes) -> Event:
    labelled = (entry.imr, entry.event_type) == _ACPI and entry.event in _ACPI_LABELS
    if (entry.event and not labelled) or entry.imr == RUNTIME_REGISTER:
        # the digest of such an entry says nothing about its name and payload
        raise NotAuthentic(
            "an entry that is no runtime event carries a name or extends RTMR3",
            reason="event_relabelled",
            found=f"event {index} of type {entry.event_type:#x} {plain(entry.event, 40)}".rstrip(),
            expected=f"type {RUNTIME_EVENT:#x}",
        )
    if not digest:
        raise FormatError(f"event {index}: a boot event has no digest")
    return Event(entry.imr, entry.event_type, digest, "", payload)


def _split(events: list[Event]) -> tuple[tuple[Event, ...], tuple[Event, ...]]:
    """The named events of RTMR3: the system's, and those that came after it was ready."""
    named = [e for e in events if e.imr == RUNTIME_REGISTER]
    end = next((i + 1 for i, e in enumerate(named) if e.name == SYSTEM_READY), len(named))
    seen: set[str] = set()
    for event in named[:end]:
        if event.name in seen and event.name != _REPEATABLE:
            raise NotAuthentic("the system measured one name twice", reason="event_twice", found=plain(event.name, 40))
        seen.add(event.name)
    return tuple(named[:end]), tuple(named[end:])


def _hex(text: str, index: int, longest: int) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = None
    if value is None or value.hex() != text or len(value) > longest:
        raise FormatError(f"event {index}: a member is not lower-case hex of at most {longest} bytes")
    return value
