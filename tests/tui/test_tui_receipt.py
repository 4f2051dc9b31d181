"""The receipt screen and the stored bytes, driven by keys."""

from __future__ import annotations

import pytest
from rich.cells import cell_len
from tui_kit import NARROW, NOON_MS, WIDE, dump, ready, until

from gateway.errors import NotFound
from gateway.text import plain
from tui.app import VerirouteApp
from tui.demo_source import DemoSource, demo_pins
from tui.screens.raw import RawScreen, _wrapped
from tui.screens.receipt import ReceiptScreen
from tui.screens.traffic import TrafficScreen
from tui.widgets.provenance_tree import ProvenanceTree


async def _open(app: VerirouteApp, index: int) -> ReceiptScreen:
    """Open the exchange with this log index, and wait until it was checked."""
    await ready(app)
    rows = app.screen.query_one("#rows")
    rows.move_to(rows.feed.position_of(index))  # type: ignore[attr-defined]
    rows.action_choose()  # type: ignore[attr-defined]
    await until(lambda: isinstance(app.screen, ReceiptScreen))
    screen = app.screen
    assert isinstance(screen, ReceiptScreen)
    await until(lambda: screen.findings is not None)
    return screen


def _tree(screen: ReceiptScreen) -> ProvenanceTree:
    return screen.query_one("#tree", ProvenanceTree)


async def test_a_failing_exchange_opens_at_its_problem(app: VerirouteApp) -> None:
    """The cursor stands on the failing check, and the pane explains it in the registry's words."""
    async with app.run_test(size=WIDE) as pilot:
        screen = await _open(app, 4)
        await until(lambda: "If it fails" in dump(app))
        selected = _tree(screen).selected
        assert selected is not None
        assert selected.key == "response_bound"
        text = dump(app)
        assert "✗ FAIL  withheld: response_bound" in text
        assert "the record holds: re-verified here" in text
        assert "differs from what" in text
        await pilot.press("n")  # the only problem: stays
        assert _tree(screen).selected is selected
        await pilot.press("y")
        assert app.clipboard == "sha256 9c1d…07"
        await pilot.press("escape")
        assert isinstance(app.screen, TrafficScreen)


async def test_folding_and_walking(app: VerirouteApp) -> None:
    """Space and enter fold, `l` opens, `h` closes and then goes to the line above."""
    async with app.run_test(size=NARROW) as pilot:
        screen = await _open(app, 0)
        tree = _tree(screen)
        assert tree.length() == 7
        await pilot.press("j", "l")
        assert tree.length() > 7
        await pilot.press("j", "h")
        assert tree.selected is not None
        assert tree.selected.key == "request"
        await pilot.press("h")
        assert tree.length() == 7
        await pilot.press("space", "space", "enter", "enter")
        assert tree.length() == 7
        await pilot.press("k", "h")
        assert tree.length() == 1


async def test_the_words_scroll_by_keys(app: VerirouteApp) -> None:
    """On eighty columns the words about a line are longer than their pane; `J` and `K` reach all of them."""
    async with app.run_test(size=NARROW) as pilot:
        await _open(app, 4)
        await until(lambda: "known" in dump(app))
        assert "If it fails:" not in dump(app)
        await pilot.press("J", "J", "J", "J")
        await until(lambda: "If it fails:" in dump(app))
        await pilot.press("K", "K", "K", "K")
        await until(lambda: "If it fails:" not in dump(app))


async def test_v_checks_again_and_keeps_the_place(app: VerirouteApp) -> None:
    """Checking again neither folds the tree nor moves the cursor."""
    async with app.run_test(size=NARROW) as pilot:
        screen = await _open(app, 0)
        tree = _tree(screen)
        await pilot.press("j", "j", "j", "j", "l", "j")
        at, length, findings = tree.selected, tree.length(), screen.findings
        assert at is not None
        await pilot.press("v")
        await until(lambda: screen.findings is not findings)
        assert tree.length() == length
        assert tree.selected is not None
        assert tree.selected.key == at.key


async def test_a_difference_is_the_loudest_thing(app: VerirouteApp) -> None:
    """An altered receipt that the list calls affirming is shouted about, in the banner and as the first branch."""
    async with app.run_test(size=WIDE) as _:
        screen = await _open(app, 48)
        await until(lambda: "THE RECORD DOES NOT HOLD" in dump(app))
        assert screen.query_one("#banner").has_class("-differs")
        selected = _tree(screen).selected
        assert selected is not None
        assert selected.key == "differs 1"


async def test_neighbours_open_without_going_back(app: VerirouteApp) -> None:
    """`]` opens the next older exchange, `[` the next newer."""
    async with app.run_test(size=NARROW) as pilot:
        screen = await _open(app, 10)
        await pilot.press("right_square_bracket")
        assert screen.row.index == 9
        await pilot.press("left_square_bracket", "left_square_bracket")
        assert screen.row.index == 11
        await until(lambda: screen.findings is not None)


async def test_the_newest_has_no_newer_neighbour(app: VerirouteApp) -> None:
    """`[` there says so, and the receipt stays."""
    async with app.run_test(size=NARROW) as pilot:
        screen = await _open(app, 59)
        await pilot.press("left_square_bracket")
        await until(lambda: bool(app._notifications))
        assert [notice.message for notice in app._notifications] == ["that is the newest"]
        assert screen.row.index == 59


async def test_stored_bytes_show_only_when_asked_for(app: VerirouteApp) -> None:
    """No prompt is on the receipt screen; `x` shows it, part by part, as text or hexadecimal."""
    async with app.run_test(size=WIDE) as pilot:
        await _open(app, 0)
        assert "demo question" not in dump(app)
        await pilot.press("x")
        assert isinstance(app.screen, RawScreen)
        await until(lambda: "1 of 7" in dump(app))
        for _ in range(3):
            await pilot.press("l")
        await until(lambda: "demo question 0" in dump(app))
        assert "opening request.body" in dump(app)
        await pilot.press("space")
        await until(lambda: "00000000  7b 22 6d 6f" in dump(app))
        await pilot.press("h", "G", "escape")
        assert isinstance(app.screen, ReceiptScreen)
        await pilot.press("1")
        assert isinstance(app.screen, TrafficScreen)


@pytest.mark.parametrize("text", ["漢字テスト" * 60, "\x1b[2J" * 90, "\U0010ffff" * 90, "a" * 500, "x" * 77 + "漢"])
def test_stored_text_is_wrapped_and_never_cut(text: str) -> None:
    """Characters of two cells, and escapes, go on in the next line: what is not drawn would be hidden."""
    shown = _wrapped(text.encode(), 78)
    assert "".join(shown) == plain(text)
    assert max(map(cell_len, shown)) <= 78


class NoBundles(DemoSource):
    """A source whose receipts are listed and cannot be had."""

    async def bundle(self, receipt_id: str) -> bytes:
        raise NotFound("that receipt was erased")


async def test_a_receipt_that_cannot_be_had_stays_a_claim() -> None:
    """Without its bundle an exchange is what the list says, and the screen says so."""
    app = VerirouteApp(NoBundles(5, now_ms=NOON_MS, live=False), pins=demo_pins())
    async with app.run_test(size=WIDE, notifications=True) as pilot:
        await _open(app, 4)
        await until(lambda: "claimed by the gateway, not re-verified: that receipt was erased" in dump(app))
        await pilot.press("x")
        assert isinstance(app.screen, ReceiptScreen)
        await until(lambda: "stored bytes are not here" in dump(app))
        await pilot.press("n", "j", "y")


async def test_ascii_signs(demo: DemoSource) -> None:
    """With --ascii nothing of ours needs Unicode: verdicts, guides and arrows."""
    app = VerirouteApp(demo, pins=demo_pins(), ascii_only=True)
    async with app.run_test(size=NARROW) as _:
        screen = await _open(app, 4)
        tree = _tree(screen)
        drawn = "".join(text for number in range(tree.length()) for text, style in tree.draw(number, 79) if style)
        assert "x response_bound" in drawn.replace("x |", "x ") or "x " in drawn
        assert not any(sign in drawn for sign in "✓✗▼▶├└│")


@pytest.mark.parametrize("size", [WIDE, NARROW])
async def test_no_colour_still_says_everything(
    app: VerirouteApp, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any colour each outcome is there as glyph and word."""
    async with app.run_test(size=size) as _:
        app.no_color = True
        await ready(app)
        text = dump(app)
        for sign in ("✓ pass", "? none", "! warn", "✗ FAIL"):
            view = app.screen.query_one("#rows")
            drawn = "".join(part for n in range(60) for part, _ in view.draw(n, size[0]))  # type: ignore[attr-defined]
            assert sign in drawn
        assert "✓ pass" in text
