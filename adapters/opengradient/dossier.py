"""The dossier of one TEE: everything that was read about it, as one JSON document that the verifier judges later.

    {"schema": "opengradient-dossier/1", "chain_id": 10740, "registry": "0x…", "tee_type": 0, "tee_id": "0x…",
     "block": {"number": …, "hash": "0x…"},
     "reads": [{"to": "0x…", "data": "0x…", "answers": [{"rpc": "a", "result": "0x…"}, {"rpc": "b", "error": "…"}],
                "agreed": "0x…" | null}],
     "registration": {"tx": "0x…", "block": …, "input": "0x…"} | null,
     "live": {"nonce": "<40 hex>", "document": "<base64>"} | null,
     "ohttp_config": "<base64>" | null,
     "problems": {"<part>": "<reason>"}}

Keys are sorted and nothing is indented, so the same facts make the same bytes. It proves nothing by itself: `agreed` is
counted again from the answers, and hardware evidence is verified from its own bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gateway.crypto.encoding import b64
from gateway.errors import FormatError
from gateway.verify.opengradient.registry import TeeRecord
from gateway.verify.opengradient.registry_calldata import CALLS
from gateway.verify.opengradient.rpc_agreement import Answer

from .discover import Discovery, unread
from .hexed import ox
from .quorum import Read
from .registration import RegistrationRead

SCHEMA = "opengradient-dossier/1"
#: The longest dossier, in bytes. The longest reads are shortened until it fits: of one that was agreed on first the
#: answers that were outvoted become errors, or one endpoint of many could crowd out what the others say; then reads are
#: left out, and named in `problems`.
MAX_DOSSIER = 4 * 1024 * 1024
#: The longest live document and OHTTP config that are carried.
MAX_PART = 64 * 1024


class Live(msgspec.Struct, frozen=True):
    """A Nitro document that the enclave gave for our nonce (20 bytes)."""

    nonce: bytes
    document: bytes


def build_dossier(
    found: Discovery,
    record: TeeRecord,
    *,
    reads: Iterable[Read] = (),
    registration: RegistrationRead | None = None,
    live: Live | None = None,
    ohttp_config: bytes | None = None,
    problems: Mapping[str, str] | None = None,
) -> bytes:
    """The dossier of `record`. `problems` says why a part is missing. Raises `FormatError` for a part too long."""
    for part in (live.document if live else b"", ohttp_config or b""):
        if len(part) > MAX_PART:
            raise FormatError(f"a part of {len(part)} bytes is over the limit of {MAX_PART}", reason="too_large")
    kept = [*found.reads, *reads]
    named = {**unread(kept), **(problems or {})}
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "chain_id": found.chain_id,
        "registry": found.registry,
        "tee_type": found.tee_type,
        "tee_id": ox(record.tee_id),
        "block": {"number": found.block.number, "hash": ox(found.block.hash)},
        "registration": None if registration is None else _registration(registration),
        "live": None if live is None else {"nonce": live.nonce.hex(), "document": b64(live.document)},
        "ohttp_config": None if ohttp_config is None else b64(ohttp_config),
    }
    while True:
        document |= {"reads": [_read(read) for read in kept], "problems": named}
        encoded = msgspec.json.encode(document, order="sorted")
        if len(encoded) <= MAX_DOSSIER or not kept:
            return encoded
        at = max(range(len(kept)), key=lambda place: _weight(kept[place]))
        shorter = _without_outvoted(kept[at])
        if shorter != kept[at]:
            kept[at] = shorter
        else:
            named[CALLS.get(kept.pop(at).data[:4], "read")] = "too_large"


def _weight(read: Read) -> int:
    return sum(len(answer.result or b"") for answer in read.answers)


def _without_outvoted(read: Read) -> Read:
    """`read` with an error for each result that was outvoted. Those that agree are as many as before, and no others."""
    answers = [Answer(a.rpc, error="rpc_too_large") if a.rpc in read.dissent and a.result else a for a in read.answers]
    return msgspec.structs.replace(read, answers=tuple(answers))


def _registration(registration: RegistrationRead) -> dict[str, Any]:
    return {"tx": ox(registration.tx), "block": registration.block, "input": ox(registration.input)}


def _read(read: Read) -> dict[str, Any]:
    answers = [
        {"rpc": answer.rpc, "error": answer.error}
        if answer.result is None
        else {"rpc": answer.rpc, "result": ox(answer.result)}
        for answer in read.answers
    ]
    return {
        "to": read.to,
        "data": ox(read.data),
        "answers": answers,
        "agreed": None if read.agreed is None else ox(read.agreed),
    }
