"""Entries to append, and a check of a whole stored log that shares nothing with the writer but the pure half."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from gateway.crypto.merkle import leaf_hash, subtree_root, verify_inclusion
from gateway.log.checkpoint import open_checkpoint
from gateway.log.dsse import pae, parse_envelope, seal
from gateway.log.note import NoteSigner
from gateway.log.receipt import leaf_of, parse_leaf
from gateway.model.entry import Committed, Entry, Opening, ReceiptRow
from gateway.model.ulid import encode
from gateway.storage.reads import Reader
from gateway.storage.sequencer import Sequencer
from gateway.storage.startup import open_log

ORIGIN = "log.example/veriroute"
LOG_KEY = NoteSigner(ORIGIN, bytes(range(32)))
RECEIPT_KEY = NoteSigner("receipts.example", bytes(range(1, 33)))
_TYPE = "application/vnd.in-toto+json"


def ulid(n: int) -> str:
    return encode((1 << 100) + n)


def _document(kind: str, n: int, filler: int) -> tuple[bytes, bytes]:
    payload = json.dumps({"kind": kind, "n": n, "filler": "x" * filler}).encode()
    sealed = seal(payload, _TYPE, RECEIPT_KEY)
    return leaf_of(kind, sealed.pae_sha256), sealed.envelope


def receipt(
    n: int,
    *,
    key_id: str = "key_a",
    verdict: str = "affirming",
    node: str | None = "node-a",
    client_request_id: str | None = None,
    opening: Opening | None = None,
    want_proof: bool = True,
    filler: int = 0,
    model: str | None = "small",
    release: str = "released",
) -> Entry:
    leaf, envelope = _document("receipt", n, filler)
    row = ReceiptRow(
        ulid(n), key_id, client_request_id, 1_700_000_000_000 + n, verdict, release, None, "signed@1", "selfhosted",
        node, model, "/v1/chat/completions", n % 2 == 1, 200, 1.5,
    )  # fmt: skip
    return Entry("receipt", ulid(n), leaf, envelope, row, opening or Opening(ulid(n), b"s" * 32), want_proof)


def record(kind: str, n: int) -> Entry:
    leaf, envelope = _document(kind, n, 0)
    return Entry(kind, ulid(n), leaf, envelope)


def url(directory: Path) -> str:
    return f"sqlite:///{directory}/log.db"


async def opened(directory: Path, **options: object) -> Sequencer:
    signer = options.pop("signer", LOG_KEY)
    memory = options.pop("memory", f"{directory}/memory")
    return await open_log(url(directory), signer, signer.name, memory, **options)  # type: ignore[attr-defined,arg-type]


async def filled(directory: Path, count: int, start: int = 0) -> None:
    """A closed log with `count` receipts, ids from `start` on, appended to what is there."""
    log = await opened(directory)
    for at in range(0, count, 100):
        futures = [log.append(receipt(start + n)) for n in range(at, min(at + 100, count))]
        for future in futures:
            await future
    await log.close()


def check_committed(entry: Entry, committed: Committed) -> None:
    """The entry's proof holds, to the root of a checkpoint that the log signed."""
    checkpoint = open_checkpoint(committed.checkpoint, [LOG_KEY.key], ORIGIN)
    assert (checkpoint.size, checkpoint.root) == (committed.size, committed.root)
    verify_inclusion(leaf_hash(entry.leaf), committed.index, committed.size, committed.hashes, committed.root)


def check_log(directory: Path) -> list[str]:
    """Recompute everything from the stored leaves; returns the ids of all documents in log order."""
    with Reader(f"{directory}/log.db") as reader:
        size = reader.size()
        leaves = reader.leaves(0, size)
        assert len(leaves) == size
        note = reader.checkpoint()
        assert note is not None
        checkpoint = open_checkpoint(note, [LOG_KEY.key], ORIGIN)
        assert checkpoint.size == size
        assert subtree_root([leaf_hash(leaf) for leaf in leaves] or []) == checkpoint.root if size else True
        ids = []
        for place, document in enumerate(reader.documents()):
            assert document.index == place
            assert document.envelope is not None
            envelope = parse_envelope(document.envelope)
            found = parse_leaf(document.leaf)
            assert hashlib.sha256(pae(envelope.payload_type, envelope.payload)).digest() == found.digest
            assert document.id is not None
            ids.append(document.id)
        assert len(ids) == size
        return ids
