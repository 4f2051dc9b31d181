"""What the relay is given for one exchange, and where its answer goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from gateway.errors import VerirouteError
from gateway.exchange.head import Head
from gateway.policy.schema import CompiledPolicy
from gateway.recorder import PolicyUse

Headers = list[tuple[bytes, bytes]]


class Terms(msgspec.Struct, frozen=True):
    """The policy in force for one exchange, pinned at its start."""

    policy: CompiledPolicy
    use: PolicyUse
    sessions: tuple[str, ...] | None = None


class Incoming(msgspec.Struct, frozen=True):
    """One accepted request, as far as the relay needs it. Ids, randomness and times come from outside."""

    receipt_id: str
    received_ms: int
    t0: float
    randomness: bytes  # 32 bytes seed, 16 bytes receipt nonce, 32 bytes request nonce
    key_id: str
    client_request_id: str | None
    head: Head
    body: bytes
    terms: Terms
    pick: float


class Sink(Protocol):
    """Where the answer goes. Each may raise `OSError` when the agent has left."""

    gone: bool

    def on_leave(self, callback: Callable[[], None] | None) -> None: ...
    async def answer(self, headers: Headers, body: bytes) -> None: ...
    async def begin(self, headers: Headers) -> None: ...
    async def write(self, data: bytes) -> None: ...
    async def end(self, data: bytes) -> None: ...
    async def refuse(self, error: VerirouteError, receipt: str, extra: dict[str, object], headers: Headers) -> None: ...
    async def cut(self, data: bytes) -> None: ...
