"""JSON at the edge: one strict reader, and the canonical writer (JCS, RFC 8785).

`strict_json` exists because common readers differ on the same bytes: of duplicate keys all take the last, some accept
NaN, 1e400, a BOM, UTF-16 or lone surrogates, and deep nesting raises what a caller does not expect. A signature over
such bytes means different things to different readers, so they are refused.

Both functions do their common case in C and prove, cheaply, that the C library's answer is the strict one; only what
cannot be proved so takes the slow road.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import msgspec
import rfc8785

from gateway.errors import FormatError

#: Integers that IEEE 754 doubles hold exactly (RFC 8785 section 3.2.2.3, I-JSON).
_SAFE = 2**53 - 1
_INT_LIMIT = 2**63
_SCALARS = frozenset((str, bool, type(None)))

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode

# Digits become 0, what may stand before a number becomes a space, everything else a letter: then a substring search
# finds long integers at memory speed, where a regular expression costs 12 ns a byte. A fraction's digits follow a
# point, and a string's a quote or another letter (hex is full of them), so that neither matches.
_BEFORE_A_NUMBER = b" \t\n\r[,:-"
_DIGITS = bytes(0x30 if byte in b"0123456789" else 0x20 if byte in _BEFORE_A_NUMBER else 0x78 for byte in range(256))
_LONG_RUN = b"0" * 19
_LONG_INTEGER = b" " + _LONG_RUN
_LONE_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
_NOT_BRACKET_OR_QUOTE = bytes(byte for byte in range(256) if byte not in b'[]{}"')
_ONE_BRACKET = bytes.maketrans(b"{}", b"[]")


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


def strict_json(data: bytes, *, max_bytes: int, max_depth: int = 64) -> object:
    """The one JSON document in `data`, or `FormatError` naming what is wrong and, where known, at which byte.

    Accepts UTF-8 without BOM, at most `max_bytes` bytes and `max_depth` levels of arrays and objects. Refuses
    duplicate keys (also when spelled with escapes), NaN, infinities, numbers that overflow a double, integers of
    magnitude 2**63 or more, lone surrogates and trailing bytes. Integers come back as int, every other number as float.
    """
    if len(data) > max_bytes:
        raise FormatError(f"JSON of {len(data)} bytes is over the limit of {max_bytes}")
    try:
        value = _decode(data)
        again = _encode(value)
    except RecursionError:
        raise FormatError(f"JSON is nested deeper than {max_depth} levels") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _explain(data, str(error))
    if data.count(b"[") + data.count(b"{") > max_depth:
        _check_depth(data, max_depth)
    # Every member has a colon, every other colon stands in a string. When none of those is spelled as an escape, the
    # re-encoded value has fewer colons than the input exactly when the decoder dropped a member, that is a duplicate.
    doubtful = again != data and (again.count(b":") != data.count(b":") or b"\\u003" in data)
    digits = data.translate(_DIGITS)
    if digits.find(_LONG_RUN) >= 0:  # `find`: `in` raises and drops a TypeError first; no space in it: it skips faster
        doubtful = doubtful or _LONG_INTEGER in digits or digits.startswith(_LONG_RUN)
    if doubtful:
        _inspect(data)
    return value


def _check_depth(data: bytes, max_depth: int) -> None:
    """Measure nesting on the bytes of a document already known to be well formed; strings may hold brackets too."""
    if b"\\" in data:  # after this, every quote opens or closes a string
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    between = data.translate(None, _NOT_BRACKET_OR_QUOTE).split(b'"')[::2]
    brackets = b"".join(between).translate(_ONE_BRACKET)
    for _ in range(max_depth):  # each round takes away the innermost level
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return
    raise FormatError(f"JSON is nested deeper than {max_depth} levels")


def _inspect(data: bytes) -> None:
    """Read again, slowly, with every object and integer looked at."""
    json.loads(data, object_pairs_hook=_unique, parse_int=_bounded)


def _unique(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise FormatError(f"JSON has the key {_shown(key)} twice in one object")
        seen.add(key)


def _bounded(digits: str) -> None:
    if abs(int(digits)) >= _INT_LIMIT:
        raise FormatError(f"JSON has the integer {_shown(digits)}, which is beyond 64 bits")


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
