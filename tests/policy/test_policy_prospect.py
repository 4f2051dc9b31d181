"""Before a prompt leaves, policy is asked about the best answer that the node could give."""

from __future__ import annotations

import msgspec
import pytest

from gateway.model.node import AttestedSession, Node, SigningKey
from gateway.model.observation import Observation
from gateway.model.verdict import Check, Claim, Outcome
from gateway.policy import CompiledPolicy, Phase, decide, prospect
from gateway.policy.build import compile_policy
from gateway.policy.load import parse_policy
from gateway.policy.prospect import SIGNED, best_answer
from gateway.policy.tree import All, Any, Leaf, Tree, both
from gateway.verify.checks import CHECKS
from gateway.verify.no_evidence import NoEvidenceTerms, appraise_no_evidence
from gateway.verify.response import Exchanged, appraise_response

_, BARE = appraise_no_evidence(
    Node("n", "openai", "https://a.example", ("m",)), NoEvidenceTerms(), now=0.0, lifetime_s=9.0
)
KEYED = msgspec.structs.replace(BARE, keys=(SigningKey("k", "ed25519", b"\1" * 32),))
#: A node that shows itself, and has no key: a weak one was taken from its list.
SHOWN = msgspec.structs.replace(BARE, checks=(Check("evidence", Outcome.AFFIRMING),))


def policy(require: Tree, **values: object) -> CompiledPolicy:
    made = parse_policy("p.toml", b'name = "p"\nversion = 1\nsummary = "s"\n[require]\nall = ["evidence"]\n')
    return compile_policy(made.refs, "d", "s", "s", require, {"on_failure": "refuse", **values}, frozenset())  # type: ignore[arg-type]


def all_of(*checks: str) -> Tree:
    return All(tuple(Leaf(check=c) for c in checks))


ASSERTED = {"status": "asserted", "sources": ("verifier_derived",)}
BOUND, MODEL = Leaf(claim="response_bound", **ASSERTED), Leaf(claim="model_bound", **ASSERTED)  # type: ignore[arg-type]
PROOF = Leaf(check="proof_quorum")
TEE = Leaf(claim="tee_attested", **ASSERTED)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("session", "require", "permit", "reason"),
    [
        (BARE, all_of("malformed", "shape", "model_echo"), True, None),
        (BARE, all_of("malformed", "signature"), False, "signature"),
        (BARE, all_of("malformed", "coverage"), False, "coverage"),
        (BARE, all_of("malformed", "evidence"), False, "evidence"),
        (BARE, all_of("malformed", "replay"), False, "replay"),
        (BARE, Any((Leaf(check="signature"), Leaf(check="model_echo"))), True, None),
        (BARE, Any((Leaf(check="signature"), Leaf(check="response_bound"))), False, "signature"),
        (BARE, Any((TEE, Leaf(check="model_echo"))), True, None),
        (BARE, BOUND, False, "response_bound"),
        (BARE, MODEL, True, None),
        (BARE, TEE, False, "tee_attested"),
        (KEYED, all_of("malformed", "signature"), True, None),
        (SHOWN, all_of("evidence", "malformed"), True, None),
        (SHOWN, all_of("evidence", "signature"), False, "signature"),
    ],
)  # fmt: skip
def test_what_can_never_be_shown_is_not_asked_for_in_vain(
    session: AttestedSession, require: Tree, permit: bool, reason: str | None
) -> None:
    """A prompt leaves only where an answer could pass; otherwise the reason is what no answer of the node can show."""
    found = prospect(session, policy(both(PROOF, require)))
    assert (found.permit, found.reason) == (permit, reason)


@pytest.mark.parametrize("session", [BARE, KEYED])
def test_where_nothing_is_asked_before_the_answer_no_prompt_leaves(session: AttestedSession) -> None:
    """What the best answer would show is no reason to send a prompt to a node that showed nothing."""
    assert not prospect(session, policy(all_of("malformed", "model_echo"))).permit


def test_under_flag_a_node_is_used_whatever_it_lacks() -> None:
    """The verdict stays what it is, and the prompt may leave."""
    found = prospect(BARE, policy(all_of("evidence", "signature"), on_failure="flag"))
    assert (found.permit, found.verdict) == (True, Outcome.NONE)


def test_a_node_that_signs_is_decided_as_before() -> None:
    """Where it has a key and policy asks something of it, nothing is supposed about its answers."""
    asked = policy(all_of("evidence", "signature"))
    shown = msgspec.structs.replace(SHOWN, keys=KEYED.keys)
    assert prospect(shown, asked) == decide(shown, asked, Phase.NODE)
    assert prospect(KEYED, asked) == decide(KEYED, asked, Phase.NODE)


def test_what_takes_a_signature_is_what_the_verifier_cannot_settle_without() -> None:
    """The list here is that of the checks which an unsigned, otherwise faultless answer leaves open."""
    seen = Observation(models=("m",), stream=True)
    result = appraise_response(BARE, None, "no_signature", Exchanged("", "", None, "m", "/"), seen, now=0.0, skew_s=1.0)
    assert {c.id for c in result.checks if c.reason == "no_signature"} == SIGNED
    assert {c.name for c in result.claims if c.reason == "no_signature"} == SIGNED & {c.name for c in result.claims}


def test_the_best_answer_has_every_check_of_an_answer() -> None:
    """None is left out, and the claims are those that policy asks for, by a word that it takes."""
    best = best_answer(policy(All((BOUND, MODEL, Leaf(check="malformed")))))
    assert {c.id for c in best.checks} == {i for i, c in CHECKS.items() if Phase.RESPONSE in c.phases}
    assert best.claims == (Claim("model_bound", "asserted", "verifier_derived"),)
