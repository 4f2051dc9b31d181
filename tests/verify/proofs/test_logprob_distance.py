"""The distance of log-probs, normalised by tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proofs_kit import SUBJECT, position, words

from gateway.errors import FormatError
from gateway.verify.proofs.calibration import Calibration, Quantiles, Statistic
from gateway.verify.proofs.distance import Distance, Terms, distances, judge_distance, measure_distance
from gateway.verify.proofs.evidence import Kind, Verdict
from gateway.verify.proofs.spelling import Spelling
from gateway.verify.proofs.tokens import Position

PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE
EIGHT = words("a b c d e f g h")
BARE = tuple(Position(p.token, p.logprob, {}) for p in EIGHT)


def test_same() -> None:
    """The same log-probs have similarity one."""
    assert measure_distance(EIGHT, EIGHT) == Distance(1.0, None, 8, 0.0, 0.0)


def test_figure() -> None:
    """By hand: one token differs by 0.2 at -1 and -1.2, and one is not listed and counts as one step further down."""
    claimed = [position("a", -1.0, b=-2.0)]
    reference = [position("a", -1.2, c=-3.5)]
    found = measure_distance(claimed, reference)
    expected = (0.2 / (1e-6 + 2.2) / 2 + 0.5 / (1e-6 + 6.5) / 2) / 2
    assert found.similarity == pytest.approx(1 - expected, abs=1e-12)
    assert (found.mean_drift, found.max_drift) == (pytest.approx(0.2), pytest.approx(0.2))


@pytest.mark.parametrize("count", [1, 10, 99, 100, 1000])
def test_length_does_not_matter(count: int) -> None:
    """The same error at every token gives the same similarity, however few or many there are."""
    found = measure_distance(words("a " * count), words("a " * count, -0.2))
    assert found.similarity == pytest.approx(0.9058, abs=1e-4)


@pytest.mark.parametrize(
    ("claimed", "reference", "verdict", "reason"),
    [
        (EIGHT, EIGHT, PASS, "logprobs_close"),
        (EIGHT, words("a b c d e f g h", -0.2), FAIL, "logprobs_far"),
        (EIGHT, words("a b c d e f g x"), FAIL, "tokens_differ"),
        ((*EIGHT, position("\ufffd", b=-3)), (*EIGHT, position("", b=-3)), INCONCLUSIVE, "spelling_unknown"),
        (EIGHT, EIGHT[:7], FAIL, "lengths_differ"),
        (EIGHT, (*EIGHT, EIGHT[0]), FAIL, "lengths_differ"),
        (EIGHT, (), INCONCLUSIVE, "reference_incomplete"),
        (EIGHT, BARE, INCONCLUSIVE, "reference_incomplete"),
        (BARE, EIGHT, INCONCLUSIVE, "too_few_alternatives"),
        ((*EIGHT[:7], position("h")), EIGHT, INCONCLUSIVE, "too_few_alternatives"),
        (EIGHT[:7], EIGHT[:7], INCONCLUSIVE, "too_few_tokens"),
        ((), EIGHT, INCONCLUSIVE, "empty_answer"),
        ((), (), INCONCLUSIVE, "empty_answer"),
    ],
)
def test_judgement(claimed: Sequence[Position], reference: Sequence[Position], verdict: Verdict, reason: str) -> None:
    """Far log-probs, other tokens and other lengths fail; what cannot be paired or is too short decides nothing."""
    record = judge_distance(claimed, reference, Spelling.SAME, Terms(), SUBJECT)
    assert (record.kind, record.verdict, record.reason) == (Kind.LOGPROB, verdict, reason)
    assert (record.threshold, record.tokens, record.calibration_id) == (0.99, len(claimed), None)


@pytest.mark.parametrize(("spelt", "verdict"), [(Spelling.DIFFERS, FAIL), (Spelling.UNKNOWN, INCONCLUSIVE)])
def test_spelling(spelt: Spelling, verdict: Verdict) -> None:
    """Log-probs of other tokens than the text's speak for nothing."""
    record = judge_distance(EIGHT, EIGHT, spelt, Terms(), SUBJECT)
    assert (record.verdict, record.reason) == (verdict, spelt.value)


CALIBRATION = Calibration(
    1, "reexec", Statistic.LOGPROB_DISTANCE, "ref-1", "m", "abc", "2026-01-31", (),
    (Quantiles(8, 200, 0.0, 0.0, 0.02, 0.03),), 2,
)  # fmt: skip


def apart(distance: float) -> tuple[Position, ...]:
    """Eight tokens with two alternatives each, whose distance from `EIGHT` is that number."""
    factor = (1 + 2 * distance) / (1 - 2 * distance)  # |v - o| / (|v| + |o|) is twice the distance
    return tuple(position(p.token, -0.1 * factor, alt=-1.1 * factor) for p in EIGHT)


@pytest.mark.parametrize(
    ("distance", "asked", "verdict"),
    [(0.0, 0.01, PASS), (0.0199, 0.01, PASS), (0.0201, 0.01, FAIL), (0.0201, 0.005, PASS), (0.0301, 0.005, FAIL)],
)
def test_calibrated(distance: float, asked: float, verdict: Verdict) -> None:
    """A calibration's limit takes the place of the fixed one, for the false positives that are asked for."""
    terms = Terms(min_similarity=1.0, false_positives=asked)
    record = judge_distance(apart(distance), EIGHT, Spelling.SAME, terms, SUBJECT, calibration=CALIBRATION, model="m")
    assert (record.verdict, record.calibration_id) == (verdict, CALIBRATION.id)
    assert record.threshold == pytest.approx(0.98 if asked == 0.01 else 0.97)
    assert record.statistic == pytest.approx(1 - distance, abs=1e-5)


def test_at_the_limit() -> None:
    """An answer as far off as the calibration's limit is let be, as a margin at its limit is."""
    row = Quantiles(8, 100, 0.0, 0.0, 0.0)
    exact = msgspec.structs.replace(CALIBRATION, quantiles=(row,))
    assert judge_distance(EIGHT, EIGHT, Spelling.SAME, Terms(), SUBJECT, calibration=exact, model="m").verdict is PASS


@pytest.mark.parametrize(
    ("claimed", "changes", "model", "reason"),
    [
        (EIGHT, {"statistic": Statistic.GREEDY_MARGIN, "top": None}, "m", "calibration_of_another"),
        (EIGHT, {"reference": "ref-2"}, "m", "calibration_of_another"),
        (EIGHT, {}, "other", "calibration_of_another"),
        (EIGHT, {"quantiles": (Quantiles(9, 100, 0.0, 0.0, 0.0),)}, "m", "not_calibrated_at_length"),
        (EIGHT, {"top": 3}, "m", "reference_incomplete"),
        (EIGHT[:7], {}, "m", "too_few_tokens"),
    ],
)
def test_calibration_that_does_not_fit(
    claimed: Sequence[Position], changes: dict[str, Any], model: str, reason: str
) -> None:
    """A calibration of something else, or of more alternatives than there are, decides nothing."""
    calibration = msgspec.structs.replace(CALIBRATION, **changes)
    record = judge_distance(
        claimed, EIGHT[: len(claimed)], Spelling.SAME, Terms(), SUBJECT, calibration=calibration, model=model
    )
    assert (record.verdict, record.reason) == (INCONCLUSIVE, reason)


def test_alternatives_that_are_compared() -> None:
    """Of both sides the likeliest few count, so that a node that tells more is measured as one that does not."""
    more = tuple(position(p.token, alt=-1.1, far=-5.0, further=-9.0) for p in EIGHT)
    other = tuple(position(p.token, alt=-1.1, far=-3.0, further=-4.0) for p in EIGHT)
    assert measure_distance(more, other, 2).similarity == 1
    assert distances(more, other, 2) == (0.0,) * 8
    assert measure_distance(more, other).similarity == pytest.approx(1 - (2 / 8 + 5 / 13) / 2 / 4)
    assert distances(more, other, 4) == pytest.approx([(2 / 8 + 5 / 13) / 2 / 4] * 8)


@pytest.mark.parametrize(
    ("claimed", "reference", "reason"), [(EIGHT, EIGHT[:7], "lengths_differ"), (BARE, EIGHT, "too_few_alternatives"), ((), (), "empty_answer")]
)  # fmt: skip
def test_no_distances(claimed: Sequence[Position], reference: Sequence[Position], reason: str) -> None:
    """What cannot be paired has no distance at any token."""
    with pytest.raises(FormatError) as caught:
        distances(claimed, reference, 2)
    assert caught.value.reason == reason


LOGPROBS = st.sampled_from([0.0, -1e-9, -0.1, -3.0, -9999.0])
TOKENS = st.sampled_from("abcd")
FUZZED = st.lists(
    st.builds(Position, token=TOKENS, logprob=LOGPROBS, top=st.dictionaries(TOKENS, LOGPROBS)), max_size=6
)


@settings(max_examples=300, deadline=None)
@given(FUZZED, FUZZED)
def test_total(claimed: list[Position], reference: list[Position]) -> None:
    """Whatever the log-probs are, the similarity is a number from zero to one or has its reason."""
    found = measure_distance(claimed, reference)
    assert (found.similarity is None) is (found.reason is not None)
    assert found.similarity is None or -1e-9 <= found.similarity <= 1
