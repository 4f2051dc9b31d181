"""Neighbours of genuine bytes: what a hostile sender could make out of one item, or of two.

Some mutators know nothing of formats. The others look inside: a JSON or CBOR value changes its shape, and text that
spells bytes in base64 or hex is changed below its spelling, so that inner readers are reached too. Everything comes
from the dice that are given, so the same dice make the same bytes.
"""

from __future__ import annotations

import base64
import binascii
import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import cbor2

#: No input is longer, but for the blown-up ones, which look for work that grows faster than its input.
LIMIT = 1 << 16
BLOWN_UP = 1 << 18
#: One input in this many is blown up.
RARELY = 400

EDGES = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
NUMBERS = (b"0", b"-0", b"-1", b"1e308", b"1e400", b"0.5", b"9223372036854775807", b"9223372036854775808", b"9" * 400)
TEXTS = (
    "",
    "0",
    "\0",
    "é",
    "\u2028",
    "\ud83d\ude00",
    "a" * 5000,
    "0x",
    "%s",
    "2026-13-45T99:99:99Z",
    "0001-01-01T00:00:00Z",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**53,
    2**63 - 1,
    -(2**63),
    0.5,
    1e308,
    [],
    {},
    [[]],
    [None],
    {"": None},
)
VALUES += TEXTS
_ASCII_NUMBER = re.compile(rb"[0-9]+")
_SPELLED = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")
_HEX = re.compile(rb"[0-9a-fA-F]{16,}")

Mutator = Callable[[bytes, random.Random, Sequence[bytes]], bytes]


def mutated(seeds: Sequence[bytes], dice: random.Random) -> bytes:
    """One neighbour of `seeds`: an item with one to four changes, now and then blown up."""
    data = dice.choice(seeds)
    for _ in range(dice.choice((1, 1, 1, 2, 2, 4))):
        data = dice.choice(MUTATORS)(data, dice, seeds)[:LIMIT]
    return data if dice.randrange(RARELY) else _blow_up(data, dice)


def _range(data: bytes, dice: random.Random, longest: int = 64) -> tuple[int, int]:
    start = dice.randrange(len(data) + 1)
    return start, min(len(data), start + dice.randint(1, longest))


def _blow_up(data: bytes, dice: random.Random) -> bytes:
    start, end = _range(data, dice, 256)
    piece = data[start:end] or b"["
    return data[:start] + piece * (dice.randrange(BLOWN_UP) // len(piece)) + data[end:]


# ---------------------------------------------------------------------------------------- that know nothing of formats


def flip(data: bytes, dice: random.Random, seeds: Sequence[bytes]) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(dice.choice((1, 1, 2, 8))):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def put(data: bytes, dice: random.Random, seeds: Sequence[bytes]) -> bytes:
    changed = bytearray(data or b"\0")
    changed[dice.randrange(len(changed))] = dice.choice((0, 0xFF, 0x7F, 0x80, dice.randrange(256), *b' "{}[],:\\-.'))
    return bytes(changed)


def truncate(data: bytes, dice: random.Random, seeds: Sequence[bytes]) -> bytes:
    return data[: dice.randrange(len(data) + 1)]


def delete(data: bytes, dice: random.Random, seeds: Sequence[bytes]) -> bytes:
    start, end = _range(data, dice)
    return data[:start] + data[end:]


def insert(data: bytes, dice: random.Random, seeds: Sequence[bytes]) -> bytes:
    at = dice.randrange(len(data) + 1)
    return data[:at] + dice.randbytes(dice.choice((1, 1, 2, 4, 16))) + data[at:]


def append(data: bytes, dice: random.Random, seeds: Sequence[bytes]) -> bytes:
    return data + dice.choice((b"\0", b"\n", b" ", bytes(64), dice.randbytes(8)))


def repeat(data: bytes, dice: random.Random, seeds: Sequence[bytes]) -> bytes:
    start, end = _range(data, dice)
    return data[:start] + data[start:end] * dice.randint(2, 9) + data[end:]


def splice(data: bytes, dice: random.Random, seeds: Sequence[bytes]) -> bytes:
    other = dice.choice(seeds)
    start, end = _range(other, dice, len(other) + 1)
    at, to = _range(data, dice, len(data) + 1)
    return data[:at] + other[start:end] + (data[to:] if dice.randrange(2) else b"")


def integer(data: bytes, dice: random.Random, seeds: Sequence[bytes]) -> bytes:
    """An integer of 1, 2, 3, 4 or 8 bytes, of either byte order, is an awkward one."""
    width = dice.choice((1, 2, 3, 4, 8))
    value = dice.choice(EDGES) % (1 << 8 * width)
    at = dice.randrange(max(1, len(data) - width))
    return data[:at] + value.to_bytes(width, dice.choice(("big", "little"))) + data[at + width :]


def length(data: bytes, dice: random.Random, seeds: Sequence[bytes]) -> bytes:
    """What may be a length is a little off, or far off: an integer that is no larger than the item."""
    width, order = dice.choice((1, 2, 2, 3, 4)), dice.choice(("big", "little"))
    for _ in range(40):
        at = dice.randrange(max(1, len(data) - width))
        value = int.from_bytes(data[at : at + width], order)
        if 0 < value <= len(data):
            break
    else:
        return data
    changed = dice.choice((value - 1, value + 1, value * 2, value + len(data), 0)) % (1 << 8 * width)
    return data[:at] + changed.to_bytes(width, order) + data[at + width :]


def ascii_number(data: bytes, dice: random.Random, seeds: Sequence[bytes]) -> bytes:
    found = list(_ASCII_NUMBER.finditer(data))
    if not found:
        return data
    start, end = dice.choice(found).span()
    near = str(int(data[start:end][:30]) + dice.choice((-1, 1))).encode()
    return data[:start] + dice.choice((near, *NUMBERS)) + data[end:]


# ---------------------------------------------------------------------------------------------- that look inside


def json_value(data: bytes, dice: random.Random, seeds: Sequence[bytes]) -> bytes:
    """A JSON document, behind whatever stands before it, with one value of another shape."""
    starts = [at for at in (data.find(b"{"), data.find(b"[")) if at >= 0]
    if not starts:
        return data
    try:
        value = json.loads(data[min(starts) :])
    except (ValueError, RecursionError):
        return data
    changed = _other(value, dice)
    return data[: min(starts)] + json.dumps(changed, ensure_ascii=bool(dice.randrange(2))).encode("utf-8", "replace")


def cbor_value(data: bytes, dice: random.Random, seeds: Sequence[bytes]) -> bytes:
    """A CBOR item with one value of another shape, the items in its byte strings included."""
    try:
        value = cbor2.loads(data)
        return cbor2.dumps(_other(_thawed(value), dice))
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError):
        return data


def spelled(data: bytes, dice: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Bytes that are spelled in hex or base64 are changed below the spelling."""
    found = [match for match in _SPELLED.finditer(data) if match.end() - match.start() < 20_000]
    if not found:
        return data
    start, end = dice.choice(found).span()
    text = data[start:end]
    try:
        changed = _respelled(text, lambda inner: dice.choice(MUTATORS)(inner, dice, seeds)[:LIMIT])
    except (ValueError, binascii.Error):
        return data
    return data[:start] + changed + data[end:]


def _respelled(text: bytes, change: Callable[[bytes], bytes]) -> bytes:
    if _HEX.fullmatch(text) and len(text) % 2 == 0:
        return change(bytes.fromhex(text.decode())).hex().encode()
    if b"-" in text or b"_" in text or (len(text) % 4 and not text.endswith(b"=")):
        return base64.urlsafe_b64encode(change(base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4)))).rstrip(b"=")
    return base64.b64encode(change(base64.b64decode(text, validate=True)))


def _thawed(value: Any) -> Any:
    if isinstance(value, cbor2.CBORTag):
        return cbor2.CBORTag(value.tag, _thawed(value.value))
    if isinstance(value, (list, tuple)):
        return [_thawed(item) for item in value]
    return dict(value) if hasattr(value, "items") else value


def _other(value: Any, dice: random.Random) -> Any:
    """`value` with one thing in it replaced, dropped, doubled or renamed."""
    if isinstance(value, cbor2.CBORTag):
        return cbor2.CBORTag(dice.choice((value.tag, dice.choice(EDGES))), _other(value.value, dice))
    if isinstance(value, bytes) and dice.randrange(4):
        return cbor_value(value, dice, ()) if dice.randrange(2) else flip(value, dice, ())
    if not isinstance(value, (dict, list)) or not value or not dice.randrange(6):
        return dice.choice((*VALUES, [value], {"a": value}, str(value)[:5000]))
    changed: Any = value.copy()
    place = dice.choice(list(value) if isinstance(value, dict) else range(len(value)))
    match dice.randrange(6):
        case 0:
            del changed[place]
        case 1 if isinstance(changed, dict):
            changed[dice.choice(TEXTS)] = changed.pop(place)
        case 1:
            changed[place:place] = [changed[place]] * dice.choice((1, 2, 50))
        case _:
            changed[place] = _other(changed[place], dice)
    return changed


MUTATORS: tuple[Mutator, ...] = (
    *(flip, put, truncate, delete, insert, append, repeat, splice, integer, length, ascii_number),
    *(json_value, json_value, cbor_value, spelled, spelled),
)
