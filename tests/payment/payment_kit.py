"""Keys, rules and 402s of these tests' own making, and EIP-712 once more, from its definition."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from coincurve import PrivateKey

from gateway.crypto.keccak import keccak256
from gateway.crypto.secp256k1 import address as address_of
from gateway.payment.evm import checksummed
from gateway.payment.policy import Asset, Caps, SpendingRules
from gateway.payment.sign import Wallet

NOW = 1_900_000_000.0
URL = "https://node.example/v1/chat/completions"
NETWORK = "eip155:4242"
TOKEN = "0x" + "c0" * 20
PAYER, PAYEE, FACILITATOR, STRANGER = (bytes([n]) * 32 for n in (0x61, 0x62, 0x63, 0x64))
CAPS = Caps(per_request=1000, per_key_day=5000, per_node_day=7000, global_day=9000)
ASSET = Asset(NETWORK, TOKEN, 6, "usd", CAPS)


def address(key: bytes) -> str:
    """The checksummed address of a private key."""
    return checksummed(Wallet(key).address)


RULES = SpendingRules(
    networks=(NETWORK,), schemes=("exact", "upto"), assets=(ASSET,), facilitators=(address(FACILITATOR),)
)


def requirement(**changes: Any) -> dict[str, Any]:
    """An `exact` requirement that the rules allow; a change to None takes a member away."""
    found = {
        "scheme": "exact",
        "network": NETWORK,
        "asset": TOKEN,
        "amount": "400",
        "payTo": address(PAYEE),
        "maxTimeoutSeconds": 60,
        "extra": {"name": "Test Coin", "version": "1"},
        **changes,
    }
    return {name: value for name, value in found.items() if value is not None}


def upto(**changes: Any) -> dict[str, Any]:
    """An `upto` requirement that the rules allow."""
    extra = {"assetTransferMethod": "permit2", "facilitatorAddress": address(FACILITATOR)}
    return requirement(**{"scheme": "upto", "extra": extra, **changes})


def required(*accepts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The JSON of a 402 of version 2."""
    found = {
        "x402Version": 2,
        "error": "payment needed",
        "resource": {"url": URL},
        "accepts": list(accepts or [requirement()]),
        **changes,
    }
    return {name: value for name, value in found.items() if value is not None}


def b64json(value: Any) -> bytes:
    return base64.b64encode(json.dumps(value, separators=(",", ":")).encode())


def headers(value: Any, name: bytes = b"PAYMENT-REQUIRED") -> list[tuple[bytes, bytes]]:
    return [(b"content-type", b"application/json"), (name, b64json(value))]


def offers(*found: dict[str, Any]) -> dict[str, Any]:
    return {"offer-receipt": {"info": {"offers": list(found)}}}


TYPES = {
    "TransferWithAuthorization": [
        ("address", "from"), ("address", "to"), ("uint256", "value"), ("uint256", "validAfter"),
        ("uint256", "validBefore"), ("bytes32", "nonce"),
    ],
    "TokenPermissions": [("address", "token"), ("uint256", "amount")],
    "Offer": [
        ("uint256", "version"), ("string", "resourceUrl"), ("string", "scheme"), ("string", "network"),
        ("string", "asset"), ("string", "payTo"), ("string", "amount"), ("uint256", "validUntil"),
    ],
    "Receipt": [
        ("uint256", "version"), ("string", "network"), ("string", "resourceUrl"), ("string", "payer"),
        ("uint256", "issuedAt"), ("string", "transaction"),
    ],
    "PermitWitnessTransferFrom": [
        ("TokenPermissions", "permitted"), ("address", "spender"), ("uint256", "nonce"), ("uint256", "deadline"),
        ("Witness", "witness"),
    ],
}  # fmt: skip
UPTO_WITNESS = [("address", "to"), ("address", "facilitator"), ("uint256", "validAfter")]
EXACT_WITNESS = [("address", "to"), ("uint256", "validAfter")]

Types = Mapping[str, list[tuple[str, str]]]


def typed_digest(types: Types, primary: str, domain: dict[str, Any], message: dict[str, Any]) -> bytes:
    """EIP-712 by its text: encodeType with referenced types sorted, encodeData, hashStruct."""
    members = [("string", "name"), ("string", "version"), ("uint256", "chainId"), ("address", "verifyingContract")]
    own = {**types, "EIP712Domain": [member for member in members if member[1] in domain]}
    return keccak256(b"\x19\x01" + _hash(own, "EIP712Domain", domain) + _hash(own, primary, message))


def _referenced(types: Types, name: str) -> set[str]:
    found = {kind for kind, _ in types[name] if kind in types}
    return found.union(*(_referenced(types, kind) for kind in found))


def _hash(types: Types, name: str, value: dict[str, Any]) -> bytes:
    text = ""
    for kind in [name, *sorted(_referenced(types, name))]:
        text += kind + "(" + ",".join(f"{t} {n}" for t, n in types[kind]) + ")"
    parts = [keccak256(text.encode())]
    for kind, member in types[name]:
        found = value[member]
        if kind in types:
            parts.append(_hash(types, kind, found))
        elif kind == "string":
            parts.append(keccak256(found.encode()))
        elif kind == "address":
            parts.append(bytes(12) + bytes.fromhex(found[2:]))
        elif kind == "bytes32":
            parts.append(bytes.fromhex(found[2:]))
        else:
            parts.append(bytes.fromhex(f"{int(found):064x}"))
    return keccak256(b"".join(parts))


def sign(key: bytes, digest: bytes) -> str:
    """An Ethereum signature, as text."""
    found = PrivateKey(key).sign_recoverable(digest, hasher=None)
    return "0x" + found[:64].hex() + f"{27 + found[64]:02x}"


def signer(digest: bytes, signature: str) -> str:
    """The address that signed."""
    from coincurve import PublicKey

    raw = bytes.fromhex(signature[2:])
    point = PublicKey.from_signature_and_message(raw[:64] + bytes([raw[64] - 27]), digest, hasher=None)
    found = address_of(point.format(compressed=False))
    assert found is not None
    return checksummed(found)


def offer(key: bytes = PAYEE, **changes: Any) -> dict[str, Any]:
    """A signed offer for `requirement()`."""
    payload = {
        "version": 1,
        "resourceUrl": URL,
        "scheme": "exact",
        "network": NETWORK,
        "asset": TOKEN,
        "payTo": address(PAYEE),
        "amount": "400",
        "validUntil": int(NOW) + 60,
        **changes,
    }
    payload = {name: value for name, value in payload.items() if value is not None}
    full = {"validUntil": 0, **payload}
    digest = typed_digest(TYPES, "Offer", {"name": "x402 offer", "version": "1", "chainId": 1}, full)
    return {"format": "eip712", "payload": payload, "signature": sign(key, digest)}


def receipt_payload(**changes: Any) -> dict[str, Any]:
    payload = {
        "version": 1,
        "network": NETWORK,
        "resourceUrl": URL,
        "payer": address(PAYER),
        "issuedAt": int(NOW) + 2,
        "transaction": "0x" + "ab" * 32,
        **changes,
    }
    return {name: value for name, value in payload.items() if value is not None}


def receipt(key: bytes = PAYEE, **changes: Any) -> dict[str, Any]:
    """A signed receipt for `requirement()`."""
    payload = receipt_payload(**changes)
    full = {"transaction": "", **payload}
    digest = typed_digest(TYPES, "Receipt", {"name": "x402 receipt", "version": "1", "chainId": 1}, full)
    return {"format": "eip712", "payload": payload, "signature": sign(key, digest)}


def settlement(**changes: Any) -> dict[str, Any]:
    found = {
        "success": True,
        "payer": address(PAYER),
        "transaction": "0x" + "ab" * 32,
        "network": NETWORK,
        **changes,
    }
    return {name: value for name, value in found.items() if value is not None}
