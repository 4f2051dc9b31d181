"""One check, written down: short forms for the lists that stand beside a quote (event logs, compose, images).

Unlike `findings`, which ends at the first failure because nothing after it is signed, these lists go on: each check
stands for itself, and one that needs another says so with `none`.
"""

from __future__ import annotations

from gateway.errors import FormatError
from gateway.model.tee import TeeResult
from gateway.model.verdict import Check, Outcome
from gateway.text import plain


def holds(check: str, found: str, over: str | None = None) -> Check:
    return Check(check, Outcome.AFFIRMING, None, found, None, over)


def fails(check: str, reason: str, found: str, expected: str | None = None, over: str | None = None) -> Check:
    return Check(check, Outcome.CONTRAINDICATED, reason, found, expected, over)


def warns(check: str, reason: str, found: str) -> Check:
    return Check(check, Outcome.WARNING, reason, found)


def unknown(check: str, reason: str, found: str | None = None, expected: str | None = None) -> Check:
    """A check that could not be made: never a pass."""
    return Check(check, Outcome.NONE, reason, found, expected)


def refused(check: str, error: FormatError) -> Check:
    """The failure that a parser's error is, with its reason, `malformed` where it has none."""
    found = getattr(error, "found", None) or plain(error.message, 160)
    return fails(check, error.reason or "malformed", found, getattr(error, "expected", None))


def contradicted(result: TeeResult) -> tuple[str, ...]:
    """The reasons of the checks that fail on evidence that is authentic all the same: what runs behind it is wrong.

    Where the evidence is not authentic its own refusal says so, and this is empty.
    """
    if not result.claims.authentic:
        return ()
    return tuple(str(check.reason) for check in result.checks if check.outcome is Outcome.CONTRAINDICATED)
