"""Auditing what belongs together across the log: intents and receipts, openings and erasures, entries and the times of
their checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from operator import itemgetter

from gateway.errors import FormatError
from gateway.model.receipt import millis

from .audit_rows import COLUMNS, Outage, Seen
from .audit_tree import Fail

INTENTS = "intents"


class Pairs:
    """Intents that wait for their receipt. Memory is bounded by how many are open at once."""

    def __init__(self) -> None:
        self.intents = 0
        self.start = 0
        self._open: dict[str, Seen] = {}

    def take(self, seen: Seen, fail: Fail) -> None:
        """The next entry of the log."""
        if seen.kind == "start":
            self.start = seen.place
        elif seen.kind == "intent":
            self.intents += 1
            if seen.id in self._open:
                fail(INTENTS, seen.place, f"entry {seen.place} announces request {seen.id!a} a second time")
            self._open[seen.id] = seen
        elif seen.kind == "receipt":
            self._close(seen, self._open.pop(seen.id, None), fail)

    def _close(self, seen: Seen, intent: Seen | None, fail: Fail) -> None:
        if intent is None and seen.forwarded:
            sentence = f"the request of entry {seen.place} was sent to a node, and no intent precedes it"
            fail(INTENTS, seen.place, sentence)
        place, node = (None, None) if intent is None else (intent.place, intent.node)
        if seen.intent != place:
            sentence = f"entry {seen.place}: the stored intent is {seen.intent}, that of the log is {place}"
            fail(COLUMNS, seen.place, sentence)
        if seen.node is not None and seen.node != (node or (None, None)):
            sentence = f"entry {seen.place}: the stored network, node are not those that its intent announced"
            fail(COLUMNS, seen.place, sentence)

    def close(self, fail: Fail) -> None:
        """The end of the log. Start-up closes what a crash left open, so only the present run may have open intents."""
        for receipt, seen in self._open.items():
            if seen.place < self.start:
                fail(INTENTS, seen.place, f"the intent at entry {seen.place} ({receipt!a}) never got a receipt")

    @property
    def running(self) -> list[int]:
        """The places of open intents of the present run, in order."""
        return [seen.place for seen in self._open.values() if seen.place >= self.start]


class Times:
    """The stored times of checkpoints, by which exports are cut, against those signed in what each is first to cover.

    Both are of one clock, and an entry is signed before it is stored. The clock itself may have been put back: then
    the times that were signed under the checkpoint before lie ahead with it, and a falling time is no fault.

    An entry is stored soon after it is signed. Where a machine or its disk stood still, or an outage of the log made it
    wait, what is signed afterwards is later still: a time of a checkpoint that is never reached again was put forward.
    """

    def __init__(self, stored: Iterator[tuple[int, int]]) -> None:
        """`stored` is size and time in milliseconds of every checkpoint, by rising size."""
        self._stored = stored
        self._next = next(stored, None)
        self._signed = ""
        self._ahead: int | None = None  # the time of the checkpoint before, where nothing that was signed explains it
        self._soon = ""  # as `_signed`, of what was stored as soon as it was signed
        self._unreached: list[tuple[int, int, int]] = []  # a heap of (time, size, what was signed under it)
        self._outages: list[tuple[int, int]] = []

    def take(self, seen: Seen, fail: Fail) -> None:
        """The next entry of the log."""
        while self._next is not None and self._next[0] <= seen.place:
            self._look(*self._next, fail)
        self._signed = max(self._signed, seen.time)
        if not seen.late:
            self._soon = max(self._soon, seen.time)
            self._reach(seen.time)
        if seen.kind == "start":
            self._end_run(fail)

    def outage(self, outage: Outage) -> None:
        """An outage that an entry of the log tells of: what was signed in it was stored whenever it was over."""
        since, until = _milliseconds(outage.since), _milliseconds(outage.until)
        if since is not None and until is not None:
            self._outages.append((since - WAIT_MS, until))

    def close(self, fail: Fail) -> None:
        """The end of the log."""
        while self._next is not None:
            self._look(*self._next, fail)
        self._end_run(fail)

    def _look(self, size: int, ms: int, fail: Fail) -> None:
        signed, self._signed = _milliseconds(self._signed), ""
        soon, self._soon = _milliseconds(self._soon), ""
        self._next = next(self._stored, None)
        if soon is not None and ms > soon + WAIT_MS and not any(a <= soon <= b for a, b in self._outages):
            heappush(self._unreached, (ms, size, soon))
            if len(self._unreached) > MAX_UNREACHED:
                _fail_ahead(heappop(self._unreached)[1], fail)
        if signed is not None and ms + BEFORE_MS < signed:
            fail(COLUMNS, size, f"the time stored for the checkpoint of size {size} is before that of what it covers")
        elif self._ahead is not None and ms + BEFORE_MS < self._ahead:
            fail(
                COLUMNS, size, f"the time stored for the checkpoint of size {size} is before that of the one before it"
            )
        self._ahead = ms if signed is not None and ms > signed + WAIT_MS else None

    def _reach(self, time: str) -> None:
        """Something was signed at `time`: checkpoints before it are explained."""
        if not self._unreached or not time:
            return
        ms = _milliseconds(time)
        while ms is not None and self._unreached and self._unreached[0][0] <= ms + WAIT_MS:
            heappop(self._unreached)

    def _end_run(self, fail: Fail) -> None:
        """Nothing of this run is signed any more, and the clock of the next may be another."""
        for ms, size, signed in sorted(self._unreached, key=itemgetter(1)):
            if ms > signed + STILL_MS:
                _fail_ahead(size, fail)
        self._unreached.clear()


def _fail_ahead(size: int, fail: Fail) -> None:
    sentence = f"the time stored for the checkpoint of size {size} is after that of what it covers and of what follows"
    fail(COLUMNS, size, sentence)


#: How far a clock may be put back between signing and storing, and how long an entry may wait for that, about.
BEFORE_MS, WAIT_MS = 2_000, 10_000
#: For how long a machine or a disk may stand still as the last that a run does.
STILL_MS = 600_000
#: More checkpoints than a writer's queue has batches have to wait for no later time.
MAX_UNREACHED = 100


def _milliseconds(text: str) -> int | None:
    try:
        return millis(text) if text else None
    except FormatError:
        return None


class Openings:
    """What became of the openings. Memory is bounded by how many are not stored."""

    def __init__(self) -> None:
        self.kept = 0
        self.seeds = 0
        self.never = 0
        self.gone: list[tuple[int, str]] = []
        self.unknown: list[tuple[int, str]] = []
        self.erased: set[str] = set()

    def take(self, seen: Seen) -> None:
        """The next entry of the log."""
        if seen.opening == "kept":
            self.kept += 1
        elif seen.opening == "seed":
            self.seeds += 1
        elif seen.opening == "never":
            self.never += 1
        elif seen.opening:
            (self.gone if seen.opening == "gone" else self.unknown).append((seen.place, seen.id))

    @property
    def missing(self) -> list[tuple[int, str]]:
        """Openings that were kept once, are gone, and that no erasure entry names."""
        return [(place, receipt) for place, receipt in self.gone if receipt not in self.erased]

    @property
    def unexplained(self) -> int:
        """How many are not stored, whose receipts do not say whether they ever were, and that no erasure names."""
        return sum(receipt not in self.erased for _, receipt in self.unknown)

    @property
    def erased_count(self) -> int:
        """How many are not stored because an entry of the log erased them."""
        return sum(receipt in self.erased for _, receipt in (*self.gone, *self.unknown))
