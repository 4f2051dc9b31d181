"""What of a stream may leave before the verdict, and when.

    buffer      nothing
    window      an event leaves once `events` newer ones have come and it is `ms` milliseconds old
    optimistic  at once
    chained     once a running signature that covers it has been verified

In every mode the first event that is part of an executable member, or that says the answer is complete, and everything
after it, waits for the verdict: text may have been shown, a tool call may not have been made.
"""

from __future__ import annotations

from collections import deque

from .stream import CALL, END, FINISH, Piece

MODES = ("buffer", "window", "optimistic", "chained")


class Hold:
    """Holds the pieces of one stream. `now_ms` is any monotonic clock in milliseconds."""

    def __init__(self, mode: str, *, window_events: int = 16, window_ms: float = 500.0) -> None:
        self.mode = mode
        self._events = window_events
        self._ms = window_ms
        self._waiting: deque[tuple[bytes, float]] = deque()
        self._rest: list[bytes] = []
        self._closed = mode == "buffer"
        self.end = b""

    def offer(self, piece: Piece, now_ms: float) -> bytes:
        """Take a piece in; the bytes that may leave now, in order (often none)."""
        if piece.kind == END:
            self._closed = True
            self.end = piece.out
            return b""
        if self._closed or piece.kind in (CALL, FINISH):
            self._closed = True
            self._rest.append(piece.out)
            return b""
        if self.mode == "optimistic":
            return piece.out
        self._waiting.append((piece.out, now_ms))
        return b"" if self.mode == "chained" else self.due(now_ms)

    def due(self, now_ms: float) -> bytes:
        """Window mode: what has become old enough."""
        out = []
        while len(self._waiting) > self._events and now_ms - self._waiting[0][1] >= self._ms:
            out.append(self._waiting.popleft()[0])
        return b"".join(out)

    def covered(self) -> bytes:
        """Chained mode: a signature over everything so far was verified; what may leave now."""
        out = b"".join([piece for piece, _ in self._waiting])
        self._waiting.clear()
        return out

    def flush(self) -> bytes:
        """After an affirming verdict: everything that is left but the terminator (which is in `end`)."""
        out = b"".join([piece for piece, _ in self._waiting]) + b"".join(self._rest)
        self._waiting.clear()
        self._rest.clear()
        return out
