"""The node's side of the proving process: started before the node is ready, one proof at a time, and replaced.

No proof, no answer: a node that was told to prove refuses what it could not prove.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gateway.errors import Busy, ConfigError, InternalError

from . import circuit

COMMAND = (sys.executable, "-P", "-m", "adapters.selfhosted.moderation.worker")
START_S = 120.0  #: with making the keys, which takes two seconds of a free core
PROVE_S = 30.0  #: a proof takes about one
MOST_WAITING = 16
_LINE = 1024 * 1024
_ROOT = Path(__file__).resolve().parents[3]


class Prover:
    """One process that proves. `say` is told what its start is busy with. `circuit` is known once it is open."""

    def __init__(
        self, folder: Path, say: Callable[[str], None], *, command: Sequence[str] = COMMAND, prove_s: float = PROVE_S
    ) -> None:
        self.circuit = ""
        self._folder = folder
        self._say = say
        self._command = command
        self._prove_s = prove_s
        self._process: Process | None = None
        self._work = ""
        self._turn = asyncio.Lock()
        self._waiting = 0

    @property
    def pinned(self) -> Path:
        """The folder of the circuit, as a gateway pins it."""
        return circuit.pinned(self._folder.absolute())

    async def open(self) -> None:
        """Start the process and wait until it can prove. Raises `ConfigError`."""
        await self._started()

    async def close(self) -> None:
        """End the process, also in the middle of a proof, and remove its folder."""
        process, self._process, work, self._work = self._process, None, self._work, ""
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()
        if work:
            await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)

    async def prove(self, values: Sequence[float]) -> dict[str, Any]:
        """The proof of the circuit's outputs for `values`. Raises `Busy`, and `InternalError` when there is none."""
        if self._waiting >= MOST_WAITING:
            raise Busy("this node has too many proofs to make")
        self._waiting += 1
        try:
            async with self._turn:
                return await self._proved(values)
        finally:
            self._waiting -= 1

    async def _proved(self, values: Sequence[float]) -> dict[str, Any]:
        whole = False
        try:
            process = self._process or await self._started()
            async with asyncio.timeout(self._prove_s):
                assert process.stdin is not None
                process.stdin.write(json.dumps({"values": list(values)}).encode() + b"\n")
                await process.stdin.drain()
                found = await _line(process)
            whole = True
        except (TimeoutError, OSError, ValueError, ConfigError):
            raise InternalError("no proof of this answer could be made") from None
        finally:
            if not whole:  # also when the client left: the proof to come would be taken for the next one's
                await asyncio.shield(self.close())
        proof = found.get("proof")
        if not isinstance(proof, dict):
            raise InternalError("no proof of this answer could be made")
        return proof

    async def _started(self) -> Process:
        try:
            self._work = work = await asyncio.to_thread(tempfile.mkdtemp, prefix="veriroute-prove-")
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command, str(self._folder.absolute()), work, stdin=PIPE, stdout=PIPE, stderr=DEVNULL,
                limit=_LINE, env=_environment(work), start_new_session=True,
            )  # fmt: skip
            async with asyncio.timeout(START_S):
                self.circuit = await self._ready(process)
        except (TimeoutError, OSError, ValueError) as error:
            await self.close()
            raise ConfigError(f"--prove: the process that proves did not start ({type(error).__name__})") from None
        return process

    async def _ready(self, process: Process) -> str:
        while True:
            said = await _line(process)
            if said.get("event") == "ready":
                return str(said["circuit"])
            if said.get("event") == "failed":
                await self.close()
                raise ConfigError(str(said["message"]))
            self._say(str(said.get("text", "")))


async def _line(process: Process) -> dict[str, Any]:
    """The next document. Raises `ValueError` when there is none, or one that is over the limit."""
    assert process.stdout is not None
    document = json.loads(await process.stdout.readline())
    if not isinstance(document, dict):
        raise ValueError("no object")
    return document


def _environment(work: str) -> dict[str, str]:
    """None of the node's secrets; ezkl makes a folder in HOME."""
    return {"PATH": os.defpath, "PYTHONPATH": str(_ROOT), "HOME": work, "TMPDIR": work, "MALLOC_ARENA_MAX": "2"}
