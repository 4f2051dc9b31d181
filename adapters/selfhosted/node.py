"""The reference node as an ASGI application: asks its source, covers and signs what passes, delivers.

    app = Node(identity, LocalSource(engine), spki=None, mischief=None)

Order within one exchange: request digest → answer → cover → send → sign → receipt kept → receipt sent. Every answer of
the POST paths has a receipt, errors too: a signed refusal can be held against the node as well. An answer that
breaks off has none.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from gateway import __version__
from gateway.api.limits import BodyMemory
from gateway.crypto.canonical import strict_json
from gateway.errors import BadRequest, FormatError, MethodNotAllowed, NotFound, VerirouteError

from . import dishonest, wire
from .identity import Identity, keyset, pin
from .receipts import ReceiptStore, Seal, Sealer, attestation
from .source import PATHS, Failed, Source, Stream, Whole

if TYPE_CHECKING:
    from .machine import Attester

MAX_MODEL = 512  #: characters of a model's name: it stands in receipts, which are kept, and sent in a header
_HEX64 = re.compile(r"[0-9a-f]{64}")
_LAST = {
    "/v1/chat/completions": wire.field("data", r"\[DONE\]"),
    "/v1/completions": wire.field("data", r"\[DONE\]"),
    "/v1/responses": wire.field("event", r"response\.(?:completed|incomplete|failed)"),
    "/v1/messages": wire.field("event", "message_stop"),
}


class Node:
    """One node. `spki` is the digest of the TLS key it is served with, `attester` its machine when it has one."""

    def __init__(
        self,
        identity: Identity,
        source: Source,
        *,
        spki: bytes | None = None,
        mischief: dishonest.Mischief | None = None,
        fronts_backend: bool = False,
        attester: Attester | None = None,
    ) -> None:
        self.keyset = keyset(identity, spki)
        self.pin = pin(self.keyset)
        self._identity = identity
        self._source = source
        self._mischief = mischief
        self._fronts_backend = fronts_backend
        self._attester = attester
        self._store = ReceiptStore()
        self._bodies = BodyMemory(wire.MAX_BODIES)
        self._sealer = Sealer(identity.active, self.pin, self._store)
        self._foreign = Sealer(dishonest.foreign(identity.active), self.pin, self._store)
        self._started = int(time.time())
        self.problem: VerirouteError | None = None  #: why the node could not start

    async def __call__(self, scope: wire.Scope, receive: wire.Receive, send: wire.Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        path, method = scope["path"], scope["method"]
        try:
            if path in self._source.paths:
                if method != "POST":
                    raise MethodNotAllowed(f"{path} takes POST")
                await self._exchange(scope, receive, send)
                return
            if method != "GET":
                raise (
                    MethodNotAllowed(f"{path} takes GET") if self._page(scope) else NotFound(f"there is no {path:.80}")
                )
            page = self._page(scope)
            if page is None:
                raise NotFound(f"there is no {path:.80}")
            await wire.send_json(send, page)
        except (wire.Gone, wire.Cut):
            return  # the server cuts what was begun and has no end
        except VerirouteError as error:
            await wire.send_json(send, wire.error_body(error, path), error.status, wire.error_headers(error))

    async def _lifespan(self, receive: wire.Receive, send: wire.Send) -> None:
        await receive()
        try:
            await self._source.open()
        except VerirouteError as error:
            self.problem = error
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._source.close()
        await send({"type": "lifespan.shutdown.complete"})

    def _page(self, scope: wire.Scope) -> Any:
        path: str = scope["path"]
        if path == "/healthz":
            return {"status": "ok"}
        if path == "/v1/models":
            return {"object": "list", "data": [self._model(name) for name in self._source.models()]}
        if path.startswith("/v1/models/") and path[11:] in self._source.models():
            return self._model(path[11:])
        if path == "/v1/aci/attestation":
            return self._attestation(scope)
        if path.startswith("/v1/aci/receipts/"):
            return self._store.get(path[17:])
        return None

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "veriroute"}

    def _attestation(self, scope: wire.Scope) -> dict[str, Any]:
        nonces = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("nonce", [])
        if len(nonces) > 1 or (nonces and _HEX64.fullmatch(nonces[0]) is None):
            raise BadRequest("nonce must be 64 lower-case hex digits", param="nonce")
        capabilities = {
            "supported_e2ee_versions": [],
            "serving": "direct",
            "extensions": ["inline-receipt", "request-nonce", "chained"],
            "endpoints": list(PATHS),
            "models": self._source.models(),
            "fronts_backend": self._fronts_backend,
        }
        provenance = {
            "repo_url": None,
            "repo_commit": None,
            "image_digest": None,
            "image_provenance": None,
            "package": f"veriroute {__version__}",
        }
        nonce, attest = nonces[0] if nonces else None, self._attest if self._attester else None
        return attestation(self._identity, self.keyset, nonce, capabilities, provenance, attest)

    def _attest(self, statement: bytes, nonce: str | None) -> tuple[str, dict[str, Any]]:
        assert self._attester is not None
        return self._attester.attest(statement, nonce, time.time())

    async def _exchange(self, scope: wire.Scope, receive: wire.Receive, send: wire.Send) -> None:
        asked = wire.asked(scope)
        async with wire.body_of(receive, self._bodies) as body:
            await _until_left(_Exchange(self, scope, body, asked, send), receive)


async def _until_left(exchange: _Exchange, receive: wire.Receive) -> None:
    """Run the exchange, and end it when the client leaves."""
    work = asyncio.ensure_future(exchange.run())
    left = asyncio.ensure_future(receive())  # resolves when the client leaves, or the answer is complete
    try:
        await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
    finally:
        left.cancel()
        work.cancel()


class _Exchange:
    """One POST: from the body to the last byte."""

    def __init__(self, node: Node, scope: wire.Scope, body: bytes, asked: wire.Asked, send: wire.Send) -> None:
        self._node = node
        self._path: str = scope["path"]
        self._headers: Mapping[bytes, bytes] = dict(scope["headers"])
        self._body = body
        self._asked = asked
        self._send = send
        self._mischief = node._mischief
        self._lie = node._mischief.now() if node._mischief else None
        self._document, self._problem = _decode(body)
        model = self._document.get("model")
        self._model = model if isinstance(model, str) else ""
        self._stream_wanted = self._document.get("stream") is True
        self._recording = dishonest.Recording()

    async def run(self) -> None:
        if self._lie == "replay" and self._mischief is not None:
            old = self._mischief.recording(self._path, self._stream_wanted, self._asked)
            if old is not None:
                await self._again(old)
                return
        sealer = self._node._foreign if self._lie == "wrong-key" else self._node._sealer
        named = self._model if len(self._model) <= MAX_MODEL else ""
        seal = sealer.begin(self._path, self._body, self._asked.nonce, named)
        answer = await self._ask()
        if answer.forwarded is not None:
            seal.forwarded(answer.forwarded)
        if isinstance(answer, Whole):
            await self._whole(seal, answer)
        else:
            try:
                async with contextlib.aclosing(answer.chunks) as chunks:  # type: ignore[type-var]
                    await self._stream(seal, answer, chunks)
            finally:
                await answer.close()
        if self._mischief is not None and self._mischief.mode == "replay" and answer.status == 200:
            self._mischief.record(self._path, self._stream_wanted, self._asked, self._recording)

    async def _ask(self) -> Whole | Stream:
        """The source's answer; what it refuses is an answer too."""
        try:
            if self._problem is not None and not self._node._fronts_backend:
                raise BadRequest(self._problem)
            if len(self._model) > MAX_MODEL:
                raise BadRequest(f"the model's name is over {MAX_MODEL} characters", param="model")
            document = dishonest.misread(self._lie, self._document)
            answer = await self._node._source.answer(self._path, self._headers, self._body, document)
        except VerirouteError as error:
            return self._refusal(error)
        return self._refusal(answer.error, answer.forwarded) if isinstance(answer, Failed) else answer

    def _refusal(self, error: VerirouteError, forwarded: bytes | None = None) -> Whole:
        headers = ((b"content-type", b"application/json"), *wire.error_headers(error))
        return Whole(wire.error_body(error, self._path), None, error.status, headers, forwarded)

    def _label(self, seal: Seal) -> str:
        return dishonest.OTHER_MODEL if self._lie == "swap-model" else seal.model

    def _common(self, seal: Seal) -> wire.Headers:
        return [
            (b"x-receipt-id", seal.receipt_id.encode()),
            (b"x-aci-version", b"aci/1"),
            (b"x-aci-keyset-digest", seal.keyset_digest.encode()),
        ]

    async def _whole(self, seal: Seal, answer: Whole) -> None:
        body = dishonest.swapped(answer.body) if self._lie == "swap-model" else answer.body
        if self._lie == "wrong-score":
            body = dishonest.misjudged(body)
        seal.cover(body)
        receipt = seal.close(self._label(seal), answer.chat_id, time.time())
        headers = [*answer.headers, (b"content-length", str(len(body)).encode()), *self._common(seal)]
        if self._asked.inline:
            headers.append((b"x-aci-receipt", base64.b64encode(receipt)))
        if self._lie == "tamper":
            body = dishonest.tampered(body)
        await self._start(answer.status, headers)
        if self._lie == "truncate":
            await self._more(body[: len(body) // 2])
            raise wire.Cut
        self._recording.parts.append(body)
        await wire.end(self._send, body)

    async def _stream(self, seal: Seal, answer: Stream, chunks: AsyncIterator[bytes]) -> None:
        headers = [*answer.headers, (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        await self._start(answer.status, [*headers, *self._common(seal)])
        last = _LAST[self._path]
        ended, to_tamper = False, self._lie == "tamper"
        if self._lie == "truncate":
            chunks = _halved(chunks)
        try:
            async for chunk in chunks:
                ended = ended or last.search(chunk) is not None
                if self._lie == "swap-model":
                    chunk = dishonest.swapped(chunk)
                seal.cover(chunk)
                out = chunk
                if to_tamper:
                    out = dishonest.tampered(chunk)
                    to_tamper = out == chunk
                await self._more(out + seal.chain() if self._asked.chained else out)
        except VerirouteError:
            raise wire.Cut from None  # too late for an error: the transport has to say it
        if not ended:
            if self._lie == "truncate":
                await wire.end(self._send)
                return
            raise wire.Cut
        receipt = seal.close(self._label(seal), answer.chat_id(), time.time())
        if self._asked.inline:
            await self._more(b"event: aci.receipt\ndata: " + base64.b64encode(receipt) + b"\n\n")
        await wire.end(self._send)

    async def _start(self, status: int, headers: wire.Headers) -> None:
        self._recording.status, self._recording.headers = status, headers
        await wire.start(self._send, status, headers)

    async def _more(self, data: bytes) -> None:
        if self._mischief is not None:
            self._recording.parts.append(data)
        await wire.more(self._send, data)

    async def _again(self, old: dishonest.Recording) -> None:
        await wire.start(self._send, old.status, old.headers)
        for part in old.parts:
            await wire.more(self._send, part)
        await wire.end(self._send)


async def _halved(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield dishonest.first_half(b"".join([chunk async for chunk in chunks]))


def _decode(body: bytes) -> tuple[dict[str, Any], str | None]:
    """The request as an object, and what is wrong with it. Strict: a signature over ambiguous bytes says nothing."""
    try:
        document = strict_json(body, max_bytes=wire.MAX_BODY)
    except FormatError as error:
        return {}, f"the body is not JSON: {error}"
    if not isinstance(document, dict):
        return {}, "the body is not a JSON object"
    return document, None
