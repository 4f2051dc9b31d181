"""The filter language of the traffic screen, and what a filter selects.

    verdict:fail node:og-* model:llama* policy:strict agent:eu-1 release:withheld since:1h "timed out"

Terms are joined by *and*. `verdict` takes our words or RFC 9334's (`fail` = `contraindicated`), and `problem` for
everything that is not affirming. Values may hold `*` and `?`. Text without a key is looked for in every column. A
node's name is matched as it is written; elsewhere upper and lower case are the same.
"""

from __future__ import annotations

import re
import shlex
from fnmatch import fnmatchcase

import msgspec

from gateway.errors import FormatError
from gateway.model.admin import Row
from gateway.model.verdict import Outcome

_VERDICTS = {
    "pass": (Outcome.AFFIRMING,),
    "warn": (Outcome.WARNING,),
    "fail": (Outcome.CONTRAINDICATED,),
    "none": (Outcome.NONE,),
    "problem": (Outcome.WARNING, Outcome.CONTRAINDICATED, Outcome.NONE),
    "any": (),
    **{tier.value: (tier,) for tier in Outcome},
}
#: key -> the attributes of a row that it looks at
_COLUMNS = {
    "node": ("node",),
    "network": ("network",),
    "model": ("model",),
    "policy": ("policy",),
    "agent": ("key_id", "client_request_id"),
    "release": ("release",),
    "reason": ("reason",),
    "receipt": ("id",),
    "endpoint": ("endpoint",),
}
_TEXT = ("id", "key_id", "client_request_id", "model", "node", "network", "policy", "reason", "release", "endpoint")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
HELP = "verdict:fail|warn|none|problem  node:og-*  model:…  policy:…  agent:…  release:…  reason:…  since:1h  text"


class Filter(msgspec.Struct, frozen=True):
    """What to show. An empty filter selects every row. `since_ms` is a time, fixed when the filter was set."""

    verdicts: tuple[Outcome, ...] = ()
    terms: tuple[tuple[str, str], ...] = ()
    text: tuple[str, ...] = ()
    since_ms: int | None = None
    source: str = ""

    def __bool__(self) -> bool:
        return bool(self.verdicts or self.terms or self.text or self.since_ms is not None)

    def matches(self, row: Row) -> bool:
        """Whether `row` is selected."""
        if self.verdicts and row.verdict not in self.verdicts:
            return False
        if self.since_ms is not None and row.created_ms < self.since_ms:
            return False
        return all(_column(row, key, pattern) for key, pattern in self.terms) and all(
            any(word in _value(row, name) for name in _TEXT) for word in self.text
        )

    def exact(self, key: str) -> str | None:
        """The one literal value that `key` must have, for a source that can select by it; None: no such value."""
        values = [pattern for name, pattern in self.terms if name == key]
        return values[0] if len(values) == 1 and not re.search(r"[*?\[]", values[0]) else None


def parse_filter(source: str, now_ms: int) -> Filter:
    """The filter that `source` describes at `now_ms` (the source's clock); FormatError says which term is wrong."""
    try:
        words = shlex.split(source)
    except ValueError as error:
        raise FormatError(f"the filter has an open quotation: {source!r}") from error
    verdicts: tuple[Outcome, ...] = ()
    terms: list[tuple[str, str]] = []
    text: list[str] = []
    since: int | None = None
    for word in words:
        key, colon, value = word.partition(":")
        if not colon:
            text.append(word.lower())
        elif key == "verdict":
            if value not in _VERDICTS:
                raise FormatError(f"verdict:{value} is none of {', '.join(_VERDICTS)}")
            verdicts = _narrowed(verdicts, value)
        elif key == "since":
            begin = now_ms - _seconds(value) * 1000
            since = begin if since is None else max(begin, since)
        elif key in _COLUMNS:
            terms.append((key, value))
        else:
            raise FormatError(f"{key!r} is no filter key; there are verdict, since, {', '.join(_COLUMNS)}")
    return Filter(verdicts, tuple(terms), tuple(text), since, source.strip())


def is_problem(row: Row) -> bool:
    """Whether `row` is one that `n` walks to: anything that was not affirmed."""
    return row.verdict != Outcome.AFFIRMING


def _narrowed(verdicts: tuple[Outcome, ...], word: str) -> tuple[Outcome, ...]:
    """What of `verdicts` (none: any) the word `word` leaves."""
    more = _VERDICTS[word]
    if not verdicts or not more:
        return verdicts or more
    both = tuple(tier for tier in verdicts if tier in more)
    if not both:
        raise FormatError(f"no verdict is verdict:{word} and what stands before it")
    return both


def _seconds(value: str) -> int:
    found = re.fullmatch(r"(\d{1,6})([smhd])", value)
    if found is None:
        raise FormatError(f"since:{value} is not a time like 90s, 15m, 2h or 7d")
    return int(found[1]) * _UNITS[found[2]]


def _value(row: Row, name: str) -> str:
    value = getattr(row, name)
    return value.lower() if isinstance(value, str) else ""


def _column(row: Row, key: str, pattern: str) -> bool:
    if key == "node":  # as it is written, as where stored rows are looked up by it
        return fnmatchcase(row.node or "", pattern)
    return any(fnmatchcase(_value(row, name), pattern.lower()) for name in _COLUMNS[key])
