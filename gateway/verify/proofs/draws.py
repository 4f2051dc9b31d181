"""Reproducible draws: a counter, a key and SHA-256, so that whoever has the key draws the same.

    word(key, i) = u64be(SHA-256(key || u64be(i))[:8])

Not for secrets: keys are revealed so that others can recompute.
"""

from __future__ import annotations

import hashlib

_WORD = 2**64


def word(key: bytes, counter: int) -> int:
    """The 64-bit number at place `counter` (0 to 2**64 - 1) of the sequence of `key`."""
    return int.from_bytes(hashlib.sha256(key + counter.to_bytes(8, "big")).digest()[:8], "big")


def below(bound: int, key: bytes, counter: int) -> tuple[int, int]:
    """A number from 0 to `bound` - 1 (1 to 2**64), all equally likely, from place `counter` on; and the next place."""
    limit = _WORD - _WORD % bound  # what is over the last whole multiple would make small numbers likelier
    while True:
        drawn = word(key, counter)
        counter += 1
        if drawn < limit:
            return drawn % bound, counter


def shuffled(length: int, key: bytes, counter: int) -> tuple[list[int], int]:
    """The numbers from 0 to `length` - 1 in random order (Fisher-Yates), and the next place."""
    order = list(range(length))
    for last in range(length - 1, 0, -1):
        other, counter = below(last + 1, key, counter)
        order[last], order[other] = order[other], order[last]
    return order, counter
