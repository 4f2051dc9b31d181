"""A receipt's bundle, put together from what is stored: envelope, proof under the newest checkpoint, and what it names.

Everything that the log still has goes in; what was erased or never kept stays out, and the verifier says so line by
line. Nothing is judged here. Payloads go in where policy let us keep them, so a caller that may not see them asks with
`openings=False`.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from gateway.errors import FormatError, NotFound
from gateway.log.bundle import Bundle, BundleKey, EvidenceBlob, Logged, Opened, PolicyFile, open_all
from gateway.log.checkpoint import parse_checkpoint
from gateway.log.dsse import parse_envelope
from gateway.log.note import parse_note, parse_vkey
from gateway.log.proof import format_tlog_proof
from gateway.log.receipt import parse_receipt
from gateway.model.receipt import REQUEST_BODY, RESPONSE_BODY, Receipt, Statement

from .reads import Blob, Reader

#: The name under which a node's attestation report stands in a bundle.
ATTESTATION = "attestation"


def assemble(
    reader: Reader,
    receipt_id: str,
    *,
    receipt_vkeys: Sequence[str] = (),
    policy_file: bytes | None = None,
    openings: bool = True,
) -> Bundle:
    """The bundle of one receipt. `receipt_vkeys`: keys to offer in it; `policy_file`: the policy, when at hand.

    Raises `NotFound` when there is no such receipt, `FormatError` when what is stored cannot be read.
    """
    envelope, row = reader.receipt(receipt_id), reader.row(receipt_id)
    if envelope is None or row is None:
        raise NotFound(f"there is no receipt {receipt_id}")
    note = reader.checkpoint()
    if note is None:
        raise NotFound("the log has no checkpoint yet")
    statement = parse_receipt(parse_envelope(envelope).payload)
    receipt = statement.predicate
    served = receipt.served
    return Bundle(
        receipt=envelope,
        proof=_proof(reader, row.index, note),
        openings=_openings(reader, statement) if openings else {},
        evidence=_evidence(reader, receipt_id, receipt),
        policy=_policy(reader, receipt, policy_file),
        session=reader.session(served.session) if served is not None else None,
        intent=_intent(reader, receipt_id, note),
        keys=tuple(BundleKey(parse_vkey(vkey).keyid, vkey) for vkey in receipt_vkeys),
        untrusted_policy=_roots(reader, receipt_vkeys),
    )


def _proof(reader: Reader, index: int, note: bytes) -> str:
    size = parse_checkpoint(parse_note(note)[0]).size
    return format_tlog_proof(index, reader.inclusion(index, size), note)


def _openings(reader: Reader, statement: Statement) -> dict[str, Opened]:
    """What is kept of the payloads, as far as the receipt commits to it in the form in which it is kept."""
    kept = reader.opening(statement.predicate.receipt_id)
    if kept is None:
        return {}
    committed = {subject.name for subject in statement.subject}
    stored = {REQUEST_BODY: kept.request, RESPONSE_BODY: kept.response}
    return open_all(kept.seed, {n: data for n, data in stored.items() if data is not None and n in committed})


def _evidence(reader: Reader, receipt_id: str, receipt: Receipt) -> tuple[EvidenceBlob, ...]:
    """What the node sent for this answer, which stands beside the receipt, and what is archived by digest."""
    wanted = {ref.digest.sha256: (ref.name, ref.media_type) for ref in receipt.evidence}
    if receipt.served is not None:
        wanted.setdefault(receipt.served.evidence_digest.removeprefix("sha256:"), (ATTESTATION, ""))
    found = []
    own = reader.evidence_of(receipt_id)
    for digest, (name, media_type) in wanted.items():
        blob = reader.evidence(digest)
        if blob is None and own is not None and sha256(own).hexdigest() == digest:
            blob = Blob(media_type, own)
        if blob is not None:
            found.append(EvidenceBlob(name, media_type or blob.media_type, digest, blob.data))
    return tuple(found)


def _policy(reader: Reader, receipt: Receipt, data: bytes | None) -> PolicyFile | None:
    """The policy in force: as handed in, or from the archive, where it stands by its digest."""
    if not receipt.verifier.policies:
        return None
    policy = receipt.verifier.policies[0]
    if data is None:
        blob = reader.evidence(policy.digest.sha256)
        data = None if blob is None else blob.data
    return None if data is None else PolicyFile(policy.name, policy.digest.sha256, data)


def _intent(reader: Reader, receipt_id: str, note: bytes) -> Logged | None:
    index = reader.intent_of(receipt_id)
    document = None if index is None else reader.document(index)
    if document is None or document.envelope is None:
        return None
    return Logged(document.envelope, _proof(reader, document.index, note))


def _roots(reader: Reader, receipt_vkeys: Sequence[str]) -> str | None:
    """The trust roots as this database names them: a claim, and called untrusted in the bundle."""
    vkey = reader.vkey()
    if vkey is None:
        raise FormatError("the database has leaves and no log")
    return "\n".join([f"log {vkey}", *(f"#!receipt {key}" for key in receipt_vkeys), "quorum none", ""])
