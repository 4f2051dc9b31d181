"""The Litestar application: routes, and one shape for every error.

The six inference paths are raw ASGI that owns the wire (`api.openai`) and is reached by one set look-up: even a raw
Litestar route costs a tenth of the whole exchange here. Everything else is an ordinary handler. Litestar's own 404 and
405 pass the same door as ours, so that no path answers in another shape.
"""

from __future__ import annotations

from typing import Any

import structlog
from litestar import Litestar, Request, Response
from litestar.datastructures import ResponseHeader
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.handlers import asgi
from litestar.types import Receive, Scope, Send

from gateway.errors import BadRequest, InternalError, MethodNotAllowed, NotFound, VerirouteError
from gateway.model.node import ENDPOINTS

from . import admin, health, reads
from .errors import render
from .services import Services

log = structlog.get_logger("veriroute.api")


class Front:
    """POSTs to an inference path go straight to it; Litestar has the rest, a wrong method on those paths among it.

    HEAD is GET to whoever answers (RFC 9110 section 9.3.2): the server below keeps the body to itself.
    """

    def __init__(self, services: Services) -> None:
        self._inference = services.inference
        self._rest = application(services)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] in _ENDPOINTS and scope["method"] == "POST":
            await self._inference(scope, receive, send)
        else:
            if scope["method"] == "HEAD" and scope["path"].rstrip("/") != _LIVE:
                scope = {**scope, "method": "GET"}
            await self._rest(scope, receive, send)


_ENDPOINTS = frozenset(ENDPOINTS)
#: The one path whose answer does not end.
_LIVE = "/admin/v1/live"


def application(services: Services) -> Litestar:
    """Everything but inference, over `services`."""

    @asgi(path=list(ENDPOINTS), copy_scope=False)
    async def infer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":  # not to the path itself: there is a slash behind it, which Litestar takes off
            raise NotFound(f"There is nothing at this path; {scope['path']} is one.")
        raise MethodNotAllowed(f"{scope['path']} takes POST.", allow="POST")

    async def provide() -> Services:
        return services

    def ours(request: Request[Any, Any, Any], error: VerirouteError) -> Response[bytes]:
        services.refusals.note(error, services.keys.key_id(request.scope["headers"]))
        return _answer(error)

    def litestars(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
        refusal = _refusal(request.scope["path"], error)
        return ours(request, refusal) if refusal is not None else _unexpected(request, error)

    return Litestar(
        route_handlers=[infer, *reads.HANDLERS, *admin.HANDLERS, *health.HANDLERS],
        dependencies={"services": Provide(provide)},
        exception_handlers={VerirouteError: ours, HTTPException: litestars, Exception: _unexpected},
        # One path answers each key differently, and `x-api-key` tells no cache so, as `authorization` does (RFC 9111
        # section 3.5): a proxy's cache would hand one key's receipts to another. What is public says so itself.
        response_headers=[ResponseHeader(name="cache-control", value="no-store")],
        openapi_config=None,
        logging_config=None,
        debug=False,
    )


def _answer(error: VerirouteError) -> Response[bytes]:
    status, headers, body = render(error)
    shown = {k.decode(): v.decode() for k, v in headers if k not in (b"content-type", b"content-length")}
    return Response(body, status_code=status, headers=shown, media_type="application/json")


def _refusal(path: str, error: HTTPException) -> VerirouteError | None:
    """Litestar's refusal in our words; None where it is a failure."""
    if error.status_code == 404:
        return NotFound(f"There is nothing at this path; {_elsewhere(path)}")
    if error.status_code == 405:
        allow = "GET, OPTIONS" if path.rstrip("/") == _LIVE else "GET, HEAD, OPTIONS"
        return MethodNotAllowed("This path does not take that method; docs/api.md lists them.", allow=allow)
    return BadRequest("The request is not valid.") if error.status_code < 500 else None


def _elsewhere(path: str) -> str:
    """What to look at: OpenAI's SDKs want a base_url that ends in /v1, and Anthropic's one that does not."""
    meant = {f"/v1{path}", path.removeprefix("/v1")} & {*ENDPOINTS, "/v1/models"}
    if meant:
        return f"{meant.pop()} is one. The client's base_url has /v1 at its end once too few or once too often."
    return "docs/api.md lists the paths."


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    log.error("api.failed", exc_info=error)
    return _answer(InternalError("The gateway failed; its log says how."))
