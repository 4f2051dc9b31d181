"""The fleet: every node with its session and its health; which of them may serve; sessions kept ahead of expiry.

A request never waits for a quote while a session is in date: `run` renews each one before its lease ends. Only a node
that has no session at all, or one that is too old for the policy in force, is attested on demand, once for all who wait
(single flight), within a bounded time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence

import msgspec
import structlog

from gateway.adapter import Adapter, Alarm, Discovered
from gateway.errors import ConfigError, EndpointUnknown, ModelUnknown, VerirouteError
from gateway.exchange.head import Head
from gateway.model.node import AttestedSession, Node
from gateway.model.receipt import Rejected
from gateway.model.verdict import AttestationResult, Check, Outcome
from gateway.policy.prospect import prospect
from gateway.policy.proven import QUORUM
from gateway.policy.schema import CompiledPolicy
from gateway.routing import (
    QUARANTINE_MAX_S,
    Health,
    NodeView,
    candidates,
    drop_reason,
    quarantine,
)
from gateway.settings import is_local
from gateway.upstream.origin import parse_origin

from .attest import Attestation, Attester, discovered
from .journal import Journal
from .machines import Machines, Move
from .member import WAITING, Member, coded, unendorsed

log = structlog.get_logger("veriroute.fleet")

#: How long one request waits for the first attestation of the nodes that could serve it.
ON_DEMAND_S = 10.0
#: Nodes that could not be attested are asked again after this long, doubling up to the limit.
RETRY_S, RETRY_MAX_S = 2.0, 60.0
#: Bytes of evidence per second that a node may make us keep: how soon a session with a short lease is renewed.
EVIDENCE_RATE = 16 * 1024

#: Called with every alarm that a network's registry gives: the network, and the alarm.
Raise = Callable[[str, Alarm], None]
#: Called with every new appraisal, so that sessions and evidence are archived.
Archive = Callable[[Node, Attestation], None]
#: Called when a node's genuine evidence comes from another machine than before.
Moved = Callable[[Node, Move], None]


class Lookup(msgspec.Struct):
    """When a network's registry is asked next, on the monotonic clock."""

    network: str
    refresh_s: float
    next_at: float = 0.0


class Choice(msgspec.Struct, frozen=True):
    """Nodes to try, best first; the others with their reasons; how many there were."""

    order: tuple[Member, ...]
    dropped: tuple[Rejected, ...]
    considered: int


class Fleet:
    """All members. One event loop."""

    def __init__(
        self,
        nodes: Sequence[Node],
        adapters: dict[str, Adapter],
        attester: Attester,
        *,
        mono: Callable[[], float],
        lifetime_s: float,
        allow_http: bool,
        allow_private: bool,
        archive: Archive,
        alarm: Raise = lambda network, alarm: None,
        only_local: bool = False,
        moved: Moved | None = None,
    ) -> None:
        self.journal = Journal()
        self._machines, self._moved = Machines(), moved
        self.mono = mono
        self._attester = attester
        self._adapters = adapters
        self._lifetime = lifetime_s
        self._archive = archive
        self._alarm = alarm
        self._only_local = only_local
        self._allow_http, self._allow_private = allow_http, allow_private
        self._configured = tuple(nodes)
        self._policies: list[CompiledPolicy] = []
        self.members: dict[str, Member] = {}
        #: Health of nodes that went while they were quarantined, by id: going and coming back ends no quarantine.
        self._shunned: dict[str, Health] = {}
        #: Configured nodes whose network's registry names none for them now: id -> why.
        self.unresolved: dict[str, str] = {}
        self._lookups = [
            Lookup(name, adapter.refresh_s) for name, adapter in adapters.items() if adapter.refresh_s is not None
        ]
        self._looking: asyncio.Task[None] | None = None
        looked_up = {lookup.network for lookup in self._lookups}
        for node in nodes:
            if node.network not in adapters:
                self.unresolved[node.id] = "adapter_failed"  # at the start, which said so
            elif node.network in looked_up:
                self.unresolved[node.id] = "discovery_pending"
            else:
                self.members[node.id] = self._member(node)
        self._listed()

    def _listed(self) -> None:
        """Work out what every request asks of `members`, which have changed."""
        self._views = [m.view for m in self.members.values()]
        self._offered: dict[str, set[str]] = {}  # model -> where it is offered by any node, whatever its state
        for node in (*self._configured, *(m.node for m in self.members.values())):
            for model in node.models:
                self._offered.setdefault(model, set()).update(node.endpoints)

    def use_policies(self, policies: Iterable[CompiledPolicy]) -> None:
        """Policies whose decisions about a session are worked out when it begins, not when it is asked for."""
        self._policies = list(policies)
        for view in self._views:
            self._decide(view)

    def known(self, head: Head) -> None:
        """Raises `ModelUnknown` or `EndpointUnknown` when no node, whatever its state, could serve `head`."""
        endpoints = self._offered.get(head.model)
        if endpoints is None:
            raise ModelUnknown("No node offers this model; GET /v1/models lists those that nodes offer.", param="model")
        if head.endpoint not in endpoints:
            raise EndpointUnknown(f"No node offers {head.model!r} at {head.endpoint}.", param="model")

    async def choose(self, head: Head, policy: CompiledPolicy, sessions: tuple[str, ...] | None, pick: float) -> Choice:
        """Route one request; waits only while too few of the nodes that could serve it have a session, which is none,
        and for a quorum as many operators as have to agree."""
        choice = self._route(head, policy, sessions, pick)
        if _enough(choice.order, policy):
            return choice
        if self._looking is not None and not self._looking.done():
            await asyncio.wait([self._looking], timeout=ON_DEMAND_S)
            choice = self._route(head, policy, sessions, pick)
        lacking = [self.members[r.node] for r in choice.dropped if r.reason in WAITING and r.node in self.members]
        lacking = [m for m in lacking if m.next_try <= self.mono() or m.flight is not None or self._aged(m, policy)]
        if not _enough((*choice.order, *lacking), policy):  # with all of their sessions there would be too few
            return choice
        flights = {self._fly(m) for m in lacking}
        until = asyncio.get_running_loop().time() + ON_DEMAND_S
        while flights and not _enough(choice.order, policy):  # not for one that is never answered
            left = until - asyncio.get_running_loop().time()
            done, flights = await asyncio.wait(flights, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            choice = self._route(head, policy, sessions, pick)
        return choice

    def _aged(self, member: Member, policy: CompiledPolicy) -> bool:
        """Whether all that `policy` has against the session may be its age, and the next attempt, which is due later,
        is an ordinary renewal and no second one after a failure."""
        age = self.mono() - member.view.appraised_at
        return member.session is not None and not member.tries and age > policy.freshness.evidence_max_age_s

    def _route(self, head: Head, policy: CompiledPolicy, sessions: tuple[str, ...] | None, pick: float) -> Choice:
        routing = candidates(
            self._views,
            head.model,
            head.endpoint,
            policy,
            self.mono(),
            pick,
            stream=head.stream,
            session_ids=None if sessions is None else frozenset(sessions),
        )
        order = tuple([self.members[view.id] for view in routing.order])
        dropped = tuple([self.members[v.id].rejected(why, policy) for v, why in routing.dropped if why != "model"])
        if self.unresolved:
            offered = {node.id for node in self._configured if head.model in node.models}
            dropped += tuple([Rejected(i, why) for i, why in self.unresolved.items() if i in offered])
        return Choice(order, dropped, len(order) + len(dropped))

    def unchanged(self, member: Member, session: AttestedSession) -> bool:
        """Whether `session`, under which `member` was chosen, is in force still and nothing else speaks against it."""
        view = member.view
        return view.session is session and not view.health.quarantined_until and self.mono() < view.lease_until

    def refuses(
        self, member: Member, head: Head, policy: CompiledPolicy, sessions: tuple[str, ...] | None, *, entered: bool
    ) -> Rejected | None:
        """Why `member`, which was chosen a while ago and perhaps `entered`, may not serve the request now; None when it
        still may."""
        if self.members.get(member.node.id) is not member:
            return Rejected(member.node.id, "session_missing")  # it is not listed any more, or as another
        reason = drop_reason(
            member.view,
            head.model,
            head.endpoint,
            policy,
            self.mono(),
            stream=head.stream,
            session_ids=None if sessions is None else frozenset(sessions),
            let_in=entered,
        )
        return None if reason is None else member.rejected(reason, policy)

    # -- discovery ----------------------------------------------------------------------------------------------------

    def _member(self, node: Node) -> Member:
        if self._only_local and not is_local(node.base_url):
            raise ConfigError("tee.dangerous_test_roots would let anybody forge the evidence of a node out there")
        origin = parse_origin(node.base_url, allow_http=self._allow_http, allow_private=self._allow_private)
        return Member(node, self._adapters[node.network], origin, self.mono)

    async def discover(self) -> None:
        """Look up the nodes of every network whose registry is due. What stands stays when a registry fails."""
        await self._looking_up()

    def _looking_up(self) -> asyncio.Task[None]:
        """The lookup under way, or a new one of what is due: once for all who wait."""
        if self._looking is None or self._looking.done():
            now = self.mono()
            self._looking = asyncio.ensure_future(self._look_up_all([k for k in self._lookups if k.next_at <= now]))
        return self._looking

    async def _look_up_all(self, due: list[Lookup]) -> None:
        await asyncio.gather(*[self._look_up(lookup) for lookup in due])

    async def _look_up(self, lookup: Lookup) -> None:
        network = lookup.network
        adapter = self._adapters[network]
        configured = [node for node in self._configured if node.network == network]
        lookup.next_at = self.mono() + RETRY_MAX_S
        try:
            found = await discovered(adapter, network, configured, self._attester)
        except VerirouteError as error:
            self._undiscovered(network, configured, error.reason or "discovery_failed")
        else:
            lookup.next_at = self.mono() + lookup.refresh_s
            self._replace(network, configured, found)

    def _undiscovered(self, network: str, configured: list[Node], reason: str) -> None:
        log.warning("network.undiscovered", network=network, reason=reason)
        for node in configured:
            if node.id in self.unresolved:
                self.unresolved[node.id] = coded(reason)

    def _replace(self, network: str, configured: list[Node], found: Discovered) -> None:
        """The members of `network` are those that were found; one that is unchanged keeps its session and health.

        One that is not keeps its quarantine, and gets one for what is unsettled: what a registry says of a node, its
        owner may change as he likes.
        """
        now = self.mono()
        mine = [(i, m) for i, m in self.members.items() if m.node.network == network]
        left = {i: quarantine(m.view.health, now) if m.unsettled else m.view.health for i, m in mine}
        known = {**self._shunned, **left}.items()
        self._shunned = {i: h for i, h in known if h.quarantines and now - h.quarantined_until <= QUARANTINE_MAX_S}
        kept = {i: m for i, m in self.members.items() if m.node.network != network}
        elsewhere = {node.id for node in self._configured if node.network != network}
        for node in found.nodes:
            if node.id in kept or node.id in elsewhere:  # a registry puts no node into another's place
                log.warning("node.id_taken", node=node.id, network=network)
                continue
            before = self.members.get(node.id)
            try:
                kept[node.id] = before if before is not None and before.node == node else self._returned(node)
            except ConfigError as error:
                log.warning("node.address_refused", node=node.id, reason=error.message)
        for i, m in mine:
            if kept.get(i) is not m:
                m.replaced(functools.partial(self.shun, i))
        before_ids, after_ids = self.members.keys(), kept.keys()
        for gone in before_ids - after_ids:
            log.warning("node.gone", node=gone, network=network)
        for new in after_ids - before_ids:
            log.info("node.discovered", node=new, network=network, url=kept[new].node.base_url)
        self.members = kept
        self._listed()
        for node in configured:
            self.unresolved.pop(node.id, None)
        self.unresolved.update({node: coded(reason) for node, reason in found.unresolved.items()})
        for alarm in found.alarms:
            self._alarm(network, alarm)

    def _returned(self, node: Node) -> Member:
        """A new member, quarantined where an earlier one of its id was."""
        member = self._member(node)
        shunned = self._shunned.get(node.id)
        if shunned is not None:
            member.view.health = msgspec.structs.replace(
                member.view.health, quarantines=shunned.quarantines, quarantined_until=shunned.quarantined_until
            )
        return member

    def shun(self, node: str, reason: str) -> None:
        """Take `node` out of service for a while, also where it is not listed at the moment."""
        member = self.members.get(node)
        if member is not None:
            member.contradicted(reason)
        else:
            self._shunned[node] = quarantine(self._shunned.get(node, Health()), self.mono())

    # -- sessions -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Attest everybody now, then each again before its lease ends. Ends by cancellation."""
        try:
            while True:
                now = self.mono()
                if any(lookup.next_at <= now for lookup in self._lookups):
                    self._looking_up()
                for member in self.members.values():
                    if member.flight is None and member.next_try <= now:
                        self._fly(member)
                await asyncio.sleep(0.5)
        finally:
            flights: list[asyncio.Task[None]] = [m.flight for m in self.members.values() if m.flight is not None]
            if self._looking is not None:
                flights.append(self._looking)
            for flight in flights:
                flight.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*flights, return_exceptions=True)

    async def attest_all(self, within_s: float) -> None:
        """Attest everybody once, for a start that is ready when it says so; late nodes go on in the background."""
        if self._lookups:
            await asyncio.wait([self._looking_up()], timeout=within_s)
        if self.members:
            await asyncio.wait([self._fly(m) for m in self.members.values()], timeout=within_s)

    def _fly(self, member: Member) -> asyncio.Task[None]:
        if member.flight is None:
            member.flight = asyncio.ensure_future(self._attest(member))
        return member.flight

    async def _attest(self, member: Member) -> None:
        asked = member.unsettled
        try:
            attestation = await self._appraised(member)
            self._take(member, attestation)
            member.settle(attestation.session, asked)
        finally:
            member.flight = None

    async def _appraised(self, member: Member) -> Attestation:
        """What the attester finds. Where it fails at something that a node sent, it has found nothing."""
        try:
            return await self._attester.attest(member.node, member.adapter)
        except (Exception, SystemExit) as error:  # else the next turn would ask again at once, for ever
            log.error("appraisal.failed", node=member.node.id, exc_info=error)
            check = Check("evidence", Outcome.NONE, "appraisal_failed")
            return Attestation(AttestationResult((check,)), None, None)

    def _take(self, member: Member, attestation: Attestation) -> None:
        now = self.mono()
        view, session = member.view, attestation.session
        member.attested(attestation)
        first = next((c for c in attestation.result.checks if c.outcome is not Outcome.AFFIRMING), None)
        if session is None:
            # Keep what is still in date: a failed renewal is not a verdict on the session that stands.
            self._ask_again(member, RETRY_MAX_S)
            view.absent = first.id if first is not None and first.outcome is Outcome.CONTRAINDICATED else None
            log.warning("node.unattested", node=member.node.id, reason=first.reason if first else None)
            return
        before = view.session
        lease = session.expires - session.established
        view.session, view.appraised_at, view.lease_until, view.absent = session, now, now + lease, None
        self._decide(view)
        self._renew(member, session, self._renewal(lease, len(attestation.document or b"")))
        self._file(member, session, attestation)
        self._watch(member.node, session)
        if before is None or before.keyset_digest != session.keyset_digest or before.outcome != session.outcome:
            _tell_attested(member.node, session, attestation)

    def _ask_again(self, member: Member, most: float) -> None:
        member.tries += 1
        member.next_try = self.mono() + min(RETRY_S * 2.0 ** min(member.tries - 1, 10), most)

    def _renew(self, member: Member, session: AttestedSession, renewal: float) -> None:
        """Ask again after `renewal` seconds; soon where less was shown than before: that may be the word of somebody in
        between, who spoke once, and the node is not to be out for longer than he is there."""
        permits = frozenset(digest for digest, decision in member.view.decisions.items() if decision.permit)
        if not _usable(session):
            self._ask_again(member, RETRY_MAX_S)
        elif member.permits <= permits and not unendorsed(session):
            member.permits, member.tries, member.next_try = permits, 0, self.mono() + renewal
        else:
            self._ask_again(member, renewal)

    def _renewal(self, lease: float, size: int) -> float:
        """When a session is renewed: halfway through its lease. The node names that, so a short one is kept up with
        only as fast as its evidence, of `size` bytes, may fill the archive."""
        return min(max(lease / 2, size / EVIDENCE_RATE, RETRY_S), self._lifetime / 2)

    def _file(self, member: Member, session: AttestedSession, attestation: Attestation) -> None:
        """Archive what a receipt may refer to. A session that few policies use, if any, and that whoever answers makes
        at will, is archived when an exchange begins under it, or runs as it comes."""
        member.unkept = functools.partial(self._archive, member.node, attestation)
        if _usable(session) or member.view.in_flight:
            member.keep()

    def _watch(self, node: Node, session: AttestedSession) -> None:
        move = self._machines.saw(node.id, session)
        if move is not None:
            log.warning("node.machine_changed", node=node.id, key=[move.before, move.after])
            if self._moved is not None:
                self._moved(node, move)

    def _decide(self, view: NodeView) -> None:
        view.decisions = {}
        if view.session is None:
            return
        for policy in self._policies:
            try:
                view.decisions[policy.digest] = prospect(view.session, policy)
            except (Exception, SystemExit) as error:  # a request under it meets this again, and is refused by it
                log.error("policy.failed", node=view.id, policy=policy.name, exc_info=error)


def _tell_attested(node: Node, session: AttestedSession, attestation: Attestation) -> None:
    """An event with the first check that decided the outcome: of a pin that does not fit, nothing else tells."""
    short = (check for check in attestation.result.checks if check.outcome is not Outcome.AFFIRMING)
    deciding = next((check for check in short if check.outcome is session.outcome), None)
    (log.warning if session.outcome is Outcome.CONTRAINDICATED else log.info)(
        "node.attested",
        node=node.id,
        outcome=session.outcome.value,
        check=deciding and deciding.id,
        reason=deciding and deciding.reason,
        keyset=session.keyset_digest,
    )


def _usable(session: AttestedSession) -> bool:
    """Whether nothing speaks against it, and it is not over as it begins."""
    return session.outcome is not Outcome.CONTRAINDICATED and session.expires > session.established


def _enough(members: Sequence[Member], policy: CompiledPolicy) -> bool:
    """Whether there is one of `members` to ask, or for a quorum as many known operators as have to agree."""
    if QUORUM not in policy.plan.proofs:
        return bool(members)
    return len({member.node.operator for member in members if member.node.operator}) >= policy.quorum.n


__all__ = ["Choice", "Fleet", "Member"]
