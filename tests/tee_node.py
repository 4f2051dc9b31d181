"""A node over TLS that is driven from the test, with a synthetic machine whose evidence and certificate can be changed.

    node = TeeNode(folder, Tdx(made_at), "tdx")
    node.evidence = lambda machine, ask: machine.evidence(ask.other_nonce)
    node.heard                                    every byte that came, evidence requests included

It runs in the test's own process, so that what the gateway sent is known byte for byte.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from scripted import Received, ScriptedNode
from support_tls import Issued, self_signed

from gateway.testing.tee import amd, dstack, intel, nitro
from gateway.verify import aci

DAY = 86_400


class Ask:
    """What the evidence is to commit to: the statement of a keyset and a nonce."""

    def __init__(self, keyset: str, nonce: str) -> None:
        self.keyset, self.nonce = keyset, nonce

    @property
    def data(self) -> bytes:
        """The 64 bytes that commit to it."""
        return aci.report_data(aci.statement(self.keyset, self.nonce))

    def of_another_nonce(self) -> Ask:
        return Ask(self.keyset, secrets.token_hex(32))

    def of_another_key(self) -> Ask:
        return Ask("sha256:" + secrets.token_hex(32), self.nonce)


class Tdx:
    """A TDX guest with dstack's log."""

    tee_type, roots = "tdx", ("root.der",)

    def __init__(self, seed: str, now: float) -> None:
        self.fmspc = hashlib.sha256(f"fmspc {seed}".encode()).hexdigest()[:12]
        self.world = intel.World(
            now=now, seed=seed, fmspc=self.fmspc.upper(), extension=intel.sgx_extension(fmspc=bytes.fromhex(self.fmspc))
        )
        self.compose = dstack.app_compose()
        self.hash = hashlib.sha256(self.compose).digest()
        self.log = dstack.booted().system(self.hash)

    @property
    def root(self) -> bytes:
        return self.world.root_der

    def quote(self, data: bytes, **changes: Any) -> bytes:
        what = {"rtmrs": self.log.rtmrs(), "mr_config_id": b"\1" + self.hash + bytes(15), **changes}
        return self.world.quote(report_data=data, **what)

    def evidence(self, data: bytes, nonce: str, **changes: Any) -> dict[str, Any]:
        return self.shown(self.quote(data, **changes))

    def shown(self, quote: bytes, **members: Any) -> dict[str, Any]:
        return {
            "platform": "tdx",
            "quote": quote.hex(),
            "event_log": self.log.json().decode(),
            "app_compose": self.compose.decode(),
            **members,
        }

    def documents(self, **changes: Any) -> dict[str, bytes]:
        """The vendor's documents by their paths below `supplied`; `changes` are `World.collateral`'s arguments."""
        return {f"intel/tdx-{self.fmspc}-platform.json": self.world.collateral(**changes)}


class Snp:
    """A SEV-SNP guest."""

    tee_type = "sev-snp"

    def __init__(
        self, seed: str, now: float, keys: tuple[rsa.RSAPrivateKey, rsa.RSAPrivateKey], product: str = "Genoa"
    ) -> None:
        self.now = now
        self.world = amd.World(product, label=seed, keys=keys)

    @property
    def root(self) -> bytes:
        return self.world.ark

    def evidence(self, data: bytes, nonce: str, **changes: Any) -> dict[str, Any]:
        return self.shown(self.world.report(report_data=data, **changes))

    def shown(self, report: bytes, **members: Any) -> dict[str, Any]:
        return {"platform": "snp", "report": report.hex(), **members}

    def documents(self, crl: bytes | None = None) -> dict[str, bytes]:
        world = self.world
        base = f"amd/{world.product}"
        tcb = "-".join(f"{part}{world.levels[part]}" for part in ("bl", "tee", "snp", "ucode"))
        return {
            f"{base}/ark.der": world.ark,
            f"{base}/ask.der": world.ask,
            f"{base}/vcek.crl": crl or world.crl(this_update=self.now - DAY, next_update=self.now + 29 * DAY),
            f"{base}/vcek-{world.chip.hex()}-{tcb}.der": world.ek,
        }


class Nitro:
    """A Nitro enclave, whose document brings all that it is held against."""

    tee_type = "nitro"

    def __init__(self, seed: str, now: float) -> None:
        self.world = nitro.World(now=now, seed=seed)

    @property
    def root(self) -> bytes:
        return nitro.der(self.world.root)

    def evidence(self, data: bytes, nonce: str, **changes: Any) -> dict[str, Any]:
        members = {"user_data": data, "nonce": bytes.fromhex(nonce), "timestamp": time.time(), **changes}
        return self.shown(self.world.document(**members))

    def shown(self, document: bytes, **members: Any) -> dict[str, Any]:
        return {"platform": "nitro", "document": base64.b64encode(document).decode(), **members}

    def documents(self) -> dict[str, bytes]:
        return {}


Machine = Tdx | Snp | Nitro
Evidence = Callable[[Any, Ask], Mapping[str, Any]]


def honest(machine: Machine, ask: Ask) -> Mapping[str, Any]:
    return machine.evidence(ask.data, ask.nonce)


class TeeNode(ScriptedNode):
    """`evidence(machine, ask)` is what its report shows; `wear` gives it another certificate from the next handshake on."""

    def __init__(self, folder: Path, machine: Machine, name: str, evidence: Evidence = honest) -> None:
        self.machine, self.evidence, self.name = machine, evidence, name
        self.heard = bytearray()
        self.said: Mapping[str, Any] = {}  # members of the report that are not as they should be
        self._folder = folder
        self.own = self_signed("node", addresses=["127.0.0.1"])
        self._context = self.own.server_context(folder)
        super().__init__(hashlib.sha256(name.encode()).digest(), (name,))
        self.keyset["tls_public_keys"] = [{"spki_sha256": self.own.spki.hex()}]
        self.answers()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def table(self, name: str = "", **more: Any) -> dict[str, Any]:
        """Without a pin: it is the hardware that vouches for the keys."""
        return {"id": name or self.name, "base_url": self.url, "models": list(self.models), **more}

    def wear(self, certificate: Issued) -> None:
        file = self._folder / f"{certificate.spki.hex()}.pem"
        file.write_bytes(certificate.pem())
        self._context.load_cert_chain(file)

    def answers(self, **members: Any) -> None:
        """Answer with a signed text; `members` change its receipt."""
        choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        body = {"id": "c", "object": "chat.completion", "created": 1, "model": self.models[0], "choices": [choice]}
        self.script = self.json(json.dumps(body).encode(), **members)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        feed = reader.feed_data

        def listen(data: bytes) -> None:
            self.heard.extend(data)
            feed(data)

        self.heard.extend(reader._buffer)  # type: ignore[attr-defined]
        reader.feed_data = listen  # type: ignore[method-assign]
        await super()._serve(reader, writer)

    def _report(self, nonce: str) -> bytes:
        ask = Ask(self.pin, nonce)
        return json.dumps(
            {
                "api_version": "aci/1",
                "workload_keyset_digest": self.pin,
                "attestation": {
                    "tee_type": self.machine.tee_type,
                    "workload_keyset": self.keyset,
                    "report_data": ask.data.hex(),
                    "evidence": self.evidence(self.machine, ask),
                    **self.said,
                },
                "service_capabilities": {
                    "serving": "direct",
                    "extensions": self.extensions,
                    "models": list(self.models),
                },
            }
        ).encode()


def supply(folder: Path, documents: Mapping[str, bytes]) -> None:
    """Put the vendors' documents where a gateway with `folder` as its collateral directory looks for them."""
    for path, data in documents.items():
        place = folder / "supplied" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


__all__ = ["Ask", "Nitro", "Received", "Snp", "Tdx", "TeeNode", "honest", "supply"]
