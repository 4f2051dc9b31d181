"""The virtual list of receipts: newest first, live, and as cheap with a million rows as with ten.

Following: the cursor stays on the newest row as rows come in. As soon as the cursor is moved the list is *held*: what
you look at stays where it is, and rows that come in are counted above it. Live rows are taken in at most ten times a
second, however fast they arrive.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from textual import events
from textual.message import Message

from tui.columns import Cell, Column, columns_for, fill
from tui.feed import Feed
from tui.source import Row
from tui.text import fit

from .line_view import LineView

#: How often live rows are taken in. Measured: 50 and 1 000 rows a second then cost the same.
COALESCE_S = 0.1
_MAX_PENDING = 50_000
_DRAWN = 2_000
_READ_ON = 10_000  # rows that one `G` reads on, where a source gives them page by page


class RowsView(LineView):
    """Shows a `Feed`. Whoever owns it answers `Wanted` by `feed.want` and then calls `arrived()`."""

    class Wanted(Message):
        """Rows of this range of positions are about to be looked at and are not in memory."""

        def __init__(self, first: int, end: int) -> None:
            super().__init__()
            self.first = first
            self.end = end

    class Counted(Message):
        """How many rows came in while the list is held, or whether it follows, changed."""

    def __init__(self, *, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.feed: Feed | None = None
        self.follow = True
        self.unseen = 0
        self.ascii_only = ascii_only
        self._pending: deque[Row] = deque(maxlen=_MAX_PENDING)
        self._columns: tuple[Column, ...] = columns_for(80)
        self._drawn: OrderedDict[int, list[Cell]] = OrderedDict()
        self._asked: tuple[int, int] | None = None
        self._timer_on = False
        self._to_end = False

    # --- rows

    def show(self, feed: Feed) -> None:
        """Show another feed from its newest row on, and follow it."""
        self.feed = feed
        self._drawn.clear()
        self._pending.clear()
        self._asked = None
        self.cursor, self.unseen, self.follow = 0, 0, True
        self.resized()
        self.jump(0)
        self.post_message(self.Moved(self, False))
        self._read_on(0)

    def push(self, row: Row) -> None:
        """A live row. Cheap; it is taken in with the next tick."""
        self._pending.append(row)
        if not self._timer_on:
            self._timer_on = True
            self.set_timer(COALESCE_S, self.take_in)

    def take_in(self) -> None:
        """Take in the live rows that wait."""
        self._timer_on = False
        if self.feed is None or not self._pending:
            return
        batch = list(self._pending)
        self._pending.clear()
        self.came_in(self.feed.add(batch))

    def came_in(self, positions: list[int]) -> None:
        """Rows stand at `positions` now that were not there: keep the cursor on its row, or on the newest."""
        if not positions or self.feed is None:
            return
        first = len(positions) == len(self.feed)
        self.virtual_size = self.virtual_size.with_height(self.length())
        if self.follow or first:
            self.cursor = 0
            self.jump(0)
            self.refresh()
            self.post_message(self.Moved(self, False))
            return
        above = _pushed(self.cursor, positions)
        self.cursor += above
        self.unseen += len(positions)
        top = round(self.scroll_y)
        moved = _pushed(top, positions)
        if moved:
            self.jump(top + moved)
        self.refresh()
        self.post_message(self.Counted())

    def arrived(self) -> None:
        """What `Wanted` asked for is in memory now."""
        self._asked = None
        self.resized()
        if self._to_end:
            self._to_end = False
            self.move_to(self.length() - 1, by_user=False)
        self._read_on(round(self.scroll_y))

    @property
    def row(self) -> Row | None:
        """The row that the cursor stands on, if it is in memory."""
        return self.feed.at(self.cursor) if self.feed is not None else None

    # --- following

    def hold(self) -> None:
        """Keep the list still from now on."""
        if self.follow:
            self.follow, self.unseen = False, 0
            self.post_message(self.Counted())

    def go_on(self) -> None:
        """Jump to the newest row and follow."""
        self.follow, self.unseen = True, 0
        self.move_to(0)
        self.jump(0)
        self.post_message(self.Counted())

    def move_to(self, line: int, *, by_user: bool = True) -> None:
        if by_user and line > 0:
            self.hold()
        super().move_to(line, by_user=by_user)
        if by_user and self.feed is not None and not self.feed.complete and self.cursor >= self.length() - 1:
            self._ask(self.length(), self.length() + 2 * max(self.size.height, 1))

    def action_first(self) -> None:
        self.go_on()

    def action_last(self) -> None:
        """To the oldest row known; where older ones are still to be read, a good many are read first."""
        if self.feed is not None and not self.feed.complete:
            self.hold()
            self._to_end = True
            self._ask(self.length(), self.length() + _READ_ON)
        else:
            self.move_to(self.length() - 1)

    # --- drawing

    def length(self) -> int:
        return len(self.feed) if self.feed is not None else 0

    def resized(self) -> None:
        if self.across:
            self._columns = columns_for(self.across)
            self._drawn.clear()
        super().resized()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns as laid out now; the heading above the list uses the same."""
        return self._columns

    def draw(self, line: int, width: int) -> list[Cell]:
        feed = self.feed
        row = feed.at(line) if feed is not None else None
        if row is None:
            self._ask(line - self.size.height, line + 2 * self.size.height)
            return [(fit(" …", width), "line--dim")]
        cells = self._drawn.get(row.index)
        if cells is None:
            cells = self._drawn[row.index] = fill(row, self._columns, ascii_only=self.ascii_only)
            if len(self._drawn) > _DRAWN:
                self._drawn.popitem(last=False)
        return cells

    def _ask(self, start: int, stop: int) -> None:
        wanted = (max(0, start), max(0, stop))
        if self._asked is not None and self._asked[0] <= wanted[0] and wanted[1] <= self._asked[1]:
            return
        self._asked = wanted
        self.post_message(self.Wanted(*wanted))

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._read_on(round(new_value))

    def on_resize(self, event: events.Resize) -> None:
        super().on_resize(event)
        event.prevent_default()
        self._read_on(round(self.scroll_y))

    def _read_on(self, top: int) -> None:
        """With line `top` the first visible one, read older rows before the end comes into view: where a filter fits
        few rows there may be none yet."""
        if self.feed is None or self.feed.complete:
            return
        bottom = top + 2 * max(self.size.height, 1)
        if bottom > self.length():
            self._ask(self.length(), bottom)


def _pushed(line: int, positions: list[int]) -> int:
    """By how many lines what stood at `line` was pushed down, when new rows stand at `positions` now."""
    moved = 0
    for position in sorted(positions):
        if position <= line + moved:
            moved += 1
    return moved
