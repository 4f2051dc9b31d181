"""The receipt: an in-toto Statement v1 about one exchange, as values.

What stands here is the shape; `gateway.log.receipt` makes and reads the bytes. A receipt is written once with
`msgspec.json.Encoder`, signed as written and never re-serialised, so the order of the fields below is the order on the
wire. Members are camelCase there. Members that may be absent have `None` as default and are then left out.

    {"_type": "https://in-toto.io/Statement/v1",
     "subject": [{"name": "response.body", "digest": {"sha256": "<64 hex>"}, "annotations": {"form": "salt32||bytes"}}],
     "predicateType": "urn:veriroute:inference-receipt:v1",
     "predicate": {"receiptId": "<ULID>", …, "verdict": "affirming", "release": "released", "checks": […], …}}

Integers stay at or below 2^53, because some readers pass them through a double. Times are RFC 3339 UTC with
milliseconds. Constraints in the annotations hold for what is decoded; the writer is trusted with its own values.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec

from gateway.errors import FormatError

from .verdict import Check, Claim, Outcome, Release

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
RECEIPT_TYPE = "urn:veriroute:inference-receipt:v1"
MAX_INTEGER = 2**53

#: What a subject's digest runs over, always behind the 32-byte salt (annotation `form`).
FORM_BYTES = "salt32||bytes"  # the body as received, after content-decoding
FORM_SSE = "salt32||sse-data-lf"  # for every event the UTF-8 of its `data` and a line feed, `[DONE]` left out
FORM_UTF8 = "salt32||utf8"  # text, as UTF-8
FORM_TOOLCALLS = "salt32||name-nul-arguments-lf"  # `name 00 arguments 0A` for each tool call, in order

#: Names of subjects (annotation-independent, closed list).
REQUEST_BODY = "request.body"
REQUEST_FORWARDED = "request.forwarded"  # the salt of `forwarded.digest`, where that is of other bytes
RESPONSE_BODY = "response.body"
RESPONSE_CONTENT = "response.content"
RESPONSE_TOOLCALLS = "response.toolcalls"

#: The form of a stable code: no room for a sentence of somebody else's.
CODE = r"\A[a-z][a-z0-9_]{0,63}\Z"

Hex256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
UlidText = Annotated[str, msgspec.Meta(pattern=r"\A[0-7][0-9A-HJKMNP-TV-Z]{25}\Z")]
Instant = Annotated[str, msgspec.Meta(pattern=r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z")]
Nonce = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9+/]{21}[AQgw]==\Z")]  # base64 of 16 bytes, one form only
Code = Annotated[str, msgspec.Meta(pattern=CODE)]
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]
Millis = Annotated[float, msgspec.Meta(ge=0, le=MAX_INTEGER)]


class Sha256(msgspec.Struct, frozen=True):
    """`{"sha256": "<64 lower-case hex digits>"}`, the DigestSet that in-toto matches by."""

    sha256: Hex256


class Annotations(msgspec.Struct, frozen=True):
    """What the digest runs over: one of the `FORM_…` values (an unknown one is kept, not refused)."""

    form: str


class Subject(msgspec.Struct, frozen=True, omit_defaults=True):
    """One committed artifact: its name, and SHA-256 of `salt32 || data`."""

    name: str
    digest: Sha256
    annotations: Annotations | None = None


class PolicyRef(msgspec.Struct, frozen=True):
    """The policy in force: `uri` is `veriroute:policy/<name>@<version>`, `digest` over the file's bytes."""

    name: str
    uri: str
    digest: Sha256


class Verifier(msgspec.Struct, frozen=True):
    """Who appraised (`urn:veriroute:verifier:<version>`) and under which policies, as in the SVR predicate."""

    id: str
    policies: tuple[PolicyRef, ...]


class Forwarded(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was sent to the node: salted digest, and whether it is the caller's body byte for byte.

    `unsupported` names its members that the network drops or changes; `added` those that were put behind the caller's
    own because a proof needs them, as `name=value`.
    """

    digest: Sha256
    verbatim: bool
    unsupported: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


class RequestPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """The request: salted digest of its body, where it was sent, what it asked for."""

    digest: Sha256
    endpoint: str
    model: str
    stream: bool
    forwarded: Forwarded | None = None


class Caller(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Whose key it was (never the key itself), and the caller's own request id."""

    key_id: str
    client_request_id: str | None = None


class Served(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """The node that answered. `session` is the attested session's id; both digests are `sha256:<hex>`."""

    network: str
    node: str
    operator: str | None = None
    model: str
    session: str
    keyset_digest: str
    evidence_digest: str


class Rejected(msgspec.Struct, frozen=True, omit_defaults=True):
    """A candidate that was not used, and the stable reason; where more is known, what is behind that.

    `cause` is for `tee_rules` the reason of the rule of the policy's section [tee] that is not met.
    """

    node: str
    reason: str
    cause: Code | None = None


class Route(msgspec.Struct, frozen=True):
    """How the node was found: `attempt` counts from 1, `candidates` is how many were considered."""

    decision: Literal["primary", "fallback", "refused"]
    attempt: Count
    candidates: Count
    rejected: tuple[Rejected, ...] = ()


class Delivery(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """What left for the caller: `bytes` bytes of the answer in `form`, released in `mode`; what is ours is not counted.

    `sent_digest`, of a stream, is the digest of exactly those bytes under the salt `delivery`. `uncovered` names
    members that left although no evidence covers them; `dropped` those that were kept back.
    """

    form: Literal["verbatim", "rebuilt", "none"]
    mode: Literal["buffer", "window", "optimistic", "chained"]
    bytes: Count
    sent_digest: Sha256 | None = None
    uncovered: tuple[str, ...]
    dropped: tuple[str, ...]


class EvidenceForm(msgspec.Struct, frozen=True):
    """What an answer's evidence is called in a receipt, and its media type."""

    name: str
    media_type: str


class EvidenceRef(msgspec.Struct, frozen=True, rename="camel"):
    """Archived evidence, by digest (not salted: it is the node's public statement)."""

    name: str
    media_type: str
    digest: Sha256


class PaymentPart(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What was paid for the answer: evidence of a payment, never of what was bought. `id` is the ledger's.

    `amount` is in atomic units of `asset` on `network` (CAIP-2); `tx` and `receipt` are the payee's word.
    """

    id: str
    network: str
    asset: str
    amount: str
    pay_to: str
    tx: str | None = None
    receipt: Literal["absent", "valid", "invalid", "unchecked"] = "absent"


class ProofAnswer(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One node's answer in a quorum: `outcome` is `agrees` or why it is none of those that do.

    `receipt` is that of the exchange in which the node was asked, which commits to its bytes by `digest`, salted.
    """

    node: str
    outcome: str
    operator: str | None = None
    receipt: UlidText | None = None
    digest: Sha256 | None = None


class ProofPart(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One proof, or piece of statistical evidence, that was gathered for the answer (docs/proofs.md).

    `statistic` was held against `threshold`, over `tokens` tokens. `artefacts` are what the verdict rests on beside the
    answer; each digest is SHA-256 of the receipt's salt `proof` and the artefact's own SHA-256.
    """

    kind: str
    assurance: Literal["cryptographic", "statistical", "economic"]
    verdict: Literal["pass", "fail", "inconclusive", "absent"]
    reason: str | None = None
    statistic: float | None = None
    threshold: float | None = None
    tokens: Count | None = None
    reference_id: str | None = None
    calibration_id: str | None = None
    ms: Count | None = None
    culprits: tuple[str, ...] = ()
    answers: tuple[ProofAnswer, ...] = ()
    artefacts: tuple[Subject, ...] = ()


class AuditPart(msgspec.Struct, frozen=True):
    """Under which epoch of sampled audits the answer falls. Whether it is audited, the epoch's seed will tell."""

    epoch: UlidText
    kind: str
    rate: str


class Timings(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """When the request was received, and how long until each later point, in milliseconds from then.

    `verify_ms` is a duration: what appraisal took.
    """

    received: Instant
    upstream_first_byte_ms: Millis | None = None
    upstream_done_ms: Millis | None = None
    verify_ms: Millis | None = None


class Usage(msgspec.Struct, frozen=True, rename="camel"):
    """Token counts as the node reported them; `covered` says whether what its key signed holds the numbers."""

    input_tokens: Count
    output_tokens: Count
    covered: bool


class LogRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """The log that holds this receipt's leaf. The index is the proof's to say.

    `backfilled`: the log could not be written when this was signed, and took it later; an alarm entry says when.
    """

    origin: str
    backfilled: bool = False


class Receipt(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """The predicate: one accepted request and everything that came of it (docs/receipts.md, field for field).

    `parent`: this exchange asked one node of a quorum for the exchange that is named, whose receipt has the answer.
    `audit`: the epoch of sampled audits that the answer falls under.
    `stored` is what was kept beside the receipt when it was written: nothing, the seed of the salts, or the payloads as
    well. With it, an opening that was deleted without an erasure entry cannot pass for one that was never kept.
    """

    receipt_id: UlidText
    nonce: Nonce
    verifier: Verifier
    time_created: Instant
    request: RequestPart
    caller: Caller
    served: Served | None = None
    route: Route
    verdict: Outcome
    release: Release
    reason: str | None = None
    delivery: Delivery
    stored: Literal["none", "salted", "full"] | None = None
    parent: UlidText | None = None
    proofs: tuple[ProofPart, ...] = ()
    audit: AuditPart | None = None
    checks: tuple[Check, ...]
    claims: tuple[Claim, ...]
    evidence: tuple[EvidenceRef, ...]
    timings: Timings
    usage: Usage | None = None
    payment: PaymentPart | None = None
    log: LogRef


class Statement(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The signed document of a receipt. `type_` is `_type` on the wire."""

    type_: str = msgspec.field(default=STATEMENT_TYPE, name="_type")
    subject: tuple[Subject, ...]
    predicate_type: str = RECEIPT_TYPE
    predicate: Receipt


class EventStatement(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The signed document of every other kind of log entry: `urn:veriroute:<kind>:v1`, its predicate left as bytes."""

    type_: str = msgspec.field(default=STATEMENT_TYPE, name="_type")
    subject: tuple[Subject, ...]
    predicate_type: str
    predicate: msgspec.Raw

    def fields(self) -> dict[str, Any]:
        """The predicate as a plain dict, for display; what it must hold is said by its kind."""
        return msgspec.json.decode(self.predicate, type=dict[str, Any])


def instant(ms: int) -> str:
    """RFC 3339 in UTC with milliseconds, for `ms` since the epoch: `2026-11-20T23:21:05.123Z`."""
    seconds, millis = divmod(ms, 1000)
    return f"{_to_the_second(seconds)}.{str(1000 + millis)[1:]}Z"


@lru_cache(maxsize=8)  # receipts come many to the second, and the calendar costs more than the rest
def _to_the_second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


def millis(text: str) -> int:
    """The inverse of `instant`, for text that has its form; FormatError for a day or hour that does not exist."""
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise FormatError(f"{text!r} is not a time of the form 2026-11-20T23:21:05.123Z") from error
    return (moment - _EPOCH) // timedelta(milliseconds=1)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
