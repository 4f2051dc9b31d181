"""What every command prints with: signs, words and colours for outcomes, and a progress bar.

A word always stands beside the sign and the colour. Colour goes to a terminal only, and never when NO_COLOR is set
(no-color.org) or TERM is `dumb`. Text that may come from outside is cleaned by the caller with `gateway.text.plain`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from gateway.model.line import Line
from gateway.model.verdict import Outcome
from gateway.text import plain

_SIGNS = {Outcome.AFFIRMING: "✓", Outcome.WARNING: "!", Outcome.CONTRAINDICATED: "✗", Outcome.NONE: "–"}
_PLAIN = {Outcome.AFFIRMING: "+", Outcome.WARNING: "!", Outcome.CONTRAINDICATED: "x", Outcome.NONE: "-"}
_COLOURS = {Outcome.AFFIRMING: "32", Outcome.WARNING: "33", Outcome.CONTRAINDICATED: "31", Outcome.NONE: "36"}
_WIDTH = max(len(o.value) for o in Outcome)


def wants_colour(stream: TextIO) -> bool:
    """Whether escape codes may go to `stream`."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def mark(outcome: Outcome, stream: TextIO) -> str:
    """The sign and the word of an outcome, padded to one width, coloured where `stream` takes it."""
    text = f"{_sign(outcome, stream)} {outcome.value:<{_WIDTH}}"
    return f"\x1b[{_COLOURS[outcome]}m{text}\x1b[0m" if wants_colour(stream) else text


def printable(text: str, stream: TextIO) -> str:
    """`text` with what the stream's encoding lacks written as escapes, so that printing never fails half way."""
    encoding = stream.encoding or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def show(title: str, lines: Sequence[Line], code: int) -> None:
    """A title, a line for each check, and what they come to, on standard output; foreign text made inert."""
    out = sys.stdout
    text = [plain(title)]
    for line in lines:
        about = f"{line.about}: " if line.about else ""
        text.append(f"  {mark(line.outcome, out)}  {line.step:<13}{plain(about + line.sentence)}")
        if line.detail:
            text.append(f"{'':33}{plain(line.detail, 400)}")
    text.append(f"  {_SUMMARY[code]}")
    out.write("".join(printable(row, out) + "\n" for row in text))


_SUMMARY = {
    0: "all that was asked for is shown, as far as these files and these keys go (exit 0)",
    1: "something is CONTRAINDICATED, or not what was required (exit 1)",
    3: "something COULD NOT BE DECIDED (exit 3)",
}


def as_document(line: Line) -> dict[str, object]:
    """A line for --json. Text is as it was found: JSON escapes it."""
    return {
        "step": line.step,
        "outcome": line.outcome.value,
        "about": line.about,
        "sentence": line.sentence,
        "detail": line.detail,
        "claimed": line.claimed,
    }


def _sign(outcome: Outcome, stream: TextIO) -> str:
    sign = _SIGNS[outcome]
    return sign if printable(sign, stream) == sign else _PLAIN[outcome]


class Progress:
    """A bar on standard error, redrawn in place; where that is no terminal silent, or with `always` some lines.

    `update(done, total)` may be called as often as one likes; it draws at most ten times a second.
    """

    def __init__(self, label: str, *, always: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._tty = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._on = self._tty or always
        self._label = label
        self._began = time.monotonic()
        self._next = 0.0

    def update(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self._on or (now < self._next and done < total):
            return
        self._next = now + (0.1 if self._tty else 2.0)
        rate = done / max(now - self._began, 1e-9)
        share = done / total if total else 1.0
        text = f"{self._label} {done:,}/{total:,} {share:4.0%} {rate:,.0f}/s"
        if self._tty:
            filled = int(share * 30)
            self._stream.write(f"\r\x1b[K[{'#' * filled}{'.' * (30 - filled)}] {text}")
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def clear(self) -> None:
        """Take the bar away, before something else is printed."""
        if self._on and self._tty:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
