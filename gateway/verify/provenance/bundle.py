"""The form of a Sigstore bundle v0.3 with a DSSE envelope; nothing in it is believed here.

Members that this reader does not know are refused, as Protobuf's JSON reader does: a bundle that carries a second
signature, certificate chain or key means something else to some other reader. Versions before 0.3 carry a chain in
place of one certificate, and with it a CA of the sender's choice; they are refused. 64-bit numbers are decimal text.
"""

from __future__ import annotations

import msgspec
from cryptography import x509

from gateway.crypto.canonical import strict_json
from gateway.crypto.certificates import load_certificate
from gateway.crypto.encoding import decimal, unb64
from gateway.errors import FormatError
from gateway.verify.tee.findings import NotAuthentic

#: The largest bundle that is read; a real one has about 12 kB.
MAX_BUNDLE_BYTES = 1 << 20
MAX_ENTRIES = 16
MAX_PROOF_HASHES = 63
MAX_CHECKPOINT_CHARACTERS = 16_384
MEDIA_TYPES = (
    "application/vnd.dev.sigstore.bundle.v0.3+json",
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
)


class _Form(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Base of the members; each subclass is one object of the JSON."""


class _Certificate(_Form):
    raw_bytes: str


class _LogId(_Form):
    key_id: str


class _Kind(_Form):
    kind: str
    version: str


class _Promise(_Form):
    signed_entry_timestamp: str


class _Checkpoint(_Form):
    envelope: str


class _Proof(_Form):
    log_index: str
    root_hash: str
    tree_size: str
    checkpoint: _Checkpoint
    hashes: list[str] = []


class _Entry(_Form):
    log_index: str
    log_id: _LogId
    kind_version: _Kind
    canonicalized_body: str
    inclusion_proof: _Proof
    integrated_time: str | None = None
    inclusion_promise: _Promise | None = None


class _Timestamps(_Form):
    rfc3161_timestamps: list[dict[str, str]] = []


class _Material(_Form):
    certificate: _Certificate
    tlog_entries: list[_Entry]
    timestamp_verification_data: _Timestamps | None = None


class _Signature(_Form):
    sig: str
    keyid: str = ""


class _Envelope(_Form):
    payload: str
    payload_type: str
    signatures: list[_Signature]


class _Bundle(_Form):
    media_type: str
    verification_material: _Material
    dsse_envelope: _Envelope


class LogEntry(msgspec.Struct, frozen=True):
    """One entry of the log with what shows it. `promise` and `time` are both there or neither counts."""

    index: int
    log_id: bytes
    body: bytes
    time: int | None
    promise: bytes | None
    leaf_index: int
    tree_size: int
    root: bytes
    hashes: tuple[bytes, ...]
    checkpoint: str


class Bundle(msgspec.Struct, frozen=True):
    """A parsed bundle: the signer's certificate, the signed payload, and the log entries."""

    certificate: x509.Certificate
    entries: tuple[LogEntry, ...]
    payload: bytes
    payload_type: str
    signature: bytes


def parse_bundle(data: bytes) -> Bundle:
    """The bundle in `data`; `NotAuthentic` with the reason `bundle_malformed` for anything else."""
    try:
        form = msgspec.convert(strict_json(data, max_bytes=MAX_BUNDLE_BYTES, max_depth=12), _Bundle)
        if form.media_type not in MEDIA_TYPES:
            raise FormatError("the media type is not that of a Sigstore bundle v0.3")
        return _bundle(form)
    except msgspec.ValidationError:
        why = "a member is missing, unknown or of another type"
    except FormatError as error:
        why = error.message
    raise NotAuthentic(f"not a Sigstore bundle v0.3: {why}", reason="bundle_malformed")


def _bundle(form: _Bundle) -> Bundle:
    material, envelope = form.verification_material, form.dsse_envelope
    if len(envelope.signatures) != 1:
        raise FormatError(f"the envelope has {len(envelope.signatures)} signatures, not one")
    if len(material.tlog_entries) > MAX_ENTRIES:
        raise FormatError(f"there are more than {MAX_ENTRIES} log entries")
    return Bundle(
        load_certificate(unb64(material.certificate.raw_bytes, "the certificate")),
        tuple(map(_entry, material.tlog_entries)),
        unb64(envelope.payload, "the payload"),
        envelope.payload_type,
        unb64(envelope.signatures[0].sig, "the signature"),
    )


def _entry(form: _Entry) -> LogEntry:
    proof = form.inclusion_proof
    if (form.kind_version.kind, form.kind_version.version) != ("dsse", "0.0.1"):
        raise FormatError("a log entry is not of kind dsse 0.0.1")
    if len(proof.hashes) > MAX_PROOF_HASHES or len(proof.checkpoint.envelope) > MAX_CHECKPOINT_CHARACTERS:
        raise FormatError("an inclusion proof is too long")
    promise = form.inclusion_promise
    return LogEntry(
        decimal(form.log_index, "a log index"),
        unb64(form.log_id.key_id, "a log id", length=32),
        unb64(form.canonicalized_body, "an entry's body"),
        None if form.integrated_time is None else decimal(form.integrated_time, "an entry's time"),
        None if promise is None else unb64(promise.signed_entry_timestamp, "an entry's promise"),
        decimal(proof.log_index, "a leaf index"),
        decimal(proof.tree_size, "a tree size"),
        unb64(proof.root_hash, "a root hash", length=32),
        tuple(unb64(text, "a proof hash", length=32) for text in proof.hashes),
        proof.checkpoint.envelope,
    )
