"""The published x402 vectors: headers read and written byte for byte, signers recovered, hostile terms refused.

Skipped where the vectors are absent.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.crypto.keccak import keccak256
from gateway.crypto.secp256k1 import address as address_of
from gateway.errors import PaymentRefused
from gateway.payer import Payer
from gateway.payment import eip712
from gateway.payment.evm import address, checksummed
from gateway.payment.policy import Asset, Caps, Chosen, Refused, SpendingRules, choose
from gateway.payment.receipts import Finding, Paid, check_offer, check_receipt
from gateway.payment.sign import Authorization, Wallet, digest_of, payment_header
from gateway.payment.terms import Artifact, TermsError, parse_settlement, parse_terms
from gateway.storage.ledger import Ledger

PublicKey = pytest.importorskip("coincurve", reason="signing needs coincurve").PublicKey

FOLDER = Path(__file__).resolve().parents[2].parent / "shared/vectors/proofs/x402"
for parent in Path(__file__).resolve().parents[2:]:
    if (parent / "shared/vectors/proofs/x402").is_dir():
        FOLDER = parent / "shared/vectors/proofs/x402"
        break
if not FOLDER.is_dir():
    pytest.skip("the x402 vectors are not here", allow_module_level=True)

V: dict[str, Any] = json.loads((FOLDER / "x402_vectors.json").read_text())
RUN: dict[str, Any] = json.loads((FOLDER / "x402_v2_exact_anvil_run.json").read_text())
NOW = float(V["now"])
PAYER_KEY = b"\x11" * 32
PAYEE, FACILITATOR = V["keys"]["payTo"]["address"], V["keys"]["facilitator"]["address"]
CAPS = Caps(1_000_000, 10_000_000, 10_000_000, 10_000_000)
RULES = SpendingRules(
    networks=("eip155:31337",),
    schemes=("exact", "upto"),
    assets=(Asset("eip155:31337", V["token"], 6, "usd", CAPS),),
    facilitators=(FACILITATOR,),
)


def recovered(digest: bytes, signature: str) -> str:
    raw = bytes.fromhex(signature[2:])
    point = PublicKey.from_signature_and_message(raw[:64] + bytes([raw[64] - 27]), digest, hasher=None)
    return checksummed(address_of(point.format(compressed=False)) or b"")


def chosen_of(header: str) -> Chosen | Refused:
    terms = parse_terms([(b"PAYMENT-REQUIRED", header.encode())], b"")
    return choose(terms, RULES, node_pay_to=PAYEE, url=V["resource"], now=NOW)


def refusal_of(header: str) -> str | None:
    try:
        found = chosen_of(header)
    except TermsError as error:
        return error.reason
    return found.reason if isinstance(found, Refused) else None


def authorization() -> Authorization:
    chosen = chosen_of(V["v2"]["PAYMENT-REQUIRED"])
    assert isinstance(chosen, Chosen)
    signed = V["v2"]["payment_payload"]["payload"]["authorization"]
    return Authorization(
        chosen,
        Wallet(PAYER_KEY).address,
        bytes.fromhex(signed["nonce"][2:]),
        int(signed["validAfter"]),
        int(signed["validBefore"]),
    )


def test_the_payment_header_is_byte_for_byte_the_published_one() -> None:
    """Terms, digest, signature and the whole header come out as published."""
    terms = parse_terms([(b"payment-required", V["v2"]["PAYMENT-REQUIRED"].encode())], b"")
    one = authorization()
    assert "0x" + digest_of(one).hex() == V["eip3009"]["digest"]
    signature = Wallet(PAYER_KEY).sign(digest_of(one))
    assert "0x" + signature.hex() == V["eip3009"]["signature"]
    assert payment_header(terms, one, signature).decode() == V["v2"]["PAYMENT-SIGNATURE"]
    assert one.chosen.offer == "valid"


def test_the_nonce_ties_payment_and_request() -> None:
    """The published nonce is Keccak-256 of a tag, the request's digest and a salt; ours differs in the tag alone."""
    body = base64.b64decode(V["request_body_b64"])
    rest = hashlib.sha256(body).digest() + b"\x01" * 16
    assert authorization().nonce == keccak256(b"aigw-x402-nonce-v1" + rest)


def test_upto_has_the_published_digest_and_signature() -> None:
    """Permit2 with the witness of `upto`."""
    permit = V["upto_permit2"]["permit2Authorization"]
    digest = eip712.permit_digest(
        V["chain_id"],
        token=address(permit["permitted"]["token"], "token"),
        amount=int(permit["permitted"]["amount"]),
        nonce=int(permit["nonce"]),
        deadline=int(permit["deadline"]),
        pay_to=address(permit["witness"]["to"], "to"),
        facilitator=address(permit["witness"]["facilitator"], "facilitator"),
        valid_after=int(permit["witness"]["validAfter"]),
    )
    assert "0x" + digest.hex() == V["upto_permit2"]["digest"]
    assert "0x" + Wallet(PAYER_KEY).sign(digest).hex() == V["upto_permit2"]["signature"]
    assert recovered(digest, V["upto_permit2"]["signature"]) == V["upto_permit2"]["signer"]
    assert checksummed(eip712.UPTO_PROXY) == permit["spender"]


@pytest.mark.parametrize("name", V["keys"])
def test_addresses_are_the_published_ones(name: str) -> None:
    """The four throwaway keys have the addresses of the vectors."""
    number = {"payer": 0x11, "payTo": 0x22, "facilitator": 0x33, "stranger": 0x44}[name]
    assert checksummed(Wallet(bytes([number]) * 32).address) == V["keys"][name]["address"]


def test_version_1_is_read() -> None:
    """The published body of version 1 has the terms that it says."""
    (found,) = parse_terms([], json.dumps(V["v1"]["body_402"]).encode()).requirements
    assert (found.network, found.amount, found.resource) == ("eip155:84532", 10000, V["resource"])


@pytest.mark.parametrize("case", V["hostile_402"], ids=lambda case: case["case"])
async def test_hostile_terms_are_refused_without_a_signature(case: dict[str, Any], tmp_path: Path) -> None:
    """Each of the hostile 402s is refused for its reason, and the wallet signs nothing."""
    header, reason = case["PAYMENT-REQUIRED"], case["gateway_must_refuse_with"]
    assert refusal_of(header) == reason

    class Silent(Wallet):
        def sign(self, digest: bytes) -> bytes:
            raise AssertionError("a hostile 402 was signed")

    ledger = Ledger(str(tmp_path / "payments"))
    payer = Payer(RULES, Silent(PAYER_KEY), ledger, lambda: NOW, bytes)
    with pytest.raises(PaymentRefused) as caught:
        await payer.pay(
            receipt_id="r",
            key_id="k",
            node="n",
            node_pay_to=PAYEE,
            url=V["resource"],
            request_sha256=bytes(32),
            headers=[(b"payment-required", header.encode())],
            body=b"",
        )
    assert caught.value.reason == f"payment_{reason}"
    assert await ledger.spent("all", "", int(NOW) // 86_400, RULES.assets[0].id) == 0
    ledger.close()


def test_there_are_eleven_hostile_cases() -> None:
    """None of them was lost."""
    assert len(V["hostile_402"]) == 11


def judged(found: Artifact, transaction: str) -> Finding:
    one = authorization()
    payee = address(PAYEE, "payTo")
    return check_receipt(found, Paid(one.chosen.requirement, payee, one.payer, NOW, transaction), KEYS, NOW + 5)


KEYS = {"did:web:node.test#key-1": bytes.fromhex(V["receipt_jws_eddsa"]["ed25519_public_key_hex"])}
TX = V["v2"]["settle_response"]["transaction"]


def test_the_settlement_and_its_receipt_hold() -> None:
    """The published settlement is read, and its receipt is the payee's in both forms."""
    found = parse_settlement([(b"PAYMENT-RESPONSE", V["v2"]["PAYMENT-RESPONSE"].encode())])
    assert found is not None
    assert (found.success, found.transaction, found.payer) == (True, TX, V["keys"]["payer"]["address"])
    assert found.receipt is not None
    assert judged(found.receipt, TX) == Finding("valid")
    assert judged(Artifact("jws", None, V["receipt_jws_eddsa"]["jws"]), TX) == Finding("valid")
    assert judged(found.receipt, "0x" + "00" * 32) == Finding("invalid", "receipt_mismatch")


def test_a_strangers_receipt_is_invalid() -> None:
    """A receipt that somebody else signed is no receipt."""
    case = V["negative"][2]
    found = Artifact("eip712", msgspec.json.encode(case["payload"]), case["signature"])
    assert judged(found, TX) == Finding("invalid", "receipt_signer")


def test_a_changed_value_has_another_signer() -> None:
    """The signature does not carry over to another value or another version of the token's domain."""
    one = authorization()
    asked = one.chosen.requirement
    for changed in (
        msgspec.structs.replace(asked, amount=20000),
        msgspec.structs.replace(asked, extra=msgspec.structs.replace(asked.extra, version="1")),
    ):
        other = msgspec.structs.replace(one, chosen=msgspec.structs.replace(one.chosen, requirement=changed))
        assert recovered(digest_of(other), V["eip3009"]["signature"]) != V["keys"]["payer"]["address"]


def test_the_offer_holds_for_its_terms_alone() -> None:
    """The published offer is for the published requirement, and for no other amount."""
    found = Artifact("eip712", msgspec.json.encode(V["offer"]["payload"]), V["offer"]["signature"])
    asked, payee = authorization().chosen.requirement, address(PAYEE, "payTo")
    assert check_offer(found, asked, payee, {}, NOW) == Finding("valid")
    assert check_offer(found, asked, payee, {}, NOW + 301) == Finding("invalid", "offer_expired")
    raised = msgspec.structs.replace(asked, amount=20000)
    assert check_offer(found, raised, payee, {}, NOW).status == "invalid"


def test_a_recorded_run_against_a_chain_reads_the_same() -> None:
    """The terms, payment and signature of a recorded settlement come out as they were."""
    terms = parse_terms([(b"payment-required", RUN["PAYMENT-REQUIRED"].encode())], b"")
    signed = RUN["payment_payload"]["payload"]
    until = float(signed["authorization"]["validBefore"]) - 60
    chosen = choose(terms, RULES, node_pay_to=PAYEE, url=RUN["resource"], now=until)
    assert isinstance(chosen, Chosen)
    window = int(signed["authorization"]["validAfter"]), int(signed["authorization"]["validBefore"])
    nonce = bytes.fromhex(signed["authorization"]["nonce"][2:])
    one = Authorization(chosen, Wallet(PAYER_KEY).address, nonce, *window)
    assert "0x" + Wallet(PAYER_KEY).sign(digest_of(one)).hex() == signed["signature"]
    header = payment_header(terms, one, bytes.fromhex(signed["signature"][2:]))
    assert json.loads(base64.b64decode(header)) == RUN["payment_payload"]
