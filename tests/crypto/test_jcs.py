"""`jcs` against RFC 8785's examples and against the library that the fast road replaces."""

import enum
import math

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.crypto.canonical import jcs
from gateway.errors import FormatError


def test_writes_the_rfc_example():
    """RFC 8785 section 3.2.2's object comes out as section 3.2.4's bytes."""
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\nA'\u0042\u0022\u005c\\\"/",
        "literals": [None, True, False],
    }
    assert (
        jcs(value)
        == (
            '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
            '"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
        ).encode()
    )


def test_sorts_keys_by_utf_16():
    """Section 3.2.3's keys stand in UTF-16 order, in which an emoji comes before U+FB33."""
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    out = jcs(dict.fromkeys(keys, 0)).decode()
    assert out == '{"\\r":0,"1":0,"\u0080":0,"\u00f6":0,"\u20ac":0,"\U0001f600":0,"\ufb33":0}'


def test_writes_an_aci_keyset_without_the_slow_road(monkeypatch):
    """A document of ASCII keys, strings and small integers never reaches the slow writer."""
    monkeypatch.setattr(rfc8785, "dumps", None)
    value = {"subject": "é", "not_after": 1, "keys": [{"b": None, "a": True}], "t": (1, -(2**53) + 1)}
    assert jcs(value) == '{"keys":[{"a":true,"b":null}],"not_after":1,"subject":"é","t":[1,-9007199254740991]}'.encode()


def test_escapes_every_character_as_the_slow_road_does():
    """The fast road's escapes are RFC 8785's for every character of the first planes."""
    for start in range(0, 0x3000, 64):
        text = "".join(map(chr, range(start, start + 64)))
        assert jcs(text) == rfc8785.dumps(text)
        assert jcs([text]) == rfc8785.dumps([text])


class Colour(enum.StrEnum):
    RED = "red"


def test_takes_subclasses_and_floats_the_slow_way():
    """String enums and floats are written by value."""
    assert jcs({"a": Colour.RED, "b": [-0.0, 1.0, 1e21]}) == b'{"a":"red","b":[0,1,1e+21]}'


def endless() -> list:
    value: list = []
    value.append(value)
    return value


def deep() -> list:
    value: list = [1.5]
    for _ in range(5000):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        2**53,
        -(2**53),
        [2**64],
        math.nan,
        math.inf,
        {"a": -math.inf},
        "\ud800",
        ["a\udfff"],
        {"\ud800": 1},
        {1: 2},
        {None: 2},
        b"bytes",
        {"a": object()},
        {1, 2},
        endless(),
        deep(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_refuses_what_has_no_canonical_form(value):
    """Unsafe integers, non-finite numbers, surrogates, foreign types and cycles are format errors."""
    with pytest.raises(FormatError, match="not representable"):
        jcs(value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec=None), max_size=4), inner),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_both_roads_write_the_same(value):
    """For any JSON value, our writer and the reference either write the same bytes or both refuse."""
    try:
        expected = rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        with pytest.raises(FormatError):
            jcs(value)
    else:
        assert jcs(value) == expected
