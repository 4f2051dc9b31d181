"""URLs, file modes, and files that are not ours."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from gateway.errors import ConfigError, LogRefused
from gateway.storage import engine, schema


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///file:x",
        "sqlite:///a.db?mode=ro",
        "sqlite:///a\0b",
        "mysql://host/db",
        "a.db",
        "",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    """A URL that is no SQLite file is refused with the form that is wanted."""
    with pytest.raises(ConfigError, match="sqlite:///relative/path"):
        engine.database_path(url)


@pytest.mark.parametrize("url", ["postgres://h/d", "postgresql://h/d", "postgresql+asyncpg://h/d"])
def test_postgres_is_not_there_yet(url: str) -> None:
    """PostgreSQL is refused by name."""
    with pytest.raises(ConfigError, match="PostgreSQL is not supported yet"):
        engine.database_path(url)


def test_paths_are_relative_or_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes begin a relative path, four an absolute one; links are resolved, so that a lock has one name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    assert engine.database_path("sqlite:///real.db") == str(tmp_path / "real.db")
    assert engine.database_path(f"sqlite:///{tmp_path}/link.db") == str(tmp_path / "real.db")


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    """A new database and its side files have mode 0600; an open one is closed to others, and that is said."""
    path = str(tmp_path / "a.db")
    assert engine.prepare_file(path) == []
    connection = engine.open_writer(path)
    assert {os.stat(path + end).st_mode & 0o777 for end in ("", "-wal", "-shm")} == {0o600}
    connection.close()
    os.chmod(path, 0o644)
    (notice,) = engine.prepare_file(path)
    assert "0644" in notice
    assert path in notice
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_place_that_cannot_hold_a_file_is_refused(tmp_path: Path) -> None:
    """A missing directory, and a directory in the file's place, are settings errors."""
    with pytest.raises(ConfigError, match="cannot create"):
        engine.prepare_file(str(tmp_path / "no" / "a.db"))
    with pytest.raises(ConfigError, match="not a regular file"):
        engine.prepare_file(str(tmp_path))


def test_the_writer_syncs_every_commit(tmp_path: Path) -> None:
    """Write-ahead log, full synchronisation, and deleted text overwritten."""
    connection = engine.open_writer(str(tmp_path / "a.db"))
    values = [
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "secure_delete")
    ]
    assert values == ["wal", 2, 1]
    connection.close()


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    """Another program's database, a newer schema, and a file that is no database are refused and left alone."""
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    text = tmp_path / "text.db"
    text.write_text("no database at all, but long enough to be looked at as one " * 20)
    for path in (other, text):
        before = path.read_bytes()
        for opening in (engine.open_writer, engine.open_reader, engine.has_log):
            with pytest.raises(LogRefused) as refused:
                opening(str(path))
            assert refused.value.reason == "foreign"
        assert path.read_bytes() == before or path is other
    newer = str(tmp_path / "newer.db")
    connection = engine.open_writer(newer)
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    with pytest.raises(LogRefused, match="schema version") as refused:
        engine.open_writer(newer)
    assert refused.value.reason == "version"


def test_readers_need_a_database(tmp_path: Path) -> None:
    """Reading creates nothing."""
    with pytest.raises(ConfigError, match="no database"):
        engine.open_reader(str(tmp_path / "a.db"))
    assert not engine.has_log(str(tmp_path / "a.db"))
    assert list(tmp_path.iterdir()) == []


def test_readers_cannot_write(tmp_path: Path) -> None:
    """A reader's connection refuses to change anything."""
    path = str(tmp_path / "a.db")
    engine.open_writer(path).close()
    reader = engine.open_reader(path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("UPDATE counter SET value = 9")
    reader.close()
    assert not engine.has_log(path)


def test_a_database_of_before_audits_is_read_and_completed(tmp_path: Path) -> None:
    """A file without the tables of sampled audits is read as one that has none, and gets them when it is written to."""
    path = str(tmp_path / "a.db")
    engine.open_writer(path).close()
    before = sqlite3.connect(path)
    for table in ("audit_epoch", "audited", "doubt"):
        before.execute(f"DROP TABLE {table}")
    before.commit()
    before.close()
    reader = engine.open_reader(path)
    assert reader.execute("SELECT count(*) FROM doubt").fetchone() == (0,)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("INSERT INTO doubt VALUES (1, 'n', 0, 0)")
    reader.close()
    writer = engine.open_writer(path)
    writer.execute("INSERT INTO doubt VALUES (1, 'n', 0, 0)")
    writer.close()
    reader = engine.open_reader(path)
    assert reader.execute("SELECT count(*) FROM doubt").fetchone() == (1,)
    reader.close()
