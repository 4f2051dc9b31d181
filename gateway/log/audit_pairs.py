"""Auditing what belongs together across the log: intents and receipts, openings and erasures."""

from __future__ import annotations

from .audit_rows import Seen
from .audit_tree import Fail

INTENTS = "intents"


class Pairs:
    """Intents that wait for their receipt. Memory is bounded by how many are open at once."""

    def __init__(self) -> None:
        self.intents = 0
        self.start = 0
        self._open: dict[str, int] = {}

    def take(self, seen: Seen, fail: Fail) -> None:
        """The next entry of the log."""
        if seen.kind == "start":
            self.start = seen.place
        elif seen.kind == "intent":
            self.intents += 1
            if seen.id in self._open:
                fail(INTENTS, seen.place, f"entry {seen.place} announces request {seen.id!a} a second time")
            self._open[seen.id] = seen.place
        elif seen.kind == "receipt" and self._open.pop(seen.id, None) is None and seen.forwarded:
            fail(
                INTENTS,
                seen.place,
                f"the request of entry {seen.place} was sent to a node, and no intent precedes it",
            )

    def close(self, fail: Fail) -> None:
        """The end of the log. Start-up closes what a crash left open, so only the present run may have open intents."""
        for receipt, place in self._open.items():
            if place < self.start:
                fail(INTENTS, place, f"the intent at entry {place} ({receipt!a}) never got a receipt")

    @property
    def running(self) -> list[int]:
        """The places of open intents of the present run, in order."""
        return [place for place in self._open.values() if place >= self.start]


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
