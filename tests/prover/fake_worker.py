"""A worker whose proof systems are stand-ins: the first byte of a proof says how it behaves."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from gateway.prover import worker
from gateway.prover.jobs import Job
from gateway.verify.proofs.zk import Ran, ZkVerdict


def behave(job: Job, folder: Path) -> Ran:
    """Pass, fail, hang, eat memory, die, talk, write a file, or compute, as the proof says."""
    kind = job.proof[:1]
    if kind == b"f":
        return Ran(ZkVerdict.FAIL, "proof_rejected")
    if kind == b"h":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        time.sleep(3600)
    if kind == b"m":
        hog = [bytearray(64 << 20) for _ in range(1024)]
        return Ran(ZkVerdict.PASS, str(len(hog)))
    if kind == b"d":
        os.abort()
    if kind == b"t":
        print("noise", flush=True)
        print("noise", file=sys.stderr, flush=True)
    if kind == b"g":
        _scribble()
    if kind == b"e":
        secrets = [name for name in os.environ if name.startswith("VERIROUTE")]
        return Ran(ZkVerdict.FAIL if secrets else ZkVerdict.PASS, ",".join(secrets) or None)
    if kind == b"s":
        time.sleep(0.2)
    if kind == b"c":
        end = time.process_time() + 0.05
        while time.process_time() < end:
            sum(range(1000))
    held = (folder / "vk").read_bytes() == b"a verifying key" and (folder / "settings").exists()
    return Ran(ZkVerdict.PASS) if held else Ran(ZkVerdict.FAIL, "files")


def _scribble() -> None:
    """Write what is no reply to every descriptor, as broken native code might."""
    for descriptor in range(3, 20):
        try:
            os.write(descriptor, b"\0\0\0\x03abc")
        except OSError:
            continue
    time.sleep(3600)


if __name__ == "__main__":
    worker.main({"ezkl": behave})
