"""JSON at the edge: one strict reader, and the canonical writer (JCS, RFC 8785).

`strict_json` exists because common readers differ on the same bytes: of duplicate keys all take the last, some accept
NaN, 1e400, a BOM, UTF-16 or lone surrogates, and deep nesting raises what a caller does not expect. A signature over
such bytes means different things to different readers, so they are refused.

Both functions do their common case in C and prove, cheaply, that the C library's answer is the strict one; only what
cannot be proved so takes the slow road. The reader stands in the event loop and reads whatever a node sends, so no
spelling of a document may cost much more a byte than an honest one does.
"""

from __future__ import annotations

import json
import math
import re
from itertools import accumulate
from typing import Any, NoReturn

import msgspec
import rfc8785

from gateway.errors import FormatError

#: Integers that IEEE 754 doubles hold exactly (RFC 8785 section 3.2.2.3, I-JSON).
_SAFE = 2**53 - 1
_MAX_INTEGER = b"9223372036854775807"
_SCALARS = frozenset((str, bool, type(None)))

#: Arrays and objects in one document: no honest one of a mebibyte has as many. A longer one may have one for every 16
#: bytes: log-probs, the densest that is long, have one for 20.
MAX_CONTAINERS = 500_000
_BYTES_A_CONTAINER = 16
_ROUNDS = 16  # levels that are taken away one by one; honest documents, with schemas of tools in them, have up to 12
_NAMED = 4 * 1024 * 1024  # longest document that is read again only to say which key stands twice


def _float(digits: str) -> float:
    """Python's reader: msgspec takes up to 45 us for one at either end of the doubles, for `1e308` 8 s a megabyte."""
    number = float(digits)
    if math.isinf(number):
        raise ValueError("number out of range")
    return number


_decode = msgspec.json.Decoder().decode
_decode_far = msgspec.json.Decoder(float_hook=_float).decode
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode

# Digits become 0, what may stand before a number becomes a space, an E or a sign an e, everything else another letter:
# then a substring search finds long integers and exponents at memory speed, where a regular expression costs 12 ns a
# byte. A fraction's digits follow a point, and a string's a quote or another letter (hex is full of them), so that
# neither is taken for an integer.
_CLASSES = {b"0123456789": b"0", b" \t\n\r[,:": b" ", b"eE+-": b"e"}
_DIGITS = bytes(next((to[0] for of, to in _CLASSES.items() if byte in of), 0x78) for byte in range(256))
_LONG_RUN = b"0" * 19
_LONG_INTEGER, _LONG_NEGATIVE = b" " + _LONG_RUN, b" e" + _LONG_RUN
_LONG_FIRST = (_LONG_RUN, b"e" + _LONG_RUN)
_EXPONENT = b"e000"  # behind an E or its sign
_MANTISSA = re.compile(rb"(?:^|[ \t\n\r\[,:])-?[0-9.]+[eE]?$")
_SHORT, _LOOKS = 1024, 32
_LONE_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
_LONG_NUMBER = re.compile(rb"[-+.eE0-9]{19,}")
_NOT_BRACKET_OR_QUOTE = bytes(byte for byte in range(256) if byte not in b'[]{}"')
_ONE_BRACKET = bytes.maketrans(b"{}", b"[]")
_STEPS = bytes.maketrans(b"[]", b"\x01\xff")  # as signed bytes, 1 and -1


def jcs(value: object) -> bytes:
    """`value` in the JSON Canonicalization Scheme (RFC 8785).

    `value` is made of dict, list, tuple, str, bool, int, float and None. Raises `FormatError` for anything else, for
    integers beyond 2**53 - 1, NaN, infinities, lone surrogates, keys that are no strings, and endless nesting.
    """
    try:
        # With ASCII keys code-point order is UTF-16 order; without floats there is no number to format in
        # ECMAScript's way; and msgspec escapes strings exactly as RFC 8785 section 3.2.2.2 says.
        if _is_plain(value):
            return _encode_sorted(value)
        return rfc8785.dumps(value)  # type: ignore[arg-type]
    except RecursionError:
        raise FormatError("not representable as canonical JSON: nested too deep") from None
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise FormatError(f"not representable as canonical JSON: {error}") from None


def _is_plain(value: object) -> bool:
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is int:
        return -_SAFE <= value <= _SAFE  # type: ignore[operator]
    if kind is dict:
        for key, item in value.items():  # type: ignore[attr-defined]
            if type(key) is not str or not key.isascii():
                return False
            if type(item) not in _SCALARS and not _is_plain(item):
                return False
        return True
    if kind is list or kind is tuple:
        return all(map(_is_plain, value))  # type: ignore[call-overload]
    return False


def strict_json(data: bytes, *, max_bytes: int, max_depth: int = 64, any_integer: bool = False) -> object:
    """The one JSON document in `data`, or `FormatError` naming what is wrong and, where known, at which byte.

    Accepts UTF-8 without BOM, at most `max_bytes` bytes, `max_depth` levels of arrays and objects, and `MAX_CONTAINERS`
    of them or one for every 16 bytes. Refuses duplicate keys (also when spelled with escapes), NaN, infinities, numbers
    that overflow a double, integers of magnitude 2**63 or more, lone surrogates and trailing bytes. Integers come back
    as int, every other number as float. `any_integer`: for a reader of texts alone, integers may have any magnitude.
    """
    if len(data) > max_bytes:
        raise FormatError(f"JSON of {len(data)} bytes is over the limit of {max_bytes}")
    if data.count(b"[") + data.count(b"{") > max_depth:
        _check_containers(data, max_depth)
    digits = data.translate(_DIGITS)
    at = digits.find(_EXPONENT)
    try:
        value = _decode_far(data) if at >= 0 and _has_far(data, digits, at) else _decode(data)
        again = _encode(value)
    except RecursionError:
        raise FormatError(f"JSON is nested deeper than {max_depth} levels") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _explain(data, str(error))
    # Every member has a colon, every other colon stands in a string. When none of those is spelled as an escape, the
    # re-encoded value has fewer colons than the input exactly when the decoder dropped a member, that is a duplicate.
    doubtful = again != data and (again.count(b":") != data.count(b":") or b"\\u003" in data)
    if digits.find(_LONG_RUN) >= 0:  # `find`: `in` raises and drops a TypeError first; no space in it: it skips faster
        doubtful = doubtful or _LONG_INTEGER in digits or _LONG_NEGATIVE in digits or digits.startswith(_LONG_FIRST)
    if doubtful:
        _inspect(data, again, any_integer)
    return value


def _has_far(data: bytes, digits: bytes, at: int) -> bool:
    """Whether a number may have an exponent of three digits. Hex is full of what looks like one, first at byte `at`."""
    if len(data) < _SHORT:  # has not the numbers for which it would be worth a look
        return True
    for _ in range(_LOOKS):
        if at < 0:
            return False
        if _MANTISSA.search(data[max(0, at - 32) : at]):  # in hex, a letter or a quote stands before the digits
            return True
        at = digits.find(_EXPONENT, at + 1)
    return True


def _check_containers(data: bytes, max_depth: int) -> None:
    """Bound the arrays and objects of a document before the decoder, which takes longest for those, makes them.

    Exact for as much of the document as is well formed, and the decoder gets no further.
    """
    brackets = _unquoted(data, _NOT_BRACKET_OR_QUOTE).translate(_ONE_BRACKET)
    limit = max(MAX_CONTAINERS, len(data) // _BYTES_A_CONTAINER)
    if brackets.count(b"[") > limit:
        raise FormatError(f"JSON has more than {limit} arrays and objects")
    left = brackets
    for _ in range(min(max_depth, _ROUNDS)):  # each takes away the innermost level
        left = left.replace(b"[]", b"")
        if not left:
            return
    if max(accumulate(memoryview(brackets.translate(_STEPS)).cast("b"))) > max_depth:
        raise FormatError(f"JSON is nested deeper than {max_depth} levels")


def _unquoted(data: bytes, dropped: bytes = b"") -> bytes:
    """What stands outside of the strings of `data`, without the bytes in `dropped`."""
    if b"\\" in data:  # after this, every quote opens or closes a string
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Two quotes side by side are an empty string, or two strings with nothing between: away with them, they are many.
    return b"".join(data.translate(None, dropped).replace(b'""', b"").split(b'"')[::2])


def _inspect(data: bytes, again: bytes, any_integer: bool) -> None:
    """Look at every member of `data`, well formed, whose value is written as `again`; and at its integers."""
    outside = _unquoted(data)
    if outside.count(b":") != _unquoted(again).count(b":"):
        if len(data) <= _NAMED:
            json.loads(data, object_pairs_hook=_unique, parse_int=str)
        raise FormatError("JSON has a key twice in one object")
    for number in () if any_integer else _LONG_NUMBER.findall(outside):
        digits = number.removeprefix(b"-")
        if digits.isdigit() and (len(digits) > len(_MAX_INTEGER) or digits > _MAX_INTEGER):
            raise FormatError(f"JSON has the integer {_shown(number.decode())}, which is beyond 64 bits")


def _unique(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise FormatError(f"JSON has the key {_shown(key)} twice in one object")
        seen.add(key)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else text[:60] + "…")


def _explain(data: bytes, reason: str) -> NoReturn:
    """Say what is wrong with `data`, which the decoder refused with `reason`."""
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:4]:
        raise FormatError("JSON must be UTF-8 without a byte order mark (byte 0)")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"JSON is not valid UTF-8: {error.reason} (byte {error.start})") from None
    lone = _LONE_SURROGATE.search(data)
    if "truncated" in reason and lone:  # the decoder looks for the second half and runs past the end
        raise FormatError(f"JSON has a lone surrogate (byte {lone.start()})")
    raise FormatError(reason if reason.startswith("JSON") else f"JSON is malformed: {reason[:1].lower()}{reason[1:]}")
