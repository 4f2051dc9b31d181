"""Sampled audits: which requests had to be looked at, and the arithmetic of finding a cheat."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import pytest
from proofs_kit import SUBJECT

from gateway.errors import FormatError, ProofError
from gateway.verify.proofs.evidence import Assurance, Kind, Verdict, check_of
from gateway.verify.proofs.sampling import (
    Audit,
    Review,
    catch_probability,
    check_reveal,
    commitment,
    needed_rate,
    parse_rate,
    review,
    sampled_record,
    selected,
)

SEED = bytes(range(32))
IDS = [f"01K{i:023d}" for i in range(20_000)]


def test_commitment() -> None:
    """What is logged first is the seed's SHA-256, and only that seed opens it."""
    assert commitment(SEED) == hashlib.sha256(SEED).hexdigest()
    check_reveal(commitment(SEED), SEED)
    for committed in ("", "0" * 64, commitment(SEED).upper(), "\ud800"):
        with pytest.raises(ProofError) as caught:
            check_reveal(committed, SEED)
        assert caught.value.reason == "seed_not_committed"


@pytest.mark.parametrize("rate", ["0.03", "0.5", "0.001"])
def test_rate(rate: str) -> None:
    """The share that is selected is the rate, within three standard deviations, and anybody can recompute which."""
    s = float(rate)
    chosen = [r for r in IDS if selected(SEED, r, parse_rate(rate))]
    assert abs(len(chosen) - s * len(IDS)) <= 3 * math.sqrt(len(IDS) * s * (1 - s))
    by_hand = [
        r for r in IDS if int(hashlib.sha256(SEED + r.encode()).hexdigest()[:16], 16) / 2**64 < s
    ]  # floats do here, but at the edge
    assert chosen == by_hand


def test_edges() -> None:
    """At rate one every request is selected, at zero none, and the comparison is exact to the last bit."""
    drawn = int(hashlib.sha256(SEED + b"r").hexdigest()[:16], 16)
    assert selected(SEED, "r", Fraction(1))
    assert not selected(SEED, "r", Fraction(0))
    assert not selected(SEED, "r", Fraction(drawn, 2**64))
    assert selected(SEED, "r", Fraction(drawn + 1, 2**64))


@pytest.mark.parametrize("text", ["0", "1", "0.03", "1.0", "0.000000001"])
def test_rates(text: str) -> None:
    """A rate is a plain decimal from zero to one."""
    assert parse_rate(text) == Fraction(text)


@pytest.mark.parametrize(
    "text", ["", "3%", "1.1", "-0.1", ".5", "0.", "1e-3", "0.0000000001", "0.5\n", "٠", "2", "1/3"]
)
def test_no_rates(text: str) -> None:
    """Other ways to write a number are no rates."""
    with pytest.raises(FormatError):
        parse_rate(text)


@pytest.mark.parametrize(
    ("seed", "request_id", "rate"),
    [(b"", "r", Fraction(1)), (SEED + b"x", "r", Fraction(1)), (SEED, "", Fraction(1)), (SEED, "r" * 257, Fraction(1)),
     (SEED, "é", Fraction(1)), (SEED, "r", Fraction(2)), (SEED, "r", Fraction(-1, 2))],
)  # fmt: skip
def test_refused(seed: bytes, request_id: str, rate: Fraction) -> None:
    """Seeds, ids and rates outside their ranges are refused; a shorter seed would let ids run into it."""
    with pytest.raises(FormatError):
        selected(seed, request_id, rate)


def test_review() -> None:
    """From the revealed seed follows what had to be audited, and what is missing, extra or not in the log."""
    rate, logged = parse_rate("0.1"), IDS[:300]
    due = [r for r in logged if selected(SEED, r, rate)]
    spare = next(r for r in logged if r not in due)
    kept = review(commitment(SEED), SEED, rate, logged, due)
    assert kept == Review(tuple(due), (), (), ())
    assert kept.kept
    audited = {*due[1:], spare, "not in the log"}
    found = review(commitment(SEED), SEED, rate, logged, audited)
    assert found == Review(tuple(due), (due[0],), (spare,), ("not in the log",))
    assert not found.kept


def test_review_refuses() -> None:
    """Another seed than the committed one recomputes nothing, and an id that is logged twice is refused."""
    with pytest.raises(ProofError):
        review(commitment(bytes(32)), SEED, Fraction(1), ["a"], ["a"])
    with pytest.raises(FormatError) as caught:
        review(commitment(SEED), SEED, Fraction(1), ["a", "a"], ["a"])
    assert caught.value.reason == "id_twice"


@pytest.mark.parametrize(("fraction", "requests"), [(0.1, 1000), (1.0, 100), (0.01, 10_000)])
def test_three_per_hundred(fraction: float, requests: int) -> None:
    """Three audits per expected cheat find it with 95 %: rate times fraction times requests is about three."""
    rate = needed_rate(fraction, 1.0, requests)
    assert rate == pytest.approx(0.03, abs=0.0005)
    assert rate is not None
    assert catch_probability(rate, fraction, 1.0, requests) == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((1, 1, 1, 1), 1.0), ((1, 1, 1, 0), 0.0), ((0, 1, 1, 1000), 0.0), ((0.5, 1, 1, 2), 0.75), ((0.5, 0.5, 0.5, 1), 0.125)],
)  # fmt: skip
def test_catch_probability(arguments: tuple[float, float, float, int], expected: float) -> None:
    """The probability that at least one of the cheats is audited and found."""
    assert catch_probability(*arguments) == pytest.approx(expected)


def test_no_rate_is_enough() -> None:
    """Where auditing every request would not do, no rate is named."""
    assert needed_rate(0.01, 1.0, 10) is None
    assert needed_rate(0.0, 1.0, 10) is None
    assert needed_rate(0.0, 1.0, 10, confidence=0.0) is None
    assert needed_rate(1.0, 1.0, 1, confidence=0.5) == pytest.approx(0.5)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_no_probabilities(bad: float) -> None:
    """Numbers that are no probabilities are refused wherever they stand."""
    for call in (
        lambda: catch_probability(bad, 1, 1, 1),
        lambda: catch_probability(1, bad, 1, 1),
        lambda: catch_probability(1, 1, bad, 1),
        lambda: needed_rate(bad, 1, 1),
        lambda: needed_rate(1, bad, 1),
        lambda: needed_rate(1, 1, 1, bad),
        lambda: catch_probability(0.5, 1, 1, -1),
        lambda: needed_rate(1, 1, 0),
    ):
        with pytest.raises(FormatError):
            call()


def test_simulated_cheat_is_found_as_predicted() -> None:
    """Over 400 seeds a node that always cheats is audited within the predicted number of requests 95 times in 100."""
    rate, requests = parse_rate("0.03"), 99
    assert catch_probability(0.03, 1, 1, requests) == pytest.approx(0.951, abs=0.001)
    seeds = [hashlib.sha256(bytes([i % 256, i // 256])).digest() for i in range(400)]
    caught = sum(any(selected(seed, r, rate) for r in IDS[:requests]) for seed in seeds)
    assert abs(caught / 400 - 0.951) < 3 * math.sqrt(0.951 * 0.049 / 400)


@pytest.mark.parametrize(
    ("audit", "verdict", "reason"),
    [
        (Audit.NOT_SELECTED, Verdict.ABSENT, "audit_not_selected"),
        (Audit.PENDING, Verdict.INCONCLUSIVE, "audit_pending"),
    ],
)
def test_unaudited_answers(audit: Audit, verdict: Verdict, reason: str) -> None:
    """An answer that was not audited, or not yet, is never a pass: what stands behind it is economics."""
    record = sampled_record(audit, None, SUBJECT)
    assert (record.verdict, record.reason, record.assurance) == (verdict, reason, Assurance.ECONOMIC)
    assert check_of(record).outcome.value == "none"


def test_audited_answers() -> None:
    """An audited answer has the record of its re-execution, and no other."""
    passed = SUBJECT.record(Kind.REEXEC, Verdict.PASS, None, tokens=64)
    failed = SUBJECT.record(Kind.REEXEC, Verdict.FAIL, "margin_too_large", tokens=64)
    assert sampled_record(Audit.PASSED, passed, SUBJECT) is passed
    assert sampled_record(Audit.FAILED, failed, SUBJECT) is failed
    quorum = SUBJECT.record(Kind.QUORUM, Verdict.PASS, None, tokens=64)
    for audit, found in ((Audit.PASSED, failed), (Audit.FAILED, passed), (Audit.PASSED, None), (Audit.PASSED, quorum)):
        with pytest.raises(FormatError):
            sampled_record(audit, found, SUBJECT)
