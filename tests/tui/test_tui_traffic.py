"""The traffic screen, driven by keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from textual.command import CommandPalette, Hit, Hits, Provider
from textual.widgets import Input, OptionList
from tui_kit import NARROW, NOON_MS, WIDE, dump, ready, row, type_ahead, until

from gateway.errors import ServiceError
from tui.app import VerirouteApp
from tui.demo_source import DemoSource
from tui.filters import Filter
from tui.screens.help import HelpScreen
from tui.screens.receipt import ReceiptScreen
from tui.screens.traffic import TrafficScreen
from tui.source import Page, Row
from tui.widgets.exchange_pane import ExchangePane
from tui.widgets.rows_view import RowsView


def _list_text(app: VerirouteApp) -> list[str]:
    """The rows on screen, without the scrollbar."""
    return [line[:79].rstrip() for line in dump(app).splitlines()[3:-1]]


def _rows(app: VerirouteApp) -> RowsView:
    return app.screen_stack[1].query_one("#rows", RowsView)


async def test_it_shows_every_column_and_the_selected_exchange_when_wide(app: VerirouteApp) -> None:
    """At 120×40 the selected exchange stands below the list, marked as a claim."""
    async with app.run_test(size=WIDE) as _:
        await ready(app)
        await until(lambda: "claimed by the gateway" in dump(app))
        text = dump(app)
        assert "DEMO: synthetic data" in text
        assert "release" in text
        assert "1 of 60" in text


async def test_narrow_leaves_out_the_pane(app: VerirouteApp) -> None:
    """At 80×24 only the list is left, with verdict and reason."""
    async with app.run_test(size=NARROW) as _:
        await ready(app)
        text = dump(app)
        assert "claimed by the gateway" not in text
        assert "reason" in text
        assert all(len(line) <= 80 for line in text.splitlines())


async def test_moving_holds_the_list_and_f_follows_again(app: VerirouteApp) -> None:
    """A moved cursor stays on its row while rows come in above; `f` goes to the newest."""
    async with app.run_test(size=WIDE) as pilot:
        await ready(app)
        view = _rows(app)
        await pilot.press("j", "j", "j")
        assert not view.follow
        selected = view.row
        for index in (60, 61, 62):
            view.push(row(index=index, id=f"{index:026d}"))
        view.take_in()
        assert view.row is selected
        assert view.cursor == 6
        assert view.unseen == 3
        await until(lambda: "held +3 new" in dump(app))
        await pilot.press("f")
        assert view.follow
        assert view.cursor == 0
        assert view.row is not None
        assert view.row.index == 62


async def test_following_keeps_the_newest_on_top(app: VerirouteApp) -> None:
    """Live rows appear at the top, taken in together."""
    async with app.run_test(size=NARROW) as _:
        await ready(app)
        view = _rows(app)
        for index in range(60, 1060):
            view.push(row(index=index, id=f"{index:026d}"))
        await until(lambda: view.length() == 1060)
        assert view.cursor == 0
        assert view.row is not None
        assert view.row.index == 1059


async def test_scrolled_rows_stay_where_they_are(app: VerirouteApp) -> None:
    """What is being read does not move when rows come in above it."""
    async with app.run_test(size=NARROW) as pilot:
        await ready(app)
        view = _rows(app)
        await pilot.press("pagedown", "pagedown")
        await pilot.pause()
        before = _list_text(app)
        for index in range(60, 90):
            view.push(row(index=index, id=f"{index:026d}"))
        view.take_in()
        await pilot.pause()
        assert _list_text(app) == before


async def test_space_pauses_and_goes_on(app: VerirouteApp) -> None:
    """Space holds the list on the newest row, and lets it go on."""
    async with app.run_test(size=NARROW) as pilot:
        await ready(app)
        await pilot.press("space")
        assert not _rows(app).follow
        await until(lambda: "held" in dump(app))
        await pilot.press("space")
        assert _rows(app).follow


async def test_filter_and_clear(app: VerirouteApp) -> None:
    """`/` takes a filter, a wrong one is said and kept for mending, esc clears."""
    async with app.run_test(size=WIDE) as pilot:
        await ready(app)
        await pilot.press("slash")
        box = app.screen.query_one("#filter", Input)
        assert box.has_focus
        box.value = "verdict:nonsense"
        await pilot.press("enter")
        assert box.display
        box.value = "verdict:fail"
        await pilot.press("enter")
        await until(lambda: _rows(app).length() == 4)
        await until(lambda: "filter: verdict:fail" in dump(app))
        assert "✓ pass" not in "\n".join(dump(app).splitlines()[3:20])
        await pilot.press("escape")
        await until(lambda: _rows(app).length() == 60)
        await pilot.press("slash", "escape")
        assert not box.display
        assert _rows(app).has_focus


@pytest.mark.parametrize("before", ["", "2\x1b", "21", "?\x1b"])
async def test_a_filter_typed_ahead_is_no_command(app: VerirouteApp, before: str) -> None:
    """Keys act in the order in which they were typed: the `q` of a filter typed at once does not quit."""
    async with app.run_test(size=NARROW) as _:
        await ready(app)
        type_ahead(app, f"{before}/node:q-1t")
        box = app.screen_stack[1].query_one("#filter", Input)
        await until(lambda: box.value == "node:q-1t")
        assert isinstance(app.screen, TrafficScreen)
        assert app.is_running


async def test_n_walks_the_problems(app: VerirouteApp) -> None:
    """`n` goes to the next older exchange that was not affirmed, `N` back; at the end it says so."""
    async with app.run_test(size=NARROW, notifications=True) as pilot:
        await ready(app)
        view = _rows(app)
        visited = []
        for _ in range(6):
            at = view.cursor
            await pilot.press("n")
            await until(lambda at=at: view.cursor != at)
            assert view.row is not None
            visited.append(view.row.index)
        assert visited == [52, 37, 23, 19, 11, 4]
        await pilot.press("n")
        await until(lambda: "every older exchange" in dump(app))
        await pilot.press("N")
        await until(lambda: view.row is not None and view.row.index == 11)


async def test_enter_opens_and_esc_returns(app: VerirouteApp) -> None:
    """Enter opens the exchange under the cursor, esc comes back to the same place."""
    async with app.run_test(size=WIDE) as pilot:
        await ready(app)
        await pilot.press("j", "enter")
        assert isinstance(app.screen, ReceiptScreen)
        assert app.screen.row is _rows(app).row
        await until(lambda: app.screen.findings is not None)  # type: ignore[attr-defined]
        await pilot.press("escape")
        assert isinstance(app.screen, TrafficScreen)
        assert _rows(app).cursor == 1


async def test_copy_gives_exactly_the_id(app: VerirouteApp) -> None:
    """`y` puts the receipt id on the clipboard and nothing else."""
    async with app.run_test(size=NARROW) as pilot:
        await ready(app)
        await pilot.press("y")
        assert _rows(app).row is not None
        assert app.clipboard == _rows(app).row.id  # type: ignore[union-attr]


async def test_help_lists_the_keys_of_this_screen(app: VerirouteApp) -> None:
    """`?` shows the keys of the screen it was pressed on; any way back closes it."""
    async with app.run_test(size=WIDE) as pilot:
        await ready(app)
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        await until(lambda: "Keys: traffic" in dump(app))
        assert "contraindicated" in dump(app)
        await pilot.press("escape")
        assert isinstance(app.screen, TrafficScreen)


async def test_ends_of_the_list(app: VerirouteApp) -> None:
    """`G` goes to the oldest row, `g` to the newest and follows."""
    async with app.run_test(size=NARROW) as pilot:
        await ready(app)
        await pilot.press("G")
        assert _rows(app).cursor == 59
        await pilot.press("ctrl+u", "pageup", "k", "ctrl+d", "pagedown", "up", "down")
        assert not _rows(app).follow
        await pilot.press("g")
        assert _rows(app).cursor == 0
        assert _rows(app).follow


async def test_click_selects_then_opens(app: VerirouteApp) -> None:
    """A click selects a row; a click on the selected row opens it."""
    async with app.run_test(size=NARROW) as pilot:
        await ready(app)
        await pilot.click("#rows", offset=(5, 3))
        assert _rows(app).cursor == 3
        await pilot.click("#rows", offset=(5, 3))
        await until(lambda: isinstance(app.screen, ReceiptScreen))


async def test_themes_go_round(app: VerirouteApp) -> None:
    """`t` walks dark, light, the terminal's palette, high contrast, and starts again."""
    async with app.run_test(size=NARROW) as pilot:
        await ready(app)
        seen = []
        for _ in range(4):
            await pilot.press("t")
            seen.append(app.theme)
        assert seen == ["textual-light", "ansi-dark", "high-contrast", "textual-dark"]


async def test_a_palette_answered_twice_leaves_the_traffic(app: VerirouteApp) -> None:
    """A second answer, typed before the palette went, does not close what lies below it."""
    async with app.run_test(size=NARROW) as pilot:
        await ready(app)
        await pilot.press("colon")
        await until(lambda: app.screen.query_one(OptionList).option_count)
        await pilot.press("down")
        type_ahead(app, "\r\r\r")
        await until(lambda: not isinstance(app.screen, CommandPalette))
        await asyncio.sleep(0.05)
        assert isinstance(app.screen_stack[1], TrafficScreen)


async def test_a_page_key_in_a_palette_not_laid_out_yet(app: VerirouteApp) -> None:
    """It does nothing."""
    async with app.run_test(size=NARROW) as pilot:
        await ready(app)
        await pilot.press("colon")
        palette = app.screen
        assert isinstance(palette, CommandPalette)
        await until(lambda: palette.query_one(OptionList).option_count)
        palette.query_one(OptionList)._index_to_line.clear()
        palette._action_command_list("page_up")
        assert app.is_running


class Slow(Provider):
    """Finds its one command when the palette that asked for it is half gone."""

    async def search(self, query: str) -> Hits:
        await asyncio.sleep(0.1)
        yield Hit(1.0, query, lambda: None)

    async def shutdown(self) -> None:
        await asyncio.sleep(0.3)


async def test_a_search_that_begins_as_the_palette_is_left(app: VerirouteApp) -> None:
    """A letter that comes in after the palette was closed searches nothing, and ends nothing."""
    app.COMMANDS = {Slow}  # type: ignore[misc]
    async with app.run_test(size=NARROW) as pilot:
        await ready(app)
        await pilot.press("colon")
        palette = app.screen
        assert isinstance(palette, CommandPalette)
        box = palette.query_one(Input)
        palette.dismiss()
        palette.post_message(Input.Changed(box, "x"))
        await until(lambda: not palette.is_attached)
        await asyncio.sleep(0.05)
        assert app.is_running


class Flaky(DemoSource):
    """A source that can be cut off."""

    def __init__(self) -> None:
        super().__init__(5, now_ms=NOON_MS, live=False)
        self.cut = False
        self.waiting: asyncio.Queue[Row | None] = asyncio.Queue()

    async def info(self):  # type: ignore[no-untyped-def]
        self._check()
        return await super().info()

    async def page(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        self._check()
        return await super().page(*args, **kwargs)

    async def bundle(self, receipt_id: str) -> bytes:
        self._check()
        return await super().bundle(receipt_id)

    async def indexes(self, chosen):  # type: ignore[no-untyped-def]
        self._check()
        return None

    def _check(self) -> None:
        if self.cut:
            raise ServiceError("nothing answers at 127.0.0.1:1", reason="unreachable")

    async def tail(self) -> AsyncIterator[Row]:
        self._check()
        while True:
            found = await self.waiting.get()
            if found is None:
                raise ServiceError("the connection broke", reason="cut")
            yield found


async def test_offline_is_said_and_what_was_missed_comes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the source goes away the rows stay; when it returns, what was committed meanwhile is read."""
    monkeypatch.setattr("tui.app.BEAT_S", 0.05)
    monkeypatch.setattr("tui.app._BACK_OFF", (0.05,))
    monkeypatch.setattr("tui.screens.traffic._RETRY_S", 0.05)
    source = Flaky()
    app = VerirouteApp(source)
    async with app.run_test(size=WIDE) as _:
        await ready(app)
        await source.waiting.put(source._take(5, NOON_MS))
        await until(lambda: _rows(app).length() == 6)
        source.cut = True
        await source.waiting.put(None)
        await until(lambda: "○ offline" in dump(app))
        assert _rows(app).length() == 6
        for number in (6, 7, 8):
            source._take(number, NOON_MS)
        source.cut = False
        await until(lambda: _rows(app).length() == 9)
        await until(lambda: "● DEMO" in dump(app))


async def test_a_receipt_opened_offline_is_read_when_the_source_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be fetched is fetched, and checked, without another key."""
    monkeypatch.setattr("tui.app.BEAT_S", 0.05)
    monkeypatch.setattr("tui.app._BACK_OFF", (0.05,))
    monkeypatch.setattr("tui.screens.receipt._RETRY_S", 0.05)
    source = Flaky()
    app = VerirouteApp(source)
    async with app.run_test(size=WIDE) as pilot:
        await ready(app)
        source.cut = True
        await until(lambda: "○ offline" in dump(app))
        await pilot.press("enter")
        await until(lambda: "not re-verified: nothing answers" in dump(app))
        source.cut = False
        await until(lambda: "re-verified here, " in dump(app))


async def test_the_pane_survives_an_empty_log() -> None:
    """A log without receipts says that nothing is selected."""
    app = VerirouteApp(DemoSource(0, now_ms=NOON_MS, live=False))
    async with app.run_test(size=WIDE, notifications=True) as pilot:
        await until(lambda: app.pulse.info is not None and app.screen.query("#rows"))
        await pilot.press("n", "N", "enter", "G", "y", "j")
        assert app.screen.query_one(ExchangePane).row is None
        assert "no exchange selected" in dump(app)
        await until(lambda: "there is no exchange here" in dump(app))
        assert "affirmed" not in dump(app)
        await until(lambda: "no exchange yet: each request to the gateway appears here" in dump(app))


async def test_a_filter_that_nothing_fits_says_so(app: VerirouteApp) -> None:
    """An empty list says why it is empty, and which key ends that; with rows it does not."""
    async with app.run_test(size=NARROW) as pilot:
        await ready(app)
        assert "nothing fits" not in dump(app)
        await pilot.press("slash")
        app.screen.query_one("#filter", Input).value = "model:nothing-like-it"
        await pilot.press("enter")
        await until(lambda: "filter: model:nothing-like-it   nothing fits; esc shows all" in dump(app))
        await pilot.press("escape")
        await until(lambda: "all exchanges" in dump(app))


class Paged(DemoSource):
    """Sixty exchanges that are to be had five at a time."""

    def __init__(self) -> None:
        super().__init__(60, now_ms=NOON_MS, live=False)

    async def page(self, chosen: Filter, *, before: int | None = None, limit: int = 5) -> Page:
        page = await super().page(Filter(), before=before, limit=5)
        return Page(tuple(row for row in page.rows if chosen.matches(row)), page.next)

    async def indexes(self, chosen: Filter) -> None:
        return None


async def test_rows_far_back_are_found_without_a_key() -> None:
    """Where the first pages have nothing that the filter fits, or less than a screen, older ones are read."""
    source = Paged()
    oldest = (await DemoSource.page(source, Filter(), limit=60)).rows[-1]
    app = VerirouteApp(source)
    async with app.run_test(size=WIDE) as pilot:
        await ready(app)
        await until(lambda: _rows(app).length() >= 2 * _rows(app).size.height > 5)
        await pilot.press("slash")
        app.screen.query_one("#filter", Input).value = f"receipt:{oldest.id}"
        await pilot.press("enter")
        await until(lambda: (feed := _rows(app).feed) is not None and feed.complete and len(feed) == 1)
        assert _rows(app).row == oldest
