"""What this node signs: attestation reports, receipts and the running signatures of chained streams.

    sealer = Sealer(key, digest, store)
    seal = sealer.begin(endpoint, request_body, nonce, model)
    seal.cover(bytes_that_leave)          every byte of the body but chain comments and the receipt event
    seal.chain()                          b": aci.chain 1 <128 hex>\\n\\n" over all that was covered so far
    seal.close(model, chat_id, now)       the receipt: JCS bytes, kept for GET /v1/aci/receipts/{id}

docs/node-profile.md has the byte rules.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from gateway.crypto.canonical import jcs
from gateway.verify import aci

from .identity import Identity, Key

KEPT = 10_000  #: receipts that stay fetchable; the oldest is forgotten first


class ReceiptStore:
    """Receipts by id, at most `limit` of them."""

    def __init__(self, limit: int = KEPT) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def put(self, receipt_id: str, document: bytes) -> None:
        self._kept[receipt_id] = document
        if len(self._kept) > self._limit:
            self._kept.popitem(last=False)

    def get(self, receipt_id: str) -> bytes | None:
        return self._kept.get(receipt_id)

    def __len__(self) -> int:
        return len(self._kept)


class Sealer:
    """Begins seals under one key. `keyset_digest` is what the receipts name, whatever key signs them."""

    def __init__(self, key: Key, keyset_digest: str, store: ReceiptStore) -> None:
        self.key = key
        self.keyset_digest = keyset_digest
        self.store = store

    def begin(self, endpoint: str, request: bytes, nonce: str | None, model: str) -> Seal:
        return Seal(self, endpoint, request, nonce, model)


class Seal:
    """The signing side of one exchange. `model` is the one that was asked for; chains are signed under that name."""

    def __init__(self, sealer: Sealer, endpoint: str, request: bytes, nonce: str | None, model: str) -> None:
        self.receipt_id = f"rcpt_{secrets.token_hex(16)}"
        self.endpoint = endpoint
        self.nonce = nonce
        self.model = model
        self.keyset_digest = sealer.keyset_digest
        self._sealer = sealer
        self._request = hashlib.sha256(request).hexdigest()
        self._forwarded: str | None = None
        self._covered = hashlib.sha256()
        self._links = 0

    def forwarded(self, body: bytes) -> None:
        """Note the body that went to a backend."""
        self._forwarded = hashlib.sha256(body).hexdigest()

    def cover(self, data: bytes) -> None:
        self._covered.update(data)

    def chain(self) -> bytes:
        """The next running signature, as a comment block of the event stream."""
        self._links += 1
        digest = self._covered.hexdigest()
        message = aci.chain_message(self.receipt_id, self.nonce or "", self._request, self.model, self._links, digest)
        return f": aci.chain {self._links} {self._sealer.key.signer.sign(message).hex()}\n\n".encode()

    def close(self, model: str, chat_id: str | None, now: float) -> bytes:
        """Sign and keep the receipt; `model` is the name that the answer bears. The JCS bytes, signature included."""
        events = [{"type": "request.received", "body_hash": f"sha256:{self._request}"}]
        if self._forwarded is not None:
            events.append({"type": "request.forwarded", "body_hash": f"sha256:{self._forwarded}"})
        events.append({"type": "response.returned", "body_hash": f"sha256:{self._covered.hexdigest()}"})
        document: dict[str, Any] = {
            "api_version": "aci/1",
            "receipt_id": self.receipt_id,
            "chat_id": chat_id,
            "model": model,
            "workload_keyset_digest": self.keyset_digest,
            "endpoint": self.endpoint,
            "method": "POST",
            "served_at": int(now),
            "event_log": events,
            "key_id": self._sealer.key.key_id,
        }
        if self.nonce is not None:
            document["request_nonce"] = self.nonce
        document["signature"] = self._sealer.key.signer.sign(jcs(document)).hex()
        receipt = jcs(document)
        self._sealer.store.put(self.receipt_id, receipt)
        return receipt


def attestation(
    identity: Identity,
    keyset: dict[str, Any],
    nonce: str | None,
    capabilities: dict[str, Any],
    provenance: dict[str, Any],
    attest: Callable[[bytes, str | None], tuple[str, dict[str, Any]]] | None = None,
) -> dict[str, Any]:
    """The ACI report for `nonce`.

    `attest` makes `tee_type` and `evidence` of a statement and the nonce in it. Without one the evidence is a signed
    statement by software about itself, and nothing about the machine.
    """
    digest = aci.keyset_digest(keyset)
    statement = aci.statement(digest, nonce)
    if attest is None:
        signature = identity.active.signer.sign(statement).hex()
        shown = {"platform": "software", "statement": statement.decode(), "signature": signature}
        tee_type, evidence = "none", shown
    else:
        tee_type, evidence = attest(statement, nonce)
    return {
        "api_version": "aci/1",
        "workload_keyset_digest": digest,
        "attestation": {
            "tee_type": tee_type,
            "workload_keyset": keyset,
            "report_data": aci.report_data(statement).hex(),
            "source_provenance": provenance,
            "evidence": evidence,
        },
        "service_capabilities": capabilities,
    }
