"""ACI `aci/1`: keysets, attestation statements, receipts; and the running signatures of `chained` streams.

Byte rules (ACI specification, 2026-08; our extensions in docs/node-profile.md):

    keyset digest   "sha256:" + hex(SHA-256(JCS(keyset)))
    statement       {"keyset_digest":"sha256:<hex>","nonce":"<64 hex>"|null,"purpose":"aci.report_data.v1"}
    report_data     SHA-256(statement) || 32 zero bytes
    receipt         JSON; signature = Ed25519 over JCS(document without `signature`)
    chain k         Ed25519 over "aci.chain.v1", receipt id, nonce, request sha256, model, k, sha256 so far: a line each

Everything here takes bytes and raises `FormatError` only; whether a thing is *acceptable* is `appraise`'s business.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from typing import Any

import msgspec

from gateway.crypto.canonical import jcs, strict_json
from gateway.errors import FormatError
from gateway.model.node import SigningKey

MAX_RECEIPT = 64 * 1024
MAX_REPORT = 4 * 1024 * 1024
MAX_KEYSET = 64 * 1024  # its canonical form is Python's to write, a hundred times slower than what reads it
MAX_MODELS = 1024  # a node in front of a router of models has all of its hundreds
PURPOSE = "aci.report_data.v1"

_HEX64 = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LARGEST = 2**53 - 1
_SIGNATURE = b',"signature":"'
_NEXT = b'","workload_keyset_digest":"'  # the member that follows the signature in JCS order, always there


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a receipt's event log; only the members that we read."""

    body_hash: str | None = None
    type: str = msgspec.field(default_factory=str)  # always there; a factory, so that it is never left out


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """An ACI receipt without its signature. The fields stand in JCS order: see `_canonical_receipt`."""

    api_version: str
    chat_id: str | None
    endpoint: str
    event_log: tuple[Event, ...]
    key_id: str
    method: str
    model: str
    receipt_id: str
    request_nonce: str | None = None
    served_at: int = msgspec.field(default_factory=int)
    workload_keyset_digest: str = msgspec.field(default_factory=str)

    def body_hash(self, event: str) -> str | None:
        """`sha256:<hex>` of the one event of that type; None when it is absent or not unique."""
        found = [e.body_hash for e in self.event_log if e.type == event]
        return found[0] if len(found) == 1 else None


class SignedReceipt(msgspec.Struct, frozen=True):
    receipt: Receipt
    signed: bytes
    signature: bytes

    @property
    def statement(self) -> bytes:
        """What was said and by whom: equal for two signatures over one message, whatever their bytes."""
        receipt = self.receipt
        return f"{receipt.workload_keyset_digest}\n{receipt.key_id}\n".encode() + self.signed


def parse_receipt(data: bytes) -> SignedReceipt:
    """Parse a receipt and recover what its signature covers. Raises `FormatError`.

    The fields are read from the signed bytes alone. A document that is already in JCS form (every one our node sends)
    is cut, not re-encoded; any other goes through a strict parse and a full canonicalisation.
    """
    if len(data) > MAX_RECEIPT:
        raise FormatError(f"a receipt of {len(data)} bytes is over the limit of {MAX_RECEIPT}")
    cut = _cut(data)
    if cut is not None:
        signature, signed = cut
        receipt = _canonical_receipt(signed)
        if receipt is not None:
            return SignedReceipt(_judge(receipt), signed, signature)
    document = _object(strict_json(data, max_bytes=MAX_RECEIPT))
    signature = document.pop("signature", None)
    if not isinstance(signature, str) or re.fullmatch(r"[0-9a-f]{128}", signature) is None:
        raise FormatError("the receipt's signature is not 128 lower-case hex digits")
    return SignedReceipt(_receipt(document), jcs(document), bytes.fromhex(signature))


def _cut(data: bytes) -> tuple[bytes, bytes] | None:
    """The signature that stands in `data` in its JCS place, and `data` without its member; None where there is none, or
    not as lower-case hex. A regular expression takes three times as long.

    Only what is left is parsed. That `data` is JSON too follows from the comma before the cut and the name behind: were
    the cut inside of a string, the name's first quote would end that string, and what is left would be no JSON either.
    """
    at = data.find(_SIGNATURE)
    start, end = at + len(_SIGNATURE), at + len(_SIGNATURE) + 128
    if at < 0 or not data.startswith(_NEXT, end):
        return None
    signature = _lower_hex(data[start:end])
    return None if signature is None else (signature, data[:at] + data[end + 1 :])


def _lower_hex(digits: bytes) -> bytes | None:
    try:
        found = binascii.unhexlify(digits)
    except binascii.Error:
        return None
    return found if binascii.hexlify(found) == digits else None


def decode_inline(text: bytes) -> bytes:
    """The receipt bytes behind the standard base64 of a header or event. Raises `FormatError`."""
    if len(text) > MAX_RECEIPT * 4 // 3 + 4:
        raise FormatError("an inline receipt is over the size limit")
    try:  # as a JSON string without escapes: msgspec takes half of the time of `binascii`, and counts the padding too
        if text.find(b"\\") < 0:
            return _decode_base64(b'"%b"' % text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    raise FormatError("an inline receipt is not standard base64")


class Keyset(msgspec.Struct, frozen=True):
    """The keys of a workload. `digest` is `sha256:<hex>` over the JCS form of the document as it was sent."""

    digest: str
    subject: str | None
    not_after: int
    keys: tuple[SigningKey, ...]
    spki: tuple[bytes, ...]


class Report(msgspec.Struct, frozen=True):
    """An attestation report: the keyset, what the report says of it, and the evidence, unjudged."""

    keyset: Keyset
    stated_digest: str
    tee_type: str
    report_data: bytes
    evidence: dict[str, Any]
    serving: str
    fronts_backend: bool
    extensions: frozenset[str]
    endpoints: tuple[str, ...]
    models: tuple[str, ...]


def parse_report(data: bytes) -> Report:
    """Parse `GET /v1/aci/attestation`'s answer. Raises `FormatError`."""
    document = _object(strict_json(data, max_bytes=MAX_REPORT))
    if document.get("api_version") != "aci/1":
        raise FormatError(f"api_version is {document.get('api_version')!r:.40}, not 'aci/1'")
    attestation = _object(document.get("attestation"), "attestation")
    capabilities = _object(document.get("service_capabilities", {}), "service_capabilities")
    report_data = _hex(attestation.get("report_data"), "attestation.report_data")
    if len(report_data) not in (32, 64):
        raise FormatError("attestation.report_data is neither 32 nor 64 bytes")
    return Report(
        keyset=parse_keyset(attestation.get("workload_keyset")),
        stated_digest=_text(document.get("workload_keyset_digest"), "workload_keyset_digest"),
        tee_type=_text(attestation.get("tee_type"), "attestation.tee_type"),
        report_data=report_data.ljust(64, b"\0"),
        evidence=_object(attestation.get("evidence"), "attestation.evidence"),
        serving=_text(capabilities.get("serving", ""), "service_capabilities.serving"),
        fronts_backend=capabilities.get("fronts_backend", False) is not False,
        extensions=frozenset(_texts(capabilities.get("extensions", []), "service_capabilities.extensions")),
        endpoints=_texts(capabilities.get("endpoints", []), "service_capabilities.endpoints"),
        models=_texts(capabilities.get("models", []), "service_capabilities.models", MAX_MODELS),
    )


def parse_keyset(value: object) -> Keyset:
    """A keyset from its decoded JSON `value`, with its digest. Raises `FormatError`."""
    document = _object(value, "workload_keyset")
    if (size := len(msgspec.json.encode(document))) > MAX_KEYSET:
        raise FormatError(f"a keyset of {size} bytes is over the limit of {MAX_KEYSET}")
    keys = []
    for item in _list(document.get("receipt_signing_keys"), "receipt_signing_keys"):
        key = _object(item, "receipt_signing_keys[]")
        keys.append(
            SigningKey(
                key_id=_text(key.get("key_id"), "key_id"),
                alg=_text(key.get("algo"), "algo"),
                public_key=_hex(key.get("public_key"), "public_key"),
            )
        )
    if len({key.key_id for key in keys}) != len(keys):
        raise FormatError("two receipt signing keys share a key_id")
    spki = []
    for item in _list(document.get("tls_public_keys"), "tls_public_keys"):
        digest = _hex(_object(item, "tls_public_keys[]").get("spki_sha256"), "spki_sha256")
        if len(digest) != 32:
            raise FormatError("spki_sha256 is not 32 bytes")
        spki.append(digest)
    subject = document.get("subject")
    if subject is not None:
        subject = _text(subject, "subject")
    not_after = document.get("not_after")
    if not isinstance(not_after, int) or isinstance(not_after, bool) or not_after < 0:
        raise FormatError("not_after is not a non-negative integer")
    return Keyset(keyset_digest(document), subject, not_after, tuple(keys), tuple(spki))


def keyset_digest(document: dict[str, Any]) -> str:
    """`sha256:` + hex SHA-256 of the keyset's JCS form."""
    return "sha256:" + hashlib.sha256(jcs(document)).hexdigest()


def statement(digest: str, nonce: str | None) -> bytes:
    """The exact attestation statement for a keyset digest and a nonce of 64 lower-case hex digits, or null."""
    quoted = "null" if nonce is None else f'"{nonce}"'
    return f'{{"keyset_digest":"{digest}","nonce":{quoted},"purpose":"{PURPOSE}"}}'.encode()


def report_data(statement_bytes: bytes) -> bytes:
    """The 64 bytes a quote must carry for a statement."""
    return hashlib.sha256(statement_bytes).digest() + bytes(32)


def chain_message(receipt_id: str, nonce: str, request_sha256: str, model: str, k: int, digest: str) -> bytes:
    """What the k-th running signature of a chained stream covers (docs/node-profile.md, section 5)."""
    return f"aci.chain.v1\n{receipt_id}\n{nonce}\n{request_sha256}\n{model}\n{k}\n{digest}\n".encode()


def parse_chain(comment: bytes) -> tuple[int, bytes] | None:
    """`(k, signature)` of a comment line `aci.chain <k> <128 hex>`, None for any other comment; `FormatError`."""
    if not comment.startswith(b"aci.chain "):
        return None
    number, _, digits = comment[10:].partition(b" ")
    signature = _lower_hex(digits) if len(digits) == 128 else None
    if signature is None or not number.isdigit() or number.startswith(b"0") or len(number) > 9:
        raise FormatError("a chain comment is not `aci.chain <k> <128 hex digits>`")
    return int(number), signature


def session_id(document: dict[str, Any]) -> str:
    """The content address of an attested session: hex SHA-256 of its JCS form (ACI section 8)."""
    return hashlib.sha256(jcs(document)).hexdigest()


_decode_base64 = msgspec.json.Decoder(bytes).decode
_decode_receipt = msgspec.json.Decoder(Receipt).decode
_encode_receipt = msgspec.json.Encoder().encode
_REQUIRED = frozenset(Receipt.__struct_fields__) - {"request_nonce"}


def _canonical_receipt(data: bytes) -> Receipt | None:
    """The receipt behind `data` when `data` is its JCS form and holds nothing else; None sends it the long way.

    The fields of `Receipt` and `Event` stand in JCS order, so writing them again gives the same bytes only when every
    member is one of theirs, stands once and in its place, and is spelled as JCS spells it.
    """
    try:
        receipt = _decode_receipt(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return receipt if _encode_receipt(receipt) == data else None


def _receipt(document: dict[str, Any]) -> Receipt:
    missing = _REQUIRED - document.keys()
    if missing:
        raise FormatError(f"receipt: {min(missing)} is missing")
    if type(document["served_at"]) is not int:  # `1.0` is the same number in JCS, and no count of seconds
        raise FormatError("receipt: served_at is not a time in whole seconds")
    try:
        return _judge(msgspec.convert(document, Receipt))
    except msgspec.ValidationError as error:
        raise FormatError(f"receipt: {error}") from None


def _judge(receipt: Receipt) -> Receipt:
    """What the types don't say. Raises `FormatError`."""
    if receipt.api_version != "aci/1":
        raise FormatError(f"receipt: api_version is {receipt.api_version!r:.40}, not 'aci/1'")
    if not receipt.event_log or receipt.event_log[0].type != "request.received":
        raise FormatError("receipt: the first event is not request.received")
    for event in receipt.event_log:
        if event.body_hash is not None and _DIGEST.fullmatch(event.body_hash) is None:
            raise FormatError(f"receipt: body_hash of {event.type!r:.40} is not sha256:<64 lower-case hex digits>")
    # Beyond it JCS knows no integers, and arithmetic with a time that is as long as a receipt may be would fail.
    if not 0 <= receipt.served_at <= _LARGEST:
        raise FormatError("receipt: served_at is not a time in whole seconds")
    if receipt.request_nonce is not None and _HEX64.fullmatch(receipt.request_nonce) is None:
        raise FormatError("receipt: request_nonce is not 64 lower-case hex digits")
    return receipt


def _object(value: object, name: str = "document") -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"{name} is not an object")
    return value


def _list(value: object, name: str, most: int = 64) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise FormatError(f"{name} is not a list of at most {most}")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > 512:
        raise FormatError(f"{name} is not a text of at most 512 characters")
    return value


def _texts(value: object, name: str, most: int = 64) -> tuple[str, ...]:
    return tuple(_text(item, name) for item in _list(value, name, most))


def _hex(value: object, name: str) -> bytes:
    text = _text(value, name)
    if re.fullmatch(r"(?:[0-9a-f]{2})*", text) is None:
        raise FormatError(f"{name} is not lower-case hex")
    return bytes.fromhex(text)
