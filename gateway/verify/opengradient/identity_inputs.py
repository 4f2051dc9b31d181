"""What an identity is appraised from: registry's record, registration, OHTTP key, and what was found of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from gateway.model.node import Node

from .attested import Attested, Keys
from .pcrs import PcrVersion

#: The registry's type of node that relays prompts to models (1 validates).
LLM_PROXY = 0


class Record(Protocol):
    """What the registry says of a node: `getTEE(tee_id)` of TEERegistry, decoded. Bytes are raw, times Unix seconds."""

    @property
    def tee_id(self) -> bytes: ...
    @property
    def public_key(self) -> bytes: ...
    @property
    def tls_certificate(self) -> bytes: ...
    @property
    def pcr_hash(self) -> bytes: ...
    @property
    def tee_type(self) -> int: ...
    @property
    def enabled(self) -> bool: ...
    @property
    def registered_at(self) -> int: ...
    @property
    def last_heartbeat_at(self) -> int: ...


class Registered(msgspec.Struct, frozen=True):
    """The arguments of `registerTEEWithAttestation`, decoded. `block_time` is its block's, where it is known."""

    document: bytes
    spki: bytes
    tls_certificate: bytes
    tee_type: int = LLM_PROXY
    block_time: float | None = None


class OhttpKey(msgspec.Struct, frozen=True):
    """The key that prompts are sealed to. `reason` is None when the node's signing key signed its configuration."""

    public_key: bytes
    reason: str | None = None


class Found(msgspec.Struct, frozen=True):
    """All that was given, and what was found of the documents in it."""

    node: Node
    record: Record | None
    registered: Registered | None
    ohttp: OhttpKey | None
    keys: Keys | None
    live: Attested | None
    calldata: Attested | None
    known_pcrs: Mapping[bytes, PcrVersion]
    pcr_approved: bool | None
    max_heartbeat_age_s: float
    at: float
    spki: bytes | None
    tls: bool
    problems: Mapping[str, str]

    @property
    def best(self) -> Attested | None:
        """The document that the node is known by, when it holds: the live one; the registered one if there is none.

        A live one that fails is not made good by what was registered on another day.
        """
        first = self.calldata if self.live is None else self.live
        return first if first is not None and first.held else None

    @property
    def pcr_hash(self) -> bytes | None:
        """The measured hash; for want of a document that holds, the registry's word."""
        if self.best is not None:
            return self.best.pcr_hash
        return None if self.record is None else self.record.pcr_hash
