"""Auditing acts of administration: each that is stored as logged is an entry of the log, and each entry's is stored.

What another process did is left in a table for the gateway, which enters it and marks it (`gateway.log.acts`). So an
act may lack its entry: it was left while no gateway ran, or just now. Such a one *waits*, also where it was left, or
got its entry, while the audit ran. After a crash between entry and mark the next start enters an act once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from gateway.errors import FormatError
from gateway.model.line import Line
from gateway.model.verdict import Outcome

from .acts import LEFT, Act, read_act
from .audit_keys import KEYS, Keys, StoredKey
from .audit_rows import Report
from .audit_tree import Fail

ACTS = "acts"


class StoredAct(NamedTuple):
    """An act as it is stored: whatever stands in the columns.

    `waited`: it waited for its entry when the audit began, or was left since.
    """

    number: object
    kind: object
    document: object
    created_ms: object
    done: object
    waited: bool


class Administered(Protocol):
    """What is asked of keys and acts. `crowded`: more acts waited when the audit began than it keeps account of."""

    crowded: bool

    def administration(self) -> Iterator[StoredAct | StoredKey]:
        """All acts by rising number, then all keys, as of one moment."""


class Acts:
    """Memory grows with the number of acts, and not with the log."""

    def __init__(self, source: Administered) -> None:
        self._source = source
        self._keys = Keys()
        self._places: dict[bytes, int] = {}  # of entries, and -1 - place once the act was found to be stored
        self._stored = 0
        self._waiting = 0
        self._first_waiting: object = None

    def take(self, report: Report, fail: Fail) -> None:
        """The next run of the log."""
        for place, kind, act in report.acts:
            if act is None:
                fail(ACTS, place, f"entry {place} ({kind}) holds no act")
            elif act.digest not in self._places:  # otherwise entered again after a crash
                self._places[act.digest] = place
                if kind == "key":
                    self._keys.take(f"entry {place}", act.key, fail, waits=False, place=place)
        self._keys.call(report.callers)

    def close(self, size: int, fail: Fail) -> None:
        """The end of the log, of `size` entries."""
        for row in self._source.administration():
            if isinstance(row, StoredKey):
                self._keys.hold(row, fail)
            else:
                self._stored += 1
                self._hold(row, size, fail)
        for place in self._places.values():
            if place >= 0:
                fail(ACTS, place, f"the act of entry {place} is not stored")
        self._keys.close(fail)

    def lines(self) -> Iterator[Line]:
        """What there is to say of keys and acts where nothing is at fault."""
        if self._source.crowded:
            sentence = "too many acts wait for their entry to tell which of them always did; let a gateway enter them"
            yield from (Line(step, Outcome.NONE, sentence) for step in (KEYS, ACTS))
            return
        yield self._keys.line()
        if self._waiting:
            waiting = f"{self._waiting} of {self._stored} acts wait for their entry in the log"
            sentence = f"{waiting}, which a gateway makes when it runs; act {self._first_waiting!a} is the first"
            yield Line(ACTS, Outcome.WARNING, sentence)
        else:
            sentence = (
                f"{self._stored} acts of the command line (keys, exports) are those that the log has, and no others"
            )
            yield Line(ACTS, Outcome.AFFIRMING, sentence)

    def _hold(self, row: StoredAct, size: int, fail: Fail) -> None:
        name = f"act {row.number!a}"
        if not isinstance(row.kind, str) or row.kind not in LEFT:
            fail(ACTS, size, f"{name} is of kind {row.kind!a}, which no command leaves")
            return
        try:
            act = read_act(row.kind, row.document if isinstance(row.document, bytes) else b"")
        except FormatError:
            fail(ACTS, size, f"the document of {name} ({row.kind}) is none that a command leaves")
            return
        if type(row.created_ms) is not int or (act.key is not None and row.created_ms != act.key.ms):
            fail(ACTS, size, f"{name} ({row.kind}) is stored with another time than its own")
        if type(row.done) is not int or row.done not in (0, 1):
            fail(ACTS, size, f"{name} ({row.kind}) is marked neither as logged nor as waiting")
        self._pair(row, act, f"{name}, which waits,", size, fail)

    def _pair(self, row: StoredAct, act: Act, waiting: str, size: int, fail: Fail) -> None:
        place = self._places.get(act.digest)
        if place is not None and place < 0:
            fail(ACTS, size, f"act {row.number!a} is that of entry {-1 - place}, and stored twice")
        elif place is not None:
            self._places[act.digest] = -1 - place
        elif row.done == 0 or row.waited:
            self._waiting += 1
            self._first_waiting = self._first_waiting or row.number
            if row.kind == "key":
                self._keys.take(waiting, act.key, fail, waits=True, place=size)
        else:
            sentence = f"act {row.number!a} ({row.kind}) is marked as logged, and no entry of the log has it"
            fail(ACTS, size, sentence)
