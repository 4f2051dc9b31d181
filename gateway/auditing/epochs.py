"""Epochs of sampled audits: their seeds, from before the first request to after the last audit.

    seed stored -> commitment in the log -> requests are taken -> end -> no request runs any more, audits are entered
    -> settled -> seed in the log -> seed forgotten

An epoch begins with the first request that needs one, which waits for its commitment to be durable; where nothing is
sampled there is none. When the log cannot be written there is none to be named; then requests are taken without one,
and say so by naming none.

One epoch takes requests at any time: the one that the log got last. The log's order says so, and not the clock, which
may be set back: an epoch that is over never takes requests again, and how long its requests and audits are waited for
is measured by a clock that nobody can set. What is written to the log is waited for in a task of its own, so that a
request or a run that is given up leaves no epoch of which nobody knows whether the log has it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec
import structlog

from gateway.backlog import LOG_FAILED
from gateway.entropy import fresh
from gateway.errors import VerirouteError
from gateway.model.audits import Counts, EpochEntry, RevealEntry
from gateway.model.entry import Committed
from gateway.storage.audits import EpochRow, Job, drop_epoch, put_epoch
from gateway.storage.reads import Reader
from gateway.verify.proofs.sampling import SEED_BYTES, commitment

log = structlog.get_logger("veriroute.audit")

#: What is sampled: a re-execution on a trusted reference.
KIND = "reexec"
#: How often is looked whether an epoch is over.
TICK_S = 1.0


class Journal(NamedTuple):
    """The log, as far as audits need it.

    `size` is how many entries it has; `mint` gives a new ULID. `event` appends an entry and `submit` changes what is
    kept beside it: both durable when awaited, and both raise `backlog.LOG_FAILED` when the log cannot be written.
    """

    reader: Reader
    size: Callable[[], int]
    mint: Callable[[], str]
    event: Callable[[str, Mapping[str, object]], Awaitable[Committed]]
    submit: Callable[[Job], Awaitable[None]]


class Times(msgspec.Struct, frozen=True):
    """How long an epoch takes requests; how long after that one may still run; and how long its audits may take then.

    All in milliseconds.
    """

    length_ms: int
    run_ms: int
    audit_ms: int


#: Settles an epoch, with the reason for audits that nobody will do any more: what became of the selected ones. None for
#: an epoch that needs no reveal: it has one, or was never announced.
Settle = Callable[[EpochRow, str], Awaitable[Counts | None]]


class _Epoch:
    """An epoch whose seed is not revealed. `over` is when it ceased to take requests, None while it takes them."""

    def __init__(self, row: EpochRow, until: float, over: float | None = None) -> None:
        self.row = row
        self.until = until
        self.over = over
        self.ending: asyncio.Task[None] | None = None


#: `over` of an epoch that no request was taken under.
_NEVER_TAKEN = -math.inf


class Epochs:
    """The epochs of one run. One event loop. `busy` says whether audits of an epoch are under way; `mono` is a clock
    of seconds that nobody can set."""

    def __init__(
        self,
        journal: Journal,
        times: Times,
        settle: Settle,
        busy: Callable[[str], bool],
        now_ms: Callable[[], int],
        mono: Callable[[], float],
    ) -> None:
        self._journal = journal
        self._times = times
        self._settle = settle
        self._busy = busy
        self._now_ms = now_ms
        self._mono = mono
        self._open: dict[str, _Epoch] = {}
        self._newest: _Epoch | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closed = False

    async def needed(self) -> EpochRow | None:
        """The epoch that takes requests now, opened if there is none; None while the log takes no commitment."""
        row = self.current()
        if row is None and not self._closed:
            if self._opening is None or self._opening.done():
                self._opening = asyncio.create_task(self._begin())
            await asyncio.shield(self._opening)
            row = self.current()
        return row

    def current(self) -> EpochRow | None:
        """The epoch that takes requests now; its commitment is durable."""
        epoch = self._newest
        if epoch is None:
            return None
        mono = self._mono()
        if mono < epoch.until and self._now_ms() < epoch.row.end_ms:
            return epoch.row
        epoch.over, self._newest = min(mono, epoch.until), None
        return None

    def find(self, id: str) -> EpochRow | None:
        """An epoch whose seed is not revealed, nor about to be."""
        epoch = self._open.get(id)
        return None if epoch is None or (epoch.ending is not None and not epoch.ending.done()) else epoch.row

    async def _begin(self) -> None:
        """Open an epoch: its seed is stored, then its commitment logged."""
        try:
            for left in [epoch for epoch in self._open.values() if epoch.over == _NEVER_TAKEN]:
                await self._reveal(left, "late")
            await self._announce(self._now_ms())
        except LOG_FAILED as error:
            log.warning("epoch.waits", error=str(error))

    async def _announce(self, begin_ms: int) -> None:
        end = begin_ms + self._times.length_ms
        reveal_by = end + self._times.run_ms + self._times.audit_ms
        seed = fresh(SEED_BYTES)
        row = EpochRow(self._journal.mint(), seed, self._journal.size(), begin_ms, end, reveal_by)
        await self._journal.submit(put_epoch(row))
        # A crash here leaves a seed of an epoch that nobody heard of: the next start forgets it.
        entry = EpochEntry(
            epoch=row.id, commitment=commitment(seed), kind=KIND, begin_ms=begin_ms, end_ms=end, reveal_by_ms=reveal_by
        )
        epoch = _Epoch(row, 0.0, _NEVER_TAKEN)
        try:
            await self._journal.event("epoch", document(entry))
        except BaseException:
            self._open[row.id] = epoch  # whether the log has it is looked up before the next one begins
            raise
        epoch.until, epoch.over = self._mono() + self._times.length_ms / 1000, None
        self._open[row.id] = epoch
        if not self._closed:
            self._newest = epoch
        log.info("epoch.opened", epoch=row.id)

    async def recover(self) -> None:
        """Settle and reveal what an earlier run left; its audits are lost to `crash`. Raises as the log does."""
        for row in await asyncio.to_thread(self._journal.reader.open_epochs):
            log.warning("epoch.recovered", epoch=row.id)
            self._open[row.id] = epoch = _Epoch(row, 0.0, _NEVER_TAKEN)
            await self._reveal(epoch, "crash")

    async def tick(self) -> None:
        """Reveal the epochs that are over. Raises as the log does."""
        self.current()
        run_s, audit_s = self._times.run_ms / 1000, self._times.audit_ms / 1000
        for epoch in [*self._open.values()]:
            if epoch.over is None:
                continue
            since = self._mono() - epoch.over
            if since >= (run_s + audit_s if self._busy(epoch.row.id) else run_s):
                await self._reveal(epoch, "late")

    async def run(self) -> None:
        """`tick` for ever."""
        while True:
            try:
                await self.tick()
            except LOG_FAILED as error:
                log.warning("epoch.waits", error=str(error))
            except VerirouteError as error:
                log.error("epoch.failed", error=str(error))
            await asyncio.sleep(TICK_S)

    async def close(self) -> None:
        """Settle and reveal all: audits that were not done are lost to `stopped`. Raises as the log does."""
        self._closed, self._newest = True, None
        try:
            if self._opening is not None:
                await asyncio.wait([self._opening])
            for epoch in [*self._open.values()]:
                await self._reveal(epoch, "stopped")
        finally:
            for task in (self._opening, *[epoch.ending for epoch in self._open.values()]):
                if task is not None:
                    task.cancel()

    async def _reveal(self, epoch: _Epoch, reason: str) -> None:
        """End `epoch`, unless it has ended; once, whoever asks for it and whether or not he waits for it."""
        if epoch.row.id not in self._open:
            return
        if epoch.ending is None or epoch.ending.done():
            epoch.ending = asyncio.create_task(self._end(epoch.row, reason))
        await asyncio.shield(epoch.ending)

    async def _end(self, row: EpochRow, reason: str) -> None:
        # Nothing is taken under it, or audited, from here on. Where the log fails: later, or at the next start.
        counts = await self._settle(row, reason)
        if counts is not None:
            entry = RevealEntry(epoch=row.id, seed=row.seed.hex(), time_ms=self._now_ms(), counts=counts)
            await self._journal.event("reveal", document(entry))
        await self._journal.submit(drop_epoch(row.id))
        del self._open[row.id]
        log.info("epoch.over", epoch=row.id, counts=counts)


def document(entry: msgspec.Struct) -> dict[str, Any]:
    """An entry's predicate as a mapping, with the names that it has in the log."""
    found: dict[str, Any] = msgspec.to_builtins(entry)
    return found
