"""What the screens with a tree of lines and the words about the chosen one have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.screen import Screen

from tui.chain import problems
from tui.widgets.explain_pane import ExplainPane
from tui.widgets.line_view import LineView
from tui.widgets.provenance_tree import ProvenanceTree

if TYPE_CHECKING:
    from tui.app import VerirouteApp


class TreeScreen(Screen[None]):
    """Holds a `ProvenanceTree` `#tree` and an `ExplainPane` `#explain`. `NO_PROBLEM`: what is said when all is well."""

    app: VerirouteApp

    NO_PROBLEM: ClassVar[str]

    @property
    def tree_view(self) -> ProvenanceTree:
        return self.query_one("#tree", ProvenanceTree)

    def on_line_view_moved(self, event: LineView.Moved) -> None:
        self.query_one("#explain", ExplainPane).explain(self.tree_view.selected)

    def on_line_view_chosen(self, event: LineView.Chosen) -> None:
        self.tree_view.fold()

    def action_back(self) -> None:
        self.dismiss()

    def action_fold(self) -> None:
        self.tree_view.fold()

    def action_fold_to(self, closed: bool) -> None:
        self.tree_view.fold(closed)

    def action_words(self, by: int) -> None:
        self.query_one("#explain", ExplainPane).page(by)

    def action_problem(self, step: int) -> None:
        tree = self.tree_view
        found = problems(tree.root) if tree.root is not None else []
        if not found:
            self.app.say(self.NO_PROBLEM)
            return
        at = next((number for number, item in enumerate(found) if item is tree.selected), -1 if step > 0 else 0)
        tree.select(found[(at + step) % len(found)])
        self.query_one("#explain", ExplainPane).explain(tree.selected)

    def action_copy(self) -> None:
        selected = self.tree_view.selected
        if selected is None or not selected.copy:
            self.app.say("this line has nothing to copy: no digest, no id", severity="warning")
            return
        self.app.copy(selected.copy)
