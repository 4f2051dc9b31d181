"""Which rows are known, in which order, and what is read when."""

from __future__ import annotations

import asyncio
from array import array

import pytest
from tui_kit import row

from gateway.model.admin import Page, Row
from tui.feed import CACHE, Feed
from tui.filters import Filter, parse_filter


class Paged:
    """A source of rows with these log indexes; `indexes` only when told."""

    name = "test"
    synthetic = False
    no_tail = None

    def __init__(self, numbers: list[int], *, at_once: bool = False, page: int = 10) -> None:
        self.numbers = numbers
        self.at_once = at_once
        self.size = page
        self.asked: list[int | None] = []

    async def page(self, chosen: Filter, *, before: int | None = None, limit: int = 0) -> Page:
        self.asked.append(before)
        await asyncio.sleep(0)
        found = [n for n in sorted(self.numbers, reverse=True) if before is None or n < before]
        rows = tuple(r for n in found[: self.size] if chosen.matches(r := _row(n)))
        return Page(rows, found[self.size - 1] if len(found) > self.size else None)

    async def indexes(self, chosen: Filter) -> array[int] | None:
        return array("q", sorted(n for n in self.numbers if chosen.matches(_row(n)))) if self.at_once else None


def _row(number: int) -> Row:
    return row(index=number, id=f"{number:026d}", verdict="affirming" if number % 7 else "contraindicated")


def _known(feed: Feed) -> list[int]:
    return [feed.index_at(position) for position in range(len(feed))]


@pytest.mark.parametrize("at_once", [True, False])
async def test_rows_stand_newest_first(at_once: bool) -> None:
    """Position 0 is the newest, whichever way the source gives its rows."""
    numbers = [3, 4, 9, 12, 40, 41]
    feed = Feed(Paged(numbers, at_once=at_once), Filter())
    await feed.open()
    assert _known(feed) == sorted(numbers, reverse=True)
    assert feed.complete
    assert feed.newest() == 41
    assert [feed.position_of(n) for n in (41, 9, 3)] == [0, 3, 5]
    assert feed.position_of(10) is None
    newest = feed.at(0)
    assert newest is not None
    assert newest.index == 41


async def test_an_empty_log_has_no_rows() -> None:
    """Nothing is known of nothing."""
    feed = Feed(Paged([]), Filter())
    await feed.open()
    assert (len(feed), feed.at(0), feed.newest(), feed.complete) == (0, None, None, True)
    assert feed.add([_row(0)]) == [0]


async def test_older_rows_are_read_when_wanted() -> None:
    """Only what is looked at is read, page by page."""
    feed = Feed(Paged(list(range(100))), Filter())
    await feed.open()
    assert len(feed) == 10
    assert await feed.want(5, 25)
    assert len(feed) == 30
    assert _known(feed) == list(range(99, 69, -1))
    assert not await feed.want(0, 20)


async def test_two_that_read_on_at_once_read_each_page_once() -> None:
    """Whoever asks while older rows are being read waits for them, and reads no page again."""
    source = Paged(list(range(100)))
    feed = Feed(source, Filter())
    await feed.open()
    await asyncio.gather(*[feed.want(0, stop) for stop in (40, 60, 50)])
    assert (len(feed), source.asked) == (60, [None, 90, 80, 70, 60, 50])


async def test_catching_up_under_a_sparse_filter_looks_at_what_is_new() -> None:
    """What was looked through and not selected is not looked through again, each time that rows come in."""
    source = Paged([0, *range(1, 1000, 7)], page=5)
    feed = Feed(source, parse_filter("verdict:fail", 0))
    await feed.open()
    assert (len(feed), feed.complete) == (0, False)
    for number in range(3):
        source.numbers += [1002 + 7 * number, 1003 + 7 * number]
        source.asked.clear()
        assert await feed.catch_up() == []
        assert len(source.asked) <= 3
    source.numbers += [1050]
    assert await feed.catch_up() == [0]
    assert _known(feed) == [1050]


async def test_a_sparse_filter_reads_on_but_not_for_ever() -> None:
    """Pages without a hit are passed over, a bounded number at a time."""
    source = Paged(list(range(1000)), page=5)
    feed = Feed(source, parse_filter("verdict:fail", 0))
    await feed.open()
    await feed.want(0, 10_000)
    assert len(source.asked) == 21
    assert all(number % 7 == 0 for number in _known(feed))


async def test_rows_that_left_memory_are_read_again() -> None:
    """Far down, rows are known by index and read when they come into view."""
    source = Paged(list(range(5000)), at_once=True, page=500)
    feed = Feed(source, Filter())
    await feed.open()
    assert len(feed) == 5000
    assert feed.at(4000) is None
    assert await feed.want(4000, 4040)
    found = feed.at(4000)
    assert found is not None
    assert found.index == 999


async def test_a_row_that_is_gone_stays_a_gap() -> None:
    """A row that was erased meanwhile is not asked for for ever."""
    source = Paged(list(range(1000)), at_once=True, page=500)
    feed = Feed(source, Filter())
    await feed.open()
    source.numbers = list(range(500, 1000))
    assert not await feed.want(900, 910)


async def test_live_rows_come_in_once_and_in_order() -> None:
    """Rows out of order, twice, unselected or older than the view do not disturb it."""
    feed = Feed(Paged([10, 20, 30]), parse_filter("verdict:pass", 0))
    await feed.open()
    assert sorted(feed.add([_row(33), _row(32), _row(33), _row(20), _row(35), _row(5)])) == [0, 1]
    assert _known(feed) == [33, 32, 30, 20, 10]


async def test_catching_up_reads_back_to_what_was_known() -> None:
    """After a gap every row between is read, over as many pages as it takes."""
    source = Paged(list(range(20)))
    feed = Feed(source, Filter())
    await feed.open()
    source.numbers = list(range(60))
    feed.add([_row(50)])
    assert len(await feed.catch_up()) == 39
    assert _known(feed)[:45] == list(range(59, 14, -1))
    asked = len(source.asked)
    assert await feed.catch_up() == []
    assert len(source.asked) == asked + 1


async def test_memory_is_bounded() -> None:
    """However many rows came in, only the last ones are kept whole."""
    feed = Feed(Paged([0]), Filter())
    await feed.open()
    feed.add(_row(number) for number in range(1, CACHE + 500))
    assert len(feed) == CACHE + 500
    assert feed.at(0) is not None
    assert feed.at(len(feed) - 1) is None


@pytest.mark.parametrize("index", [-1, -(2**63), 2**63 - 1])
async def test_an_index_that_no_log_has_is_a_row_like_any(index: int) -> None:
    """A forged row below the first entry, or beyond every other, stands in its place."""
    feed = Feed(Paged([5, index]), Filter())
    await feed.open()
    assert _known(feed) == sorted([5, index], reverse=True)
    assert feed.position_of(index) == (0 if index > 5 else 1)
