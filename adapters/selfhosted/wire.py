"""The little HTTP that the node needs above ASGI: bodies in, answers and errors out."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import msgspec

from gateway.api.limits import BodyMemory
from gateway.errors import BadRequest, BodyTooLarge, VerirouteError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

MAX_BODY = 32 * 1024 * 1024
MAX_BODIES = 16 * MAX_BODY  #: of all requests that come or are answered at one time
#: The end of an event, in each spelling of its line ends (WHATWG HTML, section 9.2.5).
BLANK = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n")
_NONCE = re.compile(rb"[0-9a-f]{64}")
_MESSAGE_TYPES = {
    400: "invalid_request_error",
    404: "not_found_error",
    413: "request_too_large",
    503: "overloaded_error",
}


def field(name: str, value: str) -> re.Pattern[bytes]:
    """Finds the line of an event that is the field `name`. `value` is a regular expression for all of its value."""
    return re.compile(rf"{name}(?<![^\r\n]{name}): ?(?:{value})(?=[\r\n])".encode())  # `^` knows LF alone


class Cut(Exception):
    """An answer that has begun has no proper end: the connection is closed as it is."""


class Gone(Exception):
    """The client left before its request was whole."""


class Asked(msgspec.Struct, frozen=True):
    """What the request's headers ask of the signing side."""

    nonce: str | None
    inline: bool
    chained: bool


def asked(scope: Scope) -> Asked:
    """Read `x-aci-nonce`, `x-aci-inline` and `x-aci-chained`. Raises `BadRequest` when they make no sense."""
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name.startswith(b"x-aci-"):
            if name in found:
                raise BadRequest(f"{name.decode()} stands twice")
            found[name] = value
    nonce = found.get(b"x-aci-nonce")
    if nonce is not None and _NONCE.fullmatch(nonce) is None:
        raise BadRequest("x-aci-nonce must be 64 lower-case hex digits", param="x-aci-nonce")
    chained = found.get(b"x-aci-chained") == b"1"
    if chained and nonce is None:
        raise BadRequest("x-aci-chained needs x-aci-nonce: a running signature names the request", param="x-aci-nonce")
    return Asked(None if nonce is None else nonce.decode(), found.get(b"x-aci-inline") == b"1", chained)


@contextlib.asynccontextmanager
async def body_of(receive: Receive, memory: BodyMemory) -> AsyncIterator[bytes]:
    """The whole request body, which counts in `memory` from its first byte until the block ends.

    Raises `BodyTooLarge`, `Busy` when the memory is out, and `Gone` when the client leaves first.
    """
    parts: list[bytes] = []
    size, more = 0, True
    try:
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Gone
            part = message.get("body", b"")
            if size + len(part) > MAX_BODY:
                raise BodyTooLarge(f"the body is over {MAX_BODY} bytes")
            memory.take(len(part))
            size += len(part)
            parts.append(part)
            more = message.get("more_body", False)
        yield parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        memory.give(size)


async def start(send: Send, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def more(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def end(send: Send, data: bytes = b"") -> None:
    await send({"type": "http.response.body", "body": data})


async def send_json(send: Send, value: Any, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await start(send, status, [*own, *headers])
    await end(send, body)


def error_headers(error: VerirouteError) -> Headers:
    """What stands beside the error's body, less its type and length: when to try again."""
    return [(b"retry-after", b"1")] if error.status == 503 else []


def error_body(error: VerirouteError, path: str) -> bytes:
    """The error in the OpenAI shape; on the Messages path with that API's outer type and its own kinds."""
    inner: dict[str, Any] = {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": "model_not_found" if error.code == "model_unknown" else error.code,
    }
    if path == "/v1/messages":
        inner["type"] = _MESSAGE_TYPES.get(error.status, "api_error")
        return msgspec.json.encode({"type": "error", "error": inner})
    return msgspec.json.encode({"error": inner})
