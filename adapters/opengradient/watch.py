"""What changed in the registry since a block, as alarms for a person: roots, measurements, TEEs, OHTTP keys (H4).

The registry's administrator can put another AWS root in place and approve any code; the verifier believes neither, and
whoever runs the gateway should hear of it all the same. An event that cannot be read is an alarm too.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from gateway import adapter
from gateway.errors import FormatError
from gateway.verify.opengradient.registry import Refused
from gateway.verify.opengradient.registry_events import Event, Log, decode_event, topic
from gateway.verify.opengradient.response import printable

from . import hexed
from .quorum import Round
from .registration import MAX_RANGES, RANGE


class Severity(enum.StrEnum):
    """`CRITICAL`: look now. `WARNING`: a node may fail or has to be appraised anew. `INFO`: for the record."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Alarm(msgspec.Struct, frozen=True):
    """One change. `subject` is the TEE, PCR hash or certificate hash as 0x text; `detail` is inert text."""

    kind: str
    severity: Severity
    subject: str
    block: int
    tx: str
    detail: str = ""

    def told(self) -> adapter.Alarm:
        """As the contract of adapters has it."""
        about: dict[str, str | int] = {
            "severity": self.severity.value,
            "subject": self.subject,
            "block": self.block,
            "tx": self.tx,
        }
        return adapter.Alarm(self.kind, about | ({"detail": self.detail} if self.detail else {}))


#: Event -> the kind of alarm and how urgent it is.
ALARMS: dict[str, tuple[str, Severity]] = {
    "AWSCertificateUpdated": ("aws_root_changed", Severity.CRITICAL),
    "PCRApproved": ("pcr_approved", Severity.WARNING),
    "PCRRevoked": ("pcr_revoked", Severity.CRITICAL),
    "TEEDisabled": ("tee_disabled", Severity.WARNING),
    "TEEEnabled": ("tee_enabled", Severity.INFO),
    "OHTTPConfigUpdated": ("ohttp_config_changed", Severity.WARNING),
    "OHTTPConfigCleared": ("ohttp_config_cleared", Severity.WARNING),
}


#: Unreadable records that one look at the registry names; whoever may register TEEs must not be able to fill our log.
MAX_UNREADABLE = 8


def unreadable(refused: Sequence[Refused]) -> list[adapter.Alarm]:
    """An alarm for each of the first `MAX_UNREADABLE` records that cannot be used; the last says how many `more`."""
    alarms: list[adapter.Alarm] = []
    for record in refused[:MAX_UNREADABLE]:
        about: dict[str, str | int] = {"severity": Severity.WARNING.value, "index": record.index}
        about |= {"reason": record.reason, "detail": printable(record.message)}
        alarms.append(adapter.Alarm("registry_record_unreadable", about))
    if len(refused) > MAX_UNREADABLE:
        last = alarms[-1]
        alarms[-1] = adapter.Alarm(last.kind, {**last.about, "more": len(refused) - MAX_UNREADABLE})
    return alarms


async def events_since(round_: Round, registry: str, block: int, *, max_ranges: int = MAX_RANGES) -> list[Alarm]:
    """The changes after `block` up to the round's, oldest first. Raises `QuorumError`.

    Further back than `max_ranges` ranges of blocks is not looked: an `events_gap` says so.
    """
    first, last = block + 1, round_.block.number
    earliest = last - RANGE * max_ranges + 1
    alarms: list[Alarm] = []
    if first < earliest:
        alarms.append(Alarm("events_gap", Severity.WARNING, "", first, "", f"blocks {first} to {earliest - 1} unread"))
        first = earliest
    while first <= last:
        end = min(first + RANGE - 1, last)
        logs = await round_.logs(registry, [[topic(name) for name in ALARMS]], first, end)
        alarms += map(_alarm, logs)
        first = end + 1
    return alarms


def _alarm(log: Log) -> Alarm:
    try:
        event = decode_event(log)
    except FormatError as error:
        subject = hexed.ox(log.topics[0])
        return Alarm("event_unreadable", Severity.WARNING, subject, log.block, hexed.ox(log.tx), error.message)
    kind, severity = ALARMS[event.name]
    return Alarm(kind, severity, hexed.ox(event.subject), event.block, hexed.ox(event.tx), _detail(event))


def _detail(event: Event) -> str:
    if event.name == "PCRApproved":
        tee_type, version = event.arguments
        return f"type {tee_type}, version {printable(version)}"
    return ""
