"""The scalar field of BN254: the numbers that a zero-knowledge proof is about.

A public value of a proof is an *instance*: an integer below `R`. ezkl writes it as 32 bytes, least significant first,
in hex; a signed number is `n mod R`, and the upper half of the field is read as negative.
"""

from __future__ import annotations

import re

from gateway.errors import FormatError

#: The order of BN254's groups, the field of circuits' values (EIP-197 calls it the order of G1 and G2).
R = 0x30644E72E131A029B85045B68181585D2833E84879B9709143E1F593F0000001
#: Integers of at most this magnitude are doubles exactly.
EXACT = 2**53

_HEX = re.compile(r"[0-9a-f]{64}")


def from_hex(text: object) -> int:
    """The instance that `text` spells. Raises `FormatError` unless it is 64 lower-case hex digits, value below `R`."""
    if not isinstance(text, str) or _HEX.fullmatch(text) is None:
        raise FormatError("an instance is 64 lower-case hex digits", reason="proof_malformed")
    value = int.from_bytes(bytes.fromhex(text), "little")
    if value >= R:
        raise FormatError("an instance is not below the field's order", reason="instance_not_canonical")
    return value


def to_bytes(value: int) -> bytes:
    """The 32 bytes of an instance, least significant first."""
    return value.to_bytes(32, "little")


def signed(value: int) -> int:
    """The number that the instance `value` stands for: the upper half of the field is negative."""
    return value - R if value > R // 2 else value
