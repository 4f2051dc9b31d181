"""Reference values: strict rows, and a match only when every named measurement is equal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.errors import FormatError
from gateway.model.tee import Golden
from gateway.verify.registry import compare_row, find_row, parse_registry

ROWS = [
    {"name": "small v1", "measurements": {"mr_td": "AA" * 48, "rtmr0": "bb" * 48}},
    {"name": "large v1", "measurements": {"mr_td": "cc" * 48, "rtmr0": "bb" * 48}},
]


def data(rows: Any = ROWS, **members: Any) -> bytes:
    return json.dumps({"schema": "reference-values/1", "rows": rows, **members}).encode()


def test_the_row_whose_every_value_is_equal_is_found() -> None:
    """Case does not matter, further measurements are not looked at, and a missing one does not match."""
    rows = parse_registry(data())
    measured = {"mr_td": "cc" * 48, "rtmr0": "BB" * 48, "rtmr3": "00" * 48}
    assert find_row(rows, measured) == rows[1]
    assert find_row(rows, {"mr_td": "cc" * 48}) is None
    assert find_row(rows, {**measured, "rtmr0": "00" * 48}) is None
    assert find_row((), measured) is None


def test_the_comparison_names_what_differs() -> None:
    """A comparison counts the matches and lists the others."""
    row = parse_registry(data())[0]
    assert compare_row(row, {"mr_td": "aa" * 48}) == Golden("registry:small v1", 1, ("rtmr0",))


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"[]",
        data(schema="other/1"),
        data(extra=1),
        data([{"name": "a"}]),
        data([{"name": "a", "measurements": {"x": 1}}]),
        data([{"name": "a", "measurements": {}}]),
        data([{"name": "a", "measurements": {"x": ""}}]),
        data([{"name": "a", "measurements": {"x": "zz"}}]),
        data([{"name": "a", "measurements": {"x": "aa bb"}}]),
        data([{"name": "", "measurements": {"x": "aa"}}]),
        data([{"name": "\x1b", "measurements": {"x": "aa"}}]),
        data([ROWS[0], ROWS[0]]),
        data([{"name": str(n), "measurements": {"x": "aa"}} for n in range(10_001)]),
    ],
)
def test_a_file_of_another_form_is_refused(bad: bytes) -> None:
    """Anything unknown, missing, empty, twice there or not hex is refused."""
    with pytest.raises(FormatError):
        parse_registry(bad)


def test_a_row_without_measurements_matches_nothing_by_accident() -> None:
    """An empty allow-list is refused when read, not skipped when used."""
    with pytest.raises(FormatError, match="anything would match"):
        parse_registry(data([{"name": "a", "measurements": {}}]))
