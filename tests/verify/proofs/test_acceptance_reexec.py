"""Re-execution of a tiny language model behind vLLM-shaped responses: honest nodes pass, the others do not."""

from __future__ import annotations

import json
import math
from functools import cache

import pytest
import tiny_lm
from proofs_kit import SUBJECT, calibration, greedy, positions, reexecuted, seeded

from gateway.errors import FormatError
from gateway.verify.proofs.agreement import compare
from gateway.verify.proofs.calibration import Calibration, Statistic
from gateway.verify.proofs.distance import Terms as DistanceTerms
from gateway.verify.proofs.distance import judge_distance
from gateway.verify.proofs.evidence import ProofRecord, Verdict
from gateway.verify.proofs.prefixes import Terms as PrefixTerms
from gateway.verify.proofs.prefixes import cut_points, judge_prefixes
from gateway.verify.proofs.reexec import Terms, judge_reexec, reference_failed
from gateway.verify.proofs.reference import read_reference
from gateway.verify.proofs.sampling import parse_rate, selected
from gateway.verify.proofs.spelling import Spelling, spelling

GREEDY, SEEDED = Statistic.GREEDY_MARGIN, Statistic.SEEDED_MARGIN
NODES, TOKENS = 50, 64
LET_BE = 0.01  # by the calibration alone one honest answer in a hundred would fail
PROMPTS = tiny_lm.prompts(NODES)
BASELINE = tiny_lm.prompts(100, seed=2)


@cache
def calibrated(statistic: Statistic) -> Calibration:
    """From a hundred other prompts to an honest node."""
    if statistic is GREEDY:
        honest = tiny_lm.answers("bf16", 100, TOKENS, prompt_seed=2)
        return calibration(statistic, [greedy(p, a) for p, a in zip(BASELINE, honest, strict=True)])
    honest = tiny_lm.answers("bf16", 100, TOKENS, temperature=1.0, seed=900, prompt_seed=2)
    return calibration(
        statistic, [seeded(p, a, 900 + i) for i, (p, a) in enumerate(zip(BASELINE, honest, strict=True))]
    )


def judged(statistic: Statistic, margins: tuple[float, ...], spelt: Spelling = Spelling.SAME) -> ProofRecord:
    return judge_reexec(
        margins, spelt, calibrated(statistic), "tiny", Terms(statistic, max_mean_margin=LET_BE), SUBJECT
    )


def spelt(prompt: list[int], answer: bytes) -> Spelling:
    texts = reexecuted(prompt, answer).texts
    assert texts is not None
    return spelling(texts, json.loads(answer)["choices"][0])


@pytest.mark.parametrize(
    ("variant", "temperature", "passes"),
    [("bf16", 0.0, 50), ("int4", 0.0, 0), ("int3", 0.0, 0), ("other", 0.0, 0), ("bf16", 0.3, 0)],
    ids=["honest", "int4", "int3", "other_model", "samples_but_claims_greedy"],
)
def test_greedy(variant: str, temperature: float, passes: int) -> None:
    """Of fifty answers of 64 tokens at temperature 0 all honest ones pass, and no other does."""
    answers = tiny_lm.answers(variant, NODES, TOKENS, temperature=temperature, seed=40)
    records = [judged(GREEDY, greedy(p, a), spelt(p, a)) for p, a in zip(PROMPTS, answers, strict=True)]
    assert sum(r.verdict is Verdict.PASS for r in records) == passes
    assert {r.verdict for r in records} == {Verdict.PASS if passes else Verdict.FAIL}


@pytest.mark.parametrize(
    ("variant", "used", "passes"),
    [("bf16", 300, 50), ("bf16", 700, 0), ("int4", 300, 0), ("other", 300, 0)],
    ids=["honest", "wrong_seed", "int4", "other_model"],
)
def test_seeded(variant: str, used: int, passes: int) -> None:
    """Of fifty sampled answers with a shared seed all honest ones pass; other seeds and other weights do not."""
    answers = tiny_lm.answers(variant, NODES, TOKENS, temperature=1.0, seed=used)
    records = [judged(SEEDED, seeded(p, a, 300 + i)) for i, (p, a) in enumerate(zip(PROMPTS, answers, strict=True))]
    assert sum(r.verdict is Verdict.PASS for r in records) == passes
    assert {r.verdict for r in records} == {Verdict.PASS if passes else Verdict.FAIL}


@pytest.mark.parametrize("variant", ["bf16", "other"])
def test_short_answers(variant: str) -> None:
    """Fifteen tokens decide nothing, of an honest node or another."""
    (answer,) = tiny_lm.answers(variant, 1, 15)
    record = judged(GREEDY, greedy(PROMPTS[0], answer))
    assert (record.verdict, record.reason) == (Verdict.INCONCLUSIVE, "too_few_tokens")


@pytest.mark.parametrize("broken", [b"", b"{}", b'{"prompt_logprobs":[null]}', b"<html>"])
def test_reference_that_fails(broken: bytes) -> None:
    """A reference that answers nonsense leaves the evidence inconclusive."""
    with pytest.raises(FormatError) as caught:
        read_reference(broken, PROMPTS[0], [1, 2, 3])
    record = reference_failed(SUBJECT, caught.value.reason or "malformed")
    assert record.verdict is Verdict.INCONCLUSIVE


def test_another_text_beside_honest_tokens() -> None:
    """An answer whose tokens are the reference's own and whose text is another one fails."""
    (answer,) = tiny_lm.answers("bf16", 1, TOKENS)
    document = json.loads(answer)
    document["choices"][0]["message"]["content"] += " and send the money to Mallory"
    forged = json.dumps(document).encode()
    record = judged(GREEDY, greedy(PROMPTS[0], forged), spelt(PROMPTS[0], forged))
    assert (record.verdict, record.reason) == (Verdict.FAIL, "text_not_tokens")


def rescored(prompt: list[int], answer: bytes) -> bytes:
    """The reference's own log-probs for the tokens of an answer."""
    ids = tiny_lm.ids_of(answer)
    rows = tiny_lm.log_probs(tiny_lm.model("fp32").logits([*prompt, *ids]))[len(prompt) - 1 : -1]
    return tiny_lm.completion(ids, rows)


@pytest.mark.parametrize(
    ("variant", "tokens", "verdict"),
    [("bf16", 10, Verdict.PASS), ("bf16", 64, Verdict.PASS), ("int4", 64, Verdict.FAIL), ("other", 10, Verdict.FAIL)],
)
def test_log_probs(variant: str, tokens: int, verdict: Verdict) -> None:
    """Log-probs of an honest node are the reference's; those of another model are not, also at ten tokens."""
    answers = tiny_lm.answers(variant, 12, tokens)
    for prompt, answer in zip(PROMPTS, answers, strict=False):
        record = judge_distance(
            positions(answer), positions(rescored(prompt, answer)), Spelling.SAME, DistanceTerms(), SUBJECT
        )
        assert record.verdict is verdict, record


def continued(prompt: list[int], answer: bytes, cut: int, tokens: int) -> bytes:
    ids, rows = tiny_lm.model("fp32").write_all([[*prompt, *tiny_lm.ids_of(answer)[:cut]]], tokens)[0]
    return tiny_lm.completion(ids, rows)


@pytest.mark.parametrize(("variant", "wanted"), [("bf16", Verdict.PASS), ("other", Verdict.FAIL)])
def test_continuations(variant: str, wanted: Verdict) -> None:
    """By continuations alone no honest node fails and hardly any is undecided; another model always fails."""
    terms, verdicts = PrefixTerms(), []
    for index, (prompt, answer) in enumerate(zip(PROMPTS, tiny_lm.answers(variant, 20, TOKENS), strict=False)):
        cuts = cut_points(bytes(32), str(index), TOKENS, terms)
        written = [(cut, positions(continued(prompt, answer, cut, terms.horizon))) for cut in cuts]
        verdicts.append(judge_prefixes(positions(answer), written, Spelling.SAME, terms, SUBJECT).verdict)
    assert verdicts.count(wanted) >= 18
    assert set(verdicts) <= {wanted, Verdict.INCONCLUSIVE}


def test_a_sampled_audit_finds_the_cheat_when_it_is_due() -> None:
    """About one answer in five is due at that rate, and the first one of a node with another model fails."""
    answers = tiny_lm.answers("other", NODES, TOKENS)
    due = [i for i in range(NODES) if selected(b"e" * 32, f"request-{i}", parse_rate("0.2"))]
    assert abs(len(due) - 0.2 * NODES) <= 3 * math.sqrt(NODES * 0.2 * 0.8)
    record = judged(GREEDY, greedy(PROMPTS[due[0]], answers[due[0]]))
    assert record.verdict is Verdict.FAIL


def test_honest_nodes_do_not_write_the_same_text() -> None:
    """Exact equality would refuse honest nodes: of fifty pairs only some are the same, and none disagrees."""
    pairs = list(zip(tiny_lm.answers("fp32", NODES, TOKENS), tiny_lm.answers("bf16", NODES, TOKENS), strict=True))
    assert 0 < sum(tiny_lm.ids_of(a) == tiny_lm.ids_of(b) for a, b in pairs) < NODES
    assert not [
        p
        for p in (compare(positions(a), positions(b), PrefixTerms().near_tie) for a, b in pairs)
        if p.agreement == "disagree"
    ]
