"""`veriroute proof reexec`: one saved answer, re-executed against a trusted reference and judged.

What has to be shown, in this order; the first that is not ends it, and what is missing never passes:
 1. the request claims something that can be asked again           `claim_of`
 2. the answer tells its tokens
 3. the reference scores them after its own reading of the prompt
 4. it is the build that was calibrated with, where both say so
 5. the tokens, as the reference spells them, are the text
 6. the mean margin is what honest answers have                     `judge_reexec`
"""

from __future__ import annotations

from gateway.errors import FormatError, ServiceError
from gateway.model.verdict import Outcome
from gateway.verify.proofs.answer import read_told
from gateway.verify.proofs.calibration import Calibration
from gateway.verify.proofs.claim import claim_of
from gateway.verify.proofs.evidence import Artefact, Subject
from gateway.verify.proofs.measured import FINGERPRINT, changed, margins_of, spelled
from gateway.verify.proofs.noise import NAME
from gateway.verify.proofs.reexec import Terms, judge_reexec, reference_failed, score
from gateway.verify.proofs.spelling import Spelling

from ._proof_answer import Request, sha
from ._proof_rescore import read_prompt, rescore
from ._proof_server import Server
from ._proof_show import Report

_STEPS = ("reexec_claim", "reexec_answer", "reexec_reference", "reexec_calibration", "reexec_spelling")


def reexecute(
    server: Server,
    reference_id: str,
    request: Request,
    response: bytes,
    calibration: Calibration,
    *,
    seeded: bool,
    terms: Terms,
) -> Report:
    """Every step for one answer. A reference that fails leaves it undecided."""
    report = Report(f"re-execution of {request.model} by {reference_id}")
    artefacts = (Artefact("answer", sha(response)), Artefact("calibration", calibration.id))
    subject = Subject(sha(request.body), sha(response), reference_id, artefacts)
    claim = claim_of(request.document, seeded=seeded)
    if isinstance(claim, str):
        return _undecided(report, "reexec_claim", subject, claim, _asked(request, seeded))
    report.held("reexec_claim", _asked(request, seeded))
    try:
        tokens = read_told(response)
    except FormatError as error:
        return _undecided(report, "reexec_answer", subject, error.reason or "malformed", error.message)
    if not tokens.ids:
        reason = "token_ids_absent" if tokens.ids is None else "empty_answer"
        return _undecided(report, "reexec_answer", subject, reason)
    report.held("reexec_answer", f"{len(tokens.ids)} tokens")
    try:
        prompt = read_prompt(server, request.document)
        told, body = rescore(server, request.model, prompt.ids, tokens.ids)
        margins = margins_of(claim, told, tokens.ids)
    except (FormatError, ServiceError) as error:
        return _undecided(report, "reexec_reference", subject, error.reason or "malformed", error.message)
    report.held("reexec_reference", f"{len(prompt.ids)} prompt tokens, {len(margins)} of the answer")
    if changed(calibration.revision, prompt):
        return _undecided(
            report, "reexec_calibration", subject, "reference_changed", prompt.fingerprint, calibration.revision
        )
    if calibration.revision.startswith(FINGERPRINT):
        report.held("reexec_calibration", calibration.id)
    else:  # a revision that was written down by hand, which the reference does not tell
        report.add("reexec_calibration", Outcome.NONE, "revision_not_told", expected=calibration.revision)
        report.unasked.add("reexec_calibration")
    spelt = spelled(told, tokens, request.document)
    _spelling(report, "reexec_spelling", spelt)
    named = Subject(
        subject.request_sha256,
        subject.response_sha256,
        subject.reference_id,
        (*artefacts, Artefact("reference's scores", sha(body))),
    )
    found = score(margins)
    report.facts.append(
        f"{found.tokens} tokens, {found.match_rate:.2%} the reference's own choice, mean margin {found.mean_margin:.6f}"
    )
    report.more |= {"match_rate": found.match_rate, "mean_margin": found.mean_margin}
    return report.judged(judge_reexec(margins, spelt, calibration, request.model, terms, named))


def _spelling(report: Report, id_: str, spelt: Spelling) -> None:
    if spelt is Spelling.SAME:
        report.held(id_)
    else:
        report.add(id_, Outcome.CONTRAINDICATED if spelt is Spelling.DIFFERS else Outcome.NONE, spelt.value)


def _asked(request: Request, seeded: bool) -> str:
    members = {name: request.document[name] for name in ("temperature", "seed") if name in request.document}
    text = ", ".join(f"{name} {value}" for name, value in members.items()) or "neither temperature nor seed"
    return f"{text}, as {NAME} draws" if seeded else text


def _undecided(
    report: Report,
    step: str,
    subject: Subject,
    reason: str,
    found: str | None = None,
    expected: str | None = None,
) -> Report:
    report.add(step, Outcome.NONE, reason, found, expected)
    for later in _STEPS[_STEPS.index(step) + 1 :]:
        report.add(later, Outcome.NONE, "not_reached")
    return report.judged(reference_failed(subject, reason))
