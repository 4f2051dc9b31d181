#!/usr/bin/env python3
"""Where an exchange's instructions and cache misses go, function by function of the gateway's Python.

    python bench/where.py --python python3.13           # 320 JSON exchanges over 16 connections, about a minute
    python bench/where.py --python python3.13 --conns 1 --top 20
    python bench/where.py --python python3.13 --mode sse --requests 32 --interval-us 170000

Runs the gateway under callgrind (valgrind) with a simulated first- and second-level cache: the counts hardly depend on
what else the machine does, where a sampling profiler's shares and the CPU of a request do. What the C functions that a
Python function calls directly spend is counted to it. Needed: valgrind, bench/bin (see bench/README.md), and a Python
from 3.12 on that has this project's packages: its `-X perf` makes each Python function one that callgrind can tell
apart. Instructions that valgrind has not (SHA, AVX-512) are counted as the longer code that does without them.
"""

from __future__ import annotations

import argparse
import bisect
import collections
import contextlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable

from run import bodies
from targets import HERE, ROOT, BenchError, SigningNode, Veriroute, interruptible, stop, undisturbed

CACHES = ("--I1=32768,8,64", "--D1=49152,12,64", "--LL=2097152,16,64")  # the last: a core's own second-level cache
#: Roughly what each costs in cycles beside the others: an instruction, a first-level miss (code, data), a second-level one.
WEIGHTS = (0.3, 15.0, 8.0, 150.0)
EVENTS = ("Ir", "I1mr", "D1mr", "D1mw", "ILmr", "DLmr", "DLmw")
OTHER = "(not below a Python function, or deep in C)"

Costs = dict[str, list[int]]


class Names:
    """The Python functions behind the addresses of a `perf-PID.map`."""

    def __init__(self, lines: Iterable[str]) -> None:
        found = sorted((int(a, 16), int(size, 16), name.strip()) for a, size, name in (x.split(" ", 2) for x in lines))
        self._starts = [start for start, _, _ in found]
        self._rows = found

    def get(self, text: str) -> str | None:
        """The function at the address `text` (0x…), if it is one."""
        if not text.startswith("0x"):
            return None
        address = int(text, 16)
        at = bisect.bisect_right(self._starts, address) - 1
        if at < 0 or address >= self._rows[at][0] + max(self._rows[at][1], 16):
            return None
        return self._rows[at][2].removeprefix("py::").replace(f"{ROOT}/", "")


def own_costs(lines: Iterable[str], names: Names) -> Costs:
    """Instructions, first-level misses of code and of data, and second-level misses by Python function.

    `lines` are a callgrind profile made with `--separate-callers`: a function's name is followed by its callers', the
    nearest first, and the first Python function among them is whose cost it is.
    """
    known: dict[str, str] = {}
    costs: Costs = collections.defaultdict(lambda: [0, 0, 0, 0])
    order: list[int] = []
    current, callee = OTHER, False
    for line in lines:
        if line.startswith("events:"):
            given = line.split()[1:]
            order = [given.index(name) if name in given else -1 for name in EVENTS]
        elif line.startswith(("fn=", "cfn=")):
            kind, _, text = line.rstrip("\n").partition("=")
            number, name = re.match(r"\((\d+)\)(?: (.*))?", text).groups()  # type: ignore[union-attr]
            if name is not None:
                known[number] = name
            if kind == "fn":
                chain = known.get(number, "").split("'")
                current = next((found for part in chain if (found := names.get(part))), OTHER)
        elif line.startswith("calls="):
            callee = True  # the next line is what the call cost, which the callee has already
        elif line[:1] and (line[0].isdigit() or line[0] in "+-*"):
            if callee:
                callee = False
                continue
            values = [int(value) for value in line.split()[1:]]
            ir, i1, *data = [values[at] if 0 <= at < len(values) else 0 for at in order]
            for at, value in enumerate((ir, i1, data[0] + data[1], sum(data[2:]))):
                costs[current][at] += value
    return dict(costs)


def weigh(costs: list[int]) -> float:
    return sum(weight * count for weight, count in zip(WEIGHTS, costs, strict=True))


def table(costs: Costs, exchanges: int, top: int) -> str:
    """The `top` dearest functions, a line each, per exchange."""
    whole = sum(map(weigh, costs.values())) or 1.0
    lines = [f"{'share':>6} {'instr.':>9} {'code L1':>8} {'data L1':>8} {'L2':>6}  function"]
    for name, counts in sorted(costs.items(), key=lambda item: -weigh(item[1]))[:top]:
        each = [count / exchanges for count in counts]
        share = 100 * weigh(counts) / whole
        lines.append(f"{share:5.1f}% {each[0]:9.0f} {each[1]:8.0f} {each[2]:8.0f} {each[3]:6.1f}  {name}")
    each = [sum(column) / exchanges for column in zip(*costs.values(), strict=True)]
    lines.append(f"{'all':>6} {each[0]:9.0f} {each[1]:8.0f} {each[2]:8.0f} {each[3]:6.1f}")
    return "\n".join(lines)


class Watched(Veriroute):
    """The gateway under callgrind."""

    start_limit_s = 180.0
    python = sys.executable

    def command(self) -> list[str]:
        valgrind = [
            "valgrind",
            "--tool=callgrind",
            "--trace-children=yes",
            "--instr-atstart=no",
            "--cache-sim=yes",
            *CACHES,
        ]
        valgrind += ["--separate-callers=9", "--separate-threads=yes", f"--callgrind-out-file={self.folder}/callgrind"]
        serve = [self.python, "-X", "perf", "-m", "gateway", "serve", "--config", str(self.config)]
        return [*valgrind, *serve]

    def count(self, on: bool) -> None:
        pid = str(self.pids()[-1])
        subprocess.run(["callgrind_control", "-i", "on" if on else "off", pid], capture_output=True, check=True)
        time.sleep(0.3)


def load(target: Watched, body: pathlib.Path, mode: str, conns: int, requests: int, events: int) -> dict[str, int]:
    command = [str(HERE / "bin/load"), "--port", str(target.port), "--body", str(body), "--mode", mode]
    command += ["--conns", str(conns), "--requests", str(requests), "--seconds", "300", "--verified", "1"]
    for header in target.headers:
        command += ["--header", header]
    done = subprocess.run([*command, "--events", str(events)], capture_output=True, text=True, timeout=400, check=False)
    if not done.stdout:
        raise BenchError(f"the load generator failed: {done.stderr.strip()}")
    return json.loads(done.stdout)


def fit(python: str) -> None:
    """Raises BenchError where something is missing."""
    for tool in ("valgrind", "callgrind_control"):
        if shutil.which(tool) is None:
            raise BenchError(f"{tool} is not installed (Debian: apt-get install valgrind)")
    try:
        asked = [python, "-c", "import sys; print(sys.version_info >= (3, 12))"]
        new = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False).stdout.strip()
    except OSError as error:
        raise BenchError(f"{python} cannot be run: {error.strerror}") from None
    if new != "True":
        raise BenchError(f"{python} is no Python from 3.12 on, which is what has -X perf; name another with --python")


def measured(args: argparse.Namespace, folder: pathlib.Path) -> tuple[list[Costs], int]:
    """The costs of the event loop's thread and of the log's, and how many exchanges (of a stream: events) there were."""
    node = SigningNode(folder, None)
    target = Watched(folder, None, node, "signed", folder)
    target.python = args.python
    try:
        node.set(chunks=50, interval_us=2000)
        body = bodies(folder, node.model)["small", args.mode]
        print("starting the gateway under callgrind …", file=sys.stderr, flush=True)
        target.start()
        load(target, body, args.mode, args.conns, 600 if args.mode == "json" else 64, 51)
        node.set(chunks=50, interval_us=args.interval_us)
        print("counting …", file=sys.stderr, flush=True)
        target.count(True)
        row = load(target, body, args.mode, args.conns, args.requests, 51)
        target.count(False)
        if row["failed"] or not row["ok"]:
            raise BenchError(f"{row['failed']} exchanges failed, see {folder}")
        pid = target.pids()[-1]
        names = pathlib.Path(f"/tmp/perf-{pid}.map")  # where every Python writes it
        found = Names(names.read_text(errors="replace").splitlines())
    finally:
        with undisturbed():
            target.stop()
            stop(node.process)
    with contextlib.suppress(OSError):
        names.unlink()
    profiles = [path for path in sorted(folder.glob("callgrind*")) if path.stat().st_size > 100_000]
    return [own_costs(path.open(), found) for path in profiles], row["ok"] if args.mode == "json" else row["events"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="which runs the gateway (3.12 or later)")
    parser.add_argument("--mode", choices=("json", "sse"), default="json")
    parser.add_argument("--conns", type=int, default=16)
    parser.add_argument("--requests", type=int, default=320, help="exchanges that are counted")
    parser.add_argument(
        "--interval-us",
        type=int,
        default=5000,
        help="between two events of one stream: the gateway is some 50 times slower here",
    )
    parser.add_argument("--top", type=int, default=40)
    args = parser.parse_args()
    try:
        fit(args.python)
        (HERE / "results").mkdir(exist_ok=True)
        with interruptible(), tempfile.TemporaryDirectory(prefix="where-", dir=HERE / "results") as folder:
            threads, exchanges = measured(args, pathlib.Path(folder))
    except BenchError as error:
        print(f"where: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("where: stopped, and everything that it started", file=sys.stderr)
        return 130
    each = "exchange" if args.mode == "json" else "event"
    print(f"per {each}, of {exchanges}; the share is of an estimate of cycles")
    for name, costs in zip(("the event loop's thread", "the log's thread"), threads, strict=False):
        print(f"\n{name}\n{table(costs, exchanges, args.top)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
