"""What docs/networks/opengradient.md says that its policy and the built-in ones do, done with the test network."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
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


@contextlib.contextmanager
def by_hand(root: Path) -> Iterator[dict[str, Any]]:
    """The test network as the page starts it, and the line that it prints."""
    command = [sys.executable, "-m", "opengradient_world", "--port", "0", "--root", str(root)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(kit.ROOT / "tests"), str(kit.ROOT)])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


def normal(text: str) -> str:
    """What the doctor prints, without what is another each time: keys, digests, ports, ages."""
    text = re.sub(r"[0-9a-f]{16,}", "#", text)
    return re.sub(r"og-[0-9a-f]{8}|127\.0\.0\.1:\d+|\d+ s old", "#", text).strip()


def test_the_doctor_s_output_can_be_repeated_by_hand(tmp_path: Path) -> None:
    """With the network, settings and table of the page, the doctor prints what the page shows, line by line."""
    (toml,) = (block for block in kit.blocks(PAGE, "toml") if "root.der" in block)
    (table,) = (block for block in kit.blocks(PAGE, "json") if block.startswith('{"schema": "opengradient-pcrs/1"'))
    (shown,) = (block for block in kit.blocks(PAGE, "") if block.startswith("$ veriroute doctor"))
    (tmp_path / "policies.d").mkdir()
    (tmp_path / "policies.d" / "opengradient.toml").write_text(POLICY, "utf-8")
    (tmp_path / "pcrs.json").write_text(table, "utf-8")
    with by_hand(tmp_path / "root.der") as line:
        settings = re.sub(r"^rpc = .*$", f"rpc = {json.dumps(line['rpcs'])}", toml, flags=re.MULTILINE)
        (tmp_path / "veriroute.toml").write_text(settings, "utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *shown.split("\n")[0].split()[2:]],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(kit.ROOT)},
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert line["pcr_hash"] in table
    assert normal(done.stdout) == normal(shown.split("\n", 1)[1])
