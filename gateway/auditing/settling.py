"""What the log says of one epoch: who had to be audited, who was, and what is therefore still to be entered.

The log is the only memory of audits. Settling reads it from the epoch's beginning on, by the same rule as an auditor
will (`gateway.offline.epochs`): the answers that were released under the epoch and that its seed selects.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.errors import FormatError
from gateway.log.audit_rows import read_envelope
from gateway.log.marks import Mark, alarm_mark, audit_mark
from gateway.log.predicates import UNREADABLE, predicates
from gateway.model.audits import AUDIT_FAILED, AuditEntry, Counts, FailedAudit
from gateway.model.receipt import AuditPart
from gateway.storage.audits import Entered, EpochRow
from gateway.verify.proofs.sampling import parse_rate, selected


class Due(msgspec.Struct, frozen=True):
    """A released answer that its epoch's seed selected."""

    receipt_id: str
    network: str
    node: str


class Standing(msgspec.Struct):
    """An epoch as the log has it. `alarms` are those of its failed audits, by receipt."""

    announced: bool = False
    revealed: bool = False
    due: dict[str, Due] = {}
    audits: dict[str, AuditEntry] = {}
    alarms: dict[str, FailedAudit] = {}

    def owed(self) -> list[Due]:
        """The answers that had to be audited and have no entry."""
        return [due for id, due in self.due.items() if id not in self.audits]

    def failed(self) -> list[AuditEntry]:
        """Failed audits that nobody was told of."""
        return [a for a in self.audits.values() if a.verdict == "fail" and a.receipt_id not in self.alarms]

    def marks(self) -> list[Mark]:
        """The marks that its entries make, which a crash may have left out."""
        made = [*map(audit_mark, self.audits.values()), *map(alarm_mark, self.alarms.values())]
        return [mark for mark in made if mark is not None]

    def counts(self) -> Counts:
        """What became of the selected answers; one without an entry is about to get an inconclusive one."""
        verdicts = [self.audits[id].verdict if id in self.audits else "inconclusive" for id in self.due]
        passed, failed = verdicts.count("pass"), verdicts.count("fail")
        return Counts(len(verdicts), passed, failed, len(verdicts) - passed - failed)


class _Served(msgspec.Struct):
    network: str = ""
    node: str = ""


class _Predicate(msgspec.Struct, rename="camel"):
    """The members of any of these documents that are looked at."""

    epoch: str = ""
    receipt_id: str = ""
    alarm: str = ""
    audit: AuditPart | None = None
    served: _Served | None = None


_any_of = predicates(_Predicate)
_audit_of = predicates(AuditEntry)
_alarm_of = predicates(FailedAudit)


def standing(row: EpochRow, entries: Iterable[Entered]) -> Standing:
    """Where an epoch stands, by the log's entries from `row.first` on. What cannot be read is passed over.

    Reading needs a few microseconds a receipt, so callers do it in a thread.
    """
    found = Standing(due={}, audits={}, alarms={})
    for entered in entries:
        try:
            payload = read_envelope(entered.envelope).payload
            said = _any_of(payload)
            if entered.kind == "receipt":
                _receipt(found, row, said, released=entered.release == "released")
            elif said.epoch == row.id:
                _entry(found, entered.kind, said, payload)
        except (FormatError, *UNREADABLE):
            continue  # `veriroute audit verify` names it
    return found


def _receipt(found: Standing, row: EpochRow, said: _Predicate, *, released: bool) -> None:
    part, served = said.audit, said.served
    if not released or part is None or served is None or part.epoch != row.id:
        return
    if selected(row.seed, said.receipt_id, parse_rate(part.rate)):
        found.due[said.receipt_id] = Due(said.receipt_id, served.network, served.node)


def _entry(found: Standing, kind: str, said: _Predicate, payload: bytes) -> None:
    if kind == "epoch":
        found.announced = True
    elif kind == "reveal":
        found.revealed = True
    elif kind == "audit":
        entry = _audit_of(payload)
        found.audits.setdefault(entry.receipt_id, entry)
    elif said.alarm == AUDIT_FAILED:
        found.alarms.setdefault(said.receipt_id, _alarm_of(payload))
