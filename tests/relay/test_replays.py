"""Statements that were seen before: what is remembered of an answer, and what a second showing is held to be."""

from __future__ import annotations

from types import SimpleNamespace as Given
from typing import Any, cast

import pytest
from test_judged import SESSION

from gateway.fleet.journal import Journal
from gateway.model.verdict import AttestationResult, Check, Outcome
from gateway.policy_files import read_policies
from gateway.relay.judged import Judged
from gateway.relay.run import Run

SENT = 1_800_000_100.0
MEMBER = Given(node=Given(network="opengradient"))


class Answer:
    """One whose statement is of the second `dated`, and signed or not."""

    def __init__(self, dated: int | None, *, signed: bool = True) -> None:
        self._dated, self._signed = dated, signed

    def statement(self) -> bytes:
        return b"who signed, and what"

    def dated(self) -> int | None:
        return self._dated

    def appraise(self, session: Any, asked: Any, *, now: float, skew_s: float, seen_before: bool) -> AttestationResult:
        held = Outcome.AFFIRMING if self._signed else Outcome.CONTRAINDICATED
        replay = Check("replay", Outcome.CONTRAINDICATED if seen_before else Outcome.WARNING, "seen_before")
        return AttestationResult((Check("signature", held), replay))


class Gateway:
    """The journal of one, at a time of the test's choice."""

    def __init__(self) -> None:
        self.now, self.journal = SENT, Journal()

    def show(self, answer: Answer, sent: float = SENT) -> str | None:
        """The reason for which the answer to a request of `sent` is a replay, None where it is none."""
        relay = Given(mono=lambda: 0.0, now=lambda: self.now, judged=Judged.of)
        policy = read_policies()["signed"]
        x = Given(session=SESSION, verify_ms=None)
        run = Given(x=x, relay=relay, policy=policy, fleet=Given(journal=self.journal), asked=None, sent_at=sent)
        (replay,) = (c for c in Run.appraise(cast("Run", run), MEMBER, answer).result.checks if c.id == "replay")
        return replay.reason if replay.outcome is Outcome.CONTRAINDICATED else None


def test_a_forged_statement_makes_no_later_one_a_replay() -> None:
    """Whoever names another's key and guesses what it will sign teaches the journal nothing."""
    gateway = Gateway()
    assert gateway.show(Answer(None, signed=False)) is None
    assert gateway.show(Answer(None)) is None
    assert gateway.show(Answer(None)) == "seen_before"


@pytest.mark.parametrize(
    ("dated", "after", "reason"),
    [
        (int(SENT), 0.5, None),  # no older than the request
        (int(SENT) - 3, 0.5, "seen_lately"),  # by a clock that is three seconds behind
        (int(SENT) - 3, 0.999, "seen_lately"),
        (int(SENT) - 3, 1.0, "seen_before"),  # what came a second ago was signed before, by any clock
        (int(SENT) - 3, -0.2, "seen_lately"),  # it came while this request was under way
        (None, 0.5, "seen_before"),  # a receipt has an id, which no two of one node share
    ],
)
def test_when_a_second_showing_is_nobodys_lie(dated: int | None, after: float, reason: str | None) -> None:
    """It is where an honest node with a clock of its own may have signed the same twice in one second."""
    gateway = Gateway()
    assert gateway.show(Answer(dated)) is None
    assert gateway.show(Answer(dated), SENT + after) == reason


@pytest.mark.parametrize(("after", "reason"), [(0.999, None), (1.0, "seen_before"), (59.0, "seen_before")])
def test_c16_a_clock_that_is_ahead_makes_no_replay_new(after: float, reason: str | None) -> None:
    """A statement dated after the request, seen a second before it: by no clock was it signed for this one."""
    gateway = Gateway()
    assert gateway.show(Answer(int(SENT) + 60)) is None
    assert gateway.show(Answer(int(SENT) + 60), SENT + after) == reason
