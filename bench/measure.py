"""Reading what processes cost from /proc: CPU time of a process tree, its memory, and who else is busy."""

from __future__ import annotations

import contextlib
import os
import pathlib
import statistics
import time

TICK = os.sysconf("SC_CLK_TCK")
PROC = pathlib.Path("/proc")


def tree(pid: int) -> list[int]:
    """`pid` and all its descendants that are alive."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty when the process has ended."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def cpu_seconds(pids: list[int]) -> float:
    """CPU time so far of all their threads, those that have ended too; a process that has ended counts nothing."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime(~pid << 3 | 2)  # what clock_getcpuclockid(3) gives: the scheduler's nanoseconds
    return total


def memory_mb(pids: list[int]) -> dict[str, float]:
    """RSS and PSS of the processes together, in MB; empty where none can be read. PSS counts a shared page once."""
    sums: dict[str, int] = {}
    for pid in pids:
        try:
            lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name = line.split(":")[0].lower()
            if name in ("rss", "pss"):
                sums[name] = sums.get(name, 0) + int(line.split()[1])
    return {name: round(value / 1024, 1) for name, value in sums.items()}


def machine_busy_seconds() -> float:
    """CPU time that the whole machine has spent, over all cores."""
    fields = [int(x) for x in (PROC / "stat").read_text().splitlines()[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / TICK


def fsync_ms(folder: pathlib.Path, times: int = 40) -> float:
    """Median time of one small durable write in `folder`: what every commit waits for at least."""
    path = folder / "fsync.probe"
    took = []
    with path.open("wb", buffering=0) as stream:
        for _ in range(times):
            stream.write(b"x" * 4096)
            begun = time.perf_counter()
            os.fsync(stream.fileno())
            took.append((time.perf_counter() - begun) * 1e3)
    path.unlink()
    return round(statistics.median(took), 3)
