"""On which line of a TOML text each key and each element of an array stands.

`tomllib` gives values without places, and a reader of a policy file needs the place. This scanner walks a text that
`tomllib` has already accepted, so it only has to follow its structure, and judges nothing.

    key_lines('a = 1\\n[b]\\nc = ["x", {d = 2}]\\n')
    == {("a",): 1, ("b",): 2, ("b", "c"): 3, ("b", "c", 0): 3, ("b", "c", 1): 3, ("b", "c", 1, "d"): 3}
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

Path = tuple[str | int, ...]

_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_STRING = r'"""(?:\\.|[^\\])*?"{3,5}' + r"|'''.*?'{3,5}" + r'|"(?:\\.|[^"\\\n])*"' + r"|'[^'\n]*'"
_KEY = re.compile(_STRING + r"|[A-Za-z0-9_-]+", re.DOTALL)
_SCALAR = re.compile(_STRING + r"|[^,\]}\n#]+", re.DOTALL)


def key_lines(text: str) -> dict[Path, int]:
    """The line (from 1) of every path in `text`, which must be TOML that `tomllib` accepts."""
    return _Scanner(text).run()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.breaks = [match.start() for match in re.finditer("\n", text)]
        self.lines: dict[Path, int] = {}
        self.arrays: dict[Path, int] = {}

    def run(self) -> dict[Path, int]:
        table: Path = ()
        self._space()
        while self.at < len(self.text):
            if self._peek("["):
                table = self._header()
            else:
                self._pair(table)
            self._space()
        return self.lines

    def _peek(self, mark: str) -> bool:
        return self.text.startswith(mark, self.at)

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"not the TOML that tomllib accepts, at {self.at}")
        self.at = match.end()
        return match[0]

    def _space(self) -> None:
        self._take(_SPACE)

    def _mark(self, path: Path, at: int) -> None:
        self.lines.setdefault(path, bisect_right(self.breaks, at) + 1)

    def _header(self) -> Path:
        """`[a.b]` or `[[a.b]]`; the path of the table that the following pairs belong to."""
        start = self.at
        size = 2 if self._peek("[[") else 1
        self.at += size
        parts = self._key()
        self.at += size
        path: Path = ()
        for part in parts[:-1]:
            path = (*path, part)
            self._mark(path, start)
            if path in self.arrays:
                path = (*path, self.arrays[path])
        path = (*path, parts[-1])
        self._mark(path, start)
        if size == 2:
            self.arrays[path] = self.arrays.get(path, -1) + 1
            path = (*path, self.arrays[path])
            self._mark(path, start)
        return path

    def _pair(self, table: Path) -> None:
        """`a.b = value`."""
        path, start = table, self.at
        for part in self._key():
            path = (*path, part)
            self._mark(path, start)
        self.at += 1
        self._space()
        self._value(path)

    def _key(self) -> list[str]:
        parts = []
        while True:
            self._space()
            parts.append(_plain(self._take(_KEY)))
            self._space()
            if not self._peek("."):
                return parts
            self.at += 1

    def _value(self, path: Path) -> None:
        if not self._peek("[") and not self._peek("{"):
            self._take(_SCALAR)
            return
        closing = "]" if self._peek("[") else "}"
        self.at += 1
        self._space()
        index = 0
        while not self._peek(closing):
            if closing == "]":
                self._mark((*path, index), self.at)
                self._value((*path, index))
                index += 1
            else:
                self._pair(path)
            self._space()
            if self._peek(","):
                self.at += 1
                self._space()
        self.at += 1


def _plain(key: str) -> str:
    """A key as `tomllib` reads it: quotes and escapes resolved."""
    return next(iter(tomllib.loads(f"{key} = 0"))) if key[0] in "\"'" else key
