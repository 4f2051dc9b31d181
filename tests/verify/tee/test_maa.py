"""Azure attestation tokens, synthetic: no public token came with its key set."""

from __future__ import annotations

from typing import Any

import pytest
from tee_worlds import tokens as w
from tee_worlds.nvidia import NOW

from gateway.errors import FormatError
from gateway.model.tee import FreshnessClass, HostTrust, TeeResult
from gateway.model.verdict import Outcome
from gateway.verify.tee import maa
from gateway.verify.tee.roots import TrustRoots

JWKS = w.maa_key_set()


def verify(token: bytes, **more: Any) -> TeeResult:
    given = {"roots": w.pinned_set("maa", JWKS), "now": NOW, "issuer": w.PROVIDER, "policy_hashes": (w.POLICY,)}
    return maa.verify_maa(token, JWKS, **(given | {"nonce": w.NONCE} | more))


def test_a_genuine_token() -> None:
    """Every check of the plan holds, in its order, and the nested claims are read."""
    result = verify(w.maa_token())
    assert [(check.id, check.outcome) for check in result.checks] == [(i, Outcome.AFFIRMING) for i in maa.PLAN]
    claims = result.claims
    assert (claims.product, claims.debug, claims.flags) == ("sevsnpvm", False, {"vmpl": 0})
    assert claims.measurements == {"launch": "03" * 48}
    assert (claims.report_data, claims.host_trust) == ("00" * 64, HostTrust.HYPERSCALER)
    assert claims.raw["x-ms-policy-hash"] == w.POLICY
    assert claims.raw["signing_jwk"]["kid"] == "maa-1"


def test_pitfall_a_custom_policy_says_anything() -> None:
    """Without a known policy hash the check is none and the host is nobody's; with another hash it is a refusal."""
    result = verify(w.maa_token(), policy_hashes=())
    check = next(c for c in result.checks if c.id == "tee_identity")
    assert (check.outcome, check.reason) == (Outcome.NONE, "maa_policy_unknown")
    assert result.claims.host_trust is HostTrust.UNKNOWN_OPERATOR
    for token, known in ((w.maa_token(), {"other"}), (w.maa_token(**{"x-ms-policy-hash": []}), {"other"})):
        assert verify(token, policy_hashes=known).claims.reject_code == "maa_foreign_policy"


def test_a_machine_that_azure_does_not_call_compliant() -> None:
    """Is not said to be in the cloud's hands."""
    assert verify(w.maa_token(**{"x-ms-isolation-tee": {}})).claims.host_trust is HostTrust.UNKNOWN_OPERATOR


def test_pitfall_the_key_set_of_the_header_is_fetched() -> None:
    """A `jku` elsewhere is refused; none at all is fine, since it chooses nothing."""
    assert verify(w.maa_token(header={"jku": "https://evil.example/certs"})).claims.reject_code == "maa_foreign_jku"
    assert verify(w.maa_token(header={"jku": None})).claims.authentic


def test_claims_that_are_absent_or_of_another_kind() -> None:
    """Nothing shown, nothing invented."""
    nested = {"x-ms-sevsnpvm-is-debuggable": "false", "x-ms-sevsnpvm-vmpl": True, "x-ms-sevsnpvm-reportdata": "XY"}
    claims = verify(w.maa_token(**{"x-ms-isolation-tee": nested, "x-ms-runtime": 1}), nonce=None).claims
    assert (claims.debug, claims.flags, claims.report_data, claims.nonce) == (None, {}, None, None)
    assert claims.freshness.kind is FreshnessClass.DATED
    assert verify(w.maa_token(**{"x-ms-isolation-tee": 1})).claims.measurements == {}


def test_a_nonce_that_the_provider_copied() -> None:
    """`nonce` counts where the runtime claims have none."""
    runtime: dict[str, Any] = {"x-ms-runtime": {"client-payload": 1}, "nonce": w.NONCE}
    assert verify(w.maa_token(**runtime)).claims.authentic


@pytest.mark.parametrize(
    ("reason", "token", "more"),
    [
        ("jwt_not_compact", b".", {}),
        ("jwt_bad_alg", w.token({"alg": "none", "kid": "maa-1"}, w.maa_claims(), object()).encode(), {}),
        ("jwt_unknown_kid", w.maa_token(header={"kid": "x"}), {}),
        ("jwk_without_chain", w.maa_token(), {"roots": TrustRoots()}),
        ("jwt_bad_signature", w.maa_token(key=w.rsa_key("somebody")), {}),
        ("jwt_bad_iss", w.maa_token(iss="https://evil.attest.azure.net"), {}),
        ("nonce_mismatch", w.maa_token(), {"nonce": "00"}),
        ("jwt_expired", w.maa_token(), {"now": NOW + 30_000}),
    ],
)
def test_what_is_refused(reason: str, token: bytes, more: dict[str, Any]) -> None:
    """Each fault alone is found, under its own code."""
    claims = verify(token, **more).claims
    assert (claims.authentic, claims.reject_code) == (False, reason)


def test_from_inputs() -> None:
    """An issuer must be given; a key set that comes along is believed only when the roots name it."""
    blobs = {"token": w.maa_token(), "jwks": JWKS}
    params = {"iss": w.PROVIDER, "nonce": w.NONCE}
    assert maa.from_inputs(blobs, params, w.pinned_set("maa", JWKS), NOW).claims.authentic
    assert not maa.from_inputs(blobs, params, TrustRoots(), NOW).claims.authentic
    for given, params in (({"token": b""}, {"iss": ""}), ({"jwks": b""}, {"iss": ""}), (blobs, {})):
        with pytest.raises(FormatError) as refused:
            maa.from_inputs(given, params, TrustRoots(), NOW)
        assert refused.value.reason == "input_missing"
