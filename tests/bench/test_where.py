"""The profile by Python function: what is counted to whom, and what is said when it cannot run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
MAP = ["7f00 10 py::outer:/somewhere/a.py", "7f20 10 py::inner:/somewhere/b.py", ""]
PROFILE = """
events: Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw
ob=(1) libpython
fn=(1) eval'0x7f00'call
+3 100 1 1 10 5 2 1 2 1
cfn=(2) eval'0x7f20'call'eval'0x7f00'call
calls=2 0
+1 999 9 9 9 9 9 9 9 9
fn=(2)
* 30 0 0 3
fn=(3) malloc'bytes_new'eval'0x7f25'call
- 7
fn=(4) malloc'start
1 5 0 0 1
""".splitlines()


@pytest.fixture(scope="module")
def where() -> ModuleType:
    sys.path.insert(0, str(BENCH))
    try:
        spec = importlib.util.spec_from_file_location("where", BENCH / "where.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCH))
    return module


def test_costs_go_to_the_nearest_python_function(where: ModuleType) -> None:
    """C code counts to the Python function below which it runs, a call's own line to nobody a second time."""
    costs = where.own_costs(PROFILE, where.Names(MAP[:2]))
    assert costs == {
        "outer:/somewhere/a.py": [100, 10, 7, 4],
        "inner:/somewhere/b.py": [37, 3, 0, 0],
        where.OTHER: [5, 1, 0, 0],
    }
    lines = where.table(costs, 10, 2).splitlines()
    assert [line.rpartition("  ")[2] for line in lines[1:3]] == ["outer:/somewhere/a.py", "inner:/somewhere/b.py"]
    assert lines[-1].split() == ["all", "14", "1", "1", "0.4"]


def test_what_is_missing_is_said() -> None:
    """Without valgrind, or with a Python that has no -X perf or is none, there is one line and exit status 2."""
    for python, path in ((sys.executable, "/nowhere"), ("/nowhere/python", None), ("/bin/false", None)):
        done = subprocess.run(
            [sys.executable, BENCH / "where.py", "--python", python],
            env={"PATH": path} if path else None,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert done.stderr.startswith("where: ")
