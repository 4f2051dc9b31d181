"""Fixtures of the TUI tests. What the terminal would say is pinned before Textual is imported: it reads it then."""

# ruff: noqa: E402
from __future__ import annotations

import os
import time

os.environ.pop("NO_COLOR", None)
os.environ.update(TEXTUAL_ANIMATIONS="none", TEXTUAL_THEME="textual-dark", COLORTERM="truecolor", TERM="xterm-256color")
os.environ.update(COLUMNS="80", LINES="24", TZ="UTC")
time.tzset()

import pytest
from tui_kit import NOON_MS

from tui.app import VerirouteApp
from tui.demo_source import DemoSource, demo_pins


@pytest.fixture
def demo() -> DemoSource:
    """Sixty invented exchanges at a fixed time, and no live ones."""
    return DemoSource(60, now_ms=NOON_MS, live=False)


@pytest.fixture
def app(demo: DemoSource, monkeypatch: pytest.MonkeyPatch) -> VerirouteApp:
    """The application over `demo`, its clock standing at noon."""
    monkeypatch.setattr("tui.app.time.time", lambda: NOON_MS / 1000)
    return VerirouteApp(demo, pins=demo_pins())
