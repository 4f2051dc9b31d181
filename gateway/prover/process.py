"""One worker process as the gateway sees it: started when needed, given one job at a time, replaced when it fails.

A worker that crashes, hangs, answers nonsense, or whose caller went away in the middle of a job is killed, its folder
removed, and the next job starts another. Nothing that a worker says reaches a log: its standard error leads nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from pathlib import Path

import msgspec

from gateway.verify.proofs.zk import Ran, Statement, ZkVerdict
from gateway.verify.proofs.zk_circuit import Circuit

from . import jobs

#: `-P`: the working directory is not a place to import from.
COMMAND = (sys.executable, "-P", "-m", "gateway.prover.worker")
START_SECONDS = 30.0
#: A worker is replaced after so many jobs, whatever native code has leaked or broken in it by then.
MAX_JOBS = 1_000
_PIECE = 64 * 1024
#: Public values up to which a job is encoded on the event loop.
_FEW = 1_024
_ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """One worker. `run` and `stop` are for one caller at a time; `kill` may be called at any time."""

    def __init__(self, *, seconds: float, memory: int, command: Sequence[str] = COMMAND) -> None:
        self._seconds = seconds
        self._memory = memory
        self._command = command
        self._process: Process | None = None
        self._folder: str | None = None
        self._known: set[str] = set()
        self._done = 0

    @property
    def pid(self) -> int | None:
        """The process that runs now, if one does."""
        return self._process.pid if self._process else None

    @property
    def folder(self) -> str | None:
        """The private directory of the process that runs now."""
        return self._folder

    async def run(self, circuit: Circuit, statement: Statement) -> Ran:
        """The verdict on `statement`; inconclusive with verifier_unavailable, verifier_timeout or verifier_crashed."""
        whole = False
        try:
            if self._done >= MAX_JOBS:
                await self.stop()
            process = self._process or await self._start()
            async with asyncio.timeout(self._seconds):
                ran = await self._exchange(process, circuit, statement)
            whole = True
            return ran
        except _NotStarted:
            return Ran(ZkVerdict.INCONCLUSIVE, "verifier_unavailable")
        except TimeoutError:
            return Ran(ZkVerdict.INCONCLUSIVE, "verifier_timeout")
        except (asyncio.IncompleteReadError, OSError, msgspec.MsgspecError):
            return Ran(ZkVerdict.INCONCLUSIVE, "verifier_crashed")
        finally:
            if not whole:  # also when cancelled: the answer to come would be taken for the next job's
                await asyncio.shield(self.stop())

    async def stop(self) -> None:
        """Kill the process, wait for its end, and remove its folder."""
        process, folder = self._process, self._folder
        self._process, self._folder, self._known, self._done = None, None, set(), 0
        if process is not None:
            _kill(process)
            await process.communicate()  # drains the pipe as well: an unread answer would keep the transport open
        if folder is not None:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def kill(self) -> None:
        """Kill the process and leave the rest to `run`, in which somebody may be waiting for an answer."""
        if self._process is not None:
            _kill(self._process)

    async def _start(self) -> Process:
        self._folder = folder = await asyncio.to_thread(tempfile.mkdtemp, prefix="veriroute-proof-")
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command, folder, str(self._memory), stdin=PIPE, stdout=PIPE, stderr=DEVNULL, cwd=folder,
                env=_environment(folder), start_new_session=True,
            )  # fmt: skip
            async with asyncio.timeout(START_SECONDS):
                await _reply(process)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, msgspec.MsgspecError) as error:
            raise _NotStarted from error
        return process

    async def _exchange(self, process: Process, circuit: Circuit, statement: Statement) -> Ran:
        name = circuit.manifest.vk_sha256
        assert process.stdin is not None
        first = name not in self._known
        encoded = functools.partial(jobs.job, circuit, statement, seconds=self._seconds, with_files=first)
        # With files it may be megabytes: encoded elsewhere, and written in pieces between which others have their turn.
        # A small one takes 0.05 ms here, and a thread that loses the processor while it holds the interpreter far more.
        small = not first and len(statement.instances) <= _FEW
        data = encoded() if small else await asyncio.to_thread(encoded)
        for start in range(0, len(data), _PIECE):
            process.stdin.write(data[start : start + _PIECE])
            await process.stdin.drain()
        ran = await _reply(process)
        self._known.add(name)
        self._done += 1
        return ran


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()


class _NotStarted(Exception):
    """No worker could be had."""


async def _reply(process: Process) -> Ran:
    assert process.stdout is not None
    size = int.from_bytes(await process.stdout.readexactly(jobs.LENGTH), "big")
    if size > jobs.MAX_REPLY:
        raise msgspec.DecodeError("a reply is short")
    return jobs.read_reply(await process.stdout.readexactly(size))


def _environment(folder: str) -> dict[str, str]:
    """What a worker needs, and none of the gateway's secrets. One thread and few arenas keep address space small."""
    return {
        "PATH": os.defpath,
        "PYTHONPATH": str(_ROOT),
        "HOME": folder,
        "TMPDIR": folder,
        "RAYON_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }
