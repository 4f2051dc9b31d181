"""The writer: what is acknowledged is durable, dense and provable, alone and in a crowd."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from storage_kit import LOG_KEY, ORIGIN, check_committed, check_log, opened, receipt, record, ulid

from gateway.crypto.merkle import verify_consistency
from gateway.errors import Busy, FormatError, InternalError, LogUnavailable
from gateway.log.checkpoint import open_checkpoint
from gateway.model.entry import Entry, Opening
from gateway.storage.blobs import erase_openings, put_evidence, put_session
from gateway.storage.reads import Reader
from gateway.storage.sequencer import FOLD_IDLE, Sequencer


@pytest_asyncio.fixture
async def log(tmp_path: Path) -> AsyncIterator[Sequencer]:
    sequencer = await opened(tmp_path)
    yield sequencer
    await sequencer.close()


async def test_a_lone_entry_is_proved(log: Sequencer, tmp_path: Path) -> None:
    """Each of some entries, one after the other, comes back with its index, and a proof to a signed checkpoint."""
    for n in range(20):
        entry = receipt(n)
        committed = await log.append(entry)
        assert (committed.index, committed.size) == (n, n + 1)
        check_committed(entry, committed)
        assert log.checkpoint == committed.checkpoint
    assert (log.size, log.lag, log.healthy, log.failing) == (20, 0, True, None)


async def test_a_crowd_gets_dense_indices_and_good_proofs(log: Sequencer, tmp_path: Path) -> None:
    """5,000 entries by 250 callers: no gap, no duplicate, every proof verifies, and commits are shared."""
    entries = [receipt(n) for n in range(5000)]
    waiting = iter(entries)
    results: list[tuple[Entry, object]] = []

    async def caller() -> None:
        for entry in waiting:
            results.append((entry, await log.append(entry)))

    await asyncio.gather(*[caller() for _ in range(250)])
    for entry, committed in results:
        check_committed(entry, committed)  # type: ignore[arg-type]
    assert sorted(committed.index for _, committed in results) == list(range(5000))  # type: ignore[attr-defined]
    assert log.batches < 1500
    assert sorted(check_log(tmp_path)) == sorted(entry.id for entry in entries)


async def test_what_keeps_coming_shares_a_batch(log: Sequencer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a batch of more than one, entries of later turns join until a turn brings none; a lone one never waits."""
    monkeypatch.setattr("gateway.storage.sequencer.LINGER_S", 60.0)
    await asyncio.gather(log.append(receipt(0)), log.append(receipt(1)))
    begun = log.batches
    futures = []
    for n in range(2, 7):
        futures.append(log.append(receipt(n)))
        await asyncio.sleep(0)
    assert {committed.size for committed in await asyncio.gather(*futures)} == {7}
    assert log.batches == begun + 1
    for n in range(7, 10):
        assert (await log.append(receipt(n))).size == n + 1


async def test_what_keeps_coming_is_not_waited_for_without_end(log: Sequencer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once its time is up a batch starts, though every turn still brings an entry."""
    monkeypatch.setattr("gateway.storage.sequencer.LINGER_S", 0.01)
    first, _ = log.append(receipt(0)), log.append(receipt(1))
    await first
    entries, until = itertools.count(2), time.monotonic() + 30
    futures = [log.append(receipt(next(entries)))]
    while not futures[0].done() and time.monotonic() < until:
        if log.lag < 4000:  # so that the queue is not what ends it
            futures.append(log.append(receipt(next(entries))))
        await asyncio.sleep(0)
    assert futures[0].done()
    await asyncio.gather(*futures)


async def test_a_long_turn_is_no_idle_moment(log: Sequencer, monkeypatch: pytest.MonkeyPatch) -> None:
    """While entries wait for the end of a turn, the writer does not take the time for housekeeping; later it does."""
    kept: list[tuple[int, int]] = []
    monkeypatch.setattr(log._writer, "keep_house", lambda fold_at: kept.append((fold_at, log.lag)))
    await log.append(receipt(0))
    await asyncio.sleep(0.02)
    assert (FOLD_IDLE, 0) in kept
    for n in range(1, 6):
        future = log.append(receipt(n))
        time.sleep(0.02)  # the loop is held up
        await future
    assert {lag for fold_at, lag in kept if fold_at == FOLD_IDLE} == {0}


async def test_every_checkpoint_grows_from_the_one_before(log: Sequencer, tmp_path: Path) -> None:
    """Each checkpoint that was handed out is consistent with the next."""
    notes = [log.checkpoint]
    for n in range(60):
        futures = [log.append(receipt(n * 10 + k)) for k in range(1 + n % 10)]
        notes.append((await asyncio.gather(*futures))[-1].checkpoint)
    heads = [open_checkpoint(note, [LOG_KEY.key], ORIGIN) for note in notes]
    with Reader(f"{tmp_path}/log.db") as reader:
        for old, new in itertools.pairwise(heads):
            verify_consistency(old.size, new.size, reader.consistency(old.size, new.size), old.root, new.root)


async def test_a_proof_is_made_only_when_wanted(log: Sequencer) -> None:
    """An entry that wants no proof gets none; its neighbours in the batch do."""
    plain, proved = receipt(1, want_proof=False), receipt(2)
    first, second, third = await asyncio.gather(log.append(plain), log.append(proved), log.append(record("start", 3)))
    assert first.hashes == third.hashes == ()
    check_committed(proved, second)


async def test_all_kinds_are_stored(log: Sequencer, tmp_path: Path) -> None:
    """Receipts, intents and events lie in one log, each with its document; a receipt knows its intent."""
    await log.append(record("start", 0))
    await log.append(record("intent", 1))
    await log.append(receipt(1))
    both = [log.append(record("intent", 2)), log.append(receipt(2))]
    await asyncio.gather(*both)
    await log.append(receipt(3))
    with Reader(f"{tmp_path}/log.db") as reader:
        kinds = [document.kind for document in reader.documents()]
        assert kinds == ["start", "intent", "receipt", "intent", "receipt", "receipt"]
        assert [reader.intent_of(ulid(n)) for n in (1, 2, 3)] == [1, 3, None]
    check_log(tmp_path)


async def test_a_taken_id_fails_alone(log: Sequencer, tmp_path: Path) -> None:
    """An entry that can never be stored fails by itself; the others of its batch are stored, in order."""
    await log.append(receipt(0))
    surrogate = receipt(3, model="\ud800")
    results = await asyncio.gather(
        *map(log.append, [receipt(1), receipt(0), receipt(2), surrogate, receipt(4)]), return_exceptions=True
    )
    assert [type(result).__name__ for result in results] == [
        "Committed", "InternalError", "Committed", "InternalError", "Committed",
    ]  # fmt: skip
    assert isinstance(results[1], InternalError)
    assert log.healthy
    assert check_log(tmp_path) == [ulid(n) for n in (0, 1, 2, 4)]


async def test_any_bytes_are_kept(log: Sequencer, tmp_path: Path) -> None:
    """Payloads with null bytes and of a megabyte are read back as they were."""
    request, response = b"\0\xff" * 10, bytes(range(256)) * 4096
    await log.append(receipt(1, opening=Opening(ulid(1), b"s" * 32, request, response)))
    await log.append(receipt(2, model="a\0b", opening=Opening(ulid(2), b"t" * 32, b"", None)))
    with Reader(f"{tmp_path}/log.db") as reader:
        assert reader.opening(ulid(1)) == Opening(ulid(1), b"s" * 32, request, response)
        assert reader.opening(ulid(2)) == Opening(ulid(2), b"t" * 32, b"", None)
        row = reader.row(ulid(2))
        assert row is not None
        assert row.model == "a\0b"


async def test_malformed_entries_are_refused_at_the_door(log: Sequencer) -> None:
    """An empty or oversized leaf, a receipt without its row, and a row without a receipt never reach the queue."""
    good, event = receipt(1), record("start", 2)
    for bad in (
        Entry("start", ulid(1), b"", b"{}"),
        Entry("start", ulid(1), bytes(65_536), b"{}"),
        Entry("receipt", good.id, good.leaf, good.document),
        Entry("start", event.id, event.leaf, event.document, good.row),
    ):
        with pytest.raises(FormatError):
            log.append(bad)
    assert log.lag == 0


async def test_what_is_being_committed_waits_still(tmp_path: Path) -> None:
    """Entries that the writer has taken count until each has its answer, whichever it is; a lock may end between."""
    log = await opened(tmp_path, deadline_s=0.6)
    other = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    for wait in (0.1, 1.4):
        other.execute("BEGIN IMMEDIATE")
        futures = [log.append(receipt(n)) for n in range(3)]
        while not log._current:
            await asyncio.sleep(0.01)
        assert log.lag == 3
        await asyncio.sleep(wait)
        assert log.lag == (3 if wait < 0.6 else 0)
        other.execute("COMMIT")
        await asyncio.gather(*futures, return_exceptions=True)
        assert log.lag == 0
    with pytest.raises(InternalError):  # one after the other: the id of the first is taken
        await asyncio.gather(log.append(receipt(0)), log.append(receipt(4)))
    await log.append(receipt(5))
    assert log.lag == 0
    other.close()
    await log.close()


async def test_a_full_queue_says_busy(tmp_path: Path) -> None:
    """Beyond its limit the queue refuses, and takes again when it has drained."""
    log = await opened(tmp_path, queue=5)
    other = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    futures = [log.append(receipt(0))]
    while not log._current:
        await asyncio.sleep(0.01)  # the writer has taken the first and waits for the lock
    futures += [log.append(receipt(n)) for n in range(1, 6)]
    with pytest.raises(Busy):
        log.append(receipt(6))
    other.execute("COMMIT")
    other.close()
    await asyncio.gather(*futures)
    await log.append(receipt(6))
    await log.close()


async def test_closing_commits_what_waits(tmp_path: Path) -> None:
    """What was taken before `close` is stored; afterwards nothing is taken, and closing twice is harmless."""
    log = await opened(tmp_path)
    futures = [log.append(receipt(n)) for n in range(700)]
    await asyncio.gather(log.close(), log.close())
    assert [future.result().index for future in futures] == list(range(700))
    for late in (lambda: log.append(receipt(701)), lambda: log.submit(lambda _: None), log.fold):
        with pytest.raises(LogUnavailable):
            late()
    assert not log.healthy
    assert not (tmp_path / "log.db-wal").exists()
    assert len(check_log(tmp_path)) == 700


async def test_a_waiter_may_leave(log: Sequencer, tmp_path: Path) -> None:
    """A cancelled waiter does not disturb the batch, and its entry is stored all the same."""
    futures = [log.append(receipt(n)) for n in range(3)]
    futures[1].cancel()
    await futures[2]
    assert check_log(tmp_path) == [ulid(0), ulid(1), ulid(2)]


async def test_jobs_run_beside_entries(log: Sequencer, tmp_path: Path) -> None:
    """Evidence and sessions are stored once each by the writer's thread; a job that fails fails alone."""
    document = b'{"quote":1}'
    digest = hashlib.sha256(document).hexdigest()
    with pytest.raises(FormatError):
        put_evidence("0" * 64, "application/json", 1, document)

    def broken(_: object) -> None:
        raise ValueError("no")

    results = await asyncio.gather(
        log.submit(put_evidence(digest, "application/json", 1, document)),
        log.append(receipt(1)),
        log.submit(broken),
        log.submit(put_evidence(digest, "text/plain", 2, document)),
        log.submit(put_session("s1", "node-a", 3, b"{}")),
        log.submit(lambda connection: connection.execute("SELECT count(*) FROM evidence").fetchone()[0]),
        return_exceptions=True,
    )
    assert isinstance(results[2], InternalError)
    assert results[5] == 1
    with Reader(f"{tmp_path}/log.db") as reader:
        blob = reader.evidence(digest)
        assert blob is not None
        assert (blob.media_type, blob.data) == ("application/json", document)
        assert reader.session("s1") == b"{}"
        assert reader.evidence("f" * 64) is reader.session("s2") is None
    assert check_log(tmp_path) == [ulid(1)]


async def test_erased_text_is_in_no_file(log: Sequencer, tmp_path: Path) -> None:
    """After an erasure and a fold, neither payload nor seed nor what the node sent is in the database or its log."""
    secret, seed, sent = b"the text that has to go " * 40, b"S" * 31 + b"!", b"digests without a salt"
    entry = receipt(1, opening=Opening(ulid(1), seed, secret, secret))
    await log.append(msgspec.structs.replace(entry, evidence=sent))
    await log.append(receipt(2))
    assert any(secret in file.read_bytes() for file in tmp_path.iterdir())
    assert any(sent in file.read_bytes() for file in tmp_path.iterdir())
    assert await log.submit(erase_openings([ulid(1), ulid(7)])) == [ulid(1)]
    assert await log.fold()
    for file in tmp_path.iterdir():
        data = file.read_bytes()
        assert secret[:24] not in data
        assert seed not in data
        assert sent not in data
    with Reader(f"{tmp_path}/log.db") as reader:
        assert reader.evidence_of(ulid(1)) is None
        assert reader.opening(ulid(1)) is None
        assert reader.opening(ulid(2)) is not None
    assert check_log(tmp_path) == [ulid(1), ulid(2)]


async def test_a_fold_tells_whether_it_was_complete(tmp_path: Path) -> None:
    """While a reader holds an older snapshot a fold cannot empty the log; a fold before closing is answered too."""
    log = await opened(tmp_path, deadline_s=0.1)
    await log.append(receipt(1))
    other = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM leaf").fetchall()
    await log.append(receipt(2))
    assert not await log.fold()
    other.close()
    assert await log.fold()
    last = log.fold()
    await log.close()
    assert last.done()


async def test_housekeeping_happens_in_idle_moments(log: Sequencer, tmp_path: Path) -> None:
    """The write-ahead log is folded and the memory synced while nothing waits."""
    await asyncio.gather(*[log.append(receipt(n, filler=3000)) for n in range(200)])
    for _ in range(100):
        if not log._writer.memory.dirty and log._writer.wal_bytes == 0:
            break
        await asyncio.sleep(0.05)
    assert log._writer.wal_bytes == 0
    assert not log._writer.memory.dirty
