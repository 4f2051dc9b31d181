"""Live exchanges, newest first; the selected one in more words below where there is room.

Three workers live here: one reads the feed that the filter selects, one takes in live rows, one reads what scrolling
asks for. Each ends with the screen.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.screen import Screen
from textual.widgets import Footer, Input, Static

from gateway.errors import FormatError, VerirouteError
from tui.actions import bindings
from tui.columns import heading, number
from tui.feed import Feed
from tui.filters import HELP, Filter, is_problem, parse_filter
from tui.text import clean, line
from tui.widgets.exchange_pane import ExchangePane
from tui.widgets.line_view import LineView
from tui.widgets.rows_view import RowsView
from tui.widgets.status_bar import StatusBar

from .receipt import ReceiptScreen

if TYPE_CHECKING:
    from tui.app import VerirouteApp

#: A live feed loses rows by design. While rows come in, the log is read again this often to be complete.
SETTLE_S = 5.0
_RETRY_S = 1.0
_SEARCH_ROWS = 200_000


class TrafficScreen(Screen[None]):
    """The first screen; the others lie on top of it."""

    app: VerirouteApp

    CONTEXTS = ("traffic", "list", "app")
    BINDINGS: ClassVar[list[BindingType]] = bindings("traffic")
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012  Textual declares it so
    VERTICAL_BREAKPOINTS = [(0, "-low"), (30, "-high")]  # noqa: RUF012  Textual declares it so

    def __init__(self) -> None:
        super().__init__()
        self.chosen = Filter()
        self.searching = False
        self.rows: RowsView
        self._note = ""
        self._live = False
        self._log = 0
        self._wanted: tuple[int, int] | None = None

    def compose(self) -> ComposeResult:
        ascii_only = self.app.ascii_only
        yield StatusBar(self.app.pulse, "1 TRAFFIC", ascii_only=ascii_only)
        with Horizontal(id="filter-line"):
            yield Static("", id="filter-shown", markup=False)
            yield Static("", id="count", markup=False)
        yield Input(placeholder=HELP, id="filter", compact=True)
        yield Static("", id="heading", markup=False)
        self.rows = RowsView(ascii_only=ascii_only, id="rows")
        yield self.rows
        yield ExchangePane(ascii_only=ascii_only, id="exchange")
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self.query_one("#filter", Input).display = False
        self.rows.focus()
        self.open_feed()
        self.run_worker(self._tail(), group="tail", exclusive=True)
        self.set_interval(1.0, self._tick)

    # --- reading

    def open_feed(self) -> None:
        """Read what the filter selects, from the newest on."""
        self.run_worker(self._open(), group="open", exclusive=True)

    async def _open(self) -> None:
        feed = Feed(self.app.source, self.chosen)
        while True:
            try:
                await feed.open()
                break
            except VerirouteError as error:
                self._note = clean(error, 120)
                self._describe()
                await self._until_back()
        self._note = ""
        self.rows.show(feed)
        self._describe()

    async def _tail(self) -> None:
        """Take in live rows. Whatever ends the stream, what was missed meanwhile is read from the log."""
        while True:
            settle = self.set_interval(SETTLE_S, self._settle)
            try:
                async for row in self.app.source.tail():
                    self._live = True
                    self.rows.push(row)
            except VerirouteError:
                pass  # the pulse says it; the rows stay
            finally:
                settle.stop()
            if self.app.source.no_tail:
                return
            await self._until_back()
            self._live = True
            self._settle()

    def _settle(self) -> None:
        if self._live:
            self._live = False
            self.run_worker(self._catch_up(), group="settle", exclusive=True)

    async def _catch_up(self) -> None:
        feed = self.rows.feed
        if feed is None:
            return
        try:
            positions = await feed.catch_up()
        except VerirouteError:
            self._live = True  # asked again at the next turn
            return
        if feed is self.rows.feed:
            self.rows.came_in(positions)

    async def _until_back(self) -> None:
        """Wait until the pulse finds the source again, or a moment when it never lost it."""
        await self.app.until_back(_RETRY_S)

    def on_rows_view_wanted(self, event: RowsView.Wanted) -> None:
        self._wanted = (event.first, event.end)
        self.run_worker(self._read(), group="read", exclusive=False)

    async def _read(self) -> None:
        wanted, self._wanted = self._wanted, None
        feed = self.rows.feed
        if wanted is None or feed is None:
            return
        try:
            await feed.want(*wanted)
        except VerirouteError as error:
            self._note = clean(error, 120)
            await asyncio.sleep(_RETRY_S)
        if feed is self.rows.feed:
            self.rows.arrived()
            self._show_selected()
            self._describe()

    # --- saying

    def on_line_view_moved(self, event: LineView.Moved) -> None:
        self._show_selected()

    def on_rows_view_counted(self, event: RowsView.Counted) -> None:
        self._describe()

    def _tick(self) -> None:
        """Say how things are; list another log, where the source has one now, from its newest row on."""
        if self._log != self.app.pulse.logs:
            self._log = self.app.pulse.logs
            self.open_feed()
        self._describe()

    def on_resize(self) -> None:
        self.call_after_refresh(self._describe)

    def _show_selected(self) -> None:
        if not self.rows.is_attached:
            return
        self.query_one("#exchange", ExchangePane).show(self.rows.row)
        self._describe()

    def _describe(self) -> None:
        if not self.is_attached or not self.rows.is_attached:  # a worker that ends with the application
            return
        rows, feed = self.rows, self.rows.feed
        self.query_one("#heading", Static).update(line((heading(rows.columns), "$text-muted bold")))
        shown = self.query_one("#filter-shown", Static)
        if self._note:
            shown.update(line((f" {self._note}", "$text-warning")))
        elif self.searching:
            shown.update(line((" looking for the next one not affirmed …  esc stops", "$text-muted")))
        elif self.chosen:
            end = "   nothing fits; esc shows all" if _empty(feed) else ""
            shown.update(line((" filter: ", "$text-muted"), (self.chosen.source, "bold"), (end, "$text-muted")))
        elif _empty(feed):
            shown.update(line((" no exchange yet: each request to the gateway appears here", "$text-muted")))
        else:
            shown.update(line((" all exchanges", "$text-muted")))
        self.query_one("#count", Static).update(line(*self._count(feed)))

    def _count(self, feed: Feed | None) -> list[tuple[str, str]]:
        if feed is None:
            return [("reading … ", "$text-muted")]
        parts: list[tuple[str, str]] = []
        if not self.rows.follow:
            new = f" +{number(self.rows.unseen)} new" if self.rows.unseen else ""
            parts += [(f"held{new}", "$text-warning bold"), ("  f newest   ", "$text-muted")]
        elif self.app.source.no_tail:
            parts.append((f"{self.app.source.no_tail}   ", "$text-muted"))
        elif self.app.pulse.offline_since is None:
            parts.append(("following   ", "$text-success"))
        at = self.rows.cursor + 1 if len(feed) else 0
        more = "" if feed.complete else "+"
        return [*parts, (f"{number(at)} of {number(len(feed))}{more} ", "$text-muted")]

    # --- keys

    def action_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.display = True
        self.query_one("#filter-line").display = False
        box.value = self.chosen.source + (" " if self.chosen.source else "")
        box.cursor_position = len(box.value)
        self.set_focus(box)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        try:
            chosen = parse_filter(event.value, int(time.time() * 1000 + self.app.pulse.skew_ms))
        except FormatError as error:
            self.app.say(str(error), severity="warning")
            return
        self._close_filter()
        self.chosen = chosen
        self.open_feed()

    def _close_filter(self) -> None:
        self.query_one("#filter", Input).display = False
        self.query_one("#filter-line").display = True
        self.set_focus(self.rows)

    def action_back(self) -> None:
        if self.query_one("#filter", Input).display:
            self._close_filter()
        elif self.searching:
            self.searching = False
        elif self.chosen:
            self.chosen = Filter()
            self.open_feed()
        elif not self.rows.follow:
            self.rows.go_on()

    def action_pause(self) -> None:
        if self.rows.follow:
            self.rows.hold()
        else:
            self.rows.go_on()

    def action_follow(self) -> None:
        self.rows.go_on()

    def action_copy(self) -> None:
        if self.rows.row is not None:
            self.app.copy(self.rows.row.id)

    def on_line_view_chosen(self, event: LineView.Chosen) -> None:
        row = self.rows.row
        if row is not None:
            self.rows.hold()
            self.app.push_screen(ReceiptScreen(row))

    def action_problem(self, step: int) -> None:
        self.run_worker(self._search(step), group="search", exclusive=True)

    async def _search(self, step: int) -> None:
        """Walk to the next row that was not affirmed, reading on as far as it takes."""
        view, feed = self.rows, self.rows.feed
        if feed is None:
            return
        self.searching, at = True, view.cursor
        for walked in range(1, _SEARCH_ROWS):
            at += step
            if not self.searching or at < 0 or view.feed is not feed:
                break
            if feed.at(at) is None:
                try:
                    await feed.want(at, at + 200 * step if step > 0 else at + 1)
                except VerirouteError as error:
                    self.searching = False
                    self.app.say(str(error), severity="warning")
                    break
                view.arrived()
            row = feed.at(at)
            if row is None:
                break
            if is_problem(row):
                self.searching = False
                view.move_to(at)
                return
            if not walked % 500:
                await asyncio.sleep(0)
        if self.searching:
            self.searching = False
            if view.feed is feed:
                self.app.say(_no_problem(feed, at))
        self._describe()

    def step(self, by: int) -> None:
        """Move to the next older (1) or newer (-1) row and open it: used from the receipt screen."""
        at = self.rows.cursor + by
        row = self.rows.feed.at(at) if self.rows.feed is not None else None
        if row is None:
            self.app.say("that is the newest" if at < 0 else "that is the last one in memory; go on in the list")
            return
        self.rows.move_to(at)
        if isinstance(self.app.screen, ReceiptScreen):
            self.app.screen.open_row(row)


def _no_problem(feed: Feed, at: int) -> str:
    """What was found by a search that ended at position `at`; of what was not read it says nothing."""
    if not len(feed):
        return "there is no exchange here"
    if at < 0:
        return "every newer one was affirmed"
    if feed.complete and at >= len(feed):
        return "every older exchange here was affirmed"
    return "every older one that was read was affirmed; there are more"


def _empty(feed: Feed | None) -> bool:
    """Whether all that there is was read, and there is nothing."""
    return feed is not None and feed.complete and not len(feed)
