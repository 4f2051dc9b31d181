"""The writer when storage fails: nothing is acknowledged that is not there, nobody hangs, and what passes, passes."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
import pytest_asyncio
from storage_kit import check_committed, check_log, opened, receipt, record, ulid

from gateway.errors import LogRefused, LogUnavailable
from gateway.model.entry import Committed, Entry
from gateway.storage import writer
from gateway.storage.sequencer import Sequencer


@pytest_asyncio.fixture
async def log(tmp_path: Path) -> AsyncIterator[Sequencer]:
    sequencer = await opened(tmp_path, deadline_s=0.3)
    await sequencer.append(receipt(0))
    yield sequencer
    await sequencer.close()


async def _all_fail(log: Sequencer, entries: Iterable[Entry]) -> list[str]:
    """Append all; each is refused at once or fails later, always as `LogUnavailable`. Returns what was said."""
    futures: list[asyncio.Future[Committed]] = []
    said = []
    for entry in entries:
        try:
            futures.append(log.append(entry))
        except LogUnavailable as error:
            said.append(str(error))
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert {type(result) for result in results} == {LogUnavailable}
    return [str(result) for result in results] + said


async def test_a_full_disk_passes(log: Sequencer, tmp_path: Path) -> None:
    """With no space left the batch fails and nothing of it is stored; when space returns, the same writer goes on."""
    pages = await log.submit(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
    await log.submit(lambda c: c.execute(f"PRAGMA max_page_count = {pages}").fetchall())
    reasons = await _all_fail(log, [receipt(n, filler=2000) for n in range(1, 40)])
    assert "full" in reasons[0]
    assert log.healthy
    assert log.failing == reasons[0]
    assert log.size == 1
    await log.submit(lambda c: c.execute("PRAGMA max_page_count = 1073741823").fetchall())
    entry = receipt(1, filler=2000)
    committed = await log.append(entry)
    assert (committed.index, log.failing) == (1, None)
    check_committed(entry, committed)
    assert check_log(tmp_path) == [ulid(0), ulid(1)]


async def test_a_lock_is_waited_for_up_to_the_deadline(log: Sequencer, tmp_path: Path) -> None:
    """While another process holds the database, all who wait hear after the deadline; then it goes on."""
    other = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    reasons = await _all_fail(log, [receipt(n) for n in range(1, 700)])
    assert 0.2 < time.monotonic() - began < 3
    assert "locked" in reasons[-1]
    assert log.healthy
    waiting = log.append(receipt(1))
    await asyncio.sleep(0.05)
    other.execute("ROLLBACK")
    other.close()
    assert (await waiting).index == 1
    assert check_log(tmp_path) == [ulid(0), ulid(1)]


async def test_a_read_only_database_passes(log: Sequencer) -> None:
    """A database that turned read-only fails the batch, and works again when it can be written."""
    log._writer.connection.execute("PRAGMA query_only = ON")
    (reason,) = await _all_fail(log, [receipt(1)])
    assert "read-only" in reason
    log._writer.connection.execute("PRAGMA query_only = OFF")
    assert (await log.append(receipt(1))).index == 1


@pytest.mark.parametrize("name", ["log.db", "log.db-wal", "log.db-shm"])
async def test_a_removed_file_is_not_made_anew(log: Sequencer, tmp_path: Path, name: str) -> None:
    """When a file of the log is moved away, entries fail and no new log appears; put back, it goes on."""
    (tmp_path / name).rename(tmp_path / "elsewhere")
    (reason,) = await _all_fail(log, [receipt(1)])
    assert name in reason
    assert not (tmp_path / name).exists()
    (tmp_path / name).write_bytes(b"")
    (reason,) = await _all_fail(log, [receipt(1)])
    assert "replaced" in reason
    assert (tmp_path / name).stat().st_size == 0
    (tmp_path / "elsewhere").rename(tmp_path / name)
    assert (await log.append(receipt(1))).index == 1
    assert check_log(tmp_path) == [ulid(0), ulid(1)]


async def test_an_io_error_stops_the_writer_for_good(tmp_path: Path) -> None:
    """After an I/O error every waiter fails, nothing more is taken, and the next start finds a sound log."""
    log = await opened(tmp_path)
    await log.append(receipt(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        reasons = await _all_fail(log, [receipt(n, filler=5000) for n in range(1, 600)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "disk I/O error" in reasons[0]
    assert "restart" in reasons[0]
    assert not log.healthy
    for late in (lambda: log.append(receipt(1)), log.fold):
        with pytest.raises(LogUnavailable, match="restart"):
            late()
    await log.close()
    again = await opened(tmp_path)
    assert (await again.append(receipt(1))).index >= 1
    await again.close()


async def test_a_failed_sync_is_not_tried_again(log: Sequencer, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the commit's sync fails, the writer stops instead of syncing once more."""
    commits = []

    class Failing:
        """The connection, with a sync that fails at COMMIT."""

        def __init__(self, connection: sqlite3.Connection) -> None:
            self._connection = connection

        def execute(self, sql: str, *parameters: object) -> object:
            if sql == "COMMIT":
                commits.append(sql)
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
                raise error
            return self._connection.execute(sql, *parameters)

        def __getattr__(self, name: str) -> object:
            return getattr(self._connection, name)

    monkeypatch.setattr(log._writer, "connection", Failing(log._writer.connection))
    await _all_fail(log, [receipt(n) for n in range(1, 4)])
    assert commits == ["COMMIT"]
    assert not log.healthy


async def test_a_second_history_is_noticed(log: Sequencer, tmp_path: Path) -> None:
    """When somebody else has put a leaf into the log, the writer stops rather than write around it."""
    with sqlite3.connect(tmp_path / "log.db") as other:
        other.execute("INSERT INTO leaf VALUES (1, zeroblob(32), 'x')")
    other.close()
    (reason,) = await _all_fail(log, [receipt(1)])
    assert "somebody else" in reason
    assert not log.healthy


async def test_a_changed_head_is_noticed_after_a_failure(log: Sequencer, tmp_path: Path) -> None:
    """After a failed batch the writer makes sure that the stored head is the one it knows."""
    log._writer.connection.execute("PRAGMA query_only = ON")
    await _all_fail(log, [receipt(1)])
    log._writer.connection.execute("PRAGMA query_only = OFF")
    with sqlite3.connect(tmp_path / "log.db") as other:
        other.execute("INSERT INTO checkpoint VALUES (7, 'x', 0)")
    other.close()
    (reason,) = await _all_fail(log, [receipt(1)])
    assert "7 entries" in reason
    assert not log.healthy


async def test_the_memory_may_fail(log: Sequencer, tmp_path: Path) -> None:
    """A memory file that cannot be written is reported and stops nothing."""
    fd = log._writer.memory._fd
    assert fd is not None
    log._writer.memory._fd = os.open("/dev/null", os.O_RDONLY)
    assert (await log.append(receipt(1))).index == 1
    assert log.memory_failing is not None
    assert log.healthy
    os.close(log._writer.memory._fd)
    log._writer.memory._fd = fd
    assert (await log.append(receipt(2))).index == 2
    assert log.memory_failing is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_defect_hangs_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the writer's thread ends by a defect, waiters fail, the log is unhealthy, and closing returns."""

    def defect(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    log = await opened(tmp_path)
    await log.append(receipt(0))
    monkeypatch.setattr(writer, "insert_entries", defect)
    await _all_fail(log, [receipt(n) for n in range(1, 600)])
    assert not log.healthy
    with pytest.raises(LogUnavailable):
        log.append(receipt(1))
    await asyncio.wait_for(log.close(), 5)
    monkeypatch.undo()
    again = await opened(tmp_path)
    assert again.size == 1
    await again.close()


async def test_a_closed_loop_does_not_stop_the_writer(tmp_path: Path) -> None:
    """When the event loop is gone the writer still commits what it was given, then can be reopened elsewhere."""

    def short_life() -> None:
        async def life() -> None:
            log = await opened(tmp_path)
            log.append(record("start", 1))
            log._closing = True
            log._signal()

        asyncio.run(life())

    await asyncio.to_thread(short_life)
    for _ in range(50):
        try:
            again = await opened(tmp_path)
        except LogRefused:
            await asyncio.sleep(0.05)
            continue
        break
    assert again.size == 1
    await again.close()


async def test_a_fork_does_not_write(log: Sequencer) -> None:
    """In a forked child the log takes nothing, and the parent keeps its lock and goes on."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                log.append(receipt(1))
                said = b"taken"
            except LogUnavailable as error:
                said = str(error).encode()
            os.write(write, said)
        finally:
            os._exit(0)
    os.close(write)
    said = os.read(read, 1000)
    os.close(read)
    os.waitpid(child, 0)
    assert b"forked" in said
    with pytest.raises(LogRefused) as refused:
        await opened(Path(log.path).parent)
    assert refused.value.reason == "in_use"
    assert (await log.append(receipt(1))).index == 1
