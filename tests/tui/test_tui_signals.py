"""What ends the TUI from outside."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_leaves_the_terminal_as_it_was(number: int, code: int) -> None:
    """The alternate screen and the mouse are given back, and the exit code says which signal it was."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "tui", "--demo"],
        stdin=child, stdout=child, stderr=child, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    os.close(child)
    out = b""
    deadline = time.monotonic() + 40
    try:
        while time.monotonic() < deadline:
            if not select.select([parent], [], [], 0.05)[0]:
                continue
            try:
                chunk = os.read(parent, 65536)
            except OSError:  # the other end is closed
                break
            sent, out = b"receipt" in out, out + chunk
            if b"receipt" in out and not sent:
                process.send_signal(number)
        assert process.wait(10) == code
    finally:
        process.kill()
        process.wait()
        os.close(parent)
    assert out.rindex(b"\x1b[?1049l") > out.rindex(b"\x1b[?1049h")
    assert out.rindex(b"\x1b[?1000l") > out.rindex(b"\x1b[?1000h")
