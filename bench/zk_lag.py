#!/usr/bin/env python3
"""How much later the gateway's event loop runs while zero-knowledge proofs are verified beside its traffic.

    make bench-zk
    python bench/zk_lag.py --rounds 8 --seconds 5 --rate 100
    python bench/zk_lag.py --json

A reference node with `--prove` makes the circuit and a proof; another one answers moderation requests, which a process
of its own sends through a gateway at a steady rate. The gateway is `veriroute serve` as anyone starts it, with two
tasks more on its event loop: a ticker of one millisecond, and, in every second window, callers of
`gateway.prover.Verifier` that have one proof after another judged from the bytes on: genuine ones, ones with a byte
flipped (rejected by ezkl), and files that are no proofs. Windows alternate, off and on, so that other work on the
machine touches both.

A tick's lag is how much longer than a millisecond it took. Printed are p50, p99 and the longest of all windows of a
kind; what proofs add is the median, over pairs of windows, of the differences of their p99. Exits 1 when that is over
5 ms, when a verdict was wrong, or when nothing was verified. Talks to 127.0.0.1 only. Needs the extra [zk].

On a machine that others use, lag is mostly theirs: look at the load that is printed before the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # the way to run a gateway is the tests'

MODEL, PATH = "veriroute-moderation-1", "/v1/moderations"
BODY = json.dumps({"model": MODEL, "input": "the weather is lovely today, and you are an idiot"}).encode()
LIMIT_MS = 5.0
TICK_S = 0.001
CALLERS = 2
EXPECTED = {"genuine": "pass", "flipped": "proof_rejected", "garbage": "proof_malformed", "oversize": "proof_oversize"}


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# --- in the gateway's process


def mutations(evidence: bytes) -> dict[str, bytes]:
    """One proof and what an attacker would send in its place."""
    document = json.loads(evidence)
    flipped = [document["proof"][0] ^ 1, *document["proof"][1:]]
    return {
        "genuine": evidence,
        "flipped": json.dumps({**document, "proof": flipped}).encode(),
        "garbage": b'{"proof":[' + b"1," * 30_000 + b"x",
        "oversize": b" " * 2_000_000,
    }


class Beside:
    """The ticker and the callers. `lags` are the milliseconds of each window, in order, the first of warming up."""

    def __init__(self, folder: Path) -> None:
        from gateway.prover.circuits import load_circuit
        from gateway.prover.verifier import Verifier

        self.circuit = load_circuit(folder / "circuit")
        self.request = (folder / "request.json").read_bytes()
        self.proofs = mutations((folder / "proof.json").read_bytes())
        self.verifier = Verifier()
        self.window = "warm"
        self.lags: list[list[float]] = [[]]
        self.verdicts: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()

    async def tick(self) -> None:
        while True:
            before, ticks = time.perf_counter(), self.lags[-1]
            await asyncio.sleep(TICK_S)
            if ticks is self.lags[-1]:  # not the tick in which the window changed
                ticks.append((time.perf_counter() - before - TICK_S) * 1000)

    async def call(self) -> None:
        from gateway.verify.proofs.zk import Statement, prepare

        for kind in itertools.cycle(self.proofs):
            while self.window == "off":
                await asyncio.sleep(0.01)
            found: Any = prepare(self.circuit, self.request, self.proofs[kind])
            if isinstance(found, Statement):
                found = await self.verifier.verify(self.circuit, found)
            else:
                await asyncio.sleep(0)  # what is settled at once must not keep the loop to itself
            said = found.reason or found.verdict.value
            self.verdicts[kind] += 1
            if said != EXPECTED[kind]:
                self.wrong[f"{kind}: {said}"] += 1

    async def obey(self) -> None:
        """One word a line on standard input: off, on, and report, which prints and ends."""
        while (word := (await asyncio.to_thread(sys.stdin.readline)).strip()) not in ("report", ""):
            self.window = word
            self.lags.append([])
        print(json.dumps({"lags": self.lags, "verdicts": self.verdicts, "wrong": self.wrong}), flush=True)


async def serve_beside(config: str, folder: Path) -> None:
    from gateway.cli.serve import _serve
    from gateway.logs import configure
    from gateway.settings import read

    configure(level="warning")
    beside = Beside(folder)
    serving = asyncio.create_task(_serve(read(config, {}), False))
    tasks = [asyncio.create_task(beside.tick()), *(asyncio.create_task(beside.call()) for _ in range(CALLERS))]
    try:
        await beside.obey()
    finally:
        for task in (*tasks, serving):
            task.cancel()
        await asyncio.gather(*tasks, serving, return_exceptions=True)
        await beside.verifier.aclose()


# --- in the load's process


async def load(url: str, key: str, rate: float) -> None:
    """`rate` requests a second until standard input ends; prints how many came back as they should."""
    import httpx

    right = wrong = 0

    async def one(client: httpx.AsyncClient) -> None:
        nonlocal right, wrong
        answer = await client.post(PATH, content=BODY, headers={"content-type": "application/json"})
        if answer.status_code == 200 and answer.json()["verification"]["verdict"] == "affirming":
            right += 1
        else:
            wrong += 1

    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    headers = {"authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=16)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30, trust_env=False, limits=limits) as client:
        asked: set[asyncio.Task[None]] = set()
        due = time.perf_counter()
        while not ended.done():
            due += 1 / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            task = asyncio.create_task(one(client))
            asked.add(task)
            task.add_done_callback(asked.discard)
        await asyncio.gather(*asked)
    print(json.dumps({"right": right, "wrong": wrong}), flush=True)


# --- the run


def child(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "zk_lag.py"), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


def artefacts(folder: Path) -> None:
    """A circuit, a request and a proof of its answer, made by a reference node."""
    import httpx
    from running import Process

    node = Process(["node", "--port", "0", "--json", "--prove", str(folder / "zk")], cwd=folder)
    try:
        answer = httpx.post(node.url + PATH, content=BODY, timeout=60, trust_env=False).json()
    finally:
        node.stop()
    (folder / "zk/circuits" / MODEL).rename(folder / "circuit")
    (folder / "request.json").write_bytes(BODY)
    (folder / "proof.json").write_text(json.dumps(answer["zk"]["proof"]))


def measured(folder: Path, rounds: int, seconds: float, rate: float) -> dict[str, Any]:
    from running import Gateway, Process, node_table

    artefacts(folder)
    node = Process(["node", "--port", "0", "--json", "--identity", str(folder / "id.json")], cwd=folder)
    with contextlib.ExitStack() as stack:
        stack.callback(node.stop)
        (folder / "gateway").mkdir()
        gateway = Gateway(folder / "gateway", [node_table(node, "n", [MODEL])])
        log = stack.enter_context((folder / "gateway.log").open("wb"))
        served = child("--serve", str(gateway.config), "--folder", str(folder), stderr=log)
        stack.callback(_end, served)
        assert served.stdout is not None
        assert served.stdin is not None
        url = json.loads(served.stdout.readline())["url"]
        traffic = child("--load", url, "--key", gateway.key, "--rate", str(rate))
        stack.callback(_end, traffic)
        time.sleep(2.0)  # with proofs: the worker starts
        for window in ("off", "on") * rounds:
            served.stdin.write(window + "\n")
            served.stdin.flush()
            time.sleep(seconds)
        busy = os.getloadavg()[0]
        answers, _ = traffic.communicate(timeout=60)
        served.stdin.write("report\n")
        served.stdin.flush()
        return {**json.loads(served.stdout.readline()), "answers": json.loads(answers), "load": busy}


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
        process.communicate(timeout=20)
    if process.poll() is None:
        process.kill()
        process.wait()


def judged(found: dict[str, Any]) -> dict[str, Any]:
    """What is printed, and `missed`: why the run fails."""
    verdicts, answers = found["verdicts"], found["answers"]
    windows = {"off": found["lags"][1::2], "on": found["lags"][2::2]}
    rows = {}
    for kind, ticks in windows.items():
        whole = [lag for window in ticks for lag in window]
        rows[kind] = {
            "p50_ms": percentile(whole, 0.5),
            "p99_ms": percentile(whole, 0.99),
            "max_ms": max(whole),
            "ticks": len(whole),
        }
    pairs = [percentile(on, 0.99) - percentile(off, 0.99) for off, on in zip(*windows.values(), strict=True)]
    added = statistics.median(pairs)
    missed = [f"wrong verdicts: {found['wrong']}"] if found["wrong"] else []
    missed += ["not every kind of proof was judged"] if set(verdicts) != set(EXPECTED) else []
    missed += [f"answers: {answers}"] if answers["wrong"] or not answers["right"] else []
    missed += [f"p99 is {added:.2f} ms more with proofs; {LIMIT_MS:g} are allowed"] if added > LIMIT_MS else []
    return {
        **rows,
        "added_p99_ms": added,
        "verdicts": verdicts,
        "answers": answers["right"],
        "load": found["load"],
        "missed": missed,
    }


def show(result: dict[str, Any]) -> None:
    print(f"{'event loop lag':16}{'p50':>9}{'p99':>9}{'longest':>10}{'ticks':>9}")
    for kind, title in (("off", "without proofs"), ("on", "with proofs")):
        row = result[kind]
        print(f"{title:16}{row['p50_ms']:6.2f} ms{row['p99_ms']:6.2f} ms{row['max_ms']:7.2f} ms{row['ticks']:9}")
    print(f"p99 added by verifying, median of pairs: {result['added_p99_ms']:+.2f} ms (at most {LIMIT_MS:g})")
    judged_now = ", ".join(f"{count} {kind}" for kind, count in result["verdicts"].items())
    print(f"meanwhile: {judged_now} proofs; {result['answers']} answers through the gateway; load {result['load']:.1f}")
    for line in result["missed"]:
        print(f"MISSED: {line}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="pairs of windows (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a window (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second (default: %(default)s)")
    parser.add_argument("--json", action="store_true")
    for name in ("--serve", "--load", "--key", "--folder"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        import uvloop

        uvloop.run(serve_beside(asked.serve, Path(asked.folder)))
        return 0
    if asked.load:
        asyncio.run(load(asked.load, asked.key, asked.rate))
        return 0
    with tempfile.TemporaryDirectory(prefix="veriroute-zk-") as folder:
        result = judged(measured(Path(folder), asked.rounds, asked.seconds, asked.rate))
    print(json.dumps(result)) if asked.json else show(result)
    return 1 if result["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
