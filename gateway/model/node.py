"""Nodes and attested sessions, as values."""

from __future__ import annotations

import msgspec

from .tee import TeeClaims
from .verdict import Check, Claim, Outcome

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/moderations",
    "/v1/responses",
    "/v1/messages",
)


class Node(msgspec.Struct, frozen=True):
    """One node as configured or discovered (an *Attester* of RFC 9334). `pin` is `sha256:<hex>` of its keyset.

    `operator` is who runs it, in the words of the settings. `owner` is the account that a network's registry names for
    it: anybody can make as many of them as they like, so it says nothing of who or how many stand behind nodes.
    """

    id: str
    network: str
    base_url: str
    models: tuple[str, ...]
    pin: str | None = None
    operator: str | None = None
    endpoints: tuple[str, ...] = ENDPOINTS
    owner: str | None = None


class SigningKey(msgspec.Struct, frozen=True):
    """A public key that may sign answers: raw bytes for `ed25519`, SubjectPublicKeyInfo (DER) for `rsa-pss-sha256`."""

    key_id: str
    alg: str
    public_key: bytes


class AttestedSession(msgspec.Struct, frozen=True):
    """One appraisal of one node's channel: immutable, content-addressed (ACI section 8).

    `established` and `expires` are wall-clock seconds; `spki_pins` the raw SHA-256 digests of the TLS keys that the
    keyset names (empty: no channel binding possible). `capabilities` are what the node said it can do, unproved. `tee`
    holds the claims of each item of TEE evidence; what policy asks of them is each policy's own (`tee_rules`). `hpke`
    is the key configuration (RFC 9458 section 3.1) that prompts are sealed to, empty where they go over TLS; `payee` is
    whom the node's record names to be paid, empty where there is none. `aliases` are pairs of a model and
    another name by which the settings let the node answer for it.
    """

    id: str
    node: str
    network: str
    endpoint: str
    keyset_digest: str
    keys: tuple[SigningKey, ...]
    spki_pins: tuple[bytes, ...]
    evidence_digest: str
    established: float
    expires: float
    outcome: Outcome
    checks: tuple[Check, ...]
    claims: tuple[Claim, ...]
    capabilities: frozenset[str] = frozenset()
    endpoints: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    tee: tuple[TeeClaims, ...] = ()
    hpke: bytes = b""
    payee: str = ""
    aliases: tuple[tuple[str, str], ...] = ()
