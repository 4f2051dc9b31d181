"""The hashed bytes of requests and outputs, written out."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import FormatError
from gateway.verify.opengradient.canonical import SignedCall, Surface, attachments, candidates, toolcall_outputs

USER = {"role": "user", "content": "hi"}
PARTS = [
    {"type": "text", "text": "what?"},
    {"type": "text"},
    {"type": "image_url", "image_url": {"url": "data:,x"}},
    {"type": "file", "file": {"filename": "a.pdf", "file_data": "x"}},
    {"type": "input_file", "filename": "b.pdf", "file": {"filename": None}},
    "loose",
]


def chat(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": list(messages), **more}


def one(surface: Surface, document: dict[str, Any]) -> str:
    ((_, data),) = candidates(surface, document)
    return data.decode()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, '"model": "m", "temperature": 0.0}'),
        ({"temperature": None}, '"model": "m", "temperature": 0.0}'),
        ({"temperature": 1}, '"model": "m", "temperature": 1.0}'),
        ({"temperature": 1e-7}, '"model": "m", "temperature": 1e-07}'),
        ({"web_search": True}, '"model": "m", "temperature": 0.0, "web_search": true}'),
        ({"web_search": False, "stop": [], "tools": [], "response_format": None}, '"model": "m", "temperature": 0.0}'),
        ({"stop": ["\n"]}, '"model": "m", "stop": ["\\n"], "temperature": 0.0}'),
        (
            {"tools": [{"b": 1, "a": 2}], "response_format": {"type": "text"}},
            '"model": "m", "response_format": {"type": "text"}, "temperature": 0.0, "tools": [{"a": 2, "b": 1}]}',
        ),
        (
            {"tool_choice": "auto", "top_p": 0.5, "n": 1, "seed": 7, "stream": True, "user": "u", "logit_bias": {}},
            '"model": "m", "temperature": 0.0}',
        ),
    ],
)
def test_chat_members(more: dict[str, Any], expected: str) -> None:
    """Only the members that the node hashes stand there, sorted, with its defaults, in CPython's spelling."""
    assert one(Surface.CHAT, chat(USER, **more)) == '{"messages": [{"content": "hi", "role": "user"}], ' + expected


def test_a_limit_stands_first() -> None:
    """`max_tokens` is hashed when it is a number, and not when it is null."""
    assert one(Surface.CHAT, chat(USER, max_tokens=0)).startswith('{"max_tokens": 0, "messages"')
    assert "max_tokens" not in one(Surface.CHAT, chat(USER, max_tokens=None))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "developer", "content": "x", "name": "n"}, {"role": "system", "content": "x"}),
        ({"role": "system"}, {"role": "system", "content": None}),
        ({"role": "user", "content": "ü\U0001f44b", "name": "n"}, {"role": "user", "content": "ü\U0001f44b"}),
        ({"role": "assistant", "content": None}, {"role": "assistant", "content": ""}),
        (
            {"role": "assistant", "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}, "index": 0}]},
            {"role": "assistant", "content": "", "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        ),
        (
            {"role": "assistant", "content": "x", "tool_calls": [{}]},
            {"role": "assistant", "content": "x", "tool_calls": [
                {"id": None, "type": None, "function": {"name": None, "arguments": None}}]},
        ),
        (
            {"role": "tool", "content": "21", "tool_call_id": "c", "name": "f"},
            {"role": "tool", "content": "21", "tool_call_id": "c"},
        ),
        ({"role": "function", "content": "21", "name": "f"}, {"role": "function", "content": "21", "name": "f"}),
    ],
)  # fmt: skip
def test_messages(message: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each role keeps its members; what is not ASCII is escaped, astral characters as pairs."""
    text = one(Surface.CHAT, chat(message))
    assert text.isascii()
    assert json.loads(text)["messages"] == [expected]


def test_parts_have_three_forms() -> None:
    """A list of parts is hashed without its attachments' bytes, as it came, or as Python writes it."""
    found = dict(candidates(Surface.CHAT, chat({"role": "user", "content": PARTS})))
    assert list(found) == ["v3", "v2", "v1"]
    content = {name: json.loads(data)["messages"][0]["content"] for name, data in found.items()}
    assert content["v3"] == [
        {"type": "text", "text": "what?"}, {"type": "text", "text": ""}, {"type": "image_url"},
        {"type": "file", "filename": "a.pdf"}, {"type": "input_file", "filename": "b.pdf"},
        {"type": "text", "text": "loose"},
    ]  # fmt: skip
    assert content["v2"] == PARTS
    assert content["v1"] == str(PARTS)
    assert attachments(chat({"role": "user", "content": PARTS}, USER, {"role": "system", "content": PARTS})) == 3


def test_equal_forms_come_once() -> None:
    """Text alone has one form; parts of nothing but text have two, the newest named."""
    assert [name for name, _ in candidates(Surface.CHAT, chat(USER))] == ["v3"]
    parts = {"role": "user", "content": [{"type": "text", "text": "x"}]}
    assert [name for name, _ in candidates(Surface.CHAT, chat(parts))] == ["v3", "v1"]
    assert attachments(chat(parts)) == 0
    found = dict(candidates(Surface.CHAT, chat({"role": "user"})))
    assert {name: json.loads(data)["messages"][0]["content"] for name, data in found.items()} == {
        "v3": "None", "v2": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, '{"max_tokens": 16, "model": "m", "prompt": "p", "temperature": 1.0}'),
        ({"max_tokens": None, "temperature": None}, '{"model": "m", "prompt": "p", "temperature": 0.0}'),
        (
            {"max_tokens": 8, "temperature": 0, "stop": "x", "echo": True},
            '{"max_tokens": 8, "model": "m", "prompt": "p", "stop": "x", "temperature": 0.0}',
        ),
    ],
)
def test_completions(more: dict[str, Any], expected: str) -> None:
    """A completion has the defaults of its own endpoint."""
    assert one(Surface.COMPLETION, {"model": "m", "prompt": "p", **more}) == expected


def test_a_search_is_hashed_whole() -> None:
    """Every member of a search is hashed, sorted."""
    assert one(Surface.WEB_SEARCH, {"query": "ü", "b": {"d": 1, "c": None}}) == (
        '{"b": {"c": null, "d": 1}, "query": "\\u00fc"}'
    )


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("surface", "document"),
    [
        (Surface.CHAT, []),
        (Surface.CHAT, None),
        (Surface.CHAT, {"model": "m"}),
        (Surface.CHAT, {"model": "m", "messages": {}}),
        (Surface.CHAT, {"model": "m", "messages": ["x"]}),
        (Surface.CHAT, {"messages": []}),
        (Surface.CHAT, chat({"content": "x"})),
        (Surface.CHAT, chat({"role": "wizard", "content": "x"})),
        (Surface.CHAT, chat({"role": ["user"], "content": "x"})),
        (Surface.CHAT, chat({"role": "assistant", "tool_calls": {"a": 1}})),
        (Surface.CHAT, chat({"role": "assistant", "tool_calls": ["x"]})),
        (Surface.CHAT, chat({"role": "assistant", "tool_calls": [{"function": None}]})),
        (Surface.CHAT, chat(USER, temperature="0.5")),
        (Surface.CHAT, chat(USER, temperature=True)),
        (Surface.CHAT, chat(USER, temperature=10**400)),
        (Surface.CHAT, chat({"role": "user", "content": nested(100_000)})),
        (Surface.CHAT, chat(USER, stop=nested(100_000))),
        (Surface.CHAT, chat(USER, stop={1, 2})),
        (Surface.COMPLETION, {"model": "m"}),
        (Surface.COMPLETION, {"prompt": "m"}),
        (Surface.WEB_SEARCH, {"query": nested(100_000)}),
        (Surface.WEB_SEARCH, {"query": "x", 5: 1}),
    ],
)
def test_a_body_that_the_node_would_not_take_has_no_form(surface: Surface, document: Any) -> None:
    """What the node hashes for a malformed body is not guessed."""
    with pytest.raises(FormatError):
        candidates(surface, document)


def test_outputs_of_calls() -> None:
    """Calls are hashed as sorted JSON; an id that never came may have been null or empty."""
    call = SignedCall("c", "f", '{"a": "ü"}')
    assert toolcall_outputs((call,)) == (
        '[{"function": {"arguments": "{\\"a\\": \\"\\u00fc\\"}", "name": "f"}, "id": "c", "type": "function"}]',
    )
    null = SignedCall(None, "f", "{}")
    assert toolcall_outputs((null,)) == (
        '[{"function": {"arguments": "{}", "name": "f"}, "id": null, "type": "function"}]',
    )
    absent = toolcall_outputs((SignedCall(msgspec.UNSET, msgspec.UNSET, ""), call))
    assert [(json.loads(text)[0]["id"], json.loads(text)[0]["function"]["name"]) for text in absent] == [
        (None, None), ("", ""),
    ]  # fmt: skip
    assert [json.loads(text)[1]["id"] for text in absent] == ["c", "c"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["role", "content", "type", "text", "file", "filename", "tool_calls", "function", "id"])
        | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "model": JSON, "prompt": JSON, "temperature": JSON, "max_tokens": JSON, "stop": JSON,
        "messages": st.lists(st.fixed_dictionaries({"role": st.sampled_from(
            ["user", "system", "assistant", "tool", "function", "developer"]) | JSON},
            optional={"content": JSON, "tool_calls": JSON, "name": JSON}), max_size=3) | JSON,
    },
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(Surface), DOCUMENTS | JSON)
def test_any_document_has_forms_or_is_refused(surface: Surface, document: Any) -> None:
    """Whatever the document is, there are ASCII forms of it or a `FormatError`."""
    try:
        found = candidates(surface, document)
    except FormatError:
        return
    assert found
    assert all(data.isascii() and json.loads(data) is not None for _, data in found)
    if surface is Surface.CHAT:
        assert attachments(document) >= 0
