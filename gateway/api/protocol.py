"""Our HTTP/1.1 protocol: uvicorn's httptools protocol with deadlines, caps, and no second opinion about framing.

What the base class lets pass and this one does not: a header section that never ends, a connection on which nothing is
ever sent, a body that stalls, a client that never reads, header sections and chunk extensions without bound, HTTP/0.9,
trailers that join the headers, an `Upgrade` that wedges the parser, a 400 written into the middle of another answer,
and an answer to a request whose body was never read followed by that body read as the next request. And what it
cuts off and this one serves: a client that shuts its sending side behind a complete request and still reads.

Every refusal is OpenAI-shaped, ends the connection, and leaves in its turn behind the answers of earlier pipelined
requests. Reading goes on for a moment after it (`linger`), since closing on unread data would reset the connection and
could destroy the refusal on its way.

    server = uvicorn.Server(serve_config(app, host="127.0.0.1", port=4000))

What this leaves to others: everything that can be judged from the parsed head is `gateway.api.strict`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import select
import socket
import struct
import sys
import termios
import urllib.parse
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.errors import (
    BadRequest,
    Busy,
    HeadersTooLarge,
    MethodNotAllowed,
    RequestTimeout,
    UriTooLong,
    VerirouteError,
    VersionNotSupported,
)

from .cycle import Cycle
from .errors import render
from .limits import Limits, Watch

METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))
_INFINITY = float("inf")

_FRAMING = (b"content-length", b"transfer-encoding")

#: Bytes that the kernel may hold unsent for one client.
_UNSENT = 256 * 1024

#: How often a client that shut its sending side is looked at, and what makes one that is gone show it.
_GLANCE_S = 0.2
_PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"
_HTTP2 = b"PRI * HTTP/2"  # how its connection preface begins (RFC 9113, section 3.4)

# What the reading side is in the middle of.
_IDLE, _HEAD, _BODY, _BUSY, _CLOSING = range(5)


class FrontProtocol(HttpToolsProtocol):
    """One client connection. `watch` is shared by all connections of a server and enforces the deadlines."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        watch: Watch,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.watch = watch
        self.limits = watch.limits
        self.deadline = self.write_deadline = _INFINITY
        self._phase = _IDLE
        self._running: Cycle | None = None
        self._receiving: Cycle = None  # type: ignore[assignment]
        self._framing: list[bytes] = []  # of a request that asks for an upgrade and has a body
        self._starting: list[Cycle] = []
        self._refusal: VerirouteError | None = None
        self._messages = self._head_size = self._header_count = 0
        # Bytes of the segment under way, and of all since the message began or, later, since its head or a body byte.
        self._segment = self._came = 0
        self._body_begun = 0.0
        self._body_size = self._raw_size = 0
        self._untaken = 0  # bytes of answers that the client had not taken when that was last looked at
        self._lingered = 0
        self._glance: select.poll | None = None  # of a client that shut its sending side and may still read

    # -- the connection ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self.watch.enter(self, self.loop):
            self.connections.discard(self)
            self._phase = _CLOSING
            self._write_refusal(Busy("This server has as many connections as it allows."))
            transport.close()
            return
        self.deadline = self.loop.time() + self.limits.header_s
        _limit_unsent(transport, self.limits.write_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self.watch.leave(self)
        if isinstance(exc, TimeoutError):  # by TCP_USER_TIMEOUT
            self.watch.counts["cut"] += 1
        self.deadline = self.write_deadline = _INFINITY
        for cycle in self._unanswered():
            cycle.disconnect()
        self.pipeline.clear()
        self._starting.clear()
        self._phase = _CLOSING
        self.connections.discard(self)
        self.flow.resume_writing()
        self.parser = None  # type: ignore[assignment]
        if exc is None:
            self.transport.close()

    def eof_received(self) -> bool:
        """The client sends no more: it has left, or it only shut its sending side. True keeps the connection open.

        Both look the same until something is written. So one whose request is complete, and that nothing was sent to
        yet, gets an interim answer, which every HTTP/1.1 client skips; the system of one that has left answers with a
        reset. Later, in the middle of an answer, an end means that it has left.
        """
        waiting = self._unanswered()
        running = self._running
        if running is None or running.response_started or self._refusal is not None or self.scheme == "https":
            return False
        if any(cycle.more_body or cycle.scope["http_version"] != "1.1" for cycle in waiting):
            return False
        (self.pipeline[0][0] if self.pipeline else running).keep_alive = False
        if self._glance is None:
            self._glance = select.poll()
            self._glance.register(self.transport.get_extra_info("socket").fileno(), 0)
            self.transport.write(_PROBE)
        self.deadline = self.loop.time() + _GLANCE_S
        return True

    def shutdown(self) -> None:
        """Graceful stop: idle connections close now, the others after the answer they owe."""
        if self._running is None and not self.pipeline:
            self._close()
        for cycle in self._unanswered():
            cycle.keep_alive = False

    def _unanswered(self) -> list[Cycle]:
        found = [self._running, *(cycle for cycle, _ in self.pipeline), *self._starting]
        return [cycle for cycle in found if isinstance(cycle, Cycle) and not cycle.response_complete]

    # -- reading -----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._phase == _CLOSING:
            self._lingered += len(data)
            if self._lingered > self.limits.linger_bytes:
                self.transport.abort()
            return
        if self._refusal is not None:
            return
        phase, messages = self._phase, self._messages
        self._segment = len(data)
        self._came += self._segment
        try:
            self._parse(data)
        except httptools.HttpParserError:
            if data.startswith(_HTTP2):  # no request line of HTTP/1.1 in the parser's eyes
                self._refuse(VersionNotSupported("This server speaks HTTP/1.1."))
            self._refuse(BadRequest("The request is not HTTP/1.1 as RFC 9112 has it."))
        if self._phase in (_HEAD, _BODY):
            # What a segment held of an earlier message is not known, and then it does not count.
            whole = self._messages - messages <= (phase in (_IDLE, _BUSY))
            self._bound(len(data) if whole else 0)
        if self._starting or self._refusal is not None:
            self._settle()

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data, upgrade)

    def _bound(self, size: int) -> None:
        """Refuse what is too large before it is complete, `size` bytes of it having come just now."""
        limits = self.limits
        if self._phase == _HEAD:  # `on_headers_complete` counts exactly
            self._head_size += size
            if self._head_size > limits.head_bytes + limits.uri_bytes:
                self._refuse(HeadersTooLarge(f"Request headers may take {limits.head_bytes} bytes."))
            return
        self._raw_size += size
        if self._came > limits.head_bytes:  # the parser joins an unfinished trailer anew with every segment
            self._refuse(HeadersTooLarge(f"Chunk extensions and trailers may take {limits.head_bytes} bytes."))
        elif self._raw_size - self._body_size > 65536 + 16 * self._body_size:
            self._refuse(BadRequest("The chunked body is mostly framing."))

    def _ignore_upgrade(self, data: bytes, upgrade: Exception) -> None:
        """A server may ignore `Upgrade` (RFC 9110 section 7.8), and common clients send it with every request.

        The parser stopped behind the head and calls the message complete, body or not. What follows is HTTP/1.1 still:
        a new parser reads it, and where a body is declared it is first given a head with that framing alone.
        """
        if self._refusal is not None:
            return
        framing, self._framing = self._framing, []
        self.parser = httptools.HttpRequestParser(_Resumed(self) if framing else self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        if framing:
            self.parser.feed_data(b"POST / HTTP/1.1\r\n" + b"".join(framing) + b"\r\n")
        rest = data[int(upgrade.args[0]) :]
        if rest:
            self._parse(rest)

    def _settle(self) -> None:
        """Start what was completely parsed, or at least its head, and answer what was not, in order."""
        if self._refusal is not None and self._starting and self._starting[-1].more_body:
            self._starting.pop()  # its own body is what was malformed
        for cycle in self._starting:
            if self._running is None:
                self._start(cycle)
            else:
                self.flow.pause_reading()
                self.pipeline.appendleft((cycle, self.app))  # type: ignore[arg-type]
        self._starting = []
        if self._refusal is None:
            return
        self.deadline = _INFINITY
        if self.pipeline and self.pipeline[0][0].more_body:
            self.pipeline.popleft()
        running = self._running
        if running is None:
            self._refuse_now()
        elif running.more_body and not running.response_complete:
            running.disconnect()
            if running.response_started:
                self.transport.abort()
            else:
                self._refuse_now()

    def _start(self, cycle: Cycle) -> None:
        self._running = cycle
        task = self.loop.create_task(cycle.run(self.app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    # -- parser callbacks: they note, `data_received` acts -----------------------------------------------------------

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self._phase = _HEAD
        self._messages += 1
        self._head_size = self._header_count = 0
        self._came = self._segment
        self.deadline = self.loop.time() + self.limits.header_s

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > self.limits.uri_bytes:
            self._refuse(UriTooLong(f"A request URI may take {self.limits.uri_bytes} bytes."))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase != _HEAD:  # a trailer: it must not join the headers that were judged
            self._header_count += 1
            if self._header_count > self.limits.headers:
                self._refuse(HeadersTooLarge(f"A request may have {self.limits.headers} headers."))
            return
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._phase = _BODY
        if self._refusal is not None:
            return
        parser, limits = self.parser, self.limits
        version = parser.get_http_version()
        method = parser.get_method()
        headers = self.headers
        self._header_count = len(headers)
        if version not in ("1.1", "1.0"):
            return self._refuse(VersionNotSupported("This server speaks HTTP/1.1."))
        if method not in METHODS:
            text = f"This server does not know the method {method.decode('ascii')}."
            return self._refuse(MethodNotAllowed(text, allow="GET, HEAD, OPTIONS, POST"))
        if len(headers) > limits.headers:
            return self._refuse(HeadersTooLarge(f"A request may have {limits.headers} headers."))
        if (
            self._came + len(headers) > limits.head_bytes  # else they cannot take more
            and sum([len(name) + len(value) + 4 for name, value in headers]) > limits.head_bytes
        ):
            return self._refuse(HeadersTooLarge(f"Request headers may take {limits.head_bytes} bytes."))
        if self.url[:1] != b"/":
            return self._refuse(BadRequest("The request target must be a path.", param="path"))
        if len(self.pipeline) + len(self._starting) >= limits.pipelined:
            return self._refuse(Busy("Too many pipelined requests."))
        raw_path, _, query = self.url.partition(b"?")
        path = raw_path.decode("latin-1")
        scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.4"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": method.decode("ascii"),
            "root_path": self.root_path,
            "path": self.root_path + (urllib.parse.unquote(path) if "%" in path else path),
            "raw_path": self.root_path.encode("ascii") + raw_path,
            "query_string": query,
            "headers": headers,
            "state": self.app_state.copy(),
        }
        cycle = Cycle(
            self,
            scope,
            keep_alive=version == "1.1" and parser.should_keep_alive(),
        )
        self._starting.append(cycle)
        self._receiving = cycle
        if parser.should_upgrade():
            self._framing = [b"%b: %b\r\n" % (name, value) for name, value in headers if name in _FRAMING]
        self._body_begun = self.loop.time()
        self._body_size = self._raw_size = self._came = 0
        self.deadline = self._body_begun + limits.body_s
        return None

    def on_body(self, body: bytes) -> None:
        cycle = self._receiving
        self._body_size += len(body)
        self._came = 0
        if self._refusal is not None or cycle.response_complete:
            return
        if cycle.feed(body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        if self._refusal is not None or self._framing:
            return
        self._phase = _BUSY
        self.deadline = _INFINITY
        self._receiving.end_of_body()

    # -- the cycle's side --------------------------------------------------------------------------------------------

    def want_data(self) -> None:
        """The application waits for more: read on, unless requests are queued behind this one."""
        if not self.pipeline:
            self.flow.resume_reading()

    def answered(self, cycle: Cycle) -> None:
        """`cycle`'s answer is written. Start the next request, send a pending refusal, or wait for more."""
        self.server_state.total_requests += 1
        self._running = None
        if self.transport.is_closing():
            return
        if cycle.more_body:
            self._linger()
        elif not cycle.keep_alive:
            self._close()
        elif self.pipeline:
            self._start(self.pipeline.pop()[0])  # type: ignore[arg-type]
        elif self._refusal is not None:
            self._refuse_now()
        else:
            self.flow.resume_reading()
            if self._phase == _BUSY:
                self._phase = _IDLE
                self.deadline = self.loop.time() + self.limits.idle_s

    def cut(self, cycle: Cycle) -> None:
        """End the connection in the middle of `cycle`'s answer: what was written leaves, nothing terminates it.

        The end comes `cut_s` behind the last event: `fetch` throws away what its reader has not taken yet as soon as it
        sees the connection end, and what stands last there is why. One that has read it hangs up by itself.
        """
        cycle.response_complete = True
        self._running = None
        self._phase = _CLOSING
        self.deadline = _INFINITY
        self.flow.resume_reading()  # closing on unread data would be a reset
        self.loop.call_later(self.limits.cut_s, self._close)

    # -- saying no ---------------------------------------------------------------------------------------------------

    def _refuse(self, error: VerirouteError) -> None:
        if self._refusal is None:
            self._refusal = error

    def _refuse_now(self) -> None:
        if self._refusal is not None and self._phase != _CLOSING:
            self._write_refusal(self._refusal)
            self._linger()

    def _write_refusal(self, error: VerirouteError) -> None:
        self.watch.counts["refused"] += 1
        if self.watch.refusals is not None:
            self.watch.refusals.note(error)
        status, headers, body = render(error, close=True)
        headers = [*self.server_state.default_headers, *headers]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))

    def _linger(self) -> None:
        """Half-close, then read and drop what still comes for a short while."""
        self._phase = _CLOSING
        self.deadline = self.loop.time() + self.limits.linger_s
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _close(self) -> None:
        """Close after what is buffered has left; the write deadline bounds how long that may take."""
        self._phase = _CLOSING
        self.deadline = self.loop.time() + self.limits.write_s
        self.transport.close()

    # -- deadlines ---------------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._untaken = _untaken(self.transport)
        self.write_deadline = self.loop.time() + self.limits.write_s

    def resume_writing(self) -> None:
        self.write_deadline = _INFINITY
        super().resume_writing()

    def overdue(self, now: float) -> None:
        """Called by the watch once a deadline has passed: judge whether there was progress, and act."""
        if self.write_deadline <= now:
            if not self._taking():
                self.watch.counts["cut"] += 1
                self.transport.abort()
                return
            self.write_deadline = now + self.limits.write_s
        if self.deadline > now:
            return
        if self._glance is not None and self._phase != _CLOSING:  # of a next request it may have sent a part
            if self._glance.poll(0):  # errors and hang-ups alone are reported
                self.transport.abort()
            self.deadline = now + _GLANCE_S
        elif self._phase == _BODY:
            self._body_overdue(now)
        elif self._phase == _HEAD:
            self._time_out(RequestTimeout("The request headers did not arrive in time."))
        elif self.flow.write_paused or (self.transport.get_write_buffer_size() and self._taking()):
            self.deadline = now + self.limits.write_s  # while writing pauses the write deadline judges
        elif self._phase == _CLOSING or self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.watch.counts["timed_out"] += 1
            self._close()

    def _taking(self) -> bool:
        """Whether the client took enough since this was last asked, or since writing paused."""
        before, self._untaken = self._untaken, _untaken(self.transport)
        return before - self._untaken >= self.limits.write_rate * self.limits.write_s

    def _body_overdue(self, now: float) -> None:
        limits = self.limits
        allowed = self._body_begun + limits.body_s + self._body_size / limits.body_rate
        if self.flow.read_paused:  # it is we who do not read
            self._body_begun, self.deadline = now, now + limits.body_s
        elif now < allowed:
            self.deadline = allowed
        else:
            self._time_out(RequestTimeout("The request body did not arrive in time."))

    def _time_out(self, error: VerirouteError) -> None:
        self.watch.counts["timed_out"] += 1
        self._refuse(error)
        self._settle()


class _Resumed:
    """Parser callbacks of a connection whose first message has had its head already: that head is not heard again."""

    def __init__(self, protocol: FrontProtocol) -> None:
        self._protocol = protocol
        self._heard = False
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete

    def on_message_begin(self) -> None:
        if self._heard:
            self._protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._heard:
            self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._heard:
            self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._heard:
            self._protocol.on_headers_complete()
        self._heard = True


def _untaken(transport: asyncio.Transport) -> int:
    """Bytes written to `transport` that the other side has not acknowledged.

    Those that the kernel holds count: it takes hundreds of kilobytes at a time, and between two gulps our own buffer
    stands still however steadily the other side reads.
    """
    held = 0
    if sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError):  # the socket is closed already
            fd = transport.get_extra_info("socket").fileno()
            (held,) = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0" * 4))
    return transport.get_write_buffer_size() + held


def _limit_unsent(transport: asyncio.Transport, seconds: float) -> None:
    """Let the kernel take little that it cannot send, and give up, too, on a peer whose window stays shut.

    Without the first a slow reader is met only when the kernel holds megabytes for it (TCP_USER_TIMEOUT covers the zero
    window).
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX:
        return
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)


def serve_config(
    app: Any,
    *,
    host: str = "127.0.0.1",
    port: int = 4000,
    limits: Limits | None = None,
    watch: Watch | None = None,
    shutdown_s: float = 10.0,
    **options: Any,
) -> uvicorn.Config:
    """The one way to serve `app`: this protocol, no proxy headers, no WebSocket, no `server` header, no access log.

    `watch` may be passed to read its counters; it carries its own limits. `options` go to `uvicorn.Config` (TLS, uds).
    """
    watch = watch or Watch(limits or Limits())
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=functools.partial(FrontProtocol, watch=watch),  # type: ignore[arg-type]
        ws="none",
        interface="asgi3",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=int(shutdown_s),
        **options,
    )
