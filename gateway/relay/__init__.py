"""Performs one exchange: route, record the intent, forward, follow the answer, appraise, decide, record, release.

    terms    what comes in, and the sink where the answer goes
    run      the course of one exchange            book   what is written of it
    judged   an answer under a policy               ends   every way to end without an answer
    till     what the exchange pays             quorum   several nodes for one answer
    proving  what proofs add to an appraisal

The only place where the fleet, the channel, the log and the policy meet. What may be decided is decided by the pure
half; what is sent to the agent goes through a `Sink`, so that nothing here knows HTTP's server side. The order that
must hold:

    session affirming -> intent durable -> prompt leaves
    answer complete -> appraised -> decided -> receipt durable -> answer leaves      (buffer; the other modes hold less)

Every exchange that reaches `serve` ends in exactly one receipt: released, withheld, refused, failed or abandoned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.auditing import Auditor
from gateway.errors import InternalError
from gateway.exchange.head import Head
from gateway.fleet.fleet import Fleet
from gateway.model.node import AttestedSession
from gateway.model.verdict import AttestationResult
from gateway.payer import Payer
from gateway.policy.schema import CompiledPolicy
from gateway.recorder import Exchange, Recorder
from gateway.upstream.pool import UpstreamPool

from .book import Counts
from .ends import Done
from .judged import Judged
from .proving import QUORUM, Prover
from .quorum import Quorate
from .run import Run
from .terms import Headers, Incoming, Sink, Terms


class Relay:
    """`serve` is the whole of it; the rest are its steps, in order."""

    def __init__(
        self,
        fleet: Fleet,
        pool: UpstreamPool,
        recorder: Recorder,
        *,
        now: Callable[[], float],
        mono: Callable[[], float],
        max_response: int,
        max_event: int,
        payer: Payer | None = None,
        new_id: Callable[[], str],
        prover: Prover | None = None,
        auditor: Auditor | None = None,
    ) -> None:
        self.fleet = fleet
        self.pool = pool
        self.recorder = recorder
        self.now = now
        self.mono = mono
        self.max_response = max_response
        self.max_event = max_event
        self.payer = payer
        self.new_id = new_id
        self.prover = prover
        self.auditor = auditor
        self.counts: Counts = {}
        self._judged: dict[tuple[int, int, str], Judged] = {}
        self._runs: set[Run] = set()

    def judged(self, result: AttestationResult, session: AttestedSession, policy: CompiledPolicy) -> Judged:
        """What policy makes of `result` and `session`, and how both are written.

        Answers without a fault share one result object, and sessions live for minutes, so nearly every exchange finds
        here what an earlier one worked out. The kept values hold their keys, so that no identity is used twice.
        """
        key = (id(result), id(session), policy.digest)
        found = self._judged.get(key)
        if found is None:
            if len(self._judged) >= 256:
                self._judged.clear()
            found = self._judged[key] = Judged.of(result, session, policy)
        return found

    def known(self, head: Head) -> None:
        """Raises `ModelUnknown` or `EndpointUnknown` when no node could ever serve `head`."""
        self.fleet.known(head)

    def stop(self) -> None:
        """End every exchange whose receipt is not being written: the agent is told, the receipt says `stopped`."""
        for run in self._runs:
            if not run.book.recorded and run.task is not None:
                run.task.cancel()

    async def serve(self, incoming: Incoming, sink: Sink) -> None:
        """Run one exchange to its end. Never raises but for cancellation; the receipt and the sink have the outcome."""
        rnd = incoming.randomness
        x = Exchange(
            receipt_id=incoming.receipt_id,
            received_ms=incoming.received_ms,
            t0=incoming.t0,
            seed=rnd[:32],
            nonce16=rnd[32:48],
            key_id=incoming.key_id,
            client_request_id=incoming.client_request_id,
            head=incoming.head,
            body=incoming.body,
            policy=incoming.terms.use,
        )
        kind = Quorate if QUORUM in incoming.terms.policy.plan.proofs else Run
        await self.perform(kind(self, x, incoming.terms, sink, rnd[48:].hex(), incoming.pick))

    async def perform(self, run: Run) -> None:
        """Run one exchange to its end, whatever happens. Never raises but for cancellation."""
        run.task = asyncio.current_task()
        self._runs.add(run)
        try:
            await _ended(run)
        except asyncio.CancelledError:  # wherever it was, in telling of a failure too
            if not run.book.recorded:
                await asyncio.shield(run.stopped())
            raise
        finally:
            self._runs.discard(run)


async def _ended(run: Run) -> None:
    """Run one exchange to an end of its own."""
    try:
        await run.all()
    except Done:
        pass
    except OSError as error:
        if not run.sink.gone:
            await run.fail(InternalError(f"the gateway failed: {type(error).__name__}"), error)
        elif not run.book.recorded:
            await run.abandon()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the one boundary: whatever fails has its receipt
        ours = error if isinstance(error, InternalError) else InternalError("the gateway failed; its log says how")
        await run.fail(ours, error)


__all__ = ["Headers", "Incoming", "Relay", "Sink", "Terms"]
