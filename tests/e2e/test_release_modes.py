"""What leaves before the verdict, in each release mode, when the node lies only at the end."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from importlib import resources
from typing import Any

import httpx
import pytest
from running import Gateway
from scripted import Received, ScriptedNode

from gateway.verify import aci

MODES = ("buffer", "window", "optimistic", "chained")
DONE = b"data: [DONE]\n\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, dict[str, str], list[ScriptedNode]]]:
    """A gateway with a key for each mode, and a fresh node for every case, since a lie quarantines its node."""
    folder = tmp_path_factory.mktemp("modes")
    nodes = [ScriptedNode(bytes([50 + n]) * 32, models=(f"m{n}",)) for n in range(20)]
    text = (resources.files("policies") / "signed.toml").read_text("utf-8")
    (folder / "policies").mkdir()
    for mode in MODES:
        released = f'stream = ["{mode}"]\nwindow_events = 2\nwindow_ms = 1'
        changed = text.replace('name = "signed"', f'name = "only-{mode}"').replace(
            'stream = ["chained", "buffer"]', released
        )
        (folder / "policies" / f"only-{mode}.toml").write_text(changed, "utf-8")
    gateway = Gateway(folder, [n.table(f"n{i}") for i, n in enumerate(nodes)], policy={"dir": str(folder / "policies")})
    keys = {mode: gateway.create_key(mode, "--policy", f"only-{mode}") for mode in MODES}
    gateway.start()
    yield gateway, keys, nodes
    gateway.stop()
    for node in nodes:
        node.close()


def chunk(model: str, delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "c", "model": model, "choices": [choice]}).encode() + b"\n\n"


def talk(model: str) -> list[bytes]:
    words = [chunk(model, {"role": "assistant"}), *(chunk(model, {"content": f"w{n}"}) for n in range(6))]
    return [*words, chunk(model, {}, "stop")]


CALL = {"tool_calls": [{"index": 0, "id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}


def chained(
    node: ScriptedNode, events: list[bytes], *, end: bytes = DONE, break_at: int | None = None, pause: float = 0.05
) -> Any:
    """The events and the end, each followed by its running signature; from `break_at` on they are over other bytes."""

    async def script(of: Received) -> AsyncIterator[bytes | float]:
        yield node.head(200, None, ("x-receipt-id", "r-1"), media="text/event-stream")
        covered, sent = hashlib.sha256(), b""
        request = hashlib.sha256(of.body).hexdigest()
        for k, event in enumerate([*events, end], 1):
            covered.update(event)
            sent += event
            digest = covered.hexdigest() if break_at is None or k < break_at else "0" * 64
            message = aci.chain_message("r-1", of.header(b"x-aci-nonce").decode(), request, node.models[0], k, digest)
            piece = event
            if of.header(b"x-aci-chained"):
                piece += b": aci.chain %d %b\n\n" % (k, node.signer.sign(message).hex().encode())
            yield b"%x\r\n%b\r\n" % (len(piece), piece)
            yield pause
        signed = base64.b64encode(node.receipt(of, sent if break_at is None else b"other"))
        tail = b"event: aci.receipt\ndata: " + signed + b"\n\n"
        yield b"%x\r\n%b\r\n0\r\n\r\n" % (len(tail), tail)

    return script


def ask(gateway: Gateway, key: str, node: ScriptedNode, tools: bool = False) -> tuple[int, bytes, bool]:
    body: dict[str, Any] = {"model": node.models[0], "messages": [{"role": "user", "content": "x"}], "stream": True}
    if tools:
        body["tools"] = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    received = b""
    with gateway.http(key) as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
        try:
            for piece in answer.iter_raw():
                received += piece
        except httpx.RemoteProtocolError:
            return answer.status_code, received, False
        return answer.status_code, received, True


@pytest.mark.parametrize(("mode", "place"), [(mode, n) for n, mode in enumerate(MODES)])
def test_an_honest_stream_arrives_whole(world: Any, mode: str, place: int) -> None:
    """In every mode an honest stream leaves in its own bytes, our chunk before the terminator, and ends well."""
    gateway, keys, nodes = world
    node = nodes[place]
    node.script = chained(node, talk(node.models[0]), pause=0.0)
    status, received, ended = ask(gateway, keys[mode], node)
    whole = b"".join(talk(node.models[0]))
    assert (status, ended) == (200, True)
    assert received.startswith(whole)
    assert received.endswith(DONE)
    assert b"aci.chain" not in received
    assert b"aci.receipt" not in received
    verification = json.loads(received[len(whole) : -len(DONE)][6:])["verification"]
    receipt = gateway.receipt_of(verification["receipt"], keys[mode])
    assert (receipt["delivery"]["mode"], receipt["delivery"]["form"]) == (mode, "verbatim")
    assert receipt["delivery"]["bytes"] == len(whole + DONE)


@pytest.mark.parametrize(("mode", "place"), [(mode, n) for n, mode in enumerate(MODES, 4)])
def test_a_lie_in_the_end(world: Any, mode: str, place: int) -> None:
    """D21, D22, D24: what may not have left has not, the error is the last event, and the receipt has what left."""
    gateway, keys, nodes = world
    node = nodes[place]
    events = talk(node.models[0])
    node.script = chained(node, events, break_at=4)
    status, received, ended = ask(gateway, keys[mode], node)
    left = {"buffer": 0, "window": 5, "optimistic": 7, "chained": 3}[mode]
    if mode == "buffer":
        assert (status, ended) == (502, True)
        error = json.loads(received)["error"]
    else:
        assert (status, ended) == (200, False)
        assert received.startswith(b"".join(events[:left]))
        assert events[left] not in received
        assert b"[DONE]" not in received
        assert b'"stop"' not in received
        last = received[len(b"".join(events[:left])) :]
        assert last.count(b"\n\n") == 1
        error = json.loads(last[6:])["error"]
    assert (error["code"], error["reason"]) == ("evidence_rejected", "response_bound")
    receipt = gateway.receipt_of(error["receipt"], keys[mode])
    assert (receipt["release"], receipt["delivery"]["bytes"]) == ("withheld", len(b"".join(events[:left])))
    assert receipt["delivery"]["form"] == ("verbatim" if left else "none")


def test_a_stream_that_fails_says_what_was_changed_of_it(world: Any) -> None:
    """Where a member was taken off what has left, the receipt of a failure does not call that the node's bytes."""
    gateway, keys, nodes = world
    node = nodes[18]
    first = json.loads(chunk(node.models[0], {"content": "w"})[6:]) | {"verification": {"verdict": "affirming"}}
    broken = b'data: {"error":{"message":"no more"}}\n\n'
    node.script = chained(node, [b"data: " + json.dumps(first).encode() + b"\n\n", broken], pause=0.1)
    status, received, ended = ask(gateway, keys["optimistic"], node)
    assert (status, ended) == (200, False)
    assert b"affirming" not in received
    error = json.loads(received.split(b"\n\n")[-2][6:])["error"]
    assert error["reason"] == "error_event"
    delivery = gateway.receipt_of(error["receipt"], keys["optimistic"])["delivery"]
    assert (delivery["form"], delivery["dropped"]) == ("rebuilt", ["verification"])


@pytest.mark.parametrize(("mode", "place"), [("window", 8), ("optimistic", 9), ("chained", 10)])
def test_no_call_leaves_before_the_verdict(world: Any, mode: str, place: int) -> None:
    """A15: text may flow, but no part of a tool call, and nothing behind it, leaves before an affirming verdict."""
    gateway, keys, nodes = world
    node = nodes[place]
    model = node.models[0]
    filler = [chunk(model, {"content": f"t{n}"}) for n in range(4)]
    events = [*filler, chunk(model, CALL), *[chunk(model, {"content": "after"})] * 6, chunk(model, {}, "tool_calls")]
    node.script = chained(node, events, break_at=99 if mode == "chained" else 1)
    if mode == "chained":
        # Every running signature holds, so that only the final receipt gives the lie away.
        node.script = _bad_receipt(node, events)
    status, received, ended = ask(gateway, keys[mode], node, tools=True)
    assert (status, ended) == (200, False)
    assert b"t0" in received
    assert b"tool_calls" not in received.replace(b'"reason":"tool', b"")
    assert b"after" not in received
    node2 = nodes[place + 3]
    events2 = [e.replace(model.encode(), node2.models[0].encode()) for e in events]
    node2.script = chained(node2, events2, pause=0.0)
    status, received, ended = ask(gateway, keys[mode], node2, tools=True)
    assert (status, ended) == (200, True)
    assert received.startswith(b"".join(events2))


def _bad_receipt(node: ScriptedNode, events: list[bytes]) -> Any:
    honest = chained(node, events, pause=0.0)

    async def script(of: Received) -> AsyncIterator[bytes | float]:
        async for part in honest(of):
            if isinstance(part, bytes) and b"event: aci.receipt" in part:
                signed = base64.b64encode(node.receipt(of, b"other"))
                tail = b"event: aci.receipt\ndata: " + signed + b"\n\n"
                part = b"%x\r\n%b\r\n0\r\n\r\n" % (len(tail), tail)
            yield part

    return script


def test_running_signatures_out_of_order(world: Any) -> None:
    """A signature that is skipped or repeated breaks the chain, and nothing leaves by it."""
    gateway, keys, nodes = world
    node = nodes[14]
    events = talk(node.models[0])
    honest = chained(node, events)

    async def script(of: Received) -> AsyncIterator[bytes | float]:
        async for part in honest(of):
            yield part.replace(b"aci.chain 3 ", b"aci.chain 9 ") if isinstance(part, bytes) else part

    node.script = script
    status, received, ended = ask(gateway, keys["chained"], node)
    assert (status, ended) == (200, False)
    assert received.startswith(b"".join(events[:2]))
    error = json.loads(received[len(b"".join(events[:2])) :][6:])["error"]
    assert (error["code"], error["reason"]) == ("evidence_rejected", "signature")


def test_chained_without_a_signature(world: Any) -> None:
    """A node that promised running signatures and sends none is refused before a byte leaves."""
    gateway, keys, nodes = world
    node = nodes[15]
    node.script = node.sse(b"".join(talk(node.models[0])) + DONE)
    status, received, ended = ask(gateway, keys["chained"], node)
    assert (status, ended) == (502, True)
    assert json.loads(received)["error"]["reason"] == "signature"


def test_json_where_a_stream_was_asked(world: Any) -> None:
    """D14: one JSON object in place of a stream is judged and delivered as JSON."""
    gateway, keys, nodes = world
    node = nodes[16]
    body = json.dumps({"id": "c", "model": node.models[0], "choices": [{"index": 0, "message": {"content": "x"}}]})
    node.script = node.json(body.encode())
    status, received, _ = ask(gateway, keys["optimistic"], node)
    assert status == 200
    assert json.loads(received)["verification"]["verdict"] == "affirming"


def test_a_node_without_chained_is_not_used_for_it(make_gateway: Any, tmp_path: Any) -> None:
    """A policy that only knows chained drops a node that cannot, with the reason, before a prompt leaves."""
    node = ScriptedNode(b"\x77" * 32, models=("m",))
    node.extensions = ["inline-receipt", "request-nonce"]
    try:
        text = (resources.files("policies") / "signed.toml").read_text("utf-8")
        only = text.replace('name = "signed"', 'name = "only"').replace('["chained", "buffer"]', '["chained"]')
        (tmp_path / "only.toml").write_text(only, "utf-8")
        gateway = make_gateway([node.table()], policy={"dir": str(tmp_path), "default": "only"}).start()
        status, received, _ = ask(gateway, gateway.key, node)
        assert status == 503
        assert json.loads(received)["error"]["nodes"] == [{"node": "scripted", "reason": "release_mode"}]
        assert node.received == []
    finally:
        node.close()
