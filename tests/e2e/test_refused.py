"""Adversarial cases F, G and H from the operator's side: what is refused is counted, told in the log, and sent nowhere."""

from __future__ import annotations

import json
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from running import Gateway
from scripted import ScriptedNode

GOOD = b'{"model":"m","messages":[]}'
ANSWER = b'{"id":"c","model":"m","choices":[{"index":0,"message":{"content":"x"}}]}'


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, ScriptedNode]]:
    node = ScriptedNode()
    node.script = node.json(ANSWER)
    gateway = Gateway(tmp_path_factory.mktemp("refusals"), [node.table()]).start()
    yield gateway, node
    gateway.stop()
    node.close()


def exchange(gateway: Gateway, raw: bytes) -> int:
    """The status of the one answer to `raw`."""
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        sock.sendall(raw.replace(b"%HOST%", f"{host}:{port}".encode()))
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
    assert len(re.findall(rb"HTTP/1\.1 [1-5]", answer)) == 1
    return int(answer[9:12])


def post(*headers: bytes, body: bytes = GOOD, method: bytes = b"POST", path: bytes = b"/v1/chat/completions") -> bytes:
    lines = [
        b"host: %HOST%",
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        b"connection: close",
    ]
    return method + b" " + path + b" HTTP/1.1\r\n" + b"\r\n".join([*lines, *headers]) + b"\r\n\r\n" + body


def refused(gateway: Gateway) -> Counter[str]:
    with gateway.http(gateway.admin_key) as client:
        found = re.findall(r'veriroute_refused_total\{code="(\w+)"\} (\d+)', client.get("/metrics").text)
    return Counter({code: int(count) for code, count in found})


def lines(gateway: Gateway) -> list[dict[str, Any]]:
    assert gateway.process is not None
    found = [json.loads(line) for line in gateway.process.errors().splitlines()]
    return [line for line in found if line["event"] == "request.refused"]


CASES: dict[str, tuple[Callable[[bytes], bytes], int, str, str | None, bool]] = {
    "f01_two_lengths": (lambda key: post(b"content-length: 0", key), 400, "bad_request", None, False),
    "f02_coding": (lambda key: post(b"transfer-encoding: chunked", key), 400, "bad_request", None, False),
    "f06_two_keys": (lambda key: post(key, b"x-api-key: vr-canary"), 400, "bad_request", "authorization", False),
    "f10_path": (lambda key: post(key, path=b"/v1/../admin"), 404, "not_found", "path", False),
    "f11_body": (lambda key: post(key, body=b'{"model":"canary"'), 400, "bad_request", None, True),
    "f12_gzip": (lambda key: post(key, b"content-encoding: gzip"), 415, "bad_request", "content-encoding", False),
    "f14_model": (lambda key: post(key, body=b'{"model":"canary"}'), 404, "model_unknown", "model", True),
    "f18_size": (lambda key: post(key).replace(b"length: 27", b"length: 99000000000"), 413, "body_too_large", None, False),
    "f21_method": (lambda key: post(key, method=b"PUT"), 405, "method_not_allowed", None, True),
    "f22_headers": (lambda key: post(key, b"x-a: " + b"a" * 20_000), 431, "bad_request", None, False),
    "f23_page": (lambda key: post(key, b"origin: https://canary.example"), 403, "scope_denied", "origin", False),
    "f24_host": (lambda key: post(key).replace(b"%HOST%", b"canary.example"), 421, "bad_request", "host", False),
    "g01_key": (lambda key: post(b"authorization: Bearer vr-canary"), 401, "invalid_key", None, False),
    "g07_receipt": (lambda key: post(key, method=b"GET", path=b"/v1/receipts/canary"), 404, "not_found", None, True),
    "g11_scope": (lambda key: post(key, method=b"GET", path=b"/admin/v1/info"), 403, "scope_denied", None, True),
    "h01_looser": (lambda key: post(key, b"x-veriroute-policy: observe"), 400, "bad_request", "policy", True),
    "h03_null": (lambda key: post(key, body=b'{"model":"m","provider":{"aci_verified":null}}'), 400, "bad_request", "provider.aci_verified", True),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_f_g_h_a_refusal_is_counted_and_told(world: tuple[Gateway, ScriptedNode], name: str) -> None:
    """One more of its code in /metrics and one line, which has no word of the request; nothing is sent, no receipt."""
    gateway, node = world
    make, status, code, param, known = CASES[name]
    before, told, rows = refused(gateway), len(lines(gateway)), len(gateway.receipts(limit=1000))
    assert exchange(gateway, make(b"authorization: Bearer " + gateway.key.encode())) == status
    assert refused(gateway) - before == Counter({code: 1})
    (line,) = lines(gateway)[told:]
    assert (line["code"], line["status"], line["param"]) == (code, status, param)
    assert (line["key"] is not None) == known
    assert "canary" not in json.dumps(line)
    assert len(node.received) == 0
    assert len(gateway.receipts(limit=1000)) == rows
    time.sleep(0.03)  # twenty lines a second are told
