"""Re-execution by continuations from a cut answer."""

from __future__ import annotations

import pytest
from proofs_kit import SUBJECT, position, words

from gateway.errors import FormatError
from gateway.verify.proofs.evidence import Verdict
from gateway.verify.proofs.prefixes import Terms, cut_points, judge_prefixes
from gateway.verify.proofs.spelling import Spelling

PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE
SEED = b"\7" * 32
TERMS = Terms()
ANSWER = words(" ".join(f"w{i}" for i in range(32)))
TIED = (*ANSWER[:3], position("x", -0.1, w3=-0.1), *ANSWER[:4])  # parts from ANSWER[0:8] in no tie of the other's
SAME = Spelling.SAME


def test_cuts() -> None:
    """Places are distinct, ascending, leave the horizon behind them, and are the same for all who have the seed."""
    for tokens in (16, 17, 64, 1000):
        cuts = cut_points(SEED, "r", tokens, TERMS)
        assert len(set(cuts)) == 3
        assert list(cuts) == sorted(cuts)
        assert 0 <= cuts[0] <= cuts[-1] <= tokens - 8
        assert cuts == cut_points(SEED, "r", tokens, TERMS)
    assert cut_points(SEED, "r", 1000, TERMS) != cut_points(SEED, "s", 1000, TERMS)
    assert cut_points(SEED, "r", 1000, TERMS) != cut_points(b"\6" * 32, "r", 1000, TERMS)


def test_every_place_comes_up() -> None:
    """Over many requests every place is cut, the first and the last included; where all are needed, all are taken."""
    places = {cut for i in range(200) for cut in cut_points(SEED, str(i), 16, TERMS)}
    assert places == set(range(9))
    assert cut_points(SEED, "r", 16, Terms(cuts=9)) == tuple(range(9))


@pytest.mark.parametrize(
    ("tokens", "terms"), [(15, TERMS), (0, TERMS), (16, Terms(horizon=15)), (9, Terms(min_tokens=1))]
)
def test_too_short_to_cut(tokens: int, terms: Terms) -> None:
    """An answer that is too short for its cuts has none."""
    assert cut_points(SEED, "r", tokens, terms) == ()


def test_seed_length() -> None:
    """A seed has 32 bytes."""
    with pytest.raises(FormatError):
        cut_points(b"", "r", 64, TERMS)


def right(cut: int) -> tuple[int, tuple]:  # type: ignore[type-arg]
    return cut, ANSWER[cut : cut + 8]


@pytest.mark.parametrize(
    ("continuations", "verdict", "reason", "agreed"),
    [
        ([right(0), right(9), right(24)], PASS, "continuations_agree", 3),
        ([right(0), right(9)], PASS, "continuations_agree", 2),
        ([right(0), right(9), (12, ANSWER[12:40])], PASS, "continuations_agree", 3),
        ([right(0), right(9), (20, ())], PASS, "continuations_agree", 2),
        ([right(0)], INCONCLUSIVE, "too_few_cuts_agree", 1),
        ([right(0)] * 3, INCONCLUSIVE, "too_few_cuts_agree", 1),
        ([right(0), (9, ANSWER[9:12]), (20, ())], INCONCLUSIVE, "too_few_cuts_agree", 1),
        ([right(0), (25, ANSWER[25:]), (-1, ANSWER[:8])], INCONCLUSIVE, "too_few_cuts_agree", 1),
        ([], INCONCLUSIVE, "too_few_cuts_agree", 0),
        ([right(0), right(9), (20, ANSWER[:8])], FAIL, "no_near_tie", 2),
        ([right(9), (0, TIED)], FAIL, "no_near_tie", 1),
        ([right(9), (0, words("w0 w1 w2 w3 w4 w5 w6 w7", -0.3))], FAIL, "logprob_drift", 1),
    ],
)
def test_judgement(continuations: list, verdict: Verdict, reason: str, agreed: int) -> None:  # type: ignore[type-arg]
    """Two of three agreements pass, one disagreement fails, and cuts that did not come back are undecided."""
    record = judge_prefixes(ANSWER, continuations, SAME, TERMS, SUBJECT)
    assert (record.verdict, record.reason, record.statistic, record.threshold) == (verdict, reason, agreed, 2.0)


def test_nothing_needed_is_no_pass() -> None:
    """Terms that need no agreement do not pass what has none."""
    assert judge_prefixes(ANSWER, [], SAME, Terms(needed=0), SUBJECT).verdict is INCONCLUSIVE


@pytest.mark.parametrize(
    ("tokens", "spelt", "verdict", "reason"),
    [
        (0, Spelling.DIFFERS, INCONCLUSIVE, "empty_answer"),
        (15, SAME, INCONCLUSIVE, "too_few_tokens"),
        (32, Spelling.UNKNOWN, INCONCLUSIVE, "spelling_unknown"),
        (32, Spelling.DIFFERS, FAIL, "text_not_tokens"),
    ],
)
def test_undecided(tokens: int, spelt: Spelling, verdict: Verdict, reason: str) -> None:
    """Short answers and texts that tokens do not spell are settled before anything is compared."""
    record = judge_prefixes(ANSWER[:tokens], [right(0), right(8)], spelt, TERMS, SUBJECT)
    assert (record.verdict, record.reason) == (verdict, reason)
