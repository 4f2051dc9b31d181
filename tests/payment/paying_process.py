"""A payer that stops, alive, at one point of a payment, to be killed there.

    paying_process.py FILE reserved | signed | sent

Prints one line when it stands at the point: after the reservation is durable and before the wallet signs; after the
wallet signed and before that is noted; after the payment was handed out (with the header of it).
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from payment_kit import NOW, PAYEE, PAYER, RULES, URL, address, headers, required

from gateway.payer import Payer
from gateway.payment.sign import Wallet
from gateway.storage.ledger import Ledger


def stop(said: bytes) -> None:
    os.write(1, said + b"\n")
    time.sleep(600)


class Stopping(Wallet):
    def sign(self, digest: bytes) -> bytes:
        if sys.argv[2] == "reserved":
            stop(b"here")
        signature = super().sign(digest)
        if sys.argv[2] == "signed":
            stop(b"here")
        return signature


async def main() -> None:
    payer = Payer(RULES, Stopping(PAYER), Ledger(sys.argv[1]), lambda: NOW, lambda n: b"\x05" * n)
    payment = await payer.pay(
        receipt_id="r1",
        key_id="k",
        node="n",
        node_pay_to=address(PAYEE),
        url=URL,
        request_sha256=bytes(32),
        headers=headers(required()),
        body=b"",
    )
    stop(dict(payment.headers)[b"payment-signature"])


asyncio.run(main())
