"""CPU of each step of one JSON exchange, alone: `python bench/micro/exchange.py`. Smallest of several runs, in µs."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Any

from gateway.api.terms import TermsBook
from gateway.backlog import Backlog
from gateway.crypto.canonical import jcs
from gateway.crypto.signatures import Ed25519Signer
from gateway.exchange.answer import read_answer
from gateway.exchange.head import parse_head
from gateway.exchange.render import Verification, VerificationPolicy, claims_map, splice
from gateway.log.note import NoteSigner
from gateway.log.proof import format_tlog_proof
from gateway.model.entry import Committed, Entry
from gateway.model.node import AttestedSession, Node, SigningKey
from gateway.model.receipt import Rejected
from gateway.model.ulid import UlidFactory
from gateway.model.verdict import Check, Claim, Outcome, Release
from gateway.policy import Phase, decide
from gateway.policy_files import read_policies
from gateway.recorder import Ending, Exchange, Recorder
from gateway.storage.packing import Packer
from gateway.verify.aci import parse_receipt
from gateway.verify.response import Exchanged, appraise_response

NOW = 1_800_000_000.0
SIGNER = Ed25519Signer(b"\7" * 32)
BODY = b'{"model":"m","messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":"Hello!"}],"max_tokens":64}'
ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":'
    b'"assistant","content":"' + b"x" * 300 + b'"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,'
    b'"completion_tokens":2,"total_tokens":3}}'
)


def measure(function: Callable[[], Any], number: int = 400, rounds: int = 9) -> float:
    best = 1e9
    for _ in range(rounds):
        begun = time.process_time()
        for _ in range(number):
            function()
        best = min(best, (time.process_time() - begun) / number)
    return best * 1e6


def main() -> None:
    loop = asyncio.new_event_loop()
    digest = "sha256:" + "a" * 64
    checks = tuple(
        Check(i, Outcome.AFFIRMING, None, digest)
        for i in ("evidence", "key_bound", "key_weak", "keyset_valid", "fresh", "channel_bound")
    )
    claims = tuple(
        Claim(n, "asserted", "verifier_derived") for n in ("key_bound", "fresh", "channel_bound", "tee_attested")
    )
    session = AttestedSession(
        id="s" * 64, node="n1", network="aci", endpoint="http://n", keyset_digest=digest,
        keys=(SigningKey("k1", "ed25519", SIGNER.public_key),), spki_pins=(), evidence_digest="e" * 64, established=NOW,
        expires=NOW + 600, outcome=Outcome.AFFIRMING, checks=checks, claims=claims,
    )  # fmt: skip
    nonce = "cd" * 32
    document = {
        "api_version": "aci/1", "receipt_id": "r1", "chat_id": "c1", "model": "m", "workload_keyset_digest": digest,
        "endpoint": "/v1/chat/completions", "method": "POST", "served_at": int(NOW), "key_id": "k1",
        "request_nonce": nonce,
        "event_log": [
            {"type": "request.received", "body_hash": "sha256:" + hashlib.sha256(BODY).hexdigest()},
            {"type": "response.returned", "body_hash": "sha256:" + hashlib.sha256(ANSWER).hexdigest()},
        ],
    }  # fmt: skip
    document["signature"] = SIGNER.sign(jcs(document)).hex()
    raw = jcs(document)
    sealed = parse_receipt(raw)
    head = parse_head("/v1/chat/completions", BODY)
    observation, content, _ = read_answer(head, ANSWER)
    exchanged = Exchanged(
        hashlib.sha256(BODY).hexdigest(), hashlib.sha256(ANSWER).hexdigest(), nonce, "m", "/v1/chat/completions"
    )
    book = TermsBook(read_policies(None), "signed")
    terms = book.resolve(None, [], head)
    result = appraise_response(session, sealed, None, exchanged, observation, now=NOW, skew_s=60)
    decision = decide(result, terms.policy, Phase.RESPONSE, node=session)
    assert decision.permit, decision
    committed = Committed(
        7, 1000, tuple(bytes([i]) * 32 for i in range(12)), b"r" * 32, b"origin\n1000\nroot\n\n\xe2\x80\x94 x y\n"
    )

    def append(entry: Entry) -> Any:
        return None

    recorder = Recorder(append, NoteSigner("o/receipts", b"\1" * 32), "o", backlog=Backlog(append, now_ms=lambda: 1),
                        now_ms=lambda: 1, mono=time.perf_counter, packer=Packer(0, b"", lambda *_: asyncio.Future()))  # fmt: skip
    ulids = UlidFactory()

    def exchange() -> Exchange:
        x = Exchange(
            receipt_id="01ARZ3NDEKTSV4RRFFQ69G5FAV", received_ms=1, t0=0.0, seed=b"s" * 32, nonce16=b"n" * 16,
            key_id="key_1", client_request_id=None, head=head, body=BODY, policy=terms.use,
        )  # fmt: skip
        x.node, x.session, x.sent, x.sent_bytes = Node("n1", "aci", "http://n", ("m",)), session, True, len(ANSWER)
        x.rejected = [Rejected("n2", "model")]
        return x

    x = exchange()
    all_checks, all_claims = (*session.checks, *result.checks), (*session.claims, *result.claims)

    def ending() -> Ending:
        return Ending(
            verdict=Outcome.AFFIRMING, release=Release.RELEASED, status=200, form="verbatim", checks=all_checks,
            claims=all_claims, body=ANSWER, content=content, evidence=raw, input_tokens=1, output_tokens=2, covered=True,
        )  # fmt: skip

    end = ending()

    def verification() -> Verification:
        return Verification(
            verdict="affirming", level="logged", policy=VerificationPolicy("signed", "d" * 64), network="aci", node="n1",
            model="m", release="released", claims=claims_map(all_claims), receipt=x.receipt_id, index=7,
            proof=format_tlog_proof(7, committed.hashes, committed.checkpoint),
            openings=dict.fromkeys(("request.body", "response.body", "response.content"), "A" * 44),
        )  # fmt: skip

    shown = verification()
    steps: list[tuple[str, Callable[[], Any]]] = [
        ("parse_head", lambda: parse_head("/v1/chat/completions", BODY)),
        ("terms", lambda: book.resolve(None, [], head)),
        ("ulid", lambda: ulids.mint(1, bytes(16))),
        ("Exchange()", exchange),
        ("intent (signed)", lambda: recorder.intent(x)),
        ("read_answer", lambda: read_answer(head, ANSWER)),
        ("parse_receipt", lambda: parse_receipt(raw)),
        ("appraise (Ed25519 verify)", lambda: appraise_response(session, sealed, None, exchanged, observation, now=NOW, skew_s=60)),
        ("decide", lambda: decide(result, terms.policy, Phase.RESPONSE, node=session)),
        ("Ending()", ending),
        ("receipt (signed)", lambda: recorder.receipt(x, end)),
        ("verification", verification),
        ("splice", lambda: splice(ANSWER, shown)),
        ("Ed25519 sign, 3 kB", lambda: SIGNER.sign(b"x" * 3000)),
    ]  # fmt: skip
    total = 0.0
    for name, step in steps:
        cost = measure(step)
        total += cost if not name.startswith("Ed25519") else 0
        print(f"{name:<28}{cost:8.1f}")
    print(f"{'all':<28}{total:8.1f}")
    loop.close()


if __name__ == "__main__":
    main()
