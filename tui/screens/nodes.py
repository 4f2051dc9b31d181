"""The nodes that the gateway knows, read again every few seconds: state, evidence, and what canaries found."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.screen import Screen
from textual.widgets import Footer, Static

from gateway.errors import VerirouteError
from tui.actions import bindings
from tui.chain import problems
from tui.nodes import nodes_tree
from tui.text import clean, line
from tui.widgets.explain_pane import ExplainPane
from tui.widgets.line_view import LineView
from tui.widgets.provenance_tree import ProvenanceTree
from tui.widgets.status_bar import StatusBar

if TYPE_CHECKING:
    from tui.app import VerirouteApp

READ_S = 3.0


class NodesScreen(Screen[None]):
    """Lies on top of the traffic. One worker reads; it ends with the screen."""

    app: VerirouteApp

    CONTEXTS = ("nodes", "list", "app")
    BINDINGS: ClassVar[list[BindingType]] = bindings("nodes")
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012  Textual declares it so

    def compose(self) -> ComposeResult:
        ascii_only = self.app.ascii_only
        yield StatusBar(self.app.pulse, "2 NODES", ascii_only=ascii_only)
        yield Static(line((" reading …", "$text-muted")), id="nodes-note", markup=False)
        with Container(id="chain"):
            yield ProvenanceTree(ascii_only=ascii_only, id="tree")
            yield ExplainPane(ascii_only=ascii_only, id="explain")
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self.tree_view.focus()
        self.run_worker(self._read(), group="nodes", exclusive=True)

    @property
    def tree_view(self) -> ProvenanceTree:
        return self.query_one("#tree", ProvenanceTree)

    async def _read(self) -> None:
        """Read the nodes for as long as the screen is there. What was read stays when the source goes away."""
        while True:
            try:
                root = nodes_tree(await self.app.source.nodes())
            except VerirouteError as error:
                self._note(clean(error, 160), "$text-warning")
            else:
                self._note("as the gateway sees them now", "$text-muted")
                if self.tree_view.root is None:
                    self.tree_view.show(root)
                else:
                    self.tree_view.renew(root)
                    self.query_one("#explain", ExplainPane).renew(self.tree_view.selected)
            await asyncio.sleep(READ_S)

    def _note(self, text: str, style: str) -> None:
        self.query_one("#nodes-note", Static).update(line((f" {text}", style)))

    def on_line_view_moved(self, event: LineView.Moved) -> None:
        self.query_one("#explain", ExplainPane).explain(self.tree_view.selected)

    def on_line_view_chosen(self, event: LineView.Chosen) -> None:
        self.tree_view.fold()

    # --- keys

    def action_back(self) -> None:
        self.dismiss()

    def action_fold(self) -> None:
        self.tree_view.fold()

    def action_fold_to(self, closed: bool) -> None:
        self.tree_view.fold(closed)

    def action_problem(self, step: int) -> None:
        tree = self.tree_view
        found = problems(tree.root) if tree.root is not None else []
        if not found:
            self.app.say("no problem among the nodes: every check affirms")
            return
        at = next((number for number, item in enumerate(found) if item is tree.selected), -1 if step > 0 else 0)
        tree.select(found[(at + step) % len(found)])
        self.query_one("#explain", ExplainPane).explain(tree.selected)

    def action_again(self) -> None:
        self.run_worker(self._read(), group="nodes", exclusive=True)

    def action_copy(self) -> None:
        selected = self.tree_view.selected
        if selected is None or not selected.copy:
            self.app.say("this line has nothing to copy: no digest, no id", severity="warning")
            return
        self.app.copy(selected.copy)
