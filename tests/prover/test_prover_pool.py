"""Workers may crash, hang, eat memory or talk nonsense; the gateway answers inconclusive and goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zk_kit

from gateway.prover import process
from gateway.prover.verifier import Limits, Verifier
from gateway.verify.proofs.zk import Ran, Statement, ZkVerdict

FAKE = (sys.executable, "-P", str(Path(__file__).with_name("fake_worker.py")))
PASSED = Ran(ZkVerdict.PASS)
CIRCUIT = zk_kit.circuit()


def statement(kind: str) -> Statement:
    return Statement(kind.encode() + bytes(15), zk_kit.INSTANCES, (), bytes(32))


@asynccontextmanager
async def pool(command: tuple[str, ...] = FAKE, **limits: Any) -> AsyncIterator[Verifier]:
    verifier = Verifier(Limits(**limits), command=command)
    try:
        yield verifier
    finally:
        await verifier.aclose()


async def test_a_verdict_comes_back() -> None:
    """Pass and fail are the worker's, and one process serves one after another."""
    async with pool() as verifier:
        assert await verifier.verify(CIRCUIT, statement("p")) == PASSED
        pid = verifier.workers[0].pid
        assert await verifier.verify(CIRCUIT, statement("f")) == Ran(ZkVerdict.FAIL, "proof_rejected")
        assert await verifier.verify(CIRCUIT, statement("p")) == PASSED
        assert verifier.workers[0].pid == pid


FAILURES = {
    "crash": ("d", {}, "verifier_crashed"),
    "memory": ("m", {"memory": 256 << 20}, "verifier_crashed"),
    "hang": ("h", {"seconds": 0.5}, "verifier_timeout"),
    "nonsense": ("g", {"seconds": 5.0}, "verifier_crashed"),
}


@pytest.mark.parametrize("case", FAILURES)
async def test_a_worker_that_fails_is_replaced(case: str) -> None:
    """The proof is inconclusive with its reason, the next one is served, and nothing is left behind."""
    kind, limits, expected = FAILURES[case]
    async with pool(**limits) as verifier:
        assert await verifier.verify(CIRCUIT, statement("p")) == PASSED
        worker = verifier.workers[0]
        pid, folder = worker.pid, worker.folder
        assert pid
        assert folder
        assert await verifier.verify(CIRCUIT, statement(kind)) == Ran(ZkVerdict.INCONCLUSIVE, expected)
        assert not Path(folder).exists()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert await verifier.verify(CIRCUIT, statement("p")) == PASSED
        assert worker.pid != pid


async def test_a_worker_killed_from_outside_is_replaced() -> None:
    """Killed in the middle of a proof, or between two, costs at most that one proof."""
    async with pool() as verifier:
        assert await verifier.verify(CIRCUIT, statement("p")) == PASSED
        worker = verifier.workers[0]
        running = asyncio.create_task(verifier.verify(CIRCUIT, statement("h")))
        await asyncio.sleep(0.1)
        assert worker.pid
        os.kill(worker.pid, signal.SIGKILL)
        assert await running == Ran(ZkVerdict.INCONCLUSIVE, "verifier_crashed")
        assert await verifier.verify(CIRCUIT, statement("p")) == PASSED


async def test_a_caller_that_leaves_takes_its_worker_along() -> None:
    """The answer to a proof that nobody waits for is never taken for another's."""
    async with pool() as verifier:
        assert await verifier.verify(CIRCUIT, statement("p")) == PASSED
        pid = verifier.workers[0].pid
        running = asyncio.create_task(verifier.verify(CIRCUIT, statement("s")))
        await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await verifier.verify(CIRCUIT, statement("f")) == Ran(ZkVerdict.FAIL, "proof_rejected")
        assert verifier.workers[0].pid != pid


async def test_what_a_library_prints_is_no_answer(capfd: pytest.CaptureFixture[str]) -> None:
    """Standard output and error of a worker lead nowhere."""
    async with pool() as verifier:
        assert await verifier.verify(CIRCUIT, statement("t")) == PASSED
    assert capfd.readouterr() == ("", "")


async def test_a_worker_has_none_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets in the environment of the gateway do not reach native code."""
    monkeypatch.setenv("VERIROUTE_ADMIN_KEY", "secret")
    async with pool() as verifier:
        assert await verifier.verify(CIRCUIT, statement("e")) == PASSED


BUSY = Ran(ZkVerdict.INCONCLUSIVE, "verifier_busy")


async def test_too_many_callers_are_told_so() -> None:
    """Whoever would be one too many to wait gets an answer at once; the others get their turn."""
    async with pool(waiting=1) as verifier:
        assert await verifier.verify(CIRCUIT, statement("p")) == PASSED
        found = await asyncio.gather(*(verifier.verify(CIRCUIT, statement("s")) for _ in range(3)))
        assert found == [PASSED, PASSED, BUSY]


async def test_nobody_waits_for_ever() -> None:
    """Whoever waited too long for a worker gets an answer, and the worker goes on."""
    async with pool(wait_seconds=0.05) as verifier:
        assert await verifier.verify(CIRCUIT, statement("p")) == PASSED
        found = await asyncio.gather(*(verifier.verify(CIRCUIT, statement("s")) for _ in range(3)))
        assert found == [PASSED, BUSY, BUSY]
        assert await verifier.verify(CIRCUIT, statement("p")) == PASSED


async def test_a_closed_pool_answers() -> None:
    """Closing ends running and waiting proofs, leaves no process and no folder, and may be done twice."""
    async with pool(workers=2) as verifier:
        running = [asyncio.create_task(verifier.verify(CIRCUIT, statement("h"))) for _ in range(4)]
        while not all(worker.pid for worker in verifier.workers):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        folders = [worker.folder for worker in verifier.workers]
        await verifier.aclose()
        assert {ran.verdict for ran in await asyncio.gather(*running)} == {ZkVerdict.INCONCLUSIVE}
        assert not any(Path(folder).exists() for folder in folders if folder)
        assert await verifier.verify(CIRCUIT, statement("p")) == Ran(ZkVerdict.INCONCLUSIVE, "verifier_stopped")


@pytest.mark.parametrize(
    "command",
    [
        ("/no/such/python",),
        (sys.executable, "-c", "pass"),
        (sys.executable, "-c", "print('x' * 9, flush=True); input()"),
    ],
    ids=["absent", "ends at once", "speaks otherwise"],
)
async def test_a_worker_that_cannot_start_is_unavailable(command: tuple[str, ...]) -> None:
    """Without a worker every proof is inconclusive, and none hangs."""
    async with pool(command) as verifier:
        for _ in range(2):
            assert await verifier.verify(CIRCUIT, statement("p")) == Ran(ZkVerdict.INCONCLUSIVE, "verifier_unavailable")


async def test_a_worker_is_replaced_after_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Native code that leaks is not given for ever to do so."""
    monkeypatch.setattr(process, "MAX_JOBS", 2)
    async with pool() as verifier:
        pids = []
        for _ in range(4):
            assert await verifier.verify(CIRCUIT, statement("p")) == PASSED
            pids.append(verifier.workers[0].pid)
    assert len(set(pids)) == 2


async def lag_of(work: Callable[[], Any]) -> float:
    """The longest that a ticker of one millisecond was late while `work` ran, in seconds."""
    loop, late, done = asyncio.get_running_loop(), [0.0], asyncio.Event()

    async def ticker() -> None:
        while not done.is_set():
            before = loop.time()
            await asyncio.sleep(0.001)
            late.append(loop.time() - before - 0.001)

    task = asyncio.create_task(ticker())
    await work()
    done.set()
    await task
    return max(late)


async def test_the_event_loop_goes_on() -> None:
    """Twenty proofs at once hold up nothing else by 50 ms, though they compute all the time."""
    big = msgspec.structs.replace(CIRCUIT, srs=bytes(2 << 20))
    async with pool(workers=2) as verifier:
        await asyncio.gather(*(verifier.verify(CIRCUIT, statement("p")) for _ in range(2)))

        async def work() -> None:
            found = await asyncio.gather(*(verifier.verify(big, statement("c")) for _ in range(20)))
            assert found == [PASSED] * 20

        assert await lag_of(work) < 0.05


async def test_a_worker_does_not_outlive_the_gateway() -> None:
    """When its input ends, as it does when the gateway is killed, a worker removes its folder and ends."""
    async with pool() as verifier:
        assert await verifier.verify(CIRCUIT, statement("p")) == PASSED
        worker = verifier.workers[0]
        running = worker._process
        assert running
        assert running.stdin
        running.stdin.close()
        assert await running.wait() == 0
        assert worker.folder
        assert not Path(worker.folder).exists()


async def test_a_worker_ends_itself_when_nobody_is_left_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """The alarm goes off a second after the gateway's limit, whatever the process is doing."""
    async with pool(seconds=0.2) as verifier:
        assert await verifier.verify(CIRCUIT, statement("p")) == PASSED
        worker = verifier.workers[0]
        monkeypatch.setattr(worker, "_seconds", 60.0)  # the gateway's own limit; the job still carries the other
        real = process.jobs.job
        monkeypatch.setattr(process.jobs, "job", lambda *a, **k: real(*a, **{**k, "seconds": 0.2}))
        assert await verifier.verify(CIRCUIT, statement("h")) == Ran(ZkVerdict.INCONCLUSIVE, "verifier_crashed")


def test_it_works_on_the_loop_that_serves() -> None:
    """The gateway's own event loop, uvloop, starts, stops and replaces workers as well."""
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")

    async def work() -> list[Ran]:
        async with pool(seconds=5.0) as verifier:
            return [await verifier.verify(CIRCUIT, statement(kind)) for kind in "pdpgf"]

    crashed = Ran(ZkVerdict.INCONCLUSIVE, "verifier_crashed")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(work()) == [PASSED, crashed, PASSED, crashed, Ran(ZkVerdict.FAIL, "proof_rejected")]
