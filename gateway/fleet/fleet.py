"""The fleet: every node with its session and its health; which of them may serve; sessions kept ahead of expiry.

A request never waits for a quote while a session is in date: `run` renews each one before its lease ends. Only a node
that has no session at all is attested on demand, once for all who wait (single flight), within a bounded time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence

import msgspec
import structlog

from gateway.adapter import Adapter
from gateway.errors import EndpointUnknown, ModelUnknown
from gateway.exchange.head import Head
from gateway.model.node import AttestedSession, Node
from gateway.model.receipt import Rejected
from gateway.model.verdict import Outcome
from gateway.policy.decide import decide
from gateway.policy.schema import CompiledPolicy
from gateway.routing import NodeView, candidates, on_attempt, on_failure, on_success, quarantine
from gateway.upstream.origin import Origin, parse_origin
from gateway.verify.checks import Phase

from .attest import Attestation, Attester
from .journal import Journal

log = structlog.get_logger("veriroute.fleet")

#: How long one request waits for the first attestation of the nodes that could serve it.
ON_DEMAND_S = 10.0
#: Nodes that could not be attested are asked again after this long, doubling up to the limit.
RETRY_S, RETRY_MAX_S = 2.0, 60.0
_WAITING = frozenset(("session_missing", "session_expired", "fresh"))

#: Called with every new appraisal, so that sessions and evidence are archived.
Archive = Callable[[Node, Attestation], None]


class Member:
    """One node under way: what routing knows of it, and what the relay needs to talk to it."""

    def __init__(self, node: Node, adapter: Adapter, origin: Origin, mono: Callable[[], float]) -> None:
        self.node = node
        self.adapter = adapter
        self.origin = origin
        self.view = NodeView(
            id=node.id,
            network=node.network,
            models=frozenset(node.models),
            endpoints=frozenset(node.endpoints),
            operator=node.operator,
        )
        self.last: Attestation | None = None
        self.next_try = 0.0
        self.tries = 0
        self.flight: asyncio.Task[None] | None = None
        self._mono = mono

    @property
    def session(self) -> AttestedSession | None:
        return self.view.session

    def enter(self) -> None:
        self.view.in_flight += 1
        if self.view.health.failures:
            self.view.health = on_attempt(self.view.health, self._mono())

    def leave(self) -> None:
        self.view.in_flight -= 1

    def served(self, first_byte_ms: float) -> None:
        self.view.health = on_success(self.view.health, first_byte_ms)

    def failed(self, reason: str) -> None:
        """It could not be reached, broke off or answered nonsense."""
        self.view.health = on_failure(self.view.health, self._mono())
        log.info("node.failed", node=self.node.id, reason=reason, failures=self.view.health.failures)

    def contradicted(self, reason: str) -> None:
        """An answer of its was contraindicated: it serves nobody for a while, and must attest anew."""
        self.view.health = quarantine(self.view.health, self._mono())
        log.warning("node.quarantined", node=self.node.id, reason=reason)


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
    ) -> None:
        self.journal = Journal()
        self._mono = mono
        self._attester = attester
        self._lifetime = lifetime_s
        self._archive = archive
        self.members: dict[str, Member] = {}
        for node in nodes:
            origin = parse_origin(node.base_url, allow_http=allow_http, allow_private=allow_private)
            self.members[node.id] = Member(node, adapters[node.network], origin, mono)
        self._views = [m.view for m in self.members.values()]
        self._policies: list[CompiledPolicy] = []
        self._models = frozenset(model for view in self._views for model in view.models)

    def use_policies(self, policies: Iterable[CompiledPolicy]) -> None:
        """Policies whose decisions about a session are worked out when it begins, not when it is asked for."""
        self._policies = list(policies)
        for view in self._views:
            self._decide(view)

    def known(self, head: Head) -> None:
        """Raises `ModelUnknown` or `EndpointUnknown` when no node, whatever its state, could serve `head`."""
        if head.model not in self._models:
            raise ModelUnknown("No node offers this model; GET /v1/models lists those that are.", param="model")
        if not any(head.model in v.models and head.endpoint in v.endpoints for v in self._views):
            raise EndpointUnknown(f"No node offers {head.model!r} at {head.endpoint}.", param="model")

    async def choose(self, head: Head, policy: CompiledPolicy, sessions: tuple[str, ...] | None, pick: float) -> Choice:
        """Route one request; waits only when every node that could serve it lacks a session."""
        choice = self._route(head, policy, sessions, pick)
        if choice.order:
            return choice
        lacking = [self.members[r.node] for r in choice.dropped if r.reason in _WAITING]
        lacking = [m for m in lacking if m.next_try <= self._mono() or m.flight is not None]
        if not lacking:
            return choice
        await asyncio.wait([self._fly(m) for m in lacking], timeout=ON_DEMAND_S)
        return self._route(head, policy, sessions, pick)

    def _route(self, head: Head, policy: CompiledPolicy, sessions: tuple[str, ...] | None, pick: float) -> Choice:
        routing = candidates(
            self._views,
            head.model,
            head.endpoint,
            policy,
            self._mono(),
            pick,
            stream=head.stream,
            session_ids=None if sessions is None else frozenset(sessions),
        )
        order = tuple([self.members[view.id] for view in routing.order])
        dropped = tuple([Rejected(view.id, reason) for view, reason in routing.dropped if reason != "model"])
        return Choice(order, dropped, len(order) + len(dropped))

    # -- sessions -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Attest everybody now, then each again before its lease ends. Ends by cancellation."""
        try:
            while True:
                now = self._mono()
                for member in self.members.values():
                    if member.flight is None and member.next_try <= now:
                        self._fly(member)
                await asyncio.sleep(0.5)
        finally:
            flights = [m.flight for m in self.members.values() if m.flight is not None]
            for flight in flights:
                flight.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*flights, return_exceptions=True)

    async def attest_all(self, within_s: float) -> None:
        """Attest everybody once, for a start that is ready when it says so; late nodes go on in the background."""
        if self.members:
            await asyncio.wait([self._fly(m) for m in self.members.values()], timeout=within_s)

    def _fly(self, member: Member) -> asyncio.Task[None]:
        if member.flight is None:
            member.flight = asyncio.ensure_future(self._attest(member))
        return member.flight

    async def _attest(self, member: Member) -> None:
        try:
            attestation = await self._attester.attest(member.node, member.adapter)
            self._take(member, attestation)
        finally:
            member.flight = None

    def _take(self, member: Member, attestation: Attestation) -> None:
        now = self._mono()
        view, session = member.view, attestation.session
        member.last = attestation
        first = next((c for c in attestation.result.checks if c.outcome is not Outcome.AFFIRMING), None)
        if session is None:
            # Keep what is still in date: a failed renewal is not a verdict on the session that stands.
            member.tries += 1
            member.next_try = now + min(RETRY_S * 2.0 ** min(member.tries - 1, 10), RETRY_MAX_S)
            view.absent = first.id if first is not None and first.outcome is Outcome.CONTRAINDICATED else None
            log.warning("node.unattested", node=member.node.id, reason=first.reason if first else None)
            return
        before = view.session
        member.tries = 0
        lease = session.expires - session.established
        member.next_try = now + min(lease, self._lifetime) / 2
        view.session, view.appraised_at, view.lease_until, view.absent = session, now, now + lease, None
        self._decide(view)
        self._archive(member.node, attestation)
        if before is None or before.keyset_digest != session.keyset_digest or before.outcome != session.outcome:
            log.info("node.attested", node=member.node.id, outcome=session.outcome.value, keyset=session.keyset_digest)

    def _decide(self, view: NodeView) -> None:
        view.decisions = {}
        if view.session is not None:
            view.decisions = {p.digest: decide(view.session, p, Phase.NODE) for p in self._policies}


__all__ = ["Choice", "Fleet", "Member"]
