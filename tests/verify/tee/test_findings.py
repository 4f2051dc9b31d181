"""How a verification is written down: every check of the plan, whatever happens."""

from __future__ import annotations

import pytest

from gateway.errors import FormatError
from gateway.model.tee import Platform, TeeResult
from gateway.model.verdict import Outcome
from gateway.verify.tee.findings import MANDATORY, MAX_EVIDENCE_BYTES, Findings, NotAuthentic, examine
from gateway.verify.tee.roots import Anchor, TrustRoots

PLAN = ("tee_format", "tee_signature", "tee_nonce")


def run(stop: str | None = None, *, evidence: bytes = b"x") -> TeeResult:
    def verify(found: Findings) -> None:
        with found.step("tee_format") as step:
            step.found = "1 byte"
            if stop == "format":
                raise FormatError("not a thing")
        found.set(debug=False)
        with found.step("tee_signature") as step:
            step.over = "byte 0"
            if stop == "signature":
                raise NotAuthentic("no", reason="bad_signature", found="r", expected="s", over="byte 0")
        found.absent("tee_nonce", "no_nonce", "none was sent")

    return examine(Platform.TPM2, evidence, 7.0, PLAN, verify)


def test_every_check_of_the_plan_is_listed() -> None:
    """What held is affirming, what could not be made is `none` with a reason, and the record is authentic."""
    result = run()
    assert [(c.id, c.outcome, c.reason) for c in result.checks] == [
        ("tee_format", Outcome.AFFIRMING, None),
        ("tee_signature", Outcome.AFFIRMING, None),
        ("tee_nonce", Outcome.NONE, "no_nonce"),
    ]
    assert set(PLAN) <= set(MANDATORY)
    assert (result.claims.authentic, result.claims.debug, result.claims.evaluated_at) == (True, False, 7.0)
    assert result.claims.reject_code is None


@pytest.mark.parametrize(
    ("stop", "outcomes", "code", "debug"),
    [
        ("format", ["malformed", "not_reached", "not_reached"], "malformed", None),
        ("signature", [None, "bad_signature", "not_reached"], "bad_signature", False),
    ],
)
def test_the_first_failure_ends_it(stop: str, outcomes: list[str | None], code: str, debug: bool | None) -> None:
    """The failed check has its reason, what follows was not reached, and the record says that it is not authentic."""
    result = run(stop)
    assert [c.reason for c in result.checks] == outcomes
    assert (result.claims.authentic, result.claims.reject_code, result.claims.debug) == (False, code, debug)
    assert result.claims.reject_detail


def test_what_is_too_large_is_not_read() -> None:
    """Evidence over the limit is refused before anybody parses it."""
    result = run(evidence=bytes(MAX_EVIDENCE_BYTES + 1))
    assert result.checks[0].outcome is Outcome.CONTRAINDICATED
    assert "at most" in str(result.claims.reject_detail)


def test_a_root_is_known_by_its_digest_and_vendor() -> None:
    """A root of one vendor is none of another's, and one that is made for tests says so."""
    digest = "a591a6d40bf420404a011733cfb7b190d62c65bf0bcda32b57b277d9ad9f146e"  # SHA-256 of "Hello World"
    roots = TrustRoots((Anchor("amd", "ours", digest, test=True),))
    found = roots.find("amd", b"Hello World")
    assert found is not None
    assert (found.name, found.fingerprint, found.test) == ("ours", digest, True)
    assert roots.find("intel", b"Hello World") is None
    assert roots.find("amd", b"Hello World!") is None


@pytest.mark.parametrize("now", [float("nan"), float("inf"), float("-inf")])
def test_pitfall_a_time_that_is_no_number(now: float) -> None:
    """No limit is exceeded at a time that compares with nothing, so nothing is examined at such a time."""
    result = examine(Platform.TPM2, b"x", now, PLAN, lambda f: None)
    assert (result.claims.authentic, result.claims.reject_code) == (False, "malformed")
    assert examine(Platform.TPM2, b"x", 0.0, PLAN, lambda f: None).claims.authentic
