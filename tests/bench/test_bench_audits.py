"""The simulation of sampled audits agrees with the arithmetic, and says so when it does not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from gateway.verify.proofs.sampling import catch_probability


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "bench" / "proofs_audits.py"
    spec = importlib.util.spec_from_file_location("proofs_audits", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_arithmetic_holds_over_seeds(bench: ModuleType, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A dishonest node is found within as many requests as the formula says, in the mean and in 95 of 100 cases."""
    assert bench.main(["--trials", "80", "--seed", str(seed), "--power", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(bench.CASES)
    assert "| 0.03 | 1 | 1 | 33.3 |" in lines[2]


def test_another_rule_is_found_out(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """If answers were chosen half as often as the rate says, the command would end with 1."""
    calls = iter(range(10**9))
    rule = bench.selected
    monkeypatch.setattr(bench, "selected", lambda *given: rule(*given) and next(calls) % 2 == 0)
    assert bench.main(["--trials", "100", "--power", "1"]) == 1


def test_the_quantile_is_the_least_that_suffices(bench: ModuleType) -> None:
    """One request fewer would not do."""
    for rate, fraction in bench.CASES:
        n = bench.quantile(rate, fraction, 0.9)
        assert catch_probability(rate, fraction, 0.9, n) >= 0.95 > catch_probability(rate, fraction, 0.9, n - 1)
