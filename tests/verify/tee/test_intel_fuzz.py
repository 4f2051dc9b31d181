"""Hostile bytes: whatever comes in, a result comes out, and no changed signed byte is ever authentic."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tee_worlds import intel as worlds

from gateway.model.tee import TeeResult
from gateway.verify.tee.intel import verify_intel
from gateway.verify.tee.quote import parse_quote

W = worlds.World()
QUOTE, COLLATERAL = W.quote(report_data=b"fuzz"), W.collateral()
SIGNED = 48 + 584
#: Everything up to the chain but the length of the signature data: signed by attestation key, QE report or PCK.
COVERED = [at for at in range(SIGNED + 4 + 128 + 6 + 384 + 64 + 2 + 32) if not SIGNED <= at < SIGNED + 4]
QUICK = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def judge(quote: bytes, collateral: bytes = COLLATERAL) -> TeeResult:
    return verify_intel(quote, collateral, roots=W.roots, now=W.now)


@QUICK
@given(st.binary(max_size=2000))
def test_random_bytes_are_no_quote(data: bytes) -> None:
    """Random bytes, alone or behind a good header, give a refusal."""
    for quote in (data, QUOTE[:48] + data):
        assert judge(quote).claims.authentic is False


@QUICK
@given(st.sampled_from(COVERED), st.integers(1, 255))
def test_no_covered_byte_can_be_changed(at: int, mask: int) -> None:
    """Any change to header, body, signature, key, QE report or authentication data is refused."""
    changed = QUOTE[:at] + bytes([QUOTE[at] ^ mask]) + QUOTE[at + 1 :]
    assert judge(changed).claims.authentic is False


@QUICK
@given(st.data())
def test_cut_and_spliced_quotes(data: st.DataObject) -> None:
    """Cuts and splices of genuine quotes are genuine only where they spell the same signed bytes."""
    other = data.draw(st.sampled_from([W.quote(report_data=b"other"), W.quote(version=5), W.sgx_quote(), bytes(5000)]))
    begin, end = data.draw(st.integers(0, len(QUOTE))), data.draw(st.integers(0, len(other)))
    spliced = QUOTE[:begin] + other[end:]
    claims = judge(spliced).claims
    if claims.authentic:
        assert claims.raw["identity"] in (parse_quote(QUOTE).identity, parse_quote(W.quote(report_data=b"other")).identity,
                                          parse_quote(W.quote(version=5)).identity)  # fmt: skip


@QUICK
@given(st.integers(0, len(COLLATERAL) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_changed_collateral_says_the_same_or_nothing(at: int, new: bytes, cut: int) -> None:
    """Collateral that was changed and is still accepted holds the same signed documents."""
    changed = COLLATERAL[:at] + new + COLLATERAL[at + cut :]
    claims = judge(QUOTE, changed).claims
    if claims.authentic:
        names = ("tcb_info", "qe_identity", "root_ca_crl", "pck_crl")
        old, now = json.loads(COLLATERAL), json.loads(changed)
        assert [old[name].lower() for name in names] == [now[name].lower() for name in names]


@QUICK
@given(st.sampled_from(worlds.seeds()), st.data())
def test_the_fuzz_target(seed: bytes, data: st.DataObject) -> None:
    """The long fuzz target's function takes seeds, their mutations and nothing at all."""
    at = data.draw(st.integers(0, len(seed)))
    worlds.run(seed[:at] + data.draw(st.binary(max_size=8)) + seed[at:])


def test_seeds_are_what_they_say() -> None:
    """Quote seeds are quotes; the shortest inputs do nothing."""
    assert [parse_quote(seed[1:]).version for seed in worlds.seeds() if seed[:1] == b"q"] == [4, 5, 3, 4]
    worlds.run(b"")
