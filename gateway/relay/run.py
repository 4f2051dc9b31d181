"""One exchange under way: the steps between the request and its answer, in order."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import msgspec
import structlog

from gateway.adapter import Sealed, Sealing
from gateway.auditing import Released
from gateway.backlog import LOG_FAILED
from gateway.crypto.encoding import b64
from gateway.crypto.ohttp_keys import parse_key_config
from gateway.errors import (
    EvidenceRejected,
    FormatError,
    LogUnavailable,
    PaymentRefused,
    UnsupportedParameter,
    VerirouteError,
)
from gateway.exchange.amend import completed, unprovable
from gateway.exchange.assemble import assemble
from gateway.exchange.release import Hold
from gateway.exchange.render import Verification, splice, stream_end
from gateway.exchange.reply import Question, Reply
from gateway.exchange.rules import RULES
from gateway.exchange.sse import Framer
from gateway.exchange.stream import CHAIN, DONE, STREAMABLE, UpstreamError
from gateway.fleet.member import Member
from gateway.log.dsse import Sealed as Document
from gateway.log.proof import format_tlog_proof
from gateway.model.entry import Committed
from gateway.model.node import AttestedSession
from gateway.model.receipt import (
    REQUEST_BODY,
    RESPONSE_BODY,
    RESPONSE_CONTENT,
    RESPONSE_TOOLCALLS,
    ProofAnswer,
    Rejected,
)
from gateway.model.verdict import Outcome, Release
from gateway.policy.decide import decide
from gateway.policy.schema import CompiledPolicy
from gateway.recorder import Ending, Exchange, milliseconds
from gateway.routing import stream_mode
from gateway.upstream.connection import Connection
from gateway.upstream.errors import ChannelClosed, ChannelError, ChannelRefused, NotReached, TooManyConnections
from gateway.upstream.head import ResponseHead
from gateway.upstream.limits import Deadlines
from gateway.upstream.sealed import Channel, SealedConnection, SealedRoute
from gateway.verify.checks import Phase
from gateway.verify.proofs.evidence import ProofRecord

from .book import Book
from .chain import Chain
from .ends import UNSUPPORTED, Done, Ends, Next
from .judged import UNJUDGED, Facts, Got, Judged, is_signed, seen_lately, with_chain
from .proving import assumed, parts_of, proved
from .terms import Sink, Terms
from .till import OF_THE_REQUEST, Till, Unpaid

if TYPE_CHECKING:
    from . import Relay

log = structlog.get_logger("veriroute.relay")

JSON = b"application/json"
SSE = b"text/event-stream"
#: The longest body of a 402 that is read.
MAX_TERMS = 64 * 1024
#: Bytes of a stream that are read in one turn of the event loop. Of the shortest events they take 30 ms.
AT_ONCE = 16 * 1024
#: Answers that were signed in one second were signed less than this apart, whatever the clock that they are dated by.
SAME_SECOND_S = 1.0

#: What may come out of the reading of an answer; all else is a failure of the reading itself.
NOT_OURS = (VerirouteError, OSError, Next, Done)

#: The kind of evidence that sampled audits look for.
AUDITED = frozenset(("proof_reexec",))
#: What an agent can do about a request that cannot be judged.
REMEDIES = {
    "not_greedy": "Send temperature 0, or leave it out.",
    "not_seeded": "Send a seed and a temperature over 0.",
    "endpoint_unsupported": "Use /v1/chat/completions.",
}


class Run(Ends):
    """One exchange under way."""

    given: tuple[ProofRecord, ...] = ()  # what was gathered before there was an answer to conclude
    heard: tuple[ProofAnswer, ...] = ()  # every node of the quorum
    drawn = False  # the epoch of audits stays from here on

    def __init__(self, relay: Relay, x: Exchange, terms: Terms, sink: Sink, nonce: str, pick: float) -> None:
        book = Book(relay.recorder, x, terms.policy, relay.counts)
        super().__init__(relay.fleet, book, Till(relay.payer, x, terms.policy), terms, sink)
        self.relay = relay
        self.begun = relay.mono()
        self.pick = pick
        self.sent_at = self.asked_at = 0.0  # by the clock on the wall, and by the monotonic one
        self.task: asyncio.Task[None] | None = None  # set when it is performed
        self.nonce = nonce
        self.asked = self._question(x.body)

    def forward_as(self, body: bytes, added: tuple[str, ...]) -> None:
        """Send nodes `body`: the caller's bytes, and behind them what is `added`."""
        self.x.forwarded, self.x.added = body, added
        self.asked = self._question(body)

    def _question(self, body: bytes) -> Question:
        x = self.x
        label = self.policy.output.uncovered == "label"
        return Question(x.head, body, hashlib.sha256(body).hexdigest(), self.nonce, label, x.received_ms // 1000)

    async def all(self) -> None:
        if self.policy.sampled.rate:
            await self.sampled()
        if self.policy.plan.proofs or self.x.audit is not None:
            await self.prepare()
        choice = await self.fleet.choose(self.x.head, self.terms.policy, self.terms.sessions, self.pick)
        self.x.candidates = choice.considered
        self.x.rejected.extend(choice.dropped)
        for member in choice.order:
            self.x.attempts += 1
            self.untried = len(choice.order) - self.x.attempts
            try:
                # The first is tried in the very turn in which it was chosen.
                session = self.eligible(member) if self.x.attempts > 1 else member.session
                assert session is not None
                await self.conclude(member, await self.attempt(member, session))
            except Next as reason:
                self.x.rejected.append(Rejected(member.node.id, str(reason), reason.cause))
                if self.sink.gone:
                    await self.abandon()
                    return
            else:
                return
        await self.none_left()

    async def sampled(self) -> None:
        """Under which epoch of audits the exchange falls, before anything of it leaves."""
        if self.relay.auditor is not None:
            self.x.audit = await self.relay.auditor.terms(self.policy)

    async def draw(self) -> None:
        """Settle, as the first intent is about to be written, under which epoch the exchange falls.

        The one that was named before may have ended, and an auditor goes by the log's order. Nothing is awaited between
        this and the intent's place in the log's queue.
        """
        if self.x.audit is None or self.drawn or self.relay.auditor is None:
            return
        part = await self.relay.auditor.terms(self.policy)
        if not self.drawn:
            self.drawn = True
            self.x.audit = part or self.x.audit

    def offer(self, got: Got) -> None:
        """Hand a released answer over, in case that its epoch's seed selects it."""
        x, auditor = self.x, self.relay.auditor
        if auditor is not None and x.audit is not None and x.node is not None:
            answer = got.answer or b""  # one that is none cannot be judged, and has its entry all the same
            node, policy, audit = x.node, self.policy, x.audit
            auditor.offer(
                Released(x.receipt_id, node.id, node.network, x.head.model, policy, x.forwarded, answer, audit)
            )

    async def prepare(self) -> None:
        """Add to the request what proofs need, where policy lets that be. Raises `Done` when it cannot be judged by
        them however the node answers: no prompt leaves, and nobody is paid."""
        x, policy = self.x, self.policy
        kinds, endpoint = policy.plan.proofs, x.head.endpoint
        reason = unprovable(kinds, policy, endpoint, x.body) if kinds else None
        if reason is not None:
            error = UnsupportedParameter(
                f"Policy {self.terms.use.name} asks for {', '.join(sorted(kinds))}, by which an answer to this request "
                f"cannot be judged: {reason}. {REMEDIES.get(reason, 'docs/proofs.md says which requests can be.')}",
                reason=reason,
            )
            ending = Ending(verdict=Outcome.NONE, release=Release.REFUSED, status=error.status, reason=reason)
            await self.refuse(error, ending, None)
        try:
            asked = kinds | AUDITED if x.audit is not None else kinds
            body, names = completed(asked, policy, endpoint, x.body)
        except FormatError:  # of kinds it was unprovable; an audit will say that it could not be done
            return
        if names:
            values = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            self.forward_as(body, tuple([f"{name}={bytes(values[name]).decode()}" for name in names]))

    async def attempt(self, member: Member, session: AttestedSession) -> Got:
        """One try at one node. Raises `Next` when another may be tried, `Done` when the exchange has ended."""
        probe = member.enter()
        self.records, self.x.proofs = self.given, ()  # what was found of another node's answer is not about this one's
        try:
            self.supported(member)
            if self.till.denied(member):
                raise Next("settlement_denied")
            try:
                return await self.ask(member, session)
            except Unpaid as demand:  # nothing was served: the same request may go to the same node, paid for
                self.eligible(member, entered=True)  # who may not have the prompt again is not paid
                await self.pay(member, demand)
                return await self.ask(member, self.eligible(member, entered=True))
        finally:
            member.leave(probe)

    def eligible(self, member: Member, *, entered: bool = False) -> AttestedSession:
        """The session under which the prompt may leave now for `member`. Raises `Next` when there is none.

        A node is chosen at the beginning. Other nodes may have been tried since, and its session have ended or been
        replaced, or an answer of it been contraindicated. `entered`: an attempt is under way; that it may be the one
        that finds out whether the node works again is no reason against it.
        """
        refused = self.fleet.refuses(member, self.x.head, self.policy, self.terms.sessions, entered=entered)
        if refused is not None:
            raise Next(refused.reason, refused.cause)
        assert member.session is not None
        return member.session

    def still(self, member: Member, session: AttestedSession) -> None:
        """Nothing has happened to `session` while it was waited for. Raises `Next` where something has.

        One that was renewed with the same keys is as good: what it says was permitted when it was taken.
        """
        if self.fleet.unchanged(member, session):
            return
        self.x.node = self.x.session = None
        if _keys(self.eligible(member, entered=True)) != _keys(session):
            raise Next("session_expired")
        self.x.node, self.x.session = member.node, session

    async def ask(self, member: Member, session: AttestedSession) -> Got:
        """The request over a connection of its own, under `session`. Raises `Unpaid` too."""
        relay, x = self.relay, self.x
        connection: Connection | None = None
        try:
            connection = await self.reach(member, session, look=False)
            x.node, x.session = member.node, session
            await self.intend()
            if not connection.untouched():  # it was an idle one, and its peer has ended it
                connection.abort()
                x.node = x.session = None
                connection = await self.reach(member, session)
                x.node, x.session = member.node, session
            self.still(member, session)
            self.connection = connection
            self.sink.on_leave(connection.abort)
            if self.sink.gone:
                connection.abort()
            try:
                return await self.forward(member, connection)
            except ChannelError as error:
                raise await self.broken(member, error) from error
        finally:
            self.sink.on_leave(None)
            self.connection = None
            if connection is not None:
                x.sent = x.sent or connection.sent
                relay.pool.release(connection)

    async def pay(self, member: Member, demand: Unpaid) -> None:
        """Pay what the node asks for, within the rules. Raises `Next` or `Done` when they do not let it."""
        url = member.node.base_url.rstrip("/") + self.x.head.endpoint
        try:
            await self.till.pay(member, url, self.asked.sha256, demand)
        except (PaymentRefused, LogUnavailable) as error:
            reason = error.reason or error.code
            if isinstance(error, PaymentRefused):
                if reason not in OF_THE_REQUEST:
                    member.failed(reason)
                await self.turn(reason)
            await self.refuse(error, self.failure(error.status, reason), None)

    def dressed(
        self, member: Member, session: AttestedSession, mode: str
    ) -> tuple[list[tuple[bytes, bytes]], Sealing | None]:
        """What the adapter puts beside the prompt, and how it has it sealed. Raises `Next` where the adapter fails:
        nothing has left."""
        try:
            extra = [*member.adapter.request(session, self.asked.nonce, chained=mode == "chained")]
            return extra, member.adapter.sealing(session)
        except (Exception, SystemExit) as error:  # anybody's code may stand behind an adapter
            log.error("adapter.failed", network=member.node.network, node=member.node.id, exc_info=error)
            member.failed("adapter_failed")
            self.x.node = self.x.session = None
            raise Next("adapter_failed") from None

    def channel(self, connection: Connection, sealing: Sealing | None) -> Channel:
        """What the prompt goes over: the connection, whose key was pinned, or sealed to the session's key within it."""
        assert self.x.session is not None
        if sealing is None:
            return connection
        # Without a key that was shown to be the node's there is nothing to seal to, and nothing leaves.
        if not self.x.session.hpke:
            raise Next("ohttp_key_missing")
        key = parse_key_config(self.x.session.hpke)
        return SealedConnection(connection, SealedRoute(sealing.target, key, sealing.node, sealing.authorization))

    def supported(self, member: Member) -> None:
        """What the network would not do of the request. Raises `Next` when policy lets nothing be left out."""
        left_out = RULES[member.adapter.response_rule].left_out(self.asked)
        if left_out.dropped and self.policy.request.unsupported == "refuse":
            self.left_out = left_out.dropped
            raise Next(UNSUPPORTED)
        self.x.unsupported = (*left_out.dropped, *left_out.defaulted)

    async def reach(self, member: Member, session: AttestedSession, *, look: bool = True) -> Connection:
        """A connection to the node, over which nothing was sent. Raises `Next`."""
        within_s = min(self.policy.deadlines.connect_s, self.time_left())
        # Over TLS the keys that the session names, and no others. One that names none has the web's rules, and
        # channel_bound is then none: whether that will do was the policy's to say.
        pins = frozenset(session.spki_pins) or None if member.origin.tls else None
        try:
            return await self.relay.pool.acquire(member.origin, pins, within_s, look=look)
        except NotReached as error:
            if not isinstance(error, TooManyConnections):  # that is our own limit, and says nothing of the node
                member.failed(error.reason or "connect_failed")
            if isinstance(error, ChannelRefused):
                member.doubtful()
            raise Next(error.reason or "connect_failed") from None

    async def intend(self) -> None:
        """The intent, durable before the prompt leaves. Raises `Done` when the log fails and policy needs it."""
        await self.draw()
        error = await self.book.intend()
        if error is not None:
            ending = Ending(verdict=Outcome.NONE, release=Release.REFUSED, status=503, reason="log_unavailable")
            await self.refuse(self.book.unavailable(), ending, None, unlogged=error)

    async def forward(self, member: Member, pooled: Connection) -> Got:
        x = self.x
        assert x.session is not None
        mode = self._mode()
        x.mode = mode
        extra, sealing = self.dressed(member, x.session, mode)
        extra += self.till.headers(member)
        connection = self.channel(pooled, sealing)
        self.sent_at, self.asked_at = self.relay.now(), self.relay.mono()
        x.t_first = x.t_done = x.verify_ms = None  # of a node that was tried before
        head = await connection.request(
            b"POST",
            member.origin.target(x.head.endpoint),
            [(b"content-type", JSON), (b"accept", SSE if x.head.stream else JSON), *extra],
            x.forwarded,
            self._deadlines(),
            max_body=self.relay.max_response,
            started=None,
        )
        x.sent = True
        x.t_first = self.relay.mono()
        if head.status == 402 and self.till.pays(member):
            raise Unpaid(head.headers, await connection.read_all(MAX_TERMS))
        await self.told(member, connection, head)
        content_type = head.get(b"content-type") or b""
        media = content_type.split(b";")[0].strip().lower() if _charset_ok(content_type) else None
        if head.status != 200:
            await self.bad_status(member, connection, head)
        try:
            if x.head.stream and media == SSE and x.head.endpoint in STREAMABLE:
                return await self.stream(member, connection, head, mode)
            if media == JSON:
                x.mode = "buffer"
                return await self.whole(member, connection, head)
        except (Exception, SystemExit) as error:
            if self.book.recorded or (isinstance(error, NOT_OURS) and not isinstance(error, FormatError)):
                raise
            raise await self.unread(member, error) from error
        member.failed("content_type")
        raise await self.upstream(member, "content_type", "the node answered in another media type")

    async def told(self, member: Member, connection: Channel, head: ResponseHead) -> None:
        """What the head says of a payment. Raises `Done` where that does not hold."""
        try:
            await self.till.answered(head.status, head.headers)
        except EvidenceRejected as error:
            connection.abort()
            reason = error.reason or "payment"
            member.contradicted(reason)
            await self.turn(reason)
            await self.refuse(error, self.failure(error.status, reason), None)

    async def whole(self, member: Member, connection: Channel, head: ResponseHead) -> Got:
        """An answer in one piece, read and judged."""
        body = await connection.read_all(self.relay.max_response)
        self.x.t_done = self.relay.mono()
        found = self._evidence(member, head)
        read = RULES[member.adapter.response_rule].whole(self.asked, found.receipt, found.problem, body)
        facts = Facts(self.appraise(member, read.reply), read.reply, body, None)
        if head.delimited_by_close:
            await self.hold_whole(member, facts)
        form = "verbatim" if read.verbatim else "rebuilt"
        return Got(facts, form, read.body, None, read.dropped, read.uncovered, read.body)

    async def stream(self, member: Member, connection: Channel, head: ResponseHead, mode: str) -> Got:
        """A stream, followed to its end and judged; what the mode lets out has left by then."""
        x, relay = self.x, self.relay
        assert x.session is not None
        rule = RULES[member.adapter.response_rule]
        reader = rule.reader(self.asked, member.adapter.wire, x.salt(RESPONSE_BODY), max_event=relay.max_event)
        hold = Hold(
            mode, window_events=self.policy.release.window_events, window_ms=float(self.policy.release.window_ms)
        )
        chain = Chain(x.session, self.asked, head.get(b"x-receipt-id"))
        x.sent_hash = hashlib.sha256(x.salt("delivery"))
        # Checking a signature costs more than all else that is done for an event, so events share one.
        kept = bytearray() if self.policy.plan.proofs or x.audit is not None else None
        gather_s = self.policy.release.gather_ms / 1000 if mode == "chained" else 0.0
        unended = head.delimited_by_close
        try:
            while data := await connection.read_some(gather_s):
                for at in range(0, len(data), AT_ONCE):
                    if at:  # others have their turn
                        await asyncio.sleep(0)
                    pieces = reader.feed(data[at : at + AT_ONCE])
                    out, useful = b"", False
                    now = relay.mono() * 1000
                    for piece in pieces:
                        if piece.kind != CHAIN:
                            useful = True
                            out += hold.offer(piece, now)
                        elif mode == "chained" and chain.holds(piece):
                            out += hold.covered()
                    if useful:  # running signatures alone are comments, and could come for ever
                        connection.progress()
                    if kept is not None:
                        kept += out
                    if out and not chain.broken:
                        x.rebuilt, x.dropped_members = reader.rebuilt, reader.dropped_members
                        await self.let_out(out)
        except UpstreamError:
            member.failed("error_event")
            raise await self.upstream(member, "error_event", "the node reported an error inside the stream") from None
        except FormatError as error:
            member.failed("too_large")
            raise await self.upstream(member, "too_large", str(error)) from None
        except ChannelClosed as error:
            if error.reason != "truncated" or self.sink.gone or reader.finish() is not None:
                raise
            unended = True  # it broke off behind its terminator, and may be whole
        x.t_done = relay.mono()
        missing = reader.finish()
        if missing is not None:
            member.failed("truncated")
            raise await self.upstream(member, "truncated", missing)
        reply = reader.reply()
        judged = self.appraise(member, reply, chain.broken or chain.unused(mode))
        facts = Facts(judged, reply, None, reader.data_sha256)
        if unended:
            await self.hold_whole(member, facts)
        form = "rebuilt" if reader.rebuilt else "verbatim"
        rest = hold.flush()
        answer = None if kept is None else assembled(bytes(kept) + rest)
        return Got(facts, form, rest, hold.end, reader.dropped_members, reader.uncovered, answer)

    async def unread(self, member: Member, cause: BaseException) -> BaseException:
        """We failed at reading an answer, by no fault of the node that is known: nothing of it was shown, and nothing
        more of it leaves. Gives back what to raise."""
        x = self.x
        assert x.session is not None
        log.error("appraisal.failed", receipt=x.receipt_id, node=member.node.id, exc_info=cause)
        return await self.unshown(member, self.relay.judged(UNJUDGED, x.session, self.policy))

    async def hold_whole(self, member: Member, facts: Facts) -> None:
        """An answer whose end HTTP did not say: whole if a signature covers all of it. Raises `Next` or `Done` else."""
        if not facts.covered:
            member.failed("truncated")
            detail = "the answer ended with its connection, and no signature covers all of it"
            raise await self.upstream(member, "truncated", detail)

    async def conclude(self, member: Member, got: Got) -> None:
        """What follows from the verdict: the receipt, and with it the answer. Raises `Next`, and `Done` behind an
        error."""
        if self.policy.plan.proofs:
            got = await self.proven(got)
        x, facts = self.x, got.facts
        if not facts.judged.decision.permit:
            await self.reject(member, facts)
        x.dropped_members, x.uncovered = got.dropped, got.uncovered
        committed, receipt = await self.release(facts, got.form, got.body + (got.end or b""))
        self.offer(got)
        self.credit(member)
        shown = None
        if self.policy.attach != "none":
            shown = self.verification(facts, committed, receipt)
        if got.end is None:
            await self.sink.answer(self.headers(facts), got.body if shown is None else splice(got.body, shown))
            return
        end = got.end
        if shown is not None:
            end = stream_end(x.head.endpoint, facts.reply.observation.answer_id, x.head.model, shown, end)
        if not self.started:
            await self.sink.begin(self.headers(facts, stream=True))
            self.started = True
        await self.sink.end(got.body + end)

    def credit(self, member: Member) -> None:
        """The node served, and began to in the time that it took: what was waited for before is not its doing."""
        assert self.x.t_first is not None
        member.served((self.x.t_first - self.asked_at) * 1000)

    async def proven(self, got: Got) -> Got:
        """`got`, judged with every proof that policy names. They are gathered when they can change the decision."""
        x, judged, policy = self.x, got.facts.judged, self.policy
        rest = policy.plan.proofs - {f"proof_{r.kind.value}" for r in self.given}
        self.records, body = self.given, None
        if rest and self.relay.prover is not None and not _settled(judged, policy):
            self.sink.on_leave(None)
            answer = got.answer if got.answer is not None else b""
            gathered = await self.relay.prover.gather(rest, policy, x.head.model, x.forwarded, answer)
            self.records, body = (*self.given, *gathered.records), gathered.body
            if self.sink.gone:
                await self.abandon()
                raise Done
        if body is not None and got.end is None:  # proven numbers took the place of the node's: that is the answer now
            got = msgspec.structs.replace(got, body=body, form="rebuilt", answer=body)
        result = proved(judged.result, self.records, policy, got.answer)
        x.proofs = parts_of(self.records, x.salt("proof"), self.heard)
        return msgspec.structs.replace(
            got, facts=msgspec.structs.replace(got.facts, judged=Judged.of(result, judged.session, policy))
        )

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

    async def release(self, facts: Facts, form: str, rest: bytes) -> tuple[Committed | None, Document | None]:
        """Record that the answer leaves, `rest` with it, which the caller sends then. Raises `Done` if it may not."""
        x = self.x
        left = x.sent_bytes, x.sent_hash
        x.sent_bytes += len(rest)
        if x.sent_hash is not None:
            x.sent_hash = x.sent_hash.copy()
            x.sent_hash.update(rest)
        try:
            return await self.book.record(self.ending(facts, Release.RELEASED, 200, form))
        except LOG_FAILED as error:
            x.sent_bytes, x.sent_hash = left
            ending = self.ending(facts, Release.WITHHELD, 503, form, "log_unavailable")
            await self.refuse(self.book.unavailable(), ending, None, unlogged=error)
            raise Done from None

    def appraise(self, member: Member, reply: Reply, chain_problem: str | None = None) -> Judged:
        """The checks of this answer, and what policy makes of them together with the node's own appraisal."""
        x, relay = self.x, self.relay
        assert x.session is not None
        start = relay.mono()
        journal, network = self.fleet.journal, member.node.network
        statement = reply.statement() if self.policy.replay.journal else None
        first = journal.seen(network, statement) if statement is not None else None
        # Two equal requests with equal answers in one second have one statement, and no lie in it: nothing older than
        # this request is taken for its answer, so what was seen before is a replay if it is older, or was seen too long
        # ago for one second of any clock.
        dated = reply.dated() if first is not None else None
        lately = first is not None and dated is not None and first > self.sent_at - SAME_SECOND_S
        seen = first is not None and (dated is None or not lately or dated < int(self.sent_at))
        skew_s = self.policy.freshness.response_skew_s
        try:
            result = reply.appraise(x.session, self.asked, now=relay.now(), skew_s=skew_s, seen_before=seen)
        except (Exception, SystemExit) as error:  # a verifier that raises has shown nothing
            log.error("appraisal.failed", receipt=x.receipt_id, node=member.node.id, exc_info=error)
            result = UNJUDGED
        if statement is not None and first is None and is_signed(result):
            journal.remember(network, statement, relay.now())
        if seen and lately:
            result = seen_lately(result)
        if chain_problem is not None:
            result = with_chain(result, chain_problem)
        judged = relay.judged(result, x.session, self.policy)
        x.verify_ms = milliseconds(relay.mono() - start)
        return judged

    def verification(self, facts: Facts, committed: Committed | None, receipt: Document | None) -> Verification:
        x, full = self.x, self.policy.attach == "full"
        assert x.node is not None
        assert x.session is not None
        salts = {name: b64(x.salt(name)) for name in self._opened(facts)}
        return Verification(
            verdict=facts.judged.decision.verdict,
            level="degraded" if committed is None or self.book.degraded else "logged",
            policy=self.terms.use.shown,
            network=x.node.network,
            node=x.node.id,
            model=x.head.model,
            executed_in=facts.judged.executed_in,
            release=Release.RELEASED,
            reason=facts.judged.decision.reason,
            claims=facts.judged.claims_shown,
            checks=facts.judged.checks if full else None,
            receipt=x.receipt_id,
            index=committed.index if committed else None,
            proof=format_tlog_proof(committed.index, committed.hashes, committed.checkpoint) if committed else None,
            openings=salts,
            uncovered=x.uncovered,
            dropped_params=x.unsupported,
            payment=x.payment,
            added_params=x.added,
            proofs=x.proofs,
            audit=x.audit,
            envelope=msgspec.Raw(receipt.envelope) if full and receipt is not None else None,
        )

    def _opened(self, facts: Facts) -> list[str]:
        names = [REQUEST_BODY, RESPONSE_BODY, RESPONSE_CONTENT]
        return [*names, RESPONSE_TOOLCALLS] if facts.reply.content.toolcalls else names

    def _evidence(self, member: Member, head: ResponseHead) -> Sealed:
        """Where the adapter finds the answer's evidence. One that raises has found none."""
        try:
            return member.adapter.response(head.headers)
        except (Exception, SystemExit) as error:  # anybody's code may stand behind an adapter
            log.error("adapter.failed", network=member.node.network, node=member.node.id, exc_info=error)
            return Sealed(None, "adapter_failed")

    def _mode(self) -> str:
        if not self.x.head.stream or self.policy.plan.proofs:
            return "buffer"
        assert self.x.session is not None
        return stream_mode(self.policy, self.x.session.capabilities) or "buffer"

    def _deadlines(self) -> Deadlines:
        d = self.policy.deadlines
        return Deadlines(d.first_byte_s, d.idle_s, self.time_left(), d.idle_s)

    def time_left(self) -> float:
        """Seconds that policy leaves for the exchange, whichever nodes were tried. Raises `Next` when there are none:
        to no node goes a prompt whose answer would come too late."""
        left = self.policy.deadlines.total_s - (self.relay.mono() - self.begun)
        if left <= 0:
            raise Next("timeout_total")
        return left


def assembled(stream: bytes) -> bytes | None:
    """The answer that the events of `stream` amount to, None where they amount to none."""
    framer = Framer(len(stream) + 1)
    try:
        return assemble([b.data for b in framer.feed(stream) if b.data is not None and b.data != DONE])
    except FormatError:
        return None


def _settled(judged: Judged, policy: CompiledPolicy) -> bool:
    """Whether the decision stands, whatever proofs may show: the answer may leave without them, or in no case."""
    decision = decide(assumed(judged.result, policy), policy, Phase.RESPONSE, node=judged.session)
    return not decision.permit or decision.verdict is Outcome.CONTRAINDICATED


def _keys(session: AttestedSession) -> tuple[object, ...]:
    """What a prompt is sent to, and its answer is judged by."""
    return session.keyset_digest, session.spki_pins, session.hpke


_UTF8 = (b"charset=utf-8", b'charset="utf-8"', b"charset=utf8")


def _charset_ok(content_type: bytes) -> bool:
    """Whether it names UTF-8, or no charset. Neither media type has other parameters: they say nothing."""
    if content_type == JSON:
        return True
    parameters = content_type.lower().split(b";")[1:]
    return all(b"charset" not in p or p.strip() in _UTF8 for p in parameters)
