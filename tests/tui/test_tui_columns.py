"""Rows as columns."""

from __future__ import annotations

import pytest
from rich.cells import cell_len
from tui_kit import HOSTILE, row

from gateway.model.verdict import Outcome
from tui.columns import clock, columns_for, fill, heading, where
from tui.verdicts import MARK_CLASSES, MARKS, mark, outcome, released, sentence


def _text(cells: list[tuple[str, str]]) -> str:
    return "".join(text for text, _ in cells)


@pytest.mark.parametrize("width", [60, 79, 99, 100, 114, 115, 119, 200])
def test_a_row_is_as_wide_as_its_heading(width: int) -> None:
    """Rows and heading line up at every width, and fit it from 79 columns on."""
    columns = columns_for(width)
    cells = fill(row(), columns)
    assert cell_len(_text(cells)) == cell_len(heading(columns)) + 1
    assert cell_len(heading(columns)) <= max(width, 79)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_k04_the_verdict_column_is_ours_alone(hostile: str) -> None:
    """Whatever a node calls itself, the verdict stands where it always does and only there in its style."""
    for width in (79, 119):
        columns = columns_for(width)
        plain = _text(fill(row(), columns))
        cells = fill(
            row(
                node=hostile,
                model=hostile,
                key_id=hostile,
                reason=hostile,
                release=hostile,
                id=hostile,
                verdict=hostile,
            ),
            columns,
        )
        drawn = [(text, style) for text, style in cells if style in MARK_CLASSES]
        assert drawn == [("? none", "mark--none")]
        at = heading(columns).index("verdict")
        assert _text(cells[: cells.index(drawn[0])]).isprintable()
        assert cell_len(_text(cells[: cells.index(drawn[0])])) == at
        assert cell_len(_text(cells)) == cell_len(plain)


@pytest.mark.parametrize(("tier", "word"), [(t, MARKS[t].word) for t in Outcome])
def test_each_outcome_has_glyph_word_and_ascii(tier: Outcome, word: str) -> None:
    """Glyph and word stand together, and both exist without Unicode."""
    assert mark(tier).endswith(word)
    assert mark(tier, ascii_only=True).isascii()
    assert sentence(tier)


def test_only_failure_is_in_capitals() -> None:
    """FAIL is the one word that shouts."""
    assert [drawn.word for drawn in MARKS.values() if drawn.word.isupper()] == ["FAIL"]


def test_unknown_words_are_none() -> None:
    """What is not one of the four outcomes is not a verdict."""
    assert outcome("✓ affirming") is Outcome.NONE
    assert outcome(None) is Outcome.NONE
    assert released("sold") == "not said"
    assert released("withheld").startswith("withheld")


def test_where() -> None:
    """The node with its network, or that there was none."""
    assert where(row()) == "og-7 (aci)"
    assert where(row(network=None)) == "og-7"
    assert where(row(node=None)) == "no node"


@pytest.mark.parametrize("width", [79, 119])
def test_a_doubted_answer_says_so(width: int) -> None:
    """A released answer whose node failed an audit later has the word in the column of reasons, in strong type."""
    columns = columns_for(width)
    assert "doubted" not in _text(fill(row(reason=None), columns))
    cells = fill(row(reason=None, doubted=True), columns)
    assert [style for text, style in cells if text.startswith("doubted")] == ["line--strong"]
    assert "doubted" not in _text(fill(row(reason="timeout", doubted=True), columns))


@pytest.mark.parametrize("ms", [2**63 - 1, -(2**63), 10**18])
def test_a_time_that_no_calendar_has_is_a_dash(ms: int) -> None:
    """A row may say any number that a column holds."""
    assert (clock(ms), clock(ms, millis=False)) == ("–", "–")
