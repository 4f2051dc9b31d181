"""What spans runs of rows: an intent and its receipt's columns, and the times of checkpoints against what was signed."""

from __future__ import annotations

import pytest
from receipt_world import T0_MS

from gateway.log.audit_pairs import Pairs, Times
from gateway.log.audit_rows import Seen
from gateway.model.receipt import instant

INTENT = Seen(4, "intent", "R", False, "", node=("aci", "node-1"))
RECEIPT = Seen(5, "receipt", "R", True, "kept", intent=4)


class Failures(list[tuple[str, int, str]]):
    def __call__(self, step: str, place: int, sentence: str) -> None:
        self.append((step, place, sentence))


def paired(*seen: Seen) -> Failures:
    failures, pairs = Failures(), Pairs()
    for one in seen:
        pairs.take(one, failures)
    pairs.close(failures)
    return failures


def test_a_receipt_is_stored_with_the_place_of_its_intent():
    """The place that the log gives passes; another one, none, and one of no intent at all are named."""
    assert paired(Seen(3, "policy", "", False, ""), INTENT, RECEIPT) == []
    for stored in (None, 3):
        ((step, place, sentence),) = paired(INTENT, RECEIPT._replace(intent=stored))
        assert (step, place) == ("columns", 5)
        assert sentence == f"entry 5: the stored intent is {stored}, that of the log is 4"
    assert [step for step, *_ in paired(RECEIPT._replace(forwarded=False))] == ["columns"]
    assert paired(RECEIPT._replace(forwarded=False, intent=None)) == []


@pytest.mark.parametrize(
    ("announced", "stored", "good"),
    [
        (("aci", "node-1"), ("aci", "node-1"), True),
        (("aci", "node-1"), ("aci", "innocent"), False),
        (("aci", "node-1"), (None, None), False),
        (None, (None, None), True),
        (None, ("aci", "node-1"), False),
    ],
)
def test_what_a_crash_left_is_listed_under_the_node_of_its_intent(
    announced: tuple[str, str] | None, stored: tuple[str | None, str | None], good: bool
):
    """A receipt that closes an open intent names no node: lists show the one that the intent announced."""
    failures = paired(INTENT._replace(node=announced), RECEIPT._replace(forwarded=False, node=stored))
    assert [(step, place) for step, place, _ in failures] == ([] if good else [("columns", 5)])


def signed(place: int, ms: int | None) -> Seen:
    return Seen(place, "receipt", "R", False, "", "" if ms is None else instant(T0_MS + ms))


def timed(stored: list[tuple[int, int]], *seen: Seen) -> list[tuple[int, str]]:
    failures, times = Failures(), Times(iter([(size, T0_MS + ms) for size, ms in stored]))
    for one in seen:
        times.take(one, failures)
    times.close(failures)
    assert {step for step, *_ in failures} <= {"columns"}
    return [(place, sentence.partition(" is before ")[2]) for _, place, sentence in failures]


ENTRY, CHECKPOINT = "that of what it covers", "that of the one before it"


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        ([(1, 20), (2, 1020)], []),
        ([(0, 0), (1, 20), (2, 1020)], []),
        ([(1, -1900), (2, 1020)], []),
        ([(1, -2100), (2, 1020)], [(1, ENTRY)]),
        ([(1, 20), (2, -86_400_000)], [(2, ENTRY)]),
        ([(1, 86_400_000), (2, 1020)], [(2, CHECKPOINT)]),
        ([(1, 9_000), (2, 1020)], []),
    ],
)
def test_a_checkpoint_is_no_older_than_what_it_covers(stored: list[tuple[int, int]], found: list[tuple[int, str]]):
    """A stored time before that of an entry below it is named, and one that falls behind the checkpoint before."""
    assert timed(stored, signed(0, 0), signed(1, 1000)) == found


def test_a_clock_that_was_put_back_is_no_fault():
    """Where what was signed lies ahead with the checkpoint, or says no time, falling times accuse nobody."""
    assert timed([(1, 3_600_020), (2, 20)], signed(0, 3_600_000), signed(1, 0)) == []
    assert timed([(1, 3_600_020), (2, 20)], signed(0, None), signed(1, 0)) == []
    assert timed([(1, -5_000), (2, -5_000)], signed(0, None)._replace(time="yesterday"), signed(1, None)) == []
