"""As much of Solidity's ABI as a registry answers with: an encoder by hand, so that no decoder is judged by its twin.

A type is a word of the table below, `("tuple", [types])` or `("array", type)`; a value an int, bool, bytes or str.
"""

from __future__ import annotations

from typing import Any

from .wire import keccak

OHTTP = ("tuple", ["uint", "uint", "uint", "uint", "bytes", "bytes", "uint"])
OHTTP_V2 = ("tuple", ["uint", "uint", "uint", "uint", "bytes", "bytes", "uint", "uint"])
_TEE = ["address", "address", "string", "bytes", "bytes", "bytes32", "uint", "bool", "uint", "uint"]
TEE_10 = ("tuple", _TEE)
TEE_11 = ("tuple", [*_TEE, OHTTP])
RECORD_V2 = ("tuple", ["bytes32", TEE_10, OHTTP_V2])


def selector(signature: str) -> bytes:
    return keccak(signature.encode())[:4]


def topic(signature: str) -> str:
    return "0x" + keccak(signature.encode()).hex()


def encode(types: list[Any], values: list[Any]) -> bytes:
    """The arguments or results of a function."""
    return _sequence(types, values)[1]


def _one(kind: Any, value: Any) -> tuple[bool, bytes]:
    if kind in ("uint", "bool"):
        return False, int(value).to_bytes(32, "big")
    if kind == "address":
        return False, bytes.fromhex(value[2:]).rjust(32, b"\0")
    if kind == "bytes32":
        return False, bytes(value)
    if kind in ("bytes", "string"):
        data = value.encode() if isinstance(value, str) else value
        return True, len(data).to_bytes(32, "big") + data + bytes(-len(data) % 32)
    word, inner = kind
    if word == "array":
        return True, len(value).to_bytes(32, "big") + _sequence([inner] * len(value), value)[1]
    return _sequence(inner, value)


def _sequence(types: list[Any], values: list[Any]) -> tuple[bool, bytes]:
    parts = [_one(kind, value) for kind, value in zip(types, values, strict=True)]
    at = sum(32 if dynamic else len(data) for dynamic, data in parts)
    head = tail = b""
    for dynamic, data in parts:
        head += (at + len(tail)).to_bytes(32, "big") if dynamic else data
        tail += data if dynamic else b""
    return any(dynamic for dynamic, _ in parts), head + tail
