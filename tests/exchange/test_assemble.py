"""A stream put together into the answer that it amounts to."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import FormatError
from gateway.exchange import assemble as module
from gateway.exchange.assemble import assemble


def event(*choices: dict[str, Any], **members: Any) -> bytes:
    return json.dumps({"id": "c", "object": "chat.completion.chunk", "model": "m"} | members | {"choices": list(choices)}).encode()  # fmt: skip


def delta(index: int = 0, /, *, finish: str | None = None, more: dict[str, Any] | None = None, **members: Any) -> dict[str, Any]:  # fmt: skip
    return {"index": index, "delta": members, "finish_reason": finish} | (more or {})


def whole(*events: bytes) -> Any:
    return json.loads(assemble(events))


def scored(token: str) -> dict[str, Any]:
    return {"logprobs": {"content": [{"token": token, "logprob": -0.5, "top_logprobs": []}]}}


def test_text_tokens_and_usage() -> None:
    """Text, log-probs and token ids are joined; what stands beside them comes from the event that has it."""
    found = whole(
        event(delta(role="assistant", content="", more={"token_ids": []}), prompt_token_ids=[1, 2]),
        event(delta(content="Hel", more=scored("Hel") | {"token_ids": [5]})),
        event(delta(content="lo", more=scored("lo") | {"token_ids": [6]}), usage=None),
        event(delta(finish="stop", more={"logprobs": None, "stop_reason": 3})),
        event(usage={"completion_tokens": 2}),
        event(toploc={"proofs": ["p"]}),
        b"[DONE]",
    )
    (choice,) = found["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello"}
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == ["Hel", "lo"]
    assert (choice["token_ids"], choice["finish_reason"], choice["stop_reason"]) == ([5, 6], "stop", 3)
    assert (found["prompt_token_ids"], found["usage"], found["toploc"]) == ([1, 2], {"completion_tokens": 2}, {"proofs": ["p"]})  # fmt: skip
    assert (found["id"], found["object"], found["model"]) == ("c", "chat.completion", "m")


def test_tool_calls() -> None:
    """Calls are told apart by their index; names and arguments come in pieces."""
    found = whole(
        event(delta(role="assistant", content=None, tool_calls=[{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}])),
        event(delta(tool_calls=[{"index": 1, "id": "b", "type": "custom", "custom": {"name": "g", "input": "x"}}])),
        event(delta(tool_calls=[{"index": 0, "function": {"arguments": '{"x":'}}, {"index": 0, "function": {"arguments": "1}"}}])),
        event(delta(tool_calls=[{"index": 1, "function": None, "id": None}, {"index": 0, "function": {"name": None}}])),
        event(delta(tool_calls=None, finish="tool_calls")),
    )  # fmt: skip
    message = found["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"id": "b", "type": "custom", "custom": {"name": "g", "input": "x"}},
    ]


def test_other_texts() -> None:
    """Reasoning, refusals and old function calls are joined as well; unknown members stay."""
    found = whole(
        event(delta(reasoning_content="a", refusal="no", audio={"id": 1}, function_call={"name": "f"})),
        event(delta(reasoning_content="b", audio=None, function_call={"arguments": "{}"}), more=None),
        event(delta(function_call=None)),
    )
    assert found["choices"][0]["message"] == {
        "role": "assistant", "content": None, "reasoning_content": "ab", "refusal": "no", "audio": {"id": 1},
        "function_call": {"name": "f", "arguments": "{}"},
    }  # fmt: skip


def test_choices_are_in_order() -> None:
    """Choices are told apart by their index, whatever order they come in."""
    found = whole(event(delta(1, content="b")), event(delta(0, content="a"), delta(1, content="c")))
    assert [c["message"]["content"] for c in found["choices"]] == ["a", "bc"]


def test_completions() -> None:
    """A stream of completions has texts and stays what it is."""
    found = whole(
        event({"index": 0, "text": "a", "logprobs": {"tokens": ["a"]}}, object="text_completion"),
        event({"text": "b", "logprobs": {"tokens": ["b"]}, "finish_reason": "stop"}, object="text_completion"),
    )
    assert found["object"] == "text_completion"
    assert found["choices"] == [{"index": 0, "text": "ab", "logprobs": {"tokens": ["a", "b"]}, "finish_reason": "stop"}]


def test_a_choice_without_anything() -> None:
    """A choice of which nothing came is an answer without content."""
    assert whole(event({"index": 0}))["choices"] == [{"index": 0, "message": {"role": "assistant", "content": None}}]


@pytest.mark.parametrize(
    "events",
    [
        [],
        [b"[DONE]"],
        [b"{"],
        [b"[]"],
        [b'{"choices":{}}'],
        [b'{"choices":[1]}'],
        [event(usage={})],
        [b'{"error":{"message":"x"},"choices":[]}'],
        [b'{"a":1,"a":2}'],
        [event(delta(content=1))],
        [event(delta(content=["a"]))],
        [event({"index": 0, "delta": "a"})],
        [event({"index": -1, "delta": {}})],
        [event({"index": True, "delta": {}})],
        [event({"index": 128, "delta": {}})],
        [event({"index": 0, "message": {"content": "another"}})],
        [event({"index": 0, "delta": {"content": "a"}, "message": None})],
        [event(delta(tool_calls={}))],
        [event(delta(tool_calls=[1]))],
        [event(delta(tool_calls=[{"index": 256}]))],
        [event(delta(tool_calls=[{"index": 0, "function": "f"}]))],
        [event(delta(tool_calls=[{"index": 0, "function": {"arguments": 1}}]))],
        [event(delta(function_call=[]))],
        [event({"index": 0, "logprobs": []})],
        [event({"index": 0, "logprobs": {"content": {}}})],
        [event({"index": 0, "token_ids": 5})],
        [event(delta(content="do"), delta(content=" not"))],
    ],
)  # fmt: skip
def test_what_cannot_be_put_together(events: list[bytes]) -> None:
    """Nothing is guessed: such a stream is refused."""
    with pytest.raises(FormatError):
        assemble(events)


@pytest.mark.parametrize(("name", "most"), [("MAX_EVENTS", 1), ("MAX_BYTES", 60)])
def test_bounds(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many events, or too many bytes, are refused before they are read."""
    monkeypatch.setattr(module, name, most)
    with pytest.raises(FormatError, match="a stream has at most"):
        assemble([b"{", b"[DONE]" * 20])


_value = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["index", "function", "name", "arguments", "content", "custom", "id"]), inner, max_size=3
        )
    ),
    max_leaves=10,
)
_choice = st.dictionaries(
    st.sampled_from(["index", "delta", "text", "logprobs", "token_ids", "finish_reason", "message"]), _value, max_size=4
)


@given(st.lists(st.fixed_dictionaries({"choices": st.lists(_choice, max_size=2) | _value}) | st.dictionaries(st.text(max_size=4), _value, max_size=2), max_size=4))  # fmt: skip
def test_events_of_anybody(events: list[dict[str, Any]]) -> None:
    """Of any events comes JSON with choices, or our own error."""
    try:
        found = assemble([json.dumps(e).encode() for e in events])
    except FormatError:
        return
    assert json.loads(found)["choices"]


@given(st.lists(st.text(max_size=5), min_size=1, max_size=6), st.data())
def test_cuts_do_not_matter(texts: list[str], data: st.DataObject) -> None:
    """However an answer is cut into events, the text is the same."""
    text = "".join(texts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert whole(*(event(delta(content=piece)) for piece in pieces)) == whole(event(delta(content=text)))
