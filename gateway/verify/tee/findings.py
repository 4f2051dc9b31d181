"""How a verifier writes down what it finds, so that no check is ever left out of the list.

    def verify_thing(evidence, *, roots, now):
        return examine(Platform.TPM2, evidence, now, PLAN, lambda f: _verify(f, evidence, roots))

    def _verify(f, evidence, roots):
        with f.step("tee_format") as step:
            thing = parse(evidence)                       # raises FormatError: the check fails as "malformed"
            step.found = "version 2, 128 bytes"
        with f.step("tee_signature") as step:
            if not holds(thing):
                raise NotAuthentic("the signature does not hold", reason="thing_bad_signature")
            step.over = "bytes 0 to 96"
        f.set(debug=thing.debug, measurements={"launch": thing.launch.hex()})

The first check that fails ends the examination: it is contraindicated with its reason, the rest of the plan is `none`
with the reason `not_reached`, and the claims say `authentic: false` and hold what was read up to there.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gateway import __version__
from gateway.errors import FormatError
from gateway.model.tee import Platform, TeeClaims, TeeResult
from gateway.model.verdict import Check, Outcome

#: What every family's plan is made of, and what each is about. A plan names those that its format has.
MANDATORY = {
    "tee_format": "The evidence has exactly the form that its specification gives, to the last byte",
    "tee_chain": "The signing certificate chains to a root that was pinned, every certificate in date",
    "tee_revocation": "No certificate of the chain has been revoked, by lists that are signed and in date",
    "tee_collateral": "The vendor's documents that the verdict rests on are signed and in date",
    "tee_signature": "The certified key signed exactly these bytes",
    "tee_identity": "The certificate belongs to the chip, firmware and role that the evidence states",
    "tee_tcb": "The platform's security version is one that its vendor lists, and is not revoked",
    "tee_nonce": "The evidence holds the nonce or audience that it was asked for",
    "tee_age": "The time that the evidence states is within the limits",
    "tee_parts": "The parts of the evidence belong together, and none is missing",
}

#: The largest evidence that anything here looks at.
MAX_EVIDENCE_BYTES = 1 << 20


class NotAuthentic(FormatError):
    """Well-formed evidence that does not hold. `reason` is a stable code, `message` one sentence for a person."""

    code = "not_authentic"

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        found: str | None = None,
        expected: str | None = None,
        over: str | None = None,
    ) -> None:
        super().__init__(message, reason=reason)
        self.found, self.expected, self.over = found, expected, over


class Step:
    """What one check wants to say when it holds; short printable text, made by us and never the evidence's own."""

    __slots__ = ("expected", "found", "over")

    def __init__(self) -> None:
        self.found: str | None = None
        self.expected: str | None = None
        self.over: str | None = None


class Findings:
    """Collects the checks and claims of one examination."""

    def __init__(self, platform: Platform, evidence: bytes, now: float) -> None:
        self.evaluated_at = now
        self.checks: dict[str, Check] = {}
        self._at = "tee_format"
        self._claims: dict[str, Any] = {
            "platform": platform,
            "evidence_sha256": hashlib.sha256(evidence).hexdigest(),
            "evaluated_at": now,
            "verifier": {"name": "veriroute", "version": __version__},
        }

    @contextmanager
    def step(self, check_id: str) -> Iterator[Step]:
        """One check of the plan: it holds when the block ends, and fails when the block raises `FormatError`."""
        self._at = check_id
        step = Step()
        yield step
        self.checks[check_id] = Check(check_id, Outcome.AFFIRMING, None, step.found, step.expected, step.over)

    def absent(self, check_id: str, reason: str, found: str | None = None) -> None:
        """A check that could not be made, because what it needs was not given: `none`, never a pass."""
        self.checks[check_id] = Check(check_id, Outcome.NONE, reason, found)

    def set(self, **claims: Any) -> None:
        """Members of `TeeClaims` that are now known."""
        self._claims.update(claims)

    def finish(self, plan: tuple[str, ...], refused: FormatError | None) -> TeeResult:
        if refused is not None:
            reason = refused.reason or "malformed"
            found = getattr(refused, "found", None) or refused.message
            self.checks[self._at] = Check(
                self._at,
                Outcome.CONTRAINDICATED,
                reason,
                found,
                getattr(refused, "expected", None),
                getattr(refused, "over", None),
            )
            self.set(reject_code=reason, reject_detail=refused.message)
        checks = tuple(self.checks.get(i) or Check(i, Outcome.NONE, "not_reached") for i in plan)
        self.set(authentic=refused is None)
        return TeeResult(checks, TeeClaims(**self._claims))


def examine(
    platform: Platform, evidence: bytes, now: float, plan: tuple[str, ...], verify: Callable[[Findings], None]
) -> TeeResult:
    """Run `verify` and list every check of `plan`. Total for any bytes: only `FormatError` may come out of `verify`."""
    findings = Findings(platform, evidence, now)
    try:
        if not math.isfinite(now):  # every comparison with it fails, those that ask whether a thing is too old as well
            raise FormatError("the time of the evaluation is no number")
        if len(evidence) > MAX_EVIDENCE_BYTES:
            raise FormatError(f"the evidence has {len(evidence)} bytes; at most {MAX_EVIDENCE_BYTES} are read")
        verify(findings)
    except FormatError as refused:
        return findings.finish(plan, refused)
    return findings.finish(plan, None)
