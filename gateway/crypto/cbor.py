"""CBOR at the edge (RFC 8949): the small part of it that attestation formats use, with one meaning for every input.

Readers of CBOR differ on hostile bytes: of duplicate keys one takes the first and one the last; `1`, `1.0` and `true`
are one key to Python and three to CBOR; a tag can run a date parser, a four-byte head can ask for four gigabytes, and
a few hundred bytes nest deeper than a stack. So the bytes are walked first, by an iterative scan that allocates
nothing: sizes, depth, heads, UTF-8, keys, and the end. Only what passes is handed to the library, without its tag.

Accepted: integers of 64 bits, byte and text strings, arrays, maps, false, true and null. Heads are the shortest that
say the thing. Map keys are integers or text, each once. Arrays and maps may have indefinite length unless the caller
says otherwise (the Nitro hypervisor writes them). Refused, for no format here has them: floats, undefined and other
simple values, strings in chunks, and every tag but one allowed by the caller around the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import cbor2

from gateway.errors import FormatError

CborValue: TypeAlias = "int | str | bytes | bool | Sequence[CborValue] | Mapping[int | str, CborValue] | None"

MAX_BYTES = 65_536
MAX_DEPTH = 16
MAX_ITEMS = 4_096

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_BREAK = 0xFF
_INDEFINITE = 31
#: false, true, null (RFC 8949 section 3.3).
_SIMPLE_VALUES = (20, 21, 22)


class CborError(FormatError):
    """Bytes that are not the CBOR that is read here. `reason` is cbor_too_big|cbor_truncated|cbor_trailing_bytes|
    cbor_too_deep|cbor_too_many_items|cbor_duplicate_key|cbor_bad_key|cbor_bad_text|cbor_tag|cbor_not_shortest|
    cbor_indefinite|cbor_malformed|cbor_not_supported."""


def load(data: bytes, *, max_bytes: int = MAX_BYTES, indefinite: bool = True) -> CborValue:
    """The one untagged item that `data` is, to its last byte. Raises `CborError`."""
    return load_tagged(data, (None,), max_bytes=max_bytes, indefinite=indefinite)[1]


def load_tagged(
    data: bytes, tags: Sequence[int | None], *, max_bytes: int = MAX_BYTES, indefinite: bool = True
) -> tuple[int | None, CborValue]:
    """The tag around the whole and what it encloses. `tags` are those allowed, None for none. Raises `CborError`."""
    if len(data) > max_bytes:
        raise CborError(f"CBOR of {len(data)} bytes is over the limit of {max_bytes}", reason="cbor_too_big")
    tag, start = None, 0
    if data and data[0] >> 5 == _TAG:
        _, _, tag, start = _head(data, 0)
    if tag not in tags:
        found = "no tag" if tag is None else f"the tag {tag}"
        raise CborError(f"CBOR has {found} around the whole", reason="cbor_tag")
    _scan(data, start, indefinite)
    try:
        return tag, cbor2.loads(data[start:])
    except cbor2.CBORDecodeError as error:  # nothing that passed the scan is known to end here
        raise CborError(f"CBOR is malformed: {type(error).__name__}", reason="cbor_malformed") from None


class _Open:
    """A container that is being walked: how many items are still due (None: until the break), and a map's keys."""

    __slots__ = ("at_key", "is_map", "keys", "left")

    def __init__(self, left: int | None, is_map: bool) -> None:
        self.left = left
        self.is_map = self.at_key = is_map
        self.keys: set[bytes] = set()

    def count(self) -> None:
        if self.left is not None:
            self.left -= 1
        self.at_key = self.is_map and not self.at_key


def _scan(data: bytes, at: int, indefinite: bool) -> None:
    """Walk the one item at `at` to the end of `data`, or raise `CborError`. Time and memory are linear in the bytes."""
    stack: list[_Open] = []
    items = 0
    while True:
        items += 1
        if items > MAX_ITEMS:
            raise CborError(f"CBOR has more than {MAX_ITEMS} items", reason="cbor_too_many_items")
        if stack and stack[-1].left is None and data[at : at + 1] == b"\xff":
            at = _close(stack, at)
        else:
            at = _item(data, at, stack, indefinite)
        while stack and stack[-1].left == 0:
            stack.pop()
        if not stack:
            break
    if at != len(data):
        raise CborError(f"CBOR has {len(data) - at} bytes after its end", reason="cbor_trailing_bytes")


def _close(stack: list[_Open], at: int) -> int:
    """A break: the innermost container of indefinite length ends here."""
    done = stack.pop()
    if done.is_map and not done.at_key:
        raise CborError(f"a CBOR map ends after a key (byte {at})", reason="cbor_malformed")
    return at + 1


def _item(data: bytes, at: int, stack: list[_Open], indefinite: bool) -> int:
    """One head and, for a string, its bytes. Returns where the next item starts."""
    first, major, value, end = _head(data, at)
    key = bool(stack) and stack[-1].at_key
    if key and major not in (_UNSIGNED, _NEGATIVE, _TEXT):
        raise CborError(f"a CBOR map has a key of major type {major} (byte {at})", reason="cbor_bad_key")
    if major in (_BYTES, _TEXT):
        end = _string(data, at, end, major, value)
    if key:
        _note_key(stack[-1].keys, data[at:end], at)
    if stack:
        stack[-1].count()
    if major in (_ARRAY, _MAP):
        if value is None and not indefinite:
            raise CborError(f"CBOR of indefinite length (byte {at})", reason="cbor_indefinite")
        if len(stack) >= MAX_DEPTH:
            raise CborError(f"CBOR is nested deeper than {MAX_DEPTH} levels", reason="cbor_too_deep")
        if value is not None and value > len(data) - end:  # every item has at least a byte
            raise CborError(f"a CBOR container runs past the end (byte {at})", reason="cbor_truncated")
        stack.append(_Open(None if value is None else value * (2 if major == _MAP else 1), major == _MAP))
    elif major == _TAG:
        raise CborError(f"CBOR has a tag inside (byte {at})", reason="cbor_tag")
    elif major == _SIMPLE and first & 31 not in _SIMPLE_VALUES:
        reason = "cbor_malformed" if first == _BREAK else "cbor_not_supported"
        raise CborError(f"CBOR has a float, simple value or break (byte {at})", reason=reason)
    return end


def _string(data: bytes, at: int, start: int, major: int, length: int | None) -> int:
    """Where a string of `length` bytes that starts at `start` ends; text is UTF-8."""
    if length is None:
        raise CborError(f"a CBOR string in chunks (byte {at})", reason="cbor_indefinite")
    end = start + length
    if end > len(data):
        raise CborError(f"a CBOR string runs past the end (byte {at})", reason="cbor_truncated")
    if major == _TEXT:
        try:
            data[start:end].decode()
        except UnicodeDecodeError:
            raise CborError(f"a CBOR text is not UTF-8 (byte {at})", reason="cbor_bad_text") from None
    return end


def _note_key(keys: set[bytes], spelled: bytes, at: int) -> None:
    """Refuse a key that the map already has. Heads are the shortest, so equal keys are equal bytes."""
    if spelled in keys:
        raise CborError(f"a CBOR map has a key twice (byte {at})", reason="cbor_duplicate_key")
    keys.add(spelled)


def _head(data: bytes, at: int) -> tuple[int, int, int | None, int]:
    """First byte, major type, argument (None: indefinite length) and end of the head at `at` (RFC 8949 section 3)."""
    if at >= len(data):
        raise CborError("CBOR ends early", reason="cbor_truncated")
    first = data[at]
    major, info = first >> 5, first & 31
    if info < 24:
        return first, major, info, at + 1
    if info == _INDEFINITE and major in (_BYTES, _TEXT, _ARRAY, _MAP, _SIMPLE):
        return first, major, None, at + 1
    if info > 27:
        raise CborError(f"a CBOR head is reserved (byte {at})", reason="cbor_malformed")
    width = 1 << (info - 24)
    end = at + 1 + width
    if end > len(data):
        raise CborError("CBOR ends early", reason="cbor_truncated")
    value = int.from_bytes(data[at + 1 : end], "big")
    shortest = value >= 24 if width == 1 else value >> (4 * width) > 0
    if not shortest and major != _SIMPLE:
        raise CborError(f"a CBOR head is longer than it need be (byte {at})", reason="cbor_not_shortest")
    return first, major, value, end
