"""Pairs of greedy answers of simulated nodes, and what the collection says of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny_lm
from proofs_kit import positions

from gateway.verify.proofs.agreement import Agreement, NearTie, compare

FOLDER = Path(__file__).parents[2].parent / "shared/vectors/proofs"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the vectors of proofs are not at {FOLDER}")

EXPECTED = "agree_with_ref(tau=0.5,delta=0.05)"
REASONS = {
    "ok": ("same_tokens", "near_tie"),
    "divergence is not a near-tie": ("no_near_tie",),
    "logprob drift": ("logprob_drift",),
    "near-tie before min_prefix": ("early_near_tie",),
}


def pairs() -> list[Any]:
    path = FOLDER / "reexec/greedy_pairs.json"
    if not path.is_file():
        return []
    return [(case, node, wanted) for case in json.loads(path.read_bytes()) for node, wanted in case[EXPECTED].items()]


@pytest.mark.parametrize(("case", "node", "wanted"), pairs(), ids=lambda x: x if isinstance(x, str) else "")
def test_greedy_pairs(case: Any, node: str, wanted: Any) -> None:
    """Verdict, reason, prefix, drift and gap are those of the collection."""
    ref, other = (positions(json.dumps(case["responses"][name]).encode()) for name in ("ref", node))
    pair = compare(ref, other, NearTie(tau=0.5, delta=0.05, min_prefix=8))
    assert (pair.agreement.value, pair.prefix) == (wanted["verdict"], wanted["prefix"])
    assert pair.reason in REASONS[wanted["why"]]
    assert pair.drift == pytest.approx(wanted["mean_dlogprob"])
    assert pair.gap == (None if wanted.get("gap") is None else pytest.approx(wanted["gap"]))


def test_all_pairs_are_there() -> None:
    """The collection has sixteen pairs, and every outcome among them."""
    assert len(pairs()) == 16
    assert {wanted["verdict"] for _, _, wanted in pairs()} == {"agree", "inconclusive", "disagree"}


@pytest.mark.parametrize("variant", ["bf16", "int4", "other"])
def test_rates(variant: str) -> None:
    """Another small model gives the rates of the collection's: none of the honest disagrees, and all of the others do."""
    text = (FOLDER / "reexec/quorum_rates.txt").read_text()
    (row,) = re.findall(rf"^{variant} (\{{.*\}})$", text, re.MULTILINE)
    wanted = json.loads(row)["verdicts"]["tau=0.2,delta=0.05"]["disagree"]
    ref, node = (tiny_lm.answers(name, 40, 48) for name in ("fp32", variant))
    verdicts = [compare(positions(a), positions(b), NearTie()).agreement for a, b in zip(ref, node, strict=True)]
    assert verdicts.count(Agreement.DISAGREE) / 40 == pytest.approx(wanted, abs=0.1)
