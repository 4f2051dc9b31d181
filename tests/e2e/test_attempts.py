"""Attempts: what goes to the next node and what never does, and one fetch of evidence for however many agents ask."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from agents import ANSWER, STREAM, good_script, prompt
from policy_kit import write_policy
from running import Gateway
from scripted import ScriptedNode

MESSAGES: list[Any] = [{"role": "user", "content": "x"}]


@pytest.fixture
def nodes() -> Iterator[list[ScriptedNode]]:
    """Two that serve the same model."""
    found = [ScriptedNode(b"\x11" * 32), ScriptedNode(b"\x22" * 32)]
    for node in found:
        node.script = good_script(node)
    yield found
    for node in found:
        if not node._loop.is_closed():  # as a test leaves a node that nobody reaches any more
            node.close()


@pytest.fixture
def gateway(tmp_path: Path, nodes: list[ScriptedNode]) -> Iterator[Gateway]:
    write_policy(tmp_path / "policies", "streaming", stream='["optimistic"]')
    policy = {"dir": str(tmp_path / "policies"), "default": "streaming"}
    tables = [node.table(name) for node, name in zip(nodes, "ab", strict=True)]
    gateway = Gateway(tmp_path, tables, policy=policy).start()
    yield gateway
    gateway.stop()


def ask(gateway: Gateway, name: str, *, stream: bool = False) -> tuple[httpx.Response, bytes]:
    """The answer's head, and what of its body came."""
    body, received = prompt(name, stream=stream), b""
    headers = {"content-type": "application/json"}
    with (
        gateway.http() as client,
        client.stream("POST", "/v1/chat/completions", content=body, headers=headers) as answer,
        suppress(httpx.RemoteProtocolError),
    ):
        for piece in answer.iter_raw():
            received += piece
    return answer, received


def calls(nodes: list[ScriptedNode]) -> int:
    return sum(len(node.received) for node in nodes)


def test_i01_a_refused_connection_goes_to_the_next_node(gateway: Gateway, nodes: list[ScriptedNode]) -> None:
    """The other node answers, and one receipt names both attempts."""
    assert ask(gateway, "before")[0].status_code == 200
    (first,) = (node for node in nodes if node.received)
    name = "ab"[nodes.index(first)]
    before = len(gateway.receipts(limit=100))
    first.close()
    answer, _ = ask(gateway, "after")
    assert answer.status_code == 200
    receipt = gateway.receipt(answer.headers["x-veriroute-receipt"])
    assert (receipt["verdict"], receipt["release"]) == ("affirming", "released")
    route = receipt["route"]
    assert (route["decision"], route["attempt"]) == ("fallback", 2)
    assert route["rejected"] == [{"node": name, "reason": "connect_failed"}]
    assert len(gateway.receipts(limit=100)) == before + 1
    assert calls(nodes) == 2


AFTER_SENDING: dict[str, tuple[Callable[[ScriptedNode], Any], str]] = {
    "i02_closes_without_a_byte": (lambda node: node.raw(), "closed"),
    "i03_answers_500": (lambda node: node.json(b'{"error":"SECRET charged"}', status=500), "status_500"),
}


@pytest.mark.parametrize(("script", "reason"), AFTER_SENDING.values(), ids=AFTER_SENDING.keys())
def test_what_was_sent_is_not_sent_again(gateway: Gateway, nodes: list[ScriptedNode], script: Any, reason: str) -> None:
    """No other node is asked once a request was sent whole: it may have been paid for, and was disclosed."""
    for node in nodes:
        node.script = script(node)
    answer, body = ask(gateway, "once")
    error = json.loads(body)["error"]
    assert (answer.status_code, error["code"], error["reason"]) == (502, "upstream_failed", reason)
    assert answer.headers["x-should-retry"] == "false"
    assert b"SECRET" not in body
    assert calls(nodes) == 1
    receipt = gateway.receipt(error["receipt"])
    assert (receipt["verdict"], receipt["release"], receipt["route"]["attempt"]) == ("none", "withheld", 1)
    assert receipt["request"]["forwarded"]["verbatim"] is True
    assert len(gateway.receipts(limit=100)) == 1


def test_i05_a_stream_that_began_is_not_begun_again(gateway: Gateway, nodes: list[ScriptedNode]) -> None:
    """A node that dies behind its first event leaves an error event and no end; the other one is not asked."""
    for node in nodes:
        node.script = node.sse(STREAM, cut=STREAM.index(b"\n\n") + 10)
    answer, body = ask(gateway, "begun", stream=True)
    assert answer.status_code == 200
    assert b'"content": "hel"' in body
    assert b'"code":"upstream_failed"' in body
    assert b"[DONE]" not in body
    assert calls(nodes) == 1
    receipt = gateway.receipt(answer.headers["x-veriroute-receipt"])
    assert receipt["verdict"] == "none"
    assert receipt["delivery"]["bytes"] > 0


def test_i06_the_sdk_does_not_repeat_a_refusal(gateway: Gateway, nodes: list[ScriptedNode]) -> None:
    """An SDK that would try three times asks once, and the node is called once."""
    for node in nodes:
        node.script = node.json(ANSWER, covered=ANSWER + b" ")
    with gateway.sdk(max_retries=2) as client, pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="m", messages=MESSAGES)
    assert caught.value.code == "evidence_rejected"
    assert calls(nodes) == 1


def test_i14_a_hundred_at_once_share_one_fetch_of_evidence(gateway: Gateway, nodes: list[ScriptedNode]) -> None:
    """A gateway that just started asks each node for its evidence once, whoever waits for an answer."""
    with ThreadPoolExecutor(50) as agents:
        statuses = list(agents.map(lambda n: ask(gateway, f"agent {n}")[0].status_code, range(100)))
    assert statuses == [200] * 100
    assert calls(nodes) == 100
    assert [node.attestations for node in nodes] == [1, 1]
