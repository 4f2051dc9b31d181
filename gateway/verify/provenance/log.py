"""What shows that a log entry is in a transparency log that the operator trusts, and when it was logged.

    promise     the log signed {body, integratedTime, logID, logIndex} (the signed entry timestamp, SET)
    inclusion   the body's leaf hash leads to the stated root by the stated hashes (RFC 6962 section 2.1.1)
    checkpoint  the log signed a note with this tree size and root (C2SP tlog-checkpoint, as Rekor v1 writes it)

Only the promise covers the time: proof and checkpoint hold for any time that a sender writes. So an entry without one
has no time here, and certificates that live ten minutes cannot be judged by it.
"""

from __future__ import annotations

from gateway.crypto.encoding import b64, decimal, unb64
from gateway.crypto.merkle import leaf_hash, verify_inclusion
from gateway.errors import FormatError, ProofError
from gateway.verify.tee.findings import NotAuthentic

from .bundle import LogEntry
from .trust_root import LogKey, find_log

#: "— <name> <base64(4 bytes of key hint || signature)>", C2SP signed-note.
_DASH = "— "
_MAX_LINES = 16


def check_entry(entry: LogEntry, logs: tuple[LogKey, ...]) -> float:
    """When `entry` was logged, in Unix seconds, after all three proofs hold; `NotAuthentic` when one does not."""
    if entry.promise is None or entry.time is None:
        raise NotAuthentic("a log entry has no signed time", reason="observer_timestamp_insufficient")
    key = find_log(logs, entry.log_id, entry.time)
    if key is None:
        raise NotAuthentic("no key of the trust root is this log's at that time", reason="rekor_key_not_trusted")
    if not key.signed(entry.promise, _promised(entry, entry.time)):
        raise NotAuthentic("the log's promise does not hold", reason="rekor_set_invalid", over="the log entry")
    _check_checkpoint(entry, key)
    try:
        verify_inclusion(leaf_hash(entry.body), entry.leaf_index, entry.tree_size, entry.hashes, entry.root)
    except ProofError:
        raise NotAuthentic(
            "the entry is not in the tree that the proof names", reason="rekor_inclusion_invalid"
        ) from None
    return float(entry.time)


def _promised(entry: LogEntry, time: int) -> bytes:
    """The bytes that a SET signs: canonical JSON (RFC 8785) of four members, none of which needs escaping."""
    return b'{"body":"%b","integratedTime":%d,"logID":"%b","logIndex":%d}' % (
        b64(entry.body).encode(),
        time,
        entry.log_id.hex().encode(),
        entry.index,
    )


def _check_checkpoint(entry: LogEntry, key: LogKey) -> None:
    text, signatures = _note(entry.checkpoint)
    hint = key.id[:4]
    if not any(payload[:4] == hint and key.signed(payload[4:], text.encode()) for payload in signatures):
        raise NotAuthentic("the checkpoint is not signed by the log", reason="rekor_inclusion_invalid")
    lines = text.split("\n")
    try:
        size, root = decimal(lines[1], "a checkpoint's size"), unb64(lines[2], "a checkpoint's root", length=32)
    except (IndexError, FormatError):
        raise NotAuthentic("the checkpoint has no size and root", reason="rekor_inclusion_invalid") from None
    if (size, root) != (entry.tree_size, entry.root):
        raise NotAuthentic(
            "the checkpoint is of another tree than the proof",
            reason="checkpoint_root_mismatch",
            found=f"{entry.tree_size} leaves, root {entry.root.hex()}",
            expected=f"{size} leaves, root {root.hex()}",
        )


def _note(note: str) -> tuple[str, list[bytes]]:
    """The signed text of a note, and its signatures with their key hints."""
    text, blank, lines = note.rpartition("\n\n")
    rows = lines.removesuffix("\n").split("\n")
    if not blank or not note.replace("\n", "").isprintable() or len(rows) > _MAX_LINES:
        raise NotAuthentic("the checkpoint is not a signed note", reason="rekor_inclusion_invalid")
    try:
        return text + "\n", [_signature(row) for row in rows]
    except FormatError as error:
        raise NotAuthentic(error.message, reason="rekor_inclusion_invalid") from None


def _signature(row: str) -> bytes:
    if not row.startswith(_DASH):
        raise FormatError("a signature line of the checkpoint has another form")
    return unb64(row[len(_DASH) :].rpartition(" ")[2], "a checkpoint's signature")
