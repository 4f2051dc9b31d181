"""A dated list of vendors' advisories that may not be open on a platform: one file, which several policies can name.

    as_of = "2026-11-01"
    source = "Intel's TCB info, as fetched that day"

    [[advisory]]
    id = "INTEL-SA-00828"
    severity = "medium"                                  # unrated, low, medium, high or critical: for readers alone
    note = "Gather data sampling."

Strict as a policy is: every key is known, every value of its type, every problem has its line. Severity decides
nothing; whoever wants to bear an advisory names a file without it.
"""

from __future__ import annotations

import datetime
import hashlib
import re

import msgspec

from gateway.errors import PolicyError

from .document import Document, quoted
from .schema import PolicyRef

SEVERITIES = ("unrated", "low", "medium", "high", "critical")
MAX_ADVISORIES = 1024
_MAX_TEXT = 300
_ID = re.compile(r"[A-Z]{2,16}-[A-Z0-9-]{2,48}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DAY_S = 86_400.0


class Advisories(msgspec.Struct, frozen=True):
    """What one file says. `begins` is its date in Unix seconds; `ref` is what receipts name it by."""

    ids: frozenset[str]
    begins: float
    ref: PolicyRef

    def age_days(self, at: float) -> float:
        return (at - self.begins) / _DAY_S


def read_advisories(name: str, data: bytes, document: Document) -> tuple[Advisories | None, tuple[PolicyError, ...]]:
    """The advisories of `data`, which policies call `name` and which has been taken apart as `document`; None with
    the problems when there are any, in the order of its lines."""
    for key in document.values:
        document.known((key,), ("as_of", "source", "advisory"))
    date = _date(document)
    _text(document, ("source",), document.get("source"))
    ids = _ids(document)
    if document.problems or date is None:
        return None, document.sorted()
    ref = PolicyRef(name.removesuffix(".toml"), int(date.strftime("%Y%m%d")), hashlib.sha256(data).hexdigest())
    begins = datetime.datetime(date.year, date.month, date.day, tzinfo=datetime.UTC).timestamp()
    return Advisories(frozenset(ids), begins, ref), ()


def _date(document: Document) -> datetime.date | None:
    text = document.get("as_of")
    try:
        if not isinstance(text, str) or _DATE.fullmatch(text) is None:
            raise ValueError
        return datetime.date.fromisoformat(text)
    except ValueError:
        document.note(("as_of",), f'as_of must be a date in quotes, like "2026-11-01", not {quoted(text)}')
        return None


def _text(document: Document, path: tuple[str | int, ...], value: object) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT:
        document.note(path, f"{path[-1]} must be a text of 1 to {_MAX_TEXT} characters")


def _ids(document: Document) -> list[str]:
    rows = document.get("advisory")
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_ADVISORIES or not all(isinstance(r, dict) for r in rows):
        document.note(("advisory",), f"there must be 1 to {MAX_ADVISORIES} tables [[advisory]]")
        return []
    ids: list[str] = []
    for place, row in enumerate(rows):
        path = ("advisory", place)
        for key in row:
            document.known((*path, key), ("id", "severity", "note"))
        ids += _id(document, (*path, "id"), row.get("id"), ids)
        if row.get("severity") not in SEVERITIES:
            document.note((*path, "severity"), f"severity must be one of {', '.join(SEVERITIES)}")
        _text(document, (*path, "note"), row.get("note"))
    return ids


def _id(document: Document, path: tuple[str | int, ...], value: object, before: list[str]) -> list[str]:
    if not isinstance(value, str) or _ID.fullmatch(value) is None:
        document.note(path, f'id must be an advisory\'s id, like "INTEL-SA-00828", not {quoted(value)}')
        return []
    if value in before:
        document.note(path, f"{value} is listed twice")
    return [value]
