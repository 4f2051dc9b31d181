"""Stopping: SIGTERM drains, a second one and the end of the grace time cut, and every exchange has its receipt."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from agents import ANSWER, STREAM, Agent, Answer, Cut, connect, good_script, prompt, prompt_of, raw_request, read_all
from ledger import Ledger, audited
from policy_kit import write_policy
from running import Gateway
from scripted import Received, ScriptedNode


@pytest.fixture
def node() -> Iterator[ScriptedNode]:
    node = ScriptedNode()
    node.script = good_script(node)
    yield node
    node.close()


def build(folder: Path, node: ScriptedNode, drain_s: float) -> Gateway:
    write_policy(folder / "policies", "streaming", stream='["optimistic"]')
    policy = {"dir": str(folder / "policies"), "default": "streaming"}
    return Gateway(folder, [node.table()], policy=policy, server={"drain_s": drain_s}).start()


def slow_script(node: ScriptedNode, seconds: float) -> Callable[[Received], Any]:
    """Good answers; those to prompts that begin with `slow` take a pause in the middle, the JSON ones at the start."""
    whole, streamed = node.json(ANSWER), node.sse(STREAM)

    async def script(of: Received) -> Any:
        stream = json.loads(of.body)["stream"]
        slow = prompt_of(of).startswith("slow")
        n = 0
        async for part in (streamed if stream else whole)(of):
            if slow and n == (4 if stream else 0):
                yield seconds
            yield part
            n += 1

    return script


def wait_for(what: Callable[[], Any], within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def test_j10_drains_under_load(tmp_path: Path, node: ScriptedNode) -> None:
    """No answer is cut within the grace time, slow streams end with [DONE], what comes late is turned away; exit 0."""
    gateway = build(tmp_path, node, 20.0)
    node.script = slow_script(node, 1.5)
    stop = threading.Event()

    def run(n: int) -> list[tuple[str, Answer | Cut]]:
        found: list[tuple[str, Answer | Cut]] = []
        with Agent(gateway.url, gateway.key) as agent:
            for k in range(100_000):
                name = f"{n}-{k}"
                try:
                    found.append((name, agent.ask(name, prompt(name, stream=k % 2 == 0))))
                except Cut as cut:
                    found.append((name, cut))
                    if cut.begun or stop.is_set():
                        return found
        raise AssertionError("the gateway never went")

    def slow(n: int) -> Answer:
        with Agent(gateway.url, gateway.key) as agent:
            return agent.ask(f"slow-{n}", prompt(f"slow-{n}", stream=n % 2 == 0))

    with ThreadPoolExecutor(12) as pool:
        agents = [pool.submit(run, n) for n in range(4)]
        waiting = [pool.submit(slow, n) for n in range(6)]
        wait_for(lambda: sum(prompt_of(received).startswith("slow") for received in node.received) == 6)
        assert gateway.process is not None
        gateway.process.process.send_signal(signal.SIGTERM)
        stop.set()
        for future in waiting:
            answer = future.result(60)
            assert (answer.status, answer.whole) == (200, True)
            assert answer.verification["level"] == "logged"
        answers = [item for agent in agents for item in agent.result(60)]
    assert gateway.stop() == 0
    ledger = Ledger(gateway.database).check()
    receipts = {row.client: row for row in ledger.receipts}
    served = turned_away = 0
    for name, answer in answers:
        if isinstance(answer, Cut):
            assert not answer.begun, f"the answer {name} was cut"
            assert name not in receipts or receipts[name].release == "released"
        elif answer.status == 200:
            assert answer.whole
            assert receipts[name].release == "released"
            served += 1
        else:
            assert (answer.status, answer.error["code"]) == (503, "busy")
            assert answer.headers["retry-after"] == "1"
            assert name not in receipts
            turned_away += 1
    assert served
    assert turned_away
    assert {prompt_of(received) for received in node.received} == set(receipts)
    assert ledger.events[0].kind == "start"
    last = ledger.events[-1]
    assert (last.kind, last.index, last.predicate["drained"]) == ("stop", ledger.size - 1, True)
    audited(gateway)


@pytest.mark.parametrize("how", ["the grace time ends", "a second signal"])
def test_j10_what_outlasts_the_stop(tmp_path: Path, node: ScriptedNode, how: str) -> None:
    """Exchanges that still run are ended: the agent is told, the receipt says `stopped`, the log is closed, exit 0."""
    gateway = build(tmp_path, node, 0.5 if how == "the grace time ends" else 60.0)
    node.script = slow_script(node, 60.0)
    texts: dict[str, bytes] = {}

    def ask(name: str, stream: bool) -> None:
        with connect(gateway.url) as sock:
            sock.sendall(raw_request(gateway.url, gateway.key, name, prompt(name, stream=stream)))
            texts[name] = b"".join(read_all(sock))

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(ask, f"slow-{n}", n % 2 == 0) for n in range(4)]
        wait_for(lambda: len(node.received) == 4)
        time.sleep(0.2)
        assert gateway.process is not None
        begun = time.monotonic()
        gateway.process.process.send_signal(signal.SIGTERM)
        if how == "a second signal":
            time.sleep(0.3)
            assert not texts
            gateway.process.process.send_signal(signal.SIGTERM)
        for future in running:
            future.result(30)
    assert gateway.stop() == 0
    assert time.monotonic() - begun < 10
    for n in (1, 3):
        head, _, body = texts[f"slow-{n}"].partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 500 ")
        assert b"x-should-retry: false" in head  # the node may have been paid
        error = json.loads(body)["error"]
        assert (error["code"], error["reason"]) == ("internal_error", "stopped")
    for n in (0, 2):
        text = texts[f"slow-{n}"]
        assert b'"reason":"stopped"' in text
        assert b"[DONE]" not in text
        assert not text.endswith(b"0\r\n\r\n")
    ledger = Ledger(gateway.database).check()
    for n in range(4):
        row = ledger.of(f"slow-{n}")
        assert (row.verdict, row.release, row.reason) == ("none", "failed", "stopped")
        assert "forwarded" in row.predicate["request"]
        assert (row.predicate["delivery"]["bytes"] > 0) is (n % 2 == 0)
    last = ledger.events[-1]
    assert (last.kind, last.index, last.predicate["drained"]) == ("stop", ledger.size - 1, False)
    audited(gateway)
