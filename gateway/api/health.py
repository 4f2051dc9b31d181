"""What a load balancer and a monitoring system ask: /healthz, /readyz, /metrics; and what a client asks: /v1/models."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from typing import Any

from litestar import Request, Response, get
from litestar.handlers import BaseRouteHandler

from gateway.errors import ModelUnknown
from gateway.fleet.member import Member
from gateway.model.verdict import Outcome
from gateway.policy import CompiledPolicy, prospect
from gateway.routing import denied

from .reads import principal_of
from .services import Services


@get("/healthz")
async def healthz() -> Response[dict[str, str]]:
    """The process answers."""
    return Response({"status": "ok"})


@get("/readyz")
async def readyz(services: Services) -> Response[dict[str, Any]]:
    """Exchanges can be served: the log is writable and a node is permitted under the default policy."""
    policy = services.terms.policies[services.terms.default]
    ready = [m.node.id for m in services.fleet.members.values() if _permitted(m, policy)]
    problems = []
    if not services.sequencer.healthy:
        problems.append("the log writer has stopped; start again, which checks the log")
    elif services.sequencer.failing:
        problems.append(f"the log cannot be written: {services.sequencer.failing}")
    if not ready:
        problems.append(f"no node is permitted under policy {policy.name}")
    if services.inference.closing:
        problems.append("the gateway is stopping")
    body = {"status": "ready" if not problems else "not ready", "nodes": len(ready), "problems": problems}
    body |= _marked(services)
    return Response(body, status_code=200 if not problems else 503)


@get("/metrics")
async def metrics(request: Request[Any, Any, Any], services: Services) -> Response[str]:
    """Prometheus text. Labels come from closed sets, never from requests."""
    principal_of(request, services, "admin")
    lines: list[str] = []

    def put(name: str, kind: str, text: str, values: list[tuple[str, float]]) -> None:
        lines.extend((f"# HELP {name} {text}", f"# TYPE {name} {kind}"))
        lines.extend(f"{name}{labels} {sample(value)}" for labels, value in values)

    inference, sequencer = services.inference, services.sequencer
    put("veriroute_accepted_total", "counter", "Requests accepted.", [("", inference.accepted)])
    refused = [(f'{{code="{code}"}}', float(n)) for code, n in sorted(services.refusals.counts.items())]
    put("veriroute_refused_total", "counter", "Requests refused before acceptance, by code.", refused)
    ended = [
        (f'{{verdict="{verdict}",release="{release}"}}', float(n))
        for (verdict, release), n in sorted(services.relay.counts.items())
    ]
    put("veriroute_exchanges_total", "counter", "Exchanges that ended, by verdict and release.", ended)
    put("veriroute_in_flight", "gauge", "Exchanges under way.", [("", inference.in_flight)])
    put("veriroute_log_size", "gauge", "Entries in the log.", [("", sequencer.size)])
    put("veriroute_log_queue", "gauge", "Entries waiting for the log.", [("", sequencer.lag)])
    put("veriroute_log_batches_total", "counter", "Commits of the log.", [("", sequencer.batches)])
    backlog = services.backlog
    put("veriroute_log_backlog", "gauge", "Documents kept until the log can be written.", [("", len(backlog))])
    put("veriroute_log_unrecorded_total", "counter", "Documents that found no room there.", [("", backlog.unrecorded)])
    put("veriroute_log_healthy", "gauge", "Whether the log writer runs.", [("", float(sequencer.healthy))])
    states = {"attested": 0, "unattested": 0}
    for member in services.fleet.members.values():
        # A node without evidence has a session, and has attested nothing.
        session = member.current
        shown = session is not None and bool(session.keyset_digest)
        states["attested" if shown else "unattested"] += 1
    put("veriroute_nodes", "gauge", "Nodes, by state.", [(f'{{state="{s}"}}', float(n)) for s, n in states.items()])
    put(
        "veriroute_surplus_total",
        "counter",
        "Connections with bytes after an answer.",
        [("", services.pool.surplus_count)],
    )
    put("veriroute_resident_bytes", "gauge", "Resident memory.", [("", _resident())])
    used = resource.getrusage(resource.RUSAGE_SELF)
    put("veriroute_cpu_seconds_total", "counter", "Processor time.", [("", used.ru_utime + used.ru_stime)])
    return Response("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


def sample(value: float) -> str:
    """A value as Prometheus reads it, exact: a counter that is rounded to six digits stands still and then jumps."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


@get("/v1/models")
async def models(request: Request[Any, Any, Any], services: Services) -> dict[str, Any]:
    """One entry a model, with what evidence its nodes can give."""
    policy = _policy(request, services)
    return {"object": "list", "data": _models(services.fleet.members.values(), policy), **_marked(services)}


@get("/v1/models/{model:path}")
async def model(request: Request[Any, Any, Any], services: Services, model: str) -> dict[str, Any]:
    """The entry of one model, whose name may have slashes. Raises `ModelUnknown`."""
    policy, name = _policy(request, services), model.removeprefix("/")
    members = [member for member in services.fleet.members.values() if name in member.view.models]
    if not members:
        raise ModelUnknown("No node offers this model; GET /v1/models lists those that nodes offer.", param="model")
    return {**_model(name, _offer(members, policy)), **_marked(services)}


def _policy(request: Request[Any, Any, Any], services: Services) -> CompiledPolicy | None:
    """The policy of the caller's key, None where that is gone."""
    caller = principal_of(request, services, "inference")
    return services.terms.policies.get(caller.policy or services.terms.default)


def _marked(services: Services) -> dict[str, str]:
    """What says everywhere that evidence may be forged here: a root of the settings is believed."""
    return {"root": "TEST"} if services.settings.tee.dangerous_test_roots else {}


def _models(members: Iterable[Member], policy: CompiledPolicy | None) -> list[dict[str, Any]]:
    """The entries of all models. Those that the same nodes offer have the same to say, and it is worked out once: for a
    thousand models of three hundred nodes that is the difference between milliseconds and seconds, in which nobody else
    is served."""
    found: dict[str, list[Member]] = {}
    for member in members:
        for model in member.view.models:
            found.setdefault(model, []).append(member)
    offers: dict[tuple[Member, ...], dict[str, Any]] = {}
    data = []
    for name, offering in sorted(found.items()):
        together = tuple(offering)
        if together not in offers:
            offers[together] = _offer(offering, policy)
        data.append(_model(name, offers[together]))
    return data


def _model(name: str, offer: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, **offer}


def _offer(members: list[Member], policy: CompiledPolicy | None) -> dict[str, Any]:
    """What `members` make of each model that all of them offer and no other does."""
    sessions = [m.session for m in members if m.session is not None]
    claims: dict[str, set[str]] = {}
    for session in sessions:
        for claim in session.claims:
            claims.setdefault(claim.name, set()).add(claim.status)
    return {
        "owned_by": members[0].node.operator or members[0].node.network,
        "veriroute": {
            "nodes": len(members),
            "permitted": sum(_permitted(m, policy) for m in members) if policy is not None else 0,
            "networks": sorted({m.node.network for m in members}),
            "endpoints": sorted({e for m in members for e in m.view.endpoints}),
            "evidence": sorted({_evidence(m) for m in members}),
            "claims": {claim: sorted(statuses) for claim, statuses in sorted(claims.items())},
            "extensions": sorted({x for s in sessions for x in s.capabilities}),
        },
    }


def _evidence(member: Member) -> str:
    """What the node's last evidence was, in a word; `none` when it gave none."""
    if member.last is None or member.session is None:
        return "none"
    found = next((c for c in member.session.checks if c.id == "evidence" and c.outcome is Outcome.AFFIRMING), None)
    return found.found or "none" if found is not None else "none"


def _permitted(member: Member, policy: CompiledPolicy) -> bool:
    session = member.current
    if session is None or denied(member.view, policy) is not None:
        return False
    return (member.view.decisions.get(policy.digest) or prospect(session, policy)).permit


def _resident() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


HANDLERS: list[BaseRouteHandler] = [healthz, readyz, metrics, models, model]
