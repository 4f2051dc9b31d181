"""Remembers signed messages for as long as they could be shown again: one seen twice is a replay.

The key is the signed message and its signer, not the signature: high-s twins and the like sign the same thing twice.
Only what its signer did sign is remembered, else anybody could make another's answer an old one before it comes. A
message older than the policy's window is refused for its time, so entries older than that can go.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict


class Journal:
    """Bounded in time and number. At the limit the oldest go first, which only ever shortens the memory of the old."""

    def __init__(self, *, window_s: float = 7200.0, most: int = 200_000) -> None:
        self._window = window_s
        self._most = most
        self._seen: OrderedDict[bytes, float] = OrderedDict()

    def seen(self, network: str, statement: bytes) -> float | None:
        """When this statement (what was signed, and by whom) was first seen; None where it was not."""
        return self._seen.get(_key(network, statement))

    def remember(self, network: str, statement: bytes, now: float) -> None:
        """Take in a statement whose signature holds."""
        self._seen.setdefault(_key(network, statement), now)
        while self._seen:
            oldest = next(iter(self._seen.values()))
            if len(self._seen) <= self._most and oldest >= now - self._window:
                break
            self._seen.popitem(last=False)


def _key(network: str, statement: bytes) -> bytes:
    return hashlib.sha256(network.encode() + b"\n" + statement).digest()[:16]
