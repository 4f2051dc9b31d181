"""Small writes that are not the log.

Two kinds. *Jobs* run on the writer's thread, through `Sequencer.submit`, so that a serving process has one writing
connection: `await sequencer.submit(put_evidence(…))`. *Acts of another process* (`veriroute keys` beside a running
gateway) use `AdminWriter`: short `BEGIN IMMEDIATE` transactions that wait for the gateway's commits, an outbox row for
the log entry that the act deserves, and a generation number by which the gateway notices.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256

from gateway.errors import ConfigError, LogUnavailable

from . import engine
from .failures import passing
from .reads import ApiKey

Connection = sqlite3.Connection

#: How long the command line waits for a busy gateway; SQLite's waiting is not fair, a quiet moment may take a while.
ADMIN_BUSY_MS = 20_000


def put_evidence(media_type: str, data: bytes, now_ms: int) -> Callable[[Connection], str]:
    """A job: keep evidence under the hex SHA-256 of its bytes, and return that. The same bytes again change nothing."""
    digest = sha256(data).hexdigest()

    def job(connection: Connection) -> str:
        connection.execute(
            "INSERT INTO evidence (sha256, media_type, created_ms, bytes) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (digest, media_type, now_ms, data),
        )
        return digest

    return job


def put_session(id: str, node: str, document: bytes, now_ms: int) -> Callable[[Connection], None]:
    """A job: keep an attested session under its content address. The same id again changes nothing."""

    def job(connection: Connection) -> None:
        connection.execute(
            "INSERT INTO session (id, node, created_ms, document) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (id, node, now_ms, document),
        )

    return job


def mark_done(seqs: Iterable[int]) -> Callable[[Connection], None]:
    """A job: these admin events have their entries in the log now."""
    done = [(seq,) for seq in seqs]

    def job(connection: Connection) -> None:
        connection.executemany("UPDATE admin_event SET done = 1 WHERE seq = ?", done)

    return job


def erase_openings(receipt_ids: Iterable[str]) -> Callable[[Connection], list[str]]:
    """A job: delete the openings of these receipts; returns the ids that had one. The bytes are overwritten.

    Append the `erasure` entry first. Copies of the old pages stay in the write-ahead log until it is folded:
    `Sequencer.fold`.
    """
    wanted = list(receipt_ids)

    def job(connection: Connection) -> list[str]:
        erased = []
        for id in wanted:
            cursor = connection.execute("DELETE FROM opening WHERE idx = (SELECT idx FROM receipt WHERE id = ?)", (id,))
            if cursor.rowcount:
                erased.append(id)
        return erased

    return job


class AdminWriter:
    """What the command line changes, in a database that a gateway may be serving from. Close it when done.

    Each method is one transaction with its outbox row. Raises `ConfigError` or `LogRefused` when the database cannot be
    used, `LogUnavailable` when the gateway kept it busy for too long.
    """

    def __init__(self, path: str, *, busy_ms: int = ADMIN_BUSY_MS) -> None:
        self.notices = engine.prepare_file(path)
        self._connection = engine.open_writer(path, busy_ms=busy_ms)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> AdminWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_key(self, key: ApiKey, *, event: bytes) -> None:
        """Store a new key; `event` is the document of the log entry that says so. `ConfigError` if the id is taken."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO api_key (id, name, digest, policy, scopes, created_ms, revoked_ms, last4)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    key.id,
                    key.name,
                    key.digest,
                    key.policy,
                    " ".join(key.scopes),
                    key.created_ms,
                    key.revoked_ms,
                    key.last4,
                ),
            )
            _leave_event(connection, "key", event, key.created_ms)

    def revoke_key(self, id: str, now_ms: int, *, event: bytes) -> bool:
        """Revoke a key; False when there is no such key or it was revoked before."""
        with self._transaction() as connection:
            cursor = connection.execute(
                "UPDATE api_key SET revoked_ms = ? WHERE id = ? AND revoked_ms IS NULL", (now_ms, id)
            )
            if not cursor.rowcount:
                return False
            _leave_event(connection, "key", event, now_ms)
            return True

    def add_event(self, kind: str, document: bytes, now_ms: int) -> None:
        """Leave an event for the log (an export that was made, say)."""
        with self._transaction() as connection:
            _leave_event(connection, kind, document, now_ms)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
        except sqlite3.IntegrityError as error:
            raise ConfigError(f"the database holds this already: {error}") from error
        except sqlite3.Error as error:
            raise LogUnavailable(passing(error) or f"the database failed: {error}") from error


def _leave_event(connection: Connection, kind: str, document: bytes, now_ms: int) -> None:
    connection.execute(
        "INSERT INTO admin_event (kind, document, created_ms, done) VALUES (?, ?, ?, 0)", (kind, document, now_ms)
    )
    connection.execute("UPDATE counter SET value = value + 1 WHERE name = 'generation'")
