"""Turns an exchange into signed documents and hands them to the log: the intent, the receipt, and events.

Everything is built once, signed as written and never re-serialised. This is the hot path: two documents a request.
The order that callers keep: intent durable -> prompt leaves; receipt durable -> answer leaves.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping

import msgspec

from . import __version__
from .backlog import Backlog
from .crypto.encoding import b64
from .errors import VerirouteError
from .exchange.answer import Content
from .exchange.head import Head
from .exchange.render import VerificationPolicy
from .log import receipt as documents
from .log.dsse import Sealed, parse_envelope, seal, wrap
from .log.note import NoteSigner
from .model.entry import Committed, Entry, Opening, ReceiptRow
from .model.node import AttestedSession, Node
from .model.receipt import (
    FORM_BYTES,
    FORM_SSE,
    FORM_TOOLCALLS,
    FORM_UTF8,
    MAX_INTEGER,
    PAYLOAD_TYPE,
    REQUEST_BODY,
    REQUEST_FORWARDED,
    RESPONSE_BODY,
    RESPONSE_CONTENT,
    RESPONSE_TOOLCALLS,
    Annotations,
    AuditPart,
    Caller,
    Delivery,
    EvidenceForm,
    EvidenceRef,
    Forwarded,
    LogRef,
    PaymentPart,
    PolicyRef,
    ProofPart,
    Receipt,
    Rejected,
    RequestPart,
    Route,
    Served,
    Sha256,
    Subject,
    Timings,
    Usage,
    Verifier,
    instant,
    millis,
)
from .model.verdict import Check, Claim, Outcome, Release
from .policy.schema import CompiledPolicy
from .storage.packing import Packer

Append = Callable[[Entry], "asyncio.Future[Committed]"]

#: Names of members in one list of a receipt, and characters of each.
MAX_NAMES = 64
MAX_NAME = 200

_encoder = msgspec.json.Encoder()
_ANNOTATE = {form: Annotations(form) for form in (FORM_BYTES, FORM_SSE, FORM_UTF8, FORM_TOOLCALLS)}


class PolicyUse(msgspec.Struct, frozen=True):
    """What receipts and answers say of a policy, prepared once (`verifier`, `shown`), and whether payloads are kept."""

    name: str
    digest: str
    verifier: Verifier
    store: str
    shown: VerificationPolicy

    @classmethod
    def of(cls, policy: CompiledPolicy) -> PolicyUse:
        """The policy in force first; behind it, when it was made by tightening, every file that it comes from."""
        files = [] if [ref.digest for ref in policy.refs] == [policy.digest] else list(policy.refs)
        named = [(policy.name, policy.version, policy.digest), *((f.name, f.version, f.digest) for f in files)]
        refs = tuple([PolicyRef(n, f"veriroute:policy/{n}@{version}", Sha256(d)) for n, version, d in named])
        verifier = Verifier(f"urn:veriroute:verifier:{__version__}", refs)
        shown = VerificationPolicy(policy.name, policy.digest)
        return cls(policy.name, policy.digest, verifier, policy.audit.store_payload, shown)


class Exchange:
    """The facts of one accepted request, gathered as it runs. Mutable, owned by one task."""

    __slots__ = (
        "_salts",
        "added",
        "asked_through",
        "attempts",
        "audit",
        "body",
        "candidates",
        "client_request_id",
        "dropped_members",
        "forwarded",
        "head",
        "key_id",
        "mode",
        "node",
        "nonce",
        "parent",
        "payment",
        "policy",
        "proofs",
        "rebuilt",
        "receipt_id",
        "received",
        "received_ms",
        "rejected",
        "request_digest",
        "seed",
        "sent",
        "sent_bytes",
        "sent_hash",
        "session",
        "t0",
        "t_done",
        "t_first",
        "uncovered",
        "unsupported",
        "verify_ms",
    )  # fmt: skip

    def __init__(
        self,
        *,
        receipt_id: str,
        received_ms: int,
        t0: float,
        seed: bytes,
        nonce16: bytes,
        key_id: str,
        client_request_id: str | None,
        head: Head,
        body: bytes,
        policy: PolicyUse,
    ) -> None:
        self.receipt_id = receipt_id
        self.received_ms = received_ms
        self.t0 = t0
        self.seed = seed
        self.nonce = b64(nonce16)
        self.received = instant(received_ms)
        self.key_id = key_id
        self.client_request_id = client_request_id
        self.head = head
        self.body = body
        self.policy = policy
        self._salts: dict[str, bytes] = {}
        self.request_digest = Sha256(documents.salted(self.salt(REQUEST_BODY), body))
        self.node: Node | None = None
        self.session: AttestedSession | None = None
        self.mode = "buffer"
        self.attempts = 0
        self.candidates = 0
        self.rejected: list[Rejected] = []
        self.sent = False
        self.sent_bytes = 0
        self.sent_hash: hashlib._Hash | None = None
        self.t_first: float | None = None
        self.t_done: float | None = None
        self.verify_ms: float | None = None
        self.rebuilt = False  # what has left is not the node's bytes
        self.dropped_members: tuple[str, ...] = ()
        self.uncovered: tuple[str, ...] = ()
        self.unsupported: tuple[str, ...] = ()
        self.payment: PaymentPart | None = None
        # What the node is sent: the caller's bytes, or those with members behind them that a proof needs.
        self.forwarded = body
        self.added: tuple[str, ...] = ()
        self.parent: str | None = None
        self.asked_through = False  # nodes were asked, in exchanges of their own
        self.proofs: tuple[ProofPart, ...] = ()
        self.audit: AuditPart | None = None

    @property
    def form(self) -> str:
        """How that which has left relates to what the node sent."""
        if not self.sent_bytes:
            return "none"
        return "rebuilt" if self.rebuilt else "verbatim"

    def salt(self, name: str) -> bytes:
        """The salt of a subject, worked out once."""
        found = self._salts.get(name)
        if found is None:
            found = self._salts[name] = documents.salt_for(self.seed, name)
        return found


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How an exchange ended: what the receipt says beside the facts in `Exchange`."""

    verdict: Outcome
    release: Release
    status: int
    reason: str | None = None
    form: str = "none"
    checks: tuple[Check, ...] | msgspec.Raw = ()  # Raw: written already
    claims: tuple[Claim, ...] | msgspec.Raw = ()
    body: bytes | None = None  # JSON: the node's body; None where there is none, or for a stream
    body_sha256: str | None = None  # stream: the salted digest over the events' data
    content: Content | None = None
    evidence: bytes | None = None
    evidence_form: EvidenceForm | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    covered: bool = False


class Recorder:
    """Signs and appends. `now_ms` is the wall clock, `mono` the monotonic one in seconds; `packer` brings documents
    into the form in which they are stored."""

    def __init__(
        self,
        append: Append,
        signer: NoteSigner,
        origin: str,
        *,
        backlog: Backlog,
        now_ms: Callable[[], int],
        mono: Callable[[], float],
        packer: Packer,
    ) -> None:
        self.backlog = backlog
        self._append = append
        self._signer = signer
        self._log = LogRef(origin)
        self._log_later = LogRef(origin, backfilled=True)
        self._now_ms = now_ms
        self._mono = mono
        self._packer = packer
        self._pack = packer.pack

    @property
    def origin(self) -> str:
        return self._log.origin

    def intent(self, x: Exchange) -> asyncio.Future[Committed]:
        """The write-ahead record that a prompt is about to leave for `x.node`. Durable when the future resolves.

        Raises, and so do all futures here, `LogUnavailable` or `Busy` (`backlog.LOG_FAILED`) when the log fails.
        """
        return self._append(self._intent(x))

    def intent_later(self, x: Exchange, error: VerirouteError) -> bool:
        """Keep the intent until the log, which failed with `error`, takes it; False when there is no room."""
        return self._keep(self._intent(x), error, due=True)

    def _intent(self, x: Exchange) -> Entry:
        assert x.node is not None
        assert x.session is not None
        payload = _encoder.encode(
            _Intent(
                subject=(Subject(REQUEST_BODY, x.request_digest, _ANNOTATE[FORM_BYTES]),),
                predicate=_IntentPredicate(
                    x.receipt_id,
                    x.nonce,
                    x.received,
                    RequestPart(x.request_digest, x.head.endpoint, x.head.model, x.head.stream),
                    Caller(x.key_id, x.client_request_id),
                    x.policy.verifier,
                    _Destination(x.node.network, x.node.id, x.session.id),
                    self._log,
                    x.parent,
                ),
            )
        )
        # Signed by nobody: it is not handed out by itself, and the checkpoint that commits to its leaf is signed.
        wrapped = wrap(payload, PAYLOAD_TYPE)
        return Entry("intent", x.receipt_id, documents.leaf_of("intent", wrapped.pae_sha256), self._pack(wrapped))

    def receipt(self, x: Exchange, end: Ending) -> tuple[asyncio.Future[Committed], Entry, Sealed]:
        """The one receipt of `x`: a future that resolves once it is durable, with its proof; the entry; the receipt."""
        entry, sealed = self._receipt(x, end, self._log)
        return self._append(entry), entry, sealed

    def receipt_later(self, x: Exchange, end: Ending, error: VerirouteError | None) -> Sealed | None:
        """The receipt of `x`, marked, kept until the log takes it; None when there is no room.

        Without an `error` it has to wait for its intent, which is kept already.
        """
        entry, sealed = self._receipt(x, end, self._log_later)
        return sealed if self._keep(entry, error, due=x.sent) else None

    def entry(self, x: Exchange, end: Ending) -> tuple[Entry, Sealed]:
        """The receipt of `x`, for `append` in its time."""
        return self._receipt(x, end, self._log)

    def append(self, entry: Entry) -> asyncio.Future[Committed]:
        return self._append(entry)

    def keep(self, entry: Entry, error: VerirouteError | None) -> bool:
        """Keep an entry for the log, which failed with `error` if that is given; False when there is no room."""
        return self._keep(entry, error, due=True)

    def _keep(self, entry: Entry, error: VerirouteError | None, *, due: bool) -> bool:
        size = len(entry.document) + len(entry.evidence or b"")
        if entry.opening is not None:
            size += len(entry.opening.request or b"") + len(entry.opening.response or b"")
        if error is not None:
            self.backlog.failed(error)
        return self.backlog.keep(lambda: self._append(entry), size, due=due, intent=entry.kind == "intent")

    def _receipt(self, x: Exchange, end: Ending, log: LogRef) -> tuple[Entry, Sealed]:
        head = x.head
        sent = x.sent
        predicate = Receipt(
            receipt_id=x.receipt_id,
            nonce=x.nonce,
            verifier=x.policy.verifier,
            time_created=instant(self._now_ms()),
            request=RequestPart(
                x.request_digest,
                head.endpoint,
                head.model,
                head.stream,
                _forwarded(x) if sent and not x.asked_through else None,
            ),
            caller=Caller(x.key_id, x.client_request_id),
            served=_served(x),
            route=_route(x),
            verdict=end.verdict,
            release=end.release,
            reason=end.reason,
            delivery=Delivery(
                form=end.form,  # type: ignore[arg-type]
                mode=x.mode,  # type: ignore[arg-type]
                bytes=x.sent_bytes,
                sent_digest=Sha256(x.sent_hash.hexdigest()) if x.sent_hash is not None and x.sent_bytes else None,
                uncovered=_names(x.uncovered),
                dropped=_names(x.dropped_members),
            ),
            stored=x.policy.store,  # type: ignore[arg-type]
            parent=x.parent,
            proofs=x.proofs,
            audit=x.audit,
            checks=end.checks,  # type: ignore[arg-type]
            claims=end.claims,  # type: ignore[arg-type]
            evidence=_evidence(end),
            timings=self._timings(x),
            usage=_usage(end),
            payment=x.payment,
            log=log,
        )
        payload = documents.encode_receipt(_subjects(x, end), predicate)
        leaf, sealed = self._sign("receipt", payload)
        row = _row(x, end, milliseconds(self._mono() - x.t0))
        opening = None
        if x.policy.store != "none":
            full = x.policy.store == "full"
            opening = Opening(x.receipt_id, x.seed, x.body if full else None, end.body if full else None)
        evidence = self._packer.pack_evidence(end.evidence) if end.evidence else None
        entry = Entry("receipt", x.receipt_id, leaf, self._pack(sealed), row, opening, True, evidence)
        return entry, sealed

    def crashed(self, envelope: bytes) -> asyncio.Future[Committed]:
        """The receipt of an intent that a crash left open: a prompt may have left, and nobody knows the end."""
        intent = _intents.decode(parse_envelope(envelope, unsigned=True).payload).predicate
        now = self._now_ms()
        predicate = Receipt(
            receipt_id=intent.receipt_id,
            nonce=intent.nonce,
            verifier=intent.verifier,
            time_created=instant(now),
            request=intent.request,
            caller=intent.caller,
            route=Route("primary", 1, 1),
            verdict=Outcome.NONE,
            release=Release.ABANDONED,
            reason="crash",
            delivery=Delivery(form="none", mode="buffer", bytes=0, uncovered=(), dropped=()),
            stored="none",
            parent=intent.parent,
            checks=(),
            claims=(),
            evidence=(),
            timings=Timings(intent.time_created),
            log=self._log,
        )
        subject = Subject(REQUEST_BODY, intent.request.digest, _ANNOTATE[FORM_BYTES])
        leaf, sealed = self._sign("receipt", documents.encode_receipt((subject,), predicate))
        row = ReceiptRow(
            id=intent.receipt_id,
            key_id=intent.caller.key_id,
            client_request_id=intent.caller.client_request_id,
            created_ms=millis(intent.time_created),
            verdict="none",
            release="abandoned",
            reason="crash",
            policy=intent.verifier.policies[0].name,
            network=intent.destination.network,
            node=intent.destination.node,
            model=intent.request.model,
            endpoint=intent.request.endpoint,
            stream=intent.request.stream,
            status=0,
            latency_ms=0.0,
        )
        return self._append(Entry("receipt", intent.receipt_id, leaf, self._pack(sealed), row))

    def event(self, kind: str, event_id: str, predicate: Mapping[str, object]) -> asyncio.Future[Committed]:
        """A log entry of any other kind: start, stop, key, policy, config, export, alarm."""
        leaf, sealed = self._sign(kind, documents.event_statement(kind, None, predicate))
        return self._append(Entry(kind, event_id, leaf, self._pack(sealed)))

    def _sign(self, kind: str, payload: bytes) -> tuple[bytes, Sealed]:
        sealed = seal(payload, PAYLOAD_TYPE, self._signer)
        return documents.leaf_of(kind, sealed.pae_sha256), sealed

    def _timings(self, x: Exchange) -> Timings:
        return Timings(x.received, _ms(x.t0, x.t_first), _ms(x.t0, x.t_done), x.verify_ms)


class _Destination(msgspec.Struct, frozen=True):
    network: str
    node: str
    session: str


class _IntentPredicate(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    receipt_id: str
    nonce: str
    time_created: str
    request: RequestPart
    caller: Caller
    verifier: Verifier
    destination: _Destination
    log: LogRef
    parent: str | None = None


class _Intent(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    type_: str = msgspec.field(default="https://in-toto.io/Statement/v1", name="_type")
    subject: tuple[Subject, ...]
    predicate_type: str = "urn:veriroute:intent:v1"
    predicate: _IntentPredicate


_intents = msgspec.json.Decoder(_Intent)


def _served(x: Exchange) -> Served | None:
    if x.node is None or x.session is None:
        return None
    return Served(
        network=x.node.network,
        node=x.node.id,
        operator=x.node.operator,
        model=x.head.model,
        session=x.session.id,
        keyset_digest=x.session.keyset_digest,
        evidence_digest="sha256:" + x.session.evidence_digest,
    )


def _route(x: Exchange) -> Route:
    first = x.attempts <= 1 or x.asked_through
    return Route(
        "refused" if x.node is None and not x.asked_through else ("primary" if first else "fallback"),
        x.attempts,
        x.candidates,
        tuple(x.rejected),
    )


def _row(x: Exchange, end: Ending, latency_ms: float) -> ReceiptRow:
    return ReceiptRow(
        id=x.receipt_id,
        key_id=x.key_id,
        client_request_id=x.client_request_id,
        created_ms=x.received_ms,
        verdict=end.verdict._value_,
        release=end.release._value_,
        reason=end.reason,
        policy=x.policy.name,
        network=x.node.network if x.node else None,
        node=x.node.id if x.node else None,
        model=x.head.model,
        endpoint=x.head.endpoint,
        stream=x.head.stream,
        status=end.status,
        latency_ms=latency_ms,
    )


def _forwarded(x: Exchange) -> Forwarded:
    if x.forwarded is x.body:
        return Forwarded(x.request_digest, True, _names(x.unsupported))
    digest = Sha256(documents.salted(x.salt(REQUEST_FORWARDED), x.forwarded))
    return Forwarded(digest, False, _names(x.unsupported), x.added)


# A receipt is read by its types and up to a length: what a node, or a request, says must not make it unreadable.


def _usage(end: Ending) -> Usage | None:
    given, made = end.input_tokens, end.output_tokens
    if given is None or made is None or not (0 <= given <= MAX_INTEGER and 0 <= made <= MAX_INTEGER):
        return None
    return Usage(given, made, end.covered)


def _names(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple([name[:MAX_NAME] for name in names[:MAX_NAMES]]) if names else names


def _subjects(x: Exchange, end: Ending) -> list[Subject]:
    subjects = [Subject(REQUEST_BODY, x.request_digest, _ANNOTATE[FORM_BYTES])]
    if end.body_sha256 is not None:
        subjects.append(Subject(RESPONSE_BODY, Sha256(end.body_sha256), _ANNOTATE[FORM_SSE]))
    elif end.body is not None:
        subjects.append(_subject(x, RESPONSE_BODY, end.body, FORM_BYTES))
    if end.content is not None:
        subjects.append(_subject(x, RESPONSE_CONTENT, end.content.text.encode("utf-8", "surrogatepass"), FORM_UTF8))
        if end.content.toolcalls:
            subjects.append(_subject(x, RESPONSE_TOOLCALLS, end.content.toolcalls, FORM_TOOLCALLS))
    return subjects


def _subject(x: Exchange, name: str, data: bytes, form: str) -> Subject:
    return Subject(name, Sha256(documents.salted(x.salt(name), data)), _ANNOTATE[form])


def _evidence(end: Ending) -> tuple[EvidenceRef, ...]:
    if end.evidence is None or end.evidence_form is None:
        return ()
    digest = hashlib.sha256(end.evidence).hexdigest()
    return (EvidenceRef(end.evidence_form.name, end.evidence_form.media_type, Sha256(digest)),)


def _ms(start: float, end: float | None) -> float | None:
    return None if end is None else milliseconds(end - start)


def milliseconds(seconds: float) -> float:
    """`seconds`, at least 0, in milliseconds to three places; `round` takes twice as long."""
    return int(seconds * 1_000_000) / 1000
