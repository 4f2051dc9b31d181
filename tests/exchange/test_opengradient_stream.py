"""Streams of OpenGradient's nodes: frames in, frames of ours out, and the statement at the end."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_og_answers import CALL, KEYS, NOW, REQUEST, WITH_TOOL, dumps, frame, head, last_frame, sse, text_frame

from gateway.errors import FormatError
from gateway.exchange.answer import Content
from gateway.exchange.opengradient import OpenGradientReader
from gateway.exchange.stream import CALL as CALL_PIECE
from gateway.exchange.stream import END, FINISH, TEXT, Piece, UpstreamError
from gateway.verify.opengradient.record import parse_record
from gateway.verify.opengradient.response import appraise_opengradient, first_reason

SALT = b"\7" * 32
TEXTS = ["- [DONE] a\n", "- [ ] b", " \u2028\U0001f44b"]
GOOD = sse(*map(text_frame, TEXTS), last_frame("".join(TEXTS)))
OUTPUT = json.dumps([CALL], sort_keys=True)


def reader_of(request: dict[str, Any] = REQUEST, **other: Any) -> OpenGradientReader:
    return OpenGradientReader(head(request), SALT, max_event=1 << 16, created=7, **other)


def run(data: bytes, request: dict[str, Any] = REQUEST, **other: Any) -> tuple[OpenGradientReader, list[Piece]]:
    reader = reader_of(request, **other)
    return reader, reader.feed(data)


def reason(reader: OpenGradientReader, request: dict[str, Any] = REQUEST) -> str | None:
    result = appraise_opengradient(
        KEYS, reader.statement, reader.receipt_problem, request, reader.answer(), now=float(NOW), seen_before=False
    )
    return first_reason(result)


def frames(pieces: list[Piece]) -> list[Any]:
    assert all(p.out.startswith(b"data: ") and p.out.endswith(b"\n\n") and p.out.count(b"\n") == 2 for p in pieces)
    return [json.loads(p.out[6:]) for p in pieces if p.kind != END]


def text_of(pieces: list[Piece]) -> str:
    return "".join(f["choices"][0]["delta"].get("content", "") for f in frames(pieces))


def kinds(pieces: list[Piece]) -> list[str]:
    return [piece.kind for piece in pieces]


def calls_frame(*calls: dict[str, Any], **delta: Any) -> dict[str, Any]:
    return frame({"role": "assistant", "tool_calls": list(calls), **delta})


CALLS = sse(calls_frame({"index": 0, **CALL}), last_frame(OUTPUT, "tool_calls", WITH_TOOL))


def test_a_text_is_written_anew() -> None:
    """Each frame of text goes on at once, whole, with the members that the node leaves out."""
    reader, pieces = run(GOOD)
    assert kinds(pieces) == [TEXT, TEXT, TEXT, FINISH, END]
    assert reason(reader) is None
    assert text_of(pieces) == "".join(TEXTS)
    shell = {"id": reader.answer_id, "object": "chat.completion.chunk", "created": 7, "model": "m-1"}
    first, second, _, last = frames(pieces)
    assert first == {**shell, "choices": [
        {"index": 0, "delta": {"role": "assistant", "content": TEXTS[0]}, "finish_reason": None}]}  # fmt: skip
    assert second["choices"][0]["delta"] == {"content": TEXTS[1]}
    assert last == {**shell, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {
        "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}  # fmt: skip
    assert pieces[-1].out == b"data: [DONE]\n\n"
    assert (reader.ended, reader.finish(), reader.rebuilt, reader.dropped) == (True, None, True, ())
    assert reader.content() == Content("".join(TEXTS))
    assert set(reader.uncovered) == {"usage", "finish_reason", "model"}
    assert reader.withheld == ()


def test_the_interface_is_that_of_every_stream() -> None:
    """Digests, observation and record are there as for any other network's stream."""
    reader, _ = run(GOOD)
    assert reader.covered_sha256 == hashlib.sha256(GOOD).hexdigest()
    lines = b"".join(line[6:] + b"\n" for line in GOOD.split(b"\n\n")[:-2])
    assert reader.data_sha256 == hashlib.sha256(SALT + lines).hexdigest()
    seen = reader.observation()
    assert (seen.stream, seen.models, seen.answer_id, seen.input_tokens) == (True, ("m-1",), reader.answer_id, 3)
    assert reader.receipt is not None
    assert parse_record(reader.receipt).statement == reader.statement
    assert reader.receipt_problem is None
    assert reader_of().answer_id == reader.answer_id
    assert reader_of(answer_id="mine").answer_id == "mine"


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_the_cut_of_the_bytes_does_not_matter(size: int) -> None:
    """The same stream in bits of any size gives the same pieces."""
    reader, expected = run(CALLS, WITH_TOOL)
    other = reader_of(WITH_TOOL)
    assert [p for i in range(0, len(CALLS), size) for p in other.feed(CALLS[i : i + size])] == expected
    assert (other.answer(), other.data_sha256) == (reader.answer(), reader.data_sha256)


def test_calls_go_on_whole_after_the_last_frame() -> None:
    """Signed calls are gathered and delivered as calls, held to the verdict."""
    reader, pieces = run(CALLS, WITH_TOOL)
    assert kinds(pieces) == [CALL_PIECE, FINISH, END]
    assert reason(reader, WITH_TOOL) is None
    assert frames(pieces)[0]["choices"][0]["delta"] == {"role": "assistant", "tool_calls": [{"index": 0, **CALL}]}
    assert frames(pieces)[1]["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "tool_calls"}
    assert reader.content().toolcalls == b"look\0" + CALL["function"]["arguments"].encode() + b"\n"


@pytest.mark.parametrize(
    ("fragments", "signed"),
    [
        (
            [{"index": 0, "id": "c1", "function": {"name": "look", "arguments": '{"a":'}}, {"index": 0, "function": {"arguments": " 1}"}}],
            [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}],
        ),
        (
            [{"index": 1, "id": "b", "function": {"name": "look", "arguments": "{}"}}, {"index": 0, "id": "a", "function": {"name": "look", "arguments": "{}"}}],
            [{"id": i, "type": "function", "function": {"name": "look", "arguments": "{}"}} for i in ("a", "b")],
        ),
        (
            [{"id": "", "function": {"name": ""}}, {"id": "c", "function": {"name": "look"}}, {"id": "", "function": {"name": None, "arguments": "{}"}}],
            [{"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
        ),
        (
            [{"id": "c", "function": {"name": "lo"}}, {"id": "x", "function": {"name": "look", "arguments": "{}"}}],
            [{"id": "x", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
        ),
        (
            [{"index": 0}, {"index": 0, "function": {"name": "look", "arguments": "{}"}}, {"index": 0, "function": {}}],
            [{"id": None, "type": "function", "function": {"name": "look", "arguments": "{}"}}],
        ),
        (
            [{"index": 0, "id": None, "function": {"name": "look", "arguments": "{}"}}],
            [{"id": None, "type": "function", "function": {"name": "look", "arguments": "{}"}}],
        ),
        (
            [{"index": 0, "function": {"name": "look", "arguments": "{}"}}],
            [{"id": "", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
        ),
    ],
)  # fmt: skip
def test_fragments_are_put_together_as_the_node_does(fragments: list[Any], signed: list[Any]) -> None:
    """Last id and name, joined arguments, order of index; an id that never came was null or empty."""
    output = json.dumps(signed, sort_keys=True)
    data = sse(*(calls_frame(fragment) for fragment in fragments), last_frame(output, "tool_calls", WITH_TOOL))
    reader, pieces = run(data, WITH_TOOL)
    assert reason(reader, WITH_TOOL) is None
    got = [f["choices"][0]["delta"]["tool_calls"][0] for f in frames(pieces)[:-1]]
    assert [c["index"] for c in got] == list(range(len(signed)))
    assert [c["id"] for c in got] == [c["id"] or "call_0" for c in signed]
    assert [c["function"] for c in got] == [c["function"] for c in signed]


def test_text_waits_where_calls_may_follow() -> None:
    """With tools declared, text goes on at the end, when it is known to be signed; labelled, it goes on at once."""
    data = sse(text_frame("a"), text_frame("b"), last_frame("ab", request=WITH_TOOL))
    reader = reader_of(WITH_TOOL)
    assert reader.feed(data[:-20]) == []
    pieces = reader.feed(data[-20:])
    assert kinds(pieces) == [TEXT, FINISH, END]
    assert text_of(pieces) == "ab"
    assert (reason(reader, WITH_TOOL), reader.content()) == (None, Content("ab"))
    assert kinds(run(data, WITH_TOOL, uncovered="label")[1]) == [TEXT, TEXT, FINISH, END]


def test_text_beside_calls_is_not_the_signed_answer() -> None:
    """Text beside signed calls fails the answer, and stays here unless it is to be labelled."""
    data = sse(
        text_frame("evil"),
        calls_frame({"index": 0, **CALL}, content="more"),
        last_frame(OUTPUT, "tool_calls", WITH_TOOL),
    )
    reader, pieces = run(data, WITH_TOOL)
    assert reason(reader, WITH_TOOL) == "unsigned_content"
    assert text_of(pieces) == ""
    assert (reader.withheld, "content" in reader.uncovered, reader.content().text) == (("content",), False, "")
    reader, pieces = run(data, WITH_TOOL, uncovered="label")
    assert reason(reader, WITH_TOOL) == "unsigned_content"
    assert text_of(pieces) == "evilmore"
    assert ("content" in reader.withheld, "content" in reader.uncovered) == (False, True)
    assert reader.content().text == "evilmore"
    # No tools were declared, so that nothing waited; the call is refused as it is, and what left is named.
    reader, pieces = run(data)
    assert text_of(pieces) == "evil"
    assert ("content" in reader.withheld, "content" in reader.uncovered) == (True, True)
    blank = sse(text_frame("\n"), calls_frame({"index": 0, **CALL}), last_frame(OUTPUT, "tool_calls", WITH_TOOL))
    assert reason(run(blank, WITH_TOOL)[0], WITH_TOOL) is None


EVIL = {"index": 0, "id": "evil", "type": "function", "function": {"name": "evil", "arguments": "{}"}}


@pytest.mark.parametrize("uncovered", ["withhold", "label"])
@pytest.mark.parametrize(
    ("odd", "withheld"),
    [
        (calls_frame(EVIL), "tool_calls"),
        (frame({"function_call": {"name": "evil", "arguments": "{}"}}), "function_call"),
        ({"choices": [{"delta": {"content": "evil"}, "index": 1}], "model": "m-1"}, "choices"),
        ({"choices": [{"delta": {}, "index": 0}, {"delta": {"content": "evil"}, "index": 1}]}, "choices"),
        ({"choices": [{"delta": {}, "index": 0}, {"delta": {"content": "evil"}, "index": 0}]}, "choices"),
        ({"choices": [{"message": {"content": "evil"}, "index": 0}]}, "choices"),
        ({"choices": [{"text": "evil", "index": 0}]}, "choices"),
    ],
)
def test_what_could_pass_for_the_answer_never_goes_on(odd: Any, withheld: str, uncovered: Any) -> None:
    """A call in a text stream and a second choice fail the answer; no byte of them goes on, the signed text does."""
    data = sse(text_frame("a"), odd, text_frame("b"), last_frame("ab", request=WITH_TOOL))
    reader, pieces = run(data, WITH_TOOL, uncovered=uncovered)
    assert reason(reader, WITH_TOOL) == "unsigned_content"
    assert withheld in reader.withheld
    assert not any(b"evil" in piece.out for piece in pieces)
    assert text_of(pieces) == "ab"
    assert reader.content() == Content("ab")


def test_what_is_not_content_is_withheld_or_labelled() -> None:
    """Status frames, events of other names and unknown members stay here; images and cost go on with a label."""
    status = {**frame({}), "web_search": {"status": "searching", "query": "q"}}
    last = last_frame("ab", images=["data:x"], citations=[{"url": "u"}], opengradient={"cost_opg": "1"})
    data = sse(text_frame("a"), status, {**frame({"content": "b", "reasoning_content": "r"})}, last)
    data = b": ping\n\nevent: x402-settlement\ndata: {}\n\n" + data
    reader, pieces = run(data)
    assert reason(reader) is None
    assert set(reader.withheld) == {
        "event x402-settlement", "web_search", "reasoning_content", "images", "citations", "opengradient",
    }  # fmt: skip
    assert frames(pieces)[-1].keys() == {"id", "object", "created", "model", "choices", "usage"}
    reader, pieces = run(data, uncovered="label")
    assert set(reader.withheld) == {"event x402-settlement", "web_search", "reasoning_content"}
    assert {"images", "citations", "opengradient"} <= set(reader.uncovered)
    assert frames(pieces)[-1]["images"] == ["data:x"]


def test_an_error_in_the_stream_ends_it() -> None:
    """The node's error frame is raised; its text goes nowhere."""
    reader = reader_of()
    with pytest.raises(UpstreamError):
        reader.feed(sse(text_frame("a"), {"error": "Error code: 529", "retryable": True}, done=False))
    with pytest.raises(UpstreamError):
        reader_of().feed(b'event: error\ndata: "Error code: 529"\n\n')


def test_d13_a_model_that_changes_breaks_the_grammar() -> None:
    """Also where both names could pass for the one that was asked for."""
    reader, _ = run(sse({**text_frame("a"), "model": "m-1"}, last_frame("a", model="m-2")))
    assert reader.observation().stream_grammar == "the model changes between events"
    reader, _ = run(sse({**text_frame("a"), "model": "m-1"}, last_frame("a", model="m-1")))
    assert reader.observation().stream_grammar is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (sse(text_frame("a")), "evidence_missing"),
        (sse(text_frame("a"), frame({}, "stop")), "evidence_missing"),
        (sse(), "evidence_missing"),
        (sse(text_frame("a"), {k: v for k, v in last_frame("a").items() if k != "tee_signature"}), "evidence_missing"),
        (sse(text_frame("a"), last_frame("a", tee_timestamp="1")), "malformed_encoding"),
        (sse(text_frame("a"), last_frame("a"), last_frame("a")), "malformed_encoding"),
        (sse(text_frame("a"), {"choices": [], "tee_id": "x"}, last_frame("a")), "malformed_encoding"),
        (sse(text_frame("a"), b"{", last_frame("a")), "malformed_encoding"),
        (sse(text_frame("a"), b"[]", last_frame("a")), "malformed_encoding"),
        (sse(text_frame("a"), b'{"choices": 5}', last_frame("a")), "malformed_encoding"),
        (sse(text_frame("a"), frame({"content": ["x"]}), last_frame("a")), "malformed_encoding"),
        (sse(b'{"choices": [{"delta": {"content": "\\ud800"}}]}', last_frame("a")), "malformed_encoding"),
        (sse(calls_frame({**EVIL, "index": 128}), last_frame("a", "tool_calls")), "malformed_encoding"),
        (sse(calls_frame({**EVIL, "index": -1}), last_frame("a", "tool_calls")), "malformed_encoding"),
        (sse(text_frame("A"), last_frame("a")), "output_hash_mismatch"),
        (sse(text_frame("a"), last_frame("a"), text_frame("b")), "output_hash_mismatch"),
        (sse(text_frame("a"), last_frame("a"), calls_frame(EVIL)), "unsigned_content"),
        (sse(text_frame("a"), last_frame("a"), frame({"function_call": {}})), "unsigned_content"),
        (sse(text_frame("a"), last_frame("a", model="m-2")), "response_model_mismatch"),
        (sse(text_frame("a"), last_frame("a")) + sse(text_frame("b"), done=False), "stream_grammar"),
        (sse(text_frame("a"), last_frame("a"), done=False), "incomplete"),
    ],
)  # fmt: skip
def test_each_fault_of_a_stream_fails_it(data: bytes, expected: str) -> None:
    """What is wrong with a stream is found, and the first reason says it."""
    reader, pieces = run(data)
    assert reason(reader) == expected
    assert text_of(pieces) in ("", "a", "A")


def test_a_stream_that_is_cut_says_so() -> None:
    """Without its terminator, or within an event, a stream is not complete."""
    assert reader_of().finish() == "the stream ended without its terminator"
    reader, _ = run(GOOD + b"data: x")
    assert reader.finish() == "the stream ended inside an event"


def test_an_event_over_the_limit_is_refused() -> None:
    """One event may not be larger than the limit."""
    with pytest.raises(FormatError):
        OpenGradientReader(head(), SALT, max_event=64).feed(GOOD)


def test_content_after_the_last_frame_never_goes_on() -> None:
    """What follows the signed frame is hashed and not delivered, and the grammar says so."""
    reader, pieces = run(sse(text_frame("a"), last_frame("a"), text_frame("b"), text_frame("c")))
    assert text_of(pieces) == "a"
    assert reader.observation().stream_grammar == "content after the last frame"
    assert run(sse())[0].observation().stream_grammar == "the terminator came first"


def test_more_choices_than_one_cannot_be_signed() -> None:
    """A request for two choices has no signed answer."""
    reader, _ = run(GOOD, {**REQUEST, "n": 2})
    assert reader.observation().shape is not None


def test_models_are_kept_few() -> None:
    """A node that names another model in every frame is caught by the first, and fills no memory."""
    data = sse(*({**text_frame("a"), "model": f"m-{i}"} for i in range(1, 99)), last_frame("a" * 98))
    reader, pieces = run(data)
    assert reader.observation().models == ("m-1", "m-2", "m-3", "m-4")
    assert reason(reader) == "response_model_mismatch"
    assert [f["model"] for f in frames(pieces)[:2]] == ["m-1", "m-2"]
    unnamed = [{k: v for k, v in f.items() if k != "model"} for f in (text_frame("a"), last_frame("a"))]
    reader, pieces = run(sse(*unnamed))
    assert (frames(pieces)[0]["model"], reason(reader)) == ("m-1", "no_model")
    assert "model" not in reader.uncovered


@pytest.mark.parametrize("usage", [None, "x", {"total_tokens": -1}])
def test_usage_that_is_none_leaves_what_was_known(usage: Any) -> None:
    """Usage is counts, from whichever frame had some."""
    first = {**text_frame("a"), "usage": {"prompt_tokens": 9}}
    _, pieces = run(sse(first, {**last_frame("a"), "usage": usage}))
    assert frames(pieces)[-1]["usage"] == {"prompt_tokens": 9}


def test_a_text_that_reads_as_a_call_is_said_so() -> None:
    """Where tools are declared, a text that is the JSON of a call is flagged; it goes on as text."""
    reader, pieces = run(sse(text_frame(OUTPUT), last_frame(OUTPUT, request=WITH_TOOL)), WITH_TOOL)
    assert reader.observation().text_is_call
    assert text_of(pieces) == OUTPUT
    assert kinds(pieces) == [TEXT, FINISH, END]


DELTAS = st.fixed_dictionaries(
    {},
    optional={
        "content": st.sampled_from(["a", "", "[DONE]", None, 5]),
        "tool_calls": st.lists(st.sampled_from([{"index": 0, **CALL}, {"index": 1, "id": None}, {"function": {}}, {}, 5]), max_size=2),
        "images": st.just(["x"]),
        "function_call": st.sampled_from([None, {}, {"name": "f"}]),
    },
)  # fmt: skip
FRAMES = st.builds(
    lambda delta, index, finish, more: {"choices": [{"delta": delta, "index": index, "finish_reason": finish}], **more},
    DELTAS,
    st.sampled_from([0, 0, 0, 1]),
    st.sampled_from([None, None, "stop", "tool_calls", "x y"]),
    st.sampled_from([{}, {"model": "m-1"}, {"model": 5}, {"tee_id": "x"}, {"usage": {}}, {"web_search": {}}]),
)
LAST = last_frame("a")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(FRAMES | st.just(LAST) | st.just(text_frame("a")) | st.binary(max_size=12).filter(lambda b: b"\n" not in b and b"\r" not in b), max_size=6),
    st.booleans(),
    st.sampled_from(["withhold", "label"]),
    st.binary(max_size=20),
)  # fmt: skip
def test_any_stream_gives_frames_of_ours_and_a_verdict(
    events: list[Any], done: bool, uncovered: Any, tail: bytes
) -> None:
    """Whatever comes, what goes on is well formed, of one choice, and nothing but the signed text where all passes."""
    reader = reader_of(uncovered=uncovered)
    pieces = reader.feed(sse(*copy.deepcopy(events), done=done) + tail)
    for document in frames(pieces):
        assert [choice["index"] for choice in document["choices"]] == [0]
        assert not {"error", "tee_id", "web_search"} & document.keys()
    reader.finish()
    if reason(reader) is None:
        assert text_of(pieces) == "a"
        assert kinds(pieces)[-2:] == [FINISH, END]


def test_frames_of_the_support_are_honest() -> None:
    """The frames that these tests change are, unchanged, those of an answer that passes."""
    assert reason(run(sse(text_frame("a"), LAST))[0]) is None
    assert dumps(LAST)
