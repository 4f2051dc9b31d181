"""The pool of workers, and the only way to run a proof system: the event loop waits for none of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from gateway.verify.proofs.zk import Ran, Statement, ZkVerdict
from gateway.verify.proofs.zk_circuit import Circuit

from .process import COMMAND, Worker


class Limits(msgspec.Struct, frozen=True):
    """What verification may take.

    `seconds` of wall time a proof, `memory` bytes of address space a worker (a production LSTM of 2**19 rows needs
    about 500 MiB), `waiting` callers at most, each for `wait_seconds` at most.
    """

    workers: int = 1
    seconds: float = 10.0
    memory: int = 1024 * 1024 * 1024
    waiting: int = 64
    wait_seconds: float = 30.0


class Verifier:
    """`limits.workers` processes, started when first needed. Belongs to one event loop; close it with `aclose`."""

    def __init__(self, limits: Limits | None = None, *, command: Sequence[str] = COMMAND) -> None:
        self._limits = limits = limits or Limits()
        self.workers = tuple(
            Worker(seconds=limits.seconds, memory=limits.memory, command=command) for _ in range(limits.workers)
        )
        # Last in, first out: under little load one warm worker does everything.
        self._idle: asyncio.LifoQueue[Worker] = asyncio.LifoQueue()
        for worker in self.workers:
            self._idle.put_nowait(worker)
        self._waiting = 0
        self._closed = False

    async def verify(self, circuit: Circuit, statement: Statement) -> Ran:
        """Whether `statement` verifies under `circuit`: pass, fail, or inconclusive with a reason. Never raises.

        Besides the workers' own reasons: verifier_busy when too many wait or one waited too long, verifier_stopped.
        """
        worker = None if self._closed else await self._free()
        try:
            if self._closed:  # perhaps while we waited
                return Ran(ZkVerdict.INCONCLUSIVE, "verifier_stopped")
            if worker is None:
                return Ran(ZkVerdict.INCONCLUSIVE, "verifier_busy")
            return await worker.run(circuit, statement)
        finally:
            if worker is not None:
                self._idle.put_nowait(worker)

    async def aclose(self) -> None:
        """Stop the workers; whoever still waits gets an inconclusive answer."""
        self._closed = True
        for worker in self.workers:
            worker.kill()
        idle = [await self._idle.get() for _ in self.workers]  # each comes back from its last caller
        for worker in idle:
            await worker.stop()
            self._idle.put_nowait(worker)

    async def _free(self) -> Worker | None:
        if self._idle.empty() and self._waiting >= self._limits.waiting:
            return None
        self._waiting += 1
        try:
            async with asyncio.timeout(self._limits.wait_seconds):
                return await self._idle.get()
        except TimeoutError:
            return None
        finally:
            self._waiting -= 1
