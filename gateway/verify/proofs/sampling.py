"""Sampled audits that can themselves be audited: which requests had to be looked at, decided by nobody.

An epoch begins with a secret seed of 32 bytes, whose SHA-256 goes into the log before the first request:

    commitment = SHA-256(seed)
    request r is audited  iff  u64be(SHA-256(seed || r)[:8]) < rate · 2**64          (exactly, in integers)

r is the request's id in UTF-8. At the end of the epoch the seed is revealed in the log, and from then on everybody who
has the log knows which requests had to be audited and can name those that were not. The rule cannot see to it that
ids are not chosen with the seed in mind, nor that a node does not know a replay when it sees one: ids have to be fixed
before the answer is known, and replays must look like requests.

    P(caught within n requests) = 1 - (1 - rate · fraction · power)**n

for a node that cheats in `fraction` of its answers and an audit that finds a cheat with probability `power`.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import math
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction

import msgspec

from gateway.errors import FormatError, ProofError

from .evidence import Assurance, Kind, ProofRecord, Subject, Verdict

SEED_BYTES = 32
MAX_ID = 256
_RATE = re.compile(r"(?:0(?:\.[0-9]{1,9})?|1(?:\.0{1,9})?)")


class Audit(enum.StrEnum):
    """What became of one answer under a sampled audit."""

    NOT_SELECTED = "not_selected"
    PENDING = "pending"
    PASSED = "passed"
    FAILED = "failed"


class Review(msgspec.Struct, frozen=True):
    """An epoch, recomputed: the ids that had to be audited, in the order of the log, and where the audits differ.

    `missing` had to be and were not; `extra` were and did not have to be; `foreign` were and are not in the log.
    """

    selected: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    foreign: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether exactly those were audited that had to be."""
        return not (self.missing or self.extra or self.foreign)


def commitment(seed: bytes) -> str:
    """What is logged before the epoch: 64 lower-case hex digits. Raises `FormatError` unless `seed` has 32 bytes."""
    return hashlib.sha256(_seed(seed)).hexdigest()


def parse_rate(text: str) -> Fraction:
    """The rate that `text` writes: a decimal from 0 to 1 with up to nine places. Raises `FormatError` otherwise."""
    if _RATE.fullmatch(text) is None:
        raise FormatError("an audit rate is a decimal from 0 to 1 with at most nine places")
    return Fraction(text)


def selected(seed: bytes, request_id: str, rate: Fraction) -> bool:
    """Whether the request has to be audited. Raises `FormatError` for a bad seed, id, or a rate outside 0 to 1."""
    if not 0 <= rate <= 1:
        raise FormatError("an audit rate is from 0 to 1")
    drawn = int.from_bytes(hashlib.sha256(_seed(seed) + _id(request_id)).digest()[:8], "big")
    return drawn * rate.denominator < rate.numerator << 64


def check_reveal(committed: str, seed: bytes) -> None:
    """Raises `ProofError`, reason `seed_not_committed`, unless `seed` is the one that was committed to."""
    if not hmac.compare_digest(commitment(seed).encode(), committed.encode("utf-8", "surrogatepass")):
        raise ProofError("the revealed seed is not the one that was logged", reason="seed_not_committed")


def review(committed: str, seed: bytes, rate: Fraction, logged: Sequence[str], audited: Iterable[str]) -> Review:
    """Recompute an epoch from its revealed seed, the ids in the log in their order, and the ids that were audited.

    Raises `ProofError` for another seed than the committed one, and `FormatError`, reason `id_twice`, when the log
    names an id twice: one audit would seem to answer for two requests.
    """
    check_reveal(committed, seed)
    known, done = set(logged), set(audited)
    if len(known) != len(logged):
        raise FormatError("the log names a request twice", reason="id_twice")
    due = tuple(r for r in logged if selected(seed, r, rate))
    had_to = set(due)
    return Review(
        selected=due,
        missing=tuple(r for r in due if r not in done),
        extra=tuple(r for r in logged if r in done and r not in had_to),
        foreign=tuple(sorted(done - known)),
    )


def catch_probability(rate: float, fraction: float, power: float, requests: int) -> float:
    """The probability that a cheat is found within so many requests. Raises `FormatError` for no probabilities."""
    caught = _probability(rate) * _probability(fraction) * _probability(power)
    if not 0 <= requests < 2**53:
        raise FormatError("the number of requests is out of range")
    if caught == 1:
        return 1.0 if requests else 0.0
    return -math.expm1(requests * math.log1p(-caught))


def needed_rate(fraction: float, power: float, requests: int, confidence: float = 0.95) -> float | None:
    """The least rate that finds a cheat within so many requests with probability `confidence`.

    None when not even auditing every request would. Raises `FormatError` for no probabilities, a certainty asked for,
    or no requests.
    """
    if not 0 < requests < 2**53 or not 0 <= confidence < 1:
        raise FormatError("the number of requests or the confidence is out of range")
    per_request = -math.expm1(math.log1p(-confidence) / requests)
    found = _probability(fraction) * _probability(power)
    return per_request / found if per_request <= found and found > 0 else None


def sampled_record(audit: Audit, found: ProofRecord | None, subject: Subject) -> ProofRecord:
    """What a sampled audit says of one answer, which left before it was audited.

    Not selected, or not yet judged, is absent or inconclusive: that cheating would not have paid is economics, and
    never a pass. A judged one is `found`. Raises `FormatError` when `found` does not go with `audit`.
    """
    if audit in (Audit.PASSED, Audit.FAILED):
        due = Verdict.PASS if audit is Audit.PASSED else Verdict.FAIL
        if found is None or found.verdict is not due or found.kind is not Kind.REEXEC:
            raise FormatError("an audit that was judged has the record of its judgement")
        return found
    verdict = Verdict.ABSENT if audit is Audit.NOT_SELECTED else Verdict.INCONCLUSIVE
    return subject.record(Kind.REEXEC, verdict, f"audit_{audit.value}", assurance=Assurance.ECONOMIC)


def _seed(seed: bytes) -> bytes:
    if len(seed) != SEED_BYTES:
        raise FormatError(f"an epoch's seed has {SEED_BYTES} bytes")
    return seed


def _id(request_id: str) -> bytes:
    if not 0 < len(request_id) <= MAX_ID or not request_id.isascii():
        raise FormatError(f"a request id is ASCII, of at most {MAX_ID} characters")
    return request_id.encode()


def _probability(value: float) -> float:
    if not 0 <= value <= 1:  # false for NaN as well
        raise FormatError("a probability is from 0 to 1")
    return float(value)
