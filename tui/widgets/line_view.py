"""A scrolling list of one-line items with a cursor, drawn line by line: only what is visible exists.

Textual's own page keys animate for 850 ms and its `DataTable` measures every cell of every new row; both were measured
and both are why this is here. A subclass says how many lines there are and draws one.
"""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.actions import bindings


class LineView(ScrollView, can_focus=True):
    """Cursor, paging and painting. `length()` and `draw(line, width)` are the subclass's."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("list")
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "mark--pass",
        "mark--warn",
        "mark--fail",
        "mark--none",
        "glyph--pass",
        "glyph--warn",
        "glyph--fail",
        "glyph--none",
        "line--dim",
        "line--cursor",
        "line--strong",
    }
    DEFAULT_CSS = """
    LineView {
        overflow-x: hidden;
        overflow-y: auto;
        scrollbar-size-vertical: 1;
        scrollbar-gutter: stable;
        & > .line--cursor { background: $block-cursor-blurred-background; text-style: bold; }
        &:focus > .line--cursor { background: $primary 45%; text-style: bold; }
        & > .line--dim { color: $text-muted; }
        & > .line--strong { text-style: bold; }
        & > .mark--pass { color: $text-success; }
        & > .mark--warn { color: $text-warning; text-style: bold; }
        & > .mark--fail { color: $text-error; text-style: bold reverse; }
        & > .mark--none { color: $text-muted; }
        & > .glyph--pass { color: $text-success; }
        & > .glyph--warn { color: $text-warning; text-style: bold; }
        & > .glyph--fail { color: $text-error; text-style: bold; }
        & > .glyph--none { color: $text-muted; text-style: bold; }
    }
    """

    class Moved(Message):
        """The cursor stands on another item now. `by_user` is false when items came in above it."""

        def __init__(self, view: LineView, by_user: bool) -> None:
            super().__init__()
            self.view = view
            self.by_user = by_user

        @property
        def control(self) -> LineView:
            return self.view

    class Chosen(Message):
        """Enter, or a click on the line that the cursor stands on."""

        def __init__(self, view: LineView) -> None:
            super().__init__()
            self.view = view

        @property
        def control(self) -> LineView:
            return self.view

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.cursor = 0

    def length(self) -> int:
        """How many lines there are."""
        raise NotImplementedError

    def draw(self, line: int, width: int) -> list[tuple[str, str]]:
        """The parts of one line as (clean text, component class or ""); longer lines are cut at `width`."""
        raise NotImplementedError

    @property
    def across(self) -> int:
        """How many cells a line has, beside the scrollbar."""
        return self.scrollable_content_region.width

    # --- size and cursor

    def resized(self) -> None:
        """The number of lines changed: adjust the scroll range and the cursor, and repaint."""
        self.virtual_size = Size(self.across, self.length())
        self.cursor = max(0, min(self.cursor, self.length() - 1))
        self.refresh()

    def on_resize(self, event: events.Resize) -> None:
        self.resized()
        self.show_cursor()

    def move_to(self, line: int, *, by_user: bool = True) -> None:
        """Put the cursor on `line`, or the nearest there is, and bring it into view."""
        line = max(0, min(line, self.length() - 1))
        if line != self.cursor:
            before, self.cursor = self.cursor, line
            self.refresh_line(before)
            self.refresh_line(line)
            self.post_message(self.Moved(self, by_user))
        self.show_cursor()

    def show_cursor(self) -> None:
        """Scroll as little as is needed to have the cursor on screen."""
        top, height = round(self.scroll_y), max(self.size.height, 1)
        if self.cursor < top:
            self.jump(self.cursor)
        elif self.cursor >= top + height:
            self.jump(self.cursor - height + 1)

    def jump(self, top: int) -> None:
        """Scroll at once so that line `top` is the first visible one."""
        self.scroll_to(y=max(0, top), animate=False, force=True)

    # --- painting

    def render_line(self, y: int) -> Strip:
        line = y + round(self.scroll_y)
        width = self.across
        base = self.rich_style
        if not 0 <= line < self.length():
            return Strip.blank(width, base)
        selected = line == self.cursor
        row = self.get_component_rich_style("line--cursor", partial=True) if selected else Style()
        segments = [Segment(text, base + self._style(name) + row) for text, name in self.draw(line, width) if text]
        return Strip(segments).adjust_cell_length(width, base + row)

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(name, partial=True) if name else Style()

    # --- keys and mouse

    def action_move(self, by: int) -> None:
        self.move_to(self.cursor + by)

    def action_page(self, by: float) -> None:
        step = max(1, int(self.size.height * abs(by)))
        self.move_to(self.cursor + (step if by > 0 else -step))

    def action_first(self) -> None:
        self.move_to(0)

    def action_last(self) -> None:
        self.move_to(self.length() - 1)

    def action_choose(self) -> None:
        if self.length():
            self.post_message(self.Chosen(self))

    def on_click(self, event: events.Click) -> None:
        line = event.y + round(self.scroll_y)
        if not 0 <= line < self.length():
            return
        if line == self.cursor:
            self.action_choose()
        else:
            self.move_to(line)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        event.prevent_default()
        self.scroll_relative(y=3, animate=False)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        event.prevent_default()
        self.scroll_relative(y=-3, animate=False)
