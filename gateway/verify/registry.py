"""Reference values as data: rows of measurements that somebody published, and which row a measurement is.

    {"schema": "reference-values/1",
     "rows": [{"name": "...", "measurements": {"mr_td": "<hex>", "rtmr0": "<hex>", ...}}]}

A row names as many measurements as its publisher vouches for, under the names of `TeeClaims.measurements`. It matches
when every one of them is there and equal; a measurement that the row does not name is not looked at, so a row must name
all that matter (docs/verification.md: with MRTD and RTMR0 to 2 left open, the rest is self-asserted). Whoever
gives the file vouches for it: nothing in it is signed.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError
from gateway.model.tee import Golden

MAX_REGISTRY_BYTES = 4 << 20
MAX_ROWS = 10_000
_MAX_NAME = 256
SCHEMA = "reference-values/1"


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One set of reference values. `measurements` maps names to lower-case hex."""

    name: str
    measurements: dict[str, str]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: str
    rows: list[Row]


def parse_registry(data: bytes) -> tuple[Row, ...]:
    """The rows in `data`; `FormatError` unless it is JSON of the form above, each row with a name of its own."""
    try:
        file = msgspec.convert(strict_json(data, max_bytes=MAX_REGISTRY_BYTES, max_depth=5), _File)
    except msgspec.ValidationError as error:
        raise FormatError(f"reference values: {error!s:.120}") from None
    if file.schema != SCHEMA:
        raise FormatError(f"reference values: the schema is not {SCHEMA}")
    if len(file.rows) > MAX_ROWS:
        raise FormatError(f"reference values: more than {MAX_ROWS} rows")
    if len({row.name for row in file.rows}) != len(file.rows):
        raise FormatError("reference values: two rows have the same name")
    return tuple(map(_checked, file.rows))


def _checked(row: Row) -> Row:
    if not 0 < len(row.name) <= _MAX_NAME or not row.name.isprintable():
        raise FormatError("reference values: a row's name is not plain text")
    if not row.measurements:
        raise FormatError(f"reference values: row {row.name!a} names no measurement, so that anything would match it")
    for value in row.measurements.values():
        try:
            spelled = bytes.fromhex(value).hex() == value.lower()
        except ValueError:
            spelled = False
        if not value or not spelled:
            raise FormatError(f"reference values: a measurement of row {row.name!a} is not hex")
    return Row(row.name, {name: value.lower() for name, value in row.measurements.items()})


def find_row(rows: tuple[Row, ...], measurements: Mapping[str, str]) -> Row | None:
    """The first row of which every measurement is there and equal, or None."""
    return next((row for row in rows if not mismatched(row, measurements)), None)


def mismatched(row: Row, measurements: Mapping[str, str]) -> tuple[str, ...]:
    """The names of `row` whose measurement differs or is missing."""
    return tuple(name for name, value in row.measurements.items() if measurements.get(name, "").lower() != value)


def compare_row(row: Row, measurements: Mapping[str, str]) -> Golden:
    """The comparison as claims have it: how many matched, and which did not."""
    wrong = mismatched(row, measurements)
    return Golden(f"registry:{row.name}", len(row.measurements) - len(wrong), wrong)
