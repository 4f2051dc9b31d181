"""What our HTTP front costs a request, in microseconds of CPU time: `python bench/micro/front.py`.

A protocol is fed one typical SDK request at a time over a transport that keeps nothing: first uvicorn's own, then ours,
then ours with the strict middleware, then with the body read under its limits. Process time, best of seven.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.api.limits import Limits, Watch
from gateway.api.protocol import FrontProtocol
from gateway.api.strict import Strict, read_body

REQUESTS = 5000
ROUNDS = 7
BODY = b"x" * 900
HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", b"900"),
    (b"x-veriroute-receipt", b"01ARZ3NDEKTSV4RRFFQ69G5FAV"),
    (b"x-veriroute-verdict", b"affirming"),
    (b"x-veriroute-level", b"logged"),
    (b"x-veriroute-policy", b"signed"),
    (b"x-receipt-id", b"01ARZ3NDEKTSV4RRFFQ69G5FAV"),
]
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:4000\r\nAccept-Encoding: gzip, deflate\r\n"
    b"Connection: keep-alive\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
    b"User-Agent: OpenAI/Python 3.52.0\r\nX-Stainless-Lang: python\r\nX-Stainless-OS: Linux\r\n"
    b"Authorization: Bearer vr-0123456789012345678901234567890123456789\r\nContent-Length: 171\r\n\r\n" + b"a" * 171
)


class Sink:
    """A transport that forgets what is written."""

    def get_extra_info(self, name: str, default: object = None) -> object:
        return {"peername": ("127.0.0.1", 50000), "sockname": ("127.0.0.1", 4000)}.get(name, default)

    def write(self, data: bytes) -> None:
        self.last = data

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0


async def plain(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


async def reading(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    await read_body(receive, 1 << 20, asyncio.get_running_loop().time() + 10)
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


def config(app: Any) -> uvicorn.Config:
    made = uvicorn.Config(app, access_log=False, log_config=None, ws="none", proxy_headers=False, interface="asgi3")
    made.load()
    return made


async def cost(make: Callable[[], Any]) -> float:
    """Microseconds of CPU a request."""
    protocol, sink = make(), Sink()
    protocol.connection_made(sink)
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(REQUESTS):
            protocol.data_received(REQUEST)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        best = min(best, time.process_time() - begun)
    if not (sink.last.startswith(b"HTTP/1.1 200") or sink.last == BODY):
        raise SystemExit(f"the front refused its request: {sink.last[:200]!r}")
    return best / REQUESTS * 1e6


async def main() -> None:
    state, watch = ServerState(), Watch(Limits())
    state.default_headers = [(b"date", b"Sat, 21 Nov 2026 01:13:55 GMT")]
    loop = asyncio.get_running_loop()

    def ours(app: Any) -> Callable[[], FrontProtocol]:
        return lambda: FrontProtocol(config(app), state, {}, loop, watch=watch)

    base = await cost(lambda: HttpToolsProtocol(config(plain), state, {}, loop))
    for name, make in (
        ("our protocol", ours(plain)),
        ("… with the strict middleware", ours(Strict(plain))),
        ("… and the body read under its limits", ours(Strict(reading))),
    ):
        found = await cost(make)
        sys.stdout.write(f"{name:<40}{found:7.1f} µs   {found - base:+.1f} against uvicorn's own ({base:.1f})\n")


if __name__ == "__main__":
    uvloop.run(main())
