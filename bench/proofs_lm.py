"""Nodes and a reference on the reference node's own model, for the bench that asks what each test finds of them.

A node answers with the code of `veriroute node` at one precision; the reference (float32) reads prompt and answer in one
prefill. What is compared is what a gateway gets to see: five alternatives a token from the node, the twenty likeliest
tokens at each place from the reference. The end of the turn is held off, so that every answer has its full length; where
the node would have ended is known all the same, and `natural` is the answer up to there.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from adapters.selfhosted.dishonest import HOT
from adapters.selfhosted.lm.engine import Committed, Engine, Job, Read, Text
from adapters.selfhosted.lm.generate import Limits, Token
from adapters.selfhosted.lm.model import F32, Weights, prefill
from adapters.selfhosted.lm.precision import at_precision, other_model
from adapters.selfhosted.lm.sampling import Sampling, log_softmax
from adapters.selfhosted.lm.toploc import batches
from gateway.verify.proofs.calibration import Statistic
from gateway.verify.proofs.noise import noise
from gateway.verify.proofs.reexec import CLIP, greedy_margins, seeded_margins
from gateway.verify.proofs.reexec import Sampling as Claimed
from gateway.verify.proofs.tokens import Position
from gateway.verify.proofs.toploc import Activations
from gateway.verify.proofs.toploc_wire import Recomputed, Stated

TOP, LIKELIEST = 5, 20
WARM = 1.0
KINDS = {
    "story": (
        "Tell me a story about a {0} and a {1}.",
        "Write a story about the {0} in the {1}.",
        "Tell me a {0} {1} story.",
    ),
    "text": ("The {0} and the {1} {2}", "A {0} {1} is", "In the {0} there was a {1}. The {2}"),
}
WORDS = (  # noqa: SIM905 - read as text
    "anchor bridge candle desert engine forest garden harbor island jungle kettle ladder mirror needle orange pencil "
    "quarry ribbon saddle tunnel umbrella valley window yellow zebra account library machine network picture river school "
    "teacher village weather fox dog cat owl mouse horse goat duck bear wolf"
).split()


@dataclass(frozen=True)
class Asked:
    """One prompt: its kind, its text, what a node that reads another prompt takes it for, and the draw's seed."""

    kind: str
    text: str
    misread: str
    seed: int


@dataclass(frozen=True)
class Node:
    """`precision` of the weights (`other` is another model), and what the node does to what it was asked."""

    precision: str
    does: str = "as asked"


@dataclass(frozen=True)
class Answer:
    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    positions: tuple[Position, ...]
    natural: tuple[Position, ...]
    proofs: Stated | None


@dataclass(frozen=True)
class View:
    """What the reference has for an answer: its log-probs, the margins, and the values behind it."""

    positions: tuple[Position, ...]
    margins: tuple[float, ...]
    activations: Recomputed


def prompts(kind: str, count: int, seed: int, without: frozenset[str] = frozenset()) -> list[Asked]:
    """`count` different prompts that follow from `seed`, none of them in `without`."""
    rng = random.Random(f"{seed} {kind}")
    found: dict[str, Asked] = {}
    while len(found) < count:
        form, words = rng.choice(KINDS[kind]), rng.sample(WORDS, 4)
        text = form.format(*words[:3])
        if text not in without:
            found.setdefault(text, Asked(kind, text, form.format(words[3], *words[1:3]), rng.getrandbits(31)))
    return list(found.values())


def half(weights: Weights) -> Weights:
    """The same model in float16 throughout: other honest numerics than bfloat16."""
    made = copy.copy(weights)
    made.layers = [
        replace(layer, **{f.name: _half(getattr(layer, f.name)) for f in fields(layer)}) for layer in weights.layers
    ]
    made.unembed, made.smear, made.gain = _half(weights.unembed), _half(weights.smear), _half(weights.gain)
    made.embed = np.ascontiguousarray(made.unembed.T)
    made.round = _half
    return made


def reordered(weights: Weights) -> Weights:
    """The same model, whose sums inside attention and the inner layers are taken in another order, as in other batches."""
    rng = np.random.default_rng(3)
    size = weights.width // weights.heads
    heads = np.concatenate([h * size + rng.permutation(size) for h in range(weights.heads)])
    # Queries and keys of a head are permuted alike, and its values as the rows that they meet.
    into = np.concatenate([part * weights.width + heads for part in range(3)])
    made = copy.copy(weights)
    made.layers = []
    for layer in weights.layers:
        inner = rng.permutation(layer.w1.shape[1])
        parts = {"wqkv": layer.wqkv[:, into], "wo": layer.wo[heads], "w1": layer.w1[:, inner], "w2": layer.w2[inner]}
        made.layers.append(replace(layer, **{name: np.ascontiguousarray(part) for name, part in parts.items()}))
    return made


def weights_of(precision: str, base: Weights) -> Weights:
    """`base` at one of `PRECISIONS`, in `fp16`, in float32 `reordered`, or the `other` model."""
    match precision:
        case "other":
            return at_precision(other_model(base), "bf16")
        case "fp16":
            return half(base)
        case "reordered":
            return reordered(base)
    return at_precision(base, precision)


def _half(x: F32) -> F32:
    return np.asarray(x.astype(np.float16).astype(np.float32))


class Model:
    """The reference's weights, and an engine for each precision that was asked for."""

    def __init__(self) -> None:
        self.base = Weights.open()
        self.end = self.base.tokenizer.special["<end>"]
        self._engines: dict[str, Engine] = {}
        size = self.base.tokenizer.size
        self._shown = [self.base.tokenizer.shown(token).decode("utf-8", "replace") for token in range(size)]

    def answer(self, node: Node, asked: Asked, statistic: Statistic, tokens: int, *, toploc: bool) -> Answer:
        """What the node says. It claims temperature 0, or temperature 1 and the seed."""
        if node.precision not in self._engines:
            self._engines[node.precision] = Engine(weights_of(node.precision, self.base))
        text = asked.misread if node.does == "other prompt" else asked.text
        job = Job(
            **self._opening(asked.kind, text),
            sampling=self._sampling(node, asked, statistic),
            limits=Limits(tokens, top=TOP),
            ids=True,
            toploc=toploc,
        )
        prompt: tuple[int, ...] = ()
        ids: list[int] = []
        told: list[Token] = []
        proofs: tuple[bytes, ...] | None = None
        for event in self._engines[node.precision].run(job):
            match event:
                case Read():
                    prompt = event.ids
                case Text(_, piece):
                    ids += piece.ids or ()
                    told += piece.tokens
                case Committed(_, proofs):
                    pass
        if node.does == "other prompt":  # the reference reads the request anew
            prompt = self._read(asked)
        positions = tuple(map(_position, told))
        ended = next((i for i, token in enumerate(told) if token.top[0][0] == b"<end>"), len(told))
        stated = None if proofs is None else Stated(True, proofs)
        return Answer(prompt, tuple(ids), positions, positions[:ended], stated)

    def read(self, answer: Answer, asked: Asked, statistic: Statistic) -> View:
        """The reference's view of an answer, from one prefill."""
        states = prefill(self.base, [*answer.prompt, *answer.ids])
        rows = log_softmax(self.base.logits(states))[len(answer.prompt) - 1 : -1]
        order = np.argsort(-rows, axis=1, kind="stable")[:, :LIKELIEST]
        scores, reference = [], []
        for row, likeliest, token in zip(rows, order.tolist(), answer.ids, strict=True):
            told = {t: float(row[t]) for t in (*likeliest, token)}
            top = {self._shown[t]: told[t] for t in reversed(likeliest)}
            reference.append(Position(self._shown[token], told[token], top))
            told.pop(self.end, None)  # held off: it was not offered
            scores.append(told)
        margins = self._margins(scores, answer.ids, asked, statistic)
        return View(tuple(reference), margins, _recomputed(states, len(answer.prompt)))

    def _margins(
        self, scores: list[dict[int, float]], ids: tuple[int, ...], asked: Asked, statistic: Statistic
    ) -> tuple[float, ...]:
        if statistic is Statistic.GREEDY_MARGIN:
            found = greedy_margins(scores, ids)
        else:
            drawn = [noise(asked.seed, 0, place, row) for place, row in enumerate(scores)]
            found = seeded_margins(scores, ids, drawn, Claimed(WARM))
        return tuple(min(margin, CLIP) for margin in found)

    def _sampling(self, node: Node, asked: Asked, statistic: Statistic) -> Sampling:
        temperature = 0.0 if statistic is Statistic.GREEDY_MARGIN else WARM
        held_off = {self.end: -100.0}
        if node.does == "samples hot":
            temperature = HOT
        return Sampling(temperature, seed=asked.seed + (node.does == "other seed"), bias=held_off)

    def _opening(self, kind: str, text: str) -> dict[str, Any]:
        if kind == "story":
            return {"turns": (("user", text),)}
        return {"prefix": text}

    def _read(self, asked: Asked) -> tuple[int, ...]:
        job = Job(**self._opening(asked.kind, asked.text), limits=Limits(1), ids=True)
        return next(e.ids for e in Engine(self.base).run(job) if isinstance(e, Read))


def _recomputed(states: F32, prompt: int) -> Recomputed:
    own = batches(states[:prompt], states[prompt:])
    return Recomputed(True, tuple(Activations(batch.indices, batch.bits) for batch in own))


def _position(token: Token) -> Position:
    top = {data.decode("utf-8", "replace"): logprob for data, logprob in reversed(token.top)}
    return Position(token.data.decode("utf-8", "replace"), token.logprob, top)
