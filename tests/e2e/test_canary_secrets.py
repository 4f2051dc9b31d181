"""Secrets, prompts and answers that can be told apart, searched for wherever a gateway writes or shows anything."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agents import ANSWER
from running import Gateway
from scripted import ScriptedNode

#: What no place may hold; each is found in whatever it ends up in.
CANARIES = {
    "provider key": "sk-canary-provider-5f2a",
    "wallet": "c0ffee" * 10 + "beef",
    "prompt": "canary-prompt-7be1",
    "answer": "canary-answer-913c",
    "node error": "canary-upstream-error-44d0",
    "wrong key": "vr-canary-wrong-key-0000000000000000000000000000",
    "header": "canary-header-66f1",
    "admin": "canary-admin-key-1177",
}
ASSET = {
    "network": "eip155:84532", "address": "0x" + "41" * 20, "decimals": 6, "unit": "OPG",
    "per_request": "1", "per_key_day": "2", "per_node_day": "2", "global_day": "3",
}  # fmt: skip


@pytest.fixture
def nodes() -> Iterator[tuple[ScriptedNode, ScriptedNode]]:
    """One that gives evidence, and one that has a key to be called with."""
    made = ScriptedNode(), ScriptedNode(b"\x12" * 32, models=("hosted",))
    yield made
    for node in made:
        node.close()


def _talk(gateway: Gateway, signing: ScriptedNode, hosted: ScriptedNode) -> list[str]:
    """Requests that are answered, refused and failed in every way that has words of its own; the receipts' ids."""
    said = ANSWER.replace(b"hello", CANARIES["answer"].encode())
    told = CANARIES["node error"].encode()
    wrong = b"{" + told
    ways = [
        (signing, signing.json(said)),
        (signing, signing.json(said, covered=b"something else")),
        (signing, signing.json(wrong)),
        (signing, signing.json(b'{"error":{"message":"' + told + b'"}}', status=500)),
        (signing, signing.raw(b"HTTP/1.1 " + told + b"\r\n\r\n")),
        (signing, signing.raw(signing.head(200, said, ("x-" + told.decode(), told.decode())) + said + told)),
        (hosted, hosted.raw(hosted.head(200, said) + said)),
        (hosted, hosted.raw(hosted.head(401, told) + told)),
        (hosted, hosted.raw(hosted.head(200, said)[:40])),
    ]
    found = []
    with gateway.http() as client:
        client.headers["x-canary"] = CANARIES["header"]
        for stream in (False, True):
            for node, script in ways:
                node.script = script
                body = {
                    "model": node.models[0],
                    "messages": [{"role": "user", "content": CANARIES["prompt"]}],
                    "stream": stream,
                    "user": CANARIES["prompt"],
                }
                answer = client.post("/v1/chat/completions", json=body)
                found.append(answer.headers["x-veriroute-receipt"])
                assert CANARIES["node error"] not in answer.text
        for bad in (b"{" + CANARIES["prompt"].encode(), b'{"model":["' + CANARIES["prompt"].encode() + b'"]}'):
            refused = client.post("/v1/chat/completions", content=bad, headers={"content-type": "application/json"})
            assert refused.status_code == 400
        assert client.get(f"/{CANARIES['prompt']}?{CANARIES['prompt']}").status_code == 404
    with gateway.http(CANARIES["wrong key"]) as client:
        assert client.post("/v1/chat/completions", json={}).status_code == 401
    return found


def _shown(gateway: Gateway, receipts: list[str]) -> dict[str, str]:
    """Every place that somebody else than the caller may look into, with what stands there."""
    assert gateway.process is not None
    number = gateway.process.process.pid
    with gateway.http(gateway.admin_key) as client:
        places = {path: client.get(path).text for path in ("/metrics", "/readyz", "/v1/models", "/log/checkpoint")}
    with gateway.http() as client:
        for name in receipts:
            bundle = client.get(f"/v1/receipts/{name}/bundle").json()
            places[f"bundle of {name}"] = json.dumps(bundle)
            places[f"receipt {name}"] = base64.b64decode(bundle["receipt"]["payload"]).decode()
    places["arguments"] = Path(f"/proc/{number}/cmdline").read_text("utf-8")
    places["settings"] = gateway.cli("config", "show", "--config", str(gateway.config))
    gateway.stop()
    places["logs"] = "".join(path.read_text("utf-8") for path in gateway.folder.glob("err-*.log"))
    for path in gateway.folder.rglob("*"):
        if path.is_file() and path.suffix != ".log":
            places[path.name] = path.read_bytes().decode("latin-1")
    return places


def test_k14_canaries_are_found_nowhere(
    nodes: tuple[ScriptedNode, ScriptedNode], make_gateway: Callable[..., Gateway]
) -> None:
    """Neither in logs at debug, metrics, receipts, bundles, files and arguments, nor an upstream error in an answer."""
    signing, hosted = nodes
    table = {"id": "hosted", "network": "openai", "base_url": hosted.url, "models": ["hosted"]}
    gateway = make_gateway(
        [signing.table(), table],
        policy={"default": "observe"},
        networks={"openai": {"nodes": {"hosted": {"api_key_env": "CANARY_PROVIDER_KEY"}}}},
        payment={"networks": ["eip155:84532"], "schemes": ["exact"], "wallet_env": "CANARY_WALLET", "assets": [ASSET]},
    )
    gateway.start(
        "--log-level",
        "debug",
        env={
            "CANARY_PROVIDER_KEY": CANARIES["provider key"],
            "CANARY_WALLET": CANARIES["wallet"],
            "VERIROUTE_ADMIN_KEY": CANARIES["admin"],
        },
    )
    receipts = _talk(gateway, signing, hosted)
    assert hosted.received[0].header(b"authorization") == b"Bearer " + CANARIES["provider key"].encode()
    places = _shown(gateway, receipts)
    assert "log.opened" in places["logs"]
    secrets = {**CANARIES, "agent's key": gateway.key, "admin's key": gateway.admin_key}
    assert [(what, place) for place, text in places.items() for what, secret in secrets.items() if secret in text] == []
