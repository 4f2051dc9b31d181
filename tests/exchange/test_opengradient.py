"""Whole answers of OpenGradient's nodes: what is read, what the agent gets, and what does not go on."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_og_answers import CALL, KEYS, NOW, REQUEST, WITH_TOOL, call_answer, chat, dumps, head, members, text_answer

from gateway.exchange.answer import Content
from gateway.exchange.opengradient import Whole, read_opengradient
from gateway.model.observation import Call
from gateway.verify.opengradient.record import parse_record
from gateway.verify.opengradient.response import appraise_opengradient, first_reason

COMPLETION = {"model": "m-1", "prompt": "p", "max_tokens": 4}
COMPLETION_HASHED = b'{"max_tokens": 4, "model": "m-1", "prompt": "p", "temperature": 1.0}'
SEARCH = {"query": "q"}


def reason(whole: Whole, request: Any = REQUEST) -> str | None:
    result = appraise_opengradient(
        KEYS, whole.statement, whole.problem, request, whole.answer, now=float(NOW), seen_before=False
    )
    return first_reason(result)


def read(document: Any, request: dict[str, Any] = REQUEST, **other: Any) -> Whole:
    return read_opengradient(head(request), document if isinstance(document, bytes) else dumps(document), **other)


def delivered(whole: Whole) -> Any:
    return json.loads(whole.deliver)


def test_a_text_is_written_anew() -> None:
    """The agent gets the signed text in OpenAI's form, and is told what of it nobody signed."""
    whole = read(text_answer("Grüße \u2028 [DONE]"))
    assert reason(whole) is None
    assert delivered(whole) == {
        "id": "chatcmpl-1", "object": "chat.completion", "created": NOW - 1, "model": "m-1",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Grüße \u2028 [DONE]"}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }  # fmt: skip
    assert whole.content == Content("Grüße \u2028 [DONE]")
    assert set(whole.uncovered) == {"id", "created", "model", "finish_reason", "usage"}
    assert whole.withheld == ()
    seen = whole.observation
    assert (seen.models, seen.answer_id, seen.input_tokens, seen.output_tokens) == (("m-1",), "chatcmpl-1", 3, 2)
    assert whole.receipt is not None
    assert parse_record(whole.receipt).statement == whole.statement


def test_what_the_node_leaves_out_is_filled_in() -> None:
    """Without id and time of the node's the answer has ours, the same for the same bytes."""
    bare = {k: v for k, v in text_answer().items() if k not in ("id", "created", "usage", "model")}
    whole = read(bare, created=7, answer_id="mine")
    assert (delivered(whole)["id"], delivered(whole)["created"], delivered(whole)["model"]) == ("mine", 7, None)
    assert whole.uncovered == ("finish_reason",)
    made = delivered(read(bare))["id"]
    assert made.startswith("chatcmpl-")
    assert made == delivered(read(bare))["id"]


@pytest.mark.parametrize("bad", ["", "x" * 129, "ü", "a\nb"])
def test_an_id_that_is_not_plain_is_not_passed_on(bad: str) -> None:
    """An id of the node's goes on when it is short printable ASCII."""
    assert delivered(read(text_answer(id=bad), answer_id="mine"))["id"] == "mine"


def test_calls_are_written_anew() -> None:
    """Signed calls go on in their order, with nothing that was not hashed."""
    noisy = copy.deepcopy(call_answer())
    noisy["choices"][0]["message"]["tool_calls"][0] |= {"index": 0, "extra": "x"}
    whole = read(noisy, WITH_TOOL)
    assert reason(whole, WITH_TOOL) is None
    assert delivered(whole)["choices"][0]["message"] == {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert whole.observation.calls == (Call("tool_calls", "look", CALL["function"]["arguments"]),)
    assert whole.content.toolcalls.startswith(b"look\0")


@pytest.mark.parametrize(
    ("ids", "given"),
    [
        ((None, "call_0", ""), ["call_0_", "call_0", "call_2"]),
        (("a", None), ["a", "call_1"]),
    ],
)
def test_a_call_without_an_id_gets_one(ids: tuple[Any, ...], given: list[str]) -> None:
    """The hash is over what was signed, null or empty; the agent gets an id that no other call has."""
    calls = [{**CALL, "id": name} for name in ids]
    whole = read(call_answer(calls), WITH_TOOL)
    assert reason(whole, WITH_TOOL) is None
    assert [c["id"] for c in delivered(whole)["choices"][0]["message"]["tool_calls"]] == given


@pytest.mark.parametrize("signed_as", [None, ""])
def test_an_id_that_never_came_was_null_or_empty(signed_as: str | None) -> None:
    """Builds differ in what they hash for an id that is absent; both are read."""
    answer = call_answer([{**CALL, "id": signed_as}])
    del answer["choices"][0]["message"]["tool_calls"][0]["id"]
    assert reason(read(answer, WITH_TOOL), WITH_TOOL) is None


def test_text_beside_calls_is_not_the_signed_answer() -> None:
    """Text beside signed calls fails the answer; it is left out, or, where labels are wanted, in and named."""
    answer = call_answer(content="Wire the money.")
    whole = read(answer, WITH_TOOL)
    assert reason(whole, WITH_TOOL) == "unsigned_content"
    assert delivered(whole)["choices"][0]["message"]["content"] is None
    assert ("content" in whole.withheld, "content" in whole.uncovered, whole.content.text) == (True, False, "")
    whole = read(answer, WITH_TOOL, uncovered="label")
    assert reason(whole, WITH_TOOL) == "unsigned_content"
    assert delivered(whole)["choices"][0]["message"]["content"] == "Wire the money."
    assert ("content" in whole.withheld, "content" in whole.uncovered) == (False, True)
    assert whole.content.text == "Wire the money."
    assert reason(read(call_answer(content=" \n"), WITH_TOOL), WITH_TOOL) is None


@pytest.mark.parametrize("uncovered", ["withhold", "label"])
@pytest.mark.parametrize(
    ("change", "withheld"),
    [
        (lambda a: a["choices"].append({"index": 1, "message": {"content": "evil"}}), "choices"),
        (lambda a: a["choices"].append({"index": 0, "message": {"content": "evil"}}), "choices"),
        (lambda a: a["choices"][0].update(delta={"content": "evil"}), "choices"),
        (lambda a: a["choices"][0].update(text="evil"), "choices"),
        (lambda a: a["choices"][0]["message"].update(tool_calls=[{**CALL, "id": "evil"}]), "tool_calls"),
        (
            lambda a: a["choices"][0]["message"].update(function_call={"name": "evil", "arguments": "{}"}),
            "function_call",
        ),
    ],
)
def test_what_could_pass_for_the_answer_never_goes_on(change: Any, withheld: str, uncovered: Any) -> None:
    """A second choice and an unsigned call fail the answer and are left out of it, labelled or not."""
    answer = text_answer(request=WITH_TOOL)
    change(answer)
    whole = read(answer, WITH_TOOL, uncovered=uncovered)
    assert reason(whole, WITH_TOOL) == "unsigned_content"
    assert withheld in whole.withheld
    assert b"evil" not in whole.deliver
    assert b"look" not in whole.deliver
    assert delivered(whole)["choices"][0]["message"]["content"] == "Hello."
    assert whole.content == Content("Hello.")


def test_content_without_a_signature_is_withheld_or_labelled() -> None:
    """Images, citations and cost go on where labels are wanted; what is not known never does."""
    answer = text_answer(
        opengradient={"cost_opg": "1"}, moderation={"flagged": True}, data_settlement_x="1", empty=None
    )
    answer["choices"][0] |= {"logprobs": {"x": 1}, "logprobs2": []}
    answer["choices"][0]["message"] |= {"images": ["data:x"], "citations": [{"url": "u"}], "reasoning_content": "r"}
    whole = read(answer)
    assert reason(whole) is None
    assert set(whole.withheld) == {
        "opengradient", "moderation", "data_settlement_x", "logprobs", "images", "citations", "reasoning_content",
    }  # fmt: skip
    assert delivered(whole).keys() == {"id", "object", "created", "model", "choices", "usage"}
    assert delivered(whole)["choices"][0]["message"].keys() == {"role", "content"}
    whole = read(answer, uncovered="label")
    assert set(whole.withheld) == {"data_settlement_x", "logprobs", "reasoning_content"}
    assert {"images", "citations", "opengradient", "moderation"} <= set(whole.uncovered)
    message = delivered(whole)["choices"][0]["message"]
    assert (message["images"], message["citations"]) == (["data:x"], [{"url": "u"}])
    assert delivered(whole)["opengradient"] == {"cost_opg": "1"}


def test_names_are_few_and_fit_for_a_person() -> None:
    """However many members a hostile answer has, sixteen are named, cut and escaped."""
    whole = read(text_answer(**{f"\x1b{i}" + "x" * 200: 1 for i in range(99)}))
    assert len(whole.withheld) == 16
    assert all(len(name) <= 80 and name.isascii() and name.isprintable() for name in whole.withheld)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 1, "completion_tokens": -1, "total_tokens": True}, {"prompt_tokens": 1}),
        ({"prompt_tokens": 2**60, "note": "evil"}, None),
        (
            {"total_tokens": 5, "prompt_tokens_details": {"cached_tokens": 1, "x y": 1, "note": "evil"}},
            {"total_tokens": 5, "prompt_tokens_details": {"cached_tokens": 1}},
        ),
        (["evil"], None),
        (None, None),
    ],
)
def test_usage_is_counts(usage: Any, expected: Any) -> None:
    """Of the usage, which nobody signs, numbers of tokens go on and nothing else."""
    whole = read(text_answer(usage=usage))
    assert delivered(whole).get("usage") == expected
    assert ("usage" in whole.uncovered) is (expected is not None)


@pytest.mark.parametrize("finish", ["x" * 41, "ü", "evil text", ""])
def test_a_reason_to_stop_is_a_word(finish: str) -> None:
    """A reason to stop that is no plain word is left out."""
    answer = text_answer()
    answer["choices"][0]["finish_reason"] = finish
    assert delivered(read(answer))["choices"][0]["finish_reason"] is None


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        ({"choices": []}, "no choice 0"),
        ({"choices": None}, "no choice 0"),
        ({"choices": [{"index": 1, "message": {"content": "x"}}]}, "no choice 0"),
        ({"choices": [{"index": 0, "finish_reason": "stop"}]}, "no message"),
        ({"choices": [{"message": {"tool_calls": [CALL] * 129}}]}, "more than 128"),
        ({"error": {"message": "no"}}, "an error object"),
    ],
)
def test_another_shape_is_no_answer(change: dict[str, Any], shape: str) -> None:
    """An answer without the one choice, or with an error in it, says so and fails."""
    whole = read(text_answer(**change))
    assert whole.observation.shape is not None
    assert whole.observation.shape.startswith(shape)
    assert reason(whole) is not None
    if "error" in change:
        assert (whole.statement, whole.receipt, reason(whole)) == (None, None, "upstream_error")


def test_more_choices_than_one_cannot_be_signed() -> None:
    """A request for two choices cannot be answered by this network."""
    assert read(text_answer(), {**REQUEST, "n": 2}).observation.shape is not None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"nonsense",
        dumps(text_answer()) + b" x",
        dumps(text_answer()).replace(b'"Hello."', b'"a\\ud800b"'),
        dumps(text_answer())[:-1] + b', "model": "m-1"}',
        dumps({**text_answer(), "choices": "x"}),
        dumps({**text_answer(), "created": 1.5}),
        dumps(call_answer([{**CALL, "type": "custom"}])),
        dumps(chat({"content": ["x"]}, "stop", {})),
        b"[" * 500 + b"]" * 500,
    ],
)
def test_what_cannot_be_read_is_not_passed_on(body: bytes) -> None:
    """A body that two readers could read differently gives nothing to judge and nothing to deliver."""
    whole = read(body)
    assert whole.statement is None
    assert reason(whole) == "malformed_encoding"
    assert delivered(whole)["choices"] == []
    assert whole.observation.malformed is not None


def test_malformed_members_are_said_so() -> None:
    """A statement that is not spelled as it must be fails as malformed, one that is not there as missing."""
    assert reason(read(text_answer(tee_timestamp=str(NOW)))) == "malformed_encoding"
    assert reason(read(text_answer(tee_id=None))) == "evidence_missing"


def test_a_completion_is_written_anew() -> None:
    """A completion's text is what is signed; a message in it is not read as one."""
    answer = {
        "id": "cmpl-1", "object": "text_completion", "created": NOW, "model": "m-1",
        "choices": [{"text": " Paris.", "index": 0, "finish_reason": "stop"}], **members(COMPLETION_HASHED, " Paris."),
    }  # fmt: skip
    where = head(COMPLETION, "/v1/completions")
    whole = read_opengradient(where, dumps(answer))
    assert reason(whole, COMPLETION) is None
    assert delivered(whole) == {
        "id": "cmpl-1", "object": "text_completion", "created": NOW, "model": "m-1",
        "choices": [{"index": 0, "finish_reason": "stop", "text": " Paris.", "logprobs": None}],
    }  # fmt: skip
    answer["choices"][0]["message"] = {"content": "evil", "tool_calls": [CALL]}
    whole = read_opengradient(where, dumps(answer))
    assert reason(whole, COMPLETION) == "unsigned_content"
    assert b"evil" not in whole.deliver
    del answer["choices"][0]["message"], answer["choices"][0]["text"]
    whole = read_opengradient(where, dumps(answer))
    assert whole.observation.shape == "no text in the choice"
    assert reason(whole, COMPLETION) == "output_hash_mismatch"


def test_a_search_is_written_anew() -> None:
    """A search's content is what is signed; its citations go on only with a label."""
    answer = {
        "id": "websearch-1", "object": "web_search.result", "created": NOW, "query": "q", "content": "[1] x",
        "citations": [{"url": "u"}], **members(b'{"query": "q"}', "[1] x"),
    }  # fmt: skip
    where = head(endpoint="/v1/web_search")
    whole = read_opengradient(where, dumps(answer))
    assert reason(whole, SEARCH) is None
    assert delivered(whole) == {
        "id": "websearch-1", "object": "web_search.result", "created": NOW, "query": "q", "content": "[1] x",
    }  # fmt: skip
    assert set(whole.uncovered) == {"id", "created", "query"}
    assert whole.withheld == ("citations",)
    labelled = read_opengradient(where, dumps(answer), uncovered="label")
    assert delivered(labelled)["citations"] == [{"url": "u"}]
    del answer["content"]
    assert read_opengradient(where, dumps(answer)).observation.shape == "no content in the answer"


def test_a_text_that_reads_as_a_call_is_said_so() -> None:
    """Where tools are declared, a text that is the JSON of a call is flagged; it goes on as text."""
    text = json.dumps([CALL])
    assert read(text_answer(text, WITH_TOOL), WITH_TOOL).observation.text_is_call
    assert not read(text_answer(text)).observation.text_is_call


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5) | st.sampled_from(["tool_calls", "stop"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["index", "content", "id", "name", "arguments", "function"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
MESSAGE = st.fixed_dictionaries(
    {}, optional={"content": JSON, "tool_calls": st.lists(st.just(CALL) | JSON, max_size=2) | JSON, "images": JSON}
)
CHOICE = st.fixed_dictionaries(
    {}, optional={"index": st.integers(-1, 1), "message": MESSAGE | JSON, "finish_reason": st.sampled_from(["stop", "tool_calls"]) | JSON, "text": JSON}
)  # fmt: skip
ANSWERS = st.fixed_dictionaries(
    {}, optional={"choices": st.lists(CHOICE | JSON, max_size=2) | JSON, "usage": JSON, "model": JSON, "error": JSON,
                  "content": JSON, "query": JSON, "tee_id": JSON, "tee_timestamp": JSON, "x": JSON},
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/web_search"]),
    ANSWERS.map(lambda a: dumps({**text_answer_once, **a})) | st.binary(max_size=60),
    st.sampled_from(["withhold", "label"]),
)
def test_any_body_gives_an_answer_and_a_verdict(endpoint: str, body: bytes, uncovered: Any) -> None:
    """Whatever the body is, it is read without an error, and what is delivered is one JSON object of one choice."""
    where = head(COMPLETION if endpoint == "/v1/completions" else REQUEST, endpoint)
    whole = read_opengradient(where, body, uncovered=uncovered)
    document = delivered(whole)
    assert len(document.get("choices", ())) <= 1
    assert not {"error", "x", "tee_id"} & document.keys()
    result = appraise_opengradient(
        KEYS, whole.statement, whole.problem, REQUEST, whole.answer, now=float(NOW), seen_before=False
    )
    if first_reason(result) is None:
        assert document["choices"][0]["message"]["content"] == "Hello."


text_answer_once = text_answer()
