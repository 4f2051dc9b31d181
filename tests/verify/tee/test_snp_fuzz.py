"""Hostile bytes in every place of AMD's and Azure's evidence: nothing but a result comes back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tee_worlds import amd, azure

from gateway.model.tee import TeeResult

WORLDS = {"amd": amd, "azure": azure}


def mutate(seed: bytes, edits: list[tuple[int, int]], cut: int | None, splice: bytes) -> bytes:
    data = bytearray(seed)
    for at, mask in edits:
        data[1 + at % (len(data) - 1)] ^= mask
    if cut is not None:
        at = 1 + cut % len(data)
        data[at:at] = splice
        data = data if splice else data[:at]
    return bytes(data)


@pytest.mark.parametrize("world", WORLDS)
@settings(max_examples=300, deadline=None)
@given(
    which=st.integers(0, 3),
    edits=st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 255)), max_size=4),
    cut=st.none() | st.integers(0, 20_000),
    splice=st.binary(max_size=8),
)
def test_mutations(world: str, which: int, edits: list[tuple[int, int]], cut: int | None, splice: bytes) -> None:
    """Flipped, cut and spliced evidence gives a result; what differs from the genuine is authentic only outside signatures."""
    seed = WORLDS[world].seeds()[which]
    data = mutate(seed, edits, cut, splice)
    result = WORLDS[world].run(data)
    assert isinstance(result, TeeResult)
    if seed[:1] in (b"r", b"e", b"c", b"a", b"q", b"s") and data != seed:
        assert not result.claims.authentic, result.claims


@pytest.mark.parametrize("world", WORLDS)
@settings(max_examples=300, deadline=None)
@given(kind=st.sampled_from([b"r", b"e", b"c", b"a", b"h", b"q", b"s", b"j"]), data=st.binary(max_size=2000))
def test_random_bytes(world: str, kind: bytes, data: bytes) -> None:
    """Random bytes in any place are refused."""
    assert not WORLDS[world].run(kind + data).claims.authentic


@pytest.mark.parametrize(("run", "seed"), [(w.run, s) for w in WORLDS.values() for s in w.seeds()])
def test_seeds_are_genuine(run: Callable[[bytes], TeeResult], seed: bytes) -> None:
    """What the fuzzers start from is authentic, so that they reach every check."""
    assert run(seed).claims.authentic


@pytest.mark.parametrize("at", range(0, 0x2A0, 7))
def test_every_signed_byte_counts(at: int) -> None:
    """One changed byte in the signed part of a report refuses it."""
    seed = amd.seeds()[0]
    changed = seed[: 1 + at] + bytes([seed[1 + at] ^ 0x10]) + seed[2 + at :]
    assert not amd.run(changed).claims.authentic
