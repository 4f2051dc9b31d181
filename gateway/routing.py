"""Which nodes may serve a request, in which order, and for each other node the one reason why not.

Pure: what is known of the nodes, the time and the random number come in. A node is kept only when its attested
session is in date and permitted by the policy in force, so that no prompt leaves for a node that was not shown to be
what policy asks for. Model ids are compared byte for byte: no case folding, no near match, no pattern.

Order is power of two choices over peak-EWMA: of two nodes taken at random the better one goes first, where better is
the lower latency times requests in flight. This spreads load without all callers running to the one fastest node. What
is known of a node that is asked nothing fades, so that one that was slow, or failed, or is new gets its turn again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from gateway.model.node import AttestedSession, Node
from gateway.model.verdict import Outcome
from gateway.policy.decide import Decision
from gateway.policy.prospect import prospect
from gateway.policy.schema import CompiledPolicy
from gateway.verify.checks import CHECKS

#: The reasons that are not check ids or claim names. docs/policy.md explains each.
REASONS = (
    "model", "endpoint", "network_denied", "node_denied", "operator_denied", "session_missing", "session_expired",
    "session_not_listed", "quarantined", "circuit_open", "release_mode",
)  # fmt: skip

FAILURES_TO_OPEN = 5
CIRCUIT_S, CIRCUIT_MAX_S = 10.0, 300.0
#: How long a probe of a half-open circuit may take before another one is let through.
PROBE_S = 60.0
QUARANTINE_S, QUARANTINE_MAX_S = 300.0, 3_600.0
#: The latency that a node without a measured one is taken to have.
UNMEASURED_MS = 200.0
#: What is known of an idle node counts half after this long, a third after twice as long: one that is r times as slow
#: as another is tried anew after about r times as long.
FADE_S = 10.0
#: Weight of a new latency that is lower than the average; a higher one is taken over at once (the peak).
DECAY = 0.2


class Health(msgspec.Struct, frozen=True):
    """How a node has done lately. Times are monotonic seconds; `ewma_ms` is of times to the first byte.

    `circuit_until` and `probe_until` are set while the circuit is open or half open; `opened` and `quarantines` count
    how often in a row, and double the next wait. `heard_at` is when the node last answered, failed or was given up.
    """

    ewma_ms: float | None = None
    heard_at: float = 0.0
    failures: int = 0
    opened: int = 0
    circuit_until: float = 0.0
    probe_until: float = 0.0
    quarantines: int = 0
    quarantined_until: float = 0.0


class NodeView(msgspec.Struct):
    """What routing knows of one node. The fleet changes it; routing only reads.

    `models` and `endpoints` are what the node may be used for. `owner` is the account that a registry names: enough to
    leave a node out by, not to count operators by. `session` is its attested session and `lease_until` the monotonic
    time at which that ends; `appraised_at` the monotonic time of its appraisal. `absent` says why there is no session
    (a check id, or `session_missing`). `decisions` holds decisions about the session by policy digest: a cache that the
    fleet empties with every new session.
    """

    id: str
    network: str
    models: frozenset[str]
    endpoints: frozenset[str]
    operator: str | None = None
    owner: str | None = None
    session: AttestedSession | None = None
    appraised_at: float = -math.inf
    lease_until: float = -math.inf
    absent: str | None = None
    health: Health = Health()
    in_flight: int = 0
    decisions: dict[str, Decision] = msgspec.field(default_factory=dict)


def view_of(node: Node) -> NodeView:
    """What is known of a node before anything happened to it."""
    return NodeView(
        id=node.id,
        network=node.network,
        models=frozenset(node.models),
        endpoints=frozenset(node.endpoints),
        operator=node.operator,
        owner=node.owner,
    )


class Routing(msgspec.Struct, frozen=True):
    """The nodes to try, best first, and every other node with its reason.

    `error` is the code of the error when `order` is empty: `model_unknown` (no node has the model), `endpoint_unknown`
    (none has it at this endpoint) or `no_eligible_node`; None otherwise.
    """

    order: tuple[NodeView, ...]
    dropped: tuple[tuple[NodeView, str], ...]
    error: str | None = None


def candidates(
    views: Sequence[NodeView],
    model: str,
    endpoint: str,
    policy: CompiledPolicy,
    now_mono: float,
    pick_random: float,
    *,
    stream: bool = False,
    session_ids: frozenset[str] | None = None,
) -> Routing:
    """Route one request. `pick_random` is in [0, 1); `session_ids` are ACI's, None when the caller named none."""
    kept = []
    dropped = []
    for view in views:
        reason = drop_reason(view, model, endpoint, policy, now_mono, stream=stream, session_ids=session_ids)
        if reason is None:
            kept.append(view)
        else:
            dropped.append((view, reason))
    if not kept:
        return Routing((), tuple(dropped), _error([reason for _, reason in dropped]))
    return Routing(_ordered(kept, pick_random, now_mono), tuple(dropped))


def drop_reason(
    view: NodeView,
    model: str,
    endpoint: str,
    policy: CompiledPolicy,
    now_mono: float,
    *,
    stream: bool = False,
    session_ids: frozenset[str] | None = None,
    let_in: bool = False,
) -> str | None:
    """Why `view` cannot serve the request, None when it can. The first reason in this order:

    what it offers, what policy forbids, what its evidence shows, then how it has behaved. `let_in`: the request has
    been let through the node's circuit, so that its own probe does not stand in its way.
    """
    if model not in view.models:
        return "model"
    if endpoint not in view.endpoints:
        return "endpoint"
    return (
        denied(view, policy)
        or _evidence_reason(view, policy, now_mono, session_ids)
        or _health_reason(view.health, now_mono, let_in)
        or (_form_reason(view, policy, stream) if stream or policy.plan.nonce else None)
    )


def denied(view: NodeView, policy: CompiledPolicy) -> str | None:
    """Why policy has nothing to do with `view`, whatever it shows; None when it may be used."""
    networks = policy.networks
    if view.network in networks.deny or (networks.allow is not None and view.network not in networks.allow):
        return "network_denied"
    if view.id in policy.nodes.deny:
        return "node_denied"
    if not policy.operators.deny.isdisjoint((view.operator, view.owner)):
        return "operator_denied"
    return None


def stream_mode(policy: CompiledPolicy, capabilities: frozenset[str]) -> str | None:
    """The release mode for a stream from a node with `capabilities`: the policy's first that it can do, else None."""
    for mode in policy.release.stream:
        if mode != "chained" or "chained" in capabilities:
            return mode
    return None


def signs_nonce(capabilities: frozenset[str]) -> bool:
    """Whether a node with `capabilities` says that what it signs holds our nonce. A network without a place for one
    (OpenGradient) has sessions without capabilities."""
    return "request-nonce" in capabilities


def _evidence_reason(
    view: NodeView, policy: CompiledPolicy, now_mono: float, session_ids: frozenset[str] | None
) -> str | None:
    session = view.session
    if session is None:
        if view.health.quarantined_until > now_mono:
            return "quarantined"
        return view.absent or "session_missing"
    if now_mono >= view.lease_until:
        return "session_expired"
    decision = view.decisions.get(policy.digest)
    if decision is None:
        decision = prospect(session, policy)
    if not decision.permit:
        return decision.reason or "session_missing"
    if now_mono - view.appraised_at > policy.freshness.evidence_max_age_s:
        return "fresh"
    if session_ids is not None and session.id not in session_ids:
        return "session_not_listed"
    return None


def _health_reason(health: Health, now_mono: float, let_in: bool) -> str | None:
    if health.quarantined_until > now_mono:
        return "quarantined"
    if health.circuit_until > now_mono or (health.probe_until > now_mono and not let_in):
        return "circuit_open"
    return None


def out_for(health: Health, now_mono: float) -> float:
    """For how many seconds yet a node with this health is used for nothing; 0 when it may be."""
    return max(health.quarantined_until - now_mono, health.circuit_until - now_mono, 0.0)


def _form_reason(view: NodeView, policy: CompiledPolicy, stream: bool) -> str | None:
    # Known before the prompt leaves, so it costs nobody a prompt to find out.
    capabilities = view.session.capabilities if view.session else frozenset()
    if stream and stream_mode(policy, capabilities) is None:
        return "release_mode"
    return "replay" if policy.plan.nonce and not signs_nonce(capabilities) else None


def _error(reasons: list[str]) -> str:
    if all(reason == "model" for reason in reasons):
        return "model_unknown"
    if all(reason in ("model", "endpoint") for reason in reasons):
        return "endpoint_unknown"
    return "no_eligible_node"


def _load(view: NodeView, now_mono: float) -> float:
    health = view.health
    latency = UNMEASURED_MS if health.ewma_ms is None else health.ewma_ms
    load = latency * (view.in_flight + 1) * (health.failures + 1)
    return load if view.in_flight else load / (1.0 + (now_mono - health.heard_at) / FADE_S)


def _ordered(kept: list[NodeView], pick_random: float, now_mono: float) -> tuple[NodeView, ...]:
    """The better of two picked by `pick_random` first, then the others by load. Ties keep the order of `kept`."""
    count = len(kept)
    if count == 1:
        return (kept[0],)
    ranked = sorted(kept, key=lambda view: _load(view, now_mono))
    pair = min(int(pick_random * count * (count - 1)), count * (count - 1) - 1)
    first, second = divmod(pair, count - 1)
    second += second >= first
    best = ranked[min(first, second)]
    return (best, *[view for view in ranked if view is not best])


def on_attempt(health: Health, now_mono: float) -> Health:
    """A request is about to go to the node: when its circuit is half open, this is the one probe."""
    if health.opened and health.failures >= FAILURES_TO_OPEN:
        return msgspec.structs.replace(health, probe_until=now_mono + PROBE_S)
    return health


def on_end(health: Health, probe_until: float) -> Health:
    """The probe is over that had set `probe_until`. One that showed nothing leaves its place to the next: it never got
    to the node, its caller left, or the node found fault with the request.
    """
    return msgspec.structs.replace(health, probe_until=0.0) if health.probe_until == probe_until else health


def on_success(health: Health, first_byte_ms: float, now_mono: float) -> Health:
    """The node answered after `first_byte_ms`: the circuit closes. A quarantine is not lifted by it."""
    ewma = health.ewma_ms
    if ewma is None or first_byte_ms >= ewma:
        ewma = first_byte_ms
    else:
        ewma += (first_byte_ms - ewma) * DECAY
    return msgspec.structs.replace(
        health, ewma_ms=ewma, heard_at=now_mono, failures=0, opened=0, circuit_until=0.0, probe_until=0.0
    )


def on_wait(health: Health, waited_ms: float, now_mono: float) -> Health:
    """The node was waited for so long and not to the end: it is at least that slow, so others go before it."""
    known = UNMEASURED_MS if health.ewma_ms is None else health.ewma_ms
    ewma = health.ewma_ms if waited_ms <= known else waited_ms
    return msgspec.structs.replace(health, ewma_ms=ewma, heard_at=now_mono)


def on_failure(health: Health, now_mono: float) -> Health:
    """The node could not be reached or broke off. The fifth in a row opens the circuit: 10 s, doubling to 5 min.

    What fails while it is open was asked before: a crowd that one outage ends says no more than its fifth did.
    """
    failures = health.failures + 1
    if failures < FAILURES_TO_OPEN or health.circuit_until > now_mono:
        return msgspec.structs.replace(health, heard_at=now_mono, failures=failures)
    wait = min(CIRCUIT_S * 2.0 ** min(health.opened, 10), CIRCUIT_MAX_S)
    return msgspec.structs.replace(
        health,
        heard_at=now_mono,
        failures=failures,
        opened=health.opened + 1,
        circuit_until=now_mono + wait,
        probe_until=0.0,
    )


def node_at_fault(decision: Decision) -> bool:
    """Whether what failed speaks against the node, so that `quarantine` is due.

    Checks on what the model wrote (an undeclared tool, arguments that don't parse) can fail for an honest node, and a
    caller can provoke them: were they to count, one caller could take every node from all the others. Neither does a
    failure whose reason says that it is nobody's in particular (a quorum that nobody reached, a call in the answer of a
    node that signs nothing and never said that it would), or that honest answers have it now and then (a margin that
    one in a hundred exceeds).
    """
    if decision.verdict is not Outcome.CONTRAINDICATED:
        return False
    named = (name for name in decision.failing if name not in decision.blameless)
    return any(not (entry := CHECKS.get(name)) or not entry.model_output for name in named)


def quarantine(health: Health, now_mono: float) -> Health:
    """A check of the node was contraindicated: 5 min, doubling to 1 h; forgotten after an hour without another one."""
    again = health.quarantines and now_mono - health.quarantined_until <= QUARANTINE_MAX_S
    count = health.quarantines if again else 0
    wait = min(QUARANTINE_S * 2.0 ** min(count, 10), QUARANTINE_MAX_S)
    return msgspec.structs.replace(health, quarantines=count + 1, quarantined_until=now_mono + wait)
