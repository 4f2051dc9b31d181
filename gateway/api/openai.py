"""The six inference paths, owning the wire: from the ASGI messages to the relay, and back.

Read and judge what makes a request acceptable (key, body, head, policy); everything refused here is a 4xx that names
the field, with nothing forwarded and no receipt. What is accepted goes to the relay and gets exactly one receipt.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

from gateway.entropy import fresh
from gateway.errors import Busy, VerirouteError
from gateway.exchange.head import clean_request_id, parse_head
from gateway.model.ulid import UlidFactory
from gateway.policy.request import OURS, header_values
from gateway.relay import Headers, Incoming, Relay

from .auth import KeyRing, Principal
from .cycle import ClientGone
from .errors import render
from .limits import BodyMemory
from .refusals import Refusals
from .strict import read_body
from .terms import TermsBook

#: After a stop has ended the exchanges that still ran: how long their receipts and last words may take.
LAST_S = 3.0


class Randomness:
    """The system's random bytes, fetched many at a time: a system call for each exchange costs more than its salts."""

    SIZE = 8192

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Hand out nothing of what was fetched: a forked child has the same bytes."""
        self._bytes, self._at = b"", 0

    def take(self, count: int) -> bytes:
        """`count` bytes, at most `SIZE`; none of them is handed out again. Raises `Unrandom`."""
        at, end = self._at, self._at + count
        if end > len(self._bytes):
            self._bytes, at, end = fresh(self.SIZE), 0, count
        self._at = end
        return self._bytes[at:end]


_randomness = Randomness()
os.register_at_fork(after_in_child=_randomness.forget)


def _pick(eight: bytes) -> float:
    """A fraction in [0, 1) of eight random bytes."""
    return (int.from_bytes(eight, "big") >> 11) / (1 << 53)


class Inference:
    """An ASGI application for one inference path at a time; the path is the endpoint."""

    def __init__(
        self,
        relay: Relay,
        keys: KeyRing,
        terms: TermsBook,
        ulids: UlidFactory,
        *,
        max_body: int,
        max_in_flight: int,
        max_memory: int,
        body_s: float = 60.0,
        refusals: Refusals | None = None,
    ) -> None:
        self._relay = relay
        self._keys = keys
        self._terms = terms
        self._ulids = ulids
        self._max_body = max_body
        self._max_in_flight = max_in_flight
        self._body_s = body_s
        self.bodies = BodyMemory(max_memory)
        self.in_flight = 0
        self.accepted = 0
        self.refusals = refusals or Refusals()
        self.closing = False
        self._idle = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            incoming = await self._accept(scope, receive)
        except VerirouteError as error:
            self.refusals.note(error, self._keys.key_id(scope["headers"]))
            status, headers, body = render(error, path=scope["path"])
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        size = len(incoming.body)
        self.bodies.held += size  # no other has run since there was room for it
        self.in_flight += 1
        self.accepted += 1
        sink = AsgiSink(scope, receive, send)
        try:
            await self._relay.serve(incoming, sink)
        finally:
            sink.close()
            self.in_flight -= 1
            self.bodies.held -= size
            if self.closing and not self.in_flight:
                self._idle.set()

    async def drain(self, seconds: float) -> bool:
        """Take no further exchange and wait for those under way; whether all of them ended by themselves.

        Those that did not are ended now, each with its receipt.
        """
        self.closing = True
        if not self.in_flight or await self._ended(seconds):
            return True
        self._relay.stop()
        await self._ended(LAST_S)
        return False

    def hurry(self) -> None:
        """Let `drain` wait no longer."""
        self._idle.set()

    async def _ended(self, within_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._idle.wait()
        self._idle.clear()
        return not self.in_flight

    async def _accept(self, scope: Any, receive: Any) -> Incoming:
        headers = scope["headers"]
        named = dict(headers)  # of one that stands twice, the last
        find = named.get
        policies = header_values(headers) if OURS in b"\n".join(named) else []
        edition = self._keys.edition
        principal = self._principal(find)
        self._room()
        length = find(b"content-length")
        declared = int(length) if length is not None and length.isdigit() else None
        body = await read_body(receive, self._max_body, self._body_s, declared=declared, memory=self.bodies)
        if self._keys.edition != edition:  # keys were made or revoked while the body was waited for
            principal = self._principal(find)
        head = parse_head(scope["path"], body)
        terms = self._terms.resolve(principal.policy, policies, head)
        self._relay.known(head)
        now_ms, t0 = time.time_ns() // 1_000_000, time.perf_counter()  # one moment: the body is whole
        client_id = find(b"x-client-request-id", find(b"x-request-id"))
        randomness = _randomness.take(104)  # seed, nonces, id, pick
        self._room()  # again: others may have come while the body was read
        self.bodies.room(len(body))
        return Incoming(
            self._ulids.mint(now_ms, randomness[80:96]),
            now_ms,
            t0,
            randomness[:80],
            principal.key_id,
            clean_request_id(client_id) if client_id is not None else None,
            head,
            body,
            terms,
            _pick(randomness[96:]),
        )

    def _principal(self, find: Callable[[bytes], bytes | None]) -> Principal:
        return self._keys.principal(find(b"authorization"), find(b"x-api-key")).needs("inference")

    def _room(self) -> None:
        """Raises `Busy` when no further exchange may begin."""
        if self.closing:
            raise Busy("This gateway is stopping.")
        if self.in_flight >= self._max_in_flight:
            raise Busy("This gateway has as many exchanges as it allows.")


class AsgiSink:
    """The agent's side of one exchange (gateway.relay.Sink)."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self._send = send
        self._path = scope["path"]
        self._callback: Callable[[], None] | None = None
        self.gone = False
        self._watcher: asyncio.Task[None] | None = None
        register = scope.get("veriroute.on_leave")
        if register is not None:
            register(self._left)
        else:
            self._watcher = asyncio.ensure_future(self._watch(receive))

    def on_leave(self, callback: Callable[[], None] | None) -> None:
        self._callback = callback

    async def answer(self, headers: Headers, body: bytes) -> None:
        headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self._put({"type": "http.response.start", "status": 200, "headers": headers})
        await self._put({"type": "http.response.body", "body": body})

    async def begin(self, headers: Headers) -> None:
        await self._put({"type": "http.response.start", "status": 200, "headers": headers})

    async def write(self, data: bytes) -> None:
        await self._put({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes) -> None:
        await self._put({"type": "http.response.body", "body": data})

    async def refuse(self, error: VerirouteError, receipt: str, extra: dict[str, object], headers: Headers) -> None:
        status, own, body = render(error, receipt, extra, path=self._path)
        names = {name for name, _ in headers}
        own = [(name, value) for name, value in own if name not in names]
        await self._put({"type": "http.response.start", "status": status, "headers": [*headers, *own]})
        await self._put({"type": "http.response.body", "body": body})

    async def cut(self, data: bytes) -> None:
        # No message without `more_body` follows: the server cuts the body, so that its end can't look like success.
        if data:
            await self._put({"type": "http.response.body", "body": data, "more_body": True})

    def close(self) -> None:
        self._callback = None
        if self._watcher is not None:
            self._watcher.cancel()

    async def _put(self, message: dict[str, Any]) -> None:
        if self.gone:
            raise ClientGone("the client left")
        try:
            await self._send(message)
        except OSError:
            self.gone = True
            raise

    def _left(self) -> None:
        self.gone = True
        if self._callback is not None:
            self._callback()

    async def _watch(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._left()
