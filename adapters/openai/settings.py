"""The table [networks.openai] of the settings: for each node what `[[nodes]]` has no place for.

[networks.openai.nodes.groq]
api_key_env = "GROQ_API_KEY"
aliases = {"gpt-4o" = ["gpt-4o-2024-08-06"]}
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from gateway.errors import ConfigError
from gateway.model.names import is_variable
from gateway.model.node import Node

PAGE = "docs/networks/openai.md lists every key"
_MAX_ALIASES = 16


class NodeTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every key has its sentence in docs/networks/openai.md."""

    api_key_env: str | None = None
    aliases: dict[str, tuple[str, ...]] = {}


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`nodes` by the id that `[[nodes]]` gives."""

    nodes: dict[str, NodeTable] = {}


def read(table: Mapping[str, object], where: str) -> Table:
    """The table. Raises `ConfigError` that names `where` and the key; values are not repeated."""
    try:
        found = msgspec.convert(dict(table), Table)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}. {PAGE}") from None
    for name, node in found.nodes.items():
        if node.api_key_env is not None and not is_variable(node.api_key_env):
            raise ConfigError(
                f"{where}: nodes.{name}.api_key_env is the name of an environment variable, in capitals: the key "
                "itself must not stand in the file"
            )
        for model, names in node.aliases.items():
            if not 0 < len(names) <= _MAX_ALIASES or not all(names):
                raise ConfigError(f"{where}: nodes.{name}.aliases: 1 to {_MAX_ALIASES} names for {model!r:.80}")
    return found


def admit(table: Table, nodes: tuple[Node, ...], where: str) -> None:
    """Hold `[[nodes]]` and the table against each other. Raises `ConfigError`."""
    by_id = {node.id: node for node in nodes}
    for name, extra in table.nodes.items():
        if name not in by_id:
            raise ConfigError(f"{where}: nodes.{name} is set, and no node of [[nodes]] with this network has that id")
        unknown = sorted(extra.aliases.keys() - set(by_id[name].models))
        if unknown:
            raise ConfigError(f"{where}: nodes.{name}.aliases names {unknown[0]!r:.80}, which is not among its models")
    for node in nodes:
        keyed = node.id in table.nodes and table.nodes[node.id].api_key_env is not None
        if problem := _problem(node, keyed=keyed):
            raise ConfigError(f"node {node.id!r}: {problem}")


def _problem(node: Node, *, keyed: bool) -> str | None:
    if not node.base_url:
        return "base_url is missing; this network has no registry that would say where the node is"
    if node.base_url.rstrip("/").endswith("/v1"):
        return "base_url is without /v1, which the paths of the API begin with"
    if node.pin is not None:
        return "pin names a keyset, and a node of this network shows none; remove it, or use the network that it shows"
    if keyed and not _safe(node.base_url):
        return "its API key would cross the network in the clear; use https"
    return None


def _safe(url: str) -> bool:
    """Whether a key may go to `url`: over TLS, or no further than this machine."""
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" or parts.hostname == "localhost" or _loopback(parts.hostname or "")
    except ValueError:
        return False


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
