"""Parameters from outside: a wrong one is an error of the call, and an empty one is never met."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from tee_worlds import tokens as w
from tee_worlds.nvidia import NOW

from gateway.errors import FormatError
from gateway.model.tee import TeeResult
from gateway.verify.tee import cca, gcs, intel, maa, nitro, nras, tpm
from gateway.verify.tee.roots import TrustRoots

Call = Callable[[Mapping[str, Any]], TeeResult]


def _gcs(params: Mapping[str, Any]) -> TeeResult:
    return gcs.from_inputs({"token": w.gcs_token()}, {"aud": w.AUDIENCE, **params}, w.gcs_roots(), NOW)


def _nras(params: Mapping[str, Any]) -> TeeResult:
    jwks = w.nras_key_set(())
    return nras.from_inputs({"bundle": w.bundle(), "jwks": jwks}, params, w.pinned_set("nvidia_nras", jwks), NOW)


def _maa(params: Mapping[str, Any]) -> TeeResult:
    blobs = {"token": w.maa_token(), "jwks": w.maa_key_set()}
    return maa.from_inputs(blobs, {"iss": w.PROVIDER, **params}, w.pinned_set("maa", blobs["jwks"]), NOW)


@pytest.mark.parametrize("call", [_gcs, _nras, _maa])
@pytest.mark.parametrize(
    "params",
    [
        {"max_age": "300"},
        {"max_age": -1},
        {"max_age": True},
        {"max_age": float("nan")},
        {"nonce": ""},
        {"nonce": ["ab"]},
        {"iss": ""},
        {"iss": 7},
    ],
)
def test_a_parameter_of_another_form(call: Call, params: dict[str, Any]) -> None:
    """A parameter that means nothing is refused as one, before the evidence is looked at."""
    assert call({"max_age": 300}).claims.authentic
    with pytest.raises(FormatError) as refused:
        call(params)
    assert refused.value.reason == "param_malformed"


@pytest.mark.parametrize("aud", ["", 7])
def test_an_audience_of_another_form(aud: object) -> None:
    """A token is for somebody."""
    with pytest.raises(FormatError) as refused:
        _gcs({"aud": aud})
    assert refused.value.reason == "param_malformed"


@pytest.mark.parametrize("known", [w.POLICY, [w.POLICY], ("other", w.POLICY)])
def test_policy_hashes_are_whole(known: object) -> None:
    """A policy is known by its whole hash, given as one text or as a list."""
    assert _maa({"policy_hashes": known}).claims.authentic


@pytest.mark.parametrize("known", [f"{w.POLICY}0", f"{w.POLICY} other"])
def test_pitfall_a_text_is_no_list_of_its_parts(known: str) -> None:
    """A token whose policy is a part of the known hash, as each prefix and the empty text are, is of another policy."""
    assert _maa({"policy_hashes": known}).claims.reject_code == "maa_foreign_policy"


@pytest.mark.parametrize("known", [7, [7], [""], "", {"a": 1}])
def test_policy_hashes_of_another_form(known: object) -> None:
    """What is no list of hashes is refused as a parameter."""
    with pytest.raises(FormatError) as refused:
        _maa({"policy_hashes": known})
    assert refused.value.reason == "param_malformed"


@pytest.mark.parametrize(
    "call",
    [
        lambda: tpm.nonce_of({"nonce": ""}),
        lambda: nitro.from_inputs({"doc": b""}, {"nonce": ""}, TrustRoots(), 0.0),
        lambda: cca.from_inputs({"token": b"", "cpak": b""}, {"nonce": ""}, TrustRoots(), 0.0),
    ],
)
def test_pitfall_an_empty_nonce_is_no_challenge(call: Callable[[], object]) -> None:
    """Evidence that was asked for nothing is not fresh because it holds nothing."""
    with pytest.raises(FormatError):
        call()


def test_the_evaluation_is_a_number() -> None:
    """A lowest evaluation in another form is no lowest evaluation."""
    with pytest.raises(FormatError):
        intel.from_inputs({"quote": b"", "collateral": b""}, {"lowest_evaluation": "18"}, TrustRoots(), 0.0)
