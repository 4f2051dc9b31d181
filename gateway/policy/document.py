"""A policy file while it is read: its values, where each stands, and the problems found so far."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from gateway.errors import PolicyError

from .lines import Path


class Document:
    """The parsed text of one policy file. `source` is its name; `problems` grows while it is read."""

    def __init__(self, source: str, values: dict[str, object], lines: dict[Path, int]) -> None:
        self.source = source
        self.values = values
        self.lines = lines
        self.problems: list[tuple[int, PolicyError]] = []

    def get(self, name: str, default: object = None) -> object:
        return self.values.get(name, default)

    def line(self, path: Path) -> int:
        """The line of `path`, or of the nearest table around it; 1 for the file as such."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def note(self, path: Path, message: str) -> None:
        """Note a problem at `path`."""
        line = self.line(path)
        key = ".".join(str(part) for part in path) or None
        self.problems.append((line, PolicyError(message, where=f"{self.source}:{line}", key=key)))

    def known(self, path: Path, names: Iterable[str]) -> bool:
        """Whether the last part of `path` is one of `names`; notes an unknown key otherwise."""
        choices = list(names)
        if path[-1] in choices:
            return True
        place = ".".join(str(part) for part in path[:-1])
        where = f" in [{place}]" if place else ""
        self.note(path, f"unknown key {quoted(path[-1])}{where}{did_you_mean(path[-1], choices)}")
        return False

    def sorted(self) -> tuple[PolicyError, ...]:
        """The problems in the order of their lines."""
        return tuple(error for _, error in sorted(self.problems, key=lambda item: item[0]))


def quoted(value: object) -> str:
    """A value of the file, short enough for a message and printable."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def did_you_mean(word: object, choices: Iterable[str]) -> str:
    """`; did you mean …?` when one of `choices` is near, otherwise the choices when they are few."""
    names = list(choices)
    near = difflib.get_close_matches(str(word)[:80], names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; one of {', '.join(names)}" if len(names) <= 8 else ""
