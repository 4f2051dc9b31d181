"""What a genuine receipt says of proofs, as lines (docs/proofs.md). Pure.

Nothing is judged again here: that takes the reference, the circuit or the other nodes' answers. So each sentence says
whose word it is, and what stands behind it. `contradiction` is what can be shown without them: the check
`proof_<kind>`, which the verdict rests on, follows from the record.
"""

from __future__ import annotations

from gateway.model.line import Line
from gateway.model.receipt import ProofAnswer, ProofPart, Receipt
from gateway.model.verdict import Outcome

STEP = "proofs"
_OUTCOMES = {"pass": Outcome.AFFIRMING, "fail": Outcome.CONTRAINDICATED}


def proof_lines(receipt: Receipt) -> list[Line]:
    """A line for each proof, for each node's answer in a quorum, for the audits that the answer falls under."""
    lines = []
    for part in receipt.proofs:
        lines.append(_proof(part))
        lines += [_answer(answer, part) for answer in part.answers]
    if receipt.parent is not None:
        sentence = f"one node's answer to a quorum; what came of it stands in receipt {receipt.parent}"
        lines.append(Line(STEP, Outcome.NONE, sentence, "quorum", claimed=False))
    if receipt.audit is not None:
        audit = receipt.audit
        sentence = (
            f"may have been audited afterwards ({audit.kind}, rate {audit.rate}); whether it had to be, and what came "
            "of it, `veriroute audit epochs` tells from the log"
        )
        lines.append(Line(STEP, Outcome.NONE, sentence, "audit", f"epoch {audit.epoch}", claimed=False))
    return lines or [Line(STEP, Outcome.NONE, "the receipt records none", claimed=False)]


def asked(receipt: Receipt) -> tuple[ProofAnswer, ...]:
    """The nodes that a quorum asked, each in an exchange of its own."""
    return tuple([answer for part in receipt.proofs for answer in part.answers])


def contradiction(receipt: Receipt) -> str | None:
    """How the recorded checks and the recorded proofs contradict each other, if they do."""
    checks = {check.id: check.outcome for check in receipt.checks if check.id.startswith("proof_")}
    passed = {f"proof_{part.kind}" for part in receipt.proofs if part.verdict == "pass"}
    failed = {f"proof_{part.kind}" for part in receipt.proofs if part.verdict == "fail"}
    for name, outcome in checks.items():
        if outcome is Outcome.AFFIRMING and (name not in passed or name in failed):
            return f"{name} is affirming, and no recorded proof passed"
    if any((part.kind == "zk") != (part.assurance == "cryptographic") for part in receipt.proofs):
        return "a proof is recorded with the assurance of another kind"
    if failed and receipt.verdict is Outcome.AFFIRMING:
        return f"the verdict is affirming beside failed proofs: {', '.join(sorted(failed))}"
    return None


def _proof(part: ProofPart) -> Line:
    measured = [] if part.statistic is None else [f"{part.statistic:.6g}"]
    if part.threshold is not None:
        measured.append(f"against {part.threshold:.6g}")
    if part.tokens is not None:
        measured.append(f"over {part.tokens} tokens")
    said = ", ".join(text for text in (part.verdict, part.reason, " ".join(measured)) if text)
    named = (("reference", part.reference_id), ("calibration", part.calibration_id), ("against", _names(part.culprits)))
    detail = ", ".join(f"{name} {value}" for name, value in named if value)
    sentence = f"RECORDED, not judged again here: {said} ({part.assurance})"
    outcome = _OUTCOMES.get(part.verdict, Outcome.NONE)
    # What did not decide is in the recorded verdict as well, as policy would have it.
    return Line(STEP, outcome, sentence, part.kind, detail or None, claimed=outcome is not Outcome.NONE)


def _answer(answer: ProofAnswer, part: ProofPart) -> Line:
    who = f"{answer.node} ({answer.operator})" if answer.operator else answer.node
    where = f", in receipt {answer.receipt}" if answer.receipt else ", without a receipt of its own"
    detail = f"answer {answer.digest.sha256}" if answer.digest else None
    against = answer.node in part.culprits
    outcome = Outcome.AFFIRMING if answer.outcome == "agrees" else Outcome.WARNING if against else Outcome.NONE
    return Line(
        STEP, outcome, f"{who}: {answer.outcome}{where}", part.kind, detail, claimed=outcome is not Outcome.NONE
    )


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(names)
