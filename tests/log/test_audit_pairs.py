"""What spans runs of rows: an intent and its receipt's columns, and the times of checkpoints against what was signed."""

from __future__ import annotations

import pytest
from receipt_world import T0_MS

from gateway.log.audit_pairs import Pairs, Times
from gateway.log.audit_rows import Outage, Seen
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


def timed(stored: list[tuple[int, int]], *seen: Seen, outages: tuple[Outage, ...] = ()) -> list[tuple[int, str]]:
    failures, times = Failures(), Times(iter([(size, T0_MS + ms) for size, ms in stored]))
    for outage in outages:
        times.outage(outage)
    for one in seen:
        times.take(one, failures)
    times.close(failures)
    assert {step for step, *_ in failures} <= {"columns"}
    return [(place, sentence.partition(f"of size {place} is ")[2]) for _, place, sentence in failures]


ENTRY, CHECKPOINT = "before that of what it covers", "before that of the one before it"
AHEAD = "after that of what it covers and of what follows"


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        ([(1, 20), (2, 1020)], []),
        ([(0, 0), (1, 20), (2, 1020)], []),
        ([(1, -1900), (2, 1020)], []),
        ([(1, -2100), (2, 1020)], [(1, ENTRY)]),
        ([(1, 20), (2, -86_400_000)], [(2, ENTRY)]),
        ([(1, 86_400_000), (2, 1020)], [(2, CHECKPOINT), (1, AHEAD)]),
        ([(1, 86_400_000), (2, 86_401_000)], [(1, AHEAD), (2, AHEAD)]),
        ([(1, 20), (2, 86_401_000)], [(2, AHEAD)]),
        ([(1, 20), (2, 500_000)], []),
        ([(1, 9_000), (2, 1020)], []),
    ],
)
def test_a_checkpoint_is_no_older_than_what_it_covers(stored: list[tuple[int, int]], found: list[tuple[int, str]]):
    """A stored time before that of an entry below it is named, and one that falls behind the checkpoint before."""
    assert timed(stored, signed(0, 0), signed(1, 1000)) == found


@pytest.mark.parametrize("kind", ["receipt", "start"])
def test_a_machine_that_stood_still_is_no_fault(kind: str):
    """A checkpoint long after what it covers is explained by what is signed later, in this run or as the next begins."""
    stored = [(1, 86_400_000), (2, 86_400_000), (3, 86_400_000)]
    later = signed(2, 86_395_000)._replace(kind=kind)
    assert timed(stored, signed(0, 0), signed(1, 1000), later) == []
    assert timed(stored, signed(0, 0), signed(1, 1000), later._replace(late=True)) == [(1, AHEAD), (2, AHEAD)]
    assert timed(stored, signed(0, 0), signed(1, 1000), signed(2, None)) == [(1, AHEAD), (2, AHEAD)]


def test_what_an_outage_made_wait_is_no_fault():
    """What says that it was stored later, and what was signed in an outage that the log tells of, was stored any time."""
    stored = [(1, 86_400_000)]
    assert timed(stored, signed(0, 0)._replace(late=True)) == []
    outage = Outage(instant(T0_MS + 5_000), instant(T0_MS + 86_399_000), 0)
    assert timed(stored, signed(0, 0), outages=(outage,)) == []
    assert timed(stored, signed(0, 0), outages=(outage._replace(since="yesterday"),)) == [(1, AHEAD)]


def test_many_checkpoints_that_are_never_reached_are_named():
    """A writer's queue explains a few that wait for a later time, by less than a standstill; not a hundred."""
    stored = [(size, 60_000 + size) for size in range(1, 103)]
    found = timed(stored, *[signed(place, place) for place in range(102)])
    assert found == [(1, AHEAD), (2, AHEAD)]
    assert timed(stored, *[signed(place, place) for place in range(102)], signed(102, 60_000)) == found


def test_a_clock_that_was_put_back_is_no_fault():
    """Where what was signed lies ahead with the checkpoint, or says no time, falling times accuse nobody."""
    assert timed([(1, 3_600_020), (2, 20)], signed(0, 3_600_000), signed(1, 0)) == []
    assert timed([(1, 3_600_020), (2, 20)], signed(0, None), signed(1, 0)) == []
    assert timed([(1, -5_000), (2, -5_000)], signed(0, None)._replace(time="yesterday"), signed(1, None)) == []
