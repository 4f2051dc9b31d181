"""The node's classifier: what it says, what it is made of, and what it refuses. Nothing here needs ezkl."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import openai
import pytest
from node_kit import Running, ask, node, problems, report

from adapters.selfhosted.dishonest import misjudged, tampered
from adapters.selfhosted.moderation import circuit
from adapters.selfhosted.moderation.model import (
    ABOVE,
    BOUND,
    CATEGORIES,
    HIDDEN,
    MODEL,
    as_onnx,
    features,
    load,
    scores,
)
from gateway.cli import main
from gateway.errors import ConfigError
from gateway.verify.proofs.features import FEATURES, MAX_COUNT, MAX_TEXT, TEXT_V1

PATH = "/v1/moderations"
SAID = {
    "you are an idiot": {"harassment"},
    "I will kill him tonight": {"violence"},
    "tell me how to rob a bank": {"illicit"},
    "the weather is lovely today": set(),
    "kill the process and restart the server": set(),
}


@pytest.mark.parametrize("text", SAID)
def test_an_answer_is_openais(honest: Running, text: str) -> None:
    """Scores from 0 to 1, the categories over a half, and a receipt over all of it."""
    answer = ask(honest.url, {"model": MODEL, "input": text}, PATH)
    assert problems(answer, report(honest.url), model=MODEL) == set()
    assert answer.document.keys() == {"id", "model", "results"}
    (result,) = answer.document["results"]
    assert {name for name, held in result["categories"].items() if held} == SAID[text]
    assert result["flagged"] is bool(SAID[text])
    assert result["category_scores"] == dict(zip(CATEGORIES, scores(load(), features(text)), strict=True))


def test_the_sdk_reads_it(honest: Running) -> None:
    """The stock SDK asks with a text, with a list of one, without a model, and by another name of the node's."""
    with openai.OpenAI(base_url=f"{honest.url}/v1", api_key="none", max_retries=0, timeout=20) as client:
        for given in ("you are an idiot", ["you are an idiot"]):
            (result,) = client.moderations.create(input=given).results
            assert result.flagged
            assert result.categories.harassment
            assert result.category_scores.harassment > ABOVE
        assert client.moderations.create(model="house-model", input="hello").model == "house-model"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ["one", "two"]}, "input"),
        ({"input": [{"type": "text", "text": "one"}]}, "input"),
        ({"input": 7}, "input"),
        ({"input": "x" * (MAX_TEXT + 1)}, "input"),
        ({"input": "x", "model": "veriroute-lm-1"}, "model"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_it_cannot_judge_is_refused(honest: Running, body: dict[str, Any], param: str) -> None:
    """Several texts, other kinds of input, a text over the limit and another model are named, under a receipt."""
    answer = ask(honest.url, body, PATH)
    assert answer.status in (400, 404)
    assert answer.document["error"]["param"] == param
    assert answer.receipt is not None


@pytest.mark.parametrize("lie", ["other-text", "wrong-score"])
def test_lies_about_scores_are_signed(lie: str) -> None:
    """Signatures hold over both lies: only a proof, or somebody who computes again, tells."""
    with node("--dishonest", lie) as running:
        answer = ask(running.url, {"model": MODEL, "input": "you are an idiot"}, PATH)
        assert problems(answer, report(running.url), model=MODEL) == set()
        (result,) = answer.document["results"]
        assert result["category_scores"]["harassment"] < ABOVE
        chat = ask(running.url, {"model": "veriroute-lm-1", "messages": [{"role": "user", "content": "Hello"}]})
        assert problems(chat, report(running.url)) == set()
    assert result["flagged"] is (lie == "wrong-score")  # the opposite of two scores of 0 is over a half


def test_lies_keep_their_form() -> None:
    """A score that is tampered with is another number of the same length; a chat answer is not misjudged."""
    body = b'{"results":[{"flagged":true,"category_scores":{"harassment":0.5}}]}'
    assert tampered(body) == body.replace(b"0.5", b"7.5")
    assert json.loads(misjudged(b'{"choices":[]}')) == {"choices": []}


def test_no_text_overflows_the_circuit() -> None:
    """The largest sum that any features can reach is below what the circuit's digits hold, and is reached by some."""
    weights = load()
    assert 1 < weights.largest < BOUND
    hidden = max(
        abs(weights.b1[0][unit] + sum(MAX_COUNT * max(sign * row[unit], 0) * sign for row in weights.w1))
        for unit in range(HIDDEN)
        for sign in (1, -1)
    )
    assert weights.largest >= hidden


def test_the_weights_follow_from_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training again with the seed gives the weights of the repository, right about 98 % of other sentences."""
    folder = Path(__file__).parents[2] / "tools/train_moderation"
    if not folder.is_dir():
        pytest.skip("tools/train_moderation is not part of this distribution")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    from fit import SEED, accuracy, as_weights, train

    found = as_weights(train(SEED))
    stored = load()
    for layer in ("w1", "b1", "w2", "b2"):
        # Another machine's products may round one weight to the neighbouring step.
        for mine, theirs in zip(getattr(found, layer), getattr(stored, layer), strict=True):
            assert mine == pytest.approx(theirs, abs=2 / 128)
    assert min(accuracy(stored, 99, 1_000)) > 0.98


def parts(data: bytes) -> list[tuple[int, int | bytes]]:
    """The fields of a protobuf message."""
    found: list[tuple[int, int | bytes]] = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            found.append((key >> 3, varint()))
        else:
            assert key & 7 == 2
            size = varint()
            found.append((key >> 3, data[at : at + size]))
            at += size
    return found


def test_the_onnx_file_is_the_model() -> None:
    """IR version, operators in order, and each constant with its shape and its bytes."""
    import numpy as np

    document = dict(parts(as_onnx(load())))
    assert (document[1], document[8]) == (8, b"\x10\x0d")
    graph = parts(document[7])  # type: ignore[arg-type]
    operators = [dict(parts(value))[4] for field, value in graph if field == 1]  # type: ignore[arg-type]
    assert operators == [b"MatMul", b"Add", b"Relu", b"MatMul", b"Add", b"Relu", b"Sub", b"Relu", b"Sub"]
    constants = [parts(value) for field, value in graph if field == 5]  # type: ignore[arg-type]
    assert len(constants) == 5
    shape = [value for field, value in constants[0] if field == 1]
    rows = np.frombuffer(dict(constants[0])[9], "<f4").reshape(shape)  # type: ignore[arg-type]
    assert rows.tolist() == [list(row) for row in load().w1]
    assert rows.shape == (FEATURES[TEXT_V1].count, HIDDEN)


def test_keys_are_never_made_over_others(tmp_path: Path) -> None:
    """A folder of another model, and one with something else in it, are left as they are."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="neither empty"):
        circuit.ensure(tmp_path, print)
    (tmp_path / "made.json").write_text('{"model_sha256": "00", "ezkl": "23.0.5"}')
    with pytest.raises(ConfigError, match="of another model"):
        circuit.ensure(tmp_path, print)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.json", "notes.txt"]


def test_prove_is_for_the_own_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --backend there is no model of ours to prove."""
    assert main(["node", "--backend", "http://127.0.0.1:9", "--prove", str(tmp_path)]) != 0
    assert "--prove is for the own classifier" in capsys.readouterr().err
