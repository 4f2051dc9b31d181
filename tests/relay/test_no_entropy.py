"""B08, L07: where the machine's random bytes repeat or fail, no prompt leaves with a nonce that was used before."""

from __future__ import annotations

import os

import pytest
from behind_front import ask
from scripted import ScriptedNode
from test_stale_connection import gateway, node

from gateway.api.openai import Randomness
from gateway.app import Gateway

__all__ = ["gateway", "node"]


@pytest.mark.parametrize("stub", ["constant", "pool again", "none"])
async def test_a_request_is_refused(
    gateway: Gateway, node: ScriptedNode, monkeypatch: pytest.MonkeyPatch, stub: str
) -> None:
    """503 that says why, before anything leaves; what was drawn before the failure serves to its end."""
    pool = os.urandom(Randomness.SIZE)
    draws = {"constant": bytes, "pool again": lambda count: pool[:count]}
    monkeypatch.setattr("gateway.api.openai._randomness", Randomness())
    before = 0
    with monkeypatch.context() as broken:
        broken.setattr(Randomness, "SIZE", 104)
        broken.setattr(os, "urandom", draws.get(stub) or dry)
        if stub == "pool again":
            assert (await ask(gateway)).status == 200
            before = 1
        answer = await ask(gateway)
    reason = "no_entropy" if stub == "none" else "replayed_nonce"
    assert (answer.status, answer.error["code"], answer.error["reason"]) == (503, "internal_error", reason)
    assert len(node.received) == before
    assert (await ask(gateway)).status == 200


def dry(count: int) -> bytes:
    raise OSError("no device")
