"""Every key of the screen below, generated from the one table of actions."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from tui.actions import bindings, key_name, of
from tui.filters import HELP as FILTER_HELP
from tui.text import fit, line, lines
from tui.verdicts import COLOURS, MARKS, sentence

_TITLES = {
    "app": "everywhere",
    "list": "in a list",
    "traffic": "traffic",
    "receipt": "receipt",
    "nodes": "nodes",
    "raw": "stored bytes",
    "trouble": "no source",
}


class HelpScreen(ModalScreen[None]):
    """`contexts` of the screen that was asked about, most particular first."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("help")

    def __init__(self, contexts: tuple[str, ...]) -> None:
        super().__init__()
        self._contexts = contexts

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help"):
            yield Static(help_content(self._contexts), markup=False)

    def action_back(self) -> None:
        self.dismiss()


def help_content(contexts: tuple[str, ...]) -> Content:
    """The help of these contexts: verdicts, keys, and the filter language where there is a filter."""
    rows = [line(("Verdicts", "bold"))]
    for tier, drawn in MARKS.items():
        rows.append(
            line(
                (f"  {drawn.glyph} {drawn.word}  ", COLOURS[tier]),
                (f"{tier.value:<16} ", ""),
                (sentence(tier), "$text-muted"),
            )
        )
    for context in contexts:
        rows += [line(("", "")), line((f"Keys: {_TITLES.get(context, context)}", "bold"))]
        for action in of(context):
            keys = " ".join(key_name(key) for key in action.keys)
            rows.append(
                line(("  " + fit(keys, 14), "bold"), (fit(action.title, 13), ""), (action.tooltip, "$text-muted"))
            )
    if "traffic" in contexts:
        rows += [line(("", "")), line(("Filter", "bold")), line((f"  {FILTER_HELP}", "$text-muted"))]
    return lines(rows)
