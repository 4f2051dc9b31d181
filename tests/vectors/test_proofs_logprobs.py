"""Real log-probs of a 32-billion-parameter model, and what the collection recomputed of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from proofs_kit import SUBJECT

from gateway.verify.proofs.agreement import Agreement, NearTie, compare
from gateway.verify.proofs.distance import Terms, judge_distance, measure_distance
from gateway.verify.proofs.evidence import Verdict
from gateway.verify.proofs.spelling import Spelling, position_texts, spelling
from gateway.verify.proofs.tokens import FLOOR, Presence, Scored, read_choice

FOLDER = Path(__file__).parents[2].parent / "shared/vectors/proofs/logprobs"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the vectors of proofs are not at {FOLDER.parent}")

EXPECTED = json.loads((FOLDER / "expected.json").read_bytes()) if FOLDER.is_dir() else {}


def read(name: str) -> tuple[Scored, Spelling]:
    choice, scored = read_choice((FOLDER / name).read_bytes())
    return scored, spelling(position_texts(scored.positions), choice)


@pytest.mark.parametrize("pair", EXPECTED)
def test_figures(pair: str) -> None:
    """Similarity, prefix, drift and the number of floors are the collection's, and so is the verdict."""
    wanted = EXPECTED[pair]
    (executor, spelt), (validator, _) = (read(name) for name in pair.split(" vs "))
    assert executor.presence is Presence.SCORED
    found = measure_distance(executor.positions, validator.positions)
    assert found.similarity == (None if wanted["similarity"] is None else pytest.approx(wanted["similarity"], abs=1e-9))
    assert found.prefix == wanted["common_prefix"]
    assert found.mean_drift == pytest.approx(wanted["mean_abs_dlogprob"])
    assert found.max_drift == pytest.approx(wanted["max_abs_dlogprob"])
    floors = sum(any(x <= FLOOR for x in p.top.values()) for p in executor.positions)
    assert floors == wanted["positions_with_-9999"]
    record = judge_distance(executor.positions, validator.positions, spelt, Terms(), SUBJECT)
    assert record.verdict is (Verdict.PASS if wanted["accept_gt_0.99"] else Verdict.FAIL)
    if wanted["status"] == "different tokens":
        assert record.reason == "tokens_differ"


@pytest.mark.parametrize("pair", EXPECTED)
def test_quorum(pair: str) -> None:
    """Between the same weights there is agreement; four-bit weights drift too far from the others."""
    executor, validator = (read(name)[0].positions for name in pair.split(" vs "))
    agreed = compare(executor, validator, NearTie()).agreement is Agreement.AGREE
    assert agreed is EXPECTED[pair]["accept_gt_0.99"]


def test_tokens_spell_the_text() -> None:
    """The tokens of every real answer spell its text."""
    names = [path.name for path in FOLDER.glob("qwq*.json")]
    assert len(names) == 4
    assert {read(name)[1] for name in names} == {Spelling.SAME}
