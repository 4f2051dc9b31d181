"""The single writer: entries in, durable entries with index, inclusion proof and signed checkpoint out.

One thread takes whatever waits (natural batching: a lone entry pays one commit, a crowd shares one), stores it in one
transaction (`gateway.storage.writer`), and after the commit resolves the batch's futures with one hop to the event
loop. In a crowd it starts when a turn of the loop brought nothing more, so that the two do not fight for the
interpreter, and after `LINGER_S` at the latest. Nothing is answered for before it is durable.

When storing fails, the batch's waiters get `LogUnavailable` and nothing of it is stored. Full disk, lock and read-only
file pass: the next batch tries afresh. An I/O error does not: after a failed fsync nobody knows what the disk holds, a
second try can report success for lost pages, and signing another tree of the same size would be a fork. The writer
stops; start-up checks what is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from gateway.errors import Busy, FormatError, InternalError, LogUnavailable, VerirouteError
from gateway.log.note import NoteSigner
from gateway.log.tiles import MAX_ENTRY_BYTES
from gateway.model.entry import Committed, Entry

from .failures import POISON, Lost, another_writer, is_locked, passing
from .packing import Packer, keep
from .rows import MAX_ROWS
from .state import Stored
from .writer import SYNC_EVERY_S, Job, LogWriter

T = TypeVar("T")
Item = tuple[Entry | Job, "asyncio.Future[object]", float]

QUEUE = 8192
DEADLINE_S = 5.0
#: Bytes of write-ahead log after which it is folded into the database: under load, and when nothing waits.
FOLD_BUSY, FOLD_IDLE = 4 << 20, 256 << 10
IDLE_S = 0.005
LOCK_STEP_S = 0.5
#: How long entries that keep coming may hold a batch up.
LINGER_S = 0.004


class Sequencer:
    """The writer of one log. Made by `gateway.storage.startup.open_log`; all methods are for the event loop's thread.

    `packer`: brings documents into the form in which they are stored. `open_intents`: (id, envelope) of the intents
    that a crash left without a receipt; the caller closes them.
    `notices`: what start-up put right. `rollback`: set when a rollback was accepted. `failing`: why the last batch
    failed, None after one that did not.
    """

    def __init__(
        self,
        stored: Stored,
        signer: NoteSigner,
        *,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
        queue: int = QUEUE,
        deadline_s: float = DEADLINE_S,
        batch: int = MAX_ROWS,
    ) -> None:
        self.path = stored.path
        self.origin = signer.name
        self.packer = Packer(*stored.dictionary, lambda *made: self.submit(keep(*made)))
        self.open_intents = stored.open_intents
        self.notices = stored.notices
        self.rollback = stored.rollback
        self.failing: str | None = None
        self._writer = LogWriter(stored, signer, now)
        # A lock is waited for in short steps, so that each entry waits its own time out and not that of others as well.
        stored.connection.execute(f"PRAGMA busy_timeout = {int(min(deadline_s, LOCK_STEP_S) * 1000)}")
        self._loop = loop
        self._limit = queue
        self._batch = batch
        self._deadline = deadline_s
        self._queue: deque[Item] = deque()
        self._current: list[Item] = []
        self._taken = 0  # out of the queue, and not resolved
        self._folds: list[asyncio.Future[bool]] = []
        self._wake = threading.Lock()
        self._wake.acquire()
        self._signalled = False
        self._crowd = False  # the last batch had more than one
        self._seen = 0
        self._start_by = 0.0
        self._closing = False
        self._stopped: str | None = None
        self._ended: asyncio.Future[None] | None = loop.create_future()
        self._thread = threading.Thread(target=self._run, name="veriroute-log", daemon=True)
        forked = weakref.WeakMethod(self._forked)
        os.register_at_fork(after_in_child=lambda: (method := forked()) and method())
        self._thread.start()

    @property
    def size(self) -> int:
        """How many leaves are durable."""
        return self._writer.tree.size

    @property
    def checkpoint(self) -> bytes:
        """The newest durable checkpoint, signed."""
        return self._writer.checkpoint

    @property
    def memory_failing(self) -> str | None:
        """Why the memory file could not be written last, if so; that stops nothing."""
        return self._writer.memory_failing

    @property
    def wal_held(self) -> str | None:
        """Why the write-ahead log grows and grows, if it does; that stops nothing until the disk is full."""
        return self._writer.wal_held

    @property
    def batches(self) -> int:
        """How many transactions were committed."""
        return self._writer.batches

    @property
    def healthy(self) -> bool:
        """Whether the writer runs. False is for good: only a new start, which checks the log, mends it."""
        return self._stopped is None and not self._closing

    @property
    def lag(self) -> int:
        """How many entries and jobs wait, or are being committed: without any, what was handed over is durable."""
        return len(self._queue) + self._taken  # in this order: what leaves the queue in between is counted twice

    def append(self, entry: Entry) -> asyncio.Future[Committed]:
        """Hand `entry` over; the future resolves once it is durable.

        Raises `Busy` when the queue is full and `LogUnavailable` when the writer has stopped. The future fails with
        `LogUnavailable` when the entry could not be stored, `InternalError` when it never can be (its id is taken).
        """
        if not 0 < len(entry.leaf) <= MAX_ENTRY_BYTES:
            raise FormatError(f"a log entry has 1 to {MAX_ENTRY_BYTES} bytes, not {len(entry.leaf)}")
        if (entry.kind == "receipt") is (entry.row is None):
            raise FormatError("a receipt has its row of query columns, and nothing else has one")
        return self._put(entry)  # type: ignore[return-value]

    def submit(self, job: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Run `job` on the writer's connection, inside its next transaction; the future has its result once durable.

        For what lies beside the log: evidence, sessions, erased openings. A job is short, neither begins nor commits,
        and leaves the tables of the log alone. It runs again when its transaction has to be split.
        """
        return self._put(job)  # type: ignore[return-value]

    def fold(self) -> asyncio.Future[bool]:
        """Empty the write-ahead log into the database, so that erased text is in no file any more.

        The future says whether it was emptied; False when a reader was in the way: ask again.
        """
        if self._stopped is not None or self._closing:
            raise LogUnavailable(self._stopped or "the log is closing")
        future: asyncio.Future[bool] = self._loop.create_future()
        self._folds.append(future)
        self._signal()
        return future

    async def close(self) -> None:
        """Commit what waits, sync, fold the write-ahead log and free the lock. A second call waits for the same end."""
        self._closing = True
        if self._ended is not None:
            self._signal()
            await asyncio.shield(self._ended)
            self._thread.join()

    def _put(self, work: Entry | Job) -> asyncio.Future[object]:
        if self._stopped is not None or self._closing:
            raise LogUnavailable(self._stopped or "the log is closing")
        queue = self._queue
        if len(queue) >= self._limit:
            raise Busy(f"{self._limit} entries wait for the log already; try again in a moment")
        future: asyncio.Future[object] = self._loop.create_future()
        queue.append((work, future, time.monotonic()))
        if not self._signalled:
            # Woken in the middle of this turn of the event loop, the writer would fight it for the interpreter and
            # take one entry; at the turn's end it takes all that the turn brought.
            self._signalled = True
            self._seen, self._start_by = 0, time.monotonic() + LINGER_S
            self._loop.call_soon(self._rouse)
        return future

    def _rouse(self) -> None:
        """Wake the writer; in a crowd, not before a turn of the event loop that brought nothing."""
        waiting = len(self._queue)
        if self._crowd and self._seen < waiting < self._batch and time.monotonic() < self._start_by:
            self._seen = waiting
            self._loop.call_soon(self._rouse)
        else:
            self._wake.release()

    def _signal(self) -> None:
        if not self._signalled:
            self._signalled = True
            self._wake.release()

    def _forked(self) -> None:
        """In a forked child: there is no writer's thread here, and the log stays the parent's."""
        self._stopped = "this process was forked off the one that writes the log; append there"
        self._ended = None
        self._writer.forget()

    def _finish(self) -> None:
        """The writer's thread is through: nothing that slipped in behind it may wait for ever."""
        left = [*self._queue]
        self._queue.clear()
        _deliver(left, [LogUnavailable(self._stopped or "the log is closing") for _ in left])
        _settle(self._folds, False)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    # From here on: the writer's thread.

    def _run(self) -> None:
        try:
            while not self._closing or self._queue:
                self._wait()
                while self._queue:
                    self._current = self._take()
                    self._crowd = len(self._current) > 1
                    self._serve(self._current)
                    self._current = []
                    self._keep_house(FOLD_BUSY)
                    if self._signalled and not self._closing:
                        break  # what came meanwhile has its own signal, at the end of its turn
                if self._folds:
                    self._fold_all()
        finally:
            if not self._closing:
                self._stop("the log's writer ended by a defect of this program; see the traceback")
            self._closing = True
            self._fail(self._current, "the log's writer has ended")
            self._fold()
            self._writer.close()
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._finish)

    def _wait(self) -> None:
        """Until something arrives; idle moments go to housekeeping."""
        woken = self._wake.acquire(timeout=IDLE_S)
        if not woken:
            if not self._signalled:  # else the loop is in the middle of a long turn, and this is no idle moment
                self._keep_house(FOLD_IDLE)
            woken = self._wake.acquire(timeout=SYNC_EVERY_S if self._writer.memory.dirty else -1)
        if woken:
            self._signalled = False

    def _take(self) -> list[Item]:
        queue = self._queue
        self._taken = min(len(queue), self._batch)
        return [queue.popleft() for _ in range(self._taken)]

    def _serve(self, items: list[Item]) -> None:
        """Store a batch and resolve its futures, one way or the other."""
        if self._stopped is not None:
            return self._fail(items, self._stopped)
        try:
            results = self._writer.store([item[0] for item in items])
        except Lost as error:
            self._fail(items, self._stop(error.message))
        except LogUnavailable as error:
            self._fail(items, error.message)
        except POISON as error:
            if another_writer(error):
                self._fail(items, self._stop(f"somebody else has written to the log: {error}"))
            else:
                self._single_out(items, error)
        except sqlite3.Error as error:
            reason = passing(error) or self._stop(f"the log's database failed: {error}")
            self._fail(self._put_back(items) if is_locked(error) else items, reason)
        except MemoryError:
            self._fail(items, "there is not enough memory to write the log")
        except OSError as error:
            self._fail(items, self._stop(f"the log's files failed: {error}"))
        else:
            self.failing = None
            self._resolve(items, results)

    def _single_out(self, items: list[Item], error: Exception) -> None:
        """Something here can never be stored: a transaction for each item finds out what, and spares the rest."""
        if len(items) > 1:
            for item in items:
                self._serve([item])
            return
        if not isinstance(error, VerirouteError):
            cause, error = error, InternalError(f"the log cannot hold this entry: {error}")
            error.__cause__ = cause
        self._resolve(items, [error])

    def _keep_house(self, fold_at: int) -> None:
        if self._stopped is None:
            try:
                self._writer.keep_house(fold_at)
            except Lost as error:
                self._stop(error.message)

    def _fold(self) -> bool:
        if self._stopped is None:
            try:
                return self._writer.fold("TRUNCATE")
            except Lost as error:
                self._stop(error.message)
        return False

    def _fold_all(self) -> None:
        folds, self._folds = self._folds, []
        done = self._fold()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_settle, folds, done)

    def _stop(self, reason: str) -> str:
        """Stop for good; waiters hear `reason` from now on."""
        self._stopped = self._stopped or f"{reason}; the log takes nothing more until a restart has checked it"
        return self._stopped

    def _put_back(self, items: list[Item]) -> list[Item]:
        """A lock goes on: gives those who have waited the deadline out; the others stand first in the queue again."""
        oldest = time.monotonic() - self._deadline
        back = [item for item in items if item[2] > oldest]
        self._queue.extendleft(reversed(back))
        self._taken -= len(back)
        return [item for item in items if item[2] <= oldest]

    def _fail(self, items: list[Item], reason: str) -> None:
        if not items:
            return
        self.failing = reason
        self._resolve(items, [LogUnavailable(reason) for _ in items])

    def _resolve(self, items: list[Item], results: Sequence[object]) -> None:
        self._taken -= len(items)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_deliver, items, results)


def _deliver(items: list[Item], results: Sequence[object]) -> None:
    """On the event loop: give each waiter its result. One that was cancelled is passed over; its entry is durable."""
    for (_, future, _), result in zip(items, results, strict=True):
        if not future.done():
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)


def _settle(folds: list[asyncio.Future[bool]], done: bool) -> None:
    for future in folds:
        if not future.done():
            future.set_result(done)
