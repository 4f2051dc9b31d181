"""What docs/networks/opengradient.md says that its policy and the built-in ones do, done with the test network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import docs_kit as kit
import pytest
from og_running import MODEL, gateway_for
from opengradient_world import Network

PAGE = kit.text("docs/networks/opengradient.md")
(POLICY,) = (block for block in kit.blocks(PAGE, "toml") if block.startswith("# policies.d/"))
ASKED: Any = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}]}


def prompts(network: Network) -> int:
    """How many requests with a prompt the network has heard."""
    return sum(request.path == "/v1/chat/completions" for _, request in network.heard)


def test_the_policy_of_the_page_releases_an_honest_answer(tmp_path: Path) -> None:
    """Under the page's policy an unpinned node of a known build serves, and the answer says what the page shows."""
    folder = tmp_path / "policies.d"
    folder.mkdir()
    (folder / "opengradient.toml").write_text(POLICY, "utf-8")
    policy = {"dir": str(folder), "default": "opengradient"}
    with Network() as network, gateway_for(network, tmp_path, pin=False, policy=policy) as gateway:
        with gateway.http() as client:
            answer = client.post("/v1/chat/completions", json=ASKED)
        assert prompts(network) == 1
    assert answer.status_code == 200, answer.text
    said = answer.json()["verification"]
    (sample,) = (block for block in kit.blocks(PAGE, "json") if '"verdict"' in block)
    shown = json.loads(sample)
    assert said.keys() - {"openings", "proof"} == shown.keys()
    for member in ("verdict", "network", "model", "executed_in", "claims", "uncovered", "dropped_params"):
        assert said[member] == shown[member], member


@pytest.mark.parametrize("policy", ["strict", "regulated"])
def test_a_policy_that_wants_our_nonce_uses_no_node(tmp_path: Path, policy: str) -> None:
    """No prompt leaves under a built-in policy that asks for the nonce, and the reason is the one that the page gives."""
    with Network() as network, gateway_for(network, tmp_path, policy={"default": policy}) as gateway:
        with gateway.http() as client:
            answer = client.post("/v1/chat/completions", json=ASKED)
        assert prompts(network) == 0
    assert (answer.status_code, answer.json()["error"]["reason"]) == (503, "replay")
