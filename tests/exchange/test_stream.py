"""Following streams of the four APIs that have them: what goes on, what is held, what is covered."""

from __future__ import annotations

import hashlib
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import FormatError
from gateway.exchange.answer import read_answer
from gateway.exchange.head import Head
from gateway.exchange.release import MODES, Hold
from gateway.exchange.render import error_event
from gateway.exchange.stream import CALL, CHAIN, END, FINISH, TEXT, Piece, StreamReader, UpstreamError, Wire
from gateway.verify.response import arguments_ok

WIRE = Wire(b"aci.receipt", b"aci.chain")
CHAT = Head("/v1/chat/completions", "m", True, 1, frozenset({"f"}))
SALT = b"\1" * 32


def reader(head: Head = CHAT, max_event: int = 10_000) -> StreamReader:
    return StreamReader(head, WIRE, SALT, max_event=max_event)


def event(document: object, name: str = "") -> bytes:
    data = document if isinstance(document, str) else json.dumps(document)
    return (f"event: {name}\n" if name else "").encode() + b"data: " + data.encode() + b"\n\n"


def chunk(
    delta: dict[str, object] | None = None, finish: str | None = None, index: int = 0, **members: object
) -> bytes:
    choices = [{"index": index, "delta": delta or {}, "finish_reason": finish}]
    return event({"id": "c", "model": "m", "choices": choices, **members})


PLAIN = chunk({"role": "assistant"}) + chunk({"content": "he"}) + chunk({"content": "llo"}) + chunk({}, "stop")
USAGE = event({"id": "c", "model": "m", "choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3}})
DONE = event("[DONE]")


def test_a_plain_chat_stream() -> None:
    """Every event goes on in its own bytes; text, usage, id and digests come out; the receipt does not go on."""
    r = reader()
    receipt = b"event: aci.receipt\ndata: QUJD\n\n"
    pieces = r.feed(PLAIN + USAGE + DONE + receipt)
    assert b"".join(p.out for p in pieces) == PLAIN + USAGE + DONE
    assert [p.kind for p in pieces] == [TEXT, TEXT, TEXT, FINISH, FINISH, END]
    assert r.finish() is None
    assert (r.receipt, r.receipt_problem, r.rebuilt) == (b"QUJD", None, False)
    assert r.covered_sha256 == hashlib.sha256(PLAIN + USAGE + DONE).hexdigest()
    data = b"".join(line[6:] + b"\n" for line in (PLAIN + USAGE).split(b"\n\n") if line)
    assert r.data_sha256 == hashlib.sha256(SALT + data).hexdigest()
    seen = r.observation()
    assert (seen.models, seen.answer_id, seen.stream_grammar, seen.malformed) == (("m",), "c", None, None)
    assert (seen.input_tokens, seen.output_tokens, seen.shape) == (2, 3, None)
    assert r.content().text == "hello"


@pytest.mark.parametrize(
    "deltas",
    [
        [{"name": "f", "arguments": None}],
        [{"name": "f"}, {"arguments": None}],
        [{"name": "f", "arguments": "null"}],
        [{"name": "f", "arguments": '{"a":1,'}, {"arguments": '"a":2}'}],
    ],
)
@pytest.mark.parametrize("member", ["tool_calls", "function_call"])
def test_a14_arguments_that_are_no_object_in_a_stream(member: str, deltas: list[dict[str, object]]) -> None:
    """What the agent puts together is judged: null, and no text at all, are no empty text."""
    r = reader()
    for function in deltas:
        said: object = function if member == "function_call" else [{"index": 0, "function": function}]
        r.feed(chunk({member: said}))
    (found,) = r.observation().calls
    assert not arguments_ok(found.arguments)
    assert r.content().toolcalls == b"f\0" + (found.arguments or "").encode() + b"\n"


def test_a14_an_input_that_is_null() -> None:
    """An input that a block leaves out is an empty object; null is none, in a stream as in one piece."""
    for told, good in (({}, True), ({"input": None}, False), ({"input": {}}, True)):
        r = reader(MESSAGES)
        block = {"type": "tool_use", "name": "f", **told}
        start = event({"type": "message_start", "message": {"id": "m1"}})
        r.feed(start + event({"type": "content_block_start", "index": 0, "content_block": block}))
        (found,) = r.observation().calls
        assert arguments_ok(found.arguments) is good
    seen, _, _ = read_answer(MESSAGES, json.dumps({"content": [{"type": "tool_use", "input": None}]}).encode())
    assert not arguments_ok(seen.calls[0].arguments)


def test_tool_call_deltas_are_put_together() -> None:
    """Deltas of a call are pieces of kind call, and make one call with its whole arguments; also the legacy form."""
    r = reader()
    deltas = [
        {"tool_calls": [{"index": 0, "id": "x", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}, {"index": 1, "custom": {"name": "g"}}]},
        {"function_call": {"name": "h", "arguments": "{}"}},
    ]
    pieces = r.feed(b"".join(chunk(d) for d in deltas) + chunk({}, "tool_calls") + DONE)
    assert [p.kind for p in pieces] == [CALL, CALL, CALL, CALL, FINISH, END]
    calls = r.observation().calls
    assert [(c.kind, c.name, c.arguments) for c in calls] == [
        ("tool_calls", "f", '{"a":1}'),
        ("custom", "g", None),
        ("function_call", "h", "{}"),
    ]
    assert r.content().toolcalls == b'f\0{"a":1}\ng\0\nh\0{}\n'


@pytest.mark.parametrize(
    ("stream", "problem"),
    [
        (DONE + PLAIN, "the terminator came first"),
        (DONE, "the terminator came first"),
        (PLAIN + DONE + DONE, "data after the terminator"),
        (PLAIN + DONE + chunk({"content": "x"}), "data after the terminator"),
        (PLAIN + chunk({"content": "x"}) + DONE, "content after the finish event"),
        (PLAIN + chunk({"tool_calls": [{"index": 0}]}) + DONE, "content after the finish event"),
        (chunk({"content": "x"}, index=1) + PLAIN + DONE, "choice 1 where 1 were asked for"),
        (PLAIN + chunk({"content": [{"type": "text", "text": "x"}]}) + DONE, "content after the finish event"),
        (PLAIN + chunk({"refusal": "x"}) + DONE, "content after the finish event"),
        (PLAIN + chunk({"reasoning_content": "x"}) + DONE, "content after the finish event"),
        (PLAIN + chunk({"reasoning": "x"}) + DONE, "content after the finish event"),
        (PLAIN + event({"id": "other", "choices": []}) + DONE, "the id changes between events"),
        (PLAIN + event({"model": "other", "choices": []}) + DONE, "the model changes between events"),
        (
            event({"choices": [{"index": 0, "delta": {"content": "x"}}, {"index": 0, "delta": {}}]}) + PLAIN + DONE,
            "an event has one choice twice",
        ),
    ],
)
def test_d05_d11_d13_broken_grammar_is_seen(stream: bytes, problem: str) -> None:
    """What the protocol does not allow is an observation with its reason."""
    r = reader()
    r.feed(stream)
    assert r.observation().stream_grammar == problem


def test_what_adds_nothing_may_stand_behind_the_finish() -> None:
    """Servers tell of usage there, in a chunk whose delta is there and empty."""
    r = reader()
    empty = {"role": "assistant", "content": "", "refusal": None, "reasoning_content": "", "reasoning": None}
    r.feed(PLAIN + chunk(empty) + chunk(empty, "stop") + DONE)
    assert r.observation().stream_grammar is None


def test_an_empty_text_is_no_id_no_model_and_no_finish() -> None:
    """Azure says what its filters found in chunks without id and model; other servers write "" where there is none."""
    found = event({"id": "", "model": "", "choices": [], "prompt_filter_results": []})
    late = event(
        {"id": "", "model": "", "choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {}}]}
    )
    r = reader()
    r.feed(found + chunk({"content": "he"}, "") + chunk({"content": "llo"}, "") + chunk({}, "stop") + late + DONE)
    seen = r.observation()
    assert (seen.stream_grammar, seen.shape, seen.models, seen.answer_id) == (None, None, ("m",), "c")
    assert r.content().text == "hello"


def test_text_behind_an_empty_finish_may_leave() -> None:
    """It announces no end, so that nothing has to wait for the verdict."""
    pieces = reader().feed(chunk({"content": "a"}, "") + chunk({"content": "b"}, "") + chunk({}, "stop"))
    assert [p.kind for p in pieces] == [TEXT, TEXT, FINISH]


@pytest.mark.parametrize(
    ("stream", "says"),
    [
        (event("{not json") + PLAIN + DONE, "malformed"),
        (event("[1]") + PLAIN + DONE, "not a JSON object"),
        (event({"choices": {}}) + PLAIN + DONE, "not what it should be"),
        (event('{"a":1,"a":2}') + PLAIN + DONE, "twice"),
    ],
)
def test_malformed_events_are_seen(stream: bytes, says: str) -> None:
    """An event that does not parse strictly makes the whole answer malformed."""
    r = reader()
    r.feed(stream)
    assert says in (r.observation().malformed or "")


@pytest.mark.parametrize(
    ("stream", "says"),
    [
        (PLAIN, "without its terminator"),
        (b"", "without its terminator"),
        (PLAIN + DONE + b"data: {", "inside an event"),
        (PLAIN + b"data: [DONE]", "without its terminator"),
    ],
)
def test_a_cut_stream_is_never_an_end(stream: bytes, says: str) -> None:
    """A body that ends before the protocol's own terminator, or inside an event, was cut."""
    r = reader()
    r.feed(stream)
    assert says in (r.finish() or "")


@pytest.mark.parametrize("bad", ["../../x", "a\r\nb", "x" * 513, None, 7])
@pytest.mark.parametrize(
    ("endpoint", "member"),
    [("/v1/chat/completions", ""), ("/v1/completions", ""), ("/v1/responses", "response"), ("/v1/messages", "message")],
)
def test_c20_an_event_with_an_id_that_is_none_does_not_leave(endpoint: str, member: str, bad: object) -> None:
    """The answer is malformed, and of the event no byte goes on."""
    r = reader(Head(endpoint, "m", True, 1, frozenset()))
    name = {"response": "response.created", "message": "message_start"}.get(member, "")
    (piece,) = r.feed(event({"type": name, member: {"id": bad}} if member else {"id": bad, "choices": []}, name))
    assert (piece.kind, piece.out) == (CALL, b"")
    assert r.observation().malformed is not None


def test_an_error_object_in_the_stream() -> None:
    """The node's own error ends the reading; its text is not kept."""
    with pytest.raises(UpstreamError):
        reader().feed(PLAIN + event({"error": {"message": "secret"}}))


@pytest.mark.parametrize(
    "error",
    [
        event({"error": "secret"}),
        event({"object": "error", "message": "secret", "code": 500}),
        event({"message": "secret"}, "error"),
        event("secret", "error"),
        event({"choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": {"message": "secret"}}]}),
    ],
)
def test_d16_an_error_is_one_in_every_form_that_servers_give_it(error: bytes) -> None:
    """By a member of the event or of its choice, by the kind of object, or by the event's name."""
    with pytest.raises(UpstreamError):
        reader().feed(PLAIN + error)


@pytest.mark.parametrize("endpoint", ["/v1/responses", "/v1/messages"])
@pytest.mark.parametrize(("name", "kind"), [("", {}), ("ping", {}), ("error", {}), ("", {"type": "server_error"})])
def test_an_error_object_in_a_stream_of_named_events(endpoint: str, name: str, kind: dict[str, str]) -> None:
    """Many servers send it without a name, and SDKs look for it in any event: its text does not go on."""
    head = Head(endpoint, "m", True, 1, frozenset())
    with pytest.raises(UpstreamError):
        reader(head).feed(event({**kind, "error": {"message": "secret"}}, name))


def test_odd_blocks_are_rewritten_or_dropped() -> None:
    """Comments, ids and retry stay here; an event with them, or with names, goes on as plain data; all is covered."""
    r = reader()
    odd = (
        b": keep-alive\n\nid: 1\nretry: 99999999\n" + chunk({"content": "x"}) + b"event: y\n" + chunk({"content": "y"})
    )
    pieces = r.feed(odd)
    assert [p.out for p in pieces] == [chunk({"content": "x"}), chunk({"content": "y"})]
    assert r.rebuilt
    assert r.covered_sha256 == hashlib.sha256(odd).hexdigest()


@pytest.mark.parametrize("empty", [b"data:\n\n", b"data: \n\n", b"event: x\ndata\n\n"])
def test_an_event_of_no_data_is_none(empty: bytes) -> None:
    """The rules of event streams have clients pass over it: it is covered, and goes no further."""
    r = reader()
    stream = empty + PLAIN + empty + DONE + empty
    assert b"".join(p.out for p in r.feed(stream)) == PLAIN + DONE
    assert (r.observation().malformed, r.observation().stream_grammar, r.finish()) == (None, None, None)
    assert (r.rebuilt, r.covered_sha256) == (True, hashlib.sha256(stream).hexdigest())


def test_an_event_on_several_lines_goes_on_in_one() -> None:
    """An agent that reads line by line would find another event on one of them, with a call that nobody saw."""
    hidden = chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]})
    r = reader()
    (piece,) = r.feed(b'data: {"id": "c", "x":\n' + hidden[:-1] + b"data: }\n\n")
    assert piece.out.count(b"\n") == 2
    assert list(json.loads(piece.out[6:])) == ["id", "x"]
    assert (piece.kind, r.rebuilt) == (TEXT, True)


def test_members_in_our_name_do_not_pass() -> None:
    """An event that holds `verification` goes on without it, and only that event is re-written."""
    r = reader()
    first, second = chunk({"content": "x"}, verification={"verdict": "affirming"}), chunk({"content": "y"})
    pieces = r.feed(first + second)
    assert b"verification" not in pieces[0].out
    assert json.loads(pieces[0].out[6:])["choices"][0]["delta"] == {"content": "x"}
    assert pieces[1].out == second


def test_members_in_our_name_are_counted_up_to_what_a_receipt_holds() -> None:
    """A node that sends new ones with each event makes no work that grows with what it has sent."""
    r = reader()
    for n in range(4):
        names = {f"x_veriroute_{n}_{i}": 1 for i in range(30)}
        assert b"x_veriroute" not in r.feed(chunk({"content": "x"}, **names))[0].out
    assert len(r.dropped_members) == 64
    assert r.dropped_members[:31] == (*(f"x_veriroute_0_{i}" for i in range(30)), "x_veriroute_1_0")


def test_receipts_out_of_place() -> None:
    """A receipt before the terminator, or a second one, is a problem of its own."""
    receipt = b"event: aci.receipt\ndata: QUJD\n\n"
    early, double = reader(), reader()
    early.feed(PLAIN + receipt + DONE)
    double.feed(PLAIN + DONE + receipt + receipt)
    assert early.receipt_problem == "malformed: the receipt came before the terminator"
    assert double.receipt_problem == "malformed: two receipts"


def test_chain_comments_are_not_covered_and_carry_the_digest_so_far() -> None:
    """A running signature is handed over with the digest of everything before it, and changes neither digest."""
    r = reader()
    first = chunk({"content": "x"})
    pieces = r.feed(first + b": aci.chain 1 " + b"0" * 128 + b"\n\n" + DONE)
    assert [p.kind for p in pieces] == [TEXT, CHAIN, END]
    assert pieces[1].out == b"aci.chain 1 " + b"0" * 128
    assert pieces[1].digest == hashlib.sha256(first).hexdigest()
    assert r.covered_sha256 == hashlib.sha256(first + DONE).hexdigest()


def test_a_huge_event_is_refused() -> None:
    """One event cannot take more memory than the limit."""
    with pytest.raises(FormatError):
        reader(max_event=100).feed(b"data: " + b"x" * 500)


@given(st.lists(st.integers(1, 60), max_size=40))
@settings(max_examples=100, deadline=None)
def test_cutting_changes_nothing(cuts: list[int]) -> None:
    """Re-segmenting a stream changes neither what goes on, nor the digests, nor what is seen (D08)."""
    stream = PLAIN + USAGE + DONE
    whole, cut, at = reader(), reader(), 0
    expected = b"".join(p.out for p in whole.feed(stream))
    out = b""
    for size in [*cuts, len(stream)]:
        out += b"".join(p.out for p in cut.feed(stream[at : at + size]))
        at += size
    assert out == expected
    assert (cut.covered_sha256, cut.data_sha256) == (whole.covered_sha256, whole.data_sha256)
    assert cut.observation() == whole.observation()


def test_completions() -> None:
    """The older completions API streams text in `text`."""
    r = reader(Head("/v1/completions", "m", True, 1, frozenset()))
    pieces = r.feed(
        event({"id": "c", "model": "m", "choices": [{"index": 0, "text": "ab"}]})
        + event({"id": "c", "model": "m", "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})
        + DONE
    )
    assert [p.kind for p in pieces] == [TEXT, FINISH, END]
    assert r.content().text == "ab"


RESPONSES = Head("/v1/responses", "m", True, 1, frozenset({"f"}))


def test_responses() -> None:
    """Named events go on as they are; output text, calls, model, id and usage are read; completed is the end."""
    r = reader(RESPONSES)
    started = {"type": "response.created", "response": {"id": "r", "model": "m"}}
    item = {"type": "function_call", "name": "f", "arguments": "{}"}
    last = {"id": "r", "model": "m", "usage": {"input_tokens": 1, "output_tokens": 2}}
    stream = (
        event(started, "response.created")
        + event({"type": "response.output_text.delta", "delta": "hi"}, "response.output_text.delta")
        + event({"type": "response.output_item.added", "item": item}, "response.output_item.added")
        + event(
            {"type": "response.function_call_arguments.delta", "delta": "{}"}, "response.function_call_arguments.delta"
        )
        + event({"type": "response.output_item.done", "item": item}, "response.output_item.done")
        + event({"type": "response.completed", "response": last}, "response.completed")
    )
    pieces = r.feed(stream)
    assert b"".join(p.out for p in pieces) == stream
    assert [p.kind for p in pieces] == [TEXT, TEXT, CALL, CALL, CALL, END]
    seen = r.observation()
    assert (seen.models, seen.answer_id, seen.input_tokens, seen.output_tokens) == (("m",), "r", 1, 2)
    assert [(c.kind, c.name) for c in seen.calls] == [("function_call", "f")]
    assert (r.content().text, r.finish(), seen.shape) == ("hi", None, None)


@pytest.mark.parametrize(
    "bad",
    [
        {"type": "error", "message": "x"},
        {"type": "response.failed", "response": {"id": "r"}},
        {"type": "response.in_progress", "response": {"error": {"code": "x"}}},
    ],
)
def test_responses_errors(bad: dict[str, object]) -> None:
    """An error event, a failed response and a response with an error are the node's failure."""
    with pytest.raises(UpstreamError):
        reader(RESPONSES).feed(event(bad))


@pytest.mark.parametrize(
    "stream",
    [
        event({"type": "response.created"}, "response.other"),
        event({"response": {"id": "a"}}, "response.created") + event({"response": {"id": "b"}}, "response.created"),
    ],
)
def test_responses_grammar(stream: bytes) -> None:
    """Names and types that differ, and ids that change, are seen."""
    r = reader(RESPONSES)
    r.feed(stream)
    assert r.observation().stream_grammar is not None


MESSAGES = Head("/v1/messages", "m", True, 1, frozenset({"f"}))


CALL_ITEM = {"type": "function_call", "name": "g", "arguments": "{}"}
CALL_BLOCK = {"type": "tool_use", "name": "g", "input": {}}


@pytest.mark.parametrize(
    ("head", "document"),
    [
        (CHAT, {"choices": [{"delta": {"Tool_Calls": [{"function": {"name": "g"}}]}}]}),
        (CHAT, {"choices": [{"delta": {"function_Call": {"name": "g"}}}]}),
        (CHAT, {"choices": [{"Delta": {"tool_calls": [{"function": {"name": "g"}}]}}]}),
        (CHAT, {"CHOICES": [{"delta": {"tool_calls": [{"function": {"name": "g"}}]}}]}),
        (CHAT, {"choices": [{"delta": {"tool_calls": [{"function": {"name": "f", "Name": "g"}}]}}]}),
        (CHAT, {"choices": [{"delta": {"tool_call\u017f": [{"function": {"name": "g"}}]}}]}),
        (RESPONSES, {"type": "response.output_item.added", "Item": CALL_ITEM}),
        (RESPONSES, {"type": "response.in_progress", "response": {"Output": [CALL_ITEM]}}),
        (MESSAGES, {"type": "content_block_start", "index": 0, "Content_Block": CALL_BLOCK}),
        (MESSAGES, {"type": "content_block_delta", "delta": {"partial_json": "1", "Partial_json": "9"}}),
        (MESSAGES, {"type": "content_block_delta", "delta": {"partial_j\u017fon": "9"}}),
        (MESSAGES, {"type": "content_block_delta", "Index": 1, "delta": {"partial_json": "1"}}),
    ],
)
@pytest.mark.parametrize("spelt", ["{}", "\\u005f"])
def test_a_call_in_a_member_of_another_case_does_not_pass(head: Head, document: dict[str, object], spelt: str) -> None:
    """Readers that look at no case, as Go's, would find a call where none was seen: such an event is held and refused."""
    r = reader(head)
    data = json.dumps(document).replace("_", "_" if spelt == "{}" else spelt)
    assert [(p.kind, p.out) for p in r.feed(event(data))] == [(CALL, b"")]
    assert "by its case alone" in (r.observation().malformed or "")


@pytest.mark.parametrize(
    "document",
    [
        {"choices": [{"delta": {"content": "x", "tool_calls": [], "X_Name": 1}}], "Usage": "tool_calls"},
        {"choices": [{"delta": {"tool_calls": [{"function": {"name": "f", "arguments": '{"Name":1}'}}]}}]},
    ],
)
def test_members_that_are_none_of_the_api_may_have_any_case(document: dict[str, object]) -> None:
    """Only what leads to a call, and says what is called, has one spelling."""
    r = reader()
    assert r.feed(event(document))[0].out == event(document)
    assert r.observation().malformed is None


@pytest.mark.parametrize(
    ("head", "name", "member"),
    [
        *((RESPONSES, f"response.{state}", "response") for state in ("created", "in_progress", "completed")),
        (MESSAGES, "message_start", "message"),
    ],
)
def test_members_in_our_name_do_not_pass_inside_of_an_answer(head: Head, name: str, member: str) -> None:
    """SDKs make the answer of what an event holds: there a node could speak in our name, too."""
    r = reader(head)
    answer = {"id": "r", "verification": {"verdict": "affirming"}, "model": "m"}
    (piece,) = r.feed(event({"type": name, member: answer, "receipt": "01X"}, name))
    assert json.loads(piece.out.partition(b"data: ")[2]) == {"type": name, member: {"id": "r", "model": "m"}}
    assert piece.out.startswith(f"event: {name}\n".encode())
    assert (r.rebuilt, r.dropped_members) == (True, (f"{member}.verification", "receipt"))


def test_messages() -> None:
    """Text and tool use of a message stream are read; message_delta is the finish and message_stop the end."""
    r = reader(MESSAGES)
    documents: list[dict[str, object]] = [
        {"type": "message_start", "message": {"id": "m1", "model": "m", "usage": {"input_tokens": 5}}},
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "name": "f", "input": {}}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a":1}'}},
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 6}},
        {"type": "message_stop"},
    ]
    stream = b"".join(event(d, str(d["type"])) for d in documents)
    pieces = r.feed(stream)
    assert b"".join(p.out for p in pieces) == stream
    assert [p.kind for p in pieces] == [TEXT, TEXT, TEXT, TEXT, TEXT, CALL, CALL, CALL, FINISH, END]
    seen = r.observation()
    assert (seen.models, seen.input_tokens, seen.output_tokens, seen.stream_grammar) == (("m",), 5, 6, None)
    assert [(c.kind, c.name, c.arguments) for c in seen.calls] == [("tool_use", "f", '{"a":1}')]
    assert r.content().text == "hi"


def test_messages_grammar_and_errors() -> None:
    """Events before the start, a second start, differing names and the error event are told apart."""
    for stream in (
        event({"type": "content_block_stop", "index": 0}),
        event({"type": "message_start"}) * 2,
        event({"type": "ping"}, "pong"),
    ):
        r = reader(MESSAGES)
        r.feed(stream)
        assert r.observation().stream_grammar is not None
    with pytest.raises(UpstreamError):
        reader(MESSAGES).feed(event({"type": "error"}))
    empty = reader(MESSAGES)
    assert empty.observation().shape == "no message in the stream"
    assert reader(RESPONSES).observation().shape == "no response in the stream"
    assert reader().observation().shape is not None


@pytest.mark.parametrize("head", [RESPONSES, MESSAGES])
def test_a_done_behind_a_named_end_stays_here(head: Head) -> None:
    """Some servers say `[DONE]` behind an end that has a name, too. It says nothing; before that end it is no event."""
    end = event({"type": "message_stop"}) if head is MESSAGES else event({"type": "response.completed"})
    for last in (DONE, event("[DONE]", "data")):
        r = reader(head)
        (piece,) = r.feed(event({"type": "ping"}) + end + last)[1:]
        assert (piece.kind, piece.out, r.rebuilt, r.finish()) == (END, end, True, None)
        assert "after the terminator" not in (r.observation().stream_grammar or "")
        assert r.covered_sha256 == hashlib.sha256(event({"type": "ping"}) + end + last).hexdigest()
    for bad in (end + event("[DONE] "), end + event({"type": "ping"}), end + DONE + DONE, DONE + end):
        r = reader(head)
        r.feed(bad)
        assert r.observation().malformed or r.observation().stream_grammar == "data after the terminator"


@pytest.mark.parametrize("head", [RESPONSES, MESSAGES])
def test_d05_a_done_first_breaks_the_grammar_of_named_events_too(head: Head) -> None:
    """Whatever follows it, the stream said its end before its beginning."""
    r = reader(head)
    r.feed(DONE + event({"type": "message_start", "message": {"id": "c"}}))
    assert r.observation().stream_grammar == "the terminator came first"


@pytest.mark.parametrize(
    "late",
    [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "late"}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "late"}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "name": "f", "input": {}}},
    ],
)
def test_d11_a_message_has_no_content_behind_its_finish(late: dict[str, object]) -> None:
    """What a client does with it is unclear; a second `message_delta`, which only counts, is none."""
    start = event({"type": "message_start", "message": {"id": "c", "model": "m"}})
    delta = event({"type": "message_delta", "usage": {"output_tokens": 1}})
    finish = event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}})
    end = event({"type": "message_stop"})
    r = reader(MESSAGES)
    r.feed(start + delta + event(late) + finish + delta + end)
    assert r.observation().stream_grammar is None
    r = reader(MESSAGES)
    r.feed(start + finish + delta + event(late) + end)
    assert r.observation().stream_grammar == "content after the finish event"


@given(st.binary(max_size=300), st.sampled_from([CHAT, RESPONSES, MESSAGES]))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_without_an_exception(data: bytes, head: Head) -> None:
    """Hostile bytes raise only what the relay expects."""
    r = reader(head)
    try:
        r.feed(data + b"\n\n" + b"data: " + data + b"\n\n")
    except (UpstreamError, FormatError):
        return
    r.finish()
    r.observation()


# -- release ----------------------------------------------------------------------------------------------------------


def text(n: int) -> Piece:
    return Piece(TEXT, b"%d" % n)


def test_buffer_lets_nothing_out() -> None:
    """In buffer nothing leaves before the verdict, and then all of it, the terminator apart."""
    hold = Hold("buffer")
    assert [hold.offer(p, 0) for p in (text(1), Piece(FINISH, b"f"), Piece(END, b"e"))] == [b"", b"", b""]
    assert (hold.covered(), hold.flush(), hold.end) == (b"", b"1f", b"e")


def test_window_holds_back_the_last() -> None:
    """In window an event leaves once enough newer ones have come and it is old enough."""
    hold = Hold("window", window_events=2, window_ms=100)
    assert [hold.offer(text(n), n * 60) for n in range(5)] == [b"", b"", b"0", b"1", b"2"]
    assert Hold("window", window_events=0, window_ms=100).offer(text(1), 0) == b""
    assert hold.flush() == b"34"


def test_optimistic_lets_text_flow_and_holds_calls() -> None:
    """In optimistic text leaves at once; from the first call or finish on, everything waits."""
    for kind in (CALL, FINISH):
        hold = Hold("optimistic")
        assert hold.offer(text(1), 0) == b"1"
        assert hold.offer(Piece(kind, b"c"), 0) == b""
        assert hold.offer(text(2), 0) == b""
        assert hold.flush() == b"c2"


def test_chained_waits_for_the_signature() -> None:
    """In chained an event leaves when a signature over it was verified; calls wait for the verdict even so."""
    hold = Hold("chained")
    assert [hold.offer(p, 0) for p in (text(1), text(2))] == [b"", b""]
    assert hold.covered() == b"12"
    hold.offer(Piece(CALL, b"c"), 0)
    assert hold.covered() == b""
    assert hold.flush() == b"c"


@given(st.sampled_from(["buffer", "window", "optimistic", "chained"]), st.lists(st.sampled_from([TEXT, CALL, FINISH])))
@settings(max_examples=200, deadline=None)
def test_order_is_kept_and_nothing_is_lost(mode: str, kinds: list[str]) -> None:
    """Whatever the mode, what leaves before and after the verdict is the stream, in order; no call leaves before."""
    hold = Hold(mode, window_events=2, window_ms=1)
    before = b""
    for n, kind in enumerate(kinds):
        before += hold.offer(Piece(kind, bytes([n % 256])), n * 10)
        if n % 3 == 0:
            before += hold.covered() if mode == "chained" else b""
    held = [n for n, kind in enumerate(kinds) if kind != TEXT]
    assert not held or len(before) <= held[0]
    assert before + hold.flush() == bytes(n % 256 for n in range(len(kinds)))


def test_error_events_have_the_form_of_their_api() -> None:
    """Chat clients get a data line with `error`; the named APIs an `error` event."""
    error = {"message": "m", "type": "t", "code": "c"}
    assert json.loads(error_event("/v1/chat/completions", error, 9)[6:]) == {"error": error}
    for endpoint, number in (("/v1/messages", {}), ("/v1/responses", {"sequence_number": 9})):
        named = error_event(endpoint, error, 9)
        assert named.startswith(b"event: error\ndata: ")
        assert json.loads(named.split(b"data: ")[1]) == {**error, "type": "error", **number, "error": error}


def test_odd_events_of_the_named_apis() -> None:
    """Events without an id or a text change nothing, a call without arguments is an empty object."""
    r = reader(RESPONSES)
    r.feed(
        event({"type": "response.in_progress", "response": {}})
        + event({"type": "response.created", "response": {"id": "r"}})
    )
    assert r.observation().stream_grammar is None
    m = reader(MESSAGES)
    m.feed(
        event({"type": "message_start", "message": {"id": "m1"}})
        + event({"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "name": "f"}})
        + event({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta"}})
        + event({"type": "content_block_delta", "index": 1, "delta": {"type": "thinking_delta"}})
        + event({"type": "content_block_start", "index": 2})
    )
    assert [(c.name, c.arguments) for c in m.observation().calls] == [("f", "{}")]
    c = reader()
    c.feed(event({"choices": []}) + PLAIN + DONE)
    assert c.observation().answer_id == "c"


# -- what leaves before the verdict, and what leaves at all -----------------------------------------------------------

COMPLETIONS = Head("/v1/completions", "m", True, 1, frozenset({"f"}))
#: The first event of a stream of each API, and one of text that may follow it.
OPENINGS = {
    CHAT: (chunk({"role": "assistant", "content": "a"}), chunk({"content": "b"})),
    COMPLETIONS: (
        event({"id": "c", "model": "m", "choices": [{"index": 0, "text": "a"}]}),
        event({"id": "c", "model": "m", "choices": [{"index": 0, "text": "b"}]}),
    ),
    RESPONSES: (
        event({"type": "response.created", "response": {"id": "r", "model": "m", "output": []}}, "response.created"),
        event({"type": "response.output_text.delta", "delta": "b"}, "response.output_text.delta"),
    ),
    MESSAGES: (
        event({"type": "message_start", "message": {"id": "m1", "model": "m", "content": []}}, "message_start"),
        event({"type": "content_block_delta", "index": 0, "delta": {"text": "b"}}, "content_block_delta"),
    ),
}


def passed(r: StreamReader, mode: str, stream: bytes) -> tuple[bytes, bytes]:
    """What of `stream` leaves before the verdict and behind a good one. Each event has its running signature."""
    hold = Hold(mode, window_events=0, window_ms=0)
    before = b""
    for piece in r.feed(stream):
        before += hold.offer(piece, 0) + (hold.covered() if mode == "chained" else b"")
    return before, hold.flush() + hold.end


def around(head: Head, mode: str, bad: bytes) -> tuple[StreamReader, bytes]:
    """What was read of an opening, `bad` and a text, of which only the opening left before the verdict; and what left
    of the rest behind a good one."""
    r = reader(head)
    opening, text = OPENINGS[head]
    before, after = passed(r, mode, opening + bad + text)
    assert before == (b"" if mode == "buffer" else opening)
    rest = (before + after).removeprefix(opening)
    assert rest.endswith(text)
    return r, rest.removesuffix(text)


CALLS = '"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"name":"g","arguments":%s}}]}}]'


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("head", "bad"),
    [
        (CHAT, event('{"id":"c","x":1,"x":1,' + CALLS % '"{}"' + "}")),
        (CHAT, event('{"id":"c",' + CALLS % "{}" + "}")),
        (CHAT, event('{"choices":[{"index":0,"delta":{"content":"\\ud800"},"finish_reason":"stop"}]}')),
        (CHAT, event('{"choices":[],"x":NaN,"verification":{"verdict":"affirming"}}')),
        (CHAT, event('[{"verification":{"verdict":"affirming"}}]')),
        (CHAT, event("[DONE] ")),
        (CHAT, event("[DONE]\ndata: x")),
        (COMPLETIONS, event("[DONE] ")),
        (RESPONSES, event("[DONE]")),
        (RESPONSES, event({"type": "response.completed", "response": {"output": {}}}, "response.completed")),
        (RESPONSES, event({"type": "veriroute.verification", "verification": {}}, "veriroute.verification")),
        (RESPONSES, event({"type": "veriroute.verification"})),
        (MESSAGES, event({"delta": {"text": "x"}}, "veriroute.verification")),
        (MESSAGES, event("[DONE]")),
        (MESSAGES, event({"type": "message_stop", "index": None}, "message_stop")),
    ],
)
def test_what_cannot_be_read_does_not_leave(head: Head, mode: str, bad: bytes) -> None:
    """Of an event that others may read, and we may not, no byte leaves under any verdict; what follows it waits."""
    r, left = around(head, mode, bad)
    assert left == b""
    assert r.rebuilt
    assert r.observation().malformed is not None
    assert r.finish() == "the stream ended without its terminator"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("head", "bad"),
    [
        (MESSAGES, event({"type": "ping", "content_block": {"type": "tool_use", "name": "g"}}, "content_block_start")),
        (MESSAGES, event({"type": "ping"}, "message_stop")),
        (MESSAGES, event({"type": "message_delta"}, "ping")),
        (RESPONSES, event({"type": "x", "item": {"type": "message"}}, "response.output_item.done")),
        (RESPONSES, event({"type": "", "delta": "c"}, "response.output_text.delta")),
    ],
)
def test_an_event_that_is_two_things_waits(head: Head, mode: str, bad: bytes) -> None:
    """Where name and type differ, it and what follows wait for the verdict, which is against it."""
    r, left = around(head, mode, bad)
    assert left == bad
    assert r.observation().stream_grammar == "an event's name and type differ"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("deltas", "run", "problem"),
    [
        ([{"type": "custom", "function": {"name": "f"}, "custom": {"name": "g"}}], b"g\0\n", "both"),
        ([{"type": "custom", "function": {"name": "f"}}, {"custom": {"name": "g", "input": "ls"}}], b"g\0ls\n", "both"),
        ([{"function": {"name": "f"}}, {"type": "custom", "custom": {"name": "g"}}], b"g\0\n", "both"),
        ([{"type": "f", "function": {"name": "g"}}], b"g\0\n", "of the type 'f'"),
        ([{"type": "custom", "custom": {"name": "g", "input": "l"}}, {"custom": {"input": "s"}}], b"g\0ls\n", None),
        ([{"type": "custom", "function": {"name": "f", "arguments": "{}"}}], b"\0\n", None),
    ],
)
def test_a_streamed_call_is_what_is_run(
    mode: str, deltas: list[dict[str, object]], run: bytes, problem: str | None
) -> None:
    """Its type chooses its name, wherever in the stream that stands; one that may be run as two things has no shape."""
    bad = b"".join(chunk({"tool_calls": [{"index": 0, **delta}]}) for delta in deltas)
    r, left = around(CHAT, mode, bad)
    assert left == bad
    seen = r.observation()
    assert r.content().toolcalls == run
    assert (seen.shape is None) is (problem is None)
    assert (problem or "") in (seen.shape or "")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("item", "name"),
    [
        ({"type": "mcp_approval_request", "name": "drop_db", "arguments": "{}"}, "drop_db"),
        ({"type": "local_shell_call", "name": "f", "arguments": "{}"}, "local_shell"),
        ({"type": "custom_tool_call", "name": "g", "input": "ls"}, "g"),
    ],
)
def test_a_streamed_item_is_what_is_run(mode: str, item: dict[str, object], name: str) -> None:
    """An approval that is asked for is a call, and a name that a built-in tool's call holds is not its name."""
    done = event({"type": "response.output_item.done", "item": item}, "response.output_item.done")
    r, left = around(RESPONSES, mode, done)
    assert left == done
    assert [c.name for c in r.observation().calls] == [name]


@pytest.mark.parametrize(("head", "read"), [(CHAT, "good"), (COMPLETIONS, "evil")])
@pytest.mark.parametrize("unlike", [0, 8])
@pytest.mark.parametrize("mode", MODES)
def test_text_is_what_clients_of_the_api_read(
    head: Head, read: str, unlike: int, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text of the other API, beside it or alone, is none, whether or not events are taken for alike."""
    monkeypatch.setattr("gateway.exchange.stream.UNLIKE", unlike)
    r = reader(head)
    good, evil = {"delta": {"content": "good"}}, {"text": "evil"}
    stream = b"".join(
        event({"id": "c", "choices": [{"index": 0, **choice}]}) for choice in (good | evil, good | evil, good, evil)
    )
    assert b"".join(passed(r, mode, stream)) == stream
    assert r.content().text == read * 3


def named(type_: str, **members: object) -> bytes:
    return event({"type": type_, **members}, type_)


def call(name: str, arguments: str = "{}", type_: str = "function_call") -> dict[str, str]:
    return {"type": type_, "name": name, "arguments": arguments}


def added(at: int, item: dict[str, str]) -> bytes:
    return named("response.output_item.added", output_index=at, item=item)


def done(at: int, item: dict[str, str]) -> bytes:
    return named("response.output_item.done", output_index=at, item=item)


def arguments(way: str, at: int = 0, **said: str) -> bytes:
    return named(f"response.function_call_arguments.{way}", output_index=at, **said)


def completed(*items: dict[str, str], kind: str = "completed") -> bytes:
    return named(f"response.{kind}", response={"id": "r", "output": items})


OF_S = {**call("f", type_="mcp_call"), "server_label": "s"}
DIFFERS, NOT_STREAMED = "a call differs from what was streamed of it", "the response has a call that was not streamed"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("events", "calls", "problem"),
    [
        # in the response alone, wherever it is told
        ([completed(call("f"), call("g"))], ["f {}", "g {}"], None),
        ([completed(call("g"), kind="incomplete")], ["g {}"], None),
        ([completed(call("g"), kind="in_progress"), completed(call("g"))], ["g {}"], None),
        ([completed(call("g"), kind="other"), completed()], ["g {}"], None),
        # in the response and before it
        ([added(0, call("f")), done(0, call("f")), completed(call("f"))], ["f {}"], None),
        ([done(0, call("f")), done(1, call("f")), completed(call("f"), call("f"))], ["f {}", "f {}"], None),
        ([done(0, call("f")), completed(call("f"), call("f"))], ["f {}", "f {}"], NOT_STREAMED),
        ([done(0, call("f")), completed(call("g"))], ["f {}", "g {}"], NOT_STREAMED),
        ([done(0, call("f")), completed(call("f", "[]"))], ["f {}", "f []"], NOT_STREAMED),
        ([done(0, call("f")), completed()], ["f {}"], None),
        ([added(0, OF_S), done(0, OF_S), completed(OF_S)], ["f {}"], None),
        ([added(0, OF_S), completed(OF_S)], ["f {}"], None),
        ([added(0, OF_S), done(0, {**OF_S, "server_label": "t"})], ["f {}"], DIFFERS),
        # begun and never done
        ([added(0, call("g", "")), arguments("delta", delta="{"), arguments("delta", delta="}"), completed()], ["g {}"], None),
        ([added(0, call("g", "")), arguments("done", arguments="{}", name="g"), completed(call("g"))], ["g {}"], None),
        ([added(0, call("g"))], ["g {}"], None),
        # begun as one thing, done as another
        ([added(0, call("g", "")), done(0, call("f"))], ["f {}"], DIFFERS),
        ([added(0, call("f", "[]")), done(0, call("f"))], ["f {}"], DIFFERS),
        ([added(0, call("f", "", "custom_tool_call")), done(0, call("f"))], ["f {}"], DIFFERS),
        ([added(0, call("f", "")), arguments("delta", delta="[]"), done(0, call("f"))], ["f {}"], DIFFERS),
        ([added(0, call("f", "")), arguments("done", arguments="[]"), done(0, call("f"))], ["f {}"], DIFFERS),
        ([added(0, call("f", "")), arguments("done", arguments="{}", name="g"), done(0, call("f"))], ["f {}"], DIFFERS),
        (
            [added(0, call("f", "")), arguments("delta", delta="[]"), arguments("done", arguments="{}"), done(0, call("f"))],
            ["f {}"],
            DIFFERS,
        ),
        ([added(0, call("g", "")), added(0, call("f", ""))], ["f "], "an output item begins twice"),
        ([arguments("done", arguments="{}", name="g")], [], "arguments of no call"),
        ([added(0, call("f")), arguments("delta", 1, delta="{}")], ["f {}"], "arguments of no call"),
        # what honest nodes send
        (
            [
                added(0, call("f", "")), added(1, call("f", "")),
                arguments("delta", delta='{"a"'), arguments("delta", 1, delta="{}"), arguments("delta", delta=":1}"),
                arguments("done", arguments='{"a":1}', name="f"), arguments("done", 1, arguments="{}"),
                done(0, call("f", '{"a":1}')), done(1, call("f")), completed(call("f", '{"a":1}'), call("f")),
            ],
            ['f {"a":1}', "f {}"],
            None,
        ),
    ],
)  # fmt: skip
def test_every_call_of_a_response_is_seen(
    mode: str, events: list[bytes], calls: list[str], problem: str | None
) -> None:
    """A call counts wherever it is said, waits for the verdict, and has to be the same wherever it is said again."""
    r = reader(RESPONSES)
    opening = OPENINGS[RESPONSES][0]
    before, after = passed(r, mode, opening + b"".join(events))
    assert before == (b"" if mode == "buffer" else opening)
    assert before + after == opening + b"".join(events)
    seen = r.observation()
    assert [f"{c.name} {c.arguments}" for c in seen.calls] == calls
    assert seen.stream_grammar == problem


def test_a_response_of_very_many_calls_is_read_in_time_that_grows_with_it() -> None:
    """In another order than they were streamed, so that each is far from its like."""
    items = [call(f"f{at}") for at in range(10_000)]
    r = reader(RESPONSES, max_event=1 << 20)
    r.feed(OPENINGS[RESPONSES][0] + b"".join(done(at, item) for at, item in enumerate(items)))
    start = time.process_time()
    r.feed(completed(*reversed(items)))
    assert time.process_time() - start < 2  # seconds; when each was looked for among the others: 8
    assert (len(r.observation().calls), r.observation().stream_grammar) == (len(items), None)


def said(*texts: str) -> dict[str, object]:
    return {"type": "message", "content": [{"type": "output_text", "text": text} for text in texts]}


THOUGHT = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]}


@pytest.mark.parametrize("name", ["id", "call_id"])
def test_items_without_a_number_are_told_apart_by_their_ids(name: str) -> None:
    """So llama.cpp sends them: calls begin one after the other, and are done only at the end of the stream."""
    first, second = {**call("f"), name: "fc_1"}, {**call("g"), name: "fc_2"}
    begun = [named("response.output_item.added", item={**item, "arguments": ""}) for item in (first, second)]
    said = [named("response.function_call_arguments.delta", item_id=f"fc_{n}", delta="{}") for n in (1, 2)]
    ended = [named("response.output_item.done", item=item) for item in (first, second)]
    for events, problem in (
        ([begun[0], said[0], begun[1], said[1], *ended], None),
        ([*begun, *said, *ended], None),
        ([begun[0], begun[0], *ended], "an output item begins twice"),
        ([begun[0], said[1], *ended], "arguments of no call"),
        ([begun[0], said[0], said[0], *ended], DIFFERS),
    ):
        r = reader(RESPONSES)
        r.feed(OPENINGS[RESPONSES][0] + b"".join(events) + completed(first, second))
        assert [f"{c.name} {c.arguments}" for c in r.observation().calls] == ["f {}", "g {}"]
        assert r.observation().stream_grammar == problem


@pytest.mark.parametrize(
    ("deltas", "output", "text", "problem"),
    [
        (["a", "b"], [THOUGHT, said("a"), said("b")], "ab", None),
        (["a", "b"], [], "ab", None),
        ([], [said("ab")], "ab", None),
        (["a", "b"], [said("a")], "a", "the response has another text than was streamed"),
    ],
)
def test_the_text_of_a_response_is_that_at_its_end(
    deltas: list[str], output: list[object], text: str, problem: str | None
) -> None:
    """Agents take the text of the response at the end for the answer: it is what was streamed, where any was."""
    r = reader(RESPONSES)
    r.feed(named("response.created", response={"id": "r"}))
    for delta in deltas:
        r.feed(named("response.output_text.delta", delta=delta))
    r.feed(named("response.completed", response={"id": "r", "output": output}))
    assert (r.content().text, r.observation().stream_grammar) == (text, problem)


def test_the_text_of_a_message_is_that_of_its_blocks() -> None:
    """Also of what a message or a block begins with: SDKs put deltas behind it."""
    r = reader(MESSAGES)
    r.feed(message({"type": "text", "text": "a"}) + began(1, {"type": "text", "text": "b"}))
    r.feed(named("content_block_delta", index=1, delta={"type": "text_delta", "text": "c"}))
    assert r.content().text == "abc"


def test_a_custom_call_s_input_is_put_together() -> None:
    """Its deltas are of its input, and their sum is said under that name."""
    r = reader(RESPONSES)
    item = {"type": "custom_tool_call", "name": "g"}
    r.feed(OPENINGS[RESPONSES][0] + added(0, {**item, "input": ""}))
    r.feed(named("response.custom_tool_call_input.delta", output_index=0, delta="ls"))
    r.feed(named("response.custom_tool_call_input.done", output_index=0, input="ls"))
    r.feed(done(0, {**item, "input": "ls"}))
    assert (r.content().toolcalls, r.observation().stream_grammar) == (b"g\0ls\n", None)


def tool(name: str, given: object = None) -> dict[str, object]:
    return {"type": "tool_use", "id": "t", "name": name, "input": {} if given is None else given}


def began(at: int, block: dict[str, object]) -> bytes:
    return named("content_block_start", index=at, content_block=block)


def partial(at: int, text: str) -> bytes:
    return named("content_block_delta", index=at, delta={"type": "input_json_delta", "partial_json": text})


def message(*content: dict[str, object]) -> bytes:
    return named("message_start", message={"id": "m1", "model": "m", "content": content})


SAID = {"type": "text", "text": ""}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("events", "first", "calls", "problem"),
    [
        ([message(tool("g", {"a": 1}))], 0, ['g {"a":1}'], None),
        ([message(SAID, tool("g")), partial(1, '{"a":1}')], 0, ['g {"a":1}'], None),
        ([message(tool("g")), began(1, tool("f"))], 0, ["g {}", "f {}"], None),
        ([message(), began(0, tool("g", {"a": 1}))], 1, ['g {"a":1}'], None),
        ([message(), began(0, tool("g", {"a": 1})), partial(0, ""), partial(0, '{"b":2}')], 1, ['g {"b":2}'], None),
        ([message(), began(0, SAID), began(1, tool("f"))], 2, ["f {}"], None),
        (
            [message(), began(0, tool("g")), began(0, tool("f"))],
            1,
            ["g {}", "f {}"],
            "content block 0 where 1 is the next",
        ),
        ([message(), began(0, SAID), began(0, tool("f"))], 2, ["f {}"], "content block 0 where 1 is the next"),
        ([message(), began(1, tool("f"))], 1, ["f {}"], "content block 1 where 0 is the next"),
        ([message(tool("g")), began(0, tool("f"))], 0, ["g {}", "f {}"], "content block 0 where 1 is the next"),
    ],
)
def test_every_call_of_a_message_is_seen(
    mode: str, events: list[bytes], first: int, calls: list[str], problem: str | None
) -> None:
    """A call counts wherever a block can stand; from the first on all waits; blocks are numbered as SDKs list them."""
    r = reader(MESSAGES)
    before, after = passed(r, mode, b"".join(events))
    assert before == (b"" if mode == "buffer" else b"".join(events[:first]))
    assert before + after == b"".join(events)
    seen = r.observation()
    assert [f"{c.name} {c.arguments}" for c in seen.calls] == calls
    assert seen.stream_grammar == problem


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("delta", [{}, {"content": "x"}, None])
def test_a_whole_message_in_a_stream_waits(mode: str, delta: dict[str, str] | None) -> None:
    """Some agents would run the call in it: it and what follows wait for the verdict, which is against it."""
    whole = {"tool_calls": [{"index": 0, "function": {"name": "g", "arguments": "{}"}}]}
    bad = event({"id": "c", "choices": [{"index": 0, "delta": delta, "message": whole}]})
    r, left = around(CHAT, mode, bad)
    assert left == bad
    assert r.observation().stream_grammar == "a whole message in a stream"
