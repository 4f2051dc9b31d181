"""`strict_json` against everything on which JSON readers disagree, and against a slow oracle."""

import contextlib
import gc
import json
import math
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.crypto.canonical import MAX_CONTAINERS, strict_json
from gateway.errors import FormatError

LIMIT = 1 << 20


def read(data: bytes, **options):
    return strict_json(data, max_bytes=LIMIT, **options)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"{}", {}),
        (b' \t\r\n{"a" : [ 1 , 2.5 , true , false , null , "x" ] }\n', {"a": [1, 2.5, True, False, None, "x"]}),
        (b'"\\ud83d\\ude00\\u00e9\\/\\b"', "\U0001f600\u00e9/\b"),
        ('"\u2028\x7f\U0010ffff"'.encode(), "\u2028\x7f\U0010ffff"),
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775807", 1 - 2**63),
        (b"[0.00000000000000000012345678901234567890]", [0.00000000000000000012345678901234567890]),
        (b"123456789012345678901234567890.0", 1.2345678901234568e29),
        (b"1e25", 1e25),
        (b"-0", 0),
        (b'{"a:b":"c:d","\\u003a":":"}', {"a:b": "c:d", ":": ":"}),
        (b'{"n":"12345678901234567890123"}', {"n": "12345678901234567890123"}),
        (b'{"a":{"a":{"a":1}},"b":{"a":1}}', {"a": {"a": {"a": 1}}, "b": {"a": 1}}),
    ],
)
def test_reads_what_every_reader_agrees_on(data, value):
    """A document without ambiguity comes back as the value it spells, numbers in their own types."""
    assert read(data) == value
    assert type(read(data)) is type(value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xef\xbb\xbf{}", r"byte order mark \(byte 0\)"),
        ('{"a":1}'.encode("utf-16"), r"byte order mark \(byte 0\)"),
        ('{"a":1}'.encode("utf-16-be"), r"UTF-8 without a byte order mark"),
        ("[]".encode("utf-32-le"), r"UTF-8 without a byte order mark"),
        (b'{"a":"\xff"}', r"not valid UTF-8.*\(byte 6\)"),
        (b'{"\xff":1}', r"not valid UTF-8.*\(byte 2\)"),
        (b'"\xc0\xaf"', r"not valid UTF-8.*\(byte 1\)"),
        (b'"\xed\xa0\x80"', r"not valid UTF-8.*\(byte 1\)"),
        (b'"\xf4\x90\x80\x80"', r"not valid UTF-8.*\(byte 1\)"),
        (b'{"a":1,"a":1}', r"the key 'a' twice"),
        (b'{"content":1,"\\u0063ontent":2}', r"the key 'content' twice"),
        (b'{"a":[{"x":{"b":1,"c":2,"b":3}}]}', r"the key 'b' twice"),
        (b'{":":1,"\\u003a":2}', r"the key ':' twice"),
        (b'{"a":"\\u003a","b":1,"b":1}', r"the key 'b' twice"),
        (b'{"\xc3\xa9":1,"\\u00e9":1}', r"the key '\\xe9' twice"),
        (b'{"":0,"":0}', r"the key '' twice"),
        (b'{"a":{"b":1},"a":2}', r"the key 'a' twice"),
        (b'{"%s":1,"%s":1}' % (b"k" * 99, b"k" * 99), r"the key 'k{60}\\u2026' twice"),
        (b"NaN", r"invalid character \(byte 0\)"),
        (b"[Infinity]", r"invalid character \(byte 1\)"),
        (b"[-Infinity]", r"invalid number \(byte 2\)|invalid character \(byte 2\)"),
        (b"1e400", r"number out of range"),
        (b"-1e400", r"number out of range"),
        (b"[" + b"1" * 5000 + b"]", r"integer value out of range"),
        (b"1" * 4000, r"beyond 64 bits"),
        (b'{"a":9223372036854775808}', r"the integer '9223372036854775808', which is beyond 64 bits"),
        (b"[-9223372036854775808]", r"beyond 64 bits"),
        (b"18446744073709551616", r"beyond 64 bits"),
        (b'"\\ud800"', r"lone surrogate \(byte 1\)"),
        (b'["a","\\uDBFFx"]', r"lone surrogate \(byte 6\)"),
        (b'{"\\udc00":1}', r"surrogate"),
        (b'"\\ud800\\u0041"', r"surrogate"),
        (b'"\\ud800\\ud800"', r"surrogate"),
        (b"{} {}", r"trailing characters"),
        (b"{}x", r"trailing characters"),
        (b"{}\0", r"trailing characters|UTF-8 without"),
        (b"[1,2]     \0", r"trailing characters"),
        (b"", r"truncated"),
        (b"  ", r"truncated"),
        (b'{"a":', r"truncated"),
        (b"[1,]", r"trailing comma in array \(byte 3\)"),
        (b'{"a":1,}', r"trailing comma in object"),
        (b"{'a':1}", r"keys must be strings"),
        (b"{a:1}", r"keys must be strings"),
        (b"01", r"invalid number"),
        (b"+1", r"invalid character"),
        (b".5", r"invalid character"),
        (b"1.", r"invalid number"),
        (b"0x10", r"trailing characters|invalid number"),
        (b'"\n"', r"invalid character \(byte 1\)"),
        (b'"\\x41"', r"invalid escape"),
        (b"// c\n1", r"invalid character"),
        (b"\xa01", r"invalid|UTF-8"),
        (b"\x0c1", r"invalid character"),
        (b"True", r"invalid character"),
    ],
)
def test_refuses_what_readers_disagree_on(data, message):
    """A document that two readers could take differently is refused with what is wrong, and where if known."""
    with pytest.raises(FormatError, match=message):
        read(data)


@pytest.mark.parametrize(
    "before", [b"", b" ", b"\t", b"\n", b"\r", b"[", b"[0,", b"[ 0 , ", b'{"a":', b'{"a" : ', b'{"a":"0","b":']
)
@pytest.mark.parametrize("sign", [b"", b"-"])
@pytest.mark.parametrize("digits", [b"9223372036854775808", b"1" * 20, b"9" * 400])
def test_finds_a_long_integer_wherever_a_number_may_stand(before, sign, digits):
    """Behind everything that the grammar lets stand before a number, one that is too long is refused."""
    after = {b"[": b"]", b"{": b"}"}.get(before.strip()[:1], b"")
    with pytest.raises(FormatError, match=r"beyond 64 bits|out of range"):
        read(before + sign + digits + after)
    assert read(before + sign + digits[:18] + after) is not None


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":"%s"}' % (b"0123456789" * 40),
        b'{"a":"%s"}' % (b"00ff" + b"1" * 64),
        b'{"sig":"%s","n":1234567890123456.0123456789012345678901}' % (b"e" + b"7" * 127),
        b'{"a":[0.%s,1E+%s]}' % (b"3" * 60, b"0" * 40),
    ],
)
def test_digits_in_strings_and_fractions_are_read_once(data, monkeypatch):
    """Hex, as evidence is full of, is no reason to read a document a second time."""

    def refuse(data, again, any_integer):
        raise AssertionError("read a second time")

    monkeypatch.setattr("gateway.crypto.canonical._inspect", refuse)
    assert read(data) == json.loads(data)


def test_bounds_bytes_before_reading():
    """One byte over the limit is refused, whatever it is."""
    assert strict_json(b"[1]", max_bytes=3) == [1]
    with pytest.raises(FormatError, match="3 bytes is over the limit of 2"):
        strict_json(b"[1]", max_bytes=2)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("filler", [b"", b'"]]}}[[{{\\"[",'])
def test_bounds_depth_exactly(opening, filler):
    """`max_depth` levels pass and one more does not, whatever stands in strings between."""
    if opening == b"[":
        make = lambda depth: b"[" * (depth - 1) + b"[" + filler + b"1" + b"]" * depth  # noqa: E731
    else:
        make = lambda depth: opening * (depth - 1) + b"[" + filler + b"1]" + b"}" * (depth - 1)  # noqa: E731
    for depth in (1, 5, 16, 17, 64, 256):
        assert read(make(depth), max_depth=depth)
        with pytest.raises(FormatError, match=f"deeper than {depth} levels"):
            read(make(depth + 1), max_depth=depth)


def test_breadth_is_not_depth():
    """Many objects side by side stay within a small depth."""
    data = json.dumps([{"a": [], "b": {}}] * 500).encode()
    assert len(read(data, max_depth=3)) == 500
    with pytest.raises(FormatError, match="deeper than 2"):
        read(data, max_depth=2)


@pytest.mark.parametrize("data", [b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000])
@pytest.mark.parametrize("depth", [64, 200_000])
def test_survives_endless_nesting(data, depth):
    """A hundred thousand levels are a format error and no crash, also where the limit would let them pass."""
    with pytest.raises(FormatError, match=f"nested deeper than {depth}"):
        read(data, max_depth=depth)


def test_bounds_depth_and_containers_before_decoding(monkeypatch):
    """What is nested too deeply, or has too many arrays and objects, is refused before anything is made of it."""

    def refuse(data):
        raise AssertionError("decoded")

    monkeypatch.setattr("gateway.crypto.canonical._decode", refuse)
    with pytest.raises(FormatError, match="nested deeper than 64"):
        read(b"[1," + b"[" * 64 + b"]" * 64 + b"]")
    for one in (b"[]", b'{"[":0}', b"{}"):
        with pytest.raises(FormatError, match=f"more than {MAX_CONTAINERS} arrays and objects"):
            strict_json(b"[" + b",".join([one] * MAX_CONTAINERS) + b"]", max_bytes=1 << 23)


def test_a_long_document_may_have_an_array_or_object_for_every_16_bytes():
    """The bound on arrays and objects grows with the document, and brackets in strings are none."""
    assert len(strict_json(b"[" + b'{"top":"[[[{{{"},' * 600_000 + b"0]", max_bytes=1 << 24)) == 600_001
    many = b"[" + b'"[{[{",' * 400_000 + b",".join([b"[]"] * (MAX_CONTAINERS - 1)) + b"]"
    assert len(strict_json(many, max_bytes=1 << 23)) == 400_000 + MAX_CONTAINERS - 1


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["[", "[", "]", '"]"', '"[\\""', '""', '"\\\\"']), max_size=200), st.integers(1, 40))
def test_depth_is_exact_whatever_stands_between(pieces, limit):
    """A document passes exactly when no place in it is within more arrays than the limit."""
    text, depth, deepest = "[", 1, 1
    for piece in pieces:
        if piece != "]":
            text += piece + ("," if piece != "[" else "")
        elif depth > 1:
            text += "0],"
        depth = max(1, depth + {"[": 1, "]": -1}.get(piece, 0))
        deepest = max(deepest, depth)
    data = (text + "0" + "]" * depth).encode()
    if deepest <= limit:
        assert read(data, max_depth=limit) == json.loads(data)
    else:
        with pytest.raises(FormatError, match=f"deeper than {limit} levels"):
            read(data, max_depth=limit)


def seconds(data: bytes) -> float:
    """The least CPU time of three readings, without the collector, whose rounds depend on what else is alive."""
    taken = []
    gc.disable()
    try:
        for _ in range(3):
            begun = time.process_time()
            with contextlib.suppress(FormatError):
                strict_json(data, max_bytes=len(data), max_depth=256)
            taken.append(time.process_time() - begun)
    finally:
        gc.enable()
    return min(taken)


@pytest.mark.parametrize("depth", [250, 257])
def test_deep_nesting_costs_what_shallow_does(depth):
    """A hundred thousand arrays take a like time, be they nested three deep, as deep as is allowed, or too deep."""
    deep = b"[" + b",".join([b"[" * depth + b"]" * depth] * (100_000 // depth)) + b"]"
    shallow = b"[" + b",".join([b"[[[]]]"] * 33_333) + b"]"
    assert seconds(deep) < 6 * seconds(shallow)


@pytest.mark.parametrize("far", [b"1e308", b"1E+308", b"-2.5e-308", b"5e-0324", b"0.0001e312"])
def test_numbers_at_the_ends_of_the_doubles_cost_what_others_do(far):
    """A number near the largest or least double takes no thousand times as long as one in the middle."""
    assert seconds(b"[" + (far + b",") * 2000 + b"1]") < 100 * seconds(b"[" + b"1.5e99," * 2000 + b"1]")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=8),
    st.sampled_from(["%r", "%.17e", "%.30E", "%.0e", "%.400f"]),
    st.sampled_from(["", " " * 2000, '"3e123",' * 200 + " " * 2000, '"3e123 1e-456 4",' * 100]),
)
@example([1.7976931348623157e308, -5e-324, 1e-310], "%r", "")
@example([-1.7976931348623157e308], "%.400f", " " * 2000)
def test_reads_every_spelling_of_a_double(values, form, before):
    """Doubles come back bit for bit, however they are spelled and whatever stands in strings beside them."""
    same(("[" + before + ",".join([*((form % value) for value in values), "0"]) + "]").encode())


@pytest.mark.parametrize("far", [b"1e400", b"-1e0309", b"2E+308", b"1" * 40 + b"e290"])
@pytest.mark.parametrize("before", [b"", b" " * 2000, b'"3e123",' * 2000])
def test_refuses_an_overflow_wherever_it_stands(far, before):
    """A number beyond the doubles is refused in a short document, in a long one, and behind much that looks like it."""
    with pytest.raises(FormatError, match=r"(?i)number out of range"):
        read(b"[" + before + far + b"]")


def test_hex_is_no_reason_to_read_numbers_slowly(monkeypatch):
    """Digits and an e in identifiers do not send a long document's numbers through the slower reader."""

    def refuse(data):
        raise AssertionError("read slowly")

    monkeypatch.setattr("gateway.crypto.canonical._decode_far", refuse)
    data = b'{"id":"chatcmpl-3e123456e789-4e-1234","logprobs":[%s-9999.0, -1e-5]}' % (b"-1.25e-07," * 200)
    assert read(data) == json.loads(data)


def test_a_long_integer_is_looked_for_without_reading_again(monkeypatch):
    """Neither an integer of 19 digits nor a colon spelled as an escape has the document read by another reader."""

    def refuse(*args, **options):
        raise AssertionError("read a second time")

    data = b'{"\\u003a":[0,1234567890123456789,-9223372036854775807,"9223372036854775808",0.9223372036854775808]}'
    value = json.loads(data)
    monkeypatch.setattr("json.loads", refuse)
    assert read(data) == value


def test_a_duplicate_is_refused_in_a_document_too_long_to_name_it():
    """In a document of more than 4 MiB a key that stands twice is refused, and not looked for."""
    with pytest.raises(FormatError, match="a key twice in one object"):
        strict_json(b'{"a":1,"a":"%s"}' % (b"x" * (1 << 22)), max_bytes=1 << 23)


def test_reads_two_hundred_thousand_keys():
    """A very wide object is read, and its one duplicate found."""
    members = [f'"k{n}":{n}' for n in range(200_000)]
    assert len(strict_json(("{" + ",".join(members) + "}").encode(), max_bytes=1 << 23)) == 200_000
    with pytest.raises(FormatError, match="the key 'k7' twice"):
        strict_json(("{" + ",".join([*members, '"k7":0']) + "}").encode(), max_bytes=1 << 23)


# An oracle: the standard library's reader with every rule spelled out the slow way.


def oracle(data: bytes) -> object:
    def unique(pairs):
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("duplicate")
        return dict(pairs)

    def bounded(digits):
        if len(digits) > 25 or abs(int(digits)) >= 2**63:
            raise ValueError("integer")
        return int(digits)

    def finite(digits):
        if not math.isfinite(float(digits)):
            raise ValueError("range")
        return float(digits)

    def constant(name):
        raise ValueError(name)

    text = data.decode("utf-8", "strict")
    hooks = {"object_pairs_hook": unique, "parse_int": bounded, "parse_float": finite, "parse_constant": constant}
    value = json.loads(text, **hooks)
    json.dumps(value, ensure_ascii=False).encode("utf-8", "strict")
    return value


def same(data: bytes) -> None:
    try:
        expected = oracle(data)
    except ValueError:
        with pytest.raises(FormatError):
            read(data)
        return
    found = read(data)
    assert found == expected
    assert json.dumps(found) == json.dumps(expected)  # tells 1 from 1.0 and True, and -0.0 from 0.0


PIECES = [
    *'{}[]:,"\\',
    '"a"',
    '"\\u0061"',
    '"\\u003a"',
    '":"',
    '"b"',
    "1",
    "-",
    "0",
    ".5",
    "e9",
    "1e400",
    "-0.0",
    "9" * 19,
]
PIECES += ["123456789012345678901", "0.12345678901234567890", "true", "null", "\\ud800", "\\udc00", '"\\ud83d\\ude00"']
PIECES += [" ", "\n", "\t", "\f", "\0", "\ufeff", "é", "\u2028", "NaN", "[[", "]]", '{"a":', '"}']


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
@example('{"a":1,"a":1}')
def test_agrees_with_the_oracle_on_scraps(text):
    """On documents put together from awkward scraps, the reader and the slow oracle accept the same ones alike."""
    same(text.encode())


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(VALUES, st.booleans(), st.data())
def test_agrees_with_the_oracle_on_damaged_documents(value, escape, data):
    """On valid documents with one byte replaced, removed or doubled, both still agree."""
    document = bytearray(json.dumps(value, ensure_ascii=escape).encode("utf-8", "surrogatepass"))
    same(bytes(document))
    at = data.draw(st.integers(0, len(document) - 1))
    document[at : at + 1] = data.draw(
        st.sampled_from([b"", bytes(document[at : at + 1]) * 2, b'"', b"\\", b":", b"\xff"])
    )
    same(bytes(document))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_raises_format_error_only(data):
    """Whatever the bytes, a value comes out or a FormatError."""
    same(data)
