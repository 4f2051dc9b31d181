"""What `veriroute verify` says of the proofs that a receipt records."""

from __future__ import annotations

from typing import Any

import pytest
from receipt_world import NOW, World

from gateway.log.trust import parse_trust
from gateway.model.receipt import AuditPart, ProofAnswer, ProofPart
from gateway.model.ulid import encode
from gateway.model.verdict import Check, Outcome, Release
from gateway.offline import Line, exit_code, verify_bundle

A, W, C, N = Outcome.AFFIRMING, Outcome.WARNING, Outcome.CONTRAINDICATED, Outcome.NONE
OWN, OTHER = (encode((1_764_000_000_000 << 80) + number) for number in (1, 2))
QUORUM = ProofPart(
    kind="quorum",
    assurance="statistical",
    verdict="pass",
    reason="agreed",
    statistic=2.0,
    threshold=2.0,
    tokens=40,
    culprits=("c",),
    answers=(
        ProofAnswer("a", "agrees", "alpha", OWN),
        ProofAnswer("b", "agrees", "beta", OTHER),
        ProofAnswer("c", "differs", "gamma"),
        ProofAnswer("d", "node_timeout"),
    ),
)
AGREED = Check("proof_quorum", A)


def check(*checks: Check, **changes: Any) -> list[Line]:
    world = World()
    world.add_start()
    predicate = world.predicate(**changes)
    if checks:
        predicate = world.predicate(**{**changes, "checks": (*predicate.checks, *checks)})
    intent = world.add_intent(predicate)
    bundle = world.bundle(world.add_receipt(predicate), intent)
    return verify_bundle(bundle, parse_trust(world.trust_text()), now=NOW)


def said(lines: list[Line], step: str = "proofs") -> list[tuple[Outcome, str]]:
    return [(line.outcome, line.sentence) for line in lines if line.step == step]


def test_each_proof_and_each_answer_has_its_line() -> None:
    """A quorum's line has what was measured; every node that was asked follows, with its receipt and how it ended."""
    lines = check(AGREED, proofs=(QUORUM,))
    assert said(lines) == [
        (A, "RECORDED, not judged again here: pass, agreed, 2 against 2 over 40 tokens (statistical)"),
        (A, f"a (alpha): agrees, in receipt {OWN}"),
        (A, f"b (beta): agrees, in receipt {OTHER}"),
        (W, "c (gamma): differs, without a receipt of its own"),
        (N, "d: node_timeout, without a receipt of its own"),
    ]
    assert exit_code(lines) == 0


def test_what_did_not_decide_counts_through_the_verdict() -> None:
    """An undecided proof is `none` and leaves the exit code to the recorded verdict."""
    part = ProofPart(kind="reexec", assurance="statistical", verdict="inconclusive", reason="too_few_tokens", tokens=3)
    lines = check(Check("proof_reexec", W, "too_few_tokens"), proofs=(part,), verdict=W)
    assert said(lines) == [
        (N, "RECORDED, not judged again here: inconclusive, too_few_tokens, over 3 tokens (statistical)")
    ]
    assert exit_code(lines) == 0


def test_a_failed_proof_is_no_fault_of_the_record() -> None:
    """A genuine receipt of a failed proof exits 1, and 0 where only the record's authenticity is asked for."""
    part = ProofPart(kind="zk", assurance="cryptographic", verdict="fail", reason="binding_failed")
    lines = check(
        Check("proof_zk", C, "binding_failed"), proofs=(part,), verdict=C, release=Release.WITHHELD, reason="proof_zk"
    )
    assert said(lines)[0][0] is C
    assert (exit_code(lines), exit_code(lines, authenticity_only=True)) == (1, 0)


@pytest.mark.parametrize(
    ("checks", "proofs", "why"),
    [
        ((AGREED,), (), "proof_quorum is affirming, and no recorded proof passed"),
        ((Check("proof_zk", A),), (QUORUM,), "proof_zk is affirming, and no recorded proof passed"),
        (
            (AGREED,),
            (ProofPart(kind="quorum", assurance="cryptographic", verdict="pass"),),
            "assurance of another kind",
        ),
        (
            (),
            (ProofPart(kind="reexec", assurance="statistical", verdict="fail"),),
            "beside failed proofs: proof_reexec",
        ),
    ],
)
def test_checks_and_proofs_have_to_fit(checks: tuple[Check, ...], proofs: tuple[ProofPart, ...], why: str) -> None:
    """A check that says more than the recorded proof, or a verdict that forgets one, is a record made up."""
    lines = check(*checks, proofs=proofs)
    ((outcome, sentence),) = said(lines, "completeness")
    assert outcome is C
    assert why in sentence


def test_audits_and_pieces_of_a_quorum_lead_on() -> None:
    """An answer under an epoch names the command that tells of its audit; a piece of a quorum names the whole."""
    lines = check(audit=AuditPart(OWN, "reexec", "0.5"), parent=OTHER)
    piece, audit = (sentence for _, sentence in said(lines))
    assert OTHER in piece
    assert "veriroute audit epochs" in audit
    assert exit_code(lines) == 0


def test_a_quorum_that_was_not_reached_is_told_as_such() -> None:
    """Its receipt does not claim that nobody answered: so many were asked, and none has the answer."""
    part = ProofPart(
        kind="quorum", assurance="statistical", verdict="inconclusive", reason="no_quorum", answers=QUORUM.answers[:2]
    )
    lines = check(
        proofs=(part,),
        served=None,
        verdict=N,
        release=Release.WITHHELD,
        reason="proof_quorum",
        checks=(Check("proof_quorum", N, "no_quorum"),),
    )
    assert said(lines, "session") == [(N, "none of the 2 nodes that a quorum asked has the answer")]
    assert exit_code(lines) == 3
