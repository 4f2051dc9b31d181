"""What we add to an answer: the `verification` member, the last chunk of a stream, error bodies and events.

Everything else that leaves is the node's bytes, or was re-written from what was parsed and is named so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.model.receipt import AuditPart, PaymentPart, ProofPart
from gateway.model.verdict import Check, Claim

from .sse import format_event


class VerificationPolicy(msgspec.Struct, frozen=True):
    name: str
    digest: str


class Verification(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The `verification` member (DESIGN section 5). `proof` is a C2SP tlog-proof; `openings` hold base64 salts."""

    verdict: str
    level: str
    policy: VerificationPolicy
    network: str | None = None
    node: str | None = None
    model: str | None = None
    executed_in: str = "unknown"
    release: str
    reason: str | None = None
    claims: dict[str, str] | msgspec.Raw = {}
    checks: tuple[Check, ...] | msgspec.Raw | None = None
    receipt: str
    index: int | None = None
    proof: str | None = None
    openings: dict[str, str] | None = None
    uncovered: tuple[str, ...] = ()
    dropped_params: tuple[str, ...] = ()
    payment: PaymentPart | None = None
    added_params: tuple[str, ...] = ()
    proofs: tuple[ProofPart, ...] = ()
    audit: AuditPart | None = None
    envelope: msgspec.Raw | None = None


_encode = msgspec.json.Encoder().encode

#: Endpoints whose events have no type, and what their chunks call themselves.
_CHUNKS = {"/v1/chat/completions": "chat.completion.chunk", "/v1/completions": "text_completion"}


def claims_map(claims: tuple[Claim, ...]) -> dict[str, str]:
    return {c.name: c.status for c in claims}


def executed_in(claims: Mapping[str, str]) -> str:
    """The claim `executed_in_tee` in words; a TEE that refutes it of itself is one that passes the request on."""
    stated = claims.get("executed_in_tee", "")
    if stated == "refuted" and claims.get("tee_attested") == "asserted":
        return "provider behind a tee"
    return {"asserted": "tee", "refuted": "ordinary machine"}.get(stated, "unknown")


def splice(body: bytes, verification: Verification) -> bytes:
    """`body`, one JSON object in its own bytes or an event that ends in one, with `verification` as its last member."""
    end = body.rfind(b"}")
    # An object without members takes no comma. The body was read strictly, so what is before `}` decides.
    before = body[:end]
    member = b'"verification":' if before.rstrip().endswith(b"{") else b',"verification":'
    return b"".join((before, member, _encode(verification), body[end:]))


def stream_end(endpoint: str, answer_id: str | None, model: str, verification: Verification, end: bytes) -> bytes:
    """The end of a stream of `endpoint` with the verification; `end` is the API's terminator, one event.

    In a chunk of its own before `[DONE]`. Of an API whose events have types, the last member of the last one's data:
    clients may refuse a type that they do not know, as the OpenAI and Vercel SDKs for JavaScript do.
    """
    if endpoint in _CHUNKS:
        chunk = {
            "id": answer_id or "",
            "object": _CHUNKS[endpoint],
            "created": 0,
            "model": model,
            "choices": [],
            "verification": verification,
        }
        return format_event(_encode(chunk)) + end
    return splice(end, verification)  # its data stands last in it, and was read strictly as an object


def error_event(endpoint: str, error: dict[str, Any], sent: int) -> bytes:
    """The terminal error event of a stream of which `sent` bytes have left. `error` is the OpenAI-shaped error object.

    The events of /v1/responses are numbered, and clients refuse one without a number. Nobody counts them on their way,
    so this one's is the bytes before it: behind every number that they have.
    """
    if endpoint in _CHUNKS:
        return format_event(_encode({"error": error}))
    if endpoint == "/v1/responses":
        return format_event(_encode({**error, "type": "error", "sequence_number": sent, "error": error}), b"error")
    return format_event(_encode({**error, "type": "error", "error": error}), b"error")
