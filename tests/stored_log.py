"""A stored log for tests: the world's documents, written by the real sequencer, with keys and trust file beside it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec
from receipt_world import ANSWER, NODE, ORIGIN, POLICY, REQUEST, SEED, SESSION, T0_MS, World, sha256

from gateway.crypto.canonical import jcs
from gateway.log.dsse import Sealed, parse_envelope
from gateway.log.receipt import event_statement
from gateway.model.entry import Entry, Opening, ReceiptRow
from gateway.model.receipt import Receipt
from gateway.storage.blobs import put_evidence, put_session
from gateway.storage.sequencer import Sequencer
from gateway.storage.startup import open_log
from gateway.verify.aci import session_id


def entry(world: World, index: int, predicate: Receipt | None = None, *, opening: str = "full", id: str = "") -> Entry:
    """The entry for the world's document `index`; a receipt's row says what its predicate says."""
    kind = world.kinds[index]
    leaf, envelope = world.leaves[index], world.envelopes[index]
    if kind != "receipt" or predicate is None:
        return Entry(kind, predicate.receipt_id if predicate else id or f"{kind}-{index}", leaf, envelope)
    served = predicate.served
    row = ReceiptRow(
        id=predicate.receipt_id,
        key_id=predicate.caller.key_id,
        client_request_id=predicate.caller.client_request_id,
        created_ms=T0_MS,
        verdict=predicate.verdict.value,
        release=predicate.release.value,
        reason=predicate.reason,
        policy=predicate.verifier.policies[0].name,
        network=served.network if served else None,
        node=served.node if served else None,
        model=predicate.request.model,
        endpoint=predicate.request.endpoint,
        stream=predicate.request.stream,
        status=200,
        latency_ms=12.5,
    )
    kept = {
        "full": Opening(predicate.receipt_id, SEED, REQUEST, ANSWER),
        "salted": Opening(predicate.receipt_id, SEED),
        "none": None,
    }[opening]
    evidence = NODE.receipt() if predicate.evidence else None
    return Entry(kind, predicate.receipt_id, leaf, envelope, row, kept, evidence=evidence)


def packed(log: Sequencer, entry: Entry) -> Entry:
    """`entry` with its document in the form in which a gateway stores it."""
    envelope = parse_envelope(entry.document, unsigned=True)
    keyid, signature = envelope.signatures[0] if envelope.signatures else ("", b"")
    sealed = Sealed(envelope.payload, envelope.payload_type, keyid, signature, b"")
    evidence = None if entry.evidence is None else log.packer.pack_evidence(entry.evidence)
    return msgspec.structs.replace(entry, document=log.packer.pack(sealed), evidence=evidence)


async def archive(log: Sequencer) -> None:
    """Keep what the world's receipts name by digest."""
    for data in (NODE.report(), POLICY):
        await log.submit(put_evidence(sha256(data), "application/octet-stream", T0_MS, data))
    await log.submit(put_session(session_id(SESSION), "node-1", T0_MS, jcs(SESSION)))


class StoredLog:
    """A database at `path` with a start entry and `count` exchanges; `memory` and keys where the gateway has them."""

    def __init__(self, folder: Path, count: int = 20, *, stored: str | None = "full", batch: int = 8) -> None:
        self.path = str(folder / "veriroute.db")
        self.memory = self.path + ".checkpoint"
        self.world = World()
        self.entries: list[Entry] = []
        self.add_event("start", {"nonce": "n"})
        for number in range(count):
            self.add_exchange(number, stored=stored)
        self.commit(batch)
        keys = Path(self.path + ".keys")
        keys.mkdir(mode=0o700)
        (keys / "trust.txt").write_text(self.world.trust_text())
        (keys / "receipt.key").write_text(self.world.receipts.skey + "\n")
        os.chmod(keys / "receipt.key", 0o600)
        self.trust = str(folder / "trust")
        Path(self.trust).write_text(self.world.trust_text())

    def add_event(self, kind: str, predicate: dict[str, object]) -> int:
        index = self.world.add(kind, event_statement(kind, None, predicate))
        self.entries.append(entry(self.world, index))
        return index

    def add_exchange(self, number: int, *, stored: str | None = "full", intent: bool = True, **changes: object) -> int:
        predicate = self.world.predicate(number, stored=stored, **changes)
        if intent:
            self.entries.append(entry(self.world, self.world.add_intent(predicate), predicate))
        index = self.world.add_receipt(predicate)
        self.entries.append(entry(self.world, index, predicate, opening=stored or "salted"))
        return index

    def commit(self, batch: int = 8) -> None:
        """Append what was added, `batch` entries a commit, and close."""
        entries, self.entries = self.entries, []
        asyncio.run(self._commit(entries, batch))

    async def _commit(self, entries: list[Entry], batch: int) -> None:
        log = await open_log(
            f"sqlite:///{self.path}", self.world.log, ORIGIN, self.memory, now=lambda: T0_MS / 1000 + 1
        )
        await archive(log)
        for at in range(0, len(entries), batch):
            await asyncio.gather(*[log.append(packed(log, e)) for e in entries[at : at + batch]])
        await log.close()
