"""One transaction for one batch: the steps between taking entries and being able to answer for them.

1. check that the files are still the ones that were opened;
2. compute leaf hashes, the new root and the wanted proofs from the frontier, and sign the checkpoint;
3. write leaves, documents, full-tile roots and the checkpoint;
4. COMMIT, which syncs (a crash before this point leaves nothing; the signature of step 2 has gone nowhere);
5. take the new tree over and write the checkpoint to the memory file (a crash between 4 and 5 leaves the memory one
   batch behind, which is harmless).

There is no thread and no waiting in here; `gateway.storage.sequencer` brings both, and decides what an error means.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from gateway.crypto.merkle import leaf_hash
from gateway.errors import LogUnavailable
from gateway.log.checkpoint import Checkpoint, sign_checkpoint
from gateway.log.note import NoteSigner
from gateway.model.entry import Committed, Entry

from .failures import Lost, passing
from .rows import CHECKPOINT, NODE, insert_entries
from .state import Stored
from .tree import Growth

#: What does not go into the log but beside it; runs inside the batch's transaction.
Job = Callable[[sqlite3.Connection], object]

SYNC_EVERY_S = 1.0
#: What a batch and an entry add to the write-ahead log beside their documents, about.
FRAMES, FRAMES_PER_ENTRY = 32 << 10, 1 << 10
#: Bytes of write-ahead log that cannot be folded before somebody is told: no reader of ours holds on for so long.
HELD = 256 << 20
SETTLE = "UPDATE log_state SET settled = ?"
SETTLE_EVERY = 4096


class Batch(NamedTuple):
    """Entries before their transaction: what they make of the tree, and the checkpoint over that."""

    entries: list[Entry]
    hashes: list[bytes]
    growth: Growth
    first: int
    size: int
    note: bytes


class LogWriter:
    """The open log, for the one thread that writes it.

    `checkpoint`: the newest durable note. `memory_failing`: why the memory file could not be written or synced last,
    if so; that stops nothing. `batches`: transactions committed. `wal_bytes`: about what `fold` has to move.
    `wal_held`: why the write-ahead log grows and grows, if it does; that stops nothing until the disk is full.
    """

    def __init__(self, stored: Stored, signer: NoteSigner, now: Callable[[], float]) -> None:
        self.connection = stored.connection
        self.memory = stored.memory
        self.tree = stored.tree
        self.checkpoint = stored.checkpoint
        self.memory_failing: str | None = None
        self.batches = 0
        self.wal_bytes = 0
        self.wal_held: str | None = None
        (self._page,) = stored.connection.execute("PRAGMA page_size").fetchone()
        self._lock = stored.lock
        self._signer = signer
        self._now = now
        self._intents = stored.intents
        self._settled = stored.settled
        self._doubtful = False
        self._next_sync = 0.0
        self._wal = stored.path + "-wal"
        self._files = [(name, _identity(name)) for name in (stored.path + end for end in ("", "-wal", "-shm"))]

    def store(self, works: Sequence[Entry | Job]) -> list[object]:
        """Store a batch of entries and jobs; a `Committed` for each entry, what it returned for each job, in order.

        When anything fails nothing of the batch is stored, and it raises: `Lost` when nothing may be written any more,
        `LogUnavailable` or the driver's error otherwise.
        """
        self._check_files()
        entries = [work for work in works if type(work) is Entry]
        batch = self._prepare(entries) if entries else None
        try:
            self._begin()
            others = [None if type(work) is Entry else cast("Job", work)(self.connection) for work in works]
            opened = self._write(batch) if batch else {}
            self.connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        self.batches += 1
        if batch is None:
            return others
        self._accept(batch, opened)
        proofs, root = batch.growth.proofs, batch.growth.root
        committed = [
            Committed(batch.first + n, batch.size, proofs.get(n, ()), root, batch.note) for n in range(len(entries))
        ]
        if len(committed) == len(works):
            return cast("list[object]", committed)
        ordered = iter(committed)
        return [next(ordered) if type(work) is Entry else other for work, other in zip(works, others, strict=True)]

    def _check_files(self) -> None:
        """A file that was moved, removed or replaced takes commits that nobody will find again.

        Without our `-shm`, which is the index of the write-ahead log and holds its locks, another process writes over
        our commits there, and we over its.
        """
        for name, identity in self._files:
            try:
                found = os.stat(name)
            except OSError as error:
                raise LogUnavailable(f"the log's file {name} is gone: {error.strerror}; put it back") from None
            if (found.st_dev, found.st_ino) != identity:
                raise LogUnavailable(f"the log's file {name} was replaced by another; put the old one back or restart")

    def _prepare(self, entries: list[Entry]) -> Batch:
        tree = self.tree
        hashes = [leaf_hash(entry.leaf) for entry in entries]
        growth = tree.grow(hashes, [n for n, entry in enumerate(entries) if entry.want_proof])
        size = growth.frontier.size
        note = sign_checkpoint(Checkpoint(self._signer.name, size, growth.root), self._signer)
        return Batch(entries, hashes, growth, tree.size, size, note)

    def _begin(self) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        if self._doubtful:
            (stored,) = self.connection.execute("SELECT max(size) FROM checkpoint").fetchone()
            if stored != self.tree.size:
                raise Lost(f"the log holds {stored} entries, the writer knows {self.tree.size}")
            self._doubtful = False

    def _write(self, batch: Batch) -> dict[str, int]:
        now_ms = int(self._now() * 1000)
        opened = insert_entries(self.connection, batch.first, batch.entries, batch.hashes, self._intents, now_ms)
        NODE.run(self.connection, [value for node in batch.growth.nodes for value in node])
        self.connection.execute(CHECKPOINT, (batch.size, bytearray(batch.note), now_ms))
        if batch.first - self._settled >= SETTLE_EVERY:
            self._settled = min(self._intents.values(), default=batch.first)
            self.connection.execute(SETTLE, (self._settled,))
        return opened

    def _roll_back(self) -> None:
        self._doubtful = True
        try:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise Lost(f"the log's database could not be rolled back: {error}") from error

    def _accept(self, batch: Batch, opened: dict[str, int]) -> None:
        """The batch is durable: its tree is the tree now, its checkpoint the newest."""
        self.tree.accept(batch.growth)
        self.checkpoint = batch.note
        self._intents.update(opened)
        volume = FRAMES
        for entry in batch.entries:
            volume += len(entry.document) + FRAMES_PER_ENTRY
            if entry.row is not None:
                volume += len(entry.evidence or b"")
                self._intents.pop(entry.id, None)
                if entry.opening is not None:
                    volume += len(entry.opening.request or b"") + len(entry.opening.response or b"")
        self.wal_bytes += volume
        try:
            self.memory.write(batch.note)
            self.memory_failing = None
        except OSError as error:
            self.memory_failing = f"the checkpoint memory {self.memory.path} cannot be written: {error.strerror}"

    def keep_house(self, fold_at: int) -> None:
        """Fold at `fold_at` bytes of write-ahead log, and sync the memory, at most once a second. May raise `Lost`."""
        if self.wal_bytes >= fold_at:
            self.wal_bytes = 0
            self.fold("PASSIVE")
        if self.memory.dirty and time.monotonic() >= self._next_sync:
            self._next_sync = time.monotonic() + SYNC_EVERY_S
            try:
                self.memory.sync()
            except OSError as error:
                self.memory_failing = f"the checkpoint memory {self.memory.path} cannot be synced: {error.strerror}"

    def fold(self, how: str) -> bool:
        """Move the write-ahead log into the database (`PASSIVE`), and empty it (`TRUNCATE`); False if in part only.

        Raises `Lost` when the disk fails.
        """
        try:
            (blocked, pages, moved) = self.connection.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
        except sqlite3.Error as error:
            if passing(error) is None:
                raise Lost(f"the log's database failed: {error}") from error
            return False
        self.wal_held = None
        if (pages - moved) * self._page >= HELD:
            self.wal_held = f"something that reads the database keeps its file {self._wal} from being emptied"
        return not blocked

    def close(self) -> None:
        """Close the files and free the lock, whatever state they are in."""
        for release in (self.connection.close, self.memory.close, self._lock.release):
            with contextlib.suppress(OSError, sqlite3.Error):
                release()

    def forget(self) -> None:
        """In a forked child: let go of the locks without freeing them."""
        self._lock.forget()
        self.memory.forget()


def _identity(name: str) -> tuple[int, int]:
    found = os.stat(name)
    return found.st_dev, found.st_ino
