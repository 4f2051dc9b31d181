"""The whole gateway, killed at random under load, again and again: what it acknowledged is there, in one log.

VERIROUTE_KILL_ROUNDS=100 pytest tests/e2e/test_kill.py        # `make soak`
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pytest
from agents import Agent, Cut, good_script, prompt, prompt_of
from ledger import Ledger, audited, once
from running import Gateway
from scripted import ScriptedNode

from gateway.crypto.merkle import leaf_hash, verify_consistency, verify_inclusion
from gateway.log import receipt as documents
from gateway.log.checkpoint import Checkpoint, open_checkpoint
from gateway.log.dsse import pae, parse_envelope
from gateway.log.proof import parse_tlog_proof
from gateway.log.trust import TrustPolicy, parse_trust
from gateway.storage.reads import Reader

ROUNDS = int(os.environ.get("VERIROUTE_KILL_ROUNDS", "4"))
AGENTS = 6
ORIGIN = "test.example/log"


class Acknowledged(NamedTuple):
    """What an agent holds in its hands once it has a whole answer."""

    client: str
    receipt: str
    index: int
    proof: str
    leaf: bytes


class Load:
    """Agents that ask one thing after the other until they are told to stop."""

    def __init__(self, gateway: Gateway, round: int) -> None:
        self.acknowledged: list[Acknowledged] = []
        self.refused: list[str] = []
        self.unknown: list[str] = []
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(AGENTS)
        self._agents = [self._pool.submit(self._run, gateway.url, gateway.key, f"{round}-{n}") for n in range(AGENTS)]

    def stop(self) -> None:
        self._stop.set()
        for agent in self._agents:
            agent.result(60)
        self._pool.shutdown()

    def _run(self, url: str, key: str, name: str) -> None:
        n = 0
        with Agent(url, key) as agent:
            while not self._stop.is_set():
                n += 1
                self._ask(agent, f"{name}-{n}", stream=n % 2 == 0)

    def _ask(self, agent: Agent, client: str, *, stream: bool) -> None:
        try:
            answer = agent.ask(client, prompt(client, stream=stream))
        except Cut:
            self.unknown.append(client)
            time.sleep(0.01)
            return
        if not answer.whole:
            self.unknown.append(client)
        elif answer.status != 200:
            self.refused.append(f"{answer.status} {answer.error['code']} {answer.error.get('reason')}")
        else:
            found = answer.verification
            assert (found["verdict"], found["level"]) == ("affirming", "logged")
            envelope = parse_envelope(json.dumps(found["envelope"]).encode())
            digest = sha256(pae(envelope.payload_type, envelope.payload)).digest()
            leaf = documents.leaf_of("receipt", digest)
            self.acknowledged.append(Acknowledged(client, found["receipt"], found["index"], found["proof"], leaf))


class World:
    """A gateway that dies and comes back, and everything that was acknowledged so far."""

    def __init__(self, gateway: Gateway, node: ScriptedNode) -> None:
        self.gateway, self.node = gateway, node
        self.acknowledged: list[Acknowledged] = []
        self.heads: dict[int, bytes] = {}
        self.refusals: Counter[str] = Counter()
        self.counts = {"acknowledged": 0, "refused": 0, "unknown": 0, "killed at start": 0}

    @property
    def trust(self) -> TrustPolicy:
        return parse_trust(self.gateway.trust.read_bytes())

    def take(self, load: Load) -> None:
        self.acknowledged += load.acknowledged
        self.counts["acknowledged"] += len(load.acknowledged)
        self.counts["refused"] += len(load.refused)
        self.refusals.update(load.refused)
        self.counts["unknown"] += len(load.unknown)

    def check(self, load: Load) -> None:
        """The restarted gateway's log against everything that was acknowledged before."""
        ledger = Ledger(self.gateway.database).check()
        stored = {row.id: row for row in ledger.receipts}
        for known in self.acknowledged:
            row = stored[known.receipt]
            assert (row.index, row.client, row.release) == (known.index, known.client, "released")
        with Reader(str(self.gateway.database)) as reader:
            head = open_checkpoint(reader.checkpoint(ledger.size) or b"", self.trust.log_keys, ORIGIN)
            for known in load.acknowledged:
                self._check_proof(reader, known)
            for size, root in self.heads.items():
                verify_consistency(size, head.size, reader.consistency(size, head.size), root, head.root)
        # All heads of this round were held against the new one; from here on it stands for them.
        self.heads = {head.size: head.root}
        clients = {row.client for row in ledger.receipts}
        assert {prompt_of(received) for received in self.node.received} <= clients, "a prompt that left no trace"
        assert all(row.reason == "crash" for row in ledger.receipts if row.release == "abandoned")
        released = sum(row.release == "released" for row in ledger.receipts)
        self.counts["released, not acknowledged"] = released - len(self.acknowledged)
        self.counts["abandoned"] = sum(row.release == "abandoned" for row in ledger.receipts)
        self.counts["entries"] = ledger.size
        audited(self.gateway)

    def _check_proof(self, reader: Reader, known: Acknowledged) -> None:
        assert reader.leaves(known.index, known.index + 1) == [known.leaf]
        proof = parse_tlog_proof(known.proof)
        checkpoint: Checkpoint = open_checkpoint(proof.checkpoint, self.trust.log_keys, ORIGIN)
        verify_inclusion(leaf_hash(known.leaf), proof.index, checkpoint.size, proof.hashes, checkpoint.root)
        assert proof.index == known.index
        assert self.heads.setdefault(checkpoint.size, checkpoint.root) == checkpoint.root, "a fork"

    def kill_at_start(self, after_s: float) -> None:
        """Start the gateway and kill it before it may have said that it serves."""
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(self.gateway.config)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(after_s)
            process.kill()
        self.counts["killed at start"] += 1


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    from importlib import resources

    node = ScriptedNode()
    node.script = good_script(node)
    policy = (resources.files("policies") / "signed.toml").read_text("utf-8")
    policy = policy.replace('name = "signed"', 'name = "kept"').replace('attach = "summary"', 'attach = "full"')
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "kept.toml").write_text(policy.replace('["chained", "buffer"]', '["optimistic"]'), "utf-8")
    gateway = Gateway(tmp_path, [node.table()], policy={"dir": str(tmp_path / "policies"), "default": "kept"})
    yield World(gateway, node)
    if gateway.process is not None:
        gateway.stop(signal.SIGKILL)
    node.close()


@pytest.mark.slow
@pytest.mark.timeout(120 + 12 * ROUNDS)
def test_j07_j09_killed_under_load(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """After each kill -9 all that was acknowledged is there once, provably in one log, and no intent stays open."""
    seed = int(os.environ.get("VERIROUTE_KILL_SEED", "0")) or time.time_ns()
    chance = random.Random(seed)
    gateway = world.gateway.start()
    for round in range(ROUNDS):
        load = Load(gateway, round)
        time.sleep(chance.uniform(0.05, 0.9))
        gateway.stop(signal.SIGKILL)
        load.stop()
        world.take(load)
        if chance.random() < 0.2:
            world.kill_at_start(chance.uniform(0.2, 0.8))
        gateway.start()
        world.check(load)
        assert gateway.receipts(limit=1)
    assert gateway.stop() == 0
    once("answer", [known.receipt for known in world.acknowledged])
    assert world.counts["acknowledged"] > ROUNDS
    with capsys.disabled():
        print(f"\n{ROUNDS} kills (seed {seed}): {json.dumps({**world.counts, **world.refusals})}")
