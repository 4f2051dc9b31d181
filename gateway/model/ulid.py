"""Receipt ids: ULIDs that are ours, never the node's, and strictly rising within one process."""

from __future__ import annotations

import re

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_CANONICAL = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


def is_ulid(text: str) -> bool:
    """Whether `text` is a ULID in its one canonical form (26 upper-case Crockford digits, at most 128 bits)."""
    return _CANONICAL.fullmatch(text) is not None


def encode(value: int) -> str:
    """The canonical text of a 128-bit `value`."""
    pairs = _PAIRS
    return "".join([pairs[(value >> shift) & 1023] for shift in range(120, -1, -10)])


class UlidFactory:
    """Mints ULIDs that rise strictly even when the clock stands still or jumps back.

    `mint(now_ms, randomness)` takes both from outside: `now_ms` milliseconds since the epoch, `randomness` 80 bits.
    """

    def __init__(self) -> None:
        self._last = 0

    def mint(self, now_ms: int, randomness: int) -> str:
        value = ((now_ms & 0xFFFFFFFFFFFF) << 80) | (randomness & ((1 << 80) - 1))
        if value <= self._last:
            value = self._last + 1
        self._last = value
        return encode(value)
