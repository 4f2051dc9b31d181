"""What `nodes` and `doctor` share: one network's adapter, and the means to ask its registry and its nodes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from gateway.adapter import Adapter, Discovered, load
from gateway.errors import ConfigError
from gateway.fleet.attest import Attestation, Attester, discovered, open_attester
from gateway.fleet.collateral import open_collateral
from gateway.fleet.tee_roots import trust_roots
from gateway.model.node import Node
from gateway.settings import Settings
from gateway.upstream.limits import Limits
from gateway.upstream.pool import UpstreamPool


@dataclass
class Network:
    """One network under way. `configured` are its nodes of the settings."""

    name: str
    adapter: Adapter
    attester: Attester
    configured: tuple[Node, ...]
    pool: UpstreamPool

    async def discover(self) -> Discovered:
        """The nodes that there are now. Raises what the registry's failure is (`VerirouteError` with a reason)."""
        return await discovered(self.adapter, self.name, self.configured, self.attester)

    async def attest(self, node: Node) -> Attestation:
        return await self.attester.attest(node, self.adapter)


@contextlib.asynccontextmanager
async def open_network(settings: Settings, name: str) -> AsyncIterator[Network]:
    """The network `name` of `settings`. Raises `ConfigError` when no node names it, or its table is wrong."""
    configured = _configured(settings.node_values, name)
    tables = {name: settings.networks[name]} if name in settings.networks else {}
    adapter = load(configured, tables)[name]
    async with contextlib.AsyncExitStack() as stack:
        pool = UpstreamPool(Limits(body_bytes=settings.upstream.max_response_bytes))
        stack.push_async_callback(pool.close)
        roots = trust_roots(settings)
        collateral = open_collateral(settings, pool, roots=roots, now=time.time)
        stack.push_async_callback(collateral.close)
        attester = open_attester(settings, pool, endorse=collateral.endorse, roots=roots)
        stack.push_async_callback(attester.close)
        yield Network(name, adapter, attester, configured, pool)


def _configured(nodes: Iterable[Node], name: str) -> tuple[Node, ...]:
    found = tuple(node for node in nodes if node.network == name)
    if not found:
        raise ConfigError(
            f'no node of the settings names the network {name!r}. Add [[nodes]] with network = "{name}", an id and its '
            "models; docs/networks says what else it needs"
        )
    return found
