"""Everything that is asked of the database, on read-only connections beside a live writer.

Each thread that calls gets a connection of its own; calls are synchronous and short, so an event loop hands them to a
thread (`asyncio.to_thread(reader.receipt, id)`). Every answer is a snapshot: a reader never blocks the writer and never
sees half a batch. Paging is by log index ("keyset"), so a page costs the same however deep it lies.

What is read here is what is stored, not what is true: hashes, proofs and signatures are checked by `gateway.log` and
`gateway.verify`.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from gateway.errors import BadRequest, LogUnavailable
from gateway.model.admin import Row
from gateway.model.entry import Opening

from . import engine
from .audits import AuditReads
from .tree_reads import TreeReads

PAGE = 100
#: Places that a page by node looks through at most: no index has nodes, for it would cost every request.
LOOKED = 50_000
LAST = (1 << 63) - 1
_PLAIN = (
    "idx, id, key_id, client_request_id, created_ms, verdict, release, reason, policy, network, node, model, endpoint, "
    "stream, status, latency_ms"
)


class Document(msgspec.Struct, frozen=True):
    """A leaf and the signed document behind it; `envelope` is None where the document is not stored (any more)."""

    index: int
    kind: str
    id: str | None
    leaf: bytes
    envelope: bytes | None


class Blob(msgspec.Struct, frozen=True):
    """Archived evidence: its media type and bytes."""

    media_type: str
    data: bytes


class ApiKey(msgspec.Struct, frozen=True):
    """An API key as stored: `digest` of the key, never the key. Revoked when `revoked_ms` is set."""

    id: str
    name: str
    digest: bytes
    policy: str | None
    scopes: tuple[str, ...]
    created_ms: int
    revoked_ms: int | None
    last4: str


class Event(msgspec.Struct, frozen=True):
    """Something another process did, for which the gateway still owes the log an entry."""

    seq: int
    kind: str
    document: bytes
    created_ms: int


class _Opened:
    """A thread's connection. Closed by another thread in the middle of a read, the driver would use freed memory."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._busy = threading.Lock()

    def all(self, sql: str, parameters: Sequence[object]) -> list[Any]:
        with self._busy:
            return self._connection.execute(sql, parameters).fetchall()

    def close(self) -> None:
        self._connection.interrupt()
        with self._busy:
            self._connection.close()


class Reader(TreeReads, AuditReads):
    """Reads of one database. `path` is the file (`gateway.storage.engine.database_path` makes it of a URL).

    Raises `ConfigError` when there is no database at `path` and `LogRefused` when it is none of ours, at the first call
    in each thread, `LogUnavailable` when it cannot be read. Single rows that are not there are None.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._local = threading.local()
        self._open: list[_Opened] = []
        self._guard = threading.Lock()
        self._counting = threading.Lock()
        self._counted: tuple[int, Counter[str]] = (-1, Counter())  # receipts up to this index
        super().__init__()

    def close(self) -> None:
        """Close every thread's connection; a read under way fails, and a later one opens a new connection."""
        with self._guard:
            self._local = threading.local()
            while self._open:
                self._open.pop().close()
        with self._counting:  # the file may be another one when it is opened again
            self._counted = (-1, Counter())

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _all(self, sql: str, *parameters: object) -> list[Any]:
        """All rows at once: a statement left half read would hold its snapshot, and the writer's log with it."""
        opened = getattr(self._local, "opened", None)
        if opened is None:
            opened = _Opened(engine.open_reader(self.path))
            with self._guard:
                self._open.append(opened)
                self._local.opened = opened
        try:
            return opened.all(sql, parameters)
        except sqlite3.Error as error:
            raise LogUnavailable(f"the database {self.path} cannot be read: {error}") from error

    def _one(self, sql: str, *parameters: object) -> Any:
        return next(iter(self._all(sql, *parameters)), None)

    # Receipts

    def receipt(self, id: str, *, key_id: str | None = None) -> bytes | None:
        """The envelope of a receipt; with `key_id`, only if it is that key's."""
        found = self._one(
            "SELECT unpacked(CAST(envelope AS BLOB)) FROM receipt WHERE id = ? AND key_id = coalesce(?, key_id)",
            id,
            key_id,
        )
        return None if found is None else found[0]

    def row(self, id: str, *, key_id: str | None = None) -> Row | None:
        """The query columns of a receipt, with its index; with `key_id`, only if it is that key's."""
        found = self._one(_ROW, id, key_id)
        return None if found is None else self._rows([found])[0]

    def rows_of_key(
        self, key_id: str, *, limit: int = PAGE, after: str | None = None, client_request_id: str | None = None
    ) -> list[Row]:
        """A key's receipts, newest first: up to `limit` that are older than its receipt `after`.

        `BadRequest` when `after` is no receipt of this key, whosever it may be.
        """
        before = None
        if after is not None:
            found = self._one("SELECT idx FROM receipt WHERE id = ? AND key_id = ?", after, key_id)
            if found is None:
                raise BadRequest("there is no receipt of yours with the id given as `after`", param="after")
            before = found[0]
        conditions, values = ["key_id = ?"], [key_id]
        if client_request_id is not None:
            conditions.append("client_request_id = ?")
            values.append(client_request_id)
        return self._page(conditions, values, before=before, after=None, limit=limit)

    def rows(
        self,
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int = PAGE,
        verdict: str | None = None,
        node: str | None = None,
    ) -> list[Row]:
        """All receipts, newest first, with index below `before` and above `after`, by verdict and node if given.

        With `after` alone, the `limit` nearest above it (so that a follower misses none), still newest first.
        """
        return self._page(*_chosen(verdict, node), before=before, after=after, limit=limit)

    def page(
        self, *, before: int | None = None, limit: int = PAGE, verdict: str | None = None, node: str | None = None
    ) -> tuple[list[Row], int | None]:
        """As `rows`, and the `before` of the next older page; None where there are no older ones.

        By node, a page looks through `LOOKED` places at most: it may hold few rows, or none, and not be the last.
        """
        least = None
        if node is not None:
            newest = self._one(
                "SELECT idx FROM receipt WHERE idx < ? ORDER BY idx DESC LIMIT 1", LAST if before is None else before
            )
            if newest is not None and newest[0] >= LOOKED:
                least, before = newest[0] - LOOKED + 1, newest[0] + 1
        after = None if least is None else least - 1
        found = self._page(*_chosen(verdict, node), before=before, after=after, limit=limit)
        return found, found[-1].index if found and len(found) == limit else least

    def _page(
        self, conditions: list[str], values: Sequence[object], *, before: int | None, after: int | None, limit: int
    ) -> list[Row]:
        terms, parameters = list(conditions), list(values)
        for column, bound in (("idx < ?", before), ("idx > ?", after)):
            if bound is not None:
                terms.append(column)
                parameters.append(bound)
        where = f"WHERE {' AND '.join(terms)}" if terms else ""
        rising = after is not None and before is None
        found = self._all(
            f"SELECT {_PLAIN} FROM receipt {where} ORDER BY idx {'ASC' if rising else 'DESC'} LIMIT ?",  # noqa: S608
            *parameters,
            max(0, limit),
        )
        return self._rows(found[::-1] if rising else found)

    def _rows(self, found: Sequence[tuple[Any, ...]]) -> list[Row]:
        released = {row[0]: row[_AT["node"]] for row in found if row[_AT["release"]] == "released"}
        doubted = self.doubted(released)
        return [_row(row, row[0] in doubted) for row in found]

    def counts(self) -> dict[str, int]:
        """How many receipts there are of each verdict. They only come in, so each is counted once: this is asked for
        again every other second."""
        with self._counting:
            last, counts = self._counted
            found = self._all(_COUNTS_ABOVE, last) if counts else self._all(_COUNTS)
            counts = counts + Counter({verdict: count for verdict, count, _ in found})
            self._counted = max([last, *(highest for _, _, highest in found)]), counts
        return dict(counts)

    def evidence_of(self, receipt_id: str) -> bytes | None:
        """What the node sent for this one answer (its own receipt); None when it sent none."""
        found = self._one("SELECT unpacked(CAST(evidence AS BLOB)) FROM receipt WHERE id = ?", receipt_id)
        return None if found is None or found[0] is None else found[0]

    def opening(self, receipt_id: str) -> Opening | None:
        """The opening of a receipt; None when the receipt has none, or it was erased."""
        found = self._one(_OPENING, receipt_id)
        return None if found is None else Opening(receipt_id, *found)

    def intent_of(self, receipt_id: str) -> int | None:
        """The index of the intent that came before a receipt, if it is known."""
        found = self._one("SELECT intent FROM receipt WHERE id = ?", receipt_id)
        return None if found is None else found[0]

    # Documents

    def document(self, index: int) -> Document | None:
        """The leaf at `index` with its document."""
        return next(self.documents(index, index + 1), None)

    def documents(self, start: int = 0, end: int | None = None) -> Iterator[Document]:
        """Leaves [start, end) with their documents, in log order, in chunks: no snapshot is held for long."""
        at = start
        while end is None or at < end:
            stop = at + 256 if end is None else min(at + 256, end)
            found = self._all(_DOCUMENTS, at, stop)
            if not found:
                return
            for index, leaf, id, envelope in found:
                yield Document(index, _kind(leaf), id, leaf, envelope)
            at = stop

    # Evidence and sessions

    def evidence(self, sha256: str) -> Blob | None:
        """Archived evidence by the hex SHA-256 of its bytes."""
        found = self._one("SELECT media_type, bytes FROM evidence WHERE sha256 = ?", sha256)
        return None if found is None else Blob(*found)

    def session(self, id: str) -> bytes | None:
        """The document of an attested session."""
        found = self._one("SELECT document FROM session WHERE id = ?", id)
        return None if found is None else found[0]

    # Keys, and what other processes did

    def generation(self) -> int:
        """A number that rises whenever another process changes keys or leaves an event: poll this, then read."""
        return int(self._one("SELECT value FROM counter WHERE name = 'generation'")[0])

    def api_keys(self) -> list[ApiKey]:
        """All API keys, revoked ones too, oldest first."""
        found = self._all(_API_KEYS)
        return [
            ApiKey(id, name, digest, policy, tuple(scopes.split()), created_ms, revoked_ms, last4)
            for id, name, digest, policy, scopes, created_ms, revoked_ms, last4 in found
        ]

    def pending_events(self, limit: int = PAGE, *, after: int = 0) -> list[Event]:
        """Events with a number above `after` that have no entry in the log yet, oldest first.

        Numbers only rise, so who has seen to all up to one need not have the database look through them again.
        """
        found = self._all(
            "SELECT seq, kind, document, created_ms FROM admin_event WHERE seq > ? AND done = 0 ORDER BY seq LIMIT ?",
            after,
            limit,
        )
        return [Event(*row) for row in found]


_ROW = f"SELECT {_PLAIN} FROM receipt WHERE id = ? AND key_id = coalesce(?, key_id)"  # noqa: S608
# By the narrow indexes: the table's rows are large, and all of them are counted.
_COUNTS = """
    WITH other AS (SELECT verdict, count(*) AS n, max(idx) AS last FROM receipt WHERE verdict <> 'affirming' GROUP BY 1)
    SELECT * FROM other
    UNION ALL SELECT 'affirming', count(*) - (SELECT coalesce(sum(n), 0) FROM other), max(idx) FROM receipt
    HAVING count(*) > 0"""
_COUNTS_ABOVE = "SELECT verdict, count(*), max(idx) FROM receipt WHERE idx > ? GROUP BY verdict"
_OPENING = """
    SELECT CAST(seed AS BLOB), CAST(request AS BLOB), CAST(response AS BLOB) FROM opening
    WHERE idx = (SELECT idx FROM receipt WHERE id = ?)"""
_API_KEYS = """
    SELECT id, name, digest, policy, scopes, created_ms, revoked_ms, last4 FROM api_key ORDER BY created_ms, id"""
_DOCUMENTS = """
    SELECT leaf.idx, CAST(leaf.leaf AS BLOB), CAST(coalesce(receipt.id, record.id) AS TEXT),
        unpacked(CAST(coalesce(receipt.envelope, record.envelope) AS BLOB))
    FROM leaf LEFT JOIN receipt ON receipt.idx = leaf.idx LEFT JOIN record ON record.idx = leaf.idx
    WHERE leaf.idx >= ? AND leaf.idx < ? ORDER BY leaf.idx"""


_AT = {name: at for at, name in enumerate(["index", *_PLAIN.replace(" ", "").split(",")[1:]])}


def _chosen(verdict: str | None, node: str | None) -> tuple[list[str], list[object]]:
    """The conditions by verdict and node, and their values."""
    conditions: list[str] = []
    values: list[object] = []
    if verdict is not None:
        conditions.append("verdict = ?" if verdict == "affirming" else "verdict = ? AND verdict <> 'affirming'")
        values.append(verdict)
    if node is not None:
        conditions.append("node = ?")
        values.append(node)
    return conditions, values


def _row(found: tuple[Any, ...], doubted: bool) -> Row:
    values = dict(zip(_AT, found, strict=True))
    values["stream"], values["doubted"] = bool(values["stream"]), doubted
    try:
        return msgspec.convert(values, Row)
    except msgspec.ValidationError as error:
        raise LogUnavailable(f"the query columns of receipt {found[0]} were damaged: {error}") from error


def _kind(leaf: bytes) -> str:
    """The kind in a leaf's text, as far as it can be told; judging the leaf is not done here."""
    return leaf[12:].split(b" ", 1)[0].decode("ascii", "replace")
