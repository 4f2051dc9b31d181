"""The node's proving process may fail in any way: the answer at hand is refused, and the next one is proved."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from adapters.selfhosted.moderation import prover as module
from adapters.selfhosted.moderation import worker
from adapters.selfhosted.moderation.prover import MOST_WAITING, Prover
from gateway.errors import Busy, ConfigError, InternalError

FAKE = (sys.executable, "-P", str(Path(__file__).with_name("fake_prover.py")))


@asynccontextmanager
async def proving(folder: str = "state", **more: Any) -> AsyncIterator[tuple[Prover, list[str]]]:
    said: list[str] = []
    prover = Prover(Path("/nowhere") / folder, said.append, command=FAKE, **more)
    try:
        await prover.open()
        yield prover, said
    finally:
        await prover.close()


async def test_it_says_what_it_is_busy_with_and_proves() -> None:
    """Progress is passed on, the circuit is known once it is open, and the process has none of our environment."""
    os.environ["VERIROUTE_SECRET"] = "x"
    try:
        async with proving() as (prover, said):
            assert (said, prover.circuit) == (["keys"], "sha256:" + "0" * 64)
            assert prover.pinned == Path("/nowhere/state/circuits/veriroute-moderation-1")
            proof = await prover.prove([7.0])
            assert (proof["kind"], proof["secrets"]) == (7.0, [])
            assert Path(proof["work"]).is_dir()
        assert not Path(proof["work"]).exists()
        await prover.close()  # a second time does nothing
    finally:
        del os.environ["VERIROUTE_SECRET"]


@pytest.mark.parametrize(("kind", "replaced"), [(1, True), (2, True), (3, False), (4, True)])
async def test_a_failure_costs_one_answer(kind: int, replaced: bool) -> None:
    """A crash, a hang, an error and an endless line end in no proof, and the next request has one."""
    async with proving(prove_s=0.5) as (prover, _):
        first = await prover.prove([0])
        with pytest.raises(InternalError, match="no proof"):
            await prover.prove([kind])
        second = await prover.prove([0])
        assert (second["pid"] != first["pid"]) is replaced
        assert Path(first["work"]).exists() is not replaced


async def test_a_client_that_leaves_takes_its_proof_along() -> None:
    """The proof of a request that nobody waits for is never taken for the next one's."""
    async with proving() as (prover, _):
        first = await prover.prove([0])
        running = asyncio.create_task(prover.prove([2]))
        await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await prover.prove([5]))["kind"] == 5
        assert not Path(first["work"]).exists()


async def test_too_many_are_told_so() -> None:
    """Whoever would be one too many to wait is refused at once; the others get their proofs, one by one."""
    async with proving() as (prover, _):
        found = await asyncio.gather(
            *(prover.prove([kind]) for kind in range(10, 10 + MOST_WAITING + 1)), return_exceptions=True
        )
    assert [proof["kind"] for proof in found[:-1] if isinstance(proof, dict)] == list(range(10, 10 + MOST_WAITING))
    assert isinstance(found[-1], Busy)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("failing", "no keys today"),
        ("silent", "did not start"),
        ("talking", "did not start"),
        ("mute", "did not start"),
    ],
)
async def test_a_node_that_cannot_prove_does_not_start(
    folder: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What kept the process from being ready is said, or that it said nothing in time."""
    monkeypatch.setattr(module, "START_S", 0.5)
    with pytest.raises(ConfigError, match=message):
        async with proving(folder):
            pass


def test_only_the_known_ezkl_proves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ezkl the extra is named; another version than the one that verifies is refused."""

    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(worker, "version", absent)
    with pytest.raises(ConfigError, match=r"install veriroute\[zk\]"):
        worker._installed()
    monkeypatch.setattr(worker, "version", lambda name: "24.0.0")
    with pytest.raises(ConfigError, match=r"23\.0\.5, not 24\.0\.0"):
        worker._installed()
    monkeypatch.setattr(worker, "version", lambda name: worker.EZKL_VERSION)
    worker._installed()
