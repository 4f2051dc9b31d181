"""Explains the selected line of the provenance: what was looked at, found and expected, and what a failure means."""

from __future__ import annotations

import textwrap

from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from tui.chain import HERE, Line
from tui.text import clean, fit, line, lines
from tui.verdicts import COLOURS, mark, sentence

_NAME_CELLS = 14


class ExplainPane(VerticalScroll):
    """`explain(line)` fills it."""

    can_focus = False

    def __init__(self, *, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.ascii_only = ascii_only
        self._text = Static("", markup=False)
        self._item: Line | None = None

    def compose(self) -> list[Static]:
        return [self._text]

    def explain(self, item: Line | None) -> None:
        """Explain `item`."""
        self._item = item
        self._redraw()
        self.scroll_home(animate=False)

    def renew(self, item: Line | None) -> None:
        """Explain what the same line is by now, without moving what is being read."""
        self._item = item
        self._redraw()

    def page(self, by: int) -> None:
        """Scroll half of what is seen down (1) or up (-1): the words need not fit, and the tree keeps the focus."""
        self.scroll_relative(y=by * max(1, self.size.height // 2), animate=False)

    def on_resize(self) -> None:
        self._redraw()

    def _redraw(self) -> None:
        width = max(self.scrollable_content_region.width, 30)
        self._text.update(explanation(self._item, width, ascii_only=self.ascii_only))


def explanation(item: Line | None, width: int, *, ascii_only: bool = False) -> Content:
    """Title, outcome, by whom it is known, the facts with a hanging indent, and the words of the registry."""
    if item is None:
        return line(("", ""))
    judged = item.judged
    rows = [*_paragraph(item.title or item.key, width, "bold"), line(("", ""))]
    if judged is not None:
        said = f"{mark(judged, ascii_only=ascii_only)}  {sentence(judged)}"
        rows += _fact("outcome", said, width, COLOURS[judged])
    rows += _fact("known", item.told, width, "$text-success" if item.told == HERE else "$text-muted")
    for name, value in item.facts:
        rows += _fact(name, value, width, "")
    for words in item.words:
        rows += [line(("", "")), *_paragraph(words, width, "")]
    return lines(rows)


def _fact(name: str, value: str, width: int, style: str) -> list[Content]:
    """One fact, its name in a column of its own."""
    pieces = _wrap(value, width - _NAME_CELLS) or [""]
    heads = [name, *[""] * (len(pieces) - 1)]
    return [
        line((fit(head, _NAME_CELLS), "$text-muted"), (piece, style)) for head, piece in zip(heads, pieces, strict=True)
    ]


def _paragraph(words: str, width: int, style: str) -> list[Content]:
    return [line((piece, style)) for piece in _wrap(words, width)]


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(clean(text), max(width, 12), break_on_hyphens=False)
