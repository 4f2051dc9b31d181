"""The rows behind the traffic screen: which ones there are, newest first, and the few that are in memory.

Known rows are kept as log indexes (8 bytes each); the rows themselves live in a cache of `CACHE` and are read again
when they scroll back into view. So a million rows cost eight megabytes, and a repaint never waits for a source.

    feed.at(0)            the newest row, or None while it is being read
    await feed.want(0,40) reads what of that range is missing, and older rows near the known end
    feed.add(rows)        live rows; returns at which positions they came in
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable

from .filters import Filter
from .source import PAGE, Row, Source

CACHE = 20_000
#: Pages without a hit that one `want` looks through before it lets the screen breathe.
BARREN_PAGES = 20


class Feed:
    """Rows of one source under one filter. Positions count from the newest, 0."""

    def __init__(self, source: Source, chosen: Filter) -> None:
        self.source = source
        self.chosen = chosen
        self._newer: array[int] = array("q")  # rising; the last one is position 0
        self._older: array[int] = array("q")  # falling; follows below `_newer`
        self._rows: OrderedDict[int, Row] = OrderedDict()
        self._next: int | None = None
        self.complete = False  # whether the oldest selected row is known
        self._settled = -1  # up to this index nothing that the filter selects is missing
        self._reading = asyncio.Lock()  # two that read on at once would read the same page

    def __len__(self) -> int:
        return len(self._newer) + len(self._older)

    def index_at(self, position: int) -> int:
        """The log index at `position`."""
        newer = len(self._newer)
        return self._newer[newer - 1 - position] if position < newer else self._older[position - newer]

    def position_of(self, index: int) -> int | None:
        """Where the row with log index `index` stands, if it is known."""
        if self._newer and index >= self._newer[0]:
            found = bisect_left(self._newer, index)
            hit = found < len(self._newer) and self._newer[found] == index
            return len(self._newer) - 1 - found if hit else None
        found = bisect_left(self._older, -index, key=lambda value: -value)
        hit = found < len(self._older) and self._older[found] == index
        return len(self._newer) + found if hit else None

    def at(self, position: int) -> Row | None:
        """The row at `position`, None while it is not in memory."""
        if not 0 <= position < len(self):
            return None
        index = self.index_at(position)
        row = self._rows.get(index)
        if row is not None:
            self._rows.move_to_end(index)
        return row

    def newest(self) -> int | None:
        """The newest log index known."""
        return self.index_at(0) if len(self) else None

    async def open(self) -> None:
        """Read the first page, and every index when the source can give them at once."""
        indexes = await self.source.indexes(self.chosen)
        if indexes is not None:
            self._newer, self._older, self.complete = indexes, array("q"), True
            await self.want(0, PAGE)
        else:
            await self._read_older()
        self._settled = max(-1 if self._next is None else self._next, self.index_at(0) if len(self) else -1)

    async def want(self, start: int, stop: int) -> bool:
        """Bring positions `start` to `stop` into memory, reading further back when they lie beyond what is known.

        True when something came in. Bounded: with a filter that hits rarely it returns after `BARREN_PAGES` pages.
        """
        changed = False
        async with self._reading:
            for _ in range(BARREN_PAGES):
                if self.complete or stop <= len(self):
                    break
                changed |= await self._read_older()
        missing = [p for p in range(max(start, 0), min(stop, len(self))) if self.index_at(p) not in self._rows]
        while missing:
            first = missing[0]
            page = await self.source.page(self.chosen, before=self.index_at(first) + 1, limit=PAGE)
            self._remember(page.rows)
            left = [p for p in missing if self.index_at(p) not in self._rows]
            if len(left) == len(missing):  # a row was there and is gone; it stays a gap
                break
            missing, changed = left, True
        return changed

    def add(self, rows: Iterable[Row]) -> list[int]:
        """Take in live rows that the filter selects. Returns the position of each new one, after all came in."""
        fresh: list[int] = []
        for row in rows:
            if not self.chosen.matches(row) or self.position_of(row.index) is not None:
                continue
            if self._newer and row.index < self._newer[0]:
                continue  # older than what live rows can be; paging will meet it
            self._newer.insert(bisect_left(self._newer, row.index), row.index)
            self._remember((row,))
            fresh.append(row.index)
        return [position for index in fresh if (position := self.position_of(index)) is not None]

    async def catch_up(self, *, pages: int = 200) -> list[int]:
        """Read back to where the rows were last complete: what a lossy or broken tail left out comes in now."""
        before: int | None = None
        found: list[Row] = []
        looked = -1  # the first page was of everything from here on, whatever of it the filter selects
        for number in range(pages):
            page = await self.source.page(self.chosen, before=before, limit=PAGE)
            found.extend(page.rows)
            before = page.next
            if before is None:
                break
            if not number:
                looked = before
            if before <= self._settled:
                break
        positions = self.add(reversed(found))
        self._settled = max(self._settled, looked, found[0].index if found else -1)
        return positions

    async def _read_older(self) -> bool:
        page = await self.source.page(self.chosen, before=self._next, limit=PAGE)
        first = not len(self)
        for row in page.rows:
            if first:
                self._newer.insert(0, row.index)
            elif self.position_of(row.index) is None:
                self._older.append(row.index)
        self._remember(page.rows)
        self.complete = page.next is None
        if page.next is not None:
            self._next = page.next
        return bool(page.rows)

    def _remember(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._rows[row.index] = row
            self._rows.move_to_end(row.index)
        while len(self._rows) > CACHE:
            self._rows.popitem(last=False)
