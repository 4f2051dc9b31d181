"""Checkpoints (C2SP tlog-checkpoint v1.0.0): a log's size and root, as a note signed by the log.

    <origin>\\n<size>\\n<base64(root)>\\n[extension line\\n]...

We read extension lines and never write them: implementations disagree on whether a cosignature covers them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.crypto.encoding import MAX_COUNT, b64, decimal, unb64
from gateway.crypto.merkle import EMPTY_ROOT, HASH_BYTES
from gateway.errors import FormatError, ProofError

from .note import Note, NoteSigner, Vkey, open_note, sign_note


class Checkpoint(msgspec.Struct, frozen=True):
    """The state of a log: `size` leaves under the 32-byte `root`. `origin` names the log."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()


def format_checkpoint(checkpoint: Checkpoint) -> str:
    """The note text of `checkpoint`; `FormatError` when its values can't be written so that they read back."""
    lines = (checkpoint.origin, *checkpoint.extensions)
    if not all(lines) or any("\n" in line for line in lines):
        raise FormatError("a checkpoint's origin and extension lines are single non-empty lines")
    if not 0 <= checkpoint.size <= MAX_COUNT or len(checkpoint.root) != HASH_BYTES:
        raise FormatError("a checkpoint has a size from 0 to 2**63 - 1 and a root of 32 bytes")
    if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
        raise FormatError("the root of an empty log is SHA-256 of nothing")
    return "\n".join([checkpoint.origin, str(checkpoint.size), b64(checkpoint.root), *checkpoint.extensions, ""])


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint that `text` spells, in its one spelling; `FormatError` otherwise."""
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop():
        raise FormatError("a checkpoint has an origin, a size and a root, each on a line of its own")
    if not all(lines):
        raise FormatError("a checkpoint has no empty lines")
    size = decimal(lines[1], "the checkpoint's size")
    root = unb64(lines[2], "the checkpoint's root", length=HASH_BYTES)
    if size == 0 and root != EMPTY_ROOT:
        raise FormatError("the root of an empty log is SHA-256 of nothing")
    return Checkpoint(lines[0], size, root, tuple(lines[3:]))


def sign_checkpoint(checkpoint: Checkpoint, signer: NoteSigner) -> bytes:
    """The signed note over `checkpoint`. Sign only what is durable: two roots at one size are a forked log."""
    if checkpoint.origin != signer.name:
        raise FormatError("a log's key is named like its origin")
    return sign_note(format_checkpoint(checkpoint), [signer])


def open_checkpoint(data: bytes, vkeys: Sequence[Vkey], origin: str | None = None) -> Checkpoint:
    """The checkpoint in `data`, signed by one of the log keys `vkeys`, and of log `origin` if that is given.

    Every key counts only for the log it is named after. Lines by other keys, cosignatures among them, are passed over
    (`gateway.log.cosignature` judges those, and a log's own lines in the ML-DSA form). Raises `FormatError`, also for
    a key of another type than 0x01, or `ProofError`.
    """
    return checkpoint_of(open_note(data, vkeys), origin)


def checkpoint_of(note: Note, origin: str | None = None) -> Checkpoint:
    """The checkpoint in an opened note, of which a verified key must bear the origin's name."""
    checkpoint = parse_checkpoint(note.text)
    if origin is not None and checkpoint.origin != origin:
        raise ProofError(f"the checkpoint is of log {checkpoint.origin!a}, not {origin!a}")
    if all(key.name != checkpoint.origin for key in note.verified):
        raise ProofError(f"the checkpoint of {checkpoint.origin!a} is signed by another log's key")
    return checkpoint
