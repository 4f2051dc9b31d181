"""Text from outside cannot end the application, forge a verdict, start an action or reach the terminal."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from hostile_source import TRUST, HostileSource, hostile_bundle
from textual.widgets import Input
from tui_kit import HOSTILE, NOON_MS, WIDE, dump, ready, row, until

from gateway.errors import ServiceError
from gateway.log.trust import parse_trust
from tui.app import VerirouteApp
from tui.chain import chain
from tui.reverify import Pins, reverify, step_lines
from tui.screens.raw import RawScreen
from tui.screens.receipt import ReceiptScreen
from tui.screens.traffic import TrafficScreen
from tui.screens.trouble import TroubleScreen
from tui.verdicts import MARK_CLASSES
from tui.widgets.line_view import LineView
from tui.widgets.provenance_tree import ProvenanceTree


def _app(count: int = len(HOSTILE)) -> VerirouteApp:
    return VerirouteApp(HostileSource(count), pins=Pins(parse_trust(TRUST), "\x1b[2J[/x]"))


def _nothing_leaks(app: VerirouteApp) -> None:
    """The screen holds printable characters only, in lines of its own width."""
    for line in app.screen._compositor.render_strips():
        assert line.text.isprintable() or not line.text
        assert line.cell_length == app.size.width


async def test_k02_k03_every_screen_survives_every_attack() -> None:
    """Traffic, receipt, raw, notices and palette show the attacks as text, on lines of the right width."""
    app = _app()
    async with app.run_test(size=WIDE, notifications=True) as pilot:
        await ready(app)
        _nothing_leaks(app)
        traffic = app.screen
        assert isinstance(traffic, TrafficScreen)
        for number in (2, 4, 9, 14, 17, 20):  # positions count from the last attack of the list
            traffic.rows.move_to(number)
            traffic.rows.action_choose()
            await until(lambda: isinstance(app.screen, ReceiptScreen))
            screen = app.screen
            assert isinstance(screen, ReceiptScreen)
            await until(lambda screen=screen: screen.findings is not None)
            tree = screen.query_one("#tree", LineView)
            for line in range(tree.length()):
                tree.move_to(line)
                tree.fold(False)  # type: ignore[attr-defined]
            app.copy(screen.row.id)
            assert app.clipboard.isprintable()
            await asyncio.sleep(0.02)
            _nothing_leaks(app)
            screen.action_raw()
            await until(lambda: isinstance(app.screen, RawScreen))
            raw = app.screen
            assert isinstance(raw, RawScreen)
            await until(lambda raw=raw: raw.query("#bytes"))
            for _ in raw._parts:
                raw.action_part(1)
                raw.action_hex()
                _nothing_leaks(app)
            app.pop_screen()
            app.pop_screen()
        for text in HOSTILE:
            app.say(text)
        await pilot.press("slash")
        traffic.query_one("#filter", Input).value = 'node:"[/x]" \x1b]0;pwned'
        await pilot.press("enter")
        await pilot.pause()
        _nothing_leaks(app)
        assert app.is_running


async def test_k02_a_click_on_foreign_markup_does_nothing() -> None:
    """Text that looks like an action is not one."""
    app = _app()
    async with app.run_test(size=WIDE) as pilot:
        await ready(app)
        at = next(n for n in range(30) if "@click" in dump(app).splitlines()[3 + n])
        text = dump(app).splitlines()[3 + at]
        await pilot.click("#rows", offset=(text.index("@click"), at))
        assert app.is_running
        assert isinstance(app.screen, TrafficScreen | ReceiptScreen)


async def test_no_trouble_text_is_obeyed() -> None:
    """A refusal's sentence, written by whoever answers, is text."""
    app = _app()
    async with app.run_test(size=WIDE) as _:
        await ready(app)
        app.workers.cancel_group(app, "pulse")  # it would take the screens away again
        for text in HOSTILE[::2]:
            await app.push_screen(TroubleScreen(text, ServiceError(text)))
            await asyncio.sleep(0)
            _nothing_leaks(app)
            app.pop_screen()


@pytest.mark.parametrize("text", HOSTILE[:19])
def test_k04_no_line_of_the_tree_is_forged(text: str) -> None:
    """Every outcome in the tree comes from a check; no foreign text is drawn in a verdict's style."""
    found = reverify(
        hostile_bundle(text.encode("utf-8", "backslashreplace").decode()[:2000]),
        row(),
        Pins(parse_trust(TRUST)),
        NOON_MS / 1000,
    )
    placed = step_lines(found)
    root = chain(row(), found.statement, placed.pop("receipt", []))
    tree = ProvenanceTree()
    tree._open = {id(line) for line in root.walk()}
    tree._add(root, "", "", -1, 0)
    for number in range(tree.length()):
        parts = tree.draw(number, 79)
        marked = [part for part, style in parts if style in MARK_CLASSES or style.startswith("glyph")]
        assert all(part in ("✓ ", "! ", "✗ ", "? ", "pass", "warn", "FAIL", "none") for part in marked)
        assert all(part.isprintable() for part, _ in parts)


async def test_k07_a_hundred_thousand_hostile_rows_stay_quick() -> None:
    """A key costs under 100 ms of processor time with 100 000 rows of hostile text."""
    app = _app(100_000)
    async with app.run_test(size=WIDE) as _:
        await ready(app)
        traffic = app.screen
        assert isinstance(traffic, TrafficScreen)
        rows = traffic.rows
        assert rows.length() == 100_000
        spent = []
        for at in range(5_000, 100_000, 9_500):
            rows.move_to(at)
            await until(lambda: rows.row is not None)
            start = time.process_time()
            rows.action_page(1)
            app.screen._compositor.render_strips()
            spent.append(time.process_time() - start)
        spent.sort()
        assert spent[len(spent) // 2] < 0.1


_ALLOWED = re.compile(
    rb"\x1b\[[0-9;:?>=<]*[mHJKhlntcuq]"  # style, position, modes and queries
    rb"|\x1b\[[0-9;]* q"  # cursor shape
    rb"|\x1b\[\?[0-9;]*\$p"  # mode query
    rb"|\x1b[78=>]"
    rb"|\x1b\]22;[a-z-]+\x07"  # the mouse pointer's shape
)
_MARKERS = (b"\x1b]0", b"\x1b]52", b"\x1b]8", b"\x1bP", b"\x1b[2J\x1b[H", b"\xc2\x9b", b"\xe2\x80\xae")


def test_k01_nothing_hostile_reaches_the_terminal() -> None:
    """On a real pseudo-terminal no byte is written that Textual did not mean: no title, clipboard, link or override."""
    out = _drive(["jjj", "\r", "n", "n", "x", "l", "l", "1", "G", "\r", "x", "q"])
    assert b"pwned" in out  # the attack was drawn, as text
    left = _ALLOWED.sub(b"", out)
    assert b"\x1b" not in left, re.findall(rb".{0,10}\x1b.{0,12}", left)[:5]
    for marker in _MARKERS:
        assert marker not in out
    text = left.decode("utf-8")
    assert not [char for char in text if not char.isprintable() and char not in "\r\n"]


def _drive(keys: list[str]) -> bytes:
    """Run the TUI over the hostile source on a pseudo-terminal of 120×40, type `keys`, and give back what it wrote."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    here = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": f"{here.parents[1]}:{here}"}
    process = subprocess.Popen(
        [sys.executable, str(here / "hostile_source.py")],
        stdin=child,
        stdout=child,
        stderr=child,
        env=env,
        close_fds=True,
    )
    os.close(child)
    out = bytearray()
    pending, quiet = list(keys), 0.0
    deadline = time.monotonic() + 40
    try:
        while time.monotonic() < deadline:
            readable, _, _ = select.select([parent], [], [], 0.05)
            if readable:
                try:
                    chunk = os.read(parent, 65536)
                except OSError:
                    break
                if not chunk:
                    break
                out += chunk
                quiet = 0.0
                continue
            quiet += 0.05
            if b"receipt" in out and quiet >= 0.15:
                if pending:
                    os.write(parent, pending.pop(0).encode())
                    quiet = 0.0
                elif process.poll() is not None:
                    break
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        os.close(parent)
    assert not pending
    return bytes(out)


async def test_k05_a_digest_beside_hostile_text_is_copied_alone() -> None:
    """Of a line whose name is an attack, `y` takes the 64 digits and nothing else."""
    app = _app()
    async with app.run_test(size=WIDE) as pilot:
        await ready(app)
        traffic = app.screen
        assert isinstance(traffic, TrafficScreen)
        traffic.rows.action_choose()
        await until(lambda: isinstance(app.screen, ReceiptScreen) and app.screen.findings is not None)
        tree = app.screen.query_one("#tree", ProvenanceTree)
        at = 0
        while at < tree.length():
            tree.move_to(at)
            tree.fold(False)
            at += 1
        digests = [n for n in range(tree.length()) if re.fullmatch("[0-9a-f]{64}", _copied(tree, n) or "")]
        assert len(digests) > 1
        for number in digests:
            tree.move_to(number)
            app.copy_to_clipboard("")
            await pilot.press("y")
            assert app.clipboard == tree.selected.copy  # type: ignore[union-attr]


def _copied(tree: ProvenanceTree, number: int) -> str | None:
    tree.move_to(number)
    return tree.selected.copy if tree.selected is not None else None


async def test_k06_nothing_on_a_screen_can_be_opened() -> None:
    """No drawn piece is a link or an action, so that neither a click nor the terminal offers to open what a node names."""
    app = _app()
    async with app.run_test(size=WIDE) as pilot:
        await ready(app)
        screens = [app.screen]
        for key in ("enter", "x", "escape", "escape", "2"):
            await pilot.press(key)
            await pilot.pause()
            screens.append(app.screen)
            styles = [
                segment.style
                for line in app.screen._compositor.render_strips()
                for segment in line
                if segment.style is not None
            ]
            assert styles
            assert [style for style in styles if style.link or "@click" in style.meta] == []
        assert len({type(screen) for screen in screens}) >= 4
