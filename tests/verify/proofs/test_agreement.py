"""Two greedy answers, compared by how they part."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proofs_kit import position, words

from gateway.verify.proofs.agreement import Agreement, NearTie, Pair, common_prefix, compare
from gateway.verify.proofs.tokens import Position

AGREE, INCONCLUSIVE, DISAGREE = Agreement.AGREE, Agreement.INCONCLUSIVE, Agreement.DISAGREE
TEN = words("a b c d e f g h i j")
TERMS = NearTie(tau=0.2, delta=0.05, min_prefix=8)
TIE = (position("x", -0.7, y=-0.8), position("y", -0.7, x=-0.75))


@pytest.mark.parametrize(
    ("a", "b", "agreement", "reason"),
    [
        (TEN, TEN, AGREE, "same_tokens"),
        (TEN, words("a b c d e f g h i j", -0.14), AGREE, "same_tokens"),
        (TEN, words("a b c d e f g h i j", -0.16), DISAGREE, "logprob_drift"),
        ((*TEN, TIE[0]), (*TEN, TIE[1], *TEN), AGREE, "near_tie"),
        ((*TEN[:8], TIE[0]), (*TEN[:8], TIE[1]), AGREE, "near_tie"),
        ((*TEN[:7], TIE[0]), (*TEN[:7], TIE[1]), INCONCLUSIVE, "early_near_tie"),
        ((TIE[0],), (TIE[1],), INCONCLUSIVE, "early_near_tie"),
        ((*TEN, position("x", -0.7, y=-0.91)), (*TEN, TIE[1]), DISAGREE, "no_near_tie"),
        ((*TEN, position("x", -0.7)), (*TEN, TIE[1]), DISAGREE, "no_near_tie"),
        ((*TEN, TIE[0]), (*TEN, position("y", -0.7)), DISAGREE, "no_near_tie"),
        ((*TEN, position("x", -1.0, y=-1.0, z=-0.5)), (*TEN, TIE[1]), DISAGREE, "no_near_tie"),
        (TEN, TEN[:9], INCONCLUSIVE, "length_differs"),
        (TEN[:1], TEN[:1], INCONCLUSIVE, "one_token"),
        (TEN[:2], TEN[:2], AGREE, "same_tokens"),
        ((), TEN, INCONCLUSIVE, "empty_answer"),
        ((), (), INCONCLUSIVE, "empty_answer"),
        (words("a b", -9999.0), words("a b", -9999.0), AGREE, "same_tokens"),
        (words("a b", -9999.0), words("a b"), DISAGREE, "logprob_drift"),
    ],
)
def test_compare(a: Sequence[Position], b: Sequence[Position], agreement: Agreement, reason: str) -> None:
    """Answers agree up to a near-tie that comes late enough; any other parting, and drift on the way, is disagreement."""
    for pair in (compare(a, b, TERMS), compare(b, a, TERMS)):
        assert (pair.agreement, pair.reason) == (agreement, reason)


WHOLE = (position("", -0.1, b=-3.0), position("\U0001f600", -0.1, b=-3.0))
BYTES = (
    Position("bytes:\\xf0\\x9f", -0.1, {"bytes:\\xf0\\x9f": -0.1, "b": -3.0}, b"\xf0\x9f"),
    Position("bytes:\\x98\\x80", -0.1, {"bytes:\\x98\\x80": -0.1, "b": -3.0}, b"\x98\x80"),
)
BLURRED = tuple(Position("\ufffd", p.logprob, {"\ufffd": -0.1, "b": -3.0}, p.raw) for p in BYTES)
#: Another character, in pieces that look the same.
OTHER = tuple(Position("\ufffd", -0.1, {"\ufffd": -0.1, "b": -3.0}, raw) for raw in (b"\xf0\x9f", b"\x92\xa9"))


@pytest.mark.parametrize("other", [WHOLE, BLURRED])
def test_a_character_in_pieces_accuses_nobody(other: Sequence[Position]) -> None:
    """The same character is written in several ways by honest servers; what drifted before it is found all the same."""
    for pair in (compare((*TEN, *BYTES), (*TEN, *other), TERMS), compare((*TEN, *other), (*TEN, *BYTES), TERMS)):
        assert pair == Pair(INCONCLUSIVE, "not_comparable", 10, 0.0)
    drifted = words("a b c d e f g h i j", -0.5)
    assert compare((*TEN, *BYTES), (*drifted, *other), TERMS).agreement is DISAGREE


def test_a_character_in_pieces_is_no_tie() -> None:
    """Other bytes under the same replacement character are another token, and not as likely as the first for that."""
    assert compare((*TEN, *BLURRED), (*TEN, *OTHER), TERMS).agreement is INCONCLUSIVE


def test_figures() -> None:
    """The pair carries what was measured: prefix, mean drift, and the larger of both gaps."""
    pair = compare((*TEN, TIE[0]), (*words("a b c d e f g h i j", -0.12), TIE[1]), TERMS)
    assert pair == Pair(AGREE, "near_tie", 10, pytest.approx(0.02), pytest.approx(0.1))
    assert compare(words("a b"), words("c d"), TERMS) == Pair(DISAGREE, "no_near_tie", 0, None, None)


def test_share() -> None:
    """With a least share, answers that part before so much of the shorter one are not told apart or together."""
    a, b = (*TEN, TIE[0], *TEN), (*TEN, TIE[1], *TEN, *TEN)
    assert compare(a, b, NearTie(min_share=0.47)).agreement is AGREE
    assert compare(a, b, NearTie(min_share=0.48)) == Pair(INCONCLUSIVE, "short_prefix", 10, 0.0, pytest.approx(0.1))


def test_tokens_of_the_same_text_and_other_bytes() -> None:
    """Pieces of characters that look alike differ by their bytes, where both sides tell them."""
    one, two = (Position("\ufffd", -0.1, {}, raw) for raw in (b"\xf0", b"\xe2"))
    assert common_prefix([one], [two]) == 0
    assert common_prefix([one], [Position("\ufffd", -0.1, {})]) == 1


FUZZED = st.lists(
    st.builds(
        Position,
        token=st.sampled_from("abc"),
        logprob=st.sampled_from([0.0, -0.1, -0.3, -9999.0]),
        top=st.dictionaries(st.sampled_from("abc"), st.sampled_from([0.0, -0.1, -0.3, -9999.0])),
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(FUZZED, FUZZED)
def test_symmetric_and_total(a: list[Position], b: list[Position]) -> None:
    """Whatever the tokens are, both orders give the same pair, and agreement needs a prefix of at least two tokens."""
    pair = compare(a, b, TERMS)
    assert pair == compare(b, a, TERMS)
    assert pair.agreement is not AGREE or pair.prefix >= 2
