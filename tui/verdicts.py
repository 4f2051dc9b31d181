"""Outcome to glyph, word and style class: in that order of importance, so that nothing rests on colour alone.

    affirming ✓ pass     warning ! warn     contraindicated ✗ FAIL     none ? none

Only a failure is in capitals. A word that is not one of the four outcomes is shown as `none`: what somebody else calls
a verdict is never drawn as one.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.model.verdict import Outcome, Release


class Mark(NamedTuple):
    """How an outcome is drawn. `style` is a component class (`mark--…`) and a CSS class of the same name."""

    glyph: str
    ascii: str
    word: str
    style: str


MARKS: dict[Outcome, Mark] = {
    Outcome.AFFIRMING: Mark("✓", "+", "pass", "mark--pass"),
    Outcome.WARNING: Mark("!", "!", "warn", "mark--warn"),
    Outcome.CONTRAINDICATED: Mark("✗", "x", "FAIL", "mark--fail"),
    Outcome.NONE: Mark("?", "?", "none", "mark--none"),
}
MARK_CLASSES = frozenset(mark.style for mark in MARKS.values())
#: Textual style of each outcome, for text that is not drawn through component classes. Theme variables only.
COLOURS: dict[Outcome, str] = {
    Outcome.AFFIRMING: "$text-success",
    Outcome.WARNING: "$text-warning",
    Outcome.CONTRAINDICATED: "$text-error bold",
    Outcome.NONE: "$text-muted",
}

_SENTENCES = {
    Outcome.AFFIRMING: "shown",
    Outcome.WARNING: "shown, with a reservation that policy allows",
    Outcome.CONTRAINDICATED: "refuted: a check failed",
    Outcome.NONE: "unverified: not shown, which is never a pass",
}


def outcome(word: object) -> Outcome:
    """The outcome of that name; anything else is `NONE`."""
    try:
        return Outcome(word)  # type: ignore[arg-type]
    except ValueError:
        return Outcome.NONE


def mark(found: Outcome, *, ascii_only: bool = False) -> str:
    """Glyph and word, six cells: `✓ pass`."""
    drawn = MARKS[found]
    return f"{drawn.ascii if ascii_only else drawn.glyph} {drawn.word}"


def glyph(found: Outcome, *, ascii_only: bool = False) -> str:
    """The glyph alone."""
    drawn = MARKS[found]
    return drawn.ascii if ascii_only else drawn.glyph


def sentence(found: Outcome) -> str:
    """What the outcome of a check says, for a person."""
    return _SENTENCES[found]


def verdict_sentence(found: Outcome) -> str:
    """What the verdict of an exchange says: the same, but for the one that speaks of all checks together."""
    return "every check that the policy asks for was shown" if found is Outcome.AFFIRMING else _SENTENCES[found]


_RELEASES = {
    Release.RELEASED: "released: all of the answer left for the agent",
    Release.WITHHELD: "withheld: the agent did not get what had not left yet",
    Release.REFUSED: "refused: no byte of the prompt left for any node",
    Release.FAILED: "failed: this gateway failed",
    Release.ABANDONED: "abandoned: the agent left, or the gateway crashed",
}


def released(word: object) -> str:
    """What became of the answer, for a person."""
    try:
        return _RELEASES[Release(word)]  # type: ignore[arg-type]
    except ValueError:
        return "not said"
