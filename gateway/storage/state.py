"""What start-up hands to the writer."""

from __future__ import annotations

import sqlite3

import msgspec

from .lock import WriterLock
from .memory import CheckpointMemory
from .tree import Tree


class Rollback(msgspec.Struct, frozen=True):
    """A start that the operator forced: what the memory knew (None: nothing readable) and what is stored.

    `reason` is `rolled_back`, `memory_absent` or `memory_damaged`. The caller appends an `alarm` entry that says so,
    before anything else; until the first commit the memory stays as it was, so a start that crashes before the alarm is
    refused again.
    """

    reason: str
    known_size: int | None
    known_root: bytes | None
    stored_size: int
    stored_root: bytes


class Stored(msgspec.Struct):
    """The open files of one log, all of it checked. `checkpoint` is the newest signed note, over `tree`.

    `intents`: open intents by id, with their place in the log; `open_intents`: the same with their envelopes; every
    intent below `settled` was closed. `dictionary`: the newest, with its number (`packing.newest`). `notices`: what
    was put right, as sentences for the operator.
    """

    path: str
    connection: sqlite3.Connection
    lock: WriterLock
    memory: CheckpointMemory
    tree: Tree
    checkpoint: bytes
    intents: dict[str, int]
    open_intents: list[tuple[str, bytes]]
    settled: int
    dictionary: tuple[int, bytes]
    notices: list[str]
    rollback: Rollback | None
