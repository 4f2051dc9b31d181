"""Receipt ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.ulid import UlidFactory, encode, is_ulid


# After the last millisecond, in the year 10889, there is no later id.
@given(st.lists(st.tuples(st.integers(0, 2**48 - 2), st.binary(min_size=16, max_size=16)), max_size=20))
def test_ids_rise_whatever_the_clock_does(moments: list[tuple[int, bytes]]) -> None:
    """Each id is later than the one before, canonical, and 26 characters long."""
    factory = UlidFactory()
    made = [factory.mint(now, rnd) for now, rnd in moments]
    assert made == sorted(set(made))
    assert all(is_ulid(text) for text in made)


def test_the_time_stands_in_front() -> None:
    """The first ten characters are the time, as the ULID specification has it."""
    assert UlidFactory().mint(1469918176385, bytes(16)) == "01ARYZ6S41" + 16 * "0"
    assert encode(2**128 - 1) == "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"


@given(st.integers(0, 2**48 - 1), st.binary(min_size=16, max_size=16))
def test_time_and_randomness_can_be_read_back(now: int, randomness: bytes) -> None:
    """An id is the number that the ULID specification makes of both: 48 bits of time, then five bits of each byte."""
    value = now
    for byte in randomness:
        value = value << 5 | byte & 31
    assert UlidFactory().mint(now, randomness) == encode(value)


def test_ids_of_one_moment_follow_each_other() -> None:
    """Where the randomness is no later than the last id's, the id is the next one, carries included."""
    factory = UlidFactory()
    first = factory.mint(5, b"\x01" + b"\xff" * 15)
    assert first.endswith("1" + 15 * "Z")
    assert factory.mint(5, bytes(16)).endswith("2" + 15 * "0")
    assert factory.mint(4, b"\xff" * 16).endswith("2" + 14 * "0" + "1")


@pytest.mark.parametrize(
    "text", ["", "0" * 25, "0" * 27, "8" + "0" * 25, "0" * 25 + "I", "0" * 25 + "a", "0" * 25 + "\n"]
)
def test_only_the_canonical_form_is_one(text: str) -> None:
    """Lower case, look-alike letters, other lengths and values beyond 128 bits are no ids."""
    assert not is_ulid(text)
