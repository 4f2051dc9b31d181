"""How the next token is chosen: penalties, temperature, nucleus, and a random stream that follows from the seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .model import F32

GREEDY_BELOW = 1e-4  #: temperatures below this choose the most likely token


@dataclass(frozen=True)
class Sampling:
    """The caller's choices. `seed` None means that the caller does not care; the engine then draws one."""

    temperature: float = 0.3
    top_p: float = 1.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)


class Sampler:
    """Chooses tokens for one answer. Same seed, choice and logits: same tokens."""

    def __init__(self, sampling: Sampling, choice: int, vocabulary: int, forbidden: tuple[int, ...]) -> None:
        self._sampling = sampling
        # A text seed goes through SHA-512, so the stream is the same in every Python version and on every machine.
        self._random = random.Random(f"veriroute-lm {sampling.seed} {choice}")  # noqa: S311 - reproducible, not secret
        self._counts = np.zeros(vocabulary, np.float32)
        self._bias = np.zeros(vocabulary, np.float32)
        for token, value in sampling.bias.items():
            self._bias[token] = value
        self._bias[list(forbidden)] = -np.inf

    def choose(self, logits: F32) -> int:
        s = self._sampling
        scores = logits + self._bias
        if s.presence_penalty or s.frequency_penalty:
            scores = scores - (self._counts > 0) * np.float32(s.presence_penalty)
            scores = scores - self._counts * np.float32(s.frequency_penalty)
        token = int(scores.argmax()) if s.temperature < GREEDY_BELOW else self._draw(scores)
        self._counts[token] += 1
        return token

    def _draw(self, scores: F32) -> int:
        order = np.argsort(-scores, kind="stable")
        weights = np.exp((scores[order] - scores[order[0]]).astype(np.float64) / self._sampling.temperature)
        sums = np.cumsum(weights / weights.sum())
        kept = int(np.searchsorted(sums, self._sampling.top_p)) + 1 if self._sampling.top_p < 1 else len(sums)
        kept = min(kept, len(sums))
        at = int(np.searchsorted(sums[:kept], self._random.random() * sums[kept - 1], side="right"))
        return int(order[min(at, kept - 1)])


def log_softmax(logits: F32) -> F32:
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def top(log_probabilities: F32, count: int) -> list[tuple[int, float]]:
    """The `count` most likely tokens with their log probabilities, most likely first."""
    order: Any = np.argsort(-log_probabilities, kind="stable")[:count]
    return [(int(t), float(log_probabilities[t])) for t in order]
