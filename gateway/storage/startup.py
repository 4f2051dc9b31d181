"""Opening a log: lock it, check that it is the log we know, and start its writer.

    1. one writer: the lock beside the database, and at last that of the memory             in_use
    2. a database that is gone while the memory knows a log is not replaced by an empty one  rolled_back
    3. origin and key are ours                                                               foreign, version
    4. the tree, recomputed from the stored leaves, has the root of the newest signed checkpoint;
       leaf texts have their hashes, the last documents their leaves                         altered
    5. the log contains what the memory knows: not shorter, and with the same root there     rolled_back, altered
    6. nothing is stored before its first entry or behind its last                           altered
    7. receipts are stored with the places of their intents                                 altered
    8. intents that a crash left open are handed to the caller

The right-hand column is `LogRefused.reason`. With `accept_rollback` step 2, and in step 5 a shorter log or a memory
that is absent or unreadable, do not refuse; `Sequencer.rollback` then says what the caller has to put in an alarm leaf.
A changed root is never accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from typing import NamedTuple

from gateway.crypto.merkle import EMPTY_ROOT
from gateway.errors import ConfigError, FormatError, LogRefused
from gateway.log.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from gateway.log.note import NoteSigner

from . import engine
from .lock import WriterLock
from .memory import CheckpointMemory
from .packing import newest
from .rebuild import altered, check_documents, check_places, check_texts, leaf_count, rebuild
from .rows import CHECKPOINT
from .sequencer import DEADLINE_S, QUEUE, Sequencer
from .state import Rollback, Stored


class _Files(NamedTuple):
    path: str
    connection: sqlite3.Connection
    lock: WriterLock
    memory: CheckpointMemory
    notices: list[str]


async def open_log(
    url: str,
    log_signer: NoteSigner,
    origin: str,
    memory_path: str,
    *,
    now: Callable[[], float] = time.time,
    accept_rollback: bool = False,
    queue: int = QUEUE,
    deadline_s: float = DEADLINE_S,
) -> Sequencer:
    """The writer of the log at `url`, which is created where neither it nor a memory of it exists.

    `now` gives wall-clock seconds. `deadline_s` is how long a locked database is waited for. Raises `ConfigError` for
    files that cannot be used and `LogRefused` for a log that must not go on. The check runs in a thread: it takes about
    a second a million leaves.
    """
    path = engine.database_path(url)
    if log_signer.name != origin:
        raise ConfigError(f"the log key is named {log_signer.name!r}, log.origin is {origin!r}; they must be the same")
    work = asyncio.ensure_future(
        asyncio.to_thread(_open, path, log_signer, origin, memory_path, now, accept_rollback, deadline_s)
    )
    try:
        stored = await asyncio.shield(work)
    except asyncio.CancelledError:
        work.add_done_callback(_discard)  # the thread cannot be stopped; what it opens must not stay locked
        raise
    return Sequencer(stored, log_signer, loop=asyncio.get_running_loop(), now=now, queue=queue, deadline_s=deadline_s)


def _discard(work: asyncio.Future[Stored]) -> None:
    if work.cancelled() or work.exception() is not None:
        return
    stored = work.result()
    stored.connection.close()
    stored.memory.close()
    stored.lock.release()


def _open(
    path: str,
    signer: NoteSigner,
    origin: str,
    memory_path: str,
    now: Callable[[], float],
    accept_rollback: bool,
    deadline_s: float,
) -> Stored:
    with contextlib.ExitStack() as undo:
        lock = WriterLock(path)
        lock.acquire()
        undo.callback(lock.release)
        memory = CheckpointMemory(memory_path)
        undo.callback(memory.forget)
        memory.load()
        known = _known(memory, signer, origin)
        if known is not None and known.size and not accept_rollback and not os.path.exists(path):
            raise _rolled_back(memory, known, 0, f"the database {path} is gone")
        notices = engine.prepare_file(path)
        connection = engine.open_writer(path, busy_ms=int(deadline_s * 1000))
        undo.callback(connection.close)
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # the sequencer folds, after it has answered
        try:
            files = _Files(path, connection, lock, memory, notices)
            stored = _check(files, known, signer, origin, now, accept_rollback)
        except sqlite3.DatabaseError as error:
            if engine.is_outside(error):
                raise engine.refusal(error, path) from error
            raise altered(f"it cannot be read ({error})") from error
        undo.pop_all()
        return stored


def _check(
    files: _Files,
    known: Checkpoint | None,
    signer: NoteSigner,
    origin: str,
    now: Callable[[], float],
    accept_rollback: bool,
) -> Stored:
    connection, memory = files.connection, files.memory
    if engine.is_new(connection):
        _create(connection, signer, origin, int(now() * 1000))
    settled = _check_owner(connection, signer, origin)
    note, checkpoint = _newest(connection, signer, origin)
    size = leaf_count(connection)
    at = known.size if known is not None and known.size <= size else 0
    tree, root_then = rebuild(connection, size, at)
    if checkpoint.size != size or checkpoint.root != tree.root():
        raise altered(f"{size} leaves do not lead to the root of the checkpoint that was signed at {checkpoint.size}")
    check_texts(connection, size)
    check_documents(connection, size)
    if known is not None and known.size <= size and root_then != known.root:
        raise altered(f"at {known.size} entries it has another root than the one remembered in {memory.path}")
    rollback = _compare(memory, known, checkpoint)
    if rollback is not None and not accept_rollback:
        raise _refusal(memory, rollback, known)
    check_places(connection, size)
    if not 0 <= settled <= size:  # or no intent that a crash leaves open would ever be closed
        raise altered(f"it says that the intents of {settled} entries are closed, and has {size}")
    memory.open()
    if memory.note is None and rollback is None:
        memory.write(note)
        memory.sync()
    intents, open_intents = _open_intents(connection, settled)
    return Stored(
        path=files.path,
        connection=connection,
        lock=files.lock,
        memory=memory,
        tree=tree,
        checkpoint=note,
        intents=intents,
        open_intents=open_intents,
        settled=settled,
        dictionary=newest(connection),
        notices=files.notices,
        rollback=rollback,
    )


def _known(memory: CheckpointMemory, signer: NoteSigner, origin: str) -> Checkpoint | None:
    """The checkpoint in the memory, which must be ours."""
    if memory.note is None:
        return None
    try:
        return open_checkpoint(memory.note, [signer.key], origin)
    except FormatError as error:
        raise LogRefused(
            f"the checkpoint memory {memory.path} is of another log or key ({error}); set log.memory to a file of this "
            f"log's own, or restore the key that belongs to it",
            reason="foreign",
        ) from error


def _create(connection: sqlite3.Connection, signer: NoteSigner, origin: str, now_ms: int) -> None:
    """Begin a log: its owner, and a checkpoint of nothing."""
    note = sign_checkpoint(Checkpoint(origin, 0, EMPTY_ROOT), signer)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO log_state VALUES (1, ?, ?, ?, 0)", (origin, signer.vkey, now_ms))
    connection.execute(CHECKPOINT, (0, note, now_ms))
    connection.execute("COMMIT")


def _check_owner(connection: sqlite3.Connection, signer: NoteSigner, origin: str) -> int:
    found = connection.execute(
        "SELECT CAST(origin AS TEXT), CAST(vkey AS TEXT), CAST(settled AS INTEGER) FROM log_state"
    ).fetchall()
    if len(found) != 1:
        raise altered("it does not say whose it is")
    stored_origin, vkey, settled = found[0]
    if stored_origin != origin:
        raise LogRefused(
            f"the database holds the log {stored_origin!r}, log.origin is {origin!r}; use that origin, or another "
            f"storage.url for a new log",
            reason="foreign",
        )
    if vkey != signer.vkey:
        raise LogRefused(
            f"the log {origin!r} was signed with another key ({vkey[:120]!a}); restore that key, or begin a new log "
            f"with a new origin and storage.url",
            reason="foreign",
        )
    return int(settled)


def _newest(connection: sqlite3.Connection, signer: NoteSigner, origin: str) -> tuple[bytes, Checkpoint]:
    found = connection.execute("SELECT size, CAST(note AS BLOB) FROM checkpoint ORDER BY size DESC LIMIT 1").fetchone()
    if found is None:
        raise altered("it has no checkpoint")
    try:
        checkpoint = open_checkpoint(found[1], [signer.key], origin)
    except FormatError as error:
        raise altered(f"its newest checkpoint does not hold ({error})") from error
    if checkpoint.size != found[0]:
        raise altered(f"its newest checkpoint is filed under size {found[0]}, and is of size {checkpoint.size}")
    return found[1], checkpoint


def _compare(memory: CheckpointMemory, known: Checkpoint | None, stored: Checkpoint) -> Rollback | None:
    """What is missing from the log, or from the memory of it."""
    if known is not None:
        if known.size <= stored.size:
            return None
        return Rollback("rolled_back", known.size, known.root, stored.size, stored.root)
    if memory.damaged:
        return Rollback("memory_damaged", None, None, stored.size, stored.root)
    if stored.size:
        return Rollback("memory_absent", None, None, stored.size, stored.root)
    return None


def _refusal(memory: CheckpointMemory, rollback: Rollback, known: Checkpoint | None) -> LogRefused:
    if known is not None:
        return _rolled_back(memory, known, rollback.stored_size, "the stored log was rolled back")
    state = "is damaged" if rollback.reason == "memory_damaged" else "is missing or empty"
    return LogRefused(
        f"the checkpoint memory {memory.path} {state}, so it cannot be seen whether the log of {rollback.stored_size} "
        f"entries was rolled back. Restore the file; or, if you know why, start once with --accept-rollback, which "
        f"leaves an alarm in the log",
        reason=rollback.reason,
    )


def _rolled_back(memory: CheckpointMemory, known: Checkpoint, size: int, what: str) -> LogRefused:
    return LogRefused(
        f"{what}: it has {size} entries, {memory.path} remembers {known.size}. Going on would sign a second history. "
        f"Restore the newer database; or begin a new log (new log.origin and storage.url); or, if the lost entries are "
        f"gone for good, start once with --accept-rollback, which leaves an alarm in the log",
        reason="rolled_back",
    )


def _open_intents(connection: sqlite3.Connection, settled: int) -> tuple[dict[str, int], list[tuple[str, bytes]]]:
    """Intents from place `settled` on that have no receipt."""
    receipts = {
        name: (place, intent)
        for place, name, intent in connection.execute(
            "SELECT idx, CAST(id AS TEXT), intent FROM receipt WHERE idx >= ?", (settled,)
        )
    }
    intents, envelopes = {}, []
    for place, name, envelope in connection.execute(
        "SELECT idx, CAST(id AS TEXT), unpacked(CAST(envelope AS BLOB)) FROM record"
        " WHERE idx >= ? AND kind = 'intent' ORDER BY idx",
        (settled,),
    ):
        receipt, named = receipts.get(name, (None, None))
        if receipt is None:
            intents[name] = place
            envelopes.append((name, envelope))
        elif named != place:
            raise altered(f"the receipt at {receipt} is stored with {named!a} as its intent, which is at {place}")
    return intents, envelopes
