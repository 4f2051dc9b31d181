"""Killed at any point of a payment, the ledger still counts it, and the request is never signed for twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from payment_kit import ASSET, NOW, PAYEE, PAYER, RULES, URL, address, headers, required

from gateway.payer import Payer, Payment
from gateway.payment.sign import Wallet
from gateway.storage.ledger import Ledger

PROCESS = Path(__file__).with_name("paying_process.py")
DAY = int(NOW) // 86_400


def killed(path: Path, point: str) -> bytes:
    """Run a payment up to `point`, kill it there, and return what it said."""
    with subprocess.Popen(
        [sys.executable, str(PROCESS), str(path), point],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(PROCESS.parents[2])},
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.kill()
    return said.strip()


async def pay(ledger: Ledger, now: float = NOW) -> Payment:
    payer = Payer(RULES, Wallet(PAYER), ledger, lambda: now, lambda n: b"\x06" * n)
    return await payer.pay(
        receipt_id="r1",
        key_id="k",
        node="n",
        node_pay_to=address(PAYEE),
        url=URL,
        request_sha256=bytes(32),
        headers=headers(required()),
        body=b"",
    )


@pytest.mark.parametrize(
    ("point", "state", "after"), [("reserved", "reserved", 0), ("signed", "reserved", 0), ("sent", "signed", 400)]
)
async def test_a_killed_payment_counts(tmp_path: Path, point: str, state: str, after: int) -> None:
    """After the kill the reservation counts, the same request gets the one payment, and once its time is over only what
    may have left the process goes on counting."""
    path = tmp_path / "payments"
    said = killed(path, point)
    assert said
    ledger = Ledger(str(path))
    assert await ledger.spent("all", "", DAY, ASSET.id) == 400
    (id,) = [f"pay_{(bytes([5]) * 16).hex()}"]
    row = await ledger.find(id)
    assert row is not None
    assert row.state == state
    payment = await pay(ledger, NOW + 1)
    assert payment.id == id
    assert await ledger.spent("all", "", DAY, ASSET.id) == 400
    if point == "sent":
        assert dict(payment.headers)[b"payment-signature"] == said
    ledger.close()

    other = tmp_path / "again"
    killed(other, point)
    ledger = Ledger(str(other))
    assert await ledger.expire(NOW + 91) == 1
    assert await ledger.spent("all", "", DAY, ASSET.id) == after
    ledger.close()
