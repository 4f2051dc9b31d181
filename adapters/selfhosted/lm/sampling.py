"""How the next token is chosen: penalties, temperature, nucleus, and noise that follows from the seed.

    token = argmax(z + T·G)       G = -log(-log u)        (Gumbel-max: a draw from softmax(z / T))

Noise of known origin lets a re-executor draw the same: `noise(seed, choice, position, vocabulary)` is all there is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

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
        self._choice = choice
        self._position = 0
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
        self._position += 1
        return token

    def _draw(self, scores: F32) -> int:
        s = self._sampling
        drawn = noise(s.seed, self._choice, self._position, len(scores))
        noisy = scores / s.temperature + drawn
        if s.top_p < 1:
            order = np.argsort(-scores, kind="stable")
            weights = np.exp((scores[order] - scores[order[0]]).astype(np.float64) / s.temperature)
            kept = int(np.searchsorted(np.cumsum(weights / weights.sum()), s.top_p)) + 1
            noisy[order[kept:]] = -np.inf
        return int(noisy.argmax())


def noise(seed: int | None, choice: int, position: int, vocabulary: int) -> npt.NDArray[np.float64]:
    """Gumbel noise (vocabulary,) for the output token at `position`, counted from 0 in each choice.

    Token t gets u = ((w >> 12) + 1/2) / 2^52, with w the big-endian 64-bit word number t of SHAKE-256 over the ASCII
    text ``veriroute-lm/1 <seed> <choice> <position>``.
    """
    name = f"veriroute-lm/1 {seed} {choice} {position}".encode()
    words = np.frombuffer(hashlib.shake_256(name).digest(8 * vocabulary), ">u8")
    uniform = ((words >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52  # exact, and never 0 or 1
    return np.asarray(-np.log(-np.log(uniform)))


def log_softmax(logits: F32) -> F32:
    """Log probabilities (…, vocabulary), natural logarithms."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def top(log_probabilities: F32, count: int) -> list[tuple[int, float]]:
    """The `count` most likely tokens with their log probabilities, most likely first."""
    order: Any = np.argsort(-log_probabilities, kind="stable")[:count]
    return [(int(t), float(log_probabilities[t])) for t in order]
