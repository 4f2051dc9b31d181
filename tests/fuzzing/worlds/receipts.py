"""Receipts, their envelopes, proofs, notes and trust files, and a node's own receipts and reports."""

from __future__ import annotations

import json
import sqlite3
from asyncio import Future
from collections.abc import Callable
from contextlib import closing, suppress
from functools import cache

from receipt_world import NODE, NOW, T0_MS, World, small_world

from gateway.crypto.encoding import b64
from gateway.errors import FormatError
from gateway.log import export, tiles
from gateway.log.bundle import format_bundle, parse_bundle
from gateway.log.dsse import Sealed, parse_envelope, verify_envelope
from gateway.log.note import open_note, parse_vkey
from gateway.log.proof import format_tlog_proof, parse_tlog_proof
from gateway.log.receipt import parse_event, parse_receipt
from gateway.log.trust import TrustPolicy, parse_trust, verify_checkpoint
from gateway.model.receipt import instant
from gateway.model.verdict import Outcome
from gateway.offline import verify_bundle
from gateway.offline.saved import bundle_from_answer
from gateway.storage.packing import Packer, Unpacker
from gateway.verify import aci


@cache
def _world() -> tuple[World, int, int, TrustPolicy]:
    world, intent, receipt = small_world()
    return world, intent, receipt, parse_trust(world.trust_text())


def _bundle(data: bytes) -> None:
    world, _, _, trust = _world()
    lines = {line.step: line.outcome for line in verify_bundle(parse_bundle(data), trust, now=NOW)}
    if lines.get("signature") is Outcome.AFFIRMING:
        signed = parse_envelope(parse_bundle(data).receipt).payload
        assert signed in {parse_envelope(one, unsigned=True).payload for one in world.envelopes}, (
            "affirmed, and nobody signed it"
        )


def _envelope(data: bytes) -> None:
    world, _, _, trust = _world()
    envelope = parse_envelope(data)
    if verify_envelope(envelope, trust.receipt_key_map):
        assert envelope.payload in {parse_envelope(one, unsigned=True).payload for one in world.envelopes}


def _note(data: bytes) -> None:
    world, _, _, trust = _world()
    with suppress(FormatError):
        assert open_note(data, trust.log_keys).text == open_note(world.checkpoint(witnesses=2), trust.log_keys).text
    verify_checkpoint(data, trust)


def _proof(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    proof = parse_tlog_proof(text)
    assert format_tlog_proof(proof.index, proof.hashes, proof.checkpoint, proof.extra) == text


def _bundle_tile(data: bytes) -> None:
    assert tiles.encode_bundle(tiles.decode_bundle(data, 4)) == data


@cache
def _packed() -> bytes:
    world, _, receipt, _ = _world()
    envelope = parse_envelope(world.envelopes[receipt])
    ((keyid, signature),) = envelope.signatures
    sealed = Sealed(envelope.payload, envelope.payload_type, keyid, signature, b"")
    return Packer(0, b"", lambda *_: Future()).pack(sealed)


def _unpacked(data: bytes) -> None:
    """Damaged or not, it comes back, and as bytes."""
    with closing(sqlite3.connect(":memory:")) as connection:
        assert isinstance(Unpacker(connection)(data), bytes)


def _export() -> export.Manifest:
    files = (export.ExportFile("entries.jsonl", "ab" * 32, 10, 3),)
    return export.Manifest(
        origin="veriroute.test/log",
        range=export.Range(0, 3),
        count=3,
        format="jsonl",
        time_created=instant(T0_MS),
        checkpoint="x",
        left=(),
        right=(b64(b"h" * 32),),
        files=files,
    )


def _saved(envelope: bytes, proof: str) -> bytes:
    """An answer as an agent keeps it, with the receipt inside."""
    member = {
        "receipt": "r",
        "envelope": json.loads(envelope),
        "proof": proof,
        "openings": {"response.content": b64(b"s" * 32)},
    }
    return json.dumps({"choices": [{"message": {"content": "4"}}], "verification": member}).encode()


@cache
def readers() -> dict[bytes, tuple[bytes, Callable[[bytes], object]]]:
    """The byte that chooses a reader -> a genuine item, and the reader."""
    world, intent, receipt, _ = _world()
    envelope = world.envelopes[receipt]
    return {
        b"b": (format_bundle(world.bundle(receipt, intent)), _bundle),
        b"e": (envelope, _envelope),
        b"r": (parse_envelope(envelope).payload, parse_receipt),
        b"s": (parse_envelope(world.envelopes[0]).payload, lambda data: parse_event(data, "start")),
        b"n": (world.checkpoint(witnesses=2), _note),
        b"p": (world.proof(receipt).encode(), _proof),
        b"t": (world.trust_text(quorum=2).encode(), parse_trust),
        b"v": (world.log.vkey.encode(), lambda data: parse_vkey(data.decode("utf-8", "surrogateescape"))),
        b"l": (tiles.encode_bundle(world.leaves[:4]), _bundle_tile),
        b"x": (export.damaged_line(1, b"leaf", b"envelope")[:-1], export.parse_entry_line),
        b"y": (envelope, export.parse_entry_line),
        b"m": (export.format_manifest(_export()), export.parse_manifest),
        b"w": (_saved(envelope, world.proof(receipt)), lambda data: bundle_from_answer(data)),
        b"a": (NODE.report(), aci.parse_report),
        b"c": (NODE.receipt(), aci.parse_receipt),
        b"i": (b64(NODE.receipt()).encode(), aci.decode_inline),
        b"k": (_packed(), _unpacked),
        b"h": (b"aci.chain 3 " + b"00" * 64, aci.parse_chain),
    }


def seeds() -> list[bytes]:
    """One item for each reader, behind the byte that `run` chooses it by."""
    return [kind + item for kind, (item, _) in readers().items()]


def run(data: bytes) -> None:
    """Read `data`. Nothing but `FormatError` comes out, and nothing that was changed counts as signed."""
    _, reader = readers().get(data[:1], readers()[b"b"])
    with suppress(FormatError):
        reader(data[1:])
