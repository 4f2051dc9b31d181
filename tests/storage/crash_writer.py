"""A log under load that can be killed at any moment: prints a line for each acknowledged entry, until it is killed.

    crash_writer.py DIRECTORY FIRST_ID CALLERS

A line is `<id> <index> <size> <hex root>`, written to standard output before the next entry is appended. What reached
the pipe was acknowledged, whatever happens to this process then.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from storage_kit import opened, receipt, record

from gateway.model.entry import Entry


async def main(directory: Path, first: int, callers: int) -> None:
    log = await opened(directory)
    os.write(1, b"ready\n")
    numbers = itertools.count(first)

    async def append(entry: Entry) -> None:
        committed = await log.append(entry)
        os.write(1, f"{entry.kind} {entry.id} {committed.index} {committed.size} {committed.root.hex()}\n".encode())

    async def caller() -> None:
        for n in numbers:
            await append(record("intent", n))
            await append(receipt(n, filler=n * 37 % 3000))

    await asyncio.gather(*[caller() for _ in range(callers)])


asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
