"""The httpx API for control traffic (attestation, registries), over the same pool as prompts.

    async with control_client(pool, allow_private=True) as client:
        response = await client.get("https://node.example/v1/aci/attestation", params={"nonce": nonce})
        key = response.extensions["peer_spki"]          # SHA-256 of the TLS key that answered; None without TLS

The hosts are as hostile as nodes, so httpx's own pool and parser never meet them: caps, deadlines, address rules and
strictness are the connection's. No proxies, `.netrc` or certificates from the environment, no redirects, no cookies; a
body larger than `max_body` is an error. Errors are httpx's kinds with ours as `__cause__`.
"""

from __future__ import annotations

import types
from collections.abc import AsyncIterator, Callable

import httpx

from gateway.errors import ConfigError

from .connection import DANGEROUS_ANY_KEY, Connection
from .errors import ChannelError, ChannelTimeout, ConnectTimeout, NotReached
from .limits import Deadlines, MiB
from .origin import Origin, parse_origin
from .pool import UpstreamPool

CONTROL_DEADLINES = Deadlines(first_byte_s=10.0, idle_s=5.0, total_s=20.0)
CONTROL_MAX_BODY = 4 * MiB

#: Which pins hold for an origin; None: the web's rules.
PinsOf = Callable[[Origin], frozenset[bytes] | None]

_NOT_SENT = frozenset({b"host", b"accept-encoding", b"connection", b"content-length", b"transfer-encoding", b"cookie"})
# httpx parses a Location even where it follows none, and raises what its URL parsers raise.
_NOT_SHOWN = frozenset({b"set-cookie", b"set-cookie2", b"location"})


class PoolTransport(httpx.AsyncBaseTransport):
    """Sends what httpx builds through `pool`. The pool stays its maker's to close."""

    def __init__(
        self,
        pool: UpstreamPool,
        *,
        allow_http: bool = False,
        allow_private: bool = False,
        pins: PinsOf | None = None,
        max_body: int = CONTROL_MAX_BODY,
        deadlines: Deadlines = CONTROL_DEADLINES,
        connect_s: float = 5.0,
    ) -> None:
        self._pool, self._pins, self._max_body = pool, pins, max_body
        self._deadlines, self._connect_s = deadlines, connect_s
        self._allow_http, self._allow_private = allow_http, allow_private

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        headers = [(name, value) for name, value in request.headers.raw if name.lower() not in _NOT_SENT]
        connection: Connection | None = None
        try:
            origin = self._origin(request.url)
            pins = self._pins(origin) if self._pins is not None else None
            connection = await self._pool.acquire(origin, pins, self._connect_s)
            head = await connection.request(
                request.method.encode("ascii"),
                request.url.raw_path,
                headers,
                body,
                self._deadlines,
                max_body=self._max_body,
            )
            shown = [field for field in head.headers if field[0] not in _NOT_SHOWN]
            stream = _Body(self._pool, connection, request)
            extensions = {"peer_spki": connection.spki, "delimited_by_close": head.delimited_by_close}
            response = httpx.Response(head.status, headers=shown, stream=stream, extensions=extensions)
            connection = None  # the stream's to give back
            return response
        except ChannelError as error:
            raise _translated(error, request) from error
        except ValueError as error:
            raise httpx.LocalProtocolError(str(error), request=request) from error
        finally:
            if connection is not None:
                self._pool.release(connection)

    def _origin(self, url: httpx.URL) -> Origin:
        try:
            return parse_origin(
                f"{url.scheme}://{url.netloc.decode('ascii')}",
                allow_http=self._allow_http,
                allow_private=self._allow_private,
            )
        except ConfigError as error:
            raise NotReached("address_refused", error.message) from None


class _Body(httpx.AsyncByteStream):
    def __init__(self, pool: UpstreamPool, connection: Connection, request: httpx.Request) -> None:
        self._pool, self._connection, self._request = pool, connection, request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while data := await self._connection.read_some():
                yield data
        except ChannelError as error:
            raise _translated(error, self._request) from error

    async def aclose(self) -> None:
        self._pool.release(self._connection)


def control_client(
    pool: UpstreamPool,
    *,
    allow_http: bool = False,
    allow_private: bool = False,
    pins: PinsOf | None = None,
    max_body: int = CONTROL_MAX_BODY,
    deadlines: Deadlines = CONTROL_DEADLINES,
    connect_s: float = 5.0,
) -> httpx.AsyncClient:
    """An httpx client for control traffic. `pins` says which TLS keys hold for an origin (default: the web's rules)."""
    transport = PoolTransport(
        pool,
        allow_http=allow_http,
        allow_private=allow_private,
        pins=pins,
        max_body=max_body,
        deadlines=deadlines,
        connect_s=connect_s,
    )
    return httpx.AsyncClient(transport=transport, trust_env=False, follow_redirects=False, timeout=None)  # noqa: S113


def dangerous_any_key(_origin: Origin) -> frozenset[bytes]:
    """Pins that accept any TLS key, for fetching evidence that proves itself and names the key. Never for a prompt."""
    return DANGEROUS_ANY_KEY


def reason_of(error: httpx.HTTPError) -> str:
    """Our reason code (`errors.REASONS`) behind an error of the client; `closed` when httpx raised it by itself."""
    cause = error.__cause__
    return cause.reason or "closed" if isinstance(cause, ChannelError) else "closed"


_KINDS: types.MappingProxyType[type[ChannelError], type[httpx.TransportError]] = types.MappingProxyType(
    {ConnectTimeout: httpx.ConnectTimeout, ChannelTimeout: httpx.ReadTimeout, NotReached: httpx.ConnectError}
)


def _translated(error: ChannelError, request: httpx.Request) -> httpx.TransportError:
    for ours, theirs in _KINDS.items():
        if isinstance(error, ours):
            return theirs(error.message, request=request)
    return httpx.RemoteProtocolError(error.message, request=request)
