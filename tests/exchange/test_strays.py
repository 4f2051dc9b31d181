"""Calls where no API has one: in every answer and event they count as calls, whichever rule reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.exchange.aci import AciStream
from gateway.exchange.answer import read_answer
from gateway.exchange.head import Head
from gateway.exchange.opengradient import OpenGradientReader, read_opengradient
from gateway.exchange.release import Hold
from gateway.exchange.strays import IN_ANSWER, stray_calls
from gateway.exchange.stream import CALL, TEXT, Wire
from gateway.model.observation import Call

CHAT = "/v1/chat/completions"
WIRE = Wire(b"aci.receipt", b"aci.chain")
F = {"name": "bash", "arguments": "{}"}
TYPED = {"type": "tool_use", "name": "bash", "input": {"a": 1}}
STRAYS: list[tuple[dict[str, Any], Call]] = [
    ({"mcp_call": F}, Call("mcp_call", "bash", "{}")),
    ({"mcp_calls": [F, "no call"]}, Call("mcp_calls", "bash", "{}")),
    ({"MCP_Call": F}, Call("MCP_Call", "bash", "{}")),
    ({"computer_call": {"action": {"type": "click"}}}, Call("computer_call", "computer", None)),
    ({"custom_tool_call": {"name": "bash", "input": "ls"}}, Call("custom_tool_call", "bash", "ls")),
    ({"tool_use": TYPED}, Call("tool_use", "bash", '{"a":1}')),
    ({"tool_call": {"type": "function", "function": F}}, Call("tool_call", "bash", "{}")),
    ({"tool_call": {"custom": {"name": "bash", "input": "ls"}}}, Call("tool_call", "bash", "ls")),
]
PLACES = ("", "choice", "message")


def head(endpoint: str = CHAT) -> Head:
    return Head(endpoint, "m", False, 1, frozenset({"bash"}))


def document(place: str, member: dict[str, Any], within: str = "message") -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, within: {"content": "hi"}, "finish_reason": None}
    whole: dict[str, Any] = {"id": "c", "model": "m", "choices": [choice]}
    {"": whole, "choice": choice, "message": choice[within]}[place].update(member)
    return whole


def dumps(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("member", "call"), STRAYS)
def test_a12_a_call_where_no_api_has_one(place: str, member: dict[str, Any], call: Call) -> None:
    """In a chat's answer, beside the message or in it, it is a call like any other; so it is where answers are rebuilt."""
    body = dumps(document(place, member))
    seen, content, _ = read_answer(head(), body)
    assert seen.calls == (call,)
    assert content.toolcalls.startswith(call.name.encode() + b"\0")
    whole = read_opengradient(head(), body)
    assert whole.observation.calls == (call,)
    assert whole.answer.beside == (call.kind,)
    assert call.name.encode() not in whole.deliver


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("member", "call"), STRAYS)
def test_a15_a_call_where_no_api_has_one_waits(place: str, member: dict[str, Any], call: Call) -> None:
    """Of such a delta, and of what follows it, nothing leaves before the verdict, in the most hasty mode."""
    event = b"data: " + dumps(document(place, member, "delta")) + b"\n\n"
    after = b"data: " + dumps(document("", {}, "delta")) + b"\n\n"
    reader = AciStream(head(), WIRE, b"", max_event=1 << 20)
    hold = Hold("optimistic")
    pieces = reader.feed(event + after)
    assert [piece.kind for piece in pieces] == [CALL, TEXT]
    assert b"".join(hold.offer(piece, 0.0) for piece in pieces) == b""
    assert reader.observation().calls == (call,)
    assert reader.content().toolcalls.startswith(call.name.encode() + b"\0")
    rebuilt = OpenGradientReader(head(), b"", max_event=1 << 20)
    assert b"bash" not in b"".join(piece.out for piece in rebuilt.feed(event))
    assert rebuilt.observation().calls == (call,)
    assert rebuilt.answer().beside == (call.kind,)


@pytest.mark.parametrize("type_", ["custom", "mcp"])
def test_a12_a_call_that_cannot_be_read_is_one(type_: str) -> None:
    """Of a network that signs functions alone, a call of another type makes the answer unreadable, and is a call."""
    member = {"tool_calls": [{"id": "c", "type": type_, type_: {"name": "bash", "input": "ls"}}]}
    for seen in (
        read_opengradient(head(), dumps(document("message", member))).observation,
        _streamed(document("message", member, "delta")),
    ):
        assert "is not what it should be" in (seen.malformed or "")
        assert [call.kind for call in seen.calls] == ["tool_calls"]


def _streamed(event: dict[str, Any]) -> Any:
    reader = OpenGradientReader(head(), b"", max_event=1 << 20)
    reader.feed(b"data: " + dumps(event) + b"\n\n")
    return reader.observation()


@pytest.mark.parametrize(
    ("endpoint", "answer"),
    [
        (CHAT, document("message", {"content": [TYPED]})),
        (CHAT, document("choice", {"tool_calls": [{"type": "function", "function": F}]})),
        (CHAT, document("choice", {"delta": {"tool_calls": [{"type": "function", "function": F}]}})),
        (CHAT, document("", {"output": [{**F, "type": "function_call"}]})),
        ("/v1/completions", {"choices": [{"index": 0, "text": "x", "function_call": F}]}),
        ("/v1/responses", {"output": [{"type": "message", "content": [TYPED]}]}),
        ("/v1/responses", {"output": [], "choices": [{"message": {"tool_calls": [{"function": F}]}}]}),
        ("/v1/messages", {"content": [{"type": "text", "text": "x"}], "tool_calls": [{"function": F}]}),
        ("/v1/embeddings", {"data": [[1.0]], "tool_calls": [{"function": F}]}),
    ],
)
def test_a09_a_call_at_another_place_of_an_answer(endpoint: str, answer: dict[str, Any]) -> None:
    """The form of another API's calls, or the right form at the wrong place, is a call at each endpoint."""
    seen, _, _ = read_answer(head(endpoint), dumps(answer))
    assert [call.name for call in seen.calls] == ["bash"]


@pytest.mark.parametrize(
    ("endpoint", "event"),
    [
        ("/v1/responses", {"type": "response.content_part.added", "part": TYPED}),
        ("/v1/responses", {"type": "response.created", "response": {"id": "r", "tool_calls": [{"function": F}]}}),
        ("/v1/messages", {"type": "message_start", "message": {"id": "r", "tool_calls": [{"function": F}]}}),
        ("/v1/completions", document("choice", {"tool_calls": [{"function": F}]}, "delta")),
    ],
)
def test_a15_a_call_at_another_place_of_an_event(endpoint: str, event: dict[str, Any]) -> None:
    """So it is in a stream, and the event waits for the verdict."""
    reader = AciStream(head(endpoint), WIRE, b"", max_event=1 << 20)
    (piece,) = reader.feed(b"data: " + dumps(event) + b"\n\n")
    assert piece.kind == CALL
    assert [call.name for call in reader.observation().calls] == ["bash"]


@pytest.mark.parametrize(
    "member",
    [
        {"tool_calls": None, "mcp_call": None, "function_call": None},
        {"mcp_calls": [], "x_call": "text", "y_call": 1},
        {"usage": {"server_tool_use": {"web_search_requests": 1}, "mcp_calls": [{}]}},
        {"content": "a tool_use of mcp_call"},
    ],
)
def test_what_is_no_call_is_none(member: dict[str, Any]) -> None:
    """What holds nothing, a count, a text about calls."""
    for place in PLACES:
        whole = document(place, member)
        assert stray_calls(whole, dumps(whole), IN_ANSWER[CHAT]) == ()
