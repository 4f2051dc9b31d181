"""A key that is revoked: when that is known, and what it ends that the key had open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from inference_kit import BEARER, Served, inference_over, pieces, post, ring, stored

from gateway.api.auth import KeyRing, StoredKey
from gateway.api.live import LiveFeed
from gateway.app import Gateway
from gateway.errors import InvalidKey, LogUnavailable
from gateway.model.entry import Committed, ReceiptRow
from gateway.settings import Settings


class Database:
    """The reader's part that tells of keys; `broken` reads of them fail."""

    def __init__(self) -> None:
        self.keys = [stored()]
        self.changes = 1
        self.broken = 0
        self.error: Exception = LogUnavailable("the database cannot be read: disk I/O error")

    def generation(self) -> int:
        return self.changes

    def api_keys(self) -> list[StoredKey]:
        if self.broken:
            self.broken -= 1
            raise self.error
        return self.keys

    def pending_events(self, *, after: int) -> list[Any]:
        return []

    def revoke(self) -> None:
        self.keys = [stored(revoked_ms=1)]
        self.changes += 1


@pytest.mark.parametrize("error", [None, ValueError("what another process wrote is no JSON")])
async def test_a_revocation_is_read_again_after_a_read_that_failed(error: Exception | None) -> None:
    """The database fails at the first read behind a revocation, and the key is out of force at the next."""
    gateway, database = Gateway(Settings()), Database()
    gateway.reader, gateway.live = database, LiveFeed(gateway.keys.in_force)  # type: ignore[assignment]
    gateway.sequencer = SimpleNamespace(memory_failing=None, wal_held=None)  # type: ignore[assignment]
    gateway._reload_keys()
    assert gateway.keys.principal(BEARER, None).key_id == "K1"
    database.broken, database.error = 1, error or database.error
    database.revoke()
    watching = asyncio.create_task(gateway._watch_other_processes())
    try:
        async with asyncio.timeout(5):
            while gateway.keys.in_force("K1"):
                await asyncio.sleep(0.02)
    finally:
        watching.cancel()
    with pytest.raises(InvalidKey):
        gateway.keys.principal(BEARER, None)


async def test_what_keeps_failing_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is logged when it begins and when it is another, and again when it comes back after it had passed."""
    monkeypatch.setattr("gateway.app.POLL_S", 0.001)
    gateway, database = Gateway(Settings()), Database()
    gateway.reader, gateway.live = database, LiveFeed(gateway.keys.in_force)  # type: ignore[assignment]
    gateway.sequencer = SimpleNamespace(memory_failing=None, wal_held=None)  # type: ignore[assignment]
    gateway._reload_keys()
    with structlog.testing.capture_logs() as lines:
        watching = asyncio.create_task(gateway._watch_other_processes())
        try:
            async with asyncio.timeout(5):
                for error, left in (("the disk is full", 10), ("disk I/O error", 0), ("disk I/O error", 0)):
                    database.error, database.broken = LogUnavailable(error), 20
                    database.revoke()
                    while database.broken > left or (not left and gateway._generation != database.changes):
                        await asyncio.sleep(0.001)
        finally:
            watching.cancel()
    assert [line["error"] for line in lines] == ["the disk is full", "disk I/O error", "disk I/O error"]


def test_every_key_is_in_force_where_none_is_asked_for() -> None:
    """With authentication off there is nothing that could be revoked."""
    assert KeyRing(open_to_local=True).in_force("local")
    assert not KeyRing().in_force("local")


def publish(feed: LiveFeed, index: int) -> None:
    done: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
    done.set_result(Committed(index, 0, (), b"", b""))
    row = ReceiptRow(*[0] * len(ReceiptRow.__struct_fields__))  # type: ignore[arg-type]
    feed.publish(row, done)


async def listen(feed: LiveFeed) -> AsyncIterator[bytes]:
    """A listener that has had the feed's first words."""
    rows = feed.listen("K1")
    assert await anext(rows) == b": veriroute live feed\n\n"
    return rows


async def test_a_listener_hears_nothing_after_its_key_was_revoked() -> None:
    """A listener that waits is woken and told, and the row that comes behind the revocation is not sent."""
    keys = ring()
    feed = LiveFeed(keys.in_force)
    rows = await listen(feed)
    publish(feed, 1)
    assert b'"index":1' in await anext(rows)
    waiting = asyncio.ensure_future(anext(rows))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    keys.replace([stored(revoked_ms=1)])
    feed.recheck()
    publish(feed, 2)
    assert await asyncio.wait_for(waiting, 5) == b": this key is no longer in force\n\n"
    with pytest.raises(StopAsyncIteration):
        await anext(rows)
    assert not feed.listeners


async def test_a_slow_listener_does_not_get_what_waits_for_it() -> None:
    """Rows that were queued before the revocation and not yet taken are dropped with the listener."""
    keys = ring()
    feed = LiveFeed(keys.in_force)
    rows = await listen(feed)
    for index in range(3):
        publish(feed, index)
    assert b'"index":0' in await anext(rows)
    keys.replace([stored(revoked_ms=1)])
    assert [row async for row in rows] == [b": this key is no longer in force\n\n"]


async def test_other_listeners_stay() -> None:
    """Keys that change leave the listeners of those in force alone, and a stop ends them without a word."""
    keys = ring()
    feed = LiveFeed(keys.in_force)
    rows = await listen(feed)
    keys.replace([stored()])
    feed.recheck()
    publish(feed, 1)
    assert b'"index":1' in await anext(rows)
    feed.close()
    assert [row async for row in rows] == []


async def test_a_key_revoked_while_the_body_is_awaited_is_refused() -> None:
    """The request began with a key in force and ends without one: 401, and the relay never hears of it."""
    keys, relay = ring(), Served()
    inference = inference_over(relay, keys)
    revoke = pieces(b'{"model":', b'"m"}', before_last=lambda: keys.replace([stored(revoked_ms=1)]))
    status, answer = await post(inference, revoke)
    assert (status, answer["error"]["code"]) == (401, "invalid_key")
    assert relay.keys == []


async def test_another_key_made_while_the_body_is_awaited_changes_nothing() -> None:
    """Keys that change around a request leave it alone while its own is in force."""
    keys, relay = ring(), Served()
    receive = pieces(b'{"model":', b'"m"}', before_last=lambda: keys.replace([stored()]))
    assert await post(inference_over(relay, keys), receive) == (200, {})
    assert relay.keys == ["K1"]
