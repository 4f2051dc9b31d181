"""Base64 and decimals have one spelling."""

import base64
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.crypto.encoding import MAX_COUNT, b64, decimal, unb64
from gateway.errors import FormatError


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=70))
def test_base64_round_trips(data):
    """What is written reads back, in the standard library's spelling."""
    assert b64(data) == base64.b64encode(data).decode()
    assert unb64(b64(data), "x") == data


@pytest.mark.parametrize(
    "text",
    [
        "QR==",
        "QQ=",
        "QQ",
        "QQ==\n",
        " QQ==",
        "Q Q==",
        "QQ====",
        "-_==",
        "=",
        "QQ==QQ==",
        "Q",
        "é===",
        "\ud800",
        "QUJ=DA==",
    ],
)
def test_base64_has_no_second_spelling(text):
    """Stray padding bits, missing padding, whitespace, the URL alphabet and non-ASCII are refused."""
    with pytest.raises(FormatError, match="the thing is not base64"):
        unb64(text, "the thing")


def test_base64_length_is_checked():
    """A length that is asked for is held to."""
    assert unb64("QUJD", "x", length=3) == b"ABC"
    with pytest.raises(FormatError, match="the key has 3 bytes, not 32"):
        unb64("QUJD", "the key", length=32)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=12))
def test_base64_raises_format_error_only(text):
    """Whatever the text, it reads back as itself or is a format error."""
    with contextlib.suppress(FormatError):
        assert b64(unb64(text, "x")) == text


@pytest.mark.parametrize("value", [0, 1, 10, 300, MAX_COUNT, 9_223_372_036_854_775_807])
def test_decimal_reads_plain_numbers(value):
    """A plain number up to 2**63 - 1 is read."""
    assert decimal(str(value), "x") == value


@pytest.mark.parametrize(
    "text", ["", "00", "01", "+1", "-1", " 1", "1 ", "1_0", "0x1", "1.0", "١", "²", "9223372036854775808", "9" * 5000]
)
def test_decimal_has_no_second_spelling(text):
    """Signs, zeros in front, spaces, other digits and numbers out of range are refused."""
    with pytest.raises(FormatError, match="the size is"):
        decimal(text, "the size")
