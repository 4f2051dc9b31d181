"""The response rule `opengradient-statement`: one statement an answer, in its body, signed by the enclave's key.

None of the node's bytes go on: what leaves is written anew from what was read (`opengradient`), with the id, object and
time that the node leaves out. The statement covers the canonical request and the output, and no nonce of ours.
"""

from __future__ import annotations

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError
from gateway.model.node import AttestedSession
from gateway.model.observation import Observation
from gateway.model.receipt import EvidenceForm
from gateway.model.verdict import AttestationResult
from gateway.verify.opengradient.answer import SignedAnswer
from gateway.verify.opengradient.record import evidence_record
from gateway.verify.opengradient.response import appraise_opengradient, window
from gateway.verify.opengradient.statement import Statement, replay_key

from .answer import Content
from .opengradient import OpenGradientReader, read_opengradient
from .opengradient_members import Uncovered
from .opengradient_request import left_out
from .reply import LeftOut, Question, Read
from .stream import Wire

FORM = EvidenceForm("opengradient-statement", "application/vnd.opengradient.statement+json")


class OpenGradientReply:
    """An answer, and the statement that is held against it."""

    __slots__ = ("_answer", "_document", "_problem", "_statement", "content", "observation", "record")
    form = FORM
    signs_body = False  # the output alone is hashed

    def __init__(
        self,
        asked: Question,
        observation: Observation,
        content: Content,
        statement: Statement | None,
        problem: str | None,
        answer: SignedAnswer,
    ) -> None:
        self.observation = observation
        self.content = content
        self._statement, self._problem, self._answer = statement, problem, answer
        self._document = _document(asked.body)
        self.record = None if statement is None else evidence_record(statement, answer, self._document)

    def statement(self) -> bytes | None:
        return None if self._statement is None else replay_key(self._statement)

    def dated(self) -> int | None:
        return None if self._statement is None else self._statement.timestamp

    def signed_under(self) -> None:
        return None

    def appraise(
        self, session: AttestedSession, asked: Question, *, now: float, skew_s: float, seen_before: bool
    ) -> AttestationResult:
        max_age_s, max_future_s = window(skew_s)
        return appraise_opengradient(
            session.keys,
            self._statement,
            self._problem,
            self._document,
            self._answer,
            now=now,
            max_age_s=max_age_s,
            max_future_s=max_future_s,
            seen_before=seen_before,
        )


class OpenGradientStream(OpenGradientReader):
    """A stream, written anew as it comes."""

    def __init__(self, asked: Question, body_salt: bytes, *, max_event: int) -> None:
        super().__init__(
            asked.head, body_salt, max_event=max_event, uncovered=_uncovered(asked), created=asked.received_s
        )
        self._asked = asked

    @property
    def dropped_members(self) -> tuple[str, ...]:
        return self.withheld

    def reply(self) -> OpenGradientReply:
        return OpenGradientReply(
            self._asked, self.observation(), self.content(), self.statement, self.receipt_problem,
            _delivered(self.answer(), self.uncovered),
        )  # fmt: skip


class OpenGradientRule:
    """`gateway.exchange.reply.ResponseRule`."""

    def whole(self, asked: Question, receipt: bytes | None, problem: str | None, body: bytes) -> Read:
        whole = read_opengradient(asked.head, body, uncovered=_uncovered(asked), created=asked.received_s)
        answer = _delivered(whole.answer, whole.uncovered)
        reply = OpenGradientReply(asked, whole.observation, whole.content, whole.statement, whole.problem, answer)
        return Read(reply, whole.deliver, verbatim=False, dropped=whole.withheld, uncovered=whole.uncovered)

    def reader(self, asked: Question, wire: Wire, body_salt: bytes, *, max_event: int) -> OpenGradientStream:
        return OpenGradientStream(asked, body_salt, max_event=max_event)

    def left_out(self, asked: Question) -> LeftOut:
        return left_out(asked.head.endpoint, asked.body)


def _delivered(answer: SignedAnswer, uncovered: tuple[str, ...]) -> SignedAnswer:
    """`answer` as the agent gets it, in which no text stands beside the calls where that is not among `uncovered`.

    Models say something before they call a tool, and the network signs the calls alone: it is left out, and no lie.
    """
    if "content" in uncovered:
        return answer
    return msgspec.structs.replace(answer, beside=tuple([name for name in answer.beside if name != "content"]))


def _uncovered(asked: Question) -> Uncovered:
    return "label" if asked.label else "withhold"


def _document(body: bytes) -> object:
    """The request as it was read at the door; None where it has no one reading, and then nothing binds it."""
    try:
        return strict_json(body, max_bytes=len(body), max_depth=256)
    except FormatError:
        return None
