"""Auditing the archive: what the log names by digest is there, and is what its digest says.

Receipts and intents name policy files, attested sessions and nodes' attestations, which lie in tables of their own, and
receipts what the node sent for the answer, which lies beside them. It may be gone where the log itself says why:

    erased      what was sent for one answer goes with the opening of its receipt
    no room     in an outage of the log not all that waited could be kept, as the alarm at its end says: what was first
                named then, or in the day after it, which no session outlasts

A node without evidence has the digest of no bytes, behind which nothing was ever stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from gateway.errors import FormatError
from gateway.model.line import Line
from gateway.model.receipt import millis
from gateway.model.verdict import Outcome

from .audit_rows import ARCHIVE, Name, Outage, Report, Sent
from .audit_tree import Fail

#: Names that are known to be there are not looked up again; so many are remembered.
KNOWN = 10_000
#: How long after an outage a session may still be named that began in it.
AFTER_MS = 24 * 3600 * 1000


class Archived(Protocol):
    """What is asked of the archive."""

    def is_archived(self, name: Name) -> bool: ...

    def archive(self) -> Iterator[str | None]:
        """For everything that is archived, None where it is what its digest says, otherwise a sentence."""


class Lost(NamedTuple):
    """Something that is not there: who named it first, and when that was signed."""

    place: int
    time: str
    sentence: str


class Archive:
    """Memory is bounded by how much is not there."""

    def __init__(self, source: Archived) -> None:
        self._source = source
        self._known: set[Name] = set()
        self._lost: dict[Name, Lost] = {}
        self._sent: list[Sent] = []
        self._outages: list[Outage] = []
        self._pieces = 0
        self._erased = 0
        self._unkept: list[Lost] = []

    def take(self, report: Report) -> None:
        """The next run of the log."""
        for name, (place, time) in report.named.items():
            if not self._is_there(name) and name not in self._lost:
                sentence = f"the {name.what} {name.digest!a}, which entry {place} names, is not in the archive"
                self._lost[name] = Lost(place, time, sentence)
        self._sent += [sent for sent in report.sent if not self._is_there(Name("evidence", sent.digest))]
        self._outages += [outage for outage in report.outages if outage.unrecorded]

    def close(self, erased: set[str], fail: Fail) -> None:
        """The end of the log; `erased` are the receipts that its erasure entries name."""
        for sent in self._sent:
            if sent.receipt in erased:
                self._erased += 1
                continue
            sentence = f"what the node sent for the answer of entry {sent.place} is not stored, erased by no entry"
            fail(ARCHIVE, sent.place, f"MISSING: {sentence}")
        for lost in self._lost.values():
            if any(_is_within(lost.time, outage) for outage in self._outages):
                self._unkept.append(lost)
            else:
                fail(ARCHIVE, lost.place, f"MISSING: {lost.sentence}")
        for problem in self._source.archive():
            self._pieces += 1
            if problem is not None:
                fail(ARCHIVE, 0, problem)

    def line(self) -> Line:
        """What there is to say where nothing is at fault."""
        counts = f"each of the {self._pieces} archived documents is what its digest says"
        if self._erased:
            counts += f"; what nodes sent for {self._erased} answers was erased by entries of the log"
        if self._unkept:
            sentence = f"{len(self._unkept)} documents are not there; in an outage, says the log, not all could be kept"
            return Line(ARCHIVE, Outcome.WARNING, sentence, detail=f"{self._unkept[0].sentence}; {counts}")
        sentence = "what entries name by digest (policies, sessions, evidence) is there"
        return Line(ARCHIVE, Outcome.AFFIRMING, f"{sentence}, and {counts}")

    def _is_there(self, name: Name) -> bool:
        if name in self._known:
            return True
        if not self._source.is_archived(name):
            return False
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known.add(name)
        return True


def _is_within(time: str, outage: Outage) -> bool:
    try:
        return millis(outage.since) <= millis(time) <= millis(outage.until) + AFTER_MS
    except FormatError:
        return False
