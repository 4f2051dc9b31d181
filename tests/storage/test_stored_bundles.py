"""Bundles put together from the stored log."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import msgspec
import pytest

from gateway.errors import NotFound
from gateway.log.bundle import format_bundle, parse_bundle
from gateway.log.dsse import sign_envelope
from gateway.log.note import NoteSigner
from gateway.log.receipt import encode_receipt, event_statement, leaf, parse_receipt, subject
from gateway.log.trust import parse_trust
from gateway.model.entry import Entry, Opening, ReceiptRow
from gateway.model.receipt import FORM_BYTES, PAYLOAD_TYPE
from gateway.model.ulid import UlidFactory
from gateway.model.verdict import Outcome
from gateway.offline import verify_bundle
from gateway.storage import blobs
from gateway.storage.bundles import ATTESTATION, assemble
from gateway.storage.reads import Reader
from gateway.storage.startup import open_log
from tui.demo_exchanges import ORIGIN, POLICY, make

NOW_MS = 1_795_176_000_000
LOG = NoteSigner(ORIGIN, b"a key for a test's log, no trust")
RECEIPTS = NoteSigner("test.invalid/receipts", b"a key for a test's receipts, too")
TRUST = parse_trust(f"log {LOG.vkey}\n#!receipt {RECEIPTS.vkey}\nquorum none\n")
REPORT = b'{"a":"report"}'
ANSWER = b'{"an":"answer"}'


async def _stored(path: Path) -> str:
    """A log with an intent, its receipt with everything that can be kept, and a receipt of which nothing is."""
    made = make(0, NOW_MS, UlidFactory())
    statement = parse_receipt(made.payload)
    served = statement.predicate.served
    assert served is not None
    digest = hashlib.sha256(REPORT).hexdigest()
    receipt = msgspec.structs.replace(
        statement.predicate, served=msgspec.structs.replace(served, evidence_digest=f"sha256:{digest}")
    )
    subjects = (*statement.subject[:1], subject(made.seed, "response.body", ANSWER, FORM_BYTES))
    payload = encode_receipt(subjects, receipt)
    intent = event_statement("intent", statement.subject[0], {"receiptId": made.row.id})
    row = ReceiptRow(**{name: getattr(made.row, name) for name in ReceiptRow.__struct_fields__})
    bare = make(1, NOW_MS, UlidFactory())
    bare_row = ReceiptRow(**{name: getattr(bare.row, name) for name in ReceiptRow.__struct_fields__})
    log = await open_log(f"sqlite:///{path}", LOG, ORIGIN, f"{path}.memory", now=lambda: NOW_MS / 1000)
    try:
        await log.append(_entry("intent", made.row.id, intent))
        opening = Opening(made.row.id, made.seed, made.openings["request.body"], ANSWER)
        await asyncio.gather(
            log.append(_entry("receipt", made.row.id, payload, row, opening)),
            log.append(_entry("receipt", bare.row.id, bare.payload, bare_row)),
            log.submit(blobs.put_evidence(digest, "application/json", NOW_MS, REPORT)),
            log.submit(blobs.put_evidence(hashlib.sha256(POLICY).hexdigest(), "text/plain", NOW_MS, POLICY)),
            log.submit(blobs.put_session(served.session, "n", NOW_MS, b'{"a":"session"}')),
        )
    finally:
        await log.close()
    return made.row.id


def _entry(kind: str, id: str, payload: bytes, row: ReceiptRow | None = None, opening: Opening | None = None) -> Entry:
    return Entry(
        kind, id, leaf(kind, PAYLOAD_TYPE, payload), sign_envelope(payload, PAYLOAD_TYPE, RECEIPTS), row, opening
    )


async def test_everything_that_is_kept_goes_in(tmp_path: Path) -> None:
    """Payloads, evidence, policy, session and intent are in the bundle, and each affirms where it can be checked."""
    path = tmp_path / "log.db"
    receipt_id = await _stored(path)
    with Reader(str(path)) as reader:
        bundle = assemble(reader, receipt_id, receipt_vkeys=(RECEIPTS.vkey,))
        assert parse_bundle(format_bundle(bundle)) == bundle
        assert set(bundle.openings) == {"request.body", "response.body"}
        assert [blob.name for blob in bundle.evidence] == [ATTESTATION]
        assert bundle.policy is not None
        assert bundle.session == b'{"a":"session"}'
        assert [key.vkey for key in bundle.keys] == [RECEIPTS.vkey]
        assert bundle.untrusted_policy is not None
        assert parse_trust(bundle.untrusted_policy) == TRUST
        lines = verify_bundle(bundle, TRUST, now=NOW_MS / 1000 + 60)
        for step in ("signature", "checkpoint", "inclusion", "opening", "evidence", "policy"):
            assert {line.outcome for line in lines if line.step == step} == {Outcome.AFFIRMING}, step
        assert bundle.intent is not None


async def test_what_is_not_kept_stays_out(tmp_path: Path) -> None:
    """Nothing is made up: no opening, no evidence, no intent; payloads stay out when they are not asked for."""
    path = tmp_path / "log.db"
    receipt_id = await _stored(path)
    with Reader(str(path)) as reader:
        assert assemble(reader, receipt_id, openings=False).openings == {}
        other = next(row.id for row in reader.rows() if row.id != receipt_id)
        bundle = assemble(reader, other, policy_file=b"another file")
        assert bundle.openings == {}
        assert bundle.evidence == ()
        assert bundle.intent is None
        assert bundle.policy is not None
        assert bundle.policy.data == b"another file"  # the verifier says that it is not the one that was in force
        with pytest.raises(NotFound):
            assemble(reader, "01M7Q4QBX0D78M3GH913VXWK8S")
