"""A small world for tests of receipts: a node that signs, a gateway that writes receipts, a log, and witnesses.

Everything is deterministic and real: keys, signatures, tree and notes are made by the same code as in production, the
node's evidence too. A test changes one thing and looks at what the verifier says.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from gateway.crypto.canonical import jcs
from gateway.crypto.merkle import Frontier, inclusion_proof, leaf_hash, subtree_root
from gateway.crypto.signatures import Ed25519Signer
from gateway.log.bundle import Bundle, BundleKey, EvidenceBlob, Logged, PolicyFile, open_all
from gateway.log.checkpoint import Checkpoint, format_checkpoint, sign_checkpoint
from gateway.log.cosignature import cosign
from gateway.log.dsse import sign_envelope, wrap
from gateway.log.note import COSIGNATURE_ED25519, COSIGNATURE_MLDSA44, NoteSigner, Vkey, key_id
from gateway.log.proof import format_tlog_proof
from gateway.log.receipt import encode_receipt, event_statement, leaf, salt_for, salted, subject
from gateway.model.receipt import (
    FORM_BYTES,
    FORM_UTF8,
    PAYLOAD_TYPE,
    REQUEST_BODY,
    RESPONSE_BODY,
    RESPONSE_CONTENT,
    Caller,
    Delivery,
    EvidenceRef,
    Forwarded,
    LogRef,
    PolicyRef,
    Receipt,
    RequestPart,
    Route,
    Served,
    Sha256,
    Subject,
    Timings,
    Usage,
    Verifier,
    instant,
)
from gateway.model.ulid import encode
from gateway.model.verdict import Check, Claim, Outcome, Release
from gateway.verify import aci

ORIGIN = "veriroute.test/log"
T0_MS = 1_764_000_000_000
NOW = T0_MS / 1000 + 60
SEED = b"seed" * 8
NONCE = "6e6f6e6365" + "00" * 27
REQUEST = b'{"model":"m","messages":[{"role":"user","content":"2+2?"}]}'
ANSWER = (
    b'{"id":"c1","object":"chat.completion","created":1764000000,"model":"m","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"4"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}'
)
POLICY = b'name = "signed"\nversion = 1\n'


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class AciNode:
    """A node with one key: its attestation report, and receipts over what it was sent and returned."""

    def __init__(self) -> None:
        self.signer = Ed25519Signer(b"node" * 8)
        self.keyset: dict[str, Any] = {
            "subject": "node-1",
            "not_after": T0_MS // 1000 + 86400,
            "receipt_signing_keys": [
                {"key_id": "k1", "algo": "ed25519", "public_key": self.signer.public_key.hex()},
            ],
            "e2ee_public_keys": [],
            "tls_public_keys": [],
        }
        self.keyset_digest = aci.keyset_digest(self.keyset)

    def report(self) -> bytes:
        statement = aci.statement(self.keyset_digest, NONCE)
        return jcs(
            {
                "api_version": "aci/1",
                "workload_keyset_digest": self.keyset_digest,
                "attestation": {
                    "tee_type": "none",
                    "workload_keyset": self.keyset,
                    "report_data": aci.report_data(statement).hex(),
                    "evidence": {
                        "platform": "software",
                        "statement": statement.decode(),
                        "signature": self.signer.sign(statement).hex(),
                    },
                },
                "service_capabilities": {"serving": "direct"},
            }
        )

    def receipt(self, request: bytes = REQUEST, answer: bytes = ANSWER) -> bytes:
        document: dict[str, Any] = {
            "api_version": "aci/1",
            "receipt_id": "r-1",
            "chat_id": "c1",
            "model": "m",
            "workload_keyset_digest": self.keyset_digest,
            "endpoint": "/v1/chat/completions",
            "method": "POST",
            "served_at": T0_MS // 1000,
            "event_log": [
                {"type": "request.received", "body_hash": "sha256:" + sha256(request)},
                {"type": "response.returned", "body_hash": "sha256:" + sha256(answer)},
            ],
            "key_id": "k1",
            "request_nonce": NONCE,
        }
        document["signature"] = self.signer.sign(jcs(document)).hex()
        return jcs(document)


NODE = AciNode()
SESSION = {"api_version": "aci/1", "upstream_name": "node-1", "workload_keyset_digest": NODE.keyset_digest}


def post_quantum(name: str) -> Vkey:
    """An ML-DSA-44 key of `name`, whose private half signs nothing here."""
    public = MLDSA44PrivateKey.from_seed_bytes(b"mlds" * 8).public_key().public_bytes_raw()
    return Vkey(name, key_id(name, COSIGNATURE_MLDSA44, public), COSIGNATURE_MLDSA44, public)


class World:
    """One gateway's keys and log. `add_…` appends and returns the index; `bundle` is what it would hand out."""

    def __init__(self, origin: str = ORIGIN) -> None:
        self.log = NoteSigner(origin, b"log-" * 8)
        self.receipts = NoteSigner(origin + "/receipts", b"rcpt" * 8)
        self.witnesses = [Ed25519Signer(bytes((i,)) * 32) for i in (1, 2, 3)]
        self.leaves: list[bytes] = []
        self.envelopes: list[bytes] = []
        self.kinds: list[str] = []

    # ------------------------------------------------------------------------------------------------------- the log

    def add(self, kind: str, payload: bytes, *, signer: NoteSigner | None = None) -> int:
        if kind == "intent" and signer is None:  # as the gateway writes them: the checkpoint is their signature
            self.envelopes.append(wrap(payload, PAYLOAD_TYPE).envelope)
        else:
            self.envelopes.append(sign_envelope(payload, PAYLOAD_TYPE, signer or self.receipts))
        self.leaves.append(leaf(kind, PAYLOAD_TYPE, payload))
        self.kinds.append(kind)
        return len(self.leaves) - 1

    def hashes(self) -> list[bytes]:
        return [leaf_hash(entry) for entry in self.leaves]

    def read_node(self, level: int, index: int) -> bytes:
        width = 1 << level
        return subtree_root(self.hashes()[index * width : (index + 1) * width])

    def root(self, size: int) -> bytes:
        frontier = Frontier()
        for value in self.hashes()[:size]:
            frontier.append(value)
        return frontier.root()

    def checkpoint(self, size: int | None = None, *, witnesses: int = 0, at: int = T0_MS // 1000 + 5) -> bytes:
        size = len(self.leaves) if size is None else size
        head = Checkpoint(self.log.name, size, self.root(size))
        lines = [str(cosign(f"w{i}", w, format_checkpoint(head), at)) for i, w in enumerate(self.witnesses[:witnesses])]
        return sign_checkpoint(head, self.log) + "".join(lines).encode()

    def proof(self, index: int, size: int | None = None, **options: Any) -> str:
        size = len(self.leaves) if size is None else size
        return format_tlog_proof(index, inclusion_proof(index, size, self.read_node), self.checkpoint(size, **options))

    def trust_text(self, *, quorum: int = 0) -> str:
        lines = [f"log {self.log.vkey}", f"#!receipt {self.receipts.vkey}"]
        for i, witness in enumerate(self.witnesses):
            ident = key_id(f"w{i}", COSIGNATURE_ED25519, witness.public_key)
            lines.append(f"witness w{i} {Vkey(f'w{i}', ident, COSIGNATURE_ED25519, witness.public_key)}")
        lines += [f"group ws {quorum} w0 w1 w2", "quorum ws"] if quorum else ["quorum none"]
        return "\n".join(lines) + "\n"

    # --------------------------------------------------------------------------------------------------- the documents

    def predicate(self, number: int = 0, **changes: Any) -> Receipt:
        made = Receipt(
            receipt_id=encode((T0_MS << 80) + number),
            nonce="I2qRCZEdb4vutZWPBev1LA==",
            verifier=Verifier(
                "urn:veriroute:verifier:0.1.0",
                (PolicyRef("signed", "veriroute:policy/signed@1", Sha256(sha256(POLICY))),),
            ),
            time_created=instant(T0_MS + 900),
            request=RequestPart(
                Sha256(salted(salt_for(SEED, REQUEST_BODY), REQUEST)),
                "/v1/chat/completions",
                "m",
                False,
                Forwarded(Sha256(salted(salt_for(SEED, REQUEST_BODY), REQUEST)), True),
            ),
            caller=Caller("key_1"),
            served=Served(
                network="aci",
                node="node-1",
                model="m",
                session=aci.session_id(SESSION),
                keyset_digest=NODE.keyset_digest,
                evidence_digest="sha256:" + sha256(NODE.report()),
            ),
            route=Route("primary", 1, 1),
            verdict=Outcome.AFFIRMING,
            release=Release.RELEASED,
            delivery=Delivery(form="verbatim", mode="buffer", bytes=len(ANSWER), uncovered=(), dropped=()),
            checks=tuple(
                Check(i, Outcome.AFFIRMING)
                for i in (
                    *("malformed", "shape", "signature", "key_bound", "request_bound", "response_bound", "replay"),
                    *("fresh", "model_echo"),
                )
            ),
            claims=(Claim("response_bound", "asserted", "verifier_derived"),),
            evidence=(EvidenceRef("aci-receipt", "application/vnd.aci.receipt+json", Sha256(sha256(NODE.receipt()))),),
            timings=Timings(instant(T0_MS), 10.0, 20.0, 0.5),
            usage=Usage(3, 1, True),
            log=LogRef(self.log.name),
        )
        return msgspec.structs.replace(made, **changes)

    def subjects(self) -> list[Subject]:
        return [
            subject(SEED, REQUEST_BODY, REQUEST, FORM_BYTES),
            subject(SEED, RESPONSE_BODY, ANSWER, FORM_BYTES),
            subject(SEED, RESPONSE_CONTENT, b"4", FORM_UTF8),
        ]

    def add_start(self) -> int:
        return self.add("start", event_statement("start", None, {"timeCreated": instant(T0_MS), "nonce": "n"}))

    def add_intent(self, predicate: Receipt) -> int:
        about = subject(SEED, REQUEST_BODY, REQUEST, FORM_BYTES)
        return self.add("intent", event_statement("intent", about, {"receiptId": predicate.receipt_id}))

    def add_receipt(self, predicate: Receipt | None = None, subjects: list[Subject] | None = None) -> int:
        return self.add("receipt", encode_receipt(subjects or self.subjects(), predicate or self.predicate()))

    def bundle(self, index: int, intent: int | None = None, **changes: Any) -> Bundle:
        made = Bundle(
            receipt=self.envelopes[index],
            proof=self.proof(index),
            openings=open_all(SEED, {REQUEST_BODY: REQUEST, RESPONSE_BODY: ANSWER, RESPONSE_CONTENT: b"4"}),
            evidence=(
                EvidenceBlob("aci-receipt", "application/vnd.aci.receipt+json", sha256(NODE.receipt()), NODE.receipt()),
                EvidenceBlob("aci-report", "application/json", sha256(NODE.report()), NODE.report()),
            ),
            policy=PolicyFile("signed", sha256(POLICY), POLICY),
            session=json.dumps(SESSION, separators=(",", ":")).encode(),
            intent=None if intent is None else Logged(self.envelopes[intent], self.proof(intent)),
            keys=(BundleKey(self.receipts.keyid, self.receipts.vkey),),
            untrusted_policy=self.trust_text(),
        )
        return msgspec.structs.replace(made, **changes)


def small_world() -> tuple[World, int, int]:
    """A world with a start leaf and three exchanges; the indices of the second one's intent and receipt."""
    world = World()
    world.add_start()
    places = []
    for number in range(3):
        predicate = world.predicate(number)
        places.append((world.add_intent(predicate), world.add_receipt(predicate)))
    return world, *places[1]
