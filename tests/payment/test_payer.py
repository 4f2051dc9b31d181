"""A payer signs only what rules and ledger allow, once for a request and node, whatever the crowd and the node do."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from payment_kit import (
    ASSET,
    NOW,
    PAYEE,
    PAYER,
    RULES,
    STRANGER,
    URL,
    address,
    b64json,
    headers,
    receipt,
    required,
    requirement,
    settlement,
    upto,
)

from gateway import payer as payer_module
from gateway.errors import ConfigError, PaymentRefused
from gateway.payer import Payer, Payment
from gateway.payment.policy import Caps, SpendingRules
from gateway.payment.receipts import Finding
from gateway.payment.sign import Wallet, derive_nonce
from gateway.storage.ledger import Ledger
from gateway.storage.payments import Row
from gateway.wallet import wallet_from_environment, wallet_from_file

REQUEST = hashlib.sha256(b"the request").digest()


class World:
    """A payer with a clock and randomness that the test holds."""

    def __init__(self, folder: Path, rules: SpendingRules = RULES) -> None:
        self.now = NOW
        self.signed: list[bytes] = []
        self.ledger = Ledger(str(folder / "payments"), unsettled=rules.unsettled)
        self.wallet = Wallet(PAYER)
        counter = itertools.count(1)
        world = self

        class Counting(Wallet):
            def sign(self, digest: bytes) -> bytes:
                world.signed.append(digest)
                return super().sign(digest)

        self.payer = Payer(
            rules, Counting(PAYER), self.ledger, lambda: self.now, lambda n: next(counter).to_bytes(n, "big")
        )

    async def pay(self, asked: dict[str, Any] | None = None, **changes: Any) -> Payment:
        found: dict[str, Any] = {
            "receipt_id": "r1",
            "key_id": "k",
            "node": "n",
            "node_pay_to": address(PAYEE),
            "url": URL,
            "request_sha256": REQUEST,
            "headers": headers(required() if asked is None else asked),
            "body": b"",
            **changes,
        }
        return await self.payer.pay(**found)

    async def row(self, payment: Payment) -> Row:
        found = await self.ledger.find(payment.id)
        assert found is not None
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    yield found
    found.ledger.close()


def payload(payment: Payment) -> dict[str, Any]:
    (value,) = [value for name, value in payment.headers if name == b"payment-signature"]
    found: dict[str, Any] = json.loads(base64.b64decode(value))
    return found


async def test_a_payment_is_held_signed_and_noted(world: World) -> None:
    """What is sent is in the ledger, its window is the rules', and its nonce is that of the request."""
    payment = await world.pay()
    row = await world.row(payment)
    sent = payload(payment)["payload"]["authorization"]
    assert (row.state, row.amount, row.key_id, row.node, row.request_id) == ("signed", 400, "k", "n", "r1")
    assert row.header == dict(payment.headers)[b"payment-signature"]
    assert sent["nonce"] == "0x" + row.nonce.hex() == "0x" + derive_nonce(REQUEST, row.salt).hex()
    assert (sent["validAfter"], sent["validBefore"]) == (str(int(NOW) - 5), str(int(NOW) + 60))
    assert dict(payment.headers)[b"x-settlement-type"] == b"batch"
    assert payment.valid_before == int(NOW) + 60
    assert PAYER.hex() not in repr(payment) + repr(world.payer.__dict__)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (required(requirement(amount="1001")), "payment_cap"),
        (required(requirement(payTo=address(STRANGER))), "payment_pay_to_not_pinned"),
        (required(requirement(amount="-1")), "payment_malformed"),
        (required(resource={"url": "https://evil.example/"}), "payment_resource_mismatch"),
    ],
)
async def test_what_is_refused_is_neither_signed_nor_held(world: World, asked: dict[str, Any], reason: str) -> None:
    """A refusal has its reason, is not to be tried again, and leaves no signature and no row."""
    with pytest.raises(PaymentRefused) as caught:
        await world.pay(asked)
    assert (caught.value.reason, caught.value.status, caught.value.retryable) == (reason, 402, False)
    assert world.signed == []
    assert await world.ledger.spent("all", "", int(NOW) // 86_400, ASSET.id) == 0


async def test_a_402_without_terms_is_refused(world: World) -> None:
    """A node that asks and names no terms is not paid."""
    for found, reason in (([], "terms_absent"), ([(b"www-authenticate", b"Payment x")], "scheme_unsupported")):
        with pytest.raises(PaymentRefused) as caught:
            await world.pay(headers=found)
        assert caught.value.reason == f"payment_{reason}"


async def test_a_hundred_at_once_make_ten_signatures(tmp_path: Path) -> None:
    """A hundred parallel requests against a budget for ten make exactly ten signatures."""
    asset = msgspec.structs.replace(ASSET, caps=Caps(400, 4000, 4000, 4000))
    world = World(tmp_path, msgspec.structs.replace(RULES, assets=(asset,)))
    found = await asyncio.gather(*[world.pay(receipt_id=f"r{n}") for n in range(100)], return_exceptions=True)
    paid = [one for one in found if isinstance(one, Payment)]
    refused = [one.reason for one in found if isinstance(one, PaymentRefused)]
    assert (len(paid), len(world.signed), refused) == (10, 10, ["budget_key"] * 90)
    assert sum(int(payload(one)["accepted"]["amount"]) for one in paid) == 4000
    assert len({payload(one)["payload"]["authorization"]["nonce"] for one in paid}) == 10
    world.ledger.close()


async def test_the_same_request_is_given_the_same_payment(world: World) -> None:
    """One after the other, at once, and after a new start: the bytes are the same, and the signature is one."""
    first, second = await asyncio.gather(world.pay(), world.pay())
    world.now += 20
    third = await world.pay()
    assert first.headers == second.headers == third.headers
    assert len(set(world.signed)) == 1
    assert third.valid_before == int(NOW) + 60
    other = await world.pay(receipt_id="r2")
    assert payload(other)["payload"] != payload(first)["payload"]
    with pytest.raises(PaymentRefused) as caught:
        await world.pay(required(requirement(amount="300")))
    assert caught.value.reason == "payment_conflict"


async def test_another_way_to_pay_makes_no_second_payment(world: World) -> None:
    """When the node asks again by another scheme, the first payment is what it gets."""
    first = await world.pay()
    again = await world.pay(required(upto()))
    assert again.headers == first.headers
    assert len(world.signed) == 1


async def test_terms_that_race_make_one_payment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that sign at once over different terms both send what was noted first."""
    found = await asyncio.gather(world.pay(), world.pay(required(upto())))
    assert found[0].headers == found[1].headers
    row = await world.row(found[0])
    assert row.header == dict(found[0].headers)[b"payment-signature"]


async def test_a_reservation_that_ended_is_not_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the reservation ends before the signature is noted, nothing is sent."""
    reserve = world.ledger.reserve

    async def slow(order: Any) -> Any:
        held = await reserve(order)
        await world.ledger.expire(NOW + 1000)
        return held

    monkeypatch.setattr(world.ledger, "reserve", slow)
    with pytest.raises(PaymentRefused) as caught:
        await world.pay()
    assert caught.value.reason == "payment_over"


@pytest.mark.parametrize(
    ("told", "state", "finding"),
    [
        (settlement(), "settled", Finding("absent", "receipt_absent")),
        (settlement(extensions={"offer-receipt": {"info": {"receipt": receipt()}}}), "settled", Finding("valid")),
        (
            settlement(extensions={"offer-receipt": {"info": {"receipt": receipt(STRANGER)}}}),
            "settled",
            Finding("invalid", "receipt_signer"),
        ),
        (settlement(success=False, errorReason="no funds"), "failed", Finding("absent", "receipt_absent")),
        (settlement(success=False, transaction=None), "failed", Finding("absent", "receipt_absent")),
        (settlement(network="eip155:1"), "signed", Finding("invalid", "settlement_mismatch")),
        (settlement(payer=address(STRANGER)), "signed", Finding("invalid", "settlement_mismatch")),
        (settlement(payer=address(PAYER).lower()), "settled", Finding("absent", "receipt_absent")),
        (settlement(success=1), "signed", Finding("invalid", "settlement_malformed")),
        (None, "signed", Finding("absent", "receipt_absent")),
    ],
)
async def test_a_settlement_is_recorded(
    world: World, told: dict[str, Any] | None, state: str, finding: Finding
) -> None:
    """What the node says of the settlement is noted; whatever it says, the amount still counts."""
    payment = await world.pay()
    found = await world.payer.settled(payment, [] if told is None else headers(told, b"Payment-Response"))
    row = await world.row(payment)
    assert (row.state, found.receipt) == (state, finding)
    assert row.counted == 400
    assert (found.settlement is None) is (state == "signed")


async def test_a_withheld_answer_is_recorded(world: World) -> None:
    """A payment whose answer was withheld says so, with the reason made inert."""
    payment = await world.pay()
    await world.payer.unverified(payment, "signature_invalid\x1b")
    row = await world.row(payment)
    assert (row.state, row.reason) == ("paid_unverified", "signature_invalid\\x1b")


async def test_a_refused_payment_is_recorded(world: World) -> None:
    """A payment that the node refused, or that the chain reverted, says so."""
    payment = await world.pay()
    await world.payer.failed(payment, "settlement_reverted", "0xt")
    row = await world.row(payment)
    assert (row.state, row.reason, row.tx) == ("failed", "settlement_reverted", "0xt")


async def opened(world: World, key: str = "k", node: str = "n", token: bytes = b"tok-1") -> Payment:
    payment = await world.pay(required(upto(maxTimeoutSeconds=300)), key_id=key, node=node, receipt_id=key + node)
    await world.payer.settled(payment, [(b"X-Upto-Session", token)])
    return payment


def session(world: World, key: str = "k", node: str = "n") -> bytes | None:
    return dict(world.payer.headers(key, node)).get(b"x-upto-session")


async def test_a_session_is_used_again(world: World) -> None:
    """A session goes with later requests of the same key to the same node, and with no other."""
    payment = await opened(world)
    assert world.payer.headers("k", "n") == [(b"x-settlement-type", b"batch"), (b"x-upto-session", b"tok-1")]
    assert session(world, "other") is None
    assert session(world, "k", "other") is None
    row = await world.row(payment)
    assert row.session == hashlib.sha256(b"tok-1").digest()


async def test_a_session_ends(world: World) -> None:
    """It ends after 100 idle seconds, at the end of its authorization, on a 402, and when an answer is withheld."""
    await opened(world, node="idle")
    world.now += 99
    assert session(world, node="idle") == b"tok-1"
    world.now += 20
    assert session(world, node="idle") == b"tok-1"
    world.now += 1
    assert session(world, node="idle") is None
    await opened(world, node="quiet")
    world.now += 100
    assert session(world, node="quiet") is None
    payment = await opened(world, node="bad")
    await world.payer.unverified(payment, "x")
    assert session(world, node="bad") is None
    await opened(world, node="asks")
    with pytest.raises(PaymentRefused):
        await world.pay(headers=[], node="asks")
    assert session(world, node="asks") is None
    await opened(world, node="left")
    world.payer.forget("k", "left")
    assert session(world, node="left") is None


@pytest.mark.parametrize("token", [b"", b"a b", b"a\r\nx: y", b"x" * 257, "ü".encode()])
async def test_a_token_that_is_no_token_opens_nothing(world: World, token: bytes) -> None:
    """A session token is a short word: anything else could be a header of its own."""
    await opened(world, token=token)
    assert session(world) is None


async def test_only_upto_opens_sessions(world: World) -> None:
    """A payment of an exact amount has nothing left to spend; two tokens are none."""
    await world.payer.settled(await world.pay(), [(b"x-upto-session", b"t")])
    assert session(world) is None
    payment = await world.pay(required(upto()), receipt_id="r2")
    await world.payer.settled(payment, [(b"x-upto-session", b"t"), (b"x-upto-session", b"u")])
    assert session(world) is None


async def test_sessions_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest session makes room for a new one."""
    monkeypatch.setattr(payer_module, "MAX_SESSIONS", 2)
    for node in ("a", "b", "c"):
        await opened(world, node=node)
    assert [session(world, node=node) for node in "abc"] == [None, b"tok-1", b"tok-1"]


def test_rules_that_cannot_be_meant_make_no_payer(tmp_path: Path) -> None:
    """A payer checks its rules before anything else."""
    with pytest.raises(ConfigError):
        World(tmp_path, msgspec.structs.replace(RULES, max_timeout_s=0))


def test_a_wallet_is_read_from_a_private_file(tmp_path: Path) -> None:
    """The file holds 64 digits, with or without 0x, and nobody else can read it."""
    path = tmp_path / "wallet"
    for text in (PAYER.hex(), f"0x{PAYER.hex()}\n"):
        path.write_text(text)
        path.chmod(0o600)
        assert wallet_from_file(str(path)).address == Wallet(PAYER).address


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        (PAYER.hex(), 0o640, "chmod 600"),
        (PAYER.hex(), 0o604, "chmod 600"),
        (PAYER.hex()[:-2], 0o600, "64 hexadecimal"),
        ("zz" * 32, 0o600, "64 hexadecimal"),
        ("00" * 32, 0o600, "secp256k1"),
        (PAYER.hex() + "x" * 300, 0o600, "64 hexadecimal"),
        ("", 0o600, "64 hexadecimal"),
    ],
)
def test_other_wallet_files_are_refused(tmp_path: Path, text: str, mode: int, says: str) -> None:
    """A file that others can read, or without a key, stops the start; the error has none of it."""
    path = tmp_path / "wallet"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=says) as caught:
        wallet_from_file(str(path))
    assert PAYER.hex()[:16] not in str(caught.value)


def test_a_wallet_that_is_no_file_is_refused(tmp_path: Path) -> None:
    """A folder, a device, a pipe that nobody writes into or nothing at all is no wallet."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    others = ((tmp_path / "none", "cannot read"), (tmp_path, "cannot read"))
    for path, says in (*others, (pipe, "regular"), (Path("/dev/null"), "regular")):
        with pytest.raises(ConfigError, match=says):
            wallet_from_file(str(path))


def test_a_wallet_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable that the settings name holds the key."""
    monkeypatch.setenv("TEST_WALLET", PAYER.hex())
    assert wallet_from_environment("TEST_WALLET").address == Wallet(PAYER).address
    monkeypatch.delenv("TEST_WALLET")
    with pytest.raises(ConfigError, match="not set"):
        wallet_from_environment("TEST_WALLET")


def test_terms_are_told_apart_by_header() -> None:
    """The kit's header is what a node sends: base64 of compact JSON."""
    assert json.loads(base64.b64decode(b64json(required()))) == required()
