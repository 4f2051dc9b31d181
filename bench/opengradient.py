#!/usr/bin/env python3
"""The gateway in front of an OpenGradient network, beside the node alone: first byte, CPU, latency.

    make bench-opengradient
    python bench/opengradient.py --requests 2000 --rounds 5
    python bench/opengradient.py --json

The network is the test suite's (`tests/opengradient_world`), in a process of its own: RPC endpoints, an enclave behind
TLS with evidence under a test root, and the OHTTP relay. Two gateways stand before it, one direct and one sealed, each
under a policy like `signed` with `release.stream = ["window", "buffer"]` and a window of one event. Every answer is
checked, and every prompt is another one. Each round measures all in turn; figures are medians over rounds. A sealed
stream of the network begins with its nonce, one gap before the first chunk, so its first byte is held against that of
the node's own sealed stream.

Exits 1 when a target is missed or an answer was wrong. Talks to 127.0.0.1 only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(HERE)]  # the network and the way to run a gateway are the tests'

import measure  # noqa: E402

MODEL = "gpt-4.1"
CHUNKS, GAP_MS, CHUNK = 50, 20, 9  # the network cuts text into deltas of nine characters
FIRST_BYTE_MS, CPU_MS = 50.0, 1.25
#: What OpenGradient's own local proxy needs (opengradient-veil 0.2.9; another day, two busy cores, the same kind of
#: network): milliseconds. Its streams begin when they end; the node itself began after 107 ms.
PEER = {"cpu_ms": 2.5, "p50_16_ms": 48.0, "first_byte_ms": 1197.0, "first_byte_node_ms": 107.0}

POLICY = """name = "window"
version = 1
summary = "As signed, with the last event of a stream held back."
on_failure = "refuse"
warnings = "accept"
attach = "summary"
[require]
all = [
  "evidence", "key_bound", "keyset_valid", "fresh", "signature", "request_bound", "response_bound", "replay",
  "model_echo", "malformed", "shape", "stream_grammar", "coverage", "executable_uncovered", "tool_undeclared",
]
[networks]
allow = ["opengradient"]
[freshness]
evidence_max_age_s = 600
response_skew_s = 120
[replay]
nonce = "offered"
journal = true
[release]
stream = ["window", "buffer"]
window_events = 1
window_ms = 1
[audit]
durability = "durable"
on_log_failure = "refuse"
[executables]
undeclared = "refuse"
arguments = "refuse"
"""


class Wrong(Exception):
    """An answer that is not what it has to be: the run ends."""


class Place(NamedTuple):
    """Whom to ask: the node, or a gateway with its key. `pid` is the process whose CPU counts."""

    name: str
    port: int
    key: str
    pid: int
    verified: bool


def serve_network(folder: Path) -> None:
    """Run the network until standard input ends; the first line says where it is."""
    from og_running import settings
    from opengradient_world import Network
    from opengradient_world.network import TOKEN

    with Network(combined=True, gap_s=GAP_MS / 1000) as network:
        tables = settings(network, folder)
        said = {"port": int(network.relay_url.rpartition(":")[2]), "tee_id": network.enclave.tee_id, "tables": tables}
        said |= {"token": TOKEN, "key_config": network.enclave.keys.opener.blob().hex()}
        print(json.dumps(said), flush=True)
        sys.stdin.read()


@contextlib.contextmanager
def network_process(folder: Path) -> Iterator[tuple[dict[str, Any], int]]:
    command = [sys.executable, str(HERE / "opengradient.py"), "--serve-network", str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise Wrong("the network did not start")
        yield json.loads(line), process.pid
    finally:
        if process.stdin:
            process.stdin.close()
        process.wait(20)


@contextlib.contextmanager
def gateway(folder: Path, said: dict[str, Any], transport: str) -> Iterator[Place]:
    from og_running import TOKEN_ENV, node
    from running import Gateway

    folder.mkdir()
    (folder / "policies").mkdir()
    (folder / "policies" / "window.toml").write_text(POLICY, "utf-8")
    tables = json.loads(json.dumps(said["tables"]))
    tables["networks.opengradient"]["transport"] = transport
    policy = {"dir": str(folder / "policies"), "default": "window"}
    served = Gateway(folder, [node(pin=said["tee_id"])], **tables, policy=policy)
    served.start(env=TOKEN_ENV)
    try:
        assert served.process is not None
        port = int(served.url.rpartition(":")[2])
        yield Place(transport, port, served.key, served.process.process.pid, True)
    finally:
        served.stop()


_numbers = itertools.count()


def request(place: Place, *, stream: bool) -> tuple[bytes, str]:
    """One request that nobody made before, and the text that answers it."""
    mark = f"{next(_numbers):08d} "
    text = (
        (mark * (CHUNKS * CHUNK // len(mark)))[: CHUNKS * CHUNK] if stream else mark + "and the rest of a short answer"
    )
    document = {"model": MODEL, "messages": [{"role": "user", "content": "echo: " + text}], "temperature": 0.7}
    body = json.dumps({**document, **({"stream": True} if stream else {})}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{place.port}\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {place.key}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body, text


class Connection:
    """One kept-alive connection. As little work as may be for each answer: this process is no part of what is timed."""

    def __init__(self, place: Place) -> None:
        self.place = place

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.place.port, limit=1 << 20)

    async def whole(self) -> float:
        """Milliseconds of one JSON answer."""
        data, text = request(self.place, stream=False)
        begun = time.perf_counter()
        self.writer.write(data)
        status, headers = await self._head()
        body = await self.reader.readexactly(int(headers[b"content-length"]))
        took = (time.perf_counter() - begun) * 1000
        answer = json.loads(body) if status == 200 else {}
        if not answer or answer["choices"][0]["message"]["content"] != text:
            raise Wrong(f"{self.place.name}: {status} {body[:300]!r}")
        if self.place.verified and answer["verification"]["release"] != "released":
            raise Wrong(f"{self.place.name}: {answer['verification']}")
        return took

    async def streamed(self) -> float:
        """Milliseconds to the first piece of text of one stream, which is then read and checked to its end."""
        data, text = request(self.place, stream=True)
        begun = time.perf_counter()
        self.writer.write(data)
        status, _ = await self._head()
        first, found, raw = None, "", b""
        while size := int(await self.reader.readline(), 16):
            raw += (await self.reader.readexactly(size + 2))[:-2]
            while b"\n\n" in raw:
                event, _, raw = raw.partition(b"\n\n")
                said = _text(event)
                if said and first is None:
                    first = (time.perf_counter() - begun) * 1000
                found += said
        await self.reader.readexactly(2)
        if status != 200 or found != text or first is None:
            raise Wrong(f"{self.place.name}: stream {status}, {len(found)} of {len(text)} characters")
        return first

    async def sealed(self, said: dict[str, Any]) -> float:
        """Milliseconds to the first piece of text of one sealed stream, straight from the relay."""
        from gateway.crypto.ohttp import encapsulate
        from gateway.crypto.ohttp_keys import parse_key_config

        inner = request(self.place, stream=True)[0].partition(b"\r\n\r\n")[2]
        begun = time.perf_counter()
        made = encapsulate(parse_key_config(bytes.fromhex(said["key_config"])), inner, os.urandom(32))
        head = "POST /api/v1/chat/ohttp HTTP/1.1\r\nHost: relay\r\nContent-Type: message/ohttp-req\r\nX-OHTTP-Stream: true\r\n"
        head += f"X-TEE-ID: {said['tee_id']}\r\nAuthorization: Bearer {said['token']}\r\nContent-Length: {len(made.wire)}\r\n\r\n"
        self.writer.write(head.encode() + made.wire)
        await self._head()
        opener, first = made.exchange.opener(), None
        while size := int(await self.reader.readline(), 16):
            events = b"".join(opener.feed((await self.reader.readexactly(size + 2))[:-2]))
            if first is None and _text(events.partition(b"\n\n")[0]):
                first = (time.perf_counter() - begun) * 1000
        await self.reader.readexactly(2)
        if first is None:
            raise Wrong("the relay's sealed stream holds no text")
        return first

    async def _head(self) -> tuple[int, dict[bytes, bytes]]:
        line, *rest = (await self.reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        pairs = (header.partition(b":") for header in rest if header)
        return int(line.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}


def _text(event: bytes) -> str:
    if not event.startswith(b"data: {"):
        return ""
    choices = json.loads(event[6:]).get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") or ""


async def load(place: Place, connections: int, requests: int) -> dict[str, float]:
    """`requests` JSON answers over `connections`; latency in ms, and the CPU of the place's processes in ms a request."""
    clients = [Connection(place) for _ in range(connections)]
    for client in clients:
        await client.open()
    left, took = iter(range(requests)), []

    async def work(client: Connection) -> None:
        for _ in left:
            took.append(await client.whole())

    pids = measure.tree(place.pid)
    before, begun = measure.cpu_seconds(pids), time.perf_counter()
    await asyncio.gather(*map(work, clients))
    cpu, wall = measure.cpu_seconds(pids) - before, time.perf_counter() - begun
    for client in clients:
        client.writer.close()
    took.sort()
    p99 = took[(len(took) * 99 - 1) // 100]
    return {"p50": statistics.median(took), "p99": p99, "cpu": cpu / requests * 1000, "rate": requests / wall}


async def first_bytes(place: Place, streams: int, said: dict[str, Any] | None = None) -> float:
    """The median of `streams` streams; of sealed ones where `said` describes the network."""
    client = Connection(place)
    await client.open()
    took = [await (client.streamed() if said is None else client.sealed(said)) for _ in range(streams)]
    client.writer.close()
    return statistics.median(took)


async def rounds(places: list[Place], said: dict[str, Any], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Every figure of every place, medians over rounds."""
    samples: dict[str, dict[str, list[float]]] = {place.name: {} for place in places} | {"sealed": {}}
    for number in range(args.rounds):
        samples["sealed"].setdefault("first_byte_ms", []).append(await first_bytes(places[0], args.streams, said))
        for place in places if number % 2 == 0 else places[::-1]:
            await load(place, 16, 64)
            found = {"first_byte_ms": await first_bytes(place, args.streams)}
            for connections, requests in ((1, args.requests // 4), (16, args.requests)):
                figures = await load(place, connections, requests)
                found |= {f"{name}_{connections}": value for name, value in figures.items()}
            for name, value in found.items():
                samples[place.name].setdefault(name, []).append(value)
    return {
        place: {name: round(statistics.median(values), 3) for name, values in figures.items()}
        for place, figures in samples.items()
    }


def targets(found: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Each target with what was found, and whether it is met."""
    rows = []
    for name, own in (("direct", "node"), ("ohttp", "sealed")):
        more = found[name]["first_byte_ms"] - found[own]["first_byte_ms"]
        rows.append((f"first byte of a stream, {name}: ms after the node's own", more, FIRST_BYTE_MS))
        rows.append((f"CPU ms a request at 16 connections, {name}", found[name]["cpu_16"], CPU_MS))
    return [
        {"target": what, "found": round(value, 3), "limit": limit, "met": value <= limit} for what, value, limit in rows
    ]


def table(found: dict[str, dict[str, float]], judged: list[dict[str, Any]]) -> str:
    columns = ("first_byte_ms", "p50_1", "p99_1", "p50_16", "p99_16", "rate_16", "cpu_1", "cpu_16")
    lines = [f"{'':<8}" + "".join(f"{name:>14}" for name in columns)]
    lines += [
        f"{place:<8}" + "".join(f"{f[name]:>14.2f}" if name in f else f"{'':>14}" for name in columns)
        for place, f in found.items()
    ]
    lines += [
        "",
        "ms; rate in answers a second; node: the node alone, in plain HTTP; sealed: through its relay; cpu: of the gateway, or of the node",
    ]
    lines += [f"its own local proxy, another day: {', '.join(f'{name} {value:g}' for name, value in PEER.items())}", ""]
    lines += [
        f"{'met ' if row['met'] else 'MISSED'} {row['target']}: {row['found']:g} (at most {row['limit']:g})"
        for row in judged
    ]
    return "\n".join(lines)


def measured(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    os.environ["PYTHONPATH"] = str(ROOT)  # the gateway of this checkout, whichever is installed
    with tempfile.TemporaryDirectory(prefix="veriroute-og-", dir=args.data) as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        said, pid = stack.enter_context(network_process(folder))
        places = [Place("node", said["port"], "none", pid, False)]
        for transport in ("direct", "ohttp"):
            places.append(stack.enter_context(gateway(folder / transport, said, transport)))
        return asyncio.run(rounds(places, said, args))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=800, help="JSON requests at 16 connections; a quarter at one")
    parser.add_argument("--streams", type=int, default=3, help="streams of 50 chunks, 20 ms apart")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, help="folder for the gateways' databases (default: the system's own)")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--serve-network", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.serve_network:
        serve_network(args.serve_network)
        return 0
    try:
        found = measured(args)
    except Wrong as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    judged = targets(found)
    print(
        json.dumps({"figures": found, "targets": judged, "peer": PEER}, indent=1) if args.json else table(found, judged)
    )
    return 0 if all(row["met"] for row in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
