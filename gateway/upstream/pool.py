"""Connections to nodes, kept for reuse: last in, first out, per origin and per way of trusting the peer.

    pool = UpstreamPool(Limits())
    connection = await pool.acquire(origin, pins, connect_s)
    try:
        head = await connection.request(b"POST", origin.target("/v1/chat/completions"), headers, body, deadlines)
        ...
    finally:
        pool.release(connection)            # keeps it when its exchange ended cleanly, else closes it at once

`acquire` costs the same however many connections are idle. A connection is handed out only when nothing came on it
while it was idle, that was not for too long (a machine that slept heard of no end), and its TLS key is among the pins
asked for now. The environment (proxies, roots, key log) has no say.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable

from gateway.clock import lease_clock

from .address import Resolver, dial, permitted
from .connection import DANGEROUS_ANY_KEY, Connection, accepts
from .errors import ChannelRefused, ConnectFailed, ConnectTimeout, NotReached, TlsFailed, TooManyConnections
from .limits import Limits
from .origin import Origin
from .resolver import SystemResolver
from .tls import pinned_context, web_context

SurplusHook = Callable[[Origin], None]
_WEB, _PIN = "+web", "+pin"  # a connection trusted in one way is never handed out for the other


class _Site:
    """The connections of one origin under one kind of trust."""

    __slots__ = ("idle", "open")

    def __init__(self) -> None:
        self.idle: deque[Connection] = deque()
        self.open = 0


class UpstreamPool:
    """One per event loop. `on_surplus(origin)` is called once for each connection on which a peer sent surplus bytes.

    `roots` is a PEM file of certificate authorities for peers that are not pinned (default: the system's).
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        roots: str | None = None,
        resolver: Resolver | None = None,
        on_surplus: SurplusHook | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.surplus_count = 0
        self._roots, self._resolve, self._hook = roots, resolver or SystemResolver(), on_surplus
        self._sites: dict[str, _Site] = {}
        self._all: set[Connection] = set()
        self._open = 0
        self._pinned: ssl.SSLContext | None = None
        self._web: ssl.SSLContext | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self._drained: asyncio.Future[None] | None = None

    @property
    def open_count(self) -> int:
        """Connections that are open or being made."""
        return self._open

    def idle_count(self, origin: Origin) -> int:
        """Connections kept for reuse to `origin`."""
        return sum(len(site.idle) for key, site in self._sites.items() if key in (origin.key + _WEB, origin.key + _PIN))

    async def acquire(
        self, origin: Origin, pins: frozenset[bytes] | None, connect_deadline_s: float, *, look: bool = True
    ) -> Connection:
        """A connection on which nothing was sent yet, to `origin`; give it back with `release`, whatever happens.

        `pins` are SHA-256 digests of SubjectPublicKeyInfo: the peer's leaf must be one of them (an empty set refuses
        all), and nothing else about its certificate matters. None: the web's rules, chain and host name, hold instead.
        Without `look` an idle connection's socket is not asked whether anything came: the caller does it (`untouched`)
        before it sends. Raises `NotReached` and its kinds: no byte of a request has left.
        """
        key = origin.key + (_WEB if pins is None else _PIN)
        site = self._sites.get(key)
        if site is not None and site.idle:
            oldest = lease_clock() - self.limits.keepalive_s
            while site.idle:
                connection = site.idle.pop()
                connection.parked = False
                usable = connection.untouched() if look else connection.reusable
                if usable and connection.idle_since > oldest and (pins is None or accepts(pins, connection.spki)):
                    return connection
                connection.abort()
        return await self._connect(key, origin, pins, connect_deadline_s)

    def release(self, connection: Connection) -> None:
        """Take `connection` back: keep it when nothing was on it, or an exchange that ended cleanly; else close it."""
        if connection.parked:
            return
        if connection.reusable and not self._closed:
            idle = self._sites[connection.key].idle
            if len(idle) < self.limits.idle_per_origin:
                connection.recycle(lease_clock())
                idle.append(connection)
                if self._sweeper is None:
                    self._sweep_in(self.limits.keepalive_s)
                return
        connection.abort()

    async def close(self) -> None:
        """Close every connection, whoever holds it. The pool cannot be used again."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._all):
            connection.abort()
        if self._all:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    # ------------------------------------------------------------------------------------------------------- connecting

    async def _connect(self, key: str, origin: Origin, pins: frozenset[bytes] | None, within_s: float) -> Connection:
        if self._closed:
            raise ConnectFailed(detail="the pool is closed")
        if pins is not None and not (pins and origin.tls) and pins is not DANGEROUS_ANY_KEY:
            raise ChannelRefused(detail="no key is pinned" if not pins else "without TLS there is no key to compare")
        context = self._context(pins) if origin.tls else None
        self._reserve(key)
        connection = Connection(key, origin, pins, self.limits, self._lost, self._surplus)
        connection.counted = True
        done = False
        try:
            async with asyncio.timeout(within_s):
                await self._establish(connection, context, within_s)
            done = True
        except TimeoutError:
            raise ConnectTimeout(detail=f"{within_s:g} s") from None
        finally:
            if not done:
                connection.abort()
                self._forget(connection)  # uvloop says of one that was made as it was given up no more that it is lost
        if connection.is_open:
            self._all.add(connection)
        return connection

    async def _establish(self, connection: Connection, context: ssl.SSLContext | None, within_s: float) -> None:
        loop = asyncio.get_running_loop()
        origin = connection.origin
        deadline = loop.time() + within_s
        sock = await dial(await permitted(origin, self._resolve, self.limits.addresses), origin.port, deadline)
        try:
            if context is None:
                await loop.create_connection(lambda: connection, sock=sock)
            else:
                await loop.create_connection(
                    lambda: connection,
                    sock=sock,
                    ssl=context,
                    server_hostname=origin.host,
                    ssl_handshake_timeout=within_s + 1.0,  # the caller's deadline is the one that counts
                    ssl_shutdown_timeout=1.0,
                )
        except ssl.SSLCertVerificationError as error:
            raise TlsFailed(detail=error.verify_message) from None
        except ssl.SSLError as error:
            raise TlsFailed(detail=error.reason or "") from None
        except OSError:
            raise (ConnectFailed() if context is None else TlsFailed(detail="the peer broke off")) from None
        refusal = connection.refusal
        if refusal is not None:
            raise refusal if isinstance(refusal, NotReached) else ConnectFailed(detail="the peer ended it at once")
        if self._closed:
            raise ConnectFailed(detail="the pool is closed")

    def _context(self, pins: frozenset[bytes] | None) -> ssl.SSLContext:
        if pins is not None:
            self._pinned = self._pinned or pinned_context()
            return self._pinned
        self._web = self._web or web_context(self._roots)
        return self._web

    # ------------------------------------------------------------------------------------------------------- accounting

    def _reserve(self, key: str) -> None:
        site = self._sites.get(key)
        if site is not None and site.open >= self.limits.connections_per_origin:
            raise TooManyConnections(detail=f"{site.open} to this origin")
        if self._open >= self.limits.connections and not self._evict():
            raise TooManyConnections(detail=f"{self._open} in all")
        self._sites.setdefault(key, _Site()).open += 1
        self._open += 1

    def _forget(self, connection: Connection) -> None:
        """Its place is free, once."""
        if not connection.counted:
            return
        connection.counted = False
        site = self._sites[connection.key]
        site.open -= 1
        self._open -= 1
        if not site.open:
            del self._sites[connection.key]

    def _evict(self) -> bool:
        """Close the connection that has been idle longest, to make room; its place is free at once."""
        heads = [site.idle[0] for site in self._sites.values() if site.idle]
        if not heads:
            return False
        self._drop(min(heads, key=lambda connection: connection.idle_since))
        return True

    def _drop(self, connection: Connection) -> None:
        self._unpark(connection)
        connection.abort()

    def _unpark(self, connection: Connection) -> None:
        if connection.parked:
            connection.parked = False
            self._sites[connection.key].idle.remove(connection)

    def _lost(self, connection: Connection) -> None:
        self._unpark(connection)
        self._all.discard(connection)
        self._forget(connection)
        if self._drained is not None and not self._all and not self._drained.done():
            self._drained.set_result(None)

    def _surplus(self, connection: Connection) -> None:
        self.surplus_count += 1
        if self._hook is not None:
            self._hook(connection.origin)

    def _sweep_in(self, seconds: float) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(seconds, self._sweep)

    def _sweep(self) -> None:
        """Close what has been idle for too long; the next sweep is when the next one is due."""
        self._sweeper = None
        oldest = lease_clock() - self.limits.keepalive_s
        for site in list(self._sites.values()):
            while site.idle and site.idle[0].idle_since <= oldest:
                self._drop(site.idle[0])
        due = [site.idle[0].idle_since for site in self._sites.values() if site.idle]
        if due:
            self._sweep_in(max(0.05, min(due) - oldest))
