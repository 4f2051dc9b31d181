"""An authorization and the header that carries it: what a wallet signs, and nothing that a node could have put there.

    nonce        Keccak-256("veriroute-x402-nonce-v1" || SHA-256(request body) || salt (16))
    window       validAfter = now - 5, validBefore = min(now + maxTimeoutSeconds, now + the rules' limit)
    header       PAYMENT-SIGNATURE = base64(JSON {x402Version, payload, accepted, resource, extensions})

The nonce appears on the chain when the payment is settled, so whoever has the request and the salt can tell which
request a payment was for. Signatures are deterministic (RFC 6979) with the lower s: the same authorization signed twice
is the same bytes. Signing needs libsecp256k1, which has no wheel for Python 3.14.
"""

from __future__ import annotations

import msgspec

from gateway.crypto.encoding import b64
from gateway.crypto.keccak import keccak256
from gateway.crypto.secp256k1 import address as address_of
from gateway.errors import ConfigError

from . import eip712
from .evm import checksummed
from .policy import Chosen, SpendingRules
from .terms import Terms

try:
    from coincurve import PrivateKey as _PrivateKey
except ImportError:  # pragma: no cover  Python 3.14 has no wheel of it
    _PrivateKey = None  # type: ignore[assignment, misc]

NONCE_TAG = b"veriroute-x402-nonce-v1"
SALT_BYTES = 16
#: How far the clock of a chain may be behind ours.
SLACK_S = 5
HEADER = b"payment-signature"


class Wallet:
    """Signs digests with one key, 32 bytes handed in. The key is in no readable attribute and never in `repr`.

    Raises `ConfigError` for what is no key, and where libsecp256k1 is not installed.
    """

    __slots__ = ("_key", "address")

    def __init__(self, key: bytes) -> None:
        if _PrivateKey is None:
            raise ConfigError(
                "paying needs the package coincurve, which Python 3.14 has no build of; use 3.13 or older"
            )
        try:
            if len(key) != 32:
                raise ValueError
            self._key = _PrivateKey(key)
        except ValueError:
            raise ConfigError("the wallet key is not 32 bytes that make a key of secp256k1") from None
        found = address_of(self._key.public_key.format(compressed=False))
        assert found is not None  # an uncompressed point has an address
        self.address = found

    def sign(self, digest: bytes) -> bytes:
        """r || s || v (65 bytes) over a 32-byte digest; s is the lower one, v is 27 or 28."""
        signature: bytes = self._key.sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes([27 + signature[64]])

    def __repr__(self) -> str:
        return f"Wallet({checksummed(self.address)})"


class Authorization(msgspec.Struct, frozen=True):
    """One payment before it is signed: times in Unix seconds, `nonce` 32 bytes, `payer` 20."""

    chosen: Chosen
    payer: bytes
    nonce: bytes
    valid_after: int
    valid_before: int


def derive_nonce(request_sha256: bytes, salt: bytes) -> bytes:
    """The nonce that ties a payment to the request with this digest; both lengths are fixed."""
    assert len(request_sha256) == 32
    assert len(salt) == SALT_BYTES
    return keccak256(NONCE_TAG + request_sha256 + salt)


def window(asked_s: int, rules: SpendingRules, now: float) -> tuple[int, int]:
    """From when and until when an authorization is valid, given the node's maxTimeoutSeconds."""
    return int(now) - SLACK_S, int(now) + min(asked_s, rules.max_timeout_s)


def digest_of(authorization: Authorization) -> bytes:
    """The 32 bytes to sign."""
    chosen, asked = authorization.chosen, authorization.chosen.requirement
    if chosen.method == "permit2":
        return eip712.permit_digest(
            chosen.chain,
            token=chosen.token,
            amount=asked.amount,
            nonce=int.from_bytes(authorization.nonce, "big"),
            deadline=authorization.valid_before,
            pay_to=chosen.pay_to,
            facilitator=chosen.facilitator,
            valid_after=authorization.valid_after,
        )
    separator = eip712.domain(
        asked.extra.name or "", chosen.chain, version=asked.extra.version or "", contract=chosen.token
    )
    return eip712.transfer_digest(
        separator,
        payer=authorization.payer,
        pay_to=chosen.pay_to,
        value=asked.amount,
        valid_after=authorization.valid_after,
        valid_before=authorization.valid_before,
        nonce=authorization.nonce,
    )


def payment_header(terms: Terms, authorization: Authorization, signature: bytes) -> bytes:
    """The value of PAYMENT-SIGNATURE for these terms of version 2. What the node wrote goes back as it came."""
    payload: dict[str, object] = {
        "x402Version": 2,
        "payload": _payload(authorization, "0x" + signature.hex()),
        "accepted": msgspec.Raw(authorization.chosen.requirement.accepted),
    }
    for name, value in (("resource", terms.resource), ("extensions", terms.extensions)):
        if value is not None:
            payload[name] = msgspec.Raw(value)
    return b64(msgspec.json.encode(payload)).encode()


def _payload(authorization: Authorization, signature: str) -> dict[str, object]:
    """Addresses of the node stand as the node spelled them: it compares texts."""
    chosen, asked = authorization.chosen, authorization.chosen.requirement
    payer = checksummed(authorization.payer)
    after, before = str(authorization.valid_after), str(authorization.valid_before)
    if chosen.method == "eip3009":
        transfer = {
            "from": payer,
            "to": asked.pay_to,
            "value": str(asked.amount),
            "validAfter": after,
            "validBefore": before,
            "nonce": "0x" + authorization.nonce.hex(),
        }
        return {"authorization": transfer, "signature": signature}
    witness = {"to": asked.pay_to}
    if chosen.facilitator is not None:
        witness["facilitator"] = asked.extra.facilitator or ""
    spender = eip712.EXACT_PROXY if chosen.facilitator is None else eip712.UPTO_PROXY
    permit = {
        "from": payer,
        "permitted": {"token": asked.asset, "amount": str(asked.amount)},
        "spender": checksummed(spender),
        "nonce": str(int.from_bytes(authorization.nonce, "big")),
        "deadline": before,
        "witness": {**witness, "validAfter": after},
    }
    return {"permit2Authorization": permit, "signature": signature}
