"""A source that invents everything, for a first look and for pictures. It says DEMO on every screen.

It keeps a real log in memory: every receipt is signed, every leaf is in the tree, and every bundle carries its proof,
so the screens verify in earnest. One exchange in a hundred was altered after signing; the list calls it affirming.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from array import array
from base64 import standard_b64encode
from collections.abc import AsyncIterator

import msgspec

from gateway import __version__
from gateway.crypto.merkle import Frontier, extend, leaf_hash
from gateway.errors import NotFound
from gateway.log.bundle import Bundle, BundleKey, PolicyFile, format_bundle, open_all
from gateway.log.checkpoint import Checkpoint, sign_checkpoint
from gateway.log.dsse import sign_envelope
from gateway.log.note import NoteSigner
from gateway.log.proof import format_tlog_proof
from gateway.log.receipt import leaf
from gateway.log.trust import parse_trust
from gateway.model.receipt import PAYLOAD_TYPE
from gateway.model.ulid import UlidFactory

from .demo_exchanges import ORIGIN, POLICY, Made, make
from .demo_nodes import demo_nodes
from .filters import Filter
from .reverify import Pins
from .source import PAGE, Info, NodeView, Page, Row

_LOG_KEY = NoteSigner(ORIGIN, b"veriroute demo log key, no trust")
_RECEIPT_KEY = NoteSigner("demo.veriroute.invalid/receipts", b"veriroute demo receipt key, none")
#: The demo's own trust file. It makes its lines affirm; it proves nothing about anything.
TRUST = f"log {_LOG_KEY.vkey}\nquorum none\n#!receipt {_RECEIPT_KEY.vkey}\n"
#: Seconds between live rows, over and over.
_RHYTHM = (0.4, 0.9, 0.25, 1.6, 0.3, 0.7)


def demo_pins() -> Pins:
    """The demo's own keys."""
    return Pins(parse_trust(TRUST), "the demo")


class DemoSource:
    """`count` exchanges of the last hours, then a new one every second or so."""

    name = "DEMO"
    synthetic = True
    no_tail: str | None = None

    def __init__(self, count: int = 400, *, now_ms: int | None = None, live: bool = True) -> None:
        self._ulids = UlidFactory()
        self._made: list[Made] = []
        self._ids: dict[str, int] = {}
        self._leaves: list[bytes] = []
        self._counts: dict[str, int] = {}
        self._live = live
        self._frozen_ms = now_ms
        start = self._now_ms() - count * 7_000
        for number in range(count):
            self._take(number, start + number * 7_000)

    def _now_ms(self) -> int:
        return self._frozen_ms if self._frozen_ms is not None else int(time.time() * 1000)

    def _take(self, number: int, created_ms: int) -> Row:
        made = make(number, created_ms, self._ulids)
        made = made._replace(row=_at(made.row, number))
        self._made.append(made)
        self._ids[made.row.id] = number
        self._leaves.append(leaf_hash(leaf("receipt", PAYLOAD_TYPE, made.payload)))
        self._counts[made.row.verdict] = self._counts.get(made.row.verdict, 0) + 1
        return made.row

    async def info(self) -> Info:
        return Info(
            version=__version__,
            origin=ORIGIN,
            size=len(self._leaves),
            healthy=True,
            policy_default="demo-strict",
            nodes=3,
            counts=dict(self._counts),
            time_ms=self._now_ms(),
        )

    async def page(self, chosen: Filter, *, before: int | None = None, limit: int = PAGE) -> Page:
        rows: list[Row] = []
        start = len(self._made) if before is None else min(before, len(self._made))
        for index in range(start - 1, -1, -1):
            row = self._made[index].row
            if chosen.matches(row):
                rows.append(row)
                if len(rows) == limit:
                    return Page(tuple(rows), index if index else None)
        return Page(tuple(rows), None)

    async def indexes(self, chosen: Filter) -> array[int] | None:
        return array("q", (made.row.index for made in self._made if chosen.matches(made.row)))

    async def bundle(self, receipt_id: str) -> bytes:
        index = self._ids.get(receipt_id)
        if index is None:
            raise NotFound(f"the demo has no receipt {receipt_id}")
        made = self._made[index]
        root, proofs = extend(Frontier(), self._leaves, [index])
        note = sign_checkpoint(Checkpoint(ORIGIN, len(self._leaves), root), _LOG_KEY)
        envelope = sign_envelope(made.payload, PAYLOAD_TYPE, _RECEIPT_KEY)
        if made.altered:  # one answer of the record was changed after it was signed
            changed = made.payload.replace(b'"attempt":1', b'"attempt":3').replace(b'"attempt":2', b'"attempt":3')
            envelope = _resealed(envelope, changed)
        bundle = Bundle(
            receipt=envelope,
            proof=format_tlog_proof(index, proofs[index], note),
            openings=open_all(made.seed, made.openings),
            policy=PolicyFile("demo-strict", _sha256(POLICY), POLICY),
            keys=(BundleKey(_RECEIPT_KEY.keyid, _RECEIPT_KEY.vkey),),
            untrusted_policy=TRUST,
        )
        return format_bundle(bundle)

    async def nodes(self) -> tuple[NodeView, ...]:
        return demo_nodes(self._now_ms())

    async def tail(self) -> AsyncIterator[Row]:
        beat = 0
        while self._live:
            await asyncio.sleep(_RHYTHM[beat % len(_RHYTHM)])
            beat += 1
            yield self._take(len(self._made), self._now_ms())

    async def close(self) -> None:
        self._live = False


def _at(row: Row, index: int) -> Row:
    return msgspec.structs.replace(row, index=index)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _resealed(envelope: bytes, payload: bytes) -> bytes:
    """The envelope with another payload and the old signature."""
    document = msgspec.json.decode(envelope)
    document["payload"] = standard_b64encode(payload).decode()
    return msgspec.json.encode(document)
