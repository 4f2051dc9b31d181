"""What one client may cost a node: slow, silent, many or unread, each connection meets its bound."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import httpx
import pytest
import uvicorn

from adapters.selfhosted import server, wire
from adapters.selfhosted.identity import ephemeral
from adapters.selfhosted.node import Node
from adapters.selfhosted.source import PATHS, Stream
from gateway.api.limits import BodyMemory, Limits
from gateway.errors import BodyTooLarge, Busy

QUICK = Limits(connections=8, header_s=0.4, idle_s=0.4, body_s=0.4, write_s=0.4, write_rate=1 << 16, linger_s=0.1)
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: node\r\n"


class Endless:
    """A source whose streams never end; `closed` once one of them was."""

    fronts_backend = False
    paths = PATHS

    def __init__(self) -> None:
        self.closed = threading.Event()

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    def models(self) -> list[str]:
        return ["m"]

    async def answer(self, path: str, headers: Mapping[bytes, bytes], body: bytes, document: dict[str, Any]) -> Stream:
        return Stream(self._chunks(), lambda: None, self.close)

    async def _chunks(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"data: " + b"x" * 65536 + b"\n\n"
                await asyncio.sleep(0)
        finally:
            self.closed.set()


class Served:
    """A node with such a source, under QUICK limits, on a thread of its own."""

    def __init__(self) -> None:
        self.source = Endless()
        self.server = uvicorn.Server(server.configuration(Node(ephemeral(), self.source), None, QUICK))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self.server.run, args=([self.listener],), daemon=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[Served]:
        self.thread.start()
        try:
            yield self
        finally:
            self.server.should_exit = True
            self.thread.join(10)
            self.listener.close()

    def connect(self) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(5)
        sock.connect(self.listener.getsockname())
        return sock


@pytest.fixture
def served() -> Iterator[Served]:
    with Served().running() as found:
        yield found


def read(sock: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionError):
        while part := sock.recv(65536):
            data += part
    return data


@pytest.mark.parametrize("begun", [HEAD + b"X-A: ", HEAD + b"Content-Length: 1000\r\n\r\n"], ids=["head", "body"])
def test_a_request_that_drips_is_a_408(served: Served, begun: bytes) -> None:
    """A byte now and then extends neither the deadline of the headers nor that of the body."""
    since = time.monotonic()
    with served.connect() as sock:
        sock.sendall(begun)
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - since < 1:
                sock.sendall(b"a")
                time.sleep(0.05)
        answer = read(sock)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"
    assert time.monotonic() - since < 3


def test_silent_connections_are_few_and_end(served: Served) -> None:
    """Those beyond the limit are told so, and those within it are closed when nothing comes."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(served.connect()) for _ in range(QUICK.connections + 1)]
        answers = [read(sock) for sock in socks]
    assert sorted(answers)[:-1] == [b""] * QUICK.connections
    assert max(answers).startswith(b"HTTP/1.1 503 ")


def test_a_reader_that_stops_is_cut(served: Served) -> None:
    """A stream that nobody reads ends, and the source with it."""
    body = b'{"model":"m","messages":[],"stream":true}'
    with served.connect() as sock:
        sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert sock.recv(12) == b"HTTP/1.1 200"
        assert served.source.closed.wait(5)


def _pieces(*parts: bytes) -> wire.Receive:
    messages = iter(parts)
    left = [len(parts)]

    async def receive() -> dict[str, Any]:
        left[0] -= 1
        return {"type": "http.request", "body": next(messages), "more_body": left[0] > 0}

    return receive


def test_bodies_count_until_they_are_answered() -> None:
    """What all requests hold is bounded; a body counts from its first byte until its exchange ends, however it does."""

    async def run() -> None:
        memory = BodyMemory(10)
        async with wire.body_of(_pieces(b"12345", b"678"), memory) as body:
            assert (body, memory.held) == (b"12345678", 8)
            with pytest.raises(Busy):
                async with wire.body_of(_pieces(b"9", b"abc"), memory):
                    raise AssertionError
            assert memory.held == 8
        assert memory.held == 0
        with pytest.raises(BodyTooLarge):
            async with wire.body_of(_pieces(b"1" * (wire.MAX_BODY + 1)), memory):
                raise AssertionError
        assert memory.held == 0

    asyncio.run(run())


def test_a_node_without_room_says_when_to_try_again(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body for which there is no room is a 503 with Retry-After."""
    monkeypatch.setattr(BodyMemory, "take", lambda self, size: self.room(self.limit + 1))
    with served.connect() as sock:
        sock.sendall(HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}")
        answer = read(sock)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1\r\n" in answer


#: A node one of whose pages has a defect.
_BROKEN = """
import sys
from adapters.selfhosted import node
from gateway.cli import main

def page(self, scope):
    raise ZeroDivisionError("a defect")

node.Node._page = page
sys.exit(main(["node", "--port", "0", "--json"]))
"""


def test_a_defect_of_the_node_is_said_on_stderr_and_ends_nothing() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _BROKEN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        url = json.loads(process.stdout.readline())["url"]  # type: ignore[union-attr]
        with httpx.Client(trust_env=False, timeout=20) as http:
            assert [http.get(url + "/v1/models").status_code for _ in range(2)] == [500, 500]
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 0, errors
    lines = [json.loads(line) for line in errors.splitlines()]
    assert [line["level"] for line in lines] == ["error", "error"]
    assert all("ZeroDivisionError: a defect" in line["exception"] for line in lines)
