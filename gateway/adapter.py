"""The adapter contract: what is particular to one network. An adapter picks rules and translates; it never judges.

    configured  itself, with the table [networks.<name>] of the settings
    admit       whether the nodes of the settings are ones that the network can have
    discover    the network's current nodes (I/O)
    evidence    the raw evidence of one node, with our nonce (I/O)
    request     what a request to the node carries beside the caller's bytes (pure)
    response    where the evidence of an answer stands, if not in its body (pure)
    sealing     whether prompts go sealed through a relay, and how (pure)

`node_rule` and `response_rule` name entries of closed registries (`NODE_RULES`, `gateway.exchange.rules`), whose
functions are in `gateway.verify`. Adapters are found by the entry-point group `gateway.adapters`, ours like a
stranger's: names are read without importing, and one is imported when a configured node names its network. One that
raises, or does not come back from what it awaits, costs its own network; one that blocks costs the whole process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol, Self

import msgspec

from .errors import AdapterUnusable, ConfigError, VerirouteError
from .exchange.rules import RULES as RESPONSE_RULES
from .exchange.stream import Wire
from .model.node import AttestedSession, Node

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    import httpx

API_VERSION = 3
NODE_RULES = ("aci-report", "opengradient-dossier", "none")
GROUP = "gateway.adapters"
JSON_ONLY = ("application/json",)


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


class Sealing(msgspec.Struct, frozen=True):
    """How a prompt reaches a node sealed, through a relay: the relay's path, the node's name there, and the relay's own
    `authorization` (a whole header value; it stays out of `repr`). The key to seal to is the session's."""

    target: bytes
    node: str
    authorization: bytes | None = None

    def __repr__(self) -> str:
        return f"Sealing({self.target!r}, {self.node!r})"


class Alarm(msgspec.Struct, frozen=True):
    """Something that a network's registry did and an operator must hear of: a stable `kind`, and what it is about."""

    kind: str
    about: Mapping[str, str | int]


class Discovered(msgspec.Struct, frozen=True):
    """The nodes that there are now. `unresolved` maps the id of a configured node to why there is none for it."""

    nodes: tuple[Node, ...]
    unresolved: Mapping[str, str] = {}
    alarms: tuple[Alarm, ...] = ()


class EvidenceClient(Protocol):
    """What an adapter may do on the network. Every answer is bounded in size and time; redirects are not followed."""

    @property
    def web(self) -> httpx.AsyncClient:
        """For registries and other public services: TLS by the web's rules."""
        ...

    async def get(self, node: Node, target: str, media_types: tuple[str, ...] = JSON_ONLY) -> RawEvidence:
        """The body behind `target` (path and query) at the node, over any TLS key. Never raises: see `problem`."""
        ...


class Adapter(Protocol):
    """One network. Attributes are data; see the module's text for the duties.

    `refresh_s`: how often nodes are looked for anew, None when the configured nodes are all. `node_terms` is handed to
    the node rule as it is; `x402`: whether a node's 402 may be paid.
    """

    api_version: int
    network: str
    node_rule: str
    response_rule: str
    wire: Wire
    refresh_s: float | None
    node_terms: object
    x402: bool

    def configured(self, table: Mapping[str, object], where: str) -> Self:
        """An adapter for these settings. Raises `ConfigError` that names `where` and the key."""
        ...

    def admit(self, nodes: tuple[Node, ...]) -> None:
        """Raises `ConfigError` for a node of the settings that this network cannot have as it is written."""
        ...

    async def discover(self, configured: Iterable[Node], client: EvidenceClient) -> Discovered: ...

    async def evidence(self, node: Node, nonce: str, client: EvidenceClient) -> RawEvidence: ...

    def request(self, session: AttestedSession, nonce: str, *, chained: bool) -> list[tuple[bytes, bytes]]: ...

    def response(self, headers: list[tuple[bytes, bytes]]) -> Sealed:
        """The evidence outside of the answer's body. Names of `headers` are in lower case."""
        ...

    def sealing(self, session: AttestedSession) -> Sealing | None: ...


def load(nodes: Iterable[Node], tables: Mapping[str, Mapping[str, object]] | None = None) -> dict[str, Adapter]:
    """The adapters for the networks of `nodes`, configured from `tables`. Raises `ConfigError` for one that cannot be
    used (`AdapterUnusable` where that is its own fault), and for a node that its network cannot have."""
    adapters, unusable = load_usable(nodes, tables)
    for error in unusable.values():
        raise error
    return adapters


def load_usable(
    nodes: Iterable[Node], tables: Mapping[str, Mapping[str, object]] | None = None
) -> tuple[dict[str, Adapter], dict[str, AdapterUnusable]]:
    """As `load`, but an adapter that fails by itself costs its own network alone: by network, what is wrong with each
    such one. Raises that where no adapter is left."""
    from importlib.metadata import entry_points

    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    of: dict[str, list[Node]] = {}
    for node in nodes:
        of.setdefault(node.network, []).append(node)
    wanted, tables = of.keys(), tables or {}
    unused = sorted(tables.keys() - wanted)
    if unused:
        raise ConfigError(f"[networks.{unused[0]}] is set, and no node in [[nodes]] names that network")
    adapters: dict[str, Adapter] = {}
    unusable: dict[str, AdapterUnusable] = {}
    for network in sorted(wanted):
        if network not in found:
            known = ", ".join(sorted(found)) or "none"
            raise ConfigError(
                f"node {of[network][0].id!r}: no adapter is installed for the network {network!r}; installed: {known}"
            )
        try:
            adapters[network] = _loaded(_only(found[network]), tables.get(network, {}), tuple(of[network]))
        except AdapterUnusable as error:
            unusable[network] = error
    if unusable and not adapters:
        raise next(iter(unusable.values()))
    return adapters, unusable


def _only(points: list[EntryPoint]) -> EntryPoint:
    """The one adapter that the installed packages bring. Of two, which is found last is chance: none is taken."""
    if len({point.value for point in points}) > 1:
        brought = ", ".join(sorted(f"{point.value} of {point.dist.name if point.dist else '?'}" for point in points))
        raise ConfigError(
            f"several packages bring an adapter for {points[0].name!r}: {brought}; uninstall all but the one to be used"
        )
    return points[0]


def _loaded(point: EntryPoint, table: Mapping[str, object], nodes: tuple[Node, ...]) -> Adapter:
    what = f"the adapter for {point.name!r} ({point.value})"
    try:
        adapter: Adapter = point.load()
    except (Exception, SystemExit) as error:
        raise AdapterUnusable(f"{what} cannot be loaded: {error!r}") from error
    if isinstance(adapter, type):
        raise AdapterUnusable(f"{what} is a class; an instance has to stand there")
    _has(adapter, ("api_version", "configured"), what)
    if adapter.api_version != API_VERSION:
        raise AdapterUnusable(f"{what} speaks version {adapter.api_version} of the contract, not {API_VERSION}")
    try:
        adapter = adapter.configured(table, f"[networks.{point.name}]")
        _has(adapter, _MEMBERS, f"what configured() of {what} gives back")
        adapter.admit(nodes)
    except VerirouteError:
        raise
    except (Exception, SystemExit) as error:  # its words are not repeated: they may hold what a table holds
        raise AdapterUnusable(f"{what} failed at the settings: {type(error).__name__}") from error
    if adapter.node_rule not in NODE_RULES or adapter.response_rule not in tuple(RESPONSE_RULES):
        raise AdapterUnusable(f"{what} names a rule that is not in the registry")
    return adapter


def _has(adapter: Adapter, members: Iterable[str], what: str) -> None:
    lacking = next((name for name in members if not hasattr(adapter, name)), None)
    if lacking is not None:
        raise AdapterUnusable(f"{what} lacks {lacking!r} of the contract")


_MEMBERS = (*Adapter.__annotations__, *(name for name in vars(Adapter) if not name.startswith("_")))
