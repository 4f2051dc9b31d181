from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_strategies import NODE_RESULTS, policies

from gateway.model.verdict import AttestationResult, Check, Claim, Outcome
from gateway.policy import CompiledPolicy, Phase, decide, meet, parse_policy
from gateway.policy.proven import with_proofs
from gateway.policy_files import read_policies
from gateway.routing import node_at_fault
from gateway.verify.checks import CHECKS, PROOFS
from gateway.verify.proofs.evidence import Artefact, Assurance, Kind, ProofRecord, Verdict

A, W, N, C = Outcome.AFFIRMING, Outcome.WARNING, Outcome.NONE, Outcome.CONTRAINDICATED
ASKED, ANSWER, OTHER = "1" * 64, "2" * 64, "3" * 64
BUILTIN = read_policies()
NODE = AttestationResult((Check("evidence", N, "no_evidence"),))
SHOWN = ("malformed", "shape", "model_echo", "tool_undeclared", "tool_arguments", "stream_grammar", "output_kind")


def record(kind: Kind, verdict: Verdict, about: str | None = ANSWER, **other: object) -> ProofRecord:
    how = Assurance.CRYPTOGRAPHIC if kind is Kind.ZK else Assurance.STATISTICAL
    reason = None if verdict is Verdict.PASS else "because"
    return ProofRecord(kind, how, verdict, ASKED, about, **{"reason": reason, "tokens": 40, **other})  # type: ignore[arg-type]


def answer(*more: Check, calls: bool = False) -> AttestationResult:
    """What an answer shows that nobody signed; with `calls`, it calls a declared tool."""
    checks = [Check(name, A) for name in SHOWN]
    call = Check("executable_uncovered", C, "executable_uncovered", "look")
    checks.append(call if calls else Check("executable_uncovered", A))
    return AttestationResult((*checks, *more), (Claim("model_bound", "unknown"),))


def outcome(result: AttestationResult, name: str) -> tuple[Outcome, str | None]:
    (check,) = [c for c in result.checks if c.id == name]
    return check.outcome, check.reason


def policy_of(proofs: str, more: str = "") -> CompiledPolicy:
    text = f'name = "p"\nversion = 1\n[require]\nall = ["evidence", {proofs}]\n{more}'
    return parse_policy("p.toml", text.encode())


def test_each_proof_that_policy_names_is_listed() -> None:
    """A proof without a record is `none`, and what the verifier found stays as it was, in front."""
    before = answer(calls=True)
    for policy in (BUILTIN["quorum"], BUILTIN["reexec"], BUILTIN["signed"]):
        after = with_proofs(before, (), policy, ANSWER)
        assert after.checks[: len(before.checks)] == before.checks
        assert {c.id for c in after.checks[len(before.checks) :]} == policy.plan.proofs
        assert after.claims == before.claims
        for name in policy.plan.proofs:
            assert outcome(after, name) == (N, "not_gathered")


def test_records_become_checks_in_the_order_of_the_registry() -> None:
    """Every record is listed, also one that the tree does not name; drift is about no answer and is not."""
    records = [record(kind, Verdict.PASS) for kind in Kind if kind is not Kind.DRIFT]
    records.append(record(Kind.DRIFT, Verdict.INCONCLUSIVE))
    after = with_proofs(answer(), records, BUILTIN["quorum"], ANSWER)
    assert [c.id for c in after.checks if c.id.startswith("proof_")] == [name for name in CHECKS if name in PROOFS]
    assert all(c.outcome is A for c in after.checks)


@pytest.mark.parametrize(
    ("verdict", "about", "warn", "expected"),
    [
        (Verdict.PASS, ANSWER, False, (A, None)),
        (Verdict.PASS, None, False, (N, "not_of_this_answer")),
        (Verdict.PASS, OTHER, False, (N, "not_of_this_answer")),
        (Verdict.FAIL, ANSWER, True, (C, "because")),
        (Verdict.FAIL, None, True, (C, "because")),
        (Verdict.FAIL, OTHER, True, (N, "not_of_this_answer")),
        (Verdict.INCONCLUSIVE, ANSWER, False, (N, "because")),
        (Verdict.INCONCLUSIVE, ANSWER, True, (W, "because")),
        (Verdict.INCONCLUSIVE, None, True, (W, "because")),
        (Verdict.INCONCLUSIVE, OTHER, True, (N, "not_of_this_answer")),
        (Verdict.ABSENT, ANSWER, False, (N, "because")),
        (Verdict.ABSENT, ANSWER, True, (N, "because")),
    ],
)
def test_what_a_record_counts_as(
    verdict: Verdict, about: str | None, warn: bool, expected: tuple[Outcome, str | None]
) -> None:
    """Only a pass about this answer affirms; what was tried and undecided is a warning where policy says so."""
    more = '[proofs]\non_inconclusive = "warn"\n' if warn else ""
    after = with_proofs(answer(), [record(Kind.REEXEC, verdict, about)], policy_of('"proof_reexec"', more), ANSWER)
    assert outcome(after, "proof_reexec") == expected


def test_of_two_records_of_one_kind_the_worse_counts() -> None:
    """A second pass does not outweigh a failure, in whichever order they come."""
    both = [record(Kind.REEXEC, Verdict.FAIL), record(Kind.REEXEC, Verdict.PASS)]
    for records in (both, both[::-1]):
        assert outcome(with_proofs(answer(), records, BUILTIN["reexec"], ANSWER), "proof_reexec") == (C, "because")


@pytest.mark.parametrize(
    ("records", "covered"),
    [
        ([record(Kind.QUORUM, Verdict.PASS, artefacts=(Artefact("n", OTHER),), tokens=None)], True),
        ([record(Kind.QUORUM, Verdict.PASS)], False),
        ([record(Kind.QUORUM, Verdict.PASS, OTHER, artefacts=(Artefact("n", OTHER),), tokens=None)], False),
        ([record(Kind.QUORUM, Verdict.INCONCLUSIVE, tokens=None)], False),
        ([record(Kind.QUORUM, Verdict.FAIL, None, tokens=None)], False),
        ([record(Kind.REEXEC, Verdict.PASS), record(Kind.ZK, Verdict.PASS)], False),
        ([], False),
    ],
)
def test_a_call_is_covered_by_a_quorum_that_compared_calls(records: list[ProofRecord], covered: bool) -> None:
    """Agreement on calls by value covers a tool call; agreement on text, on another answer, or any other proof not."""
    policy = BUILTIN["quorum"]
    after = with_proofs(answer(calls=True), records, policy, ANSWER)
    assert outcome(after, "executable_uncovered")[0] is (A if covered else C)
    assert [c.over for c in after.checks if c.id == "executable_uncovered"] == ["proof_quorum" if covered else None]
    assert decide(after, policy, Phase.RESPONSE, node=NODE).permit is covered
    # and where there is no call, there is nothing to cover
    assert outcome(with_proofs(answer(), records, policy, ANSWER), "executable_uncovered") == (A, None)


@pytest.mark.parametrize(("reason", "fault"), [("no_signature", False), ("executable_uncovered", True)])
def test_an_uncovered_call_is_no_fault_of_a_node_that_never_signs(reason: str, fault: bool) -> None:
    """Re-execution does not release the call, and the node is blamed only where it should have signed."""
    shown = AttestationResult((*answer().checks[:-1], Check("executable_uncovered", C, reason, "look")))
    after = with_proofs(shown, [record(Kind.REEXEC, Verdict.PASS)], BUILTIN["reexec"], ANSWER)
    decision = decide(after, BUILTIN["reexec"], Phase.RESPONSE, node=NODE)
    assert (decision.permit, decision.reason) == (False, "executable_uncovered")
    assert node_at_fault(decision) is fault


RECORDS = st.lists(
    st.builds(
        record,
        st.sampled_from([Kind.QUORUM, Kind.REEXEC, Kind.ZK]),
        st.sampled_from(Verdict),
        st.sampled_from([ANSWER, ANSWER, OTHER, None]),
    ),
    max_size=3,
)
FOUND = st.lists(
    st.builds(Check, st.sampled_from(("signature", "executable_uncovered", "replay")), st.sampled_from(Outcome)),
    max_size=3,
    unique_by=lambda check: check.id,
)


@settings(max_examples=100, deadline=None)
@given(policies(), policies(), NODE_RESULTS, FOUND, RECORDS)
def test_what_one_refuses_with_its_proofs_the_meet_refuses(
    left: CompiledPolicy, right: CompiledPolicy, node: AttestationResult, found: list[Check], records: list[ProofRecord]
) -> None:
    """With the same records at hand, the meet releases nothing that either policy holds back."""

    def permits(policy: CompiledPolicy) -> bool:
        result = with_proofs(AttestationResult(tuple(found)), records, policy, ANSWER)
        return decide(result, policy, Phase.RESPONSE, node=node).permit

    if permits(meet(left, right)):
        assert permits(left)
        assert permits(right)
