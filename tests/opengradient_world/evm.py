"""A real chain in a test: py-evm behind JSON-RPC on loopback, and contracts made without a compiler.

    chain = Chain()
    registry = chain.deploy(contract({calldata: Returns(b"…")}, {other: Emits(topics, data, epoch=1)}))
    async with serving(chain) as rpc:
        rpc.url

A contract is a table: the keccak256 of the whole calldata, plus the epoch in storage slot 0, picks what it does. What it
returns stands in its code; what it emits is a real log, and it may go to another epoch, so that the same call gives
something else from that block on.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

from eth_abi import encode
from eth_utils import keccak

# Importing py-evm lifts the interpreter's recursion limit to 100,000, far beyond what an 8 MiB stack holds in C: a
# deeply nested JSON document would then crash whatever test comes next in this process. Nothing here recurses.
_limit = sys.getrecursionlimit()
from eth_tester import EthereumTester, PyEVMBackend  # noqa: E402
from eth_tester.exceptions import BlockNotFound, TransactionFailed, TransactionNotFound  # noqa: E402

sys.setrecursionlimit(_limit)

#: The id that py-evm gives its test chain.
CHAIN_ID = 131277322940537


class Returns(NamedTuple):
    """The call returns `data`."""

    data: bytes


class Reverts(NamedTuple):
    """The call reverts with `data`, for example `error_string("no")`."""

    data: bytes = b""


class Emits(NamedTuple):
    """The transaction leaves one log, and puts the contract into `epoch` if that is given."""

    topics: tuple[bytes, ...]
    data: bytes = b""
    epoch: int | None = None


Act = Returns | Reverts | Emits


def error_string(text: str) -> bytes:
    """What `revert(text)` of Solidity gives back."""
    return bytes.fromhex("08c379a0") + encode(["string"], [text])


def contract(*epochs: Mapping[bytes, Act]) -> bytes:
    """The creation code of a contract: for each epoch, calldata -> what is done. Any other call reverts with nothing."""
    acts = [
        ((int.from_bytes(keccak(calldata), "big") + epoch) % 2**256, act)
        for epoch, table in enumerate(epochs)
        for calldata, act in table.items()
    ]
    prologue = bytes.fromhex("36600060003736600020" + "60005401")  # keccak256(calldata) + storage[0]
    fallback = bytes.fromhex("60006000fd")
    starts, at = [], len(prologue) + 39 * len(acts) + len(fallback)
    for _, act in acts:
        starts.append(at)
        at += len(_act(act, 0))
    bodies, blobs = [], b""
    for _, act in acts:
        bodies.append(_act(act, at + len(blobs)))
        blobs += act.data
    dispatch = [
        b"\x80\x7f" + key.to_bytes(32, "big") + b"\x14" + _push(start) + b"\x57"
        for (key, _), start in zip(acts, starts, strict=True)
    ]
    runtime = prologue + b"".join(dispatch) + fallback + b"".join(bodies) + blobs
    return _push(len(runtime)) + b"\x80" + _push(13) + bytes.fromhex("6000396000f3") + runtime


def _push(value: int) -> bytes:
    return b"\x61" + value.to_bytes(2, "big")


def _act(act: Act, blob: int) -> bytes:
    size = _push(len(act.data))
    code = b"\x5b" + size + _push(blob) + bytes.fromhex("600039")  # memory[0:] = the data in the code
    if isinstance(act, Emits):
        code += b"".join(b"\x7f" + topic for topic in reversed(act.topics))
        code += size + bytes.fromhex("6000") + bytes([0xA0 + len(act.topics)])
        if act.epoch is not None:
            code += bytes([0x60, act.epoch, 0x60, 0, 0x55])
        return code + b"\x00"
    return code + size + bytes.fromhex("6000") + (b"\xf3" if isinstance(act, Returns) else b"\xfd")


class Chain:
    """py-evm with automatic mining: each transaction is a block."""

    def __init__(self) -> None:
        self.tester = EthereumTester(PyEVMBackend())
        self.account = self.tester.get_accounts()[0]

    def deploy(self, code: bytes) -> str:
        """The address, in lower case, of the contract that `code` creates."""
        tx = self._send({"data": "0x" + code.hex()})
        receipt = self.tester.get_transaction_receipt(tx)
        assert receipt["status"] == 1
        return str(receipt["contract_address"]).lower()

    def send(self, to: str, data: bytes) -> bytes:
        """Mine a transaction; its 32-byte hash."""
        tx = self._send({"to": to, "data": "0x" + data.hex()})
        assert self.tester.get_transaction_receipt(tx)["status"] == 1
        return bytes.fromhex(tx[2:])

    def mine(self, blocks: int = 1) -> None:
        self.tester.mine_blocks(blocks)

    @property
    def height(self) -> int:
        return int(self.tester.get_block_by_number("latest")["number"])

    def time_of(self, block: int) -> int:
        return int(self.tester.get_block_by_number(block)["timestamp"])

    def _send(self, fields: dict[str, Any]) -> str:
        return str(self.tester.send_transaction({"from": self.account, "gas": 12_000_000, "value": 0, **fields}))

    def answer(self, method: str, params: list[Any]) -> Any:
        """The result of one request. Raises `Refused`."""
        made = getattr(self, "_" + method, None)
        if made is None:
            raise Refused(-32601, f"the method {method} does not exist")
        return made(*params)

    def _eth_chainId(self) -> str:
        return hex(CHAIN_ID)

    def _eth_blockNumber(self) -> str:
        return hex(self.height)

    def _eth_getCode(self, address: str, block: str) -> str:
        return str(self.tester.get_code(address, int(block, 16)))

    def _eth_call(self, call: dict[str, str], block: str) -> str:
        request = {"from": self.account, "to": call["to"], "data": call["data"], "gas": 20_000_000, "value": 0}
        try:
            return str(self.tester.call(request, int(block, 16)))
        except TransactionFailed as error:
            said = str(error)
            if said.startswith("b'") or said.startswith('b"'):  # a custom error, or nothing
                raise Refused(3, "execution reverted", "0x" + ast.literal_eval(said).hex()) from None
            raise Refused(3, f"execution reverted: {said}", "0x" + error_string(said).hex()) from None

    def _eth_getBlockByNumber(self, number: str, _full: bool) -> dict[str, Any] | None:
        try:
            block = self.tester.get_block_by_number(int(number, 16))
        except BlockNotFound:
            return None
        return {"number": hex(block["number"]), "hash": block["hash"], "timestamp": hex(block["timestamp"])}

    def _eth_getTransactionByHash(self, tx: str) -> dict[str, Any] | None:
        try:
            found = self.tester.get_transaction_by_hash(tx)
        except TransactionNotFound:
            return None
        data = found["data"]
        return {
            "hash": found["hash"],
            "to": found["to"] or None,
            "input": data if isinstance(data, str) else "0x" + data.hex(),
            "blockNumber": hex(found["block_number"]),
        }

    def _eth_getLogs(self, query: dict[str, Any]) -> list[dict[str, Any]]:
        first, last = int(query["fromBlock"], 16), int(query["toBlock"], 16)
        found = []
        for log in self.tester.get_logs(from_block=first, to_block=last, address=query["address"]):
            topics = [str(topic) for topic in log["topics"]]
            wanted = zip(query["topics"], topics, strict=False)
            if len(topics) < len(query["topics"]) or any(topic not in places for places, topic in wanted):
                continue
            data = log["data"]
            found.append(
                {
                    "address": log["address"],
                    "topics": topics,
                    "data": data if isinstance(data, str) else "0x" + data.hex(),
                    "blockNumber": hex(log["block_number"]),
                    "logIndex": hex(log["log_index"]),
                    "transactionHash": log["transaction_hash"],
                    "removed": False,
                }
            )
        return found


class Refused(Exception):
    """A JSON-RPC error."""

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(message)
        self.body = {"code": code, "message": message} | ({} if data is None else {"data": data})


#: Changes a result: method, parameters, result -> result. May raise `Refused`.
Lie = Callable[[str, list[Any], Any], Any]


class Endpoint:
    """One endpoint: where it listens, what it was asked, the lie that it tells and the seconds that it takes, both of
    which may be changed any time."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []
        self.lie: Lie | None = None
        self.delay = 0.0

    def respond(self, chain: Chain, body: bytes) -> bytes:
        request = json.loads(body)
        method, params = request["method"], request["params"]
        self.asked.append(method)
        try:
            result = chain.answer(method, params)
            if self.lie is not None:
                result = self.lie(method, params, result)
            outcome = {"result": result}
        except Refused as error:
            outcome = {"error": error.body}
        return json.dumps({"jsonrpc": "2.0", "id": request["id"], **outcome}).encode()


@contextlib.asynccontextmanager
async def serving(chain: Chain) -> AsyncIterator[Endpoint]:
    """`chain` behind one endpoint on a free loopback port."""
    endpoint = Endpoint()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
                body = endpoint.respond(chain, await reader.readexactly(length))
                await asyncio.sleep(endpoint.delay)
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
                )
                writer.write(body)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    endpoint.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    try:
        yield endpoint
    finally:
        server.close()
