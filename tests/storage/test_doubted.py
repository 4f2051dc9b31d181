"""Which rows of a page are in doubt: as each failed and each passed audit says, and read once for all rows."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from storage_kit import opened, receipt, ulid

from gateway.log.marks import Mark
from gateway.storage.audits import put_marks
from gateway.storage.reads import Reader

SIZE = 200


async def filled(folder: Path, spans: list[tuple[int, str, int, int]], passed: set[int]) -> Reader:
    """A log with receipts of two nodes and of none, some not released; its reader."""
    log = await opened(folder)
    entries = [
        receipt(n, node=(None, "a", "b")[n % 3], release="withheld" if n % 7 == 0 else "released") for n in range(SIZE)
    ]
    await asyncio.gather(*[log.append(entry) for entry in entries])
    marks = [Mark("doubt", ulid(n), (node, first, last), "e") for n, node, first, last in spans]
    marks += [Mark("audited", ulid(n), ("ab"[n % 3 - 1], 1), "e") for n in passed]
    marks += [Mark("audited", ulid(n), ("a", 0), "e") for n in range(SIZE) if n not in passed]
    await log.submit(put_marks(marks))
    await log.close()
    return Reader(f"{folder}/log.db")


@pytest.mark.parametrize("seed", range(5))
async def test_a_row_is_in_doubt_by_any_span_of_its_node(tmp_path: Path, seed: int) -> None:
    """Spans of a node overlap, touch and lie apart; what an audit of its own passed is not in doubt, by page as alone."""
    chance = random.Random(seed)
    spans = []
    for n in chance.sample(range(SIZE), 12):
        first = chance.randrange(SIZE)
        spans.append((n, chance.choice("ab"), first, first + chance.randrange(30)))
    passed = set(chance.sample(range(SIZE), 30))
    with await filled(tmp_path, spans, passed) as reader:
        rows = reader.rows(limit=SIZE)
        assert len(rows) == SIZE
        for row in rows:
            within = any(row.node == node and first <= row.index <= last for _, node, first, last in spans)
            expected = within and row.release == "released" and row.index not in passed
            assert row.doubted is expected, row
            assert reader.row(row.id) == row
        assert reader.rows(before=150, limit=20) == rows[SIZE - 150 : SIZE - 130]


async def test_many_failed_audits_are_read_once_for_a_page(tmp_path: Path) -> None:
    """A page costs steps for its rows and for the failed audits, not for each of the one with each of the other."""
    with await filled(tmp_path, [(n, "b", n, n) for n in range(SIZE)], set()) as reader:
        reader.rows(limit=1)
        steps = 0

        def step() -> None:
            nonlocal steps
            steps += 100

        reader._local.opened._connection.set_progress_handler(step, 100)
        assert sum(row.doubted for row in reader.rows(limit=SIZE)) > 50
        assert steps < 100 * SIZE
