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


def demand(node: ScriptedNode, amount: int = 400, payee: str = PAYEE) -> bytes:
    """A 402 that asks for `amount`."""
    asked = {
        "scheme": "exact", "network": NETWORK, "asset": TOKEN, "amount": str(amount), "payTo": payee,
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


def says(data: bytes) -> Script:
    async def script(of: Received) -> AsyncIterator[bytes | float]:
        yield data

    return script


GREEDY: list[tuple[dict[str, Any], str, int]] = [
    ({"amount": 1001}, "payment_cap", 0),  # a long prompt may cost as much at any node
    ({"payee": "0x" + "22" * 20}, "payment_pay_to_not_pinned", 1),
]


@pytest.mark.parametrize(("asks", "reason", "failures"), GREEDY)
async def test_where_a_node_asks_for_what_is_not_paid_the_next_one_is_asked(
    gateway: Gateway, nodes: list[ScriptedNode], money: Money, asks: dict[str, Any], reason: str, failures: int
) -> None:
    """It has served nothing and is paid nothing, and policy lets another node have the prompt. Terms that the operator
    never allows count against the node; an amount that one request comes to does not."""
    nodes[0].script = says(demand(nodes[0], **asks))
    answer = await ask(gateway)
    assert (answer.status, answer.verification["node"]) == (200, "n1")
    assert signatures(nodes[0]) == []
    assert gateway.fleet.members["n0"].view.health.failures == failures
    assert await money.spent("node", "n0", int(time.time()) // 86_400, RULES.assets[0].id) == 0


async def test_where_the_last_node_asks_for_what_is_not_paid_the_agent_hears_that(
    gateway: Gateway, nodes: list[ScriptedNode], money: Money, tmp_path: Path
) -> None:
    for node in nodes:
        node.script = says(demand(node, amount=1001))
    answer = await ask(gateway)
    assert (answer.status, answer.error["code"], answer.error["reason"]) == (402, "payment_refused", "payment_cap")
    told = Ledger(tmp_path / "audit.db").check().of("x").predicate["route"]["rejected"]
    assert told == [{"node": "n0", "reason": "payment_cap"}]


async def test_a_receipt_for_money_that_does_not_hold_lets_the_next_node_be_asked(
    gateway: Gateway, nodes: list[ScriptedNode], money: Money
) -> None:
    """It is the node's lie, and its answer is withheld as any other that is contradicted."""
    forged = {"offer-receipt": {"info": {"receipt": {"format": "none", "signature": "0x"}}}}
    told = {"success": True, "network": NETWORK, "transaction": "0x" + "ab" * 32, "extensions": forged}
    header = ("payment-response", base64.b64encode(json.dumps(told).encode()).decode())
    nodes[0].script = paid(nodes[0], nodes[0].json(ANSWER, header))
    answer = await ask(gateway)
    assert (answer.status, answer.verification["node"]) == (200, "n1")
    assert gateway.fleet.members["n0"].view.health.quarantines == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_a_node_that_is_busy_lets_the_next_one_be_asked(
    gateway: Gateway, nodes: list[ScriptedNode], status: int
) -> None:
    """Under `retry_after_send` as after any other failure; the last one's own status is what the agent gets."""
    busy = b"HTTP/1.1 %d X\r\nretry-after: 7\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status
    nodes[0].script, nodes[1].script = says(busy), nodes[1].json(ANSWER)
    answer = await ask(gateway)
    assert (answer.status, answer.verification["node"]) == (200, "n1")
    nodes[1].script = says(busy)
    answer = await ask(gateway)
    assert (answer.status, answer.error["reason"]) == (429 if status == 429 else 502, f"status_{status}")
    assert answer.headers["retry-after"] == "7"


async def test_a_node_that_refuses_the_request_ends_it(gateway: Gateway, nodes: list[ScriptedNode]) -> None:
    """The request is at fault, and would be everywhere: no second node has it."""
    nodes[0].script = says(b"HTTP/1.1 422 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    answer = await ask(gateway)
    assert (answer.status, answer.error["reason"]) == (502, "status_422")
    assert [r for r in nodes[1].received if r.method == b"POST"] == []
