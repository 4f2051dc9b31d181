"""An idle connection ends while the intent is written: the prompt goes over a new one, or the node was not reached."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from agents import good_script
from behind_front import ask, behind_front
from ledger import Ledger
from scripted import ScriptedNode

from gateway.app import Gateway
from gateway.upstream.connection import Connection
from gateway.upstream.errors import ConnectFailed


@pytest.fixture
async def node() -> AsyncIterator[ScriptedNode]:
    node = ScriptedNode()
    node.script = good_script(node)
    yield node
    node.close()


@pytest.fixture
async def gateway(tmp_path: Path, node: ScriptedNode, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    table = node.table()
    text = f"""
    auth.mode = "none"
    storage.url = "sqlite:///{tmp_path}/audit.db"
    nodes = [{{id = "n", base_url = "{table["base_url"]}", models = ["m"], pin = "{table["pin"]}"}}]
    """
    async with behind_front(text, monkeypatch) as gateway:
        looks = iter([False])
        seen = Connection.untouched
        monkeypatch.setattr(Connection, "untouched", lambda self: next(looks, True) and seen(self))
        yield gateway


async def test_the_prompt_goes_over_a_new_one(gateway: Gateway, node: ScriptedNode, tmp_path: Path) -> None:
    """The agent sees nothing of it; the node has the prompt once."""
    answer = await ask(gateway)
    assert (answer.status, answer.verification["verdict"], len(node.received)) == (200, "affirming", 1)
    row = Ledger(tmp_path / "audit.db").check().of("x")
    assert (row.release, row.predicate["served"]["node"]) == ("released", "n")


async def test_a_node_that_is_gone_is_not_named_as_one_that_served(
    gateway: Gateway, node: ScriptedNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No new connection either: the refusal has its receipt, the intent before it, and no node in it."""
    acquire = gateway.pool.acquire

    async def gone(*of: Any, look: bool = True) -> Connection:
        if look:
            raise ConnectFailed
        return await acquire(*of, look=look)

    monkeypatch.setattr(gateway.pool, "acquire", gone)
    answer = await ask(gateway)
    assert (answer.status, answer.error["code"]) == (503, "no_eligible_node")
    assert not node.received
    row = Ledger(tmp_path / "audit.db").check().of("x")
    assert (row.verdict, row.release, row.reason) == ("none", "refused", "connect_failed")
    assert "served" not in row.predicate
    assert row.intent is not None
