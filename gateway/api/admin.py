"""The admin API: what the terminal UI and operators ask. Scope `admin`; it shows, and decides nothing."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from litestar import Request, Response, get
from litestar.handlers import BaseRouteHandler
from litestar.response import Stream

from gateway import __version__
from gateway.errors import BadRequest
from gateway.fleet.member import Member
from gateway.model.admin import Info, Nodes, NodeView, Page, SessionView
from gateway.routing import drop_reason

from .reads import BUNDLE, bundle_bytes, number, only, principal_of
from .services import Services

LARGEST_PAGE = 1000
VERDICTS = ("affirming", "warning", "contraindicated", "none")


@get("/admin/v1/info")
async def info(request: Request[Any, Any, Any], services: Services) -> Info:
    """The gateway in one glance."""
    principal_of(request, services, "admin")
    return Info(
        version=__version__,
        origin=services.settings.log.origin,
        size=services.sequencer.size,
        healthy=services.sequencer.healthy,
        policy_default=services.terms.default,
        nodes=len(services.fleet.members),
        counts=await asyncio.to_thread(services.reader.counts),
        time_ms=time.time_ns() // 1_000_000,
    )


@get("/admin/v1/receipts")
async def receipts(request: Request[Any, Any, Any], services: Services) -> Page:
    """Everybody's receipts, newest first."""
    principal_of(request, services, "admin")
    query = only(request, "before", "after", "limit", "verdict", "node")
    limit = number(query, "limit", 100, 1, LARGEST_PAGE)
    verdict = query.get("verdict")
    if verdict is not None and verdict not in VERDICTS:
        raise BadRequest(f"verdict must be one of {', '.join(VERDICTS)}", param="verdict")
    before = number(query, "before", 0, 0, 2**52) if "before" in query else None
    node, reader = query.get("node"), services.reader
    if "after" not in query:
        rows, following = await asyncio.to_thread(reader.page, before=before, limit=limit, verdict=verdict, node=node)
        return Page(tuple(rows), following)
    after = number(query, "after", 0, 0, 2**52)
    rows = await asyncio.to_thread(reader.rows, before=before, after=after, limit=limit, verdict=verdict, node=node)
    return Page(tuple(rows), rows[-1].index if len(rows) == limit else None)


@get("/admin/v1/receipts/{receipt_id:str}")
async def receipt(request: Request[Any, Any, Any], services: Services, receipt_id: str) -> Response[bytes]:
    """One receipt as an offline bundle, whosever it is."""
    principal_of(request, services, "admin")
    return Response(await bundle_bytes(services, receipt_id, None), media_type=BUNDLE)


@get("/admin/v1/nodes")
async def nodes(request: Request[Any, Any, Any], services: Services) -> Nodes:
    """Every node: its session, its health, and whether the default policy would let it serve."""
    principal_of(request, services, "admin")
    return Nodes(tuple(_node(services, m) for m in services.fleet.members.values()))


@get("/admin/v1/live")
async def live(request: Request[Any, Any, Any], services: Services) -> Stream:
    """Rows as they become durable, as an event stream. Lossy: refill gaps from /admin/v1/receipts."""
    key_id = principal_of(request, services, "admin").key_id
    return Stream(services.live.listen(key_id), media_type="text/event-stream", headers={"cache-control": "no-store"})


def _node(services: Services, member: Member) -> NodeView:
    view, now = member.view, services.fleet.mono()
    session = member.session
    policy = services.terms.policies[services.terms.default]
    quarantined = view.health.quarantined_until - now
    # Routing's own answer, for any model and endpoint that the node has.
    reason = drop_reason(view, next(iter(view.models), ""), next(iter(view.endpoints), ""), policy, now)
    return NodeView(
        id=view.id,
        network=view.network,
        operator=view.operator,
        models=tuple(sorted(view.models)),
        endpoints=tuple(sorted(view.endpoints)),
        state=_state(member, reason),
        reason=reason,
        cause=None if reason is None else member.cause(reason, policy),
        session=SessionView(
            id=session.id,
            established=session.established,
            expires=session.expires,
            outcome=session.outcome.value,
            checks=session.checks,
            claims=session.claims,
        )
        if session is not None
        else None,
        ewma_ms=view.health.ewma_ms,
        in_flight=view.in_flight,
        quarantined_s=quarantined if quarantined > 0 else None,
        circuit="open" if view.health.circuit_until > now else None,
        canaries=services.canaries(view.id),
    )


def _state(member: Member, reason: str | None) -> str:
    """`reason`, for which routing passes the node over, in one of five words."""
    if reason is None:
        return "ok"
    if reason in ("quarantined", "circuit_open"):
        return reason
    return "unattested" if member.current is None else "refused"


HANDLERS: list[BaseRouteHandler] = [info, receipts, receipt, nodes, live]
