"""The strict DER reader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tee_worlds.amd import integer, tlv

from gateway.crypto import der as d
from gateway.errors import FormatError


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 65_535, 65_536])
def test_lengths_of_every_form_are_read(size: int) -> None:
    """Contents of any length come back whole."""
    reader = d.Reader(tlv(d.OCTET_STRING, b"x" * size))
    assert reader.more
    assert reader.next_is(d.OCTET_STRING)
    assert not reader.next_is(d.SET)
    assert reader.contents(d.OCTET_STRING) == b"x" * size
    assert not reader.more
    assert not reader.next_is(d.OCTET_STRING)
    reader.end()


def test_an_element_keeps_its_header() -> None:
    """`element` returns the header too; `enter` and `contents` don't."""
    inner = tlv(d.SEQUENCE, integer(7))
    reader = d.Reader(tlv(d.SET, inner))
    body = reader.enter(d.SET)
    assert body.element(d.SEQUENCE) == inner
    body.end()


@pytest.mark.parametrize("value", [0, 1, 127, 128, 255, 256, 2**159])
def test_integers(value: int) -> None:
    """Non-negative integers are read in their shortest form."""
    assert d.Reader(integer(value)).integer() == value


@pytest.mark.parametrize(
    ("year", "seconds"), [(b"491231235959Z", 2524607999), (b"500101000000Z", -631152000), (b"700101000000Z", 0)]
)
def test_two_digit_years_turn_at_fifty(year: bytes, seconds: float) -> None:
    """UTCTime means 1950 to 2049."""
    assert d.Reader(tlv(d.UTC_TIME, year)).time() == seconds


def test_generalized_time() -> None:
    """GeneralizedTime has four-digit years."""
    assert d.Reader(tlv(d.GENERALIZED_TIME, b"20500101000000Z")).time() == 2524608000


@pytest.mark.parametrize(("tag", "text"), [(0x0C, "Zürich"), (0x13, "a"), (0x16, "")])
def test_text(tag: int, text: str) -> None:
    """The three kinds of text that certificates use are read."""
    assert d.Reader(tlv(tag, text.encode())).text() == text


def test_true_is_there_or_not() -> None:
    """A BOOLEAN that is FALSE by default reads False when absent."""
    assert d.Reader(b"\x01\x01\xff").true() is True
    assert d.Reader(integer(1)).true() is False
    assert d.Reader(b"").true() is False


REFUSED: list[tuple[str, bytes, Callable[[d.Reader], Any]]] = [
    ("empty", b"", lambda r: r.contents(4)),
    ("header_cut", b"\x04", lambda r: r.contents(4)),
    ("other_tag", b"\x05\x00", lambda r: r.contents(4)),
    ("contents_cut", b"\x04\x02a", lambda r: r.contents(4)),
    ("indefinite", b"\x04\x80\x00\x00", lambda r: r.contents(4)),
    ("length_of_four_octets", b"\x04\x84\x00\x00\x00\x01a", lambda r: r.contents(4)),
    ("length_cut", b"\x04\x82\x01", lambda r: r.contents(4)),
    ("length_not_minimal", b"\x04\x81\x01a", lambda r: r.contents(4)),
    ("length_padded", b"\x04\x82\x00\x80" + b"a" * 128, lambda r: r.contents(4)),
    ("past_the_parent", tlv(0x30, b"\x04\x05a") + b"aaaa", lambda r: r.enter(0x30).contents(4)),
    ("trailing", b"\x04\x00\x00", lambda r: (r.contents(4), r.end())),
    ("integer_empty", b"\x02\x00", lambda r: r.integer()),
    ("integer_negative", b"\x02\x01\x80", lambda r: r.integer()),
    ("integer_padded", b"\x02\x02\x00\x01", lambda r: r.integer()),
    ("integer_too_long", integer(256), lambda r: r.integer(max_bytes=1)),
    ("integer_too_long_signed", integer(2**160), lambda r: r.integer()),
    ("boolean_one", b"\x01\x01\x01", lambda r: r.true()),
    ("boolean_false", b"\x01\x01\x00", lambda r: r.true()),
    ("bits_empty", b"\x03\x00", lambda r: r.bits()),
    ("bits_unused", b"\x03\x02\x01a", lambda r: r.bits()),
    ("text_none", b"", lambda r: r.text()),
    ("text_other", b"\x04\x01a", lambda r: r.text()),
    ("text_not_utf8", b"\x0c\x01\xff", lambda r: r.text()),
    ("text_not_ascii", b"\x16\x01\xff", lambda r: r.text()),
    ("time_none", b"", lambda r: r.time()),
    ("time_other", b"\x04\x01a", lambda r: r.time()),
    ("time_short", tlv(0x17, b"2601010000Z"), lambda r: r.time()),
    ("time_zone", tlv(0x17, b"260101000000+"), lambda r: r.time()),
    ("time_sign", tlv(0x17, b"-60101000000Z"), lambda r: r.time()),
    ("time_not_ascii", tlv(0x17, b"\xb260101000000Z"[:12] + b"Z"), lambda r: r.time()),
    ("time_month_13", tlv(0x17, b"261301000000Z"), lambda r: r.time()),
    ("time_leap_second", tlv(0x17, b"260101000060Z"), lambda r: r.time()),
    ("time_year_zero", tlv(0x18, b"00000101000000Z"), lambda r: r.time()),
]


@pytest.mark.parametrize(("data", "read"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_other_spellings_are_refused(data: bytes, read: Callable[[d.Reader], Any]) -> None:
    """What DER does not allow raises FormatError."""
    with pytest.raises(FormatError):
        read(d.Reader(data))


def test_depth_costs_nothing() -> None:
    """A hundred thousand nested sequences are one element to a reader that descends by name."""
    bomb = b"\x30\x80" * 100_000
    with pytest.raises(FormatError):
        d.Reader(bomb).enter(d.SEQUENCE)


def test_explicit_tags() -> None:
    """`explicit` is the context-specific constructed tag."""
    assert d.Reader(b"\xa3\x00").contents(d.explicit(3)) == b""
