"""Killed at random under load, again and again: what was acknowledged is there, and the log goes on.

    VERIROUTE_KILL_ROUNDS=100 pytest tests/storage/test_kill_nine.py

A kill proves nothing about the disk (the kernel still holds every write); that commits are synced is tested by
`test_the_writer_syncs_every_commit` and has to be shown by cutting power.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from storage_kit import check_log, opened

from gateway.crypto.merkle import verify_consistency
from gateway.storage.reads import Reader

ROUNDS = int(os.environ.get("VERIROUTE_KILL_ROUNDS", "5"))
WRITER = Path(__file__).with_name("crash_writer.py")

Acknowledged = dict[tuple[str, str], tuple[int, int, bytes]]


def run_and_kill(directory: Path, first: int, callers: int, after_s: float) -> Acknowledged:
    """Start the writer, kill it `after_s` seconds after it is ready, and return what it had acknowledged."""
    environment = {**os.environ, "PYTHONPATH": str(WRITER.parents[2])}
    with subprocess.Popen(
        [sys.executable, str(WRITER), str(directory), str(first), str(callers)],
        stdout=subprocess.PIPE,
        env=environment,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        os.set_blocking(writer.stdout.fileno(), False)
        said, end = b"", time.monotonic() + after_s
        while time.monotonic() < end:
            said += writer.stdout.read() or b""
            time.sleep(0.002)
        writer.kill()
        os.set_blocking(writer.stdout.fileno(), True)
        said += writer.stdout.read()
    acknowledged = {}
    for line in said.split(b"\n")[:-1]:
        kind, id, index, size, root = line.decode().split(" ")
        acknowledged[kind, id] = int(index), int(size), bytes.fromhex(root)
    return acknowledged


def check_acknowledged(directory: Path, acknowledged: Acknowledged) -> None:
    """Each is stored once, where it was said to be, under a root that the stored log still leads to."""
    heads = {(size, root) for _, size, root in acknowledged.values()}
    with Reader(f"{directory}/log.db") as reader:
        size = reader.size()
        root = reader.root(size)
        documents = {(document.kind, document.id): document.index for document in reader.documents()}
        assert len(documents) == size
        for name, (index, _, _) in acknowledged.items():
            assert documents[name] == index
        for old, old_root in heads:
            verify_consistency(old, size, reader.consistency(old, size), old_root, root)


@pytest.mark.slow
@pytest.mark.timeout(60 + 6 * ROUNDS)
async def test_acknowledged_entries_survive(tmp_path: Path) -> None:
    """After each kill -9 all acknowledged entries are there, in a sound log, and the open intents are found."""
    chance = random.Random(int(os.environ.get("VERIROUTE_KILL_SEED", "0")) or time.time_ns())
    acknowledged: Acknowledged = {}
    directory = tmp_path
    for attempt in range(ROUNDS):
        if attempt % 10 == 0:  # checking a log takes longer the more it holds
            directory = tmp_path / str(attempt)
            directory.mkdir()
            acknowledged = {}
        callers = chance.choice((1, 8, 48))
        acknowledged |= run_and_kill(directory, (attempt + 1) * 1_000_000, callers, chance.uniform(0.0, 0.5))
        log = await opened(directory)
        open_now = {id for id, _ in log.open_intents}
        await log.close()
        check_log(directory)
        check_acknowledged(directory, acknowledged)
        closed = {id for kind, id in acknowledged if kind == "receipt"}
        assert not open_now & closed
        assert {id for kind, id in acknowledged if kind == "intent"} - closed <= open_now | stored_receipts(directory)
    assert len(acknowledged) > 5


def stored_receipts(directory: Path) -> set[str]:
    """Ids of all stored receipts, acknowledged or not: a kill may come between the commit and its answer."""
    with Reader(f"{directory}/log.db") as reader:
        return {document.id for document in reader.documents() if document.kind == "receipt" and document.id}
