"""What other processes left for the log, as a running gateway takes it: each once, and none in another's way."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.app import Gateway
from gateway.errors import LogUnavailable
from gateway.settings import Settings
from gateway.storage.reads import PAGE, Event, Reader
from gateway.storage.writer import Job
from gateway.storage.writes import AdminWriter


class Log:
    """A gateway's recorder and sequencer in one: what was entered, and `broken`, which fails the next entry."""

    def __init__(self, path: str) -> None:
        self.entered: list[object] = []
        self.broken = False
        self._path = path

    async def event(self, kind: str, event_id: str, predicate: Mapping[str, object]) -> None:
        if self.broken:
            raise LogUnavailable("the disk is full")
        self.entered.append(predicate["n"])

    async def submit(self, job: Job) -> None:
        with sqlite3.connect(self._path) as connection:
            job(connection)
        connection.close()


class Beside:
    """A gateway over a database in which others leave acts."""

    def __init__(self, folder: Path) -> None:
        path = str(folder / "log.db")
        self.admin = AdminWriter(path)
        self.reader = Reader(path)
        self.log = Log(path)
        self.gateway = Gateway(Settings())
        self.gateway.reader = self.reader
        self.gateway.recorder = self.gateway.sequencer = self.log  # type: ignore[assignment]

    def leave(self, *documents: bytes) -> None:
        for document in documents:
            self.admin.add_event("export", document, 1)

    async def look(self) -> list[object]:
        """What the gateway enters at one look."""
        self.log.entered.clear()
        await self.gateway._log_events()
        return list(self.log.entered)

    def close(self) -> None:
        self.reader.close()
        self.admin.close()


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Beside]:
    made = Beside(tmp_path)
    yield made
    made.close()


async def test_each_act_is_entered_once_and_in_order(beside: Beside) -> None:
    """Acts that come later are entered at a later look, and those of before are not entered again."""
    beside.leave(b'{"n":1}', b'{"n":2}')
    assert await beside.look() == [1, 2]
    beside.leave(b'{"n":3}')
    assert [await beside.look(), await beside.look()] == [[3], []]
    assert beside.reader.pending_events() == []


async def test_what_is_no_act_keeps_none_from_the_log(beside: Beside) -> None:
    """A whole page of what is no act stands before one that is: it has its entry at the second look."""
    beside.leave(*[b"[]"] * PAGE, b'{"n":1}')
    assert [await beside.look(), await beside.look(), await beside.look()] == [[], [1], []]


async def test_an_act_whose_entry_failed_is_tried_again(beside: Beside) -> None:
    """The log fails at an act: at the next look it is entered, and what stands behind it."""
    beside.leave(b'{"n":1}', b"[]", b'{"n":2}')
    beside.log.broken = True
    with pytest.raises(LogUnavailable):
        await beside.look()
    beside.log.broken = False
    assert await beside.look() == [1, 2]


async def test_acts_of_long_ago_cost_no_look_anything(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five looks a second ask the database for what is behind the last act, by the table's key, and read no others."""
    beside.leave(*[b'{"n":0}'] * 3)
    await beside.look()
    asked = SimpleNamespace(sql="", parameters=())

    def listening(sql: str, *parameters: object) -> list[Event]:
        asked.sql, asked.parameters = sql, parameters
        return []

    monkeypatch.setattr(beside.reader, "_all", listening)
    await beside.look()
    monkeypatch.undo()
    plan = beside.reader._all(f"EXPLAIN QUERY PLAN {asked.sql}", *asked.parameters)
    assert [row[3] for row in plan] == ["SEARCH admin_event USING INTEGER PRIMARY KEY (rowid>?)"]
    assert asked.parameters[0] == 3
