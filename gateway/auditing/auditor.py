"""The way of a released answer to its audit: chosen, delayed, judged, entered; and what a failure leads to.

    offer -> selected? -> waits a random time -> judge -> `audit` entry -> passed: noted | failed: node quarantined,
    alarm with the receipts that are in doubt, lists say `doubted`

Bodies wait in memory only, within limits of count and bytes; what has no place, and what waits when the gateway stops
or crashes, gets an entry that says so. The judge is handed in, and bounded in time and in how many run at once.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, Protocol

import msgspec
import structlog

from gateway.backlog import LOG_FAILED
from gateway.entropy import fresh
from gateway.errors import VerirouteError
from gateway.log.marks import Mark, alarm_mark, audit_mark
from gateway.model.audits import AUDIT_FAILED, MAX_NAMED, AuditEntry, Counts, Doubted, FailedAudit
from gateway.model.receipt import AuditPart
from gateway.policy.schema import CompiledPolicy
from gateway.storage.audits import EpochRow, put_marks
from gateway.verify.proofs.evidence import ProofRecord, Verdict
from gateway.verify.proofs.sampling import parse_rate, selected

from .epochs import KIND, Epochs, Journal, Times, document
from .settling import Due, standing

log = structlog.get_logger("veriroute.audit")

#: Judges one answer: its policy, the model, the request as it was sent, the answer.
Judge = Callable[[CompiledPolicy, str, bytes, bytes], Awaitable[ProofRecord]]
#: Takes a node out of service, with the reason.
Quarantine = Callable[[str, str], None]
#: What is judged, as a check id.
CHECK = f"proof_{KIND}"


class Gatherer(Protocol):
    """What gathers proofs of one answer (`gateway.proofs.Proofs`); `records` has one for each kind asked."""

    async def gather(
        self, kinds: frozenset[str], policy: CompiledPolicy, model: str, request: bytes, response: bytes
    ) -> Any: ...


def audited_by(gatherer: Gatherer) -> Judge:
    """The judge that has a trusted reference run the answer again."""

    async def judge(policy: CompiledPolicy, model: str, request: bytes, response: bytes) -> ProofRecord:
        gathered = await gatherer.gather(frozenset((CHECK,)), policy, model, request, response)
        (record,) = gathered.records
        assert isinstance(record, ProofRecord)
        return record

    return judge


#: How long a log that cannot be written is left alone, and how long a stop waits for it.
RETRY_S, STOP_S = 0.5, 10.0


class Released(msgspec.Struct, frozen=True):
    """An answer that has left, and what is needed to judge it. `audit` is what its receipt says of its epoch."""

    receipt_id: str
    node: str
    network: str
    model: str
    policy: CompiledPolicy
    request: bytes
    response: bytes
    audit: AuditPart

    @property
    def size(self) -> int:
        """Bytes that it takes while it waits."""
        return len(self.request) + len(self.response)


class Limits(msgspec.Struct, frozen=True):
    """How many answers wait at most, and of how many bytes, in all and of one node; how many are judged at once, and
    for how long each."""

    waiting: int = 1_000
    bytes: int = 64 << 20
    node_bytes: int = 16 << 20  # a node that pads its answers leaves the others their audits
    at_once: int = 2
    judge_s: float = 120.0


class Auditor:
    """Audits of one gateway. One event loop: `open`, then `run` beside the requests, `close` after the last one."""

    def __init__(
        self,
        journal: Journal,
        judge: Judge,
        quarantine: Quarantine,
        policies: Iterable[CompiledPolicy],
        *,
        now_ms: Callable[[], int],
        mono: Callable[[], float] = time.monotonic,
        limits: Limits | None = None,
    ) -> None:
        self._journal = journal
        self._judge = judge
        self._quarantine = quarantine
        self._now_ms = now_ms
        self._limits = limits or Limits()
        sampling = [policy for policy in policies if policy.sampled.rate > 0]
        times = _times(sampling, self._limits)
        self._epochs = Epochs(journal, times, self._settle, self._busy, now_ms, mono)
        self._turn = asyncio.Semaphore(self._limits.at_once)
        #: What waits or is judged, and what is being written, with the epoch of each.
        self._waiting: dict[asyncio.Task[None], str] = {}
        self._writing: dict[asyncio.Task[None], str] = {}
        self._bytes: Counter[str] = Counter()  # by node

    # -- the exchange's side ------------------------------------------------------------------------------------------

    async def terms(self, policy: CompiledPolicy) -> AuditPart | None:
        """What the receipt of a request that begins now says of its audit: None when nothing is sampled.

        The commitment of the epoch that it names is durable. An epoch's first request waits for that, no other does.
        Asked again at its intent, as the epoch may have ended: until the next await the log gets no other epoch's.
        """
        if policy.sampled.rate <= 0:
            return None
        epoch = await self._epochs.needed()
        return None if epoch is None else AuditPart(epoch.id, KIND, rate_text(policy.sampled.rate))

    def offer(self, released: Released) -> None:
        """Take an answer that was released. Whether it is audited is decided here. Never waits, never raises."""
        try:
            self._offer(released)
        except Exception as error:
            log.error("audit.not_taken", receipt=released.receipt_id, exc_info=error)

    def _offer(self, released: Released) -> None:
        epoch = self._epochs.find(released.audit.epoch)
        if epoch is None:
            log.warning("audit.epoch_over", receipt=released.receipt_id, epoch=released.audit.epoch)
            return
        if not selected(epoch.seed, released.receipt_id, parse_rate(released.audit.rate)):
            return
        if self._full(released):
            self._write(epoch.id, self._enter(_undecided(released, "queue_full")))
            return
        self._wait(released)

    def _full(self, released: Released) -> bool:
        limits, size = self._limits, released.size
        if len(self._waiting) >= limits.waiting or self._bytes.total() + size > limits.bytes:
            return True
        return self._bytes[released.node] + size > limits.node_bytes

    def _wait(self, released: Released) -> None:
        epoch, node, size = released.audit.epoch, released.node, released.size
        task = asyncio.create_task(self._audit(released))
        self._waiting[task] = epoch
        self._bytes[node] += size

        def done(task: asyncio.Task[None]) -> None:
            del self._waiting[task]
            self._bytes[node] -= size
            self._bytes += Counter()  # forgets nodes of which nothing waits

        task.add_done_callback(done)

    # -- the gateway's side -------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Settle what an earlier run left. Raises as the log does."""
        await self._epochs.recover()

    async def run(self) -> None:
        """Reveal epochs that are over, for as long as the gateway serves."""
        await self._epochs.run()

    async def close(self) -> None:
        """End what waits, write what was judged, reveal every seed. For after the last exchange; bounded in time."""
        try:
            async with asyncio.timeout(STOP_S):
                await self._epochs.close()
        except (TimeoutError, VerirouteError) as error:
            # The seeds are kept, so the next start reveals them.
            log.error("audit.unsettled", error=str(error) or "the log took too long")

    # -- one audit ----------------------------------------------------------------------------------------------------

    async def _audit(self, released: Released) -> None:
        await asyncio.sleep(_delay(released.policy))
        async with self._turn:
            record = await self._judged(released)
        self._write(released.audit.epoch, self._conclude(released, record))

    async def _judged(self, released: Released) -> ProofRecord | str:
        """The judge's record, or the reason why there is none."""
        try:
            async with asyncio.timeout(self._limits.judge_s):
                return await self._judge(released.policy, released.model, released.request, released.response)
        except TimeoutError:
            return "judge_timeout"
        except Exception as error:
            log.error("audit.judge_failed", receipt=released.receipt_id, exc_info=error)
            return "judge_failed"

    async def _conclude(self, released: Released, record: ProofRecord | str) -> None:
        entry = _undecided(released, record) if isinstance(record, str) else _decided(released, record)
        failed = entry.verdict == "fail"
        if failed and released.policy.sampled.on_fail == "quarantine":
            self._quarantine(released.node, "audit_failed")  # at once, whatever the log is able to take
        await self._enter(entry)
        if failed:
            await self._doubt(entry, released.policy.sampled.on_fail)
        else:
            await self._mark(audit_mark(entry))

    async def _doubt(self, audit: AuditEntry, action: str) -> None:
        """The alarm of a failed audit, and the mark on what the node served since the last one that passed."""
        reader = self._journal.reader
        span = await asyncio.to_thread(reader.doubtful_span, audit.receipt_id, audit.node, MAX_NAMED)
        if span is None:
            log.error("audit.receipt_unknown", receipt=audit.receipt_id)
            return
        alarm = FailedAudit(
            alarm=AUDIT_FAILED,
            node=audit.node,
            network=audit.network,
            receipt_id=audit.receipt_id,
            epoch=audit.epoch,
            time_ms=self._now_ms(),
            nonce=fresh(16).hex(),
            reason=audit.reason,
            action="quarantine" if action == "quarantine" else "report",
            doubted=Doubted(first=span.first, last=span.last, count=span.count, receipt_ids=span.ids),
        )
        log.warning("audit.failed", receipt=audit.receipt_id, node=audit.node, reason=audit.reason, doubted=span.count)
        await self._event("alarm", document(alarm))
        await self._mark(alarm_mark(alarm), audit_mark(audit))

    # -- settling an epoch --------------------------------------------------------------------------------------------

    async def _settle(self, epoch: EpochRow, reason: str) -> Counts | None:
        """Enter what the log lacks of an epoch that takes nothing more; None when it is to have no reveal."""
        await self._end(epoch.id)
        reader = self._journal.reader
        found = await asyncio.to_thread(lambda: standing(epoch, reader.entered(epoch.first)))
        if found.revealed or not found.announced:
            return None
        for due in found.owed():
            await self._journal.event("audit", document(self._lost(due, epoch.id, reason)))
        # What a crash left between an entry and its mark. In a thread: an epoch may have very many.
        unmarked = await asyncio.to_thread(reader.unmarked, found.marks())
        if unmarked:
            log.warning("audit.marks_repeated", epoch=epoch.id, count=len(unmarked))
            await self._journal.submit(put_marks(unmarked))
        for audit in found.failed():
            await self._doubt(audit, "report")
        return found.counts()

    async def _end(self, epoch: str) -> None:
        """Nothing of an epoch is judged any more; what was judged is written."""
        for task in _of(self._waiting, epoch):
            task.cancel()
        await asyncio.gather(*_of(self._waiting, epoch), return_exceptions=True)
        await asyncio.gather(*_of(self._writing, epoch), return_exceptions=True)

    def _busy(self, epoch: str) -> bool:
        return epoch in self._waiting.values() or epoch in self._writing.values()

    def _lost(self, due: Due, epoch: str, reason: str) -> AuditEntry:
        return AuditEntry(
            receipt_id=due.receipt_id,
            epoch=epoch,
            node=due.node,
            network=due.network,
            time_ms=self._now_ms(),
            nonce=fresh(16).hex(),
            kind=KIND,
            verdict="inconclusive",
            reason=reason,
        )

    # -- writing ------------------------------------------------------------------------------------------------------

    def _write(self, epoch: str, writing: Coroutine[Any, Any, None]) -> None:
        """Run `writing` to its end, whatever becomes of the task that it comes from; its epoch is not over before."""
        task = asyncio.create_task(writing)
        self._writing[task] = epoch

        def done(task: asyncio.Task[None]) -> None:
            del self._writing[task]
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("audit.unwritten", exc_info=error)

        task.add_done_callback(done)

    async def _enter(self, entry: AuditEntry) -> None:
        entry = msgspec.structs.replace(entry, time_ms=self._now_ms())
        log.info("audit.done", receipt=entry.receipt_id, node=entry.node, verdict=entry.verdict, reason=entry.reason)
        await self._event("audit", document(entry))

    async def _event(self, kind: str, predicate: Mapping[str, object]) -> None:
        """Into the log, as soon as it takes it."""
        while True:
            try:
                await self._journal.event(kind, predicate)
                return
            except LOG_FAILED:
                await asyncio.sleep(RETRY_S)

    async def _mark(self, *marks: Mark | None) -> None:
        """Beside the log, as soon as it takes it; an audit that decided nothing makes no mark."""
        made = [mark for mark in marks if mark is not None]
        while made:
            try:
                await self._journal.submit(put_marks(made))
                return
            except LOG_FAILED:
                await asyncio.sleep(RETRY_S)


def _of(tasks: Mapping[asyncio.Task[None], str], epoch: str) -> list[asyncio.Task[None]]:
    return [task for task, its in tasks.items() if its == epoch]


def rate_text(rate: float) -> str:
    """A rate as receipts write it: a decimal of at most nine places, `0.03`."""
    return f"{rate:.9f}".rstrip("0").rstrip(".")


def _times(policies: list[CompiledPolicy], limits: Limits) -> Times:
    """The shortest epoch that a policy asks for, and the longest of everything that may follow it."""
    return Times(
        length_ms=round(1000 * min((p.sampled.epoch_s for p in policies), default=3600)),
        run_ms=round(1000 * max(map(_longest, policies), default=0)) + 5_000,
        audit_ms=round(1000 * (max((p.sampled.delay_max_s for p in policies), default=0) + 2 * limits.judge_s)),
    )


def _longest(policy: CompiledPolicy) -> float:
    """Seconds that a request may take: its answer, and after its last byte the proofs that are gathered about it."""
    return policy.deadlines.total_s + (policy.proofs.timeout_s if policy.plan.proofs else 0)


def _delay(policy: CompiledPolicy) -> float:
    """Seconds until the audit, drawn evenly between the policy's bounds, so that a replay's time tells nothing."""
    low, high = policy.sampled.delay_min_s, policy.sampled.delay_max_s
    return float(low + (high - low) * secrets.randbits(53) / 2**53)


def _undecided(released: Released, reason: str) -> AuditEntry:
    return AuditEntry(
        receipt_id=released.receipt_id,
        epoch=released.audit.epoch,
        node=released.node,
        network=released.network,
        time_ms=0,
        nonce=fresh(16).hex(),
        kind=KIND,
        verdict="inconclusive",
        reason=reason,
    )


def _decided(released: Released, record: ProofRecord) -> AuditEntry:
    """The entry for a record. Its digests of request and answer, and its artefacts, stay out: they are not salted."""
    verdict = {Verdict.PASS: "pass", Verdict.FAIL: "fail"}.get(record.verdict, "inconclusive")
    return msgspec.structs.replace(
        _undecided(released, record.reason or ""),
        kind=record.kind.value,
        verdict=verdict,
        reason=record.reason,
        assurance=record.assurance.value,
        statistic=record.statistic,
        threshold=record.threshold,
        calibration_id=record.calibration_id,
        reference_id=record.reference_id,
        tokens=record.tokens,
        ms=record.ms,
    )
