"""The chain as JSON-RPC shows it: TEERegistry's state, its logs, the transactions that registered. No socket.

One `Chain` is the truth; endpoints (`answer`'s `endpoint`) may tell something else, by the faults in force. Blocks come
every two seconds; their hashes are a function of their numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import msgspec

from . import abi
from .abi import RECORD_V2, TEE_10, TEE_11, encode, selector, topic
from .enclave import Enclave
from .faults import Faults
from .sealing import AEAD, KDF, KEM
from .wire import keccak

CHAIN_ID = 10740
REGISTRY = "0x703cb174aeadb35d611858369b4b1111dc9abda6"
OWNER, PAYEE = "0x" + "24" * 20, "0x" + "9d" * 20
LLM_PROXY = 0
HEARTBEAT_MAX_AGE = 1800
BLOCK_S = 2
FIRST_BLOCK = 1000
REGISTERED_BEFORE_S = 86_400
REGISTER = "registerTEEWithAttestation(bytes,bytes,bytes,address,string,uint8)"
TEE_REGISTERED = topic("TEERegistered(bytes32,address,uint8)")


class Revert(Exception):
    """The contract reverts."""


class Listed(msgspec.Struct):
    """One registered enclave: what its registration said, frozen at that time, and what changes since."""

    tee_id: bytes
    endpoint: str
    spki: bytes
    tls_der: bytes
    pcr_hash: bytes
    document: bytes
    ohttp: tuple[int, bytes, bytes] | None
    registered_at: int
    beat_ago_s: int = 60
    enabled: bool = True
    tee_type: int = LLM_PROXY

    @property
    def calldata(self) -> bytes:
        """The input of the transaction that registered it."""
        types = ["bytes", "bytes", "bytes", "address", "string", "uint"]
        values = [self.document, self.spki, self.tls_der, PAYEE, self.endpoint, self.tee_type]
        return selector(REGISTER) + encode(types, values)

    @property
    def tx(self) -> str:
        return "0x" + keccak(b"tx" + self.tee_id).hex()


def listed(enclave: Enclave, *, with_ohttp: bool = True) -> Listed:
    """`enclave` as it would register itself a day ago."""
    at = int(enclave.clock()) - REGISTERED_BEFORE_S
    opener = enclave.keys.opener
    return Listed(
        tee_id=enclave.keys.tee_id,
        endpoint=enclave.url,
        spki=enclave.keys.spki,
        tls_der=enclave.keys.tls_der,
        pcr_hash=enclave.pcr_hash,
        document=enclave.document(None, at - 20),
        ohttp=(opener.key_id, opener.public, opener.blob()) if with_ohttp else None,
        registered_at=at,
    )


class Chain:
    """`layout` is how TEEInfo is laid out: tee-info-11, tee-info-10, registry-v2 (10 fields, OHTTP beside them)."""

    def __init__(self, faults: Faults, clock: Callable[[], float], layout: str = "tee-info-11") -> None:
        self.faults, self.clock, self.layout = faults, clock, layout
        self.tees: list[Listed] = []
        self.liar: Listed | None = None
        self.approved: set[bytes] = set()
        self.aws_root = b""
        self._start = clock()
        self._reads = itertools.count()
        self._functions: dict[bytes, Callable[[list[Listed], bytes], bytes]] = {
            selector(signature): function for signature, function in self._table().items()
        }

    @property
    def head(self) -> int:
        return FIRST_BLOCK + int(self.clock() - self._start) // BLOCK_S + REGISTERED_BEFORE_S

    def time_of(self, number: int) -> int:
        return int(self._start) + (number - FIRST_BLOCK - REGISTERED_BEFORE_S) * BLOCK_S

    def block_of(self, seconds: int) -> int:
        return (seconds - int(self._start)) // BLOCK_S + FIRST_BLOCK + REGISTERED_BEFORE_S

    def answer(self, request: Any, endpoint: int = 0) -> Any:
        """The JSON-RPC answer of one endpoint to a request or a batch."""
        if isinstance(request, list):
            return [self.answer(one, endpoint) for one in request]
        envelope = {"jsonrpc": "2.0", "id": request.get("id")}
        try:
            return {**envelope, "result": self._method(request["method"], request.get("params") or [], endpoint)}
        except Revert:
            return {**envelope, "error": {"code": 3, "message": "execution reverted", "data": "0x"}}
        except KeyError as unknown:
            return {**envelope, "error": {"code": -32601, "message": f"the method {unknown} does not exist"}}

    def _method(self, method: str, params: list[Any], endpoint: int) -> Any:
        tees = self._seen_by(endpoint)
        plain: dict[str, Callable[[], Any]] = {
            "eth_chainId": lambda: hex(1 if endpoint == 0 and "wrong_chain" in self.faults else CHAIN_ID),
            "net_version": lambda: str(CHAIN_ID),
            "eth_blockNumber": lambda: hex(self.head),
            "eth_getBlockByNumber": lambda: self._block(self._number(params[0])),
            "eth_getBlockByHash": lambda: self._block(self._by_hash(params[0])),
            "eth_getCode": lambda: "0x6080604052" if params[0].lower() == REGISTRY else "0x",
            "eth_call": lambda: self._call(params[0], tees),
            "eth_getLogs": lambda: self._logs(params[0], tees),
            "eth_getTransactionByHash": lambda: self._transaction(params[0], tees),
            "eth_getTransactionReceipt": lambda: self._receipt(params[0], tees),
        }
        return plain[method]()

    def _seen_by(self, endpoint: int) -> list[Listed]:
        if endpoint == 0 and "lying_registry" in self.faults and self.liar is not None:
            return [self.liar]
        return self.tees

    # Blocks

    def _hash(self, number: int) -> str:
        return "0x" + keccak(b"block" + number.to_bytes(8, "big")).hex()

    def _number(self, tag: Any) -> int:
        return self.head if tag in ("latest", "safe", "finalized", "pending") else int(tag, 16)

    def _by_hash(self, digest: str) -> int:
        return next((n for n in range(self.head, self.head - 500, -1) if self._hash(n) == digest), -1)

    def _block(self, number: int) -> Any:
        if not 0 <= number <= self.head:
            return None
        mine = [tee.tx for tee in self.tees if self.block_of(tee.registered_at) == number]
        return {
            "number": hex(number),
            "hash": self._hash(number),
            "parentHash": self._hash(number - 1) if number else "0x" + "00" * 32,
            "timestamp": hex(self.time_of(number)),
            "transactions": mine,
        }

    # The registry

    def _call(self, call: Any, tees: list[Listed]) -> str:
        if call["to"].lower() != REGISTRY:
            return "0x"
        data = bytes.fromhex((call.get("data") or call.get("input"))[2:])
        function = self._functions.get(data[:4])
        if function is None:
            raise Revert
        return "0x" + function(tees, data[4:]).hex()

    def _table(self) -> dict[str, Callable[[list[Listed], bytes], bytes]]:
        info = TEE_11 if self.layout == "tee-info-11" else TEE_10
        known: dict[str, Callable[[list[Listed], bytes], bytes]] = {
            "getActiveTEEs(uint8)": lambda tees, data: encode(
                [("array", info)], [[self._info(t) for t in tees if self._active(t) and t.tee_type == _uint(data)]]
            ),
            "getEnabledTEEs(uint8)": lambda tees, data: encode(
                [("array", "bytes32")], [[t.tee_id for t in tees if t.enabled and t.tee_type == _uint(data)]]
            ),
            "getTEEsByType(uint8)": lambda tees, data: encode(
                [("array", "bytes32")], [[t.tee_id for t in tees if t.tee_type == _uint(data)]]
            ),
            "getTEE(bytes32)": lambda tees, data: encode([info], [self._info(_find(tees, data))]),
            "getTEEPublicKey(bytes32)": lambda tees, data: encode(["bytes"], [_find(tees, data).spki]),
            "isTEEActive(bytes32)": lambda tees, data: encode(
                ["bool"], [any(self._active(t) for t in _named(tees, data))]
            ),
            "isTEEEnabled(bytes32)": lambda tees, data: encode(["bool"], [any(t.enabled for t in _named(tees, data))]),
            "heartbeatMaxAge()": lambda tees, data: encode(["uint"], [HEARTBEAT_MAX_AGE]),
            "isPCRApproved(uint8,bytes32)": lambda tees, data: encode(["bool"], [data[32:64] in self.approved]),
            "getApprovedPCRs()": lambda tees, data: encode(
                [("array", ("tuple", ["bytes32", "uint"]))], [[(pcr, LLM_PROXY) for pcr in sorted(self.approved)]]
            ),
            "pcrRecords(uint8,bytes32)": lambda tees, data: encode(
                ["bool", "uint", "uint", "string"], [data[32:64] in self.approved, LLM_PROXY, int(self._start), "v1"]
            ),
            "awsRootCertificate()": lambda tees, data: encode(["bytes"], [self.aws_root]),
        }
        if self.layout == "registry-v2":
            known["getActiveTEERecordsWithOHTTPConfig(uint8)"] = lambda tees, data: encode(
                [("array", RECORD_V2)],
                [
                    [
                        (t.tee_id, self._info(t), (*self._ohttp(t), t.registered_at))
                        for t in tees
                        if self._active(t) and t.ohttp and t.tee_type == _uint(data)
                    ]
                ],
            )
            known["getOHTTPConfig(bytes32)"] = lambda tees, data: encode(
                [abi.OHTTP_V2], [(*self._ohttp(_find(tees, data)), _find(tees, data).registered_at)]
            )
        return known

    def _beat(self, tee: Listed) -> int:
        moving = next(self._reads) if "changing_registry" in self.faults else 0
        return int(self._start) - tee.beat_ago_s + moving

    def _active(self, tee: Listed) -> bool:
        young = self.clock() - (self._start - tee.beat_ago_s) <= HEARTBEAT_MAX_AGE
        return tee.enabled and tee.pcr_hash in self.approved and young

    def _ohttp(self, tee: Listed) -> tuple[Any, ...]:
        if tee.ohttp is None:
            return (0, 0, 0, 0, b"", b"", 0)
        key_id, public, blob = tee.ohttp
        return (key_id, KEM, KDF, AEAD, public, blob, tee.registered_at)

    def _info(self, tee: Listed) -> tuple[Any, ...]:
        info = (
            OWNER, PAYEE, tee.endpoint, tee.spki, tee.tls_der, tee.pcr_hash, tee.tee_type, tee.enabled,
            tee.registered_at, self._beat(tee),
        )  # fmt: skip
        return (*info, self._ohttp(tee)) if self.layout == "tee-info-11" else info

    # What happened

    def _logs(self, wanted: Any, tees: list[Listed]) -> list[Any]:
        first, last = self._number(wanted.get("fromBlock", "0x0")), self._number(wanted.get("toBlock", "latest"))
        addresses = wanted.get("address") or REGISTRY
        if REGISTRY not in [a.lower() for a in ([addresses] if isinstance(addresses, str) else addresses)]:
            return []
        logs = [self._registered(tee) for tee in tees]
        return [
            log
            for log in logs
            if first <= int(log["blockNumber"], 16) <= last and _matches(log["topics"], wanted.get("topics") or [])
        ]

    def _registered(self, tee: Listed) -> dict[str, Any]:
        number = self.block_of(tee.registered_at)
        return {
            "address": REGISTRY,
            "topics": [TEE_REGISTERED, "0x" + tee.tee_id.hex(), "0x" + OWNER[2:].rjust(64, "0")],
            "data": "0x" + encode(["uint"], [tee.tee_type]).hex(),
            "blockNumber": hex(number),
            "blockHash": self._hash(number),
            "transactionHash": tee.tx,
            "transactionIndex": "0x0",
            "logIndex": "0x0",
            "removed": False,
        }

    def _transaction(self, tx: str, tees: list[Listed]) -> Any:
        for tee in tees:
            if tee.tx == tx:
                number = self.block_of(tee.registered_at)
                place = {"blockNumber": hex(number), "blockHash": self._hash(number), "transactionIndex": "0x0"}
                return {"hash": tx, "from": OWNER, "to": REGISTRY, "input": "0x" + tee.calldata.hex(), **place}
        return None

    def _receipt(self, tx: str, tees: list[Listed]) -> Any:
        for tee in tees:
            if tee.tx == tx:
                log = self._registered(tee)
                place = {
                    name: log[name] for name in ("blockNumber", "blockHash", "transactionHash", "transactionIndex")
                }
                return {**place, "status": "0x1", "to": REGISTRY, "from": OWNER, "logs": [log]}
        return None


def _uint(data: bytes) -> int:
    return int.from_bytes(data[:32], "big")


def _named(tees: list[Listed], data: bytes) -> list[Listed]:
    return [tee for tee in tees if tee.tee_id == data[:32]]


def _find(tees: list[Listed], data: bytes) -> Listed:
    for tee in _named(tees, data):
        return tee
    raise Revert


def _matches(topics: list[str], wanted: list[Any]) -> bool:
    if len(wanted) > len(topics):
        return False
    choices = [[one] if isinstance(one, str) else one for one in wanted]
    return all(one is None or topic in one for topic, one in zip(topics, choices, strict=False))
