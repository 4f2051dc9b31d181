"""The nodes that the gateway knows, read again every few seconds: state, evidence, and what canaries found."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.widgets import Footer, Static

from gateway.errors import VerirouteError
from tui.actions import bindings
from tui.nodes import nodes_tree
from tui.text import clean, line
from tui.widgets.explain_pane import ExplainPane
from tui.widgets.provenance_tree import ProvenanceTree
from tui.widgets.status_bar import StatusBar

from .tree import TreeScreen

if TYPE_CHECKING:
    from tui.app import VerirouteApp

READ_S = 3.0


class NodesScreen(TreeScreen):
    """Lies on top of the traffic. One worker reads; it ends with the screen."""

    app: VerirouteApp

    NO_PROBLEM = "no problem among the nodes: every check affirms"
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

    # --- keys

    def action_again(self) -> None:
        self.run_worker(self._read(), group="nodes", exclusive=True)
