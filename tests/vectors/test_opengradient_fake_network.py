"""The fake OpenGradient network of the shared vectors, served to the stock SDK through the gateway.

It is made for a client that believes the registry: its attestation is of a fixed day in the past, its chain knows two
methods. So the node is pinned, the policy asks for the pinned key and for everything about the answer, and a shim in
front of chain and enclave adds the methods that any real endpoint has, and leaves the old attestation out (it would be
refused for its time, pinned or not).
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from og_running import MODEL
from running import Gateway

FAKE = Path(__file__).parents[2].parent / "shared/vectors/opengradient/fake_network.py"
REGISTRY = "0x703cB174AEadB35D611858369B4b1111dC9Abda6"
pytestmark = pytest.mark.skipif(not FAKE.is_file(), reason=f"the shared fake network is not at {FAKE}")

POLICY = """
name = "pinned"
version = 1
on_failure = "refuse"
warnings = "accept"
[require]
all = ["key_bound", "key_weak", "signature", "request_bound", "response_bound", "replay", "model_echo",
       "malformed", "shape", "stream_grammar", "coverage", "executable_uncovered", "tool_undeclared"]
[release]
stream = ["window", "buffer"]
"""
TOOLS: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]


class Shim(BaseHTTPRequestHandler):
    """Adds `eth_getBlockByNumber` and `eth_getCode` to the fake's chain; of its enclave it gives the OHTTP key alone.
    Everything else is the fake's own answer."""

    protocol_version = "HTTP/1.1"

    fake = ""

    def do_GET(self) -> None:
        if self.path != "/v1/ohttp/config":
            self.answer(404, b"{}")
            return
        self.answer(200, httpx.get(self.fake + self.path, trust_env=False).content)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path != "/":
            given = httpx.post(self.fake + self.path, content=body, trust_env=False, timeout=30)
            self.answer(given.status_code, given.content, given.headers["content-type"])
            return
        asked = json.loads(body)
        if asked["method"] == "eth_getBlockByNumber":
            found = {"number": asked["params"][0], "hash": "0x" + "ab" * 32, "timestamp": hex(int(time.time()))}
            answer = json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": found}).encode()
        elif asked["method"] == "eth_getCode":
            answer = json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": "0x00"}).encode()
        else:
            answer = httpx.post(self.fake, content=body, trust_env=False).content
        self.answer(200, answer)

    def answer(self, status: int, answer: bytes, media: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", media)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""


def start(fault: str) -> tuple[subprocess.Popen[str], str, str]:
    """The fake as a process: it, its address, and its TEE id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, str(FAKE), "--port", str(port), "--chunks", "20", "--fault", fault],
        stdout=subprocess.PIPE,
        text=True,
        cwd=FAKE.parent,
    )
    assert process.stdout is not None
    return process, f"http://127.0.0.1:{port}", json.loads(process.stdout.readline())["tee_id"]


@contextlib.contextmanager
def serving(tmp_path: Path, transport: str, fault: str = "") -> Iterator[Gateway]:
    """A gateway in front of the fake."""
    process, url, tee_id = start(fault)
    handler = type("At", (Shim,), {"fake": url})
    shim = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=shim.serve_forever, daemon=True).start()
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "pinned.toml").write_text(POLICY, "utf-8")
    table = {
        "rpc": [f"http://127.0.0.1:{shim.server_address[1]}"],
        "registry": REGISTRY,
        "transport": transport,
        "relay_url": url,
        "max_heartbeat_age_s": 1e9,
        "confirmations": 0,
    }
    node = {"id": "og", "network": "opengradient", "models": [MODEL], "pin": tee_id}
    node["base_url"] = f"http://127.0.0.1:{shim.server_address[1]}"
    sections: dict[str, Any] = {
        "networks.opengradient": table,
        "policy": {"dir": str(policies), "default": "pinned"},
    }
    gateway = Gateway(tmp_path, [node], **sections)
    gateway.start(env={"VERIROUTE_OPENGRADIENT_TOKEN": "t"})
    try:
        yield gateway
    finally:
        gateway.stop()
        shim.shutdown()
        shim.server_close()
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def ask(gateway: Gateway, text: str = "Say hello.", **more: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    with gateway.sdk(max_retries=0) as client:
        answer = client.chat.completions.create(model=MODEL, messages=messages, temperature=0.7, **more)
        return list(answer) if more.get("stream") else answer


@pytest.mark.parametrize("transport", ["direct", "ohttp"])
def test_json_stream_and_tools(tmp_path: Path, transport: str) -> None:
    """One pinned TEE serves text whole and streamed, and tool calls, each verified against the pinned key."""
    with serving(tmp_path, transport) as gateway:
        whole = ask(gateway)
        chunks = ask(gateway, text="And again.", stream=True)
        called = ask(gateway, text="What is the weather?", tools=TOOLS)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert [call.function.name for call in called.choices[0].message.tool_calls] == ["get_weather"]
    said = whole.model_extra["verification"]
    assert said["claims"]["response_bound"] == "asserted"
    assert said["claims"]["executed_in_tee"] == "refuted"
    assert any("verification" in (c.model_extra or {}) for c in chunks)


def test_completions(tmp_path: Path) -> None:
    """The older endpoint has its own canonical form."""
    with serving(tmp_path, "direct") as gateway, gateway.sdk(max_retries=0) as client:
        answer = client.completions.create(model=MODEL, prompt="Say hello.")
    assert answer.choices[0].text


@pytest.mark.parametrize("transport", ["direct", "ohttp"])
@pytest.mark.parametrize(
    ("fault", "codes"),
    [
        ("tamper", {"evidence_rejected"}),
        ("stale", {"evidence_rejected"}),
        ("wrongkey", {"evidence_rejected"}),
        ("nosig", {"evidence_missing"}),
        ("err500", {"upstream_failed"}),
    ],
)
def test_a_lie_is_withheld(tmp_path: Path, fault: str, codes: set[str], transport: str) -> None:
    """Tampered, old, foreign and unsigned answers are refused; the network's own client accepts the old ones."""
    with serving(tmp_path, transport, fault) as gateway, pytest.raises(openai.APIStatusError) as caught:
        ask(gateway)
    assert caught.value.status_code == 502
    assert caught.value.code in codes
