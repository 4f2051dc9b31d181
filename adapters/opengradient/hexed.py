"""Ethereum JSON-RPC's two spellings of bytes and numbers, read strictly: DATA and QUANTITY.

DATA      "0x" and an even number of hex digits      "0x00ff"
QUANTITY  "0x" and hex digits without leading zero   "0x0", "0x2a", at most 63 bits here
"""

from __future__ import annotations

import re

from gateway.verify.opengradient.response import printable

from .rpc_errors import RpcMalformed

_DATA = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
_QUANTITY = re.compile(r"0x(?:0|[1-9a-fA-F][0-9a-fA-F]{0,15})")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
MAX_NUMBER = 2**63 - 1


def data(value: object, what: str, *, length: int | None = None) -> bytes:
    """The bytes that `value` spells, `length` of them if given. Raises `RpcMalformed` naming `what`."""
    if not isinstance(value, str) or _DATA.fullmatch(value) is None:
        raise RpcMalformed(f"{what} is not DATA: {_shown(value)}")
    found = bytes.fromhex(value[2:])
    if length is not None and len(found) != length:
        raise RpcMalformed(f"{what} has {len(found)} bytes, not {length}")
    return found


def quantity(value: object, what: str) -> int:
    """The number that `value` spells. Raises `RpcMalformed` naming `what`."""
    if not isinstance(value, str) or _QUANTITY.fullmatch(value) is None:
        raise RpcMalformed(f"{what} is not QUANTITY: {_shown(value)}")
    number = int(value, 16)
    if number > MAX_NUMBER:
        raise RpcMalformed(f"{what} is beyond 63 bits")
    return number


def address(value: object, what: str) -> str:
    """The address in lower case. Raises `RpcMalformed` naming `what`."""
    if not isinstance(value, str) or _ADDRESS.fullmatch(value) is None:
        raise RpcMalformed(f"{what} is not an address: {_shown(value)}")
    return value.lower()


def is_address(value: str) -> bool:
    """Whether `value` is `0x` and 40 hex digits, in either case."""
    return _ADDRESS.fullmatch(value) is not None


def ox(value: bytes) -> str:
    """`value` as DATA, in lower case."""
    return "0x" + value.hex()


def _shown(value: object) -> str:
    return printable(value) if isinstance(value, str) else type(value).__name__
