"""An OpenAI-compatible server as the commands about proofs ask it: the trusted reference, or a known-good node.

A request is one POST; an answer is bounded in bytes and in time, for a server that went astray must not take the
operator's terminal with it. No redirects, no proxies from the environment, no cookies. The key is sent to the address
given and nowhere else. The server's word is taken as the operator's own: no evidence of it is looked at here.

`ServiceError` with `reason` one of reference_unreachable, reference_timeout, reference_refused, reference_cut,
reference_oversize; `ConfigError` for an address or key that cannot be used.
"""

from __future__ import annotations

import ipaddress
import json
import os
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from gateway.errors import ConfigError, FormatError, ServiceError
from gateway.text import plain
from gateway.verify.proofs.answer import read_object
from gateway.verify.proofs.tokens import MAX_BODY


class Server:
    """One server at `url`, with or without `/v1` at its end. `transport` is for tests."""

    def __init__(
        self,
        url: str,
        *,
        key_env: str | None = None,
        timeout_s: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = base_address(url)
        self._timeout_s = timeout_s
        self._client = httpx.Client(
            headers={"accept-encoding": "identity", **_authorization(self.url, key_env)},
            timeout=timeout_s,
            follow_redirects=False,
            trust_env=False,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def post(self, path: str, document: Mapping[str, Any]) -> bytes:
        """The body of the answer to `document` at `path`."""
        return self._ask("POST", path, json.dumps(document).encode())

    def first_model(self) -> str:
        """The id of the first model that it lists."""
        name = _first(self._ask("GET", "/v1/models", None))
        if not isinstance(name, str) or not name:
            raise FormatError(f"{self.url} lists no models; name one with --model", reason="malformed")
        return name

    def _ask(self, method: str, path: str, content: bytes | None) -> bytes:
        headers = {"content-type": "application/json"} if content is not None else {}
        end = time.monotonic() + self._timeout_s
        try:
            with self._client.stream(method, self.url + path, content=content, headers=headers) as response:
                body = self._bounded(response, end)
        except httpx.TimeoutException as error:
            raise self._late() from error
        except httpx.ConnectError as error:
            raise ServiceError(f"nothing answers at {self.url}: {error}", reason="reference_unreachable") from error
        except UnicodeError as error:  # a name that the resolver cannot even be given
            raise ConfigError(f"{self.url} is not an address: {error}") from error
        except httpx.HTTPError as error:
            said = str(error) or type(error).__name__
            raise ServiceError(f"the connection to {self.url} broke: {said}", reason="reference_cut") from error
        if response.status_code != 200:
            said = plain(body[:400].decode("utf-8", "replace"), 200)
            raise ServiceError(f"{self.url}{path}: {response.status_code} {said}", reason="reference_refused")
        return body

    def _bounded(self, response: httpx.Response, end: float) -> bytes:
        if response.headers.get("content-encoding", "identity").lower() != "identity":  # a bomb, before it is counted
            raise ServiceError(
                f"the answer of {self.url} is compressed, which was not asked for", reason="reference_refused"
            )
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > MAX_BODY:
                raise ServiceError(
                    f"the answer of {self.url} is larger than {MAX_BODY} bytes", reason="reference_oversize"
                )
            if time.monotonic() > end:  # the client's own limit starts anew with every piece
                raise self._late()
        return bytes(body)

    def _late(self) -> ServiceError:
        return ServiceError(f"{self.url} did not answer within {self._timeout_s:g} s", reason="reference_timeout")


def base_address(url: str) -> str:
    """`url` without a slash or `/v1` at its end. Raises `ConfigError` for what is no http(s) address."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{url!r} is not an address: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"{url!r} is not an http:// or https:// address")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ConfigError("the address holds more than scheme, host, port and path; a key is named by its variable")
    return str(parsed).rstrip("/").removesuffix("/v1").rstrip("/")


def _first(body: bytes) -> object:
    try:
        listed = read_object(body).get("data")
    except FormatError:
        return None
    return listed[0].get("id") if isinstance(listed, list) and listed and isinstance(listed[0], dict) else None


def _authorization(url: str, key_env: str | None) -> dict[str, str]:
    if key_env is None:
        return {}
    key = os.environ.get(key_env, "")
    # What no header can hold would come back in the sentence of a failed connection, the key with it.
    if not key or not key.isascii() or not key.isprintable() or key != key.strip():
        raise ConfigError(f"the environment variable {key_env} holds no API key, or one with a space around it")
    if url.startswith("http://") and not _is_loopback(httpx.URL(url).host):
        raise ConfigError(f"{url} would carry the API key in clear text; use https://")
    return {"authorization": f"Bearer {key}"}


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
