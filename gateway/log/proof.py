"""Offline proofs of logging (C2SP tlog-proof v1): one entry's inclusion proof, and the checkpoint it leads to.

c2sp.org/tlog-proof@v1
extra <base64>                    optional; authenticated by nothing
index <n>
<base64 hash>                     from the leaf's sibling up, none in a log of one
<blank line>
<checkpoint, verbatim, with its cosignatures>
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Sequence

import msgspec

from gateway.crypto.encoding import MAX_COUNT, b64, decimal, unb64
from gateway.crypto.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from gateway.errors import FormatError

from .checkpoint import Checkpoint, parse_checkpoint
from .note import MAX_NOTE_BYTES, parse_note

HEADER = "c2sp.org/tlog-proof@v1"
#: An inclusion proof in a tree of 2**63 leaves has 63 hashes.
MAX_HASHES = 63
_LENGTHS = frozenset((HASH_BYTES,))
#: Room for the head of the file: `extra` is bounded with it.
MAX_PROOF_BYTES = MAX_NOTE_BYTES + (64 << 10)


class TlogProof(msgspec.Struct, frozen=True):
    """A parsed proof, of which nothing is verified. `checkpoint` is the signed note, byte for byte."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None


def format_tlog_proof(index: int, hashes: Sequence[bytes], checkpoint_note: bytes, extra: bytes | None = None) -> str:
    """The text of a proof; `FormatError` when the parts could not be read back."""
    if not 0 <= index <= MAX_COUNT or len(hashes) > MAX_HASHES or not _LENGTHS.issuperset(map(len, hashes)):
        raise FormatError(f"a tlog-proof has an index from 0 and at most {MAX_HASHES} hashes of {HASH_BYTES} bytes")
    try:
        note = checkpoint_note.decode()
    except UnicodeDecodeError:
        raise FormatError("the checkpoint is not UTF-8") from None
    more = "" if extra is None else f"extra {b64(extra)}\n"
    path = b"".join(map(b2a_base64, hashes)).decode()  # each on a line of its own
    return f"{HEADER}\n{more}index {index}\n{path}\n{note}"


def parse_tlog_proof(text: str) -> TlogProof:
    """The parts of a proof, unverified; `FormatError` when it has another form or its checkpoint is none."""
    if len(text) > MAX_PROOF_BYTES:
        raise FormatError(f"a tlog-proof of {len(text)} characters is over the limit of {MAX_PROOF_BYTES}")
    head, blank, note = text.partition("\n\n")
    lines = head.split("\n")
    if not blank or lines.pop(0) != HEADER:
        raise FormatError(f"a tlog-proof begins with the line {HEADER} and has a blank line before its checkpoint")
    extra = unb64(lines.pop(0)[6:], "the proof's extra data") if lines and lines[0].startswith("extra ") else None
    if not lines or not lines[0].startswith("index "):
        raise FormatError("the tlog-proof has no index line")
    index = decimal(lines.pop(0)[6:], "the proof's index")
    if len(lines) > MAX_HASHES:
        raise FormatError(f"the tlog-proof has more than {MAX_HASHES} hashes")
    hashes = tuple(unb64(line, "a hash of the proof", length=HASH_BYTES) for line in lines)
    try:
        checkpoint = note.encode()
    except UnicodeEncodeError:
        raise FormatError("the tlog-proof has a lone surrogate") from None
    parse_checkpoint(parse_note(checkpoint)[0])
    return TlogProof(index, hashes, checkpoint, extra)


def check_inclusion(proof: TlogProof, entry: bytes, checkpoint: Checkpoint) -> None:
    """Show that `entry` is in the log as `checkpoint` has it; else `ProofError`.

    `checkpoint` is what opening `proof.checkpoint` with trusted keys gave; this function trusts it.
    """
    verify_inclusion(leaf_hash(entry), proof.index, checkpoint.size, proof.hashes, checkpoint.root)
