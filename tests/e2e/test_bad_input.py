"""Bad requests are refused by name with nothing forwarded; slow and endless nodes end in time, with a receipt."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from importlib import resources
from typing import Any

import httpx
import pytest
from running import Gateway
from scripted import ScriptedNode

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, ScriptedNode]]:
    """A gateway with short deadlines and small limits before one scripted node."""
    node = ScriptedNode()
    folder = tmp_path_factory.mktemp("bad")
    text = (resources.files("policies") / "signed.toml").read_text("utf-8").replace('name = "signed"', 'name = "hasty"')
    text = text.replace('["chained", "buffer"]', '["optimistic"]')
    deadlines = "\n[deadlines]\nconnect_s = 1\nfirst_byte_s = 0.6\nidle_s = 0.6\ntotal_s = 2\n"
    (folder / "policies").mkdir()
    (folder / "policies" / "hasty.toml").write_text(text + deadlines, "utf-8")
    gateway = Gateway(
        folder,
        [node.table()],
        policy={"dir": str(folder / "policies"), "default": "hasty"},
        server={"port": 0, "max_body_bytes": 50_000},
        upstream={"max_response_bytes": 100_000, "max_event_bytes": 20_000},
    ).start()
    yield gateway, node
    gateway.stop()
    node.close()


GOOD = b'{"model":"m","messages":[]}'

REQUESTS: list[tuple[str, bytes, dict[str, str], int, str, str | None]] = [
    ("not JSON", b"{", {}, 400, "bad_request", None),
    ("empty", b"", {}, 400, "bad_request", None),
    ("an array", b"[]", {}, 400, "bad_request", None),
    ("two documents", GOOD + GOOD, {}, 400, "bad_request", None),
    ("wrong type", b'{"model":7}', {}, 400, "bad_request", "model"),
    ("no model", b'{"messages":[]}', {}, 400, "bad_request", "model"),
    ("twice", b'{"model":"m","model":"n"}', {}, 400, "bad_request", "model"),
    ("twice, escaped", b'{"model":"m","\\u006dodel":"n"}', {}, 400, "bad_request", "model"),
    ("bad UTF-8", b'{"model":"m","x":"\xff"}', {}, 400, "bad_request", None),
    ("BOM", b"\xef\xbb\xbf" + GOOD, {}, 400, "bad_request", None),
    ("UTF-16", '{"model":"m"}'.encode("utf-16"), {}, 400, "bad_request", None),
    ("NaN", b'{"model":"m","temperature":NaN}', {}, 400, "bad_request", None),
    ("wide number", b'{"model":"m","seed":' + b"9" * 6000 + b"}", {}, 400, "bad_request", "seed"),
    ("deep", b'{"model":"m","x":' + b"[" * 20_000 + b"]" * 20_000 + b"}", {}, 400, "bad_request", None),
    ("oversize", b'{"model":"m","x":"' + b"x" * 60_000 + b'"}', {}, 413, "body_too_large", None),
    ("unknown model", b'{"model":"other"}', {}, 404, "model_unknown", "model"),
    ("model in another case", b'{"model":"M"}', {}, 404, "model_unknown", "model"),
    ("hostile model", b'{"model":"../\\u001b[2J\\r\\nx: y"}', {}, 404, "model_unknown", "model"),
    ("misspelt header", GOOD, {"x-veriroute-polcy": "strict"}, 400, "bad_request", "x-veriroute-polcy"),
    ("unknown policy", GOOD, {"x-veriroute-policy": "none-such"}, 400, "bad_request", "x-veriroute-policy"),
    ("policy in another case", GOOD, {"x-veriroute-policy": "Signed"}, 400, "bad_request", "x-veriroute-policy"),
    ("loosening policy", GOOD, {"x-veriroute-policy": "observe"}, 400, "bad_request", "policy"),
    ("gzip", GOOD, {"content-encoding": "gzip"}, 415, "bad_request", "content-encoding"),
    ("text/plain", GOOD, {"content-type": "text/plain"}, 415, "bad_request", "content-type"),
    ("provider member", b'{"model":"m","provider":{"x":1}}', {}, 400, "bad_request", "provider"),
    ("foreign page", GOOD, {"origin": "https://evil.example"}, 403, "scope_denied", "origin"),
    ("foreign host", GOOD, {"host": "evil.example"}, 421, "bad_request", "host"),
]


@pytest.mark.parametrize(
    ("body", "headers", "status", "code", "param"), [r[1:] for r in REQUESTS], ids=[r[0] for r in REQUESTS]
)
def test_refused_by_name_with_nothing_forwarded(
    world: tuple[Gateway, ScriptedNode], body: bytes, headers: dict[str, str], status: int, code: str, param: str | None
) -> None:
    """The error has the OpenAI shape and names the field; the node hears nothing, and no receipt is made."""
    gateway, node = world
    before, rows = len(node.received), len(gateway.receipts(limit=1000))
    with gateway.http() as client:
        answer = client.post("/v1/chat/completions", content=body, headers={**JSON, **headers})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert error["message"]
    assert "\x1b" not in answer.text
    assert len(node.received) == before
    assert len(gateway.receipts(limit=1000)) == rows


def test_two_policy_headers_and_injected_ones(world: tuple[Gateway, ScriptedNode]) -> None:
    """A header that stands twice, or carries another, is refused at the door."""
    gateway, node = world
    before = len(node.received)
    host, port = gateway.url.removeprefix("http://").split(":")
    for extra in (
        b"x-veriroute-policy: strict\r\nx-veriroute-policy: signed\r\n",
        b"x-request-id: a\rb: c\r\n",
        b"x-request-id: \x00\r\n",
        b"authorization: Bearer other\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=5) as raw:
            raw.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%b\r\nauthorization: Bearer %b\r\n%b"
                b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
                % (port.encode(), gateway.key.encode(), extra, len(GOOD), GOOD)
            )
            answer = b""
            while piece := raw.recv(65536):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert len(node.received) == before


def heal(gateway: Gateway, node: ScriptedNode) -> None:
    """One good answer, so that failures don't open the node's circuit."""
    node.script = node.json(b'{"id":"c","model":"m","choices":[{"index":0,"message":{"content":"x"}}]}')
    with gateway.http() as client:
        assert client.post("/v1/chat/completions", json={"model": "m"}).status_code == 200


SSE = b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def piece(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


CHUNK = b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
SLOW: list[tuple[str, bool, tuple[bytes | float, ...], str]] = [
    ("first byte never", False, (5.0,), "timeout_first_byte"),
    ("head one byte at a time", False, tuple(p for b in b"HTTP/1.1 200 X\r\ncontent-type: a" for p in (bytes([b]), 0.1)), "timeout_first_byte"),
    ("body stops", False, (b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{", 5.0), "timeout_idle"),
    ("stream stops", True, (SSE + piece(CHUNK), 5.0), "timeout_idle"),
    ("only comments", True, (SSE, *((piece(b": still here\n\n"), 0.2) * 20)), "timeout_progress"),
    ("only signatures", True, (SSE, *((piece(b": aci.chain 1 " + b"0" * 128 + b"\n\n"), 0.2) * 20)), "timeout_progress"),
    ("for ever", True, (SSE, *((piece(CHUNK), 0.2) * 30)), "timeout_total"),
]  # fmt: skip


@pytest.mark.parametrize(("stream", "parts", "reason"), [s[1:] for s in SLOW], ids=[s[0] for s in SLOW])
def test_slow_nodes_end_in_time(
    world: tuple[Gateway, ScriptedNode], stream: bool, parts: tuple[bytes | float, ...], reason: str
) -> None:
    """Each deadline ends the exchange with 504, or with an error event when the stream had begun; the node is let go."""
    gateway, node = world
    heal(gateway, node)
    node.script = node.raw(*parts)
    begun, received = time.monotonic(), b""
    with gateway.http() as client:
        with client.stream("POST", "/v1/chat/completions", json={"model": "m", "stream": stream}) as answer:
            try:
                for got in answer.iter_raw():
                    received += got
            except httpx.RemoteProtocolError:
                pass
    assert time.monotonic() - begun < 3.5
    if answer.status_code == 200:
        error = json.loads(received.rstrip().rsplit(b"data: ", 1)[1])["error"]
        assert b"[DONE]" not in received
    else:
        assert answer.status_code == 504
        error = json.loads(received)["error"]
    assert (error["code"], error["reason"]) == ("upstream_timeout", reason)
    receipt = gateway.receipt(error["receipt"])
    assert (receipt["verdict"], receipt["release"], receipt["reason"]) == ("none", "withheld", reason)


LARGE: list[tuple[str, bool, tuple[bytes | float, ...]]] = [
    ("declared", False, (b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 200000\r\n\r\n",)),
    ("chunked", False, (b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n", *[piece(b"x" * 9000)] * 20)),
    ("one event", True, (SSE, *[piece(b"data: " + b"x" * 9000)] * 20)),
    ("many events", True, (SSE, *[piece(CHUNK * 100)] * 20)),
]  # fmt: skip


@pytest.mark.parametrize(("stream", "parts"), [s[1:] for s in LARGE], ids=[s[0] for s in LARGE])
def test_large_answers_end_at_the_cap(
    world: tuple[Gateway, ScriptedNode], stream: bool, parts: tuple[bytes | float, ...]
) -> None:
    """More than the limit is an upstream failure with its reason, whichever way it comes."""
    gateway, node = world
    heal(gateway, node)
    node.script = node.raw(*parts, 1.0)
    with gateway.http() as client:
        with client.stream("POST", "/v1/chat/completions", json={"model": "m", "stream": stream}) as answer:
            received = b""
            try:
                for got in answer.iter_raw():
                    received += got
            except httpx.RemoteProtocolError:
                pass
    text = received if answer.status_code != 200 else received.rstrip().rsplit(b"data: ", 1)[1]
    error = json.loads(text)["error"]
    assert (error["code"], error["reason"]) == ("upstream_failed", "too_large")
    assert gateway.receipt(error["receipt"])["release"] == "withheld"


def test_the_gateway_lives_on(world: tuple[Gateway, ScriptedNode]) -> None:
    """After all of this it is healthy and serves."""
    gateway, node = world
    heal(gateway, node)
    with gateway.http() as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        ready: Any = client.get("/readyz").json()
    assert ready["status"] == "ready"
