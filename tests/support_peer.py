"""Scripted peers: real listeners on loopback that answer with exactly the bytes that a test gives them.

async with peer(answers(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nhi")) as node:
    node.origin, node.requests, node.connections
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

from gateway.upstream.origin import Origin, parse_origin


class Peer:
    """What the listener saw: how many connections, and every request's bytes, head and body."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self.closed = asyncio.Event()  # some connection was ended by the client
        self.port = 0
        self.tls = False

    def at(self, host: str) -> Origin:
        scheme = "https" if self.tls else "http"
        return parse_origin(f"{scheme}://{host}:{self.port}", allow_private=True)

    @property
    def origin(self) -> Origin:
        return self.at("127.0.0.1")


Script = Callable[[Peer, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def read_request(node: Peer, reader: asyncio.StreamReader) -> bool:
    """Read one request into `node.requests`; False when the client is gone."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            node.requests.append(error.partial)
        return False
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    node.requests.append(head + await reader.readexactly(length))
    return True


def answers(*blobs: bytes) -> Script:
    """Each connection answers its n-th request with the n-th blob, then waits for the client to leave."""

    async def script(node: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for blob in blobs:
            if not await read_request(node, reader):
                return
            writer.write(blob)
            await writer.drain()
        await read_request(node, reader)

    return script


def pieces(*blobs: bytes, gap_s: float = 0.01, reset: bool = False) -> Script:
    """Answers the first request with the blobs, one at a time, then closes (`reset`: with a TCP reset)."""

    async def script(node: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await read_request(node, reader):
            for blob in blobs:
                writer.write(blob)
                await writer.drain()
                await asyncio.sleep(gap_s)
            if reset:
                _reset(writer)

    return script


def _reset(writer: asyncio.StreamWriter) -> None:

    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.asynccontextmanager
async def peer(script: Script, context: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    """Listen on a free loopback port (and on ::1 never); every connection runs `script`."""
    node = Peer()
    node.tls = context is not None
    running: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        node.connections += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await script(node, reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            node.closed.set()
            running.discard(task)
            writer.transport.abort() if writer.transport.is_closing() else writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context, limit=1 << 24)
    node.port = server.sockets[0].getsockname()[1]
    try:
        yield node
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await server.wait_closed()
        await asyncio.sleep(0)
