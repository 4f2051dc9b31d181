"""One exchange: why its answer may, or may not, be relied on.

On opening, the bundle is fetched and checked here, in a thread. Until that is done the screen says that everything on
it is a claim of the gateway; afterwards it says what was re-verified, with which keys and in what time. A difference
between what was claimed and what the stored bytes show is the loudest thing on it.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.content import Content
from textual.widgets import Footer, Static

from gateway.errors import ServiceError, VerirouteError
from gateway.model.verdict import Outcome
from tui.actions import bindings
from tui.chain import Line, chain
from tui.columns import short_id
from tui.proofs import add_proofs
from tui.reverify import Findings, reverify, step_lines
from tui.source import Row
from tui.text import line, lines
from tui.verdicts import COLOURS, MARKS, mark, outcome
from tui.widgets.explain_pane import ExplainPane
from tui.widgets.provenance_tree import ProvenanceTree
from tui.widgets.status_bar import StatusBar

from .raw import RawScreen, parts_of
from .tree import TreeScreen

if TYPE_CHECKING:
    from tui.app import VerirouteApp

_RETRY_S = 1.0
#: Reasons of a ServiceError that say that the source is away.
_PASSING = frozenset(("unreachable", "timeout", "cut"))


class ReceiptScreen(TreeScreen):
    """The provenance of `row`."""

    app: VerirouteApp

    NO_PROBLEM = "no problem in this exchange: every check affirms"
    CONTEXTS = ("receipt", "list", "app")
    BINDINGS: ClassVar[list[BindingType]] = bindings("receipt")
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012  Textual declares it so

    def __init__(self, row: Row) -> None:
        super().__init__()
        self.row = row
        self.findings: Findings | None = None
        self._data: bytes | None = None

    def compose(self) -> ComposeResult:
        ascii_only = self.app.ascii_only
        yield StatusBar(self.app.pulse, "RECEIPT", ascii_only=ascii_only)
        yield Static("", id="banner", markup=False)
        with Container(id="chain"):
            yield ProvenanceTree(ascii_only=ascii_only, id="tree")
            yield ExplainPane(ascii_only=ascii_only, id="explain")
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self.tree_view.focus()
        self.open_row(self.row)

    def open_row(self, row: Row) -> None:
        """Show another exchange."""
        self.row, self.findings, self._data = row, None, None
        self.tree_view.show(chain(row, None, [self._waiting()]))
        self._say()
        self.run_worker(self._check(), group="check", exclusive=True)

    async def _check(self) -> None:
        """Fetch the bundle if it is not here yet, from a source that is away when it is back; check it in a thread."""
        row = self.row
        while (data := self._data) is None:
            try:
                self._data = await self.app.source.bundle(row.id)
            except VerirouteError as error:
                self._found(row, Findings(error=str(error)))
                if not isinstance(error, ServiceError) or error.reason not in _PASSING:
                    return
                await self.app.until_back(_RETRY_S)
        self._found(row, await asyncio.to_thread(reverify, data, row, self.app.pins, time.time()))

    def _found(self, row: Row, findings: Findings) -> None:
        if row is not self.row or not self.is_attached:
            return
        first = self.findings is None
        self.findings = findings
        placed = step_lines(findings)
        root = chain(row, findings.statement, placed.pop("receipt", []))
        add_proofs(root, findings.statement)
        for branch in root.below:
            branch.below += placed.get(branch.key, [])
        if findings.differs:
            root.outcome = Outcome.CONTRAINDICATED
            root.below.insert(0, _difference(findings))
        if first:
            self.tree_view.show(root)
        else:
            self.tree_view.replace(root)
        self._say()

    def _waiting(self) -> Line:
        return Line(key="reading", text="the receipt and its evidence …", title="Reading the stored bytes")

    # --- saying

    def _say(self) -> None:
        self.query_one("#banner", Static).update(banner(self.row, self.findings, ascii_only=self.app.ascii_only))
        loud = self.findings is not None and bool(self.findings.differs)
        self.query_one("#banner", Static).set_class(loud, "-differs")

    # --- keys

    def action_verify(self) -> None:
        self.query_one("#banner", Static).update(line((" checking …", "$text-muted")))
        self.run_worker(self._check(), group="check", exclusive=True)

    def action_raw(self) -> None:
        if self._data is None or self.findings is None:
            self.app.say("the stored bytes are not here (yet)", severity="warning")
            return
        self.app.push_screen(RawScreen(self.row, parts_of(self._data, self.findings), self.app.pulse))

    def action_step(self, by: int) -> None:
        for screen in self.app.screen_stack:
            if hasattr(screen, "step"):
                screen.step(by)


def banner(row: Row, findings: Findings | None, *, ascii_only: bool = False) -> Content:
    """Two lines: the stored verdict; and whether it is a claim, or was re-verified here, by which keys, how fast."""
    stored = mark(outcome(row.verdict), ascii_only=ascii_only)
    colour = COLOURS[outcome(row.verdict)]
    release = f"  {row.release}" + (f": {row.reason}" if row.reason else "")
    name = (f" {short_id(row.id)}  ", "bold")
    if findings is not None and findings.differs:
        fail = MARKS[Outcome.CONTRAINDICATED]
        cross = fail.ascii if ascii_only else fail.glyph
        more = f"(+{len(findings.differs) - 1} more) " if len(findings.differs) > 1 else ""
        shout = line(
            name, (f" {cross} THE RECORD DOES NOT HOLD ", "reverse bold"), (f"  claimed: {stored}{release}", "")
        )
        return lines([shout, line((f" {more}{findings.differs[0]}", "bold"))])
    head = [name, (stored, colour), (release, "")]
    if findings is None:
        return lines([line(*head), line((" claimed by the gateway; reading its evidence …", "$text-muted"))])
    if findings.error is not None:
        return lines(
            [line(*head), line((f" claimed by the gateway, not re-verified: {findings.error}", "$text-warning"))]
        )
    took = f", {findings.took_ms:.0f} ms, no network"
    if findings.holds:
        said = f" the record holds: re-verified here{took}, keys from {findings.keys}"
        return lines([line(*head), line((said, "$text-success"))])
    if findings.keys is None:
        said = f" re-verified here{took}, with keys THAT CAME WITH IT: --trust FILE pins your own"
    else:
        said = f" re-verified here in part{took}; n walks what could not be decided"
    return lines([line(*head), line((said, "$text-warning"))])


def _difference(findings: Findings) -> Line:
    return Line(
        key="differs",
        text=f"{len(findings.differs)} contradictions" if len(findings.differs) > 1 else "1 contradiction",
        told="re-verified here, from the stored bytes",
        title="What is stored does not bear out what was claimed",
        words=["Keep the bundle (x shows its bytes) and do not rely on this record.", *findings.differs],
        below=[
            Line(
                key=f"differs {number}",
                text=sentence,
                outcome=Outcome.CONTRAINDICATED,
                told="re-verified here, from the stored bytes",
                title="What is stored does not bear out what was claimed",
                words=[sentence],
            )
            for number, sentence in enumerate(findings.differs, 1)
        ],
    )
