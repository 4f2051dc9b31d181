"""The dossier of one node: everything that was fetched to identify it, as bytes that an auditor can judge again.

    {"schema": "opengradient-dossier/1", "chain_id": 10740, "registry": "0x<40 hex>", "tee_type": 0,
     "tee_id": "0x<64 hex>", "block": {"number": 1, "hash": "0x<64 hex>"},
     "reads": [{"to": "0x<40 hex>", "data": "0x..", "agreed": "0x.." | null,
                "answers": [{"rpc": "a", "result": "0x.."} | {"rpc": "b", "error": "timeout"}, ...]}, ...],
     "registration": {"tx": "0x<64 hex>", "block": 1, "input": "0x.."} | null,
     "live": {"nonce": "<40 hex>", "document": "<base64>"} | null,
     "ohttp_config": "<base64>" | null,
     "problems": {"live": "timeout", ...}}

A dossier is written by whoever fetched it: it proves nothing by being well formed. What the reader promises is one
meaning for each byte: every member there and no other, lower-case hex, canonical base64, every answer of a read by an
endpoint of its own name, and `agreed` a result that at least one of them gave. How many must agree is policy's word
(`Read.votes`); what a read says is `registry`'s, what the documents say `identity`'s.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.crypto.encoding import b64, unb64
from gateway.errors import FormatError
from gateway.model.receipt import CODE

SCHEMA = "opengradient-dossier/1"
MAX_DOSSIER_BYTES = 4 << 20
MAX_READS = 64
MAX_ANSWERS = 16
#: A block number or chain id that no chain reaches; also what a JSON reader of doubles still holds exactly.
MAX_NUMBER = 2**53 - 1
#: The nonce that an enclave takes, bytes.
NONCE_BYTES = 20

_HEX = re.compile(r"0x(?:[0-9a-f]{2})*")
#: What an endpoint is called: its host, and its port where it has one.
RPC_NAME = re.compile(r"[a-z0-9\[][a-z0-9_.:\]-]{0,63}")
_REASON = re.compile(CODE)
#: What a problem is about: a part (registry, registration, live, ohttp_config), or the view that was not read.
_PART = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")

T = TypeVar("T")


class Answer(msgspec.Struct, frozen=True):
    """What the endpoint named `rpc` answered: `result`, or None with a stable `error`."""

    rpc: str
    result: bytes | None = None
    error: str | None = None


class Read(msgspec.Struct, frozen=True):
    """One `eth_call` at the dossier's block: calldata `data` to the contract `to` (20 bytes), and every answer."""

    to: bytes
    data: bytes
    answers: tuple[Answer, ...]
    agreed: bytes | None

    @property
    def votes(self) -> tuple[str, ...]:
        """The names of the endpoints whose result is exactly `agreed`."""
        return tuple(a.rpc for a in self.answers if a.result is not None and a.result == self.agreed)

    @property
    def dissent(self) -> tuple[str, ...]:
        """The names of the endpoints that gave another result. One that gave none dissents from nothing."""
        return tuple(a.rpc for a in self.answers if a.result is not None and a.result != self.agreed)


class Registration(msgspec.Struct, frozen=True):
    """The transaction that registered the node: its hash, its block's number, its calldata."""

    tx: bytes
    block: int
    input: bytes


class Live(msgspec.Struct, frozen=True):
    """An attestation document that the enclave made for `nonce` (20 bytes)."""

    nonce: bytes
    document: bytes


class Dossier(msgspec.Struct, frozen=True):
    """Everything that was fetched about one node. `problems` says of a part that is missing why it is."""

    chain_id: int
    registry: bytes
    tee_type: int
    tee_id: bytes
    block_number: int
    block_hash: bytes
    reads: tuple[Read, ...] = ()
    registration: Registration | None = None
    live: Live | None = None
    ohttp_config: bytes | None = None
    problems: dict[str, str] = {}


def parse_dossier(data: bytes) -> Dossier:
    """The dossier in `data`, at most `MAX_DOSSIER_BYTES`. Raises `FormatError` with the reason dossier_malformed."""
    try:
        return _dossier(strict_json(data, max_bytes=MAX_DOSSIER_BYTES, max_depth=6))
    except FormatError as error:
        raise FormatError(f"not a dossier: {error.message}", reason="dossier_malformed") from None


def write_dossier(dossier: Dossier) -> bytes:
    """The bytes of `dossier`; `parse_dossier` reads them back. Raises `FormatError` when it would not."""
    document = {
        "schema": SCHEMA,
        "chain_id": dossier.chain_id,
        "registry": _hex(dossier.registry),
        "tee_type": dossier.tee_type,
        "tee_id": _hex(dossier.tee_id),
        "block": {"number": dossier.block_number, "hash": _hex(dossier.block_hash)},
        "reads": [_written_read(read) for read in dossier.reads],
        "registration": _written_registration(dossier.registration),
        "live": _written_live(dossier.live),
        "ohttp_config": None if dossier.ohttp_config is None else b64(dossier.ohttp_config),
        "problems": dossier.problems,
    }
    data = msgspec.json.encode(document)
    if parse_dossier(data) != dossier:
        raise FormatError("not a dossier: it reads back as another one", reason="dossier_malformed")
    return data


def _dossier(value: object) -> Dossier:
    top = _object(
        value, "it", "schema", "chain_id", "registry", "tee_type", "tee_id", "block", "reads", "registration", "live",
        "ohttp_config", "problems",
    )  # fmt: skip
    if top["schema"] != SCHEMA:
        raise FormatError(f"the schema is not {SCHEMA}")
    block = _object(top["block"], "block", "number", "hash")
    return Dossier(
        chain_id=_number(top["chain_id"], "chain_id"),
        registry=_unhex(top["registry"], "registry", 20),
        tee_type=_number(top["tee_type"], "tee_type", 255),
        tee_id=_unhex(top["tee_id"], "tee_id", 32),
        block_number=_number(block["number"], "block.number"),
        block_hash=_unhex(block["hash"], "block.hash", 32),
        reads=tuple(_read(item) for item in _list(top["reads"], "reads", MAX_READS)),
        registration=_optional(top["registration"], _registration),
        live=_optional(top["live"], _live),
        ohttp_config=_optional(top["ohttp_config"], lambda value: _unb64(value, "ohttp_config")),
        problems=_problems(top["problems"]),
    )


def _read(value: object) -> Read:
    item = _object(value, "a read", "to", "data", "answers", "agreed")
    read = Read(
        to=_unhex(item["to"], "to", 20),
        data=_unhex(item["data"], "data"),
        answers=tuple(_answer(answer) for answer in _list(item["answers"], "answers", MAX_ANSWERS)),
        agreed=_optional(item["agreed"], lambda value: _unhex(value, "agreed")),
    )
    # Two answers under one name would be two votes of one endpoint.
    if len({answer.rpc for answer in read.answers}) != len(read.answers):
        raise FormatError("two answers of a read have the same rpc")
    if read.agreed is not None and not read.votes:
        raise FormatError("nobody gave the result that a read is said to agree on")
    return read


def _answer(value: object) -> Answer:
    kind = "result" if isinstance(value, dict) and "result" in value else "error"
    item = _object(value, "an answer", "rpc", kind)
    rpc = _matched(item["rpc"], RPC_NAME, "rpc")
    if kind == "error":
        return Answer(rpc, None, _matched(item["error"], _REASON, "error"))
    return Answer(rpc, _unhex(item["result"], "result"))


def _registration(value: object) -> Registration:
    item = _object(value, "registration", "tx", "block", "input")
    return Registration(
        _unhex(item["tx"], "tx", 32), _number(item["block"], "registration.block"), _unhex(item["input"], "input")
    )


def _live(value: object) -> Live:
    item = _object(value, "live", "nonce", "document")
    return Live(_unhex(f"0x{item['nonce']}", "nonce", NONCE_BYTES), _unb64(item["document"], "document"))


def _problems(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_READS or not all(map(_PART.fullmatch, value)):
        raise FormatError("problems names something that is no part of a dossier")
    return {part: _matched(reason, _REASON, "a problem") for part, reason in value.items()}


def _object(value: object, what: str, *names: str) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != set(names):
        raise FormatError(f"{what} has not exactly the members {', '.join(names)}")
    return value


def _list(value: object, what: str, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise FormatError(f"{what} is not a list of at most {most}")
    return value


def _optional(value: object, read: Callable[[object], T]) -> T | None:
    return None if value is None else read(value)


def _number(value: object, what: str, most: int = MAX_NUMBER) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise FormatError(f"{what} is not an integer from 0 to {most}")
    return value


def _matched(value: object, form: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise FormatError(f"{what} is not a short plain word")
    return value


def _unhex(value: object, what: str, length: int | None = None) -> bytes:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise FormatError(f"{what} is not 0x and lower-case hex")
    data = bytes.fromhex(value[2:])
    if length is not None and len(data) != length:
        raise FormatError(f"{what} has {len(data)} bytes, not {length}")
    return data


def _unb64(value: object, what: str) -> bytes:
    if not isinstance(value, str):
        raise FormatError(f"{what} is not text")
    return unb64(value, what)


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _written_read(read: Read) -> dict[str, object]:
    return {
        "to": _hex(read.to),
        "data": _hex(read.data),
        "answers": [
            {"rpc": a.rpc, "error": a.error} if a.result is None else {"rpc": a.rpc, "result": _hex(a.result)}
            for a in read.answers
        ],
        "agreed": None if read.agreed is None else _hex(read.agreed),
    }


def _written_registration(registration: Registration | None) -> dict[str, object] | None:
    if registration is None:
        return None
    return {"tx": _hex(registration.tx), "block": registration.block, "input": _hex(registration.input)}


def _written_live(live: Live | None) -> dict[str, object] | None:
    return None if live is None else {"nonce": live.nonce.hex(), "document": b64(live.document)}
