"""What entries of sampled audits have lists show: which answers passed, and which a failed audit puts in doubt. Pure.

    audit, verdict pass or fail    `audited`: the receipt, its node, whether it passed
    alarm `audit_failed`           `doubt`: the receipt that failed, its node, the first and the last place in doubt

Each is kept in a table of its own (`gateway.storage.audits`), since lists need it at once, and durable before the
epoch's seed is revealed.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from gateway.model.audits import AUDIT_FAILED, AuditEntry, FailedAudit, RevealEntry

from .predicates import UNREADABLE, predicates

#: The tables of marks.
Table = Literal["audited", "doubt"]


class Mark(NamedTuple):
    """A row that an entry makes: its table, the receipt audited, the columns behind its place; and the epoch."""

    table: Table
    receipt: str
    values: tuple[object, ...]
    epoch: str


class _Named(msgspec.Struct):
    alarm: str = ""


_named_of = predicates(_Named)
_audit_of = predicates(AuditEntry)
_alarm_of = predicates(FailedAudit)
_reveal_of = predicates(RevealEntry)


def read_mark(kind: str, payload: bytes) -> Mark | None:
    """The mark that an entry makes; None where it makes none, or cannot be read."""
    try:
        if kind == "audit":
            return audit_mark(_audit_of(payload))
        if kind == "alarm" and _named_of(payload).alarm == AUDIT_FAILED:
            return alarm_mark(_alarm_of(payload))
    except UNREADABLE:
        return None
    return None


def read_revealed(kind: str, payload: bytes) -> str | None:
    """The epoch whose seed an entry reveals; None where it reveals none, or cannot be read."""
    try:
        return _reveal_of(payload).epoch if kind == "reveal" else None
    except UNREADABLE:
        return None


def audit_mark(audit: AuditEntry) -> Mark | None:
    """The mark of an audit; None of one that decided nothing."""
    if audit.verdict == "inconclusive":
        return None
    return Mark("audited", audit.receipt_id, (audit.node, int(audit.verdict == "pass")), audit.epoch)


def alarm_mark(alarm: FailedAudit) -> Mark:
    """The mark of a failed audit's alarm."""
    return Mark("doubt", alarm.receipt_id, (alarm.node, alarm.doubted.first, alarm.doubted.last), alarm.epoch)
