"""The record of evidence, and the check that follows from it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from proofs_kit import REQUEST, RESPONSE, SUBJECT

from gateway.crypto.canonical import jcs, strict_json
from gateway.errors import FormatError
from gateway.model.verdict import Outcome
from gateway.verify.proofs.evidence import (
    Artefact,
    Assurance,
    Kind,
    ProofRecord,
    Subject,
    Verdict,
    check_of,
    parse_record,
    shown,
)

STATISTICAL, CRYPTOGRAPHIC, ECONOMIC = Assurance.STATISTICAL, Assurance.CRYPTOGRAPHIC, Assurance.ECONOMIC
PASS, FAIL, INCONCLUSIVE, ABSENT = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.ABSENT


def record(**changes: Any) -> ProofRecord:
    members: dict[str, Any] = {
        "kind": Kind.REEXEC,
        "assurance": STATISTICAL,
        "verdict": PASS,
        "request_sha256": REQUEST,
        "response_sha256": RESPONSE,
        "tokens": 64,
    }
    return ProofRecord(**members | changes)


@pytest.mark.parametrize(
    ("verdict", "outcome", "reason"),
    [
        (PASS, Outcome.AFFIRMING, None),
        (FAIL, Outcome.CONTRAINDICATED, "margin_too_large"),
        (INCONCLUSIVE, Outcome.NONE, "too_few_tokens"),
        (ABSENT, Outcome.NONE, "not_selected"),
    ],
)
def test_only_a_pass_affirms(verdict: Verdict, outcome: Outcome, reason: str | None) -> None:
    """A pass affirms, a failure contradicts, and what was not decided or not there is `none` with its reason."""
    check = check_of(record(verdict=verdict, reason=reason, statistic=0.00123456789, threshold=0.01))
    assert (check.id, check.outcome, check.reason) == ("proof_reexec", outcome, reason)
    assert (check.found, check.expected) == ("0.00123457, 64 tokens", "0.01")


def test_evidence_of_no_answer_affirms_none() -> None:
    """A pass that is not about one answer is no check of any answer."""
    check = check_of(record(kind=Kind.DRIFT, response_sha256=None))
    assert (check.outcome, check.reason) == (Outcome.NONE, "not_of_this_answer")


def test_culprits_are_named() -> None:
    """The check says against whom the evidence speaks, cut to what a reader can take."""
    check = check_of(record(tokens=None, artefacts=(Artefact("a", RESPONSE),), culprits=("node-b", "n" * 80)))
    assert check.found is not None
    assert check.found.startswith("against node-b, nnn")
    assert len(check.found) == 80
    assert check_of(record(verdict=ABSENT, reason="x", tokens=None)).found is None


@pytest.mark.parametrize(
    "changes",
    [
        {"assurance": CRYPTOGRAPHIC},
        {"kind": Kind.QUORUM, "assurance": CRYPTOGRAPHIC},
        {"kind": Kind.ZK},
        {"kind": Kind.ZK, "assurance": ECONOMIC},
        {"kind": Kind.DRIFT, "verdict": FAIL, "reason": "baseline_changed"},
        {"tokens": None},
        {"tokens": 0},
        {"verdict": FAIL},
        {"verdict": INCONCLUSIVE},
        {"verdict": ABSENT},
        {"request_sha256": "sha256:" + REQUEST},
        {"request_sha256": REQUEST.upper()},
        {"response_sha256": RESPONSE[:-1]},
        {"response_sha256": RESPONSE + "\n"},
        {"calibration_id": ""},
        {"artefacts": (Artefact("a", "0"),)},
        {"statistic": float("nan")},
        {"threshold": float("inf")},
        {"tokens": -1},
        {"cost": -1},
        {"ms": 2**53},
        {"reason": "Not a code"},
        {"reason": "a" * 65},
        {"culprits": ("\x1b[2J",)},
        {"culprits": ("",)},
        {"culprits": ("n" * 81,)},
        {"culprits": ("n",) * 257},
        {"artefacts": (Artefact("a\nb", RESPONSE),)},
        {"reference_id": "\u202e"},
    ],
    ids=str,
)
def test_a_record_cannot_overclaim(changes: dict[str, Any]) -> None:
    """A record that claims what its kind cannot show, or whose members are malformed, is not made."""
    with pytest.raises(FormatError):
        record(**changes)


@pytest.mark.parametrize(
    "good",
    [
        record(),
        record(kind=Kind.ZK, assurance=CRYPTOGRAPHIC, tokens=None, artefacts=(Artefact("proof", RESPONSE),)),
        record(verdict=ABSENT, reason="audit_not_selected", assurance=ECONOMIC, tokens=None, reference_id="ref-1"),
        record(statistic=0.1, threshold=1 / 3, cost=12, ms=40, culprits=("b",), calibration_id=REQUEST),
    ],
)
def test_records_survive_a_receipt(good: ProofRecord) -> None:
    """A record that is written canonically and read again is the same record."""
    assert parse_record(strict_json(jcs(msgspec.to_builtins(good)), max_bytes=10_000)) == good


@pytest.mark.parametrize(
    "document",
    [None, [], {}, {"kind": "reexec"}, {**msgspec.to_builtins(record()), "more": 1}, {**msgspec.to_builtins(record()), "verdict": "proved"},
     {**msgspec.to_builtins(record()), "assurance": "cryptographic"}, {**msgspec.to_builtins(record()), "tokens": True}],
    ids=str,
)  # fmt: skip
def test_other_documents_are_no_records(document: object) -> None:
    """What lacks members, has more of them, or overclaims is refused when it is read."""
    with pytest.raises(FormatError):
        parse_record(document)


def test_a_subject_carries_over() -> None:
    """What is known before anything is measured stands in the record as it was."""
    subject = Subject(REQUEST, None, "ref-2", SUBJECT.artefacts, 7, 11)
    made = subject.record(Kind.LOGPROB, INCONCLUSIVE, "too_few_tokens")
    assert (made.reference_id, made.artefacts, made.cost, made.ms) == ("ref-2", SUBJECT.artefacts, 7, 11)
    assert (made.assurance, made.response_sha256) == (STATISTICAL, None)


def test_text_from_outside_is_inert() -> None:
    """Text from outside comes out on one printable line of at most 80 characters."""
    assert shown("\x1b[31m\n") == "\\x1b[31m\\x0a"
    assert len(shown("x" * 1000)) == 80
