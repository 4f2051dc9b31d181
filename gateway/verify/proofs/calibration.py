"""What honest nodes score against a reference, measured once and named by its digest.

No threshold is portable: how far honest numerics differ depends on the model, the engines and the accelerators. So
known-good nodes answer a set of prompts, each answer is scored against the reference, and what is kept is the quantiles
of the score at several lengths, for an average over few tokens scatters more. A judgement names the calibration it used
by id, the SHA-256 of the document's canonical form:

    {"version": 1, "kind": "reexec", "statistic": "greedy_margin", "reference": "ref-1", "model": "m",
     "revision": "<commit of the weights>", "made": "2026-01-31", "seeds": [1, 2],
     "quantiles": [{"tokens": 16, "samples": 512, "p50": 0.0, "p95": 0.001, "p99": 0.004, "p995": 0.006}, …]}

One of `logprob_distance` also says how many alternatives were compared, `"top": 5`: with another number of them the
distance is another. `p995` is there from 200 samples on, for a judgement that shares its false alarms with another.

A quantile of n samples is the one of rank ⌈q·(n + 1)⌉, so that one more honest answer exceeds `p99` with a probability
of at most 1 %, whatever the distribution is (split-conformal prediction).
"""

from __future__ import annotations

import enum
import hashlib
import math
import re
from collections.abc import Mapping, Sequence

import msgspec

from gateway.crypto.canonical import jcs, strict_json
from gateway.errors import FormatError

from .evidence import shown
from .tokens import MAX_TOKENS, MAX_TOP

MAX_DOCUMENT = 64 * 1024
MAX_ROWS = 32
MAX_SEEDS = 64
#: A 99th percentile from fewer samples is their maximum, and no percentile.
MIN_SAMPLES = 100
#: A 99.5th percentile from fewer is their maximum too.
MIN_SAMPLES_HALF = 200
ONE_PERCENT = 0.01
LENGTHS = (16, 32, 64, 128, 256, 512, 1024)

_DATE = re.compile(r"2[0-9]{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])")


class Statistic(enum.StrEnum):
    """What was measured: the mean clipped margin of greedy answers or of seeded ones, in nats, or the mean distance of
    log-probs, from 0 to 1."""

    GREEDY_MARGIN = "greedy_margin"
    SEEDED_MARGIN = "seeded_margin"
    LOGPROB_DISTANCE = "logprob_distance"


#: Unrelated models score 1 to 3 nat, or distances of 0.05 and more; weights of four bits were seen at 0.02. Honest
#: nodes that far apart would mean that nothing can be told.
MAX_HONEST: Mapping[Statistic, float] = {
    Statistic.GREEDY_MARGIN: 0.5,
    Statistic.SEEDED_MARGIN: 0.5,
    Statistic.LOGPROB_DISTANCE: 0.03,
}


class Quantiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The distribution over `samples` honest answers of `tokens` tokens each, in the statistic's unit.

    `p995` is None where there were too few samples for it.
    """

    tokens: int
    samples: int
    p50: float
    p95: float
    p99: float
    p995: float | None = None

    def limit(self, false_positives: float) -> float:
        """What honest answers exceed in about that share of cases, of which two can be had: a half, or one percent.

        One percent is what every share from it on gets, and whoever asks for less where `p995` is not known: the lower
        limit, which refuses more.
        """
        return self.p995 if self.p995 is not None and false_positives < ONE_PERCENT else self.p99


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One calibration. `made` is an ISO 8601 date; `revision` pins the weights that the reference ran; `top` is how
    many alternatives a distance of log-probs compared, and None for margins."""

    version: int
    kind: str
    statistic: Statistic
    reference: str
    model: str
    revision: str
    made: str
    seeds: tuple[int, ...]
    quantiles: tuple[Quantiles, ...]
    top: int | None = None

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem is not None:
            raise FormatError(f"a calibration {problem}", reason="calibration_invalid")

    @property
    def id(self) -> str:
        """SHA-256 of the canonical form, 64 lower-case hex digits."""
        return hashlib.sha256(self.document()).hexdigest()

    def document(self) -> bytes:
        """The canonical form (JCS, RFC 8785)."""
        return jcs(msgspec.to_builtins(self))

    def honest(self, tokens: int) -> Quantiles | None:
        """The row for an answer of `tokens` tokens: the longest that is no longer. None for a shorter answer."""
        rows = [row for row in self.quantiles if row.tokens <= tokens]
        return rows[-1] if rows else None


def parse_calibration(data: bytes) -> Calibration:
    """The calibration in a file. Raises `FormatError` for what is no strict JSON, lacks or has other members, or whose
    numbers cannot be those of honest nodes (unordered, negative, over `MAX_HONEST`, from under a hundred samples)."""
    document = strict_json(data, max_bytes=MAX_DOCUMENT, max_depth=8)
    try:
        return msgspec.convert(document, Calibration)
    except msgspec.ValidationError as error:
        raise FormatError(f"not a calibration: {shown(str(error))}", reason="calibration_invalid") from None


def measure(scores: Sequence[Sequence[float]], lengths: Sequence[int] = LENGTHS) -> tuple[Quantiles, ...]:
    """The quantiles of honest answers' means, from their per-token scores, at each of `lengths`. Margins come clipped.

    An answer gives as many samples as windows of that length fit into it. Lengths with fewer than a hundred are left
    out. Raises `FormatError` when all are.
    """
    rows = []
    for length in sorted(set(lengths)):
        means = sorted(math.fsum(window) / length for answer in scores for window in _windows(answer, length))
        if len(means) >= MIN_SAMPLES:
            rows.append(_row(length, means))
    if not rows:
        raise FormatError(f"fewer than {MIN_SAMPLES} samples at every length", reason="too_few_samples")
    return tuple(rows)


def _row(length: int, means: Sequence[float]) -> Quantiles:
    p50, p95, p99 = (_quantile(means, thousandths) for thousandths in (500, 950, 990))
    p995 = _quantile(means, 995) if len(means) >= MIN_SAMPLES_HALF else None
    return Quantiles(length, len(means), p50, p95, p99, p995)


def _windows(answer: Sequence[float], length: int) -> list[Sequence[float]]:
    return [answer[start : start + length] for start in range(0, len(answer) - length + 1, length)]


def _quantile(ordered: Sequence[float], thousandths: int) -> float:
    """The sample of rank ⌈thousandths/1000·(n + 1)⌉, which is at most n for as many samples as are asked for above."""
    return ordered[-(-(len(ordered) + 1) * thousandths // 1000) - 1]


def _problem(c: Calibration) -> str | None:
    texts: Mapping[str, str] = {"reference": c.reference, "model": c.model, "revision": c.revision}
    if c.version != 1 or c.kind != "reexec":
        return "of another version or kind"
    for name, text in texts.items():
        if not text.isprintable() or not 0 < len(text) <= 256:
            return f"has no printable {name} of at most 256 characters"
    if _DATE.fullmatch(c.made) is None:
        return "has no date"
    if len(c.seeds) > MAX_SEEDS or not all(0 <= seed < 2**53 for seed in c.seeds):
        return "has seeds out of range"
    if (c.top is not None) is not (c.statistic is Statistic.LOGPROB_DISTANCE) or not 2 <= (c.top or 2) <= MAX_TOP:
        return "has alternatives that its statistic does not compare"
    most = MAX_HONEST[c.statistic]
    if not 0 < len(c.quantiles) <= MAX_ROWS or not all(_honest_row(row, most) for row in c.quantiles):
        return "has quantiles that no honest node could give"
    lengths = [row.tokens for row in c.quantiles]
    return None if lengths == sorted(set(lengths)) else "has its quantiles out of order"


def _honest_row(row: Quantiles, most: float) -> bool:
    counted = 0 < row.tokens <= MAX_TOKENS and MIN_SAMPLES <= row.samples < 2**53
    half = row.p99 if row.p995 is None else row.p995
    return counted and 0 <= row.p50 <= row.p95 <= row.p99 <= half <= most
