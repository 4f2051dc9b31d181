"""The noise of the sampler whose draws can be repeated."""

from __future__ import annotations

import hashlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.selfhosted.lm.sampling import noise as drawn_by_the_node
from gateway.errors import FormatError
from gateway.verify.proofs.noise import MAX_VOCABULARY, noise


def test_by_its_definition() -> None:
    """Token 2's noise comes from the third word of SHAKE-256 over the name."""
    word = int.from_bytes(hashlib.shake_256(b"veriroute-lm/1 7 0 3").digest(24)[16:], "big")
    expected = -math.log(-math.log(((word >> 12) + 0.5) / 2**52))
    assert noise(7, 0, 3, [2]) == {2: expected}
    assert noise(7, 0, 3, [0, 2, 5])[2] == expected


@given(st.integers(0, 2**31), st.integers(0, 3), st.integers(0, 4096))
@settings(max_examples=50)
def test_the_reference_node_draws_the_same(seed: int, choice: int, position: int) -> None:
    """Every token's noise is the node's own, for any seed and place."""
    ours = noise(seed, choice, position, range(64))
    assert list(ours.values()) == pytest.approx(drawn_by_the_node(seed, choice, position, 64).tolist(), rel=1e-12)


@pytest.mark.parametrize("tokens", [[-1], [MAX_VOCABULARY], [0, 2**31 - 1]])
def test_ids_that_no_vocabulary_has(tokens: list[int]) -> None:
    """A hostile id is refused before its gigabytes are drawn."""
    with pytest.raises(FormatError) as caught:
        noise(1, 0, 0, tokens)
    assert caught.value.reason == "noise_incomplete"


def test_of_nothing() -> None:
    """No tokens have no noise."""
    assert noise(1, 0, 0, []) == {}
