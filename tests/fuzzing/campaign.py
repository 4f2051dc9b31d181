"""A long run of mutated inputs against every parser and verifier: `make fuzz`, with `FUZZ_INPUTS=`, or

    PYTHONPATH=tests python -m fuzzing --inputs 1000000 --processes 2 --worlds nitro,intel --seed 7

For each world it prints how many inputs ran, how many a second, and the slowest. It ends with 1 when an input made a
world raise, took over a second of CPU time or never ended, or when a process grew by more than `--growth-mib` over the
second half of its work. What was found is made small and stored in tests/finds, where the test suite runs it again.

The same seed and number of inputs give the same inputs. Inputs come in blocks, each with dice of its own:
`--world-block nitro:17` runs one again.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import queue
import random
import resource
import time
from collections.abc import Iterator
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, NamedTuple

from fuzzing.attempt import attempt, keep, smaller
from fuzzing.discover import World, names, world
from fuzzing.mutate import mutated

BLOCK = 500
#: Seconds without a word from a process after which it counts as hung: in C code no timer interrupts.
SILENCE_S = 300.0
#: Finds of one kind that are made small and stored; there may be thousands of the same.
KEPT = 3


class Block(NamedTuple):
    world: str
    number: int
    size: int


class Done(NamedTuple):
    """A process's word on one block. `rss` is its memory in bytes after the block."""

    process: int
    block: Block
    took_s: float
    slowest_s: float
    wrong: list[tuple[str, str, str]]
    rss: int


def blocks(worlds: list[str], inputs: int) -> list[Block]:
    """The work: as many inputs for each world, in turn, so that any half of it is like the other."""
    each, rest = divmod(inputs, len(worlds))
    left = {name: each + (at < rest) for at, name in enumerate(worlds)}
    work: list[Block] = []
    while any(left.values()):
        for name in worlds:
            if size := min(BLOCK, left[name]):
                left[name] -= size
                work.append(Block(name, len(work), size))
    return work


def resident() -> int:
    """This process's memory in bytes now (on Linux), or the most that it ever was."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def inputs_of(target: World, block: Block, seed: int) -> Iterator[bytes]:
    dice = random.Random(f"{seed}:{block.world}:{block.number}")
    for _ in range(block.size):
        yield mutated(target.seeds, dice)


def run_block(
    target: World, block: Block, seed: int, known: dict[str, int]
) -> tuple[float, list[tuple[str, str, str]]]:
    """Run a block. Returns the slowest input's seconds, and for each failure: what, where it is stored, how it failed."""
    slowest, found = 0.0, []
    for data in inputs_of(target, block, seed):
        begun = time.process_time()
        wrong = attempt(target.run, data)
        slowest = max(slowest, time.process_time() - begun)
        if wrong is None:
            continue
        known[wrong.what] = known.get(wrong.what, 0) + 1
        stored = ""
        if known[wrong.what] <= KEPT:
            small = data if wrong.what.startswith(("slow", "Endless")) else smaller(target.run, data, wrong.what)
            stored = str(keep(target.name, small))
        found.append((wrong.what, stored, wrong.detail))
    return slowest, found


def work(process: int, share: list[Block], seed: int, words: Queue[Any]) -> None:
    """One process's whole work, reported block by block."""
    targets = {name: world(name) for name in {block.world for block in share}}
    known: dict[str, int] = {}
    for block in share:
        words.put(block)
        begun = time.process_time()
        slowest, wrong = run_block(targets[block.world], block, seed, known)
        took = time.process_time() - begun
        gc.collect()
        words.put(Done(process, block, took, slowest, wrong, resident()))


class Report:
    """Adds up what the processes say."""

    def __init__(self, total: int) -> None:
        self.total, self.begun, self.shown = total, time.monotonic(), 0.0
        self.done: list[Done] = []
        self.finds: dict[tuple[str, str], int] = {}

    def add(self, done: Done) -> None:
        self.done.append(done)
        for what, stored, detail in done.wrong:
            key = (done.block.world, what)
            self.finds[key] = self.finds.get(key, 0) + 1
            if stored:
                print(f"\n{done.block.world}: {what}\n  stored as {stored}\n{detail}", flush=True)
        if time.monotonic() - self.shown > 10:
            self.shown = time.monotonic()
            ran = sum(one.block.size for one in self.done)
            rate = ran / (time.monotonic() - self.begun)
            print(f"{ran:>9} of {self.total}  {rate:6.0f}/s  {len(self.finds)} kinds of failure", flush=True)

    def growth(self) -> int:
        """The most that any process grew, in bytes, from the middle of its work to its end."""
        most = 0
        for process in {one.process for one in self.done}:
            sizes = [one.rss for one in self.done if one.process == process]
            most = max(most, sizes[-1] - sizes[len(sizes) // 2])
        return most

    def table(self) -> str:
        lines = [f"{'world':<12}{'inputs':>9}{'a second':>10}{'slowest ms':>12}{'failures':>10}"]
        for name in sorted({one.block.world for one in self.done}):
            mine = [one for one in self.done if one.block.world == name]
            ran, took = sum(one.block.size for one in mine), sum(one.took_s for one in mine)
            failures = sum(len(one.wrong) for one in mine)
            slowest = max(one.slowest_s for one in mine) * 1000
            lines.append(f"{name:<12}{ran:>9}{ran / max(took, 1e-9):>10.0f}{slowest:>12.1f}{failures:>10}")
        return "\n".join(lines)


def fuzz(work_list: list[Block], processes: int, seed: int) -> Report:
    """Run all blocks in `processes` processes and wait for the last word."""
    context = multiprocessing.get_context("spawn")
    words: Queue[Any] = context.Queue()
    report = Report(sum(block.size for block in work_list))
    shares = [work_list[at::processes] for at in range(processes)]
    workers = [
        context.Process(target=work, args=(at, share, seed, words), daemon=True)
        for at, share in enumerate(shares)
        if share
    ]
    for worker in workers:
        worker.start()
    _listen(report, words, workers, len(work_list))
    for worker in workers:
        worker.join()
    return report


def _listen(report: Report, words: Queue[Any], workers: list[Any], expected: int) -> None:
    """Add every word to the report. Ends the program when a process died or has hung, with the block it was at."""
    latest: Block | None = None
    heard = time.monotonic()
    while len(report.done) < expected:
        try:
            word = words.get(timeout=5)
        except queue.Empty:
            silent = time.monotonic() - heard
            if silent > SILENCE_S or any(worker.exitcode for worker in workers):
                raise SystemExit(
                    f"a process died or said nothing for {silent:.0f} s; the last block begun was {latest}"
                ) from None
            continue
        heard = time.monotonic()
        if isinstance(word, Block):
            latest = word
        else:
            report.add(word)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fuzzing", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=int(os.environ.get("FUZZ_INPUTS") or 1_000_000))
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--worlds", default="", help="names, with commas between them; all of them by default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--growth-mib", type=float, default=16.0)
    parser.add_argument(
        "--world-block", default="", metavar="WORLD:NUMBER", help="run one block again, in this process"
    )
    asked = parser.parse_args(arguments)
    if asked.world_block:
        name, _, number = asked.world_block.partition(":")
        slowest, wrong = run_block(world(name), Block(name, int(number), BLOCK), asked.seed, {})
        print(f"slowest {slowest * 1000:.1f} ms", *(detail for _, _, detail in wrong), sep="\n")
        return int(bool(wrong))
    chosen = [name for name in asked.worlds.split(",") if name] or list(names())
    report = fuzz(blocks(chosen, asked.inputs), asked.processes, asked.seed)
    grown = report.growth() / 2**20
    print(report.table())
    print(
        f"{report.total} inputs in {time.monotonic() - report.begun:.0f} s; memory grew by {grown:.1f} MiB over the second half"
    )
    for (name, what), count in report.finds.items():
        print(f"FOUND in {name}: {what}, {count} times")
    if grown > asked.growth_mib:
        print(f"FOUND: memory grew by more than {asked.growth_mib:g} MiB")
    return int(bool(report.finds) or grown > asked.growth_mib)
