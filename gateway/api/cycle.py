"""One request and its answer on our HTTP protocol: the ASGI `receive` and `send` of the application.

What it adds to uvicorn's own: `send` raises `ClientGone` once nobody reads any more, so that a relay stops paying for a
stream; an answer that the application leaves unfinished is cut without its terminating chunk and without noise, which
is how a failed stream says so; an application error becomes an OpenAI-shaped 500; response heads are checked once as a
whole instead of name by name.

Trailers of a request are dropped by the protocol; a chunked answer to an HTTP/1.0 client ends with the connection.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.errors import InternalError

from .errors import render

if TYPE_CHECKING:
    from .protocol import FrontProtocol

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_CONTROLS = bytes(i for i in range(32) if i != 9) + b"\x7f"
_DISCONNECT = {"type": "http.disconnect"}
_BODILESS = (204, 304)
_END = (b"",)  # joined behind the fields, it ends the last line

#: Header names already checked. Bounded: an application has few of them, and they are its own constants.
_names: set[bytes] = set()


class ClientGone(OSError):
    """The client closed the connection, or was cut off for not reading. Raised by `send` (ASGI spec version 2.4)."""


class Cycle:
    """`receive` and `send` of one request. The protocol feeds it and is told when the answer is written."""

    __slots__ = (
        "_chunks",
        "_event",
        "_fresh",
        "_head",
        "_left",
        "_on_leave",
        "_protocol",
        "_waiting",
        "chunked",
        "disconnected",
        "head_only",
        "keep_alive",
        "may_continue",
        "more_body",
        "response_complete",
        "response_started",
        "scope",
    )

    def __init__(self, protocol: FrontProtocol, scope: Any, *, keep_alive: bool) -> None:
        self._protocol = protocol
        self.scope = scope
        scope["veriroute.on_leave"] = self.on_leave
        self._on_leave: Callable[[], None] | None = None
        self.may_continue = True  # it was not yet told to send its body, if it waits for that
        self.keep_alive = keep_alive
        self.head_only = scope["method"] == "HEAD"
        self.disconnected = False
        self.more_body = True
        self.response_started = False
        self.response_complete = False
        self.chunked = False
        self._chunks: list[bytes] = []
        self._waiting = 0
        self._fresh = False  # something for `receive` that it has not returned yet
        self._event: asyncio.Event | None = None
        self._head: bytes | None = None  # a head held back to leave in one write with its body
        self._left: int | None = None  # bytes the declared content-length still promises

    # -- what the protocol tells -------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> int:
        """Take a piece of the body; returns how many bytes wait for `receive`."""
        self._chunks.append(data)
        self._waiting += len(data)
        self._fresh = True
        self.wake()
        return self._waiting

    def end_of_body(self) -> None:
        self.more_body = False
        self._fresh = True
        self.wake()

    def disconnect(self) -> None:
        self.disconnected = True
        if self._on_leave is not None:
            self._on_leave()
        self.wake()

    def on_leave(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the client leaves; at once when it has. Cheaper than a task that waits for it."""
        self._on_leave = callback
        if self.disconnected:
            callback()

    def wake(self) -> None:
        if self._event is not None:
            self._event.set()

    # -- the application's side --------------------------------------------------------------------------------------

    async def run(self, app: Any) -> None:
        """Run the application; whatever it does, the connection ends in a state that says what happened."""
        try:
            await app(self.scope, self.receive, self.send)
        except ClientGone:
            pass
        except asyncio.CancelledError:
            self._protocol.cut(self)
            raise
        except Exception as error:
            if not self.disconnected:
                self._protocol.logger.error("front.application_failed", exc_info=error)
                await self._fail()
        else:
            if not self.disconnected and not self.response_complete:
                if self.response_started:
                    self._protocol.cut(self)
                else:
                    self._protocol.logger.error("front.no_answer")
                    await self._fail()

    async def _fail(self) -> None:
        if self._head is not None:  # nothing of it has left yet
            self._head, self._left, self.response_started, self.chunked = None, None, False, False
        if self.response_started:
            self._protocol.cut(self)
            return
        status, headers, body = render(InternalError("The server failed; its log says why."), close=True)
        try:
            await self.send({"type": "http.response.start", "status": status, "headers": headers})
            await self.send({"type": "http.response.body", "body": body})
        except ClientGone:
            pass

    async def receive(self) -> Any:
        """The next piece of the body, or `http.disconnect` once the client is gone or the answer is complete."""
        if self.more_body and self.may_continue:
            self.may_continue = False
            waits = self.scope["http_version"] == "1.1" and any(  # RFC 9110 section 15.2: 1.0 has no interim answers
                name == b"expect" and value.lower() == b"100-continue" for name, value in self.scope["headers"]
            )
            if waits and not self.disconnected and not self.response_started:
                self._protocol.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self._fresh:
            if self.disconnected or self.response_complete:
                return _DISCONNECT
            self._protocol.want_data()
            if self._event is None:
                self._event = asyncio.Event()
            self._event.clear()
            await self._event.wait()
        if self.disconnected or self.response_complete:
            return _DISCONNECT
        self._fresh = False
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        self._waiting = 0
        if not self.more_body:  # reading may have paused over a large body, and only a reader sees the client leave
            self._protocol.want_data()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        """Write one ASGI message. Waits while the client's window is full; raises `ClientGone` when it has left."""
        protocol = self._protocol
        if protocol.flow.write_paused and not self.disconnected:
            await protocol.flow.drain()
        if self.disconnected:
            raise ClientGone("the client closed the connection, or stopped reading")
        kind = message["type"]
        if kind == "http.response.body":
            self._body(message.get("body", b""), bool(message.get("more_body", False)))
        elif kind == "http.response.start" and not self.response_started:
            self._start(message["status"], message.get("headers", ()))
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")

    def _start(self, status: int, headers: Any) -> None:
        found = dict(headers)
        if not _names.issuperset(found):
            _learn(found)
        if b"content-length" in found:
            self._left = int(found[b"content-length"])
        fields = [*self._protocol.server_state.default_headers, *headers, _END]
        lines = b"\r\n".join(map(b": ".join, fields))
        if len(lines.translate(None, _CONTROLS)) != len(lines) - 2 * (len(fields) - 1):  # the line ends in between
            raise RuntimeError("a response header value holds a control character")
        if self.more_body:  # answered before its request was read: what follows must not be read as the next request
            self.keep_alive = False
        bodiless = self.head_only or status in _BODILESS
        if self._left is None and not bodiless:
            if self.scope["http_version"] == "1.1":
                self.chunked = True
                lines += b"transfer-encoding: chunked\r\n"
            else:
                self.keep_alive = False
        if b"connection" in found and b"close" in found[b"connection"].lower():
            self.keep_alive = False
        elif not self.keep_alive:
            lines += b"connection: close\r\n"
        if bodiless:
            self.head_only, self._left = True, None
        self.response_started = True
        head = b"%b%b\r\n" % (STATUS_LINE[status], lines)
        if self._left is None:
            self._protocol.transport.write(head)
        else:
            self._head = head

    def _body(self, body: bytes, more: bool) -> None:
        if not self.response_started or self.response_complete:
            raise RuntimeError("a response body was sent before its start, or after its end")
        transport = self._protocol.transport
        if self.head_only:
            pass
        elif self.chunked:
            if body:
                transport.write(b"%x\r\n%b\r\n%b" % (len(body), body, b"" if more else b"0\r\n\r\n"))
            elif not more:
                transport.write(b"0\r\n\r\n")
        else:
            if self._left is not None:
                self._left -= len(body)
                if self._left < 0 or (self._left and not more):
                    raise RuntimeError("the response body does not have its declared length")
            if self._head is not None:
                body, self._head = self._head + body, None
            if body:
                transport.write(body)
        if not more:
            self.response_complete = True
            self.wake()
            self._protocol.answered(self)


def _learn(names: Iterable[bytes]) -> None:
    for name in names:
        if not _TOKEN.fullmatch(name):
            raise RuntimeError(f"{name!r} is not a header name in lower case")
        if len(_names) < 256:
            _names.add(name)
