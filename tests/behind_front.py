"""A gateway in the test's process that is asked behind its front, so that a test can put its hand in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from agents import Answer, prompt
from policy_kit import write_policy
from scripted import ScriptedNode

from gateway.app import Gateway
from gateway.settings import load


@asynccontextmanager
async def behind_front(text: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    """The gateway of the settings `text`."""
    monkeypatch.setattr(Gateway, "_front", lambda self: None)
    gateway = Gateway(load(text))
    await gateway.open()
    yield gateway
    await gateway.close()


@asynccontextmanager
async def asked_in_turn(
    folder: Path, nodes: list[ScriptedNode], on_failure: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Gateway]:
    """Of `nodes`, `n0` is asked first, then `n1`, as `on_failure` of the policy says."""
    write_policy(folder / "policies", "nexts", on_failure=on_failure)
    tables = ", ".join(
        f'{{id = "n{i}", base_url = "{n.url}", models = ["m"], pin = "{n.pin}"}}' for i, n in enumerate(nodes)
    )
    text = f"""
    auth.mode = "none"
    storage.url = "sqlite:///{folder}/audit.db"
    policy = {{dir = "{folder}/policies", default = "nexts"}}
    nodes = [{tables}]
    """
    async with behind_front(text, monkeypatch) as gateway:
        gateway.fleet.members["n0"].served(1.0)
        gateway.fleet.members["n1"].served(1000.0)
        monkeypatch.setattr("gateway.api.openai._pick", lambda _: 0.0)
        yield gateway


async def ask(gateway: Gateway) -> Answer:
    """What a chat completion gets."""
    messages: list[dict[str, Any]] = []
    unread = [{"type": "http.request", "body": prompt("x"), "more_body": False}]

    async def receive() -> dict[str, Any]:
        return unread.pop() if unread else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    headers = [(b"x-client-request-id", b"x"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    scope["veriroute.on_leave"] = lambda callback: None
    await gateway.inference(scope, receive, send)
    head = {n.decode(): v.decode() for n, v in messages[0]["headers"]}
    return Answer(messages[0]["status"], head, b"".join(message.get("body", b"") for message in messages[1:]))
