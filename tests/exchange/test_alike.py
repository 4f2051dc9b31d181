"""Events that are like one before: the short way says what the long one does, and is taken for nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.exchange import stream
from gateway.exchange.alike import alike
from gateway.exchange.head import Head
from gateway.exchange.stream import StreamReader, UpstreamError, Wire

WIRE = Wire(receipt_event=b"aci.receipt", chain_comment=b"aci.chain")
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
WORDS = [
    " word",
    "",
    "a",
    'say "so"',
    "back\\slash",
    "line\nend",
    "ünï",
    "\U0001f600",
    "\x7f",
    "1" * 25,
    '"content":"x"',
]


def chunk(text: str, **more: Any) -> dict[str, Any]:
    delta = {"content": text, **more.pop("delta", {})}
    choice = {"index": 0, "delta": delta, "finish_reason": None, **more.pop("choice", {})}
    return {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more}


def read(bodies: list[bytes], endpoint: str, n: int) -> tuple[object, ...]:
    """All that a reader says of a stream of `bodies`."""
    reader = StreamReader(Head(endpoint, "m", True, n, frozenset()), WIRE, b"salt", max_event=1 << 16)
    pieces: list[tuple[str, bytes]] = []
    try:
        for body in bodies:
            pieces += [(piece.kind, piece.out) for piece in reader.feed(b"data: " + body + b"\n\n")]
    except UpstreamError:
        pieces.append(("error", b""))
    told = (reader.observation(), reader.content(), reader.data_sha256, reader.covered_sha256)
    return pieces, reader.dropped_members, reader.rebuilt, *told


word = st.sampled_from(WORDS) | st.text(max_size=4)
event = st.one_of(
    word.map(chunk),
    word.map(chunk),
    word.map(lambda text: chunk(text, id="c2")),
    word.map(lambda text: chunk(text, usage={"prompt_tokens": 3})),
    word.map(lambda text: chunk(text, verification={})),
    word.map(lambda text: chunk(text, choice={"finish_reason": "stop"})),
    word.map(lambda text: chunk(text, choice={"index": 1})),
    word.map(lambda text: chunk(text, choice={"text": text, "delta": {"role": "assistant"}})),
    word.map(lambda text: chunk("a", choice={"text": text, "delta": None, "more": {"content": text}})),
    word.map(lambda text: chunk("b", choice={"text": "b", "delta": None, "more": {"content": text}})),
    word.map(lambda text: chunk(text, delta={"tool_calls": [{"index": 0, "function": {"name": "f"}}]})),
    word.map(lambda text: {"choices": [{"index": 0, "text": text}]}),
    st.lists(word, min_size=2, max_size=2).map(
        lambda texts: {"choices": [{"index": i, "delta": {"content": t}} for i, t in enumerate(texts)]}
    ),
)
body = st.tuples(event, st.booleans(), st.sampled_from([(",", ":"), (", ", ": "), (" ,", " :\t")])).map(
    lambda made: json.dumps(made[0], ensure_ascii=made[1], separators=made[2]).encode()
)
cut = st.tuples(body, st.integers(0, 200), st.sampled_from([b"", b'"', b"}", b"\xff", b"\\", b"\x00"])).map(
    lambda made: made[0][: made[1]] + made[2] + made[0][made[1] + 1 :]
)


@given(st.lists(body | body | cut, max_size=12), st.sampled_from([CHAT, COMPLETIONS]), st.integers(1, 2))
@example([json.dumps(chunk(w), ensure_ascii=False).encode() for w in ("x", "y", "", "z\xff")], CHAT, 1)
@example([b'{"choices":[{"delta":{"content":"a"}}]}', b'{"choices":[{"delta":{"content":"a\xff"}}]}'], CHAT, 1)
@example([b'{"choices":[{"delta":{"content":"a"}}]}', b'{"choices":[{"delta":{"content":"}]}'], CHAT, 1)
@example([json.dumps(chunk("b", choice={"text": "b", "delta": None, "more": {"content": w}})).encode() for w in "bc"], CHAT, 1)  # fmt: skip
def test_a_stream_says_the_same_on_both_ways(bodies: list[bytes], endpoint: str, n: int) -> None:
    """Pieces, facts, problems and digests of a stream do not depend on whether events may be taken for alike."""
    short = read(bodies, endpoint, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "UNLIKE", 0)
        assert read(bodies, endpoint, n) == short


def test_most_events_take_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a chat's events only the first is read as JSON, and those that differ in more than their text."""
    decoded: list[bytes] = []
    strict = stream.strict_json

    def spy(data: bytes, **limits: int) -> object:
        decoded.append(data)
        return strict(data, **limits)

    monkeypatch.setattr(stream, "strict_json", spy)
    bodies = [json.dumps(chunk(w), ensure_ascii=False).encode() for w in [" a", " b", 'c"', " d", " ü", " e"]]
    read(bodies, CHAT, 1)
    assert decoded == [bodies[0], bodies[2], bodies[3]]


def test_streams_without_alike_events_stop_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every event differs in more than its text, no more than a few are looked at."""
    looked: list[bytes] = []
    monkeypatch.setattr(stream, "alike", lambda data, *_: looked.append(data))
    read([json.dumps(chunk("x", created=i)).encode() for i in range(20)], CHAT, 1)
    assert len(looked) == stream.UNLIKE


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[]}',
        b'{"choices":[{"delta":{"content":"a"}},{}]}',
        b'{"choices":[{"delta":{"content":null},"x":"a"}]}',
        b'{"choices":[{"delta":{"content":["a"]}}]}',
        b'{"choices":[{"delta":{"content":"a"},"x":{"content":1}}]}',
        b'{"choices":[{"delta":{"content":"a"},"x":"\\u0041"}]}',
        b'{"choices":[{"delta":{"\\u0063ontent":"a"}}]}',
        b'{"choices":[{"delta":{}}]}',
        b'{"choices":{"delta":1}}',
        b"[]",
    ],
)
def test_what_is_not_plain_has_nothing_in_common(data: bytes) -> None:
    """Several choices, texts that are none, names that stand twice and escapes: such an event is no pattern."""
    assert alike(data, json.loads(data), "delta", "content") is None
