"""The network as sockets: RPC endpoints, an enclave behind TLS, an impostor's enclave, and the relay."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from gateway.testing.tee.nitro import World

from .chain import Chain, listed
from .enclave import Enclave, Keys
from .faults import Faults
from .http import Reply, Request, serve
from .payments import Refused as PaymentRefused
from .payments import Till
from .sealing import Refused

TOKEN = "account-token"
COSTS = {
    "X-Inference-Cost-OPG": "123456789012345",
    "X-Inference-Cost-USD": "0.000066",
    "X-Inference-Price-OPG-USD": "0.5346",
}
#: What the gateway answers when its provider fails with 500.
FAILED = {
    "error": "Error code: 500",
    "exception_type": "InternalServerError",
    "source": "provider",
    "provider_status": 500,
    "retryable": True,
}
_PROBLEM = {"type": "https://iana.org/assignments/http-problem-types#ohttp-key", "title": "key identifier unknown"}


class Network:
    """Everything on loopback. Attributes may be changed while it runs: `faults`, `paid`, `enclave.profile`, …

    `paid`: the direct path asks for x402. `layout`: see `Chain`. `rpcs`: how many endpoints; number 0 is the one that
    lies. `port` is the relay's (0: any); with `combined`, that port answers as RPC and, in plain HTTP, as enclave too.
    `think_s` passes before an answer, `gap_s` between the chunks of a stream.
    """

    def __init__(
        self,
        faults: Iterable[str] = (),
        *,
        rpcs: int = 3,
        layout: str = "tee-info-11",
        profile: str = "v3",
        paid: bool = False,
        with_ohttp: bool = True,
        port: int = 0,
        combined: bool = False,
        think_s: float = 0.0,
        gap_s: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.faults = Faults(faults)
        self.clock, self.paid, self.think_s, self.gap_s = clock, paid, think_s, gap_s
        self.nitro = World(clock(), seed="opengradient world")
        self.enclave = Enclave(self.nitro, self.faults, clock, profile)
        self.impostor = Enclave(World(clock(), seed="impostor"), Faults(), clock, profile)
        self.chain = Chain(self.faults, clock, layout)
        self.till = Till(self.faults, clock)
        self.heard: list[tuple[str, Request]] = []
        self.rpc_urls: list[str] = []
        self.relay_url = ""
        self._rpcs, self._port, self._combined, self._with_ohttp = rpcs, port, combined, with_ohttp
        self._servers: list[asyncio.Server] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    # Coming and going

    def __enter__(self) -> Network:
        """Runs in a thread of its own, so that tests of either colour can talk to it."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.start(), self._loop).result(30)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._loop is not None
        assert self._thread is not None
        asyncio.run_coroutine_threadsafe(self.stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    async def __aenter__(self) -> Network:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open every port, then register the enclave."""
        self.relay_url = await self._open("relay", self._relayed, self._port)
        for index in range(self._rpcs):
            self.rpc_urls.append(await self._open(f"rpc{index}", self._rpc(index)))
        for enclave in (self.enclave, self.impostor):
            enclave.url = await self._open_tls(enclave)
        self.chain.approved = {self.enclave.pcr_hash, self.impostor.pcr_hash}
        self.chain.aws_root = self.nitro.root.public_bytes(Encoding.DER)
        self.chain.tees = [listed(self.enclave, with_ohttp=self._with_ohttp)]
        self.chain.liar = listed(self.impostor, with_ohttp=self._with_ohttp)
        if "key_rotated" in self.faults:
            await self.rotate()

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        mine = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if self._thread is not None:  # the loop is ours, and so is everything that runs in it
            for task in mine:
                task.cancel()
            await asyncio.gather(*mine, return_exceptions=True)

    def call(self, coroutine: Any) -> Any:
        """Run one of the network's coroutines from outside its thread."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def rotate(self) -> None:
        """Restart the enclave: new keys and certificate at the same place; the registry still lists the old ones."""
        port = int(self.enclave.url.rpartition(":")[2])
        old = self.enclave.keys
        self.enclave.keys = Keys(self.nitro.label, self.clock(), old.opener.key_id + 1)
        self._tls_servers.pop(port).close()
        await self._open_tls(self.enclave, port)

    async def _open(self, name: str, handler: Any, port: int = 0, context: ssl.SSLContext | None = None) -> str:
        async def heard(request: Request) -> Reply:
            self.heard.append((name, request))
            return await handler(request)

        server = await serve(heard, port, context)
        self._servers.append(server)
        bound = server.sockets[0].getsockname()[1]
        return f"{'http' if context is None else 'https'}://127.0.0.1:{bound}"

    async def _open_tls(self, enclave: Enclave, port: int = 0) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "tls.pem")
            file.write_bytes(enclave.keys.tls_pem)
            context.load_cert_chain(file)
        name = "enclave" if enclave is self.enclave else "impostor"
        url = await self._open(name, self._at(enclave), port, context)
        self._tls_servers[int(url.rpartition(":")[2])] = self._servers[-1]
        return url

    @property
    def _tls_servers(self) -> dict[int, asyncio.Server]:
        return self.__dict__.setdefault("_tls", {})

    # The RPC endpoints

    def _rpc(self, index: int) -> Any:
        async def answer(request: Request) -> Reply:
            if index == 0 and "rpc_hang" in self.faults:
                return Reply(hang=True)
            if index == 0 and "rpc_redirect" in self.faults:
                return Reply(307, headers={"Location": self.rpc_urls[-1]})
            if index == 0 and "rpc_huge" in self.faults:
                return Reply(body=b'{"jsonrpc": "2.0", "id": 1, "result": "0x' + b"00" * (32 << 20) + b'"}')
            if request.method != "POST":
                return Reply(405)
            return _json(self.chain.answer(json.loads(request.body), index))

        return answer

    # The enclave

    def _at(self, enclave: Enclave) -> Any:
        async def answer(request: Request) -> Reply:
            if request.method == "GET":
                return self._get(enclave, request)
            if request.path == "/v1/ohttp":
                return await self._unsealed(enclave, request)
            if request.path not in ("/v1/chat/completions", "/v1/completions"):
                return _json({"error": "not found"}, 404)
            try:
                paid = self.till.admit(request.headers) if self.paid else {}
            except PaymentRefused as refused:
                return self._payment_required(request, str(refused))
            reply = await self._answer(enclave, request.path, json.loads(request.body))
            reply.headers.update(paid)
            return reply

        return answer

    def _get(self, enclave: Enclave, request: Request) -> Reply:
        if request.path == "/signing-key":
            return _json(enclave.signing_key())
        if request.path == "/v1/ohttp/config":
            return _json(enclave.ohttp_config())
        if request.path == "/health":
            return _json({"status": "OK", "version": "1.0.0", "tee_enabled": True})
        if request.path == "/enclave/attestation":
            return _attestation(enclave, request.query)
        return _json({"error": "not found"}, 404)

    def _payment_required(self, request: Request, why: str) -> Reply:
        scheme = "http" if self._combined else "https"
        required = self.till.required(f"{scheme}://{request.headers['host']}{request.target}", why)
        header = base64.b64encode(json.dumps(required).encode()).decode()
        return Reply(402, json.dumps({"error": why}).encode(), headers={"PAYMENT-REQUIRED": header})

    async def _answer(self, enclave: Enclave, path: str, body: dict[str, Any]) -> Reply:
        if self.think_s:
            await asyncio.sleep(self.think_s)
        if "err500" in self.faults:
            return _json(FAILED, 502)
        cut = "cut" in self.faults
        if path == "/v1/completions":
            return Reply(body=enclave.completion(body), short=cut)
        if body.get("stream"):
            media = "text/event-stream; charset=utf-8"
            return Reply(pieces=enclave.stream(body), media=media, gap_s=self.gap_s)
        return Reply(body=enclave.chat(body), short=cut)

    # Sealed requests, at the enclave and through the relay

    async def _unsealed(self, enclave: Enclave, request: Request) -> Reply:
        if request.headers.get("content-type") != "message/ohttp-req":
            return _json({"error": "message/ohttp-req is expected"}, 415)
        try:
            plaintext, sealer = enclave.keys.opener.open(request.body)
        except Refused:
            return Reply(400, json.dumps(_PROBLEM).encode(), "application/problem+json")
        inner = await self._answer(enclave, "/v1/chat/completions", json.loads(plaintext))
        if inner.status != 200:
            error = {"status": inner.status, "body": json.loads(inner.body)}
            return Reply(body=sealer.whole(json.dumps(error).encode()), media="message/ohttp-res", headers=dict(COSTS))
        if inner.pieces is None:
            data = sealer.whole(inner.body)
            return Reply(body=data, media="message/ohttp-res", headers=dict(COSTS), short=inner.short)
        chunks = sealer.chunks(inner.pieces, cut="cut" in self.faults)
        return Reply(pieces=chunks, media="message/ohttp-chunked-res", headers=dict(COSTS), gap_s=self.gap_s)

    async def _relayed(self, request: Request) -> Reply:
        if request.path == "/api/v1/chat/ohttp" and request.method == "POST":
            if "relay401" in self.faults or request.headers.get("authorization") != f"Bearer {TOKEN}":
                return _json({"detail": "token expired"}, 401)
            enclaves = {enclave.tee_id: enclave for enclave in (self.enclave, self.impostor)}
            known = {f"0x{tee.tee_id.hex()}" for tee in self.chain.tees}
            enclave = enclaves.get(request.headers.get("x-tee-id", ""))
            if enclave is None and request.headers.get("x-tee-id") in known:
                enclave = self.enclave  # listed, and restarted since
            return await self._unsealed(enclave, request) if enclave else _json({"detail": "no such TEE"}, 404)
        if self._combined and request.path == "/":
            return await self._rpc(0)(request)
        return await self._at(self.enclave)(request) if self._combined else _json({"error": "not found"}, 404)


def _attestation(enclave: Enclave, query: str) -> Reply:
    # nitriding takes exactly 20 bytes in hex.
    name, _, nonce = query.partition("=")
    try:
        raw = bytes.fromhex(nonce) if name == "nonce" else b""
    except ValueError:
        raw = b""
    if len(raw) != 20:
        return Reply(400, b"unexpected nonce format; must be 40-digit hex string\n", "text/plain")
    return Reply(body=enclave.attestation(raw), media="text/plain; charset=utf-8")


def _json(value: object, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value).encode())
