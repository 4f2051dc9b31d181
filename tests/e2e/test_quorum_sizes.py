"""Quorums over answers of any size: what is too large to compare is missing, and the others decide."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import Gateway
from scripted import ScriptedNode

POLICY = """
name = "three"
version = 1
summary = "Three operators agree."
require = { all = ["malformed", "shape", "signature", "request_bound", "response_bound", "proof_quorum"] }
[quorum]
n = 3
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


def test_an_answer_that_is_too_large_to_compare_counts_for_nothing(
    nodes: list[ScriptedNode], make_gateway: Callable[..., Gateway], tmp_path: Path
):
    """A node that pads its answer is missing from the quorum, however well the rest of it agrees."""
    for place, node in enumerate(nodes):
        padding = {"padding": "x" * 9_000_000} if place == 0 else {}
        answer = {"id": "c", "object": "chat.completion", "model": "m", "choices": [CHOICE]} | padding
        node.script = node.json(json.dumps(answer).encode())
    (tmp_path / "three.toml").write_text(POLICY)
    tables = [node.table(f"n{place}", operator=f"op-{place}") for place, node in enumerate(nodes)]
    gateway = make_gateway(tables, policy={"default": "three", "dir": str(tmp_path)}).start()
    with gateway.http() as client:
        answer = client.post("/v1/chat/completions", json=REQUEST)
    assert answer.status_code == 502, answer.text
    told = {node["node"]: node["reason"] for node in answer.json()["error"]["nodes"]}
    assert told["n0"] == "too_large"
