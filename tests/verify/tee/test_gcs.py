"""Confidential Space tokens."""

from __future__ import annotations

from typing import Any

import pytest
from tee_worlds import tokens as w
from tee_worlds.nvidia import NOW, anchor

from gateway.errors import FormatError
from gateway.model.tee import FreshnessClass, HostTrust, TcbStatus, TeeResult
from gateway.model.verdict import Outcome
from gateway.verify.tee import gcs
from gateway.verify.tee.roots import TrustRoots


def verify(token: bytes, **more: Any) -> TeeResult:
    given = {"roots": w.gcs_roots(), "now": NOW, "audience": w.AUDIENCE, "nonce": w.NONCE} | more
    return gcs.verify_gcs(token, **given)


def test_a_genuine_token() -> None:
    """Every check of the plan holds, in its order."""
    result = verify(w.gcs_token())
    assert [(check.id, check.outcome) for check in result.checks] == [(i, Outcome.AFFIRMING) for i in gcs.PLAN]
    claims = result.claims
    assert (claims.authentic, claims.debug, claims.tcb_status) == (True, False, TcbStatus.UP_TO_DATE)
    assert (claims.host_trust, claims.freshness.kind) == (HostTrust.HYPERSCALER, FreshnessClass.CHALLENGE)
    assert claims.measurements == {"image_digest": "ab" * 32}
    assert claims.raw["support"] == ["LATEST", "STABLE", "USABLE"]
    assert len(claims.raw["x5c"]) == 3


def test_without_a_nonce_it_is_dated() -> None:
    """The audience still binds it to us, and its age is known."""
    claims = verify(w.gcs_token(), nonce=None).claims
    assert (claims.authentic, claims.freshness.kind, claims.freshness.age_s) == (True, FreshnessClass.DATED, 5.0)


@pytest.mark.parametrize("value", ["enabled", ..., True])
def test_debugging_is_on_unless_it_is_said_to_be_off(value: Any) -> None:
    """A debug image is authentic and said to be one; so is a token that does not tell."""
    claims = verify(w.gcs_token(dbgstat=value)).claims
    assert (claims.authentic, claims.debug) == (True, True)


def test_claims_that_are_absent_are_not_good() -> None:
    """No submodules, no TDX, no nonce: nothing shown, nothing invented."""
    claims = verify(w.gcs_token(submods=..., tdx=..., eat_nonce=..., hwmodel=..., secboot=...), nonce=None).claims
    assert claims.authentic
    assert (claims.tcb_status, claims.product, claims.nonce, claims.measurements) == (None, None, None, {})
    assert claims.flags == {"secure_boot": False}


@pytest.mark.parametrize("tdx", [{"gcp_attester_tcb_status": "Fine"}, {"gcp_attester_tcb_status": 1}, []])
def test_a_tcb_status_of_another_vocabulary(tdx: Any) -> None:
    """Is none of ours."""
    assert verify(w.gcs_token(tdx=tdx)).claims.tcb_status is None


HEADER, CLAIMS, SIGNATURE = w.gcs_token().split(b".")


@pytest.mark.parametrize(
    ("reason", "token", "more"),
    [
        ("jwt_not_compact", b"", {}),
        ("jwt_bad_alg", w.token({"alg": "none"}, w.gcs_claims(), object()).encode(), {}),
        ("jwk_bad_x5c", w.gcs_token(header={"x5c": None}), {}),
        ("chain_broken", w.gcs_token(w.gcs_chain(4)), {}),
        ("chain_broken", w.gcs_token((w.gcs_chain()[0], *w.gcs_chain()[:0:-1])), {}),
        ("cert_expired_or_not_yet_valid", w.gcs_token(w.gcs_chain(until=NOW - 1)), {}),
        ("chain_untrusted_root", w.gcs_token(), {"roots": TrustRoots()}),
        ("chain_untrusted_root", w.gcs_token(), {"roots": TrustRoots((anchor("maa", w.gcs_chain()[-1]),))}),
        ("jwt_bad_signature", w.gcs_token(key=w.rsa_key("somebody")), {}),
        ("jwt_bad_iss", w.gcs_token(iss="https://accounts.google.com"), {}),
        ("gcs_wrong_software", w.gcs_token(swname="GCE"), {}),
        ("jwt_bad_aud", w.gcs_token(aud="https://somebody.example"), {}),
        ("jwt_bad_aud", w.gcs_token(aud=...), {}),
        ("nonce_mismatch", w.gcs_token(eat_nonce="00"), {}),
        ("nonce_mismatch", w.gcs_token(eat_nonce=["00"]), {}),
        ("jwt_expired", w.gcs_token(), {"now": NOW + 4000}),
        ("jwt_too_old", w.gcs_token(), {"now": NOW + 1000, "max_age": 300}),
        ("jwt_bad_times", w.gcs_token(exp=...), {}),
        ("jwt_bad_times", w.gcs_token(exp=True), {}),
        ("jwt_bad_times", w.gcs_token(exp=2**60), {}),
        ("jwt_bad_times", w.gcs_token(iat=-1), {}),
        ("jwt_bad_times", w.gcs_token(exp=int(NOW) - 100), {}),
        ("jwt_bad_times", w.gcs_token(nbf="x"), {}),
    ],
)
def test_what_is_refused(reason: str, token: bytes, more: dict[str, Any]) -> None:
    """Each fault alone is found, under its own code."""
    claims = verify(token, **more).claims
    assert (claims.authentic, claims.reject_code) == (False, reason)


def test_a_token_without_nbf_and_with_several_audiences_and_nonces() -> None:
    """`nbf` is optional, and both lists may name ours."""
    token = w.gcs_token(nbf=..., aud=["x", w.AUDIENCE], eat_nonce=["other-nonce", w.NONCE])
    assert verify(token).claims.authentic


@pytest.mark.parametrize("audience", ["https://sts.googleapis.com", ["x", "//iam.googleapis.com/projects/1"]])
def test_pitfall_a_bearer_credential_is_accepted_and_logged(audience: Any) -> None:
    """A token that Google's token service would take is refused for any audience, and nothing of it is kept."""
    result = verify(w.gcs_token(aud=audience), audience="https://sts.googleapis.com")
    assert result.claims.reject_code == "gcs_bearer_token"
    assert result.claims.raw == {}


def test_pitfall_the_header_chooses_the_key() -> None:
    """`kid` and `jku` of the header change nothing: the key is the chain's."""
    elsewhere = {"kid": "other", "jku": "https://evil.example/certs", "jwk": w.jwk_of(w.rsa_key("evil"), "x")}
    assert verify(w.gcs_token(header=elsewhere)).claims.authentic
    assert verify(w.gcs_token(header=elsewhere, key=w.rsa_key("evil"))).claims.reject_code == "jwt_bad_signature"


def test_pitfall_a_token_for_somebody_else_is_replayed() -> None:
    """`aud` is compared whole, not by prefix."""
    assert verify(w.gcs_token(aud=w.AUDIENCE + ".evil.example")).claims.reject_code == "jwt_bad_aud"


def test_from_inputs() -> None:
    """An audience must be given; there is no default."""
    params = {"aud": w.AUDIENCE, "nonce": w.NONCE}
    assert gcs.from_inputs({"token": w.gcs_token()}, params, w.gcs_roots(), NOW).claims.authentic
    for blobs, given in (({}, params), ({"token": b""}, {})):
        with pytest.raises(FormatError) as refused:
            gcs.from_inputs(blobs, given, w.gcs_roots(), NOW)
        assert refused.value.reason == "input_missing"
