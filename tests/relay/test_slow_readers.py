"""An agent that reads slowly takes no node from the others."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from agents import STREAM, chunk, prompt
from behind_front import behind_front
from policy_kit import write_policy
from scripted import ScriptedNode

from gateway.app import Gateway
from gateway.upstream.limits import Limits

TOTAL_S = 0.6


@pytest.mark.parametrize(("slow", "failures"), [("agent", 0), ("node", 1)])
async def test_time_that_the_agent_took_is_not_held_against_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: str, failures: int
) -> None:
    """The end of the total time says who was waited for: the node, or the agent, for whom the node was made to wait."""
    path = write_policy(tmp_path / "policies", "streams", stream='["optimistic"]')
    path.write_text(path.read_text("utf-8") + f"[deadlines]\ntotal_s = {TOTAL_S}\n", "utf-8")
    node = ScriptedNode()
    whole = node.sse(chunk("x" * 200) * (2 * Limits().high_water // 200) + STREAM)

    async def script(of: Any) -> Any:
        parts = [part async for part in whole(of)]
        if slow == "node":
            parts.insert(5, 2 * TOTAL_S)
        for part in parts:
            yield part

    node.script = script
    text = f"""
    auth.mode = "none"
    storage.url = "sqlite:///{tmp_path}/audit.db"
    policy = {{dir = "{tmp_path}/policies", default = "streams"}}
    nodes = [{{id = "n", base_url = "{node.url}", models = ["m"], pin = "{node.pin}"}}]
    """
    async with behind_front(text, monkeypatch) as gateway:
        await ask_slowly(gateway, 2 * TOTAL_S if slow == "agent" else 0.0)
        assert gateway.fleet.members["n"].view.health.failures == failures
    node.close()


async def ask_slowly(gateway: Gateway, pause_s: float) -> None:
    """Ask for a stream, and take the first piece of it after `pause_s`."""
    unread = [{"type": "http.request", "body": prompt("x", stream=True), "more_body": False}]
    until = [0.0]

    async def receive() -> dict[str, Any]:
        return unread.pop() if unread else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        until[0] = until[0] or time.monotonic() + pause_s
        await asyncio.sleep(until[0] - time.monotonic())

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
    scope["veriroute.on_leave"] = lambda callback: None
    await gateway.inference(scope, receive, send)
