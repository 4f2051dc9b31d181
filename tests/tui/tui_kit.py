"""Shared by the TUI tests: a screen as text, waiting, rows, and the hostile corpus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from textual import events
from textual.app import _character_to_key

from gateway.model.admin import Row
from tui.app import VerirouteApp

#: 2026-11-20 12:00:00 UTC
NOON_MS = 1_795_176_000_000
WIDE, NARROW = (120, 40), (80, 24)

HOSTILE = [
    "\x1b]0;pwned\x07",
    "\x1b]52;c;cHduZWQ=\x07",
    "\x1b]8;;http://evil.invalid\x1b\\click\x1b]8;;\x1b\\",
    "\x9b31337m",
    "\x1b[2J\x1b[H",
    "\x1bPq#0;2;0;0;0\x1b\\",
    "a\r\nb\tc\x00d\x7fe",
    "\u202egnp.exe\u2066\u2069",
    "zero\u200bwidth\u200djoin\ufeff",
    "e" + "\u0301" * 500,
    "\u0301start",
    "👍🏽🇩🇪❤️👩‍👩‍👧",
    "漢字" * 40,
    "\ud800 lone",
    "[@click=app.quit]✓ pass[/]",
    "[link=http://evil.invalid]x[/link]",
    "[/x] [bold",
    "✓ affirming",
    "x" * 1_000_000,
    "\u2028\u2029\x85",
    "\u3164\u115f\u2800",
]


def dump(app: VerirouteApp) -> str:
    """What is on the screen, as text."""
    strips = app.screen._compositor.render_strips()
    return "\n".join(strip.text.rstrip() for strip in strips) + "\n"


async def until(condition: Callable[[], object], seconds: float = 8.0) -> None:
    """Wait for `condition`; Pilot's own pause waits for an idle processor, which a shared machine does not have."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        await asyncio.sleep(0.01)


async def ready(app: VerirouteApp) -> None:
    """Wait until the traffic screen shows rows."""
    await until(lambda: app.pulse.info is not None and app.screen.query("#rows"))
    rows = app.screen.query_one("#rows")
    await until(lambda: rows.length() > 0)  # type: ignore[attr-defined]
    await until(lambda: "receipt verdict" in dump(app))


def row(**changes: object) -> Row:
    """A row like any other, with `changes`."""
    base = {
        "id": "01M7Q4VDS8N7HEDZ2550DEKXGJ",
        "key_id": "Agent-EU",
        "client_request_id": "req-7",
        "created_ms": NOON_MS - 30_000,
        "verdict": "affirming",
        "release": "released",
        "reason": None,
        "policy": "strict",
        "network": "aci",
        "node": "og-7",
        "model": "Llama-70B",
        "endpoint": "/v1/chat/completions",
        "stream": False,
        "status": 200,
        "latency_ms": 12.0,
        "index": 3,
    }
    return Row(**{**base, **changes})  # type: ignore[arg-type]


def type_ahead(app: VerirouteApp, text: str) -> None:
    """Type `text` (ESC and CR for their keys) faster than the application takes it in, as a busy terminal does."""
    for character in text:
        key = {"\x1b": "escape", "\r": "enter"}.get(character) or _character_to_key(character)
        event = events.Key(key, character)
        event.set_sender(app)
        app._driver.send_message(event)  # type: ignore[union-attr]
