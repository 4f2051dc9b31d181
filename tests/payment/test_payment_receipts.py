"""An offer or receipt holds only for this payment, by its payee; anything else is invalid, and none is absent."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec
import pytest
from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st
from payment_kit import (
    NOW,
    PAYEE,
    PAYER,
    STRANGER,
    TYPES,
    URL,
    address,
    headers,
    offer,
    receipt,
    receipt_payload,
    required,
    requirement,
    sign,
    typed_digest,
)

from gateway.crypto.jose import b64url
from gateway.crypto.signatures import Ed25519Signer
from gateway.payment.receipts import Finding, KeySet, Paid, check_offer, check_receipt
from gateway.payment.terms import Artifact, parse_terms

ED = Ed25519Signer(b"\x71" * 32)
K1 = PrivateKey(b"\x72" * 32)
KEYS: KeySet = {"did:web:node.example#ed": ED.public_key, "did:web:node.example#k1": K1.public_key.format()}
ASKED = parse_terms(headers(required()), b"").requirements[0]
PAYEE_BYTES = bytes.fromhex(address(PAYEE)[2:])
PAID = Paid(ASKED, PAYEE_BYTES, bytes.fromhex(address(PAYER)[2:]), NOW, "0x" + "ab" * 32)


def artifact(found: dict[str, Any]) -> Artifact:
    payload = found.get("payload")
    return Artifact(found["format"], None if payload is None else msgspec.json.encode(payload), found["signature"])


def jws(alg: str, payload: Any, *, header: dict[str, Any] | None = None, spaced: bool = False) -> dict[str, Any]:
    kid = "did:web:node.example#" + ("ed" if alg == "EdDSA" else "k1")
    first = b64url(json.dumps({"alg": alg, "kid": kid} if header is None else header).encode())
    text = json.dumps(payload, sort_keys=True, separators=None if spaced else (",", ":"))
    signed = f"{first}.{b64url(text.encode())}".encode()
    if alg == "EdDSA":
        signature = ED.sign(signed)
    else:
        r, s = decode_dss_signature(K1.sign(hashlib.sha256(signed).digest(), hasher=None))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return {"format": "jws", "signature": signed.decode() + "." + b64url(signature)}


def jws_offer(alg: str, **changes: Any) -> dict[str, Any]:
    return jws(alg, offer(**changes)["payload"])


def judged_receipt(found: dict[str, Any], keys: KeySet = KEYS) -> Finding:
    return check_receipt(artifact(found), PAID, keys, NOW + 3)


def judged_offer(found: dict[str, Any], keys: KeySet = KEYS) -> Finding:
    return check_offer(artifact(found), ASKED, PAYEE_BYTES, keys, NOW)


def test_no_receipt_is_absent() -> None:
    """An absent receipt is no failure, and no evidence."""
    assert check_receipt(None, PAID, KEYS, NOW) == Finding("absent", "receipt_absent")


@pytest.mark.parametrize(
    "found",
    [
        receipt(),
        receipt(transaction=None),
        receipt(transaction=""),
        receipt(payer=address(PAYER).lower()),
        receipt(issuedAt=int(NOW) - 300),
        receipt(issuedAt=int(NOW) + 303),
        jws("EdDSA", receipt_payload()),
        jws("ES256K", receipt_payload()),
        jws("ES256K", receipt_payload(transaction=None)),
    ],
)
def test_receipts_of_this_payment_are_valid(found: dict[str, Any]) -> None:
    """Both forms hold, with the payee's signature or a pinned key."""
    assert judged_receipt(found) == Finding("valid")


def mangled(signature: str) -> list[str]:
    r, s = signature[2:66], int(signature[66:130], 16)
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    other = {"1b": "1c", "1c": "1b"}[signature[130:]]
    return [
        "",
        "0x",
        signature[2:] + "00",
        signature[:-2],
        signature + "00",
        "0x" + "zz" * 65,
        "0x" + "00" * 65,
        signature[:-2] + other,
        signature[:-2] + "00",
        "0x" + r + f"{order - s:064x}" + other,
        "0x" + "ff" * 32 + signature[66:],
        "0x" + "00" * 31 + "05" + signature[66:],
    ]


@pytest.mark.parametrize("signature", mangled(receipt()["signature"]))
def test_other_spellings_of_a_signature_are_invalid(signature: str) -> None:
    """Only 65 bytes with the lower s and the right v hold."""
    assert judged_receipt({**receipt(), "signature": signature}) == Finding("invalid", "receipt_signer")


def unsigned(changes: dict[str, Any]) -> dict[str, Any]:
    return {**receipt(), "payload": {**receipt_payload(), **changes}}


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (receipt(STRANGER), "receipt_signer"),
        (unsigned({"issuedAt": int(NOW) + 1}), "receipt_signer"),
        (receipt(network="eip155:1"), "receipt_mismatch"),
        (receipt(resourceUrl=URL + "/"), "receipt_mismatch"),
        (receipt(payer=address(STRANGER)), "receipt_mismatch"),
        (receipt(transaction="0x" + "cd" * 32), "receipt_mismatch"),
        (receipt(issuedAt=int(NOW) - 301), "receipt_time"),
        (receipt(issuedAt=int(NOW) + 304), "receipt_time"),
        (unsigned({"payer": "me"}), "receipt_malformed"),
        (unsigned({"version": 2}), "receipt_malformed"),
        (unsigned({"version": True}), "receipt_malformed"),
        (unsigned({"version": "1"}), "receipt_malformed"),
        (unsigned({"issuedAt": -1}), "receipt_malformed"),
        (unsigned({"issuedAt": 1.5}), "receipt_malformed"),
        (unsigned({"issuedAt": None}), "receipt_malformed"),
        (unsigned({"network": 1}), "receipt_malformed"),
        (unsigned({"extra": 1}), "receipt_malformed"),
        ({**receipt(), "format": "pgp"}, "receipt_format"),
        ({"format": "eip712", "signature": "0x"}, "receipt_format"),
        ({**jws("EdDSA", receipt_payload()), "payload": receipt_payload()}, "receipt_format"),
        ({"format": "jws", "signature": "a.b"}, "receipt_malformed"),
        (jws("EdDSA", receipt_payload(), spaced=True), "receipt_not_canonical"),
        (jws("EdDSA", {**receipt_payload(), "version": 3}), "receipt_malformed"),
        (jws("EdDSA", receipt_payload(), header={"alg": "none"}), "receipt_malformed"),
        (jws("EdDSA", {**receipt_payload(), "issuedAt": 2**60}), "receipt_malformed"),
        (jws("EdDSA", receipt_payload(), header={"alg": "EdDSA", "kid": "did:web:node.example#k1"}), "receipt_signer"),
        (jws("ES256K", receipt_payload(), header={"alg": "ES256K", "kid": "did:web:node.example#ed"}), "receipt_signer"),
        (jws("EdDSA", receipt_payload(), header={"alg": "ES256K", "kid": "did:web:node.example#k1"}), "receipt_signer"),
    ],
)  # fmt: skip
def test_other_receipts_are_invalid(found: dict[str, Any], reason: str) -> None:
    """A receipt by a stranger, of another payment or in another form is invalid, and says why."""
    assert judged_receipt(found) == Finding("invalid", reason)


def test_a_jws_signature_of_another_length_is_invalid() -> None:
    """An ES256K signature is 64 bytes."""
    found = jws("ES256K", receipt_payload())
    short = found["signature"].rpartition(".")[0] + "." + b64url(bytes(63))
    assert judged_receipt({"format": "jws", "signature": short}) == Finding("invalid", "receipt_signer")


@pytest.mark.parametrize("header", [{"alg": "EdDSA"}, {"alg": "EdDSA", "kid": 1}, {"alg": "EdDSA", "kid": "who"}])
def test_a_jws_by_an_unknown_key_is_not_judged(header: dict[str, Any]) -> None:
    """Without a pinned key the signature proves nothing either way."""
    found = jws("EdDSA", receipt_payload(), header=header)
    assert judged_receipt(found) == Finding("unchecked", "receipt_key_unknown")


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (offer(), "valid"),
        (offer(validUntil=None), "valid"),
        (offer(validUntil=int(NOW)), "valid"),
        (offer(validUntil=int(NOW) - 1), "invalid"),
        (offer(asset=requirement()["asset"].upper().replace("0X", "0x")), "valid"),
        (offer(STRANGER), "invalid"),
        (offer(amount="401"), "invalid"),
        (offer(scheme="upto"), "invalid"),
        (offer(network="eip155:1"), "invalid"),
        (offer(asset="0x" + "66" * 20), "invalid"),
        (offer(payTo=address(STRANGER)), "invalid"),
        (offer(payTo="me"), "invalid"),
        (offer(resourceUrl="https://node.example/"), "invalid"),
        ({**offer(), "payload": {"version": 1}}, "invalid"),
        (jws_offer("EdDSA"), "valid"),
        (jws_offer("ES256K"), "valid"),
        (jws_offer("EdDSA", amount="401"), "invalid"),
        (receipt(), "invalid"),
    ],
)
def test_offers_hold_for_what_is_asked(found: dict[str, Any], status: str) -> None:
    """An offer names every term, is signed by the payee and has not run out."""
    assert judged_offer(found).status == status


def test_a_receipt_is_no_offer() -> None:
    """The two have different domains: one's signature is not the other's."""
    payload = offer()["payload"]
    digest = typed_digest(TYPES, "Offer", {"name": "x402 receipt", "version": "1", "chainId": 1}, payload)
    assert judged_offer({"format": "eip712", "payload": payload, "signature": sign(PAYEE, digest)}).status == "invalid"


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["eip712", "jws", "x"]),
    st.none()
    | st.binary(max_size=60)
    | st.dictionaries(
        st.sampled_from(list(receipt_payload())), st.none() | st.integers(-3, 3) | st.text(max_size=8)
    ).map(msgspec.json.encode),
    st.text(st.characters(codec="utf-8"), max_size=60)
    | st.sampled_from([receipt()["signature"], jws("EdDSA", {})["signature"]]),
)
def test_any_artifact_is_judged(form: str, payload: bytes | None, signature: str) -> None:
    """Whatever an offer or receipt holds, it is judged and nothing is raised; none of these is valid."""
    found = Artifact(form, payload, signature)
    assert check_receipt(found, PAID, KEYS, NOW).status == "invalid"
    assert check_offer(found, ASKED, PAYEE_BYTES, KEYS, NOW).status == "invalid"
