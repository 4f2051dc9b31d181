"""What one policy makes of the proofs of an answer: the checks `proof_…`, beside those that the verifier found.

    result = reply.appraise(…)                                   what the answer shows by itself
    result = with_proofs(result, records, policy, digest)        and what was gathered about it
    decision = decide(result, policy, Phase.RESPONSE, node=session)

Which proofs are asked for is policy's own, so their checks are made here and not by the verifier. Each one that the
tree names is listed: without a record it is `none`. A record is about the answer whose digest it holds, and about no
other. What was tried and did not decide is `none`, or a warning where policy says so; what was never there to be tried
is `none` under every policy.

A tool call is bytes that an agent acts on, and passes only where evidence covers it. A signature does, and so does a
quorum in which distinct operators gave the same calls by value: then `executable_uncovered` is affirming. No other
proof does. Re-execution is about the text that the tokens spell, and a node could write a call beside it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.model.verdict import AttestationResult, Check, Outcome, worst
from gateway.verify.checks import CHECKS, PROOFS
from gateway.verify.proofs.evidence import Kind, ProofRecord, Verdict, check_of

from .schema import CompiledPolicy

QUORUM, UNCOVERED = "proof_quorum", "executable_uncovered"


def with_proofs(
    result: AttestationResult, records: Iterable[ProofRecord], policy: CompiledPolicy, response_sha256: str
) -> AttestationResult:
    """`result` with a check for each of `records` and for each proof that `policy` names, in the registry's order.

    `response_sha256` (64 lower-case hex digits) is the digest, as in the records, of the answer that `result` is about.
    Records of kinds that are no check of an answer are left out. Total.
    """
    found: dict[str, Check] = {}
    covered = False
    for record in records:
        check = _check(record, policy, response_sha256)
        if check.id not in PROOFS:
            continue
        covered = covered or _covers_calls(record, check)
        before = found.get(check.id)
        if before is None or worst((before.outcome, check.outcome)) is not before.outcome:
            found[check.id] = check
    for name in policy.plan.proofs - found.keys():
        found[name] = Check(name, Outcome.NONE, "not_gathered")
    checks = [_covered(check) if covered else check for check in result.checks]
    return msgspec.structs.replace(result, checks=(*checks, *(found[name] for name in CHECKS if name in found)))


def _check(record: ProofRecord, policy: CompiledPolicy, response_sha256: str) -> Check:
    check = check_of(record)
    # A quorum that nobody reached has no answer that it could be about: it is one of the whole exchange.
    if record.response_sha256 not in (None, response_sha256):
        return msgspec.structs.replace(check, outcome=Outcome.NONE, reason="not_of_this_answer")
    if record.verdict is Verdict.INCONCLUSIVE and policy.proofs.on_inconclusive == "warn":
        return msgspec.structs.replace(check, outcome=Outcome.WARNING)
    return check


def _covers_calls(record: ProofRecord, check: Check) -> bool:
    # Where tokens were counted, texts were compared and no call was seen.
    return record.kind is Kind.QUORUM and check.outcome is Outcome.AFFIRMING and record.tokens is None


def _covered(check: Check) -> Check:
    if check.id != UNCOVERED or check.outcome is not Outcome.CONTRAINDICATED:
        return check
    return Check(UNCOVERED, Outcome.AFFIRMING, None, check.found, over=QUORUM)
