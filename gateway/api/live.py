"""The live feed: one row per receipt, to whoever listens. Lossy by design; readers refill by index from the log.

A slow listener loses the oldest rows of its own queue and never slows the gateway down. One whose key is revoked gets
no further row.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

import msgspec

from gateway.model.admin import Row
from gateway.model.entry import Committed, ReceiptRow

BACKLOG = 1000


class Listener:
    """One reader's queue, and the key that it came with."""

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        self.rows: deque[bytes] = deque(maxlen=BACKLOG)
        self.wake = asyncio.Event()
        self.closed = False


class LiveFeed:
    """All listeners of one gateway. `in_force` says of a key's id whether it may still listen."""

    def __init__(self, in_force: Callable[[str], bool]) -> None:
        self._in_force = in_force
        self.listeners: set[Listener] = set()

    def publish(self, row: ReceiptRow, done: asyncio.Future[Committed]) -> None:
        """Tell everybody of a receipt that has become durable; nothing of one that has not."""
        if done.cancelled() or done.exception() is not None:
            return
        data = msgspec.json.encode(Row(**msgspec.structs.asdict(row), index=done.result().index))
        for listener in self.listeners:
            listener.rows.append(data)
            listener.wake.set()

    async def listen(self, key_id: str, keepalive_s: float = 15.0) -> AsyncIterator[bytes]:
        """Event-stream bytes for one listener, until it leaves, its key is revoked, or the gateway stops."""
        listener = Listener(key_id)
        self.listeners.add(listener)
        try:
            yield b": veriroute live feed\n\n"
            while not listener.closed and self._in_force(key_id):
                try:
                    async with asyncio.timeout(keepalive_s):
                        await listener.wake.wait()
                except TimeoutError:
                    yield b": still here\n\n"
                    continue
                listener.wake.clear()
                while listener.rows and self._in_force(key_id):
                    yield b"data: " + listener.rows.popleft() + b"\n\n"
            if not listener.closed:
                yield b": this key is no longer in force\n\n"
        finally:
            self.listeners.discard(listener)

    def recheck(self) -> None:
        """The keys have changed: have every listener look whether its own is still in force."""
        for listener in self.listeners:
            listener.wake.set()

    def close(self) -> None:
        for listener in self.listeners:
            listener.closed = True
            listener.wake.set()
