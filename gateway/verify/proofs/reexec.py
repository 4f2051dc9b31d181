"""Re-execution: would the reference model have picked these tokens? (Token-DiFR, arXiv 2511.20621)

Prompt and answer go to a reference as one list of tokens, in one prefill, and it tells its scores z at each position of
the answer. The margin of a token is how much less the reference likes it than its favourite, in nats:

    greedy   margin_j = max(z_j) - z_j[token]                            the node claims temperature 0
    seeded   margin_j = max(z_j + T·G_j) - (z_j + T·G_j)[token]          it claims temperature T and a shared seed

G_j is Gumbel noise, -log(E) with E from the exponential distribution, drawn by the node's own sampler from the seed;
how is that sampler's business, and the noise comes here as values. An honest node has margin zero but for rounding,
where two tokens nearly tie. Margins are clipped at 3 nat and averaged; a mean over what 99 % of honest answers stay
under fails. Fewer than 16 tokens decide nothing. Without a seed, at temperature over zero, this cannot be asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

import msgspec

from gateway.errors import FormatError

from .calibration import ONE_PERCENT, Calibration, Quantiles, Statistic
from .evidence import Kind, ProofRecord, Subject, Verdict
from .reference import Scores
from .spelling import Spelling

#: Margins over this are counted as this, so that one odd token does not decide.
CLIP = 3.0
MAX_TEMPERATURE = 2.0

#: Token id -> Gumbel noise at one position: a row over the whole vocabulary, or the ids that matter.
Noise = Mapping[int, float] | Sequence[float]


class Terms(msgspec.Struct, frozen=True):
    """What a policy asks: which statistic, over how many tokens at least, which mean margin is always let be, and how
    many honest answers may be refused.

    The threshold is the calibrated one for `false_positives` (`Quantiles.limit`), or `max_mean_margin` in nats where
    that is larger. Who also judges the same answer's log-probs asks for half of the false positives in both.
    """

    statistic: Statistic = Statistic.GREEDY_MARGIN
    min_tokens: int = 16
    max_mean_margin: float = 0.0
    false_positives: float = ONE_PERCENT


class Sampling(msgspec.Struct, frozen=True):
    """How the node says it sampled. `top_k` 0 and `top_p` 1.0 leave every token in."""

    temperature: float
    top_k: int = 0
    top_p: float = 1.0


class Score(msgspec.Struct, frozen=True):
    """`mean_margin` in nats, clipped; `match_rate` is the share of tokens that are the reference's own choice."""

    tokens: int
    mean_margin: float
    match_rate: float


def greedy_margins(scores: Sequence[Scores], tokens: Sequence[int]) -> tuple[float, ...]:
    """The margin of each token, in nats, not clipped.

    Raises `FormatError` with the reason `reference_incomplete` for other than one row of scores for each token, or a
    row that leaves the token out.
    """
    _one_each(scores, tokens)
    return tuple(max(row.values()) - _of(row, token) for row, token in zip(scores, tokens, strict=True))


def seeded_margins(
    scores: Sequence[Scores], tokens: Sequence[int], noise: Sequence[Noise], sampling: Sampling
) -> tuple[float, ...]:
    """The margin of each token with the node's noise added, in nats, not clipped; infinite for a token that top-k or
    top-p leaves out.

    Where the reference tells only its likeliest tokens, a less likely one that the noise would have lifted is not seen
    and the margin is the smaller for it; with top-p under 1 it has to tell all of them, for shares are taken of what it
    told. Raises `FormatError` with the reason `reference_incomplete` as
    `greedy_margins` does, `noise_incomplete` for noise that does not cover the rows, and for senseless sampling.
    """
    _refuse_senseless(sampling)
    _one_each(scores, tokens)
    if len(noise) != len(tokens):
        raise FormatError("there is not one row of noise for each token", reason="noise_incomplete")
    rows = zip(scores, tokens, noise, strict=True)
    return tuple(_seeded(row, token, drawn, sampling) for row, token, drawn in rows)


def score(margins: Sequence[float]) -> Score:
    """The clipped mean and the match rate. Raises `FormatError` for no margins, negative ones and NaN."""
    if not margins or not all(margin >= 0 for margin in margins):
        raise FormatError("there are no margins, or some that are none")
    mean = math.fsum(min(margin, CLIP) for margin in margins) / len(margins)
    return Score(len(margins), mean, sum(margin == 0 for margin in margins) / len(margins))


def judge_reexec(
    margins: Sequence[float],
    spelt: Spelling,
    calibration: Calibration | None,
    model: str,
    terms: Terms,
    subject: Subject,
) -> ProofRecord:
    """Judge the margins of one answer, whose tokens spell its text as `spelt` says.

    Passes only by a calibration of this statistic, with the reference of `subject`, for `model`, that reaches down to
    this many tokens. Raises `FormatError` as `score` does for what cannot be margins.
    """
    id_ = calibration.id if calibration is not None else None
    row = _row(len(margins), spelt, calibration, model, terms, subject)
    if not isinstance(row, Quantiles):
        verdict = Verdict.FAIL if row == Spelling.DIFFERS else Verdict.INCONCLUSIVE
        return subject.record(Kind.REEXEC, verdict, row, calibration_id=id_, tokens=len(margins))
    found = score(margins)
    threshold = max(row.limit(terms.false_positives), terms.max_mean_margin)  # in this order: of NaN nothing is larger
    passed = found.mean_margin <= threshold
    return subject.record(
        Kind.REEXEC,
        Verdict.PASS if passed else Verdict.FAIL,
        "margin_in_bounds" if passed else "margin_too_large",
        statistic=found.mean_margin,
        threshold=threshold,
        calibration_id=id_,
        tokens=found.tokens,
    )


def reference_failed(subject: Subject, reason: str) -> ProofRecord:
    """The record of a re-execution that the reference did not make possible (timeout, malformed, …): inconclusive."""
    return subject.record(Kind.REEXEC, Verdict.INCONCLUSIVE, reason)


def _row(
    tokens: int, spelt: Spelling, calibration: Calibration | None, model: str, terms: Terms, subject: Subject
) -> Quantiles | str:
    """The calibration's row to judge by, or the reason why nothing can be decided."""
    if tokens == 0:
        return "empty_answer"
    if spelt is not Spelling.SAME:
        return spelt.value
    if tokens < terms.min_tokens:
        return "too_few_tokens"
    if calibration is None:
        return "not_calibrated"
    asked = (terms.statistic, subject.reference_id, model)
    if (calibration.statistic, calibration.reference, calibration.model) != asked:
        return "calibration_of_another"
    return calibration.honest(tokens) or "not_calibrated_at_length"


def _refuse_senseless(sampling: Sampling) -> None:
    if not 0 < sampling.temperature <= MAX_TEMPERATURE:  # false for NaN as well
        raise FormatError(f"seeded sampling has a temperature over 0 and at most {MAX_TEMPERATURE}")
    if sampling.top_k < 0 or not 0 < sampling.top_p <= 1:
        raise FormatError("top_k is negative, or top_p not over 0 and at most 1")


def _one_each(scores: Sequence[Scores], tokens: Sequence[int]) -> None:
    if len(scores) != len(tokens) or not all(scores):
        raise FormatError("there is not one row of scores for each token", reason="reference_incomplete")


def _of(row: Scores, token: int) -> float:
    if token not in row:
        raise FormatError("a row of scores leaves out the token itself", reason="reference_incomplete")
    return row[token]


def _seeded(row: Scores, token: int, noise: Noise, sampling: Sampling) -> float:
    _of(row, token)
    kept = _kept(row, sampling)
    if token not in kept:
        return math.inf
    lifted = {i: row[i] + sampling.temperature * _drawn(noise, i) for i in kept}
    return max(lifted.values()) - lifted[token]


def _drawn(noise: Noise, token: int) -> float:
    known = token in noise if isinstance(noise, Mapping) else token < len(noise)
    value = noise[token] if known else math.nan
    if not math.isfinite(value):
        raise FormatError("the noise does not cover the reference's tokens", reason="noise_incomplete")
    return value


def _kept(row: Scores, sampling: Sampling) -> list[int]:
    """The tokens that top-k and then top-p leave in, likeliest first; ties by id, as the lower id comes first."""
    ordered = sorted(row, key=lambda i: (-row[i], i))
    if sampling.top_k:
        ordered = ordered[: sampling.top_k]
    if sampling.top_p == 1:
        return ordered
    best = row[ordered[0]]
    weights = [math.exp((row[i] - best) / sampling.temperature) for i in ordered]
    return ordered[: _nucleus(weights, sampling.top_p * math.fsum(weights))]


def _nucleus(weights: Sequence[float], enough: float) -> int:
    """How many of the weights, from the first, hold `enough`: all of them where rounding leaves their sum short."""
    return next((count for count, held in enumerate(accumulate(weights), 1) if held >= enough), len(weights))
