"""N of M: one request asked of several nodes at once, and the answer that enough of them agree on.

Every node is asked in an exchange of its own (`Seat`), with its own intent, nonce, payment, appraisal and receipt, that
releases nothing. N nodes of distinct operators are asked at once, and M at most:

    another at once        for each that failed, so that always so many are asked as a quorum takes
    one more               when all have answered and there is no quorum
    one more               when the others were waited for as long again as the quickest answer took, or nobody said
                           anything for a quarter of the time that a node has for its first byte

The answer of the first member of the quorum becomes the answer of the exchange that the agent sees. Whoever has not
answered by then is waited for no longer.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.entropy import fresh
from gateway.errors import EvidenceMissing, EvidenceRejected, FormatError, NoEligibleNode, VerirouteError
from gateway.fleet.member import Member
from gateway.log.receipt import salted
from gateway.model.receipt import RESPONSE_BODY, ProofAnswer, Rejected, Sha256
from gateway.model.verdict import Check, Outcome, Release
from gateway.policy.decide import Decision, decide
from gateway.policy.schema import CompiledPolicy
from gateway.recorder import Ending, Exchange
from gateway.verify.checks import Phase
from gateway.verify.proofs.agreement import Agreement, NearTie
from gateway.verify.proofs.claim import Claim, claim_of
from gateway.verify.proofs.evidence import Subject, Verdict, check_of
from gateway.verify.proofs.quorum import MAX_MEMBERS, Answer, Quorum, Terms, judge_quorum
from gateway.verify.proofs.spelling import stops_of
from gateway.verify.proofs.structured import form_of

from .ends import PASSING, Next, listed
from .judged import Facts, Got
from .proving import QUORUM, assumed, parts_of, proved
from .run import Run
from .terms import Headers

if TYPE_CHECKING:
    from . import Relay

LOG_UNAVAILABLE = "log_unavailable"
#: Why an answer that could have left was kept: the quorum's exchange has the answer.
HELD = "held_for_quorum"
#: The least time for which slow nodes are waited for before one more is asked.
PATIENCE_S = 0.5
#: The share of a node's time for its first byte after which one more is asked while nobody has answered.
SILENCE = 0.25
#: Answers longer than this are compared in a thread.
SMALL = 64 * 1024
#: And longer ones than this not at all: reading one takes half a second, and it is read again as others come. With
#: five alternatives to each token, 30,000 tokens have this much.
MAX_COMPARED = 8 * 1024 * 1024


class Seat(Run):
    """One node of a quorum, asked: its answer is appraised, recorded and kept. `got` is None when it is not usable,
    and `problem` then says why."""

    def __init__(self, parent: Run, member: Member) -> None:
        relay, x = parent.relay, parent.x
        seed, t0 = fresh(80), relay.mono()
        own = Exchange(
            receipt_id=relay.new_id(),
            received_ms=x.received_ms + int((t0 - x.t0) * 1000),  # a node may be asked long after another
            t0=t0,
            seed=seed[:32],
            nonce16=seed[32:48],
            key_id=x.key_id,
            client_request_id=None,
            head=x.head,
            body=x.body,
            policy=x.policy,
        )
        own.parent = x.receipt_id
        super().__init__(relay, own, parent.terms, _Nowhere(), seed[48:].hex(), 0.0)
        self.forward_as(x.forwarded, x.added)
        self.asks_for = parent
        self.member = member
        self.got: Got | None = None
        self.problem = "no_answer"

    async def all(self) -> None:
        self.x.candidates = self.x.attempts = 1
        try:
            await self.conclude(self.member, await self.attempt(self.member, self.eligible(self.member)))
        except Next as reason:
            self.problem = str(reason)
            if self.book.intended:
                await self.book.record(self.failure(502, self.problem))

    async def draw(self) -> None:
        """The answer may become that of the exchange it is asked for, which has no intent of its own."""
        await self.asks_for.draw()

    async def conclude(self, member: Member, got: Got) -> None:
        """Record what came, and keep it."""
        facts = got.facts
        decision = supposed(facts, self.policy)
        if decision.permit and decision.verdict is not Outcome.CONTRAINDICATED:
            self.credit(member)
            if len(got.answer or b"") <= MAX_COMPARED:
                self.got, reason = got, HELD
            else:
                self.problem = reason = "too_large"
        else:
            self.problem = reason = await self.blame(member, decision, facts)
        await self.book.record(self.ending(facts, Release.WITHHELD, 200, "none", reason))

    async def refuse(  # type: ignore[override]
        self,
        error: VerirouteError,
        ending: Ending,
        facts: Facts | None,
        headers: Headers | None = None,
        extra: dict[str, object] | None = None,
        unlogged: VerirouteError | None = None,
    ) -> None:
        self.problem = ending.reason or error.code
        await super().refuse(error, ending, facts, headers, extra, unlogged)

    def digest(self) -> Sha256 | None:
        """The digest of the node's answer, as the receipt of this exchange has it."""
        if self.got is None:
            return None
        facts = self.got.facts
        if facts.data_sha256 is not None:
            return Sha256(facts.data_sha256)
        return Sha256(salted(self.x.salt(RESPONSE_BODY), facts.body or b""))

    async def stopped(self) -> None:
        """The quorum was reached, or given up, before this node had answered."""
        self.problem = "not_waited_for"
        self.member.outwaited((self.relay.mono() - self.x.t0) * 1000)
        if self.book.intended:
            await self.book.record(
                Ending(verdict=Outcome.NONE, release=Release.ABANDONED, status=499, reason=self.problem)
            )


class Quorate(Run):
    """One exchange whose answer a quorum of nodes has to agree on."""

    async def all(self) -> None:
        if self.policy.sampled.rate:
            await self.sampled()
        await self.prepare()
        x = self.x
        choice = await self.fleet.choose(x.head, self.policy, self.terms.sessions, self.pick)
        x.candidates = choice.considered
        x.rejected.extend(choice.dropped)
        candidates = seated(choice.order, x.rejected)
        operators = {member.node.operator for member in candidates}
        if len(operators) < self.policy.quorum.n:
            await self.too_few(len(operators))
        hearing = Hearing(self, candidates)
        x.asked_through = True
        quorum = await hearing.hear()
        if self.sink.gone:
            await self.abandon()
            return
        self.given, self.heard = (quorum.record,), hearing.answers()
        await self.blame_culprits(hearing, quorum)
        seat = hearing.winner()
        if seat is None or seat.got is None or not (quorum.members or self.may_leave(seat.got)):
            await self.divided(hearing, quorum)
            return
        self.adopt(seat)
        await self.conclude(seat.member, seat.got)

    def may_leave(self, got: Got) -> bool:
        """Whether policy could release the answer without its quorum, if every other proof held."""
        judged = got.facts.judged
        told = proved(judged.result, self.given, self.policy, got.answer)
        others = self.policy.plan.proofs - {QUORUM}
        checks = tuple([Check(c.id, Outcome.AFFIRMING) if c.id in others else c for c in told.checks])
        hoped = msgspec.structs.replace(told, checks=checks)
        return decide(hoped, self.policy, Phase.RESPONSE, node=judged.session).permit

    def credit(self, member: Member) -> None:
        """The exchange that asked the node has counted its answer, by the time that the node itself took."""

    def _may_retry(self) -> bool:
        return False  # everybody who may be asked has been

    def adopt(self, seat: Seat) -> None:
        """Take over what was found of the answer that is to leave, and what was paid for it."""
        x, own = self.x, seat.x
        self.till = seat.till
        x.node, x.session, x.mode, x.unsupported = own.node, own.session, own.mode, own.unsupported
        x.t_first, x.t_done, x.verify_ms, x.payment = own.t_first, own.t_done, own.verify_ms, own.payment
        if own.sent_hash is not None:
            x.sent_hash = hashlib.sha256(x.salt("delivery"))

    async def blame_culprits(self, hearing: Hearing, quorum: Quorum) -> None:
        """Whoever contradicts the quorum is named, not paid, and shunned where the request itself explains nothing."""
        shunned = treated_alike(self.x.forwarded)
        for name in quorum.record.culprits:
            seat = hearing.seats.get(name)
            if seat is not None:
                self.x.rejected.append(Rejected(name, QUORUM))
                if shunned:
                    seat.member.contradicted(QUORUM)
                await seat.till.withheld(QUORUM)

    async def too_few(self, known: int) -> None:
        """There cannot be a quorum: no prompt leaves. Raises `Done`."""
        name, n = self.terms.use.name, self.policy.quorum.n
        nodes = self.passed_over()
        why = listed(nodes)
        error = NoEligibleNode(
            f"Policy {name} asks for {n} operators that agree, and nodes of {known} may be asked"
            f"{': ' + why if why else ''}. Name who runs a node in nodes.operator.",
            reason="operators_too_few",
        )
        error.retryable = any(r.reason in PASSING for r in self.x.rejected)
        error.retry_after_s = self.back_after_s((r.node, r.reason) for r in self.x.rejected)
        ending = Ending(verdict=Outcome.NONE, release=Release.REFUSED, status=error.status, reason="operators_too_few")
        await self.refuse(error, ending, None, extra={"nodes": nodes})

    async def divided(self, hearing: Hearing, quorum: Quorum) -> None:
        """There is no quorum, and nothing leaves. Raises `Done`."""
        x, check = self.x, check_of(quorum.record)
        x.proofs = parts_of(self.given, x.salt("proof"), self.heard)
        x.mode = "buffer"
        for seat in hearing.seats.values():
            await seat.till.withheld(QUORUM)
        error = self.why_divided(hearing, quorum)
        nodes = [{"node": a.node, "reason": a.outcome, "receipt": a.receipt} for a in self.heard]
        contra = isinstance(error, EvidenceRejected)
        ending = Ending(
            verdict=Outcome.CONTRAINDICATED if contra else Outcome.NONE,
            release=Release.WITHHELD if x.sent else Release.REFUSED,
            status=error.status,
            reason=error.reason,
            checks=(check,),
        )
        await self.refuse(error, ending, None, extra={"nodes": nodes, "checks": [check]})

    def why_divided(self, hearing: Hearing, quorum: Quorum) -> VerirouteError:
        """What the agent is told. Where nothing was sent, the cause is not the answers, and trying again may help."""
        name, n = self.terms.use.name, self.policy.quorum.n
        problems = [seat.problem for seat in hearing.seats.values() if seat.got is None]
        told = ", ".join(f"{a.node}: {a.outcome}" for a in self.heard)
        if LOG_UNAVAILABLE in problems:
            return self.book.unavailable()
        if not self.x.sent:
            missing = NoEligibleNode(f"No node could be asked under policy {name} ({told}).", reason=problems[0])
            missing.retryable = not PASSING.isdisjoint(problems)
            missing.retry_after_s = self.back_after_s((a.node, a.outcome) for a in self.heard)
            return missing
        kind = EvidenceRejected if quorum.record.verdict is Verdict.FAIL else EvidenceMissing
        return kind(
            f"No {n} of {len(self.heard)} nodes agree on an answer under policy {name} ({told}).", reason=QUORUM
        )


class Hearing:
    """The nodes of one quorum, and what they have said so far."""

    def __init__(self, run: Run, candidates: Sequence[Member]) -> None:
        self.run = run
        self.relay: Relay = run.relay
        self.terms = terms_of(run.policy, run.x.forwarded)
        self.seats: dict[str, Seat] = {}
        self.quorum: Quorum | None = None
        self._left = list(candidates)
        self._tasks: dict[asyncio.Task[None], Seat] = {}
        self._begun = self.relay.mono()

    async def hear(self) -> Quorum:
        """Ask until there is a quorum, nobody is left to ask, or time is up. Raises `CancelledError` alone."""
        gone = asyncio.ensure_future(self._agent_left())
        try:
            self._fill()
            while self._tasks and self._time_left() > 0:
                done, _ = await asyncio.wait(
                    {*self._tasks, gone}, timeout=self._patience(), return_when=asyncio.FIRST_COMPLETED
                )
                if gone in done or (done and (await self._take(done)).members):
                    break
                if done:
                    self._fill()
                elif self._time_left() > 0:  # they are slow
                    self._ask_one()
        finally:
            gone.cancel()
            await self._dismiss()
        return await self._judge()

    def winner(self) -> Seat | None:
        """The seat whose answer is released: the quorum's first, else any that has one, which policy may let pass."""
        assert self.quorum is not None
        if self.quorum.members:
            return self.seats[self.quorum.members[0]]
        return next((seat for seat in self.seats.values() if seat.got is not None), None)

    def answers(self) -> tuple[ProofAnswer, ...]:
        """What the receipt says of every node that was asked."""
        assert self.quorum is not None
        return tuple([self._told(seat, self.quorum) for seat in self.seats.values()])

    def _fill(self) -> None:
        """Ask so many that they could make a quorum, and at least one more when everybody has answered."""
        while self._standing() < self.terms.n and self._ask_one():
            pass
        if not self._tasks:
            self._ask_one()

    def _standing(self) -> int:
        """How many have given an answer that can be compared, or may still."""
        failed = self.quorum.missing if self.quorum is not None else ()
        return sum(node not in failed for node in self.seats)

    def _ask_one(self) -> bool:
        """Ask the next node, unless as many as may be were asked. Of one operator only one may have answered."""
        if len(self.seats) >= min(self.terms.m, MAX_MEMBERS):
            return False
        heard = {s.member.node.operator for s in self.seats.values() if s.got is not None or not self._ended(s)}
        member = next((m for m in self._left if m.node.operator not in heard), None)
        if member is None:
            return False
        self._left.remove(member)
        seat = self.seats[member.node.id] = Seat(self.run, member)
        seat.task = asyncio.ensure_future(self.relay.perform(seat))
        self._tasks[seat.task] = seat
        self.run.x.attempts = len(self.seats)
        return True

    def _ended(self, seat: Seat) -> bool:
        return seat.task is not None and seat.task.done()

    async def _take(self, done: set[asyncio.Task[None]]) -> Quorum:
        for task in done:
            self._tasks.pop(task)
        return await self._judge()

    def _time_left(self) -> float:
        return self._begun + self.run.policy.deadlines.total_s - self.relay.mono()

    def _patience(self) -> float:
        """How long to wait before one more is asked."""
        if len(self.seats) >= self.terms.m:
            return self._time_left()
        took = [s.x.t_done - s.x.t0 for s in self.seats.values() if s.got is not None and s.x.t_done is not None]
        enough = min(took) if took else self.run.policy.deadlines.first_byte_s * SILENCE
        return min(self._time_left(), max(PATIENCE_S, enough))

    async def _judge(self) -> Quorum:
        """What the answers so far come to."""
        answers = [self._answer(seat) for seat in self.seats.values() if self._ended(seat)]
        terms = msgspec.structs.replace(self.terms, m=max(self.terms.n, len(self.seats)))  # nobody else was to be had
        operators = {s.member.node.id: s.member.node.operator or "" for s in self.seats.values()}
        operators = {node: operator for node, operator in operators.items() if operator}
        asked = Subject(self.run.asked.sha256, None, ms=int((self.relay.mono() - self._begun) * 1000))
        if sum(len(a.body or b"") for a in answers) <= SMALL:
            found = judge_quorum(answers, operators, terms, asked)
        else:
            found = await asyncio.to_thread(judge_quorum, answers, operators, terms, asked)
        self.quorum = found
        return found

    def _answer(self, seat: Seat) -> Answer:
        if seat.got is None:
            return Answer(seat.member.node.id, problem=seat.problem)
        if seat.got.answer is None:
            return Answer(seat.member.node.id, problem="not_comparable")
        return Answer(seat.member.node.id, hashlib.sha256(seat.got.answer).hexdigest(), seat.got.answer)

    def _told(self, seat: Seat, quorum: Quorum) -> ProofAnswer:
        node = seat.member.node.id
        outcome = "agrees" if node in quorum.members else quorum.missing.get(node)
        if outcome is None:
            outcome = "differs" if node in quorum.record.culprits else _undecided(node, quorum)
        receipt = seat.x.receipt_id if seat.book.recorded else None
        return ProofAnswer(node, outcome, seat.member.node.operator, receipt, seat.digest())

    async def _agent_left(self) -> None:
        left = asyncio.Event()
        self.run.sink.on_leave(left.set)
        if not self.run.sink.gone:
            await left.wait()

    async def _dismiss(self) -> None:
        """End those that are still under way; each has its receipt."""
        self.run.sink.on_leave(None)
        for task, seat in self._tasks.items():
            # A receipt under way would be lost, and one of a second cancellation be waited for by nobody.
            if not seat.book.recorded and not task.cancelling():
                task.cancel()
        try:
            if self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            self._tasks.clear()
            self.run.x.sent = any(seat.x.sent for seat in self.seats.values())


def treated_alike(request: bytes) -> bool:
    """Whether honest servers of one model make the same of `request`.

    Penalties, grammars and members that are not known here are heeded by some and dropped by others: were that to count
    against a node, one caller could take it from all the others.
    """
    try:
        return isinstance(claim_of(strict_json(request, max_bytes=len(request)), seeded=False), Claim)
    except FormatError:
        return False


def terms_of(policy: CompiledPolicy, request: bytes) -> Terms:
    """The quorum that `policy` asks for; JSON is compared by value where the request asks for JSON."""
    q = policy.quorum
    tie = NearTie(q.tau, q.delta, q.min_prefix, q.min_share)
    try:
        document = strict_json(request, max_bytes=len(request))
    except FormatError:  # the request passed the door, so this is a form that only the stricter reader minds
        document = None
    stops = stops_of(document) if isinstance(document, dict) else ()
    return Terms(q.n, max(q.n, q.m), tie, form_of(document), stops)


def supposed(facts: Facts, policy: CompiledPolicy) -> Decision:
    """What policy would make of the answer if every proof held."""
    judged = facts.judged
    return decide(assumed(judged.result, policy), policy, Phase.RESPONSE, node=judged.session)


def seated(order: Sequence[Member], rejected: list[Rejected]) -> tuple[Member, ...]:
    """The candidates that count: those whose operator is known. The others are named in `rejected`."""
    kept = []
    for member in order:
        if member.node.operator:
            kept.append(member)
        else:
            rejected.append(Rejected(member.node.id, "operator_unknown"))
    return tuple(kept)


def _undecided(node: str, quorum: Quorum) -> str:
    """Why the answer of `node` agrees with no other, where no quorum contradicts it."""
    pairs = [compared.pair for compared in quorum.pairs if node in (compared.a, compared.b)]
    return next((pair.reason for pair in pairs if pair.agreement is not Agreement.AGREE), "undecided")


class _Nowhere:
    """A sink for an exchange that answers nobody."""

    gone = False

    def on_leave(self, callback: object) -> None: ...
    async def answer(self, headers: Headers, body: bytes) -> None: ...
    async def begin(self, headers: Headers) -> None: ...
    async def write(self, data: bytes) -> None: ...
    async def end(self, data: bytes) -> None: ...
    async def refuse(self, error: VerirouteError, receipt: str, extra: dict[str, object], headers: Headers) -> None: ...
    async def cut(self, data: bytes) -> None: ...
