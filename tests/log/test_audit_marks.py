"""Marks of sampled audits against the entries that make them: none without its entry, none missing after the reveal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from receipt_world import T0_MS, World

from gateway.crypto.merkle import leaf_hash
from gateway.log.audit_marks import Later, Marks, StoredMark
from gateway.log.audit_rows import StoredRow, check_rows
from gateway.log.marks import Mark, read_mark, read_revealed
from gateway.log.receipt import event_statement
from gateway.model.audits import AuditEntry, Doubted, FailedAudit, RevealEntry
from gateway.model.ulid import encode

EPOCH, RECEIPT, OTHER = (encode((T0_MS << 80) + number) for number in range(3))
PASSED = AuditEntry(
    receipt_id=RECEIPT, epoch=EPOCH, node="node-1", network="aci", time_ms=T0_MS, nonce="n", kind="reexec",
    verdict="pass",
)  # fmt: skip
FAILED = msgspec.structs.replace(PASSED, verdict="fail")
ALARM = FailedAudit(
    alarm="audit_failed", node="node-1", network="aci", receipt_id=RECEIPT, epoch=EPOCH, time_ms=T0_MS, nonce="n",
    action="report", doubted=Doubted(first=3, last=7, count=1, receipt_ids=(RECEIPT,)),
)  # fmt: skip
REVEAL = RevealEntry(epoch=EPOCH, seed="ab" * 32, time_ms=T0_MS)
AUDITED = StoredMark("audited", 5, RECEIPT, ("node-1", 1))
DOUBT = StoredMark("doubt", 5, RECEIPT, ("node-1", 3, 7))


def entry(predicate: Any) -> tuple[str, bytes]:
    kinds = {AuditEntry: "audit", FailedAudit: "alarm", RevealEntry: "reveal"}
    kind = kinds[type(predicate)]
    return kind, event_statement(kind, None, msgspec.to_builtins(predicate))


class Stored:
    """What is stored beside the log: marks, what was entered meanwhile, and receipts."""

    def __init__(self, rows: list[Later | StoredMark], receipts: list[str]) -> None:
        self.rows, self.receipts = rows, receipts

    def marks(self) -> Iterator[Later | StoredMark]:
        yield from self.rows

    def has_receipt(self, id: str) -> bool:
        return id in self.receipts


def audited(
    predicates: list[Any], *rows: Later | StoredMark, receipts: tuple[str, ...] = (RECEIPT,)
) -> tuple[list[tuple[str, int, str]], list[int]]:
    """What is at fault, and which entries' marks wait, for a log of these entries and these rows beside it."""
    world, found, marks = World(), [], Marks(Stored(list(rows), list(receipts)))
    for predicate in predicates:
        place = world.add(*entry(predicate))
        leaf = world.leaves[place]
        row = StoredRow(place, leaf_hash(leaf), leaf, world.kinds[place], "x", world.envelopes[place], *[None] * 4)
        marks.take(check_rows([row], place, None))
    marks.close(lambda *fault: found.append(fault))
    assert marks.stored == sum(isinstance(row, StoredMark) for row in rows)
    return found, marks.waiting


def test_marks_of_entries_pass():
    """A pass, or a failure with its alarm; of a failure that is not alarmed yet, the alarm's mark is not missed."""
    assert audited([PASSED, REVEAL], AUDITED) == ([], [])
    assert audited([FAILED, ALARM, REVEAL], AUDITED._replace(values=("node-1", 0)), DOUBT) == ([], [])
    assert audited([FAILED], AUDITED._replace(values=("node-1", 0))) == ([], [])
    assert audited([msgspec.structs.replace(PASSED, verdict="inconclusive"), REVEAL]) == ([], [])


def test_a_mark_waits_until_the_seed_is_revealed():
    """What a crash left out is made before the reveal: only after that it is a fault, also where it comes twice."""
    assert audited([PASSED, ALARM, ALARM]) == ([], [0, 1])
    other = msgspec.structs.replace(REVEAL, epoch=OTHER)
    assert audited([PASSED, other]) == ([], [0])
    sentence = "entry {} marks answers in lists (table `{}`), and that mark is not stored"
    found, waiting = audited([PASSED, ALARM, REVEAL])
    assert found == [("columns", 0, sentence.format(0, "audited")), ("columns", 1, sentence.format(1, "doubt"))]
    assert waiting == []


def test_an_audit_of_no_receipt_marks_nothing():
    """There is no place to mark; the epoch's own steps say that the answer is foreign."""
    assert audited([PASSED, REVEAL], receipts=(OTHER,)) == ([], [])
    assert audited([PASSED], receipts=(OTHER,)) == ([], [])


@pytest.mark.parametrize("receipt", [OTHER, None, b"x"])
def test_a_mark_without_an_entry_is_named(receipt: object):
    """Of another receipt, of none, or of what is no id."""
    sentence = "a mark on answers in lists is stored at 5 of `doubt`, and no entry made it"
    assert audited([PASSED, ALARM], AUDITED, DOUBT, DOUBT._replace(receipt=receipt)) == ([("columns", 5, sentence)], [])
    assert audited([PASSED], AUDITED, DOUBT) == ([("columns", 5, sentence)], [])


@pytest.mark.parametrize("values", [("node-2", 3, 7), ("node-1", 0, 7), ("node-1", 3, 8), ("node-1", 3.0, 7), ()])
def test_a_mark_that_was_changed_is_named(values: tuple[object, ...]):
    """Each column counts, and its type."""
    found, _ = audited([ALARM, REVEAL], DOUBT._replace(values=values))
    assert found == [("columns", 5, "the mark stored at 5 of `doubt` is not the one of entry 0")]


def test_an_entry_that_comes_twice_counts_once():
    """The first is the one whose mark is kept."""
    later = msgspec.structs.replace(ALARM, doubted=msgspec.structs.replace(ALARM.doubted, last=9))
    assert audited([ALARM, later, REVEAL], DOUBT) == ([], [])
    assert len(audited([later, ALARM, REVEAL], DOUBT)[0]) == 1


def test_marks_that_were_made_while_the_audit_ran_are_no_fault():
    """Their entries lie behind what was audited; a mark that is not theirs is named all the same."""
    world = World()
    place = world.add(*entry(ALARM))
    later = Later("alarm", world.envelopes[place])
    assert audited([], later, later, DOUBT) == ([], [])
    sentence = "the mark stored at 5 of `doubt` is not the one of an entry made meanwhile"
    assert audited([], later, DOUBT._replace(values=("node-1", 0, 7))) == ([("columns", 5, sentence)], [])
    for unread in (Later("alarm", b"{"), Later("start", later.envelope)):
        assert len(audited([], unread, DOUBT)[0]) == 1


def test_what_makes_no_mark_is_passed_over():
    """Alarms of another kind, other entries, and what cannot be read."""
    payload = entry(ALARM)[1]
    assert read_mark("alarm", payload) == Mark("doubt", RECEIPT, ("node-1", 3, 7), EPOCH)
    assert read_mark("start", payload) is None
    assert read_mark("alarm", payload.replace(b"audit_failed", b"surplus_bytes")) is None
    for unread in (b"", b"\xff", b'{"predicate":[]}', b'{"predicate":{"alarm":"audit_failed"}}', b"[" * 5000):
        assert read_mark("alarm", unread) is None
        assert read_mark("audit", unread) is None
        assert read_revealed("reveal", unread) is None
    assert read_revealed("reveal", entry(REVEAL)[1]) == EPOCH
    assert read_revealed("audit", entry(REVEAL)[1]) is None
