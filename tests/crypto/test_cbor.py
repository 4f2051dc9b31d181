"""The bounded CBOR reader: what it takes, and each kind of bytes that it refuses."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.crypto import cbor
from gateway.errors import FormatError

ACCEPTED = {
    "zero": ("00", 0),
    "one byte integer": ("1818", 24),
    "two byte integer": ("190100", 256),
    "four byte integer": ("1a00010000", 65536),
    "largest integer": ("1bffffffffffffffff", 2**64 - 1),
    "smallest integer": ("3bffffffffffffffff", -(2**64)),
    "false, true and null": ("83f4f5f6", [False, True, None]),
    "empty string": ("40", b""),
    "text": ("62c3bc", "ü"),
    "nested": ("8201820203", [1, [2, 3]]),
    "empty containers": ("8280a0", [[], {}]),
    "map with both kinds of key": ("a301616161310220f5", {1: "a", "1": 2, -1: True}),
    "indefinite array": ("9f0102ff", [1, 2]),
    "indefinite map": ("bf0102ff", {1: 2}),
    "empty indefinite map": ("bfff", {}),
    "indefinite inside definite": ("829f01ffbf61610102f6ff", [[1], {"a": 1, 2: None}]),
    "definite inside indefinite": ("9f8101a10203ff", [[1], {2: 3}]),
}


@pytest.mark.parametrize(("data", "value"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_reads(data: str, value: object) -> None:
    """What the formats use is read, and read as the library reads it."""
    raw = bytes.fromhex(data)
    got = cbor.load(raw)
    assert got == value
    assert got == cbor2.loads(raw)


REFUSED = {
    "nothing": ("", "cbor_truncated"),
    "head cut": ("19", "cbor_truncated"),
    "argument cut": ("1901", "cbor_truncated"),
    "string cut": ("4201", "cbor_truncated"),
    "string of 2**64 - 1 bytes": ("5bffffffffffffffff", "cbor_truncated"),
    "text cut": ("6261", "cbor_truncated"),
    "array of 2**64 - 1 items": ("9bffffffffffffffff", "cbor_truncated"),
    "map of 2**32 - 1 members": ("baffffffff0102", "cbor_truncated"),
    "array cut": ("8201", "cbor_truncated"),
    "map cut after a key": ("a101", "cbor_truncated"),
    "indefinite array without a break": ("9f01", "cbor_truncated"),
    "one byte more": ("0000", "cbor_trailing_bytes"),
    "one byte after a map": ("a000", "cbor_trailing_bytes"),
    "one byte after an indefinite map": ("bfff00", "cbor_trailing_bytes"),
    "tag inside": ("81c100", "cbor_tag"),
    "tag around": ("d28100", "cbor_tag"),
    "tag after a tag's head": ("c0c000", "cbor_tag"),
    "big number": ("c249010000000000000000", "cbor_tag"),
    "integer in a byte too many": ("1817", "cbor_not_shortest"),
    "integer in two bytes": ("1900ff", "cbor_not_shortest"),
    "integer in four bytes": ("1a0000ffff", "cbor_not_shortest"),
    "integer in eight bytes": ("1b00000000ffffffff", "cbor_not_shortest"),
    "length in a byte too many": ("580161", "cbor_not_shortest"),
    "the same key twice": ("a201000100", "cbor_duplicate_key"),
    "the same text key twice": ("a2616100616100", "cbor_duplicate_key"),
    "the same key twice, indefinite": ("bf01000100ff", "cbor_duplicate_key"),
    "key false": ("a1f400", "cbor_bad_key"),
    "key that is bytes": ("a1410000", "cbor_bad_key"),
    "key that is an array": ("a18000", "cbor_bad_key"),
    "key that is a map": ("a1a000", "cbor_bad_key"),
    "key that is a float": ("a1f93c0000", "cbor_bad_key"),
    "key that is a tag": ("a1c00000", "cbor_bad_key"),
    "break as a key of a definite map": ("a1ff00", "cbor_bad_key"),
    "half float": ("f93c00", "cbor_not_supported"),
    "float": ("fa3f800000", "cbor_not_supported"),
    "double": ("fb3ff0000000000000", "cbor_not_supported"),
    "not a number": ("81f97e00", "cbor_not_supported"),
    "undefined": ("f7", "cbor_not_supported"),
    "simple value 0": ("e0", "cbor_not_supported"),
    "simple value 255": ("f8ff", "cbor_not_supported"),
    "bytes in chunks": ("5f4100ff", "cbor_indefinite"),
    "text in chunks": ("7f6161ff", "cbor_indefinite"),
    "reserved head": ("1c", "cbor_malformed"),
    "reserved float": ("fc", "cbor_malformed"),
    "indefinite integer": ("1f", "cbor_malformed"),
    "indefinite tag": ("df00", "cbor_malformed"),
    "break outside": ("ff", "cbor_malformed"),
    "break in a definite array": ("81ff", "cbor_malformed"),
    "break as a value": ("a100ff", "cbor_malformed"),
    "indefinite map that ends after a key": ("bf01ff", "cbor_malformed"),
    "text that is not UTF-8": ("61ff", "cbor_bad_text"),
    "text with a surrogate": ("63eda080", "cbor_bad_text"),
    "key that is not UTF-8": ("a161ff00", "cbor_bad_text"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(data: str, reason: str) -> None:
    """Each kind of bytes that readers differ on is refused for its own reason."""
    with pytest.raises(cbor.CborError) as refused:
        cbor.load(bytes.fromhex(data))
    assert refused.value.reason == reason


def test_keys_that_python_takes_for_one_are_refused_before_it_sees_them() -> None:
    """1, 1.0 and true are one key to a dict; the last two never get that far."""
    for other in (b"\xf5", b"\xfb\x3f\xf0" + bytes(6)):
        with pytest.raises(cbor.CborError) as refused:
            cbor.load(b"\xa2\x01\x00" + other + b"\x00")
        assert refused.value.reason == "cbor_bad_key"


@pytest.mark.parametrize("opening", [b"\x81", b"\x9f", b"\xa1\x00", b"\xbf\x00"])
def test_deep_nesting_is_refused_without_a_deep_stack(opening: bytes) -> None:
    """Depth is counted on the bytes; sixteen levels pass and sixty thousand do not reach the library."""
    closing = b"\xff" if opening[0] in (0x9F, 0xBF) else b""
    levels = cbor.MAX_DEPTH
    assert cbor.load(opening * levels + b"\x00" + closing * levels) is not None
    for levels in (cbor.MAX_DEPTH + 1, cbor.MAX_BYTES // 4):
        with pytest.raises(cbor.CborError) as refused:
            cbor.load(opening * levels + b"\x00" + closing * levels)
        assert refused.value.reason == "cbor_too_deep"


def test_sizes_and_counts_are_limits() -> None:
    """One byte or one item over the limit is refused, the limit itself is not."""
    at_limit = b"\x59" + (cbor.MAX_BYTES - 3).to_bytes(2, "big") + bytes(cbor.MAX_BYTES - 3)
    assert len(cbor.load(at_limit)) == cbor.MAX_BYTES - 3  # type: ignore[arg-type]
    with pytest.raises(cbor.CborError) as refused:
        cbor.load(at_limit + b"\x00")
    assert refused.value.reason == "cbor_too_big"
    with pytest.raises(cbor.CborError) as refused:
        cbor.load(b"\x82\x00\x00", max_bytes=2)
    assert refused.value.reason == "cbor_too_big"
    assert cbor.load(cbor2.dumps([0] * (cbor.MAX_ITEMS - 1)))
    with pytest.raises(cbor.CborError) as refused:
        cbor.load(cbor2.dumps([0] * cbor.MAX_ITEMS))
    assert refused.value.reason == "cbor_too_many_items"


def test_a_head_that_promises_gigabytes_allocates_nothing() -> None:
    """A length is believed only as far as there are bytes."""
    tracemalloc.start()
    for head in ("5affffffff", "7affffffff", "9affffffff", "baffffffff", "9f5bffffffffffffff00"):
        with pytest.raises(cbor.CborError):
            cbor.load(bytes.fromhex(head))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_the_tag_around_the_whole_is_taken_off() -> None:
    """A tag that the caller allows is reported, and what it encloses is plain; any other, or none, is refused."""
    tagged = bytes.fromhex("d9018fa10102")
    tag, value = cbor.load_tagged(tagged, (399, 907))
    assert tag == 399
    assert isinstance(value, Mapping)
    assert dict(value) == {1: 2}
    assert cbor.load_tagged(b"\xa1\x01\x02", (None, 399)) == (None, {1: 2})
    for data, tags in (
        (tagged, (18,)),
        (tagged, (None,)),
        (b"\xa0", (18,)),
        (b"\xd2", (18,)),
        (b"\xd2\xd2\x00", (18,)),
    ):
        with pytest.raises(cbor.CborError):
            cbor.load_tagged(data, tags)


def test_a_tag_that_runs_a_parser_is_not_run() -> None:
    """A date, a regular expression or a shared reference reaches nobody's parser, whatever is inside."""
    for tag in (0, 1, 2, 4, 28, 29, 30, 35, 36, 37, 256, 258, 260, 1004, 55799):
        with pytest.raises(cbor.CborError) as refused:
            cbor.load(cbor2.dumps([cbor2.CBORTag(tag, "(((")]))
        assert refused.value.reason == "cbor_tag"


def test_definite_lengths_can_be_demanded() -> None:
    """A caller whose format has one spelling refuses containers of indefinite length."""
    assert cbor.load(b"\x81\x00", indefinite=False) == [0]
    for data in (b"\x9f\x00\xff", b"\xbf\xff", b"\x81\x9f\xff"):
        with pytest.raises(cbor.CborError) as refused:
            cbor.load(data, indefinite=False)
        assert refused.value.reason == "cbor_indefinite"


def test_what_the_library_still_refuses_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception of the library's own is never seen outside."""

    def refuse(_: bytes) -> object:
        raise cbor2.CBORDecodeError("no")

    monkeypatch.setattr(cbor2, "loads", refuse)
    with pytest.raises(cbor.CborError) as refused:
        cbor.load(b"\x00")
    assert refused.value.reason == "cbor_malformed"


scalars = st.one_of(
    st.integers(-(2**64), 2**64 - 1), st.binary(max_size=40), st.text(max_size=20), st.booleans(), st.none()
)
keys = st.one_of(st.integers(-(2**64), 2**64 - 1), st.text(max_size=10))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=20
)


@settings(max_examples=200, deadline=None)
@given(values)
def test_reads_what_the_library_writes(value: object) -> None:
    """Every value of the accepted kinds comes back as it was."""
    assert cbor.load(cbor2.dumps(value)) == value


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=60), values.map(cbor2.dumps)), st.integers(0, 60), st.integers(0, 255))
def test_what_is_accepted_has_one_spelling(data: bytes, place: int, byte: int) -> None:
    """Whatever is accepted with definite lengths is written again to the same bytes; the rest is a FormatError."""
    mutated = data[:place] + bytes((byte,)) + data[place + 1 :]
    for candidate in (data, mutated):
        try:
            value = cbor.load(candidate, indefinite=False)
        except FormatError:
            continue
        assert cbor2.dumps(value) == candidate
