"""The ledger of payments: what was promised to whom, durable before it is signed.

A file of its own beside the log's (`<database>-payments`), with one writer thread: SQLite has one writer a file, and
the log must never wait for a payment's sync. The thread takes whatever waits and stores it in one transaction, so a
lone payment pays one commit and a crowd shares one. Each step is a savepoint: one that cannot be done leaves nothing
and does not disturb the others. An answer is given after the commit, never before.

A failure that passes (full disk, lock) fails the batch with `LogUnavailable`; any other ends the ledger until the next
start: after a failed sync nobody knows what the disk holds, and a budget that is not known is not spent from.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from gateway.errors import LogUnavailable

from . import engine, payments, schema
from .failures import POISON, passing
from .lock import WriterLock
from .payments import Denied, Held, Order, Row, Unsettled

T = TypeVar("T")
Step = Callable[[sqlite3.Connection], Any]
_Item = tuple[Step, "Future[Any]"]

BATCH = 256
CLOSED = "the ledger of payments is closed"


def ledger_path(url: str) -> str:
    """Where the ledger of the log at `url` lies. Raises `ConfigError` as `engine.database_path` does."""
    return engine.database_path(url) + "-payments"


class Ledger:
    """The open ledger at `path`; one process has it at a time. Methods are for any event loop.

    Raises `ConfigError` for a file that cannot be used, `LogRefused` for one that is foreign or in use. Each method
    raises `LogUnavailable` when nothing could be stored.
    """

    def __init__(self, path: str, *, unsettled: Unsettled = "spent") -> None:
        self.path = path
        self._unsettled = unsettled
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._stopped: str | None = None
        self._guard = threading.Lock()
        self._lock = WriterLock(path)
        self._lock.acquire()
        try:
            self.notices = engine.prepare_file(path)
            self._connection = engine.open_writer(path, layout=schema.LEDGER)
        except BaseException:
            self._lock.release()
            raise
        self._thread = threading.Thread(target=self._run, name="veriroute-payments", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether the ledger still takes payments. False is for good."""
        return self._stopped is None

    async def reserve(self, order: Order) -> Held | Denied:
        """Hold an order against every cap and enter it, in one transaction; see `payments.reserve`."""
        return await self._do(lambda connection: payments.reserve(connection, order, self._unsettled))

    async def signed(self, id: str, header: bytes) -> bytes | None:
        """Note the signed payment; the one that may leave the process, after this. See `payments.signed`."""
        return await self._do(lambda connection: payments.signed(connection, id, header))

    async def settled(self, id: str, tx: str | None) -> bool:
        """Note a settlement that the node told of."""
        return await self._do(lambda connection: payments.settled(connection, id, tx))

    async def failed(self, id: str, reason: str, tx: str | None = None) -> bool:
        """Note a payment that did not go through."""
        return await self._do(lambda connection: payments.failed(connection, id, reason, tx))

    async def unverified(self, id: str, reason: str) -> bool:
        """Note a payment whose answer was withheld."""
        return await self._do(lambda connection: payments.unverified(connection, id, reason))

    async def opened(self, id: str, session_sha256: bytes) -> bool:
        """Note the spending session that a payment opened."""
        return await self._do(lambda connection: payments.opened(connection, id, session_sha256))

    async def unused(self, id: str) -> bool:
        """Note that the chain was read and the payment's nonce is not used."""
        return await self._do(lambda connection: payments.unused(connection, id))

    async def expire(self, now_s: float) -> int:
        """End what is past its time; how many payments that were. `reserve` does it too, before it counts."""
        return await self._do(lambda connection: payments.expire(connection, now_s, self._unsettled))

    async def find(self, id: str) -> Row | None:
        """A payment as stored."""
        return await self._do(lambda connection: payments.find(connection, id))

    async def spent(self, scope: str, name: str, day: int, asset_id: str) -> int:
        """What a scope has used of its budget on a day; see `payments.spent`."""
        return await self._do(lambda connection: payments.spent(connection, scope, name, day, asset_id))

    def close(self) -> None:
        """Store what waits, and close the file. Later calls raise `LogUnavailable`."""
        self._refuse(CLOSED)
        self._queue.put(None)
        self._thread.join()
        self._connection.close()
        self._lock.release()

    async def _do(self, step: Callable[[sqlite3.Connection], T]) -> T:
        future: Future[T] = Future()
        with self._guard:  # nothing is queued behind the word to stop
            if self._stopped is not None:
                raise LogUnavailable(self._stopped)
            self._queue.put((step, future))
        return await asyncio.wrap_future(future)

    def _refuse(self, why: str) -> None:
        with self._guard:
            self._stopped = self._stopped or why

    def _run(self) -> None:
        open_ = True
        while open_:
            items = [self._queue.get()]
            while len(items) < BATCH and not self._queue.empty():
                items.append(self._queue.get())
            open_ = None not in items
            # A caller that went away before its turn never happened; one that goes away later is stored all the same.
            batch = [item for item in items if item is not None and item[1].set_running_or_notify_cancel()]
            if batch:
                self._store(batch)

    def _store(self, batch: list[_Item]) -> None:
        try:
            if self._stopped not in (None, CLOSED):
                raise LogUnavailable(str(self._stopped))
            results = self._commit([step for step, _ in batch])
        except sqlite3.Error as error:
            why = passing(error)
            if why is None:
                why = f"the ledger of payments failed: {error}"
                self._refuse(why)
            results = [LogUnavailable(why)] * len(batch)
        except LogUnavailable as error:
            results = [error] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _commit(self, steps: list[Step]) -> list[Any]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            results = [_attempt(connection, step) for step in steps]
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return results


def _attempt(connection: sqlite3.Connection, step: Step) -> Any:
    """What the step returned, or the error that it alone is at fault for, with all it wrote taken back."""
    connection.execute("SAVEPOINT step")
    try:
        result = step(connection)
    except POISON as error:
        connection.execute("ROLLBACK TO step")
        result = LogUnavailable(f"the ledger of payments cannot hold this: {type(error).__name__}")
    connection.execute("RELEASE step")
    return result
