"""An answer whose numbers a circuit proves, through a gateway: the proven ones leave, whatever the node wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zk_kit
from running import Gateway
from scripted import ScriptedNode
from zk_kit import Two

pytestmark = pytest.mark.skipif(zk_kit.missing("py_ecc"), reason="py_ecc is not installed (extra zk)")
IN = {"pointer": "/x", "offset": 0, "count": 1, "scale": 0, "visibility": "public"}
OUT = {"pointer": "/c", "offset": 1, "count": 1, "scale": 0, "tolerance": 0.0, "on_release": "replace"}
POLICY = """
name = "proven"
version = 1
summary = "A circuit proves the numbers."
require = { all = ["malformed", "shape", "signature", "request_bound", "response_bound", "proof_zk"] }
"""
REQUEST = {"model": "m", "messages": [{"role": "user", "content": "?"}], "x": 3}
ANSWER: dict[str, Any] = {
    "id": "c-1",
    "object": "chat.completion",
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "!"}, "finish_reason": "stop"}],
}


@pytest.fixture
def node() -> Iterator[ScriptedNode]:
    made = ScriptedNode()
    yield made
    made.close()


def test_proven_numbers_leave_in_place_of_the_nodes(
    node: ScriptedNode, make_gateway: Callable[..., Gateway], tmp_path: Path
):
    """What is released is what the proof is about, and policy takes it as such; without a proof nothing is."""
    world = Two()
    key = world.key()
    folder = tmp_path / "circuits" / "one"
    folder.mkdir(parents=True)
    (folder / "circuit.toml").write_text(zk_kit.groth16_toml(key, n_instances=2, inputs=[IN], outputs=[OUT]))
    (folder / "vk.json").write_bytes(key)
    (tmp_path / "proven.toml").write_text(POLICY)
    proof = {"circuit": f"sha256:{zk_kit.sha(key)}", "proof": world.prove(3, 7)}
    node.script = node.json(json.dumps(ANSWER | {"c": 1000, "zk": proof}).encode())
    settings = {
        "policy": {"default": "proven", "dir": str(tmp_path)},
        "proofs": {"circuits": str(folder.parent), "zk_seconds": 30.0},
    }
    gateway = make_gateway([node.table()], **settings).start()
    with gateway.http() as client:
        answer = client.post("/v1/chat/completions", json=REQUEST)
        node.script = node.json(json.dumps(ANSWER | {"c": 7}).encode())
        bare = client.post("/v1/chat/completions", json=REQUEST)
    assert (bare.status_code, bare.json()["error"]["checks"][0]["reason"]) == (502, "proof_absent")
    assert answer.status_code == 200, answer.text
    document = json.loads(answer.content)
    assert document["c"] == 7
    found = document["verification"]
    assert (found["verdict"], [p["verdict"] for p in found["proofs"]]) == ("affirming", ["pass"])
