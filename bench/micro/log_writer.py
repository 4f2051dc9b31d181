"""The log's writer by itself: entries a second, latency and CPU, for 1, 16, 64 and 256 concurrent callers.

    PYTHONPATH=. python bench/micro/log_writer.py [SECONDS] [DIRECTORY]

Every entry is a receipt with an envelope of 2.7 kB and an opening, is committed with a synced transaction and a signed
checkpoint, and comes back with its inclusion proof. DIRECTORY lies on the disk to be measured (default: the temporary
one); "disk" is how long a write of 4 kB with fdatasync takes there, which bounds what a lone caller can get.
"""

from __future__ import annotations

import asyncio
import binascii
import hashlib
import os
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from gateway.log.note import NoteSigner
from gateway.model.entry import Entry, Opening, ReceiptRow
from gateway.model.ulid import encode
from gateway.storage.startup import open_log

SIGNER = NoteSigner("bench.example/log", bytes(32))
ENVELOPE = binascii.b2a_base64(os.urandom(2040), newline=False)


def entry(n: int) -> Entry:
    id = encode((1 << 100) + n)
    leaf = b"veriroute/1 receipt sha256:" + hashlib.sha256(b"%d" % n).hexdigest().encode() + b"\n"
    row = ReceiptRow(
        id, "key_1", None, 1_700_000_000_000 + n, "affirming", "released", None, "signed@1", "selfhosted", "node-a",
        "small", "/v1/chat/completions", False, 200, 1.5,
    )  # fmt: skip
    return Entry("receipt", id, leaf, ENVELOPE, row, Opening(id, b"s" * 32), True)


async def measure(directory: Path, callers: int, seconds: float) -> str:
    log = await open_log(f"sqlite:///{directory}/log.db", SIGNER, SIGNER.name, str(directory / "memory"))
    entries = iter([entry(n) for n in range(int(seconds * 45_000))])
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def caller() -> None:
        for one in entries:
            began = time.perf_counter()
            if began > end:
                return
            await log.append(one)
            took.append(time.perf_counter() - began)

    clock = time.pthread_getcpuclockid(log._thread.ident)  # type: ignore[arg-type]
    began, writer, process = time.perf_counter(), time.clock_gettime(clock), time.process_time()
    await asyncio.gather(*[caller() for _ in range(callers)])
    wall, writer, process = (
        time.perf_counter() - began,
        time.clock_gettime(clock) - writer,
        time.process_time() - process,
    )
    count = len(took)
    took.sort()
    text = (
        f"{callers:4} callers: {count / wall:8,.0f} entries/s, {count / log.batches:6.1f} a commit, "
        f"p50 {took[count // 2] * 1e3:6.2f} ms, p99 {took[count * 99 // 100] * 1e3:6.2f} ms, "
        f"CPU an entry: writer {writer / count * 1e6:6.1f} µs, process {process / count * 1e6:6.1f} µs"
    )
    await log.close()
    return text


def disk(directory: Path) -> str:
    fd = os.open(directory / "probe", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, bytes(1 << 20), 0)
    os.fsync(fd)
    took = []
    for n in range(200):
        began = time.perf_counter()
        os.pwrite(fd, os.urandom(4096), 4096 * n)
        os.fdatasync(fd)
        took.append(time.perf_counter() - began)
    os.close(fd)
    took.sort()
    return f"disk: p50 {took[100] * 1e3:.2f} ms, p99 {took[198] * 1e3:.2f} ms; load {os.getloadavg()[0]:.1f}"


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    parent = sys.argv[2] if len(sys.argv) > 2 else None
    for callers in (1, 16, 64, 256):
        with tempfile.TemporaryDirectory(dir=parent) as directory:
            sys.stdout.write(disk(Path(directory)) + "\n")
            sys.stdout.write(uvloop.run(measure(Path(directory), callers, seconds)) + "\n")


if __name__ == "__main__":
    main()
