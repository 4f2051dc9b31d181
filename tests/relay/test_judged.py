"""A judged answer: what a broken chain makes of it, and what is written of it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gateway.model.node import AttestedSession
from gateway.model.verdict import AttestationResult, Check, Claim, Outcome
from gateway.policy_files import read_policies
from gateway.relay.judged import Judged, is_signed, seen_lately, with_chain
from gateway.routing import node_at_fault

BINDS = ("request_bound", "response_bound")
NAMES = ("signature", "key_bound", *BINDS, "coverage")
BOUND = tuple([Claim(name, "asserted", "verifier_derived") for name in BINDS])
OTHER = Claim("model_bound", "unknown", None, "not_evidenced")
GOOD = AttestationResult(tuple([Check(name, Outcome.AFFIRMING) for name in NAMES]), (*BOUND, OTHER))
SESSION = AttestedSession(
    id="s", node="n", network="aci", endpoint="http://n", keyset_digest="", keys=(), spki_pins=(), evidence_digest="",
    established=0.0, expires=600.0, outcome=Outcome.AFFIRMING, checks=(), claims=(),
)  # fmt: skip


@pytest.mark.parametrize("missing", [None, *NAMES])
def test_what_makes_an_answer_signed(missing: str | None) -> None:
    """An answer is signed where signature, key and its own digest all hold; the request's does not matter to it."""
    checks = tuple([c if c.id != missing else Check(c.id, Outcome.NONE, "no_receipt") for c in GOOD.checks])
    found = Judged.of(AttestationResult(checks), SESSION, read_policies()["observe"])
    assert found.signed is (missing in (None, "request_bound", "coverage"))


def test_a_broken_chain_binds_nothing() -> None:
    """Where the running signatures don't hold, the final receipt's agreement asserts nothing of request and answer,
    and nothing is said of what stands beside what is covered."""
    found = with_chain(GOOD, "chain_signature")
    assert [c.id for c in found.checks] == list(NAMES)
    assert (found.checks[0].outcome, found.checks[0].reason) == (Outcome.CONTRAINDICATED, "chain_signature")
    assert found.checks[1:] == (*GOOD.checks[1:4], Check("coverage", Outcome.NONE, "signature"))
    unknown = [Claim(name, "unknown", None, "signature") for name in BINDS]
    assert found.claims == (*unknown, OTHER)


def test_a_broken_chain_adds_nothing_to_a_cause() -> None:
    """A result that says already what is wrong stays as it is."""
    bad = AttestationResult((*GOOD.checks[:3], Check("response_bound", Outcome.CONTRAINDICATED, "response_bound")), ())
    assert with_chain(bad, "chain_signature") == bad


def test_a_broken_chain_is_told_beside_what_the_model_wrote() -> None:
    """A caller may ask for calls that a policy only warns of: the answer would leave, and the node go free."""
    called = Check("tool_undeclared", Outcome.CONTRAINDICATED, "tool_undeclared")
    found = with_chain(AttestationResult((*GOOD.checks, called), GOOD.claims), "chain_order")
    assert (found.checks[0].outcome, found.checks[0].reason) == (Outcome.CONTRAINDICATED, "chain_order")
    assert called in found.checks
    policy = read_policies()["signed"]
    flags = {("tool_undeclared", Outcome.CONTRAINDICATED): Outcome.WARNING}
    lax = replace(policy, plan=replace(policy.plan, adjust=flags))
    for use in (policy, lax):
        decision = Judged.of(found, SESSION, use).decision
        assert (decision.permit, node_at_fault(decision)) == (False, True)


@pytest.mark.parametrize(
    ("problem", "fault"), [("chain_signature", False), ("chain_order", True), ("<k> <128 hex digits>", True)]
)
def test_other_keys_explain_only_that_a_chain_is_not_signed(problem: str, fault: bool) -> None:
    """A node that changes its keys within a stream signs on with others, and in order."""
    other = [Check(name, Outcome.CONTRAINDICATED, "other_keyset") for name in ("signature", "key_bound")]
    found = with_chain(AttestationResult((*other, *GOOD.checks[2:]), GOOD.claims), problem)
    decision = Judged.of(found, SESSION, read_policies()["signed"]).decision
    assert (decision.permit, node_at_fault(decision)) == (False, fault)


def test_an_answer_that_was_seen_lately_convicts_nobody() -> None:
    """The check fails as before, by a reason that is held against nobody; a warning of it and other checks stay."""
    replayed = Check("replay", Outcome.CONTRAINDICATED, "replay", "this signed message was given to us before")
    found = seen_lately(AttestationResult((*GOOD.checks, replayed), BOUND))
    assert found.checks[:-1] == GOOD.checks
    assert (found.checks[-1].outcome, found.checks[-1].reason) == (Outcome.CONTRAINDICATED, "seen_lately")
    assert (found.checks[-1].found, found.claims) == (replayed.found, BOUND)
    decision = Judged.of(found, SESSION, read_policies()["signed"]).decision
    assert (decision.permit, decision.failing, node_at_fault(decision)) == (False, ("replay",), False)
    warned = AttestationResult((Check("replay", Outcome.WARNING, "no_nonce"),))
    assert seen_lately(warned) == warned


def test_whose_statements_are_remembered() -> None:
    """Those that a key of the session signed, whatever else fails."""
    assert is_signed(GOOD)
    assert not is_signed(AttestationResult((Check("signature", Outcome.CONTRAINDICATED, "signature"),)))
