"""Margins under a shared seed, as the collection measured them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from proofs_kit import SUBJECT

from gateway.verify.proofs.calibration import Calibration, Quantiles, Statistic
from gateway.verify.proofs.evidence import Verdict
from gateway.verify.proofs.reexec import Terms, judge_reexec, score
from gateway.verify.proofs.spelling import Spelling

PATH = Path(__file__).parents[2].parent / "shared/vectors/proofs/reexec/seeded_margins.json"

pytestmark = pytest.mark.skipif(not PATH.is_file(), reason=f"the vectors of proofs are not at {PATH.parents[1]}")

CASES: list[Any] = json.loads(PATH.read_bytes()) if PATH.is_file() else []
HONEST = Calibration(
    1,
    "reexec",
    Statistic.SEEDED_MARGIN,
    "ref-1",
    "tinylm",
    "1234",
    "2026-01-31",
    (),
    (Quantiles(16, 100, 0, 0, 0.002),),
)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['node']}-{c['prompt']}")
def test_seeded_margins(case: Any) -> None:
    """Mean and match rate are the collection's; the honest node passes, wrong seeds and other weights fail."""
    margins = case["reference_margin"]
    found = score(margins)
    assert found.mean_margin == pytest.approx(case["mean_margin_clip3"], abs=1e-5)
    assert found.match_rate == pytest.approx(case["match_rate"])
    terms = Terms(Statistic.SEEDED_MARGIN)
    record = judge_reexec(margins, Spelling.SAME, HONEST, "tinylm", terms, SUBJECT)
    assert record.verdict is (Verdict.PASS if case["node"] == "honest" else Verdict.FAIL)


def test_all_cases_are_there() -> None:
    """The collection has four prompts to four nodes."""
    assert len(CASES) == 16
