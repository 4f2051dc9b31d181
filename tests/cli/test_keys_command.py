"""`veriroute keys`: what it shows of a database that somebody else may have changed."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from running import command

CHANGED = """
    UPDATE api_key SET id = id || char(27) || '[2J', policy = char(27) || ']0;x' || char(7),
        scopes = 'admin ' || char(155) || '2J', last4 = char(8238) || 'x'
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the database of one key."""
    assert command("keys", "create", "--name", "agent", cwd=tmp_path).returncode == 0
    return tmp_path


def _change(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "veriroute.db")) as connection:
        connection.execute(statement)
        connection.commit()


def test_k01_no_column_of_a_changed_database_steers_the_terminal(folder: Path) -> None:
    """Escape sequences in any column of a key are shown, and none reaches the terminal."""
    _change(folder, CHANGED)
    done = command("keys", "list", cwd=folder)
    assert done.returncode == 0
    assert done.stdout.replace("\n", "").isprintable()
    assert "\\x1b[2J" in done.stdout


@pytest.mark.parametrize("ms", [2**62, -(2**62)])
def test_a_time_that_no_calendar_has_is_shown_as_it_stands(folder: Path, ms: int) -> None:
    """The other columns of the key, and the other keys, are still listed."""
    _change(folder, f"UPDATE api_key SET created_ms = {ms}, revoked_ms = {ms}")
    done = command("keys", "list", cwd=folder)
    assert done.returncode == 0
    assert f"revoked {ms} ms" in done.stdout
    (row,) = json.loads(command("keys", "list", "--json", cwd=folder).stdout)
    assert (row["name"], row["created"], row["revoked"]) == ("agent", f"{ms} ms", f"{ms} ms")
