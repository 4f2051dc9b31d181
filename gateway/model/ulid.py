"""Receipt ids: ULIDs that are ours, never the node's, and strictly rising within one process."""

from __future__ import annotations

import re

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CANONICAL = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
#: The digit of a byte's last five bits.
_DIGITS = _ALPHABET.encode() * 8
#: Bytes of randomness in an id: a digit is made of each.
RANDOM_BYTES = 16


def is_ulid(text: str) -> bool:
    """Whether `text` is a ULID in its one canonical form (26 upper-case Crockford digits, at most 128 bits)."""
    return _CANONICAL.fullmatch(text) is not None


def encode(value: int, digits: int = 26) -> str:
    """The canonical text of a 128-bit `value`; with fewer `digits`, of as many times five bits."""
    return "".join([_ALPHABET[(value >> shift) & 31] for shift in range(5 * (digits - 1), -1, -5)])


class UlidFactory:
    """Mints ULIDs that rise strictly even when the clock stands still or jumps back.

    `mint(now_ms, randomness)` takes both from outside: `now_ms` milliseconds since the epoch, 16 bytes of `randomness`.
    """

    def __init__(self) -> None:
        self._last = ""
        self._about = -1  # the time without its last ten bits, and how an id with it begins
        self._front = ""

    def mint(self, now_ms: int, randomness: bytes) -> str:
        about = now_ms >> 10
        if about != self._about:
            self._about, self._front = about, encode(about, 8)
        text = (
            self._front
            + _ALPHABET[now_ms >> 5 & 31]
            + _ALPHABET[now_ms & 31]
            + randomness.translate(_DIGITS).decode("ascii")
        )
        if text <= self._last:
            text = _following(self._last)
        self._last = text
        return text


def _following(text: str) -> str:
    """The id that comes right after `text`."""
    head = text.rstrip("Z")
    return head[:-1] + _ALPHABET[_ALPHABET.index(head[-1]) + 1] + "0" * (len(text) - len(head))
