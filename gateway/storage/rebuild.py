"""The tree again, from what is stored: start-up's proof that the database is the log that was signed.

Up to `WHOLE` leaves every leaf hash goes in, and every full tile's root is compared with the stored one. Beyond that
the stored tile roots stand for their tiles; they are believed because the signed root comes out of them, and
`veriroute audit verify` reads the rest. Only reads; raises `LogRefused` (reason `altered`) naming the first bad place.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from hashlib import sha256

from gateway.crypto.merkle import Frontier, extend, leaf_hash, subtree_root
from gateway.errors import FormatError, LogRefused
from gateway.log.dsse import pae, parse_envelope
from gateway.log.receipt import parse_leaf
from gateway.log.tiles import TILE_WIDTH

from .tree import Tree

#: Leaves up to which all hashes are read (about a second a million), and up to which all leaf texts are hashed too.
WHOLE = 2_000_000
WHOLE_TEXT = 200_000
#: Leaves at the end whose text and whose document are always checked.
TAIL = 1_000


def leaf_count(connection: sqlite3.Connection) -> int:
    """One more than the highest index; gaps are found by `rebuild`."""
    (last,) = connection.execute("SELECT max(idx) FROM leaf").fetchone()
    if last is None:
        return 0
    if type(last) is not int or last >= 1 << 62:
        raise altered(f"{last!a} is no place of a leaf")
    return last + 1


def rebuild(connection: sqlite3.Connection, size: int, at: int, *, whole: int = WHOLE) -> tuple[Tree, bytes]:
    """The tree of the `size` stored leaves, and the root that it had at the size `at` <= `size`."""
    tiles, rest = divmod(size, TILE_WIDTH)
    last = _hashes(connection, tiles * TILE_WIDTH, rest)
    roots = list(_computed(connection, tiles)) if size <= whole else _stored(connection, 8, tiles)
    tree = Tree()
    tree.frontier.hashes = _frontier(roots).hashes + _frontier(last).hashes
    tree.frontier.size = size
    tree.rows = [last]
    level, row = 8, roots
    while True:
        if row != _stored(connection, level, len(row)):
            raise altered(f"the stored tile roots of level {level} do not belong to the leaves")
        if not row:
            break
        full = len(row) // TILE_WIDTH
        tree.rows.append(row[full * TILE_WIDTH :])
        row = [subtree_root(row[n * TILE_WIDTH : (n + 1) * TILE_WIDTH]) for n in range(full)]
        level += 8
    return tree, _root_at(connection, at, roots)


def _root_at(connection: sqlite3.Connection, at: int, roots: list[bytes]) -> bytes:
    tile, rest = divmod(at, TILE_WIDTH)
    leaves = _hashes(connection, tile * TILE_WIDTH, rest)
    if rest and tile < len(roots) and subtree_root(_hashes(connection, tile * TILE_WIDTH, TILE_WIDTH)) != roots[tile]:
        raise altered(f"the leaves from {tile * TILE_WIDTH} on do not belong to their tile")
    frontier = Frontier()
    frontier.hashes = _frontier(roots[:tile]).hashes + _frontier(leaves).hashes
    frontier.size = at
    return frontier.root()


def _frontier(hashes: list[bytes]) -> Frontier:
    frontier = Frontier()
    extend(frontier, hashes, ())
    return frontier


def _computed(connection: sqlite3.Connection, tiles: int) -> Iterator[bytes]:
    cursor = connection.execute("SELECT idx, CAST(hash AS BLOB) FROM leaf WHERE idx >= 0 ORDER BY idx")
    for tile in range(tiles):
        rows = cursor.fetchmany(TILE_WIDTH)
        first = tile * TILE_WIDTH
        yield subtree_root(_dense(rows, first, TILE_WIDTH))


def _hashes(connection: sqlite3.Connection, first: int, count: int) -> list[bytes]:
    rows = connection.execute(
        "SELECT idx, CAST(hash AS BLOB) FROM leaf WHERE idx >= ? AND idx < ? ORDER BY idx", (first, first + count)
    ).fetchall()
    return _dense(rows, first, count)


def _dense(rows: list[tuple[int, bytes]], first: int, count: int) -> list[bytes]:
    for place, (index, digest) in enumerate(rows, first):
        if index != place:
            raise altered(f"leaf {place} is missing")
        if len(digest) != 32:
            raise altered(f"the hash of leaf {place} is not one")
    if len(rows) != count:
        raise altered(f"leaf {first + len(rows)} is missing")
    return [digest for _, digest in rows]


def _stored(connection: sqlite3.Connection, level: int, count: int) -> list[bytes]:
    rows = connection.execute("SELECT n, CAST(hash AS BLOB) FROM node WHERE level = ? ORDER BY n", (level,)).fetchall()
    if len(rows) != count or any(n != place or len(digest) != 32 for place, (n, digest) in enumerate(rows)):
        raise altered(f"the stored tile roots of level {level} are not the {count} that belong to the leaves")
    return [digest for _, digest in rows]


def check_texts(connection: sqlite3.Connection, size: int, *, whole: int = WHOLE_TEXT, tail: int = TAIL) -> None:
    """That leaf texts hash to their leaf hashes: all of them up to `whole` leaves, the last `tail` beyond that."""
    first = 0 if size <= whole else size - tail
    for index, digest, leaf in connection.execute(TEXTS, (first,)):
        if leaf_hash(leaf) != digest:
            raise altered(f"leaf {index} was changed: its text does not have its hash")


def check_places(connection: sqlite3.Connection, size: int) -> None:
    """That no row of the log lies outside the places of its `size` leaves, where lists would show it all the same."""
    for table, place, end in (*((table, "idx", size) for table in _PLACED), ("checkpoint", "size", size + 1)):
        found = connection.execute(
            f"SELECT {place} FROM {table} WHERE {place} < 0 OR {place} >= ? LIMIT 1",  # noqa: S608
            (end,),
        ).fetchone()
        if found is not None:
            raise altered(f"the log has {size} entries, and a row of `{table}` has the place {found[0]!a}")


_PLACED = ("leaf", "receipt", "record", "opening")

# Casts: a changed database may hold text where bytes belong.
TEXTS = "SELECT idx, CAST(hash AS BLOB), CAST(leaf AS BLOB) FROM leaf WHERE idx >= ?"
DOCUMENTS = """
    SELECT leaf.idx, CAST(leaf.leaf AS BLOB), unpacked(CAST(coalesce(receipt.envelope, record.envelope) AS BLOB)),
        receipt.idx IS NULL
    FROM leaf LEFT JOIN receipt ON receipt.idx = leaf.idx LEFT JOIN record ON record.idx = leaf.idx
    WHERE leaf.idx >= ? ORDER BY leaf.idx"""


def check_documents(connection: sqlite3.Connection, size: int, *, tail: int = TAIL) -> None:
    """That each of the last `tail` leaves has its document, and commits to it."""
    for index, text, envelope, is_record in connection.execute(DOCUMENTS, (max(0, size - tail),)):
        if envelope is None:
            raise altered(f"the document of leaf {index} is missing")
        try:
            leaf = parse_leaf(text)
            document = parse_envelope(envelope, unsigned=leaf.kind == "intent")
        except FormatError as error:
            raise altered(f"leaf {index}: {error}") from error
        if sha256(pae(document.payload_type, document.payload)).digest() != leaf.digest:
            raise altered(f"the document of leaf {index} was changed: the leaf commits to another")
        if (leaf.kind == "receipt") is bool(is_record):
            raise altered(f"the document of leaf {index} is filed under another kind")


def altered(what: str) -> LogRefused:
    """The refusal for a log whose stored bytes are not those that were signed."""
    return LogRefused(
        f"the stored log was altered: {what}. Nothing was written; restore the database from a backup and "
        f"compare with `veriroute audit verify`",
        reason="altered",
    )
