"""The single writer: entries in, durable entries with index, inclusion proof and signed checkpoint out.

One thread takes whatever waits (natural batching: a lone entry pays one commit, a crowd shares one; no timer) and, in
this order,

1. checks that the files are still the ones that were opened;
2. computes leaf hashes, the new root and the wanted proofs from the frontier, and signs the checkpoint;
3. writes leaves, documents, full-tile roots and the checkpoint in one transaction;
4. commits, which syncs (a crash before this point leaves nothing; the signature of step 2 has gone nowhere);
5. takes the new tree over and writes the checkpoint to the memory file (a crash between 4 and 5 leaves the memory one
   batch behind, which is harmless);
6. resolves the batch's futures, all with one hop to the event loop.

When a step fails, the batch's waiters get `LogUnavailable` and nothing of it is stored. Full disk, lock and read-only
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
from typing import NamedTuple, TypeVar, cast

from gateway.errors import Busy, FormatError, InternalError, LogUnavailable, VerirouteError
from gateway.log.checkpoint import Checkpoint, sign_checkpoint
from gateway.log.merkle import leaf_hash
from gateway.log.note import NoteSigner
from gateway.log.tiles import MAX_ENTRY_BYTES
from gateway.model.entry import Committed, Entry

from .failures import POISON, another_writer, is_locked, passing
from .rows import CHECKPOINT, MAX_ROWS, NODE, insert_entries
from .state import Stored
from .tree import Growth

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], object]
Item = tuple[Entry | Job, "asyncio.Future[object]", float]

QUEUE = 8192
DEADLINE_S = 5.0
#: Bytes of write-ahead log after which it is folded into the database: under load, and when nothing waits.
FOLD_BUSY, FOLD_IDLE = 4 << 20, 256 << 10
IDLE_S = 0.005
SYNC_EVERY_S = 1.0
#: What a batch and an entry add to the write-ahead log beside their documents, about.
FRAMES, FRAMES_PER_ENTRY = 32 << 10, 1 << 10
SETTLE = "UPDATE log_state SET settled = ?"
SETTLE_EVERY = 4096


class Sequencer:
    """The writer of one log. Made by `gateway.storage.startup.open_log`; all methods are for the event loop's thread.

    `open_intents`: (id, envelope) of the intents that a crash left without a receipt; the caller closes them.
    `notices`: what start-up put right. `rollback`: set when a rollback was accepted. `checkpoint`: the newest durable
    note. `failing`: why the last batch failed, None after one that did not. `memory_failing`: the same of the memory
    file, whose failure stops nothing. `batches`: transactions committed.
    """

    def __init__(
        self,
        stored: Stored,
        signer: NoteSigner,
        origin: str,
        *,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
        queue: int = QUEUE,
        deadline_s: float = DEADLINE_S,
        batch: int = MAX_ROWS,
    ) -> None:
        self.path = stored.path
        self.origin = origin
        self.open_intents = stored.open_intents
        self.notices = stored.notices
        self.rollback = stored.rollback
        self.checkpoint = stored.checkpoint
        self.failing: str | None = None
        self.memory_failing: str | None = None
        self.batches = 0
        self._stored = stored
        self._signer = signer
        self._connection = stored.connection
        self._memory = stored.memory
        self._tree = stored.tree
        self._intents = stored.intents
        self._settled = stored.settled
        self._loop = loop
        self._now = now
        self._limit = queue
        self._batch = batch
        self._deadline = deadline_s
        self._queue: deque[Item] = deque()
        self._current: list[Item] = []
        self._folds: list[asyncio.Future[bool]] = []
        self._wake = threading.Lock()
        self._wake.acquire()
        self._signalled = False
        self._closing = False
        self._stopped: str | None = None
        self._ended: asyncio.Future[None] | None = loop.create_future()
        self._doubtful = False
        self._wal_bytes = 0
        self._next_sync = 0.0
        self._files = [(name, _identity(name)) for name in (self.path, self.path + "-wal")]
        self._thread = threading.Thread(target=self._run, name="veriroute-log", daemon=True)
        forked = weakref.WeakMethod(self._forked)
        os.register_at_fork(after_in_child=lambda: (method := forked()) and method())
        self._thread.start()

    @property
    def size(self) -> int:
        """How many leaves are durable."""
        return self._tree.size

    @property
    def healthy(self) -> bool:
        """Whether the writer runs. False is for good: only a new start, which checks the log, mends it."""
        return self._stopped is None and not self._closing

    @property
    def lag(self) -> int:
        """How many entries and jobs wait."""
        return len(self._queue)

    def append(self, entry: Entry) -> asyncio.Future[Committed]:
        """Hand `entry` over; the future resolves once it is durable.

        Raises `Busy` when the queue is full and `LogUnavailable` when the writer has stopped. The future fails with
        `LogUnavailable` when the entry could not be stored, `InternalError` when it never can be (its id is taken).
        """
        if not 0 < len(entry.leaf) <= MAX_ENTRY_BYTES:
            raise FormatError(f"a log entry has 1 to {MAX_ENTRY_BYTES} bytes, not {len(entry.leaf)}")
        if (entry.kind == "receipt") is (entry.row is None):
            raise FormatError("a receipt has its row of query columns, and nothing else has one")
        return cast("asyncio.Future[Committed]", self._put(entry))

    def submit(self, job: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Run `job` on the writer's connection, inside its next transaction; the future has its result once durable.

        For what lies beside the log: evidence, sessions, erased openings. A job is short, neither begins nor commits,
        and leaves the tables of the log alone. It runs again when its transaction has to be split.
        """
        return cast("asyncio.Future[T]", self._put(job))

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
        self._signal()
        return future

    def _signal(self) -> None:
        if not self._signalled:
            self._signalled = True
            self._wake.release()

    def _forked(self) -> None:
        """In a forked child: there is no writer's thread here, and the log stays the parent's."""
        self._stopped = "this process was forked off the one that writes the log; append there"
        self._ended = None
        self._stored.lock.forget()

    # From here on: the writer's thread.

    def _run(self) -> None:
        try:
            while not self._closing or self._queue:
                self._wait()
                while self._queue:
                    self._current = self._take()
                    self._serve(self._current)
                    self._current = []
                    self._keep_house(FOLD_BUSY)
                if self._folds:
                    self._fold_all()
        finally:
            if not self._closing:
                self._stop("the log's writer ended by a defect of this program; see the traceback")
            self._closing = True
            self._fail([*self._current, *self._queue], "the log's writer has ended")
            self._fold_all()
            self._shut()

    def _wait(self) -> None:
        """Until something arrives; idle moments go to housekeeping."""
        woken = self._wake.acquire(timeout=IDLE_S)
        if not woken:
            self._keep_house(FOLD_IDLE)
            woken = self._wake.acquire(timeout=SYNC_EVERY_S if self._memory.dirty else -1)
        if woken:
            self._signalled = False

    def _take(self) -> list[Item]:
        queue = self._queue
        return [queue.popleft() for _ in range(min(len(queue), self._batch))]

    def _serve(self, items: list[Item]) -> None:
        """Store a batch and resolve its futures, one way or the other."""
        if self._stopped is not None:
            return self._fail(items, self._stopped)
        try:
            results = self._store(items)
        except LogUnavailable as error:
            self._fail(items, error.message)
        except POISON as error:
            if another_writer(error):
                self._fail(items, self._stop(f"somebody else has written to the log: {error}"))
            else:
                self._single_out(items, error)
        except sqlite3.Error as error:
            self._fail(items, passing(error) or self._stop(f"the log's database failed: {error}"))
            if is_locked(error):
                self._expire()
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

    def _store(self, items: list[Item]) -> list[object]:
        """One transaction for the batch; the results, in order. Rolls back and raises when anything fails."""
        self._check_files()
        entries = [item[0] for item in items if type(item[0]) is Entry]
        batch = self._prepare(entries) if entries else None
        try:
            self._begin()
            others = [None if type(work) is Entry else cast("Job", work)(self._connection) for work, _, _ in items]
            opened = self._write(batch) if batch else {}
            self._connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        self.batches += 1
        if batch is None:
            return others
        self._accept(batch, opened)
        proofs, first, size, root, note = batch.growth.proofs, batch.first, batch.size, batch.growth.root, batch.note
        committed = [Committed(first + n, size, proofs.get(n, ()), root, note) for n in range(len(entries))]
        if len(committed) == len(items):
            return cast("list[object]", committed)
        ordered = iter(committed)
        return [next(ordered) if type(item[0]) is Entry else other for item, other in zip(items, others, strict=True)]

    def _prepare(self, entries: list[Entry]) -> _Batch:
        tree = self._tree
        hashes = [leaf_hash(entry.leaf) for entry in entries]
        growth = tree.grow(hashes, [n for n, entry in enumerate(entries) if entry.want_proof])
        size = growth.frontier.size
        note = sign_checkpoint(Checkpoint(self.origin, size, growth.root), self._signer)
        return _Batch(entries, hashes, growth, tree.size, size, note)

    def _begin(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        if self._doubtful:
            (stored,) = self._connection.execute("SELECT max(size) FROM checkpoint").fetchone()
            if stored != self._tree.size:
                raise LogUnavailable(self._stop(f"the log holds {stored} entries, the writer knows {self._tree.size}"))
            self._doubtful = False

    def _write(self, batch: _Batch) -> dict[str, int]:
        now_ms = int(self._now() * 1000)
        opened = insert_entries(self._connection, batch.first, batch.entries, batch.hashes, self._intents, now_ms)
        NODE.run(self._connection, [value for node in batch.growth.nodes for value in node])
        self._connection.execute(CHECKPOINT, (batch.size, bytearray(batch.note), now_ms))
        if batch.first - self._settled >= SETTLE_EVERY:
            self._settled = min(self._intents.values(), default=batch.first)
            self._connection.execute(SETTLE, (self._settled,))
        return opened

    def _accept(self, batch: _Batch, opened: dict[str, int]) -> None:
        """The batch is durable: its tree is the tree now, its checkpoint the newest."""
        self._tree.accept(batch.growth)
        self.checkpoint = batch.note
        self._intents.update(opened)
        volume = FRAMES
        for entry in batch.entries:
            volume += len(entry.envelope) + FRAMES_PER_ENTRY
            if entry.row is not None:
                volume += len(entry.evidence or b"")
                self._intents.pop(entry.id, None)
                if entry.opening is not None:
                    volume += len(entry.opening.request or b"") + len(entry.opening.response or b"")
        self._wal_bytes += volume
        try:
            self._memory.write(batch.note)
            self.memory_failing = None
        except OSError as error:
            self.memory_failing = f"the checkpoint memory {self._memory.path} cannot be written: {error.strerror}"

    def _roll_back(self) -> None:
        self._doubtful = True
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            self._stop(f"the log's database could not be rolled back: {error}")

    def _check_files(self) -> None:
        """A file that was moved, removed or replaced takes commits that nobody will find again."""
        for name, identity in self._files:
            try:
                found = os.stat(name)
            except OSError as error:
                raise LogUnavailable(f"the log's file {name} is gone: {error.strerror}; put it back") from None
            if (found.st_dev, found.st_ino) != identity:
                raise LogUnavailable(f"the log's file {name} was replaced by another; put the old one back or restart")

    def _keep_house(self, fold_at: int) -> None:
        """Fold the write-ahead log into the database and sync the memory, when it is time."""
        if self._stopped is not None:
            return
        if self._wal_bytes >= fold_at:
            self._wal_bytes = 0
            self._fold("PASSIVE")
        if self._memory.dirty and time.monotonic() >= self._next_sync:
            self._next_sync = time.monotonic() + SYNC_EVERY_S
            try:
                self._memory.sync()
            except OSError as error:
                self.memory_failing = f"the checkpoint memory {self._memory.path} cannot be synced: {error.strerror}"

    def _fold(self, how: str) -> bool:
        try:
            (blocked, _, _) = self._connection.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
        except sqlite3.Error as error:
            if passing(error) is None:
                self._stop(f"the log's database failed: {error}")
            return False
        return not blocked

    def _fold_all(self) -> None:
        folds, self._folds = self._folds, []
        done = self._stopped is None and self._fold("TRUNCATE")
        items: list[Item] = [(_nothing, cast("asyncio.Future[object]", future), 0.0) for future in folds]
        self._resolve(items, [done] * len(items))

    def _stop(self, reason: str) -> str:
        """Stop for good; waiters hear `reason` from now on."""
        self._stopped = self._stopped or f"{reason}; the log takes nothing more until a restart has checked it"
        return self._stopped

    def _expire(self) -> None:
        """A lock outlasted the deadline: whoever has waited that long is told now, not one batch at a time."""
        oldest = time.monotonic() - self._deadline
        late = []
        while self._queue and self._queue[0][2] <= oldest:
            late.append(self._queue.popleft())
        self._fail(late, "another process keeps the log's database locked")

    def _fail(self, items: list[Item], reason: str) -> None:
        self.failing = reason
        self._resolve(items, [LogUnavailable(reason) for _ in items])

    def _resolve(self, items: list[Item], results: Sequence[object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_deliver, items, results)

    def _shut(self) -> None:
        """Leave the files in order and free the lock; a stopped log is left as it is, for the next start to look at."""
        if self._stopped is None:
            self._fold("TRUNCATE")
        for release in (self._connection.close, self._memory.close, self._stored.lock.release):
            with contextlib.suppress(OSError, sqlite3.Error):
                release()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_end, self._ended)


class _Batch(NamedTuple):
    """A batch before its transaction."""

    entries: list[Entry]
    hashes: list[bytes]
    growth: Growth
    first: int
    size: int
    note: bytes


def _nothing(_: sqlite3.Connection) -> None:
    """The work of what is no entry and no job."""


def _deliver(items: list[Item], results: Sequence[object]) -> None:
    """On the event loop: give each waiter its result. One that was cancelled is passed over; its entry is durable."""
    for (_, future, _), result in zip(items, results, strict=True):
        if not future.done():
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)


def _end(ended: asyncio.Future[None] | None) -> None:
    if ended is not None and not ended.done():
        ended.set_result(None)


def _identity(name: str) -> tuple[int, int]:
    found = os.stat(name)
    return found.st_dev, found.st_ino
