"""What the log is still owed: documents that it could not take when they were due, kept until it takes them again.

A policy with `audit.on_log_failure = "degrade"` lets answers go while the log cannot be written, and a request that is
refused for that very reason has its receipt, too. Both are signed at once, with their own times and marked
`backfilled`, and wait here. When the log takes entries again it first gets an `alarm` entry that says since when it
could not be written and how many documents waited, then the documents themselves, intents before receipts.

Limits: memory only, so a crash or a kill loses what waits (a stop writes it, when the log can be written by then), and
no more than `entries` documents of `size` bytes in all. One half of that is kept for documents that are *due*: of
prompts that left or answers that were released. Where there is no room nothing may be released, and what else has no
place is counted in the alarm.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import structlog

from .errors import Busy, LogUnavailable, VerirouteError
from .model.receipt import instant

log = structlog.get_logger("veriroute.log")

#: How the log says that it does not take an entry now. Everything else is a defect of the entry.
LOG_FAILED = (LogUnavailable, Busy)
RETRY_S = 0.5
ENTRIES, SIZE = 10_000, 16 << 20
#: What one document costs in memory beside its bytes, about.
OVERHEAD = 1024
TOGETHER = 256

Write = Callable[[], "asyncio.Future[object]"]
Alarm = Callable[[Mapping[str, object]], Awaitable[object]]


class _Owed(NamedTuple):
    write: Write
    size: int


class Backlog:
    """One log's backlog. `alarm` appends an alarm entry; `unrecorded` counts documents for which there was no room."""

    def __init__(self, alarm: Alarm, *, now_ms: Callable[[], int], entries: int = ENTRIES, size: int = SIZE) -> None:
        self.unrecorded = 0
        self._alarm = alarm
        self._now_ms = now_ms
        self._entries, self._limit = entries, size
        self._intents: deque[_Owed] = deque()
        self._rest: deque[_Owed] = deque()
        self._size = 0
        self._since: int | None = None
        self._reason = ""
        self._told = 0  # of `unrecorded`, how many an alarm has named
        self._wake = asyncio.Event()
        self._settling = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._intents) + len(self._rest)

    def failed(self, error: VerirouteError) -> None:
        """The log did not take an entry: an outage, unless there is one already."""
        if self._since is None:
            self._since, self._reason = self._now_ms(), error.message
            log.error("log.unavailable", error=error.message)
        self._wake.set()

    def keep(self, write: Write, size: int, *, due: bool, intent: bool = False) -> bool:
        """Keep a document of `size` bytes that `write` appends; False, and counted, when there is no room for it."""
        size += OVERHEAD
        share = 1 if due else 2
        if len(self) >= self._entries // share or self._size + size > self._limit // share:
            self.unrecorded += 1
            return False
        (self._intents if intent else self._rest).append(_Owed(write, size))
        self._size += size
        self._wake.set()
        return True

    async def run(self) -> None:
        """Write what is owed as soon as the log takes it. Ends by cancellation."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(RETRY_S)
            # What was handed to the log must not be forgotten here as if it had been, nor handed over twice.
            await asyncio.shield(self.settle())

    async def settle(self) -> bool:
        """Try once; whether nothing is owed any more."""
        async with self._settling:
            return await self._settle()

    async def _settle(self) -> bool:
        self._wake.clear()
        try:
            await self._tell()
            # Intents first. What comes while this runs waits for the next time, so that no receipt overtakes its own.
            for queue, count in [(self._intents, len(self._intents)), (self._rest, len(self._rest))]:
                await self._write(queue, count)
        except LOG_FAILED as error:
            self.failed(error)
        if len(self) or self._since is not None:
            self._wake.set()
            return False
        return True

    async def _tell(self) -> None:
        """The alarm entry of an outage, which also shows that it is over."""
        if self._since is None:
            return
        since, unrecorded = self._since, self.unrecorded
        await self._alarm(
            {
                "alarm": "log_unavailable",
                "since": instant(since),
                "until": instant(self._now_ms()),
                "reason": self._reason,
                "backfilled": len(self),
                "unrecorded": unrecorded - self._told,
            }
        )
        self._since, self._told = None, unrecorded
        log.warning("log.recovered", count=len(self))

    async def _write(self, queue: deque[_Owed], count: int) -> None:
        """The first `count` of `queue`. Raises what the log says when it fails; what it did not take stays."""
        while count:
            batch = [queue.popleft() for _ in range(min(count, TOGETHER))]
            count -= len(batch)
            results = await asyncio.gather(*[_begin(owed.write) for owed in batch], return_exceptions=True)
            failure: VerirouteError | None = None
            for owed, result in zip(reversed(batch), reversed(results), strict=True):
                if isinstance(result, LOG_FAILED):
                    queue.appendleft(owed)
                    failure = result
                    continue
                self._size -= owed.size
                if isinstance(result, BaseException):
                    log.error("log.entry_refused", error=str(result))
            if failure is not None:
                raise failure


async def _begin(write: Write) -> object:
    return await write()
