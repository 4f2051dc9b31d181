"""The distance of log-probs, normalised by tokens."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proofs_kit import SUBJECT, position, words

from gateway.verify.proofs.distance import Distance, Terms, judge_distance, measure_distance
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
    record = judge_distance(claimed, reference, Spelling.SAME, Terms(), SUBJECT, calibration_id="0" * 64)
    assert (record.kind, record.verdict, record.reason) == (Kind.LOGPROB, verdict, reason)
    assert (record.threshold, record.tokens, record.calibration_id) == (0.99, len(claimed), "0" * 64)


@pytest.mark.parametrize(("spelt", "verdict"), [(Spelling.DIFFERS, FAIL), (Spelling.UNKNOWN, INCONCLUSIVE)])
def test_spelling(spelt: Spelling, verdict: Verdict) -> None:
    """Log-probs of other tokens than the text's speak for nothing."""
    record = judge_distance(EIGHT, EIGHT, spelt, Terms(), SUBJECT)
    assert (record.verdict, record.reason) == (verdict, spelt.value)


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
