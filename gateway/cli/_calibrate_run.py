"""The run behind `veriroute calibrate`: answers of a known-good node, each scored by the reference, and the quantiles.

An answer is measured as a gateway or `veriroute proof` measures it later (`claim_of`, `margins_of`, `distances`,
`distance`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from gateway.errors import FormatError, ServiceError
from gateway.model.verdict import Outcome
from gateway.verify.proofs import toploc_judge
from gateway.verify.proofs.answer import Told, read_object, read_told
from gateway.verify.proofs.calibration import Calibration, Quantiles, Statistic, measure
from gateway.verify.proofs.claim import Claim, claim_of
from gateway.verify.proofs.distance import distances
from gateway.verify.proofs.measured import FINGERPRINT, margins_of, spelled
from gateway.verify.proofs.reexec import CLIP
from gateway.verify.proofs.reference import Reexecuted, positions
from gateway.verify.proofs.spelling import Spelling
from gateway.verify.proofs.tokens import TOKEN_ID, read_choice
from gateway.verify.proofs.toploc import Distance, decode_all, distance
from gateway.verify.proofs.toploc_wire import read_activations, read_stated

from ._proof_rescore import activations, read_prompt, rescore
from ._proof_server import Server
from ._proof_show import Report

#: Weights of four bits have a 99th percentile of 0.07 nat and more on the reference node, honest rounding 0.001; their
#: distances of log-probs are 0.037 and more, honest ones 0.004.
WIDE, WIDE_DISTANCE = 0.05, 0.02
#: Alternatives to each token whose log-probs are compared, as many as a gateway asks for.
TOP = 5


class What(enum.StrEnum):
    """What is measured."""

    GREEDY = "greedy"
    SEEDED = "seeded"
    LOGPROB = "logprob"
    TOPLOC = "toploc"


_STATISTICS = {
    What.GREEDY: Statistic.GREEDY_MARGIN,
    What.SEEDED: Statistic.SEEDED_MARGIN,
    What.LOGPROB: Statistic.LOGPROB_DISTANCE,
}


class Plan(msgspec.Struct, frozen=True):
    """What to ask and what to call it. `revision` None: what the reference says of itself. `made` is a date."""

    what: What
    reference_id: str
    model: str
    revision: str | None
    made: str
    prompts: tuple[str, ...]
    tokens: int
    seed: int
    temperature: float


class _Refused(Exception):
    """The two cannot be calibrated with each other; the arguments are the check, the reason and what was found."""


class _Run:
    """What was measured so far."""

    def __init__(self, plan: Plan, reference: Server, node: Server) -> None:
        self.plan = plan
        self.reference = reference
        self.node = node
        self.scores: list[tuple[float, ...]] = []
        self.distances: list[Distance] = []
        self.fingerprints: set[str | None] = set()
        self.tokens = 0

    def answer(self, number: int, text: str) -> None:
        """One prompt: asked, read, scored."""
        request = self._request(number, text)
        claim = claim_of(request, seeded=request["temperature"] > 0)
        assert isinstance(claim, Claim)
        body = self.node.post("/v1/chat/completions", request)
        tokens = read_told(body)
        if tokens.ids is None:
            raise FormatError("the node tells no token_ids", reason="token_ids_absent")
        prompt = read_prompt(self.reference, request)
        if tokens.prompt_ids is not None and tokens.prompt_ids != prompt.ids:
            found = f"{len(tokens.prompt_ids)} and {len(prompt.ids)} tokens"
            raise _Refused("calibrate_prompts", "prompts_differ", found)
        self.fingerprints.add(prompt.fingerprint)
        if len(self.fingerprints) > 1:
            raise FormatError("the reference changed its build while it was asked", reason="reference_changed")
        if not tokens.ids:
            return
        self.tokens += len(tokens.ids)
        if self.plan.what is What.TOPLOC:
            self._distances(prompt.ids, tokens)
        else:
            self._scores(claim, prompt.ids, tokens, body)

    def _request(self, number: int, text: str) -> dict[str, Any]:
        plan = self.plan
        request: dict[str, Any] = {
            "model": plan.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": plan.tokens,
            "return_token_ids": True,
        }
        # Log-probs are compared whatever the temperature was, and depend on the text: half of the answers are drawn.
        if plan.what is What.SEEDED or (plan.what is What.LOGPROB and number % 2):
            request |= {"temperature": plan.temperature, "seed": plan.seed + number}
        if plan.what is What.LOGPROB:
            request |= {"logprobs": True, "top_logprobs": TOP}
        return request | ({"toploc": True} if plan.what is What.TOPLOC else {})

    def _scores(self, claim: Claim, prompt: Sequence[int], tokens: Told, body: bytes) -> None:
        assert tokens.ids is not None
        told, _ = rescore(self.reference, self.plan.model, prompt, tokens.ids)
        if spelled(told, tokens, {}) is Spelling.DIFFERS:
            raise _Refused("calibrate_answers", Spelling.DIFFERS.value)
        if self.plan.what is What.LOGPROB:
            self.scores.append(_apart(told, tokens.ids, body))
        else:
            self.scores.append(tuple(min(margin, CLIP) for margin in margins_of(claim, told, tokens.ids)))

    def _distances(self, prompt: Sequence[int], tokens: Told) -> None:
        assert tokens.ids is not None
        stated = read_stated(tokens.document)
        if stated is None:
            raise FormatError("the node brings no proofs", reason="proof_absent")
        recomputed = read_activations(activations(self.reference, self.plan.model, prompt, tokens.ids))
        polynomials = decode_all(stated.proofs, tokens=len(tokens.ids), prefill=stated.prefill)
        if recomputed.prefill is not stated.prefill or len(recomputed.batches) != len(polynomials):
            raise FormatError("the reference has values for other batches", reason="toploc_activations")
        self.distances += map(distance, polynomials, recomputed.batches)

    @property
    def revision(self) -> str:
        told = next(iter(self.fingerprints), None)
        return self.plan.revision or (f"{FINGERPRINT}{told}"[:256] if told else "not told")


def calibrate(
    plan: Plan, reference: Server, node: Server, progress: Callable[[int, int], None]
) -> tuple[Report, bytes | None]:
    """What came of it, and the calibration's document, None where there is none to be had."""
    report = Report(f"calibration ({plan.what.value}) of {plan.model}: {plan.reference_id}")
    run = _Run(plan, reference, node)
    try:
        for number, text in enumerate(plan.prompts):
            run.answer(number, text)
            progress(number + 1, len(plan.prompts))
    except _Refused as refused:
        check, reason, *found = refused.args
        report.add(check, Outcome.CONTRAINDICATED, reason, *found)
        return report, None
    except (FormatError, ServiceError) as error:
        report.add("calibrate_answers", Outcome.NONE, error.reason or "malformed", error.message)
        return report, None
    report.held("calibrate_answers", f"{len(plan.prompts)} answers, {run.tokens} tokens")
    report.held("calibrate_prompts")
    report.more |= {"answers": len(plan.prompts), "tokens": run.tokens}
    try:
        return report, _toploc(report, run) if plan.what is What.TOPLOC else _reexec(report, run)
    except FormatError as error:
        report.add("calibrate_spread", Outcome.CONTRAINDICATED, error.reason or "malformed", error.message)
        return report, None


def _reexec(report: Report, run: _Run) -> bytes:
    plan = run.plan
    rows = measure(run.scores)
    report.facts += [_row(row) for row in rows]
    top, wide = (TOP, WIDE_DISTANCE) if plan.what is What.LOGPROB else (None, WIDE)
    made = Calibration(
        1, "reexec", _STATISTICS[plan.what], plan.reference_id, plan.model, run.revision, plan.made, (plan.seed,), rows,
        top,
    )  # fmt: skip
    widest = max(row.p99 for row in rows)
    if widest > wide:
        report.add("calibrate_spread", Outcome.WARNING, "calibration_wide", f"p99 {widest:.6f}", f"at most {wide}")
    else:
        report.held("calibrate_spread", f"p99 {widest:.6f}", f"at most {wide}")
    return _named(report, made.id, made.document())


def _toploc(report: Report, run: _Run) -> bytes:
    plan = run.plan
    found = toploc_judge.measure(run.distances)
    report.facts.append(
        f"{found.batches} batches; limits: {found.exponents} exponents and {found.signs} signs of 128, "
        f"mantissas {found.mantissa_mean:.3f} in the mean, {found.mantissa_median:g} in the median"
    )
    made = toploc_judge.ToplocCalibration(
        1, "toploc", plan.reference_id, plan.model, run.revision, plan.made, (plan.seed,), found.batches,
        found.exponents, found.mantissa_mean, found.mantissa_median, found.signs,
    )  # fmt: skip
    report.held("calibrate_spread", f"{found.exponents} exponents", f"at most {toploc_judge.MAX_COUNT}")
    return _named(report, made.id, made.document())


def _apart(told: Reexecuted, ids: Sequence[int], body: bytes) -> tuple[float, ...]:
    """The distance at each token between the log-probs in `body` and the reference's. Raises `FormatError`."""
    _, scored = read_choice(body)
    if not scored.positions:
        raise FormatError("the node tells no log-probs", reason="logprobs_absent")
    by_id = scored.positions[0].token.startswith(TOKEN_ID)
    own = positions(told, ids, TOP, by_id=by_id)
    if own is None:
        raise FormatError("the reference does not spell the tokens", reason=Spelling.UNKNOWN.value)
    return distances(scored.positions, own, TOP)


def _named(report: Report, id_: str, document: bytes) -> bytes:
    report.facts.append(f"calibration {id_}")
    report.more |= {"id": id_, "calibration": read_object(document)}
    return document


def _row(row: Quantiles) -> str:
    return f"{row.tokens:>5} tokens: {row.samples} windows, p50 {row.p50:.6f}, p95 {row.p95:.6f}, p99 {row.p99:.6f}"
