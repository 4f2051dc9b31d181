"""The table of verification times: every row verifies, and says how it stands to its target."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, str(ROOT / "bench/verify.py"), "--runs", "2", *arguments], capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_json() -> None:
    """The JSON form has a row for each family, with its median and its target."""
    document = json.loads(run("--json"))
    assert document["runs"] == 2
    rows = {row["name"]: row for row in document["rows"]}
    assert {"Ed25519", "EIP-191, key known", "EIP-191, address alone"} <= set(rows)
    for row in rows.values():
        assert row["median_ms"] > 0
        assert row["within"] == (None if row["target_ms"] is None else row["median_ms"] <= row["target_ms"])


def test_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table has the same rows, and marks one that is over its target."""
    lines = run().splitlines()
    assert lines[0].split() == ["verification", "median", "ms", "target", "ms"]
    assert len(lines) > 5
    monkeypatch.setattr(sys, "path", list(sys.path))
    verify = runpy.run_path(str(ROOT / "bench/verify.py"))
    slow = verify["measured"](1, [verify["Family"]("slow", 0.0, lambda: lambda: sum(range(1000)))])
    assert "over" in verify["table"](slow)
