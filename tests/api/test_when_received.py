"""When a request was received: one moment, by two clocks."""

from __future__ import annotations

import time

from inference_kit import Served, inference_over, pieces, post, ring


async def test_times_count_from_when_the_body_is_whole() -> None:
    """What a slow upload takes is no part of an exchange's times: they count from the moment that it calls received."""
    relay, seen = Served(), []

    def last() -> None:
        seen.append((time.perf_counter(), time.time_ns() // 1_000_000))

    status, _ = await post(inference_over(relay, ring()), pieces(b'{"model":"m",', b'"messages":[]}', before_last=last))
    assert status == 200
    (mono, wall), (incoming,) = seen[0], relay.given
    assert mono <= incoming.t0 <= time.perf_counter()
    assert wall <= incoming.received_ms <= time.time_ns() // 1_000_000
