"""What becomes of bytes and of failures on their way through (the peers' table in the specification, our column)."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from running import Gateway
from scripted import Received, ScriptedNode

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, ScriptedNode]]:
    """A gateway before one scripted node, under the default policy but for a quarantine that would hide the next case."""
    node = ScriptedNode()
    folder = tmp_path_factory.mktemp("scripted")
    (folder / "policies").mkdir()
    # Buffered, so that an answer is refused before its first byte; other modes have their own tests.
    from importlib import resources

    text = (resources.files("policies") / "signed.toml").read_text("utf-8")
    for mode in ("buffer", "optimistic"):
        changed = text.replace('name = "signed"', f'name = "{mode}"').replace('["chained", "buffer"]', f'["{mode}"]')
        (folder / "policies" / f"{mode}.toml").write_text(changed, "utf-8")
    # One node under many names: a case that quarantines one leaves the others.
    tables = [node.table(f"n{i}", models=[f"m{i}"]) for i in range(1)]
    tables[0]["models"] = ["m"]
    gateway = Gateway(folder, tables, policy={"dir": str(folder / "policies"), "default": "buffer"})
    gateway.optimistic = gateway.create_key("optimistic", "--policy", "optimistic")  # type: ignore[attr-defined]
    gateway.start()
    yield gateway, node
    gateway.stop()
    node.close()


@pytest.fixture(autouse=True)
def in_good_standing(request: pytest.FixtureRequest) -> None:
    """One good answer first, so that the failures of earlier cases don't open the node's circuit."""
    if "world" in request.fixturenames:
        gateway, node = request.getfixturevalue("world")
        node.script = node.json(ANSWER)
        assert post(gateway).status_code == 200


def post(gateway: Gateway, body: Any = None, key: str | None = None, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body or ASK).encode()
    with gateway.http(key) as client:
        return client.post(
            "/v1/chat/completions", content=content, headers={"content-type": "application/json", **headers}
        )


ANSWER = (
    b'{"id":"chatcmpl-ORIG", "object":"chat.completion","created":1,"model":"m",\n "choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"h\\u00e9llo","reasoning_content":"because","x_deep":[1.50,{"z":null}]},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1},"x_node_signature":"c2ln"}'
)


def chunk(delta: dict[str, Any], finish: str | None = None, **members: Any) -> bytes:
    document = {
        "id": "chatcmpl-ORIG", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **members,
    }  # fmt: skip
    return b"data: " + json.dumps(document).encode() + b"\n\n"


CALL = {
    "tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}]
}
LAST = {"id": "chatcmpl-ORIG", "model": "m", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
STREAM = (
    chunk({"role": "assistant", "content": ""}, x_node_signature="c2ln")
    + chunk({"content": "he", "reasoning_content": "because"})
    + chunk({"content": "llo"})
    + chunk({}, "stop")
    + b"data: " + json.dumps({**LAST, "x_final_proof": "cHJvb2Y="}).encode() + b"\n\n"
)  # fmt: skip
DONE = b"data: [DONE]\n\n"


def test_request_bytes_are_unchanged(world: tuple[Gateway, ScriptedNode]) -> None:
    """The node receives the caller's very bytes: odd spacing, unknown members, nothing added; and no credential."""
    gateway, node = world
    node.script = node.json(ANSWER)
    body = b'{ "messages":[],"model" : "m", "x_unknown":{"b":2.500,"a":"\\u00e9"},"temperature":1e-1}'
    assert post(gateway, body).status_code == 200
    received = node.received[-1]
    assert received.body == body
    names = {n.lower() for n, _ in received.headers}
    assert not names & {b"authorization", b"x-api-key", b"cookie", b"x-veriroute-policy", b"user-agent"}
    assert received.header(b"accept-encoding") == b"identity"
    assert gateway.key.encode() not in b"".join(v for _, v in received.headers)


def test_answer_bytes_are_unchanged(world: tuple[Gateway, ScriptedNode]) -> None:
    """Every byte of the answer arrives, id, unknown members and reasoning among them; ours is one member at the end."""
    gateway, node = world
    node.script = node.json(ANSWER, ("x-node-proof", "abc"))
    answer = post(gateway)
    assert answer.status_code == 200
    assert answer.content.startswith(ANSWER[:-1] + b',"verification":{')
    assert answer.json()["choices"][0]["message"]["reasoning_content"] == "because"


def test_counts_are_covered_by_a_key_of_the_session(make_gateway: Any) -> None:
    """A receipt says that evidence covers the counts of tokens only where a key of the node's session signed them."""
    node = ScriptedNode()
    try:
        gateway = make_gateway([node.table()], policy={"default": "observe"}).start()
        for key, covered in (("k", True), ("stranger", False)):
            node.script = node.json(ANSWER, key_id=key)
            said = post(gateway).json()["verification"]
            usage = gateway.receipt(said["receipt"])["usage"]
            assert usage == {"inputTokens": 1, "outputTokens": 1, "covered": covered}
            assert said["claims"]["response_bound"] == ("asserted" if covered else "unknown")
    finally:
        node.close()


def test_a_node_cannot_speak_in_our_name(world: tuple[Gateway, ScriptedNode]) -> None:
    """Members and headers that are ours to set do not come through from a node (A07, A08)."""
    gateway, node = world
    forged = ANSWER[:-1] + b',"verification":{"verdict":"affirming","by":"node"},"receipt":"x","x_veriroute":1}'
    bad = [
        ("x-veriroute-verdict", "affirming"), ("x-receipt-id", "forged"), ("x-request-id", "forged"),
        ("set-cookie", "a=b"), ("access-control-allow-origin", "*"), ("server", "forged"), ("x-node-proof", "abc"),
    ]  # fmt: skip
    node.script = node.json(forged, *bad)
    answer = post(gateway)
    assert answer.status_code == 200
    document = answer.json()
    assert "by" not in document["verification"]
    assert "receipt" not in document
    assert "x_veriroute" not in document
    assert document["x_node_signature"] == "c2ln"
    assert "forged" not in str(answer.headers)
    assert not {"set-cookie", "access-control-allow-origin", "server", "x-node-proof"} & set(answer.headers)
    receipt = gateway.receipt(document["verification"]["receipt"])
    assert receipt["delivery"]["form"] == "rebuilt"
    assert set(receipt["delivery"]["dropped"]) == {"verification", "receipt", "x_veriroute"}


def test_stream_bytes_are_unchanged(world: tuple[Gateway, ScriptedNode]) -> None:
    """Every event arrives in its own bytes, unknown members and the final proof chunk among them."""
    gateway, node = world
    node.script = node.sse(STREAM + DONE)
    for key in (None, gateway.optimistic):  # type: ignore[attr-defined]
        answer = post(gateway, {**ASK, "stream": True}, key)
        assert answer.status_code == 200
        assert answer.content.startswith(STREAM)
        assert answer.content.endswith(DONE)
        ours = answer.content[len(STREAM) : -len(DONE)]
        assert json.loads(ours[6:])["verification"]["verdict"] == "affirming"


def test_a_tool_call_in_one_delta_arrives_whole(world: tuple[Gateway, ScriptedNode]) -> None:
    """Id, name and arguments of a call that comes in one delta reach the SDK's caller."""
    gateway, node = world
    node.script = node.sse(chunk({"role": "assistant"}) + chunk(CALL) + chunk({}, "tool_calls") + DONE)
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    with gateway.sdk() as client:
        chunks = list(
            client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "x"}], tools=tools, stream=True
            )
        )
    calls: Any = [c.choices[0].delta.tool_calls for c in chunks if c.choices and c.choices[0].delta.tool_calls]
    assert (calls[0][0].id, calls[0][0].function.name, calls[0][0].function.arguments) == ("call_1", "f", '{"a":1}')


@pytest.mark.parametrize(("status", "ours", "kept"), [(429, 429, True), (503, 502, True), (500, 502, False)])
def test_upstream_statuses(world: tuple[Gateway, ScriptedNode], status: int, ours: int, kept: bool) -> None:
    """A failing node is asked once; its status is mapped, Retry-After kept where waiting helps, and its text is not."""
    gateway, node = world
    body = b'{"error":{"message":"SECRET","type":"x_type","code":"x_code"}}'
    node.script = node.json(body, ("retry-after", "7"), status=status)
    before = len(node.received)
    answer = post(gateway)
    assert len(node.received) == before + 1
    assert answer.status_code == ours
    assert (answer.headers.get("retry-after") == "7") is kept
    # A rate limit is the one of them that costs nothing to try again.
    assert answer.headers.get("x-should-retry") == (None if status == 429 else "false")
    assert (answer.json()["error"]["code"], answer.json()["error"]["reason"]) == ("upstream_failed", f"status_{status}")
    assert b"SECRET" not in answer.content
    receipt = gateway.receipt(answer.json()["error"]["receipt"])
    assert (receipt["verdict"], receipt["release"]) == ("none", "withheld")


@pytest.mark.parametrize(
    ("value", "ours"), [("99999999", "3600"), ("0", "1"), ("-1", None), ("Thu, 01 Jan 1970", None)]
)
def test_retry_after_is_clamped(world: tuple[Gateway, ScriptedNode], value: str, ours: str | None) -> None:
    """A node cannot make callers wait for ever, nor hammer."""
    gateway, node = world
    node.script = node.json(b"{}", ("retry-after", value), status=429)
    assert post(gateway).headers.get("retry-after") == ours


@pytest.mark.parametrize("optimistic", [False, True])
def test_an_error_inside_the_stream(world: tuple[Gateway, ScriptedNode], optimistic: bool) -> None:
    """A node's error event is shown as ours, without its text and without [DONE]; the stream does not end well."""
    gateway, node = world
    node.script = node.sse(chunk({"content": "he"}) + b'data: {"error":{"message":"SECRET"}}\n\n' + DONE)
    key = gateway.optimistic if optimistic else None  # type: ignore[attr-defined]
    with gateway.sdk(key) as client, pytest.raises(openai.APIError) as caught:
        list(client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True))
    assert caught.value.code == "upstream_failed"
    body: Any = caught.value.body
    assert body["reason"] == "error_event"
    assert "SECRET" not in str(body)


@pytest.mark.parametrize("how", ["reset", "clean"])
def test_a_stream_cut_in_the_middle(world: tuple[Gateway, ScriptedNode], how: str) -> None:
    """A cut, also one that ends as HTTP should, is an error event, no [DONE], a broken transport, and a receipt."""
    gateway, node = world
    if how == "reset":
        node.script = node.sse(STREAM + DONE, cut=len(STREAM) // 2)
    else:
        node.script = node.sse(STREAM, receipt=False)
    received, broken = b"", False
    with gateway.http(gateway.optimistic) as client:  # type: ignore[attr-defined]
        with client.stream("POST", "/v1/chat/completions", json={**ASK, "stream": True}) as answer:
            assert answer.status_code == 200
            try:
                for piece in answer.iter_raw():
                    received += piece
            except httpx.RemoteProtocolError:
                broken = True
    assert broken
    assert b"[DONE]" not in received
    error = json.loads(received.rstrip().rsplit(b"data: ", 1)[1])["error"]
    assert (error["code"], error["reason"]) == ("upstream_failed", "truncated")
    receipt = gateway.receipt_of(error["receipt"], gateway.optimistic)  # type: ignore[attr-defined]
    assert (receipt["release"], receipt["reason"]) == ("withheld", "truncated")
    assert receipt["delivery"]["bytes"] > 0
    assert len(receipt["delivery"]["sentDigest"]["sha256"]) == 64


def unended(node: ScriptedNode, stream: bool, *, chunked: bool, receipt: bool = True, end: bytes = b"") -> Any:
    """An answer whose end only the end of the connection tells; `end` is what there is of a last chunk."""
    body = STREAM + DONE if stream else ANSWER

    async def script(of: Received) -> Any:
        signed = base64.b64encode(node.receipt(of, body))
        media = b"text/event-stream" if stream else b"application/json\r\nx-aci-receipt: " + signed * receipt
        yield b"HTTP/1.1 200 X\r\ncontent-type: %b\r\n%b\r\n" % (media, b"transfer-encoding: chunked\r\n" * chunked)
        sent = body + b"event: aci.receipt\ndata: %b\n\n" % signed if stream and receipt else body
        yield b"%x\r\n%b\r\n%b" % (len(sent), sent, end) if chunked else sent

    return script


@pytest.mark.parametrize("end", [b"", b"0\r\n"])
@pytest.mark.parametrize("optimistic", [False, True])
def test_d04_without_a_last_chunk_a_signed_stream_is_whole_and_no_other(
    world: tuple[Gateway, ScriptedNode], optimistic: bool, end: bytes
) -> None:
    """Behind the terminator nothing of the answer can be missing, if a signature covers all that came."""
    gateway, node = world
    key = gateway.optimistic if optimistic else None  # type: ignore[attr-defined]
    node.script = unended(node, True, chunked=True, end=end)
    answer = post(gateway, {**ASK, "stream": True}, key)
    assert answer.status_code == 200
    assert answer.content.endswith(DONE)
    node.script = unended(node, True, chunked=True, receipt=False, end=end)
    answer = post(gateway, {**ASK, "stream": True})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["reason"]) == (502, "upstream_failed", "truncated")


@pytest.mark.parametrize("stream", [False, True])
def test_e10_without_a_length_a_signed_answer_is_whole_and_no_other(
    world: tuple[Gateway, ScriptedNode], stream: bool
) -> None:
    """A cut cannot be told from an end where the connection's is the only one."""
    gateway, node = world
    node.script = unended(node, stream, chunked=False)
    assert post(gateway, {**ASK, "stream": stream}).status_code == 200
    node.script = unended(node, stream, chunked=False, receipt=False)
    answer = post(gateway, {**ASK, "stream": stream})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["reason"]) == (502, "upstream_failed", "truncated")
    receipt = gateway.receipt(error["receipt"])
    assert (receipt["verdict"], receipt["release"], receipt["delivery"]["bytes"]) == ("none", "withheld", 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_generation(world: tuple[Gateway, ScriptedNode], stream: bool) -> None:
    """The node sees its peer leave well within a second, and the receipt says abandoned."""
    gateway, node = world
    if stream:
        head = node.head(200, None, media="text/event-stream")
        first = chunk({"content": "x"})
        node.script = node.raw(head + b"%x\r\n%b\r\n" % (len(first), first), 8.0)
    else:
        node.script = node.raw(8.0)
    body = json.dumps({**ASK, "stream": stream}).encode()
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%b\r\nauthorization: Bearer %b\r\n"
            b"x-client-request-id: leaver-%d\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (port.encode(), gateway.optimistic.encode(), stream, len(body), body)  # type: ignore[attr-defined]
        )
        time.sleep(0.4)
    deadline = time.monotonic() + 3
    while node.received[-1].left_after is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert node.received[-1].left_after is not None
    assert node.received[-1].left_after < 1.4
    time.sleep(0.2)
    with gateway.http(gateway.optimistic) as client:  # type: ignore[attr-defined]
        row = client.get("/v1/receipts", params={"client_request_id": f"leaver-{int(stream)}"}).json()["data"][0]
    assert (row["release"], row["verdict"]) == ("abandoned", "none")


def test_c11_a_stream_in_another_charset(world: tuple[Gateway, ScriptedNode]) -> None:
    """An event stream is UTF-8: one that says that it is something else has two readings."""
    gateway, node = world
    event = b"event: stream\r\n"  # no event of any API: what is refused is the head
    head = b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream; charset=utf-16\r\ncontent-length: %d\r\n\r\n"
    node.script = node.raw(head % len(event) + event)
    error = post(gateway, {**ASK, "stream": True}).json()["error"]
    assert (error["code"], error["reason"]) == ("upstream_failed", "content_type")


def no_receipt(node: ScriptedNode) -> Any:
    async def script(of: Received) -> Any:
        yield node.head(200, ANSWER) + ANSWER

    return script


def gzip_claimed(node: ScriptedNode) -> Any:
    import gzip

    data = gzip.compress(ANSWER)
    return node.raw(node.head(200, data, ("content-encoding", "gzip")) + data)


def two_receipts(node: ScriptedNode) -> Any:
    async def script(of: Received) -> Any:
        receipt = base64.b64encode(node.receipt(of, ANSWER)).decode()
        yield node.head(200, ANSWER, ("x-aci-receipt", receipt), ("x-aci-receipt", receipt)) + ANSWER

    return script


FAULTS: list[tuple[str, Any, int, str, str]] = [
    ("no receipt", no_receipt, 502, "evidence_missing", "signature"),
    ("two receipts", two_receipts, 502, "evidence_rejected", "signature"),
    ("receipt not base64", lambda n: n.raw(n.head(200, ANSWER, ("x-aci-receipt", "%%%")) + ANSWER), 502, "evidence_rejected", "signature"),
    ("other bytes signed", lambda n: n.json(ANSWER, covered=b"other"), 502, "evidence_rejected", "response_bound"),
    ("other request signed", lambda n: n.json(ANSWER, event_log=[{"type": "request.received", "body_hash": "sha256:" + "0" * 64}]), 502, "evidence_rejected", "request_bound"),
    ("old", lambda n: n.json(ANSWER, served_at=1), 502, "evidence_rejected", "fresh"),
    ("garbage", lambda n: n.json(b"\x00\xff garbage"), 502, "evidence_rejected", "malformed"),
    ("duplicate members", lambda n: n.json(ANSWER[:-1] + b',"model":"m"}'), 502, "evidence_rejected", "malformed"),
    ("html", lambda n: n.raw(n.head(200, b"<html>", media="text/html") + b"<html>"), 502, "upstream_failed", "content_type"),
    ("utf-16", lambda n: n.raw(n.head(200, ANSWER, media="application/json; charset=utf-16") + ANSWER), 502, "upstream_failed", "content_type"),
    ("signed, and a time in a text", lambda n: n.json(ANSWER, served_at="1800000000"), 502, "evidence_rejected", "malformed"),
    ("an id that is a path", lambda n: n.json(ANSWER.replace(b"chatcmpl-ORIG", b"../../chatcmpl-ORIG")), 502, "evidence_rejected", "malformed"),
    ("sse for json", lambda n: n.sse(STREAM + DONE), 502, "upstream_failed", "content_type"),
    ("gzip", gzip_claimed, 502, "upstream_failed", "content_encoding"),
    ("redirect", lambda n: n.raw(n.head(302, b"", ("location", "http://169.254.169.254/"))), 502, "upstream_failed", "redirect"),
    ("half", lambda n: n.raw(n.head(200, ANSWER) + ANSWER[:50]), 502, "upstream_failed", "truncated"),
    ("not http", lambda n: n.raw(b"SSH-2.0-x\r\n\r\n"), 502, "upstream_failed", "bad_framing"),
    ("nothing", lambda n: n.raw(), 502, "upstream_failed", "closed"),
    ("too large", lambda n: n.raw(b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\n\r\n"), 502, "upstream_failed", "too_large"),
    ("second choice", lambda n: n.json(ANSWER.replace(b'"choices":[', b'"choices":[{"index":1},')), 502, "evidence_rejected", "shape"),
    ("an undeclared call", lambda n: n.json(ANSWER.replace(b'"x_deep"', b'"tool_calls":[{"function":{"name":"rm","arguments":"{}"}}],"x_deep"')), 502, "evidence_rejected", "tool_undeclared"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "status", "code", "reason"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_what_a_node_may_do_wrong(make_gateway: Any, script: Any, status: int, code: str, reason: str) -> None:
    """Whatever a node sends, the caller gets one error with its reason, none of the withheld bytes, and a receipt."""
    node = ScriptedNode()
    try:
        gateway = make_gateway([node.table()]).start()
        node.script = script(node)
        answer = post(gateway)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["reason"]) == (status, code, reason)
        assert len(node.received) == 1
        assert b"chatcmpl-ORIG" not in answer.content
        receipt = gateway.receipt(error["receipt"])
        assert (receipt["release"], receipt["reason"]) == ("withheld", reason)
    finally:
        node.close()


def test_a17_a_lie_among_many_honest_answers(make_gateway: Any) -> None:
    """Fifty good answers earn a node no trust: the one that it changes, where the request has a certain tool, is refused."""
    node = ScriptedNode()
    tools = [{"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}]

    def script(of: Received) -> Any:
        lies = len(node.received) == 51 and b'"bash"' in of.body
        return node.json(ANSWER, covered=ANSWER + b" " if lies else None)(of)

    node.script = script
    try:
        gateway = make_gateway([node.table()]).start()
        answers = [post(gateway, {**ASK, "tools": tools}) for _ in range(51)]
    finally:
        node.close()
    assert [answer.status_code for answer in answers] == [200] * 50 + [502]
    error = answers[-1].json()["error"]
    assert (error["code"], error["reason"]) == ("evidence_rejected", "response_bound")
    assert answers[-1].headers["x-should-retry"] == "false"
