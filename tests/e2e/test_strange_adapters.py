"""A gateway with adapters of strangers that fail or never come back: their networks serve nobody, the others do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from running import MODEL, Gateway, Process, node_table

MODULE = """
import asyncio
from adapters.aci import AciAdapter

class Raises(AciAdapter):
    network = "raises"
    async def evidence(self, node, nonce, client):
        raise SystemExit("a canary-secret in its words")

class Loops(AciAdapter):
    network = "loops"
    async def evidence(self, node, nonce, client):
        while True:
            await asyncio.sleep(0)

raises, loops = Raises(), Loops()
"""
STRANGE = {"broken": "breaks:adapter", "raises": "strange:raises", "loops": "strange:loops"}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with a distribution that brings the adapters, as an installer lays it out."""
    folder = tmp_path / "site"
    info = folder / "strangers-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers\nVersion: 1.0\n", "utf-8")
    points = "".join(f"{network} = {value}\n" for network, value in STRANGE.items())
    (info / "entry_points.txt").write_text(f"[gateway.adapters]\n{points}", "utf-8")
    (folder / "strange.py").write_text(MODULE, "utf-8")
    (folder / "breaks.py").write_text("raise ImportError('it needs what is not there')", "utf-8")
    return folder


def test_l05_an_adapter_that_fails_leaves_the_others_nodes_alone(
    site: Path, node: Process, make_gateway: Callable[..., Gateway]
) -> None:
    """One raises as it is imported, one as it attests, one never comes back: each node has its reason, one answers."""
    strange = [{"id": name, "network": name, "base_url": node.url, "models": [f"of-{name}"]} for name in STRANGE]
    gateway = make_gateway([node_table(node, "honest"), *strange])
    # What is this checkout's is found first, as where both are installed.
    root = Path(__file__).resolve().parents[2]
    gateway.start(env={"PYTHONPATH": f"{root}:{site}"})
    assert gateway.process is not None
    with gateway.http() as client:
        answers = {
            model: client.post(
                "/v1/chat/completions", json={"model": model, "messages": [{"role": "user", "content": "hi"}]}
            )
            for model in (MODEL, *(f"of-{name}" for name in STRANGE))
        }
        codes = {model: answer.status_code for model, answer in answers.items()}
        assert codes == {MODEL: 200, "of-broken": 503, "of-raises": 503, "of-loops": 503}
        for name in ("broken", "raises"):
            assert "adapter_failed" in answers[f"of-{name}"].json()["error"]["message"]
        assert all(gateway.receipt(answer.headers["x-veriroute-receipt"]) for answer in answers.values())
    lines = [json.loads(line) for line in gateway.process.errors().splitlines()]
    (disabled,) = [line for line in lines if line["event"] == "adapter.disabled"]
    assert disabled["network"] == "broken"
    assert "it needs what is not there" in disabled["error"]
    assert gateway.stop() == 0
