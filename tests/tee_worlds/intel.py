"""The synthetic Intel of `gateway.testing.tee.intel`, and what the long fuzz target calls.

One byte of a seed says which of the two inputs the rest is.
"""

from __future__ import annotations

from functools import lru_cache

from gateway.testing.tee.intel import *  # noqa: F403
from gateway.testing.tee.intel import World
from gateway.verify.tee.intel import verify_intel


@lru_cache(maxsize=1)
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
    """Verify `data` as a quote under good collateral, or as collateral for a good quote. Must not raise."""
    world, quote, collateral = _fuzzed()
    if data[:1] == b"c":
        verify_intel(quote, data[1:], roots=world.roots, now=world.now)
    else:
        verify_intel(data[1:], collateral, roots=world.roots, now=world.now)
