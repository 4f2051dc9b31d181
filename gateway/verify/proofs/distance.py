"""How far a node's log-probs are from the reference's for the same tokens, as one number from 0 to 1.

    d_j      = mean over the reference's likeliest tokens t at j of  |v_t - o_t| / (1e-6 + |v_t| + |o_t|) / 2
    distance = mean over positions j of  d_j;    similarity = 1 - distance

v is the reference's log-prob and o the node's, or one step below its least where it does not list t (Gonka's inference
validation, whose form this is). It is divided by the number of tokens that there are: dividing by a hundred at least,
as there, passes every answer of sixteen tokens by any model at all. What it cannot see is how tokens were picked: a
wrong seed or temperature leaves log-probs as they are. That is what margins are for.

The threshold is what a calibration of this very model says (`Statistic.LOGPROB_DISTANCE`), else the fixed one of the
policy. How many alternatives are compared moves the distance, so a calibration names their number, and both sides are
cut to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from gateway.errors import FormatError

from .agreement import common_prefix
from .calibration import ONE_PERCENT, Calibration, Statistic
from .evidence import Kind, ProofRecord, Subject, Verdict
from .spelling import Spelling
from .tokens import FLOOR, MAX_TOP, Position, is_piece

_TINY = 1e-6
#: Reasons for which it is not the node that is at fault.
_UNDECIDED = ("reference_incomplete", "too_few_alternatives", Spelling.UNKNOWN.value)


class Terms(msgspec.Struct, frozen=True):
    """`min_similarity`: what 1 - distance has to exceed without a calibration. `min_tokens`: fewer decide nothing.

    `false_positives`: the share of honest answers that a calibrated threshold may refuse (`Quantiles.limit`).
    """

    min_similarity: float = 0.99
    min_tokens: int = 8
    false_positives: float = ONE_PERCENT


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


def measure_distance(claimed: Sequence[Position], reference: Sequence[Position], top: int | None = None) -> Distance:
    """Compare the node's `claimed` log-probs with the reference's, of both the `top` likeliest at each token, or all
    that were told. Total."""
    prefix = common_prefix(claimed, reference)
    drifts = [abs(claimed[i].logprob - reference[i].logprob) for i in range(prefix)]
    mean = math.fsum(drifts) / prefix if prefix else None
    reason = _unpaired(claimed, reference, prefix, top)
    if reason is not None:
        return Distance(None, reason, prefix, mean, max(drifts, default=None))
    total = math.fsum(_each(claimed, reference, top))
    return Distance(1 - total / prefix, None, prefix, mean, max(drifts))


def distances(claimed: Sequence[Position], reference: Sequence[Position], top: int) -> tuple[float, ...]:
    """The distance at each token, for a calibration.

    Raises `FormatError` where tokens cannot be paired, with the reason that `measure_distance` gives.
    """
    reason = _unpaired(claimed, reference, common_prefix(claimed, reference), top)
    if reason is not None:
        raise FormatError("the log-probs cannot be compared with the reference's", reason=reason)
    return tuple(_each(claimed, reference, top))


def judge_distance(
    claimed: Sequence[Position],
    reference: Sequence[Position],
    spelt: Spelling,
    terms: Terms,
    subject: Subject,
    *,
    calibration: Calibration | None = None,
    model: str = "",
) -> ProofRecord:
    """Judge the log-probs that came with an answer. The statistic is the similarity.

    Other tokens than the reference's fail, also where it stopped earlier or later: it was made to follow the answer.
    Where one is a piece of a character, which two honest servers may write in two ways, nothing is decided.

    A `calibration` takes the place of the fixed threshold if it is of this statistic, of `subject`'s reference and of
    `model`, and reaches down to so few tokens; one that is not decides nothing.
    """
    found = measure_distance(claimed, reference, calibration.top if calibration else None)
    threshold = _threshold(len(claimed), terms, calibration, model, subject)
    verdict, reason = _verdict(claimed, found, spelt, terms, threshold)
    return subject.record(
        Kind.LOGPROB,
        verdict,
        reason,
        statistic=found.similarity,
        threshold=threshold if isinstance(threshold, float) else None,
        calibration_id=calibration.id if calibration else None,
        tokens=len(claimed),
    )


def _threshold(tokens: int, terms: Terms, calibration: Calibration | None, model: str, subject: Subject) -> float | str:
    """The similarity that has to be exceeded, or the reason why there is none."""
    if calibration is None:
        return terms.min_similarity
    asked = (Statistic.LOGPROB_DISTANCE, subject.reference_id, model)
    if (calibration.statistic, calibration.reference, calibration.model) != asked:
        return "calibration_of_another"
    row = calibration.honest(tokens)
    # A distance at its limit is let be: the next lower number is what has to be exceeded.
    return math.nextafter(1 - row.limit(terms.false_positives), 0) if row else "not_calibrated_at_length"


def _verdict(
    claimed: Sequence[Position], found: Distance, spelt: Spelling, terms: Terms, threshold: float | str
) -> tuple[Verdict, str]:
    if not claimed:
        return Verdict.INCONCLUSIVE, "empty_answer"
    if spelt is not Spelling.SAME:
        return Verdict.FAIL if spelt is Spelling.DIFFERS else Verdict.INCONCLUSIVE, spelt.value
    if len(claimed) < terms.min_tokens:
        return Verdict.INCONCLUSIVE, "too_few_tokens"
    if found.similarity is None:
        return Verdict.INCONCLUSIVE if found.reason in _UNDECIDED else Verdict.FAIL, found.reason or ""
    if isinstance(threshold, str):
        return Verdict.INCONCLUSIVE, threshold
    if found.similarity > threshold:
        return Verdict.PASS, "logprobs_close"
    return Verdict.FAIL, "logprobs_far"


def _unpaired(claimed: Sequence[Position], reference: Sequence[Position], prefix: int, top: int | None) -> str | None:
    if not claimed or not reference:
        return "empty_answer" if not claimed else "reference_incomplete"
    if prefix < min(len(claimed), len(reference)):
        pieces = is_piece(claimed[prefix].token) or is_piece(reference[prefix].token)
        return Spelling.UNKNOWN.value if pieces else "tokens_differ"
    if len(claimed) != len(reference):
        return "lengths_differ"
    if not all(len(v.top) >= (top or 1) for v in reference):
        return "reference_incomplete"
    return None if all(len(o.top) >= (top or 2) for o in claimed) else "too_few_alternatives"


def _each(claimed: Sequence[Position], reference: Sequence[Position], top: int | None) -> list[float]:
    most = top or MAX_TOP
    return [_at(_likeliest(o.top, most), _likeliest(v.top, most)) for o, v in zip(claimed, reference, strict=True)]


def _likeliest(told: Mapping[str, float], most: int) -> Mapping[str, float]:
    if len(told) <= most:
        return told
    return dict(sorted(told.items(), key=lambda item: (-item[1], item[0]))[:most])


def _at(claimed: Mapping[str, float], reference: Mapping[str, float]) -> float:
    least, second = sorted(claimed.values())[:2]
    unlisted = max(least - (second - least), 2 * FLOOR)
    terms = ((v, claimed.get(token, unlisted)) for token, v in reference.items())
    return math.fsum(abs(v - o) / (_TINY + abs(v) + abs(o)) / 2 for v, o in terms) / len(reference)
