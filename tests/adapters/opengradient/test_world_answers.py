"""The test network's answers keep the protocol, and each fault of an answer does what it says."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest
from opengradient_world import Network
from world_kit import (
    CALLING,
    HELLO,
    ask,
    canonical,
    direct,
    events,
    holds,
    text_of,
)


def test_a_chat_answer_is_signed_over_request_and_text(network: Network) -> None:
    """The signature holds over the canonical request, the text and the time, and the rest is OpenAI's form."""
    answer = json.loads(direct(network, HELLO))
    (choice,) = answer["choices"]
    assert holds(network, answer, canonical(HELLO, temperature=0), choice["message"]["content"])
    assert not holds(network, answer, canonical(HELLO, temperature=0), choice["message"]["content"] + " ")
    assert (answer["object"], answer["model"], choice["finish_reason"]) == ("chat.completion", "gpt-4.1", "stop")
    assert type(answer["tee_timestamp"]) is int
    assert direct(network, HELLO) != b""
    assert json.loads(direct(network, HELLO))["choices"] == answer["choices"]


def test_a_stream_is_signed_in_its_last_frame(network: Network) -> None:
    """Deltas without id or object, then one frame with the signature over their text, then the terminator."""
    *deltas, final, done = events(direct(network, {**HELLO, "stream": True}))
    assert done is None
    assert all(frame.keys() == {"choices", "model"} for frame in deltas)
    assert final["choices"] == [{"delta": {}, "index": 0, "finish_reason": "stop"}]
    assert holds(network, final, canonical(HELLO, temperature=0), text_of(deltas))


def test_a_completion_is_signed_with_its_defaults(network: Network) -> None:
    """A text completion that names neither has temperature 1.0 and 16 tokens in what is signed."""
    body = {"model": "gpt-4.1", "prompt": "echo: once upon"}
    answer = json.loads(direct(network, body, "/v1/completions"))
    (choice,) = answer["choices"]
    assert choice["text"] == "once upon"
    assert holds(network, answer, canonical(body, temperature=1, max_tokens=16), "once upon")


def test_tool_calls_are_what_is_signed(network: Network) -> None:
    """Whole or streamed, in one piece or in fragments, the output is the list of calls."""
    message = json.loads(direct(network, CALLING))
    calls = message["choices"][0]["message"]["tool_calls"]
    assert [json.loads(call["function"]["arguments"])["city"] for call in calls] == ["Zürich", "Bern"]
    assert holds(network, message, canonical(CALLING), json.dumps(calls, sort_keys=True))
    for model, fragments in (("gpt-4.1", 2), ("gemini-3.5-flash", 4)):
        *deltas, final, _ = events(direct(network, {**CALLING, "model": model, "stream": True}))
        assert len(deltas) == fragments
        built: dict[int, Any] = {}
        for frame in deltas:
            (piece,) = frame["choices"][0]["delta"]["tool_calls"]
            call = built.setdefault(piece.pop("index"), {"function": {"arguments": ""}})
            function = piece.pop("function")
            call.update(piece)
            function["arguments"] = call["function"]["arguments"] + function["arguments"]
            call["function"].update(function)
        assert list(built.values()) == calls
        assert holds(network, final, canonical({**CALLING, "model": model}), json.dumps(calls, sort_keys=True))


@pytest.mark.parametrize(
    ("profile", "content"),
    [
        ("v1", "[{'type': 'text', 'text': 'see'}, {'type': 'file', 'file': {'filename': 'a.pdf', 'file_data': 'AA'}}]"),
        ("v2", [{"type": "text", "text": "see"}, {"type": "file", "file": {"filename": "a.pdf", "file_data": "AA"}}]),
        ("v3", [{"type": "text", "text": "see"}, {"type": "file", "filename": "a.pdf"}]),
    ],
)
def test_a_list_of_parts_is_signed_as_the_build_does(network: Network, profile: str, content: Any) -> None:
    """v1 signs Python's text of the list, v2 the list, v3 the list without the files' bytes."""
    network.enclave.profile = profile
    parts = [{"type": "text", "text": "see"}, {"type": "file", "file": {"filename": "a.pdf", "file_data": "AA"}}]
    asked = {"model": "gpt-4.1", "messages": [{"role": "user", "content": parts}]}
    signed = {"model": "gpt-4.1", "messages": [{"role": "user", "content": content}]}
    answer = json.loads(direct(network, asked))
    assert holds(network, answer, canonical(signed, temperature=0), answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize("fault", ["tamper", "wrongkey"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_was_changed_does_not_hold(network: Network, fault: str, stream: bool) -> None:
    """Another text or another key: everything is there, and the signature does not hold."""
    network.faults.add(fault)
    for body in (HELLO, CALLING):
        data = direct(network, {**body, "stream": stream})
        frames = events(data) if stream else [json.loads(data)]
        signed = frames[-2] if stream else frames[0]
        if body is HELLO:
            output = text_of(frames) if stream else signed["choices"][0]["message"]["content"]
        else:
            calls = (
                [frame["choices"][0]["delta"]["tool_calls"][0] for frame in frames[:-2]]
                if stream
                else signed["choices"][0]["message"]["tool_calls"]
            )
            output = json.dumps([{k: call[k] for k in ("id", "type", "function")} for call in calls], sort_keys=True)
        assert not holds(network, signed, canonical({"temperature": 0, **body}), output)


@pytest.mark.parametrize(("fault", "shift"), [("stale", -7200), ("future", 900)])
def test_an_answer_of_another_time_is_signed_all_the_same(network: Network, fault: str, shift: int) -> None:
    """The signature holds, and its time is two hours ago or fifteen minutes ahead."""
    network.faults.add(fault)
    answer = json.loads(direct(network, HELLO))
    assert holds(network, answer, canonical(HELLO, temperature=0), answer["choices"][0]["message"]["content"])
    assert abs(answer["tee_timestamp"] - network.clock() - shift) < 30


def test_no_signature_is_no_member(network: Network) -> None:
    """Everything but the signature is there."""
    network.faults.add("nosig")
    answer = json.loads(direct(network, HELLO))
    assert "tee_signature" not in answer
    assert "tee_output_hash" in answer


def test_a_cut_answer_ends_early(network: Network) -> None:
    """A stream has no signature and no terminator; a body is shorter than it said."""
    network.faults.add("cut")
    frames = events(direct(network, {**HELLO, "stream": True}))
    assert frames
    assert all(frame is not None and "tee_signature" not in frame for frame in frames)
    with pytest.raises(http.client.IncompleteRead):
        ask(network.enclave.url, "/v1/chat/completions", HELLO)


def test_a_replayed_answer_is_the_first_one_again(network: Network) -> None:
    """The same bytes, valid signature included, for the same request and for no other."""
    first = direct(network, {**HELLO, "max_tokens": 7})
    assert direct(network, {**HELLO, "max_tokens": 7}) != first
    network.faults.add("replay")
    assert direct(network, {**HELLO, "max_tokens": 7}) == first
    assert direct(network, {**HELLO, "max_tokens": 8}) != first


@pytest.mark.parametrize("stream", [False, True])
def test_what_rides_along_is_not_signed(network: Network, stream: bool) -> None:
    """A tool call or a second choice stands beside a text whose signature holds."""
    for fault in ("unsigned_toolcall", "second_choice"):
        network.faults.clear()
        network.faults.add(fault)
        data = direct(network, {**HELLO, "stream": stream})
        if stream:
            *frames, signed, _ = events(data)
            extra = [f for f in frames if f["choices"][0]["index"] == 1 or "tool_calls" in f["choices"][0]["delta"]]
            output = text_of([f for f in frames if f not in extra])
        else:
            signed = json.loads(data)
            message = signed["choices"][0]["message"]
            extra = signed["choices"][1:] + message.get("tool_calls", [])
            output = message["content"]
        assert len(extra) == 1
        assert holds(network, signed, canonical(HELLO, temperature=0), output)


@pytest.mark.parametrize("stream", [False, True])
def test_a_promoted_text_is_a_call_that_nobody_made(network: Network, stream: bool) -> None:
    """What was signed as text is delivered as a tool call, and the signature holds over its list."""
    network.faults.add("promoted")
    data = direct(network, {**HELLO, "stream": stream})
    frames = events(data) if stream else [json.loads(data)]
    choice = frames[0]["choices"][0]
    (call,) = (choice["delta"] if stream else choice["message"])["tool_calls"]
    call.pop("index", None)
    assert call["function"]["name"] == "wire_money"
    signed = frames[-2] if stream else frames[0]
    assert holds(network, signed, canonical(HELLO, temperature=0), json.dumps([call], sort_keys=True))


def test_a_text_may_hold_the_terminator(network: Network) -> None:
    """`[DONE]` is a delta of its own, in an honest stream that ends with one terminator."""
    network.faults.add("done_in_text")
    *deltas, final, done = events(direct(network, {**HELLO, "stream": True}))
    assert done is None
    assert [frame["choices"][0]["delta"]["content"] for frame in deltas].count("[DONE]") == 3
    assert holds(network, final, canonical(HELLO, temperature=0), text_of(deltas))


def test_a_failing_provider_is_a_502_that_names_it(network: Network) -> None:
    """The gateway's error object says whose failure it is and whether to try again."""
    network.faults.add("err500")
    status, _, data = ask(network.enclave.url, "/v1/chat/completions", HELLO)
    error = json.loads(data)
    assert (status, error["source"], error["provider_status"], error["retryable"]) == (502, "provider", 500, True)
