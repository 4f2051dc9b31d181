"""The digests that a payment signs: EIP-712 typed data, for the four structures that are needed and no others.

    digest        Keccak-256(0x19 0x01 || domain || struct)
    struct        Keccak-256(Keccak-256(type text) || one 32-byte word for each member)

`exact` moves a token that knows EIP-3009 by TransferWithAuthorization, under the token's own domain. Every other token,
and `upto` always, goes through Permit2 (PermitWitnessTransferFrom), where the spender is one of x402's two proxies and
the witness binds the payee: the proxy can send the money nowhere else.
"""

from __future__ import annotations

from gateway.crypto.keccak import keccak256

PERMIT2 = bytes.fromhex("000000000022d473030f116ddee9f6b43ac78ba3")
EXACT_PROXY = bytes.fromhex("402085c248eea27d92e8b30b2c58ed07f9e20001")
UPTO_PROXY = bytes.fromhex("4020a4f3b7b90cca423b9fabcc0ce57c6c240002")

_TRANSFER = (
    "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,"
    "bytes32 nonce)"
)
_PERMITTED = "TokenPermissions(address token,uint256 amount)"
_PERMIT = (
    "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,"
    "Witness witness)" + _PERMITTED
)
_EXACT_WITNESS = "Witness(address to,uint256 validAfter)"
_UPTO_WITNESS = "Witness(address to,address facilitator,uint256 validAfter)"


def word(value: int | bytes | str) -> bytes:
    """One member as 32 bytes: an integer below 2**256, an address (20 bytes), 32 bytes as they are, or a text."""
    if isinstance(value, int):
        return value.to_bytes(32, "big")
    if isinstance(value, str):
        return keccak256(value.encode())
    return value.rjust(32, b"\0")


def struct(type_text: str, *members: int | bytes | str) -> bytes:
    """The hash of a structure with these members, in the order of its type."""
    return keccak256(keccak256(type_text.encode()) + b"".join(map(word, members)))


def domain(name: str, chain: int, *, version: str | None = None, contract: bytes | None = None) -> bytes:
    """The domain separator: `version` and `contract` are part of its type only where given."""
    members: list[tuple[str, int | bytes | str]] = [("string name", name)]
    if version is not None:
        members.append(("string version", version))
    members.append(("uint256 chainId", chain))
    if contract is not None:
        members.append(("address verifyingContract", contract))
    type_text = f"EIP712Domain({','.join(member for member, _ in members)})"
    return struct(type_text, *(value for _, value in members))


def digest(separator: bytes, hashed: bytes) -> bytes:
    """What is signed for a structure under a domain."""
    return keccak256(b"\x19\x01" + separator + hashed)


def transfer_digest(
    separator: bytes, *, payer: bytes, pay_to: bytes, value: int, valid_after: int, valid_before: int, nonce: bytes
) -> bytes:
    """EIP-3009 `TransferWithAuthorization`; times in Unix seconds, `nonce` 32 bytes."""
    return digest(separator, struct(_TRANSFER, payer, pay_to, value, valid_after, valid_before, nonce))


def permit_digest(
    chain: int,
    *,
    token: bytes,
    amount: int,
    nonce: int,
    deadline: int,
    pay_to: bytes,
    facilitator: bytes | None,
    valid_after: int,
) -> bytes:
    """Permit2 `PermitWitnessTransferFrom` as x402 uses it: `upto` where a facilitator is bound, else `exact`."""
    if facilitator is None:
        spender, witness_type, witness = EXACT_PROXY, _EXACT_WITNESS, struct(_EXACT_WITNESS, pay_to, valid_after)
    else:
        spender, witness_type = UPTO_PROXY, _UPTO_WITNESS
        witness = struct(_UPTO_WITNESS, pay_to, facilitator, valid_after)
    permitted = struct(_PERMITTED, token, amount)
    hashed = struct(_PERMIT + witness_type, permitted, spender, nonce, deadline, witness)
    return digest(domain("Permit2", chain, contract=PERMIT2), hashed)
