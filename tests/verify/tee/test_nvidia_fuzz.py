"""Hostile bytes at every door of NVIDIA's and the token services' evidence: a result comes back, and no false yes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tee_worlds import nvidia as w
from tee_worlds import tokens as t

from gateway.model.tee import TeeResult
from gateway.verify.tee.gcs import verify_gcs
from gateway.verify.tee.maa import verify_maa
from gateway.verify.tee.nras import verify_nras
from gateway.verify.tee.nvidia_gpu import verify_spdm
from gateway.verify.tee.nvidia_payload import verify_payload
from gateway.verify.tee.rim import parse_rim

SETTINGS = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
CHAIN = w.pem_of(w.device_chain())
COMMON: dict[str, Any] = {"roots": w.roots(), "now": w.NOW}
SEEDS = {seed[:1]: seed[1:] for seed in (*w.seeds(), *t.seeds())}
MAA_SET = t.maa_key_set()


@st.composite
def neighbours(draw: st.DrawFn, seed: bytes) -> bytes:
    """Bits flipped, a piece cut, doubled or exchanged, or other bytes altogether."""
    data = bytearray(seed)
    place = st.integers(0, len(data) - 1)
    match draw(st.integers(0, 4)):
        case 0:
            for _ in range(draw(st.integers(1, 3))):
                data[draw(place)] ^= 1 << draw(st.integers(0, 7))
        case 1:
            del data[draw(place) :]
        case 2:
            start, to = draw(place), draw(place)
            data[to:to] = data[start : start + draw(st.integers(1, 64))]
        case 3:
            start = draw(place)
            data[start : start + draw(st.integers(1, 16))] = draw(st.binary(max_size=16))
        case _:
            return draw(st.binary(max_size=400))
    return bytes(data)


def is_result(result: object) -> bool:
    return isinstance(result, TeeResult) and (result.claims.reject_code is None) is result.claims.authentic


@SETTINGS
@given(neighbours(SEEDS[b"s"]))
def test_reports(data: bytes) -> None:
    """Every byte of a report is signed or is the signature: nothing but the report itself is authentic."""
    result = verify_spdm(data, CHAIN, nonce=w.NONCE, **COMMON)
    assert is_result(result)
    assert result.claims.authentic is (data == SEEDS[b"s"])


@SETTINGS
@given(neighbours(CHAIN))
def test_chains(data: bytes) -> None:
    """Text around a certificate may change, the certificates may not."""
    result = verify_spdm(SEEDS[b"s"], data, nonce=w.NONCE, **COMMON)
    assert is_result(result)
    assert not result.claims.authentic or len(result.claims.signer_chain) == 5


@SETTINGS
@given(neighbours(SEEDS[b"r"]))
def test_manifests(data: bytes) -> None:
    """A manifest that is compared with says what the signed one says."""
    result = verify_spdm(SEEDS[b"s"], CHAIN, rims=[data], **COMMON)
    assert is_result(result)
    if result.claims.golden:
        assert parse_rim(data).values == parse_rim(SEEDS[b"r"]).values


@SETTINGS
@given(neighbours(SEEDS[b"o"]))
def test_ocsp_answers(data: bytes) -> None:
    """An answer counts for the certificate that it was given for, or not at all."""
    result = verify_spdm(SEEDS[b"s"], CHAIN, ocsp=[data], **COMMON)
    assert is_result(result)
    assert result.claims.revocation.checked in ((), (f"ocsp:{result.claims.signer_chain[0]}",))


@SETTINGS
@given(neighbours(SEEDS[b"p"]))
def test_payloads(data: bytes) -> None:
    """An authentic payload holds the report that was signed."""
    result = verify_payload(data, nonce=w.NONCE, **COMMON)
    assert is_result(result)
    if result.claims.authentic:
        assert {c.evidence_sha256 for c in result.claims.children} == {hashlib.sha256(SEEDS[b"s"]).hexdigest()}


@SETTINGS
@given(neighbours(SEEDS[b"n"]))
def test_bundles(data: bytes) -> None:
    """An authentic bundle is the same JSON, white space aside."""
    result = verify_nras(data, t.nras_key_set(), roots=t.nras_roots(), now=w.NOW)
    assert is_result(result)
    assert not result.claims.authentic or json.loads(data) == json.loads(SEEDS[b"n"])


@SETTINGS
@given(neighbours(SEEDS[b"k"]))
def test_key_sets(data: bytes) -> None:
    """No other key set makes a chain to the pinned intermediate."""
    result = verify_nras(SEEDS[b"n"], data, roots=t.nras_roots(), now=w.NOW)
    genuine = verify_nras(SEEDS[b"n"], SEEDS[b"k"], roots=t.nras_roots(), now=w.NOW)
    assert is_result(result)
    assert not result.claims.authentic or result.claims.signer_chain == genuine.claims.signer_chain


@SETTINGS
@given(neighbours(SEEDS[b"g"]))
def test_confidential_space_tokens(data: bytes) -> None:
    """A token has one spelling: nothing but the token itself is authentic."""
    result = verify_gcs(data, roots=t.gcs_roots(), now=w.NOW, audience=t.AUDIENCE)
    assert is_result(result)
    assert result.claims.authentic is (data == SEEDS[b"g"])


@SETTINGS
@given(neighbours(SEEDS[b"m"]))
def test_azure_tokens(data: bytes) -> None:
    """The same for Azure's."""
    result = verify_maa(data, MAA_SET, roots=t.pinned_set("maa", MAA_SET), now=w.NOW, issuer=t.PROVIDER)
    assert is_result(result)
    assert result.claims.authentic is (data == SEEDS[b"m"])


@pytest.mark.parametrize("world", [w, t], ids=["nvidia", "tokens"])
def test_the_long_target_takes_its_own_seeds(world: Any) -> None:
    """The seeds, an empty input and a kind without an item all run."""
    for seed in (*world.seeds(), b"", *(seed[:1] for seed in world.seeds())):
        world.run(seed)
