"""A gateway in front of the OpenGradient test network: settings, and what an agent sees."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from opengradient_world import Network
from opengradient_world.chain import REGISTRY
from opengradient_world.network import TOKEN
from running import Gateway

MODEL = "gpt-4.1"
TOKEN_ENV = {"VERIROUTE_OPENGRADIENT_TOKEN": TOKEN}


def settings(network: Network, folder: Path, **table: Any) -> dict[str, dict[str, Any]]:
    """The sections of a settings file that lead to `network`, believing its test root."""
    root = folder / "nitro-root.der"
    root.write_bytes(network.nitro.root.public_bytes(Encoding.DER))
    pcrs = folder / "pcrs.json"
    row = {"pcr_hash": f"0x{network.enclave.pcr_hash.hex()}", "name": "the test network", "status": "known"}
    row |= {"repository": "tests/opengradient_world", "commit": "0000000", "basis": "rebuilt"}
    pcrs.write_text(json.dumps({"schema": "opengradient-pcrs/1", "versions": [row]}), "utf-8")
    return {
        "tee": {"dangerous_test_roots": [str(root)], "dangerous_allow_test_roots": True},
        "networks.opengradient": {
            "rpc": network.rpc_urls,
            "registry": REGISTRY,
            "confirmations": 0,
            "relay_url": network.relay_url,
            "pcr_table": str(pcrs),
            **table,
        },
    }


def node(**more: Any) -> dict[str, Any]:
    return {"id": "og", "network": "opengradient", "models": [MODEL], **more}


@contextlib.contextmanager
def gateway_for(
    network: Network, folder: Path, *, table: dict[str, Any] | None = None, pin: bool = True, **sections: Any
) -> Iterator[Gateway]:
    """A gateway that serves one node of `network`, by its TEE id or (without `pin`) by what the registry lists."""
    named = node(pin=network.enclave.tee_id) if pin else node()
    gateway = Gateway(folder, [named], **{**settings(network, folder, **(table or {})), **sections})
    gateway.start(env=TOKEN_ENV)
    try:
        yield gateway
    finally:
        gateway.stop()
