"""TOPLOC on the node: the encoder, the proofs that go with an answer, and the service that computes them again."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_kit import HELLO, MODEL, Running, ask, problems, report

from adapters.selfhosted.lm import toploc
from adapters.selfhosted.lm.engine import Engine
from adapters.selfhosted.lm.model import CONTEXT
from adapters.selfhosted.lm.precision import bf16_bits
from adapters.selfhosted.lm.toploc import BATCH, TOP_K, Batch, P, batches, largest, prove

ACTIVATIONS = "/v1/toploc/activations"
STORY = [{"role": "user", "content": "Tell me a story about a fox."}]


def stated(proof: bytes, indices: list[int] | tuple[int, ...]) -> list[int]:
    """The bits that a proof states for these places, by its definition: plain powers, one place after the other."""
    modulus, *coefficients = (int.from_bytes(proof[i : i + 2], "big") for i in range(0, len(proof), 2))
    return [sum(c * pow(i % modulus, k, P) for k, c in enumerate(coefficients)) % P for i in indices]


def distance(proof: bytes, trusted: dict[str, Any]) -> int:
    """How many of the trusted values a proof has with another sign or exponent."""
    pairs = zip(stated(proof, trusted["indices"]), trusted["bf16_bits"], strict=True)
    return sum(one >> 7 != other >> 7 for one, other in pairs)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.integers(0, CONTEXT * 128 - 1), st.integers(0, P - 1), min_size=1, max_size=TOP_K),
)
def test_a_proof_states_what_it_was_made_from(points: dict[int, int]) -> None:
    """Whatever the places and values, the polynomial goes through them and the modulus is the largest that fits."""
    proof = prove(Batch(tuple(points), tuple(points.values())))
    assert len(proof) == 2 + 2 * len(points)
    assert stated(proof, list(points)) == list(points.values())
    modulus = int.from_bytes(proof[:2], "big")
    assert all(len({i % m for i in points}) < len(points) for m in range(modulus + 1, P + 1))
    assert all(int.from_bytes(proof[i : i + 2], "big") < P for i in range(2, len(proof), 2))


def test_places_that_meet_need_another_modulus() -> None:
    """Where the largest modulus would put two places together, a smaller one is taken."""
    proof = prove(Batch((5, 5 + P), (7, 9)))
    assert int.from_bytes(proof[:2], "big") == P - 1
    assert stated(proof, [5, 5 + P]) == [7, 9]


def test_no_modulus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a modulus that fits there is the null proof, which no verifier takes."""
    monkeypatch.setattr(toploc, "P", 3)
    assert prove(Batch((0, 1, 2, 3), (1, 1, 1, 1))) == bytes(10)


def test_the_largest_values() -> None:
    """The largest by magnitude count, of either sign, largest first; of equals, the first; in bfloat16's bits."""
    states = np.zeros((2, 128), np.float32)
    states[1, 3], states[0, 7], states[0, 9], states[1, 9] = -4.0, 2.0, -2.0, 1.00390625
    batch = largest(states)
    assert batch.indices[:4] == (131, 7, 9, 137)
    assert batch.bits[:4] == (0xC080, 0x4000, 0xC000, 0x3F80)
    assert (len(batch.indices), len(set(batch.indices)), batch.bits[4:]) == (TOP_K, TOP_K, (0,) * 124)


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (1.0, 0x3F80),
        (-1.0, 0xBF80),
        (0.0, 0),
        (1.00390625, 0x3F80),
        (1.01171875, 0x3F82),
        (3.3961775292304957e38, 0x7F80),
    ],
)
def test_rounding_to_bfloat16(value: float, bits: int) -> None:
    """Rounding goes to the nearest value and from the middle to the even one."""
    assert int(bf16_bits(np.array([value], np.float32))[0]) == bits


@pytest.mark.parametrize("tokens", [0, 1, 31, 32, 33, 64, 65])
def test_how_many_batches(tokens: int) -> None:
    """There is one batch for the prompt and one for every 32 tokens begun."""
    made = batches(np.ones((3, 128), np.float32), np.ones((tokens, 128), np.float32))
    assert len(made) == 1 + -(-tokens // BATCH)


def told(url: str, **body: Any) -> tuple[list[int], list[int], dict[str, Any]]:
    """An answer with proofs in chat: its prompt's ids, its own, and the member `toploc`."""
    asked = {"model": MODEL, "messages": STORY, "temperature": 0, "return_token_ids": True, "toploc": True, **body}
    answer = ask(url, asked)
    assert answer.status == 200, answer.body
    assert problems(answer, report(url)) == set()
    document = answer.document
    return document["prompt_token_ids"], document["choices"][0]["token_ids"], document["toploc"]


def recomputed(url: str, prompt: list[int], ids: list[int]) -> list[dict[str, Any]]:
    answer = ask(url, {"prompt_token_ids": prompt, "token_ids": ids}, ACTIVATIONS)
    assert answer.status == 200, answer.body
    assert problems(answer, report(url), model="") == set()
    assert answer.document["model"] == MODEL
    return list(answer.document["batches"])


@pytest.mark.parametrize("tokens", [1, 31, 32, 33, 64, 70])
def test_an_honest_answer(honest: Running, tokens: int) -> None:
    """Proofs come in the right number and form, and are what the service computes from the tokens alone."""
    prompt, ids, member = told(honest.url, max_tokens=tokens)
    assert (len(ids), member["topk"], member["batch_tokens"], member["prefill"]) == (tokens, 128, 32, True)
    proofs = [base64.b64decode(p, validate=True) for p in member["proofs"]]
    assert [len(p) for p in proofs] == [258] * (1 + -(-tokens // 32))
    found = recomputed(honest.url, prompt, ids)
    assert len(found) == len(proofs)
    for proof, batch in zip(proofs, found, strict=True):
        assert len(batch["indices"]) == len(set(batch["indices"])) == len(batch["bf16_bits"]) == 128
        assert distance(proof, batch) <= 3


def test_other_tokens_have_other_values(honest: Running) -> None:
    """Proofs of one answer do not fit another, nor the same answer to another prompt."""
    prompt, ids, member = told(honest.url, max_tokens=40)
    proofs = [base64.b64decode(p) for p in member["proofs"]]
    other = recomputed(honest.url, prompt, [ids[-1 - i] for i in range(len(ids))])
    assert all(distance(proof, batch) > 40 for proof, batch in zip(proofs[1:], other[1:], strict=True))
    moved = recomputed(honest.url, [*prompt[:-3], 65, *prompt[-2:]], ids)
    assert all(distance(proof, batch) > 5 for proof, batch in zip(proofs[:1], moved[:1], strict=True))


def test_an_answer_that_ends_itself(honest: Running) -> None:
    """The token that ends the turn is proved like the others."""
    prompt, ids, member = told(honest.url, messages=[{"role": "user", "content": "Hello"}], max_tokens=64)
    assert ids[-1] == 1023
    assert distance(base64.b64decode(member["proofs"][1]), recomputed(honest.url, prompt, ids)[1]) <= 3


def test_in_streams_and_completions(honest: Running) -> None:
    """A stream brings the proofs in its last event, after the usage; both are those of the whole answer."""
    for path, body in (
        ("/v1/chat/completions", {"messages": STORY}),
        ("/v1/completions", {"prompt": "A log is"}),
    ):
        asked = {"model": MODEL, "temperature": 0, "max_tokens": 40, "toploc": True, **body}
        whole = ask(honest.url, asked, path).document
        streamed = ask(
            honest.url, {**asked, "stream": True, "stream_options": {"include_usage": True}}, path, chained=True
        )
        assert problems(streamed, report(honest.url)) == set()
        *_, usage, last, done = streamed.events()
        assert done == "[DONE]"
        assert (last["choices"], last["toploc"], last["object"]) == ([], whole["toploc"], usage["object"])
        assert usage["usage"]["completion_tokens"] == 40
        assert not any("toploc" in e for e in streamed.events()[:-2])
        assert "token_ids" not in whole["choices"][0]


def test_a_made_answer_has_none(honest: Running) -> None:
    """An answer that was made to a schema was not computed token by token and says so."""
    asked = {**HELLO, "toploc": True, "response_format": {"type": "json_object"}}
    assert ask(honest.url, asked).document["toploc"]["proofs"] is None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt_token_ids"),
        ({"prompt_token_ids": [65]}, "token_ids"),
        ({"prompt_token_ids": [], "token_ids": [65]}, "prompt_token_ids"),
        ({"prompt_token_ids": [65], "token_ids": []}, "token_ids"),
        ({"prompt_token_ids": [65], "token_ids": [1024]}, "token_ids"),
        ({"prompt_token_ids": [-1], "token_ids": [65]}, "prompt_token_ids"),
        ({"prompt_token_ids": [True], "token_ids": [65]}, "prompt_token_ids"),
        ({"prompt_token_ids": [65.0], "token_ids": [65]}, "prompt_token_ids"),
        ({"prompt_token_ids": "65", "token_ids": [65]}, "prompt_token_ids"),
        ({"prompt_token_ids": [65] * (CONTEXT + 1), "token_ids": [65]}, "prompt_token_ids"),
        ({"prompt_token_ids": [65] * CONTEXT, "token_ids": [65]}, "token_ids"),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else value,
)
def test_malformed_requests_to_the_service(honest: Running, body: dict[str, Any], param: str) -> None:
    """What is no list of this model's tokens, or does not fit its context, is a signed 400 that names the member."""
    answer = ask(honest.url, body, ACTIVATIONS)
    assert (answer.status, answer.document["error"]["param"]) == (400, param)
    assert problems(answer, report(honest.url), model="") == set()


def test_refusals(honest: Running) -> None:
    """Proofs are for one choice and asked for by true; another model's values are not to be had."""
    for body in ({"toploc": True, "n": 2}, {"toploc": "yes"}):
        answer = ask(honest.url, {**HELLO, **body})
        assert (answer.status, answer.document["error"]["param"]) == (400, "toploc")
    answer = ask(honest.url, {"model": "other", "prompt_token_ids": [65], "token_ids": [65]}, ACTIVATIONS)
    assert (answer.status, answer.document["error"]["code"]) == (404, "model_not_found")


def test_a_full_context_is_recomputed(engine: Engine) -> None:
    """As many tokens as the context holds are read, the last batch cut where the answer ends."""
    found = engine.activations([65] * (CONTEXT - 33), [66] * 33)
    assert len(found) == 3
    assert max(found[2].indices) < 128
