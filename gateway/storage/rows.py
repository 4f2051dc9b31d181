"""The rows of one batch, written with as few statements as there are tables.

Every `execute` lets go of the interpreter lock and has to win it back from a busy event loop, and costs more than the
row it carries; so rows go in by multi-row INSERTs of 256, 128, 64, 32 and 16 down to 1 rows, each prepared once.

What the driver binds fast is exact int, float, str and bytearray; bytes, None and bool take a detour of almost a
microsecond each (CPython's adapter lookup). Hence `bytearray(…)` below, and NULLs spelled `nullif(?, '')`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from gateway.model.entry import Entry

MAX_ROWS = 256
#: Up to so many rows go in by one statement of exactly that size.
EXACT = 16


class Insert:
    """A multi-row INSERT: `head` up to VALUES, `row` one parenthesised row of `width` parameters."""

    __slots__ = ("_sql", "width")

    def __init__(self, head: str, row: str) -> None:
        self.width = row.count("?")
        counts = (*range(1, EXACT), *(1 << n for n in range(4, 9)))
        self._sql = {count: f"{head} VALUES {','.join([row] * count)}" for count in counts}

    def run(self, connection: sqlite3.Connection, values: list[object]) -> None:
        """Insert `values`, rows one after the other."""
        left, at = len(values) // self.width, 0
        while left:
            count = left if left < EXACT else min(1 << left.bit_length() - 1, MAX_ROWS)
            end = at + count * self.width
            connection.execute(self._sql[count], values[at:end])
            left, at = left - count, end


LEAF = Insert("INSERT INTO leaf (idx, hash, leaf)", "(?, ?, ?)")
RECORD = Insert("INSERT INTO record (idx, kind, id, created_ms, envelope)", "(?, ?, ?, ?, ?)")
RECEIPT = Insert(
    "INSERT INTO receipt (idx, id, intent, key_id, client_request_id, created_ms, verdict, release, reason, policy,"
    " network, node, model, endpoint, stream, status, latency_ms, envelope, evidence)",
    "(?, ?, nullif(?, -1), ?, nullif(?, ''), ?, ?, ?, nullif(?, ''), ?,"
    " nullif(?, ''), nullif(?, ''), nullif(?, ''), ?, ?, ?, ?, ?, nullif(?, x''))",
)
SEED = Insert("INSERT INTO opening (idx, seed)", "(?, ?)")
OPENING = Insert("INSERT INTO opening (idx, seed, request, response)", "(?, ?, ?, ?)")
NODE = Insert("INSERT INTO node (level, n, hash)", "(?, ?, ?)")
CHECKPOINT = "INSERT INTO checkpoint (size, note, created_ms) VALUES (?, ?, ?)"


def insert_entries(
    connection: sqlite3.Connection,
    first: int,
    entries: Sequence[Entry],
    hashes: Sequence[bytes],
    intents: Mapping[str, int],
    now_ms: int,
) -> dict[str, int]:
    """Insert `entries` at log places `first`, `first` + 1, …; `hashes` are their leaf hashes.

    `intents` maps the ids of open intents to their places. Returns those that this batch adds.
    """
    leaves: list[object] = []
    records: list[object] = []
    receipts: list[object] = []
    seeds: list[object] = []
    openings: list[object] = []
    opened: dict[str, int] = {}
    for index, entry in enumerate(entries, first):
        leaves += (index, bytearray(hashes[index - first]), bytearray(entry.leaf))
        row = entry.row
        if row is None:
            if entry.kind == "intent":
                opened[entry.id] = index
            records += (index, entry.kind, entry.id, now_ms, bytearray(entry.document))
            continue
        intent = intents.get(entry.id)
        receipts += (
            index,
            row.id,
            opened.get(entry.id, -1) if intent is None else intent,
            row.key_id,
            row.client_request_id or "",
            row.created_ms,
            row.verdict,
            row.release,
            row.reason or "",
            row.policy,
            row.network or "",
            row.node or "",
            row.model or "",
            row.endpoint,
            1 if row.stream else 0,
            row.status,
            row.latency_ms,
            bytearray(entry.document),
            bytearray(entry.evidence or b""),
        )
        opening = entry.opening
        if opening is None:
            continue
        if opening.request is None and opening.response is None:
            seeds += (index, bytearray(opening.seed))
        else:
            openings += (index, opening.seed, opening.request, opening.response)
    LEAF.run(connection, leaves)
    RECORD.run(connection, records)
    RECEIPT.run(connection, receipts)
    SEED.run(connection, seeds)
    OPENING.run(connection, openings)
    return opened
