"""Baselines change, and that accuses nobody."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from proofs_kit import REQUEST

from gateway.errors import FormatError
from gateway.verify.proofs.draws import below, shuffled, word
from gateway.verify.proofs.drift import Drift, Terms, judge_drift, measure_drift
from gateway.verify.proofs.evidence import Kind, Subject, Verdict, check_of

SEED = b"drift"
SUBJECT = Subject(REQUEST, None, "baseline-1")


def samples(count: int, *, shift: float = 0.0, seed: int = 0, size: int = 5) -> list[dict[str, float]]:
    draw = np.random.default_rng(seed)
    return [{f"t{i}": -1.0 - i + shift + float(draw.normal(0, 0.02)) for i in range(size)} for _ in range(count)]


def test_word() -> None:
    """A word is the first eight bytes of SHA-256 over key and counter."""
    expected = hashlib.sha256(b"key" + (7).to_bytes(8, "big")).digest()[:8]
    assert word(b"key", 7) == int.from_bytes(expected, "big")


def test_below_is_even() -> None:
    """Numbers below a bound are all there and about equally often; a bound of one needs no luck."""
    counts: Counter[int] = Counter()
    counter = 0
    for _ in range(6000):
        drawn, counter = below(6, SEED, counter)
        counts[drawn] += 1
    assert set(counts) == set(range(6))
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 20.5  # chi-squared, 5 degrees, one in a thousand
    assert below(1, SEED, 0) == (0, 1)


def test_below_draws_again() -> None:
    """A word beyond the last whole multiple of the bound is passed over, so that no number is likelier."""
    bound = word(SEED, 0)  # the largest multiple below 2**64 is the bound itself, or two or more of it
    limit = 2**64 - 2**64 % bound
    drawn, after = below(bound, SEED, 0)
    assert (drawn, after) == (0, 1) if bound < limit else after > 1
    half = 2**63 + 1
    start = next(i for i in range(100) if word(SEED, i) >= half)
    value, after = below(half, SEED, start)
    assert after > start + 1
    assert value == word(SEED, after - 1) < half


def test_shuffled() -> None:
    """A shuffle holds every number once, goes on where the last one ended, and is the same for the same key."""
    first, after = shuffled(20, SEED, 0)
    second, _ = shuffled(20, SEED, after)
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    assert shuffled(20, SEED, 0) == (first, after)
    assert shuffled(0, SEED, 3) == ([], 3)


def test_statistic() -> None:
    """By hand: means differ by a half at one token and not at the other; an unlisted token counts as the least."""
    before, after = [{"a": -1.0, "b": -2.0}] * 2, [{"a": -1.5, "b": -2.0}, {"a": -1.5, "c": -2.0}]
    found = measure_drift(before, after, SEED, 99)
    assert found.tokens == 3
    # a: -1 against -1.5; b: -2 against -2; c: unlisted, so -2, against -2
    assert found.statistic == pytest.approx(0.5 / 3)


def test_same_seed_same_p() -> None:
    """The p-value follows from the samples and the seed."""
    pair = samples(8), samples(8, seed=1)
    assert measure_drift(*pair, SEED) == measure_drift(*pair, SEED)
    assert measure_drift(*pair, b"other").p != measure_drift(*pair, SEED).p


def test_p_is_never_zero() -> None:
    """Sets that could not differ more have the least p there is; equal sets have the largest."""
    assert measure_drift(samples(10), samples(10, shift=-1), SEED, 499).p == 1 / 500
    assert measure_drift([{"a": -0.1}] * 5, [{"a": -0.1}] * 5, SEED, 99) == Drift(0.0, 1.0, 1)


def test_level() -> None:
    """Two sets from one source are called changed about as often as the level says."""
    changed = sum(
        measure_drift(samples(6, seed=2 * i), samples(6, seed=2 * i + 1), bytes([i]), 99).p <= 0.05 for i in range(200)
    )
    assert changed <= 0.05 * 200 + 3 * math.sqrt(200 * 0.05 * 0.95)


@pytest.mark.parametrize(
    ("after", "verdict", "reason"),
    [
        (samples(10, seed=1), Verdict.PASS, "baseline_unchanged"),
        (samples(10, seed=1, shift=-0.2), Verdict.INCONCLUSIVE, "baseline_changed"),
        (samples(4), Verdict.INCONCLUSIVE, "too_few_samples"),
    ],
)
def test_judgement(after: list[dict[str, float]], verdict: Verdict, reason: str) -> None:
    """A baseline that changed is inconclusive, and no drift test speaks for or against an answer."""
    record = judge_drift(samples(10), after, SEED, Terms(), SUBJECT)
    assert (record.kind, record.verdict, record.reason) == (Kind.DRIFT, verdict, reason)
    assert check_of(record).outcome.value == "none"


@pytest.mark.parametrize(
    "arguments",
    [([], samples(5)), (samples(5), []), (samples(257), samples(5)), (samples(5), [{}]), (samples(5), [{"a": math.nan}]),
     (samples(5), [{str(i): -1.0 for i in range(129)}]), (samples(5), [{"a": "x"}]), (samples(5), samples(5), SEED, 0), (samples(5), samples(5), SEED, 10_001)],
    ids=lambda x: str(x)[:20],
)  # fmt: skip
def test_refused(arguments: tuple[Any, ...]) -> None:
    """Empty sets, floods, and what is no log-prob are refused."""
    with pytest.raises(FormatError):
        measure_drift(*arguments[:2], *(arguments[2:] or (SEED,)))


def test_a_level_that_cannot_be_reached() -> None:
    """A test with too few permutations for its level would pass every node, and is refused."""
    with pytest.raises(FormatError):
        judge_drift(samples(5), samples(5), SEED, Terms(alpha=0.01, permutations=98), SUBJECT)
