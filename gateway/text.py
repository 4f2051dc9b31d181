"""The door to the terminal: text from outside, made inert and visible.

Model output, node names, file names and upstream errors may hold escape sequences that rename a window, write to the
clipboard or repaint a tick; bidirectional overrides that turn a sentence round; zero-width characters that make two
names look the same. `plain` leaves printable characters as they are and shows every other one as an escape, so nothing
is silently dropped either. The result is one line. It is not markup-safe: a caller that feeds a markup parser escapes
for that parser as well.
"""

from __future__ import annotations

import unicodedata

#: Printable by Python's table, and still able to mislead: fillers and joiners that look like a space or like nothing.
_MISLEADING = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
#: How many marks may stand on one base character before the rest is shown as escapes.
_MAX_MARKS = 4


def plain(text: str, width: int | None = None) -> str:
    """`text` on one line with every unprintable character as `\\xNN`, `\\uNNNN` or `\\UNNNNNNNN`.

    A backslash stays a backslash, for paths and JSON would be hard to read otherwise. With `width`, at most that many
    characters are returned, the last one `…` when something was cut; characters are counted, not terminal columns.
    """
    if width is not None and len(text) > width:
        text = text[: max(width, 0) + 1]  # a flood need not be escaped whole before it is cut
    shown = text if text.isascii() and text.isprintable() else _escaped(text)
    if width is not None and len(shown) > width:
        return shown[: width - 1] + "…" if width > 0 else ""
    return shown


def _escaped(text: str) -> str:
    pieces: list[str] = []
    marks = 0
    for char in text:
        marks = marks + 1 if _is_mark(char) else 0
        if char.isprintable() and char not in _MISLEADING and marks <= _MAX_MARKS and not _is_selector(char):
            pieces.append(char)
        else:
            pieces.append(_escape(char))
    return "".join(pieces)


def _is_mark(char: str) -> bool:
    # Enclosing marks, and many others that take no place of their own, are of combining class 0.
    return unicodedata.category(char) in ("Mn", "Me") or unicodedata.combining(char) != 0


def _is_selector(char: str) -> bool:
    # Variation selectors carry hidden bytes when strung together; U+FE0F after a sign is ordinary and rare here.
    return "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"


def _escape(char: str) -> str:
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
