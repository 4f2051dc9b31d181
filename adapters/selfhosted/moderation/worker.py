"""The process that proves: `python -m adapters.selfhosted.moderation.worker DIR WORK`, one JSON document a line.

    out  {"event": "progress", "text": "…"}            while the keys are made, at the first start
    out  {"event": "ready", "circuit": "sha256:…"}      or {"event": "failed", "message": "…"}, and the end
    in   {"values": [128 numbers]}
    out  {"proof": {"instances": [[…]], "proof": […]}}  or {"error": "…"}

WORK is a folder for the files between the steps. A process of its own, because ezkl is native code that holds the
interpreter for as long as a proof takes. Of the proof file the two members leave that a verifier reads; the others are
for people, and nobody may rely on them.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

from gateway.errors import ConfigError
from gateway.verify.proofs.zk_manifest import EZKL_VERSION

from . import circuit

#: Address space. A proof of this circuit needs about 100 MiB, and ezkl reserves more for each thread.
MEMORY = 4 * 1024 * 1024 * 1024
_NICE = 5


def main() -> None:
    """Make the keys if need be, then prove until standard input ends."""
    folder, work, sink = Path(sys.argv[1]), Path(sys.argv[2]), _sink()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's interrupt is the node's to handle
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICE)
    try:
        _installed()
        circuit.ensure(folder, lambda text: _send(sink, {"event": "progress", "text": text}))
        ready = {"event": "ready", "circuit": circuit.circuit_id(folder)}
    except (ConfigError, OSError, RuntimeError, ValueError) as error:
        _send(sink, {"event": "failed", "message": f"{error}"[:500]})
        return
    _send(sink, ready)
    for line in sys.stdin.buffer:
        _send(sink, _answer(folder, work, json.loads(line)["values"]))


def _answer(folder: Path, work: Path, values: list[float]) -> dict[str, Any]:
    try:
        return {"proof": prove(folder, work, values)}
    except RuntimeError as error:  # all that ezkl raises
        return {"error": f"{error}"[:500]}


def prove(folder: Path, work: Path, values: list[float]) -> dict[str, Any]:
    """A proof that the circuit of `folder` gives its outputs for `values`. Raises `RuntimeError`."""
    import ezkl

    keys, vk = folder / circuit.KEYS, str(circuit.pinned(folder) / "vk.key")
    compiled, srs = str(keys / "model.compiled"), str(keys / "kzg.srs")
    given, witness, out = (str(work / name) for name in ("input.json", "witness.json", "proof.json"))
    Path(given).write_text(json.dumps({"input_data": [values]}), "utf-8")
    ezkl.gen_witness(given, compiled, witness, vk, srs)
    ezkl.prove(witness, compiled, str(keys / "pk.key"), out, srs)
    document = json.loads(Path(out).read_bytes())
    return {"instances": document["instances"], "proof": document["proof"]}


def _installed() -> None:
    try:
        found = version("ezkl")
    except PackageNotFoundError:
        raise ConfigError("--prove needs ezkl; install veriroute[zk]") from None
    if found != EZKL_VERSION:
        raise ConfigError(f"--prove needs ezkl {EZKL_VERSION}, not {found}")


def _sink() -> BinaryIO:
    """A copy of standard output, which itself then leads nowhere: libraries print to it."""
    sink = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return sink


def _send(sink: BinaryIO, message: dict[str, Any]) -> None:
    sink.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")


if __name__ == "__main__":
    main()
