"""The response rule `none`: answers of a node that signs nothing, in the API's own form.

They are read as strictly as any: form, grammar, model and executable members are judged, a member that only we may set
is taken off, and a tool call stands in bytes that no evidence covers. What only a signature could settle is `none` with
the reason `no_signature`, so no answer is affirming by this rule alone.
"""

from __future__ import annotations

import hashlib

from gateway.model.node import AttestedSession
from gateway.model.observation import Observation
from gateway.model.receipt import EvidenceForm
from gateway.model.verdict import AttestationResult
from gateway.verify.no_evidence import NO_SIGNATURE
from gateway.verify.response import Exchanged, appraise_response

from .answer import Content, read_answer
from .reply import LeftOut, Question, Read
from .stream import StreamReader, Wire

NOTHING = LeftOut()
FORM = EvidenceForm("none", "application/octet-stream")
#: A receipt's event and a chain's comment that no stream can hold: the lines of a stream have no line feed in them.
NO_WIRE = Wire(receipt_event=b"\n", chain_comment=b"\n")


class BareReply:
    """An answer with nothing beside it."""

    __slots__ = ("_sha256", "content", "observation")
    form = FORM
    signs_body = False
    record = None

    def __init__(self, observation: Observation, content: Content, sha256: str) -> None:
        self.observation = observation
        self.content = content
        self._sha256 = sha256

    def statement(self) -> bytes | None:
        return None  # nobody stated anything: two equal answers are two answers

    def dated(self) -> int | None:
        return None

    def signed_under(self) -> None:
        return None

    def appraise(
        self, session: AttestedSession, asked: Question, *, now: float, skew_s: float, seen_before: bool
    ) -> AttestationResult:
        head = asked.head
        aliases = tuple([name for model, name in session.aliases if model == head.model])
        exchanged = Exchanged(asked.sha256, self._sha256, None, head.model, head.endpoint, seen_before, aliases)
        return appraise_response(session, None, NO_SIGNATURE, exchanged, self.observation, now=now, skew_s=skew_s)


class BareStream(StreamReader):
    """A stream that ends with its terminator, and with nothing behind it."""

    def reply(self) -> BareReply:
        return BareReply(self.observation(), self.content(), self.covered_sha256)


class NoEvidenceRule:
    """`gateway.exchange.reply.ResponseRule`."""

    def whole(self, asked: Question, receipt: bytes | None, problem: str | None, body: bytes) -> Read:
        observation, content, foreign = read_answer(asked.head, body)
        reply = BareReply(observation, content, hashlib.sha256(body).hexdigest())
        return Read.of(reply, body, foreign)

    def reader(self, asked: Question, wire: Wire, body_salt: bytes, *, max_event: int) -> BareStream:
        return BareStream(asked.head, NO_WIRE, body_salt, max_event=max_event)

    def left_out(self, asked: Question) -> LeftOut:
        return NOTHING  # the server gets the caller's bytes; what it makes of them it does not say
