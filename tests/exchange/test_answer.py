"""Reading JSON answers of the five APIs."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.exchange.answer import Content, read_answer, reads_as_call, without
from gateway.exchange.head import Head

CHAT = Head("/v1/chat/completions", "m", False, 1, frozenset({"f"}))
COMPLETIONS = Head("/v1/completions", "m", False, 1, frozenset({"f"}))


def chat(message: dict[str, object], **members: object) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"id": "c1", "model": "m", "choices": [choice], **members}).encode()


def test_chat_text_model_and_usage() -> None:
    """Text, model, id and token counts of a chat answer are read."""
    seen, content, foreign = read_answer(
        CHAT, chat({"content": "hé"}, usage={"prompt_tokens": 3, "completion_tokens": 4})
    )
    assert (seen.malformed, seen.shape, seen.models, seen.answer_id) == (None, None, ("m",), "c1")
    assert (seen.input_tokens, seen.output_tokens) == (3, 4)
    assert (content, foreign) == (Content("hé", b""), ())


def test_an_empty_model_is_none() -> None:
    """It names nothing, so it contradicts nothing: that no model is named is what there is to say."""
    for model in ("", None):
        seen, _, _ = read_answer(CHAT, json.dumps({"id": "c", "model": model, "choices": [{"index": 0}]}).encode())
        assert (seen.models, seen.shape) == ((), None)


#: Ids that no agent can put into a path, a header or a line without harm.
BAD_IDS = ("../../x", "a/../b", "..\\x", "a\r\nb: c", "x" * 200_000, "x" * 513, None, 7, "\x1b[2J", "é", "a b", ["c"])


@pytest.mark.parametrize("value", BAD_IDS)
def test_c20_an_id_that_is_none_is_malformed(value: object) -> None:
    """Whoever signed it: agents write it into file names, paths and logs."""
    seen, content, _ = read_answer(CHAT, chat({"content": "x"}, id=value))
    assert seen.malformed is not None
    assert content == Content()


@pytest.mark.parametrize("value", ["", "chatcmpl-1", "resp_bGl0/ZWxsbTo+Y3VzdG9t==", "gen-1..2", "a:b|c", "x" * 512])
def test_c20_the_ids_of_servers_are_read(value: str) -> None:
    """Among them base64, where a slash stands for a digit."""
    seen, _, _ = read_answer(CHAT, chat({"content": "x"}, id=value))
    assert (seen.malformed, seen.answer_id) == (None, value)


@pytest.mark.parametrize(
    ("message", "kind", "name", "arguments"),
    [
        ({"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]}, "tool_calls", "f", "{}"),
        ({"tool_calls": [{"type": "custom", "custom": {"name": "f"}}]}, "custom", "f", None),
        ({"tool_calls": [{"custom": {"name": "f", "input": "{}", "arguments": "1"}}]}, "custom", "f", "{}"),
        ({"tool_calls": [{"type": "", "function": {"name": "f"}, "custom": None}]}, "tool_calls", "f", None),
        ({"tool_calls": [{"type": "custom", "function": {"name": "f", "arguments": "{}"}}]}, "custom", "", None),
        ({"tool_calls": [{"type": "function", "custom": {"name": "f", "input": "{}"}}]}, "tool_calls", "", None),
        ({"content": "x", "function_call": {"name": "g", "arguments": "{}"}}, "function_call", "g", "{}"),
        ({"tool_calls": [{"type": "function"}]}, "tool_calls", "", None),
    ],
)
def test_executable_members_of_a_message(
    message: dict[str, object], kind: str, name: str, arguments: str | None
) -> None:
    """Tool calls, custom calls and the legacy function call are seen wherever they stand, whatever finish_reason says."""
    seen, content, _ = read_answer(CHAT, chat(message))
    assert [(c.kind, c.name, c.arguments) for c in seen.calls] == [(kind, name, arguments)]
    assert content.toolcalls == name.encode() + b"\0" + (arguments or "").encode() + b"\n"


@pytest.mark.parametrize(
    ("call", "name", "problem"),
    [
        ({"type": "custom", "function": {"name": "f"}, "custom": {"name": "g"}}, "g", "both"),
        ({"type": "function", "function": {"name": "f"}, "custom": {"name": "g"}}, "f", "both"),
        ({"function": {"name": "f"}, "custom": {"name": "g"}}, "f", "both"),
        ({"type": "f", "function": {"name": "g"}}, "g", "of the type 'f'"),
        ({"type": "f" * 99, "custom": {"name": "g"}}, "", "of the type 'f"),
    ],
)
def test_a_call_that_may_be_run_as_two_has_no_shape(call: dict[str, object], name: str, problem: str) -> None:
    """A name beside the one that is run does not stand in for it: the answer is refused, and its type chooses the name."""
    seen, _, _ = read_answer(CHAT, chat({"tool_calls": [{"type": "function", "function": {"name": "f"}}, call]}))
    assert problem in (seen.shape or "")
    assert [c.name for c in seen.calls] == ["f", name]
    both = json.dumps({"choices": [{"index": 0}, {"index": 1, "message": {"tool_calls": [call]}}]}).encode()
    assert "choices [0, 1]" in (read_answer(CHAT, both)[0].shape or "")
    assert problem in (read_answer(Head(CHAT.endpoint, "m", False, 2, frozenset()), both)[0].shape or "")


def test_a_call_in_a_completion_is_read_like_that_of_a_chat() -> None:
    """Some agents look for a message there, too."""
    both = {"tool_calls": [{"function": {"name": "f"}, "custom": {"name": "g"}}]}
    seen, _, _ = read_answer(COMPLETIONS, chat(both))
    assert ([c.name for c in seen.calls], seen.shape) == (["f"], "a tool call is both a function's and a custom one")


def test_no_number_of_a_text_takes_long_to_look_through() -> None:
    """What a model writes is not read further than it takes to see whether it could be a call."""
    numbers = '{"name":"f","n":[' + ",".join(["1e308"] * 10_000) + "]}"
    start = time.process_time()
    assert reads_as_call(numbers)
    assert time.process_time() - start < 0.1


@pytest.mark.parametrize(
    ("item", "name", "arguments"),
    [
        ({"type": "function_call", "name": "f", "arguments": "{}"}, "f", "{}"),
        ({"type": "function_call"}, "", None),
        ({"type": "mcp_call", "name": "g", "arguments": "{}"}, "g", "{}"),
        ({"type": "mcp_approval_request", "name": "drop_db", "arguments": "{}"}, "drop_db", "{}"),
        ({"type": "custom_tool_call", "name": "f", "input": "ls", "arguments": "{}"}, "f", "ls"),
        ({"type": "custom_tool_call", "name": "f", "input": {}, "arguments": "{}"}, "f", None),
        (
            {"type": "local_shell_call", "name": "f", "arguments": "[]", "action": {"command": ["rm"]}},
            "local_shell",
            "{}",
        ),
        ({"type": "computer_call", "name": "f", "arguments": "[]"}, "computer", "{}"),
        ({"type": "tool_search_call", "arguments": {"query": "q"}, "execution": "client"}, "tool_search", "{}"),
    ],
)
def test_a_call_is_named_by_what_is_run(item: dict[str, object], name: str, arguments: str | None) -> None:
    """Items that run what they name are judged by their name, and those of built-in tools by their type."""
    head = Head("/v1/responses", "m", False, 1, frozenset({"f"}))
    seen, _, _ = read_answer(head, json.dumps({"output": [item]}).encode())
    assert [(c.kind, c.name, c.arguments) for c in seen.calls] == [(item["type"], name, arguments)]


@pytest.mark.parametrize(
    ("endpoint", "document", "text", "calls"),
    [
        ("/v1/completions", {"choices": [{"index": 0, "text": "abc"}]}, "abc", []),
        ("/v1/embeddings", {"data": [{"embedding": [0.5]}]}, "", []),
        ("/v1/moderations", {"results": [{"flagged": False}], "zk": {}}, "", []),
        (
            "/v1/responses",
            {
                "output": [
                    {"type": "message", "content": [{"type": "output_text", "text": "a"}, {"type": "refusal"}]},
                    {"type": "function_call", "name": "f", "arguments": "{}"},
                    {"type": "mcp_call", "name": "g", "arguments": "{}"},
                    {"type": "computer_call"},
                ]
            },
            "a",
            [("function_call", "f", "{}"), ("mcp_call", "g", "{}"), ("computer_call", "computer", "{}")],
        ),
        (
            "/v1/messages",
            {"content": [{"type": "text", "text": "b"}, {"type": "tool_use", "name": "f", "input": {"x": 1}}]},
            "b",
            [("tool_use", "f", '{"x":1}')],
        ),
        ("/v1/messages", {"content": [{"type": "server_tool_use", "name": "w"}]}, "", [("server_tool_use", "w", None)]),
    ],
)
def test_other_apis(endpoint: str, document: dict[str, object], text: str, calls: list[tuple[str, str, str]]) -> None:
    """Text and calls of the other APIs are read from where those put them."""
    head = Head(endpoint, "m", False, 1, frozenset())
    seen, content, _ = read_answer(head, json.dumps(document).encode())
    assert (seen.shape, content.text) == (None, text)
    assert [(c.kind, c.name, c.arguments) for c in seen.calls] == calls


@pytest.mark.parametrize(
    "endpoint",
    ["/v1/completions", "/v1/embeddings", "/v1/moderations", "/v1/responses", "/v1/messages", CHAT.endpoint],
)
def test_an_answer_without_its_main_member_has_no_shape(endpoint: str) -> None:
    """An object that holds none of what was asked for is not an answer, nor is one that holds an empty list of it."""
    for body in (b"{}", b'{"choices":[],"data":[],"results":[]}'):
        seen, _, _ = read_answer(Head(endpoint, "m", False, 1, frozenset()), body)
        assert seen.shape is not None


def test_wrong_choices_have_no_shape() -> None:
    """A second choice, or one with another index, is not what was asked for."""
    for choices in ([{"index": 0}, {"index": 1}], [{"index": 1}], [], [{"index": 0}, {"index": 0}]):
        seen, _, _ = read_answer(CHAT, json.dumps({"choices": choices}).encode())
        assert seen.shape is not None


def test_an_error_object_with_status_200_has_no_shape() -> None:
    """An error that pretends to be an answer is none, and may not speak in our name either."""
    seen, _, foreign = read_answer(CHAT, b'{"error":{"message":"x"},"verification":{}}')
    assert (seen.shape, foreign) == ("an error object with a success status", ("verification",))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[1]",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":1e400}',
        b'{"a":' + b"1" * 5000 + b"}",
        b'{"content":1,"\\u0063ontent":2}',
        b'{"choices":[],"choices":[]}',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b'{"a":"\xc0\xaf"}',
        b'{"a":"\\ud800"}',
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":1}{"b":2}',
        b'{"a":1} x',
        b'{"id":7}',
        b'{"choices":{}}',
        b'{"choices":[{"index":0,"message":{"tool_calls":3}}]}',
        b'{"choices":[{"index":0,"message":{"content":"a","Tool_Calls":[{"function":{"name":"f"}}]}}]}',
    ],
)
def test_what_does_not_parse_strictly_is_malformed(raw: bytes) -> None:
    """Bytes that two readers could read differently are seen as malformed; nothing is raised."""
    assert read_answer(CHAT, raw)[0].malformed is not None


@pytest.mark.parametrize("member", ["verification", "receipt", "x_veriroute", "x_veriroute_note"])
def test_members_in_our_name_are_named_and_taken_off(member: str) -> None:
    """A node cannot send what only we may say; the other members keep their bytes."""
    raw = b'{"id":"a", "model" : "m","' + member.encode() + b'":{"verdict":"affirming"},"choices":[ {"index":0} ]}'
    _, _, foreign = read_answer(CHAT, raw)
    assert foreign == (member,)
    assert without(raw, foreign) == b'{"id":"a","model":"m","choices":[ {"index":0} ]}'


@pytest.mark.parametrize(
    ("text", "is_call"),
    [
        ('[{"name":"f","arguments":{}}]', True),
        (' {"function":"f"}', True),
        ('{"tool_calls":[]}', True),
        ("[]", False),
        ("[1]", False),
        ("plain", False),
        ("{not json", False),
        ('{"answer":1}', False),
        ('[{"name":"f"},{"answer":1}]', False),
        ('[{"name":"f"},1]', False),
        ('{"name":"f","arguments":{"x":1e-999999}}', True),
        ('{"name":"f","arguments":"' + "x" * 100_000 + '"}', True),
        ("[" * 5000, False),
    ],
)
def test_text_that_reads_as_a_call(text: str, is_call: bool) -> None:
    """Text that some frameworks would run as a tool call is noticed."""
    assert reads_as_call(text) is is_call
    assert read_answer(CHAT, chat({"content": text}))[0].text_is_call is is_call


SAYS_A_CALL = '{"name":"f","arguments":{}}'


@pytest.mark.parametrize(
    ("endpoint", "document"),
    [
        (
            "/v1/responses",
            {
                "output": [
                    {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
                    {"type": "message", "content": [{"type": "output_text", "text": SAYS_A_CALL}]},
                ]
            },
        ),
        (
            "/v1/messages",
            {
                "content": [
                    {"type": "mcp_tool_result", "content": [{"type": "text", "text": "found"}]},
                    {"type": "text", "text": SAYS_A_CALL},
                ]
            },
        ),
    ],
)
def test_reasoning_and_results_are_no_text_of_an_answer(endpoint: str, document: dict[str, object]) -> None:
    """As in a stream: what stands before the text, and is none, does not hide that it reads as a call."""
    head = Head(endpoint, "m", False, 1, frozenset({"f"}))
    seen, content, _ = read_answer(head, json.dumps(document).encode())
    assert (content.text, seen.text_is_call) == (SAYS_A_CALL, True)


@given(st.binary(max_size=300), st.sampled_from(["/v1/chat/completions", "/v1/responses", "/v1/messages"]))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_an_observation(raw: bytes, endpoint: str) -> None:
    """No answer makes the reader raise."""
    read_answer(Head(endpoint, "m", False, 1, frozenset()), raw)


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["id", "model", "choices", "index", "message", "tool_calls", "function", "name", "output", "type"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSONISH, st.sampled_from(["/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/completions"]))
@settings(max_examples=300, deadline=None)
def test_any_json_gives_an_observation(document: object, endpoint: str) -> None:
    """Well-formed JSON of the wrong shape is an observation too."""
    read_answer(Head(endpoint, "m", False, 1, frozenset()), json.dumps(document).encode())


FOUND = {"type": "bash_code_execution_result", "stdout": "1", "return_code": 0, "content": [{"file_id": "f"}]}


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"type": "web_search_tool_result", "content": {"type": "web_search_tool_result_error"}}, None),
        ({"type": "web_search_tool_result", "content": [{"type": "web_search_result", "title": "t"}]}, None),
        ({"type": "bash_code_execution_tool_result", "content": FOUND}, None),
        ({"type": "text", "text": "a", "content": FOUND}, "the content of a part is an object"),
        ({"content": {}}, "the content of a part is an object"),
        ({"type": "function_call", "name": "f", "arguments": {}}, "the arguments of a call are an object"),
        ({"arguments": {"a": 1}}, "the arguments of a call are an object"),
    ],
)
def test_results_of_tools_of_the_server_are_objects(part: dict[str, object], says: str | None) -> None:
    """So Anthropic has them: the content of such a block is an object. No other part, and no call, may have one."""
    head = Head("/v1/messages", "m", False, 1, frozenset())
    seen, _, _ = read_answer(head, json.dumps({"content": [part]}).encode())
    assert seen.calls == ()
    assert seen.malformed is None if says is None else says in (seen.malformed or "")


def test_a_call_of_a_server_s_tool_says_whose_it_is() -> None:
    """By the member that the API has for it; a function has no server, whatever stands beside its name."""
    beside = {"server_label": "s", "server_name": "t", "name": "f", "arguments": "{}", "input": {}}
    head = Head("/v1/responses", "m", False, 1, frozenset())
    kinds = ("mcp_call", "mcp_approval_request", "function_call", "mcp_tool_use", "server_tool_use")
    seen, _, _ = read_answer(head, json.dumps({"output": [{"type": kind, **beside} for kind in kinds]}).encode())
    assert [c.server for c in seen.calls] == ["s", "s", None, "t", None]
