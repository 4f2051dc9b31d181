"""The messages between the gateway and a worker: MessagePack behind four bytes of length, most significant first."""

from __future__ import annotations

import msgspec

from gateway.verify.proofs import field
from gateway.verify.proofs.zk import Ran, Statement
from gateway.verify.proofs.zk_circuit import Circuit

LENGTH = 4
MAX_REPLY = 64 * 1024


class Files(msgspec.Struct, frozen=True):
    """The pinned files of a circuit, by content."""

    vk: bytes
    settings: bytes
    srs: bytes


class Job(msgspec.Struct, frozen=True):
    """One proof to verify. Instances are 32 bytes each, least significant first.

    `files` come with the first job of a circuit that a worker sees; it keeps them. `hashed` pairs the index of an
    instance with the values whose Poseidon hash it has to be. The worker ends itself after `seconds`.
    """

    system: str
    circuit: str
    files: Files | None
    proof: bytes
    instances: tuple[bytes, ...]
    hashed: tuple[tuple[int, tuple[bytes, ...]], ...]
    seconds: float


_job = msgspec.msgpack.Decoder(Job)
_reply = msgspec.msgpack.Decoder(Ran)


def job(circuit: Circuit, statement: Statement, *, seconds: float, with_files: bool) -> bytes:
    """The framed job that verifies `statement` under `circuit`."""
    manifest = circuit.manifest
    return frame(
        Job(
            system=manifest.system.value,
            circuit=manifest.vk_sha256,
            files=Files(circuit.vk, circuit.settings, circuit.srs) if with_files else None,
            proof=statement.proof,
            instances=tuple(map(field.to_bytes, statement.instances)),
            hashed=tuple((entry.index, tuple(map(field.to_bytes, entry.values))) for entry in statement.hashed),
            seconds=seconds,
        )
    )


def frame(message: Job | Ran) -> bytes:
    """`message` as it crosses the pipe."""
    data = msgspec.msgpack.encode(message)
    return len(data).to_bytes(LENGTH, "big") + data


def read_job(data: bytes) -> Job:
    """The job in `data`, which is the gateway's own. Raises msgspec's errors, at which the worker ends."""
    return _job.decode(data)


def read_reply(data: bytes) -> Ran:
    """What a worker answered. Raises `msgspec.DecodeError`: a worker that native code has broken may write anything."""
    return _reply.decode(data)
