"""What honest servers send, in the forms that each is known for: nothing of it may count as a fault or a stray call."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.exchange.answer import read_answer
from gateway.exchange.head import Head
from gateway.exchange.stream import StreamReader, Wire
from gateway.model.observation import Observation

CHAT, COMPLETIONS, RESPONSES, MESSAGES = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages",
)  # fmt: skip
DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
ASSISTANT = {"role": "assistant", "content": ""}
CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
ARGUMENTS = {"index": 0, "function": {"arguments": "{}"}}
FILTER = {"hate": {"filtered": False, "severity": "safe"}}
AZURE: dict[str, Any] = {"id": "", "object": "", "created": 0, "model": "", "choices": []}


def event(document: dict[str, Any], named: bool = False) -> bytes:
    name = f"event: {document['type']}\n" if named else ""
    return (name + "data: " + json.dumps(document) + "\n\n").encode()


def chunk(delta: dict[str, Any], finish: str | None = None, beside: Any = None, **members: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, **(beside or {})}
    return event(
        {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **members}
    )


def usage(**members: Any) -> bytes:
    return event({"id": "c-1", "model": "m", "choices": [], "usage": USAGE, **members})


CHATS: dict[str, bytes] = {
    "OpenAI": chunk({**ASSISTANT, "refusal": None}, beside={"logprobs": None}, service_tier="default", obfuscation="x")
    + chunk({"content": "a\n"}, beside={"logprobs": {"content": [{"token": "_call", "top_logprobs": []}]}})
    + chunk({}, "stop")
    + usage(),
    "OpenAI, a refusal": chunk({**ASSISTANT, "refusal": None}) + chunk({"refusal": "no"}) + chunk({}, "stop"),
    "OpenAI, audio": chunk({"role": "assistant", "audio": {"id": "audio_1"}})
    + chunk({"audio": {"data": "AA"}})
    + chunk({}, "stop"),
    "OpenAI, a call": chunk({"role": "assistant", "content": None, "tool_calls": [CALL]})
    + chunk({"tool_calls": [ARGUMENTS]})
    + chunk({}, "tool_calls"),
    "Azure, filters of its own time": event({**AZURE, "prompt_filter_results": [{"content_filter_results": FILTER}]})
    + chunk(ASSISTANT, beside={"content_filter_results": {}})
    + event({**AZURE, "choices": [{"index": 0, "finish_reason": None, "content_filter_results": FILTER}]})
    + chunk({"content": "a"})
    + chunk({}, "stop")
    + event({**AZURE, "choices": [{"index": 0, "finish_reason": None, "delta": {}, "content_filter_offsets": {"end_offset": 5}}]}),
    "OpenRouter": b": OPENROUTER PROCESSING\n\n"
    + chunk({**ASSISTANT, "reasoning": "x", "reasoning_details": [{"type": "reasoning.text", "text": "x"}]}, provider="P")
    + b": OPENROUTER PROCESSING\n\n"
    + chunk({**ASSISTANT, "reasoning": None}, "stop", {"native_finish_reason": "stop"})
    + chunk(ASSISTANT, usage={**USAGE, "cost": 0.00014, "is_byok": False}),
    "DeepSeek": chunk({**ASSISTANT, "content": None, "reasoning_content": ""})
    + chunk({"content": None, "reasoning_content": "x"})
    + b": keep-alive\n\n"
    + chunk({"content": "", "reasoning_content": None}, "stop", usage=USAGE),
    "vLLM, a call": chunk({**ASSISTANT, "reasoning_content": None})
    + chunk({"tool_calls": [{**CALL, "function": {"name": "f"}}]})
    + chunk({"tool_calls": [ARGUMENTS]})
    + chunk({"content": ""}, "tool_calls", {"stop_reason": None, "token_ids": None})
    + usage(),
    "SGLang, a call": chunk({**ASSISTANT, "tool_calls": None}, beside={"matched_stop": None})
    + chunk({"role": None, "content": None, "tool_calls": [CALL]})
    + chunk({"tool_calls": [{**CALL, "id": None, "function": {"name": None, "arguments": "{}"}}]})
    + chunk({"role": None, "content": None, "tool_calls": None}, "tool_calls"),
    "llama.cpp": chunk({**ASSISTANT, "content": None}) + chunk({"content": "a"}) + chunk({}, "stop") + usage(timings={}),
    "Ollama, a call": chunk({**ASSISTANT, "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "{}"}}]})
    + chunk(ASSISTANT, "tool_calls"),
    "TGI": chunk({**ASSISTANT, "content": "a"}, id="") + chunk(ASSISTANT, "stop", id="") + usage(id=""),
    "LiteLLM": chunk({**ASSISTANT, "function_call": None, "tool_calls": None, "provider_specific_fields": None})
    + chunk({"content": None, "role": None, "tool_calls": None}, "stop")
    + chunk({"content": None, "role": None}, usage={**USAGE, "server_tool_use": {"web_search_requests": 1}}),
    "Mistral, thinking": chunk(ASSISTANT, p="abc")
    + chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "x"}]}]})
    + chunk({"content": "", "tool_calls": None}, "stop", usage=USAGE),
    "Groq": chunk({**ASSISTANT, "executed_tools": [{"type": "search", "arguments": "{}"}]}, x_groq={"id": "req_1"})
    + chunk({}, "stop", x_groq={"id": "req_1", "usage": USAGE}),
    "Together": chunk({**ASSISTANT, "tool_calls": None}, beside={"text": "a", "seed": None}, usage=None)
    + chunk({**ASSISTANT, "token_id": 1}, "stop", {"text": ""}, usage=USAGE),
    "Gemini, a call": event({"model": "m", "choices": [{"index": 0, "delta": {"role": "assistant", "tool_calls": [
        {"extra_content": {"google": {"thought_signature": "x"}}, "type": "function", "id": "", "function": {"name": "f", "arguments": "{}"}}
    ]}}]}) + event({"model": "m", "choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": "stop"}]}),
}  # fmt: skip
TEXT = {"type": "output_text", "text": "a", "annotations": [], "logprobs": []}
ITEMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "message": ({"content": [TEXT], "role": "assistant"}, {"content": []}),
    "reasoning": ({"summary": [{"type": "summary_text", "text": "x"}], "encrypted_content": "x"}, {"summary": []}),
    "web_search_call": ({"action": {"type": "search", "query": "q"}}, {"action": {"type": "search"}}),
    "code_interpreter_call": ({"code": "1", "outputs": [{"type": "logs", "logs": "1"}]}, {"code": "", "outputs": None}),
    "mcp_list_tools": (
        {"server_label": "l", "tools": [{"name": "f", "input_schema": {}}], "error": None},
        {"tools": []},
    ),
    "mcp_call": (
        {"server_label": "l", "name": "f", "arguments": "{}", "output": "x", "error": None},
        {"arguments": ""},
    ),
    "mcp_approval_request": ({"server_label": "l", "name": "f", "arguments": "{}"}, {}),
    "image_generation_call": ({"result": "AA", "revised_prompt": "p"}, {"result": None}),
    "custom_tool_call": ({"call_id": "c", "name": "f", "input": "x y"}, {"input": ""}),
    "function_call": ({"call_id": "c", "name": "f", "arguments": "{}"}, {"arguments": ""}),
    "computer_call": ({"call_id": "c", "action": {"type": "click"}, "pending_safety_checks": []}, {}),
}
RESPONSE: dict[str, Any] = {
    "id": "resp_1", "object": "response", "model": "m", "error": None, "parallel_tool_calls": True, "max_tool_calls": None,
    "tool_choice": {"type": "function", "name": "f"}, "metadata": {"tool_calls": "1"}, "output": [], "usage": None,
    "tools": [{"type": "function", "name": "f", "parameters": {"properties": {"tool_calls": {"type": "mcp_call"}}}}],
}  # fmt: skip


def response(kind: str) -> tuple[bytes, bytes]:
    """An answer with one item of the type `kind`: in one piece, and as a stream."""
    members, at_first = ITEMS[kind]
    item = {"id": "i_1", "type": kind, "status": "completed", **members}
    whole = {**RESPONSE, "output": [item], "usage": {"input_tokens": 3, "output_tokens": 4}}
    about = {"output_index": 0, "item_id": "i_1"}
    given = members.get("arguments", members.get("input"))
    prefix = "response.custom_tool_call_input" if "input" in members else f"response.{kind}_arguments"
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": RESPONSE},
        {
            "type": "response.output_item.added",
            "item": {**item, "status": "in_progress", **at_first},
            "output_index": 0,
        },
        {"type": f"response.{kind}.in_progress", **about},
    ]
    if given is not None and "call" in kind:
        events.append({"type": f"{prefix}.delta", "delta": given, "obfuscation": "x", **about})
    if kind == "message":
        events.append({"type": "response.content_part.added", "part": {**TEXT, "text": ""}, **about})
        events.append({"type": "response.output_text.delta", "delta": "a", "logprobs": [], **about})
        events.append({"type": "response.content_part.done", "part": TEXT, **about})
    events.append({"type": "response.output_item.done", "item": item, "output_index": 0})
    events.append({"type": "response.completed", "response": whole})
    return json.dumps(whole).encode(), b"".join(event(e, named=True) for e in events)


SEARCH = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "f", "input": {}}
FOUND = {"type": "web_search_result", "title": "t", "url": "https://example.com", "encrypted_content": "x"}
BLOCKS: dict[str, list[tuple[dict[str, Any], list[dict[str, Any]]]]] = {
    "thinking": [
        (
            {"type": "thinking", "thinking": "", "signature": ""},
            [{"type": "thinking_delta", "thinking": "x"}, {"type": "signature_delta", "signature": "EqQB"}],
        ),
        ({"type": "redacted_thinking", "data": "x"}, []),
        ({"type": "text", "text": ""}, [{"type": "text_delta", "text": "a"}]),
    ],
    "tool_use": [({**SEARCH, "type": "tool_use", "caller": {"type": "direct"}}, [{"type": "input_json_delta", "partial_json": ""}])],
    "pause_turn": [
        (SEARCH, [{"type": "input_json_delta", "partial_json": '{"query":"q"}'}]),
        ({"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [FOUND]}, []),
        (
            {"type": "text", "text": "", "citations": []},
            [{"type": "citations_delta", "citation": {"type": "web_search_result_location"}}, {"type": "text_delta", "text": "a"}],
        ),
        ({"type": "code_execution_tool_result", "content": {"type": "code_execution_result", "content": []}}, []),
    ],
}  # fmt: skip
COUNTS = {"input_tokens": 3, "output_tokens": 1, "server_tool_use": {"web_search_requests": 1}}


def message(kind: str) -> tuple[bytes, bytes]:
    """An answer whose blocks are those of `kind`: in one piece, and as a stream."""
    start: dict[str, Any] = {"id": "msg_1", "model": "m", "content": [], "stop_reason": None, "usage": COUNTS}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}, {"type": "ping"}]
    for at, (block, deltas) in enumerate(BLOCKS[kind]):
        events.append({"type": "content_block_start", "index": at, "content_block": block})
        events += [{"type": "content_block_delta", "index": at, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": at})
    edits = {"applied_edits": [{"type": "clear_tool_uses_20250919", "cleared_tool_uses": 8}]}
    stop = {"stop_reason": kind, "stop_sequence": None}
    events += [
        {"type": "message_delta", "delta": stop, "usage": COUNTS, "context_management": edits},
        {"type": "message_stop"},
    ]
    whole = {**start, "content": [block for block, _ in BLOCKS[kind]], "stop_reason": kind, "context_management": edits}
    return json.dumps(whole).encode(), b"".join(event(e, named=True) for e in events)


STREAMS = [
    *(pytest.param(CHAT, stream + DONE, id=name) for name, stream in CHATS.items()),
    *(pytest.param(RESPONSES, response(kind)[1], id=kind) for kind in ITEMS),
    *(pytest.param(MESSAGES, message(kind)[1], id=kind) for kind in BLOCKS),
]
ANSWERS = [
    *(pytest.param(RESPONSES, response(kind)[0], id=kind) for kind in ITEMS),
    *(pytest.param(MESSAGES, message(kind)[0], id=kind) for kind in BLOCKS),
    pytest.param(
        COMPLETIONS, b'{"id":"cmpl-1","model":"m","choices":[{"text":"a","index":0,"logprobs":null}]}', id="text"
    ),
]
#: Members of a chat's message, and of the answer around it.
WHOLE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "OpenAI": ({"content": "a", "refusal": None, "annotations": [{"type": "url_citation"}]}, {"service_tier": "default"}),
    "OpenAI, parsed": ({"content": "{}", "parsed": {"tool_calls": [{"type": "mcp_call"}]}}, {}),
    "OpenRouter": ({"content": "a", "reasoning": "x", "reasoning_details": [{"type": "reasoning.encrypted"}]}, {"provider": "P"}),
    "vLLM": ({"content": "a", "function_call": None, "tool_calls": [], "audio": None}, {"prompt_logprobs": None}),
    "Mistral": ({"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}], "tool_calls": None}, {}),
    "Groq": ({"content": "a", "executed_tools": [{"type": "function", "name": "f", "arguments": "{}"}]}, {"x_groq": {"id": "r"}}),
    "LiteLLM": ({"content": "a", "provider_specific_fields": {"mcp_tool_calls": [{"name": "f"}]}}, {}),
    "LM Studio": ({"content": "a", "tool_calls": []}, {"stats": {}, "model_info": {"arch": "x"}}),
    "TGI": ({"content": "a", "tool_call_id": None}, {"id": ""}),
    "Mistral, a call": ({"content": "", "tool_calls": [{"id": "AbC123xyz", "function": {"name": "f", "arguments": "{}"}}]}, {}),
}  # fmt: skip


def in_order(seen: Observation) -> None:
    """No fault, and no calls but those that the API has, once each."""
    assert (seen.malformed, seen.shape, seen.stream_grammar, seen.models) == (None, None, None, ("m",))
    kinds = {
        "tool_calls",
        "server_tool_use",
        "tool_use",
        *(kind for kind in ITEMS if kind.endswith(("_call", "_request"))),
    }
    assert [call.kind for call in seen.calls if call.kind not in kinds] == []
    assert len(seen.calls) <= 1
    assert all(call.arguments in ("{}", "x y", '{"query":"q"}') for call in seen.calls)


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize(("endpoint", "stream"), STREAMS)
def test_an_honest_server_s_stream(endpoint: str, stream: bytes, step: int) -> None:
    """It is read whole and without a fault, however it is cut."""
    head = Head(endpoint, "m", True, 1, frozenset({"f"}))
    reader = StreamReader(head, Wire(b"aci.receipt", b"aci.chain"), b"", max_event=1 << 20)
    for at in range(0, len(stream), step):
        reader.feed(stream[at : at + step])
    assert reader.finish() is None
    in_order(reader.observation())


@pytest.mark.parametrize(("endpoint", "body"), ANSWERS)
def test_an_honest_server_s_answer(endpoint: str, body: bytes) -> None:
    """So it is in one piece."""
    in_order(read_answer(Head(endpoint, "m", False, 1, frozenset({"f"})), body)[0])


@pytest.mark.parametrize("server", WHOLE)
def test_an_honest_server_s_chat(server: str) -> None:
    """So it is with what servers put beside a chat's text."""
    message, beside = WHOLE[server]
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop", "logprobs": None}
    body = json.dumps({"id": "c-1", "model": "m", "choices": [choice], "usage": USAGE, **beside}).encode()
    in_order(read_answer(Head(CHAT, "m", False, 1, frozenset({"f"})), body)[0])
