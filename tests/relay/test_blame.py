"""What counts against a node, and what is its caller's doing."""

from __future__ import annotations

import pytest
from agents import ANSWER
from behind_front import ask
from scripted import ScriptedNode
from test_stale_connection import gateway, node

from gateway.app import Gateway

__all__ = ["gateway", "node"]


@pytest.mark.parametrize("status", [400, 404, 405, 413, 415, 422, 451])
async def test_a_request_that_a_node_refuses_takes_it_from_nobody(
    gateway: Gateway, node: ScriptedNode, status: int
) -> None:
    """However often a caller sends what the node does not do, the node goes on to serve the others."""
    served, node.script = node.script, node.json(b"{}", status=status)
    for _ in range(6):
        answer = await ask(gateway)
        assert (answer.status, answer.error["reason"]) == (502, f"status_{status}")
        assert answer.error["message"] == f"Node n refused the request with HTTP status {status}."
    assert gateway.fleet.members["n"].view.health.failures == 0
    node.script = served
    assert (await ask(gateway)).status == 200


@pytest.mark.parametrize("status", [301, 401, 403, 408, 429, 500, 503])
async def test_a_node_that_cannot_serve_is_passed_over(gateway: Gateway, node: ScriptedNode, status: int) -> None:
    """Five failures of its own in a row, and it has a rest."""
    node.script = node.json(ANSWER, status=status)
    for _ in range(5):
        assert (await ask(gateway)).status in (429, 502)
    answer = await ask(gateway)
    assert (answer.status, answer.error["reason"]) == (503, "circuit_open")
