"""Auditing the marks of sampled audits, by which lists say `doubted`: those stored are those that entries make.

A mark is written right behind its entry, and whatever a crash left out before the epoch's seed is revealed. So one may
be missing while its epoch's reveal is: it *waits*. None is stored without its entry. Where an entry comes twice, as a
log that failed in between may leave it, the first counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from gateway.errors import FormatError

from .audit_rows import COLUMNS, Report, read_envelope
from .audit_tree import Fail
from .marks import Mark, read_mark


class StoredMark(NamedTuple):
    """A mark as it is stored at `place`: the id of the receipt there, if any, and whatever stands in the columns."""

    table: str
    place: int
    receipt: object
    values: tuple[object, ...]


class Later(NamedTuple):
    """An entry that was made while the audit ran."""

    kind: str
    envelope: bytes


class Marked(Protocol):
    """What is asked of marks."""

    def marks(self) -> Iterator[Later | StoredMark]:
        """Entries of audits and alarms made since the audit began, then all marks, as of one moment."""

    def has_receipt(self, id: str) -> bool: ...


class Marks:
    """Memory grows with the number of audits that decided, and not with the log."""

    def __init__(self, source: Marked) -> None:
        self._source = source
        self._made: dict[tuple[str, object], tuple[int, Mark]] = {}
        self._later: dict[tuple[str, object], Mark] = {}
        self._revealed: set[str] = set()
        self.stored = 0
        self.waiting: list[int] = []  # the places of entries whose marks wait

    def take(self, report: Report) -> None:
        """The next run of the log."""
        for place, mark in report.marks:
            self._made.setdefault((mark.table, mark.receipt), (place, mark))
        self._revealed.update(report.revealed)

    def close(self, fail: Fail) -> None:
        """The end of the log."""
        for row in self._source.marks():
            if isinstance(row, StoredMark):
                self.stored += 1
                self._hold(row, fail)
            elif (mark := _read(row)) is not None:
                self._later.setdefault((mark.table, mark.receipt), mark)
        for place, mark in self._made.values():
            if not self._source.has_receipt(mark.receipt):
                continue  # an audit of no receipt marks nothing
            if mark.epoch in self._revealed:
                sentence = f"entry {place} marks answers in lists (table `{mark.table}`), and that mark is not stored"
                fail(COLUMNS, place, sentence)
            else:
                self.waiting.append(place)

    def _hold(self, row: StoredMark, fail: Fail) -> None:
        key = (row.table, row.receipt)
        place, mark = self._made.pop(key, None) or (None, self._later.get(key))
        if mark is None:
            sentence = f"a mark on answers in lists is stored at {row.place} of `{row.table}`, and no entry made it"
            fail(COLUMNS, row.place, sentence)
        elif [(type(value), value) for value in row.values] != [(type(value), value) for value in mark.values]:
            made = "an entry made meanwhile" if place is None else f"entry {place}"
            fail(COLUMNS, row.place, f"the mark stored at {row.place} of `{row.table}` is not the one of {made}")


def _read(row: Later) -> Mark | None:
    try:
        return read_mark(row.kind, read_envelope(row.envelope).payload)
    except FormatError:
        return None
