"""A real uvicorn server in a thread, with our protocol and middleware around a tiny application, and a raw client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn

from gateway.api.cycle import ClientGone
from gateway.api.limits import Limits, Watch
from gateway.api.protocol import serve_config
from gateway.api.strict import Rules, Strict, read_body, refuse
from gateway.crypto.canonical import strict_json
from gateway.errors import BadRequest, FormatError, InvalidKey, MethodNotAllowed, NotFound, VerirouteError

BODY_LIMIT = 1 << 20


class TinyApp:
    """`calls` lists what reached the point where a gateway would turn to a node; `events` what happened to streams."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, int]] = []
        self.scopes: list[dict] = []
        self.events: list[str] = []

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        try:
            await self.route(scope, receive, send)
        except VerirouteError as error:
            await refuse(error, send)

    async def route(self, scope, receive, send) -> None:
        path, method = scope["path"], scope["method"]
        self.scopes.append(scope)
        if path == "/v1/chat/completions":
            await self.chat(scope, receive, send)
        elif path == "/v1/receipts/01ARZ3NDEKTSV4RRFFQ69G5FAV":
            if not any(name == b"authorization" for name, _ in scope["headers"]):
                raise InvalidKey("Give an API key.")
            await self.answer(scope, send, {"receipt": True})
        elif path == "/healthz" and method in ("GET", "HEAD"):
            await self.answer(scope, send, {"ok": True})
        elif path == "/large":
            await self.answer(scope, send, "x" * 600_000)
        elif path == "/early":
            await self.answer(scope, send, {"early": True})
        elif path == "/boom":
            raise RuntimeError("not a caller's business")
        elif path == "/wait":
            if method == "POST":
                await read_body(receive, BODY_LIMIT, 5)
            await self.wait(scope, send)
        elif path in ("/endless", "/cut"):
            await self.stream(scope, send, 1 << 30 if path == "/endless" else 2)
        else:
            raise NotFound("There is nothing here.")

    async def chat(self, scope, receive, send) -> None:
        if scope["method"] != "POST":
            raise MethodNotAllowed("POST only.", allow="POST")
        body = await read_body(receive, BODY_LIMIT, 5)
        try:
            document = strict_json(body, max_bytes=BODY_LIMIT)
        except FormatError as error:
            raise BadRequest(str(error), param="body") from None
        if not isinstance(document, dict):
            raise BadRequest("The body must be a JSON object.", param="body")
        self.calls.append((scope["method"], scope["path"], len(body)))
        await self.answer(scope, send, {"n": len(self.calls), "choices": [], "user": document.get("user")})

    async def wait(self, scope, send) -> None:
        """An answer that takes a second and a half, unless the client leaves before it."""
        left = asyncio.Event()
        scope["veriroute.on_leave"](left.set)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.5):
                await left.wait()
                self.events.append("left")
        await self.answer(scope, send, {"left": left.is_set()})

    async def answer(self, scope, send, document) -> None:
        body = json.dumps(document).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def stream(self, scope, send, events: int) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        try:
            for _ in range(events):
                await send(
                    {"type": "http.response.body", "body": b"data: " + b"x" * 65536 + b"\n\n", "more_body": True}
                )
        except ClientGone:
            self.events.append("gone")
            raise
        self.events.append("returned without an end")


class Front:
    """The running server: `port`, the `app`, and the `watch` whose counters tests read."""

    def __init__(self, limits: Limits, rules: Rules | None = None) -> None:
        self.app = TinyApp()
        self.watch = Watch(limits)
        config = serve_config(Strict(self.app, rules), port=0, watch=self.watch, shutdown_s=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> Front:
        self.thread.start()
        wait_for(lambda: self.server.started)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.host = f"127.0.0.1:{self.port}".encode()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        assert not self.thread.is_alive()

    def request(self, method: bytes = b"POST", path: bytes = b"/v1/chat/completions", *headers: bytes, body=b"{}"):
        """The bytes of one good request; `headers` are added lines, a body brings its length and type along."""
        lines = [method + b" " + path + b" HTTP/1.1", b"Host: " + self.host, *headers]
        if body is not None and method == b"POST":
            lines += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
        return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"" if method == b"POST" else b"")

    @contextlib.contextmanager
    def connect(self, receive_buffer: int | None = None) -> Iterator[socket.socket]:
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(5)
        sock.connect(("127.0.0.1", self.port))
        with sock:
            yield sock

    def exchange(self, raw: bytes, answers: int | None = None) -> Replies:
        """Send `raw`; read until `answers` have come and nothing more does, or until the server closes."""
        with self.connect() as sock:
            with contextlib.suppress(OSError):
                sock.sendall(raw)
            return read_replies(sock, answers)


class Reply:
    def __init__(self, head: bytes, body: bytes) -> None:
        lines = head.split(b"\r\n")
        self.status = int(lines[0].split(b" ")[1])
        self.headers = {k.lower(): v.strip() for k, _, v in (line.partition(b":") for line in lines[1:])}
        self.names = [line.partition(b":")[0].lower() for line in lines[1:]]
        self.body = body

    @property
    def error(self) -> dict:
        return json.loads(self.body)["error"]


class Replies(list):
    """The answers in order; `closed` when the server ended the connection, `rest` bytes that are no whole answer."""

    closed = False
    rest = b""

    @property
    def statuses(self) -> list[int]:
        return [reply.status for reply in self]


def read_replies(sock: socket.socket, answers: int | None = None, quiet: float = 0.05) -> Replies:
    replies, buffer = Replies(), b""
    while True:
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            reply = Reply(buffer[:end], b"")
            length = int(reply.headers.get(b"content-length", b"0"))
            if len(buffer) < end + 4 + length:
                break
            reply.body, buffer = buffer[end + 4 : end + 4 + length], buffer[end + 4 + length :]
            replies.append(reply)
        sock.settimeout(quiet if answers is not None and len(replies) >= answers else 5)
        try:
            data = sock.recv(65536)
        except TimeoutError:
            break
        except ConnectionError:
            data = b""
        if not data:
            replies.closed = True
            break
        buffer += data
    replies.rest = buffer
    return replies


def wait_for(condition, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)
