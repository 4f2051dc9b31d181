"""Each way for a node to lie, in JSON and in every release mode of a stream: refused, for its own reason, and recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from running import Gateway, Process

LIES = {
    "tamper": ("evidence_rejected", "response_bound", "contraindicated"),
    "swap-model": ("evidence_rejected", "model_echo", "contraindicated"),
    "wrong-key": ("evidence_rejected", "signature", "contraindicated"),
    "replay": ("evidence_rejected", "replay", "contraindicated"),
    "truncate": ("upstream_failed", "truncated", "none"),
}
MODES = ("json", "buffer", "window", "optimistic", "chained")
ASK: list[Any] = [{"role": "user", "content": "What is a receipt?"}]


def policy(mode: str) -> str:
    """The built-in policy `signed`, with another release mode."""
    text = (resources.files("policies") / "signed.toml").read_text("utf-8")
    assert 'stream = ["chained", "buffer"]' in text
    released = f'stream = ["{mode}"]\nwindow_events = 2\nwindow_ms = 1'
    return text.replace('name = "signed"', f'name = "signed-{mode}"').replace(
        'stream = ["chained", "buffer"]', released
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, dict[str, str]]]:
    """A gateway before one node a lie, known under one model name a mode, so that no quarantine hides the next case."""
    folder: Path = tmp_path_factory.mktemp("dishonest")
    nodes: list[Process] = []
    tables: list[dict[str, Any]] = []
    for lie in LIES:
        names = [f"{lie}-{mode}" for mode in MODES]
        options = [word for name in names for word in ("--model-name", name)]
        identity = str(folder / f"{lie}.json")
        node = Process(
            ["node", "--port", "0", "--json", "--identity", identity, "--dishonest", lie, *options], cwd=folder
        )
        nodes.append(node)
        tables += [{"id": n, "base_url": node.url, "models": [n], "pin": node.ready["pin"]} for n in names]
    (folder / "policies").mkdir()
    for mode in MODES[1:]:
        (folder / "policies" / f"signed-{mode}.toml").write_text(policy(mode), "utf-8")
    gateway = Gateway(folder, tables, policy={"dir": str(folder / "policies")})
    keys = {mode: gateway.create_key(mode, "--policy", f"signed-{mode}") for mode in MODES[1:]}
    gateway.start()
    yield gateway, {"json": gateway.key, **keys}
    gateway.stop()
    for node in nodes:
        node.stop()


def ask(gateway: Gateway, key: str, model: str, stream: bool) -> tuple[int, httpx.Headers, bytes, bool]:
    """Status, headers, body, and whether the body ended as HTTP says it should."""
    body = {"model": model, "messages": ASK, "max_tokens": 24, "seed": 3, "stream": stream}
    received = b""
    with gateway.http(key) as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
        try:
            for piece in answer.iter_raw():
                received += piece
        except httpx.RemoteProtocolError:
            return answer.status_code, answer.headers, received, False
        return answer.status_code, answer.headers, received, True


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused(world: tuple[Gateway, dict[str, str]], lie: str, mode: str) -> None:
    """The answer does not arrive as one; the error names the lie; the receipt says the same and verifies."""
    gateway, keys = world
    code, reason, verdict = LIES[lie]
    model = f"{lie}-{mode}"
    for _ in range(3):  # a replay needs something to replay
        status, headers, body, ended = ask(gateway, keys[mode], model, mode != "json")
        if status != 200 or not ended:
            break
    if status == 200:
        assert mode in ("window", "optimistic", "chained")
        assert not ended, "a refused stream must not end as a good one does"
        assert b"[DONE]" not in body
        assert b'"finish_reason":"stop"' not in body
        assert b'"finish_reason":"length"' not in body
        error = json.loads(body.rstrip().rsplit(b"data: ", 1)[1])["error"]
    else:
        assert ended
        assert status == 502
        assert headers["x-should-retry"] == "false"
        assert headers["x-veriroute-verdict"] == verdict
        error = json.loads(body)["error"]
        assert b"choices" not in body
    assert (error["code"], error["reason"]) == (code, reason)
    receipt = gateway.receipt_of(error["receipt"], keys[mode])
    assert (receipt["verdict"], receipt["release"], receipt["reason"]) == (verdict, "withheld", reason)
    if code == "evidence_rejected":
        found = {c["id"]: c["outcome"] for c in receipt["checks"]}
        assert found[reason] == "contraindicated"
    row = next(r for r in gateway.receipts(limit=1000) if r["receipt"] == error["receipt"]) if mode == "json" else None
    assert row is None or (row["verdict"], row["reason"], row["node"]) == (verdict, reason, model)


@pytest.mark.parametrize("lie", [lie for lie in LIES if lie != "truncate"])
def test_a_liar_is_quarantined(world: tuple[Gateway, dict[str, str]], lie: str) -> None:
    """After a contraindicated answer the node serves nobody: no eligible node, with the reason, and a receipt."""
    gateway, keys = world
    model = f"{lie}-buffer"
    for _ in range(4):
        status, _, body, _ = ask(gateway, keys["buffer"], model, True)
        if status == 503:
            break
    error = json.loads(body)["error"]
    assert (status, error["code"], error["reason"]) == (503, "no_eligible_node", "quarantined")
    assert error["nodes"] == [{"node": model, "reason": "quarantined", "cause": LIES[lie][1]}]
    receipt = gateway.receipt_of(error["receipt"], keys["buffer"])
    assert (receipt["release"], receipt["route"]["decision"]) == ("refused", "refused")
    assert "served" not in receipt


def test_the_sdk_raises(world: tuple[Gateway, dict[str, str]]) -> None:
    """Through the SDK a refusal is an exception with our code, in JSON and in the middle of a stream, and is not retried."""
    gateway, keys = world
    with gateway.sdk(keys["json"]) as client, pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="truncate-json", messages=ASK, max_tokens=24)
    assert caught.value.code == "upstream_failed"
    before = len(gateway.receipts(limit=1000))
    with gateway.sdk(keys["json"], max_retries=2) as client, pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="truncate-json", messages=ASK, max_tokens=24)
    assert len(gateway.receipts(limit=1000)) == before + 1
    with gateway.sdk(keys["optimistic"]) as client, pytest.raises(openai.APIError) as raised:
        for _ in client.chat.completions.create(model="truncate-optimistic", messages=ASK, max_tokens=24, stream=True):
            pass
    assert raised.value.code == "upstream_failed"
