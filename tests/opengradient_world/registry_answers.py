"""Answers of a registry as Solidity would encode them, for tests that need some."""

from __future__ import annotations

from typing import Any

from eth_abi import encode
from eth_utils import keccak

INFO = "address,address,string,bytes,bytes,bytes32,uint8,bool,uint256,uint256"
OHTTP = "(uint8,uint16,uint16,uint16,bytes,bytes,uint256)"
OHTTP_V2 = "(uint8,uint16,uint16,uint16,bytes,bytes,uint256,uint256)"
INFO_11, INFO_10 = f"({INFO},{OHTTP})", f"({INFO})"
RECORD_V2 = f"(bytes32,{INFO_10},{OHTTP_V2})"
REGISTER = ["bytes", "bytes", "bytes", "address", "string", "uint8"]

OWNER, PAYEE = "0x" + "24" * 20, "0x" + "9d" * 20
NO_OHTTP = (0, 0, 0, 0, b"", b"", 0)
KEY = (1, 0x20, 1, 3, b"K" * 32, b"C" * 41, 1_790_000_100)


def spki(n: int) -> bytes:
    """Stands for the key of TEE `n`; nothing here reads it."""
    return b"spki-%d-" % n + bytes([n]) * 60


def tee_id(n: int) -> bytes:
    return bytes(keccak(spki(n)))


def info(n: int, **changed: Any) -> tuple[Any, ...]:
    fields = {
        "owner": OWNER,
        "payee": PAYEE,
        "endpoint": f"https://node-{n}.example",
        "key": spki(n),
        "certificate": b"der-%d" % n,
        "pcr": bytes(keccak(b"pcr")),
        "type": 0,
        "enabled": True,
        "registered": 1_790_000_000 + n,
        "heartbeat": 1_790_001_000 + n,
    }
    assert not set(changed) - set(fields)
    return tuple({**fields, **changed}.values())


def tees_11(*infos: tuple[Any, ...], ohttp: tuple[Any, ...] = KEY) -> bytes:
    return encode([INFO_11 + "[]"], [[(*entry, ohttp) for entry in infos]])


def tees_10(*infos: tuple[Any, ...]) -> bytes:
    return encode([INFO_10 + "[]"], [list(infos)])


def tees_v2(*infos: tuple[Any, ...], ids: list[bytes] | None = None) -> bytes:
    named = ids or [bytes(keccak(entry[3])) for entry in infos]
    return encode([RECORD_V2 + "[]"], [[(i, e, (*KEY, 1_790_000_200)) for i, e in zip(named, infos, strict=True)]])


def call(signature: str, types: list[str] | None = None, values: list[Any] | None = None) -> bytes:
    """Calldata, made from the signature as the contract's source has it."""
    return bytes(keccak(signature.encode())[:4]) + encode(types or [], values or [])


def register(n: int, document: bytes = b"nitro") -> bytes:
    return call(
        "registerTEEWithAttestation(bytes,bytes,bytes,address,string,uint8)",
        REGISTER,
        [document, spki(n), b"der-%d" % n, PAYEE, f"https://node-{n}.example", 0],
    )
