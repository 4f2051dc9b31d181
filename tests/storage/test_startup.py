"""What start-up lets through, and what it refuses: every way to take something out of a log that is on disk."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from storage_kit import LOG_KEY, ORIGIN, check_log, filled, opened, receipt, record, ulid

from gateway.crypto.merkle import EMPTY_ROOT, leaf_hash, subtree_root
from gateway.errors import ConfigError, LogRefused
from gateway.log.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from gateway.log.note import NoteSigner
from gateway.storage import engine, rebuild
from gateway.storage.memory import SLOT, decode_slot
from gateway.storage.startup import open_log
from gateway.storage.writes import AdminWriter

Tamper = Callable[[sqlite3.Connection], object]


def change(directory: Path, tamper: Tamper) -> None:
    connection = sqlite3.connect(directory / "log.db", isolation_level=None)
    tamper(connection)
    connection.close()


async def refusal(directory: Path, **options: object) -> LogRefused:
    with pytest.raises(LogRefused) as refused:
        await opened(directory, **options)
    return refused.value


async def test_a_log_goes_on_after_a_restart(tmp_path: Path) -> None:
    """Closed and opened again, the log continues where it was, through tile borders."""
    for at, count in ((0, 0), (0, 1), (1, 254), (255, 2), (257, 300)):
        await filled(tmp_path, count, at)
    assert check_log(tmp_path) == [ulid(n) for n in range(557)]
    log = await opened(tmp_path)
    assert (log.size, log.rollback, log.notices, log.open_intents) == (557, None, [], [])
    await log.close()


async def test_a_new_log_begins_with_a_checkpoint_of_nothing(tmp_path: Path) -> None:
    """An empty log has a signed checkpoint at once, and its memory."""
    log = await opened(tmp_path)
    assert open_checkpoint(log.checkpoint, [LOG_KEY.key], ORIGIN) == Checkpoint(ORIGIN, 0, EMPTY_ROOT)
    await log.close()
    assert log.checkpoint in (tmp_path / "memory").read_bytes()
    again = await opened(tmp_path)
    await again.close()


async def test_keys_may_be_made_before_the_first_start(tmp_path: Path) -> None:
    """A database that the command line created is still a new log."""
    AdminWriter(str(tmp_path / "log.db")).close()
    await filled(tmp_path, 3)
    assert len(check_log(tmp_path)) == 3


async def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    """While a log is open, a second start on it is refused and names the process; a link to it is the same log."""
    log = await opened(tmp_path)
    refused = await refusal(tmp_path)
    assert refused.reason == "in_use"
    assert str(os.getpid()) in str(refused)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "log.db").symlink_to(tmp_path / "log.db")
    assert (await refusal(tmp_path / "other")).reason == "in_use"
    await log.append(receipt(1))
    await log.close()
    await filled(tmp_path, 1, 2)


async def test_a_writer_on_a_copy_is_refused(tmp_path: Path) -> None:
    """A copy of a database that is being written has its own lock file; the memory that both name is one."""
    memory = tmp_path / "memory"
    (tmp_path / "one").mkdir()
    log = await opened(tmp_path / "one", memory=str(memory))
    await log.append(receipt(0))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for _ in range(2):
        with pytest.raises(LogRefused, match="another process has the checkpoint memory") as refused:
            await opened(tmp_path / "two", memory=str(memory))
        assert refused.value.reason == "in_use"
    await log.append(receipt(1))
    await log.close()
    with pytest.raises(LogRefused) as refused:
        await opened(tmp_path / "two", memory=str(memory))
    assert refused.value.reason == "rolled_back"
    again = await opened(tmp_path / "one", memory=str(memory))
    await again.close()


async def test_a_writer_in_another_process_is_refused(tmp_path: Path) -> None:
    """The lock holds across processes, and a process that died does not keep it."""
    code = (
        "import fcntl, os, sys; f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); fcntl.flock(f, fcntl.LOCK_EX);"
        "os.write(f, b'%d' % os.getpid()); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "log.db.lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        refused = await refusal(tmp_path)
        assert (refused.reason, str(holder.pid) in str(refused)) == ("in_use", True)
        assert not (tmp_path / "log.db").exists()
        holder.kill()
    await filled(tmp_path, 1)


# Each tampers with a log of 300 receipts that was closed in order; what is expected is the reason and a word of it.
TAMPERS: dict[str, tuple[Tamper, str, str]] = {
    "last leaves dropped": (lambda c: c.execute("DELETE FROM leaf WHERE idx >= 290"), "altered", "do not lead"),
    "all leaves dropped": (lambda c: c.execute("DELETE FROM leaf"), "altered", "tile roots"),
    "everything dropped": (
        lambda c: [c.execute(f"DELETE FROM {t}") for t in ("leaf", "receipt", "node", "checkpoint", "log_state")],
        "rolled_back",
        "remembers 300",
    ),
    "a leaf missing in the middle": (lambda c: c.execute("DELETE FROM leaf WHERE idx = 40"), "altered", "leaf 40 "),
    "a leaf missing in the last tile": (lambda c: c.execute("DELETE FROM leaf WHERE idx = 280"), "altered", "280"),
    "a leaf's text changed": (
        lambda c: c.execute("UPDATE leaf SET leaf = replace(leaf, 'a', 'b') WHERE idx = 7"),
        "altered",
        "leaf 7 ",
    ),
    "a leaf's hash changed": (
        lambda c: c.execute("UPDATE leaf SET hash = zeroblob(32) WHERE idx = 290"),
        "altered",
        "do not lead",
    ),
    "a leaf's hash cut": (lambda c: c.execute("UPDATE leaf SET hash = x'00' WHERE idx = 3"), "altered", "leaf 3 "),
    "two leaves swapped": (
        lambda c: [
            c.execute("UPDATE leaf SET idx = -1 WHERE idx = 20"),
            c.execute("UPDATE leaf SET idx = 20 WHERE idx = 21"),
            c.execute("UPDATE leaf SET idx = 21 WHERE idx = -1"),
        ],
        "altered",
        "tile roots",
    ),
    "a document changed": (
        lambda c: c.execute("UPDATE receipt SET envelope = (SELECT envelope FROM receipt WHERE idx = 8) WHERE idx = 9"),
        "altered",
        "document of leaf 9 was changed",
    ),
    "a document no envelope": (
        lambda c: c.execute("UPDATE receipt SET envelope = '{' WHERE idx = 9"),
        "altered",
        "leaf 9",
    ),
    "a receipt's row dropped": (
        lambda c: c.execute("DELETE FROM receipt WHERE idx = 9"),
        "altered",
        "leaf 9 is missing",
    ),
    "a receipt filed as a record": (
        lambda c: [
            c.execute("INSERT INTO record SELECT idx, 'start', id, 0, envelope FROM receipt WHERE idx = 9"),
            c.execute("DELETE FROM receipt WHERE idx = 9"),
        ],
        "altered",
        "another kind",
    ),
    "a tile root changed": (lambda c: c.execute("UPDATE node SET hash = zeroblob(32)"), "altered", "tile roots"),
    "a tile root added": (lambda c: c.execute("INSERT INTO node VALUES (16, 0, zeroblob(32))"), "altered", "level 16"),
    "a tile root dropped": (lambda c: c.execute("DELETE FROM node"), "altered", "tile roots"),
    "the checkpoint dropped": (
        lambda c: c.execute("DELETE FROM checkpoint WHERE size = 300"),
        "altered",
        "do not lead",
    ),
    "all checkpoints dropped": (lambda c: c.execute("DELETE FROM checkpoint"), "altered", "no checkpoint"),
    "the checkpoint's signature changed": (
        lambda c: c.execute("UPDATE checkpoint SET note = replace(note, 'A', 'B')"),
        "altered",
        "does not hold",
    ),
    "the checkpoint misfiled": (
        lambda c: c.execute("UPDATE checkpoint SET size = 301 WHERE size = 300"),
        "altered",
        "filed under size 301",
    ),
    "its owner dropped": (lambda c: c.execute("DELETE FROM log_state"), "altered", "whose it is"),
    "its origin changed": (lambda c: c.execute("UPDATE log_state SET origin = 'x'"), "foreign", "log.origin"),
    "its key changed": (lambda c: c.execute("UPDATE log_state SET vkey = 'x'"), "foreign", "another key"),
    "a leaf before the first": (
        lambda c: c.execute("INSERT INTO leaf VALUES (-1, x'00', x'00')"),
        "altered",
        "`leaf` has the place -1",
    ),
    "a leaf at the end of numbers": (
        lambda c: c.execute("INSERT INTO leaf VALUES (9223372036854775807, x'00', x'00')"),
        "altered",
        "9223372036854775807 is no place of a leaf",
    ),
    "a leaf without a number": (
        lambda c: [
            c.execute("ALTER TABLE leaf RENAME TO old"),
            c.execute("CREATE TABLE leaf (idx, hash, leaf)"),
            c.execute("INSERT INTO leaf SELECT * FROM old"),
            c.execute("INSERT INTO leaf VALUES ('zz', x'00', x'00')"),
        ],
        "altered",
        "'zz' is no place of a leaf",
    ),
    "a receipt before the first": (
        lambda c: [
            c.execute("CREATE TEMP TABLE forged AS SELECT * FROM receipt WHERE idx = 9"),
            c.execute("UPDATE forged SET idx = -1, id = 'x'"),
            c.execute("INSERT INTO receipt SELECT * FROM forged"),
        ],
        "altered",
        "`receipt` has the place -1",
    ),
    "a record before the first": (
        lambda c: c.execute("INSERT INTO record VALUES (-2, 'start', 'x', 0, x'00')"),
        "altered",
        "`record` has the place -2",
    ),
    "a document behind the last": (
        lambda c: c.execute("INSERT INTO record VALUES (300, 'start', 'x', 0, x'00')"),
        "altered",
        "`record` has the place 300",
    ),
    "an opening before the first": (
        lambda c: c.execute("UPDATE opening SET idx = -1 WHERE idx = 9"),
        "altered",
        "`opening` has the place -1",
    ),
    "a checkpoint before the first": (
        lambda c: c.execute("INSERT INTO checkpoint VALUES (-1, x'00', 0)"),
        "altered",
        "`checkpoint` has the place -1",
    ),
    "j09 intents settled beyond the last": (
        lambda c: c.execute("UPDATE log_state SET settled = 301"),
        "altered",
        "the intents of 301 entries are closed, and has 300",
    ),
    "j09 intents settled before the first": (
        lambda c: c.execute("UPDATE log_state SET settled = -1"),
        "altered",
        "the intents of -1 entries are closed",
    ),
    "a table dropped": (lambda c: c.execute("DROP TABLE node"), "altered", "cannot be read"),
}


@pytest.fixture(scope="module")
def log_of_300(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("log300")
    asyncio.run(filled(directory, 300))
    return directory


@pytest.fixture
def copy(log_of_300: Path, tmp_path: Path) -> Path:
    for file in log_of_300.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", TAMPERS)
async def test_a_changed_database_is_refused(copy: Path, name: str) -> None:
    """Whatever is taken out of the stored log or changed in it, start-up refuses and says what it found."""
    tamper, reason, word = TAMPERS[name]
    change(copy, tamper)
    refused = await refusal(copy)
    assert refused.reason == reason, refused
    assert word in str(refused)


async def test_an_untouched_copy_is_accepted(copy: Path) -> None:
    """The copy that the cases above tamper with is otherwise sound."""
    log = await opened(copy)
    assert log.size == 300
    await log.close()


async def test_an_altered_log_is_never_accepted(copy: Path) -> None:
    """Accepting a rollback does not accept a changed history."""
    change(copy, lambda c: c.execute("UPDATE leaf SET leaf = 'x' WHERE idx = 5"))
    assert (await refusal(copy, accept_rollback=True)).reason == "altered"


def resign(directory: Path, start: int, count: int) -> None:
    """Replace the log from `start` on by `count` other leaves, signed with the real key, as its thief would."""

    def tamper(c: sqlite3.Connection) -> None:
        for table in ("leaf", "receipt", "node"):
            c.execute(
                f"DELETE FROM {table} WHERE {'n' if table == 'node' else 'idx'} >= ?",
                (0 if table == "node" else start,),
            )
        c.execute("DELETE FROM checkpoint WHERE size > 0")
        for n in range(start, start + count):
            entry = record("policy", 10_000 + n)
            c.execute("INSERT INTO leaf VALUES (?, ?, ?)", (n, leaf_hash(entry.leaf), entry.leaf))
            c.execute("INSERT INTO record VALUES (?, 'policy', ?, 0, ?)", (n, entry.id, entry.document))
        hashes = [row[0] for row in c.execute("SELECT hash FROM leaf ORDER BY idx")]
        if len(hashes) >= 256:
            c.execute("INSERT INTO node VALUES (8, 0, ?)", (subtree_root(hashes[:256]),))
        note = sign_checkpoint(Checkpoint(ORIGIN, len(hashes), subtree_root(hashes)), LOG_KEY)
        c.execute("INSERT INTO checkpoint VALUES (?, ?, 0)", (len(hashes), note))

    change(directory, tamper)


@pytest.mark.parametrize(
    ("start", "count", "reason"), [(290, 10, "altered"), (290, 60, "altered"), (100, 3, "rolled_back")]
)
async def test_a_replaced_tail_is_refused(copy: Path, start: int, count: int, reason: str) -> None:
    """A suffix that was replaced and signed with the stolen log key does not fit what is remembered."""
    resign(copy, start, count)
    assert (await refusal(copy)).reason == reason


async def test_a_restored_backup_is_refused(tmp_path: Path) -> None:
    """A backup a hundred entries old is refused with both sizes, before anything is appended to it."""
    await filled(tmp_path, 40)
    backup = (tmp_path / "log.db").read_bytes()
    await filled(tmp_path, 100, 40)
    (tmp_path / "log.db").write_bytes(backup)
    refused = await refusal(tmp_path)
    assert refused.reason == "rolled_back"
    for word in ("40 entries", "remembers 140", "--accept-rollback"):
        assert word in str(refused)
    assert (tmp_path / "log.db").read_bytes() == backup


async def test_an_accepted_rollback_is_told(tmp_path: Path) -> None:
    """With `accept_rollback` the log goes on and says what was lost; it stays refused until something is committed."""
    await filled(tmp_path, 40)
    backup = (tmp_path / "log.db").read_bytes()
    await filled(tmp_path, 100, 40)
    (tmp_path / "log.db").write_bytes(backup)
    for _ in range(2):
        log = await opened(tmp_path, accept_rollback=True)
        assert log.rollback is not None
        assert (log.rollback.reason, log.rollback.known_size, log.rollback.stored_size) == ("rolled_back", 140, 40)
        await log.close()
        assert (await refusal(tmp_path)).reason == "rolled_back"
    log = await opened(tmp_path, accept_rollback=True)
    await log.append(record("alarm", 1))
    await log.close()
    await filled(tmp_path, 2, 5000)
    assert len(check_log(tmp_path)) == 43


async def test_a_database_that_is_gone_is_not_begun_anew(tmp_path: Path) -> None:
    """When the memory knows a log and the database is missing, no empty log takes its place."""
    await filled(tmp_path, 3)
    (tmp_path / "log.db").unlink()
    refused = await refusal(tmp_path)
    assert (refused.reason, "is gone" in str(refused)) == ("rolled_back", True)
    assert not (tmp_path / "log.db").exists()
    log = await opened(tmp_path, accept_rollback=True)
    assert log.rollback is not None
    assert log.rollback.stored_size == 0
    await log.close()


async def test_the_memory_may_lie_behind(tmp_path: Path) -> None:
    """A memory that missed the last commits (a power cut) is no reason to refuse."""
    await filled(tmp_path, 260)
    old = (tmp_path / "memory").read_bytes()
    await filled(tmp_path, 300, 260)
    (tmp_path / "memory").write_bytes(old)
    await filled(tmp_path, 1, 1000)
    assert len(check_log(tmp_path)) == 561


@pytest.mark.parametrize("damage", ["absent", "empty", "zeros", "garbage"])
async def test_a_lost_memory_is_refused_and_can_be_accepted(copy: Path, damage: str) -> None:
    """Without its memory a log cannot be told from its backup: refused, unless the operator says so."""
    memory = copy / "memory"
    if damage == "absent":
        memory.unlink()
    else:
        memory.write_bytes({"empty": b"", "zeros": bytes(2 * SLOT), "garbage": b"?" * 2 * SLOT}[damage])
    reason = "memory_damaged" if damage == "garbage" else "memory_absent"
    assert (await refusal(copy)).reason == reason
    log = await opened(copy, accept_rollback=True)
    assert log.rollback is not None
    assert (log.rollback.reason, log.rollback.known_size) == (reason, None)
    await log.append(record("alarm", 1))
    await log.close()
    await filled(copy, 1, 1000)


async def test_a_torn_slot_leaves_the_other(tmp_path: Path) -> None:
    """When the newest slot of the memory was cut in writing, the one before still tells a rollback."""
    log = await opened(tmp_path)
    for n in range(6):
        await log.append(receipt(n))
    await log.close()
    whole = (tmp_path / "memory").read_bytes()
    newest = max((0, SLOT), key=lambda at: decode_slot(whole[at : at + SLOT]).number)  # type: ignore[union-attr]
    torn = bytearray(whole)
    torn[newest + 150 : newest + SLOT] = bytes(SLOT - 150)
    (tmp_path / "memory").write_bytes(torn)
    change(tmp_path, lambda c: [c.execute(f"DELETE FROM {t}") for t in ("leaf", "receipt", "checkpoint", "log_state")])
    refused = await refusal(tmp_path)
    assert "remembers 5" in str(refused)


async def test_a_foreign_memory_is_refused(tmp_path: Path) -> None:
    """The memory of another log, or of another key, is not overwritten."""
    other = NoteSigner("other.example/log", bytes(32))
    log = await opened(tmp_path, signer=other)
    await log.close()
    (tmp_path / "log.db").unlink()
    before = (tmp_path / "memory").read_bytes()
    assert (await refusal(tmp_path)).reason == "foreign"
    assert (tmp_path / "memory").read_bytes() == before


async def test_another_key_or_origin_is_refused(tmp_path: Path) -> None:
    """A log is continued by its own key and origin only."""
    await filled(tmp_path, 3)
    (tmp_path / "memory").unlink()
    for signer in (NoteSigner(ORIGIN, b"k" * 32), NoteSigner("elsewhere.example", bytes(range(32)))):
        assert (await refusal(tmp_path, signer=signer, memory=str(tmp_path / "m2"))).reason == "foreign"


async def test_the_key_bears_the_origins_name(tmp_path: Path) -> None:
    """A signer with another name than the origin is a settings error."""

    with pytest.raises(ConfigError, match="must be the same"):
        await open_log(f"sqlite:///{tmp_path}/log.db", LOG_KEY, "another", f"{tmp_path}/memory")


async def test_files_that_cannot_be_made_are_settings_errors(tmp_path: Path) -> None:
    """A missing directory is named; no lock stays behind."""
    with pytest.raises(ConfigError, match="lock file"):
        await opened(tmp_path / "no", memory=str(tmp_path / "memory"))
    with pytest.raises(ConfigError, match="checkpoint memory"):
        await opened(tmp_path, memory=str(tmp_path / "no" / "memory"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(LogRefused, match="cannot be read"):
        await opened(tmp_path, memory=str(tmp_path / "folder"))
    await filled(tmp_path, 1)


@pytest.mark.parametrize(
    ("done", "error", "told"),
    [
        ("lock", LogRefused, "locked by another process; stop it"),
        ("read only", ConfigError, "cannot use the database .*readonly"),
    ],
)
async def test_what_the_machine_does_not_let_be_is_no_alteration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: str, error: type[Exception], told: str
) -> None:
    """A lock that is taken, or a disk that fails, while the log is opened: nobody is told that somebody changed it."""
    open_writer = engine.open_writer
    other = sqlite3.connect(tmp_path / "log.db", isolation_level=None, check_same_thread=False)

    def opened_and_then(path: str, **options: Any) -> sqlite3.Connection:
        connection = open_writer(path, **options)
        if done == "lock":
            other.execute("BEGIN IMMEDIATE")
        else:
            connection.execute("PRAGMA query_only = ON")
        return connection

    monkeypatch.setattr(engine, "open_writer", opened_and_then)
    with pytest.raises(error, match=told) as refused:
        await opened(tmp_path, deadline_s=0.1)
    assert getattr(refused.value, "reason", None) != "altered"
    other.close()
    monkeypatch.undo()
    await filled(tmp_path, 1)


async def test_a_receipt_that_lost_its_intent_is_refused(tmp_path: Path) -> None:
    """A receipt that is stored without its intent, or with another's, would get a second one: the start names it."""
    log = await opened(tmp_path)
    for entry in (record("intent", 1), record("intent", 2), receipt(1), receipt(2)):
        await log.append(entry)
    await log.close()
    for stored, word in (("NULL", "None"), ("1", "1")):
        change(tmp_path, lambda c, stored=stored: c.execute(f"UPDATE receipt SET intent = {stored} WHERE idx = 2"))
        refused = await refusal(tmp_path)
        assert refused.reason == "altered"
        assert f"the receipt at 2 is stored with {word} as its intent, which is at 0" in str(refused)
    change(tmp_path, lambda c: c.execute("UPDATE receipt SET intent = 0 WHERE idx = 2"))
    log = await opened(tmp_path)
    assert log.open_intents == []
    await log.close()


async def test_open_intents_are_handed_over(tmp_path: Path) -> None:
    """An intent without its receipt comes back at the next start, once, with its document; closing it links both."""
    log = await opened(tmp_path)
    for n in (1, 2, 3):
        await log.append(record("intent", n))
    await log.append(receipt(2))
    await log.close()
    log = await opened(tmp_path)
    assert [id for id, _ in log.open_intents] == [ulid(1), ulid(3)]
    assert log.open_intents[0][1] == record("intent", 1).document
    await log.append(receipt(1))
    await log.close()
    log = await opened(tmp_path)
    assert [id for id, _ in log.open_intents] == [ulid(3)]
    await log.append(receipt(3))
    await log.close()
    log = await opened(tmp_path)
    assert log.open_intents == []
    await log.close()


async def test_settled_intents_are_not_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The place below which all intents are closed moves on while the log runs, and never beyond an open one."""
    monkeypatch.setattr("gateway.storage.writer.SETTLE_EVERY", 10)
    log = await opened(tmp_path)
    for n in range(30):
        await log.append(record("intent", n))
        if n != 20:
            await log.append(receipt(n))
    await log.close()
    with sqlite3.connect(tmp_path / "log.db") as connection:
        assert connection.execute("SELECT settled FROM log_state").fetchone() == (40,)
    connection.close()
    log = await opened(tmp_path)
    assert [id for id, _ in log.open_intents] == [ulid(20)]
    await log.close()


async def test_a_start_that_is_given_up_leaves_no_lock(tmp_path: Path) -> None:
    """Cancelling a start while it checks frees the log once the check is through."""
    start = asyncio.create_task(opened(tmp_path))
    await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    for _ in range(100):
        try:
            log = await opened(tmp_path)
        except LogRefused:
            await asyncio.sleep(0.02)
            continue
        break
    await log.append(receipt(1))
    await log.close()


async def test_a_large_log_is_checked_by_its_tile_roots(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the stored tile roots are used: they must lead to the signed root, with the tail in full."""
    monkeypatch.setattr(rebuild, "WHOLE", 100)
    monkeypatch.setattr(rebuild.rebuild, "__kwdefaults__", {"whole": 100})
    monkeypatch.setattr(rebuild.check_texts, "__kwdefaults__", {"whole": 100, "tail": 20})
    log = await opened(copy)
    assert log.size == 300
    await log.close()
    change(copy, lambda c: c.execute("UPDATE node SET hash = zeroblob(32)"))
    assert (await refusal(copy)).reason == "altered"
