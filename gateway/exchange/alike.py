"""Events that differ from an earlier one by their text alone, as nearly all of a chat's do.

Reading JSON strictly is most of what an event costs. When an event has every byte of one that was read before, but for
another plain text in the one member that holds it, then it says the same but for that text: no member more or less,
none twice, no number changed. Everything else is read anew.
"""

from __future__ import annotations

from typing import Any, NamedTuple

#: Bytes that a JSON string spells as escapes, or that end it.
_NOT_PLAIN = bytes(range(32)) + b'"\\'


class Alike(NamedTuple):
    """What stands before and behind the text of an event."""

    before: bytes
    behind: bytes

    def text(self, data: bytes) -> str | None:
        """The text of the event `data`; None when it differs in anything else, or its text is not plain UTF-8."""
        before, behind = self
        if not data.startswith(before) or not data.endswith(behind) or len(data) < len(before) + len(behind):
            return None
        return _plain(data[len(before) : len(data) - len(behind)])


def alike(data: bytes, document: Any, *way: str) -> Alike | None:
    """What events have in common that are like `data`, which was read as `document` and has one choice. `way` leads to
    the text within the choice; None when the text cannot be told from the bytes."""
    try:
        (text,) = document["choices"]
        for name in way:
            text = text[name]
    except (KeyError, TypeError, ValueError):
        return None
    member = f'"{way[-1]}"'.encode()
    # Without escapes a name is found by its bytes, and where nothing else bears it the text is what stands behind it.
    if data.find(b"\\") >= 0 or data.count(member) != 1:
        return None
    start = data.find(b'"', data.find(member) + len(member)) + 1
    end = data.find(b'"', start)
    if not isinstance(text, str) or data[start:end] != text.encode() or data[: start - 1].rstrip()[-1:] != b":":
        return None
    return Alike(data[:start], data[end:])


def _plain(text: bytes) -> str | None:
    if len(text.translate(None, _NOT_PLAIN)) != len(text):
        return None
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None
