"""What the log's formats cost, in microseconds of CPU time: `python bench/formats.py`.

Process time, best of seven, so that other work on the machine shows little. Sizes are those of ordinary receipts.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

from gateway.crypto.canonical import jcs, strict_json
from gateway.crypto.merkle import Frontier, extend, inclusion_proof, leaf_hash, verify_inclusion
from gateway.crypto.signatures import Ed25519Signer, verify_ed25519
from gateway.log.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from gateway.log.dsse import seal
from gateway.log.note import NoteSigner
from gateway.log.proof import format_tlog_proof

ROUNDS = 7
TREE = 1_000_000


def cost(call: Callable[[], object], seconds: float = 0.05) -> float:
    """Microseconds of CPU time a call."""
    count = 1
    while True:
        start = time.process_time()
        for _ in range(count):
            call()
        if time.process_time() - start > seconds:
            break
        count *= 2
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(count):
            call()
        best = min(best, time.process_time() - start)
    return best / count * 1e6


def show(name: str, microseconds: float, note: str = "") -> None:
    sys.stdout.write(f"{name:<48}{microseconds:>10.1f} µs  {note}\n")


def tree() -> None:
    leaves = [leaf_hash(b"%d" % number) for number in range(4096)]
    frontier = Frontier()
    start = time.process_time()
    for number in range(TREE):
        frontier.append(leaves[number & 4095])
    show("append one leaf", (time.process_time() - start) / TREE * 1e6, f"mean over {TREE:,}")
    start = time.process_time()
    extend(Frontier(), leaves * 16, ())
    rate = 65_536 / (time.process_time() - start)
    show("rebuild 65,536 leaves, a leaf", 1e6 / rate, f"{rate:,.0f} leaves/s")
    for size in (1, 16, 64, 256):
        batch, want = leaves[:size], range(size)
        show(f"extend 10^6 by {size}, root and all proofs", cost(lambda b=batch, w=want: extend(frontier.copy(), b, w)))
    grown = frontier.copy()
    root, proofs = extend(grown, leaves[:64], range(64))
    show("verify inclusion", cost(lambda: verify_inclusion(leaves[0], TREE, TREE + 64, proofs[0], root)))
    show("inclusion proof through a reader", cost(lambda: inclusion_proof(777, TREE, lambda level, index: leaves[0])))
    log = NoteSigner("log.example/one", bytes(32))
    point = Checkpoint(log.name, TREE + 64, root)
    note = sign_checkpoint(point, log)
    show("sign a checkpoint", cost(lambda: sign_checkpoint(point, log)))
    show("open a checkpoint", cost(lambda: open_checkpoint(note, [log.key])))
    show("write a tlog-proof", cost(lambda: format_tlog_proof(TREE, proofs[0], note)), f"{len(proofs[0])} hashes")


def signatures() -> None:
    signer = NoteSigner("gateway.example/receipts", os.urandom(32))
    plain = Ed25519Signer(os.urandom(32))
    for size in (600, 1000, 1924, 3000):
        payload = os.urandom(size)
        bare = cost(lambda p=payload: plain.sign(p))
        show(
            f"seal {size} bytes in DSSE",
            cost(lambda p=payload: seal(p, "application/vnd.in-toto+json", signer)),
            f"of which Ed25519 {bare:.1f}",
        )
    signature = plain.sign(payload)
    show("verify Ed25519 over 3000 bytes", cost(lambda: verify_ed25519(plain.public_key, payload, signature)))


def documents() -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": 'so "four".\n' * 40}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 12, "completion_tokens": 33, "total_tokens": 45}
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "choices": [choice],
        "usage": usage,
    }
    messages = [{"role": "user", "content": "what is 2+2? " * 10}] * 100
    vectors = [{"index": at, "embedding": [0.01234567890123 * n for n in range(512)]} for at in range(20)]
    samples = {"answer": answer, "100 messages": {"messages": messages}, "20 embeddings": {"data": vectors}}
    for name, value in samples.items():
        data = json.dumps(value).encode()
        show(
            f"strict_json, {name}, {len(data):,} bytes",
            cost(lambda d=data: strict_json(d, max_bytes=1 << 24)),
            f"json.loads {cost(lambda d=data: json.loads(d)):.1f}",
        )
    show("jcs, answer", cost(lambda: jcs(answer)))


if __name__ == "__main__":
    tree()
    signatures()
    documents()
