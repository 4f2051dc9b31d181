"""Caps and deadlines of the attested channel, as values."""

from __future__ import annotations

import msgspec

MiB = 1024 * 1024


class Limits(msgspec.Struct, frozen=True):
    """What one pool may hold, and what a peer may make it hold. Sizes in bytes, times in seconds."""

    connections: int = 1024  # open at once, all origins
    connections_per_origin: int = 256  # a hostile node fills its own share only (E23)
    idle_per_origin: int = 256  # kept for reuse
    keepalive_s: float = 60.0  # an idle connection older than this is closed
    head_bytes: int = 64 * 1024  # all heads of one answer together, 1xx included
    head_fields: int = 100
    interim: int = 8  # 100 and 103 answers before the final one
    body_bytes: int = 32 * MiB
    chunk_overhead: int = 64 * 1024  # sizes, extensions and trailers, beyond what small chunks need
    high_water: int = 256 * 1024  # unread body bytes at which the peer is made to wait
    addresses: int = 4  # tried for one name


class Deadlines(msgspec.Struct, frozen=True):
    """How long one exchange may take, in seconds from its start (`idle_s`: between bytes).

    `first_byte_s` runs until the final answer's head is complete, so a head dribbled byte by byte does not evade it.
    `progress_s`, where set, runs between calls of `Connection.progress()`: a flood of comments is not progress. It
    counts only the time in which `read_some` waits for bytes; the idle clock stands still while the peer is stopped.
    """

    first_byte_s: float = 60.0
    idle_s: float = 30.0
    total_s: float = 600.0
    progress_s: float = float("inf")
