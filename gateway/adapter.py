"""The adapter contract: what is particular to one network, in four duties. An adapter picks rules; it never judges.

    nodes      the network's current nodes (I/O)
    evidence   the raw evidence of one node, with our nonce (I/O)
    request    what a request to the node carries beside the caller's bytes (pure)
    response   where the evidence of an answer stands (pure)

`node_rule` and `response_rule` name entries of the closed registry below; the functions behind them are in
`gateway.verify`. Adapters are found by the entry-point group `gateway.adapters`, ours like a stranger's: names are read
without importing, and one is imported when a configured node names its network.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from .errors import ConfigError
from .exchange.stream import Wire
from .model.node import AttestedSession, Node

API_VERSION = 1
NODE_RULES = ("aci-report",)
RESPONSE_RULES = ("aci-receipt",)
GROUP = "gateway.adapters"


class RawEvidence(msgspec.Struct, frozen=True):
    """Evidence as it came. `document` is None with a stable `problem` when it could not be had.

    `spki` is the SHA-256 of the TLS leaf key of the connection it came over, None without TLS.
    """

    document: bytes | None
    problem: str | None = None
    media_type: str = "application/json"
    spki: bytes | None = None
    tls: bool = False


class Sealed(msgspec.Struct, frozen=True):
    """Where an answer's evidence was found: raw `receipt` bytes, or None with a `problem`."""

    receipt: bytes | None
    problem: str | None = None


class EvidenceClient(Protocol):
    """What an adapter may do on the network: one bounded GET to the node's own origin."""

    async def get(self, node: Node, target: str) -> RawEvidence:
        """The body behind `target` (path and query). Never raises: a failure is a `problem`."""
        ...


class Adapter(Protocol):
    """One network. Attributes are data; see the module's text for the four duties."""

    api_version: int
    network: str
    node_rule: str
    response_rule: str
    wire: Wire

    async def nodes(self, configured: Iterable[Node]) -> list[Node]: ...

    async def evidence(self, node: Node, nonce: str, client: EvidenceClient) -> RawEvidence: ...

    def request(self, session: AttestedSession, nonce: str, *, chained: bool) -> list[tuple[bytes, bytes]]: ...

    def response(self, headers: list[tuple[bytes, bytes]]) -> Sealed: ...


def load(networks: Iterable[str]) -> dict[str, Adapter]:
    """The adapters for `networks`. Raises `ConfigError` for an unknown, failing or incompatible one."""
    from importlib.metadata import entry_points

    found = {point.name: point for point in entry_points(group=GROUP)}
    adapters: dict[str, Adapter] = {}
    for network in sorted(set(networks)):
        point = found.get(network)
        if point is None:
            known = ", ".join(sorted(found)) or "none"
            raise ConfigError(f"no adapter is installed for the network {network!r}; installed: {known}")
        try:
            adapter: Adapter = point.load()
        except Exception as error:
            raise ConfigError(f"the adapter for {network!r} ({point.value}) cannot be loaded: {error!r}") from error
        if adapter.api_version != API_VERSION:
            raise ConfigError(
                f"the adapter for {network!r} speaks version {adapter.api_version} of the contract, not {API_VERSION}"
            )
        if adapter.node_rule not in NODE_RULES or adapter.response_rule not in RESPONSE_RULES:
            raise ConfigError(f"the adapter for {network!r} names a rule that is not in the registry")
        adapters[network] = adapter
    return adapters
