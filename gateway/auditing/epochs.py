"""Epochs of sampled audits: their seeds, from before the first request to after the last audit.

    seed stored -> commitment in the log -> requests are taken -> end -> no request runs any more, audits are entered
    -> settled -> seed in the log -> seed forgotten

An epoch begins with the first request that needs one, which waits for its commitment to be durable; where nothing is
sampled there is none. When the log cannot be written there is none to be named; then requests are taken without one,
and say so by naming none.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec
import structlog

from gateway.backlog import LOG_FAILED
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


class Epochs:
    """The epochs of one run. One event loop. `busy` says whether audits of an epoch are under way."""

    def __init__(
        self, journal: Journal, times: Times, settle: Settle, busy: Callable[[str], bool], now_ms: Callable[[], int]
    ) -> None:
        self._journal = journal
        self._times = times
        self._settle = settle
        self._busy = busy
        self._now_ms = now_ms
        self._open: dict[str, EpochRow] = {}
        self._opening = asyncio.Lock()

    async def needed(self) -> EpochRow | None:
        """The epoch that takes requests now, opened if there is none; None while the log takes no commitment."""
        if self.current() is None:
            async with self._opening:
                if self.current() is None:
                    try:
                        await self._begin(self._now_ms())
                    except LOG_FAILED as error:
                        log.warning("epoch.waits", error=str(error))
        return self.current()

    def current(self) -> EpochRow | None:
        """The epoch that takes requests now; its commitment is durable."""
        now = self._now_ms()
        return next((row for row in self._open.values() if row.begin_ms <= now < row.end_ms), None)

    def find(self, id: str) -> EpochRow | None:
        """An epoch whose seed is not revealed."""
        return self._open.get(id)

    async def _begin(self, begin_ms: int) -> None:
        """Open an epoch from `begin_ms` on: its seed is stored, then its commitment logged. Raises as the log does."""
        end = begin_ms + self._times.length_ms
        reveal_by = end + self._times.run_ms + self._times.audit_ms
        seed = secrets.token_bytes(SEED_BYTES)
        row = EpochRow(self._journal.mint(), seed, self._journal.size(), begin_ms, end, reveal_by)
        await self._journal.submit(put_epoch(row))
        # A crash here leaves a seed of an epoch that nobody heard of: the next start forgets it.
        entry = EpochEntry(
            epoch=row.id, commitment=commitment(seed), kind=KIND, begin_ms=begin_ms, end_ms=end, reveal_by_ms=reveal_by
        )
        await self._journal.event("epoch", document(entry))
        self._open[row.id] = row
        log.info("epoch.opened", epoch=row.id)

    async def recover(self) -> None:
        """Settle and reveal what an earlier run left; its audits are lost to `crash`. Raises as the log does."""
        for row in await asyncio.to_thread(self._journal.reader.open_epochs):
            log.warning("epoch.recovered", epoch=row.id)
            await self._reveal(row, "crash")

    async def tick(self) -> None:
        """Reveal the epochs that are over. Raises as the log does."""
        now = self._now_ms()
        for row in [*self._open.values()]:
            quiet = now >= row.end_ms + self._times.run_ms and not self._busy(row.id)
            if quiet or now >= row.reveal_by_ms:
                await self._reveal(row, "late")

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
        for row in [*self._open.values()]:
            await self._reveal(row, "stopped")

    async def _reveal(self, row: EpochRow, reason: str) -> None:
        self._open.pop(row.id, None)  # nothing is taken under it, or audited, from here on
        try:
            counts = await self._settle(row, reason)
            if counts is not None:
                entry = RevealEntry(epoch=row.id, seed=row.seed.hex(), time_ms=self._now_ms(), counts=counts)
                await self._journal.event("reveal", document(entry))
            await self._journal.submit(drop_epoch(row.id))
        except BaseException:
            self._open[row.id] = row  # the log failed: later, or at the next start
            raise
        log.info("epoch.over", epoch=row.id, counts=counts)


def document(entry: msgspec.Struct) -> dict[str, Any]:
    """An entry's predicate as a mapping, with the names that it has in the log."""
    found: dict[str, Any] = msgspec.to_builtins(entry)
    return found
