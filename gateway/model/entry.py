"""What is handed to the log writer, and what comes back. The seam between the request path and storage."""

from __future__ import annotations

from typing import Annotated

import msgspec

#: What a column of the database holds at most. Whether it is a time or an index that can be is for the audit to say.
Int64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
#: The kinds of leaf, in the closed list of the receipt format.
KINDS = (
    *("receipt", "intent", "policy", "key", "config", "export", "erasure", "hold", "start", "stop", "alarm"),
    *("epoch", "audit", "reveal"),
)


class ReceiptRow(msgspec.Struct, frozen=True):
    """The query columns of one receipt. Times are milliseconds since the epoch, durations milliseconds."""

    id: str
    key_id: str
    client_request_id: str | None
    created_ms: Int64
    verdict: str
    release: str
    reason: str | None
    policy: str
    network: str | None
    node: str | None
    model: str | None
    endpoint: str
    stream: bool
    status: Int64
    latency_ms: float


class Opening(msgspec.Struct, frozen=True):
    """The secret from which a receipt's salts are derived, and the payloads that policy lets us keep."""

    receipt_id: str
    seed: bytes
    request: bytes | None = None
    response: bytes | None = None


class Entry(msgspec.Struct, frozen=True):
    """One entry for the log: `leaf` is the exact leaf bytes, `document` what it commits to, as it is to be stored: an
    envelope, or packed (`gateway.storage.packing`).

    `id` is the receipt id for receipts and intents (they share it), our own ULID for every other kind. `evidence` is
    what the node sent for this one answer (its own receipt), stored likewise, so that the answer can be judged again.
    """

    kind: str
    id: str
    leaf: bytes
    document: bytes
    row: ReceiptRow | None = None
    opening: Opening | None = None
    want_proof: bool = False
    evidence: bytes | None = None


class Committed(msgspec.Struct, frozen=True):
    """A durable entry: its index, the size and root of the tree that first holds it, and its inclusion proof there.

    `hashes` runs from the leaf's sibling up to the root; `checkpoint` is the signed note over `size` and `root`.
    `hashes` is empty and `checkpoint` may be b"" when no proof was asked for.
    """

    index: int
    size: int
    hashes: tuple[bytes, ...]
    root: bytes
    checkpoint: bytes
