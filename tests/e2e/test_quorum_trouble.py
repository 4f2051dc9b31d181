"""The gateway stops or dies while a quorum is heard: each exchange with a node has its receipt, and the log is sound."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from agents import connect, prompt, raw_request, read_all
from ledger import Ledger, audited
from running import Gateway
from scripted import Received, ScriptedNode


@pytest.fixture
def nodes() -> Iterator[list[ScriptedNode]]:
    """Three that answer nothing, after the first has said that it will."""
    made = [ScriptedNode() for _ in range(3)]

    async def silent(of: Received) -> AsyncIterator[bytes | float]:
        yield 60.0

    for node in made:
        node.script = silent
    yield made
    for node in made:
        node.close()


@pytest.fixture
def gateway(tmp_path: Path, nodes: list[ScriptedNode]) -> Iterator[Gateway]:
    tables: list[dict[str, Any]] = [
        {"id": f"n{n}", "network": "openai", "base_url": node.url, "models": ["m"], "operator": f"op{n}"}
        for n, node in enumerate(nodes)
    ]
    gateway = Gateway(tmp_path, tables, policy={"default": "quorum"}, server={"drain_s": 0.5}).start()
    yield gateway
    if gateway.process is not None:
        gateway.stop(signal.SIGKILL)


def asked(nodes: list[ScriptedNode]) -> int:
    return sum(len(node.received) for node in nodes)


def wait_for(what: Callable[[], bool], within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def ask(gateway: Gateway, name: str) -> bytes:
    with connect(gateway.url) as sock:
        sock.sendall(raw_request(gateway.url, gateway.key, name, prompt(name)))
        return b"".join(read_all(sock))


def test_a_stop_ends_every_exchange_of_a_quorum(gateway: Gateway, nodes: list[ScriptedNode]) -> None:
    """SIGTERM, and after the grace time the agents are told; parents and children have their receipts, in this run."""
    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, gateway, f"r{n}") for n in range(4)]
        wait_for(lambda: asked(nodes) == 8)
        assert gateway.stop() == 0
        for future in asking:
            head, _, body = future.result(30).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 500 ")
            assert b"x-should-retry: false" in head
            assert json.loads(body)["error"]["reason"] == "stopped"
    ledger = Ledger(gateway.database).check()
    own = {ledger.of(f"r{n}").id for n in range(4)}
    children = [row for row in ledger.receipts if row.id not in own]
    assert len(children) == 8
    assert {row.predicate["parent"] for row in children} == own
    assert {(row.release, row.reason) for row in children} == {("abandoned", "not_waited_for")}
    assert {row.reason for row in ledger.receipts if row.id in own} == {"stopped"}
    assert ledger.events[-1].kind == "stop"
    audited(gateway)


def test_a_killed_quorum_is_closed_by_the_next_start(gateway: Gateway, nodes: list[ScriptedNode]) -> None:
    """After kill -9 every prompt that left has a receipt, which names the exchange that it was for."""
    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask, gateway, f"r{n}") for n in range(2)]
        wait_for(lambda: asked(nodes) == 4)
        gateway.stop(signal.SIGKILL)
        for future in asking:
            assert future.result(30) == b""
    gateway.start()
    ledger = Ledger(gateway.database).check()
    assert [(row.release, row.reason) for row in ledger.receipts] == [("abandoned", "crash")] * 4
    parents = [row.predicate["parent"] for row in ledger.receipts]
    assert len(set(parents)) == 2
    assert not set(parents) & {row.id for row in ledger.receipts}
    audited(gateway)
    assert gateway.stop() == 0
