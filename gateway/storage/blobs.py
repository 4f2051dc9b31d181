"""What is written beside the log, as jobs for the writer's thread: `await sequencer.submit(put_evidence(…))`.

A job is a function of the writer's connection that runs inside its next transaction, so that a serving process has one
writing connection and these rows are durable when the future resolves.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from hashlib import sha256

from gateway.errors import FormatError

Connection = sqlite3.Connection


def put_evidence(digest: str, media_type: str, now_ms: int, data: bytes) -> Callable[[Connection], None]:
    """Keep evidence under the hex SHA-256 of its bytes. The same bytes again change nothing.

    Raises `FormatError`, here and not later, when `digest` is not that of `data`.
    """
    if sha256(data).hexdigest() != digest:
        raise FormatError("evidence is kept under the SHA-256 of its own bytes, and this is another's")

    def job(connection: Connection) -> None:
        connection.execute(
            "INSERT INTO evidence (sha256, media_type, created_ms, bytes) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (digest, media_type, now_ms, data),
        )

    return job


def put_session(id: str, node: str, now_ms: int, document: bytes) -> Callable[[Connection], None]:
    """Keep an attested session under its content address. The same id again changes nothing."""

    def job(connection: Connection) -> None:
        connection.execute(
            "INSERT INTO session (id, node, created_ms, document) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (id, node, now_ms, document),
        )

    return job


def mark_done(seq: int) -> Callable[[Connection], None]:
    """The admin event `seq` has its entry in the log now."""

    def job(connection: Connection) -> None:
        connection.execute("UPDATE admin_event SET done = 1 WHERE seq = ?", (seq,))

    return job


def erase_openings(receipt_ids: Iterable[str]) -> Callable[[Connection], list[str]]:
    """Delete the openings of these receipts, and what nodes sent for them; returns the ids that had an opening.

    A node's own receipt has digests of the bodies without a salt: who guesses a prompt could confirm it. The bytes are
    overwritten. Append the `erasure` entry first. Copies of the old pages stay in the write-ahead log until it is
    folded: `Sequencer.fold`.
    """
    wanted = list(receipt_ids)

    def job(connection: Connection) -> list[str]:
        erased = []
        for id in wanted:
            cursor = connection.execute("DELETE FROM opening WHERE idx = (SELECT idx FROM receipt WHERE id = ?)", (id,))
            if cursor.rowcount:
                erased.append(id)
            connection.execute("UPDATE receipt SET evidence = NULL WHERE id = ?", (id,))
        return erased

    return job
