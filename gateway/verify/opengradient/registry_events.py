"""The events of OpenGradient's TEE registry: what its administrators and operators changed, decoded from logs.

Which arguments are indexed differed between releases of the contract; the topic does not depend on it. Indexed ones
come first in all of them, so the number of topics says how the arguments are divided between topics and data.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from gateway.crypto.keccak import keccak256
from gateway.errors import FormatError

from . import abi

#: Event -> the types of its arguments. The first argument is always indexed: the TEE, PCR hash or certificate hash.
EVENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "TEERegistered": ("bytes32", "address", "uint8"),
        "TEEDisabled": ("bytes32",),
        "TEEEnabled": ("bytes32",),
        "PCRApproved": ("bytes32", "uint8", "string"),
        "PCRRevoked": ("bytes32", "uint8"),
        "AWSCertificateUpdated": ("bytes32",),
        "OHTTPConfigUpdated": ("bytes32", "uint8", "uint16", "uint16", "uint16", "bytes32", "bytes32"),
        "OHTTPConfigCleared": ("bytes32",),
        "HeartbeatReceived": ("bytes32", "uint256"),
    }
)


def topic(name: str) -> bytes:
    """The first topic of the event `name`, a key of `EVENTS`: 32 bytes."""
    return keccak256(f"{name}({','.join(EVENTS[name])})".encode())


TOPICS: Mapping[bytes, str] = MappingProxyType({topic(name): name for name in EVENTS})


class Log(msgspec.Struct, frozen=True):
    """One log as a node gives it: 20-byte address as lower-case `0x` text, topics of 32 bytes, where it stands."""

    address: str
    topics: tuple[bytes, ...]
    data: bytes
    block: int
    index: int
    tx: bytes


class Event(msgspec.Struct, frozen=True):
    """One event: `subject` is its first argument (32 bytes), `arguments` the others in the order of the declaration."""

    name: str
    subject: bytes
    arguments: tuple[Any, ...]
    block: int
    index: int
    tx: bytes


def decode_event(log: Log) -> Event:
    """The event that `log` is. Raises `FormatError` (reason `event_unknown` for a topic that is none of ours)."""
    name = TOPICS.get(log.topics[0]) if log.topics else None
    if name is None:
        raise FormatError("not an event that this reader knows", reason="event_unknown")
    types = EVENTS[name]
    indexed = len(log.topics) - 1
    if not 1 <= indexed <= len(types) or "string" in types[:indexed]:  # of an indexed string only a hash is left
        raise FormatError(f"{name} with {indexed} indexed arguments", reason="abi_malformed")
    values = abi.decode(types[:indexed], b"".join(log.topics[1:]))
    rest = abi.decode(types[indexed:], log.data) if types[indexed:] else _nothing(log.data)
    subject, *arguments = (*values, *rest)
    return Event(name, subject, tuple(arguments), log.block, log.index, log.tx)


def _nothing(data: bytes) -> tuple[()]:
    if data:
        raise FormatError("bytes follow the arguments", reason="abi_malformed")
    return ()
