"""The door to CSV: text that a spreadsheet program shows and never runs, and that reads back exactly.

Writing a cell, in this order:
 1. a backslash is doubled; every character that is not printable (line breaks, tabs, NUL, escape, bidirectional marks,
    lone surrogates, spaces other than the ordinary one) and `;` becomes `\\xNN`, `\\uNNNN` or `\\UNNNNNNNN`, because
    programs differ on where such a cell ends, and half of Europe splits at `;`;
 2. a cell whose first character, spaces aside, is `=`, `+`, `-` or `@`, or one that Unicode normalises to these (the
    full-width signs), or that begins with `'`, gets one `'` in front.

Reading back: take away one leading `'`, then undo the escapes. Bytes in the database that are not UTF-8 are lone
surrogates U+DC80 to U+DCFF here, as Python's `surrogateescape` has them. An absent value is an empty cell, and empty
text is one `'`.
"""

from __future__ import annotations

import re
import unicodedata

from .errors import FormatError

_FORMULA = frozenset("=+-@")
_ESCAPE = re.compile(r"\\(?:\\|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))|(\\)")


def cell(text: str | None) -> str:
    """`text` as the content of a CSV cell (quoting is the CSV writer's)."""
    if text is None:
        return ""
    if text == "":
        return "'"
    shown = "".join(c if c.isprintable() and c not in "\\;" else _escape(c) for c in text)
    return "'" + shown if _may_run(shown) else shown


def uncell(shown: str) -> str | None:
    """The text that `cell` wrote as `shown`; FormatError for what it would not have written."""
    if shown == "":
        return None
    text = _ESCAPE.sub(_unescape, shown[1:] if shown.startswith("'") else shown)
    if cell(text) != shown:
        raise FormatError(f"the cell {shown[:60]!a} was not written by this rule")
    return text


def _may_run(shown: str) -> bool:
    first = shown.lstrip(" ")[:1]
    return shown.startswith("'") or unicodedata.normalize("NFKC", first)[:1] in _FORMULA or first == "\u2212"


def _escape(char: str) -> str:
    if char == "\\":
        return "\\\\"
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _unescape(found: re.Match[str]) -> str:
    if found[4]:
        raise FormatError("a cell has a backslash that begins no escape")
    digits = found[1] or found[2] or found[3]
    try:
        return "\\" if digits is None else chr(int(digits, 16))
    except (ValueError, OverflowError):
        raise FormatError("a cell has an escape beyond Unicode") from None
