"""Receipt ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.ulid import UlidFactory, encode, is_ulid


# After the last millisecond, in the year 10889, there is no later id.
@given(st.lists(st.tuples(st.integers(0, 2**48 - 2), st.integers(0, 2**80 - 1)), max_size=20))
def test_ids_rise_whatever_the_clock_does(moments: list[tuple[int, int]]) -> None:
    """Each id is later than the one before, canonical, and 26 characters long."""
    factory = UlidFactory()
    made = [factory.mint(now, rnd) for now, rnd in moments]
    assert made == sorted(set(made))
    assert all(is_ulid(text) for text in made)


def test_the_time_stands_in_front() -> None:
    """The first ten characters are the time, as the ULID specification has it."""
    assert UlidFactory().mint(1469918176385, 0).startswith("01ARYZ6S41")
    assert encode(2**128 - 1) == "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"


@pytest.mark.parametrize(
    "text", ["", "0" * 25, "0" * 27, "8" + "0" * 25, "0" * 25 + "I", "0" * 25 + "a", "0" * 25 + "\n"]
)
def test_only_the_canonical_form_is_one(text: str) -> None:
    """Lower case, look-alike letters, other lengths and values beyond 128 bits are no ids."""
    assert not is_ulid(text)
