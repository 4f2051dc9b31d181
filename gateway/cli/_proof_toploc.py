"""`veriroute proof verify --toploc`: the TOPLOC proofs of a saved answer, held against a trusted execution's values.

The values come from a file or from a reference, which is then also asked how the tokens are spelt. Without a reference
nobody can tell whether the tokens that were proven are the text that will be read, and so no answer passes.
"""

from __future__ import annotations

from gateway.errors import FormatError, ServiceError
from gateway.model.verdict import Outcome
from gateway.verify.proofs.answer import Told, read_told
from gateway.verify.proofs.evidence import Artefact, Kind, Subject, Verdict
from gateway.verify.proofs.measured import changed, spelled
from gateway.verify.proofs.spelling import Spelling
from gateway.verify.proofs.toploc import Distance
from gateway.verify.proofs.toploc_judge import ToplocCalibration, judge_toploc
from gateway.verify.proofs.toploc_wire import Recomputed, Stated, read_activations, read_stated

from ._proof_answer import Request, sha
from ._proof_rescore import activations, read_prompt, rescore
from ._proof_server import Server
from ._proof_show import Report


def verify_toploc(
    answer: bytes,
    request: Request,
    saved: bytes | None,
    server: Server | None,
    reference_id: str,
    calibration: ToplocCalibration | None,
) -> Report:
    """Every step for one answer. `saved` are activations from a file; one of it and `server` is there."""
    report = Report(f"TOPLOC proofs of an answer of {request.model}")
    named: tuple[Artefact, ...] = (Artefact("answer", sha(answer)),)
    named += (Artefact("calibration", calibration.id),) if calibration else ()
    subject = Subject(sha(request.body), sha(answer), reference_id, named)
    try:
        stated, tokens = _read(answer)
    except FormatError as error:
        return _ended(report, "toploc_answer", subject, error, Outcome.CONTRAINDICATED)
    if stated is None or tokens.ids is None:
        report.add("toploc_answer", Outcome.NONE, "proof_absent" if stated is None else "token_ids_absent")
        return _none(report, subject, "proof_absent" if stated is None else "token_ids_absent")
    report.held("toploc_answer", f"{len(stated.proofs)} proofs, {len(tokens.ids)} tokens")
    try:
        recomputed, spelt, body = _recomputed(server, saved, request, tokens, calibration)
    except (FormatError, ServiceError) as error:
        return _ended(report, "toploc_activations", subject, error, Outcome.NONE)
    report.held("toploc_activations", f"{len(recomputed.batches)} batches", f"{len(stated.proofs)} batches")
    subject = Subject(
        subject.request_sha256,
        subject.response_sha256,
        subject.reference_id,
        (*named, Artefact("activations", sha(body))),
    )
    judged = judge_toploc(stated, recomputed, len(tokens.ids), spelt, calibration, request.model, subject)
    _spelling(report, spelt)
    _far(report, judged.distances, stated.prefill)
    return report.judged(judged.record)


def _read(answer: bytes) -> tuple[Stated | None, Told]:
    tokens = read_told(answer)
    return read_stated(tokens.document), tokens


def _recomputed(
    server: Server | None,
    saved: bytes | None,
    request: Request,
    tokens: Told,
    calibration: ToplocCalibration | None,
) -> tuple[Recomputed, Spelling, bytes]:
    if server is None or not tokens.ids:
        body = saved or b""
        return read_activations(body), Spelling.UNKNOWN, body
    prompt = read_prompt(server, request.document)
    if calibration is not None and changed(calibration.revision, prompt):
        raise FormatError(f"the reference is {prompt.fingerprint}", reason="reference_changed")
    told, _ = rescore(server, request.model, prompt.ids, tokens.ids)
    body = saved if saved is not None else activations(server, request.model, prompt.ids, tokens.ids)
    return read_activations(body), spelled(told, tokens, request.document), body


def _spelling(report: Report, spelt: Spelling) -> None:
    if spelt is Spelling.SAME:
        report.held("toploc_spelling")
    else:
        outcome = Outcome.CONTRAINDICATED if spelt is Spelling.DIFFERS else Outcome.NONE
        report.add("toploc_spelling", outcome, spelt.value)


def _far(report: Report, distances: tuple[Distance, ...], prefill: bool) -> None:
    rows = []
    for number, d in enumerate(distances):
        name = "prompt" if prefill and number == 0 else f"batch {number if prefill else number + 1}"
        mantissa = "no exponent in common" if d.mantissa_mean is None else f"mean {d.mantissa_mean:.2f}"
        median = "" if d.mantissa_median is None else f", median {d.mantissa_median:g}"
        rows.append(f"{name}: {d.exponents} exponents, {d.signs} signs of 128 differ; mantissas {mantissa}{median}")
    report.facts += rows[:8] + ([f"and {len(rows) - 8} more"] if len(rows) > 8 else [])
    report.more["distances"] = [
        {
            "exponents": d.exponents,
            "signs": d.signs,
            "mantissa_mean": d.mantissa_mean,
            "mantissa_median": d.mantissa_median,
        }
        for d in distances
    ]


def _ended(report: Report, step: str, subject: Subject, error: FormatError | ServiceError, outcome: Outcome) -> Report:
    reason = error.reason or "malformed"
    if reason != "toploc_malformed":  # another fault is no proof that does not prove
        outcome = Outcome.NONE
    report.add(step, outcome, reason, error.message)
    verdict = Verdict.FAIL if outcome is Outcome.CONTRAINDICATED else Verdict.INCONCLUSIVE
    return report.judged(subject.record(Kind.TOPLOC, verdict, reason))


def _none(report: Report, subject: Subject, reason: str) -> Report:
    verdict = Verdict.ABSENT if reason == "proof_absent" else Verdict.INCONCLUSIVE
    return report.judged(subject.record(Kind.TOPLOC, verdict, reason))
