"""A connection over which prompts leave sealed to the enclave's key, through a relay that sees neither side's text.

    connection = SealedConnection(await pool.acquire(relay_origin, None, connect_s), route)
    try:
        head = await connection.request(b"POST", b"/v1/chat/completions", headers, body, deadlines)
        body = await connection.read_all()                       # as if the node itself had answered
    finally:
        connection.release(pool)

Speaks Oblivious HTTP as OpenGradient's tee-gateway does: RFC 9458 with plain JSON inside, chunked answers by
draft-ietf-ohai-chunked-ohttp-08, one sealed chunk for each event. What goes inside is the caller's body, byte for byte.

Promises: no byte of `body`, and none of the caller's `headers`, is handed to the inner connection. An answer with
status 200 is handed out only when it opens under the keys of this very request. Another status may come in plain text,
from the relay or from whoever is in its place: it is passed on with its headers (402 has the price), and proves
nothing. `opened` tells the two apart. Every exchange has a wrapper and an ephemeral key of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

import msgspec

from gateway.crypto.ohttp import CHUNKED_MEDIA, REQUEST_MEDIA, RESPONSE_MEDIA, Exchange, encapsulate
from gateway.crypto.ohttp_chunks import ChunkOpener
from gateway.crypto.ohttp_keys import KeyConfig
from gateway.entropy import fresh
from gateway.errors import FormatError

from .connection import DEFAULT_DEADLINES, Connection
from .errors import ChannelClosed, SealBroken, SealRefused
from .head import Framing, Headers, ResponseHead
from .limits import Deadlines, Limits
from .pool import UpstreamPool

JSON, SSE = b"application/json", b"text/event-stream"

#: What selects the service inside the seal, by the path that it has in the open.
_ENDPOINTS: dict[bytes, str | msgspec.UnsetType] = {
    b"/v1/chat/completions": msgspec.UNSET,
    b"/v1/web_search": "web_search",
}
_KEY_PROBLEM = "https://iana.org/assignments/http-problem-types#ohttp-key"  # RFC 9458 section 5.3
_KEY_ERRORS = frozenset({"malformed encapsulated request"})  # tee-gateway's one answer to all that it cannot open
_MAX_PROBLEM = 4096


class SealedRoute(msgspec.Struct, frozen=True):
    """How sealed requests reach one enclave. `target` is the relay's path, `key` a key that was verified before.

    `tee_id` is "0x" and 64 hex digits. `authorization` (the whole header value) and `headers` are for the relay: it
    reads them. They stay out of `repr`.
    """

    target: bytes
    key: KeyConfig
    tee_id: str
    authorization: bytes | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def __repr__(self) -> str:
        return f"SealedRoute({self.target!r}, {self.tee_id}, key {self.key.key_id})"


class Channel(Protocol):
    """What is used of a `Connection`."""

    @property
    def sent(self) -> bool: ...

    @property
    def spki(self) -> bytes | None: ...

    async def request(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: bytes = b"",
        deadlines: Deadlines = DEFAULT_DEADLINES,
        *,
        max_body: int | None = None,
        started: float | None = None,
    ) -> ResponseHead: ...

    async def read_some(self, gather_s: float = 0.0) -> bytes: ...

    async def read_all(self, max_bytes: int | None = None) -> bytes: ...

    def progress(self) -> None: ...

    def abort(self) -> None: ...

    def untouched(self) -> bool: ...


class _Inner(msgspec.Struct):
    stream: bool | None = None
    endpoint: str | msgspec.UnsetType = msgspec.UNSET


class _Failure(msgspec.Struct, forbid_unknown_fields=True):
    """What an enclave seals instead of an answer."""

    status: int
    body: msgspec.Raw


class _Problem(msgspec.Struct):
    type: str | None = None
    error: str | None = None


_inner = msgspec.json.Decoder(_Inner).decode
_failure = msgspec.json.Decoder(_Failure).decode
_problem = msgspec.json.Decoder(_Problem).decode


class SealedConnection:
    """Has the methods of the `Connection` that it wraps, for one exchange. `outer` is the relay's own head, once known.

    `entropy(n)` gives n fresh random bytes; only tests hand in their own.
    """

    __slots__ = ("_asked", "_entropy", "_exchange", "_held", "_inner", "_opener", "_route", "opened", "outer")

    def __init__(self, inner: Channel, route: SealedRoute, *, entropy: Callable[[int], bytes] = fresh) -> None:
        self._inner, self._route, self._entropy = inner, route, entropy
        self._asked = False
        self._exchange: Exchange | None = None
        self._opener: ChunkOpener | None = None
        self._held: bytes | None = None  # of an answer that came whole, what was not read yet
        self.opened = False  # whether the answer came out of the seal
        self.outer: ResponseHead | None = None

    @property
    def inner(self) -> Channel:
        """The connection to the relay."""
        return self._inner

    @property
    def sent(self) -> bool:
        return self._inner.sent

    @property
    def spki(self) -> bytes | None:
        """The relay's TLS key, not the enclave's: what binds the enclave is the key that the prompt is sealed to."""
        return self._inner.spki

    def untouched(self) -> bool:
        return self._inner.untouched()

    def progress(self) -> None:
        self._inner.progress()

    def abort(self) -> None:
        self._inner.abort()

    def release(self, pool: UpstreamPool) -> None:
        """Give the inner connection back to the pool that it came from."""
        assert isinstance(self._inner, Connection)
        pool.release(self._inner)

    async def request(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: bytes = b"",
        deadlines: Deadlines = DEFAULT_DEADLINES,
        *,
        max_body: int | None = None,
        started: float | None = None,
    ) -> ResponseHead:
        """Seal `body`, send it to the relay, and wait for a head as the node would have sent it.

        `target` is the node's own path and says which service is meant; `headers` describe a request in the open and
        are left behind. An answer that comes whole is waited for and opened here. `max_body` caps the sealed answer.
        Raises `ChannelError`, of which `SealRefused` says that nothing left.
        """
        if self._asked:
            raise ChannelClosed("closed", "a sealed connection carries one exchange", sent=self.sent)
        stream = _service(method, target, body)
        try:
            sealed = encapsulate(self._route.key, body, self._entropy(32))
        except FormatError as error:
            raise SealRefused(detail=str(error)) from None
        self._asked, self._exchange = True, sealed.exchange
        self.outer = head = await self._inner.request(
            b"POST", self._route.target, self._headers(stream), sealed.wire, deadlines, max_body=max_body,
            started=started,
        )  # fmt: skip
        if head.status != 200:
            return await self._in_the_open(head)
        media = (head.get(b"content-type") or b"").split(b";")[0].strip().lower()
        if media == RESPONSE_MEDIA:
            return await self._whole(sealed.exchange)
        if media == CHUNKED_MEDIA and stream:
            limit = Limits().body_bytes if max_body is None else max_body
            self._opener = sealed.exchange.opener(max_chunk=limit, max_total=limit)
            self.opened = True
            return _head(200, SSE, Framing.CHUNKED, None)  # the seal marks its last chunk
        raise self._broken("ohttp_plaintext" if media in (JSON, SSE) else "ohttp_media_type")

    async def read_some(self, gather_s: float = 0.0) -> bytes:
        """What the next sealed chunks held, as `Connection.read_some`; b"" once the last one was opened."""
        if self._held is not None:
            held, self._held = self._held, b""
            return held
        if self._opener is None:
            return await self._inner.read_some(gather_s)
        while True:
            sealed = await self._inner.read_some(gather_s)
            try:
                if not sealed:
                    self._held, last = b"", self._opener.finish()
                    return last
                opened = b"".join(self._opener.feed(sealed))
            except FormatError as error:
                self._held = None
                raise self._broken(error.reason) from None
            if opened:
                return opened

    async def read_all(self, max_bytes: int | None = None) -> bytes:
        """The rest of the answer, whole, as `Connection.read_all`."""
        if self._held is None and self._opener is None:
            return await self._inner.read_all(max_bytes)
        parts: list[bytes] = []
        size = 0
        while data := await self.read_some():
            size += len(data)
            if max_bytes is not None and size > max_bytes:
                raise self._broken("too_large")
            parts.append(data)
        return b"".join(parts)

    async def chunks(self) -> AsyncIterator[bytes]:
        """`read_some` until the end."""
        while data := await self.read_some():
            yield data

    def _headers(self, stream: bool) -> Headers:
        route = self._route
        found = [(b"content-type", REQUEST_MEDIA), (b"accept", CHUNKED_MEDIA if stream else RESPONSE_MEDIA)]
        found.append((b"x-tee-id", route.tee_id.encode("ascii", "replace")))
        if stream:
            found.append((b"x-ohttp-stream", b"true"))
        if route.authorization is not None:
            found.append((b"authorization", route.authorization))
        return [*found, *route.headers]

    async def _whole(self, exchange: Exchange) -> ResponseHead:
        """A whole answer: a document, or the enclave's error with the status that it would have had."""
        sealed = await self._inner.read_all()
        try:
            plaintext = exchange.open(sealed)
        except FormatError as error:
            raise self._broken(error.reason) from None
        status = 200
        try:
            failure = _failure(plaintext)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            failure = None  # not of that form, so the answer itself, which its reader judges
        if failure is not None:
            status, plaintext = failure.status, bytes(failure.body)
            if not 400 <= status <= 599:  # a success has no wrapping: this would be an answer that nobody specified
                raise self._broken("ohttp_malformed")
        self._held, self.opened = plaintext, True
        return _head(status, JSON, Framing.LENGTH, len(plaintext))

    async def _in_the_open(self, head: ResponseHead) -> ResponseHead:
        """Not from inside the seal. Read only as far as it takes to know that the key is an old one."""
        if head.status in (400, 422) and 0 < (head.content_length or 0) <= _MAX_PROBLEM:
            self._held = await self._inner.read_all(_MAX_PROBLEM)
            if _says_unknown_key(self._held):
                raise self._broken("ohttp_key_rotated")
        return head

    def _broken(self, reason: str | None) -> SealBroken:
        self._inner.abort()
        return SealBroken("too_large" if reason == "ohttp_too_large" else reason or "", sent=True)


def _service(method: bytes, target: bytes, body: bytes) -> bool:
    """Whether a stream is asked for. Raises `SealRefused` for what the enclave would take for another request."""
    try:
        inner = _inner(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise SealRefused(detail="the body is no JSON object of a request") from None
    endpoint = next((word for path, word in _ENDPOINTS.items() if target.endswith(path)), None)
    if method != b"POST" or endpoint is None or inner.endpoint != endpoint:
        raise SealRefused(detail="no service inside the seal is asked for by this path and body")
    return inner.stream is True


def _says_unknown_key(body: bytes) -> bool:
    try:
        problem = _problem(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return problem.type == _KEY_PROBLEM or problem.error in _KEY_ERRORS


def _head(status: int, media: bytes, framing: Framing, length: int | None) -> ResponseHead:
    """A head as the node would have sent it; what became of the connection is the inner one's to know."""
    return ResponseHead(status, [(b"content-type", media)], framing, length, keep_alive=False)
