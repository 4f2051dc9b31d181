"""All bodies that are held or still come have one bound together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from inference_kit import Served, inference_over, pieces, post, ring

BODY = b'{"model":"m","x":"' + b"y" * 980 + b'"}'


class Holding(Served):
    """A relay whose exchanges go on until `gate` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def serve(self, incoming: Any, sink: Any) -> None:
        await self.gate.wait()
        await super().serve(incoming, sink)


class Here:
    """A cycle whose whole body has come, and whose client stays."""

    more_body = False

    def __init__(self) -> None:
        self.asked = False

    async def receive(self) -> dict[str, Any]:
        if self.asked:
            await asyncio.Event().wait()
        self.asked = True
        return {"type": "http.request", "body": BODY, "more_body": False}


async def test_bodies_that_still_come_are_bounded_together() -> None:
    """Two bodies of which nine tenths have come leave no room for a third, which is told to try again; then they go."""
    inference = inference_over(Served(), ring(), max_memory=2500)
    end = asyncio.Event()

    async def slow() -> AsyncIterator[dict[str, Any]]:
        yield {"type": "http.request", "body": BODY[:900], "more_body": True}
        await end.wait()
        yield {"type": "http.request", "body": BODY[900:], "more_body": False}

    reading = [asyncio.create_task(post(inference, slow().__anext__)) for _ in range(2)]
    await asyncio.sleep(0.01)
    assert inference.bodies.held == 1800
    status, answer = await post(inference, pieces(BODY[:500], BODY[500:]))
    assert (status, answer["error"]["code"]) == (503, "busy")
    assert "bytes of request bodies" in answer["error"]["message"]
    assert inference.bodies.held == 1800
    end.set()
    assert [status for status, _ in await asyncio.gather(*reading)] == [200, 200]
    assert inference.bodies.held == 0


async def test_bodies_of_exchanges_under_way_count() -> None:
    """A body is held until its exchange ends, whether it was waited for or was there at once."""
    relay = Holding()
    inference = inference_over(relay, ring(), max_memory=2500)
    running = [
        asyncio.create_task(post(inference, receive)) for receive in (Here().receive, pieces(BODY[:9], BODY[9:]))
    ]
    await asyncio.sleep(0.01)
    assert (inference.in_flight, inference.bodies.held) == (2, 2 * len(BODY))
    for receive in (Here().receive, pieces(BODY[:9], BODY[9:])):
        assert (await post(inference, receive))[0] == 503
    relay.gate.set()
    assert [status for status, _ in await asyncio.gather(*running)] == [200, 200]
    assert inference.bodies.held == 0
    assert (await post(inference, Here().receive))[0] == 200


async def test_a_refused_body_is_held_no_longer() -> None:
    """What was read of a request that cannot be served is given back with its refusal."""
    inference = inference_over(Served(), ring(), max_memory=2500)
    assert (await post(inference, pieces(b"{", b"]")))[0] == 400
    assert (await post(inference, pieces(b"x" * 2000, b"x" * 2000)))[0] == 503
    assert inference.bodies.held == 0
