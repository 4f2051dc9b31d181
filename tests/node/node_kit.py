"""Real nodes in processes of their own, and a client's check of what they sign, written from docs/node-profile.md."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from gateway.crypto.signatures import verify_ed25519
from gateway.verify import aci

NONCE = "5e" * 32
MODEL = "veriroute-lm-1"
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 24}


@dataclass
class Running:
    url: str
    pin: str
    process: subprocess.Popen[str]


@contextlib.contextmanager
def node(*arguments: str, env: dict[str, str] | None = None) -> Iterator[Running]:
    """`veriroute node` on a free port, stopped by SIGTERM at the end; its exit code must be 0."""
    process = start(*arguments, env=env)
    try:
        ready = json.loads(process.stdout.readline())  # type: ignore[union-attr]
        assert ready["event"] == "ready"
        yield Running(ready["url"], ready["pin"], process)
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 0, errors
    assert errors == ""


def start(*arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gateway", "node", "--port", "0", "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )


@dataclass(frozen=True)
class Link:
    """One chain comment: its number, its signature, and the digest of all covered bytes before it."""

    k: int
    signature: bytes
    digest: str


@dataclass(frozen=True)
class Answer:
    """What came back for one request, taken apart."""

    status: int
    headers: httpx.Headers
    body: bytes
    request: bytes
    covered: bytes
    links: tuple[Link, ...]
    receipt: aci.SignedReceipt | None
    path: str

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """The data of every covered event; `[DONE]` stays text."""
        lines = [line[6:] for line in self.covered.decode().split("\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


def ask(
    url: str,
    body: dict[str, Any] | bytes,
    path: str = "/v1/chat/completions",
    *,
    nonce: str | None = NONCE,
    inline: bool = True,
    chained: bool = False,
    headers: dict[str, str] | None = None,
    client: httpx.Client | None = None,
) -> Answer:
    """POST `body` with the signing headers and take the answer apart."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"content-type": "application/json", "accept-encoding": "identity", **(headers or {})}
    if nonce is not None:
        sent["x-aci-nonce"] = nonce
    if inline:
        sent["x-aci-inline"] = "1"
    if chained:
        sent["x-aci-chained"] = "1"
    with contextlib.ExitStack() as stack:
        http = client or stack.enter_context(httpx.Client(timeout=20, trust_env=False))
        response = http.post(url + path, content=data, headers=sent)
    received = response.content
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        covered, links, sealed = take_apart(received)
    else:
        covered, links, given = received, (), response.headers.get("x-aci-receipt")
        sealed = None if given is None else aci.parse_receipt(base64.b64decode(given, validate=True))
    return Answer(response.status_code, response.headers, received, data, covered, links, sealed, path)


def take_apart(stream: bytes) -> tuple[bytes, tuple[Link, ...], aci.SignedReceipt | None]:
    """Covered bytes, chain comments and receipt of a stream."""
    covered, links, sealed = b"", [], None
    assert stream.endswith(b"\n\n") or stream == b""
    for block in re.findall(rb"(?s).+?(?:\r\n\r\n|\n\n)", stream):
        if block.startswith(b": aci.chain "):
            _, _, k, signature = block.split()
            links.append(Link(int(k), bytes.fromhex(signature.decode()), hashlib.sha256(covered).hexdigest()))
        elif block.startswith(b"event: aci.receipt\n"):
            given = block.removeprefix(b"event: aci.receipt\ndata: ").strip()
            sealed = aci.parse_receipt(base64.b64decode(given, validate=True))
        else:
            covered += block
    return covered, tuple(links), sealed


def report(url: str, nonce: str = NONCE, client: httpx.Client | None = None) -> aci.Report:
    with contextlib.ExitStack() as stack:
        http = client or stack.enter_context(httpx.Client(timeout=20, trust_env=False))
        response = http.get(f"{url}/v1/aci/attestation", params={"nonce": nonce})
    assert response.status_code == 200
    return aci.parse_report(response.content)


def problems(answer: Answer, known: aci.Report, *, nonce: str | None = NONCE, model: str = MODEL) -> set[str]:
    """What is wrong with an answer, in the words of the gateway's checks; empty when all holds."""
    if answer.receipt is None:
        return {"no_receipt"}
    sealed, receipt = answer.receipt, answer.receipt.receipt
    request = hashlib.sha256(answer.request).hexdigest()
    key = next(k for k in known.keyset.keys if k.key_id == receipt.key_id)
    found = set()
    if not verify_ed25519(key.public_key, sealed.signed, sealed.signature):
        found.add("signature")
    if receipt.workload_keyset_digest != known.keyset.digest:
        found.add("key_bound")
    if receipt.body_hash("request.received") != f"sha256:{request}":
        found.add("request_bound")
    if (receipt.endpoint, receipt.method) != (answer.path, "POST"):
        found.add("endpoint")
    if receipt.body_hash("response.returned") != f"sha256:{hashlib.sha256(answer.covered).hexdigest()}":
        found.add("response_bound")
    if receipt.request_nonce != nonce:
        found.add("replay")
    if receipt.model != model:
        found.add("model_echo")
    for number, link in enumerate(answer.links, 1):
        message = aci.chain_message(receipt.receipt_id, nonce or "", request, model, number, link.digest)
        if link.k != number or not verify_ed25519(key.public_key, message, link.signature):
            found.add("chain")
    return found
