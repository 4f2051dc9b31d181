"""Text on its way into CSV: inert in spreadsheet programs, and read back exactly."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.csv_cells import cell, uncell
from gateway.errors import FormatError

DANGEROUS = (
    *("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "＋1", "－1", "＠x", "﹦1", "﹢1", "﹣1", "﹫x"),
    *(" =1", "   @x", "\u2212 1", "\xa0=1", "'=1", "x;=1", ";=cmd|' /C calc'!A0", '"=1"', "a\tb", "a\r\nb", "\x00=1"),
)


@pytest.mark.parametrize("text", DANGEROUS)
def test_k08_no_cell_can_begin_a_formula(text: str):
    """No cell begins with a formula's sign, wherever a program cuts the line."""
    shown = cell(text)
    for part in (shown, *shown.split(";"), *shown.split("\t")):
        assert part.strip(" ")[:1] not in "=+-@＝＋－＠﹦﹢﹣﹫\u2212"
    assert uncell(shown) == text


@given(st.text(alphabet=st.characters(categories=None)))
def test_k08_every_text_reads_back(text: str):
    """Any text, lone surrogates included, comes back from its cell, and the cell is printable."""
    shown = cell(text)
    assert shown.isprintable()
    assert uncell(shown) == text


@given(st.lists(st.text(max_size=8), min_size=1, max_size=5))
def test_a_row_survives_a_csv_reader(values: list[str]):
    """Cells that hold quotes, commas and breaks come back through the standard reader."""
    out = io.StringIO()
    csv.writer(out).writerow([cell(v) for v in values])
    (row,) = csv.reader(io.StringIO(out.getvalue()))
    assert [uncell(c) for c in row] == values


def test_absent_and_empty_are_told_apart():
    """Nothing is an empty cell, empty text is one apostrophe."""
    assert (cell(None), cell("")) == ("", "'")
    assert (uncell(""), uncell("'")) == (None, "")


@pytest.mark.parametrize("shown", ["=1", "a\\", "\\q", "\\x1", "\\U99999999", "a;b", "\t", "\\x41", "'a"])
def test_what_the_rule_does_not_write_is_refused(shown: str):
    """A cell in another spelling is a FormatError."""
    with pytest.raises(FormatError):
        uncell(shown)
