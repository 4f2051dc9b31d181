"""H01, H03, H19: a policy that only flags tells the truth, and what a request asks for by header and body tightens it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from running import Gateway
from scripted import ScriptedNode

CHAT = "/v1/chat/completions"
#: What is asked for beside the model, and whether the bad answer is then withheld.
CASES: dict[str, tuple[dict[str, str], dict[str, Any], bool]] = {
    "nothing": ({}, {}, False),
    "stream": ({}, {"stream": True}, False),
    "body false": ({}, {"provider": {"aci_verified": False}}, False),
    "header that says the same": ({"x-veriroute-policy": "observe"}, {}, False),
    "header": ({"x-veriroute-policy": "signed"}, {}, True),
    "body": ({}, {"provider": {"aci_verified": True}}, True),
    "stream, body": ({}, {"stream": True, "provider": {"aci_verified": True}}, True),
    "header stricter, body false": ({"x-veriroute-policy": "signed"}, {"provider": {"aci_verified": False}}, True),
    "header the same, body stricter": ({"x-veriroute-policy": "observe"}, {"provider": {"aci_verified": True}}, True),
    "both": ({"x-veriroute-policy": "signed"}, {"provider": {"aci_verified": True}}, True),
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """For each case a node of its own, since one that is caught serves nobody for a while. They sign other bytes."""
    nodes = []
    for number in range(len(CASES)):
        node = ScriptedNode(bytes([number + 1]) * 32, models=(f"m{number}",))
        answer = b'{"id":"c","model":"m%d","choices":[{"index":0,"message":{"content":"x"}}]}' % number
        chunk = answer.replace(b"message", b"delta")
        whole = node.json(answer, covered=answer + b" ")
        events = node.sse(b"data: %b\n\ndata: [DONE]\n\n" % chunk, sign=b"another stream")
        node.script = events if "stream" in list(CASES)[number] else whole
        nodes.append(node)
    tables = [node.table(f"n{number}") for number, node in enumerate(nodes)]
    gateway = Gateway(tmp_path_factory.mktemp("observed"), tables, policy={"default": "observe"}).start()
    yield gateway
    gateway.stop()
    for node in nodes:
        node.close()


@pytest.mark.parametrize("case", CASES)
def test_h01_h03_h19_bad_evidence_under_observe(gateway: Gateway, case: str) -> None:
    """Released with `contraindicated` in answer and receipt; withheld where header or body asks for more, either way."""
    headers, body, withheld = CASES[case]
    asked = {"model": f"m{list(CASES).index(case)}", "messages": [], **body}
    received = b""
    with gateway.http() as client, client.stream("POST", CHAT, headers=headers, json=asked) as answer:
        with contextlib.suppress(httpx.RemoteProtocolError):  # a stream that began and is withheld is cut
            for piece in answer.iter_raw():
                received += piece
    receipt = gateway.receipt(answer.headers["x-veriroute-receipt"])
    assert receipt["verdict"] == "contraindicated"
    assert b'"verdict":"affirming"' not in received
    if withheld:
        assert answer.status_code == (200 if "stream" in body else 502)
        assert b'"code":"evidence_rejected"' in received
        assert b"[DONE]" not in received
        assert (receipt["release"], receipt["reason"]) == ("withheld", "response_bound")
        return
    assert (answer.status_code, receipt["release"]) == (200, "released")
    assert b'"verdict":"contraindicated"' in received
    assert answer.headers["x-veriroute-verdict"] == ("pending" if body.get("stream") else "contraindicated")
    assert answer.headers["x-veriroute-policy"] == "observe"
