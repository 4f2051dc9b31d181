"""Whether two greedy answers come from the same model, in three values.

Two honest nodes at temperature 0 do not write the same text: kernels and batches differ in the last bits, and where two
tokens are all but equally likely one node takes this one and the other that one. From there on the texts have nothing
to do with each other. So what is compared is how they part:

 1. the common prefix of tokens, d long
 2. at d each node's token must be among the other's alternatives, within `tau` nat of the best there: a near-tie
 3. over the prefix the log-probs of the tokens differ by at most `delta` nat in the mean
 4. a near-tie before `min_prefix` tokens is too little to tell by

Where they part at a piece of a character nothing is known: two servers write the same piece in two ways, and different
pieces in the same.

Quantised or swapped weights fail 2 or 3; an honest pair ends in agreement or, having parted early, in 4. What follows
the near-tie is not compared, because it cannot be: `prefix` says how far an agreement reaches. A node that runs the
right model up to its first near-tie and then writes what it likes agrees as well; `min_share` bounds how much that is.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence

import msgspec

from .tokens import Position, is_piece


class Agreement(enum.StrEnum):
    """The outcome for a pair. Only `AGREE` counts; `INCONCLUSIVE` is as good as an answer that did not come."""

    AGREE = "agree"
    INCONCLUSIVE = "inconclusive"
    DISAGREE = "disagree"


class NearTie(msgspec.Struct, frozen=True):
    """The terms of the test: `tau` and `delta` in nats, `min_prefix` in tokens.

    `min_share` is how much of the shorter answer a common prefix has to be where two answers part, from 0 to 1.
    """

    tau: float = 0.2
    delta: float = 0.05
    min_prefix: int = 8
    min_share: float = 0.0


class Pair(msgspec.Struct, frozen=True):
    """How two answers compare.

    `prefix` in tokens. `drift` is the mean difference of log-probs over it, in nats, None where there was nothing to
    average; `gap` how far from a tie they parted, None when they did not part or a token was no alternative at all.
    """

    agreement: Agreement
    reason: str
    prefix: int = 0
    drift: float | None = None
    gap: float | None = None


def compare(a: Sequence[Position], b: Sequence[Position], terms: NearTie) -> Pair:
    """Compare the tokens of two answers. Symmetric, total."""
    prefix = common_prefix(a, b)
    if not a or not b:
        return Pair(Agreement.INCONCLUSIVE, "empty_answer")
    drift = _drift(a, b, prefix)
    parted = prefix < min(len(a), len(b))
    if parted and (is_piece(a[prefix].token) or is_piece(b[prefix].token)):
        agreement, reason = _judge(len(a), len(b), prefix, drift, 0, terms)
        if agreement is Agreement.AGREE:
            agreement, reason = Agreement.INCONCLUSIVE, "not_comparable"
        return Pair(agreement, reason, prefix, drift)
    gap = _gap(a[prefix], b[prefix]) if parted else None
    agreement, reason = _judge(len(a), len(b), prefix, drift, gap, terms)
    return Pair(agreement, reason, prefix, drift, gap)


def common_prefix(a: Sequence[Position], b: Sequence[Position]) -> int:
    """How many tokens two answers begin with in common."""
    shorter = min(len(a), len(b))
    return next((i for i in range(shorter) if not _same(a[i], b[i])), shorter)


def _judge(
    a: int, b: int, prefix: int, drift: float | None, gap: float | None, terms: NearTie
) -> tuple[Agreement, str]:
    parted = prefix < min(a, b)
    if parted and (gap is None or gap > terms.tau):
        return Agreement.DISAGREE, "no_near_tie"
    if drift is not None and drift > terms.delta:
        return Agreement.DISAGREE, "logprob_drift"
    if parted and prefix < terms.min_prefix:
        return Agreement.INCONCLUSIVE, "early_near_tie"
    if parted and prefix < terms.min_share * min(a, b):
        return Agreement.INCONCLUSIVE, "short_prefix"
    if not parted and a != b:  # one stopped and the other did not; that choice has no log-prob to look at
        return Agreement.INCONCLUSIVE, "length_differs"
    if not parted and a == 1:  # a token in common is what any two models have
        return Agreement.INCONCLUSIVE, "one_token"
    return Agreement.AGREE, "near_tie" if parted else "same_tokens"


def _same(a: Position, b: Position) -> bool:
    return a.token == b.token and (a.raw is None or b.raw is None or a.raw == b.raw)


def _drift(a: Sequence[Position], b: Sequence[Position], prefix: int) -> float | None:
    if prefix == 0:
        return None
    return math.fsum(abs(a[i].logprob - b[i].logprob) for i in range(prefix)) / prefix


def _gap(a: Position, b: Position) -> float | None:
    """The larger of both nodes' distances from their best token to the other's token."""
    if b.token not in a.top or a.token not in b.top:
        return None
    return max(_best(a) - a.top[b.token], _best(b) - b.top[a.token])


def _best(position: Position) -> float:
    return max(position.logprob, *position.top.values())
