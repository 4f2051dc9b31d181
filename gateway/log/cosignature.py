"""Cosignatures (C2SP tlog-cosignature v1.0.1): a witness saying that a checkpoint is the newest it saw, and when.

    line payload       u64 time || signature
    Ed25519 (0x04)     over "cosignature/v1\\ntime <time>\\n" || whole note text
    ML-DSA-44 (0x06)   over "subtree/v1\\n\\0" || u8 len || cosigner name || u64 time || u8 len || origin
                            || u64 0 || u64 size || root32

The ML-DSA form does not cover extension lines and does cover the cosigner's name; the Ed25519 form the other way round.
A log may sign its own checkpoints in the ML-DSA form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

from gateway.crypto.encoding import MAX_COUNT
from gateway.crypto.signatures import Ed25519Signer, verify_ed25519
from gateway.errors import FormatError, ProofError

from .checkpoint import Checkpoint, checkpoint_of, parse_checkpoint
from .note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    ED25519,
    NOTE_CHECKS,
    LineCheck,
    SignatureLine,
    Vkey,
    key_id,
    open_note,
    parse_note,
)

_TIME_BYTES = 8
_SUBTREE_LABEL = b"subtree/v1\n\0"


class Cosignature(msgspec.Struct, frozen=True):
    """A cosignature that holds: whose, and the witness's own time in seconds since the epoch (0: none stated)."""

    key: Vkey
    time: int


class CosignedCheckpoint(msgspec.Struct, frozen=True):
    """A checkpoint with the log keys and the cosignatures that hold over it."""

    checkpoint: Checkpoint
    log_keys: tuple[Vkey, ...]
    cosignatures: tuple[Cosignature, ...]


def ed25519_message(time: int, text: str) -> bytes:
    """What an Ed25519 witness signs for a checkpoint's note text at `time`."""
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def mldsa44_message(cosigner: str, time: int, checkpoint: Checkpoint) -> bytes:
    """What an ML-DSA-44 cosigner signs. `FormatError` when a name does not fit its one length byte."""
    names = cosigner.encode(), checkpoint.origin.encode()
    if any(not 1 <= len(name) <= 255 for name in names):
        raise FormatError("an ML-DSA cosignature has room for names of 1 to 255 bytes")
    first, second = (bytes((len(name),)) + name for name in names)
    when, end = time.to_bytes(_TIME_BYTES, "big"), checkpoint.size.to_bytes(8, "big")
    return b"".join((_SUBTREE_LABEL, first, when, second, bytes(8), end, checkpoint.root))


def cosign(name: str, signer: Ed25519Signer, text: str, time: int) -> SignatureLine:
    """The Ed25519 cosignature line of witness `name` over a checkpoint's note text at `time`."""
    payload = time.to_bytes(_TIME_BYTES, "big") + signer.sign(ed25519_message(time, text))
    return SignatureLine(name, key_id(name, COSIGNATURE_ED25519, signer.public_key), payload)


def _check_ed25519(key: Vkey, text: str, payload: bytes) -> bool:
    time, signature = _split(payload)
    return time <= MAX_COUNT and verify_ed25519(key.public, ed25519_message(time, text), signature)


def _check_mldsa44(key: Vkey, text: str, payload: bytes) -> bool:
    time, signature = _split(payload)
    if time > MAX_COUNT:
        return False
    message = mldsa44_message(key.name, time, parse_checkpoint(text))
    try:
        MLDSA44PublicKey.from_public_bytes(key.public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _split(payload: bytes) -> tuple[int, bytes]:
    return int.from_bytes(payload[:_TIME_BYTES], "big"), payload[_TIME_BYTES:]


#: Everything that may sign a checkpoint.
CHECKPOINT_CHECKS: Mapping[int, LineCheck] = {
    **NOTE_CHECKS,
    COSIGNATURE_ED25519: _check_ed25519,
    COSIGNATURE_MLDSA44: _check_mldsa44,
}


def open_cosigned(
    data: bytes, log_keys: Sequence[Vkey], witness_keys: Sequence[Vkey], origin: str | None = None
) -> CosignedCheckpoint:
    """The checkpoint in `data`, which a log key must have signed, with each witness that cosigned it.

    A line by any of these keys that does not hold refuses the whole note, as `open_note` does. Whether the witnesses
    suffice is the trust policy's word (`gateway.log.trust`), and so is what their times mean.
    """
    if any(key.alg == ED25519 for key in witness_keys):
        raise FormatError("a witness key has type 0x04 or 0x06; 0x01 is a log's")
    if any(key.alg == COSIGNATURE_ED25519 for key in log_keys):
        raise FormatError("a log key has type 0x01 or 0x06; 0x04 is a witness's")
    note = open_note(data, [*log_keys, *witness_keys], checks=CHECKPOINT_CHECKS)
    signed_by_log = tuple(key for key in note.verified if key in log_keys)
    if not signed_by_log:
        raise ProofError("the checkpoint is cosigned but not signed by any known log key")
    checkpoint = checkpoint_of(msgspec.structs.replace(note, verified=signed_by_log), origin)
    times: dict[str, int] = {}
    for line in parse_note(data)[1]:
        times[line.keyid] = max(times.get(line.keyid, 0), _split(line.payload)[0])
    found = tuple(Cosignature(key, times[key.keyid]) for key in note.verified if key in witness_keys)
    return CosignedCheckpoint(checkpoint, signed_by_log, found)
