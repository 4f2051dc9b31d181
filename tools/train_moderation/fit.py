"""Train the reference node's classifier, in NumPy: a few seconds, the same weights from the same seed.

    PYTHONPATH=.:tools/train_moderation python tools/train_moderation/fit.py \\
        --out adapters/selfhosted/moderation/weights.json

Without --out it only reports. Accuracy is over sentences of another seed: of the same made-up corpus, so it says that
training worked and nothing about text that people write.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from grammar import sentences

from adapters.selfhosted.moderation.model import BOUND, CATEGORIES, HIDDEN, SCALE, Weights, features, scores

SEED, SENTENCES, STEPS, RATE, DECAY = 5, 4_000, 1_500, 0.01, 3e-3
Array = np.ndarray[Any, np.dtype[np.float64]]


def data(seed: int, count: int) -> tuple[Array, Array]:
    """Features, and 1 for each category that a sentence belongs to."""
    drawn = list(sentences(seed, count))
    x = np.array([features(text) for text, _ in drawn])
    y = np.array([[float(name in kinds) for name in CATEGORIES] for _, kinds in drawn])
    return x, y


def train(seed: int, count: int = SENTENCES, steps: int = STEPS) -> dict[str, list[list[int]]]:
    """The weights as whole multiples of 2**-SCALE. Logistic loss by Adam; the score is 1/2 + z/8, clipped."""
    rng = np.random.default_rng(seed)
    x, y = data(seed, count)
    p = {
        "w1": rng.standard_normal((x.shape[1], HIDDEN)) * 0.1,
        "b1": np.zeros((1, HIDDEN)),
        "w2": rng.standard_normal((HIDDEN, len(CATEGORIES))) * 0.3,
        "b2": np.zeros((1, len(CATEGORIES))),
    }
    first, second = ({name: np.zeros_like(value) for name, value in p.items()} for _ in range(2))
    for step in range(1, steps + 1):
        rows = rng.integers(0, len(x), 256)
        for name, slope in _gradients(p, x[rows], y[rows]).items():
            slope = slope + DECAY * p[name] * (name in ("w1", "w2"))
            first[name] = 0.9 * first[name] + 0.1 * slope
            second[name] = 0.999 * second[name] + 0.001 * slope**2
            scaled = np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8
            p[name] -= RATE * (first[name] / (1 - 0.9**step)) / scaled
    score = {**p, "w2": p["w2"] / 8, "b2": p["b2"] / 8 + 0.5}
    return {name: np.rint(value * (1 << SCALE)).astype(int).tolist() for name, value in score.items()}


def _gradients(p: dict[str, Array], x: Array, y: Array) -> dict[str, Array]:
    h = np.maximum(x @ p["w1"] + p["b1"], 0)
    dz = (1 / (1 + np.exp(-(h @ p["w2"] + p["b2"]))) - y) / len(x)
    dh = dz @ p["w2"].T * (h > 0)
    return {"w1": x.T @ dh, "b1": dh.sum(0, keepdims=True), "w2": h.T @ dz, "b2": dz.sum(0, keepdims=True)}


def as_weights(stored: dict[str, list[list[int]]]) -> Weights:
    whole = {name: tuple(tuple(n / (1 << SCALE) for n in row) for row in rows) for name, rows in stored.items()}
    return Weights(**whole)


def accuracy(weights: Weights, seed: int, count: int) -> list[float]:
    """The share of sentences that each category is right about."""
    x, y = data(seed, count)
    found = np.array([scores(weights, row) for row in x.tolist()]) > 0.5
    return [float(share) for share in (found == (y > 0.5)).mean(0)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    stored = train(asked.seed)
    weights = as_weights(stored)
    for name, share in zip(CATEGORIES, accuracy(weights, asked.seed + 1, 2_000), strict=True):
        print(f"{name}: right about {share:.1%} of 2,000 other sentences")
    print(f"largest sum that any text can reach: {weights.largest:.1f} (the circuit holds {BOUND:g})")
    if weights.largest >= BOUND:
        return 1
    if asked.out:
        lines = [
            f'"{name}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]" for name, rows in stored.items()
        ]
        asked.out.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
