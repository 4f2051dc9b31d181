"""The table [networks.opengradient] of the settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from gateway.errors import ConfigError
from gateway.model.names import is_variable
from gateway.verify.opengradient.dossier import MAX_ANSWERS, RPC_NAME

from .rpc import place_of

#: The TEE registry that OpenGradient's SDK 1.1.4 uses, and its chain.
REGISTRY = "0x703cb174aeadb35d611858369b4b1111dc9abda6"
CHAIN_ID = 10740

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every key has its sentence in docs/networks/opengradient.md."""

    rpc: tuple[str, ...]
    rpc_agree: int = 0
    rpc_timeout_s: float = 5.0
    confirmations: int = 2
    chain_id: int = CHAIN_ID
    registry: str = REGISTRY
    first_block: int = 0
    transport: Literal["direct", "ohttp"] = "direct"
    relay_url: str = ""
    relay_token_env: str = "VERIROUTE_OPENGRADIENT_TOKEN"  # noqa: S105 - the name of a variable
    refresh_s: float = 300.0
    max_heartbeat_age_s: float = 1800.0
    attestation_ttl_s: float = 3600.0
    pcr_table: str | None = None

    @property
    def agree(self) -> int:
        """How many endpoints have to say the same: as set, or more than half of them."""
        return self.rpc_agree or len(self.rpc) // 2 + 1


def read(table: Mapping[str, object], where: str) -> Table:
    """The table. Raises `ConfigError` that names `where` and the key."""
    try:
        found = msgspec.convert(dict(table), Table)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}. docs/networks/opengradient.md lists every key") from None
    for problem in _problems(found):
        raise ConfigError(f"{where}: {problem}")
    return found


def _problems(table: Table) -> list[str]:
    found = _rpc_problems(table.rpc)
    if not 0 <= table.rpc_agree <= len(table.rpc):
        found.append("rpc_agree cannot be more than there are endpoints")
    if _ADDRESS.fullmatch(table.registry) is None:
        found.append("registry must be 0x and 40 hex digits")
    if table.transport == "ohttp" and not table.relay_url:
        found.append('transport = "ohttp" needs relay_url, the origin of the relay')
    if not is_variable(table.relay_token_env):
        found.append(
            "relay_token_env is the name of an environment variable, in capitals: the token itself must not stand in "
            "the file"
        )
    for name in ("rpc_timeout_s", "refresh_s", "max_heartbeat_age_s", "attestation_ttl_s"):
        if not 0 < getattr(table, name) < float("inf"):
            found.append(f"{name} must be a number of seconds above 0")
    if table.confirmations < 0 or table.first_block < 0 or table.chain_id < 1:
        found.append("confirmations and first_block are not negative, and a chain id is positive")
    return found


def _rpc_problems(urls: Sequence[str]) -> list[str]:
    """Whatever passes here, a dossier can name. A URL is told by its place in the list: its path may hold a key."""
    try:
        places = {place_of(url, f"number {number}") for number, url in enumerate(urls, 1)}
    except ConfigError as error:
        return [f"rpc: {error.message}"]
    names = {endpoint_name(url) for url in urls}
    if not 0 < len(places) == len(names) == len(urls):
        return ["rpc must name at least one JSON-RPC endpoint, each on a host or port of its own"]
    if len(urls) > MAX_ANSWERS:
        return [f"rpc names {len(urls)} endpoints, and the answers of {MAX_ANSWERS} are kept"]
    bad = sorted(name for name in names if RPC_NAME.fullmatch(name) is None)
    return [f"rpc: {bad[0]!r} is not a host"] if bad else []


def endpoint_name(url: str) -> str:
    """What the endpoint at `url` is called in dossiers: host and port, never path or query, which may hold a key."""
    return urlsplit(url).netloc.lower()[:64]
