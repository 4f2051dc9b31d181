"""Names of the EVM that payments use: addresses and chains.

An address is 20 bytes here. As text it is `0x` and 40 hexadecimal digits in any case; mixed case is a checksum (ERC-55)
and has to be right, since a wrong one is a mistyped address. A network is `eip155:<chain id>` (CAIP-2).
"""

from __future__ import annotations

import re

from gateway.crypto.keccak import keccak256
from gateway.errors import FormatError

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_NETWORK = re.compile(r"eip155:([1-9][0-9]{0,17})")


def address(text: str, what: str) -> bytes:
    """The 20 bytes of `text`. Raises `FormatError` naming `what` for another form or a wrong checksum."""
    if _ADDRESS.fullmatch(text) is None:
        raise FormatError(f"{what} is not an address of 0x and 40 digits")
    value = bytes.fromhex(text[2:])
    digits = text[2:]
    if digits not in (digits.lower(), digits.upper()) and checksummed(value) != text:
        raise FormatError(f"{what} has a checksum that does not hold")
    return value


def checksummed(value: bytes) -> str:
    """The 20-byte address as text in the case that ERC-55 gives it."""
    digits = value.hex()
    sums = keccak256(digits.encode()).hex()
    return "0x" + "".join(d.upper() if int(s, 16) > 7 else d for d, s in zip(digits, sums, strict=False))


def chain_id(network: str) -> int:
    """The chain id in a CAIP-2 name of the `eip155` namespace. Raises `FormatError` for any other name."""
    match = _NETWORK.fullmatch(network)
    if match is None:
        raise FormatError("the network is no eip155 chain")
    return int(match[1])
