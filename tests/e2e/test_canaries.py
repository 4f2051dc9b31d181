"""Canaries: real nodes are asked now and then, and the gateway says since when they answer as they do."""

from __future__ import annotations

import json
import signal
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import ANSWER, prompt_of
from ledger import Ledger, audited
from running import MODEL, Gateway, Process, node_table
from scripted import Received, ScriptedNode

#: As often as it goes, and as few samples as a comparison takes.
OFTEN = {"every_s": 1.0, "samples": 8, "models": [MODEL]}

Make = Callable[..., Gateway]
Run = Callable[..., Process]


def canary(gateway: Gateway) -> dict[str, Any]:
    """What the admin API says of the one model that is asked at the one node."""
    return dict(node_view(gateway)["canaries"][0])


def node_view(gateway: Gateway) -> dict[str, Any]:
    with gateway.http(gateway.admin_key) as client:
        return dict(client.get("/admin/v1/nodes").json()["nodes"][0])


def until(gateway: Gateway, holds: Callable[[dict[str, Any]], Any], within_s: float = 40.0) -> dict[str, Any]:
    """The canary's view, as soon as it `holds`."""
    deadline = time.monotonic() + within_s
    while not (node_view(gateway)["canaries"] and holds(canary(gateway))):
        assert time.monotonic() < deadline, canary(gateway)
        time.sleep(0.05)
    return canary(gateway)


def restarted(node: Process, run_node: Run, identity: str, *more: str) -> Process:
    """A node in the place of `node`, under the same keys."""
    node.stop()
    port = urllib.parse.urlsplit(node.url).port
    return run_node("--port", str(port), "--identity", identity, *more)


def test_a_node_is_stable_until_it_changes(make_gateway: Make, run_node: Run, tmp_path: Path) -> None:
    """Two runs find no change; the node in four bits does, and counts as before; a reset accepts what it is now."""
    identity = str(tmp_path / "same.json")
    node = run_node("--identity", identity)
    gateway = make_gateway([node_table(node, "n")], canaries=OFTEN).start()
    stable = until(gateway, lambda c: c["runs"] >= 2)
    assert (stable["state"], stable["reason"]) == ("stable", "baseline_unchanged")
    assert (stable["samples"], stable["p"], stable["rekeyed"]) == (8, 1.0, False)
    assert stable["baseline_ms"] < stable["since_ms"] < stable["last_ms"]

    restarted(node, run_node, identity, "--precision", "int4")
    changed = until(gateway, lambda c: c["state"] == "changed")
    assert (changed["reason"], changed["baseline_ms"]) == ("baseline_changed", stable["baseline_ms"])
    assert changed["p"] <= 0.01
    assert changed["since_ms"] > stable["last_ms"]
    view = node_view(gateway)
    assert (view["state"], view["quarantined_s"], view["circuit"]) == ("ok", None, None)

    told = gateway.cli("nodes", "baseline", "list", "--config", str(gateway.config))
    assert f"n  {MODEL}  CHANGED since" in told
    done = gateway.cli("nodes", "baseline", "reset", "n", "--json", "--config", str(gateway.config))
    assert json.loads(done) == {"node": "n", "reset": [MODEL]}
    anew = until(gateway, lambda c: c["state"] == "stable")
    assert anew["baseline_ms"] > changed["since_ms"]


@pytest.fixture
def scripted() -> Iterator[ScriptedNode]:
    node = ScriptedNode()
    yield node
    node.close()


def test_samples_are_ordinary_exchanges(make_gateway: Make, node: Process) -> None:
    """Each sample has its intent and its receipt, under the policy that is asked for; nobody else's key is used."""
    gateway = make_gateway([node_table(node, "n")], canaries={**OFTEN, "policy": "observe"}).start()
    until(gateway, lambda c: c["state"] == "set")
    assert gateway.stop() == 0
    ledger = Ledger(gateway.database).check()
    samples = [row for row in ledger.receipts if row.predicate["caller"]["keyId"] == "veriroute:canary"]
    assert len(samples) == len(ledger.receipts)
    assert len(samples) >= 8
    for row in samples[:8]:
        said = row.predicate
        assert (row.release, row.verdict, row.status) == ("released", "affirming", 200)
        assert row.intent is not None
        assert said["verifier"]["policies"][0]["name"] == "observe"
        assert said["route"]["candidates"] == 1
        assert said["usage"]["outputTokens"] == 1
    audited(gateway)


def test_a_node_without_log_probs(make_gateway: Make, scripted: ScriptedNode) -> None:
    """An answer without log-probs ends the run, says so, sets no baseline, and is held against nobody."""
    scripted.script = scripted.json(ANSWER)
    gateway = make_gateway([scripted.table("n")], canaries={**OFTEN, "models": ["m"]}).start()
    shown = until(gateway, lambda c: c["reason"])
    assert (shown["state"], shown["reason"], shown["samples"]) == ("waiting", "logprobs_absent", 0)
    assert node_view(gateway)["state"] == "ok"
    asked = json.loads(scripted.received[0].body)
    assert (asked["max_tokens"], asked["logprobs"], asked["top_logprobs"]) == (1, True, 20)
    assert len(prompt_of(scripted.received[0])) == 1
    nothing = gateway.run("nodes", "baseline", "list", "--config", str(gateway.config))
    assert (nothing.returncode, nothing.stdout[:16]) == (1, "no baselines yet")


def test_a_node_that_is_down(make_gateway: Make, scripted: ScriptedNode) -> None:
    """The reason is that of the exchange, which counts as any other would; one failure a run keeps no node away."""
    scripted.script = scripted.json(b"{}", status=500)
    gateway = make_gateway([scripted.table("n")], canaries={**OFTEN, "models": ["m"]}).start()
    shown = until(gateway, lambda c: c["reason"])
    assert (shown["state"], shown["reason"]) == ("waiting", "status_500")
    assert node_view(gateway)["circuit"] is None


def test_a_stop_in_the_midst_of_a_run(make_gateway: Make, scripted: ScriptedNode) -> None:
    """The sample under way gets its receipt, the gateway does not wait for it, and the log is whole."""

    async def script(_: Received) -> Any:
        yield 60.0

    scripted.script = script
    gateway = make_gateway([scripted.table("n")], canaries={**OFTEN, "models": ["m"]}).start()
    deadline = time.monotonic() + 15
    while not scripted.received:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    begun = time.monotonic()
    assert gateway.stop(signal.SIGTERM) == 0
    assert time.monotonic() - begun < 10
    (row,) = Ledger(gateway.database).check().receipts
    assert (row.release, row.reason) == ("failed", "stopped")
    assert Ledger(gateway.database).events[-1].predicate["drained"] is True
    audited(gateway)


def test_a_policy_that_is_not_there(make_gateway: Make, node: Process) -> None:
    """The gateway does not start with canaries under a policy that it does not have."""
    gateway = make_gateway([node_table(node, "n")], canaries={**OFTEN, "policy": "missing"})
    done = gateway.run("serve", "--config", str(gateway.config))
    assert done.returncode == 2
    assert "canaries.policy names 'missing'" in done.stderr
