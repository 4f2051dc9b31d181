"""Client-side CPU of the attested channel: µs per small request, per 34 KB request, per streamed chunk, per httpx call.

    python bench/micro/upstream.py [--requests 20000] [--streams 64] [--tls] [--loop asyncio|uvloop] [--json]

The server is a scripted one in its own process on loopback, so `process_time` of this process is the client's alone.
Chunks come one per 5 ms and stream, as in a chat; the cost per chunk includes the event loop's wake-up for it.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import multiprocessing
import ssl
import tempfile
import time
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import uvloop

from gateway.crypto.x509 import spki_sha256
from gateway.upstream.limits import Deadlines
from gateway.upstream.origin import Origin, parse_origin
from gateway.upstream.pool import UpstreamPool
from gateway.upstream.transport import control_client, dangerous_any_key

SMALL = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Hello there."},"finish_reason":"stop"}]}'
)
LARGE = b'{"content":"' + b"x" * 34_000 + b'"}'
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-receipt-id: rcpt-0123456789\r\n"
    b"x-aci-version: aci/1\r\nx-aci-keyset-digest: sha256:%s\r\ndate: Mon, 01 Jan 2029 00:00:00 GMT\r\n\r\n"
)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{"content":"tok"},"finish_reason":null}]}\n\n'
)
CHUNKS, GAP_S = 50, 0.005
REQUEST = [(b"content-type", b"application/json"), (b"x-aci-nonce", b"0" * 64), (b"x-aci-inline", b"1")]


ANSWERS = {
    b"/sm": HEAD % (len(SMALL), b"0" * 64) + SMALL,
    b"/la": HEAD % (len(LARGE), b"0" * 64) + LARGE,
}


class Server(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.tasks: set[asyncio.Task[None]] = set()

    def data_received(self, data: bytes) -> None:
        answer = ANSWERS.get(data.split(b" ", 2)[1][:3])
        if answer is not None:
            self.transport.write(answer)
        else:
            task = asyncio.create_task(self.stream())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def stream(self) -> None:
        self.transport.write(STREAM_HEAD)
        for _ in range(CHUNKS):
            await asyncio.sleep(GAP_S)
            self.transport.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
        self.transport.write(b"0\r\n\r\n")


def serve(pipe: Pipe, certificate: str | None) -> None:
    async def main() -> None:
        context = None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, ssl=context)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


def self_signed() -> tuple[str, bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now.replace(year=now.year + 1)
    )
    certificate = builder.sign(key, hashes.SHA256())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = Path(tempfile.mkdtemp()) / "bench.pem"
    path.write_bytes(pem + certificate.public_bytes(serialization.Encoding.PEM))
    return str(path), spki_sha256(certificate.public_bytes(serialization.Encoding.DER))


async def requests(
    pool: UpstreamPool, origin: Origin, pins: frozenset[bytes] | None, target: bytes, total: int, width: int
) -> float:
    """CPU µs of this process per request, `width` at once."""
    deadlines = Deadlines()

    async def worker(count: int) -> None:
        for _ in range(count):
            connection = await pool.acquire(origin, pins, 5.0)
            try:
                await connection.request(b"POST", target, REQUEST, SMALL, deadlines)
                if len(await connection.read_all(1 << 20)) not in (len(SMALL), len(LARGE)):
                    raise SystemExit("the answer is not what the server sent")
            finally:
                pool.release(connection)

    await asyncio.gather(*(worker(20) for _ in range(width)))
    before = time.process_time()
    await asyncio.gather(*(worker(total // width) for _ in range(width)))
    return (time.process_time() - before) / (total // width * width) * 1e6


async def streams(
    pool: UpstreamPool, origin: Origin, pins: frozenset[bytes] | None, width: int, rounds: int
) -> tuple[float, float]:
    """CPU µs per chunk, and chunks per second, with `width` streams at once."""
    deadlines = Deadlines()
    seen = 0

    async def one() -> None:
        nonlocal seen
        connection = await pool.acquire(origin, pins, 5.0)
        try:
            await connection.request(b"POST", b"/stream", REQUEST, SMALL, deadlines)
            while chunk := await connection.read_some():
                seen += len(chunk)
        finally:
            pool.release(connection)

    await asyncio.gather(*(one() for _ in range(width)))
    seen = 0
    before, start = time.process_time(), time.perf_counter()
    for _ in range(rounds):
        await asyncio.gather(*(one() for _ in range(width)))
    chunks = width * rounds * CHUNKS
    if seen != chunks * len(EVENT):
        raise SystemExit(f"{seen} bytes of {chunks * len(EVENT)} arrived")
    return (time.process_time() - before) / chunks * 1e6, chunks / (time.perf_counter() - start)


async def through_httpx(pool: UpstreamPool, origin: Origin, total: int) -> float:
    async with control_client(pool, allow_private=True, pins=dangerous_any_key) as client:
        url = f"{origin.scheme}://{origin.authority.decode()}/small"
        for _ in range(50):
            await client.get(url)
        before = time.process_time()
        for _ in range(total):
            (await client.get(url)).raise_for_status()
        return (time.process_time() - before) / total * 1e6


async def measure(port: int, pins: frozenset[bytes] | None, options: argparse.Namespace) -> dict[str, float]:
    scheme = "https" if options.tls else "http"
    origin = parse_origin(f"{scheme}://127.0.0.1:{port}", allow_private=True)
    pool = UpstreamPool()
    found = {
        "µs/request, 171 B, 1 connection": await requests(pool, origin, pins, b"/small", options.requests // 4, 1),
        "µs/request, 171 B, 16 connections": await requests(pool, origin, pins, b"/small", options.requests, 16),
        "µs/request, 34 KB, 16 connections": await requests(pool, origin, pins, b"/large", options.requests // 4, 16),
    }
    found["µs/chunk, 16 streams"], _ = await streams(pool, origin, pins, 16, 4)
    name = f"{options.streams} streams"
    found[f"µs/chunk, {name}"], found[f"chunks/s, {name}"] = await streams(pool, origin, pins, options.streams, 4)
    found["µs/request through httpx, 1 connection"] = await through_httpx(pool, origin, options.requests // 20)
    await pool.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tls", action="store_true", help="self-signed TLS 1.3 with a pinned key")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    certificate, pins = None, None
    if options.tls:
        certificate, pin = self_signed()
        pins = frozenset({pin})
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, certificate), daemon=True)
    server.start()
    try:
        port = ours.recv()
        factory = uvloop.new_event_loop if options.loop == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            found = runner.run(measure(port, pins, options))
    finally:
        server.terminate()
        server.join()
    if options.json:
        print(json.dumps({name: round(value, 2) for name, value in found.items()}, ensure_ascii=False))
    else:
        for name, value in found.items():
            print(f"{value:10.1f}  {name}")


if __name__ == "__main__":
    main()
