"""A line: one check of a verification, as a reader sees it; and what a list of lines folds to."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .verdict import Outcome

#: Steps whose outcome is what a record says, and not whether it is genuine.
RECORDED = ("verdict", "proofs")


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One check: the step it belongs to, its outcome, and a sentence for a person.

    `about` names the part when a step has several; `detail` holds digests and the like. Sentence, about and detail may
    quote text from the file: a terminal gets them through `gateway.text.plain`.
    """

    step: str
    outcome: Outcome
    sentence: str
    about: str | None = None
    detail: str | None = None
    claimed: bool = True


def exit_code(lines: Sequence[Line], *, authenticity_only: bool = False, require_affirming: bool = False) -> int:
    """Fold lines into 0 (all affirming), 1 (something is contraindicated) or 3 (something could not be decided).

    A warning passes, and a `none` that nothing asked for decides nothing. With `require_affirming` the recorded verdict
    must be affirming, or the answer is 1. With `authenticity_only` the recorded verdict is left out, and the
    recorded proofs that it rests on.
    """
    outcomes = []
    for line in lines:
        if authenticity_only and line.step in RECORDED:
            continue
        if require_affirming and line.step == "verdict" and line.outcome is not Outcome.AFFIRMING and line.claimed:
            outcomes.append(Outcome.CONTRAINDICATED)
        if line.claimed or line.outcome is not Outcome.NONE:
            outcomes.append(line.outcome)
    if Outcome.CONTRAINDICATED in outcomes:
        return 1
    return 3 if Outcome.NONE in outcomes or not outcomes else 0


def not_run(steps: Sequence[str], why: str) -> list[Line]:
    """A `none` for each of `steps`, because something before them did not hold."""
    return [Line(step, Outcome.NONE, f"not looked at: {why}") for step in steps]
