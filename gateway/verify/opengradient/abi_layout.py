"""The shape of ABI data before a decoder may follow its offsets: Solidity's one layout, walked in linear time.

A decoder goes wherever an offset leads, so a thousand offsets to the same thousand numbers become a million numbers
before anyone can compare (`abi.decode` compares afterwards). Here nothing is followed: each offset has to be the one
that the canonical encoding has at that place, tails in order, without gaps, up to the last byte.

    INPUT = Record((Sequence(Record(("string", Sequence(PAIR)))),))
    spelled(INPUT)                        # "((string,(int128,int128)[])[])", as it stands in a signature
    check_layout([INPUT], data)           # FormatError, or `data` may be decoded
"""

from __future__ import annotations

from typing import NamedTuple, NoReturn

from gateway.errors import FormatError

from .abi import MAX_ANSWER, WORD


class Record(NamedTuple):
    """A tuple (struct) of `members`."""

    members: tuple[Kind, ...]


class Sequence(NamedTuple):
    """A list `of[]` of any length."""

    of: Kind


#: A static word (`int128`, `bool`, …), `string`, a record or a list.
Kind = str | Record | Sequence


def spelled(kind: Kind) -> str:
    """The type as the ABI spells it in a signature."""
    if isinstance(kind, Record):
        return f"({','.join(map(spelled, kind.members))})"
    return f"{spelled(kind.of)}[]" if isinstance(kind, Sequence) else kind


def check_layout(kinds: tuple[Kind, ...], data: bytes) -> None:
    """That `data`, at most `abi.MAX_ANSWER` bytes, has the canonical layout of values of `kinds`. Raises `FormatError`.

    Values are not looked at: padding, ranges and texts are the decoder's.
    """
    if len(data) > MAX_ANSWER:
        raise FormatError(f"ABI data of {len(data)} bytes is over the limit of {MAX_ANSWER}", reason="too_large")
    if _members(kinds, data, 0) != len(data):
        _malformed("bytes follow the last value")


def _members(kinds: tuple[Kind, ...], data: bytes, base: int) -> int:
    """Where the values of `kinds`, whose heads begin at `base`, end."""
    head, tail = base, base + sum(map(_head_size, kinds))
    if tail > len(data):
        _malformed("cut short")
    for kind in kinds:
        if _is_dynamic(kind):
            if _number(data, head) != tail - base:
                _malformed("an offset is not the canonical one")
            tail = _tail(kind, data, tail)
        head += _head_size(kind)
    return tail


def _tail(kind: Kind, data: bytes, at: int) -> int:
    if isinstance(kind, Record):
        return _members(kind.members, data, at)
    count = _number(data, at)
    if isinstance(kind, Sequence):
        size = _head_size(kind.of)
        if count > (len(data) - at) // size:
            _malformed("a list is cut short")
        if not _is_dynamic(kind.of):
            return _within(data, at + WORD + count * size)
        return _members((kind.of,) * count, data, at + WORD)
    if count > len(data):
        _malformed("a text is cut short")
    return _within(data, at + WORD + -(-count // WORD) * WORD)


def _is_dynamic(kind: Kind) -> bool:
    if isinstance(kind, Record):
        return any(map(_is_dynamic, kind.members))
    return isinstance(kind, Sequence) or kind == "string"


def _head_size(kind: Kind) -> int:
    if isinstance(kind, Record) and not _is_dynamic(kind):
        return sum(map(_head_size, kind.members))
    return WORD


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : _within(data, at + WORD)], "big")


def _within(data: bytes, end: int) -> int:
    if end > len(data):
        _malformed("cut short")
    return end


def _malformed(what: str) -> NoReturn:
    raise FormatError(f"malformed ABI data: {what}", reason="abi_malformed")
