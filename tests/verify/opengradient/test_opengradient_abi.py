"""The contract ABI, read strictly: one spelling for every value, and no offset that is followed on trust."""

from __future__ import annotations

import contextlib
import sys

import pytest
from eth_abi import encode
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ConfigError, FormatError
from gateway.verify.opengradient import abi


def word(value: int) -> bytes:
    return value.to_bytes(32, "big")


LIST = word(32)
TWO = encode(["(bytes)[]"], [[(b"a" * 40,), (b"b",)]])


def test_values_come_back_as_they_were() -> None:
    """Addresses are lower-case text, bytes bytes, text text."""
    types = ["address", "bytes", "string", "bool", "uint256", "bytes32"]
    values = ("0x" + "ab" * 20, b"raw", "grüße", True, 7, b"h" * 32)
    assert abi.decode(types, encode(types, values)) == values


@pytest.mark.parametrize(
    ("types", "data", "because"),
    [
        (["uint256"], b"\0" * 31, "not whole words"),
        (["uint256"], b"\0" * 64, "canonical"),
        (["uint8"], word(256), "NonEmptyPadding"),
        (["bool"], word(2), "InvalidBool|NonEmpty|Decoding|ValueError"),
        (["address"], word(1 << 160), "NonEmptyPadding"),
        (["bytes32", "uint8"], word(1), "InsufficientDataBytes"),
        (["bytes"], word(64) + word(0) + word(0), "canonical"),
        (["bytes"], word(2**255), "InvalidPointer"),
        (["bytes"], word(32) + word(2**200), "InsufficientDataBytes|Overflow"),
        (["bytes"], word(32) + word(1) + b"a" + b"x" * 31, "NonEmptyPadding"),
        (["string"], word(32) + word(1) + b"\xff" + bytes(31), "UnicodeDecodeError"),
        (["bytes", "bytes"], word(64) * 2 + word(0), "canonical"),
    ],
)
def test_any_other_spelling_is_malformed(types: list[str], data: bytes, because: str) -> None:
    """Padding, pointers, lengths and trailing bytes that Solidity would not write are refused."""
    with pytest.raises(FormatError, match=because) as caught:
        abi.decode(types, data)
    assert caught.value.reason == "abi_malformed"


def test_a_long_answer_is_not_decoded() -> None:
    """One word over the limit is too much."""
    assert abi.decode(["bytes"], encode(["bytes"], [b"x" * (abi.MAX_ANSWER - 64)]))
    with pytest.raises(FormatError, match="over the limit") as caught:
        abi.decode(["bytes"], bytes(abi.MAX_ANSWER + 32))
    assert caught.value.reason == "too_large"


def test_records_of_a_list_are_cut_out() -> None:
    """Each slice with an offset before it is one record; an empty list has none."""
    assert [abi.one_record("(bytes)", record) for record in abi.dynamic_records(TWO)] == [(b"a" * 40,), (b"b",)]
    assert abi.dynamic_records(LIST + word(0)) == []
    assert len(abi.static_records(LIST + word(256) + word(0) * 256, 32)) == 256
    assert abi.static_records(LIST + word(2) + word(7) + word(8), 32) == [word(7), word(8)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "abi_malformed"),
        (LIST, "abi_malformed"),
        (word(64) + word(0), "abi_malformed"),
        (LIST + word(0) + word(0), "abi_malformed"),
        (LIST + word(2) + word(64), "abi_malformed"),
        (LIST + word(1) + word(32), "abi_malformed"),  # the record has no bytes
        (LIST + word(1) + word(64) + word(0) + word(0), "abi_malformed"),  # a gap before it
        (LIST + word(1) + word(2**255) + word(0), "abi_malformed"),
        (LIST + word(2) + word(64) + word(64) + word(0) + word(0), "abi_malformed"),  # both at one place
        (LIST + word(3) + word(96) + word(160) + word(128) + word(0) * 4, "abi_malformed"),  # out of order
        (LIST + word(2) + word(64) + word(97) + word(0) * 2, "abi_malformed"),  # not on a word
        (LIST + word(257) + word(0) * 257, "too_many_records"),
        (LIST + word(2**255), "too_many_records"),
        (bytes(abi.MAX_ANSWER + 32), "too_large"),
    ],
)
def test_a_list_whose_offsets_lie_is_refused(data: bytes, reason: str) -> None:
    """Records that overlap, leave gaps, run out or are too many are refused before anything is decoded."""
    with pytest.raises(FormatError) as caught:
        abi.dynamic_records(data)
    assert caught.value.reason == reason


def test_a_list_without_room_for_its_offsets_is_cut_short() -> None:
    """The head of the list is whole before an offset is read."""
    with pytest.raises(FormatError, match="cut short"):
        abi.dynamic_records(LIST + word(2) + word(64))


@pytest.mark.parametrize("data", [LIST + word(1), LIST + word(1) + word(0) * 2, LIST + word(2) + word(0)])
def test_a_list_of_fixed_records_has_the_length_it_says(data: bytes) -> None:
    """Too short and too long are both refused."""
    with pytest.raises(FormatError, match="list"):
        abi.static_records(data, 32)


def test_a_record_that_shares_its_tails_is_malformed() -> None:
    """Two fields that point to the same bytes encode differently, so they are refused."""
    record = word(64) + word(64) + word(1) + b"a" + bytes(31)
    with pytest.raises(FormatError, match="canonical"):
        abi.one_record("(bytes,bytes)", record)


def test_what_is_not_of_the_type_is_not_encoded() -> None:
    """A wrong argument is our error, not the library's."""
    assert abi.encode(["uint8"], [255]) == word(255)
    for value in (256, -1, "x", None):
        with pytest.raises(FormatError, match="not of the types uint8"):
            abi.encode(["uint8"], [value])


@pytest.mark.parametrize(("value", "fits"), [(0, True), (2**63 - 1, True), (2**63, False), (2**256 - 1, False)])
def test_numbers_end_at_63_bits(value: int, fits: bool) -> None:
    """What no column or date can hold is refused."""
    if fits:
        assert abi.number(value, "n") == value
    else:
        with pytest.raises(FormatError, match="n is beyond"):
            abi.number(value, "n")


def test_texts_have_a_length() -> None:
    """2,048 characters, and not one more."""
    assert abi.text("x" * 2048, "endpoint")
    with pytest.raises(FormatError, match="endpoint has more"):
        abi.text("x" * 2049, "endpoint")


def test_a_missing_library_is_a_setting_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without eth_abi the message says what to install."""
    abi.require()
    abi._codec.cache_clear()
    monkeypatch.setitem(sys.modules, "eth_abi.abi", None)
    with pytest.raises(ConfigError, match=r"pip install 'veriroute\[opengradient\]'"):
        abi.require()
    monkeypatch.undo()
    abi._codec.cache_clear()
    abi.require()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 2**256 - 1) | st.integers(0, 12).map(lambda n: n * 32), max_size=14), st.integers(0, 3))
def test_hostile_words_give_values_or_our_error(words: list[int], what: int) -> None:
    """Whatever is decoded encodes to the same bytes; all else is `FormatError`."""
    types = (["bytes", "string"], ["(bytes,uint8,string)"], ["bool", "bytes"], ["bytes32", "address"])[what]
    data = b"".join(map(word, words))
    with contextlib.suppress(FormatError):
        assert encode(types, abi.decode(types, data)) == data
    with contextlib.suppress(FormatError):
        assert b"".join(abi.dynamic_records(data)) == data[64 + 32 * words[1] :]
