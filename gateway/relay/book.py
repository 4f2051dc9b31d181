"""What is written of one exchange, and what must be written before anything leaves: its intent and its one receipt.

The order that must hold: intent durable -> prompt leaves; receipt durable -> answer leaves. What a policy lets go
before, or without the log, is kept and marked.
"""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from gateway.backlog import LOG_FAILED
from gateway.errors import InternalError, LogUnavailable, VerirouteError
from gateway.log.dsse import Sealed
from gateway.model.entry import Committed, Entry
from gateway.model.verdict import Release
from gateway.policy.schema import CompiledPolicy
from gateway.recorder import Ending, Exchange, Recorder

log = structlog.get_logger("veriroute.relay")

#: (verdict, release) -> how many exchanges have ended so.
Counts = dict[tuple[str, str], int]


class Book:
    """The intent and the receipt of one exchange. `degraded`: something of it was not in the log when it left."""

    def __init__(self, recorder: Recorder, x: Exchange, policy: CompiledPolicy, counts: Counts) -> None:
        self.x = x
        self.recorded = False
        self.degraded = False
        self._recorder = recorder
        self._policy = policy
        self._counts = counts
        self._intended = False
        # The receipt must not overtake its intent, which may be in the log's queue still, or wait in the backlog.
        self._pending: asyncio.Future[Committed] | None = None
        self._owed = False

    @property
    def intended(self) -> bool:
        """Whether a prompt may have left, so that there has to be a receipt."""
        return self._intended

    async def intend(self) -> VerirouteError | None:
        """The write-ahead record: durable before the first byte of the prompt leaves (invariant 10).

        The log's error when no prompt may leave, because the log failed and policy does not do without it.
        """
        if self._intended:
            return None
        self._intended = True
        try:
            future = self._recorder.intent(self.x)
            if self._policy.audit.durability == "async":
                self._pending = future
                future.add_done_callback(self._intent_written)
                return None
            await future
        except LOG_FAILED as error:
            if self._policy.audit.on_log_failure != "degrade" or not self._intent_later(error):
                return error
        return None

    def _intent_later(self, error: VerirouteError) -> bool:
        self._owed = self.degraded = self._recorder.intent_later(self.x, error)
        return self._owed

    def _intent_written(self, future: asyncio.Future[Committed]) -> None:
        """Policy did not wait for the intent; when it is not durable by now, it is owed."""
        self._pending = None  # not sooner: between the log's answer and this turn a receipt would overtake what is owed
        error = None if future.cancelled() else future.exception()
        if isinstance(error, LOG_FAILED):
            self._intent_later(error)

    async def record(self, ending: Ending) -> tuple[Committed | None, Sealed | None]:
        """The one receipt, behind its place in the log, which is None when policy did not wait for it.

        Raises what the log says (`LOG_FAILED`) when an answer may then not leave, and is to be refused in its stead.
        """
        assert not self.recorded
        self.recorded = True
        released = ending.release is Release.RELEASED
        if self._pending is not None and not released:
            try:
                await asyncio.wait([self._pending])
            except asyncio.CancelledError:  # nobody waits for the receipt any more, and it is owed all the same
                self._queue(ending)
                raise
        if self._owed:
            return None, self.later(ending, None)
        try:
            if released and self._policy.audit.durability == "async":
                return None, self._queue(ending)
            future, entry, sealed = self._recorder.receipt(self.x, ending)
            try:
                committed = await (future if released else asyncio.shield(future))
            except asyncio.CancelledError:  # what the log makes of it is seen to all the same
                future.add_done_callback(partial(self._written, entry))
                self._count(ending)
                raise
        except LOG_FAILED as error:
            if released and self._policy.audit.on_log_failure != "degrade":
                raise
            return None, self.later(ending, error)
        except InternalError:
            self.recorded = False  # this entry can never be stored; one that says so can
            raise
        self._count(ending)
        return committed, sealed

    def later(self, ending: Ending, error: VerirouteError | None) -> Sealed | None:
        """Keep the receipt until the log takes it, and give it back. No room: no answer leaves."""
        sealed = self._recorder.receipt_later(self.x, ending, error)
        if sealed is None and ending.release is Release.RELEASED:
            raise error or LogUnavailable("no more receipts can be kept until the log can be written")
        self.degraded = True
        self._count(ending)
        return sealed

    def _queue(self, ending: Ending) -> Sealed:
        """Hand the receipt to the log without waiting for it, and give it back."""
        self.degraded = True
        if self._pending is None:
            future, entry, sealed = self._recorder.receipt(self.x, ending)
            future.add_done_callback(partial(self._written, entry))
        else:
            entry, sealed = self._recorder.entry(self.x, ending)
            self._pending.add_done_callback(lambda _: self._put(entry))
        self._count(ending)
        return sealed

    def _put(self, entry: Entry) -> None:
        """Append a receipt that waited for its intent."""
        recorder = self._recorder
        if self._owed:
            recorder.keep(entry, None)
            return
        try:
            recorder.append(entry).add_done_callback(partial(self._written, entry))
        except LOG_FAILED as error:
            recorder.keep(entry, error)

    def _written(self, entry: Entry, future: asyncio.Future[Committed]) -> None:
        """Policy did not wait for the receipt; when the log did not take it, it is kept."""
        error = None if future.cancelled() else future.exception()
        if isinstance(error, LOG_FAILED):
            self._recorder.keep(entry, error)
        elif error is not None:
            log.error("exchange.unrecorded", receipt=entry.id, error=str(error))

    def _count(self, ending: Ending) -> None:
        counts, key = self._counts, (ending.verdict._value_, ending.release._value_)
        counts[key] = counts.get(key, 0) + 1

    def unavailable(self) -> LogUnavailable:
        """What the agent hears when the log fails. Only a prompt that has not left may be sent again."""
        kind = _PaidUnavailable if self.x.sent else LogUnavailable
        return kind(
            f"The log can't be written now, and policy {self.x.policy.name} lets no answer go without its receipt.",
            reason="log_unavailable",
        )

    def unlogged(self, ending: Ending, error: VerirouteError) -> None:
        """The receipt of an exchange that ends because the log failed with `error`: kept until the log takes it."""
        self.recorded = True
        self.later(ending, error)


class _PaidUnavailable(LogUnavailable):
    retryable = False
