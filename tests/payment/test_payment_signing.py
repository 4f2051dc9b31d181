"""What is signed is what EIP-712, EIP-3009 and Permit2 say, by the wallet, within its window."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from payment_kit import (
    EXACT_WITNESS,
    FACILITATOR,
    NOW,
    PAYEE,
    PAYER,
    RULES,
    TOKEN,
    TYPES,
    UPTO_WITNESS,
    URL,
    address,
    headers,
    offer,
    offers,
    required,
    requirement,
    signer,
    typed_digest,
    upto,
)

from gateway.crypto.keccak import keccak256
from gateway.errors import ConfigError
from gateway.payment import eip712, sign
from gateway.payment.policy import Chosen, choose
from gateway.payment.sign import Authorization, Wallet, derive_nonce, digest_of, payment_header, window
from gateway.payment.terms import Terms, parse_terms

PERMIT2 = "0x000000000022D473030F116dDEE9F6B43aC78BA3"
EXACT, UPTO = "0x402085c248EeA27D92E8b30b2C58ed07f9E20001", "0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002"
NONCE = bytes(range(32))
AFTER, BEFORE = int(NOW) - 5, int(NOW) + 60


def authorized(asked: dict[str, Any], **changes: Any) -> tuple[Terms, Authorization]:
    terms = parse_terms(headers(required(asked, **changes)), b"")
    chosen = choose(terms, RULES, node_pay_to=address(PAYEE), url=URL, now=NOW)
    assert isinstance(chosen, Chosen)
    return terms, Authorization(chosen, Wallet(PAYER).address, NONCE, AFTER, BEFORE)


def exact_permit() -> dict[str, Any]:
    return requirement(extra={"assetTransferMethod": "permit2"})


def expected(asked: dict[str, Any]) -> bytes:
    """The digest by the definition."""
    if asked["extra"].get("assetTransferMethod") != "permit2":
        domain = {"name": "Test Coin", "version": "1", "chainId": 4242, "verifyingContract": TOKEN}
        message = {
            "from": address(PAYER),
            "to": address(PAYEE),
            "value": 400,
            "validAfter": AFTER,
            "validBefore": BEFORE,
            "nonce": "0x" + NONCE.hex(),
        }
        return typed_digest(TYPES, "TransferWithAuthorization", domain, message)
    is_upto = asked["scheme"] == "upto"
    witness = {"to": address(PAYEE), "facilitator": address(FACILITATOR), "validAfter": AFTER}
    message = {
        "permitted": {"token": TOKEN, "amount": 400},
        "spender": UPTO if is_upto else EXACT,
        "nonce": int.from_bytes(NONCE, "big"),
        "deadline": BEFORE,
        "witness": witness,
    }
    types = {**TYPES, "Witness": UPTO_WITNESS if is_upto else EXACT_WITNESS}
    domain = {"name": "Permit2", "chainId": 4242, "verifyingContract": PERMIT2}
    return typed_digest(types, "PermitWitnessTransferFrom", domain, message)


@pytest.mark.parametrize("asked", [requirement(), exact_permit(), upto()], ids=["exact", "exact_permit2", "upto"])
def test_digests_are_those_of_the_definition(asked: dict[str, Any]) -> None:
    """Each structure has the digest that EIP-712's text gives it, and the wallet's signature recovers to the payer."""
    terms, authorization = authorized(asked)
    assert digest_of(authorization) == expected(asked)
    wallet = Wallet(PAYER)
    header = payment_header(terms, authorization, wallet.sign(digest_of(authorization)))
    signature = json.loads(base64.b64decode(header))["payload"]["signature"]
    assert signer(expected(asked), signature) == address(PAYER)


def test_type_hashes_are_the_published_ones() -> None:
    """EIP-3009's type hash and Permit2's of TokenPermissions are the constants in their contracts."""
    assert (
        keccak256(eip712._TRANSFER.encode()).hex() == "7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267"
    )
    assert (
        keccak256(eip712._PERMITTED.encode()).hex()
        == "618358ac3db8dc274f0cd8829da7e234bd48cd73c4a740aede1adec9846d06a1"
    )


def test_the_transfer_payload_is_what_x402_names() -> None:
    """The header gives back the node's own terms and says every signed value as text, in a fixed order."""
    terms, authorization = authorized(requirement(), extensions=offers(offer()))
    header = payment_header(terms, authorization, b"\x01" * 65)
    text = base64.b64decode(header, validate=True).decode()
    value = json.loads(text)
    assert list(value) == ["x402Version", "payload", "accepted", "resource", "extensions"]
    assert value["accepted"] == requirement()
    assert value["resource"] == {"url": URL}
    assert value["extensions"] == offers(offer())
    assert value["payload"]["signature"] == "0x" + "01" * 65
    assert value["payload"]["authorization"] == {
        "from": address(PAYER),
        "to": address(PAYEE),
        "value": "400",
        "validAfter": str(AFTER),
        "validBefore": str(BEFORE),
        "nonce": "0x" + NONCE.hex(),
    }
    assert ", " not in text
    assert '": ' not in text


@pytest.mark.parametrize(("asked", "spender"), [(exact_permit(), EXACT), (upto(), UPTO)])
def test_the_permit_payload_is_what_x402_names(asked: dict[str, Any], spender: str) -> None:
    """A permit names token, spender, nonce, deadline and witness; only `upto` has a facilitator in it."""
    terms, authorization = authorized(asked, resource={"url": URL, "more": 1})
    value = json.loads(base64.b64decode(payment_header(terms, authorization, bytes(65))))
    witness = {"to": address(PAYEE), "validAfter": str(AFTER)}
    if spender == UPTO:
        witness["facilitator"] = address(FACILITATOR)
    assert value["payload"]["permit2Authorization"] == {
        "from": address(PAYER),
        "permitted": {"token": TOKEN, "amount": "400"},
        "spender": spender,
        "nonce": str(int.from_bytes(NONCE, "big")),
        "deadline": str(BEFORE),
        "witness": witness,
    }
    assert "extensions" not in value


@pytest.mark.parametrize("member", ["payer", "nonce", "valid_after", "valid_before"])
@pytest.mark.parametrize("asked", [requirement(), exact_permit(), upto()], ids=["exact", "exact_permit2", "upto"])
def test_every_member_is_signed(asked: dict[str, Any], member: str) -> None:
    """Another value of any member has another digest (a permit's owner is bound by who signs)."""
    _, authorization = authorized(asked)
    changed = {"payer": bytes(20), "nonce": bytes(32), "valid_after": 1, "valid_before": 2}[member]
    other = msgspec.structs.replace(authorization, **{member: changed})
    same = member == "payer" and authorization.chosen.method == "permit2"
    assert (digest_of(other) == digest_of(authorization)) is same


@pytest.mark.parametrize("field", ["amount", "pay_to", "token", "chain", "facilitator"])
def test_every_term_is_signed(field: str) -> None:
    """Another amount, payee, token, chain or facilitator has another digest."""
    _, authorization = authorized(upto())
    chosen = authorization.chosen
    if field == "amount":
        asked = msgspec.structs.replace(chosen.requirement, amount=401)
        chosen = msgspec.structs.replace(chosen, requirement=asked)
    else:
        chosen = msgspec.structs.replace(chosen, **{field: 1 if field == "chain" else b"\x09" * 20})
    assert digest_of(msgspec.structs.replace(authorization, chosen=chosen)) != digest_of(authorization)


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=32, max_size=32))
def test_signatures_are_low_and_deterministic(digest: bytes) -> None:
    """s is the lower one, v is 27 or 28, the same digest has the same signature, and it recovers to the wallet."""
    wallet = Wallet(PAYER)
    signature = wallet.sign(digest)
    assert signature == Wallet(PAYER).sign(digest)
    assert len(signature) == 65
    assert signature[64] in (27, 28)
    half = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
    assert int.from_bytes(signature[32:64], "big") <= half
    assert signer(digest, "0x" + signature.hex()) == address(PAYER)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 2**40), st.integers(1, 86_400), st.floats(0, 4e9))
def test_no_authorization_outlives_the_rules(asked: int, limit: int, now: float) -> None:
    """Whatever the node asks, validBefore is at most the rules' limit from now, and the node's own."""
    after, before = window(asked, msgspec.structs.replace(RULES, max_timeout_s=limit), now)
    assert before <= now + limit
    assert before <= now + asked
    assert after == int(now) - 5


def test_the_nonce_is_that_of_the_request() -> None:
    """Request and salt give the nonce, and another of either gives another."""
    request = hashlib.sha256(b"request").digest()
    nonce = derive_nonce(request, b"s" * 16)
    assert nonce == keccak256(b"veriroute-x402-nonce-v1" + request + b"s" * 16)
    assert len({nonce, derive_nonce(request, b"t" * 16), derive_nonce(bytes(32), b"s" * 16)}) == 3


@pytest.mark.parametrize("key", [b"", bytes(32), b"\xff" * 32, b"k" * 31, b"k" * 33])
def test_what_is_no_key_makes_no_wallet(key: bytes) -> None:
    """Only 32 bytes between zero and the group's order are a key, and the error does not show them."""
    with pytest.raises(ConfigError) as caught:
        Wallet(key)
    assert "kkkk" not in str(caught.value)


def test_a_wallet_does_not_show_its_key() -> None:
    """Neither `repr` nor a readable attribute has the key."""
    wallet = Wallet(PAYER)
    assert repr(wallet) == f"Wallet({address(PAYER)})"
    assert PAYER.hex() not in repr(wallet) + str(wallet) + repr([getattr(wallet, name) for name in wallet.__slots__])


def test_paying_without_the_library_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where libsecp256k1 is not installed, the error names the package and the version of Python."""
    monkeypatch.setattr(sign, "_PrivateKey", None)
    with pytest.raises(ConfigError, match="Python 3"):
        Wallet(PAYER)
