"""The transaction that registered a TEE, found by its event: its calldata holds the attestation document.

    TEERegistered(teeId, …) log -> transaction hash -> input

The record says when the TEE was registered, which is the time of a block, so the block is found by halving: some 25
headers instead of all logs of the chain. Where that gives nothing, ranges of blocks are scanned from the newest back,
as many as `max_ranges`. Of several registrations of one key the newest counts.
"""

from __future__ import annotations

import contextlib

import msgspec

from gateway.errors import FormatError
from gateway.verify.opengradient.registry import decode_registration, tee_id_of
from gateway.verify.opengradient.registry_events import Log, topic

from .quorum import Round
from .rpc_errors import QuorumError, RegistrationProblem

#: Blocks of one `eth_getLogs`; many endpoints refuse more than 10,000.
RANGE = 5_000
MAX_RANGES = 40
#: Blocks after the one that was found which may have the same time: blocks can come faster than seconds pass.
SAME_SECOND = 16


class RegistrationRead(msgspec.Struct, frozen=True):
    """Where a TEE was registered, and the calldata that did it. `tx` is the 32-byte hash."""

    tx: bytes
    block: int
    input: bytes


async def registration(
    round_: Round,
    registry: str,
    tee_id: bytes,
    *,
    registered_at: int | None = None,
    first_block: int = 0,
    max_ranges: int = MAX_RANGES,
) -> RegistrationRead:
    """The newest registration of `tee_id`. `registered_at` is the record's; `first_block` the registry's own.

    Raises `RegistrationProblem`, and `QuorumError` where endpoints do not agree.
    """
    log = None
    if registered_at is not None:
        with contextlib.suppress(QuorumError):  # endpoints that no longer have old headers may still have the logs
            log = await _near(round_, registry, tee_id, registered_at, first_block)
    if log is None:
        log = await _scan(round_, registry, tee_id, first_block, max_ranges)
    if log is None:
        raise RegistrationProblem("no registration of this TEE was found in the blocks that were looked through")
    return await _transaction(round_, registry, tee_id, log)


async def _transaction(round_: Round, registry: str, tee_id: bytes, log: Log) -> RegistrationRead:
    found = await round_.transaction(log.tx)
    if found.block != log.block:
        raise RegistrationProblem("the transaction is in another block than its log", reason="registration_mismatch")
    if found.to != registry.lower():
        raise RegistrationProblem(
            "the TEE was registered through another contract, so the calldata is in that one's form",
            reason="registration_indirect",
        )
    try:
        registered = decode_registration(found.input)
    except FormatError as error:
        raise RegistrationProblem(error.message, reason="registration_unreadable") from None
    if tee_id_of(registered.spki) != tee_id:
        raise RegistrationProblem("the transaction registers another key", reason="registration_mismatch")
    return RegistrationRead(found.hash, found.block, found.input)


async def _near(round_: Round, registry: str, tee_id: bytes, when: int, first: int) -> Log | None:
    """The registration in the first block of time `when`, or in those right after it."""
    low, high = first, round_.block.number
    while low < high:
        middle = (low + high) // 2
        if (await round_.block_at(middle)).timestamp < when:
            low = middle + 1
        else:
            high = middle
    return await _newest(round_, registry, tee_id, low, min(low + SAME_SECOND, round_.block.number))


async def _scan(round_: Round, registry: str, tee_id: bytes, first: int, ranges: int) -> Log | None:
    last = round_.block.number
    for _ in range(ranges):
        if last < first:
            break
        start = max(first, last - RANGE + 1)
        found = await _newest(round_, registry, tee_id, start, last)
        if found is not None:
            return found
        last = start - 1
    return None


async def _newest(round_: Round, registry: str, tee_id: bytes, first: int, last: int) -> Log | None:
    logs = await round_.logs(registry, [[topic("TEERegistered")], [tee_id]], first, last)
    return logs[-1] if logs else None
