"""The filter language."""

from __future__ import annotations

import pytest
from tui_kit import NOON_MS, row

from gateway.errors import FormatError
from gateway.model.verdict import Outcome
from tui.filters import is_problem, parse_filter


def test_an_empty_filter_selects_everything() -> None:
    """Nothing asked for is everything, and is falsy."""
    empty = parse_filter("  ", NOON_MS)
    assert not empty
    assert empty.matches(row())


@pytest.mark.parametrize(
    ("source", "selects"),
    [
        ("verdict:pass", True),
        ("verdict:affirming", True),
        ("verdict:fail", False),
        ("verdict:problem", False),
        ("verdict:any", True),
        ("node:og-*", True),
        ("node:OG-7", False),
        ("node:near-*", False),
        ("network:aci", True),
        ("model:llama*", True),
        ("policy:strict", True),
        ("policy:lax", False),
        ("agent:agent-eu", True),
        ("agent:req-7", True),
        ("release:withheld", False),
        ("reason:*", True),
        ("receipt:*dekxgj", True),
        ("endpoint:/v1/*", True),
        ("since:1m", True),
        ("since:10s", False),
        ("since:10s since:1m", False),
        ("verdict:pass verdict:any", True),
        ("verdict:any verdict:fail", False),
        ("llama", True),
        ('"agent-eu"', True),
        ("llama near", False),
        ("node:og-* model:gpt*", False),
    ],
)
def test_terms(source: str, selects: bool) -> None:
    """Each term selects by its column, without regard to case; terms are joined by and."""
    chosen = parse_filter(source, NOON_MS)
    assert chosen.matches(row()) is selects
    assert chosen.source == source


def test_absent_values_match_no_name() -> None:
    """A row without a node is not selected by a node's name."""
    assert not parse_filter("node:og-7", NOON_MS).matches(row(node=None))


def test_a_second_verdict_narrows_the_first() -> None:
    """Terms of one key are joined by and, too: the last one alone would show what the first leaves out."""
    for source in ("verdict:problem verdict:fail", "verdict:fail verdict:problem"):
        assert parse_filter(source, NOON_MS).verdicts == (Outcome.CONTRAINDICATED,)
    with pytest.raises(FormatError, match="no verdict is"):
        parse_filter("verdict:fail verdict:pass", NOON_MS)


@pytest.mark.parametrize("source", ["colour:red", "verdict:maybe", "since:yesterday", "since:5", 'node:"og'])
def test_what_is_wrong_is_named(source: str) -> None:
    """A term that means nothing is refused with the words that would mean something."""
    with pytest.raises(FormatError):
        parse_filter(source, NOON_MS)


def test_exact_values_go_to_the_gateway() -> None:
    """Only a literal value can be selected elsewhere, and in its own spelling."""
    assert parse_filter("node:OG-7", NOON_MS).exact("node") == "OG-7"
    assert parse_filter("node:og-*", NOON_MS).exact("node") is None
    assert parse_filter("node:a node:b", NOON_MS).exact("node") is None
    assert parse_filter("model:x", NOON_MS).exact("node") is None


@pytest.mark.parametrize("tier", list(Outcome))
def test_a_problem_is_what_was_not_affirmed(tier: Outcome) -> None:
    """`none` is a problem too: it is never a pass."""
    assert is_problem(row(verdict=tier.value)) is (tier is not Outcome.AFFIRMING)
