"""The progress bar: drawn on a terminal, quiet elsewhere."""

import io

import pytest

from gateway.cli.terminal import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_drawn_in_place_and_taken_away(monkeypatch: pytest.MonkeyPatch):
    """On a terminal the bar redraws one line and clears it."""
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    bar = Progress("entries", stream=stream)
    bar.update(1, 4)
    bar.update(2, 4)
    bar.update(4, 4)
    bar.clear()
    text = stream.getvalue()
    assert "\n" not in text
    assert text.count("\r") == 3
    assert "4/4 100%" in text
    assert text.endswith("\r\x1b[K")


def test_elsewhere_it_is_quiet_unless_asked():
    """Off a terminal nothing is written, or with `always` a line at the beginning and the end."""
    quiet, told = io.StringIO(), io.StringIO()
    for bar in (Progress("entries", stream=quiet), Progress("entries", always=True, stream=told)):
        for done in range(5):
            bar.update(done, 4)
        bar.update(0, 0)
        bar.clear()
    assert quiet.getvalue() == ""
    assert told.getvalue().count("\n") == 3
