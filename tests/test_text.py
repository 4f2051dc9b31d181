"""Text from outside on its way to the terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.text import plain

HOSTILE = {
    "OSC 52 clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "OSC 0 title": "\x1b]0;title\x1b\\",
    "OSC 8 link": "\x1b]8;;http://x\x1b\\x\x1b]8;;\x1b\\",
    "C1 CSI": "\x9b2J",
    "DCS": "\x1bPq\x1b\\",
    "clear": "\x1b[2J",
    "override": "\u202egnorw\u202c",
    "isolate": "\u2066x\u2069",
    "zero width": "a\u200bb\u2060c\ufeff",
    "separators": "a\u2028b\u2029c\x85d",
    "surrogate": "\ud800",
    "tag characters": "\U000e0041\U000e0042",
    "hangul filler": "a\u3164b",
    "grapheme joiner": "node\u034f-1",
    "mongolian selectors": "a\u180bb\u180cc\u180dd\u180fe",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_k01_nothing_that_steers_a_terminal_gets_through(text: str):
    """Escape sequences, overrides, zero-width and line-breaking characters come out as visible escapes."""
    shown = plain(text)
    assert shown.isprintable()
    assert "\\" in shown
    assert shown.encode()


@given(st.text())
def test_every_output_is_one_printable_line(text: str):
    """Whatever comes in, the output has no control, format, surrogate or separator character but the space."""
    shown = plain(text)
    assert all(unicodedata.category(c)[0] not in "C" and unicodedata.category(c) not in ("Zl", "Zp") for c in shown)


#: Hangul and Khmer fillers are letters to Unicode, and look like a space or like nothing.
FILLERS = "\u115f\u1160\u17b4\u17b5"


@given(
    st.text(
        alphabet=st.characters(
            codec="utf-8", categories=["L", "N", "P", "S"], max_codepoint=0x2500, exclude_characters=FILLERS
        )
    )
)
def test_ordinary_text_is_left_alone(text: str):
    """Letters, digits, punctuation and signs pass unchanged."""
    assert plain(text) == text


@given(st.text(), st.integers(0, 40))
def test_the_width_is_kept(text: str, width: int):
    """No more than `width` characters come out, and a cut is marked."""
    shown = plain(text, width)
    assert len(shown) <= width
    assert shown == plain(text) or width == 0 or shown.endswith("…")


@pytest.mark.parametrize("mark", ["\u0301", "\u0489", "\u20dd", "\u0e31", "\u302e"])
def test_k03_a_flood_of_combining_marks_is_bounded(mark: str):
    """Four marks on a character stay, of whatever class they are; the rest are written out."""
    shown = plain("a" + mark * 100)
    assert shown.count(mark) == 4
    assert shown.isprintable()


@pytest.mark.parametrize("text", ["ที่นี่", "བརྒྱུད", "हिन्दी", "မြွှေ့", "Tiếng Việt", "1\u20e3"])
def test_words_with_marks_are_left_alone(text: str):
    """The marks that scripts stack on one letter pass."""
    assert plain(text) == text


def test_a_long_line_is_cut_before_it_is_escaped():
    """A megabyte of escapes cut to a width costs nothing like a megabyte."""
    assert plain("\x1b" * 1_000_000, 8) == "\\x1b\\x1…"
