"""The record of one piece of evidence, and what it says as a check.

A record names the exchange (digests of request and response), what was measured and held against what, and the digests
of everything that the measurement rests on, so that somebody else can measure again. Four verdicts: `pass` and `fail`
were decided; `inconclusive` was tried and did not decide; `absent` was not there to be tried. The constructor refuses
what would claim too much: a statistic called cryptographic, a drift that accuses, a pass that rests on nothing.
"""

from __future__ import annotations

import enum
import math
import re

import msgspec

from gateway.errors import FormatError
from gateway.model.receipt import CODE
from gateway.model.verdict import Check, Outcome
from gateway.text import plain

MAX_ARTEFACTS = 256
#: Text from outside is cut to this many characters before it gets near a reader.
SHOWN = 80

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CODE = re.compile(CODE)


class Kind(enum.StrEnum):
    """What sort of evidence it is."""

    QUORUM = "quorum"
    REEXEC = "reexec"
    ZK = "zk"
    TOPLOC = "toploc"
    LOGPROB = "logprob"
    DRIFT = "drift"


class Assurance(enum.StrEnum):
    """What stands behind a verdict: mathematics, a measured error rate, or that cheating would not pay."""

    CRYPTOGRAPHIC = "cryptographic"
    STATISTICAL = "statistical"
    ECONOMIC = "economic"


class Verdict(enum.StrEnum):
    """How an appraisal of the evidence ended."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    ABSENT = "absent"


class Artefact(msgspec.Struct, frozen=True):
    """Something that a verdict rests on: a printable name of at most 80 characters, and its SHA-256 in hex."""

    name: str
    sha256: str


class ProofRecord(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One piece of evidence, appraised.

    Digests are 64 lower-case hex digits. `response_sha256` is None when the evidence is not about one answer.
    `statistic` was held against `threshold`; which of them has to be larger, the kind says. `tokens` is how many tokens
    were looked at, `cost` what it cost in millionths of the policy's currency, `ms` how long it took in milliseconds.
    `culprits` are the ids of nodes that the evidence speaks against. `reason` is always there unless the verdict is
    `pass`. Raises `FormatError` for a record that claims more than its kind can show.
    """

    kind: Kind
    assurance: Assurance
    verdict: Verdict
    request_sha256: str
    response_sha256: str | None = None
    reason: str | None = None
    statistic: float | None = None
    threshold: float | None = None
    calibration_id: str | None = None
    reference_id: str | None = None
    tokens: int | None = None
    cost: int | None = None
    ms: int | None = None
    culprits: tuple[str, ...] = ()
    artefacts: tuple[Artefact, ...] = ()

    def __post_init__(self) -> None:
        problem = _overclaim(self) or _malformed(self)
        if problem is not None:
            raise FormatError(f"a record of {self.kind.value} evidence {problem}")


class Subject(msgspec.Struct, frozen=True):
    """What a judgement is about: the members of a `ProofRecord` that are known before anything is measured."""

    request_sha256: str
    response_sha256: str | None
    reference_id: str | None = None
    artefacts: tuple[Artefact, ...] = ()
    cost: int | None = None
    ms: int | None = None

    def record(
        self,
        kind: Kind,
        verdict: Verdict,
        reason: str | None,
        *,
        assurance: Assurance = Assurance.STATISTICAL,
        statistic: float | None = None,
        threshold: float | None = None,
        calibration_id: str | None = None,
        tokens: int | None = None,
        culprits: tuple[str, ...] = (),
    ) -> ProofRecord:
        """The record that says `verdict` of this subject. Raises `FormatError` as `ProofRecord` does."""
        return ProofRecord(
            kind=kind,
            assurance=assurance,
            verdict=verdict,
            request_sha256=self.request_sha256,
            response_sha256=self.response_sha256,
            reason=reason,
            statistic=statistic,
            threshold=threshold,
            calibration_id=calibration_id,
            reference_id=self.reference_id,
            tokens=tokens,
            cost=self.cost,
            ms=self.ms,
            culprits=culprits,
            artefacts=self.artefacts,
        )


def check_of(record: ProofRecord) -> Check:
    """The check `proof_<kind>` that follows from a record: `pass` affirms, `fail` contradicts, all else is `none`.

    Evidence that is not about one answer says nothing of any answer, so even its `pass` is `none`.
    """
    outcome, reason = _OUTCOMES[record.verdict], record.reason
    if outcome is Outcome.AFFIRMING and record.response_sha256 is None:
        outcome, reason = Outcome.NONE, "not_of_this_answer"
    return Check(f"proof_{record.kind.value}", outcome, reason, _found(record), _expected(record))


def parse_record(document: object) -> ProofRecord:
    """The record in `document`, a JSON object as `strict_json` returns it. Raises `FormatError` for anything else."""
    try:
        return msgspec.convert(document, ProofRecord)
    except (msgspec.ValidationError, RecursionError) as error:
        raise FormatError(f"not a record of evidence: {shown(str(error))}") from None


def shown(text: str) -> str:
    """`text` from outside, on one line, printable, at most 80 characters."""
    return plain(text, SHOWN)


_OUTCOMES = {
    Verdict.PASS: Outcome.AFFIRMING,
    Verdict.FAIL: Outcome.CONTRAINDICATED,
    Verdict.INCONCLUSIVE: Outcome.NONE,
    Verdict.ABSENT: Outcome.NONE,
}


def _found(record: ProofRecord) -> str | None:
    parts = [] if record.statistic is None else [f"{record.statistic:.6g}"]
    if record.tokens is not None:
        parts.append(f"{record.tokens} tokens")
    if record.culprits:
        parts.append("against " + ", ".join(record.culprits))
    return shown(", ".join(parts)) if parts else None


def _expected(record: ProofRecord) -> str | None:
    return None if record.threshold is None else f"{record.threshold:.6g}"


def _overclaim(record: ProofRecord) -> str | None:
    if (record.kind is Kind.ZK) != (record.assurance is Assurance.CRYPTOGRAPHIC):
        return "has the assurance of another kind"
    if record.kind is Kind.DRIFT and record.verdict is Verdict.FAIL:
        return "accuses: a baseline that changed is inconclusive"
    if record.verdict is Verdict.PASS and not record.tokens and not record.artefacts:
        return "passes and rests on nothing"
    if record.verdict is not Verdict.PASS and record.reason is None:
        return "gives no reason"
    return None


def _malformed(record: ProofRecord) -> str | None:
    digests = [record.request_sha256, *(a.sha256 for a in record.artefacts)]
    digests += [d for d in (record.response_sha256, record.calibration_id) if d is not None]
    if not all(_SHA256.fullmatch(d) for d in digests):
        return "has a digest that is not 64 lower-case hex digits"
    if any(n is not None and not math.isfinite(n) for n in (record.statistic, record.threshold)):
        return "has a number that is not finite"
    if any(n is not None and not 0 <= n < 2**53 for n in (record.tokens, record.cost, record.ms)):
        return "has a count that is out of range"
    if record.reason is not None and _CODE.match(record.reason) is None:
        return "has a reason that is not a code"
    texts = [*record.culprits, *(a.name for a in record.artefacts)]
    if record.reference_id is not None:
        texts.append(record.reference_id)
    if len(texts) > MAX_ARTEFACTS or not all(t.isprintable() and 0 < len(t) <= SHOWN for t in texts):
        return "has names that are too many, too long or not printable"
    return None
