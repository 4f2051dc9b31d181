"""Auditing stored entries, a run of them at a time: what each row says against what it signed and what it committed to.

For each entry, in this order; a step names the first index that fails it:
 leaves       the index follows the one before, the entry is one of ours and has the stored hash
 documents    its signed document is stored, under the right kind, and is the one that the entry commits to
 signatures   a receipt key signed that document
 columns      the columns that lists and filters show are those of the signed receipt
 openings     kept payloads are there, and are those that the receipt commits to
 archive      what the node sent for the answer, which lies beside the receipt, is what the receipt names

`check_rows` is a function of its arguments alone, so runs may be checked in other processes and in any order; what
spans runs (the tree, pairs of intent and receipt, erasures, what documents name) is `gateway.log.audit`'s.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

import msgspec

from gateway.crypto.merkle import leaf_hash
from gateway.crypto.signatures import verify_ed25519
from gateway.errors import FormatError
from gateway.model.receipt import FORM_BYTES, PAYLOAD_TYPE, REQUEST_BODY, RESPONSE_BODY, Sha256, Subject, instant

from .acts import LEFT, Act, read_act
from .dsse import Envelope, Signature, pae, parse_envelope
from .marks import Mark, read_mark, read_revealed
from .predicates import UNREADABLE, predicates
from .receipt import SALT_LENGTH, leaf_of, parse_leaf, salt_for, salted

LEAVES, DOCUMENTS, SIGNATURES, COLUMNS, OPENINGS = "leaves", "documents", "signatures", "columns", "openings"
ARCHIVE = "archive"
#: The alarm at the end of an outage of the log.
OUTAGE = "log_unavailable"
#: The digest of no bytes: that of the evidence of a node which offers none.
NO_BYTES = sha256(b"").hexdigest()


class StoredRow(NamedTuple):
    """One entry as it is stored. `place` is its index, `kind` and `id` what it is filed under.

    `envelope` is None where no document is stored, `seed` where no opening is; `columns` are a receipt's, None for
    other kinds. `evidence` is what the node sent for the answer. Text may hold anything, lone surrogates included.
    """

    place: int
    hash: bytes
    leaf: bytes
    kind: str | None
    id: str | None
    envelope: bytes | None
    columns: Columns | None
    seed: bytes | None
    request: bytes | None
    response: bytes | None
    evidence: bytes | None = None


class Columns(NamedTuple):
    """The query columns of a receipt that its signed document, or its intent, determines; times in milliseconds.

    `intent` is the place of the intent. What is stored as no number is -1.
    """

    key_id: str
    client_request_id: str | None
    created_ms: int
    verdict: str
    release: str
    reason: str | None
    policy: str
    network: str | None
    node: str | None
    model: str | None
    endpoint: str
    stream: int
    intent: int | None


class Seen(NamedTuple):
    """What a run's entry says to the steps that span runs.

    `kind` is the leaf's. `id` is the signed receipt id of a receipt or intent. `forwarded`: a prompt went to a node
    while the log could be written.
    `opening` of a receipt: `kept` (bodies are stored, and are those that it commits to), `seed` (the seed alone is
    stored: there is nothing to open with it), `gone` (the receipt says that more was kept than there is), `never` (it
    says that nothing was kept) or `unknown` (it says neither, and there is none). Empty where what is stored is wrong.
    `time` is when it was signed, as it says; `late` that it says that it was stored later. `intent` is the place that a
    receipt is stored with for its intent. `node` is network and node: those that an intent announced, or that a crash
    left a receipt stored with, and None otherwise.
    """

    place: int
    kind: str
    id: str
    forwarded: bool
    opening: str
    time: str = ""
    intent: int | None = None
    node: tuple[str | None, str | None] | None = None
    late: bool = False


class Name(NamedTuple):
    """What a document names by digest, to be found in the archive. `what` says what it is, for a person."""

    what: str
    digest: str


class Sent(NamedTuple):
    """What a receipt names as sent by the node for its answer, and does not lie beside it."""

    place: int
    receipt: str
    digest: str


class Outage(NamedTuple):
    """An outage of the log, as the alarm at its end tells of it: since when, until when, how much had no room."""

    since: str
    until: str
    unrecorded: int


class Told(NamedTuple):
    """An entry that another process left for the gateway; `act` is None where it holds none."""

    place: int
    kind: str
    act: Act | None


class Report(NamedTuple):
    """What was found in one run: leaf hashes from `first` on, and per step how many are bad and which comes first.

    `named`: for each name the place that has it first, and when that was signed. `callers`: for each key that a receipt
    says called, the first place of one. `marks` are those that entries at these places make, `revealed` the epochs of
    sampled audits whose seed is.
    """

    first: int
    hashes: list[bytes]
    seen: list[Seen]
    erased: list[str]
    bad: dict[str, int]
    first_bad: dict[str, tuple[int, str]]
    unknown_keys: int
    named: dict[Name, tuple[int, str]]
    sent: list[Sent]
    outages: list[Outage]
    acts: list[Told]
    callers: dict[str, int]
    marks: list[tuple[int, Mark]]
    revealed: list[str]


class _Predicate(msgspec.Struct, rename="camel"):
    """The members of a receipt or intent that are compared here. A missing one is a difference, not an exception."""

    receipt_id: str = ""
    request: _Request | None = None
    caller: _Caller | None = None
    served: _Served | None = None
    verdict: str = ""
    release: str = ""
    reason: str | None = None
    stored: str | None = None
    timings: _Timings | None = None
    verifier: _Verifier | None = None
    log: _Log | None = None
    receipt_ids: list[str] = []
    time_created: str | int = ""
    destination: _Served | None = None
    evidence: list[_Digested] = []


class _Request(msgspec.Struct):
    endpoint: str
    model: str
    stream: bool
    forwarded: msgspec.Raw = msgspec.Raw()


class _Caller(msgspec.Struct, rename="camel"):
    key_id: str
    client_request_id: str | None = None


class _Served(msgspec.Struct, rename="camel"):
    network: str
    node: str
    session: str = ""
    evidence_digest: str = ""


class _Timings(msgspec.Struct):
    received: str


class _Digest(msgspec.Struct, frozen=True):
    sha256: str = ""


class _Digested(msgspec.Struct):
    digest: _Digest = _Digest()


class _Policy(_Digested):
    name: str = ""


class _Verifier(msgspec.Struct):
    policies: list[_Policy]


class _Log(msgspec.Struct):
    backfilled: bool = False


class _Statement(msgspec.Struct):
    predicate: _Predicate
    subject: list[Subject] = []


class _Event(msgspec.Struct, rename="camel"):
    """The members of other entries that are looked at; whatever they hold."""

    time_ms: object = None
    time_created: object = None
    alarm: object = None
    since: object = None
    until: object = None
    unrecorded: object = None


_statement = msgspec.json.Decoder(_Statement)
_event_of = predicates(_Event)
_raw_of = predicates(msgspec.Raw)
_WITHOUT_OPENING = {"none": "never", "salted": "gone", "full": "gone"}


def check_rows(rows: Sequence[StoredRow], first: int, keys: Mapping[str, bytes] | None) -> Report:
    """Check a run of stored rows that should begin at index `first`. Never raises for what is stored.

    `keys` maps receipt key ids to raw public keys; None leaves the signatures unchecked.
    """
    run = _Run(first, keys)
    for row in rows:
        run.row(row)
    return Report(
        first, run.hashes, run.seen, run.erased, run.bad, run.first_bad, run.unknown_keys, run.named, run.sent,
        run.outages, run.acts, run.callers, run.marks, run.revealed,
    )  # fmt: skip


class _Run:
    def __init__(self, first: int, keys: Mapping[str, bytes] | None) -> None:
        self.next = first
        self.keys = keys
        self.hashes: list[bytes] = []
        self.seen: list[Seen] = []
        self.erased: list[str] = []
        self.bad: dict[str, int] = {}
        self.first_bad: dict[str, tuple[int, str]] = {}
        self.unknown_keys = 0
        self.named: dict[Name, tuple[int, str]] = {}
        self.sent: list[Sent] = []
        self.outages: list[Outage] = []
        self.acts: list[Told] = []
        self.callers: dict[str, int] = {}
        self.marks: list[tuple[int, Mark]] = []
        self.revealed: list[str] = []

    def fail(self, step: str, index: int, sentence: str) -> None:
        self.bad[step] = self.bad.get(step, 0) + 1
        self.first_bad.setdefault(step, (index, sentence))

    def row(self, row: StoredRow) -> None:
        if row.place != self.next:
            self.fail(LEAVES, self.next, f"entry {self.next} is missing; the next one stored is {row.place}")
        self.next = row.place + 1
        found = leaf_hash(row.leaf)
        self.hashes.append(found)
        if found != row.hash:
            self.fail(LEAVES, row.place, f"entry {row.place} does not have its stored hash")
        try:
            kind = parse_leaf(row.leaf).kind
        except FormatError as error:
            self.fail(LEAVES, row.place, f"entry {row.place}: {error}")
            return
        envelope = self.document(row, kind)
        if envelope is not None:
            self.content(row, kind, envelope)

    def document(self, row: StoredRow, kind: str) -> Envelope | None:
        if row.envelope is None:
            self.fail(DOCUMENTS, row.place, f"entry {row.place} ({kind}) has no document")
            return None
        try:
            envelope = read_envelope(row.envelope)
        except FormatError as error:
            self.fail(DOCUMENTS, row.place, f"the document of entry {row.place} is malformed: {error}")
            return None
        message = pae(envelope.payload_type, envelope.payload)
        if leaf_of(kind, sha256(message).digest()) != row.leaf:
            self.fail(DOCUMENTS, row.place, f"the document of entry {row.place} is not the one it commits to")
            return None
        if row.kind != kind:
            self.fail(DOCUMENTS, row.place, f"entry {row.place} is a {kind} and is filed as {row.kind!a}")
        if self.keys is not None:
            self.signature(row.place, kind, envelope, message, self.keys)
        return envelope

    def signature(self, place: int, kind: str, envelope: Envelope, message: bytes, keys: Mapping[str, bytes]) -> None:
        known = [(keys[s.keyid], s.sig) for s in envelope.signatures if s.keyid in keys]
        if not envelope.signatures:
            # An intent is never handed out by itself: the checkpoint that commits to its leaf is its signature.
            if kind != "intent":
                self.fail(SIGNATURES, place, f"entry {place} ({kind}) is signed by nobody")
        elif not known:
            self.unknown_keys += 1
            names = ", ".join(s.keyid for s in envelope.signatures)
            self.first_bad.setdefault("unknown_keys", (place, f"entry {place} is signed by {names!a}"))
        elif not all(verify_ed25519(key, message, signature) for key, signature in known):
            self.fail(SIGNATURES, place, f"the signature of entry {place} does not hold")

    def content(self, row: StoredRow, kind: str, envelope: Envelope) -> None:
        if kind not in ("receipt", "intent", "erasure"):
            event = _event(envelope.payload)
            if kind in LEFT:
                self.acts.append(Told(row.place, kind, _act(kind, envelope.payload)))
            time = "" if kind in LEFT else _moment(event)
            self.seen.append(Seen(row.place, kind, "", False, "", time))
            self.outages += _outage(event)
            self.audited(row.place, kind, envelope.payload)
            return
        try:
            statement = _statement.decode(envelope.payload)
        except UNREADABLE as error:
            self.fail(DOCUMENTS, row.place, f"the document of entry {row.place} is not a {kind}: {error}")
            return
        predicate = statement.predicate
        if kind == "erasure":
            self.erased += predicate.receipt_ids
            return
        if row.id != predicate.receipt_id:
            self.fail(COLUMNS, row.place, f"entry {row.place} is {predicate.receipt_id!a}, filed as {row.id!a}")
        opening = ""
        if kind == "receipt":
            opening = self.receipt(row, statement)
        late = predicate.log is not None and predicate.log.backfilled
        forwarded = not late and predicate.request is not None and bool(bytes(predicate.request.forwarded))
        time = predicate.time_created if isinstance(predicate.time_created, str) else ""
        for name in _names(predicate):
            self.named.setdefault(name, (row.place, time))
        intent = None if row.columns is None else row.columns.intent
        node = _announced(predicate) if kind == "intent" else _left(row.columns, predicate)
        self.seen.append(Seen(row.place, kind, predicate.receipt_id, forwarded, opening, time, intent, node, late))

    def audited(self, place: int, kind: str, payload: bytes) -> None:
        mark, epoch = read_mark(kind, payload), read_revealed(kind, payload)
        self.marks += [] if mark is None else [(place, mark)]
        self.revealed += [] if epoch is None else [epoch]

    def receipt(self, row: StoredRow, statement: _Statement) -> str:
        if row.columns is not None:
            names = _differences(row.columns, statement.predicate)
            if names:
                sentence = f"entry {row.place}: the stored {', '.join(names)} are not those of the signed receipt"
                self.fail(COLUMNS, row.place, sentence)
        if statement.predicate.caller is not None:
            self.callers.setdefault(statement.predicate.caller.key_id, row.place)
        self.evidence(row, statement.predicate)
        return self.opening(row, statement)

    def evidence(self, row: StoredRow, signed: _Predicate) -> None:
        wanted = {ref.digest.sha256 for ref in signed.evidence} - {NO_BYTES}
        found = None if row.evidence is None else sha256(row.evidence).hexdigest()
        if found is not None and found not in wanted:
            sentence = f"entry {row.place}: what is stored as sent by the node for the answer is not what it names"
            self.fail(ARCHIVE, row.place, sentence)
        else:
            self.sent += [Sent(row.place, signed.receipt_id, digest) for digest in sorted(wanted) if digest != found]

    def opening(self, row: StoredRow, statement: _Statement) -> str:
        stored = statement.predicate.stored or ""
        if row.seed is None:
            return _WITHOUT_OPENING.get(stored, "unknown")
        if len(row.seed) != SALT_LENGTH:
            sentence = f"entry {row.place}: the kept seed has {len(row.seed)} bytes and not {SALT_LENGTH}"
            self.fail(OPENINGS, row.place, sentence)
            return ""
        digests = {s.name: s for s in statement.subject}
        found, gone = "seed", False
        for name, data in ((REQUEST_BODY, row.request), (RESPONSE_BODY, row.response)):
            wanted = digests.get(name)
            if data is None:
                gone |= stored == "full" and _was_kept(name, wanted)
            elif wanted is not None and Sha256(salted(salt_for(row.seed, name), data)) == wanted.digest:
                found = "kept"
            else:
                sentence = f"entry {row.place}: the kept {name} is not what the receipt commits to"
                self.fail(OPENINGS, row.place, sentence)
                return ""
        return "gone" if gone else found


def _was_kept(name: str, subject: Subject | None) -> bool:
    """Whether a receipt that says `full` had this body stored beside it. A stream is committed to, and never kept."""
    if name == REQUEST_BODY:
        return True
    return subject is not None and (subject.annotations is None or subject.annotations.form == FORM_BYTES)


def _names(signed: _Predicate) -> Iterator[Name]:
    """What a receipt or intent names that has to lie in the archive."""
    policies = [] if signed.verifier is None else signed.verifier.policies
    for policy in policies[1:] or policies:  # of several, the first stands for the files behind it, and is none
        yield Name("policy file", policy.digest.sha256)
    party = signed.served or signed.destination
    if party is not None:
        if party.session:
            yield Name("attested session", party.session)
        digest = party.evidence_digest.removeprefix("sha256:")
        if digest and digest != NO_BYTES:
            yield Name("attestation", digest)


def _event(payload: bytes) -> _Event:
    try:
        return _event_of(payload)
    except UNREADABLE:
        return _Event()


def _act(kind: str, payload: bytes) -> Act | None:
    try:
        return read_act(kind, bytes(_raw_of(payload)))
    except (FormatError, *UNREADABLE):
        return None


def _moment(event: _Event) -> str:
    """When the gateway made the entry; empty where it does not say."""
    if event.alarm == OUTAGE:
        return event.until if isinstance(event.until, str) else ""
    found = event.time_created if event.time_ms is None else event.time_ms
    return (_instant(found) if isinstance(found, int) else None) or ""


def _outage(event: _Event) -> list[Outage]:
    """The outage of the log that an alarm tells of, if it is one of those."""
    since, until, unrecorded = event.since, event.until, event.unrecorded
    if event.alarm != OUTAGE or not isinstance(since, str) or not isinstance(until, str):
        return []
    return [Outage(since, until, unrecorded if isinstance(unrecorded, int) else 0)]


def _announced(intent: _Predicate) -> tuple[str, str] | None:
    return None if intent.destination is None else (intent.destination.network, intent.destination.node)


def _crashed(receipt: _Predicate) -> bool:
    """Whether this closed what a crash left open: it names no node, and is listed under the one of its intent."""
    return receipt.served is None and receipt.reason == "crash"


def _left(columns: Columns | None, receipt: _Predicate) -> tuple[str | None, str | None] | None:
    return (columns.network, columns.node) if columns is not None and _crashed(receipt) else None


def _differences(columns: Columns, signed: _Predicate) -> list[str]:
    request, caller, served, timings, verifier = (
        signed.request,
        signed.caller,
        signed.served,
        signed.timings,
        signed.verifier,
    )
    crashed = _crashed(signed)
    network, node = (None, None) if served is None else (served.network, served.node)
    wrong = [
        ("verdict", columns.verdict == signed.verdict),
        ("release", columns.release == signed.release),
        ("reason", columns.reason == signed.reason),
        ("key_id", caller is not None and columns.key_id == caller.key_id),
        ("client_request_id", caller is not None and columns.client_request_id == caller.client_request_id),
        ("created_ms", timings is not None and _instant(columns.created_ms) == timings.received),
        ("policy", verifier is not None and [columns.policy] == [p.name for p in verifier.policies[:1]]),
        ("network", crashed or columns.network == network),
        ("node", crashed or columns.node == node),
        ("model", request is not None and columns.model == request.model),
        ("endpoint", request is not None and columns.endpoint == request.endpoint),
        ("stream", request is not None and columns.stream == request.stream),
    ]
    return [name for name, same in wrong if not same]


def _instant(ms: int) -> str | None:
    return instant(ms) if 0 <= ms <= _LAST_MS else None


_LAST_MS = 253402300799999  # the year 9999 ends
_base64 = msgspec.json.Decoder(bytes)
_HEAD = b'{"payload":"'
_TAIL = re.compile(
    b'","payloadType":"'
    + re.escape(PAYLOAD_TYPE.encode())
    + rb'","signatures":\[(?:\{"keyid":"([^"\\\x00-\x1f\x7f-\xff]+)","sig":"([A-Za-z0-9+/]{85}[AQgw]==)"\})?\]\}'
)


def read_envelope(data: bytes) -> Envelope:
    """`parse_envelope`, with a short cut for the exact form in which this project writes envelopes.

    Bytes that match the form and whose payload encodes back to the same base64 have one meaning only.
    """
    end = data.find(b'"', len(_HEAD)) if data.startswith(_HEAD) else -1
    tail = _TAIL.fullmatch(data, end) if end > 0 else None
    if tail is not None:
        text = data[len(_HEAD) : end]
        try:
            payload = _base64.decode(b'"%b"' % text)  # a third of what binascii takes
        except msgspec.MsgspecError:
            return parse_envelope(data, unsigned=True)
        if binascii.b2a_base64(payload, newline=False) == text:
            if tail[1] is None:
                return Envelope(payload, PAYLOAD_TYPE, ())
            signature = Signature(tail[1].decode("ascii"), binascii.a2b_base64(tail[2]))
            return Envelope(payload, PAYLOAD_TYPE, (signature,))
    return parse_envelope(data, unsigned=True)
