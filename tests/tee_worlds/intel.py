"""The synthetic Intel of `gateway.testing.tee.intel`, and what the long fuzz target calls.

One byte of a seed says which of the two inputs the rest is.
"""

from __future__ import annotations

import json
from functools import lru_cache

from gateway.testing.tee.intel import *  # noqa: F403
from gateway.testing.tee.intel import World
from gateway.verify.tee.intel import verify_intel
from gateway.verify.tee.quote import parse_quote


@lru_cache(maxsize=1)
def _fuzzed() -> tuple[World, bytes, bytes]:
    world = World()
    return world, world.quote(report_data=b"fuzz"), world.collateral()


def seeds() -> list[bytes]:
    """Inputs for `run` that reach deep."""
    world, quote, collateral = _fuzzed()
    quotes = [quote, world.quote(version=5), world.sgx_quote(), quote + bytes(100)]
    return [*(b"q" + one for one in quotes), b"c" + collateral, b"c" + world.collateral(sgx=True)]


def run(data: bytes) -> None:
    """Verify `data` as a quote under good collateral, or as collateral for a good quote. Raises when altered bytes hold."""
    world, quote, collateral = _fuzzed()
    if data[:1] == b"c":
        claims = verify_intel(quote, data[1:], roots=world.roots, now=world.now).claims
        assert not claims.authentic or _signed(data[1:]) == _signed(collateral), "authentic, and nobody signed it"
    else:
        claims = verify_intel(data[1:], collateral, roots=world.roots, now=world.now).claims
        assert not claims.authentic or claims.raw["identity"] in _identities(), "authentic, and nobody signed it"


@lru_cache(maxsize=1)
def _identities() -> frozenset[str]:
    """The names of all quotes in the seeds: each a digest of what was signed."""
    return frozenset(parse_quote(seed[1:]).identity for seed in seeds() if seed[:1] == b"q")


def _signed(collateral: bytes) -> tuple[object, ...]:
    envelope = json.loads(collateral)
    lists = (bytes.fromhex(envelope[name]) for name in ("root_ca_crl", "pck_crl"))
    return (envelope["tcb_info"], envelope["qe_identity"], *lists)
