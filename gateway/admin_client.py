"""A typed client of the admin API. It asks, decodes strictly, and turns every failure into one of our errors.

    async with AdminClient("http://127.0.0.1:8080", key) as admin:
        info = await admin.info()
        page = await admin.receipts(limit=100)
        async for row in admin.live():
            ...

The key is sent to the address given and nowhere else: no redirects, no proxies from the environment, no cookies.
Answers are bounded, because a gateway that went astray must not take its operator's terminal with it.

Errors: `InvalidKey` (401), `ScopeDenied` (403), `NotFound` (404), `ConfigError` (the address cannot be used),
`ServiceError` with `reason` one of `unreachable`, `timeout`, `status`, `cut`; `FormatError` (not an admin API).
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from .errors import ConfigError, FormatError, InvalidKey, NotFound, ScopeDenied, ServiceError
from .model.admin import Info, Nodes, NodeView, Page, Row

MAX_ANSWER = 8 * 1024 * 1024
MAX_BUNDLE = 64 * 1024 * 1024  # evidence with collateral is large; a bundle beyond this belongs in a file
MAX_EVENT = 256 * 1024
MAX_PAGE = 1000

_T = TypeVar("_T")


class AdminClient:
    """One connection pool to one gateway. `transport` is for tests."""

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        timeout_s: float = 10.0,
        clear_text: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.base_url = check_address(base_url, clear_text=clear_text)
        # What no header can hold would come back in the sentence of a failed connection, the key with it.
        if not key or not key.isascii() or not key.isprintable() or key != key.strip():
            raise ConfigError(
                "an admin key is needed, without spaces or line ends around it:"
                " `veriroute keys create --name NAME --scope admin` makes one"
            )
        self._client = httpx.AsyncClient(
            base_url=self.base_url,
            headers={"authorization": f"Bearer {key}", "accept-encoding": "identity"},
            timeout=timeout_s,
            follow_redirects=False,
            trust_env=False,
            transport=transport,
        )
        self._connect_s = timeout_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._client.aclose()

    async def info(self) -> Info:
        """The gateway in one glance."""
        return _decode(await self._get("/admin/v1/info"), Info)

    async def receipts(
        self,
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int = 100,
        verdict: str | None = None,
        node: str | None = None,
    ) -> Page:
        """Receipts newest first, with log indexes below `before` and above `after`. `verdict`, `node`: exact."""
        asked = {"before": before, "after": after, "limit": min(limit, MAX_PAGE), "verdict": verdict, "node": node}
        params = {name: value for name, value in asked.items() if value is not None}
        return _decode(await self._get("/admin/v1/receipts", params), Page)

    async def bundle(self, receipt_id: str) -> bytes:
        """The bundle of one receipt, as sent: `gateway.log.bundle` reads it, `gateway.offline` judges it."""
        return await self._get(f"/admin/v1/receipts/{quote(receipt_id, safe='')}", limit=MAX_BUNDLE)

    async def nodes(self) -> tuple[NodeView, ...]:
        """Every node with its state, its session and the one reason why it is not routed to."""
        return _decode(await self._get("/admin/v1/nodes"), Nodes).nodes

    async def live(self) -> AsyncIterator[Row]:
        """Receipts as they are committed. The feed may lose rows under load: read `receipts` again to be complete."""
        timeout = httpx.Timeout(self._connect_s, read=None)  # an idle gateway has nothing to say
        try:
            async with self._client.stream("GET", "/admin/v1/live", timeout=timeout) as response:
                if response.status_code != 200:
                    raise _refusal(response, await _bounded(response, MAX_ANSWER))
                _unpacked(response)
                async for data in _events(response.aiter_raw()):
                    yield _decode(data, Row)
        except httpx.HTTPError as error:
            raise _unreachable(self.base_url, error) from error

    async def _get(self, path: str, params: dict[str, Any] | None = None, *, limit: int = MAX_ANSWER) -> bytes:
        try:
            async with self._client.stream("GET", path, params=params) as response:
                body = await _bounded(response, limit)
        except httpx.HTTPError as error:
            raise _unreachable(self.base_url, error) from error
        if response.status_code != 200:
            raise _refusal(response, body)
        return body


def check_address(base_url: str, *, clear_text: bool = False) -> str:
    """`base_url` without its trailing slash; ConfigError when it is no http(s) address, or would show the key."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{base_url!r} is not an address: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"{base_url!r} is not an http:// or https:// address")
    if url.userinfo or url.query or url.fragment:
        raise ConfigError("the address holds more than scheme, host, port and path; the key is given separately")
    if url.scheme == "http" and not clear_text and not _is_loopback(url.host):
        raise ConfigError(
            f"http://{url.host} would carry the admin key in clear text; use https://, a tunnel to 127.0.0.1,"
            " or --clear-text where the network itself is private"
        )
    return str(url).rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _unpacked(response: httpx.Response) -> None:
    """Refuse a compressed body: a kilobyte of it may be a gigabyte before anybody can count that."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise ServiceError("the gateway's answer is compressed, which was not asked for", reason="status")


async def _bounded(response: httpx.Response, limit: int) -> bytes:
    body = bytearray()
    _unpacked(response)
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > limit:
            raise ServiceError(f"the gateway's answer is larger than {limit} bytes", reason="status")
    return bytes(body)


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The `data` of each server-sent event.

    Split on LF by hand: httpx's line reader also splits at U+2028 and U+0085, which JSON may hold unescaped.
    """
    waiting = bytearray()
    data: list[bytes] = []
    async for chunk in chunks:
        waiting += chunk
        *lines, rest = waiting.split(b"\n")
        waiting = bytearray(rest)
        if len(waiting) + sum(map(len, data)) > MAX_EVENT:
            raise FormatError(f"an event of the live feed is larger than {MAX_EVENT} bytes")
        for raw in lines:
            line = bytes(raw).removesuffix(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data)
                data = []


def _decode(body: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"this is not the answer of a veriroute admin API: {error}") from error


def _unreachable(base_url: str, error: httpx.HTTPError) -> ServiceError:
    if isinstance(error, httpx.TimeoutException):
        return ServiceError(f"{base_url} did not answer in time", reason="timeout")
    if isinstance(error, httpx.ConnectError):
        return ServiceError(f"nothing answers at {base_url}: {error}", reason="unreachable")
    return ServiceError(f"the connection to {base_url} broke: {error or type(error).__name__}", reason="cut")


def _refusal(response: httpx.Response, body: bytes) -> Exception:
    said = _sentence(body)
    status = response.status_code
    if status == 401:
        return InvalidKey(said or "the gateway does not know this key")
    if status == 403:
        return ScopeDenied(said or "this key has no admin scope")
    if status == 404:
        return NotFound(said or "the gateway has no such thing")
    return ServiceError(f"the gateway answered {status}" + (f": {said}" if said else ""), reason="status")


def _sentence(body: bytes) -> str | None:
    """`error.message` of an OpenAI-shaped error body, if that is what it is."""
    try:
        said = msgspec.json.decode(body, type=_ErrorBody)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return said.error.message


class _ErrorDetail(msgspec.Struct):
    message: str


class _ErrorBody(msgspec.Struct):
    error: _ErrorDetail
