"""Discovery: which TEEs the registry lists, read at one block that several endpoints agree on.

    found = await discover(quorum, registry, tee_type=0)
    found.records                        # empty: the registry says so itself; an outage raises rpc_quorum instead
    about = await tee_reads(found.round, registry, found.records[0])

Three outcomes are kept apart (H22): an agreed empty list is `Discovery` without records; an outage is `QuorumError`
with `rpc_quorum`; endpoints that contradict each other are `QuorumError` with `rpc_disagree`. Nothing here judges a
TEE: the reads go into its dossier (`dossier.build_dossier`) as they came.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from gateway.errors import ConfigError
from gateway.verify.opengradient.registry import OhttpRecord, Refused, TeeRecord, decode_tees, decode_v2_tees
from gateway.verify.opengradient.registry_calldata import CALLS, calldata

from . import hexed
from .quorum import Quorum, Read, Round
from .rpc import Block
from .rpc_errors import Reverted


@dataclass(frozen=True)
class Discovery:
    """What the registry lists at `block`. `reads` are those about all TEEs, the listing first.

    `round` asks on at the same block; `refused` are records that cannot be read.
    """

    chain_id: int
    registry: str
    tee_type: int
    block: Block
    records: tuple[TeeRecord, ...]
    refused: tuple[Refused, ...]
    reads: tuple[Read, ...]
    round: Round

    @property
    def dissent(self) -> tuple[str, ...]:
        """Endpoints that contradicted the others in some read, or were left out with another block: worth an alarm."""
        named = {name for read in self.reads for name in read.dissent}
        named |= {name for name, reason in self.round.failed.items() if reason == "rpc_other_block"}
        return tuple(sorted(named))


async def discover(quorum: Quorum, registry: str, tee_type: int) -> Discovery:
    """The active TEEs of `tee_type` (0: LLM proxy). Raises `RpcError`, and `FormatError` for a malformed list."""
    if not hexed.is_address(registry) or not 0 <= tee_type <= 255:
        raise ConfigError("the registry is 0x and 40 hex digits, and a TEE type is 0 to 255")
    registry = registry.lower()
    round_ = await quorum.round()
    await round_.code(registry)
    listing = await round_.call(registry, calldata("getActiveTEEs", tee_type))
    listed = await asyncio.to_thread(decode_tees, listing.require())  # hundreds of records: nobody else waits
    reads, records = [listing], listed.records
    if any(record.layout == "tee-info-10" for record in records):  # this layout keeps OHTTP keys apart, or has none
        extended = await round_.call(registry, calldata("getActiveTEERecordsWithOHTTPConfig", tee_type))
        reads.append(extended)
        records = await asyncio.to_thread(_with_ohttp, records, extended)
    shared = map(calldata, ("heartbeatMaxAge", "awsRootCertificate", "getApprovedPCRs"))
    reads += await asyncio.gather(*(round_.call(registry, data) for data in shared))
    return Discovery(round_.chain_id, registry, tee_type, round_.block, records, listed.refused, tuple(reads), round_)


async def tee_reads(round_: Round, registry: str, record: TeeRecord) -> tuple[Read, ...]:
    """What the registry says about one TEE: its record alone, whether it is active, whether its code is approved.

    Never raises: a read that was not agreed on says why.
    """
    calls = [
        calldata("getTEE", record.tee_id),
        calldata("isTEEActive", record.tee_id),
        calldata("isPCRApproved", record.tee_type, record.pcr_hash),
        calldata("pcrRecords", record.tee_type, record.pcr_hash),
    ]
    if record.layout == "registry-v2":
        calls.append(calldata("getOHTTPConfig", record.tee_id))
    return tuple(await asyncio.gather(*(round_.call(registry.lower(), data) for data in calls)))


def _with_ohttp(records: tuple[TeeRecord, ...], extended: Read) -> tuple[TeeRecord, ...]:
    """The records with V2's OHTTP keys, by TEE. A registry that is not V2 reverts, and the records stay as they are."""
    keys: dict[bytes, OhttpRecord | None] = {}
    with contextlib.suppress(Reverted):
        keys = {record.tee_id: record.ohttp for record in decode_v2_tees(extended.require()).records}
    return tuple(
        msgspec.structs.replace(record, ohttp=keys[record.tee_id], layout="registry-v2")
        if record.tee_id in keys
        else record
        for record in records
    )


def unread(reads: Iterable[Read]) -> dict[str, str]:
    """The `problems` of a dossier for reads without agreement: view -> reason."""
    return {CALLS.get(read.data[:4], "read"): read.reason for read in reads if read.reason is not None}
