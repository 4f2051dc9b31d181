"""A quorum of tiny language models: honest operators agree, liars do not, and nobody is counted twice."""

from __future__ import annotations

from collections import Counter

import pytest
import tiny_lm
from proofs_kit import REQUEST

from gateway.verify.proofs.evidence import Subject, Verdict
from gateway.verify.proofs.quorum import Answer, Quorum, Terms, judge_quorum

PROMPTS, TOKENS = 40, 48
SUBJECT = Subject(REQUEST, None)
DISTINCT = {"a": "op-1", "b": "op-2", "c": "op-3"}


def asked(index: int, **variants: str) -> list[Answer]:
    """What each node gives to prompt number `index`, by the variant of the model that it runs."""
    bodies = {node: tiny_lm.answers(variant, PROMPTS, TOKENS)[index] for node, variant in variants.items()}
    return [Answer(node, tiny_lm.sha(body), body) for node, body in bodies.items()]


def over_all(operators: dict[str, str], **variants: str) -> list[Quorum]:
    return [judge_quorum(asked(i, **variants), operators, Terms(), SUBJECT) for i in range(PROMPTS)]


def test_one_liar_of_three() -> None:
    """With one node on four-bit weights no answer fails, the honest two mostly agree, and only the liar is named."""
    found = over_all(DISTINCT, a="fp32", b="int4", c="bf16")
    verdicts = Counter(q.record.verdict for q in found)
    assert verdicts[Verdict.PASS] >= 0.6 * PROMPTS
    assert not [q for q in found if "b" in q.members]
    assert {name for q in found for name in q.record.culprits} == {"b"}
    named = [q for q in found if q.record.verdict is Verdict.PASS and q.record.culprits == ("b",)]
    assert len(named) >= 0.9 * verdicts[Verdict.PASS]


def test_two_distinct_liars() -> None:
    """One honest node among two that lie differently is never outvoted and never released."""
    found = over_all(DISTINCT, a="fp32", b="int3", c="other")
    assert not [q for q in found if q.record.verdict is Verdict.PASS]
    assert Counter(q.record.verdict for q in found)[Verdict.FAIL] >= 0.9 * PROMPTS


def test_one_operator_three_times() -> None:
    """Three nodes of one operator that all agree are no quorum."""
    for quorum in over_all(dict.fromkeys("abc", "op-1"), a="fp32", b="fp32", c="bf16"):
        assert quorum.record.verdict is Verdict.INCONCLUSIVE


def test_a_node_that_hangs() -> None:
    """After one timeout a third node is asked, and two that agree are enough."""
    late = [asked(0, a="fp32")[0], Answer("b", problem="timeout")]
    first = judge_quorum(late, DISTINCT, Terms(), SUBJECT)
    assert (first.more, first.missing) == (1, {"b": "timeout"})
    index = next(
        i for i in range(PROMPTS) if judge_quorum(asked(i, a="fp32", c="bf16"), DISTINCT, Terms(), SUBJECT).members
    )
    second = judge_quorum([*asked(index, a="fp32"), late[1], *asked(index, c="bf16")], DISTINCT, Terms(), SUBJECT)
    assert (second.members, second.more) == (("a", "c"), 0)


@pytest.mark.parametrize("index", range(4))
def test_a_node_without_log_probs(index: int) -> None:
    """The same text without log-probs is not agreement."""
    bodies = [a.body for a in asked(index, a="fp32", b="fp32")]
    assert bodies[0] is not None
    bare = bodies[0].replace(b'"logprobs"', b'"no_logprobs"', 1)
    quorum = judge_quorum([Answer("a", "0" * 64, bodies[0]), Answer("b", "1" * 64, bare)], DISTINCT, Terms(), SUBJECT)
    assert (quorum.record.verdict, quorum.missing) == (Verdict.INCONCLUSIVE, {"b": "logprobs_absent"})
