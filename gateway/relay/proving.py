"""Proofs in an exchange, as values: what they add to an answer's checks and claims, and how they are written.

What is gathered, and how a verdict becomes a check, is decided elsewhere (`gateway.proofs`,
`gateway.verify.proofs.evidence`); here it is put together with the appraisal of the answer, so that policy judges both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from gateway.model.receipt import ProofAnswer, ProofPart, Sha256, Subject
from gateway.model.verdict import AttestationResult, Check, Claim, Outcome
from gateway.policy.proven import QUORUM, UNCOVERED, with_proofs
from gateway.policy.schema import CompiledPolicy
from gateway.proofs import Gathered
from gateway.verify.proofs.evidence import Kind, ProofRecord

#: Proofs that tie the answer to one model, as far as their assurance goes.
_OF_MODEL = ("proof_zk", "proof_reexec", "proof_toploc")


class Prover(Protocol):
    """What gathers proofs of one answer (`gateway.proofs.Proofs`)."""

    async def gather(
        self, kinds: frozenset[str], policy: CompiledPolicy, model: str, request: bytes, response: bytes
    ) -> Gathered: ...


def proved(
    result: AttestationResult, records: Sequence[ProofRecord], policy: CompiledPolicy, answer: bytes | None
) -> AttestationResult:
    """`result` with a check for every proof that policy names, and the claim `model_bound` where one settles it.

    `answer` is what the records have to be about.
    """
    judged = with_proofs(result, records, policy, hashlib.sha256(answer or b"").hexdigest())
    return msgspec.structs.replace(judged, claims=_claims(judged.claims, judged.checks))


def assumed(result: AttestationResult, policy: CompiledPolicy) -> AttestationResult:
    """`result` as it would be if every proof held: whether gathering them can change anything."""
    held = [Check(name, Outcome.AFFIRMING) for name in sorted(policy.plan.proofs)]
    # A quorum covers calls that its members agree on; what it comes to, nobody knows yet.
    open_ = UNCOVERED if QUORUM in policy.plan.proofs else None
    checks = [Check(c.id, Outcome.AFFIRMING) if c.id == open_ else c for c in result.checks]
    checks += held
    return AttestationResult(tuple(checks), _claims(result.claims, checks))


def parts_of(
    records: Iterable[ProofRecord], salt: bytes, answers: tuple[ProofAnswer, ...] = ()
) -> tuple[ProofPart, ...]:
    """How `records` stand in a receipt, its salt `proof` being `salt`; `answers` are those of the quorum."""
    return tuple([_part(record, salt, answers if record.kind is Kind.QUORUM else ()) for record in records])


def _claims(claims: tuple[Claim, ...], checks: Iterable[Check]) -> tuple[Claim, ...]:
    told = {c.id: c.outcome for c in checks if c.id in _OF_MODEL}
    against = next((name for name, outcome in told.items() if outcome is Outcome.CONTRAINDICATED), None)
    shown = against or next((name for name, outcome in told.items() if outcome is Outcome.AFFIRMING), None)
    if shown is None:
        return claims
    status = "refuted" if against else "asserted"
    claim = Claim("model_bound", status, "verifier_derived", shown)
    return (*[c for c in claims if c.name != claim.name], claim)


def _part(record: ProofRecord, salt: bytes, answers: tuple[ProofAnswer, ...]) -> ProofPart:
    return ProofPart(
        kind=record.kind.value,
        assurance=record.assurance.value,
        verdict=record.verdict.value,
        reason=record.reason,
        statistic=record.statistic,
        threshold=record.threshold,
        tokens=record.tokens,
        reference_id=record.reference_id,
        calibration_id=record.calibration_id,
        ms=record.ms,
        culprits=record.culprits,
        answers=answers,
        artefacts=tuple([Subject(a.name, _salted(salt, a.sha256)) for a in record.artefacts]) if not answers else (),
    )


def _salted(salt: bytes, sha256: str) -> Sha256:
    return Sha256(hashlib.sha256(salt + bytes.fromhex(sha256)).hexdigest())
