"""What the screens look like, as text. `UPDATE_DUMPS=1` writes the pictures anew; the diff is for a person to read."""

from __future__ import annotations

import asyncio
import os
import re
import time
from pathlib import Path

import pytest
from tui_kit import NARROW, WIDE, dump, ready, until

from gateway.errors import InvalidKey, ServiceError
from tui.app import VerirouteApp
from tui.demo_source import DemoSource
from tui.screens.receipt import ReceiptScreen
from tui.screens.traffic import TrafficScreen
from tui.screens.trouble import TroubleScreen

PICTURES = Path(__file__).parent / "dumps"
SIZES = {"wide": WIDE, "narrow": NARROW}


def _picture(app: VerirouteApp) -> str:
    """The screen; times that differ from run to run are blotted out."""
    return re.sub(r", \d+ ms, no network", ", … ms, no network", dump(app))


async def _compare(name: str, app: VerirouteApp) -> None:
    """Hold the screen against its picture, once it has been drawn."""
    path = PICTURES / f"{name}.txt"
    if os.environ.get("UPDATE_DUMPS"):
        await asyncio.sleep(0.5)
        PICTURES.mkdir(exist_ok=True)
        path.write_text(_picture(app), "utf-8")
    expected = path.read_text("utf-8")
    deadline = time.monotonic() + 5
    while _picture(app) != expected and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert _picture(app) == expected


@pytest.mark.parametrize("size", SIZES)
async def test_traffic_receipt_and_help(app: VerirouteApp, size: str) -> None:
    """The traffic list, an affirmed receipt, a failing one, a lying one, the stored bytes and the help."""
    async with app.run_test(size=SIZES[size]) as pilot:
        await ready(app)
        await until(lambda: "following" in dump(app) and "1 of 60" in dump(app))
        await _compare(f"traffic-{size}", app)
        traffic = app.screen
        assert isinstance(traffic, TrafficScreen)
        for name, index in (("affirmed", 0), ("failing", 4), ("lying", 48)):
            assert traffic.rows.feed is not None
            traffic.rows.move_to(traffic.rows.feed.position_of(index) or 0)
            traffic.rows.action_choose()
            await until(lambda: isinstance(app.screen, ReceiptScreen))
            screen = app.screen
            assert isinstance(screen, ReceiptScreen)
            await until(lambda screen=screen: screen.findings is not None)
            await _compare(f"receipt-{name}-{size}", app)
            if name == "failing":
                await pilot.press("x")
                await until(lambda: "1 of 6" in dump(app))
                await _compare(f"raw-{size}", app)
                await pilot.press("x")
            app.pop_screen()
        await pilot.press("question_mark")
        await until(lambda: "Keys: traffic" in dump(app))
        await _compare(f"help-{size}", app)


@pytest.mark.parametrize("size", SIZES)
async def test_nodes(app: VerirouteApp, size: str) -> None:
    """The nodes, one whose baseline changed open, its canary explained."""
    async with app.run_test(size=SIZES[size]) as pilot:
        await ready(app)
        await pilot.press("2")
        await until(lambda: "may serve" in dump(app))
        await pilot.press("j", "j", "l", "j")
        await until(lambda: "calibrate anew" in dump(app) or size == "narrow")
        await _compare(f"nodes-{size}", app)


class Refused(DemoSource):
    """A source that cannot be opened."""

    name = "127.0.0.1:8080"
    synthetic = False

    async def info(self):  # type: ignore[no-untyped-def]
        if self._counts.get("key"):
            raise InvalidKey("this key is not known")
        raise ServiceError("nothing answers at http://127.0.0.1:8080: connection refused", reason="unreachable")

    async def indexes(self, chosen):  # type: ignore[no-untyped-def]
        return await self.info()


@pytest.mark.parametrize("size", SIZES)
async def test_trouble(size: str) -> None:
    """Nobody there, then a wrong key: a sentence, the cause, the next command; `r` tries again, and quitting is 1."""
    source = Refused(0, live=False)
    app = VerirouteApp(source)
    async with app.run_test(size=SIZES[size]) as pilot:
        await until(lambda: isinstance(app.screen, TroubleScreen) and "cannot be reached" in dump(app))
        await _compare(f"unreachable-{size}", app)
        source._counts["key"] = 1
        await pilot.press("r")
        await until(lambda: "does not know this key" in dump(app))
        await _compare(f"wrong-key-{size}", app)
        await pilot.press("q")
    assert app.return_value == 1
