"""Explains the selected line of the provenance: what was looked at, found and expected, and what a failure means."""

from __future__ import annotations

from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from tui.chain import HERE, Line
from tui.text import line, lines
from tui.verdicts import COLOURS, mark, sentence

_NAME_CELLS = 14


class ExplainPane(VerticalScroll):
    """`explain(line)` fills it."""

    can_focus = False

    def __init__(self, *, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.ascii_only = ascii_only
        self._text = Static("", markup=False)

    def compose(self) -> list[Static]:
        return [self._text]

    def explain(self, item: Line | None) -> None:
        """Explain `item`."""
        self._text.update(explanation(item, ascii_only=self.ascii_only))
        self.scroll_home(animate=False)


def explanation(item: Line | None, *, ascii_only: bool = False) -> Content:
    """Title, outcome, by whom it is known, the facts one a line, and the words of the registry."""
    if item is None:
        return line(("", ""))
    judged = item.judged
    rows = [line((item.title or item.key, "bold")), line(("", ""))]
    if judged is not None:
        rows.append(
            line((f"{'outcome':<{_NAME_CELLS}}", "$text-muted"), (mark(judged, ascii_only=ascii_only), COLOURS[judged]))
        )
        rows.append(line((f"{'':<{_NAME_CELLS}}", ""), (sentence(judged), "$text-muted")))
    style = "$success" if item.told == HERE else "$text-muted"
    rows.append(line((f"{'known':<{_NAME_CELLS}}", "$text-muted"), (item.told, style)))
    for name, value in item.facts:
        rows.append(line((f"{name:<{_NAME_CELLS}}", "$text-muted"), (value, "")))
    for words in item.words:
        rows += [line(("", "")), line((words, ""))]
    return lines(rows)
