"""Intel's, AMD's and NVIDIA's services on loopback, over worlds of our own: every answer can be changed, delayed or withheld.

async with vendors(intel=intel.World(), amd=amd.World()) as service:
    service.url, service.asked, service.answers["/tdx/certification/v4/tcb"] = Answer(status=500)
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from support_peer import Peer, peer, read_request

from . import amd as amd_world
from . import intel as intel_world


class Answer(msgspec.Struct, frozen=True):
    """One response. `cut` sends only so many bytes of the body and closes."""

    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    status: int = 200
    cut: int | None = None

    def wire(self) -> bytes:
        head = [f"HTTP/1.1 {self.status} X", f"content-length: {len(self.body)}"]
        head += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join(head).encode() + b"\r\n\r\n" + self.body[: self.cut]


class Vendors:
    """What is answered, by path without the query; what was asked, as targets; `gate` holds answers back."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.responses: dict[int, bytes] = {}  # of the OCSP responder, by the certificate's serial number
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    def take_intel(self, world: intel_world.World, **changes: Any) -> None:
        """Answer as Intel for this platform; `changes` are `World.collateral`'s arguments."""
        for tee in ("tdx", "sgx"):
            self._take_intel(tee, json.loads(world.collateral(sgx=tee == "sgx", **changes)))

    def _take_intel(self, tee: str, envelope: dict[str, str]) -> None:
        for path, name, member, header in (
            ("tcb", "tcb_info", "tcbInfo", "TCB-Info-Issuer-Chain"),
            ("qe/identity", "qe_identity", "enclaveIdentity", "SGX-Enclave-Identity-Issuer-Chain"),
        ):
            body = f'{{"{member}":{envelope[name]},"signature":"{envelope[f"{name}_signature"]}"}}'
            chain = quote(envelope[f"{name}_issuer_chain"])
            self.answers[f"/{tee}/certification/v4/{path}"] = Answer(body.encode(), ((header, chain),))
        chain = quote(envelope["pck_crl_issuer_chain"])
        crl = bytes.fromhex(envelope["pck_crl"])
        self.answers["/sgx/certification/v4/pckcrl"] = Answer(crl, (("SGX-PCK-CRL-Issuer-Chain", chain),))
        self.answers["/root.der"] = Answer(bytes.fromhex(envelope["root_ca_crl"]))

    def take_amd(self, world: amd_world.World, **crl: Any) -> None:
        """Answer as AMD for this machine; `crl` are `World.crl`'s arguments."""
        role = "vlek" if world.vlek else "vcek"
        base = f"/{role}/v1/{world.product}"
        chain = b"".join(
            x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in (world.ask, world.ark)
        )
        self.answers[f"{base}/cert_chain"] = Answer(chain)
        self.answers[f"{base}/crl"] = Answer(world.crl(**crl))
        self.answers[f"{base}/{key_path(world)}"] = Answer(world.ek)

    def take_manifest(self, name: str, data: bytes, **more: Any) -> None:
        """Answer as NVIDIA's RIM service for this name; `more` are members beside the manifest."""
        body = {"id": name, "rim": base64.b64encode(data).decode(), "rim_format": "TCG_SWID", **more}
        self.answers[f"/v1/rim/{name}"] = Answer(json.dumps(body).encode())

    def take_status(self, certificate: x509.Certificate, response: bytes) -> None:
        """Answer as NVIDIA's OCSP responder about this certificate."""
        self.responses[certificate.serial_number] = response

    def respond(self, request: bytes) -> Answer:
        """The responder: reads the request as RFC 6960 has it, and refuses what is none."""
        head, _, body = request.partition(b"\r\n\r\n")
        if b"content-type: application/ocsp-request" not in head.lower():
            return Answer(status=415)
        found = self.responses.get(ocsp.load_der_ocsp_request(body).serial_number)
        return Answer(status=404) if found is None else Answer(found)

    def count(self, part: str) -> int:
        """How many requests had `part` in their target."""
        return sum(part in target for target in self.asked)


def key_path(world: amd_world.World) -> str:
    """The last part of a VCEK's path: the chip."""
    return (world.chip[:8] if world.turin else world.chip).hex()


@contextlib.asynccontextmanager
async def vendors() -> AsyncIterator[Vendors]:
    """Serve on a free port of loopback."""
    service = Vendors()

    async def script(node: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(node, reader):
            target = node.requests[-1].split(b" ")[1].decode()
            service.asked.append(target)
            await service.gate.wait()
            answer = service.answers.get(target.partition("?")[0], Answer(status=404))
            if target == "/ocsp" and target not in service.answers:
                answer = service.respond(node.requests[-1])
            writer.write(answer.wire())
            await writer.drain()
            if answer.cut is not None:
                return

    async with peer(script) as node:
        service.url = f"http://127.0.0.1:{node.port}"
        yield service
