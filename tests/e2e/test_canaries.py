"""Canaries: real nodes are asked now and then, and the gateway says since when they answer as they do."""

from __future__ import annotations

import json
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agents import ANSWER
from policy_kit import write_policy
from running import MODEL, Gateway, Process, node_table
from scripted import Received, ScriptedNode

#: As often as it goes, and as few samples as a comparison takes.
OFTEN = {"every_s": 1.0, "samples": 5, "models": [MODEL]}

Make = Callable[..., Gateway]
Run = Callable[..., Process]


def canary(gateway: Gateway) -> dict[str, Any]:
    """What the admin API says of the one model that is asked at the one node."""
    return dict(node_view(gateway)["canaries"][0])


def node_view(gateway: Gateway) -> dict[str, Any]:
    with gateway.http(gateway.admin_key) as client:
        return dict(client.get("/admin/v1/nodes").json()["nodes"][0])


def until(gateway: Gateway, holds: Callable[[dict[str, Any]], Any], within_s: float = 20.0) -> dict[str, Any]:
    """The canary's view, as soon as it `holds`."""
    deadline = time.monotonic() + within_s
    while not (node_view(gateway)["canaries"] and holds(canary(gateway))):
        assert time.monotonic() < deadline, canary(gateway)
        time.sleep(0.05)
    return canary(gateway)


def rows(gateway: Gateway) -> list[dict[str, Any]]:
    with gateway.http(gateway.admin_key) as client:
        found = client.get("/admin/v1/receipts", params={"limit": 1000}).json()["rows"]
    return [row for row in found if row["key_id"] == "veriroute:canary"]


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
    assert (stable["samples"], stable["p"], stable["rekeyed"]) == (5, 1.0, False)
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
