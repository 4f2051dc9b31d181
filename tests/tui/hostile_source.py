"""A source in which every string that others wrote is an attack. Run as a program it opens the TUI over it."""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import AsyncIterator
from functools import lru_cache

import msgspec
from tui_kit import HOSTILE, NOON_MS, row

from gateway.crypto.merkle import Frontier, extend, leaf_hash
from gateway.log.bundle import Bundle, BundleKey, EvidenceBlob, Opened, PolicyFile, format_bundle
from gateway.log.checkpoint import Checkpoint, sign_checkpoint
from gateway.log.dsse import sign_envelope
from gateway.log.note import NoteSigner
from gateway.log.proof import format_tlog_proof
from gateway.log.receipt import encode_receipt, leaf, parse_receipt
from gateway.model.admin import CanaryView, Info, NodeView, Page, Row, SessionView
from gateway.model.receipt import PAYLOAD_TYPE, Annotations, EvidenceRef, Rejected, Served, Sha256, Subject, Usage
from gateway.model.ulid import UlidFactory
from gateway.model.verdict import Check, Claim, Outcome
from tui.demo_exchanges import ORIGIN, make
from tui.filters import Filter

LOG = NoteSigner(ORIGIN, b"a key for hostile tests, the log")
RECEIPTS = NoteSigner("hostile.invalid/receipts", b"a key for hostile tests, receipt")
TRUST = f"log {LOG.vkey}\nquorum none\n#!receipt {RECEIPTS.vkey}\n"


class HostileSource:
    """`count` rows; number n uses the n-th attack in every column."""

    synthetic = False
    no_tail = None

    def __init__(self, count: int = len(HOSTILE)) -> None:
        self.count = count
        self.name = "\x1b]0;pwned\x07[/]"

    def row(self, number: int) -> Row:
        """The row, its id included."""
        text = _encodable(HOSTILE[number % len(HOSTILE)])
        names = ("key_id", "client_request_id", "verdict", "release", "reason", "policy", "network", "node", "model")
        return row(index=number, id=f"{number}{text}", endpoint=text, **dict.fromkeys(names, text))

    async def info(self) -> Info:
        text = HOSTILE[0]
        return Info(
            version=text, origin=text, size=self.count, healthy=False, policy_default=text, nodes=1,
            counts={text: 3, "affirming": 1}, time_ms=NOON_MS,
        )  # fmt: skip

    async def page(self, chosen: Filter, *, before: int | None = None, limit: int = 500) -> Page:
        start = self.count if before is None else min(before, self.count)
        found = [self.row(n) for n in range(start - 1, max(start - limit, 0) - 1, -1)]
        return Page(tuple(r for r in found if chosen.matches(r)), start - limit if start > limit else None)

    async def indexes(self, chosen: Filter) -> array[int] | None:
        return None if chosen else array("q", range(self.count))

    async def bundle(self, receipt_id: str) -> bytes:
        number = next(n for n in range(self.count) if self.row(n).id == receipt_id)
        return hostile_bundle(_encodable(HOSTILE[number % len(HOSTILE)]))

    async def nodes(self) -> tuple[NodeView, ...]:
        return tuple(hostile_node(_encodable(text), number) for number, text in enumerate(HOSTILE))

    async def tail(self) -> AsyncIterator[Row]:
        for never in ():
            yield never

    async def close(self) -> None:
        return None


def hostile_node(text: str, number: int) -> NodeView:
    """A node with `text` wherever a string may stand, and times that no calendar has."""
    session = SessionView(
        id=text, established=1e300, expires=-1e300, outcome=text, checks=(Check(text, Outcome.WARNING, text),),
        claims=(Claim(text, text, text, text),),
    )  # fmt: skip
    canary = CanaryView(
        model=text, state=text, reason=text, since_ms=2**60, last_ms=-(2**60), baseline_ms=0, samples=1, p=0.5
    )
    return NodeView(
        id=f"{number}{text}", network=text, operator=text, models=(text,), endpoints=(text,), state=text, reason=text,
        cause=text, session=session, circuit=text, quarantined_s=1e300, ewma_ms=1e300, canaries=(canary,),
    )  # fmt: skip


@lru_cache
def _encodable(text: str) -> str:
    """Without lone surrogates, which JSON cannot carry as UTF-8, and short enough for a name."""
    return text.encode("utf-8", "backslashreplace").decode()[:20_000]


def hostile_bundle(text: str) -> bytes:
    """A signed, logged receipt with `text` wherever a string may stand."""
    made = make(4, NOON_MS, UlidFactory())
    base = parse_receipt(made.payload).predicate
    zero = Sha256("0" * 64)
    receipt = msgspec.structs.replace(
        base,
        verifier=msgspec.structs.replace(
            base.verifier,
            id=text,
            policies=tuple(msgspec.structs.replace(p, name=text, uri=text) for p in base.verifier.policies),
        ),
        request=msgspec.structs.replace(base.request, endpoint=text, model=text),
        caller=msgspec.structs.replace(base.caller, key_id=text, client_request_id=text),
        served=Served(
            network=text, node=text, operator=text, model=text, session=text, keyset_digest=text, evidence_digest=text
        ),
        route=msgspec.structs.replace(base.route, rejected=(Rejected(text, text), Rejected("x", text))),
        reason=text,
        delivery=msgspec.structs.replace(base.delivery, uncovered=(text,), dropped=(text, text)),
        checks=(
            Check(text, Outcome.CONTRAINDICATED, text, text, text, text),
            Check("signature", Outcome.WARNING, text, text, text, text),
            Check("evidence", Outcome.NONE, text),
        ),
        claims=(Claim(text, text, text, text), Claim("fresh", text, text, text)),
        evidence=(EvidenceRef(text, text, zero),),
        usage=Usage(1, 2, False),
    )
    subjects = (Subject(text, zero, Annotations(text)), Subject("request.body", zero, Annotations(text)))
    payload = encode_receipt(subjects, receipt)
    entry = leaf_hash(leaf("receipt", PAYLOAD_TYPE, payload))
    root, proofs = extend(Frontier(), [entry], [0])
    data = text.encode()
    return format_bundle(
        Bundle(
            receipt=sign_envelope(payload, PAYLOAD_TYPE, RECEIPTS),
            proof=format_tlog_proof(0, proofs[0], sign_checkpoint(Checkpoint(ORIGIN, 1, root), LOG)),
            openings={text: Opened(bytes(32), data), "request.body": Opened(bytes(32), data)},
            evidence=(EvidenceBlob(text, text, hashlib.sha256(data).hexdigest(), data),),
            policy=PolicyFile(text, hashlib.sha256(data).hexdigest(), data),
            session=msgspec.json.encode({"text": text}),
            keys=(BundleKey(text, text),),
            untrusted_policy=TRUST,
        )
    )


if __name__ == "__main__":
    from tui.app import VerirouteApp

    sys.exit(VerirouteApp(HostileSource()).run())
