"""One JSON-RPC endpoint of an Ethereum-like chain, read strictly. Every outcome is a value or an error of `rpc_errors`.

    rpc = RpcClient(client, "operator-a", "https://rpc.example", chain_id=10740)
    await rpc.connect()                                # eth_chainId, or WrongChain
    answer = await rpc.call(registry, calldata, block=1234)

The endpoint is as hostile as a node: it may hang, flood, redirect, answer another question or give what is no hex. The
client it is given adds its own caps (the control client of the gateway does); these here hold without them too.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import ConfigError, FormatError, VerirouteError
from gateway.verify.opengradient import abi
from gateway.verify.opengradient.registry_events import Log
from gateway.verify.opengradient.response import printable

from . import hexed
from .rpc_errors import (
    NoContract,
    Reverted,
    RpcError,
    RpcMalformed,
    RpcRefused,
    RpcRejected,
    RpcTimeout,
    RpcUnreachable,
    WrongChain,
)

#: The longest body of an endpoint, in bytes: hex doubles the largest answer that is decoded.
MAX_BODY = 4 * 1024 * 1024
MAX_LOGS = 4096
MAX_TOPICS = 4
#: One request, from connecting to the last byte, in seconds.
TIMEOUT_S = 10.0

_ERROR_STRING = bytes.fromhex("08c379a0")  # Error(string), what `require` and `revert` of Solidity give
_METHOD_MISSING = -32601
_REVERT = 3


class Block(msgspec.Struct, frozen=True):
    """A block: number, 32-byte hash, Unix seconds."""

    number: int
    hash: bytes
    timestamp: int


class Transaction(msgspec.Struct, frozen=True):
    """A mined transaction: 32-byte hash, whom it called (lower-case `0x`, None for a creation), calldata, block."""

    hash: bytes
    to: str | None
    input: bytes
    block: int


class RpcClient:
    """One endpoint under the name that stands in dossiers. The client stays its maker's to close."""

    def __init__(
        self, client: httpx.AsyncClient, name: str, url: str, *, chain_id: int, timeout_s: float = TIMEOUT_S
    ) -> None:
        """Raises `ConfigError` for a URL that is none and a name that is not short and printable."""
        if not (name.isascii() and name.isprintable() and 0 < len(name) <= 64):
            raise ConfigError("the name of an RPC endpoint has 1 to 64 printable ASCII characters")
        self.name, self.chain_id = name, chain_id
        self.place = place_of(url, name)
        self._client, self._url, self._timeout = client, url, timeout_s
        self._ids = itertools.count(1)

    async def connect(self) -> None:
        """Ask for the chain's id. Raises `WrongChain` for another than ours, `RpcError`."""
        found = hexed.quantity(await self._ask("eth_chainId"), "the chain id")
        if found != self.chain_id:
            raise WrongChain(f"{self.name} serves chain {found}, not {self.chain_id}")

    async def block_number(self) -> int:
        """The number of the endpoint's newest block. Raises `RpcError`."""
        return hexed.quantity(await self._ask("eth_blockNumber"), "the block number")

    async def block(self, number: int) -> Block:
        """The block `number`. Raises `RpcMalformed` when the endpoint does not have it, `RpcError`."""
        found = _object(await self._ask("eth_getBlockByNumber", hex(number), False), "the block")
        block = Block(
            hexed.quantity(found.get("number"), "the block's number"),
            hexed.data(found.get("hash"), "the block's hash", length=32),
            hexed.quantity(found.get("timestamp"), "the block's timestamp"),
        )
        if block.number != number:
            raise RpcMalformed("the block is another than the one asked for")
        return block

    async def code(self, address: str, block: int) -> bytes:
        """The code at `address`. Raises `NoContract` where there is none, `RpcError`."""
        code = hexed.data(await self._ask("eth_getCode", address, hex(block)), "the code")
        if not code:
            raise NoContract(f"there is no contract at {address}")
        return code

    async def call(self, to: str, calldata: bytes, block: int) -> bytes:
        """What the contract at `to` returns. Raises `Reverted`, `NoContract` for an empty answer, `RpcError`."""
        request = {"to": to, "data": hexed.ox(calldata)}
        answer = hexed.data(await self._ask("eth_call", request, hex(block)), "the answer")
        if not answer:
            raise NoContract(f"the call to {to} gave nothing: there is no contract there")
        if len(answer) > abi.MAX_ANSWER:
            raise RpcRefused(f"the answer has {len(answer)} bytes", reason="rpc_too_large")
        return answer

    async def logs(self, address: str, topics: list[list[bytes]], first: int, last: int) -> tuple[Log, ...]:
        """Logs of `address` in blocks `first` to `last`, in the chain's order. Raises `RpcError`.

        `topics` holds, for each place, the topics that are accepted there. What was not asked for is malformed.
        """
        query = {
            "address": address,
            "topics": [[hexed.ox(topic) for topic in place] for place in topics],
            "fromBlock": hex(first),
            "toBlock": hex(last),
        }
        found = await self._ask("eth_getLogs", query)
        if not isinstance(found, list):
            raise RpcMalformed("the logs are not a list")
        if len(found) > MAX_LOGS:
            raise RpcRefused(f"more than {MAX_LOGS} logs", reason="rpc_too_large")
        logs = [_log(entry) for entry in found]
        if any(not _asked_for(log, address, topics, first, last) for log in logs):
            raise RpcMalformed("a log is not one of those asked for")
        places = [(log.block, log.index) for log in logs]
        if any(second <= first_ for first_, second in itertools.pairwise(places)):
            raise RpcMalformed("the logs are out of order")
        return tuple(logs)

    async def transaction(self, tx: bytes) -> Transaction:
        """The mined transaction `tx`. Raises `RpcMalformed` when the endpoint does not have it, `RpcError`."""
        found = _object(await self._ask("eth_getTransactionByHash", hexed.ox(tx)), "the transaction")
        to = found.get("to")
        transaction = Transaction(
            hexed.data(found.get("hash"), "the transaction's hash", length=32),
            None if to is None else hexed.address(to, "the transaction's target"),
            hexed.data(found.get("input"), "the transaction's input"),
            hexed.quantity(found.get("blockNumber"), "the transaction's block"),
        )
        if transaction.hash != tx:
            raise RpcMalformed("the transaction is another than the one asked for")
        return transaction

    async def _ask(self, method: str, *params: object) -> object:
        asked = next(self._ids)
        request = {"jsonrpc": "2.0", "id": asked, "method": method, "params": list(params)}
        body = await self._post(msgspec.json.encode(request))
        try:
            answer = _object(strict_json(body, max_bytes=MAX_BODY), "the answer")
        except FormatError as error:
            raise RpcMalformed(f"{self.name}: {printable(error.message)}") from None
        if answer.get("jsonrpc") != "2.0" or type(answer.get("id")) is not int or answer["id"] != asked:
            raise RpcMalformed("the answer is not JSON-RPC 2.0 to our request")
        if ("result" in answer) == ("error" in answer):
            raise RpcMalformed("the answer has not exactly one of result and error")
        if "error" in answer:
            raise _refusal(answer["error"])
        return answer["result"]

    async def _post(self, body: bytes) -> bytes:
        headers = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity"}
        try:
            async with asyncio.timeout(self._timeout):
                async with self._client.stream(
                    "POST", self._url, content=body, headers=headers, follow_redirects=False
                ) as response:
                    _check_head(response)
                    return await _bounded(response)
        except (TimeoutError, httpx.TimeoutException):
            raise RpcTimeout(f"{self.name} did not answer within {self._timeout:g} s") from None
        except httpx.HTTPError as error:
            raise _translated(error, self.name) from None


def place_of(url: str, name: str) -> str:
    """Host and port: two URLs of one place are one endpoint. Raises `ConfigError` that says `name` for no such URL."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or not url.isascii():
        raise ConfigError(f"the RPC endpoint {name}: not an http(s) URL without user name")
    return f"{parts.hostname.rstrip('.')}:{port or (443 if parts.scheme == 'https' else 80)}"


def _check_head(response: httpx.Response) -> None:
    if 300 <= response.status_code < 400:
        raise RpcRefused("the endpoint redirects, and redirects are never followed", reason="rpc_redirect")
    # Some endpoints give JSON-RPC errors the status 4xx or 5xx; an error that does not come as 200 is no answer to us.
    if response.status_code != 200:
        raise RpcRefused(f"the endpoint answers with status {response.status_code}")
    if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise RpcRefused("the answer is compressed although identity was asked for", reason="rpc_encoding")


async def _bounded(response: httpx.Response) -> bytes:
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > MAX_BODY:
            raise RpcRefused(f"the answer has more than {MAX_BODY} bytes", reason="rpc_too_large")
    return bytes(body)


def _translated(error: httpx.HTTPError, name: str) -> RpcError:
    """Our error for httpx's. The gateway's own client gives the reason of its channel as the cause."""
    cause = error.__cause__
    reason = cause.reason if isinstance(cause, VerirouteError) else None
    if reason in ("too_large", "redirect"):
        return RpcRefused(f"{name}: the channel refused the answer ({reason})", reason=f"rpc_{reason}")
    if reason == "content_encoding":
        return RpcRefused(f"{name}: the answer is compressed", reason="rpc_encoding")
    return RpcUnreachable(f"{name} cannot be reached ({reason or type(error).__name__})")


def _refusal(error: object) -> RpcError:
    """The error that a JSON-RPC error object stands for: a revert is an answer of the contract, all else is not."""
    found = _object(error, "the error")
    code, message = found.get("code"), found.get("message")
    if type(code) is not int or not isinstance(message, str):
        raise RpcMalformed("the error has no code or no message")
    if code == _REVERT or message.lower().startswith("execution reverted"):
        raw = found.get("data")
        data = hexed.data(raw, "the revert's data") if raw is not None else b""
        return Reverted(printable(_revert_text(data)), data[:1024])
    if code == _METHOD_MISSING:
        return RpcRejected("the endpoint does not know the method", code, reason="rpc_method_missing")
    return RpcRejected(f"the endpoint answers with error {code}: {printable(message)}", code)


def _revert_text(data: bytes) -> str:
    if data[:4] != _ERROR_STRING:
        return ""
    try:
        return str(abi.decode(["string"], data[4:])[0])
    except FormatError:
        return ""


def _log(entry: object) -> Log:
    found = _object(entry, "a log")
    topics = found.get("topics")
    if not isinstance(topics, list) or len(topics) > MAX_TOPICS or found.get("removed", False) is not False:
        raise RpcMalformed("a log has no topics, too many, or was removed")
    data = hexed.data(found.get("data"), "a log's data")
    if len(data) > abi.MAX_ANSWER:
        raise RpcRefused("a log is too long", reason="rpc_too_large")
    return Log(
        address=hexed.address(found.get("address"), "a log's address"),
        topics=tuple(hexed.data(topic, "a topic", length=32) for topic in topics),
        data=data,
        block=hexed.quantity(found.get("blockNumber"), "a log's block"),
        index=hexed.quantity(found.get("logIndex"), "a log's index"),
        tx=hexed.data(found.get("transactionHash"), "a log's transaction", length=32),
    )


def _asked_for(log: Log, address: str, topics: list[list[bytes]], first: int, last: int) -> bool:
    places = zip(topics, log.topics, strict=False)
    return (
        log.address == address.lower()
        and first <= log.block <= last
        and len(log.topics) >= len(topics)
        and all(topic in accepted for accepted, topic in places)
    )


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RpcMalformed(f"{what} is not an object")
    return value
