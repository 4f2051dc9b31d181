"""Scoring tokens that are given: vLLM's `prompt_logprobs`, `echo`, token ids and the ends of a conversation."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_kit import HELLO, MODEL, Running, ask, problems, report

from adapters.selfhosted.api import activations, chat, completions
from adapters.selfhosted.lm.engine import Engine
from adapters.selfhosted.lm.model import BLOCK, CONTEXT, State, Weights, prefill
from adapters.selfhosted.lm.prompt import encode_open, encode_prompt, encode_turns
from adapters.selfhosted.lm.sampling import log_softmax, noise
from adapters.selfhosted.lm.score import score
from gateway.errors import BadRequest

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ENGINE = Engine(Weights.open())
MESSAGES = [{"role": "user", "content": "What is a receipt?"}]


def post(url: str, path: str = COMPLETIONS, **body: Any) -> Any:
    answer = ask(url, {"model": MODEL, "temperature": 0, **body}, path)
    assert answer.status == 200, answer.body
    assert problems(answer, report(url)) == set()
    return answer.document


def written(url: str, **body: Any) -> tuple[list[int], list[int], Any]:
    """An answer in chat, as its prompt's ids, its own ids, and the whole document."""
    document = post(url, CHAT, **{"messages": MESSAGES, "return_token_ids": True, **body})
    return document["prompt_token_ids"], document["choices"][0]["token_ids"], document


def test_what_was_written_is_scored(honest: Running) -> None:
    """A greedy answer's own tokens, scored, are each the likeliest, with the log probability that the answer told."""
    prompt, ids, document = written(honest.url, logprobs=True, top_logprobs=2, max_tokens=64)
    told = document["choices"][0]["logprobs"]["content"]
    assert document["choices"][0]["finish_reason"] == "stop"
    assert len(ids) == len(told) == document["usage"]["completion_tokens"]
    assert (told[-1]["token"], bytes(told[-1]["bytes"])) == ("<end>", b"<end>")
    assert "".join(t["token"] for t in told[:-1]) == document["choices"][0]["message"]["content"]
    choice = post(honest.url, prompt=[*prompt, *ids], prompt_logprobs=3, max_tokens=1)["choices"][0]
    places = choice["prompt_logprobs"]
    assert len(places) == len(prompt) + len(ids)
    assert places[0] is None
    for place, token, said in zip(places[len(prompt) :], ids, told, strict=True):
        own = place[str(token)]
        assert own["rank"] == 1
        assert own["decoded_token"] == said["token"]
        assert own["logprob"] == pytest.approx(said["logprob"], abs=1e-4)


def test_a_token_nobody_expects(honest: Running, engine: Engine) -> None:
    """A given token stands beside the likeliest with its own rank and log probability; ranks follow the order."""
    prompt, ids, _ = written(honest.url, max_tokens=8)
    odd = next(t for t in range(256) if t != ids[0])
    place = post(honest.url, prompt=[*prompt, odd], prompt_logprobs=2, max_tokens=0)["choices"][0]["prompt_logprobs"][
        -1
    ]
    row = log_softmax(State(engine.weights).extend(prompt))
    assert set(place) == {str(odd), *(str(t) for t in np.argsort(-row)[:2])}
    assert place[str(ids[0])]["rank"] == 1
    assert place[str(odd)]["rank"] == 1 + int((row > row[odd]).sum())
    for token, entry in place.items():
        assert entry["logprob"] == pytest.approx(float(row[int(token)]), abs=1e-4)


@pytest.mark.parametrize("count", [0, 1, 20])
def test_how_many_are_told(honest: Running, count: int) -> None:
    """`prompt_logprobs: k` tells k tokens at each place, and the given one where it is not among them."""
    document = post(honest.url, CHAT, messages=MESSAGES, prompt_logprobs=count, max_tokens=1)
    assert "prompt_token_ids" not in document
    assert "token_ids" not in document["choices"][0]
    for place in document["prompt_logprobs"][1:]:
        assert len(place) in (max(count, 1), count + 1)
        ranks = sorted(entry["rank"] for entry in place.values())
        assert ranks[:count] == list(range(1, count + 1))
        assert all(entry["logprob"] <= 0 and math.isfinite(entry["logprob"]) for entry in place.values())


def test_scores_depend_on_nothing_else(engine: Engine) -> None:
    """The scores of a prefix are bit for bit those within any longer text, at every length around a block."""
    tokens = engine.weights.tokenizer.encode("A transparency log keeps what happened, in order. " * 20)
    whole = score(engine.weights, tokens, 2)
    for length in (1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5):
        assert score(engine.weights, tokens[:length], 2) == whole[:length]


def test_scores_depend_on_nobody_else(honest: Running) -> None:
    """Requests at the same time, in any order, are answered with the same figures each."""
    texts = ["A log is", "Tell me a story about a fox. " * 9, "x", "What is a nonce? " * 30]

    def places(text: str) -> Any:
        return post(honest.url, prompt=text, prompt_logprobs=1, max_tokens=2)["choices"][0]["prompt_logprobs"]

    alone = [places(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        for order in ((0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)):
            assert list(pool.map(places, [texts[i] for i in order])) == [alone[i] for i in order]


def test_a_full_context(engine: Engine) -> None:
    """As many tokens as the context holds can be scored, in the shape that a short prompt has."""
    places = score(engine.weights, [65] * CONTEXT, 1)
    assert len(places) == CONTEXT
    assert places[:10] == score(engine.weights, [65] * 10, 1)
    assert prefill(engine.weights, [65]).shape == (1, engine.weights.width)


def test_numbers_are_taken_as_they_are(honest: Running, engine: Engine) -> None:
    """A prompt of token numbers is all that the model sees; a text gets its opening, and both can give the same."""
    special, tokens = engine.weights.tokenizer.special, engine.weights.tokenizer.encode("A log is")
    opened = [special["<start>"], special["<text>"], *tokens]
    by_text = post(honest.url, prompt="A log is", max_tokens=9, return_token_ids=True)["choices"][0]
    by_number = post(honest.url, prompt=opened, max_tokens=9, return_token_ids=True)["choices"][0]
    nested = post(honest.url, prompt=[opened], max_tokens=9, return_token_ids=True)["choices"][0]
    assert by_text == by_number == nested
    assert by_text["prompt_token_ids"] == opened
    assert len(by_text["token_ids"]) == 9
    bare = post(honest.url, prompt=tokens, max_tokens=1, return_token_ids=True)["choices"][0]
    assert bare["prompt_token_ids"] == tokens


def test_echo_tells_the_prompt(honest: Running, engine: Engine) -> None:
    """`echo` puts the prompt's text first, and with `logprobs` its tokens, the first of them without a value."""
    body = {"prompt": "A log é", "echo": True, "logprobs": 2, "max_tokens": 5}
    choice = post(honest.url, **body)["choices"][0]
    told = choice["logprobs"]
    opening = ["<start>", "<text>"]
    assert told["tokens"][:2] == opening
    assert (told["token_logprobs"][0], told["top_logprobs"][0]) == (None, None)
    assert told["text_offset"][:3] == [0, 0, 0]
    assert len({len(part) for part in told.values()}) == 1
    prompt = len(engine.weights.tokenizer.encode("A log é")) + 2
    assert len(told["tokens"]) == prompt + 5
    last = next(i for i in range(len(told["tokens"])) if i >= prompt)
    assert choice["text"][told["text_offset"][last] :].startswith(told["tokens"][last])
    assert all(len(top) <= 2 for top in told["top_logprobs"][1:])
    assert "prompt_logprobs" not in choice
    events = ask(honest.url, {"model": MODEL, "temperature": 0, **body, "stream": True}, COMPLETIONS).events()[:-1]
    assert "".join(e["choices"][0]["text"] for e in events) == choice["text"]
    parts = [e["choices"][0]["logprobs"] for e in events if e["choices"][0]["logprobs"]]
    for name, whole in told.items():
        assert list(itertools.chain.from_iterable(part[name] for part in parts)) == whole


def test_echo_alone(honest: Running) -> None:
    """With `echo` and no token to make, the answer is the prompt, and a larger count for one does not widen the other."""
    choice = post(honest.url, prompt="A log", echo=True, max_tokens=0, logprobs=1, prompt_logprobs=4)["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("A log", "length")
    assert {len(top) for top in choice["logprobs"]["top_logprobs"][1:]} == {1}
    assert {len(place) for place in choice["prompt_logprobs"][1:]} <= {4, 5}
    assert (
        post(honest.url, prompt="A log", echo=True, max_tokens=0, return_token_ids=True)["choices"][0]["token_ids"]
        == []
    )
    assert post(honest.url, prompt="", echo=True, max_tokens=2)["choices"][0]["text"] != ""


@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, {"messages": MESSAGES}), (COMPLETIONS, {"prompt": "A log is"})], ids=["chat", "text"]
)
def test_ids_in_streams(honest: Running, path: str, body: dict[str, Any]) -> None:
    """A stream tells the prompt's ids once in front and the answer's as they come: those of the whole answer."""
    asked = {"model": MODEL, "temperature": 0, "max_tokens": 60, "return_token_ids": True, **body}
    whole = ask(honest.url, asked, path).document
    events = ask(honest.url, {**asked, "stream": True}, path).events()[:-1]
    said = [i for e in events for i in e["choices"][0].get("token_ids") or ()]
    assert said == whole["choices"][0]["token_ids"]
    first = events[0] if path == CHAT else events[0]["choices"][0]
    told = whole if path == CHAT else whole["choices"][0]
    assert first["prompt_token_ids"] == told["prompt_token_ids"]
    assert sum("prompt_token_ids" in json.dumps(e) for e in events) == 1


def test_ids_of_stopped_and_made_answers(honest: Running) -> None:
    """Ids go up to the token that completed a stop string; an answer that was made to a schema has none."""
    _, ids, document = written(honest.url, stop=["signed"], max_tokens=60)
    assert "signed" not in document["choices"][0]["message"]["content"]
    assert len(ids) == document["usage"]["completion_tokens"]
    _, none, document = written(honest.url, response_format={"type": "json_object"})
    assert none is None
    assert document["choices"][0]["message"]["content"].startswith("{")


def test_how_a_conversation_ends(honest: Running, engine: Engine) -> None:
    """`add_generation_prompt` and `continue_final_message` leave the last turn ended, opened for an answer, or open."""
    turns = [("user", "Say hello world"), ("assistant", "hello")]
    messages = [{"role": role, "content": text} for role, text in turns]
    t = engine.weights.tokenizer
    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({}, encode_prompt(t, turns)),
        ({"add_generation_prompt": True, "continue_final_message": False}, encode_prompt(t, turns)),
        ({"add_generation_prompt": False}, encode_turns(t, turns)),
        ({"continue_final_message": True}, encode_open(t, turns)),
        ({"continue_final_message": True, "add_generation_prompt": False}, encode_open(t, turns)),
    ]
    for body, expected in cases:
        prompt, _, document = written(honest.url, messages=messages, max_tokens=4, **body)
        assert prompt == expected
        assert document["usage"]["prompt_tokens"] == len(expected)
    _, _, document = written(honest.url, messages=messages, max_tokens=4, continue_final_message=True, echo=True)
    assert document["choices"][0]["message"]["content"].startswith("hello world")
    _, _, plain = written(honest.url, echo=True, max_tokens=4)
    assert (
        plain["choices"][0]["message"]["content"]
        == written(honest.url, max_tokens=4)[2]["choices"][0]["message"]["content"]
    )


BAD_CHAT = [
    ({"prompt_logprobs": -1}, "prompt_logprobs"),
    ({"prompt_logprobs": 21}, "prompt_logprobs"),
    ({"prompt_logprobs": True}, "prompt_logprobs"),
    ({"prompt_logprobs": 1.0}, "prompt_logprobs"),
    ({"prompt_logprobs": "5"}, "prompt_logprobs"),
    ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ({"prompt_logprobs": 1, "n": 2}, "prompt_logprobs"),
    ({"return_token_ids": 1}, "return_token_ids"),
    ({"echo": "yes"}, "echo"),
    ({"add_generation_prompt": 1}, "add_generation_prompt"),
    ({"continue_final_message": "no"}, "continue_final_message"),
    ({"continue_final_message": True}, "continue_final_message"),
    ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
    ({"messages": [{"role": "assistant", "content": ""}], "continue_final_message": True}, "continue_final_message"),
    (
        {
            "messages": [{"role": "assistant", "content": "a"}],
            "continue_final_message": True,
            "response_format": {"type": "json_object"},
        },
        "continue_final_message",
    ),
    ({"max_tokens": 0}, "max_tokens"),
]
BAD_TEXT = [
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": [[[1]]]}, "prompt"),
    ({"prompt": ["a", "b"]}, "prompt"),
    ({"prompt": [1, "a"]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [1024]}, "prompt"),
    ({"prompt": [1.0]}, "prompt"),
    ({"prompt": [True]}, "prompt"),
    ({"prompt": [None]}, "prompt"),
    ({"prompt": {"ids": [1]}}, "prompt"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 0, "return_token_ids": True}, "max_tokens"),
    ({"max_tokens": -1, "echo": True}, "max_tokens"),
    ({"echo": 1}, "echo"),
    ({"echo": True, "logprobs": 1, "n": 2}, "n"),
    ({"logprobs": 21}, "logprobs"),
    ({"prompt_logprobs": 21}, "prompt_logprobs"),
    ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ({"prompt_logprobs": 1, "n": 2}, "prompt_logprobs"),
]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [(CHAT, body, param) for body, param in BAD_CHAT] + [(COMPLETIONS, body, param) for body, param in BAD_TEXT],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else str(value),
)
def test_malformed_requests(honest: Running, path: str, body: dict[str, Any], param: str) -> None:
    """What cannot be scored is a signed 400 that names the member."""
    given = {"model": MODEL, "messages": MESSAGES} if path == CHAT else {"model": MODEL, "prompt": "A log"}
    answer = ask(honest.url, {**given, **body}, path)
    assert (answer.status, answer.document["error"]["param"]) == (400, param)
    assert problems(answer, report(honest.url)) == set()


@pytest.mark.parametrize("length", [CONTEXT, CONTEXT + 1])
def test_more_than_the_context(honest: Running, length: int) -> None:
    """A list of numbers that leaves no room for an answer is refused by the context's own name."""
    answer = ask(
        honest.url, {"model": MODEL, "prompt": [65] * length, "prompt_logprobs": 0, "max_tokens": 1}, COMPLETIONS
    )
    assert (answer.status, answer.document["error"]["code"]) == (400, "context_length_exceeded")


def test_an_answer_that_filled_the_context(honest: Running) -> None:
    """With no token to make, the context may be full; one more is refused by its length alone."""
    body = {"model": MODEL, "prompt": [65] * CONTEXT, "prompt_logprobs": 0, "max_tokens": 0}
    answer = ask(honest.url, body, COMPLETIONS)
    assert (answer.status, len(answer.document["choices"][0]["prompt_logprobs"])) == (200, CONTEXT)
    assert ask(honest.url, {**body, "prompt": [65] * (CONTEXT + 1)}, COMPLETIONS).status == 400


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 5000) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
MEMBERS = (
    "prompt", "prompt_logprobs", "logprobs", "echo", "return_token_ids", "toploc", "n", "stream", "max_tokens",
    "add_generation_prompt", "continue_final_message", "prompt_token_ids", "token_ids",
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from(MEMBERS), ANY | st.sampled_from([True, 0, 1, [65], [65, 1023], "A"]), max_size=6)
)
def test_any_members(body: dict[str, Any]) -> None:
    """Whatever the members are, a request is understood or refused as a bad one; nothing else comes out."""
    whole = {"prompt": "A", "messages": MESSAGES, **body}
    for prepare in (chat.prepare, completions.prepare):
        with contextlib.suppress(BadRequest):
            job = prepare(whole, ENGINE, MODEL).job
            assert -1 <= job.scored <= 20
            assert job.n == 1 or not job.toploc
    with contextlib.suppress(BadRequest):
        assert b"".join(activations.respond({"prompt_token_ids": [65], "token_ids": [65], **body}, ENGINE, MODEL))


def test_extras_are_asked_for(honest: Running) -> None:
    """Without these members in the request, none of them is in the answer."""
    answer = ask(honest.url, HELLO)
    assert set(answer.document) == {"id", "object", "created", "model", "system_fingerprint", "choices", "usage"}
    assert set(answer.document["choices"][0]) == {"index", "message", "logprobs", "finish_reason"}


def test_the_noise_is_the_documented_one(engine: Engine) -> None:
    """A seeded answer at temperature 1 is the argmax of scores and the noise that the profile defines, at each place."""

    digest = hashlib.shake_256(b"veriroute-lm/1 7 0 3").digest(8 * 1024)
    for token, drawn in enumerate(noise(7, 0, 3, 1024)):
        u = ((int.from_bytes(digest[8 * token : 8 * token + 8], "big") >> 12) + 0.5) / 2**52
        assert drawn == pytest.approx(-math.log(-math.log(u)), rel=1e-12)
    assert np.isfinite(noise(None, 0, 0, 1024)).all()


def test_a_seed_can_be_followed(honest: Running, engine: Engine) -> None:
    """Whoever has scores, noise and seed finds the tokens of a warm answer again; with another seed, not."""
    prompt, ids, _ = written(
        honest.url, messages=[{"role": "user", "content": "Tell me a story."}], temperature=1, seed=11, max_tokens=40
    )
    z = engine.weights.logits(prefill(engine.weights, [*prompt, *ids]))[len(prompt) - 1 : -1].astype(float)
    z[:, engine.weights.tokenizer.text_size : -1] = -np.inf
    for seed, least, most in ((11, 0.97, 1.0), (12, 0.0, 0.95)):
        drawn = np.stack([noise(seed, 0, place, z.shape[1]) for place in range(len(ids))])
        assert least <= float(((z + drawn).argmax(axis=1) == ids).mean()) <= most
