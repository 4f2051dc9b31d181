"""A payment of ours on a chain: a token's contract takes it once, and what it refuses is recorded as failed.

The chain is py-evm in this process; the token is the vectors' bytecode. Skipped where either is absent.
"""

from __future__ import annotations

import base64
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the chain's own dependencies, at import
    eth_tester = pytest.importorskip("eth_tester")
    pytest.importorskip("eth")
    eth_abi = pytest.importorskip("eth_abi")
    pytest.importorskip("coincurve", reason="signing needs coincurve")

from gateway.crypto.keccak import keccak256
from gateway.payer import Payer, Payment
from gateway.payment.evm import checksummed
from gateway.payment.policy import Asset, Caps, SpendingRules
from gateway.payment.sign import Wallet
from gateway.storage.ledger import Ledger

BYTECODE = next(
    (
        file
        for parent in Path(__file__).resolve().parents[2:]
        if (file := parent / "shared/vectors/proofs/evm/MockUSD.bin").is_file()
    ),
    None,
)
if BYTECODE is None:
    pytest.skip("the token's bytecode is not here", allow_module_level=True)

PAYER, PAYEE = b"\x31" * 32, b"\x32" * 32
URL = "https://node.example/v1/chat/completions"
CHAIN = 131277322940537  # py-evm's own
TRANSFER = "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)"


def call(signature: str, *values: Any) -> str:
    types = signature[signature.index("(") + 1 : -1].split(",")
    return "0x" + (keccak256(signature.encode())[:4] + eth_abi.encode(types, values)).hex()


class Chain:
    """A chain with the token on it, and 1,000,000 units in the payer's account."""

    def __init__(self, code: str) -> None:
        self.evm = eth_tester.EthereumTester(eth_tester.PyEVMBackend())
        self.account = self.evm.get_accounts()[0]
        made = self.evm.send_transaction({"from": self.account, "gas": 3_000_000, "data": "0x" + code, "value": 0})
        self.token = self.evm.get_transaction_receipt(made)["contract_address"]
        self.send(call("mint(address,uint256)", checksummed(Wallet(PAYER).address), 1_000_000))

    @property
    def now(self) -> float:
        return float(self.evm.get_block_by_number("latest")["timestamp"])

    def send(self, data: str) -> tuple[str, int]:
        transaction = {"from": self.account, "to": self.token, "gas": 300_000, "data": data, "value": 0}
        sent = self.evm.send_transaction(transaction)
        return sent, self.evm.get_transaction_receipt(sent)["status"]

    def ask(self, data: str) -> bytes:
        transaction = {"from": self.account, "to": self.token, "gas": 300_000, "data": data, "value": 0}
        return bytes.fromhex(self.evm.call(transaction)[2:])

    def balance(self, key: bytes) -> int:
        return int.from_bytes(self.ask(call("balanceOf(address)", checksummed(Wallet(key).address))), "big")


@pytest.fixture
def chain() -> Iterator[Chain]:
    assert BYTECODE is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield Chain(BYTECODE.read_text().strip())


def settlement_call(payment: Payment) -> str:
    """What a facilitator sends to the token for a payment header."""
    header = dict(payment.headers)[b"payment-signature"]
    found = json.loads(base64.b64decode(header))["payload"]
    one, raw = found["authorization"], bytes.fromhex(found["signature"][2:])
    return call(
        TRANSFER, one["from"], one["to"], int(one["value"]), int(one["validAfter"]), int(one["validBefore"]),
        bytes.fromhex(one["nonce"][2:]), raw[64], raw[:32], raw[32:64],
    )  # fmt: skip


async def paid(chain: Chain, ledger: Ledger, *, name: str = "Mock USD", receipt: str = "r1") -> tuple[Payer, Payment]:
    caps = Caps(50_000, 100_000, 100_000, 100_000)
    network = f"eip155:{CHAIN}"
    rules = SpendingRules((network,), ("exact",), (Asset(network, chain.token, 6, "usd", caps),))
    payer = Payer(rules, Wallet(PAYER), ledger, lambda: chain.now, lambda n: keccak256(receipt.encode())[:n])
    payee = checksummed(Wallet(PAYEE).address)
    asked = {
        "scheme": "exact", "network": network, "asset": chain.token, "amount": "40000", "payTo": payee,
        "maxTimeoutSeconds": 100, "extra": {"name": name, "version": "2"},
    }  # fmt: skip
    terms = base64.b64encode(msgspec.json.encode({"x402Version": 2, "resource": {"url": URL}, "accepts": [asked]}))
    payment = await payer.pay(
        receipt_id=receipt, key_id="k", node="n", node_pay_to=payee, url=URL, request_sha256=keccak256(b"request"),
        headers=[(b"payment-required", terms)], body=b"",
    )  # fmt: skip
    return payer, payment


async def test_the_contract_takes_our_payment_once(chain: Chain, tmp_path: Path) -> None:
    """The balance moves by the amount; the nonce on the chain is the ledger's; a replay is refused before it is sent,
    and a replay that is mined all the same has status 0 and is recorded as failed."""
    ledger = Ledger(str(tmp_path / "payments"))
    payer, payment = await paid(chain, ledger)
    sent, status = chain.send(settlement_call(payment))
    assert status == 1
    assert (chain.balance(PAYER), chain.balance(PAYEE)) == (960_000, 40_000)
    row = await ledger.find(payment.id)
    assert row is not None
    asked = call("authorizationState(address,bytes32)", checksummed(Wallet(PAYER).address), row.nonce)
    assert int.from_bytes(chain.ask(asked), "big") == 1
    told = {"success": True, "transaction": sent, "network": f"eip155:{CHAIN}"}
    await payer.settled(payment, [(b"payment-response", base64.b64encode(msgspec.json.encode(told)))])
    row = await ledger.find(payment.id)
    assert row is not None
    assert (row.state, row.tx) == ("settled", sent)

    with pytest.raises(eth_tester.exceptions.TransactionFailed, match="used"):
        chain.ask(settlement_call(payment))
    again, status = chain.send(settlement_call(payment))
    assert status == 0
    assert chain.balance(PAYEE) == 40_000
    await payer.failed(payment, "settlement_reverted", again)
    row = await ledger.find(payment.id)
    assert row is not None
    assert (row.state, row.tx, row.counted) == ("failed", again, 40_000)
    ledger.close()


async def test_the_same_request_cannot_be_charged_twice(chain: Chain, tmp_path: Path) -> None:
    """A request that is paid again carries the same authorization, which the contract takes once."""
    ledger = Ledger(str(tmp_path / "payments"))
    _, first = await paid(chain, ledger)
    _, second = await paid(chain, ledger)
    assert settlement_call(first) == settlement_call(second)
    assert [chain.send(settlement_call(one))[1] for one in (first, second)] == [1, 0]
    assert chain.balance(PAYEE) == 40_000
    ledger.close()


async def test_the_chain_ends_an_authorization_when_the_ledger_does(chain: Chain, tmp_path: Path) -> None:
    """After its time the contract refuses it; the chain's word that the nonce is unused then frees the budget."""
    ledger = Ledger(str(tmp_path / "payments"))
    _, payment = await paid(chain, ledger)
    assert payment.valid_before <= chain.now + 100
    chain.evm.time_travel(payment.valid_before + 40)
    with pytest.raises(eth_tester.exceptions.TransactionFailed, match="expired"):
        chain.ask(settlement_call(payment))
    assert await ledger.expire(chain.now) == 1
    row = await ledger.find(payment.id)
    assert row is not None
    assert (row.state, row.counted) == ("expired", 40_000)
    asked = call("authorizationState(address,bytes32)", checksummed(Wallet(PAYER).address), row.nonce)
    assert int.from_bytes(chain.ask(asked), "big") == 0
    assert await ledger.unused(payment.id)
    assert await ledger.spent("all", "", row.day, row.asset_id) == 0
    ledger.close()


async def test_a_wrong_domain_buys_nothing(chain: Chain, tmp_path: Path) -> None:
    """A node that lies about the token's name gets a signature that the token does not take."""
    ledger = Ledger(str(tmp_path / "payments"))
    _, payment = await paid(chain, ledger, name="Other USD")
    with pytest.raises(eth_tester.exceptions.TransactionFailed, match="bad sig"):
        chain.ask(settlement_call(payment))
    assert chain.balance(PAYER) == 1_000_000
    ledger.close()
