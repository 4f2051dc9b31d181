"""What the writer does about an error: three classes.

passing   the batch fails, the next one tries afresh: full disk, lock, read-only, no memory, file handles
poison    one entry cannot be stored, whatever the disk does: its id is taken, its text is no Unicode
the rest  the writer stops for good: I/O errors above all. After a failed fsync the kernel may have dropped the pages
          and called them clean; a second fsync then succeeds over lost data.
"""

from __future__ import annotations

import sqlite3

from gateway.errors import LogUnavailable, VerirouteError

_PASSING = {
    sqlite3.SQLITE_FULL: "the disk that holds the log is full; free some space, no restart is needed",
    sqlite3.SQLITE_BUSY: "another process keeps the log's database locked",
    sqlite3.SQLITE_LOCKED: "the log's database is locked",
    sqlite3.SQLITE_READONLY: "the log's database is read-only",
    sqlite3.SQLITE_CANTOPEN: "a file of the log's database cannot be opened",
    sqlite3.SQLITE_PERM: "the log's database may not be accessed",
    sqlite3.SQLITE_NOMEM: "there is not enough memory to write the log",
    sqlite3.SQLITE_PROTOCOL: "another process keeps the log's database busy",
    sqlite3.SQLITE_INTERRUPT: "writing the log was interrupted",
}
#: Growing the shared-memory file is the one I/O error that only means a full disk.
_FULL_BY_ANOTHER_NAME = sqlite3.SQLITE_IOERR_SHMSIZE


class Lost(LogUnavailable):
    """Nothing may be written any more, until a new start has checked what is stored."""


#: What one entry, or one job, can do wrong by itself.
POISON = (
    VerirouteError,
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    UnicodeError,
    OverflowError,
    TypeError,
    ValueError,
)


def passing(error: sqlite3.Error) -> str | None:
    """Why the batch failed, when later ones may succeed; None when the writer has to stop."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    if code == _FULL_BY_ANOTHER_NAME:
        code = sqlite3.SQLITE_FULL
    return _PASSING.get(code & 0xFF)


def is_locked(error: sqlite3.Error) -> bool:
    """Whether the deadline passed while another process held the database."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def another_writer(error: BaseException) -> bool:
    """Whether somebody else has written to the log itself: a place in it that we were about to fill is taken."""
    return isinstance(error, sqlite3.IntegrityError) and any(
        place in str(error) for place in ("leaf.idx", "checkpoint.size", "node.level", "record.idx", "receipt.idx")
    )
