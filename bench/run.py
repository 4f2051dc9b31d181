#!/usr/bin/env python3
"""The benchmark: the gateway beside nginx, a bare Python relay and no proxy at all, on one core, in one run.

    make bench                                       # builds the C programs, then runs this
    python bench/run.py --rounds 3
    python bench/run.py --soak                       # also memory after 100,000 requests
    python bench/run.py --targets direct,nginx,passthrough --seconds 0.5

The programs under test are pinned to one core; node and load generator to another. Rounds interleave the targets, so that
other work on the machine touches all of them. Exits 1 when a target is missed or an answer was wrong. Standard library
only; talks to 127.0.0.1 only. bench/README.md explains every number.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import measure
import report
from peers import PEERS
from targets import (
    HERE,
    BenchError,
    Direct,
    Nginx,
    PassThrough,
    SigningNode,
    Target,
    Veriroute,
    interruptible,
    share_priority,
    stop,
    undisturbed,
)

#: name -> mode, connections, body, seconds, most requests
SCENARIOS = {
    "json-1": ("json", 1, "small", 2.0, 50_000),
    "json-16": ("json", 16, "small", 3.0, 100_000),
    "json-64": ("json", 64, "small", 3.0, 100_000),
    "json-16-34k": ("json", 16, "large", 3.0, 100_000),
    "sse-1": ("sse", 1, "small", 2.0, 1_000),
    "sse-16": ("sse", 16, "small", 3.0, 4_000),
    "sse-64": ("sse", 64, "small", 3.0, 8_000),
}

#: every target but the gateway itself
KINDS: dict[str, type[Target]] = {"direct": Direct, "nginx": Nginx, "passthrough": PassThrough, **PEERS}


def bodies(folder: pathlib.Path, model: str) -> dict[tuple[str, str], pathlib.Path]:
    """The request bodies: 170 bytes, and an agent's turn of 34 KB with 17 messages and 8 tools."""
    system = {"role": "system", "content": "You are a helpful assistant."}
    small = {"model": model, "messages": [system, {"role": "user", "content": "Hello!"}], "max_tokens": 64}
    line = 'Quoted "text", a tab\tand a line\nwith é and 中; ' + "the agent reads on and on. " * 3
    turns = [{"role": ("user", "assistant")[i % 2], "content": line * 14} for i in range(17)]
    schema = {"type": "object", "properties": {"q": {"type": "string"}, "n": {"type": "integer"}}, "required": ["q"]}
    tools = [
        {"type": "function", "function": {"name": f"tool_{i}", "description": "Looks it up.", "parameters": schema}}
        for i in range(8)
    ]
    large = small | {"messages": [system, *turns], "tools": tools}
    found = {}
    for size, body in (("small", small), ("large", large)):
        for mode in ("json", "sse"):
            path = folder / f"body-{size}-{mode}.json"
            path.write_text(json.dumps(body | ({"stream": True} if mode == "sse" else {}), ensure_ascii=False))
            found[size, mode] = path
    return found


def cores() -> tuple[int, int] | tuple[None, None]:
    """One for the program under test and one for node and load generator, of those that this process may use."""
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 and shutil.which("taskset") else (None, None)


class Bench:
    """One run: node and targets started once, measured in turn, stopped in the end."""

    def __init__(self, args: argparse.Namespace, folder: pathlib.Path, data: pathlib.Path) -> None:
        self.args, self.folder, self.data = args, folder, data
        self.target_core, self.load_core = cores()
        self.bodies: dict[str, dict[tuple[str, str], pathlib.Path]] = {}  # by the model that they name
        self.targets: list[Target] = []
        self.info: dict[str, dict[str, Any]] = {}
        self.rows: list[dict[str, object]] = []
        self.fsync = [measure.fsync_ms(data)]
        self.node = SigningNode(folder, self.load_core)

    def start_targets(self) -> None:
        self.node.set(chunks=self.args.chunks, interval_us=self.args.interval_us)
        for name in self.args.targets.split(","):
            target = self.make(name)
            try:
                target.start()
            except BenchError as error:
                print(f"  {name}: left out: {error}", flush=True)
                self.info[name] = {"what": target.what, "left_out": str(error)}
                continue
            self.targets.append(target)
            self.info[name] = {"what": target.what, "start_s": target.start_s}
            idle = measure.memory_mb(target.pids())
            self.info[name]["memory_idle_mb"] = idle
            print(f"  {name}: ready in {target.start_s} s, PSS {idle.get('pss', '–')} MB", flush=True)

    def make(self, name: str) -> Target:
        if name == Veriroute.name:
            return Veriroute(self.folder, self.target_core, self.node, self.args.policy, self.data)
        return KINDS[name](self.folder, self.target_core, self.node)

    def body(self, target: Target, size: str, mode: str) -> pathlib.Path:
        if target.model not in self.bodies:
            folder = self.folder / f"bodies-{len(self.bodies)}"
            folder.mkdir()
            self.bodies[target.model] = bodies(folder, target.model)
        return self.bodies[target.model][size, mode]

    def load(self, target: Target, scenario: str, seconds: float, most: int) -> dict[str, object]:
        """One run of the load generator, with the CPU that the target spent meanwhile."""
        mode, conns, size, _, _ = SCENARIOS[scenario]
        command = [str(HERE / "bin/load"), "--port", str(target.port), "--path", target.path]
        command += ["--body", str(self.body(target, size, mode)), "--mode", mode, "--conns", str(conns)]
        command += ["--seconds", str(seconds), "--requests", str(most)]
        command += ["--verified", str(int(target.verified)), "--events", str(self.args.chunks + 1)]
        for header in target.headers:
            command += ["--header", header]
        if self.load_core is not None:
            command = ["taskset", "-c", str(self.load_core), *command]
        cpu, node = measure.cpu_seconds(target.pids()), measure.cpu_seconds([self.node.process.pid])
        children = os.times()
        machine, begun = measure.machine_busy_seconds(), time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, check=False)
        if not done.stdout:
            raise BenchError(f"the load generator failed at {target.name}: {done.stderr.strip()}")
        row = json.loads(done.stdout)
        after = os.times()
        spent = measure.cpu_seconds(target.pids()) - cpu
        beside = measure.cpu_seconds([self.node.process.pid]) - node  # and, next, the load generator's
        beside += after.children_user + after.children_system - children.children_user - children.children_system
        wall = time.monotonic() - begun
        target.asked += row["ok"] + row["failed"]
        target.answered += row["ok"]
        # A chunk is one that the node sent: what a target adds, as we do our verification, is none of its work done.
        units = row["ok"] * (self.args.chunks + 1) if mode == "sse" else row["ok"]
        if mode == "sse":
            row["chunk_rate"] = round(units / row["seconds"], 1)
        row.update(
            target=target.name,
            scenario=scenario,
            cpu_us=round(spent / units * 1e6, 2) if units else None,
            cpu_share=round(spent / wall, 3),
            load_share=round(beside / wall, 3),
            others=round(max(0.0, measure.machine_busy_seconds() - machine - spent - beside) / wall, 3),
        )
        return row

    def check_each(self) -> None:
        """A few answers of each kind, before anything is timed; a target that gives wrong ones is left out."""
        for target in list(self.targets):
            rows = [self.load(target, "json-1", 5, 20), self.load(target, "sse-1", 5, 2)]
            bad = [row["first_failure"] for row in rows if row["failed"] or not row["ok"]]
            if bad:
                print(f"  {target.name}: left out: {bad[0]}", flush=True)
                self.info[target.name]["left_out"] = f"wrong answers: {bad[0]}"
                self.targets.remove(target)
                target.stop()

    def memory_after(self, requests: int) -> None:
        for target in self.targets:
            if not target.process:
                continue
            row = self.load(target, "json-16", 600, requests)
            found = measure.memory_mb(target.pids())
            if row["ok"] == requests:  # not of one that had no time for them
                self.info[target.name].setdefault("memory_after", []).append({"requests": requests} | found)
            print(
                f"  {target.name}: PSS {found.get('pss', '–')} MB after {row['ok']} more requests, {row['failed']} failed",
                flush=True,
            )

    def rounds(self) -> None:
        for number in range(self.args.rounds):
            for scenario in self.args.scenarios.split(","):
                _, _, _, seconds, most = SCENARIOS[scenario]
                for target in self.targets if number % 2 == 0 else self.targets[::-1]:
                    self.load(target, scenario, 0.3, most)  # caches, pools and branch predictors of this scenario
                    row = self.load(target, scenario, seconds * self.args.seconds, most)
                    self.rows.append(row | {"round": number})
                self.fsync.append(measure.fsync_ms(self.data, 10))
            print(f"  round {number + 1} of {self.args.rounds} done", flush=True)

    def stop(self) -> None:
        for target in self.targets:
            target.stop()
            self.info[target.name]["failed"] = target.asked - target.answered
        stop(self.node.process)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default="direct,nginx,passthrough,veriroute")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help="from: " + ", ".join(SCENARIOS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="factor on every scenario's seconds")
    parser.add_argument("--chunks", type=int, default=50, help="events of a streamed answer")
    parser.add_argument("--interval-us", type=int, default=5000, help="time between two events of one stream")
    parser.add_argument("--policy", default="signed", help="the gateway's policy")
    parser.add_argument(
        "--data",
        type=pathlib.Path,
        help="folder for the gateway's database; /dev/shm takes the disk out of the picture",
    )
    parser.add_argument("--memory-requests", type=int, default=20_000, help="0 leaves the memory run out")
    parser.add_argument("--nice", type=int, default=0, help="priority of the whole run; below 0 needs root")
    parser.add_argument("--soak", action="store_true", help="also memory after 100,000 requests")
    parser.add_argument("--keep", action="store_true", help="leave the gateway's database, 2 KB a request, in place")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results")
    args = parser.parse_args()
    for what, given, there in (
        ("scenario", args.scenarios, SCENARIOS),
        ("target", args.targets, [*KINDS, "veriroute"]),
    ):
        unknown = set(given.split(",")) - set(there)
        if unknown:
            parser.error(f"no {what} {', '.join(sorted(unknown))}; there are {', '.join(there)}")
    return args


def raise_priority(nice: int) -> None:
    """For a machine that others use too. Compare ratios there all the same, and CPU before rates."""
    with contextlib.suppress(OSError):  # refused to the leader of a session, who needs none
        os.setsid()
    try:
        os.nice(nice)
    except OSError as error:
        print(f"bench: priority {nice} was refused: {error}", file=sys.stderr)
    share_priority(os.getpid())


def main() -> int:
    args = parse()
    try:
        with interruptible():
            build()
            if args.nice:
                raise_priority(args.nice)
            with folders(args) as (stamp, folder, data):
                result = measured(args, stamp, folder, data)
            path = args.out / f"{stamp}.json"
            path.write_text(json.dumps(result, indent=1) + "\n")
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: stopped, and everything that it started", file=sys.stderr)
        return 130
    print(report.text(result))
    print(f"\nwritten to {os.path.relpath(path)}; logs in {os.path.relpath(folder)}")
    left_out = "left_out" in result["info"].get(Veriroute.name, {})
    return 0 if not left_out and all(line["met"] is not False for line in result["targets"]) else 1


def build() -> None:
    """The C programs. Raises BenchError; what has to be installed was said where a part is lacking."""
    try:
        built = subprocess.run(["make", "-s", "-C", str(HERE)], check=False)
    except OSError:
        raise BenchError("make is not installed (Debian: apt-get install make)") from None
    if built.returncode:
        raise BenchError("its C programs were not built")


@contextlib.contextmanager
def folders(args: argparse.Namespace) -> Iterator[tuple[str, pathlib.Path, pathlib.Path]]:
    """The run's name, its folder for logs, and the one of the gateway's database, which goes however the run ends.

    Raises BenchError where they cannot be made.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = (args.out / f"run-{stamp}").resolve()  # beside the results: /tmp may be memory, where fsync costs nothing
    data = folder
    try:
        if args.data:
            data = pathlib.Path(tempfile.mkdtemp(prefix="veriroute-bench-", dir=args.data))
        folder.mkdir(parents=True)
    except OSError as error:
        if data != folder:
            data.rmdir()
        raise BenchError(f"{error.filename} cannot be made: {error.strerror}") from None
    try:
        yield stamp, folder, data
    finally:
        if args.keep:
            print(f"the gateway's database is left in {data}", flush=True)
        elif args.data:
            shutil.rmtree(data)
        else:
            for path in folder.glob("veriroute.db*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def measured(args: argparse.Namespace, stamp: str, folder: pathlib.Path, data: pathlib.Path) -> dict[str, Any]:
    """The whole run, judged. What it started has ended when this returns or raises."""
    bench = Bench(args, folder, data)
    try:
        bench.start_targets()
        bench.check_each()
        if args.memory_requests:
            bench.memory_after(args.memory_requests)
        if args.soak:  # at once, so that nothing but these requests lies between the two readings
            bench.memory_after(100_000)
        bench.rounds()
    finally:
        with undisturbed():
            bench.stop()
    audit = None
    for target in bench.targets:
        if isinstance(target, Veriroute):
            audit = target.audit()
    result: dict[str, Any] = {
        "when": stamp,
        "machine": {
            "cpus": os.cpu_count(),
            "pinned": bench.target_core is not None,
            "fsync_ms": statistics.median(bench.fsync),
            "python": sys.version.split()[0],
        },
        "arguments": {k: str(v) if isinstance(v, pathlib.Path) else v for k, v in vars(args).items() if k != "out"},
        "info": bench.info,
        "rows": bench.rows,
        "audit": audit,
    }
    result["targets"] = report.judge(result)
    return result


if __name__ == "__main__":
    sys.exit(main())
