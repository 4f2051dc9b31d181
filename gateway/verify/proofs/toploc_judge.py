"""The judgement on TOPLOC proofs, and the calibration that it takes (Ong et al., PMLR 267).

How near honest executions are is a matter of the model and of what computes it, so the limits come from a measurement
on known-good nodes: three times what 99.9 % of honest batches stay under, in a document named by the SHA-256 of its
canonical form:

    {"version": 1, "kind": "toploc", "reference": "ref-1", "model": "m", "revision": "<commit of the weights>",
     "made": "2026-01-31", "seeds": [1], "batches": 512, "exponents": 9, "mantissa_mean": 2.5, "mantissa_median": 3.0,
     "signs": 5}

What has to be shown, in this order:
 1. there are proofs, as many as the tokens need, each well formed     fail otherwise
 2. a trusted execution has values for the same batches                inconclusive otherwise
 3. the calibration is of this reference and model                     inconclusive otherwise
 4. every batch is within the limits                                   fail otherwise
 5. the tokens spell the text that will be read                        fail, or inconclusive where it cannot be told
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence

import msgspec

from gateway.crypto.canonical import jcs, strict_json
from gateway.errors import FormatError

from .calibration import MAX_DOCUMENT, MAX_SEEDS, MIN_SAMPLES
from .evidence import Kind, ProofRecord, Subject, Verdict, shown
from .spelling import Spelling
from .toploc import Distance, Thresholds, decode_all, distance, within
from .toploc_wire import Recomputed, Stated

FACTOR = 3
#: Beyond these, unrelated models pass: half of the exponents, a quarter of the mantissa's range.
MAX_COUNT, MAX_MANTISSA = 64, 32.0

_DATE = re.compile(r"2[0-9]{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])")


class ToplocCalibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One calibration: limits for each batch, measured on `batches` honest ones. `made` is an ISO 8601 date."""

    version: int
    kind: str
    reference: str
    model: str
    revision: str
    made: str
    seeds: tuple[int, ...]
    batches: int
    exponents: int
    mantissa_mean: float
    mantissa_median: float
    signs: int

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem is not None:
            raise FormatError(f"a TOPLOC calibration {problem}", reason="calibration_invalid")

    @property
    def id(self) -> str:
        """SHA-256 of the canonical form, 64 lower-case hex digits."""
        return hashlib.sha256(self.document()).hexdigest()

    def document(self) -> bytes:
        """The canonical form (JCS, RFC 8785)."""
        return jcs(msgspec.to_builtins(self))

    @property
    def thresholds(self) -> Thresholds:
        """The limits, as `toploc.within` takes them."""
        return Thresholds(self.id, self.exponents, self.mantissa_mean, self.mantissa_median, self.signs)


class Limits(msgspec.Struct, frozen=True):
    """What `measure` found: how many batches, and the limits that follow."""

    batches: int
    exponents: int
    mantissa_mean: float
    mantissa_median: float
    signs: int


class Judged(msgspec.Struct, frozen=True):
    """The record, and how far each batch is, the prompt's first; empty where it did not come to that."""

    record: ProofRecord
    distances: tuple[Distance, ...] = ()


def parse_toploc_calibration(data: bytes) -> ToplocCalibration:
    """The calibration in a file. Raises `FormatError` for what is no strict JSON, lacks or has other members, or whose
    limits would let other models pass."""
    document = strict_json(data, max_bytes=MAX_DOCUMENT, max_depth=4)
    try:
        return msgspec.convert(document, ToplocCalibration)
    except msgspec.ValidationError as error:
        raise FormatError(f"not a TOPLOC calibration: {shown(str(error))}", reason="calibration_invalid") from None


def measure(distances: Sequence[Distance]) -> Limits:
    """The limits that follow from honest batches. Raises `FormatError`, reason too_few_samples under a hundred, and
    calibration_invalid for a batch of which no exponent agrees."""
    if len(distances) < MIN_SAMPLES:
        raise FormatError(f"fewer than {MIN_SAMPLES} batches", reason="too_few_samples")
    means = [d.mantissa_mean for d in distances if d.mantissa_mean is not None]
    medians = [d.mantissa_median for d in distances if d.mantissa_median is not None]
    if len(means) != len(distances) or len(medians) != len(distances):
        raise FormatError("an honest batch has no exponent in common", reason="calibration_invalid")
    return Limits(
        len(distances),
        max(1, math.ceil(_limit([d.exponents for d in distances]))),
        _limit(means),
        _limit(medians),
        max(1, math.ceil(_limit([d.signs for d in distances]))),
    )


def judge_toploc(
    stated: Stated | None,
    recomputed: Recomputed,
    tokens: int,
    spelt: Spelling,
    calibration: ToplocCalibration | None,
    model: str,
    subject: Subject,
) -> Judged:
    """Judge the proofs of an answer of `tokens` tokens by what a trusted execution has for them. Total.

    The statistic is the largest number of exponents that differ in a batch, of 128; the other limits count as well.
    """

    def judged(verdict: Verdict, reason: str, distances: tuple[Distance, ...] = ()) -> Judged:
        record = subject.record(
            Kind.TOPLOC,
            verdict,
            reason,
            statistic=float(max(d.exponents for d in distances)) if distances else None,
            threshold=float(calibration.exponents) if distances and calibration else None,
            calibration_id=calibration.id if calibration else None,
            tokens=tokens,
        )
        return Judged(record, distances)

    # 1. proofs
    if stated is None:
        return judged(Verdict.ABSENT, "proof_absent")
    if tokens < 1:
        return judged(Verdict.INCONCLUSIVE, "empty_answer")
    try:
        polynomials = decode_all(stated.proofs, tokens=tokens, prefill=stated.prefill)
    except FormatError as error:
        return judged(Verdict.FAIL, error.reason or "toploc_malformed")
    # 2. the trusted execution
    if recomputed.prefill is not stated.prefill or len(recomputed.batches) != len(polynomials):
        return judged(Verdict.INCONCLUSIVE, "toploc_activations")
    try:
        found = tuple(distance(p, a) for p, a in zip(polynomials, recomputed.batches, strict=True))
    except FormatError:
        return judged(Verdict.INCONCLUSIVE, "toploc_activations")
    # 3. calibration
    if calibration is None:
        return judged(Verdict.INCONCLUSIVE, "toploc_uncalibrated", found)
    if (calibration.reference, calibration.model) != (subject.reference_id, model):
        return judged(Verdict.INCONCLUSIVE, "calibration_of_another", found)
    # 4. limits
    if not all(within(d, calibration.thresholds) for d in found):
        return judged(Verdict.FAIL, "toploc_far", found)
    # 5. spelling
    if spelt is not Spelling.SAME:
        return judged(Verdict.FAIL if spelt is Spelling.DIFFERS else Verdict.INCONCLUSIVE, spelt.value, found)
    return judged(Verdict.PASS, "toploc_near", found)


def _limit(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return FACTOR * float(ordered[-(-len(ordered) * 999 // 1000) - 1])


def _problem(c: ToplocCalibration) -> str | None:
    if c.version != 1 or c.kind != "toploc":
        return "is of another version or kind"
    for name, text in {"reference": c.reference, "model": c.model, "revision": c.revision}.items():
        if not text.isprintable() or not 0 < len(text) <= 256:
            return f"has no printable {name} of at most 256 characters"
    if _DATE.fullmatch(c.made) is None:
        return "has no date"
    if len(c.seeds) > MAX_SEEDS or not all(0 <= seed < 2**53 for seed in c.seeds):
        return "has seeds out of range"
    if not MIN_SAMPLES <= c.batches < 2**53:
        return "rests on too few batches"
    counts = all(0 <= n <= MAX_COUNT for n in (c.exponents, c.signs))
    if not counts or not all(0 <= x <= MAX_MANTISSA for x in (c.mantissa_mean, c.mantissa_median)):
        return "has limits that would let other models pass"
    return None
