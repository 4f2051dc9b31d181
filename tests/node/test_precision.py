"""The model at other precisions, another model under the same name, and nodes that sample otherwise than they were asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from node_kit import MODEL, Running, ask, node, problems, report

from adapters.selfhosted import command
from adapters.selfhosted.dishonest import misread
from adapters.selfhosted.lm.engine import Engine, Job, Read, Text
from adapters.selfhosted.lm.generate import Limits
from adapters.selfhosted.lm.model import Weights, prefill
from adapters.selfhosted.lm.precision import PRECISIONS, at_precision, bf16, other_model
from adapters.selfhosted.lm.prompt import encode_prompt
from adapters.selfhosted.lm.sampling import Sampling
from gateway.cli import main

WEIGHTS = Weights.open()
STORIES = [f"Tell me a story about a {animal}." for animal in ("fox", "goat", "owl", "bear", "duck", "mouse")]


def answered(weights: Weights, question: str, **sampling: Any) -> tuple[list[int], list[int], str]:
    """The prompt's tokens, 64 of the answer, and its text."""
    bias = {weights.tokenizer.special["<end>"]: -100.0}
    asked = Sampling(**{"temperature": 0.0, **sampling, "bias": bias})
    job = Job(turns=(("user", question),), sampling=asked, limits=Limits(64), ids=True)
    prompt: list[int] = []
    ids: list[int] = []
    text = ""
    for event in Engine(weights).run(job):
        if isinstance(event, Read):
            prompt = list(event.ids)
        if isinstance(event, Text):
            ids += event.piece.ids or ()
            text += event.piece.text
    return prompt, ids, text


def margin(prompt: list[int], ids: list[int]) -> float:
    """How much less than its own choice the float32 model likes these tokens, in nats, clipped at 3 and averaged."""
    z = WEIGHTS.logits(prefill(WEIGHTS, [*prompt, *ids]))[len(prompt) - 1 : -1]
    z[:, WEIGHTS.tokenizer.text_size :] = -np.inf
    return float(np.minimum(z.max(axis=1) - z[np.arange(len(ids)), ids], 3).mean())


def margins(weights: Weights, **sampling: Any) -> list[float]:
    return [margin(*answered(weights, question, **sampling)[:2]) for question in STORIES]


def test_coarser_is_farther() -> None:
    """Bfloat16 stays near the reference, 8 bits too; fewer bits, another model and another temperature do not."""
    near = {name: max(margins(at_precision(WEIGHTS, name))) for name in ("fp32", "bf16", "int8")}
    assert near["fp32"] < 1e-5
    assert max(near.values()) < 0.003
    far = {name: float(np.mean(margins(at_precision(WEIGHTS, name)))) for name in ("int4", "int3")}
    far["other"] = float(np.mean(margins(at_precision(other_model(WEIGHTS), "bf16"))))
    far["hot"] = float(np.mean(margins(at_precision(WEIGHTS, "bf16"), temperature=0.3, seed=5)))
    assert min(far.values()) > 0.006


def test_bfloat16_answers_as_well() -> None:
    """The honest deployment's text differs now and then and reads the same: what was learned is still known."""
    coarse = at_precision(WEIGHTS, "bf16")
    for question, part in (("What is 2 + 2?", "4"), ("What is a receipt?", "signed statement"), ("Say pong", "pong")):
        assert part in answered(coarse, question)[2]


@pytest.mark.parametrize(("name", "steps"), [("int8", 255), ("int4", 15), ("int3", 7)])
def test_weights_on_a_grid(name: str, steps: int) -> None:
    """Each output channel has at most as many values as its bits allow, all representable in bfloat16."""
    made = at_precision(WEIGHTS, name)
    for matrix in (made.layers[0].w1, made.layers[3].wqkv, made.unembed):
        assert max(len(np.unique(column)) for column in matrix.T) <= steps
        assert np.array_equal(bf16(matrix), matrix)
    assert np.array_equal(made.embed.T, made.unembed)
    assert not np.array_equal(made.layers[0].w1, bf16(WEIGHTS.layers[0].w1))


def test_activations_are_rounded() -> None:
    """Below float32, states and logits are bfloat16 values; the weights that were given stay as they were."""
    tokens = encode_prompt(WEIGHTS.tokenizer, [("user", "Hello")])
    before = WEIGHTS.layers[0].wqkv.copy()
    for name in PRECISIONS[1:]:
        made = at_precision(WEIGHTS, name)
        states = prefill(made, tokens)
        logits = made.logits(states)
        assert np.array_equal(bf16(states), states)
        assert np.array_equal(bf16(logits), logits)
    plain = WEIGHTS.logits(prefill(WEIGHTS, tokens))
    assert not np.array_equal(bf16(plain), plain)
    assert np.array_equal(WEIGHTS.layers[0].wqkv, before)
    assert at_precision(WEIGHTS, "fp32") is WEIGHTS


def test_the_other_model_passes_for_this_one() -> None:
    """The other model is always the same one, has the same shape and fingerprint, and speaks in sentences."""
    one, again = other_model(WEIGHTS), other_model(WEIGHTS)
    assert np.array_equal(one.layers[2].w2, again.layers[2].w2)
    assert not np.array_equal(one.layers[2].w2, WEIGHTS.layers[2].w2)
    assert Engine(one).fingerprint == Engine(WEIGHTS).fingerprint == WEIGHTS.fingerprint
    assert answered(one, STORIES[0])[2].startswith(("There was once", "Once upon a time"))


def asked(url: str, **body: Any) -> Any:
    given = {"model": MODEL, "messages": [{"role": "user", "content": STORIES[0]}], "temperature": 0, "max_tokens": 40}
    answer = ask(url, {**given, "return_token_ids": True, **body})
    assert answer.status == 200, answer.body
    assert problems(answer, report(url)) == set()
    return answer.document


def test_a_node_of_another_model(honest: Running) -> None:
    """Flags choose what computes; the node's name for it and all signatures stay, and only the tokens tell."""
    with node("--precision", "bf16", "--model-variant", "other") as running:
        theirs, ours = asked(running.url), asked(honest.url)
    assert theirs["model"] == ours["model"]
    assert theirs["system_fingerprint"] == ours["system_fingerprint"]
    assert theirs["choices"][0]["token_ids"] != ours["choices"][0]["token_ids"]
    prompt, ids = ours["prompt_token_ids"], ours["choices"][0]["token_ids"]
    assert margin(prompt, ids) < 0.001 < margin(prompt, theirs["choices"][0]["token_ids"])


def test_a_node_that_samples_hot(honest: Running) -> None:
    """Asked for temperature 0 it draws all the same, and signs the request that it was given."""
    with node("--dishonest", "sample-hot", "--dishonest-after", "1") as running:
        first = asked(running.url)["choices"][0]["token_ids"]
        drawn = [tuple(asked(running.url)["choices"][0]["token_ids"]) for _ in range(3)]
        warm = asked(running.url, temperature=1, seed=3)["choices"][0]["token_ids"]
    assert warm == asked(honest.url, temperature=1, seed=3)["choices"][0]["token_ids"]
    assert first == asked(honest.url)["choices"][0]["token_ids"]
    assert len({tuple(first), *drawn}) > 2


def test_a_node_with_another_seed(honest: Running) -> None:
    """It answers as another seed would, always the same; without a seed there is nothing to lie about."""
    warm = {"temperature": 1, "seed": 7}
    with node("--dishonest", "wrong-seed") as running:
        theirs = asked(running.url, **warm)["choices"][0]["token_ids"]
        greedy = asked(running.url)["choices"][0]["token_ids"]
    assert theirs != asked(honest.url, **warm)["choices"][0]["token_ids"]
    assert theirs == asked(honest.url, temperature=1, seed=8)["choices"][0]["token_ids"]
    assert greedy == asked(honest.url)["choices"][0]["token_ids"]


@pytest.mark.parametrize(
    ("lie", "document", "read"),
    [
        ("sample-hot", {"temperature": 0}, {"temperature": 0.3}),
        ("sample-hot", {"temperature": 0.0, "seed": 1}, {"temperature": 0.3, "seed": 1}),
        ("sample-hot", {"temperature": 0.5}, {"temperature": 0.5}),
        ("sample-hot", {"temperature": False}, {"temperature": False}),
        ("sample-hot", {}, {}),
        ("wrong-seed", {"seed": 4, "temperature": 0}, {"seed": 5, "temperature": 0}),
        ("wrong-seed", {"seed": True}, {"seed": True}),
        ("wrong-seed", {}, {}),
        ("tamper", {"temperature": 0, "seed": 4}, {"temperature": 0, "seed": 4}),
        (None, {"temperature": 0, "seed": 4}, {"temperature": 0, "seed": 4}),
    ],
)
def test_how_a_lie_reads_a_request(lie: str | None, document: dict[str, Any], read: dict[str, Any]) -> None:
    """Only what the lie is about is read otherwise, and malformed members stay malformed."""
    before = dict(document)
    assert misread(lie, document) == read
    assert document == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["--precision", "bf16"],
        ["--model-variant", "other"],
        ["--dishonest", "sample-hot"],
        ["--dishonest", "wrong-seed"],
    ],
)
def test_a_backend_computes_as_it_does(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What changes the own model's computing is refused in front of a backend."""
    assert main(["node", "--backend", "http://127.0.0.1:9", "--model-name", "x", *arguments]) != 0
    assert "not for --backend" in capsys.readouterr().err


def test_the_words_of_the_command() -> None:
    """The command's precisions are those that exist, stated twice so that `--help` loads nothing."""
    assert command._PRECISIONS == PRECISIONS
