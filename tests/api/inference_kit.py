"""The inference paths over a relay that answers at once, with one key and requests whose bodies come in pieces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.api.auth import KeyRing, StoredKey, key_digest
from gateway.api.openai import Inference
from gateway.model.ulid import UlidFactory

KEY = b"vr-a-key"
BEARER = b"Bearer " + KEY


def stored(*, revoked_ms: int | None = None) -> StoredKey:
    return StoredKey("K1", "agent", key_digest(KEY), None, ("inference", "admin"), revoked_ms)


def ring() -> KeyRing:
    keys = KeyRing()
    keys.replace([stored()])
    return keys


class Served:
    """A relay that notes what it is given, and policies that let everything be."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.given: list[Any] = []

    def known(self, head: object) -> None: ...

    def resolve(self, *_: object) -> None: ...

    async def serve(self, incoming: Any, sink: Any) -> None:
        self.keys.append(incoming.key_id)
        self.given.append(incoming)
        await sink.answer([], b"{}")


def pieces(*parts: bytes, before_last: Callable[[], None] = lambda: None) -> Callable[[], Awaitable[dict[str, Any]]]:
    """An ASGI `receive` that gives `parts`, calling `before_last`, and then waits."""
    left = list(parts)

    async def receive() -> dict[str, Any]:
        if len(left) == 1:
            before_last()
        if not left:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    return receive


async def post(inference: Inference, receive: Callable[[], Awaitable[dict[str, Any]]]) -> tuple[int, dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await inference({"path": "/v1/chat/completions", "headers": [(b"authorization", BEARER)]}, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def inference_over(relay: Served, keys: KeyRing, **limits: Any) -> Inference:
    settings = {"max_body": 1 << 20, "max_in_flight": 8, "max_memory": 1 << 20, **limits}
    return Inference(relay, keys, relay, UlidFactory(), **settings)  # type: ignore[arg-type]
