"""The live feed: one row per receipt, to whoever listens. Lossy by design; readers refill by index from the log.

A slow listener loses the oldest rows of its own queue and never slows the gateway down.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

import msgspec

from gateway.model.admin import Row
from gateway.model.entry import Committed, ReceiptRow

BACKLOG = 1000


class Listener:
    """One reader's queue."""

    def __init__(self) -> None:
        self.rows: deque[bytes] = deque(maxlen=BACKLOG)
        self.wake = asyncio.Event()
        self.closed = False


class LiveFeed:
    """All listeners of one gateway."""

    def __init__(self) -> None:
        self.listeners: set[Listener] = set()

    def publish(self, row: ReceiptRow, done: asyncio.Future[Committed]) -> None:
        """Tell everybody of a receipt that has become durable; nothing of one that has not."""
        if done.cancelled() or done.exception() is not None:
            return
        data = msgspec.json.encode(Row(**msgspec.structs.asdict(row), index=done.result().index))
        for listener in self.listeners:
            listener.rows.append(data)
            listener.wake.set()

    async def listen(self, keepalive_s: float = 15.0) -> AsyncIterator[bytes]:
        """Event-stream bytes for one listener, until it leaves or the gateway stops."""
        listener = Listener()
        self.listeners.add(listener)
        try:
            yield b": veriroute live feed\n\n"
            while not listener.closed:
                try:
                    async with asyncio.timeout(keepalive_s):
                        await listener.wake.wait()
                except TimeoutError:
                    yield b": still here\n\n"
                    continue
                listener.wake.clear()
                while listener.rows:
                    yield b"data: " + listener.rows.popleft() + b"\n\n"
        finally:
            self.listeners.discard(listener)

    def close(self) -> None:
        for listener in self.listeners:
            listener.closed = True
            listener.wake.set()
