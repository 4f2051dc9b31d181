"""Quorums of nodes that pad their answers, or never end them: the others decide, and nobody waits."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from running import Gateway
from scripted import Received, ScriptedNode

POLICY = """
name = "some"
version = 1
summary = "Some operators agree."
require = {{ all = ["malformed", "shape", "signature", "request_bound", "response_bound", "proof_quorum"] }}
[quorum]
n = {n}
m = 3
"""
REQUEST = {
    "model": "m",
    "messages": [{"role": "user", "content": "?"}],
    "response_format": {"type": "json_object"},
}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": '{"a": 1}'}, "finish_reason": "stop"}


@pytest.fixture
def nodes() -> Iterator[list[ScriptedNode]]:
    made = [ScriptedNode(seed=bytes([n]) * 32) for n in range(1, 4)]
    yield made
    for node in made:
        node.close()


@pytest.fixture
def gateway_of(
    nodes: list[ScriptedNode], make_gateway: Callable[..., Gateway], tmp_path: Path
) -> Callable[[int], Gateway]:
    def make(n: int) -> Gateway:
        (tmp_path / "some.toml").write_text(POLICY.format(n=n))
        tables = [node.table(f"n{place}", operator=f"op-{place}") for place, node in enumerate(nodes)]
        return make_gateway(tables, policy={"default": "some", "dir": str(tmp_path)}).start()

    return make


def answer(**more: str) -> bytes:
    return json.dumps({"id": "c", "object": "chat.completion", "model": "m", "choices": [CHOICE], **more}).encode()


def test_an_answer_that_is_too_large_to_compare_counts_for_nothing(
    nodes: list[ScriptedNode], gateway_of: Callable[[int], Gateway]
):
    """A node that pads its answer is missing from the quorum, however well the rest of it agrees."""
    for node in nodes:
        node.script = node.json(answer())
    nodes[0].script = nodes[0].json(answer(padding="x" * 9_000_000))
    with gateway_of(3).http() as client:
        refused = client.post("/v1/chat/completions", json=REQUEST)
    assert refused.status_code == 502, refused.text
    assert {node["node"]: node["reason"] for node in refused.json()["error"]["nodes"]}["n0"] == "too_large"


def test_a_node_that_hangs_is_not_waited_for(nodes: list[ScriptedNode], gateway_of: Callable[[int], Gateway]):
    """Two of three agree long before the third one's time is over: the answer leaves then, and the receipt says so."""

    async def hang(of: Received) -> AsyncIterator[bytes | float]:
        yield 60.0

    for node in nodes:
        node.script = node.json(answer())
    nodes[0].script = hang
    with gateway_of(2).http() as client:
        for _ in range(20):
            started = time.monotonic()
            released = client.post("/v1/chat/completions", json=REQUEST)
            assert (released.status_code, time.monotonic() - started < 10) == (200, True), released.text
            (proof,) = released.json()["verification"]["proofs"]
            told = {a["node"]: a["outcome"] for a in proof["answers"]}
            if "n0" in told:
                break
    assert told == {"n0": "not_waited_for", "n1": "agrees", "n2": "agrees"}
