"""The benchmark in front of an OpenGradient network: what it asks, how it judges, and that it runs."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.policy.load import parse_policy

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ("p50_1", "p99_1", "p50_16", "p99_16", "rate_1", "rate_16", "cpu_1", "cpu_16", "first_byte_ms")


@pytest.fixture(scope="module")
def bench() -> dict[str, Any]:
    before = list(sys.path)
    try:
        return runpy.run_path(str(ROOT / "bench/opengradient.py"))
    finally:
        sys.path[:] = before


def figures(first_byte: float, cpu: float) -> dict[str, dict[str, float]]:
    own = dict.fromkeys(FIGURES, 1.0)
    ours = own | {"first_byte_ms": first_byte, "cpu_16": cpu}
    return {"node": own, "direct": ours, "ohttp": ours, "sealed": {"first_byte_ms": 21.0}}


@pytest.mark.parametrize(
    ("first_byte", "cpu", "met"),
    [
        (51.0, 1.25, [True, True, True, True]),
        (51.1, 1.25, [False, True, True, True]),
        (71.1, 1.3, [False, False, False, False]),
    ],
)
def test_targets_are_judged(bench: dict[str, Any], first_byte: float, cpu: float, met: list[bool]) -> None:
    """A figure at its limit is within; the first byte counts from the node's own, sealed from its own sealed one."""
    found = figures(first_byte, cpu)
    judged = bench["targets"](found)
    assert [row["met"] for row in judged] == met
    text = bench["table"](found, judged)
    assert text.count("MISSED") == met.count(False)
    assert "48" in text  # the peer's figure stands beside ours


def test_no_prompt_is_asked_twice(bench: dict[str, Any]) -> None:
    """Equal requests would be answered by one statement, so that the second was a replay."""
    place = bench["Place"]("node", 1, "k", 1, False)
    asked = [bench["request"](place, stream=stream) for stream in (True, False, True)]
    assert len({text for _, text in asked}) == 3
    assert [len(text) for _, text in asked[::2]] == [450, 450]
    head, _, body = asked[0][0].partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(body) in head
    assert json.loads(body)["stream"] is True
    assert "stream" not in json.loads(asked[1][0].partition(b"\r\n\r\n")[2])


def test_the_policy_is_one(bench: dict[str, Any]) -> None:
    """The benchmark's policy loads, allows this network alone and releases streams by a window of one event."""
    policy = parse_policy("window.toml", bench["POLICY"].encode())
    assert policy.release.window_events == 1


@pytest.mark.slow
def test_a_short_run() -> None:
    """Every place is measured, every answer is right, and the exit code says whether all targets were met."""
    command = [sys.executable, str(ROOT / "bench/opengradient.py"), "--json", "--rounds", "1", "--requests", "32"]
    done = subprocess.run([*command, "--streams", "1"], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert set(found["figures"]) == {"node", "direct", "ohttp", "sealed"}
    assert all(set(found["figures"][name]) >= set(FIGURES) for name in ("node", "direct", "ohttp"))
    assert done.returncode == int(not all(row["met"] for row in found["targets"]))
