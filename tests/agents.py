"""Agents as small as can be, on plain sockets: what they send and when they leave is the test's to say."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from scripted import Received, ScriptedNode

T = TypeVar("T")

ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":'
    b'"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
)


def chunk(content: str, finish: str | None = None) -> bytes:
    """One event of a chat stream."""
    delta = {"content": content} if content else {}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "chatcmpl-1", "model": "m", "choices": [choice]}).encode() + b"\n\n"


STREAM = chunk("hel") + chunk("lo") + chunk("", "stop") + b"data: [DONE]\n\n"


def prompt(name: str, *, stream: bool = False, **members: Any) -> bytes:
    """The body of a request whose prompt is `name`, so that the node's side can tell it from others."""
    return json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": name}], "stream": stream, **members}
    ).encode()


def prompt_of(received: Received) -> str:
    return str(json.loads(received.body)["messages"][0]["content"])


def good_script(node: ScriptedNode) -> Callable[[Received], Any]:
    """Answers whatever was asked, signed: JSON or a stream."""
    whole, streamed = node.json(ANSWER), node.sse(STREAM)

    async def script(of: Received) -> Any:
        async for part in (streamed if json.loads(of.body)["stream"] else whole)(of):
            yield part

    return script


def address(url: str) -> tuple[str, int]:
    parts = urllib.parse.urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def raw_request(url: str, key: str, name: str, body: bytes, *more: str) -> bytes:
    host, port = address(url)
    lines = [
        "POST /v1/chat/completions HTTP/1.1", f"host: {host}:{port}", f"authorization: Bearer {key}",
        f"x-client-request-id: {name}", "content-type: application/json", f"content-length: {len(body)}", *more,
    ]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode() + body


def connect(url: str, *, receive_buffer: int | None = None) -> socket.socket:
    """A connection that the test sends on and leaves as it likes."""
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(30)
    sock.connect(address(url))
    return sock


class Answer:
    """A whole answer; `events` of a stream, its `[DONE]` left out."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def whole(self) -> bool:
        """Whether it says that it is complete: a stream does so by its last event."""
        return not self.stream or self.body.endswith(b"data: [DONE]\n\n")

    @property
    def document(self) -> dict[str, Any]:
        """The JSON body, or the last event of a stream before its `[DONE]`."""
        if not self.stream:
            return dict(json.loads(self.body))
        events = [e for e in self.body.split(b"\n\n") if e.startswith(b"data: ") and e != b"data: [DONE]"]
        return dict(json.loads(events[-1].removeprefix(b"data: ")))

    @property
    def verification(self) -> dict[str, Any]:
        return dict(self.document["verification"])

    @property
    def error(self) -> dict[str, Any]:
        return dict(self.document["error"])


class Agent:
    """One keep-alive connection. `ask` raises `Cut` when no whole answer came."""

    def __init__(self, url: str, key: str, *, timeout: float = 30.0) -> None:
        self.url, self.key = url, key
        self._connection = http.client.HTTPConnection(*address(url), timeout=timeout)

    def ask(self, name: str, body: bytes) -> Answer:
        headers = {
            "authorization": f"Bearer {self.key}", "x-client-request-id": name, "content-type": "application/json",
        }  # fmt: skip
        answered = False
        try:
            self._connection.request("POST", "/v1/chat/completions", body, headers)
            response = self._connection.getresponse()
            answered = True
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Cut(answered) from error
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, data)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Cut(Exception):
    """The connection ended before the answer did. `begun`: in the middle of it."""

    def __init__(self, begun: bool) -> None:
        super().__init__("in the middle of an answer" if begun else "without an answer")
        self.begun = begun


def together(count: int, work: Callable[[int], T]) -> list[T]:
    """`work(0)` to `work(count - 1)`, each in a thread of its own, begun at once; what they returned, in order."""
    gate = threading.Barrier(count)

    def run(n: int) -> T:
        gate.wait(60)
        return work(n)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count), timeout=120))


def read_all(sock: socket.socket) -> Iterator[bytes]:
    with suppress(ConnectionError):
        while data := sock.recv(65536):
            yield data
