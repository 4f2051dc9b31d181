"""A source that is somebody else's OpenAI-compatible server: bytes go there and come back verbatim.

Only whole events are passed on, so that what is signed while streaming is whole. Two kinds of blocks are taken out of a
backend's stream, because they are the node's own words: `: aci.chain …` comments and `aci.receipt` events.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import msgspec

from gateway.errors import ConfigError, UpstreamFailed, UpstreamTimeout

from .source import PATHS, STREAMED, Failed, Stream, Whole
from .wire import BLANK

MAX_ANSWER = 64 * 1024 * 1024
MAX_EVENT = 8 * 1024 * 1024
_PASSED_ON = (b"content-type", b"accept", b"anthropic-version", b"anthropic-beta", b"openai-beta")
_PASSED_BACK = (b"content-type", b"content-encoding", b"retry-after")
_FRAMING = ("content-length", "transfer-encoding")  #: without one of them an answer ends wherever its connection does
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)  #: failures before a byte of the request left
_OURS = re.compile(rb"(?:(?<![^\r\n])|\A\xef\xbb\xbf)(?:: ?aci\.chain |event: ?aci\.receipt)")


class BackendSource:
    """`url` is the base URL as an OpenAI client takes it, with its `/v1`; a bare host gets one."""

    fronts_backend = True
    paths = PATHS

    def __init__(self, url: str, key_env: str | None, names: tuple[str, ...]) -> None:
        self._base = _base(url)
        self._names = list(names)
        self._key = None if key_env is None else _key(key_env)
        self._client: httpx.AsyncClient | None = None

    async def open(self) -> None:
        timeout = httpx.Timeout(600, connect=10, pool=30)
        limits = httpx.Limits(max_connections=256, max_keepalive_connections=64, keepalive_expiry=60)
        self._client = httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False)
        if not self._names:
            self._names = await self._ask_names()

    async def _ask_names(self) -> list[str]:
        assert self._client is not None
        try:
            answer = await self._client.get(f"{self._base}/models", headers=self._auth("/v1/models"), timeout=10)
            if answer.status_code != 200:
                raise ConfigError(
                    f"--backend {self._base}: asked for its models it answered {answer.status_code}; --backend-key-env "
                    "gives it a key, and with --model-name it is not asked"
                )
            names = [m["id"] for m in answer.json()["data"]]
        except (httpx.HTTPError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise ConfigError(
                f"--backend {self._base}: asking it for its models failed ({type(error).__name__}); start it first, or "
                "give --model-name"
            ) from None
        return [name for name in names if isinstance(name, str)]

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    def models(self) -> list[str]:
        return self._names

    async def answer(
        self, path: str, headers: Mapping[bytes, bytes], body: bytes, document: dict[str, Any]
    ) -> Whole | Stream | Failed:
        assert self._client is not None
        sent = {name: headers[name] for name in _PASSED_ON if name in headers}
        sent[b"accept-encoding"] = b"identity"
        url = self._base + path.removeprefix("/v1")
        request = self._client.build_request("POST", url, content=body, headers={**sent, **self._auth(path)})
        try:
            response = await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            return _failed(error, body)
        back = tuple((n.lower(), v) for n, v in response.headers.raw if n.lower() in _PASSED_BACK)
        problem = _head_problem(path, response)
        if problem is not None:
            await response.aclose()
            return Failed(UpstreamFailed(f"the backend {problem}"), body)
        if _is_stream(response):
            stream = _BackendStream(response)
            return Stream(stream.chunks(), lambda: stream.chat_id, response.aclose, back, body, response.status_code)
        try:
            data = await _whole(response)
        except UpstreamFailed as failure:
            return Failed(failure, body)
        return Whole(data, _chat_id(data), response.status_code, back, body)

    def _auth(self, path: str) -> dict[bytes, bytes]:
        if self._key is None:
            return {}
        key = self._key.encode()
        return {b"authorization": b"Bearer " + key, **({b"x-api-key": key} if path == "/v1/messages" else {})}


def _base(url: str) -> str:
    """What paths are put behind. Raises `ConfigError`."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"--backend {url!r:.200}: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host or (parsed.port or 0) > 65535:
        raise ConfigError(f"--backend {url!r:.200}: not an http or https URL")
    if "?" in url or "#" in url:
        raise ConfigError(f"--backend {url!r:.200}: a base URL ends with its path, as further paths are put behind it")
    return url.rstrip("/") if parsed.path.strip("/") else url.rstrip("/") + "/v1"


def _key(variable: str) -> str:
    """The backend's API key. Raises `ConfigError` for one that no header can hold."""
    key = os.environ.get(variable, "")
    if not key:
        raise ConfigError(f"--backend-key-env {variable}: the environment variable is not set")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"--backend-key-env {variable}: the environment variable holds a line end, a blank or a letter beyond "
            "ASCII, which no key has"
        )
    return key


def _failed(error: httpx.HTTPError, body: bytes) -> Failed:
    """What to say when no answer began, and whether the backend may have the request."""
    forwarded = None if isinstance(error, _NOT_SENT) else body
    if isinstance(error, httpx.TimeoutException):
        return Failed(UpstreamTimeout("the backend did not answer in time"), forwarded)
    return Failed(UpstreamFailed(f"the backend could not be reached ({type(error).__name__})"), forwarded)


def _is_stream(response: httpx.Response) -> bool:
    return response.headers.get("content-type", "").lower().startswith("text/event-stream")


def _head_problem(path: str, response: httpx.Response) -> str | None:
    """Why an answer with this head cannot be passed on."""
    if response.status_code > 599:
        return f"answered with the status {response.status_code}, which is none of HTTP's"
    if not _is_stream(response):
        return None
    if path not in STREAMED:
        return "answered with a stream where there is none"
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        return "compressed its stream, which was not asked for"
    return None


async def _whole(response: httpx.Response) -> bytes:
    parts, size = [], 0
    try:
        async for part in response.aiter_raw():
            size += len(part)
            if size > MAX_ANSWER:
                raise UpstreamFailed("the backend's answer is over the size limit")
            parts.append(part)
    except httpx.HTTPError as error:
        raise UpstreamFailed(f"the backend broke off its answer ({type(error).__name__})") from None
    finally:
        await response.aclose()
    data = b"".join(parts)
    if not any(name in response.headers for name in _FRAMING) and not _is_json(data):
        raise UpstreamFailed("the backend's answer has no length, and is no whole JSON: it may have been cut")
    return data


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


class _BackendStream:
    """Cuts a backend's stream after whole events; always closes it, whoever leaves first."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.chat_id: str | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        rest = bytearray()  # what follows the last blank line
        try:
            async for part in self._response.aiter_raw():
                seen = max(0, len(rest) - 3)  # no blank line before: a long event is not searched anew
                rest += part
                cut = max((m.end() for m in BLANK.finditer(rest, seen)), default=0)
                if cut:
                    ready = self._look(bytes(rest[:cut]))
                    del rest[:cut]
                    if ready:
                        yield ready
                elif len(rest) > MAX_EVENT:
                    raise UpstreamFailed("one event of the backend is over the size limit")
            if rest.strip():
                raise UpstreamFailed("the backend's stream ended inside an event")
        except httpx.HTTPError as error:
            raise UpstreamFailed(f"the backend broke off its stream ({type(error).__name__})") from None
        finally:
            await self._response.aclose()

    def _look(self, ready: bytes) -> bytes:
        """Learn the answer's id from its first event; take out what only the node may say."""
        if self.chat_id is None:
            for line in ready.splitlines():
                if line.startswith(b"data:"):
                    self.chat_id = _chat_id(line[5:].strip())
                    break
        if b"aci." not in ready or _OURS.search(ready) is None:  # the first is much faster
            return ready
        blocks, at = [], 0
        for match in BLANK.finditer(ready):
            block, at = ready[at : match.end()], match.end()
            if _OURS.search(block) is None:
                blocks.append(block)
        return b"".join(blocks)


def _chat_id(data: bytes) -> str | None:
    """The id in an answer or a first event, wherever its API keeps it."""
    try:
        document = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    for place in ("", "response", "message"):
        inner = document.get(place) if place and isinstance(document, dict) else document
        if isinstance(inner, dict) and isinstance(inner.get("id"), str):
            return str(inner["id"])[:256]
    return None
