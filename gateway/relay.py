"""Performs one exchange: route, record the intent, forward, follow the answer, appraise, decide, record, release.

The only place where the fleet, the channel, the log and the policy meet. What may be decided is decided by the pure
half; what is sent to the agent goes through a `Sink`, so that nothing here knows HTTP's server side. The order that
must hold:

    session affirming -> intent durable -> prompt leaves
    answer complete -> appraised -> decided -> receipt durable -> answer leaves      (buffer; the other modes hold less)

Every exchange that reaches `serve` ends in exactly one receipt: released, withheld, refused, failed or abandoned.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from functools import partial
from typing import Protocol

import msgspec
import structlog

from .adapter import Sealed
from .backlog import LOG_FAILED
from .errors import (
    Busy,
    EvidenceMissing,
    EvidenceRejected,
    FormatError,
    InternalError,
    LogUnavailable,
    NoEligibleNode,
    SessionNotAccepted,
    UpstreamFailed,
    VerirouteError,
)
from .exchange.answer import Content, read_answer, without
from .exchange.head import Head
from .exchange.release import Hold
from .exchange.render import (
    Verification,
    VerificationPolicy,
    claims_map,
    error_event,
    splice,
    verification_event,
)
from .exchange.stream import CHAIN, STREAMABLE, Piece, StreamReader, UpstreamError
from .fleet.fleet import Choice, Fleet, Member
from .log.proof import format_tlog_proof
from .model.entry import Committed, Entry
from .model.node import AttestedSession
from .model.observation import Observation
from .model.receipt import (
    REQUEST_BODY,
    RESPONSE_BODY,
    RESPONSE_CONTENT,
    RESPONSE_TOOLCALLS,
    Rejected,
)
from .model.verdict import AttestationResult, Check, Claim, Outcome, Release
from .policy.decide import Decision, decide
from .policy.machine import TEE_RULES, under
from .policy.schema import CompiledPolicy
from .recorder import Ending, Exchange, PolicyUse, Recorder
from .routing import node_at_fault
from .upstream.connection import Connection
from .upstream.errors import ChannelError, NotReached
from .upstream.head import ResponseHead
from .upstream.limits import Deadlines
from .upstream.pool import UpstreamPool
from .verify.aci import SignedReceipt, chain_message, decode_inline, parse_chain, parse_receipt
from .verify.checks import Phase
from .verify.response import Exchanged, appraise_response, verify_chain

log = structlog.get_logger("veriroute.relay")

#: How long an exchange that a stop has ended may take to say so.
STOP_S = 1.0

#: Reasons for passing a node over that pass by themselves.
PASSING = frozenset(
    ("quarantined", "circuit_open", "session_missing", "session_expired", "fresh", "busy", "connect_failed")
) | {"timeout_connect", "tls_failed"}

JSON = b"application/json"
SSE = b"text/event-stream"
Headers = list[tuple[bytes, bytes]]


class Terms(msgspec.Struct, frozen=True):
    """The policy in force for one exchange, pinned at its start."""

    policy: CompiledPolicy
    use: PolicyUse
    sessions: tuple[str, ...] | None = None


class Incoming(msgspec.Struct, frozen=True):
    """One accepted request, as far as the relay needs it. Ids, randomness and times come from outside."""

    receipt_id: str
    received_ms: int
    t0: float
    randomness: bytes  # 32 bytes seed, 16 bytes receipt nonce, 32 bytes request nonce
    key_id: str
    client_request_id: str | None
    head: Head
    body: bytes
    terms: Terms
    pick: float


class Sink(Protocol):
    """Where the answer goes. Each may raise `OSError` when the agent has left."""

    gone: bool

    def on_leave(self, callback: Callable[[], None] | None) -> None: ...
    async def answer(self, headers: Headers, body: bytes) -> None: ...
    async def begin(self, headers: Headers) -> None: ...
    async def write(self, data: bytes) -> None: ...
    async def end(self, data: bytes) -> None: ...
    async def refuse(self, error: VerirouteError, receipt: str, extra: dict[str, object], headers: Headers) -> None: ...
    async def cut(self, data: bytes) -> None: ...


class Judged(msgspec.Struct, frozen=True):
    """A result under a policy: the decision, and the checks and claims of node and answer as they are written."""

    result: AttestationResult
    session: AttestedSession
    decision: Decision
    checks: msgspec.Raw
    claims: msgspec.Raw
    claims_shown: msgspec.Raw
    executed_in: str
    covered: bool

    @classmethod
    def of(cls, result: AttestationResult, session: AttestedSession, policy: CompiledPolicy) -> Judged:
        claims = (*session.claims, *result.claims)
        shown = claims_map(claims)
        return cls(
            result,
            session,
            decide(result, policy, Phase.RESPONSE, node=session),
            msgspec.Raw(msgspec.json.encode((*under(session, policy), *result.checks))),
            msgspec.Raw(msgspec.json.encode(claims)),
            msgspec.Raw(msgspec.json.encode(shown)),
            {"asserted": "tee", "refuted": "ordinary machine"}.get(shown.get("executed_in_tee", ""), "unknown"),
            _affirmed(result, "response_bound"),
        )


class _Next(Exception):
    """This node did not serve; policy allows the next one. Carries the stable reason."""


class _Done(Exception):
    """The exchange was recorded and the agent told (or gone)."""


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
    ) -> None:
        self._fleet = fleet
        self._pool = pool
        self._recorder = recorder
        self._now = now
        self._mono = mono
        self._max_response = max_response
        self._max_event = max_event
        self.counts: dict[tuple[str, str], int] = {}
        self._judged: dict[tuple[int, int, str], Judged] = {}
        self._runs: set[_Run] = set()

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
        self._fleet.known(head)

    def stop(self) -> None:
        """End every exchange whose receipt is not being written: the agent is told, the receipt says `stopped`."""
        for run in self._runs:
            if not run.recorded and run.task is not None:
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
        run = _Run(self, x, incoming.terms, sink, rnd[48:].hex(), incoming.pick)
        self._runs.add(run)
        try:
            await run.all()
        except _Done:
            pass
        except OSError as error:
            if not sink.gone:
                await run.fail(InternalError(f"the gateway failed: {type(error).__name__}"), error)
            elif not run.recorded:
                await run.abandon()
        except asyncio.CancelledError:
            if not run.recorded:
                await asyncio.shield(run.stopped())
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the one boundary: whatever fails has its receipt
            await run.fail(InternalError("the gateway failed; its log says how"), error)
        finally:
            self._runs.discard(run)


class _Run:
    """One exchange under way."""

    def __init__(self, relay: Relay, x: Exchange, terms: Terms, sink: Sink, nonce: str, pick: float) -> None:
        self.relay = relay
        self.x = x
        self.terms = terms
        self.policy = terms.policy
        self.sink = sink
        self.nonce = nonce
        self.pick = pick
        self.task = asyncio.current_task()
        self.recorded = False
        self.degraded = False
        # The receipt must not overtake its intent, which may be in the log's queue still, or wait in the backlog.
        self.pending: asyncio.Future[Committed] | None = None
        self.owed = False
        self.intended = False
        self.started = False
        self.connection: Connection | None = None

    # -- the course of an exchange ------------------------------------------------------------------------------------

    async def all(self) -> None:
        choice = await self.relay._fleet.choose(self.x.head, self.terms.policy, self.terms.sessions, self.pick)
        self.x.candidates = choice.considered
        self.x.rejected.extend(choice.dropped)
        for member in choice.order:
            self.x.attempts += 1
            try:
                await self.attempt(member)
            except _Next as reason:
                self.x.rejected.append(Rejected(member.node.id, str(reason)))
                if self.sink.gone:
                    await self.abandon()
                    return
        await self.none_left(choice)

    async def attempt(self, member: Member) -> None:
        """One try at one node. Raises `_Next` when another may be tried, `_Done` when the exchange has ended."""
        relay, x = self.relay, self.x
        member.enter()
        connection: Connection | None = None
        try:
            assert member.session is not None
            connection = await self.reach(member)
            x.node, x.session = member.node, member.session
            await self.intend()
            if not connection.untouched():  # it was an idle one, and its peer ended it while the intent was written
                connection.abort()
                connection = await self.reach(member)
            self.connection = connection
            self.sink.on_leave(connection.abort)
            if self.sink.gone:
                connection.abort()
            try:
                await self.forward(member, connection)
            except ChannelError as error:
                await self.broken(member, error)
        finally:
            self.sink.on_leave(None)
            self.connection = None
            member.leave()
            if connection is not None:
                x.sent = x.sent or connection.sent
                relay._pool.release(connection)

    async def reach(self, member: Member) -> Connection:
        """A connection to the node, over which nothing was sent. Raises `_Next`."""
        assert member.session is not None
        # Over TLS the keys that the session names, and no others. One that names none has the web's rules, and
        # channel_bound is then none: whether that will do was the policy's to say.
        pins = frozenset(member.session.spki_pins) or None if member.origin.tls else None
        try:
            return await self.relay._pool.acquire(member.origin, pins, self.policy.deadlines.connect_s)
        except NotReached as error:
            member.failed(error.reason or "connect_failed")
            raise _Next(error.reason or "connect_failed") from None

    async def intend(self) -> None:
        """The write-ahead record: durable before the first byte of the prompt leaves (invariant 10)."""
        if self.intended:
            return
        self.intended = True
        try:
            future = self.relay._recorder.intent(self.x)
            if self.policy.audit.durability == "async":
                self.pending = future
                future.add_done_callback(self._intent_written)
                return
            await future
        except LOG_FAILED as error:
            if self.policy.audit.on_log_failure != "degrade" or not self._intent_later(error):
                ending = Ending(verdict=Outcome.NONE, release=Release.REFUSED, status=503, reason="log_unavailable")
                await self.refuse(self._unavailable(), ending, None, unlogged=error)

    def _intent_later(self, error: VerirouteError) -> bool:
        self.owed = self.degraded = self.relay._recorder.intent_later(self.x, error)
        return self.owed

    def _intent_written(self, future: asyncio.Future[Committed]) -> None:
        """Policy did not wait for the intent; when it is not durable by now, it is owed."""
        error = None if future.cancelled() else future.exception()
        if isinstance(error, LOG_FAILED):
            self._intent_later(error)

    async def forward(self, member: Member, connection: Connection) -> None:
        x = self.x
        assert x.session is not None
        mode = self._mode(member)
        x.mode = mode
        extra = member.adapter.request(x.session, self.nonce, chained=mode == "chained")
        head = await connection.request(
            b"POST",
            member.origin.target(x.head.endpoint),
            [(b"content-type", JSON), (b"accept", SSE if x.head.stream else JSON), *extra],
            x.body,
            self._deadlines(),
            max_body=self.relay._max_response,
            started=None,
        )
        x.sent = True
        x.t_first = self.relay._mono()
        media = (head.get(b"content-type") or b"").split(b";")[0].strip().lower()
        if head.status != 200:
            await self.bad_status(member, connection, head)
        if x.head.stream and media == SSE and x.head.endpoint in STREAMABLE:
            await self.stream(member, connection, head, mode)
        elif media == JSON and _charset_ok(head.get(b"content-type") or b""):
            x.mode = "buffer"
            await self.whole(member, connection, head)
        else:
            member.failed("content_type")
            raise await self.upstream(member, "content_type", "the node answered in another media type")

    # -- one whole JSON answer ----------------------------------------------------------------------------------------

    async def whole(self, member: Member, connection: Connection, head: ResponseHead) -> None:
        x, relay = self.x, self.relay
        body = await connection.read_all(relay._max_response)
        x.t_done = relay._mono()
        found = self._evidence(member, head)
        observation, content, foreign = read_answer(x.head, body)
        sealed, problem = _open(found.receipt, found.problem)
        judged = self.appraise(member, sealed, problem, hashlib.sha256(body).hexdigest(), observation)
        facts = _Facts(judged, observation, content, body, None, found.receipt)
        if not judged.decision.permit:
            await self.reject(member, facts)
        form = "verbatim"
        if foreign:
            body, form = without(body, foreign), "rebuilt"
            x.dropped_members = foreign
        committed, envelope = await self.release(facts, form, body)
        member.served((x.t_done - x.t0) * 1000)
        if self.policy.attach != "none":
            body = splice(body, self.verification(facts, committed, envelope))
        await self.sink.answer(self.headers(facts), body)
        raise _Done

    # -- one stream ---------------------------------------------------------------------------------------------------

    async def stream(self, member: Member, connection: Connection, head: ResponseHead, mode: str) -> None:
        x, relay = self.x, self.relay
        assert x.session is not None
        reader = StreamReader(x.head, member.adapter.wire, x.salt(RESPONSE_BODY), max_event=relay._max_event)
        hold = Hold(
            mode, window_events=self.policy.release.window_events, window_ms=float(self.policy.release.window_ms)
        )
        chain = _Chain(x, self.nonce, head.get(b"x-receipt-id"))
        x.sent_hash = hashlib.sha256(x.salt("delivery"))
        # Checking a signature costs more than all else that is done for an event, so events share one.
        gather_s = self.policy.release.gather_ms / 1000 if mode == "chained" else 0.0
        try:
            while data := await connection.read_some(gather_s):
                pieces = reader.feed(data)
                out = b""
                now = relay._mono() * 1000
                # A running signature covers all before it, so of those that came together the last one is verified.
                final = max((n for n, piece in enumerate(pieces) if piece.kind == CHAIN), default=-1)
                for n, piece in enumerate(pieces):
                    if piece.kind != CHAIN:
                        out += hold.offer(piece, now)
                    elif mode == "chained" and chain.holds(piece, verify=n == final):
                        out += hold.covered()
                if pieces:
                    connection.progress()
                if out and not chain.broken:
                    await self.let_out(out)
        except UpstreamError:
            member.failed("error_event")
            raise await self.upstream(member, "error_event", "the node reported an error inside the stream") from None
        except FormatError as error:
            member.failed("too_large")
            raise await self.upstream(member, "too_large", str(error)) from None
        x.t_done = relay._mono()
        cut = reader.finish()
        if cut is not None:
            member.failed("truncated")
            raise await self.upstream(member, "truncated", cut)
        receipt, problem = _sealed_event(reader)
        sealed, problem = _open(receipt, problem)
        seen = reader.observation()
        judged = self.appraise(member, sealed, problem, reader.covered_sha256, seen, chain.broken or chain.unused(mode))
        facts = _Facts(judged, seen, reader.content(), None, reader.data_sha256, receipt)
        if not judged.decision.permit:
            await self.reject(member, facts)
        rest = hold.flush()
        form = "rebuilt" if reader.rebuilt else "verbatim"
        committed, envelope = await self.release(facts, form, rest + hold.end)
        member.served((x.t_done - x.t0) * 1000)
        last = b""
        if self.policy.attach != "none":
            verification = self.verification(facts, committed, envelope)
            last = verification_event(x.head.endpoint, facts.observation.answer_id, x.head.model, verification)
        if not self.started:
            await self.sink.begin(self.headers(facts, stream=True))
            self.started = True
        await self.sink.end(rest + last + hold.end)
        raise _Done

    async def let_out(self, data: bytes) -> None:
        """Bytes that may leave before the verdict."""
        x = self.x
        if not self.started:
            self.started = True
            await self.sink.begin(self.headers(None, stream=True))
        x.sent_bytes += len(data)
        assert x.sent_hash is not None
        x.sent_hash.update(data)
        await self.sink.write(data)

    async def release(self, facts: _Facts, form: str, rest: bytes) -> tuple[Committed | None, bytes]:
        """Record that the answer leaves, `rest` with it, which the caller sends then. Raises `_Done` if it may not."""
        x = self.x
        left = x.sent_bytes, x.sent_hash
        x.sent_bytes += len(rest)
        if x.sent_hash is not None:
            x.sent_hash = x.sent_hash.copy()
            x.sent_hash.update(rest)
        try:
            return await self.record(self._ending(facts, Release.RELEASED, 200, form))
        except LOG_FAILED as error:
            x.sent_bytes, x.sent_hash = left
            ending = self._ending(facts, Release.WITHHELD, 503, form, "log_unavailable")
            await self.refuse(self._unavailable(), ending, None, unlogged=error)
            raise _Done from None

    # -- judging ------------------------------------------------------------------------------------------------------

    def appraise(
        self,
        member: Member,
        sealed: SignedReceipt | None,
        problem: str | None,
        response_sha256: str,
        observation: Observation,
        chain_problem: str | None = None,
    ) -> Judged:
        """The checks of this answer, and what policy makes of them together with the node's own appraisal."""
        x, relay = self.x, self.relay
        assert x.session is not None
        start = relay._mono()
        seen = False
        # With our nonce in it a receipt cannot have been made before; the journal is for those without one.
        if sealed is not None and sealed.receipt.request_nonce is None and self.policy.replay.journal:
            seen = self.relay._fleet.journal.seen(member.node.network, sealed, relay._now())
        exchanged = Exchanged(
            hashlib.sha256(x.body).hexdigest(), response_sha256, self.nonce, x.head.model, x.head.endpoint, seen
        )
        result = appraise_response(
            x.session,
            sealed,
            problem,
            exchanged,
            observation,
            now=relay._now(),
            skew_s=self.policy.freshness.response_skew_s,
        )
        if chain_problem is not None:
            result = _with_chain(result, chain_problem)
        judged = relay.judged(result, x.session, self.policy)
        x.verify_ms = (relay._mono() - start) * 1000
        return judged

    def verification(self, facts: _Facts, committed: Committed | None, envelope: bytes) -> Verification:
        x, full = self.x, self.policy.attach == "full"
        assert x.node is not None
        assert x.session is not None
        salts = {name: _b64(x.salt(name)) for name in self._opened(facts)}
        return Verification(
            verdict=facts.judged.decision.verdict.value,
            level="degraded" if committed is None or self.degraded else "logged",
            policy=VerificationPolicy(self.terms.use.name, self.terms.use.digest),
            network=x.node.network,
            node=x.node.id,
            model=x.head.model,
            executed_in=facts.judged.executed_in,
            release=Release.RELEASED.value,
            reason=facts.judged.decision.reason,
            claims=facts.judged.claims_shown,
            checks=facts.judged.checks if full else None,
            receipt=x.receipt_id,
            index=committed.index if committed else None,
            proof=format_tlog_proof(committed.index, committed.hashes, committed.checkpoint) if committed else None,
            openings=salts,
            envelope=msgspec.Raw(envelope) if full else None,
        )

    def _opened(self, facts: _Facts) -> list[str]:
        names = [REQUEST_BODY, RESPONSE_BODY, RESPONSE_CONTENT]
        return [*names, RESPONSE_TOOLCALLS] if facts.content.toolcalls else names

    # -- endings ------------------------------------------------------------------------------------------------------

    async def reject(self, member: Member, facts: _Facts) -> None:
        """The verdict keeps the answer back. Raises `_Next` when policy lets another node be paid, else `_Done`."""
        decision = facts.judged.decision
        reason = decision.reason or "policy"
        contra = decision.verdict is Outcome.CONTRAINDICATED
        if node_at_fault(decision):
            member.contradicted(reason)
        elif not contra:
            member.failed(reason)
        if self._may_retry():
            raise _Next(reason)
        failing = ", ".join((*decision.failing, *decision.missing)[:6])
        kind = EvidenceRejected if contra else EvidenceMissing
        what = "contradicts" if contra else "does not show"
        error = kind(
            f"The answer of node {member.node.id} was withheld: its evidence {what} {failing} under policy "
            f"{self.terms.use.name}.",
            reason=reason,
        )
        await self.refuse(error, self._ending(facts, Release.WITHHELD, error.status, "none", reason), facts)

    async def broken(self, member: Member, error: ChannelError) -> None:
        """The channel failed after the request may have left."""
        self.x.sent = self.x.sent or error.sent
        if self.sink.gone:
            await self.abandon()
            raise _Done
        member.failed(error.reason or "closed")
        if isinstance(error, NotReached) or not error.sent:
            raise _Next(error.reason or "closed")
        raise await self.upstream(member, error.reason or "closed", str(error), error)

    async def bad_status(self, member: Member, connection: Connection, head: ResponseHead) -> None:
        connection.abort()
        status = head.status
        reason = "redirect" if 300 <= status < 400 else f"status_{status}"
        member.failed(reason)
        error = UpstreamFailed(f"Node {member.node.id} answered with HTTP status {status}.", reason=reason)
        headers: Headers = []
        if status == 429:
            error = _RateLimited(f"Node {member.node.id} is rate limited.", reason=reason)
        if status in (429, 503) and (after := _retry_after(head.get(b"retry-after"))) is not None:
            headers.append((b"retry-after", after))
        await self.refuse(error, self._failure(error.status, reason), None, headers)

    async def upstream(
        self, member: Member, reason: str, detail: str, cause: ChannelError | None = None
    ) -> BaseException:
        """The node failed; gives back what to raise."""
        if self._may_retry():
            return _Next(reason)
        error = UpstreamFailed(f"Node {member.node.id} failed: {detail}.", reason=reason)
        if cause is not None and cause.status == 504:
            error = cause.__class__(reason, f"node {member.node.id}", sent=True)
        await self.refuse(error, self._failure(error.status, reason), None)
        return _Done()

    async def none_left(self, choice: Choice) -> None:
        rejected = self.x.rejected
        reasons = {r.reason for r in rejected}
        first = rejected[0].reason if rejected else "no nodes"
        rules = {r.node: rule for r in rejected if (rule := self._rule(r)) is not None}
        why = ", ".join(_why(r, rules) for r in rejected[:8]) or "no node offers it"
        error: VerirouteError
        if reasons == {"session_not_listed"}:
            error = SessionNotAccepted(
                f"No node's attested session is among those that were named: {why}.", reason=first
            )
        else:
            name = self.terms.use.name
            error = NoEligibleNode(f"No node may serve {self.x.head.model!r} under policy {name}: {why}.", reason=first)
            # An SDK that tries again at once helps only where time does; each try would be one more receipt.
            error.retryable = bool(reasons & PASSING)
        ending = Ending(verdict=Outcome.NONE, release=Release.REFUSED, status=error.status, reason=first)
        nodes = [
            {"node": r.node, "reason": r.reason, **({"rule": rules[r.node]} if r.node in rules else {})}
            for r in rejected
        ]
        await self.refuse(error, ending, None, extra={"nodes": nodes})

    def _rule(self, rejected: Rejected) -> str | None:
        """Which rule of the policy's section [tee] a node's machine does not meet, when that is why it was not used."""
        member = self.relay._fleet.members.get(rejected.node)
        if rejected.reason != TEE_RULES or member is None or member.session is None:
            return None
        return next((c.reason for c in under(member.session, self.policy) if c.id == TEE_RULES), None)

    async def refuse(
        self,
        error: VerirouteError,
        ending: Ending,
        facts: _Facts | None,
        headers: Headers | None = None,
        extra: dict[str, object] | None = None,
        unlogged: VerirouteError | None = None,
    ) -> None:
        """Record, then tell the agent. With `unlogged` the log has failed already, and is not asked. Raises `_Done`."""
        if unlogged is None:
            await self.record(ending)
        else:
            self.recorded = True
            self._later(ending, unlogged)
        details = dict(extra or {})
        if facts is not None:
            bad = [c for c in (*facts.judged.result.checks,) if c.outcome in (Outcome.CONTRAINDICATED, Outcome.NONE)]
            details["checks"] = [
                c for c in bad if c.id in (*facts.judged.decision.failing, *facts.judged.decision.missing)
            ]
        if self.started:
            shown: dict[str, object] = {
                "message": error.message, "type": error.type, "param": None, "code": error.code,
                "reason": error.reason, "receipt": self.x.receipt_id,
            }  # fmt: skip
            await self.sink.cut(error_event(self.x.head.endpoint, shown))
        else:
            own = self.headers(None, verdict=ending.verdict if unlogged is None else Outcome.NONE)
            await self.sink.refuse(error, self.x.receipt_id, details, [*own, *(headers or [])])
        raise _Done

    async def abandon(self) -> None:
        """The agent left. Nothing more leaves; what was spent is recorded."""
        if self.connection is not None:
            self.connection.abort()
        await self.record(Ending(verdict=Outcome.NONE, release=Release.ABANDONED, status=499, reason="client_left"))

    async def stopped(self) -> None:
        """The gateway stops before the exchange has ended. The agent may try again where that cannot pay twice."""
        text = "This gateway stopped before the answer was complete."
        error = InternalError(text, reason="stopped") if self.x.sent else Busy(text, reason="stopped")
        ending = Ending(
            verdict=Outcome.NONE,
            release=Release.FAILED,
            status=error.status,
            reason="stopped",
            form="verbatim" if self.x.sent_bytes else "none",
        )
        try:
            async with asyncio.timeout(STOP_S):
                await self.refuse(error, ending, None)
        except (_Done, OSError, TimeoutError):
            return

    async def fail(self, error: InternalError, cause: BaseException) -> None:
        """The gateway itself failed: the receipt says so and the agent hears it, if it still can."""
        log.error("exchange.failed", receipt=self.x.receipt_id, error=type(cause).__name__, exc_info=cause)
        if self.recorded:
            if self.started:
                await _quietly(self.sink.cut(b""))
            return
        ending = Ending(verdict=Outcome.NONE, release=Release.FAILED, status=500, reason="internal_error")
        try:
            await self.refuse(error, ending, None)
        except (_Done, OSError, VerirouteError):
            return

    # -- recording ----------------------------------------------------------------------------------------------------

    async def record(self, ending: Ending) -> tuple[Committed | None, bytes]:
        """The one receipt, and its envelope. Its place in the log is None when policy did not wait for it.

        Raises what the log says (`LOG_FAILED`) when an answer may then not leave, and is to be refused in its stead.
        """
        assert not self.recorded
        self.recorded = True
        released = ending.release is Release.RELEASED
        if self.pending is not None and not released:
            await asyncio.wait([self.pending])
        if self.owed:
            return None, self._later(ending, None)
        try:
            if released and self.policy.audit.durability == "async":
                return None, self._queue(ending)
            future, entry = self.relay._recorder.receipt(self.x, ending)
            committed = await future
        except LOG_FAILED as error:
            if released and self.policy.audit.on_log_failure != "degrade":
                raise
            return None, self._later(ending, error)
        except InternalError:
            self.recorded = False  # this entry can never be stored; one that says so can
            raise
        self._count(ending)
        return committed, entry.envelope

    def _later(self, ending: Ending, error: VerirouteError | None) -> bytes:
        """Keep the receipt until the log takes it, and give back its envelope. No room: no answer leaves."""
        envelope = self.relay._recorder.receipt_later(self.x, ending, error)
        if envelope is None and ending.release is Release.RELEASED:
            raise error or LogUnavailable("no more receipts can be kept until the log can be written")
        self.degraded = True
        self._count(ending)
        return envelope or b""

    def _queue(self, ending: Ending) -> bytes:
        """Hand the receipt to the log without waiting for it, and give back its envelope."""
        self.degraded = True
        if self.pending is None or self.pending.done():
            future, entry = self.relay._recorder.receipt(self.x, ending)
            future.add_done_callback(partial(self._written, entry))
        else:
            entry = self.relay._recorder.entry(self.x, ending)
            self.pending.add_done_callback(lambda _: self._put(entry))
        self._count(ending)
        return entry.envelope

    def _put(self, entry: Entry) -> None:
        """Append a receipt that waited for its intent."""
        recorder = self.relay._recorder
        if self.owed:
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
            self.relay._recorder.keep(entry, error)
        elif error is not None:
            log.error("exchange.unrecorded", receipt=entry.id, error=str(error))

    def _count(self, ending: Ending) -> None:
        counts, key = self.relay.counts, (ending.verdict.value, ending.release.value)
        counts[key] = counts.get(key, 0) + 1

    def _unavailable(self) -> LogUnavailable:
        """What the agent hears when the log fails. Only a prompt that has not left may be sent again."""
        kind = _PaidUnavailable if self.x.sent else LogUnavailable
        return kind(
            f"The log can't be written now, and policy {self.terms.use.name} lets no answer go without its receipt.",
            reason="log_unavailable",
        )

    def _ending(self, facts: _Facts, release: Release, status: int, form: str, reason: str | None = None) -> Ending:
        assert self.x.session is not None
        seen = facts.observation
        return Ending(
            verdict=facts.judged.decision.verdict,
            release=release,
            status=status,
            reason=reason or facts.judged.decision.reason,
            form=form if self.x.sent_bytes else "none",
            checks=facts.judged.checks,
            claims=facts.judged.claims,
            body=facts.body,
            body_sha256=facts.data_sha256,
            content=facts.content,
            evidence=facts.receipt,
            input_tokens=seen.input_tokens,
            output_tokens=seen.output_tokens,
            covered=facts.judged.covered,
        )

    def _failure(self, status: int, reason: str) -> Ending:
        session = self.x.session
        return Ending(
            verdict=Outcome.NONE,
            release=Release.WITHHELD,
            status=status,
            reason=reason,
            form="verbatim" if self.x.sent_bytes else "none",
            checks=session.checks if session else (),
            claims=session.claims if session else (),
        )

    # -- small things -------------------------------------------------------------------------------------------------

    def headers(self, facts: _Facts | None, *, stream: bool = False, verdict: Outcome | None = None) -> Headers:
        receipt = self.x.receipt_id.encode()
        shown = facts.judged.decision.verdict if facts is not None else verdict
        level = b"degraded" if self.degraded else b"logged"
        found: Headers = [
            (b"x-veriroute-receipt", receipt),
            (b"x-veriroute-verdict", shown.value.encode() if shown is not None else b"pending"),
            (b"x-veriroute-level", level if facts is not None or shown is not None else b"pending"),
            (b"x-veriroute-policy", self.terms.use.name.encode()),
            (b"x-receipt-id", receipt),
            (b"x-request-id", receipt),
        ]
        if stream:
            found += [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        return found

    def _evidence(self, member: Member, head: ResponseHead) -> Sealed:
        """Where the adapter finds the answer's evidence. One that raises has found none."""
        try:
            return member.adapter.response(head.headers)
        except (Exception, SystemExit) as error:  # anybody's code may stand behind an adapter
            log.error("adapter.failed", network=member.node.network, node=member.node.id, exc_info=error)
            return Sealed(None, "adapter_failed")

    def _mode(self, member: Member) -> str:
        if not self.x.head.stream:
            return "buffer"
        assert member.session is not None
        for mode in self.policy.release.stream:
            if mode != "chained" or "chained" in member.session.capabilities:
                return mode
        return "buffer"

    def _deadlines(self) -> Deadlines:
        d = self.policy.deadlines
        return Deadlines(d.first_byte_s, d.idle_s, d.total_s, d.idle_s)

    def _may_retry(self) -> bool:
        return self.policy.on_failure == "next_node" and self.policy.retry_after_send and not self.started


class _Facts(msgspec.Struct, frozen=True):
    """An appraised answer: what was found, what policy makes of it, and what the receipt commits to."""

    judged: Judged
    observation: Observation
    content: Content
    body: bytes | None
    data_sha256: str | None
    receipt: bytes | None


class _Chain:
    """The running signatures of one chained stream."""

    def __init__(self, x: Exchange, nonce: str, receipt_id: bytes | None) -> None:
        self.broken: str | None = None
        self._x = x
        self._nonce = nonce
        self._receipt_id = (receipt_id or b"").decode("ascii", "replace")
        self._request = hashlib.sha256(x.body).hexdigest()
        self._next = 1

    def holds(self, piece: Piece, *, verify: bool) -> bool:
        """Whether `piece` is the next signature and, with `verify`, holds over its digest. Once one fails, none does.

        Without `verify` only its place is looked at, and the answer is no: nothing may leave by it.
        """
        if self.broken is not None:
            return False
        try:
            parsed = parse_chain(piece.out)
        except FormatError as error:
            self.broken = str(error)
            return False
        if parsed is None or parsed[0] != self._next:
            self.broken = "chain_order"
            return False
        if not verify:
            self._next += 1
            return False
        session = self._x.session
        assert session is not None
        message = chain_message(
            self._receipt_id, self._nonce, self._request, self._x.head.model, parsed[0], piece.digest
        )
        if verify_chain(session, None, message, parsed[1]) is None:
            self.broken = "chain_signature"
            return False
        self._next += 1
        return True

    def unused(self, mode: str) -> str | None:
        """A problem when chained mode saw no signature at all."""
        return "chain_absent" if mode == "chained" and self._next == 1 else None


class _RateLimited(UpstreamFailed):
    status = 429


class _PaidUnavailable(LogUnavailable):
    retryable = False


def _with_chain(result: AttestationResult, problem: str) -> AttestationResult:
    """A broken chain is a signature that does not hold, whatever the final receipt says."""
    checks = []
    for check in result.checks:
        if check.id == "signature" and check.outcome is not Outcome.CONTRAINDICATED:
            bad = any(c.outcome is Outcome.CONTRAINDICATED for c in result.checks)
            # When the final receipt already names the cause, the chain adds nothing to it.
            if not bad:
                check = Check("signature", Outcome.CONTRAINDICATED, problem, over="running signatures of the stream")
        checks.append(check)
    return AttestationResult(tuple(checks), result.claims)


def _sealed_event(reader: StreamReader) -> tuple[bytes | None, str | None]:
    if reader.receipt_problem is not None:
        return None, reader.receipt_problem
    if reader.receipt is None:
        return None, "no_receipt"
    try:
        return decode_inline(reader.receipt), None
    except FormatError:
        return None, "malformed: the inline receipt is not base64"


def _open(receipt: bytes | None, problem: str | None) -> tuple[SignedReceipt | None, str | None]:
    if receipt is None:
        return None, problem or "no_receipt"
    try:
        return parse_receipt(receipt), None
    except FormatError as error:
        return None, f"malformed: {error}"


def _affirmed(result: AttestationResult, name: str) -> bool:
    return any(c.id == name and c.outcome is Outcome.AFFIRMING for c in result.checks)


def _charset_ok(content_type: bytes) -> bool:
    parameters = content_type.lower().split(b";")[1:]
    return all(p.strip() in (b"", b"charset=utf-8", b'charset="utf-8"') for p in parameters)


def _why(rejected: Rejected, rules: dict[str, str]) -> str:
    rule = rules.get(rejected.node)
    return f"{rejected.node}: {rejected.reason}" + (f" ({rule})" if rule else "")


def _retry_after(value: bytes | None) -> bytes | None:
    """A node's Retry-After in whole seconds, clamped to 1..3600; None for anything else."""
    if value is None or not value.isdigit() or len(value) > 9:
        return None
    return str(min(3600, max(1, int(value)))).encode()


def _b64(data: bytes) -> str:
    import base64

    return base64.standard_b64encode(data).decode()


async def _quietly(awaitable: object) -> None:
    try:
        await awaitable  # type: ignore[misc]
    except OSError:
        return


__all__ = ["Claim", "Headers", "Incoming", "Relay", "Sink", "Terms"]
