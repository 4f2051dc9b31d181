"""The bench of the event loop's lag fails where it should, and runs against a real gateway and real proofs."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zk_kit

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("genuine", "flipped", "garbage", "oversize")


@pytest.fixture(scope="module")
def bench() -> dict[str, Any]:
    before = list(sys.path)
    try:
        return runpy.run_path(str(ROOT / "bench/zk_lag.py"))
    finally:
        sys.path[:] = before


def found(**changes: Any) -> dict[str, Any]:
    lags = [[], [1.0] * 100, [5.9] * 100, [1.0] * 100, [50.0] * 100, [1.0] * 100, [0.1] * 100]
    sound = {"lags": lags, "verdicts": dict.fromkeys(KINDS, 3), "wrong": {}, "answers": {"right": 9, "wrong": 0}}
    sound |= {"load": 1.0}
    return {**sound, **changes}


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, ""),
        ({"lags": [[], [1.0] * 100, [0.1] * 98 + [6.1, 6.1]]}, "5.10 ms more"),
        ({"verdicts": {"genuine": 3}}, "not every kind"),
        ({"wrong": {"genuine: proof_rejected": 1}}, "wrong verdicts"),
        ({"answers": {"right": 0, "wrong": 0}}, "answers"),
        ({"answers": {"right": 9, "wrong": 1}}, "answers"),
    ],
    ids=str,
)
def test_what_is_missed_is_said(bench: dict[str, Any], changes: dict[str, Any], missed: str) -> None:
    """A p99 of over 5 ms more, a wrong verdict, and a run in which nothing was judged or answered all fail."""
    result = bench["judged"](found(**changes))
    assert len(result["missed"]) == bool(missed)
    assert missed in "".join(result["missed"])


@pytest.mark.slow
@pytest.mark.skipif(zk_kit.missing("ezkl"), reason="ezkl is not installed (extra zk)")
def test_it_runs() -> None:
    """A short run judges every kind of proof rightly beside answers; how much it adds is for a quiet machine to say."""
    command = [sys.executable, str(ROOT / "bench/zk_lag.py"), "--rounds", "1", "--seconds", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert done.returncode in (0, 1), done.stderr
    result = json.loads(done.stdout)
    assert [line for line in result["missed"] if "ms more" not in line] == []
    assert result["verdicts"].keys() == set(KINDS)
    assert result["off"]["ticks"] > 50
