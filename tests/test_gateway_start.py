"""What a gateway puts right in its log when it starts, and what it tells of its files while it runs."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import sqlite3
from functools import partial
from pathlib import Path

import pytest
import structlog
from ledger import Ledger

from gateway import app
from gateway.app import Gateway
from gateway.errors import ConfigError
from gateway.fleet.fleet import Fleet
from gateway.keyfiles import load_or_make
from gateway.log.dsse import wrap
from gateway.log.receipt import leaf_of
from gateway.model.entry import Entry
from gateway.model.receipt import PAYLOAD_TYPE
from gateway.model.ulid import encode
from gateway.settings import Settings, keys_dir, load, memory_path
from gateway.storage.blobs import put_session
from gateway.storage.startup import open_log


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(Gateway, "_front", lambda self: None)
    return load(f'storage.url = "sqlite:///{tmp_path}/log.db"')


def intent(n: int, origin: str) -> Entry:
    digest = {"sha256": "00" * 32}
    name = encode((1 << 100) + n)
    predicate = {
        "receiptId": name,
        "nonce": "AAAA",
        "timeCreated": "2026-01-01T00:00:00.000Z",
        "request": {"digest": digest, "endpoint": "/v1/chat/completions", "model": "m", "stream": False},
        "caller": {"keyId": "k"},
        "verifier": {"id": "v", "policies": [{"name": "p", "uri": "u", "digest": digest}]},
        "destination": {"network": "n", "node": "n", "session": "s"},
        "log": {"origin": origin},
    }
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "request.body", "digest": digest, "annotations": {"form": "bytes"}}],
        "predicateType": "urn:veriroute:intent:v1",
        "predicate": predicate,
    }
    wrapped = wrap(json.dumps(statement).encode(), PAYLOAD_TYPE)
    return Entry("intent", name, leaf_of("intent", wrapped.pae_sha256), wrapped.envelope)


async def test_more_open_intents_than_the_queue_holds_are_closed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash in the middle of a long backlog leaves thousands; the next start writes a receipt for each."""
    count = 600
    origin = settings.log.origin
    keys = load_or_make(keys_dir(settings), origin, log_exists=False)
    log = await open_log(settings.storage.url, keys.log, origin, memory_path(settings))
    await asyncio.gather(*[log.append(intent(n, origin)) for n in range(count)])
    await log.close()
    monkeypatch.setattr(app, "open_log", partial(open_log, queue=300))
    gateway = Gateway(settings)
    await gateway.open()
    await gateway.close()
    rows = Ledger(Path(log.path)).check().receipts
    assert len(rows) == count
    assert {(row.release, row.reason) for row in rows} == {("abandoned", "crash")}


@pytest.mark.parametrize(
    "section",
    [
        '[server]\nallowed_hosts = ["*"]',
        '[payment]\nwallet = "w.hex"',
        '[proofs]\ncircuits = "none"',
        '[proofs]\ncalibrations = "none"',
        '[canaries]\npolicy = "none"',
    ],
)
async def test_settings_that_cannot_be_used_leave_no_entry(section: str, tmp_path: Path) -> None:
    """The start ends before there is a log, or a further entry in it, however often a supervisor makes it again."""
    folder = tmp_path / "state"
    found = load(f'storage.url = "sqlite:///{folder}/log.db"\n{section.replace("none", str(tmp_path / "none"))}')
    with pytest.raises(ConfigError):
        await Gateway(found).open()
    assert not folder.exists()


async def test_a_memory_that_cannot_be_written_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops nothing, but a backup that is restored then would not be noticed; said once, and when it is over."""
    gateway = Gateway(settings)

    def full(note: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def told(count: int) -> list[str]:
        async with asyncio.timeout(10):
            while len(found := [line["notice"] for line in lines if line["event"] == "storage.notice"]) < count:
                await asyncio.sleep(0.01)
        return found

    with structlog.testing.capture_logs() as lines:
        await gateway.open()
        with monkeypatch.context() as patched:
            patched.setattr(gateway.sequencer._writer.memory, "write", full)
            for n in range(2):
                await gateway.sequencer.append(intent(n, settings.log.origin))
            (notice,) = await told(1)
        assert "No space left" in notice
        await gateway.sequencer.append(intent(2, settings.log.origin))
        assert (await told(2))[1] == "the checkpoint memory is written again"
        assert await gateway.close()


async def test_a_reader_that_holds_on_is_told(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its snapshot keeps the write-ahead log from being emptied, and the disk fills; said once, and when it is over."""
    monkeypatch.setattr("gateway.storage.writer.HELD", 1 << 16)
    monkeypatch.setattr("gateway.storage.sequencer.FOLD_BUSY", 1 << 14)
    gateway = Gateway(settings)
    numbers = itertools.count()

    async def told(count: int) -> list[str]:
        async with asyncio.timeout(20):
            while len(found := [line["notice"] for line in lines if line["event"] == "storage.notice"]) < count:
                await gateway.sequencer.append(intent(next(numbers), settings.log.origin))
                await asyncio.sleep(0.01)
        return found

    with structlog.testing.capture_logs() as lines:
        await gateway.open()
        other = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM leaf").fetchone()
        (notice,) = await told(1)
        assert "log.db-wal from being emptied" in notice
        await asyncio.sleep(0.5)
        other.execute("COMMIT")
        assert (await told(2))[1] == "the database's write-ahead log is emptied again"
        other.close()
        assert await gateway.close()


async def test_an_outage_is_told_whatever_the_files_are_called(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reason names a file in a folder whose name is no UTF-8, and what is owed is written all the same."""
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(folder)
    monkeypatch.chdir(folder)
    gateway = Gateway(load('storage.url = "sqlite:///log.db"'))
    await gateway.open()
    os.rename("log.db-wal", "elsewhere")
    gateway._submit(put_session("s", "n", 1, b"{}"), 2)
    while not len(gateway.backlog):
        await asyncio.sleep(0.01)
    os.rename("elsewhere", "log.db-wal")
    assert await gateway.backlog.settle()
    assert gateway.reader.session("s") == b"{}"
    assert await gateway.close()


async def test_what_ends_beside_the_exchanges_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for such a task, so that without a word nobody knew that sessions are not renewed any more."""

    async def fails(self: Fleet) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Fleet, "run", fails)
    gateway = Gateway(settings)
    with structlog.testing.capture_logs() as events:
        await gateway.open()
        await asyncio.sleep(0)
        await gateway.close()
    told = [event for event in events if event["event"] == "task.failed"]
    assert [type(event["exc_info"]) for event in told] == [ZeroDivisionError]  # and nothing of those that the stop ends
