"""The benchmark's C programs, built once for all the tests that start them."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"


def build() -> None:
    """Builds `bench/bin`, one test process at a time; skips the test where it cannot be built."""
    if not shutil.which("cc") or not shutil.which("make"):
        pytest.skip("a C compiler and make are needed to build the benchmark's programs")
    with (BENCH / "Makefile").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = subprocess.run(["make", "-C", str(BENCH)], capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip("the benchmark's programs do not build here: " + (built.stdout + built.stderr).strip())
