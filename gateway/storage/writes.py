"""What the command line writes into a database that a gateway may be serving from: keys, and events for the log.

Each act is one short `BEGIN IMMEDIATE` transaction that waits for the gateway's commits, with an outbox row for the log
entry that the act deserves (the gateway signs and appends it: there is one writer of the log) and a generation number
by which the gateway notices.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import ConfigError, LogUnavailable
from gateway.log.acts import key_row

from . import engine
from .failures import passing
from .reads import ApiKey

Connection = sqlite3.Connection

#: How long the command line waits for a busy gateway; SQLite's waiting is not fair, a quiet moment may take a while.
ADMIN_BUSY_MS = 20_000


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
                    _joined(key),
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


def stored_digest(key: ApiKey) -> str:
    """What the entry of a new key commits to (`gateway.log.acts`): the row that `add_key` stores."""
    return key_row(
        id=key.id,
        name=key.name,
        digest=key.digest,
        policy=key.policy,
        scopes=_joined(key),
        created_ms=key.created_ms,
        last4=key.last4,
    )


def _joined(key: ApiKey) -> str:
    return " ".join(key.scopes)


def _leave_event(connection: Connection, kind: str, document: bytes, now_ms: int) -> None:
    connection.execute(
        "INSERT INTO admin_event (kind, document, created_ms, done) VALUES (?, ?, ?, 0)", (kind, document, now_ms)
    )
    connection.execute("UPDATE counter SET value = value + 1 WHERE name = 'generation'")
