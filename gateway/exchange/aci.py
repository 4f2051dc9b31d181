"""The response rule `aci-receipt`: one signed ACI receipt an answer, over the bytes of request and response.

Of a JSON answer the receipt stands in a header, of a stream behind the terminator (docs/node-profile.md, section 4).
"""

from __future__ import annotations

import functools
import hashlib

from gateway.errors import FormatError
from gateway.model.node import AttestedSession
from gateway.model.observation import Observation
from gateway.model.receipt import EvidenceForm
from gateway.model.verdict import AttestationResult
from gateway.verify.aci import SignedReceipt, decode_inline, parse_receipt
from gateway.verify.response import Exchanged, appraise_response, signed_under

from .answer import Content, read_answer
from .reply import LeftOut, Question, Read, SignedUnder
from .stream import StreamReader, Wire

NOTHING = LeftOut()
FORM = EvidenceForm("aci-receipt", "application/vnd.aci.receipt+json")


class AciReply:
    """An answer, and the receipt that is held against it."""

    __slots__ = ("_problem", "_sealed", "_sha256", "content", "observation", "record")
    form = FORM
    signs_body = True  # every byte of the answer is hashed

    def __init__(
        self, observation: Observation, content: Content, record: bytes | None, problem: str | None, sha256: str
    ) -> None:
        self.observation = observation
        self.content = content
        self.record = record
        self._sha256 = sha256
        self._sealed, self._problem = _opened(record, problem)

    def statement(self) -> bytes | None:
        # With our nonce in it a receipt cannot have been made before; the journal is for those without one.
        if self._sealed is None or self._sealed.receipt.request_nonce is not None:
            return None
        return self._sealed.statement

    def dated(self) -> int | None:
        return None

    def signed_under(self) -> SignedUnder | None:
        return None if self._sealed is None else functools.partial(signed_under, self._sealed)

    def appraise(
        self, session: AttestedSession, asked: Question, *, now: float, skew_s: float, seen_before: bool
    ) -> AttestationResult:
        exchanged = Exchanged(
            asked.sha256, self._sha256, asked.nonce, asked.head.model, asked.head.endpoint, seen_before
        )
        return appraise_response(
            session, self._sealed, self._problem, exchanged, self.observation, now=now, skew_s=skew_s
        )


class AciStream(StreamReader):
    """A stream with its receipt behind the terminator."""

    def reply(self) -> AciReply:
        record, problem = self._evidence()
        return AciReply(self.observation(), self.content(), record, problem, self.covered_sha256)

    def _evidence(self) -> tuple[bytes | None, str | None]:
        if self.receipt_problem is not None:
            return None, self.receipt_problem
        if self.receipt is None:
            return None, "no_receipt"
        try:
            return decode_inline(self.receipt), None
        except FormatError:
            return None, "malformed: the inline receipt is not base64"


class AciRule:
    """`gateway.exchange.reply.ResponseRule`."""

    def whole(self, asked: Question, receipt: bytes | None, problem: str | None, body: bytes) -> Read:
        observation, content, foreign = read_answer(asked.head, body)
        reply = AciReply(observation, content, receipt, problem, hashlib.sha256(body).hexdigest())
        return Read.of(reply, body, foreign)

    def reader(self, asked: Question, wire: Wire, body_salt: bytes, *, max_event: int) -> AciStream:
        return AciStream(asked.head, wire, body_salt, max_event=max_event)

    def left_out(self, asked: Question) -> LeftOut:
        return NOTHING  # the node gets the caller's bytes; what it makes of them is in what it signs


def _opened(receipt: bytes | None, problem: str | None) -> tuple[SignedReceipt | None, str | None]:
    if receipt is None:
        return None, problem or "no_receipt"
    try:
        return parse_receipt(receipt), None
    except FormatError as error:
        return None, f"malformed: {error}"
