"""What spans runs of rows: intents and receipts, the times of checkpoints against what was signed, and openings."""

from __future__ import annotations

import pytest
from receipt_world import T0_MS

from gateway.log.audit_pairs import Openings, Pairs, Times
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


def test_every_request_that_was_sent_was_announced_once():
    """A receipt of a sent request without an intent before it is named, and a second announcement of one that is open."""
    sentence = "the request of entry 5 was sent to a node, and no intent precedes it"
    assert paired(RECEIPT._replace(intent=None)) == [("intents", 5, sentence)]
    assert paired(RECEIPT._replace(intent=None), INTENT._replace(place=6))[0] == ("intents", 5, sentence)
    again = INTENT._replace(place=3)
    assert paired(again, INTENT, RECEIPT) == [("intents", 4, "entry 4 announces request 'R' a second time")]
    assert paired(again._replace(id="Q"), INTENT, RECEIPT) == []
    once_more = INTENT._replace(place=6), RECEIPT._replace(place=7, intent=6)
    assert paired(INTENT, RECEIPT, *once_more) == []  # of the other receipt by the same id, `documents` tells


def test_a_receipt_closes_its_own_intent_and_other_entries_none():
    """An entry of another kind, though it had the id of an open intent, leaves that open."""
    failures, pairs = Failures(), Pairs()
    for seen in (INTENT, INTENT._replace(place=5, id="Q"), RECEIPT._replace(place=6, kind="alarm"), RECEIPT):
        pairs.take(seen, failures)
    assert (failures, pairs.running, pairs.intents) == ([], [5], 2)


@pytest.mark.parametrize(("start", "good"), [(None, True), (3, True), (4, True), (5, False)])
def test_only_the_present_run_may_have_open_intents(start: int | None, good: bool):
    """Start-up closes what a crash left: what was announced before the last start and has no receipt is named."""
    failures, pairs = Failures(), Pairs()
    for seen in (INTENT,) if start is None else (INTENT, Seen(start, "start", "", False, "")):
        pairs.take(seen, failures)
    pairs.close(failures)
    assert pairs.running == ([4] if good else [])
    assert failures == ([] if good else [("intents", 4, "the intent at entry 4 ('R') never got a receipt")])


def test_without_a_start_the_first_entry_is_of_the_present_run():
    """Place 0 is that of the run that wrote it."""
    pairs = Pairs()
    pairs.take(INTENT._replace(place=0), Failures())
    assert (pairs.running, pairs.intents) == ([0], 1)


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


def test_a_run_that_ends_explains_nothing_of_the_one_before():
    """The clock of the next run may be another: what it signs later does not make up for a time that was put forward."""
    stored, start = [(1, 86_400_000), (3, 86_401_000)], signed(1, 1000)._replace(kind="start")
    later = signed(2, 86_400_500)
    assert timed(stored, signed(0, 0), signed(1, 1000), later) == []
    assert timed(stored, signed(0, 0), start, later) == [(1, AHEAD)]


def test_a_time_is_held_against_the_newest_that_was_signed():
    """Entries may be stored in another order than they were signed in: the last of those that a checkpoint covers counts."""
    assert timed([(2, 1000)], signed(0, 5000), signed(1, 0)) == [(2, ENTRY)]
    assert timed([(2, 1000)], signed(0, 0), signed(1, 5000)) == [(2, ENTRY)]
    assert timed([(2, 800_000)], signed(0, 799_000), signed(1, 0)) == []
    assert timed([(2, 800_000)], signed(0, 0), signed(1, 799_000)) == []


def test_a_checkpoint_without_what_was_signed_is_held_against_nothing():
    """It covers no entry that says a time: neither before one nor after one, whatever the one before was."""
    stored = [(1, 5), (2, -86_400_000), (3, 86_400_000)]
    assert timed(stored, signed(0, 0), signed(1, None), signed(2, None)) == []
    assert timed([(1, 0), (2, 86_400_000)], signed(0, 0), signed(1, None)) == []


@pytest.mark.parametrize(("ms", "good"), [(-2_000, True), (-2_001, False), (600_000, True), (600_001, False)])
def test_how_far_a_time_may_lie_off(ms: int, good: bool):
    """Two seconds before what it covers, and as the last of a run ten minutes after it: not a millisecond more."""
    assert (timed([(1, ms)], signed(0, 0)) == []) is good


@pytest.mark.parametrize(("reached", "good"), [(990_000, True), (989_999, False)])
def test_what_is_signed_within_ten_seconds_explains_a_time(reached: int, good: bool):
    """An entry waits as long for its checkpoint, at most."""
    assert (timed([(1, 1_000_000)], signed(0, 0), signed(1, reached)) == []) is good


@pytest.mark.parametrize(
    ("since", "until", "good"),
    [(0, 5_000, True), (10_000, 20_000, True), (10_001, 20_000, False), (-5_000, 0, True), (-5_000, -1, False)],
)
def test_an_outage_explains_what_was_signed_in_it(since: int, until: int, good: bool):
    """From ten seconds before it, for what waited then, to its end."""
    outage = Outage(instant(T0_MS + since), instant(T0_MS + until), 0)
    assert (timed([(1, 86_400_000)], signed(0, 0), outages=(outage,)) == []) is good


@pytest.mark.parametrize("bad", ["since", "until"])
def test_an_outage_without_times_explains_nothing(bad: str):
    """Both of its times are needed; an empty one is none."""
    outage = Outage(instant(T0_MS), instant(T0_MS + 5_000), 0)
    assert timed([(1, 86_400_000)], signed(0, 0), outages=(outage._replace(**{bad: ""}),)) == [(1, AHEAD)]
    assert timed([(1, 86_400_000)], signed(0, 0), outages=(outage._replace(**{bad: "today"}), outage)) == []


def test_a_time_that_fell_behind_a_checkpoint_put_forward_is_named():
    """Where nothing that was signed explains the later time of the one before, and by over two seconds."""
    for ms, found in ((98_000, []), (97_999, [(2, CHECKPOINT)])):
        assert timed([(1, 100_000), (2, ms)], signed(0, 0), signed(1, 90_000)) == found
    for ms, found in ((10_000, []), (10_001, [(2, CHECKPOINT)])):  # so much later it may be stored
        assert timed([(1, ms), (2, 5_000)], signed(0, 0), signed(1, 5_000)) == found


def test_many_checkpoints_of_a_clock_that_runs_back_are_no_fault():
    """Each is stored as long after what it covers as an entry may wait, and none of them is ever reached again."""
    stored = [(size, 11_001 - size) for size in range(1, 150)]
    assert timed(stored, *[signed(place, 1_000 - place) for place in range(149)]) == []


def opened(*openings: str, erased: tuple[str, ...] = ()) -> Openings:
    found = Openings()
    for place, opening in enumerate(openings):
        found.take(Seen(place, "receipt", f"R{place}", True, opening))
    found.erased.update(erased)
    return found


def test_openings_are_counted_by_what_became_of_them():
    """Each kind by itself, and what is wrong or of another entry under none."""
    found = opened("kept", "kept", "kept", "seed", "seed", "never", "", "gone", "unknown")
    assert (found.kept, found.seeds, found.never) == (3, 2, 1)
    assert (found.gone, found.unknown) == ([(7, "R7")], [(8, "R8")])
    assert (found.missing, found.unexplained, found.erased_count) == ([(7, "R7")], 1, 0)
    none = opened()
    assert (none.kept, none.seeds, none.never, none.missing, none.unexplained, none.erased_count) == (0, 0, 0, [], 0, 0)


def test_an_erasure_explains_the_openings_that_it_names():
    """Of those that are gone and those of which nothing is said; not of others."""
    found = opened("gone", "gone", "unknown", "unknown", "kept", erased=("R0", "R2", "R4"))
    assert found.missing == [(1, "R1")]
    assert (found.unexplained, found.erased_count) == (1, 2)
    assert opened("never", erased=("R0",)).erased_count == 0
