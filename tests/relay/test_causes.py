"""What an agent is told of a node that could not be used: the reason, and what is behind it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from agents import ANSWER, Answer
from behind_front import ask
from ledger import Ledger
from policy_kit import write_policy
from scripted import ScriptedNode
from test_stale_connection import gateway, node

from adapters.aci import adapter as aci
from gateway.adapter import RawEvidence
from gateway.api.admin import _node
from gateway.api.health import readyz
from gateway.app import Gateway
from gateway.fleet.member import CAUSE_MAX, UNLISTED
from gateway.model.admin import NodeView
from gateway.policy_files import read_policy
from gateway.routing import CIRCUIT_S, FAILURES_TO_OPEN, QUARANTINE_S
from gateway.settings import database, load

__all__ = ["gateway", "node"]

PIN = "sha256:" + "0" * 64


@asynccontextmanager
async def standing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **of: Any) -> AsyncIterator[Gateway]:
    """A gateway whose one node is the table `of`; what is asked here is asked behind the front."""
    monkeypatch.setattr(Gateway, "_front", lambda self: None)
    table = ", ".join(f'{key} = "{value}"' for key, value in {"id": "n", "pin": PIN, **of}.items())
    settings = load(
        f'auth.mode = "none"\nstorage.url = "sqlite:///{tmp_path}/audit.db"\nnodes = [{{models = ["m"], {table}}}]'
    )
    gateway = Gateway(settings)
    await gateway.open()
    yield gateway
    await gateway.close()


def nobody() -> str:
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


async def refused(gateway: Gateway, reason: str, cause: str) -> Answer:
    """The agent, whoever asks for the nodes, and the receipt are told `reason` and `cause`."""
    answer = await ask(gateway)
    assert (answer.status, answer.error["code"], answer.error["reason"]) == (503, "no_eligible_node", reason)
    assert answer.error["nodes"] == [{"node": "n", "reason": reason, "cause": cause}]
    assert f"n: {reason} ({cause})" in answer.error["message"]
    assert (listed(gateway).reason, listed(gateway).cause) == (reason, cause)
    assert rejected(gateway, answer) == answer.error["nodes"]
    return answer


def rejected(gateway: Gateway, answer: Answer) -> list[dict[str, str]]:
    """The nodes that were not used, as the answer's receipt has them."""
    rows = Ledger(database(gateway.settings)).receipts
    (row,) = [row for row in rows if row.id == answer.headers["x-veriroute-receipt"]]
    return list(row.predicate["route"]["rejected"])


def listed(gateway: Gateway) -> NodeView:
    """The node as the admin API shows it."""
    return _node(gateway.services(), gateway.fleet.members["n"])


async def test_a_node_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no session because there was no connection."""
    async with standing(tmp_path, monkeypatch, base_url=nobody()) as gateway:
        await refused(gateway, "session_missing", "connect_failed")
        assert listed(gateway).state == "unattested"
    Ledger(tmp_path / "audit.db").check()


async def test_a_node_that_answers_no_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: ScriptedNode
) -> None:
    """The status that it answered with."""
    node.script = node.json(b"{}", status=404)
    async with standing(tmp_path, monkeypatch, base_url=node.url + "/elsewhere") as gateway:
        await refused(gateway, "session_missing", "status_404")


async def test_a_wrong_pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: ScriptedNode) -> None:
    """The node is there and shows another keyset than the one that is pinned."""
    async with standing(tmp_path, monkeypatch, base_url=node.url) as gateway:
        await refused(gateway, "key_bound", "keyset_not_pinned")
        assert listed(gateway).state == "refused"


async def test_an_attempt_that_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known, so nothing is said."""
    async with standing(tmp_path, monkeypatch, base_url=nobody()) as gateway:
        gateway.fleet.members["n"].last = None
        answer = await ask(gateway)
        assert answer.error["nodes"] == rejected(gateway, answer) == [{"node": "n", "reason": "session_missing"}]


async def test_a_session_that_ended_while_its_node_was_down(gateway: Gateway, node: ScriptedNode) -> None:
    """Why it was not renewed; nobody is told that the gateway could serve."""
    member = gateway.fleet.members["n"]
    assert (listed(gateway).state, listed(gateway).cause) == ("ok", None)
    node.close()
    node.close = lambda: None  # type: ignore[method-assign]  # the fixture's
    await gateway.fleet._fly(member)
    assert (listed(gateway).state, listed(gateway).cause) == ("ok", None)
    assert (await readyz.fn(gateway.services())).status_code == 200
    member.view.lease_until = gateway.fleet.mono()
    await refused(gateway, "session_expired", "connect_failed")
    assert listed(gateway).state == "unattested"
    ready = await readyz.fn(gateway.services())
    assert (ready.status_code, ready.content["nodes"]) == (503, 0)


@pytest.mark.parametrize(
    ("section", "reason"),
    [('[nodes]\ndeny = ["n"]', "node_denied"), ('[networks]\nallow = ["near"]', "network_denied")],
)
async def test_a_node_that_policy_names(gateway: Gateway, tmp_path: Path, section: str, reason: str) -> None:
    """Nobody is told that the gateway could serve, when the only node is one that the default policy never uses."""
    path = write_policy(tmp_path / "more", "narrow")
    path.write_text(f"{path.read_text('utf-8')}\n{section}\n", "utf-8")
    gateway.terms.replace({**gateway.terms.policies, gateway.terms.default: read_policy(path)})
    answer = await ask(gateway)
    assert (answer.status, answer.error["reason"]) == (503, reason)
    ready = await readyz.fn(gateway.services())
    assert (ready.status_code, ready.content["problems"]) == (503, ["no node is permitted under policy narrow"])


async def test_a_node_that_failed_too_often(gateway: Gateway, node: ScriptedNode) -> None:
    """How the last request to it failed, and in how many seconds it may be asked again."""
    node.script = node.json(b"{}", status=500)
    for _ in range(FAILURES_TO_OPEN):
        await ask(gateway)
    answer = await refused(gateway, "circuit_open", "status_500")
    assert 1 < int(answer.headers["retry-after"]) <= CIRCUIT_S
    assert "x-should-retry" not in answer.headers
    assert listed(gateway).state == "circuit_open"


async def test_a_node_that_was_caught(gateway: Gateway, node: ScriptedNode) -> None:
    """Which check it failed, and in how many seconds it may be asked again, for which no SDK waits."""
    node.script = node.json(ANSWER, covered=b"other")
    await ask(gateway)
    answer = await refused(gateway, "quarantined", "response_bound")
    assert QUARANTINE_S - 30 < int(answer.headers["retry-after"]) <= QUARANTINE_S
    assert answer.headers["x-should-retry"] == "false"
    assert listed(gateway).state == "quarantined"


@pytest.mark.parametrize(
    ("words", "cleaned"),
    [
        ("\x1b]0;pwned\x07" + "x" * 1000, ("\\x1b]0;pwned\\x07" + "x" * 1000)[: CAUSE_MAX - 1] + "…"),
        ("no_attestation_is_needed", "no_attestation_is_needed"),
    ],
    ids=["hostile", "like a code"],
)
async def test_what_an_adapter_says_is_cleaned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, cleaned: str
) -> None:
    """Anybody's code may stand behind an adapter: the operator has its words, inert and short. Agents and receipts have
    none of them, also where they look like a code, for they may be the node's."""

    async def evidence(*of: Any) -> RawEvidence:
        await asyncio.sleep(0)
        return RawEvidence(None, words)

    monkeypatch.setattr(type(aci), "evidence", evidence)
    async with standing(tmp_path, monkeypatch, base_url=nobody()) as gateway:
        answer = await ask(gateway)
        told = [{"node": "n", "reason": "session_missing", "cause": UNLISTED}]
        assert rejected(gateway, answer) == answer.error["nodes"] == told
        assert "no_attestation" not in answer.error["message"]
        assert listed(gateway).cause == cleaned
