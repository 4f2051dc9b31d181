"""Reading a stored log for an audit: in pages, each of which costs what lies in it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from storage_kit import opened

from gateway.storage.scan import Scan


@pytest.mark.parametrize("first", [-(2**63), 1])
async def test_the_archive_is_read_once(tmp_path: Path, first: int) -> None:
    """Four times as many archived documents take four times the work and not sixteen, from the lowest number on."""
    await (await opened(tmp_path)).close()
    work = [_work(tmp_path, first, count) for count in (400, 1600)]
    assert work[1] < 6 * work[0]


def _work(folder: Path, first: int, count: int) -> int:
    """How often SQLite did a hundred steps to read so many documents."""
    with closing(sqlite3.connect(folder / "log.db")) as connection:
        connection.execute("DELETE FROM evidence")
        rows = [(first + n, f"{n:064x}", "x", 1, b"x") for n in range(count)]
        connection.executemany(
            "INSERT INTO evidence (rowid, sha256, media_type, created_ms, bytes) VALUES (?, ?, ?, ?, ?)", rows
        )
        connection.commit()
    steps = []
    with Scan(f"{folder}/log.db") as scan:
        scan._connection.set_progress_handler(lambda: steps.append(1), 100)
        assert len(list(scan.archive())) == count
    return len(steps)
