"""Has a node's baseline changed? Log-prob tracking of one fixed prompt's first token (arXiv 2512.03816).

The same short request goes to a node again and again, one token with its twenty likeliest alternatives. Two sets of
such samples, then and now, are compared by the mean over tokens of the difference of their mean log-probs; a token that
a sample does not list counts as that sample's least. The p-value is that of a permutation test, (1 + #) / (b + 1), so
it is never zero, and its permutations follow from a seed.

It sees a single step of fine-tuning, and for the same reason sees other kernels, another batch size, another card. So
what it finds is *baseline changed*, a reason to calibrate anew and never one to accuse: no record of it can fail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from gateway.errors import FormatError

from .draws import shuffled
from .evidence import Kind, ProofRecord, Subject, Verdict
from .tokens import MAX_TOP, number

MAX_SAMPLES = 256
MAX_PERMUTATIONS = 10_000
#: Fewer on a side, and no rearrangement of them would be rare enough to say anything at 1 %.
MIN_SAMPLES = 5
#: Sums of the same numbers in another order differ in the last bits; ties must stay ties.
_ROUNDING = 1e-9

#: Token -> log-prob, the alternatives of one answer's first token.
Sample = Mapping[str, float]


class Terms(msgspec.Struct, frozen=True):
    """The test at level `alpha` with so many permutations."""

    alpha: float = 0.01
    permutations: int = 499


class Drift(msgspec.Struct, frozen=True):
    """`statistic` in nats; `p` is the share of rearrangements that differ at least as much."""

    statistic: float
    p: float
    tokens: int


def measure_drift(before: Sequence[Sample], after: Sequence[Sample], seed: bytes, permutations: int = 499) -> Drift:
    """Compare two sets of samples. The same seed gives the same p.

    Raises `FormatError` for empty sets, more than 256 samples on a side or 10,000 permutations, and samples that are
    empty, over 128 tokens or hold something else than finite numbers.
    """
    if not before or not after or max(len(before), len(after)) > MAX_SAMPLES:
        raise FormatError(f"drift is measured between two sets of 1 to {MAX_SAMPLES} samples")
    if not 1 <= permutations <= MAX_PERMUTATIONS:
        raise FormatError(f"a permutation test has 1 to {MAX_PERMUTATIONS} permutations")
    rows = _table([*before, *after])
    totals = [math.fsum(column) for column in zip(*rows, strict=True)]
    size = len(before)
    observed = _statistic(rows, totals, range(size))
    as_far, counter = 0, 0
    for _ in range(permutations):
        order, counter = shuffled(len(rows), seed, counter)
        as_far += _statistic(rows, totals, order[:size]) >= observed - _ROUNDING
    return Drift(observed, (1 + as_far) / (permutations + 1), len(totals))


def judge_drift(
    before: Sequence[Sample], after: Sequence[Sample], seed: bytes, terms: Terms, subject: Subject
) -> ProofRecord:
    """Judge whether the baseline changed. The statistic is p, and has to be over the threshold.

    Raises `FormatError` as `measure_drift` does; too few samples are inconclusive.
    """
    if min(len(before), len(after)) < MIN_SAMPLES:
        return subject.record(Kind.DRIFT, Verdict.INCONCLUSIVE, "too_few_samples")
    if (terms.permutations + 1) * terms.alpha < 1:  # p could not get there, and every node would pass
        raise FormatError("too few permutations for this level")
    found = measure_drift(before, after, seed, terms.permutations)
    changed = found.p <= terms.alpha
    return subject.record(
        Kind.DRIFT,
        Verdict.INCONCLUSIVE if changed else Verdict.PASS,
        "baseline_changed" if changed else "baseline_unchanged",
        statistic=found.p,
        threshold=terms.alpha,
        tokens=len(before) + len(after),
    )


def _table(samples: Sequence[Sample]) -> list[list[float]]:
    """One row a sample and one column for each token that any of them lists."""
    if not all(0 < len(sample) <= MAX_TOP for sample in samples):
        raise FormatError(f"a sample has 1 to {MAX_TOP} tokens")
    clean = [{token: number(value, "a log-prob") for token, value in sample.items()} for sample in samples]
    tokens = sorted(set().union(*clean))
    return [[sample.get(token, least) for token in tokens] for sample in clean for least in (min(sample.values()),)]


def _statistic(rows: Sequence[Sequence[float]], totals: Sequence[float], first: Sequence[int]) -> float:
    size, rest = len(first), len(rows) - len(first)
    sums = [math.fsum(column) for column in zip(*(rows[i] for i in first), strict=True)]
    parts = (abs(part / size - (total - part) / rest) for part, total in zip(sums, totals, strict=True))
    return math.fsum(parts) / len(totals)
