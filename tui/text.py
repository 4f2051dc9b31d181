"""The only door through which text from outside reaches a widget.

Model names, node ids, error texts and completions are written by parties we do not trust. Given to Textual as they
are, they can end the application (markup errors), forge a styled tick (markup obeyed) or reach the terminal itself
(ESC, C1 and bidi overrides pass through). So widgets draw only what these functions return:

    clean("a<ESC>[2Jb")                     -> "a\\\\x1b[2Jb"  `gateway.text.plain`, in widths terminals agree on
    fit("llama-3.3-70b", 8)                 -> "llama-3…"     exactly 8 cells
    line(("model ", "dim"), (name, ""))     -> Content, never parsed as markup

Cleaning twice changes nothing, so every function here cleans what it is given. What is exported is not taken from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NewType

from rich.cells import cell_len, set_cell_size
from textual.content import Content

from gateway.text import plain

#: Text that has been through the door.
Clean = NewType("Clean", str)

#: Longer values are cut before they are looked at: a line of a megabyte must not cost a megabyte of work a repaint.
MAX_CHARS = 2000
#: Flags are pairs of letters and skin tones join the sign before them, in some terminals only; a column would shift.
_JOINING = re.compile("[\U0001f1e6-\U0001f1ff\U0001f3fb-\U0001f3ff\u1160-\u11ff\ud7b0-\ud7ff]")


def clean(value: object, limit: int = MAX_CHARS) -> Clean:
    """`value` as one line of at most `limit` characters; what does not print becomes visible, the rest stays."""
    text = value if isinstance(value, str) else str(value)
    if len(text) <= limit and text.isascii() and text.isprintable():
        return Clean(text)
    return Clean(_JOINING.sub("·", plain(text, limit)))


def fit(value: object, width: int, *, right: bool = False) -> Clean:
    """`value` cleaned and made exactly `width` cells wide: cut with `…`, or padded on the left when `right`."""
    text = clean(value, limit=max(4 * width, 8))
    length = len(text) if text.isascii() else cell_len(text)
    if length > width:
        return Clean(set_cell_size(text, width - 1) + "…") if width > 0 else Clean("")
    pad = " " * (width - length)
    return Clean(pad + text if right else text + pad)


def line(*parts: tuple[object, str]) -> Content:
    """One line of `(text, style)` parts. Styles are ours; texts are cleaned and never parsed."""
    return Content.assemble(*((clean(text), style) for text, style in parts))


def lines(rows: Iterable[Content]) -> Content:
    """`rows` below each other."""
    return Content("\n").join(rows)
