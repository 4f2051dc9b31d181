"""What a request must look like before anything of ours reads it: an ASGI middleware that refuses and adds nothing.

It closes the room between two readings of one request. Framing and credentials stand once; the host is one of ours, so
that a page which points its own name at 127.0.0.1 gets nothing (DNS rebinding); the path has one spelling, so that what
is authorised is what is routed; a body is JSON in UTF-8 and says so, which no browser form can; a page of another
origin is refused, and no CORS header is ever sent. `X-Forwarded-*`, `Forwarded` and `X-Real-IP` mean nothing here.

The functions are pure and raise `gateway.errors`; `Strict` renders what they raise. It works on any ASGI server, and
relies on `gateway.api.protocol` for what an application never sees (deadlines, sizes of the head, parser errors).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

import msgspec

from gateway.errors import (
    BadRequest,
    BodyTooLarge,
    ConfigError,
    Misdirected,
    NotFound,
    RequestTimeout,
    ScopeDenied,
    UnsupportedMedia,
    VerirouteError,
)
from gateway.model.node import ENDPOINTS

from .errors import render
from .limits import BodyMemory
from .refusals import Refusals

Headers = Sequence[tuple[bytes, bytes]]
Receive = Callable[[], Awaitable[Any]]

_value = itemgetter(1)

LOOPBACK = frozenset((b"127.0.0.1", b"localhost", b"[::1]"))
_CREDENTIALS = (b"authorization", b"api-key", b"x-api-key")
_ONCE = frozenset(
    (
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"content-type",
        b"content-encoding",
        b"expect",
        b"origin",
        *_CREDENTIALS,
    )
)
_BODY_METHODS = ("POST", "PUT", "PATCH")
_CONTROLS = bytes(i for i in range(32) if i != 9) + b"\x7f"
_HOST = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?)(?::([1-9][0-9]{0,4}))?")
_ORIGIN = re.compile(rb"(https?)://([^/]+)")
_PATH = re.compile(rb"/|(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()*+,=:@-]+)+/?")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
#: Bytes whose escape has one meaning: they are neither unreserved (a second spelling) nor a separator of ours.
_MAY_ESCAPE = frozenset(b"!$&'()*+,=:@")
#: The hot paths, known to be plain. (Everything here is judged again for every request; this one is a set look-up.)
_PLAIN = frozenset(path.encode() for path in ENDPOINTS)
_TARGET = re.compile(rb"[\x21-\x7e]*")
_JSON = re.compile(rb"application/json(?:[ \t]*;[ \t]*charset=(?:utf-8|\"utf-8\"))?", re.IGNORECASE)


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """`hosts` are lower-case `name` (any port) or `name:port`, beside the loopback names with the port listened on.

    `origins` are browser origins that may call us (`https://name[:port]`), beside our own. `max_body` is in bytes.
    """

    hosts: frozenset[bytes] = frozenset()
    origins: frozenset[bytes] = frozenset()
    max_body: int = 32 * 1024 * 1024

    @classmethod
    def of(cls, hosts: Iterable[str] = (), origins: Iterable[str] = (), max_body: int = 32 * 1024 * 1024) -> Rules:
        """Rules from settings; raises ConfigError for a name that no Host or Origin header could ever equal."""
        for text in hosts:
            if not text.isascii() or not _HOST.fullmatch(text.lower().encode()):
                raise ConfigError(f"server.allowed_hosts: {text!r} must read NAME or NAME:PORT")
        for text in origins:
            if not text.isascii() or not _ORIGIN.fullmatch(text.lower().encode()):
                raise ConfigError(f"allowed origin {text!r} must read https://NAME[:PORT]", param="server.origins")
        return cls(
            hosts=frozenset(text.lower().encode() for text in hosts),
            origins=frozenset(text.lower().encode() for text in origins),
            max_body=max_body,
        )


def single_valued(headers: Headers) -> dict[bytes, bytes]:
    """The headers by name. Raises BadRequest for a second one of those that may stand once, or for two credentials.

    Of any other that stands twice it has the last.
    """
    found = dict(headers)
    if len(found) != len(headers):
        names = [name for name, _ in headers]
        for name in found:
            if name in _ONCE and names.count(name) > 1:
                raise BadRequest(f"The header {name.decode()} is there twice.", param=name.decode())
    if (b"authorization" in found) + (b"api-key" in found) + (b"x-api-key" in found) > 1:
        raise BadRequest("The request carries two credentials; send one.", param="authorization")
    return found


def check_values(headers: Headers) -> None:
    """Raises BadRequest when a header value holds a control character other than a tab."""
    joined = b"".join(map(_value, headers))
    if len(joined.translate(None, _CONTROLS)) != len(joined):
        raise BadRequest("A header value holds a control character.")


def check_framing(found: dict[bytes, bytes], http_version: str) -> int | None:
    """The declared body length, or None when chunked or absent. RFC 9112 section 6, with no choice left to a reader."""
    length, coding = found.get(b"content-length"), found.get(b"transfer-encoding")
    if coding is not None:
        if length is not None:
            raise BadRequest("Content-Length and Transfer-Encoding exclude each other.", param="content-length")
        if coding.lower() != b"chunked" or http_version == "1.0":
            raise BadRequest("The one transfer coding is chunked, in HTTP/1.1.", param="transfer-encoding")
        return None
    if length is None:
        return None
    if not length.isdigit() or len(length) > 18:
        raise BadRequest("Content-Length must be a decimal number.", param="content-length")
    return int(length)


def host_allowed(host: bytes, server: tuple[str, int | None] | None, rules: Rules) -> bool:
    """Whether a Host header names us: configured, or a loopback name, or the very address that was connected to."""
    if server is not None and host[:10] == b"127.0.0.1:" and host[10:] == b"%d" % (server[1] or 0):
        return True  # what nearly every request says, without the regular expression
    host = host.lower()
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name, port = match.groups()
    if name in rules.hosts or host in rules.hosts:
        return True
    if server is None or server[1] is None:
        return name in LOOPBACK
    if int(port or b"80") != server[1]:
        return False
    if name in LOOPBACK:
        return True
    address = server[0].encode()
    return bool(name == (b"[%b]" % address if b":" in address else address))


def check_origin(origin: bytes, host: bytes, scheme: str, rules: Rules) -> None:
    """Raises ScopeDenied for a request that a page of another origin makes. `null` is another origin."""
    origin = origin.lower()
    if origin != scheme.encode() + b"://" + host.lower() and origin not in rules.origins:
        raise ScopeDenied("Pages of other origins may not call this gateway.", param="origin")


def check_path(raw_path: bytes, query: bytes = b"") -> None:
    """Raises NotFound for a path in any spelling but the plain one, BadRequest for bytes that no URI has.

    In the name of a model a slash may be escaped, as OpenAI's SDK does; no other route takes what stands behind it.
    """
    if not _TARGET.fullmatch(raw_path) or not _TARGET.fullmatch(query):
        raise BadRequest("The request target holds bytes that no URI has.", param="path")
    if b"%" in raw_path:
        if raw_path.startswith(b"/v1/models/"):  # clients escape the slashes in a model's name
            raw_path = raw_path.replace(b"%2F", b"/").replace(b"%2f", b"/")
        raw_path = _ESCAPE.sub(_unescape, raw_path)
    if not _PATH.fullmatch(raw_path):
        raise NotFound("There is nothing at this path; paths are taken in their plain spelling only.", param="path")


def _unescape(match: re.Match[bytes]) -> bytes:
    byte = int(match[1], 16)
    return bytes((byte,)) if byte in _MAY_ESCAPE else b"%"


def check_content(found: dict[bytes, bytes], method: str, length: int | None) -> None:
    """Raises UnsupportedMedia unless a body is JSON in UTF-8, not encoded further."""
    if b"content-encoding" in found:
        raise UnsupportedMedia("Send the body without a content encoding.", param="content-encoding")
    kind = found.get(b"content-type")
    if kind is None and not length and b"transfer-encoding" not in found:
        return
    if kind != b"application/json" and method in _BODY_METHODS and (kind is None or not _JSON.fullmatch(kind)):
        said = "Send JSON in UTF-8 with the header `content-type: application/json`."
        raise UnsupportedMedia(said, param="content-type")


def check_host(found: dict[bytes, bytes], scope: Any, rules: Rules) -> None:
    """Raises BadRequest without a Host, Misdirected for one that is not ours, ScopeDenied for a foreign page."""
    host = found.get(b"host")
    if not host:
        raise BadRequest("The request needs a Host header.", param="host")
    if not host_allowed(host, scope.get("server"), rules):
        raise Misdirected("This gateway does not answer for that host; see server.allowed_hosts.", param="host")
    if b"origin" in found:
        check_origin(found[b"origin"], host, scope["scheme"], rules)


def check(scope: Any, rules: Rules) -> None:
    """Judge one request by its head alone. Raises the first RequestError that applies."""
    headers = scope["headers"]
    found = single_valued(headers)
    check_values(headers)
    length = check_framing(found, scope["http_version"])
    if scope["raw_path"] not in _PLAIN or scope["query_string"]:
        check_path(scope["raw_path"], scope["query_string"])
    check_host(found, scope, rules)
    if b"expect" in found and found[b"expect"].lower() != b"100-continue":
        raise BadRequest("The one expectation is 100-continue.", param="expect")
    check_content(found, scope["method"], length)
    if length is not None and length > rules.max_body:
        raise BodyTooLarge(f"A request body may take {rules.max_body} bytes.")


class Strict:
    """The middleware. Outermost: nothing of ours runs before it, and what it refuses costs no key lookup."""

    def __init__(self, app: Any, rules: Rules | None = None, refusals: Refusals | None = None) -> None:
        self.app = app
        self.rules = rules or Rules()
        self.refusals = refusals

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            try:
                check(scope, self.rules)
            except VerirouteError as error:
                if self.refusals is not None:
                    self.refusals.note(error)
                await refuse(error, send)
                return
        elif scope["type"] != "lifespan":
            return
        await self.app(scope, receive, send)


async def refuse(error: VerirouteError, send: Any) -> None:
    """Answer with `error` and close: a client that frames or addresses wrongly is not believed a second time."""
    status, headers, body = render(error, close=True)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read_body(
    receive: Receive, limit: int, within_s: float, *, declared: int | None = None, memory: BodyMemory | None = None
) -> bytes:
    """The whole body, at most `limit` bytes, within `within_s` seconds.

    What comes of it is taken of `memory` until it is returned; from there on the caller accounts for it. Raises
    BodyTooLarge from the `declared` length before anything is read (no 100 Continue is sent then) and at the cap,
    RequestTimeout at the deadline, Busy when memory is out, and BadRequest when the client goes before the end.
    """
    if declared is not None and declared > limit:
        raise BodyTooLarge(f"A request body may take {limit} bytes.")
    # A cycle of ours or uvicorn's knows when all of the body is here: no timer then, which costs more than the reading.
    if getattr(getattr(receive, "__self__", None), "more_body", True) is False:
        return await _read(receive, limit, None)
    try:
        async with asyncio.timeout(within_s):
            return await _read(receive, limit, memory)
    except TimeoutError:
        raise RequestTimeout("The request body did not arrive in time.") from None


async def _read(receive: Receive, limit: int, memory: BodyMemory | None) -> bytes:
    pieces: list[bytes] = []
    size = 0
    try:
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise BadRequest("The client left before the end of its request.")
            piece = message.get("body", b"")
            if size + len(piece) > limit:
                raise BodyTooLarge(f"A request body may take {limit} bytes.")
            if memory is not None:
                memory.take(len(piece))
            size += len(piece)
            if not message.get("more_body", False):
                return b"".join([*pieces, piece]) if pieces else piece
            pieces.append(piece)
    finally:
        if memory is not None:
            memory.give(size)
