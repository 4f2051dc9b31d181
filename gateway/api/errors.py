"""One way to say no: an error of `gateway.errors` as an OpenAI-shaped answer.

    {"error": {"message": "...", "type": "...", "param": null, "code": "...", "reason": "...", "receipt": "01J..."}}

The OpenAI SDKs raise on the status and keep `error` as the exception's body, so everything a caller may act on stands
inside it. `code` is stable; `reason` and `receipt` are there when known. What this promises about retries: an error
that another try could cure carries `retry-after`; any other 5xx carries `x-should-retry: false`, because SDKs retry
every 5xx on their own and the first try may have been paid for.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.errors import InvalidKey, MethodNotAllowed, VerirouteError

Headers = list[tuple[bytes, bytes]]

#: The longest, in seconds, that the SDKs wait because a `retry-after` asks for it: for a longer one they take their own
#: backoff of a second or so, in vain, and each try is one more receipt.
PATIENCE_S = 60

_FIXED: Headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
_NO_RETRY = (b"x-should-retry", b"false")
_CLOSE = (b"connection", b"close")
_CHALLENGE = (b"www-authenticate", b"Bearer")  # RFC 9110 section 15.5.2: with every 401


def error_object(
    error: VerirouteError, receipt: str | None = None, extra: Mapping[str, object] | None = None
) -> dict[str, object]:
    """The `error` member: message, type, param, code, then reason, receipt and `extra` where there are any.

    `extra` (say, the nodes and why each was dropped) adds members and never replaces one.
    """
    found: dict[str, object] = {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }
    if error.reason is not None:
        found["reason"] = error.reason
    if receipt is not None:
        found["receipt"] = receipt
    for name, value in (extra or {}).items():
        found.setdefault(name, value)
    return found


def render(
    error: VerirouteError,
    receipt: str | None = None,
    extra: Mapping[str, object] | None = None,
    *,
    close: bool = False,
    path: str = "",
) -> tuple[int, Headers, bytes]:
    """The whole answer: status, headers (lower-case names) and JSON body. `close` ends the connection after it.

    On the `path` of Anthropic's API the body has that API's `type` too, without which its clients may not read it.
    """
    own = {"type": "error"} if path == "/v1/messages" else {}
    body = msgspec.json.encode({**own, "error": error_object(error, receipt, extra)})
    headers = [*_FIXED, (b"content-length", str(len(body)).encode())]
    in_vain = error.status >= 500
    if error.retryable:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
        in_vain = error.retry_after_s > PATIENCE_S
    if in_vain:
        headers.append(_NO_RETRY)
    if isinstance(error, InvalidKey):
        headers.append(_CHALLENGE)
    elif isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow.encode("ascii")))
    if receipt is not None:
        headers.append((b"x-veriroute-receipt", receipt.encode("ascii")))
    if close:
        headers.append(_CLOSE)
    return error.status, headers, body


def event(error: VerirouteError, receipt: str | None = None, extra: Mapping[str, object] | None = None) -> bytes:
    """The last event of a stream that failed. Every OpenAI SDK raises on it; no `[DONE]` and no terminating chunk may
    follow, or a later reader would take the stream for a whole one."""
    return b"data: " + msgspec.json.encode({"error": error_object(error, receipt, extra)}) + b"\n\n"
