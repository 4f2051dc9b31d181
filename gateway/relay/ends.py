"""Every way in which an exchange ends without an answer: its error, its receipt, and its word on the node."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Iterable

import msgspec
import structlog

from gateway.errors import (
    Busy,
    EvidenceMissing,
    EvidenceRejected,
    InternalError,
    NoEligibleNode,
    SessionNotAccepted,
    UnsupportedParameter,
    UpstreamFailed,
    VerirouteError,
)
from gateway.exchange.render import error_event
from gateway.fleet.fleet import Fleet
from gateway.fleet.member import Member
from gateway.model.receipt import Rejected
from gateway.model.verdict import Outcome, Release
from gateway.policy.decide import Decision
from gateway.policy.machine import TEE_RULES
from gateway.recorder import Ending
from gateway.routing import node_at_fault, out_for
from gateway.upstream.connection import Connection
from gateway.upstream.errors import ChannelError, ChannelTimeout, NotReached
from gateway.upstream.head import ResponseHead
from gateway.upstream.sealed import Channel
from gateway.verify.checks import PROOFS
from gateway.verify.proofs.evidence import ProofRecord, Verdict
from gateway.verify.response import OTHER_KEYSET

from .book import Book
from .judged import FAILED, Facts, Judged, names_another_keyset
from .terms import Headers, Sink, Terms
from .till import Till

log = structlog.get_logger("veriroute.relay")

#: How long an exchange that a stop has ended may take to say so.
STOP_S = 1.0

#: Reasons for passing a node over that pass by themselves.
PASSING = frozenset(
    ("quarantined", "circuit_open", "session_missing", "session_expired", "fresh", "busy", "connect_failed")
) | {"timeout_connect", "tls_failed"}


#: Of the statuses that say that the request is at fault, those that may be the node's own doing. The others do not
#: count against it: one caller's odd requests could take a node from all the others.
OF_THE_NODE = frozenset((401, 402, 403, 407, 408, 429))

#: What an agent is told of an answer under a keyset that the session does not know.
REKEYED = (
    " It names another keyset than the attested session: the node has changed its keys, or lies. It is asked for "
    "evidence anew; a request sent again goes to a session that has shown its keys, or nowhere."
)

#: Reason for passing a node over whose network would drop or change members of the request.
UNSUPPORTED = "unsupported_parameters"


class Next(Exception):
    """This node did not serve; policy allows the next one. Carries the stable reason, and routing's the cause."""

    def __init__(self, reason: str, cause: str | None = None) -> None:
        super().__init__(reason)
        self.cause = cause


class Done(Exception):
    """The exchange was recorded and the agent told (or gone)."""


class Ends:
    """One exchange, as far as ending it goes."""

    def __init__(self, fleet: Fleet, book: Book, till: Till, terms: Terms, sink: Sink) -> None:
        self.fleet = fleet
        self.book = book
        self.till = till
        self.x = book.x
        self.terms = terms
        self.policy = terms.policy
        self.sink = sink
        self.started = False
        self.connection: Connection | None = None
        self.records: tuple[ProofRecord, ...] = ()  # the proofs of the last answer
        self.left_out: tuple[str, ...] = ()  # of the request, by the last network that policy did not let have it
        self.untried = 0  # candidates behind the one that is tried

    async def reject(self, member: Member, facts: Facts) -> None:
        """The verdict keeps the answer back. Raises `Next` when policy lets another node be paid, else `Done`."""
        decision = facts.judged.decision
        contra = decision.verdict is Outcome.CONTRAINDICATED
        reason = await self.blame(member, decision, facts)
        if self._may_retry():
            raise Next(reason)
        failing = ", ".join((*decision.failing, *decision.missing)[:6])
        kind = EvidenceRejected if contra else EvidenceMissing
        what = "contradicts" if contra else "does not show"
        error = kind(
            f"The answer of node {member.node.id} was withheld: its evidence {what} {failing} under policy "
            f"{self.terms.use.name}.{REKEYED if reason == OTHER_KEYSET else ''}",
            reason=reason,
        )
        await self.refuse(error, self.ending(facts, Release.WITHHELD, error.status, self.x.form, reason), facts)

    async def blame(self, member: Member, decision: Decision, facts: Facts) -> str:
        """What a verdict that keeps an answer back says of its node and of what was paid; its reason."""
        reason = decision.reason or "policy"
        if node_at_fault(decision):
            member.contradicted(reason)
        elif decision.verdict is Outcome.CONTRAINDICATED:
            if names_another_keyset(facts.judged.result):
                member.rekeyed(reason, facts.reply.signed_under())
                reason = OTHER_KEYSET
            elif not PROOFS.isdisjoint(decision.failing):  # honest nodes fail one now and then, and never many in a row
                member.failed(reason)
        elif not PROOFS.issuperset(decision.missing) or any(r.verdict is Verdict.ABSENT for r in self.records):
            member.failed(reason)  # that a reference is down is not the node's doing; what it leaves out is
        await self.till.withheld(reason)
        return reason

    async def broken(self, member: Member, error: ChannelError) -> BaseException:
        """The channel failed after the request may have left; gives back what to raise."""
        self.x.sent = self.x.sent or error.sent
        if self.sink.gone:
            await self.abandon()
            return Done()
        # What was used up before is not this node's doing, nor is what an agent used up that reads slowly.
        late = (
            isinstance(error, ChannelTimeout)
            and error.reason == "timeout_total"
            and (error.ours or self.x.attempts > 1)
        )
        if not late:
            member.failed(error.reason or "closed")
        if error.reason == "ohttp_key_rotated":
            member.doubtful()
        if isinstance(error, NotReached) or not error.sent:
            return Next(error.reason or "closed")
        return await self.upstream(member, error.reason or "closed", str(error), error)

    async def bad_status(self, member: Member, connection: Channel, head: ResponseHead) -> None:
        connection.abort()
        status = head.status
        reason = "redirect" if 300 <= status < 400 else f"status_{status}"
        did = "refused the request"
        if not 400 <= status < 500 or status in OF_THE_NODE:
            did = "answered"
            member.failed(reason)
            await self.turn(reason)
        error = UpstreamFailed(f"Node {member.node.id} {did} with HTTP status {status}.", reason=reason)
        headers: Headers = []
        if status == 429:
            error = _RateLimited(f"Node {member.node.id} is rate limited.", reason=reason)
        if status in (429, 503) and (after := _retry_after(head.get(b"retry-after"))) is not None:
            headers.append((b"retry-after", after))
        await self.refuse(error, self.failure(error.status, reason), None, headers)

    async def upstream(
        self, member: Member, reason: str, detail: str, cause: ChannelError | None = None
    ) -> BaseException:
        """The node failed; gives back what to raise."""
        await self.till.withheld(reason)
        if self._may_retry():
            return Next(reason)
        error = UpstreamFailed(f"Node {member.node.id} failed: {detail}.", reason=reason)
        if cause is not None and cause.status == 504:
            error = cause.__class__(reason, f"node {member.node.id}", sent=True)
        await self.refuse(error, self.failure(error.status, reason), None)
        return Done()

    async def unshown(self, member: Member, judged: Judged) -> BaseException:
        """We could not read the answer, of which `judged` says so; gives back what to raise."""
        await self.till.withheld(FAILED)
        if self._may_retry():
            return Next(FAILED)
        text = f"The answer of node {member.node.id} was withheld: this gateway failed at reading it. Its log says how."
        error = EvidenceMissing(text, reason=FAILED)
        ending = msgspec.structs.replace(self.failure(error.status, FAILED), checks=judged.checks, claims=judged.claims)
        await self.refuse(error, ending, None)
        return Done()

    async def none_left(self) -> None:
        rejected = self.x.rejected
        reasons = {r.reason for r in rejected}
        first = rejected[0].reason if rejected else "no nodes"
        nodes = self.passed_over()
        why = listed(nodes) or "no node offers it"
        error: VerirouteError
        if reasons == {"session_not_listed"}:
            error = SessionNotAccepted(
                f"No node's attested session is among those that were named: {why}.", reason=first
            )
        elif reasons == {UNSUPPORTED}:
            error = UnsupportedParameter(
                f"The network would drop or change {', '.join(self.left_out)}, and policy {self.terms.use.name} does "
                'not let it. Leave that out, or use a policy with request.unsupported = "list".',
                param=self.left_out[0],
                reason=UNSUPPORTED,
            )
        else:
            name = self.terms.use.name
            error = NoEligibleNode(f"No node may serve {self.x.head.model!r} under policy {name}: {why}.", reason=first)
            # An SDK that tries again at once helps only where time does; each try would be one more receipt, and with
            # a prompt that has left one more to pay.
            error.retryable = not self.x.sent and bool(reasons & PASSING)
            error.retry_after_s = self.back_after_s((r.node, r.reason) for r in rejected)
        release = Release.WITHHELD if self.x.sent else Release.REFUSED
        ending = Ending(verdict=Outcome.NONE, release=release, status=error.status, reason=first)
        await self.refuse(error, ending, None, extra={"nodes": nodes})

    def back_after_s(self, unused: Iterable[tuple[str, str]]) -> int:
        """Seconds until the first of the nodes that are out for a while may be used again, as far as that is known.
        `unused`: nodes with the reason why each was not used."""
        passing = [self.fleet.members.get(node) for node, reason in unused if reason in PASSING]
        now = self.relay.mono()
        return max(1, math.ceil(min((out_for(m.view.health, now) for m in passing if m is not None), default=1)))

    def passed_over(self) -> list[dict[str, str]]:
        """Each node that was not used: its reason, and where more is known what is behind it, as `rule` (of the
        policy's section [tee]) or `cause`. The receipt says the same."""
        return [_passed_over(rejected) for rejected in self.x.rejected]

    async def refuse(
        self,
        error: VerirouteError,
        ending: Ending,
        facts: Facts | None,
        headers: Headers | None = None,
        extra: dict[str, object] | None = None,
        unlogged: VerirouteError | None = None,
    ) -> None:
        """Record, then tell the agent. With `unlogged` the log has failed already, and is not asked. Raises `Done`."""
        await self.till.withheld(ending.reason or error.code)
        if unlogged is None:
            await self.book.record(ending)
        else:
            self.book.unlogged(ending, unlogged)
        details = dict(extra or {})
        if facts is not None:
            bad = [c for c in facts.judged.result.checks if c.outcome in (Outcome.CONTRAINDICATED, Outcome.NONE)]
            details["checks"] = [
                c for c in bad if c.id in (*facts.judged.decision.failing, *facts.judged.decision.missing)
            ]
        if self.started:
            shown: dict[str, object] = {
                "message": error.message, "type": error.type, "param": None, "code": error.code,
                "reason": error.reason, "receipt": self.x.receipt_id,
            }  # fmt: skip
            await self.sink.cut(error_event(self.x.head.endpoint, shown, self.x.sent_bytes))
        else:
            own = self.headers(None, verdict=ending.verdict if unlogged is None else Outcome.NONE)
            await self.sink.refuse(error, self.x.receipt_id, details, [*own, *(headers or [])])
        raise Done

    async def abandon(self) -> None:
        """The agent left. Nothing more leaves; what was spent is recorded."""
        if self.connection is not None:
            self.connection.abort()
        release, reason = Release.ABANDONED, "client_left"
        await self.book.record(
            Ending(verdict=Outcome.NONE, release=release, status=499, reason=reason, form=self.x.form)
        )

    async def stopped(self) -> None:
        """The gateway stops before the exchange has ended. The agent may try again where that cannot pay twice."""
        text = "This gateway stopped before the answer was complete."
        error = InternalError(text, reason="stopped") if self.x.sent else Busy(text, reason="stopped")
        ending = Ending(
            verdict=Outcome.NONE,
            release=Release.FAILED,
            status=error.status,
            reason="stopped",
            form=self.x.form,
        )
        try:
            async with asyncio.timeout(STOP_S):
                await self.refuse(error, ending, None)
        except (Done, OSError, TimeoutError):
            if not self.book.recorded:  # noting what was paid took all the time
                await self.book.record(ending)

    async def fail(self, error: InternalError, cause: BaseException) -> None:
        """The gateway itself failed: the receipt says so and the agent hears it, if it still can."""
        log.error("exchange.failed", receipt=self.x.receipt_id, error=type(cause).__name__, exc_info=cause)
        if self.book.recorded:
            if self.started:
                await _quietly(self.sink.cut(b""))
            return
        release, reason = Release.FAILED, error.reason or "internal_error"
        ending = Ending(verdict=Outcome.NONE, release=release, status=error.status, reason=reason, form=self.x.form)
        try:
            await self.refuse(error, ending, None)
        except (Done, OSError, VerirouteError):
            return

    def ending(self, facts: Facts, release: Release, status: int, form: str, reason: str | None = None) -> Ending:
        assert self.x.session is not None
        seen = facts.reply.observation
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
            content=facts.reply.content,
            evidence=facts.reply.record,
            evidence_form=facts.reply.form,
            input_tokens=seen.input_tokens,
            output_tokens=seen.output_tokens,
            covered=facts.covered,
        )

    def failure(self, status: int, reason: str) -> Ending:
        session = self.x.session
        return Ending(
            verdict=Outcome.NONE,
            release=Release.WITHHELD,
            status=status,
            reason=reason,
            form=self.x.form,
            checks=session.checks if session else (),
            claims=session.claims if session else (),
        )

    def headers(self, facts: Facts | None, *, stream: bool = False, verdict: Outcome | None = None) -> Headers:
        receipt = self.x.receipt_id.encode()
        shown = facts.judged.decision.verdict if facts is not None else verdict
        level = b"degraded" if self.book.degraded else b"logged"
        found: Headers = [
            (b"x-veriroute-receipt", receipt),
            (b"x-veriroute-verdict", shown.encode() if shown is not None else b"pending"),
            (b"x-veriroute-level", level if facts is not None or shown is not None else b"pending"),
            (b"x-veriroute-policy", self.terms.use.name.encode()),
            (b"x-receipt-id", receipt),
            (b"x-request-id", receipt),
        ]
        if self.x.head.endpoint == "/v1/messages":
            found.append((b"request-id", receipt))
        if stream:
            found += [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        return found

    async def turn(self, reason: str) -> None:
        """A node's answer is none that can be used. Raises `Next` where policy lets another node have the prompt and
        there is one; after the last, its own word says more than that nobody is left: when to come back, what it asks.
        """
        if self.untried and self._may_retry():
            await self.till.withheld(reason)
            raise Next(reason)

    def _may_retry(self) -> bool:
        return self.policy.on_failure == "next_node" and self.policy.retry_after_send and not self.started


class _RateLimited(UpstreamFailed):
    status = 429


def _passed_over(rejected: Rejected) -> dict[str, str]:
    told = {"node": rejected.node, "reason": rejected.reason}
    if rejected.cause is not None:
        told["rule" if rejected.reason == TEE_RULES else "cause"] = rejected.cause
    return told


def listed(nodes: list[dict[str, str]]) -> str:
    """The first few of `passed_over` in a sentence."""
    return ", ".join(_why(**node) for node in nodes[:8])


def _why(node: str, reason: str, rule: str = "", cause: str = "") -> str:
    return f"{node}: {reason}" + (f" ({rule or cause})" if rule or cause else "")


def _retry_after(value: bytes | None) -> bytes | None:
    """A node's Retry-After in whole seconds, clamped to 1..3600; None for anything else."""
    if value is None or not value.isdigit() or len(value) > 9:
        return None
    return str(min(3600, max(1, int(value)))).encode()


async def _quietly(awaitable: Awaitable[None]) -> None:
    try:
        await awaitable
    except OSError:
        return
