from __future__ import annotations

import pytest
from hypothesis import given, settings
from policy_strategies import NODE_RESULTS, RESPONSE_RESULTS, policies, reference_verdict, with_leaf

from gateway.errors import PolicyFailed
from gateway.model.node import AttestedSession
from gateway.model.verdict import AttestationResult, Check, Claim, Outcome
from gateway.policy import CompiledPolicy, Phase, decide, parse_policy
from gateway.policy.decide import PRECEDENCE
from gateway.policy.tree import conjuncts, leaves
from gateway.policy_files import read_policies
from gateway.routing import node_at_fault
from gateway.verify.checks import CHECKS

A, W, N, C = Outcome.AFFIRMING, Outcome.WARNING, Outcome.NONE, Outcome.CONTRAINDICATED
NODE_IDS = ("evidence", "key_bound", "keyset_valid", "fresh")
RESPONSE_IDS = (
    "signature", "key_bound", "request_bound", "response_bound", "replay", "fresh", "model_echo", "malformed", "shape",
    "stream_grammar", "executable_uncovered", "tool_undeclared",
)  # fmt: skip


def policy_of(require: str, more: str = "") -> CompiledPolicy:
    text = f'name = "p"\nversion = 1\n{more}\n[require]\n{require}\n'
    return parse_policy("p.toml", text.encode())


def result(ids: tuple[str, ...], *claims: Claim, **other: Outcome | None) -> AttestationResult:
    """Every id affirming, but those that `other` names; None leaves one out."""
    outcomes = {**dict.fromkeys(ids, A), **other}
    checks = (Check(i, o, None if o is A else "because") for i, o in outcomes.items() if o is not None)
    return AttestationResult(tuple(checks), claims)


SIGNED = policy_of(f"all = {list(dict.fromkeys((*NODE_IDS, *RESPONSE_IDS)))}".replace("'", '"'))
NODE = result(NODE_IDS)


def test_all_affirming_is_affirming() -> None:
    """A node and an answer with every required check affirming are permitted, with no reason to name."""
    for decision in (
        decide(NODE, SIGNED, Phase.NODE),
        decide(result(RESPONSE_IDS), SIGNED, Phase.RESPONSE, node=NODE),
    ):
        assert (decision.verdict, decision.permit, decision.reason) == (A, True, None)
        assert (decision.failing, decision.missing, decision.warned) == ((), (), ())


@pytest.mark.parametrize("name", NODE_IDS)
@pytest.mark.parametrize("outcome", [N, C, None])
def test_h11_node_without_a_required_check_is_not_used(name: str, outcome: Outcome | None) -> None:
    """One required node check that is none, absent or contraindicated decides, and is named."""
    decision = decide(result(NODE_IDS, **{name: outcome}), SIGNED, Phase.NODE)
    assert decision.permit is False
    assert decision.verdict is (C if outcome is C else N)
    assert decision.reason == name


@pytest.mark.parametrize("name", RESPONSE_IDS)
@pytest.mark.parametrize("outcome", [N, C, None])
def test_h11_answer_without_a_required_check_is_not_released(name: str, outcome: Outcome | None) -> None:
    """One required answer check that is none, absent or contraindicated decides, and is named."""
    decision = decide(result(RESPONSE_IDS, **{name: outcome}), SIGNED, Phase.RESPONSE, node=NODE)
    assert decision.permit is False
    assert decision.verdict is (C if outcome is C else N)
    assert decision.reason == name
    assert (decision.failing if outcome is C else decision.missing) == (name,)


def test_check_of_both_phases_is_asked_of_both() -> None:
    """An affirming key_bound of the node does not stand in for that of the answer, nor the other way round."""
    answer = result(RESPONSE_IDS, key_bound=None)
    assert decide(answer, SIGNED, Phase.RESPONSE, node=NODE).missing == ("key_bound",)
    node = result(NODE_IDS, key_bound=None)
    assert decide(result(RESPONSE_IDS), SIGNED, Phase.RESPONSE, node=node).missing == ("key_bound",)


def test_without_node_the_one_list_must_hold_both() -> None:
    """A merged list is judged as both lists are; an answer's list alone lacks what policy asks of the node."""
    merged = AttestationResult((*NODE.checks, *result(RESPONSE_IDS).checks))
    assert decide(merged, SIGNED, Phase.RESPONSE).verdict is A
    alone = decide(result(RESPONSE_IDS), SIGNED, Phase.RESPONSE)
    assert alone.verdict is N
    assert set(alone.missing) == set(NODE_IDS)


def test_session_is_a_result_too() -> None:
    """An attested session is judged by its checks and claims."""
    session = AttestedSession("s", "n", "net", "http://x", "d", (), (), "e", 0, 1, N, NODE.checks, ())
    assert decide(session, SIGNED, Phase.NODE).verdict is A
    assert decide(result(RESPONSE_IDS), SIGNED, Phase.RESPONSE, node=session).verdict is A


def test_contraindicated_check_that_is_not_required_decides() -> None:
    """A bad sign counts whether policy asked for it or not, also one with an id that this version does not know."""
    for name in ("tool_arguments", "channel_bound", "from_the_future"):
        answer = result(RESPONSE_IDS, **{name: C})
        decision = decide(answer, SIGNED, Phase.RESPONSE, node=NODE)
        assert (decision.verdict, decision.reason, decision.permit) == (C, name, False)


def test_unrequired_none_and_warning_do_not_decide() -> None:
    """A check that policy did not ask for may be none or a warning without changing the verdict."""
    answer = result(RESPONSE_IDS, output_kind=W, tool_arguments=N)
    decision = decide(answer, SIGNED, Phase.RESPONSE, node=result(NODE_IDS, channel_bound=N))
    assert (decision.verdict, decision.permit) == (A, True)


def test_a11_text_that_reads_as_a_call_can_be_refused() -> None:
    """With output.text_as_tool_call = refuse, the warning output_kind is contraindicated."""
    strict = policy_of('all = ["evidence", "signature"]\n[output]\ntext_as_tool_call = "refuse"')
    answer = result(("signature",), output_kind=W)
    decision = decide(answer, strict, Phase.RESPONSE, node=NODE)
    assert (decision.verdict, decision.reason, decision.permit) == (C, "output_kind", False)


def test_a13_undeclared_tool_is_refused_unless_policy_flags_it() -> None:
    """A call to an undeclared tool is contraindicated by default, a warning where policy flags it."""
    answer = result(RESPONSE_IDS, tool_undeclared=C)
    assert decide(answer, SIGNED, Phase.RESPONSE, node=NODE).reason == "tool_undeclared"
    soft = policy_of('all = ["evidence", "signature"]\n[executables]\nundeclared = "flag"\narguments = "flag"')
    for name in ("tool_undeclared", "tool_arguments"):
        decision = decide(result(("signature",), **{name: C}), soft, Phase.RESPONSE, node=NODE)
        assert (decision.verdict, decision.permit, decision.warned) == (W, True, (name,))


def test_required_warning_is_accepted_or_refused() -> None:
    """A required check in the tier warning makes the verdict warning; policy says whether that is enough."""
    answer = result(RESPONSE_IDS, replay=W)
    accepted = decide(answer, SIGNED, Phase.RESPONSE, node=NODE)
    assert (accepted.verdict, accepted.permit, accepted.reason, accepted.warned) == (W, True, None, ("replay",))
    picky = policy_of('all = ["evidence", "replay"]', 'warnings = "refuse"')
    refused = decide(answer, picky, Phase.RESPONSE, node=NODE)
    assert (refused.verdict, refused.permit, refused.reason, refused.failing) == (W, False, "replay", ("replay",))


def test_required_nonce_turns_the_doubt_into_a_gap() -> None:
    """With replay.nonce = required, an answer without our nonce is not shown to be new."""
    picky = policy_of('all = ["evidence", "replay"]\n[replay]\nnonce = "required"')
    decision = decide(result(("replay",), replay=W), picky, Phase.RESPONSE, node=NODE)
    assert (decision.verdict, decision.missing, decision.permit) == (N, ("replay",), False)


def test_idle_check_is_left_out() -> None:
    """A check that says by its registered reason that there is nothing to look at does not decide."""
    answer = AttestationResult(
        tuple(
            Check(c.id, N, CHECKS[c.id].idle) if c.id in ("tool_undeclared", "stream_grammar") else c
            for c in result(RESPONSE_IDS).checks
        )
    )
    assert decide(answer, SIGNED, Phase.RESPONSE, node=NODE).verdict is A


def test_none_with_another_reason_is_not_idle() -> None:
    """Only the registered reason makes a check idle: no_calls does not excuse the signature."""
    answer = AttestationResult(
        tuple(Check(c.id, N, "no_calls") if c.id == "signature" else c for c in result(RESPONSE_IDS).checks)
    )
    assert decide(answer, SIGNED, Phase.RESPONSE, node=NODE).missing == ("signature",)


def test_nothing_but_idle_is_not_affirming() -> None:
    """When every required check is idle, nothing was shown."""
    lax = policy_of('all = ["tool_undeclared"]', 'on_failure = "flag"')
    answer = AttestationResult((Check("tool_undeclared", N, "no_calls"),))
    decision = decide(answer, lax, Phase.RESPONSE, node=NODE)
    assert (decision.verdict, decision.reason, decision.permit) == (N, "tool_undeclared", True)
    assert decide(NODE, lax, Phase.NODE) == decide(AttestationResult(()), lax, Phase.NODE)
    assert decide(NODE, lax, Phase.NODE).verdict is N


def test_h12_any_with_one_affirming_and_one_contraindicated() -> None:
    """In `any`, the contraindicated member wins over the affirming one."""
    policy = policy_of('all = ["evidence", {any = ["channel_bound", "key_weak"]}]')
    good = result(NODE_IDS, channel_bound=A, key_weak=N)
    assert decide(good, policy, Phase.NODE).verdict is A
    bad = result(NODE_IDS, channel_bound=A, key_weak=C)
    assert decide(bad, policy, Phase.NODE).reason == "key_weak"
    assert decide(bad, policy, Phase.NODE).verdict is C


def test_any_over_both_phases_stays_open_until_the_answer() -> None:
    """A group with an answer's check cannot fail a node that lacks its other member; the answer settles it."""
    policy = policy_of('all = ["evidence", {any = ["channel_bound", "signature"]}]')
    node = result(("evidence",), channel_bound=N)
    assert decide(node, policy, Phase.NODE).verdict is A
    assert decide(result(("signature",)), policy, Phase.RESPONSE, node=node).verdict is A
    missing = decide(result((), signature=N), policy, Phase.RESPONSE, node=node)
    assert (missing.verdict, missing.missing) == (N, ("signature", "channel_bound"))


def test_at_least_counts_and_members_it_did_without_are_not_missing() -> None:
    """`at_least` 2 of 3 is met by two; with one, all that were not shown are named."""
    policy = policy_of('at_least = 2\nof = ["evidence", "channel_bound", "key_weak"]')
    met = decide(result(("evidence", "key_weak"), channel_bound=N), policy, Phase.NODE)
    assert (met.verdict, met.missing) == (A, ())
    short = decide(result(("evidence",), channel_bound=N), policy, Phase.NODE)
    assert (short.verdict, short.missing) == (N, ("key_weak", "channel_bound"))
    warned = decide(result(("evidence",), channel_bound=W), policy, Phase.NODE)
    assert (warned.verdict, warned.warned) == (W, ("channel_bound",))


TEE = 'all = ["evidence", {claim = "tee_attested", status = "asserted", source = ["hardware_proven"]}]'


@pytest.mark.parametrize(
    ("claims", "verdict"),
    [
        ((Claim("tee_attested", "asserted", "hardware_proven"),), A),
        ((Claim("tee_attested", "asserted", "operator_asserted"),), N),
        ((Claim("tee_attested", "asserted", None),), N),
        ((Claim("tee_attested", "unknown"),), N),
        ((), N),
        ((Claim("gpu_attested", "asserted", "hardware_proven"),), N),
        ((Claim("tee_attested", "refuted", "verifier_derived"),), C),
        ((Claim("tee_attested", "asserted", "hardware_proven"), Claim("tee_attested", "unknown")), N),
        ((Claim("tee_attested", "unknown"), Claim("tee_attested", "refuted")), C),
    ],
)
def test_a20_claim_must_be_asserted_by_an_accepted_source(claims: tuple[Claim, ...], verdict: Outcome) -> None:
    """A required claim counts only when asserted by somebody whose word policy takes; a refuted one contraindicates."""
    decision = decide(result(("evidence",), *claims), policy_of(TEE), Phase.NODE)
    assert (decision.verdict, decision.permit) == (verdict, verdict is A)
    assert decision.reason == (None if verdict is A else "tee_attested")


def test_refuted_claim_that_is_not_required_does_not_decide() -> None:
    """A relay that says so is served under a policy that does not ask where the model ran (A20)."""
    node = result(NODE_IDS, Claim("executed_in_tee", "refuted", "verifier_derived"))
    assert decide(node, SIGNED, Phase.NODE).verdict is A


def test_claim_of_the_answer_is_open_for_the_node() -> None:
    """A claim that only an answer can show is not asked of the node."""
    claim = '{claim = "response_bound", status = "asserted", source = ["verifier_derived"]}'
    policy = policy_of(f'all = ["evidence", {claim}]')
    assert decide(result(("evidence",)), policy, Phase.NODE).verdict is A
    shown = result((), Claim("response_bound", "asserted", "verifier_derived"))
    assert decide(shown, policy, Phase.RESPONSE, node=result(("evidence",))).verdict is A
    assert decide(result(()), policy, Phase.RESPONSE, node=result(("evidence",))).reason == "response_bound"


def test_nested_all_inside_any() -> None:
    """Groups nest: an `all` inside `any` is met only as a whole, and its warning is the group's."""
    policy = policy_of('all = ["evidence", {any = ["channel_bound", {all = ["key_weak", "keyset_valid"]}]}]')
    base = {"evidence": A, "channel_bound": N}
    for pair, verdict in (((A, A), A), ((A, N), N), ((A, W), W), ((None, A), N)):
        node = result((), **base, key_weak=pair[0], keyset_valid=pair[1])
        assert decide(node, policy, Phase.NODE).verdict is verdict
    mixed = policy_of('all = ["evidence", {any = ["channel_bound", {all = ["key_weak", "signature"]}]}]')
    assert decide(result((), **base, key_weak=A), mixed, Phase.NODE).verdict is A


def test_h19_observe_permits_and_tells_the_truth() -> None:
    """A policy that flags permits everything and never calls it affirming."""
    observe = policy_of('all = ["evidence", "signature"]', 'on_failure = "flag"')
    for outcome in (N, C, None):
        answer = result((), signature=outcome)
        decision = decide(answer, observe, Phase.RESPONSE, node=NODE)
        assert decision.permit is True
        assert decision.verdict is (C if outcome is C else N)
        assert decision.reason == "signature"
    bad_node = decide(result((), evidence=C), observe, Phase.NODE)
    assert (bad_node.permit, bad_node.verdict, bad_node.reason) == (True, C, "evidence")
    later = decide(result(("signature",)), observe, Phase.RESPONSE, node=result((), evidence=C))
    assert (later.permit, later.verdict) == (True, C)


PROVEN = policy_of('all = ["proof_quorum", "shape"]')


def test_a_node_of_which_nothing_is_asked_is_used_and_not_affirming() -> None:
    """Where policy asks for a proof of the answer alone, a node that shows nothing gets the prompt, with `none`."""
    for node in (AttestationResult(()), result(NODE_IDS, evidence=N, key_bound=None, fresh=W)):
        decision = decide(node, PROVEN, Phase.NODE)
        assert (decision.verdict, decision.permit, decision.reason, decision.missing) == (N, True, None, ())
    idle = AttestationResult((Check("tee_rules", N, CHECKS["tee_rules"].idle),))
    assert decide(idle, PROVEN, Phase.NODE).permit
    bad = decide(result(NODE_IDS, evidence=C), PROVEN, Phase.NODE)
    assert (bad.verdict, bad.permit, bad.reason) == (C, False, "evidence")


def test_what_is_asked_of_a_node_is_still_asked_beside_a_proof() -> None:
    """A proof of the answer stands in for nothing that policy requires of the node."""
    both = policy_of('all = ["evidence", "proof_quorum"]')
    assert decide(AttestationResult(()), both, Phase.NODE).missing == ("evidence",)
    assert decide(result(("evidence",)), both, Phase.NODE).verdict is A
    idle = policy_of('all = ["tee_rules", "proof_quorum"]')
    nothing = AttestationResult((Check("tee_rules", N, CHECKS["tee_rules"].idle),))
    assert not decide(nothing, idle, Phase.NODE).permit


def test_a_machine_or_a_proof() -> None:
    """In `any` of what a node shows and a proof, either will do, and a proof that fails decides."""
    claim = '{claim = "tee_attested", status = "asserted", source = ["hardware_proven"]}'
    either = policy_of(f'all = [{{any = [{claim}, "proof_reexec"]}}]')
    plain, attested = result(()), result((), Claim("tee_attested", "asserted", "hardware_proven"))
    assert decide(plain, either, Phase.NODE).permit
    assert decide(attested, either, Phase.NODE).verdict is A
    for node, proof, verdict in (
        (plain, A, A),
        (plain, N, N),
        (plain, None, N),
        (plain, C, C),
        (attested, N, A),
        (attested, None, A),
        (attested, C, C),
    ):
        answer = result((), proof_reexec=proof)
        assert decide(answer, either, Phase.RESPONSE, node=node).verdict is verdict


def test_a_proof_alone_decides_the_answer() -> None:
    """An answer is released when the proof affirms, and not without it, whatever was known of the node."""
    nothing = AttestationResult(())
    assert decide(result(("proof_quorum", "shape")), PROVEN, Phase.RESPONSE, node=nothing).verdict is A
    for outcome in (N, C, None):
        decision = decide(result(("shape",), proof_quorum=outcome), PROVEN, Phase.RESPONSE, node=nothing)
        assert (decision.permit, decision.reason) == (False, "proof_quorum")


@pytest.mark.parametrize(
    ("checks", "blameless"),
    [
        ([("proof_quorum", "no_quorum")], ("proof_quorum",)),
        ([("proof_zk", "input_unbindable")], ("proof_zk",)),
        ([("executable_uncovered", "no_signature")], ("executable_uncovered",)),
        ([("executable_uncovered", "executable_uncovered")], ()),
        ([("signature", "other_keyset"), ("key_bound", "other_keyset")], ("signature", "key_bound")),
        ([("signature", "signature"), ("key_bound", "other_keyset")], ("key_bound",)),
        ([("signature", "unknown_key"), ("key_bound", "unknown_key")], ()),
        ([("key_bound", "keyset_not_pinned"), ("key_bound", "other_keyset")], ()),
        ([("proof_zk", "proof_rejected")], ()),
        ([("proof_reexec", "no_quorum")], ()),
        ([("proof_quorum", "no_quorum"), ("proof_quorum", "else")], ()),
        ([("proof_reexec", "margin_too_large")], ("proof_reexec",)),
        ([("proof_reexec", "text_not_tokens"), ("proof_toploc", "toploc_far")], ("proof_toploc",)),
        ([("proof_quorum", "no_quorum"), ("proof_reexec", "text_not_tokens")], ("proof_quorum",)),
    ],
)
def test_failures_that_accuse_nobody_are_told_apart(checks: list[tuple[str, str]], blameless: tuple[str, ...]) -> None:
    """A check is blameless when every failure of it says so by one of its own reasons."""
    answer = AttestationResult(tuple(Check(name, C, reason) for name, reason in checks))
    decision = decide(answer, PROVEN, Phase.RESPONSE, node=AttestationResult(()))
    assert set(decision.failing) == {name for name, _ in checks}
    assert decision.blameless == blameless
    assert node_at_fault(decision) is (set(blameless) != set(decision.failing))


def test_reason_follows_the_precedence() -> None:
    """With everything contraindicated, failing is in the order of precedence and the reason is its first."""
    everything = AttestationResult(tuple(Check(name, C, "because") for name in (*sorted(CHECKS), "zzz")))
    decision = decide(everything, SIGNED, Phase.RESPONSE, node=AttestationResult(()))
    assert decision.reason == "malformed"
    assert decision.failing[: len(PRECEDENCE)] == PRECEDENCE
    assert decision.failing[-1] == "zzz"
    assert set(PRECEDENCE) == set(CHECKS)


@pytest.mark.parametrize("value", [True, "affirming!", None, 1, object()])
def test_h16_verifier_that_returns_no_tier_has_said_nothing(value: object) -> None:
    """An outcome that is not one of the four tiers counts as none."""
    answer = result(RESPONSE_IDS, signature=N)
    checks = tuple(Check(c.id, value) if c.id == "signature" else c for c in answer.checks)  # type: ignore[arg-type]
    decision = decide(AttestationResult(checks), SIGNED, Phase.RESPONSE, node=NODE)
    assert (decision.verdict, decision.missing, decision.permit) == (N, ("signature",), False)


def test_a_check_listed_twice_counts_as_its_worst() -> None:
    """Two entries of one id in one list: the better one does not hide the worse."""
    checks = (*result(RESPONSE_IDS).checks, Check("signature", N, "late"))
    assert decide(AttestationResult(checks), SIGNED, Phase.RESPONSE, node=NODE).verdict is N
    worse_first = (Check("signature", W, "x"), *result(RESPONSE_IDS).checks)
    assert decide(AttestationResult(worse_first), SIGNED, Phase.RESPONSE, node=NODE).verdict is W


@settings(max_examples=250, deadline=None)
@given(policies(), NODE_RESULTS, RESPONSE_RESULTS)
def test_decide_is_the_fold_that_is_written_down(
    policy: CompiledPolicy, node: AttestationResult, response: AttestationResult
) -> None:
    """In both phases the verdict is that of a second, plain implementation, and permit follows from it."""
    for phase, decision, expected in (
        (Phase.NODE, decide(node, policy, Phase.NODE), reference_verdict(policy, Phase.NODE, node, None)),
        (
            Phase.RESPONSE,
            decide(response, policy, Phase.RESPONSE, node=node),
            reference_verdict(policy, Phase.RESPONSE, node, response),
        ),
    ):
        assert decision.verdict is expected, phase
        good = expected is A or (expected is W and policy.warnings == "accept")
        left_open = phase is Phase.NODE and expected is N and _unasked(policy) and _open(policy, node)
        assert decision.permit is (good or policy.on_failure == "flag" or left_open)
        if not good and phase is Phase.RESPONSE:
            assert decision.reason is not None
            assert decision.reason in (*decision.failing, *decision.missing)
        if good:
            assert decision.reason is None
            assert decision.failing == decision.missing == ()


def _unasked(policy: CompiledPolicy) -> bool:
    """No part of the tree is decided by the node alone; one has nothing but proofs and what a node shows in it."""
    parts = [list(leaves(part)) for part in conjuncts(policy.require)]
    of_node = [[Phase.NODE in leaf.phases for leaf in part] for part in parts]
    proven = [[leaf.id.startswith("proof_") for leaf in part] for part in parts]
    return not any(map(all, of_node)) and any(
        all(a or b for a, b in zip(node, proof, strict=True)) for node, proof in zip(of_node, proven, strict=True)
    )


def _open(policy: CompiledPolicy, node: AttestationResult) -> bool:
    """With one more part that the node does meet, everything would be met."""
    more = AttestationResult((*node.checks, Check("replayed_nonce", A)), node.claims)
    return reference_verdict(with_leaf(policy, "replayed_nonce"), Phase.NODE, more, None) is A


@settings(max_examples=100, deadline=None)
@given(policies(), NODE_RESULTS, RESPONSE_RESULTS)
def test_order_of_checks_does_not_matter(
    policy: CompiledPolicy, node: AttestationResult, response: AttestationResult
) -> None:
    """The same checks and claims in another order give the same decision."""
    turned = AttestationResult(response.checks[::-1], response.claims[::-1])
    assert decide(response, policy, Phase.RESPONSE, node=node) == decide(turned, policy, Phase.RESPONSE, node=node)


def test_h17_what_it_cannot_decide_it_does_not_permit() -> None:
    """An input that no verifier gives raises our error, with the cause behind it, and never a decision."""
    with pytest.raises(PolicyFailed) as caught:
        decide(AttestationResult((None,)), read_policies()["signed"], Phase.NODE)  # type: ignore[arg-type]
    assert caught.value.__cause__ is not None
    assert (caught.value.status, caught.value.reason, caught.value.retryable) == (503, "policy_failed", False)
