"""The classifier: 128 features of a text, eight hidden units, a score from 0 to 1 for each category.

    score = clip(relu(x W1 + b1) W2 + b2, 0, 1), flagged over 0.5

Weights are whole multiples of 1/128, which is exactly what the circuit computes with, and are stored as those integers
(`weights.json`, trained by tools/train_moderation). It needs no library. What it is worth: it separates a few hundred
words of one made-up corpus. It is here to be proved, not to be trusted with moderation.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec

from gateway.verify.proofs.features import FEATURES, MAX_COUNT, TEXT_V1

from . import onnx

MODEL = "veriroute-moderation-1"
CATEGORIES = ("harassment", "illicit", "violence")
ABOVE = 0.5
HIDDEN = 8
#: Bits after the point, of weights and in the circuit.
SCALE = 7
#: Sums within the circuit stay below this, whatever the text: three digits to the base 128 at twice the scale.
BOUND = 128.0

Rows = Sequence[Sequence[float]]


class Weights(msgspec.Struct, frozen=True):
    """The layers as rows, one for each input; biases are one row."""

    w1: Rows
    b1: Rows
    w2: Rows
    b2: Rows

    @property
    def largest(self) -> float:
        """The largest sum by magnitude that any features can lead to."""
        up = [_reach(self, unit, 1) for unit in range(HIDDEN)]
        down = [_reach(self, unit, -1) for unit in range(HIDDEN)]
        second = [
            sum(abs(row[k]) * max(top, 0.0) for row, top in zip(self.w2, up, strict=True)) + abs(self.b2[0][k])
            for k in range(len(CATEGORIES))
        ]
        return max(*up, *(-low for low in down), *second)


def _reach(weights: Weights, unit: int, sign: int) -> float:
    return weights.b1[0][unit] + sum(MAX_COUNT * row[unit] for row in weights.w1 if row[unit] * sign > 0)


@functools.cache
def load() -> Weights:
    """The weights that come with this package."""
    stored = json.loads(Path(__file__).with_name("weights.json").read_bytes())
    whole = {
        name: tuple(tuple(n / (1 << SCALE) for n in row) for row in stored[name]) for name in ("w1", "b1", "w2", "b2")
    }
    return Weights(**whole)


def features(text: str) -> list[float]:
    """The numbers that the model sees of `text`. Raises `FormatError` for one that is too long."""
    return FEATURES[TEXT_V1].compute(text)


def scores(weights: Weights, x: Sequence[float]) -> list[float]:
    """A score for each category, by double arithmetic: without a circuit's rounding."""
    seen = [(value, row) for value, row in zip(x, weights.w1, strict=True) if value]
    hidden = [max(0.0, b + sum(value * row[j] for value, row in seen)) for j, b in enumerate(weights.b1[0])]
    sums = [b + sum(h * row[k] for h, row in zip(hidden, weights.w2, strict=True)) for k, b in enumerate(weights.b2[0])]
    return [min(1.0, max(0.0, value)) for value in sums]


def as_onnx(weights: Weights) -> bytes:
    """The same model as ezkl takes it. Clipping is relu(z) - relu(z - 1): two operators that a circuit does cheaply."""
    constants = {"w1": weights.w1, "b1": weights.b1, "w2": weights.w2, "b2": weights.b2}
    constants["one"] = ((1.0,) * len(CATEGORIES),)
    nodes = (
        ("MatMul", ("x", "w1"), "h0"),
        ("Add", ("h0", "b1"), "h1"),
        ("Relu", ("h1",), "h"),
        ("MatMul", ("h", "w2"), "z0"),
        ("Add", ("z0", "b2"), "z"),
        ("Relu", ("z",), "low"),
        ("Sub", ("z", "one"), "over"),
        ("Relu", ("over",), "high"),
        ("Sub", ("low", "high"), "y"),
    )
    return onnx.model(FEATURES[TEXT_V1].count, len(CATEGORIES), tuple(constants.items()), nodes)
