"""Margins under a reference, and the judgement of their mean."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from proofs_kit import REQUEST, SUBJECT

from gateway.errors import FormatError
from gateway.verify.proofs.calibration import Calibration, Quantiles, Statistic
from gateway.verify.proofs.evidence import Subject, Verdict, check_of
from gateway.verify.proofs.reexec import (
    Noise,
    Sampling,
    Score,
    Terms,
    greedy_margins,
    judge_reexec,
    reference_failed,
    score,
    seeded_margins,
)
from gateway.verify.proofs.spelling import Spelling

PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE
SAME = Spelling.SAME
CALIBRATION = Calibration(
    1,
    "reexec",
    Statistic.GREEDY_MARGIN,
    "ref-1",
    "m",
    "abc",
    "2026-01-31",
    (),
    (Quantiles(16, 100, 0.0, 0.01, 0.05), Quantiles(64, 100, 0.0, 0.001, 0.004)),
)
ROW = {1: -1.0, 2: -1.5, 3: -4.0}


def test_greedy() -> None:
    """The margin is how much less the reference likes the token than its favourite."""
    assert greedy_margins([ROW, ROW, ROW], [1, 2, 3]) == (0.0, 0.5, 3.0)


@pytest.mark.parametrize("noise", [[0.0, 0.0, 1.0, 0.0], {1: 0.0, 2: 1.0, 3: 0.0}])
def test_seeded(noise: Noise) -> None:
    """Noise, scaled by the temperature, moves the favourite; a row of it is a list or a map."""
    tokens, rows, noises = [1, 2, 3], [ROW] * 3, [noise] * 3
    assert seeded_margins(rows, tokens, noises, Sampling(1.0)) == (0.5, 0.0, 3.5)
    assert seeded_margins(rows, tokens, noises, Sampling(0.25)) == (0.0, 0.25, 3.0)


@pytest.mark.parametrize(
    ("sampling", "margins"),
    [
        (Sampling(1.0, top_k=2), (0.0, 0.5, math.inf)),
        (Sampling(1.0, top_k=1), (0.0, math.inf, math.inf)),
        (Sampling(1.0, top_k=9), (0.0, 0.5, 3.0)),
        (Sampling(1.0, top_p=0.59), (0.0, math.inf, math.inf)),
        (Sampling(1.0, top_p=0.61), (0.0, 0.5, math.inf)),
        (Sampling(0.1, top_p=0.99), (0.0, math.inf, math.inf)),
        (Sampling(1.0, top_p=1 - 1e-12), (0.0, 0.5, 3.0)),
        (Sampling(1.0, top_k=2, top_p=0.9), (0.0, 0.5, math.inf)),
    ],
)
def test_masks(sampling: Sampling, margins: tuple[float, ...]) -> None:
    """A token that top-k or top-p leaves out could not have been drawn: its margin has no bound."""
    assert seeded_margins([ROW] * 3, [1, 2, 3], [[0.0] * 4] * 3, sampling) == margins


def test_nucleus_is_never_short() -> None:
    """Where rounding keeps the shares from adding up, the nucleus is all there is."""
    row = {i: -float(i % 7) for i in range(500)}
    found = seeded_margins([row], [499], [[0.0] * 500], Sampling(1.0, top_p=math.nextafter(1, 0)))
    assert found == (2.0,)


@pytest.mark.parametrize(
    ("scores", "tokens"), [([ROW], []), ([], [1]), ([ROW], [4]), ([{}], [1])], ids=["more", "fewer", "other", "empty"]
)
def test_incomplete_reference(scores: Any, tokens: list[int]) -> None:
    """One row a token, with that token in it, or the reference has not re-executed the answer."""
    for margins in (
        lambda: greedy_margins(scores, tokens),
        lambda: seeded_margins(scores, tokens, [[0.0] * 5] * len(tokens), Sampling(1.0)),
    ):
        with pytest.raises(FormatError) as caught:
            margins()
        assert caught.value.reason == "reference_incomplete"


@pytest.mark.parametrize(
    "noise", [[], [[0.0] * 3], [{1: 0.0}], [[0.0, math.nan, 0.0, 0.0]], [{1: math.inf, 2: 0.0, 3: 0.0}]]
)
def test_incomplete_noise(noise: list[Noise]) -> None:
    """Noise that does not cover the reference's tokens, or is not finite, is refused."""
    with pytest.raises(FormatError) as caught:
        seeded_margins([ROW], [1], noise, Sampling(1.0))
    assert caught.value.reason == "noise_incomplete"


@pytest.mark.parametrize(
    "sampling",
    [Sampling(0.0), Sampling(-1.0), Sampling(2.1), Sampling(math.nan), Sampling(1, -1), Sampling(1, 0, 0.0), Sampling(1, 0, 1.1), Sampling(1, 0, math.nan)],
)  # fmt: skip
def test_senseless_sampling(sampling: Sampling) -> None:
    """Temperatures, top-k and top-p outside their ranges are refused."""
    with pytest.raises(FormatError):
        seeded_margins([ROW], [1], [[0.0] * 4], sampling)


def test_score() -> None:
    """Margins are clipped at three nats before they are averaged; the match rate counts zeros."""
    assert score([0.0, 1.0, 5.0, math.inf]) == Score(4, 1.75, 0.25)


@pytest.mark.parametrize("margins", [[], [-0.1], [math.nan], [0.0, math.nan]])
def test_no_score(margins: list[float]) -> None:
    """Nothing has no average, and negative margins or NaN are none."""
    with pytest.raises(FormatError):
        score(margins)


def judged(margins: list[float], **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "spelt": SAME, "calibration": CALIBRATION, "model": "m", "terms": Terms(), "subject": SUBJECT,
    } | changes  # fmt: skip
    return judge_reexec(margins, **arguments)


@pytest.mark.parametrize(
    ("margins", "verdict", "threshold"),
    [
        ([0.0] * 64, PASS, 0.004),
        ([0.004] * 64, PASS, 0.004),
        ([0.0041] * 64, FAIL, 0.004),
        ([0.05] * 16, PASS, 0.05),
        ([0.05] * 63, PASS, 0.05),
        ([0.051] * 16, FAIL, 0.05),
        ([0.0] * 63 + [9.0], FAIL, 0.004),
    ],
)
def test_threshold(margins: list[float], verdict: Verdict, threshold: float) -> None:
    """The mean margin may be what honest answers of that length stay under, and no more."""
    record = judged(margins)
    assert (record.verdict, record.threshold, record.tokens) == (verdict, threshold, len(margins))
    assert (record.calibration_id, record.reference_id) == (CALIBRATION.id, "ref-1")
    assert record.reason == ("margin_in_bounds" if verdict is PASS else "margin_too_large")


@pytest.mark.parametrize(
    ("half", "asked", "threshold"),
    [(0.006, 0.005, 0.006), (0.006, 0.01, 0.004), (None, 0.005, 0.004), (0.006, math.nan, 0.004)],
)
def test_false_positives(half: float | None, asked: float, threshold: float) -> None:
    """Who may refuse fewer honest answers gets the wider limit, where the calibration had the samples for it."""
    calibration = msgspec.structs.replace(CALIBRATION, quantiles=(Quantiles(64, 200, 0.0, 0.001, 0.004, half),))
    record = judged([threshold] * 64, calibration=calibration, terms=Terms(false_positives=asked))
    assert (record.verdict, record.threshold) == (PASS, threshold)


@pytest.mark.parametrize(
    ("allowed", "threshold"), [(0.02, 0.02), (0.001, 0.004), (0.0, 0.004), (-1.0, 0.004), (math.nan, 0.004)]
)
def test_policy_may_allow_more(allowed: float, threshold: float) -> None:
    """A policy's own threshold counts where it is the larger one, and never takes away the calibration's."""
    assert judged([threshold] * 64, terms=Terms(max_mean_margin=allowed)).verdict is PASS
    assert judged([threshold + 1e-6] * 64, terms=Terms(max_mean_margin=allowed)).verdict is FAIL


@pytest.mark.parametrize(
    ("margins", "changes", "reason"),
    [
        ([], {}, "empty_answer"),
        ([0.0] * 15, {}, "too_few_tokens"),
        ([3.0] * 15, {}, "too_few_tokens"),
        ([0.0] * 64, {"calibration": None}, "not_calibrated"),
        ([0.0] * 64, {"model": "other"}, "calibration_of_another"),
        ([0.0] * 64, {"subject": Subject(REQUEST, REQUEST, "ref-2")}, "calibration_of_another"),
        ([0.0] * 64, {"terms": Terms(Statistic.SEEDED_MARGIN)}, "calibration_of_another"),
        ([0.0] * 8, {"terms": Terms(min_tokens=8)}, "not_calibrated_at_length"),
        ([0.0] * 64, {"spelt": Spelling.UNKNOWN}, "spelling_unknown"),
    ],
)
def test_undecided(margins: list[float], changes: dict[str, Any], reason: str) -> None:
    """Too few tokens, no calibration or another one, and a spelling that is not known decide nothing."""
    record = judged(margins, **changes)
    assert (record.verdict, record.reason, record.statistic) == (INCONCLUSIVE, reason, None)


def test_text_that_tokens_do_not_spell_fails() -> None:
    """Margins of zero are no use to an answer whose text is another one."""
    record = judged([0.0] * 64, spelt=Spelling.DIFFERS)
    assert (record.verdict, record.reason) == (FAIL, "text_not_tokens")


@pytest.mark.parametrize("reason", ["timeout", "unreachable", "malformed"])
def test_reference_down(reason: str) -> None:
    """A reference that is down, slow or talks nonsense makes the evidence inconclusive, never a pass."""
    check = check_of(reference_failed(SUBJECT, reason))
    assert (check.id, check.outcome.value, check.reason) == ("proof_reexec", "none", reason)
