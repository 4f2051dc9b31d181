"""A receipt that nobody waits for any more is written all the same."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.model.entry import Committed
from gateway.model.verdict import Outcome, Release
from gateway.recorder import Ending
from gateway.relay.book import Book


class Recorder:
    """The log takes an intent when the test says so; what comes behind it is kept."""

    def __init__(self) -> None:
        self.intended: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        self.appended: list[str] = []

    def intent(self, x: object) -> asyncio.Future[Committed]:
        return self.intended

    def entry(self, x: object, ending: Ending) -> tuple[str, str]:
        return str(ending.reason), "sealed"

    def append(self, entry: str) -> asyncio.Future[Committed]:
        self.appended.append(entry)
        return asyncio.get_running_loop().create_future()


async def test_a_receipt_that_waits_for_its_intent_outlives_who_waits_for_it() -> None:
    """A stop gives an exchange a second for its last words; what has left has a receipt however long the log takes."""
    recorder, policy = Recorder(), SimpleNamespace(audit=SimpleNamespace(durability="async"))
    book = Book(cast(Any, recorder), cast(Any, None), cast(Any, policy), {})
    assert await book.intend() is None
    ending = Ending(verdict=Outcome.NONE, release=Release.FAILED, status=500, reason="stopped")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await book.record(ending)
    assert recorder.appended == []
    recorder.intended.set_result(cast(Any, None))
    await asyncio.sleep(0)
    assert recorder.appended == ["stopped"]
