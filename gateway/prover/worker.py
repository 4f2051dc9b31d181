"""The worker process: `python -m gateway.prover.worker FOLDER MEMORY`, jobs on standard input, verdicts on output.

Its limits stand before any native code is loaded: address space, no core dumps, files of at most 128 MiB, the lowest
priority, so that on a machine whose cores are all taken proofs reach their time limit before the event loop is held up.
An alarm with its default action ends it when a job runs too long, also when the gateway is gone: native code that holds
the interpreter would never let a Python handler run. It ends when its input does.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from gateway.verify.proofs.zk import Ran, ZkVerdict

from . import jobs
from .systems import SYSTEMS, Run, store

_MAX_FILE = 128 * 1024 * 1024
_NICE = 10
#: How long after the gateway's own limit the alarm goes off.
_GRACE = 1.0


def main(systems: Mapping[str, Run] = SYSTEMS) -> None:
    """Serve jobs until standard input ends."""
    folder, memory = Path(sys.argv[1]), int(sys.argv[2])
    source, sink = _pipes()
    _limit(memory)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's interrupt is the gateway's to handle
    _send(sink, Ran(ZkVerdict.INCONCLUSIVE, "ready"))
    while (job := _receive(source)) is not None:
        signal.setitimer(signal.ITIMER_REAL, job.seconds + _GRACE)
        place = folder / job.circuit
        store(job, place)
        ran = systems[job.system](job, place)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(sink, ran)
    shutil.rmtree(folder, ignore_errors=True)  # the gateway is gone, or it would have killed us and done this


def _limit(memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_FILE, _MAX_FILE))
    os.nice(_NICE)
    if hasattr(os, "SCHED_IDLE"):  # Linux: whoever wakes up, the event loop above all, has the processor at once
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _pipes() -> tuple[BinaryIO, BinaryIO]:
    """Standard input, and a copy of standard output, which itself then leads nowhere: libraries print to it."""
    sink = os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    return sys.stdin.buffer, sink


def _receive(source: BinaryIO) -> jobs.Job | None:
    head = source.read(jobs.LENGTH)
    size = int.from_bytes(head, "big")
    data = source.read(size) if len(head) == jobs.LENGTH else b""
    return jobs.read_job(data) if data and len(data) == size else None


def _send(sink: BinaryIO, ran: Ran) -> None:
    sink.write(jobs.frame(ran))


if __name__ == "__main__":
    main()
