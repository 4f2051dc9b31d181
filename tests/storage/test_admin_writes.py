"""What the command line writes beside a running gateway."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from storage_kit import check_log, opened, receipt

from gateway.errors import ConfigError, LogUnavailable
from gateway.storage.blobs import mark_done
from gateway.storage.reads import ApiKey, Reader
from gateway.storage.writes import AdminWriter

KEY = ApiKey("01KEY", "ci", b"d" * 32, "signed", ("inference", "receipts"), 5, None, "abcd")


async def test_keys_come_and_go_beside_the_writer(tmp_path: Path) -> None:
    """A key is added and revoked while the log is written; each act raises the generation and leaves an event."""
    log = await opened(tmp_path)
    with Reader(f"{tmp_path}/log.db") as reader, AdminWriter(f"{tmp_path}/log.db") as admin:
        assert (admin.notices, reader.generation(), reader.api_keys()) == ([], 0, [])
        admin.add_key(KEY, event=b'{"act":"create"}')
        await log.append(receipt(1))
        assert (reader.generation(), reader.api_keys()) == (1, [KEY])
        assert admin.revoke_key("01KEY", 9, event=b'{"act":"revoke"}')
        assert not admin.revoke_key("01KEY", 10, event=b"{}")
        assert not admin.revoke_key("nobody", 10, event=b"{}")
        assert (reader.generation(), reader.api_keys()[0].revoked_ms) == (2, 9)
        admin.add_event("export", b"{}", 11)
        events = reader.pending_events()
        assert [(e.seq, e.kind, e.document, e.created_ms) for e in events] == [
            (1, "key", b'{"act":"create"}', 5), (2, "key", b'{"act":"revoke"}', 9), (3, "export", b"{}", 11),
        ]  # fmt: skip
        await log.submit(mark_done(1))
        assert [event.seq for event in reader.pending_events()] == [2, 3]
    await log.append(receipt(2))
    await log.close()
    assert len(check_log(tmp_path)) == 2


def test_an_id_is_taken_once(tmp_path: Path) -> None:
    """A second key with the same id is refused, and leaves neither event nor generation."""
    with AdminWriter(f"{tmp_path}/log.db") as admin, Reader(f"{tmp_path}/log.db") as reader:
        admin.add_key(KEY, event=b"{}")
        with pytest.raises(ConfigError, match="holds this already"):
            admin.add_key(KEY, event=b"{}")
        assert (reader.generation(), len(reader.pending_events())) == (1, 1)


def test_no_key_is_in_the_file(tmp_path: Path) -> None:
    """What is stored of a key is its digest and its last four characters."""
    with AdminWriter(f"{tmp_path}/log.db") as admin:
        admin.add_key(KEY, event=b"{}")
    connection = sqlite3.connect(tmp_path / "log.db")
    columns = [row[1] for row in connection.execute("PRAGMA table_info(api_key)")]
    connection.close()
    assert columns == ["id", "name", "digest", "policy", "scopes", "created_ms", "revoked_ms", "last4"]


def test_a_busy_database_is_told(tmp_path: Path) -> None:
    """When the database stays locked, the act fails with what to think of it."""
    with AdminWriter(f"{tmp_path}/log.db", busy_ms=50) as admin:
        other = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LogUnavailable, match="locked"):
            admin.add_event("export", b"{}", 1)
        other.execute("ROLLBACK")
        other.close()
        admin.add_event("export", b"{}", 1)
