"""Whether a prompt may leave for a node: what policy makes of the node, and of the best answer that it could give.

The phase `NODE` leaves open what only an answer can show. A node without a key will never show some of it: no answer
of it is signed. So before a prompt leaves, policy is asked about the best answer that such a node can give, in which
everything holds but what takes a signature. Where that would be withheld, a prompt would be shown and paid for in vain.

The same question settles policies that ask nothing of the node itself but proofs of the answer (`plan.unasked`): the
phase `NODE` permits every node against which nothing speaks, and what decides is whether an answer could pass.
"""

from __future__ import annotations

from gateway.model.node import AttestedSession
from gateway.model.verdict import AttestationResult, Check, Claim, Outcome
from gateway.verify.checks import CHECKS, CLAIMS, Phase
from gateway.verify.no_evidence import NO_SIGNATURE

from .decide import Decision, decide
from .schema import CompiledPolicy
from .tree import leaves

#: What only a signature over an answer can settle, as checks and as claims.
SIGNED = frozenset(("signature", "key_bound", "request_bound", "response_bound", "replay", "fresh", "coverage"))


def prospect(session: AttestedSession, policy: CompiledPolicy) -> Decision:
    """Whether `session` may be sent a prompt under `policy`. `reason` names what it does not, or could not, show."""
    decision = decide(session, policy, Phase.NODE)
    if session.keys or not decision.permit:
        return decision
    best = decide(best_answer(policy), policy, Phase.RESPONSE, node=session)
    return decision if best.permit else best


def best_answer(policy: CompiledPolicy) -> AttestationResult:
    """The appraisal of an answer that no key signed, in which everything else holds that `policy` asks for."""
    checks = [
        Check(name, Outcome.NONE, NO_SIGNATURE) if name in SIGNED else Check(name, Outcome.AFFIRMING)
        for name, entry in CHECKS.items()
        if Phase.RESPONSE in entry.phases
    ]
    claims = {
        leaf.id: Claim(leaf.id, "asserted", min(leaf.sources))
        for leaf in leaves(policy.require)
        if leaf.claim is not None and CLAIMS[leaf.id].phase is Phase.RESPONSE and leaf.id not in SIGNED
    }
    return AttestationResult(tuple(checks), tuple(claims.values()))
