"""A gateway's database file as a source: opened read-only, also while the gateway writes to it."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import time
from array import array
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

from gateway import __version__
from gateway.errors import LogRefused, NotFound
from gateway.log.bundle import format_bundle
from gateway.storage.bundles import assemble
from gateway.storage.reads import Reader

from .filters import Filter
from .source import PAGE, Info, NodeView, Page, Row, select

POLL_S = 1.0

_T = TypeVar("_T")


class FileSource:
    """The database at `path`. A file holds no node states, and no keys: receipts need --trust to be checked."""

    synthetic = False
    no_tail: str | None = None

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path
        self._reader = Reader(str(path))
        self._file: tuple[int, int] | None = None  # which one had the name when it was last asked

    async def info(self) -> Info:
        return await self._ask(self._info)

    def _info(self) -> Info:
        reader = self._reader
        return Info(
            version=__version__,
            origin=reader.origin() or "no log yet",
            size=reader.size(),
            healthy=True,
            policy_default="",
            nodes=0,
            counts=reader.counts(),
            time_ms=int(time.time() * 1000),
        )

    async def page(self, chosen: Filter, *, before: int | None = None, limit: int = PAGE) -> Page:
        return await self._ask(lambda: self._page(chosen, before, limit))

    def _page(self, chosen: Filter, before: int | None, limit: int) -> Page:
        verdict = chosen.verdicts[0].value if len(chosen.verdicts) == 1 else None
        return select(
            chosen, *self._reader.page(before=before, limit=limit, verdict=verdict, node=chosen.exact("node"))
        )

    async def indexes(self, chosen: Filter) -> array[int] | None:
        return None

    async def bundle(self, receipt_id: str) -> bytes:
        return await self._ask(lambda: format_bundle(assemble(self._reader, receipt_id)))

    async def nodes(self) -> tuple[NodeView, ...]:
        raise NotFound("a database file holds no state of nodes; give the gateway's address instead")

    async def tail(self) -> AsyncIterator[Row]:
        newest = await self._ask(lambda: self._reader.size()) - 1
        while True:
            await asyncio.sleep(POLL_S)
            if await self._ask(lambda: self._reader.size()) <= newest:
                raise LogRefused(f"{self._path} holds another log than before")
            rows = await self._ask(lambda after=newest: self._reader.rows(after=after, limit=PAGE))  # type: ignore[misc]
            for row in reversed(rows):
                newest = max(newest, row.index)
                yield row

    async def close(self) -> None:
        self._reader.close()

    async def _ask(self, question: Callable[[], _T]) -> _T:
        """Ask in a thread, and name the file when it cannot answer."""
        await asyncio.to_thread(self._look)
        try:
            return await asyncio.to_thread(question)
        except sqlite3.Error as error:
            raise LogRefused(f"{self._path} cannot be read as a veriroute database: {error}") from error

    def _look(self) -> None:
        """See that the file is there. Where another has its name now, what is open is closed: nobody writes it more."""
        try:
            found = self._path.stat()
        except OSError:
            found = None
        if found is None or not stat.S_ISREG(found.st_mode):
            raise NotFound(f"there is no file {self._path}")
        before, self._file = self._file, (found.st_dev, found.st_ino)
        if before not in (None, self._file):
            self._reader.close()
