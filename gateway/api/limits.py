"""The limits of the listening side, and the one timer that enforces its deadlines.

A deadline is an attribute of the connection, not a timer of its own: setting one costs an assignment, and a sweep over
at most `connections` connections a few times a second closes what is overdue.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Protocol

import msgspec

from gateway.errors import Busy

from .refusals import Refusals


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one client may cost. Sizes in bytes, times in seconds; the defaults suit a loopback or office gateway.

    `header_s` runs from the first byte of a request (on a new connection: from its acceptance) to the end of its
    headers; `idle_s` between requests. A body has `body_s` plus the time its bytes need at `body_rate` bytes a second
    (the shape of Apache's `RequestReadTimeout body=10,MinRate=8192`). A reader that lets our buffer fill must take
    `write_rate` bytes a second, judged every `write_s`, or the connection is cut. The connection of an answer that is
    left unfinished stays open for `cut_s` behind the last byte.
    """

    connections: int = 1024
    header_s: float = 10.0
    idle_s: float = 75.0
    body_s: float = 10.0
    body_rate: int = 8192
    write_s: float = 30.0
    write_rate: int = 1024
    linger_s: float = 2.0
    linger_bytes: int = 1 << 20
    cut_s: float = 0.25
    head_bytes: int = 16 * 1024
    headers: int = 100
    uri_bytes: int = 8 * 1024
    pipelined: int = 32

    @property
    def tick(self) -> float:
        """How often deadlines are looked at: an eighth of the shortest, between 20 ms and half a second."""
        shortest = min(self.header_s, self.idle_s, self.body_s, self.write_s, self.linger_s)
        return min(0.5, max(0.02, shortest / 8))


class BodyMemory:
    """Request bodies that are held, or still come, over all connections: `held` bytes of at most `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def room(self, size: int) -> None:
        """Raises `Busy` when `size` more bytes go beyond the limit."""
        if self.held + size > self.limit:
            raise Busy("This server holds as many bytes of request bodies as it allows.")

    def take(self, size: int) -> None:
        """Hold `size` more bytes, or raise `Busy`; `give` them back."""
        self.room(size)
        self.held += size

    def give(self, size: int) -> None:
        self.held -= size


class Watched(Protocol):
    """A connection as the watch sees it: `deadline` and `write_deadline` in loop time, infinite when none runs."""

    deadline: float
    write_deadline: float

    def overdue(self, now: float) -> None: ...


class Watch:
    """Every open connection of one server, the sweep over them, and counters for the metrics page.

    `refusals` hears of requests that were no HTTP, too large or too slow.
    """

    def __init__(self, limits: Limits, refusals: Refusals | None = None) -> None:
        self.limits = limits
        self.refusals = refusals
        self.connections: set[Watched] = set()
        self.counts = {"accepted": 0, "turned_away": 0, "refused": 0, "timed_out": 0, "cut": 0}
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, connection: Watched, loop: asyncio.AbstractEventLoop) -> bool:
        """Take `connection` under watch; False when the limit is reached, and then it is not."""
        if len(self.connections) >= self.limits.connections:
            self.counts["turned_away"] += 1
            return False
        self.connections.add(connection)
        self.counts["accepted"] += 1
        if self._timer is None:
            self._timer = loop.call_later(self.limits.tick, self._sweep, loop)
        return True

    def leave(self, connection: Watched) -> None:
        self.connections.discard(connection)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in tuple(self.connections):
            if connection.deadline <= now or connection.write_deadline <= now:
                connection.overdue(now)
        self._timer = loop.call_later(self.limits.tick, self._sweep, loop) if self.connections else None


def raise_descriptor_limit(limits: Limits, *, reserve: int) -> int:
    """Raise the process's soft limit of open files so that `limits.connections` fit beside `reserve` others.

    Returns how many files it falls short, 0 where all fit. Where the hard limit is too low the caller should warn:
    accepting and connecting fail before the limits of connections speak.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.connections + reserve
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return 0
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    return wanted - target
