"""The table of verification times: every row verifies, and says how it stands to its target."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.verify.tee import pcs

ROOT = Path(__file__).resolve().parents[2]


NAMES = {"Intel TDX quote", "AMD SEV-SNP report", "AWS Nitro document", "NVIDIA SPDM report", "NVIDIA NRAS bundle"}
NAMES |= {
    "Confidential Space token",
    "Azure vTPM on SNP",
    "Arm CCA token",
    "RTMR replay of an event log",
    "Sigstore bundle",
}
NAMES |= {"Ed25519", "EIP-191, key known", "EIP-191, address alone"}


@pytest.fixture(scope="module")
def bench() -> dict[str, Any]:
    before = list(sys.path)
    try:
        return runpy.run_path(str(ROOT / "bench/verify.py"))
    finally:
        sys.path[:] = before


def test_json() -> None:
    """The JSON form has a row for each family; the exit code says whether a target was missed."""
    done = subprocess.run([sys.executable, str(ROOT / "bench/verify.py"), "--runs", "2", "--json"], capture_output=True, text=True, timeout=100)  # fmt: skip
    document = json.loads(done.stdout)
    assert document["runs"] == 2
    rows = {row["name"]: row for row in document["rows"]}
    assert set(rows) >= NAMES
    for row in rows.values():
        assert 0 < row["median_ms"] <= row["p99_ms"]
        assert row["first_ms"] > 0
        over = row["target_ms"] is not None and max(row["median_ms"], row["real_ms"] or 0) > row["target_ms"]
        assert row["within"] == (None if row["target_ms"] is None else not over)
    assert done.returncode == int(any(row["within"] is False for row in rows.values())), done.stderr


def test_table(bench: dict[str, Any]) -> None:
    """The table has a row for each family, and marks one that is over its target."""
    slow = bench["Family"]("slow", 0.0, lambda: lambda: sum(range(1000)), lambda: lambda: True)
    fast = bench["Family"]("fast", 1000.0, lambda: lambda: True, lambda: None)
    lines = bench["table"](bench["measured"](1, [slow, fast])).splitlines()
    assert lines[0].split()[-5:] == ["median", "p99", "first", "real", "target"]
    assert lines[1].endswith("over")
    assert lines[2].split()[0] == "fast"
    assert not lines[2].endswith("over")


@pytest.mark.parametrize(("target", "code"), [(0.0, 1), (1000.0, 0), (None, 0)])
def test_a_missed_target_is_the_exit_code(
    bench: dict[str, Any], capsys: pytest.CaptureFixture[str], target: float | None, code: int
) -> None:
    """A median over its target ends the program with 1, and nothing else does."""
    families = [bench["Family"]("one", target, lambda: lambda: sum(range(1000)))]
    bench["FAMILIES"][:], kept = families, list(bench["FAMILIES"])
    try:
        assert bench["main"](["--runs", "3"]) == code
    finally:
        bench["FAMILIES"][:] = kept
    assert "one" in capsys.readouterr().out


def test_evidence_that_does_not_verify_is_not_timed(bench: dict[str, Any]) -> None:
    """A figure for a refusal would be a figure for nothing."""
    with pytest.raises(SystemExit, match="did not verify"):
        bench["measured"](1, [bench["Family"]("bad", None, lambda: lambda: False)])


def test_the_first_call_finds_nothing_remembered(bench: dict[str, Any]) -> None:
    """Before each of the first calls, what the verifiers remember is emptied."""
    tdx = next(family for family in bench["FAMILIES"] if family.name == "Intel TDX quote")
    assert tdx.make()()
    assert pcs.read_collateral.cache_info().currsize
    bench["forget"]()
    assert not pcs.read_collateral.cache_info().currsize
