"""A node that sends exactly the bytes a test wants, signed or not: a raw socket server that speaks the node profile.

The keys are made here; everything it attests is under a test identity. It records what it received, byte for byte, and
when its peer left.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from gateway.crypto.canonical import jcs
from gateway.crypto.signatures import Ed25519Signer
from gateway.verify import aci

Send = Callable[[bytes], Any]


class Received:
    """One request as it came."""

    def __init__(self, line: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.method, self.target, _ = line.split(b" ")
        self.headers = headers
        self.body = body
        self.left_after: float | None = None

    def header(self, name: bytes) -> bytes:
        return next((v for n, v in self.headers if n.lower() == name), b"")


class ScriptedNode:
    """`script(received)` yields the bytes of the answer, head and all; a float is a pause in seconds."""

    def __init__(self, seed: bytes = b"\x11" * 32, models: tuple[str, ...] = ("m",)) -> None:
        self.signer = Ed25519Signer(seed)
        self.models = models
        self.received: list[Received] = []
        self.script: Callable[[Received], AsyncIterator[bytes | float]] = self.json(b"{}")
        self.extensions = ["inline-receipt", "request-nonce", "chained"]
        self.keyset: dict[str, Any] = {
            "subject": "scripted",
            "not_after": 2_000_000_000,
            "receipt_signing_keys": [{"key_id": "k", "algo": "ed25519", "public_key": self.signer.public_key.hex()}],
            "e2ee_public_keys": [],
            "tls_public_keys": [],
        }
        self.attestations = 0
        self.playing = 0  # answers under way
        self.closes = True  # whether answers say that the connection ends after them, as it does
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(5)
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pin(self) -> str:
        return aci.keyset_digest(self.keyset)

    def table(self, name: str = "scripted", **more: Any) -> dict[str, Any]:
        return {"id": name, "base_url": self.url, "models": list(self.models), "pin": self.pin, **more}

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    # -- what answers are made of -------------------------------------------------------------------------------------

    def receipt(self, of: Received, covered: bytes, **members: Any) -> bytes:
        """A receipt as the node profile wants it, its members changed by `members`."""
        document: dict[str, Any] = {
            "api_version": "aci/1", "receipt_id": "r-1", "chat_id": "chatcmpl-ORIG", "model": self.models[0],
            "workload_keyset_digest": self.pin, "endpoint": of.target.decode(), "method": "POST",
            "served_at": int(time.time()), "key_id": "k", "request_nonce": of.header(b"x-aci-nonce").decode(),
            "event_log": [
                {"type": "request.received", "body_hash": "sha256:" + hashlib.sha256(of.body).hexdigest()},
                {"type": "response.returned", "body_hash": "sha256:" + hashlib.sha256(covered).hexdigest()},
            ],
            **members,
        }  # fmt: skip
        document["signature"] = self.signer.sign(jcs(document)).hex()
        return jcs(document)

    def head(
        self, status: int, body: bytes | None, *headers: tuple[str, str], media: str = "application/json"
    ) -> bytes:
        lines = [f"HTTP/1.1 {status} X", f"content-type: {media}", *(f"{n}: {v}" for n, v in headers)]
        if self.closes:
            lines.append("connection: close")
        lines.append(f"content-length: {len(body)}" if body is not None else "transfer-encoding: chunked")
        return "\r\n".join([*lines, "", ""]).encode()

    def json(
        self, body: bytes, *headers: tuple[str, str], status: int = 200, covered: bytes | None = None, **members: Any
    ) -> Callable[[Received], AsyncIterator[bytes | float]]:
        """One signed JSON answer; `covered` is signed in place of `body`, `members` change the receipt."""

        async def script(of: Received) -> AsyncIterator[bytes | float]:
            receipt = base64.b64encode(self.receipt(of, body if covered is None else covered, **members)).decode()
            yield self.head(status, body, ("x-aci-receipt", receipt), *headers) + body

        return script

    def sse(
        self,
        stream: bytes,
        *,
        sign: bytes | None = None,
        receipt: bool = True,
        end: bool = True,
        cut: int | None = None,
    ) -> Callable[[Received], AsyncIterator[bytes | float]]:
        """One stream with its receipt event; `sign` is covered in place of `stream`; `cut` stops after so many bytes."""

        async def script(of: Received) -> AsyncIterator[bytes | float]:
            yield self.head(200, None, ("x-receipt-id", "r-1"), media="text/event-stream")
            tail = b""
            if receipt:
                signed = base64.b64encode(self.receipt(of, stream if sign is None else sign))
                tail = b"event: aci.receipt\ndata: " + signed + b"\n\n"
            whole = (stream + tail)[:cut]
            for at in range(0, len(whole), 97):
                piece = whole[at : at + 97]
                yield b"%x\r\n%b\r\n" % (len(piece), piece)
            if end and cut is None:
                yield b"0\r\n\r\n"

        return script

    def raw(self, *parts: bytes | float) -> Callable[[Received], AsyncIterator[bytes | float]]:
        async def script(of: Received) -> AsyncIterator[bytes | float]:
            for part in parts:
                yield part

        return script

    # -- the server ---------------------------------------------------------------------------------------------------

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _shut(self) -> None:
        self._server.close()
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()
        await asyncio.sleep(0.05)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                line, *fields = head[:-4].split(b"\r\n")
                headers = [(n, v.strip()) for n, _, v in (f.partition(b":") for f in fields)]
                length = next((int(v) for n, v in headers if n.lower() == b"content-length"), 0)
                of = Received(line, headers, await reader.readexactly(length))
                if of.target.startswith(b"/v1/aci/attestation"):
                    self.attestations += 1
                    body = self._report(of.target.split(b"nonce=")[1].decode())
                    writer.write(self.head(200, body) + body)
                    await writer.drain()
                    continue
                self.received.append(of)
                if not await self._play(of, reader, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return
        finally:
            writer.close()

    async def _play(self, of: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection can be used again: the script ended as HTTP does."""
        begun = time.monotonic()
        leaving = asyncio.ensure_future(reader.read(1))
        self.playing += 1
        try:
            async for part in self.script(of):
                if isinstance(part, float):
                    await asyncio.wait([leaving], timeout=part)
                else:
                    writer.write(part)
                    await writer.drain()
                if leaving.done():
                    of.left_after = time.monotonic() - begun
                    return False
        except ConnectionError:
            of.left_after = time.monotonic() - begun
            raise
        finally:
            self.playing -= 1
            leaving.cancel()
        return False

    def _report(self, nonce: str) -> bytes:
        statement = aci.statement(self.pin, nonce)
        return json.dumps(
            {
                "api_version": "aci/1",
                "workload_keyset_digest": self.pin,
                "attestation": {
                    "tee_type": "none",
                    "workload_keyset": self.keyset,
                    "report_data": aci.report_data(statement).hex(),
                    "evidence": {
                        "platform": "software",
                        "statement": statement.decode(),
                        "signature": self.signer.sign(statement).hex(),
                    },
                },
                "service_capabilities": {
                    "serving": "direct",
                    "extensions": self.extensions,
                    "models": list(self.models),
                },
            }
        ).encode()
