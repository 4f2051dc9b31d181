"""The one door for foreign text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from tui_kit import HOSTILE

from tui.text import clean, fit, line, lines


@pytest.mark.parametrize("text", HOSTILE)
def test_clean_prints_and_stays_on_one_line(text: str) -> None:
    """Whatever comes in, what goes out is one printable line of bounded length."""
    shown = clean(text)
    assert shown.isprintable()
    assert len(shown) <= 2000
    assert cell_len(shown) <= 4000


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("width", [0, 1, 2, 3, 12, 40])
def test_fit_has_exactly_the_width(text: str, width: int) -> None:
    """A cell is as wide as its column whatever the text."""
    assert cell_len(fit(text, width)) == width
    assert cell_len(fit(text, width, right=True)) == width


def test_escape_is_visible() -> None:
    """An escape character is shown, not dropped."""
    assert clean("\x1b[2J") == "\\x1b[2J"


def test_ordinary_text_is_untouched() -> None:
    """Letters of every script, and signs, stay as they are."""
    for text in ("llama-3.3-70b", "Größe", "模型", "модель", "naïve café"):
        assert clean(text) == text


def test_markup_is_text() -> None:
    """Square brackets are characters: no style, no action, no error."""
    content = line(("[@click=app.quit]x[/]", "bold"), ("[/nope]", ""))
    assert content.plain == "[@click=app.quit]x[/][/nope]"
    assert [span.style for span in content.spans] == ["bold"]


def test_lines_stand_below_each_other() -> None:
    """A newline can only come from us."""
    assert lines([line(("a\nb", "")), line(("c", ""))]).plain == "a\\x0ab\nc"


@given(st.text(max_size=60), st.integers(min_value=1, max_value=30))
def test_fit_for_any_text(text: str, width: int) -> None:
    """Any text at all fits its column and prints."""
    shown = fit(text, width)
    assert cell_len(shown) == width
    assert shown.isprintable()


@given(st.text(max_size=80))
def test_cleaning_twice_changes_nothing(text: str) -> None:
    """Text that has been through the door is let through as it is."""
    assert clean(clean(text)) == clean(text)
