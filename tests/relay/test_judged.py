"""A judged answer: what a broken chain makes of it, and what is written of it."""

from __future__ import annotations

from gateway.model.verdict import AttestationResult, Check, Claim, Outcome
from gateway.relay.judged import with_chain

NAMES = ("signature", "key_bound", "request_bound", "response_bound")
BOUND = tuple([Claim(name, "asserted", "verifier_derived") for name in NAMES[2:]])
OTHER = Claim("model_bound", "unknown", None, "not_evidenced")
GOOD = AttestationResult(tuple([Check(name, Outcome.AFFIRMING) for name in NAMES]), (*BOUND, OTHER))


def test_a_broken_chain_binds_nothing() -> None:
    """Where the running signatures don't hold, the final receipt's agreement asserts nothing of request and answer."""
    found = with_chain(GOOD, "chain_signature")
    assert [c.id for c in found.checks] == list(NAMES)
    assert (found.checks[0].outcome, found.checks[0].reason) == (Outcome.CONTRAINDICATED, "chain_signature")
    assert found.checks[1:] == GOOD.checks[1:]
    unknown = [Claim(name, "unknown", None, "signature") for name in NAMES[2:]]
    assert found.claims == (*unknown, OTHER)


def test_a_broken_chain_adds_nothing_to_a_cause() -> None:
    """A result that says already what is wrong stays as it is."""
    bad = AttestationResult((*GOOD.checks[:3], Check("response_bound", Outcome.CONTRAINDICATED, "response_bound")), ())
    assert with_chain(bad, "chain_signature") == bad
