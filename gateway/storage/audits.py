"""What sampled audits keep beside the log: seeds that are secret yet, and which answers a failed audit puts in doubt.

The log is what counts: these tables hold nothing that it does not get to hold. A seed lies here from before its
commitment is logged until its reveal is, in a file that only its owner reads; decided audits and doubts, the marks of
`gateway.log.marks`, are what lists need at once. Writes are jobs for the log's writer (`await
sequencer.submit(put_epoch(…))`), each durable when its future resolves.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from gateway.log.marks import Mark

PAGE = 256

Job = Callable[[sqlite3.Connection], None]


class EpochRow(msgspec.Struct, frozen=True):
    """An epoch whose seed is not revealed. The log has nothing of it below index `first`; times in milliseconds."""

    id: str
    seed: bytes
    first: int
    begin_ms: int
    end_ms: int
    reveal_by_ms: int


class Span(msgspec.Struct, frozen=True):
    """Receipts of one node with index in [first, last]: how many were released, and the oldest of them."""

    first: int
    last: int
    count: int
    ids: tuple[str, ...]


class Entered(NamedTuple):
    """A document of the log: its index, its kind, its id, and its envelope; of a receipt, how it was released too."""

    index: int
    kind: str
    id: str
    release: str | None
    envelope: bytes


def put_epoch(row: EpochRow) -> Job:
    """Keep an epoch's seed, before its commitment is logged."""

    def job(connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT INTO audit_epoch (id, seed, first, begin_ms, end_ms, reveal_by_ms) VALUES (?, ?, ?, ?, ?, ?)",
            (row.id, row.seed, row.first, row.begin_ms, row.end_ms, row.reveal_by_ms),
        )

    return job


def drop_epoch(id: str) -> Job:
    """Forget an epoch whose seed the log has."""

    def job(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM audit_epoch WHERE id = ?", (id,))

    return job


def put_marks(marks: Sequence[Mark]) -> Job:
    """Store the marks that entries make, where their receipt is stored. Twice changes nothing."""

    def job(connection: sqlite3.Connection) -> None:
        for mark in marks:
            connection.execute(
                f"INSERT INTO {mark.table} SELECT idx{', ?' * len(mark.values)} FROM receipt WHERE id = ?"  # noqa: S608
                " ON CONFLICT DO NOTHING",
                (*mark.values, mark.receipt),
            )

    return job


class AuditReads(ABC):
    """Mixed into `Reader`, which provides `_all`."""

    @abstractmethod
    def _all(self, sql: str, *parameters: object) -> list[Any]: ...

    def open_epochs(self) -> list[EpochRow]:
        """Epochs whose seed is kept because it is not known to be revealed, oldest first."""
        found = self._all(
            "SELECT CAST(id AS TEXT), CAST(seed AS BLOB), first, begin_ms, end_ms, reveal_by_ms FROM audit_epoch"
            " ORDER BY begin_ms, id"
        )
        return [EpochRow(*row) for row in found]

    def entered(self, first: int) -> Iterator[Entered]:
        """Receipts and the entries of audits from log index `first` on, in order; no snapshot is held for long."""
        at, size = first, self._all("SELECT max(idx) FROM leaf")[0][0]
        while size is not None and at <= size:
            yield from (Entered(*row) for row in self._all(_ENTERED, at, at + PAGE, at, at + PAGE))
            at += PAGE

    def doubted(self, served: Mapping[int, object]) -> set[int]:
        """Of released receipts, given as index and node, those that a failed audit put in doubt and that no audit of
        their own passed. What failed audits say of a page is read once: a node that cheats fails thousands."""
        spans: dict[object, list[list[int]]] = {}
        about = self._all(_DOUBTS, max(served), min(served)) if served else []
        for node, first, last in sorted(about, key=itemgetter(1)):
            of_node = spans.setdefault(node, [])
            if of_node and first <= of_node[-1][1]:  # nearly all begin where another did
                of_node[-1][1] = max(of_node[-1][1], last)
            else:
                of_node.append([first, last])
        found = [index for index, node in served.items() if _is_in(spans.get(node, ()), index)]
        passed = self._all(_PASSED_OF, msgspec.json.encode(found).decode()) if found else ()
        return {*found} - {index for (index,) in passed}

    def unmarked(self, marks: Sequence[Mark]) -> list[Mark]:
        """Those of `marks` that are not stored, though the receipt that they are of is."""
        missing = "SELECT 1 FROM receipt r WHERE id = ? AND NOT EXISTS (SELECT 1 FROM {} m WHERE m.idx = r.idx)"
        return [mark for mark in marks if self._all(missing.format(mark.table), mark.receipt)]

    def doubtful_span(self, receipt_id: str, node: str, named: int) -> Span | None:
        """What a failed audit of `receipt_id` puts in doubt: the receipts of `node` behind the last one that passed.

        None when the log has no such receipt. Up to `named` ids, of those that were released and did not pass.
        """
        found = self._all("SELECT idx FROM receipt WHERE id = ?", receipt_id)
        if not found:
            return None
        (passed,) = self._all(_PASSED, node, found[0][0])[0]
        first = 0 if passed is None else passed + 1
        (last, count) = self._all(_SPAN, first, node)[0]
        ids = self._all(_NAMED, first, node, named)
        return Span(first, found[0][0] if last is None else last, count, tuple(id for (id,) in ids))


def _is_in(spans: Sequence[list[int]], index: int) -> bool:
    """Whether one of the disjoint [first, last], which rise, holds `index`."""
    at = bisect_right(spans, index, key=itemgetter(0))
    return at > 0 and index <= spans[at - 1][1]


_DOUBTS = "SELECT node, CAST(first AS INTEGER), CAST(last AS INTEGER) FROM doubt WHERE first <= ? AND last >= ?"
_PASSED_OF = "SELECT idx FROM audited WHERE passed = 1 AND idx IN (SELECT value FROM json_each(?))"
_ENTERED = """
    SELECT idx, 'receipt', CAST(id AS TEXT), release, unpacked(CAST(envelope AS BLOB)) FROM receipt
    WHERE idx >= ? AND idx < ?
    UNION ALL
    SELECT idx, kind, CAST(id AS TEXT), NULL, unpacked(CAST(envelope AS BLOB)) FROM record
    WHERE idx >= ? AND idx < ? AND kind IN ('epoch', 'audit', 'reveal', 'alarm')
    ORDER BY 1"""
_PASSED = "SELECT max(idx) FROM audited WHERE node = ? AND passed = 1 AND idx < ?"
_SERVED = """FROM receipt WHERE idx >= ? AND node = ? AND release = 'released'
    AND NOT EXISTS (SELECT 1 FROM audited a WHERE a.idx = receipt.idx AND a.passed = 1)"""
_SPAN = f"SELECT max(idx), count(*) {_SERVED}"
_NAMED = f"SELECT CAST(id AS TEXT) {_SERVED} ORDER BY idx LIMIT ?"
