"""As much of an HTTP/1.1 server as the network needs: keep-alive, bodies with a length, answers whole or in chunks."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

MAX_BODY = 20 << 20


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]


@dataclass
class Reply:
    """`pieces` are sent chunked, `gap_s` apart. `short`: the body ends early, and so does the connection."""

    status: int = 200
    body: bytes = b""
    media: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] | None = None
    gap_s: float = 0.0
    short: bool = False
    hang: bool = False


Handler = Callable[[Request], Awaitable[Reply]]


async def serve(handler: Handler, port: int = 0, context: ssl.SSLContext | None = None) -> asyncio.Server:
    """A server on 127.0.0.1; port 0 takes one that is free."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await _once(handler, reader, writer):
                pass
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ssl.SSLError, ValueError):
            pass  # the client left, or spoke something else than HTTP
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), 1)

    return await asyncio.start_server(connected, "127.0.0.1", port, ssl=context)


async def _once(handler: Handler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Answer one request; whether the connection goes on."""
    head = await reader.readuntil(b"\r\n\r\n")
    line, *rest = head.decode("latin-1").split("\r\n")
    method, target, _ = line.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (h.partition(":") for h in rest if h)}
    length = int(headers.get("content-length") or 0)
    if length > MAX_BODY:
        await _send(writer, Reply(413, b'{"error": "body too large"}'))
        return False
    reply = await handler(Request(method, target, headers, await reader.readexactly(length)))
    if reply.hang:
        await asyncio.sleep(3600)
    await _send(writer, reply)
    return not reply.short and headers.get("connection", "").lower() != "close"


async def _send(writer: asyncio.StreamWriter, reply: Reply) -> None:
    framing = "Transfer-Encoding: chunked" if reply.pieces is not None else f"Content-Length: {len(reply.body)}"
    extra = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
    writer.write(f"HTTP/1.1 {reply.status} X\r\nContent-Type: {reply.media}\r\n{framing}\r\n{extra}\r\n".encode())
    if reply.pieces is None:
        writer.write(reply.body[: len(reply.body) // 2] if reply.short else reply.body)
    for at, piece in enumerate(reply.pieces or ()):
        if at and reply.gap_s:
            await asyncio.sleep(reply.gap_s)
        writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        await writer.drain()
    if reply.pieces is not None and not reply.short:
        writer.write(b"0\r\n\r\n")
    await writer.drain()
