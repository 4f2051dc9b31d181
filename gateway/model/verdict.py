"""Outcomes, checks and attestation results (RFC 9334 words, AR4SI tiers)."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec


class Outcome(enum.StrEnum):
    """An AR4SI trust tier. Nothing defaults to `AFFIRMING`; `NONE` means *not shown*, and is never a pass."""

    AFFIRMING = "affirming"
    WARNING = "warning"
    CONTRAINDICATED = "contraindicated"
    NONE = "none"


_SEVERITY = {Outcome.AFFIRMING: 0, Outcome.WARNING: 1, Outcome.NONE: 2, Outcome.CONTRAINDICATED: 3}


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The worst of `outcomes` (contraindicated > none > warning > affirming); of nothing, `NONE`."""
    found = list(outcomes)
    return max(found, key=_SEVERITY.__getitem__) if found else Outcome.NONE


class Release(enum.StrEnum):
    """What became of the answer. Every accepted request has exactly one of these in its one receipt."""

    RELEASED = "released"  # all of it left
    WITHHELD = "withheld"  # the verdict, or the node's failure, kept back what had not left yet
    REFUSED = "refused"  # no prompt byte left for any node
    FAILED = "failed"  # this gateway failed
    ABANDONED = "abandoned"  # the agent left, or the gateway crashed


class Check(msgspec.Struct, frozen=True, omit_defaults=True):
    """One check of an appraisal. `id` is in the closed registry `gateway.verify.checks`.

    `reason` is a stable code or short sentence and is always there when the outcome is not affirming. `found` and
    `expected` are short printable forms for a person; `over` names the bytes that the check looked at.
    """

    id: str
    outcome: Outcome
    reason: str | None = None
    found: str | None = None
    expected: str | None = None
    over: str | None = None


class AttestationResult(msgspec.Struct, frozen=True):
    """What an appraisal found: every check that applies, each listed once, and the claims that follow from them."""

    checks: tuple[Check, ...]
    claims: tuple[Claim, ...] = ()


class Claim(msgspec.Struct, frozen=True, omit_defaults=True):
    """An ACI typed claim: `status` is asserted|refuted|unknown; `source` who stands behind it (ACI's four words)."""

    name: str
    status: str
    source: str | None = None
    reason: str | None = None
