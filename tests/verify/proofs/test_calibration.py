"""Calibrations: measured, named by digest, and read strictly."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from gateway.crypto.canonical import jcs
from gateway.errors import FormatError
from gateway.verify.proofs.calibration import Calibration, Quantiles, Statistic, measure, parse_calibration

ROW = Quantiles(16, 100, 0.0, 0.001, 0.004)
GOOD = Calibration(
    1,
    "reexec",
    Statistic.GREEDY_MARGIN,
    "ref-1",
    "m",
    "abc",
    "2026-01-31",
    (1, 2),
    (ROW, Quantiles(64, 100, 0, 0, 0.5)),
)


def document(**changes: Any) -> dict[str, Any]:
    return msgspec.to_builtins(GOOD) | changes


def test_identity() -> None:
    """The id is the SHA-256 of the canonical form, and what was written is read again as it was."""
    assert GOOD.id == hashlib.sha256(jcs(document())).hexdigest()
    assert parse_calibration(GOOD.document()) == GOOD
    assert parse_calibration(msgspec.json.format(msgspec.json.encode(document()))).id == GOOD.id


@pytest.mark.parametrize(("tokens", "row"), [(15, None), (16, 16), (63, 16), (64, 64), (10_000, 64)])
def test_row_for_a_length(tokens: int, row: int | None) -> None:
    """An answer is judged by the longest row that is no longer than itself, and not at all below the shortest."""
    found = GOOD.honest(tokens)
    assert (found.tokens if found else None) == row


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2}, {"kind": "toploc"}, {"statistic": "vibes"}, {"reference": ""}, {"model": "m\n"}, {"revision": "x" * 257},
        {"made": "2026-13-01"}, {"made": "31.1.2026"}, {"made": "2026-01-31T00:00"}, {"seeds": [-1]}, {"seeds": [2**53]}, {"seeds": [1] * 65},
        {"seeds": "1"}, {"quantiles": []}, {"quantiles": [document()["quantiles"][0]] * 2}, {"quantiles": document()["quantiles"][::-1]},
        {"more": 1}, {"version": True},
    ],
    ids=str,
)  # fmt: skip
def test_refused(changes: dict[str, Any]) -> None:
    """Other versions, members and orders are refused, each with the same reason."""
    with pytest.raises(FormatError) as caught:
        parse_calibration(msgspec.json.encode(document(**changes)))
    assert caught.value.reason == "calibration_invalid"


@pytest.mark.parametrize(
    "changes",
    [{"p99": 0.51}, {"p995": 0.003}, {"p995": 0.51}, {"p95": 0.005}, {"p50": -0.1}, {"p50": 0.1}, {"samples": 99}, {"samples": 2**53}, {"tokens": 0}, {"tokens": 200_000}, {"p98": 0.0}],
    ids=str,
)  # fmt: skip
def test_rows_of_honest_nodes(changes: dict[str, Any]) -> None:
    """Quantiles that no honest node could give are refused: a threshold of theirs would pass anything."""
    row = document()["quantiles"][0] | changes
    with pytest.raises(FormatError):
        parse_calibration(msgspec.json.encode(document(quantiles=[row])))


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"version":1,"version":1}', b" " * 70_000, b"[" * 1000])
def test_other_files(data: bytes) -> None:
    """Files that are no strict JSON object of this form are refused."""
    with pytest.raises(FormatError):
        parse_calibration(data)


def test_measure() -> None:
    """Quantiles are those of windows' means, and never lie between two samples."""
    answers = [[i / 1000] * 16 for i in range(100)]
    (row,) = measure(answers, lengths=(16, 32))
    assert row == Quantiles(16, 100, pytest.approx(0.050), pytest.approx(0.095), pytest.approx(0.099))
    short, long = measure([[0.0] * 47 + [1.0]] * 50, lengths=(24, 12))
    assert (short.tokens, short.samples, short.p50, short.p99) == (12, 200, 0.0, pytest.approx(1 / 12))
    assert (long.tokens, long.samples, long.p50) == (24, 100, pytest.approx(1 / 24))


@pytest.mark.parametrize(
    ("samples", "over_p99", "over_p995"), [(199, 1, None), (200, 1, 0), (500, 4, 1), (999, 9, 4), (1000, 9, 4)]
)
def test_ranks(samples: int, over_p99: int, over_p995: int | None) -> None:
    """Of n samples and one more, at most the configured share is over a limit; a half percent takes two hundred samples."""
    (row,) = measure([[i / 10_000] * 16 for i in range(samples)], lengths=(16,))
    over = [samples - 1 - round(10_000 * limit) if limit is not None else None for limit in (row.p99, row.p995)]
    assert over == [over_p99, over_p995]
    assert (row.limit(0.01), row.limit(0.005)) == (row.p99, row.p99 if row.p995 is None else row.p995)


DISTANCE = msgspec.structs.replace(GOOD, statistic=Statistic.LOGPROB_DISTANCE, quantiles=(ROW,), top=5)


def test_distances() -> None:
    """A calibration of distances says how many alternatives it compared; one of margins has no such member."""
    assert parse_calibration(DISTANCE.document()) == DISTANCE
    assert b'"top":5' in DISTANCE.document()
    assert b"top" not in GOOD.document()
    assert b"p995" not in GOOD.document()


@pytest.mark.parametrize(
    "changes",
    [
        {"top": None}, {"top": 1}, {"top": 129}, {"statistic": "greedy_margin"},
        {"quantiles": [msgspec.to_builtins(ROW) | {"p99": 0.031}]},
    ],
    ids=str,
)  # fmt: skip
def test_distances_refused(changes: dict[str, Any]) -> None:
    """Distances without their number of alternatives, margins with one, and distances of other models are refused."""
    with pytest.raises(FormatError) as caught:
        parse_calibration(msgspec.json.encode(msgspec.to_builtins(DISTANCE) | changes))
    assert caught.value.reason == "calibration_invalid"


def test_measure_needs_samples() -> None:
    """A percentile of fewer than a hundred samples is not given."""
    with pytest.raises(FormatError) as caught:
        measure([[0.0] * 16] * 99)
    assert caught.value.reason == "too_few_samples"
