"""From a storage URL to an open SQLite connection: paths, file modes, pragmas, and the schema.

The writer's connection is WAL with `synchronous=FULL`: in WAL, anything less acknowledges commits that a power cut
takes back, and the proof of a lost leaf that was handed out is a fork. `secure_delete` makes erased text leave the
file. Only this machine's file systems: WAL needs shared memory, so a database on a network share fails here.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

from gateway.errors import ConfigError, LogRefused

from . import schema
from .packing import Unpacker

BUSY_MS = 5_000
#: A longer write-ahead log saves fsyncs and costs latency when it is folded back (14 ms at 1,000 pages here).
WAL_PAGES = 1_000
STATEMENTS = 256
OUTSIDE = (
    "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_IOERR",
    "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_NOMEM",
)  # fmt: skip


def database_path(url: str) -> str:
    """The absolute path of `sqlite:///relative/path` or `sqlite:////absolute/path`, links resolved.

    Raises `ConfigError` for every other URL; only SQLite on a file can be used yet.
    """
    if url.startswith(("postgres:", "postgresql:", "postgresql+")):
        raise ConfigError("storage.url: PostgreSQL is not supported yet; use sqlite:///path")
    path = url.removeprefix("sqlite:///")
    if path == url or not path or "?" in path or "\0" in path or path.startswith((":memory:", "file:")):
        raise ConfigError(
            f"storage.url must be sqlite:///relative/path or sqlite:////absolute/path to a file, not {url!r}"
        )
    return os.path.realpath(path)


def require_file(path: str) -> None:
    """Raises `ConfigError` unless there is a file at `path`."""
    if os.path.isdir(path):
        raise ConfigError(f"{path} is a folder; name the database file in it")
    if not os.path.isfile(path):
        raise ConfigError(f"there is no database at {path}; `veriroute serve` creates it")


def prepare_file(path: str) -> list[str]:
    """See that `path` can hold the database and that only its owner can read it; create it, empty, where absent.

    Returns what was put right, as sentences for the operator. Raises `ConfigError` when it cannot be.
    """
    notices = []
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(f"cannot create the database {path}: {error.strerror}") from error
    for name in (path, path + "-wal", path + "-shm"):
        try:
            found = os.stat(name)
            if name == path and not stat.S_ISREG(found.st_mode):
                raise ConfigError(f"{path} is not a regular file")
            if found.st_mode & 0o077:
                os.chmod(name, 0o600)
                notices.append(f"{name} was open to other users (mode {found.st_mode & 0o777:04o}); it is 0600 now")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigError(
                f"{name} can be read by other users and its mode cannot be changed: {error.strerror}; "
                f"give it to the user who runs the gateway, or chmod 600 it"
            ) from error
    return notices


def open_writer(path: str, *, busy_ms: int = BUSY_MS, layout: schema.Layout = schema.LOG) -> sqlite3.Connection:
    """A connection that writes, with the schema of `layout` in place. It may be handed to another thread, once.

    Raises `ConfigError` when `path` cannot be written, `LogRefused` when it is no database of ours.
    """
    try:
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=STATEMENTS, timeout=busy_ms / 1000
        )
        try:
            _unpacking(connection)
            _tune(connection)
            _ensure_schema(connection, path, layout)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise refusal(error, path) from error
    return connection


def open_reader(path: str, *, busy_ms: int = BUSY_MS) -> sqlite3.Connection:
    """A read-only connection to an existing database, safe beside a live writer, for one thread at a time.

    Raises `ConfigError` when there is no such database, `LogRefused` when it is none of ours.
    """
    require_file(path)
    try:
        connection = sqlite3.connect(
            Path(path).absolute().as_uri() + "?mode=ro",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=busy_ms / 1000,
        )
        try:
            _unpacking(connection)
            _check_version(connection, path, schema.LOG)
            _stand_in(connection)
            connection.execute("PRAGMA query_only = ON")
            connection.text_factory = _text
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise refusal(error, path) from error
    return connection


def has_log(path: str, memory: str | None = None) -> bool:
    """Whether a log was begun in the database at `path`, or is remembered at `memory`; False where there is neither."""
    if memory is not None and os.path.exists(memory):
        return True
    if not os.path.isfile(path) or os.path.getsize(path) == 0:
        return False
    connection = open_reader(path)
    try:
        return not is_new(connection)
    finally:
        connection.close()


def _text(data: bytes) -> str:
    """Text as stored; what is no UTF-8, in a changed database, is shown and does not raise."""
    return data.decode("utf-8", "replace")


def is_new(connection: sqlite3.Connection) -> bool:
    """Whether no log was ever begun in this database."""
    for table in ("log_state", "leaf", "checkpoint", "receipt", "record"):
        if connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone():  # noqa: S608
            return False
    return True


def _unpacking(connection: sqlite3.Connection) -> None:
    """Give it the SQL function `unpacked`: the envelope in a stored value."""
    connection.create_function("unpacked", 1, Unpacker(connection), deterministic=True)


def _tune(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA trusted_schema = OFF")
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise sqlite3.OperationalError(f"write-ahead logging is not possible here (journal mode stays {mode!r})")
    for pragma in (
        "synchronous = FULL",
        "secure_delete = ON",
        "temp_store = MEMORY",
        "cache_size = -4000",  # stays in the processor's cache; 16 MB costs 2 µs an entry more
        f"wal_autocheckpoint = {WAL_PAGES}",
        "journal_size_limit = 67108864",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _ensure_schema(connection: sqlite3.Connection, path: str, layout: schema.Layout) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _is_blank(connection):
            for statement in layout.statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {layout.application_id}")
            connection.execute(f"PRAGMA user_version = {layout.version}")
        version = _check_version(connection, path, layout)
        for statement in _missing(connection, layout):
            connection.execute(statement)
        if version != layout.version:
            connection.execute(f"PRAGMA user_version = {layout.version}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _missing(connection: sqlite3.Connection, layout: schema.Layout) -> list[str]:
    """The statements that create what a file of an earlier program lacks."""
    found = {name for (name,) in connection.execute("SELECT CAST(name AS TEXT) FROM sqlite_master")}
    return [statement for statement in layout.added if statement.split()[2] not in found]


def _stand_in(connection: sqlite3.Connection) -> None:
    """For a reader, empty tables of its own in place of those that the file lacks and that it cannot make."""
    for statement in _missing(connection, schema.LOG):
        connection.execute(statement.replace("CREATE TABLE", "CREATE TEMP TABLE", 1))


def _is_blank(connection: sqlite3.Connection) -> bool:
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    return bool(tables == 0 and application == 0)


def _check_version(connection: sqlite3.Connection, path: str, layout: schema.Layout) -> int:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != layout.application_id:
        raise LogRefused(f"{path} is not a veriroute {layout.what}", reason="foreign")
    if version not in layout.read:
        raise LogRefused(
            f"{path} has schema version {version}, this program has {layout.version}; use the version that wrote it",
            reason="version",
        )
    return int(version)


def refusal(error: sqlite3.Error, path: str) -> ConfigError | LogRefused:
    """What an error of SQLite says of the database at `path`: locked, none, damaged, or of no use on this machine."""
    name = getattr(error, "sqlite_errorname", None) or ""
    if name.startswith("SQLITE_NOTADB"):
        return LogRefused(f"{path} is not a SQLite database", reason="foreign")
    if name.startswith("SQLITE_CORRUPT"):
        return LogRefused(f"{path} is damaged ({error}); restore it from a backup", reason="altered")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return LogRefused(f"{path} is locked by another process; stop it and start again", reason="in_use")
    return ConfigError(f"cannot use the database {path}: {error}")


def is_outside(error: sqlite3.Error) -> bool:
    """Whether `error` comes of the machine, not of what is stored: a lock, a full disk, no memory, no permission."""
    return (getattr(error, "sqlite_errorname", None) or "").startswith(OUTSIDE)
