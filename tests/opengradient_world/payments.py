"""x402 as the gateway in front of an enclave asks for it: 402, a signed Permit2 authorization, a session until its cap.

402  PAYMENT-REQUIRED: base64 JSON of what is accepted
->   PAYMENT-SIGNATURE: base64 JSON {x402Version: 2, accepted, payload: {permit2Authorization, signature}}
2xx  X-Upto-Session: <id>, PAYMENT-RESPONSE; then that session alone pays, until the cap or 100 s of silence
"""

from __future__ import annotations

import base64
import binascii
import copy
import json
import secrets
from collections.abc import Callable
from typing import Any

from eth_keys import keys
from eth_keys.exceptions import BadSignature, ValidationError

from .faults import Faults
from .wire import keccak, u256

NETWORK, CHAIN = "eip155:8453", 8453
OPG = "0xFbC2051AE2265686a469421b2C5A2D5462FbF5eB"
PAY_TO = "0x9deEBB5D1b22e4a6e027977CeAd13893A7E4cC1a"
PERMIT2 = "0x000000000022D473030F116dDEE9F6B43aC78BA3"
UPTO_PROXY = "0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002"
FACILITATOR = "0x" + "fa" * 20
CAP = 10**17
PRICE = CAP // 10
IDLE_S = 100
OTHER = "0x" + "66" * 20
_WITNESS = "Witness(address to,address facilitator,uint256 validAfter)"
_TOKEN = "TokenPermissions(address token,uint256 amount)"
_PERMIT = (
    "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,"
    "Witness witness)" + _TOKEN + _WITNESS
)
_DOMAIN = "EIP712Domain(string name,uint256 chainId,address verifyingContract)"


class Refused(Exception):
    """A payment that is not taken; the text says why."""


class Till:
    """What has been paid, and by whom."""

    def __init__(self, faults: Faults, clock: Callable[[], float]) -> None:
        self.faults, self.clock = faults, clock
        self.payers: list[str] = []
        self.sessions: dict[str, tuple[int, float]] = {}
        self._nonces: set[tuple[str, int]] = set()

    def required(self, url: str, error: str = "Payment required") -> dict[str, Any]:
        """The body of a 402."""
        accepted = {
            "scheme": "upto",
            "network": NETWORK,
            "asset": OTHER if "pay_other_asset" in self.faults else OPG,
            "amount": str(CAP * 1000 if "pay_too_much" in self.faults else CAP),
            "payTo": OTHER if "pay_other_payee" in self.faults else PAY_TO,
            "maxTimeoutSeconds": 300,
            "extra": {
                "name": "OpenGradient",
                "version": "1",
                "assetTransferMethod": "permit2",
                "facilitatorAddress": FACILITATOR,
            },
        }
        resource = {"url": url, "description": "inference", "mimeType": "application/json"}
        return {"x402Version": 2, "error": error, "resource": resource, "accepts": [accepted], "extensions": {}}

    def admit(self, headers: dict[str, str]) -> dict[str, str]:
        """The response headers for a request that pays. Raises `Refused` for one that does not."""
        if "pay_forever" in self.faults:
            raise Refused("Payment required")
        session = headers.get("x-upto-session")
        if session is not None and "payment-signature" not in headers:
            return self._spend(session)
        if "payment-signature" not in headers:
            raise Refused("Payment required")
        payer = self._check(headers["payment-signature"])
        self.payers.append(payer)
        session = secrets.token_hex(16)
        self.sessions[session] = (CAP, self.clock())
        receipt = {"success": True, "payer": payer, "network": NETWORK, "transaction": ""}
        return {**self._spend(session), "PAYMENT-RESPONSE": base64.b64encode(json.dumps(receipt).encode()).decode()}

    def _spend(self, session: str) -> dict[str, str]:
        left, seen = self.sessions.get(session, (0, 0.0))
        if left < PRICE or self.clock() - seen > IDLE_S:
            self.sessions.pop(session, None)
            raise Refused("session expired or spent")
        self.sessions[session] = (left - PRICE, self.clock())
        return {"X-Upto-Session": session}

    def _check(self, header: str) -> str:
        try:
            payment = json.loads(base64.b64decode(header, validate=True))
            permit = payment["payload"]["permit2Authorization"]
            signature = bytes.fromhex(payment["payload"]["signature"].removeprefix("0x"))
            asked = self.required("")["accepts"][0]
            self._terms(payment, permit, asked)
            payer = recover(permit, signature)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise Refused(f"malformed payment: {error!r}") from None
        if payer.lower() != permit["from"].lower():
            raise Refused("the payer did not sign")
        nonce = (payer.lower(), int(permit["nonce"]))
        if nonce in self._nonces:
            raise Refused("the nonce is used")
        self._nonces.add(nonce)
        return payer

    def _terms(self, payment: dict[str, Any], permit: dict[str, Any], asked: dict[str, Any]) -> None:
        permitted, witness = permit["permitted"], permit["witness"]
        pairs = (
            ("version", payment["x402Version"], 2),
            ("scheme", payment["accepted"]["scheme"], asked["scheme"]),
            ("network", payment["accepted"]["network"], NETWORK),
            ("token", permitted["token"].lower(), asked["asset"].lower()),
            ("amount", int(permitted["amount"]), int(asked["amount"])),
            ("spender", permit["spender"].lower(), UPTO_PROXY.lower()),
            ("payee", witness["to"].lower(), asked["payTo"].lower()),
            ("facilitator", witness["facilitator"].lower(), FACILITATOR.lower()),
        )
        for what, found, expected in pairs:
            if found != expected:
                raise Refused(f"the {what} is {found!s:.60}, not {expected}")
        if not int(witness["validAfter"]) <= self.clock() < int(permit["deadline"]):
            raise Refused("the authorization is not valid now")


def digest(permit: dict[str, Any]) -> bytes:
    """What EIP-712 signs of a Permit2 authorization."""
    permitted, witness = permit["permitted"], permit["witness"]
    token = keccak(keccak(_TOKEN.encode()) + _address(permitted["token"]) + u256(int(permitted["amount"])))
    bound = keccak(
        keccak(_WITNESS.encode())
        + _address(witness["to"])
        + _address(witness["facilitator"])
        + u256(int(witness["validAfter"]))
    )
    struct = keccak(
        keccak(_PERMIT.encode())
        + token
        + _address(permit["spender"])
        + u256(int(permit["nonce"]))
        + u256(int(permit["deadline"]))
        + bound
    )
    domain = keccak(keccak(_DOMAIN.encode()) + keccak(b"Permit2") + u256(CHAIN) + _address(PERMIT2))
    return keccak(b"\x19\x01" + domain + struct)


def recover(permit: dict[str, Any], signature: bytes) -> str:
    """The address that signed. Raises `Refused`."""
    if len(signature) != 65 or signature[64] not in (27, 28):
        raise Refused("a signature has 65 bytes, the last 27 or 28")
    try:
        parsed = keys.Signature(signature[:64] + bytes([signature[64] - 27]))
        return parsed.recover_public_key_from_msg_hash(digest(permit)).to_checksum_address()
    except (BadSignature, ValidationError) as error:
        raise Refused(f"the signature does not hold: {error}") from None


def pay(key: bytes, required: dict[str, Any], now: float) -> str:
    """The PAYMENT-SIGNATURE header of a client that signs whatever it is asked for; for the world's own tests."""
    accepted = copy.deepcopy(required["accepts"][0])
    private = keys.PrivateKey(key)
    permit = {
        "from": private.public_key.to_checksum_address(),
        "permitted": {"token": accepted["asset"], "amount": accepted["amount"]},
        "spender": UPTO_PROXY,
        "nonce": str(secrets.randbits(200)),
        "deadline": str(int(now) + 300),
        "witness": {
            "to": accepted["payTo"],
            "facilitator": accepted["extra"]["facilitatorAddress"],
            "validAfter": str(int(now) - 60),
        },
    }
    signed = private.sign_msg_hash(digest(permit)).to_bytes()
    signature = "0x" + (signed[:64] + bytes([signed[64] + 27])).hex()
    payment = {
        "x402Version": 2,
        "payload": {"permit2Authorization": permit, "signature": signature},
        "accepted": accepted,
    }
    return base64.b64encode(json.dumps(payment).encode()).decode()


def _address(text: str) -> bytes:
    raw = bytes.fromhex(text.removeprefix("0x"))
    if len(raw) != 20:
        raise ValueError("an address has 20 bytes")
    return raw.rjust(32, b"\0")
