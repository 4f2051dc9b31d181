"""Start the network by hand: `PYTHONPATH=tests python -m opengradient_world --root root.der [--fault NAME]…`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from .chain import REGISTRY
from .faults import FAULTS
from .network import TOKEN, Network


async def main() -> None:
    parser = argparse.ArgumentParser(
        description="An OpenGradient network on loopback. --port answers as relay, as RPC and, in plain HTTP, as enclave.",
        epilog="faults: " + "; ".join(f"{name}: {meaning}" for name, meaning in FAULTS.items()),
    )
    parser.add_argument("--port", type=int, default=18545)
    parser.add_argument("--fault", action="append", default=[], choices=sorted(FAULTS), metavar="NAME")
    parser.add_argument("--layout", default="tee-info-11", choices=["tee-info-11", "tee-info-10", "registry-v2"])
    parser.add_argument("--profile", default="v3", choices=["v1", "v2", "v3"])
    parser.add_argument("--rpcs", type=int, default=3)
    parser.add_argument("--paid", action="store_true", help="the direct path asks for x402")
    parser.add_argument("--root", type=Path, metavar="FILE", help="write the attestation root's certificate here (DER)")
    parser.add_argument("--think-ms", type=float, default=0)
    parser.add_argument("--chunk-ms", type=float, default=0)
    options = parser.parse_args()
    network = Network(
        options.fault,
        rpcs=options.rpcs,
        layout=options.layout,
        profile=options.profile,
        paid=options.paid,
        port=options.port,
        combined=True,
        think_s=options.think_ms / 1000,
        gap_s=options.chunk_ms / 1000,
    )
    if options.root is not None:
        options.root.write_bytes(network.nitro.root.public_bytes(Encoding.DER))
    async with network:
        print(json.dumps(described(network)), flush=True)
        await asyncio.Event().wait()


def described(network: Network) -> dict[str, object]:
    """What a client has to be told."""
    return {
        "relay": network.relay_url,
        "token": TOKEN,
        "rpcs": network.rpc_urls,
        "registry": REGISTRY,
        "enclave": network.enclave.url,
        "tee_id": network.enclave.tee_id,
        "pcr_hash": f"0x{network.enclave.pcr_hash.hex()}",
        "root_sha256": network.nitro.roots.anchors[0].sha256,
    }


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
