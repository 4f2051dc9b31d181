"""Saved answers of the six APIs: genuine, written anew, and changed in every place that could speak or act."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from openai.types import Completion, CreateEmbeddingResponse, ModerationCreateResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from receipt_world import NOW, POLICY, REQUEST, SEED, World, sha256

from gateway.crypto.encoding import b64
from gateway.errors import FormatError
from gateway.exchange.answer import read_answer
from gateway.exchange.head import Head
from gateway.exchange.render import Verification, VerificationPolicy, splice
from gateway.log.receipt import salt_for, salted, subject
from gateway.log.trust import parse_trust
from gateway.model.line import Line
from gateway.model.receipt import (
    FORM_BYTES,
    FORM_TOOLCALLS,
    FORM_UTF8,
    REQUEST_BODY,
    RESPONSE_BODY,
    RESPONSE_CONTENT,
    RESPONSE_TOOLCALLS,
    RequestPart,
    Sha256,
    Subject,
)
from gateway.model.verdict import Outcome
from gateway.offline import exit_code, verify_bundle
from gateway.offline.saved import bundle_from_answer

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES, EMBEDDINGS, MODERATIONS = "/v1/messages", "/v1/embeddings", "/v1/moderations"
USAGE = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
CALL = {"id": "call_1", "type": "function", "function": {"name": "pay", "arguments": '{"to":"alice"}'}}
TEXT_PART = {"type": "output_text", "text": "4", "annotations": []}


def chat(**message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": "4"} | message
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": "stop"}
    return {"id": "c1", "object": "chat.completion", "created": 1764, "model": "m", "choices": [choice], "usage": USAGE}


def responses(*items: dict[str, Any]) -> dict[str, Any]:
    head = {"id": "r1", "object": "response", "created_at": 1764, "model": "m", "status": "completed"}
    echo = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "text": {"format": {"type": "text"}}}
    return head | {"output": list(items)} | echo


def message_item(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": "m1", "type": "message", "role": "assistant", "status": "completed", "content": list(parts)}


def messages(*blocks: dict[str, Any]) -> dict[str, Any]:
    head = {"id": "g1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"}
    return head | {"content": list(blocks), "usage": {"input_tokens": 3, "output_tokens": 1}}


FUNCTION_ITEM = {"id": "f1", "type": "function_call", "call_id": "x", "name": "pay", "arguments": "{}"}
TOOL_USE = {"type": "tool_use", "id": "t1", "name": "pay", "input": {"to": "alice", "sum": 2}}
COMPLETION = {
    "id": "l1", "object": "text_completion", "created": 1764, "model": "m", "usage": USAGE,
    "choices": [{"index": 0, "text": "4", "logprobs": None, "finish_reason": "stop"}],
}  # fmt: skip
EMBEDDING = {"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}]}
RATING = {"flagged": False, "categories": {"hate": False}, "category_scores": {"hate": 0.5}}
MODERATION = {"id": "modr1", "model": "m", "results": [RATING]}
CALLING = chat(content=None, tool_calls=[CALL])
LEGACY = chat(content=None, function_call=CALL["function"])
GENUINE = {
    "chat": (CHAT, chat()),
    "chat with calls": (CHAT, CALLING),
    "chat with a function call": (CHAT, LEGACY),
    "two choices": (CHAT, chat() | {"choices": [*chat()["choices"], {"index": 1, "message": {"content": "5"}}]}),
    "completion": (COMPLETIONS, COMPLETION),
    "response": (RESPONSES, responses(message_item(TEXT_PART))),
    "response with a call": (RESPONSES, responses(message_item(TEXT_PART), FUNCTION_ITEM)),
    "response with reasoning": (
        RESPONSES,
        responses(
            {"id": "z", "type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "2"}]}
        ),
    ),
    "message": (MESSAGES, messages({"type": "text", "text": "4"})),
    "message with a call": (MESSAGES, messages({"type": "text", "text": "4"}, TOOL_USE)),
    "embedding": (EMBEDDINGS, EMBEDDING),
    "moderation": (MODERATIONS, MODERATION),
}


def delivered(
    endpoint: str, answer: dict[str, Any], *, stream: bytes | None = None, text: str | None = None
) -> tuple[bytes, World]:
    """`answer` as the gateway delivers it with `attach = "full"`; with the data lines of a `stream`, behind that. `text`
    is what its receipt commits to where that is another than our reader takes."""
    world, body = World(), json.dumps(answer).encode()
    content = read_answer(Head(endpoint, "m", False, 1, frozenset()), body)[1]
    salt = salt_for(SEED, RESPONSE_BODY)
    subjects = [
        subject(SEED, REQUEST_BODY, REQUEST, FORM_BYTES),
        subject(SEED, RESPONSE_BODY, body, FORM_BYTES)
        if stream is None
        else Subject(RESPONSE_BODY, Sha256(salted(salt, stream))),
        subject(SEED, RESPONSE_CONTENT, (content.text if text is None else text).encode(), FORM_UTF8),
    ]
    if content.toolcalls:
        subjects.append(subject(SEED, RESPONSE_TOOLCALLS, content.toolcalls, FORM_TOOLCALLS))
    digest = Sha256(salted(salt_for(SEED, REQUEST_BODY), REQUEST))
    predicate = world.predicate(0, request=RequestPart(digest, endpoint, "m", stream is not None))
    index = world.add_receipt(predicate, subjects)
    member = Verification(
        verdict="affirming",
        level="logged",
        policy=VerificationPolicy("signed", sha256(POLICY)),
        release="released",
        receipt=predicate.receipt_id,
        proof=world.proof(index),
        openings={s.name: b64(salt_for(SEED, s.name)) for s in subjects},
        envelope=msgspec.Raw(world.envelopes[index]),
    )
    return splice(body, member), world


def checked(data: bytes, world: World) -> tuple[int, list[Line]]:
    lines = verify_bundle(bundle_from_answer(data), parse_trust(world.trust_text()), now=NOW)
    return exit_code(lines), [line for line in lines if line.step == "opening"]


def unproven(lines: list[Line]) -> str:
    """What the claimed line about parts that nothing covers names; empty without one."""
    return next((line.detail or "" for line in lines if line.about == "answer" and line.claimed), "")


@pytest.mark.parametrize("ending", [b"", b"\n"])
@pytest.mark.parametrize("name", GENUINE)
def test_an_answer_as_it_came_is_affirming(name: str, ending: bytes):
    """Byte for byte, with or without a line feed behind it, an answer of each API opens its body, text and calls."""
    data, world = delivered(*GENUINE[name])
    code, lines = checked(data + ending, world)
    assert code == 0
    assert {line.outcome for line in lines if line.about != REQUEST_BODY} == {Outcome.AFFIRMING}


THOUGHT = {"id": "z", "type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "2+2="}]}
FOUND = {"type": "mcp_tool_result", "tool_use_id": "t0", "content": [{"type": "text", "text": "2+2="}]}
EARLIER = {
    "response": (RESPONSES, responses(THOUGHT, message_item(TEXT_PART))),
    "message": (MESSAGES, messages(FOUND, {"type": "text", "text": "4"})),
}


@pytest.mark.parametrize("name", EARLIER)
def test_an_answer_of_an_earlier_version_opens_its_receipt(name: str):
    """Its text was committed to with the reasoning, or the findings of the server's tools, before it: kept byte for byte
    it is as good as ever. Written anew, the digest does not say where the one ends, so the text is not vouched for."""
    data, world = delivered(*EARLIER[name], text="2+2=4")
    assert checked(data, world)[0] == 0
    code, lines = checked(json.dumps(json.loads(data), indent=1).encode(), world)
    assert (code, "the text: its digest" in unproven(lines)) == (3, True)
    changed = data.replace(b'"4"', b'"5"')
    assert changed != data
    assert checked(changed, world)[0] == 1
    data, world = delivered(*EARLIER[name], stream=b"{}\n", text="2+2=4")
    assert checked(data, world)[0] == 1  # of a stream no version took more than its text


WHOLE = {
    "response with reasoning": "output[0].content",
    "two choices": "choices[1]",
    "embedding": "data",
    "moderation": "results",
}


@pytest.mark.parametrize("name", GENUINE)
def test_an_answer_written_anew_shows_text_and_calls(name: str):
    """White space and the order of members change nothing; what text and calls do not cover could not be decided."""
    data, world = delivered(*GENUINE[name])
    document = json.loads(data)
    anew = {key: document[key] for key in reversed(document)}
    code, lines = checked(json.dumps(anew, indent=1).encode(), world)
    assert (code, unproven(lines)) == ((3, WHOLE[name]) if name in WHOLE else (0, ""))
    assert any(line.about == "answer" and "model" in (line.detail or "") and not line.claimed for line in lines)


SDK: dict[str, Any] = {
    "chat": ChatCompletion,
    "chat with calls": ChatCompletion,
    "completion": Completion,
    "response": Response,
    "response with a call": Response,
    "embedding": CreateEmbeddingResponse,
    "moderation": ModerationCreateResponse,
}


@pytest.mark.parametrize("name", SDK)
def test_an_answer_that_an_sdk_wrote_shows_the_same(name: str):
    """What the OpenAI SDK writes of an answer has members more, which are null, and is as good."""
    data, world = delivered(*GENUINE[name])
    code, lines = checked(SDK[name].construct(**json.loads(data)).model_dump_json().encode(), world)
    assert (code, bool(unproven(lines))) == ((3, True) if name in WHOLE else (0, False))


def edited(name: str, edit: Callable[[dict[str, Any]], Any]) -> tuple[int, list[Line]]:
    data, world = delivered(*GENUINE[name])
    document = json.loads(data)
    edit(document)
    return checked(json.dumps(document).encode(), world)


def message_of(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["choices"][0]["message"]
    return found


FORGED_CHOICE = {"index": 0, "message": {"role": "assistant", "content": "FORGED"}}
FORGED_ITEM = message_item({"type": "output_text", "text": "FORGED"})
REFUTED: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "a text": ("chat", lambda d: message_of(d).update(content="FORGED")),
    "a text taken out": ("chat", lambda d: message_of(d).update(content=None)),
    "no choices": ("chat", lambda d: d.pop("choices")),
    "content parts": ("chat", lambda d: message_of(d).update(content=[{"type": "text", "text": "FORGED"}])),
    "an error": ("chat", lambda d: d.update(error={"message": "FORGED"})),
    "a choice that is none": ("chat", lambda d: d["choices"][0].update(index=1)),
    "a message that is none": ("chat", lambda d: d["choices"][0].update(message=5)),
    "a call where there was none": ("chat", lambda d: message_of(d).update(tool_calls=[CALL])),
    "a function": ("chat with calls", lambda d: message_of(d)["tool_calls"][0]["function"].update(name="rm")),
    "arguments": ("chat with calls", lambda d: message_of(d)["tool_calls"][0]["function"].update(arguments="{}")),
    "a call more": ("chat with calls", lambda d: message_of(d)["tool_calls"].append(CALL)),
    "a call less": ("chat with calls", lambda d: message_of(d).pop("tool_calls")),
    "a text beside calls": ("chat with calls", lambda d: message_of(d).update(content="FORGED")),
    "a function call": ("chat with a function call", lambda d: message_of(d)["function_call"].update(name="rm")),
    "a completion": ("completion", lambda d: d["choices"][0].update(text="FORGED")),
    "a part": ("response", lambda d: d["output"][0]["content"][0].update(text="FORGED")),
    "an item more": ("response", lambda d: d["output"].append(FORGED_ITEM)),
    "a call item": ("response with a call", lambda d: d["output"][1].update(arguments='{"to":"mallory"}')),
    "a call item more": ("response", lambda d: d["output"].append(FUNCTION_ITEM)),
    "a block": ("message", lambda d: d["content"][0].update(text="FORGED")),
    "an input": ("message with a call", lambda d: d["content"][1]["input"].update(to="mallory")),
}


@pytest.mark.parametrize("name", REFUTED)
def test_a_text_or_call_that_is_not_the_nodes_is_refuted(name: str):
    """Text and calls are held against the receipt in the shape of each API, also where the answer has none any more."""
    code, lines = edited(*REFUTED[name])
    bad = [line for line in lines if line.outcome is Outcome.CONTRAINDICATED]
    assert code == 1
    assert {line.about for line in bad} <= {RESPONSE_CONTENT, RESPONSE_TOOLCALLS}


def test_calls_where_the_receipt_has_none_are_named():
    """A receipt without a digest of calls says that there were none."""
    lines = edited(*REFUTED["a call where there was none"])[1]
    assert "the answer has tool calls, and the receipt commits to none" in {line.sentence for line in lines}


UNDECIDED: dict[str, tuple[str, str, Callable[[dict[str, Any]], Any]]] = {
    "the text's salt": (
        "chat",
        "the text: no salt",
        lambda d: (message_of(d).update(content="FORGED"), d["verification"]["openings"].pop(RESPONSE_CONTENT)),
    ),
    "the calls' salt": (
        "chat with calls",
        "the calls: no salt",
        lambda d: (message_of(d).update(tool_calls=[CALL] * 2), d["verification"]["openings"].pop(RESPONSE_TOOLCALLS)),
    ),
    "every salt": ("chat", "the text: no salt", lambda d: d["verification"].pop("openings")),
    "a choice": ("chat", "choices[1]", lambda d: d["choices"].append(FORGED_CHOICE | {"index": 1})),
    "a choice before": ("chat", "choices[1]", lambda d: d["choices"].insert(0, FORGED_CHOICE)),
    "a choice that is not the first": (
        "chat",
        "choices[0], choices[1]",
        lambda d: d["choices"].insert(0, FORGED_CHOICE | {"index": 1}),
    ),
    "a refusal": ("chat", "choices[0].message.refusal", lambda d: message_of(d).update(refusal="FORGED")),
    "a completion's text": ("chat", "choices[0].text", lambda d: d["choices"][0].update(text="FORGED")),
    "a delta": ("chat", "choices[0].delta", lambda d: d["choices"][0].update(delta={"content": "FORGED"})),
    "content parts": (
        "chat with calls",
        "choices[0].message.content",
        lambda d: message_of(d).update(content=[{"type": "text", "text": "FORGED"}]),
    ),
    "a custom call": (
        "chat with calls",
        "choices[0].message.tool_calls[0].custom",
        lambda d: message_of(d)["tool_calls"][0].update(custom={"name": "rm", "input": "/"}),
    ),
    "a member of a call's function": (
        "chat with calls",
        "choices[0].message.tool_calls[0].function.x",
        lambda d: message_of(d)["tool_calls"][0]["function"].update(x="FORGED"),
    ),
    "a member of a function": (
        "chat with a function call",
        "choices[0].message.function_call.x",
        lambda d: message_of(d)["function_call"].update(x="FORGED"),
    ),
    "an output": ("chat", "output", lambda d: d.update(output=[FORGED_ITEM])),
    "a message in a completion": ("completion", "choices[0].message", lambda d: d["choices"][0].update(FORGED_CHOICE)),
    "a text beside parts": (
        "response",
        "the text",
        lambda d: d["output"].insert(0, FORGED_ITEM | {"text": ""}),
    ),
    "a member beside the parts": ("response", "output[0].x", lambda d: d["output"][0].update(x="FORGED")),
    "a content that is text": (
        "response",
        "output[1].content",
        lambda d: d["output"].append({"type": "message", "content": "FORGED"}),
    ),
    "a call without a name": (
        "response",
        "output[1].action",
        lambda d: d["output"].append({"type": "web_search_call", "action": {"query": "FORGED"}}),
    ),
    "a tool use in a message's parts": (
        "response",
        "output[0].content[1].name",
        lambda d: d["output"][0]["content"].append({"type": "tool_use", "name": "rm", "input": {}}),
    ),
    "another kind of item": ("response", "output[0].content", lambda d: d["output"][0].update(type="note")),
    "a thought": (
        "message",
        "content[1].thinking",
        lambda d: d["content"].append({"type": "thinking", "thinking": "F"}),
    ),
    "a vector": ("embedding", "data", lambda d: d["data"][0].update(embedding=[0.1])),
    "a rating": ("moderation", "results", lambda d: d["results"][0].update(flagged=True)),
}


@pytest.mark.parametrize("name", UNDECIDED)
def test_what_no_digest_covers_is_not_decided(name: str):
    """A part that could be the node's word, and that no digest in the file covers, is named and no pass."""
    genuine, named, edit = UNDECIDED[name]
    code, lines = edited(genuine, edit)
    assert code != 0
    assert named in unproven(lines)


def test_two_calls_in_one_are_not_taken_for_two():
    """One call whose arguments hold another's separators has the digest of two, and is named."""
    both = [CALL, CALL | {"function": {"name": "b", "arguments": "y"}}]
    data, world = delivered(CHAT, chat(content=None, tool_calls=both))
    document = json.loads(data)
    arguments = CALL["function"]["arguments"] + "\nb\0y"  # type: ignore[index]
    message_of(document)["tool_calls"] = [{"function": {"name": "pay", "arguments": arguments}}]
    code, lines = checked(json.dumps(document).encode(), world)
    assert (code, "the calls" in unproven(lines)) == (3, True)


def test_many_parts_are_counted():
    """A hostile answer does not fill the page."""
    lines = edited("chat", lambda d: d.update({f"x{n}": "FORGED" for n in range(20)}))[1]
    assert unproven(lines).endswith("x11, and 8 more")


def test_an_endpoint_that_is_not_known_is_opened_as_bytes_alone():
    """The body opens by its bytes; where it does not, nothing of such an answer can be compared."""
    data, world = delivered(CHAT, chat())
    assert checked(data, world)[0] == 0
    data, world = unknown_endpoint()
    assert checked(data, world)[0] == 0
    code, lines = checked(data.replace(b'"4"', b'"5"'), world)
    assert (code, unproven(lines)) == (3, "the whole answer: its endpoint is not known here")


def unknown_endpoint() -> tuple[bytes, World]:
    data, world = delivered(CHAT, chat())
    member = json.loads(data)["verification"]
    digest = Sha256(salted(salt_for(SEED, REQUEST_BODY), REQUEST))
    predicate = world.predicate(0, request=RequestPart(digest, "/v2/chat", "m", False))
    body = json.dumps(chat()).encode()
    subjects = [
        subject(SEED, REQUEST_BODY, REQUEST, FORM_BYTES),
        subject(SEED, RESPONSE_BODY, body, FORM_BYTES),
        subject(SEED, RESPONSE_CONTENT, b"4", FORM_UTF8),
    ]
    index = world.add_receipt(predicate, subjects)
    member |= {"proof": world.proof(index), "envelope": json.loads(world.envelopes[index])}
    return body[:-1] + b',"verification":' + json.dumps(member).encode() + b"}", world


STREAMED = [
    (CHAT, {"id": "c1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": []}),
    (RESPONSES, {"type": "response.completed", "sequence_number": 7}),
    (MESSAGES, {"type": "message_stop"}),
]


def from_stream(endpoint: str, whole: dict[str, Any], saved: dict[str, Any]) -> tuple[int, list[Line]]:
    data, world = delivered(endpoint, whole, stream=b"{}\n")
    return checked(json.dumps(saved | {"verification": json.loads(data)["verification"]}).encode(), world)


@pytest.mark.parametrize(("endpoint", "event"), STREAMED)
def test_the_event_that_brought_the_receipt_of_a_stream_is_a_receipt(endpoint: str, event: dict[str, Any]):
    """It holds nothing of the answer, so nothing of the answer is compared, and whatever is put into it is named."""
    whole = dict(zip((CHAT, RESPONSES, MESSAGES), (chat(), GENUINE["response"][1], GENUINE["message"][1]), strict=True))
    code, lines = from_stream(endpoint, whole[endpoint], event)
    assert code == 0
    assert {line.outcome for line in lines} == {Outcome.NONE}
    code, lines = from_stream(endpoint, whole[endpoint], event | {"answer": "FORGED"})
    assert (code, unproven(lines)) == (3, "answer")


def test_a_stream_that_a_client_put_together_shows_its_text():
    """The text is held against the receipt whoever joined it, and its bytes are nobody's."""
    assert from_stream(CHAT, chat(), chat())[0] == 0
    assert from_stream(CHAT, chat(), chat(content="FORGED"))[0] == 1
    assert from_stream(CHAT, chat(), chat(content=""))[0] == 1


def last_event(answer: dict[str, Any], **members: Any) -> tuple[int, list[Line]]:
    """`response.completed` of a stream whose receipt is of the genuine text, saved whole, with `answer` in it."""
    event = {"type": "response.completed", "sequence_number": 7, "response": answer, **members}
    return from_stream(RESPONSES, GENUINE["response"][1], event)


def test_the_last_event_of_responses_shows_its_answer():
    """Saved whole, its `response` is the answer: its text is held against the receipt, the rest is named."""
    whole = GENUINE["response"][1]
    code, lines = last_event(whole)
    assert code == 0
    assert [line.about for line in lines if line.outcome is Outcome.AFFIRMING] == [RESPONSE_CONTENT]
    assert last_event(responses(message_item(TEXT_PART | {"text": "FORGED"})))[0] == 1
    assert last_event(responses(message_item(TEXT_PART), FUNCTION_ITEM))[0] == 1
    assert last_event({"output": "FORGED"})[0] == 1
    thought = {"type": "reasoning", "content": "so"}
    for answer, members, name in (
        (whole, {"output": whole["output"]}, "output"),
        (whole, {"note": "FORGED"}, "note"),
        (whole | {"verification": {"verdict": "affirming"}}, {}, "response.verification"),
        (whole | {"response": whole}, {}, "response"),
        (whole | {"output": [*whole["output"], thought]}, {}, "output[1].content"),
    ):
        code, lines = last_event(answer, **members)
        assert (code, unproven(lines)) == (3, name)


def test_a_member_that_stands_twice_is_refused():
    """Of two copies readers take one or the other, so such an answer has no one reading."""
    data, _ = delivered(CHAT, chat())
    twice = data.replace(b'"choices"', b'"choices": [{"message": {"content": "FORGED"}}], "choices"', 1)
    with pytest.raises(FormatError, match="'choices' twice in one object"):
        bundle_from_answer(twice)
