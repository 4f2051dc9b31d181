"""A tree of checks and facts with guides, glyphs and folding. It draws `tui.chain.Line`s and judges nothing.

The glyph column is ours: it is drawn from an outcome, in front of anything that came from outside.
"""

from __future__ import annotations

from typing import NamedTuple

from rich.cells import cell_len
from textual.message import Message

from tui.chain import Line, problems, unfolded
from tui.text import clean, fit
from tui.verdicts import MARKS, glyph

from .line_view import LineView

_KEY_CELLS = (8, 22)  # keys of one branch are as wide as the widest, within this


class Shown(NamedTuple):
    """One visible line: the guides in front of it, its parent's position (-1: none), the cells for its key."""

    line: Line
    guides: str
    parent: int
    cells: int


class ProvenanceTree(LineView):
    """Show a tree with `show(root)`. `Moved` says that another line is selected."""

    class Folded(Message):
        """A branch was opened or closed."""

    def __init__(self, *, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.ascii_only = ascii_only
        self.root: Line | None = None
        self._open: set[int] = set()
        self._shown: list[Shown] = []

    def show(self, root: Line) -> None:
        """Show `root`: closed where everything affirms, open down to the first problem otherwise."""
        self.root = root
        self._open = unfolded(root)
        self.cursor = 0
        self._flatten()
        found = problems(root)
        if found:
            self.select(found[0])
        self.post_message(self.Moved(self, False))

    def replace(self, root: Line) -> None:
        """Show a newer tree of the same exchange, keeping what is open and where the cursor stands, by their keys."""
        if self.root is None:
            self.show(root)
            return
        self._exchange(root, unfolded(root))
        self.post_message(self.Moved(self, False))

    def renew(self, root: Line) -> None:
        """Show what the lines of this tree are by now: nothing else opens, and the cursor stays where it is."""
        self._exchange(root, set())

    def _exchange(self, root: Line, opened_too: set[int]) -> None:
        before = [] if self.root is None else _paths(self.root)
        opened = {path for path, line in before if id(line) in self._open}
        at = next((path for path, line in before if line is self.selected), ())
        self.root = root
        self._open = {id(line) for path, line in _paths(root) if path in opened} | opened_too
        self._flatten()
        for path, line in _paths(root):
            if path == at:
                self.select(line)

    @property
    def selected(self) -> Line | None:
        """The line that the cursor stands on."""
        return self._shown[self.cursor].line if self._shown else None

    def select(self, wanted: Line) -> None:
        """Open what hides `wanted` and put the cursor on it."""
        if self.root is None:
            return
        for line in self.root.walk():
            if line is not wanted and any(below is wanted for below in line.walk()):
                self._open.add(id(line))
        self._flatten()
        for number, shown in enumerate(self._shown):
            if shown.line is wanted:
                self.move_to(number, by_user=False)

    def fold(self, closed: bool | None = None) -> None:
        """Close or open the selected branch; None: the other way. Closing a leaf goes to the line above it."""
        shown = self._shown[self.cursor] if self._shown else None
        if shown is None:
            return
        is_open = id(shown.line) in self._open and bool(shown.line.below)
        if closed is None:
            closed = is_open
        if closed and not is_open:
            self.move_to(max(shown.parent, 0))
            return
        if closed:
            self._open.discard(id(shown.line))
        elif shown.line.below:
            self._open.add(id(shown.line))
        self._flatten()
        self.post_message(self.Folded())

    def _flatten(self) -> None:
        self._shown = []
        if self.root is not None:
            self._add(self.root, "", "", -1, 0)
        self.resized()

    def _add(self, line: Line, guides: str, below: str, parent: int, cells: int) -> None:
        at = len(self._shown)
        self._shown.append(Shown(line, guides, parent, cells))
        if id(line) not in self._open:
            return
        least, most = _KEY_CELLS
        wide = min(max(least, *(cell_len(clean(child.key)) + _arrow_cells(child) for child in line.below), 0), most)
        tee, elbow, bar = ("|- ", "`- ", "|  ") if self.ascii_only else ("├─ ", "└─ ", "│  ")
        for number, child in enumerate(line.below, 1):
            last = number == len(line.below)
            self._add(child, below + (elbow if last else tee), below + ("   " if last else bar), at, wide)

    # --- drawing

    def length(self) -> int:
        return len(self._shown)

    def draw(self, line: int, width: int) -> list[tuple[str, str]]:
        item, guides, _, cells = self._shown[line]
        judged = item.judged
        arrow = self._arrow(item)
        parts = [(guides, "line--dim"), (arrow, "line--dim")]
        if judged is None:
            parts.append((". " if self.ascii_only else "· ", "line--dim"))
        else:
            parts.append(
                (f"{glyph(judged, ascii_only=self.ascii_only)} ", MARKS[judged].style.replace("mark", "glyph"))
            )
        if line == 0 and judged is not None:
            parts += [(f"{clean(item.key)}  ", "line--strong"), (MARKS[judged].word, MARKS[judged].style), ("  ", "")]
        else:
            key = fit(item.key, cells - _arrow_cells(item))
            parts.append((key + "  ", "line--strong" if item.below else ""))
        used = sum(cell_len(text) for text, _ in parts)
        parts.append((fit(item.text, max(0, width - used)), ""))
        return parts

    def _arrow(self, item: Line) -> str:
        if not item.below:
            return ""
        if self.ascii_only:
            return "- " if id(item) in self._open else "+ "
        return "▼ " if id(item) in self._open else "▶ "


def _arrow_cells(item: Line) -> int:
    return 2 if item.below else 0


def _paths(root: Line, above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Line]]:
    """Every line with the keys that lead to it."""
    path = (*above, root.key)
    return [(path, root), *(pair for below in root.below for pair in _paths(below, path))]
