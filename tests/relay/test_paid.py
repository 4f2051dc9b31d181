"""What an exchange pays is paid to the node that asked, once, and ends with its receipt whatever the ledger does."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from agents import ANSWER
from behind_front import ask, asked_in_turn
from ledger import Ledger
from scripted import Received, ScriptedNode

from gateway.app import Gateway
from gateway.payer import Payer
from gateway.payment.policy import Asset, Caps, SpendingRules
from gateway.payment.sign import Wallet
from gateway.storage.ledger import Ledger as Money
from gateway.upstream.errors import ConnectFailed

Script = Callable[[Received], AsyncIterator[bytes | float]]

NETWORK, TOKEN, PAYEE = "eip155:4242", "0x" + "c0" * 20, "0x" + "11" * 20
RULES = SpendingRules(
    networks=(NETWORK,),
    schemes=("exact",),
    pay_to=(PAYEE,),
    assets=(Asset(NETWORK, TOKEN, 6, "usd", Caps(1000, 9000, 9000, 9000)),),
)


def demand(node: ScriptedNode) -> bytes:
    """A 402 that asks for 400."""
    asked = {
        "scheme": "exact", "network": NETWORK, "asset": TOKEN, "amount": "400", "payTo": PAYEE,
        "maxTimeoutSeconds": 60, "extra": {"name": "Test Coin", "version": "1"},
    }  # fmt: skip
    terms = {"x402Version": 2, "resource": {"url": f"{node.url}/v1/chat/completions"}, "accepts": [asked]}
    header = b"payment-required: " + base64.b64encode(json.dumps(terms).encode())
    return b"HTTP/1.1 402 X\r\n" + header + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def paid(node: ScriptedNode, answer: Script) -> Script:
    """Gives `answer` to who pays, and asks the others to."""

    async def script(of: Received) -> AsyncIterator[bytes | float]:
        if not of.header(b"payment-signature"):
            yield demand(node)
            return
        async for part in answer(of):
            yield part

    return script


@pytest.fixture
def nodes() -> Any:
    nodes = [ScriptedNode(), ScriptedNode(b"\x22" * 32)]
    for node in nodes:
        node.script = paid(node, node.json(ANSWER))
    yield nodes
    for node in nodes:
        node.close()


@pytest.fixture
async def gateway(tmp_path: Path, nodes: list[ScriptedNode], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    """`n0` is asked first, then `n1`, and both may be paid."""
    on_failure = '"next_node"\nretry_after_send = true'
    async with asked_in_turn(tmp_path, nodes, on_failure, monkeypatch) as gateway:
        for member in gateway.fleet.members.values():
            monkeypatch.setattr(member.adapter, "x402", True, raising=False)
        yield gateway


@pytest.fixture
def money(gateway: Gateway, tmp_path: Path) -> Any:
    money = Money(str(tmp_path / "payments"), unsettled=RULES.unsettled)
    gateway.relay.payer = Payer(RULES, Wallet(b"\x61" * 32), money, time.time, os.urandom)
    yield money
    money.close()


def signatures(node: ScriptedNode) -> list[bytes]:
    return [value for received in node.received if (value := received.header(b"payment-signature"))]


async def test_what_was_signed_for_one_node_goes_to_no_other(
    gateway: Gateway, nodes: list[ScriptedNode], money: Money, tmp_path: Path
) -> None:
    """A node that asks for money and is gone when it is paid leaves its authorization with us; the next one has its
    own, in the ledger and in the receipt."""
    acquire, origin = gateway.pool.acquire, gateway.fleet.members["n0"].origin
    reached = []

    async def once(to: Any, *of: Any, **how: Any) -> Any:
        if to == origin:
            reached.append(to)
            if len(reached) > 1:
                raise ConnectFailed
        return await acquire(to, *of, **how)

    gateway.pool.acquire = once  # type: ignore[method-assign]
    answer = await ask(gateway)
    assert (answer.status, answer.verification["node"]) == (200, "n1")
    assert signatures(nodes[0]) == []
    (sent,) = signatures(nodes[1])
    told = Ledger(tmp_path / "audit.db").check().of("x").predicate["payment"]["id"]
    row = await money.find(told)
    assert row is not None
    assert (row.node, row.header) == ("n1", sent)
    assert await money.spent("all", "", row.day, row.asset_id) == 800  # what was signed counts, sent or not


async def test_an_answer_is_not_said_to_have_been_paid_by_what_another_node_got(
    gateway: Gateway, nodes: list[ScriptedNode], money: Money, tmp_path: Path
) -> None:
    """A node is paid and its answer kept back; the next one asks for nothing, and its receipt has no payment."""
    nodes[0].script = paid(nodes[0], nodes[0].json(ANSWER, covered=b"another answer"))
    nodes[1].script = nodes[1].json(ANSWER)
    answer = await ask(gateway)
    assert (answer.status, answer.verification["node"]) == (200, "n1")
    assert signatures(nodes[1]) == []
    receipt = Ledger(tmp_path / "audit.db").check().of("x")
    assert "payment" not in receipt.predicate
    assert "payment" not in answer.verification
    day = int(time.time()) // 86_400
    assert await money.spent("withheld", "n0", day, RULES.assets[0].id) == 400


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("covered", [ANSWER, b"another answer"])
async def test_a_ledger_that_fails_once_money_is_sent_costs_no_receipt(
    gateway: Gateway, nodes: list[ScriptedNode], money: Money, tmp_path: Path, covered: bytes, told: bool
) -> None:
    """Answer, verdict and receipt are those that they would have been; the receipt has what the ledger has not."""
    says = {"success": True, "network": NETWORK, "transaction": "0x" + "ab" * 32}
    settlement = ("payment-response", base64.b64encode(json.dumps(says).encode()).decode())

    async def answers(of: Received) -> AsyncIterator[bytes | float]:
        money._refuse("the ledger of payments failed: disk I/O error")
        async for part in nodes[0].json(ANSWER, *[settlement] * told, covered=covered)(of):
            yield part

    gateway.terms.default = "signed"
    nodes[0].script = paid(nodes[0], answers)
    answer = await ask(gateway)
    row = Ledger(tmp_path / "audit.db").check().of("x")
    if covered == ANSWER:
        assert (answer.status, row.release, row.verdict) == (200, "released", "affirming")
    else:
        assert (answer.status, answer.error["code"]) == (502, "evidence_rejected")
        assert (row.release, row.verdict, row.reason) == ("withheld", "contraindicated", "response_bound")
    assert row.predicate["payment"].get("tx") == (says["transaction"] if told else None)


async def test_a_node_that_is_not_permitted_any_more_is_not_paid(
    gateway: Gateway, nodes: list[ScriptedNode], money: Money
) -> None:
    """Where the prompt may not leave a second time, nothing is signed for it and no budget is used."""

    async def asks(of: Received) -> AsyncIterator[bytes | float]:
        gateway.fleet.members["n0"].contradicted("signature")  # an answer to somebody else
        yield demand(nodes[0])

    nodes[0].script = asks
    answer = await ask(gateway)
    assert (answer.status, answer.verification["node"]) == (200, "n1")
    assert await money.spent("node", "n0", int(time.time()) // 86_400, RULES.assets[0].id) == 0
