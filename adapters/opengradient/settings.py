"""The table [networks.opengradient] of the settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from gateway.errors import ConfigError
from gateway.model.names import is_variable

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
    found = []
    if not table.rpc or len({_place(url) for url in table.rpc}) != len(table.rpc):
        found.append("rpc must name at least one JSON-RPC endpoint, each on a host or port of its own")
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


def _place(url: str) -> str:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return url
