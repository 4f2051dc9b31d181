"""A node that sends much at once, of what takes long to read, does not keep the gateway from others."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from agents import chunk
from behind_front import ask, behind_front
from ledger import Ledger
from scripted import Received, ScriptedNode

from gateway.exchange.sse import BLOCK_BYTES, FREE_BLOCKS, Block, Framer
from gateway.relay import run


@pytest.mark.parametrize("block", [b": x\n\n", b"data: {}\n\n", chunk("w" * 50)])
async def test_d19_a_flood_leaves_turns_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: bytes
) -> None:
    """U5: between one piece of it and the next the event loop goes round, and short blocks end it before its length."""
    node = ScriptedNode()
    parts = block * ((2 << 20) // len(block))

    async def script(of: Received) -> AsyncIterator[bytes | float]:
        yield node.head(200, None, ("x-receipt-id", "r-1"), media="text/event-stream")
        yield b"%x\r\n%b\r\n" % (len(parts), parts)

    node.script = script
    feed = Framer.feed
    turns = 0
    fed: list[tuple[int, int]] = []

    def counted(self: Framer, data: bytes) -> list[Block]:
        fed.append((turns, len(data)))
        return feed(self, data)

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    monkeypatch.setattr(Framer, "feed", counted)
    text = f"""
    auth.mode = "none"
    storage.url = "sqlite:///{tmp_path}/audit.db"
    upstream.max_response_bytes = 1048576
    upstream.max_event_bytes = 65536
    nodes = [{{id = "n", base_url = "{node.url}", models = ["m"], pin = "{node.pin}"}}]
    """
    async with behind_front(text, monkeypatch) as gateway:
        other = asyncio.create_task(others())
        monkeypatch.setattr("behind_front.prompt", lambda name: PROMPT)
        answer = await ask(gateway)
        other.cancel()
    node.close()
    assert (answer.status, answer.error["reason"]) == (502, "too_large")
    assert Ledger(tmp_path / "audit.db").check().of("x").release == "withheld"
    assert max(size for _, size in fed) <= run.AT_ONCE
    assert max(Counter(turn for turn, _ in fed).values()) <= 2  # the end of one read, and the beginning of the next
    if len(block) < BLOCK_BYTES:
        assert sum(size for _, size in fed) <= FREE_BLOCKS * len(block) + run.AT_ONCE


PROMPT = b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true}'
