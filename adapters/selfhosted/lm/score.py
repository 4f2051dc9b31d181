"""What the model thinks of tokens that are given: teacher forcing, in one prefill.

Place j holds the probability of token j after the tokens before it; the first token has nothing before it and no
place. Each call reads the tokens anew, alone, in blocks of one size (`model.prefill`), so the figures depend on nothing
but the tokens up to their place: not on what else runs, not on what was asked before, not on what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .model import BLOCK, F32, Weights, prefill
from .sampling import log_softmax

MOST = 20  #: likely tokens that may be asked for at each place


@dataclass(frozen=True)
class Place:
    """A given token, its log probability over the whole vocabulary, and its rank from 1; `top` are (token, log
    probability), most likely first, so that the entry at `i` has the rank `i + 1`."""

    token: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...]


def score(weights: Weights, tokens: Sequence[int], count: int) -> list[Place | None]:
    """One entry for each of `tokens` (1 to `CONTEXT`), None for the first, with `count` (0 to `MOST`) likely ones."""
    states = prefill(weights, tokens)
    spare = np.zeros((-len(tokens) % BLOCK, states.shape[1]), np.float32)
    states = np.concatenate((states, spare))  # the last product has the shape of the others
    places: list[Place | None] = [None]
    for start in range(0, len(tokens), BLOCK):
        rows = log_softmax(weights.logits(states[start : start + BLOCK]))
        given = tokens[start + 1 : start + 1 + BLOCK]
        places += [_place(row, token, count) for row, token in zip(rows, given, strict=False)]
    return places


def _place(row: F32, token: int, count: int) -> Place:
    order = np.argsort(-row, kind="stable")  # of equally likely tokens, the lower number first
    rank = int(np.flatnonzero(order == token)[0]) + 1
    return Place(token, float(row[token]), rank, tuple((int(t), float(row[t])) for t in order[:count]))
