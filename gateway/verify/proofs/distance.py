"""How far a node's log-probs are from the reference's for the same tokens, as one number from 0 to 1.

    d_j      = mean over the reference's likeliest tokens t at j of  |v_t - o_t| / (1e-6 + |v_t| + |o_t|) / 2
    distance = mean over positions j of  d_j;    similarity = 1 - distance

v is the reference's log-prob and o the node's, or one step below its least where it does not list t (Gonka's inference
validation, whose form this is). It is divided by the number of tokens that there are: dividing by a hundred at least,
as there, passes every answer of sixteen tokens by any model at all. What it cannot see is how tokens were picked: a
wrong seed or temperature leaves log-probs as they are. That is what margins are for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from .agreement import common_prefix
from .evidence import Kind, ProofRecord, Subject, Verdict
from .spelling import Spelling
from .tokens import FLOOR, Position

_TINY = 1e-6


class Terms(msgspec.Struct, frozen=True):
    """`min_similarity`: what 1 - distance has to exceed. `min_tokens`: fewer decide nothing."""

    min_similarity: float = 0.99
    min_tokens: int = 8


class Distance(msgspec.Struct, frozen=True):
    """`similarity` is None, with the reason, where tokens cannot be paired.

    `prefix` is how many tokens are the same; over these, `mean_drift` and `max_drift` are the differences of the
    tokens' own log-probs in nats, None without any.
    """

    similarity: float | None
    reason: str | None
    prefix: int
    mean_drift: float | None
    max_drift: float | None


def measure_distance(claimed: Sequence[Position], reference: Sequence[Position]) -> Distance:
    """Compare the node's `claimed` log-probs with the reference's. Total."""
    prefix = common_prefix(claimed, reference)
    drifts = [abs(claimed[i].logprob - reference[i].logprob) for i in range(prefix)]
    mean = math.fsum(drifts) / prefix if prefix else None
    reason = _unpaired(claimed, reference, prefix)
    if reason is not None:
        return Distance(None, reason, prefix, mean, max(drifts, default=None))
    total = math.fsum(_at(o.top, v.top) for o, v in zip(claimed, reference, strict=True))
    return Distance(1 - total / prefix, None, prefix, mean, max(drifts))


def judge_distance(
    claimed: Sequence[Position],
    reference: Sequence[Position],
    spelt: Spelling,
    terms: Terms,
    subject: Subject,
    *,
    calibration_id: str | None = None,
) -> ProofRecord:
    """Judge the log-probs that came with an answer. The statistic is the similarity.

    Other tokens than the reference's fail, also where it stopped earlier or later: it was made to follow the answer.
    """
    found = measure_distance(claimed, reference)
    verdict, reason = _verdict(claimed, found, spelt, terms)
    return subject.record(
        Kind.LOGPROB,
        verdict,
        reason,
        statistic=found.similarity,
        threshold=terms.min_similarity,
        calibration_id=calibration_id,
        tokens=len(claimed),
    )


def _verdict(claimed: Sequence[Position], found: Distance, spelt: Spelling, terms: Terms) -> tuple[Verdict, str]:
    if not claimed:
        return Verdict.INCONCLUSIVE, "empty_answer"
    if spelt is not Spelling.SAME:
        return Verdict.FAIL if spelt is Spelling.DIFFERS else Verdict.INCONCLUSIVE, spelt.value
    if len(claimed) < terms.min_tokens:
        return Verdict.INCONCLUSIVE, "too_few_tokens"
    if found.similarity is None:
        undecided = found.reason in ("reference_incomplete", "too_few_alternatives")
        return Verdict.INCONCLUSIVE if undecided else Verdict.FAIL, found.reason or ""
    if found.similarity > terms.min_similarity:
        return Verdict.PASS, "logprobs_close"
    return Verdict.FAIL, "logprobs_far"


def _unpaired(claimed: Sequence[Position], reference: Sequence[Position], prefix: int) -> str | None:
    if not claimed or not reference:
        return "empty_answer" if not claimed else "reference_incomplete"
    if prefix < min(len(claimed), len(reference)):
        return "tokens_differ"
    if len(claimed) != len(reference):
        return "lengths_differ"
    if not all(v.top for v in reference):
        return "reference_incomplete"
    return None if all(len(o.top) >= 2 for o in claimed) else "too_few_alternatives"


def _at(claimed: Mapping[str, float], reference: Mapping[str, float]) -> float:
    least, second = sorted(claimed.values())[:2]
    unlisted = max(least - (second - least), 2 * FLOOR)
    terms = ((v, claimed.get(token, unlisted)) for token, v in reference.items())
    return math.fsum(abs(v - o) / (_TINY + abs(v) + abs(o)) / 2 for v, o in terms) / len(reference)
