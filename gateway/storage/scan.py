"""The whole log in order, for an audit: rows as they are stored, tolerant of whatever stands in them.

One `Scan` is one read-only connection. It reads in pages and holds no long transaction: rows below the size that was
there when it was opened don't change but for erasure, and a reader that stays would keep the write-ahead log growing.
Text that is not UTF-8 comes back with lone surrogates (`surrogateescape`) instead of stopping the read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

from gateway.errors import FormatError, LogRefused
from gateway.log.audit_acts import StoredAct
from gateway.log.audit_keys import StoredKey
from gateway.log.audit_marks import Later, StoredMark
from gateway.log.audit_rows import Columns, Name, StoredRow
from gateway.verify.sessions import id_of

from . import engine

PAGE = 1000
#: Archived documents are read so many at a time: one may have a megabyte.
FEW = 16
#: Acts that wait for their entry, of which it is kept which did when the scan began; an honest database has a few.
MANY_ACTS = 10_000
#: No place is higher. Those that a changed file may have above it can neither be counted on from nor be looked up.
LAST = 1 << 62
#: Columns of `Scan.receipts`; the entry's text follows as the last.
RECEIPT_COLUMNS = (
    *("idx", "id", "created_ms", "key_id", "client_request_id", "verdict", "release", "reason", "policy", "network"),
    *("node", "model", "endpoint", "stream", "status", "latency_ms"),
)
_ROWS = """
    SELECT leaf.idx, leaf.hash, leaf.leaf,
           CASE WHEN r.idx IS NOT NULL THEN 'receipt' ELSE d.kind END, coalesce(r.id, d.id),
           unpacked(CAST(coalesce(r.envelope, d.envelope) AS BLOB)), o.seed, o.request, o.response,
           r.idx, r.key_id, r.client_request_id, r.created_ms, r.verdict, r.release, r.reason, r.policy, r.network,
           r.node, r.model, r.endpoint, r.stream, r.intent, unpacked(CAST(r.evidence AS BLOB))
    FROM leaf LEFT JOIN receipt r ON r.idx = leaf.idx LEFT JOIN record d ON d.idx = leaf.idx
              LEFT JOIN opening o ON o.idx = leaf.idx
    WHERE leaf.idx >= ? AND leaf.idx < ? AND typeof(leaf.idx) = 'integer' ORDER BY leaf.idx LIMIT ?"""
#: What makes marks, and each table of them with the id of the receipt at its place.
_LATER = """
    SELECT kind, unpacked(CAST(envelope AS BLOB)) FROM record
    WHERE idx >= ? AND kind IN ('audit', 'alarm') ORDER BY idx"""
_MARKS = tuple(
    (table, f"SELECT m.idx, r.id, {columns} FROM {table} m LEFT JOIN receipt r ON r.idx = m.idx ORDER BY m.idx")  # noqa: S608
    for table, columns in (("audited", "m.node, m.passed"), ("doubt", "m.node, m.first, m.last"))
)
_NEWEST_ACT = "SELECT coalesce(max(seq), 0) FROM admin_event WHERE typeof(seq) = 'integer'"
_CHECKPOINTS = "size > ? AND size <= ? AND typeof(size) = 'integer'"

#: Each finds a row that should not be there; the sentence takes its index or id.
_STRAYS = (
    *(  # nothing that reads the log in order comes by there, and lists show what is there
        (
            f"SELECT {place} FROM {table}"  # noqa: S608
            f" WHERE {place} < 0 OR {place} > {LAST} OR typeof({place}) <> 'integer' LIMIT 1",
            sentence,
        )
        for table, place, sentence in (
            ("leaf", "idx", "an entry is stored at index {!a}, which is no place in a log"),
            ("receipt", "idx", "a receipt is stored at index {!a}, which is no place in a log"),
            ("record", "idx", "a document is stored at index {!a}, which is no place in a log"),
            ("opening", "idx", "an opening is stored at index {!a}, which is no place in a log"),
            ("checkpoint", "size", "a checkpoint is filed under the size {!a}, which no log has"),
        )
    ),
    (
        "SELECT idx FROM receipt WHERE NOT EXISTS (SELECT 1 FROM leaf WHERE leaf.idx = receipt.idx) LIMIT 1",
        "a receipt is stored at index {} without an entry in the log",
    ),
    (
        "SELECT idx FROM record WHERE NOT EXISTS (SELECT 1 FROM leaf WHERE leaf.idx = record.idx) LIMIT 1",
        "a document is stored at index {} without an entry in the log",
    ),
    (
        "SELECT idx FROM receipt WHERE EXISTS (SELECT 1 FROM record WHERE record.idx = receipt.idx) LIMIT 1",
        "two documents are stored for index {}",
    ),
    (
        "SELECT idx FROM opening WHERE NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.idx = opening.idx) LIMIT 1",
        "an opening is stored at index {} without its receipt",
    ),
    (  # by the rows and not by the unique index, which a damaged file may have lost, or which tells types apart
        "SELECT CAST(id AS TEXT) FROM receipt NOT INDEXED GROUP BY 1 HAVING count(*) > 1 LIMIT 1",
        "two receipts are stored under the id {!a}",
    ),
)

#: Types of the columns that rows are looked up and listed by: SQLite keeps any type in any column, a filter tells text
#: from the same bytes, and a list shows both alike.
_TYPES = (
    (
        *("receipt", "idx"),
        {
            "'integer'": "created_ms stream status",
            "'integer', 'null'": "intent",
            "'text'": "id key_id verdict release policy endpoint",
            "'text', 'null'": "client_request_id reason network node model",
            "'real'": "latency_ms",
        },
    ),
    ("record", "idx", {"'integer'": "created_ms", "'text'": "kind id"}),
    ("checkpoint", "size", {"'integer'": "created_ms"}),
    ("evidence", "rowid", {"'integer'": "created_ms", "'text'": "sha256 media_type"}),
    ("session", "rowid", {"'integer'": "created_ms", "'text'": "id node"}),
)


class Scan:
    """A stored log to audit (`gateway.log.audit.Source`, and its rows). Raises as `engine.open_reader` does."""

    def __init__(self, path: str) -> None:
        self._connection = engine.open_reader(path)
        self._connection.text_factory = _lenient
        self.origin: str | None = None
        self.vkey: str | None = None
        found = self._one("SELECT origin, vkey FROM log_state LIMIT 1")
        if found is not None:
            self.origin, self.vkey = str(found[0]), str(found[1])
        # What is looked at ends where it ended at one moment, so that a gateway may go on writing.
        self._connection.execute("BEGIN")
        try:
            self.size = 1 + self._highest("leaf", "idx")
            self._head = self._highest("checkpoint", "size")
            self._tiles = dict(self._execute("SELECT level, max(n) FROM node GROUP BY level").fetchall())
            self._newest_act = self._number(_NEWEST_ACT)
            owed = self._execute("SELECT seq FROM admin_event WHERE done = 0 ORDER BY seq LIMIT ?", (MANY_ACTS,))
            self._owed = frozenset(seq for (seq,) in owed.fetchall())
        finally:
            self._connection.execute("COMMIT")
        self.crowded = len(self._owed) == MANY_ACTS

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Scan:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def is_dense(self) -> bool:
        """Whether there are as many entries as the highest index says. Reads the whole table once."""
        return self._number("SELECT count(*) FROM leaf WHERE idx >= 0 AND idx < ?", self.size) == self.size

    def rows(self, first: int, end: int, limit: int = PAGE) -> list[StoredRow]:
        """The first `limit` stored rows with index in [`first`, `end`), by rising index."""
        return [_stored_row(row) for row in self._execute(_ROWS, (first, end, limit))]

    def receipts(self, first: int, end: int) -> Iterator[tuple[object, ...]]:
        """The columns `RECEIPT_COLUMNS` of the receipts with index in [`first`, `end`), by rising index."""
        after = first - 1
        sql = f"""SELECT {", ".join("r." + c for c in RECEIPT_COLUMNS)}, leaf.leaf FROM receipt r
            LEFT JOIN leaf ON leaf.idx = r.idx WHERE r.idx > ? AND r.idx < ? ORDER BY r.idx LIMIT ?"""  # noqa: S608
        while page := self._execute(sql, (after, end, PAGE)).fetchall():
            yield from page
            after = page[-1][0]

    def checkpoint_count(self) -> int:
        """How many checkpoints are stored."""
        return self._number(f"SELECT count(*) FROM checkpoint WHERE {_CHECKPOINTS}", -1, self._head)  # noqa: S608

    def checkpoints(self, every: int) -> Iterator[tuple[int, bytes]]:
        """(size, note) by rising size: the first, every `every`-th after it, and the last."""
        number, newest, after = 0, None, -1
        while page := self._execute(
            f"SELECT size, note FROM checkpoint WHERE {_CHECKPOINTS} ORDER BY size LIMIT ?",  # noqa: S608
            (after, self._head, PAGE),
        ).fetchall():
            for size, note in page:
                newest = (size, _bytes(note))
                if number % every == 0:
                    yield newest
                    newest = None
                number += 1
            after = page[-1][0]
        if newest is not None:
            yield newest

    def times(self) -> Iterator[tuple[int, int]]:
        """(size, milliseconds) of every checkpoint, by rising size."""
        after = -1
        while page := self._execute(
            f"SELECT size, created_ms FROM checkpoint WHERE {_CHECKPOINTS} ORDER BY size LIMIT ?",  # noqa: S608
            (after, self._head, PAGE),
        ).fetchall():
            yield from ((size, ms if type(ms) is int else 0) for size, ms in page)
            after = page[-1][0]

    def mistyped(self) -> str | None:
        """A sentence about a query column that is stored as another type than the schema's. Reads the tables once."""
        for table, place, columns in _TYPES:
            wrong = " ".join(
                f"WHEN typeof({name}) NOT IN ({types}) THEN '{name}'"
                for types, names in columns.items()
                for name in names.split()
            )
            sql = f"SELECT {place}, CASE {wrong} END AS wrong FROM {table} WHERE wrong IS NOT NULL LIMIT 1"  # noqa: S608
            found = self._one(sql)
            if found is not None:
                return f"`{found[1]}` of `{table}` at {found[0]!a} is stored as another type than the schema's"
        return None

    def tile_roots(self, level: int) -> Iterator[tuple[int, bytes]]:
        """(n, hash) of the stored roots of full tiles at `level` (8, 16, …), by rising n."""
        after, last = -1, self._tiles.get(level, -1)
        while page := self._execute(
            "SELECT n, hash FROM node WHERE level = ? AND n > ? AND n <= ? ORDER BY n LIMIT ?",
            (level, after, last, PAGE),
        ).fetchall():
            for n, digest in page:  # `n` is whatever stands there: the audit compares it
                yield n, _bytes(digest)
            after = page[-1][0]

    def stray(self) -> str | None:
        """A sentence about the first row that belongs to no entry or shares its place; None when there is none."""
        for sql, sentence in _STRAYS:
            found = self._one(sql)
            if found is not None:
                return sentence.format(found[0])
        return None

    def is_archived(self, name: Name) -> bool:
        """Whether something is archived under the digest `name`."""
        table, key = ("session", "id") if name.what == "attested session" else ("evidence", "sha256")
        return self._one(f"SELECT 1 FROM {table} WHERE {key} = ?", name.digest) is not None  # noqa: S608

    def archive(self) -> Iterator[str | None]:
        """For each archived document None where it is what its digest says, otherwise a sentence. Reads all of them."""
        for digest, data in self._documents("evidence", "sha256", "bytes"):
            found = sha256(data).hexdigest()
            yield None if found == digest else f"the evidence archived as {digest!a} is another: its digest is {found}"
        for id, data in self._documents("session", "id", "document"):
            yield _misfiled(id, data)

    def administration(self) -> Iterator[StoredAct | StoredKey]:
        """All acts by rising number, then all keys, as of one moment, so that each key stands with what made it.

        It is a later moment than that of the log: `StoredAct.waited` says of what the log may have no entry yet. These
        tables are small, so the transaction is short.
        """
        self._execute("BEGIN")
        try:
            for row in self._each("SELECT seq, kind, document, created_ms, done FROM admin_event ORDER BY seq"):
                since = type(row[0]) is int and row[0] > self._newest_act
                yield StoredAct(*row, waited=since or self.crowded or row[0] in self._owed)
            for row in self._each(
                "SELECT id, name, digest, policy, scopes, created_ms, revoked_ms, last4 FROM api_key ORDER BY id"
            ):
                yield StoredKey(*row)
        finally:
            self._execute("COMMIT")

    def marks(self) -> Iterator[Later | StoredMark]:
        """Entries of audits and alarms made since the scan began, then all marks of audits, as of one moment."""
        self._execute("BEGIN")
        try:
            for kind, envelope in self._each(_LATER, self.size):
                yield Later(_text(kind), _bytes(envelope))
            for table, sql in _MARKS:
                for place, receipt, *values in self._each(sql):
                    yield StoredMark(table, place, receipt, tuple(values))
        finally:
            self._execute("COMMIT")

    def has_receipt(self, id: str) -> bool:
        """Whether a receipt is stored under this id."""
        return self._one("SELECT 1 FROM receipt WHERE id = ?", id) is not None

    def _each(self, sql: str, *parameters: object) -> Iterator[tuple[Any, ...]]:
        cursor = self._execute(sql, parameters)
        try:
            while page := cursor.fetchmany(FEW):
                yield from page
        except sqlite3.DatabaseError as error:
            raise LogRefused(f"the database cannot be read: {error}", reason="altered") from error

    def _documents(self, table: str, key: str, column: str) -> Iterator[tuple[object, bytes]]:
        # Not `rowid > ? OR ? IS NULL`: that reads the table from its beginning for every page.
        sql = f"SELECT rowid, {key}, {column} FROM {table} {{}} ORDER BY rowid LIMIT {FEW}"  # noqa: S608
        page = self._execute(sql.format("")).fetchall()
        while page:
            yield from ((name, _bytes(data)) for _, name, data in page)
            page = self._execute(sql.format("WHERE rowid > ?"), page[-1][:1]).fetchall()

    def still_open(self, ids: Sequence[str]) -> list[str]:
        """Those of the receipts `ids` that have an opening, or what the node sent for the answer."""
        sql = """SELECT 1 FROM receipt WHERE id = ?
            AND (evidence IS NOT NULL OR EXISTS (SELECT 1 FROM opening WHERE opening.idx = receipt.idx))"""
        return [id for id in ids if self._one(sql, id) is not None]

    def _execute(self, sql: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        try:
            return self._connection.execute(sql, parameters)
        except sqlite3.DatabaseError as error:
            raise LogRefused(f"the database cannot be read: {error}", reason="altered") from error

    def _one(self, sql: str, *parameters: object) -> Any:
        return self._execute(sql, parameters).fetchone()

    def _number(self, sql: str, *parameters: object) -> int:
        """The one number that `sql` counts."""
        (found,) = self._one(sql, *parameters)
        return int(found)

    def _highest(self, table: str, place: str) -> int:
        """The highest place that is one in a log; -1 where there is none."""
        term = f"{place} BETWEEN 0 AND {LAST} AND typeof({place}) = 'integer'"
        found = self._one(f"SELECT {place} FROM {table} WHERE {term} ORDER BY {place} DESC LIMIT 1")  # noqa: S608
        return -1 if found is None else int(found[0])


def _stored_row(row: tuple[Any, ...]) -> StoredRow:
    place, digest, entry, kind, id, envelope, seed, request, response, receipt = row[:10]
    return StoredRow(
        place,
        digest if type(digest) is bytes else _bytes(digest),
        entry if type(entry) is bytes else _bytes(entry),
        kind if type(kind) is str or kind is None else _text(kind),
        id if type(id) is str or id is None else _text(id),
        envelope if type(envelope) is bytes or envelope is None else _bytes(envelope),
        None if receipt is None else _columns(row[10:-1]),
        seed if type(seed) is bytes or seed is None else _bytes(seed),
        request if type(request) is bytes or request is None else _bytes(request),
        response if type(response) is bytes or response is None else _bytes(response),
        row[-1] if type(row[-1]) is bytes or row[-1] is None else _bytes(row[-1]),
    )


def _misfiled(id: object, data: bytes) -> str | None:
    try:
        found = id_of(data).id
    except FormatError as error:
        return f"the document archived as attested session {id!a} is none: {error}"
    return None if found == id else f"the attested session archived as {id!a} is another: its id is {found}"


def _columns(values: tuple[Any, ...]) -> Columns:
    *texts, stream, intent = values
    texts = [value if type(value) is str or value is None else _text(value) for value in texts]
    created, stream = (value if type(value) is int else -1 for value in (values[2], stream))
    return Columns._make((*texts[:2], created, *texts[3:], stream, intent if type(intent) is int else None))


def _bytes(value: object) -> bytes:
    """A stored value as bytes: SQLite keeps any type in any column, and an altered file may hold any."""
    if isinstance(value, bytes):
        return value
    return _text(value).encode("utf-8", "surrogateescape")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return _lenient(value) if isinstance(value, bytes) else repr(value)


def _lenient(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
