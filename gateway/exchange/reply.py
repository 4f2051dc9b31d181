"""What one complete answer comes to: what was seen in it, what the receipt commits to, and the evidence with it.

A network's *response rule* (`gateway.exchange.rules`) reads answers and gives back a `Reply`; the relay asks it to
appraise itself against what was sent, and never looks at the evidence. Answers in one piece come as `Read`, with the
bytes that may leave; of a stream the pieces have come before, and `Reader.reply` is asked at its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from gateway.model.node import AttestedSession
from gateway.model.observation import Observation
from gateway.model.receipt import EvidenceForm
from gateway.model.verdict import AttestationResult

from .answer import Content, without
from .head import Head
from .stream import Piece, Wire

#: Whether the evidence of an answer names the keyset of a session, and one of its keys signed it.
SignedUnder = Callable[[AttestedSession], bool]


class Question(msgspec.Struct, frozen=True):
    """What an answer is held against: the request as it was sent. `sha256` is the hex digest of `body`.

    `label`: content that no signature covers may leave, named as such; otherwise it is kept back. `received_s`: when
    the request came, in Unix seconds, for answers that name no time.
    """

    head: Head
    body: bytes
    sha256: str
    nonce: str
    label: bool = False
    received_s: int = 0


class LeftOut(msgspec.Struct, frozen=True):
    """What a network would not do of a request as it is written: members that it drops or changes, by name; and what
    it fills in where the API has another default, as `name=value`."""

    dropped: tuple[str, ...] = ()
    defaulted: tuple[str, ...] = ()


class Reply(Protocol):
    """One complete answer. `record` is its evidence as it is kept beside the receipt, None when there was none;
    `signs_body` says whether such evidence signs every byte of the answer, those of `usage` too."""

    @property
    def observation(self) -> Observation: ...
    @property
    def content(self) -> Content: ...
    @property
    def record(self) -> bytes | None: ...
    @property
    def form(self) -> EvidenceForm: ...
    @property
    def signs_body(self) -> bool: ...

    def statement(self) -> bytes | None:
        """What was signed, and by whom, for the journal of replays; None when there is nothing, or our nonce in it."""
        ...

    def dated(self) -> int | None:
        """The second in which the statement says that it was made; None where it says none, or its nonce does."""
        ...

    def signed_under(self) -> SignedUnder | None:
        """What to ask of sessions to come, where the evidence names a keyset; it keeps nothing of the answer alive."""
        ...

    def appraise(
        self, session: AttestedSession, asked: Question, *, now: float, skew_s: float, seen_before: bool
    ) -> AttestationResult:
        """Every check of an answer, each listed once. Total."""
        ...


class Read(msgspec.Struct, frozen=True):
    """An answer in one piece: the reply, and the bytes that may leave after the verdict.

    `verbatim` says that they are the node's own. `dropped` names members that were kept back, `uncovered` those that
    are in `body` although no evidence covers them.
    """

    reply: Reply
    body: bytes
    verbatim: bool = True
    dropped: tuple[str, ...] = ()
    uncovered: tuple[str, ...] = ()

    @classmethod
    def of(cls, reply: Reply, body: bytes, foreign: tuple[str, ...]) -> Read:
        """`body` as it was read: without its members `foreign`, else in its own bytes.

        Of one that could not be read no byte leaves, whatever policy lets go: an empty object stands in its place.
        """
        if reply.observation.malformed is not None:
            return cls(reply, b"{}", verbatim=False)
        if foreign:
            return cls(reply, without(body, foreign), verbatim=False, dropped=foreign)
        return cls(reply, body)


class Reader(Protocol):
    """Follows one stream (`gateway.exchange.stream.StreamReader` is the usual one)."""

    rebuilt: bool

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that `data` completes. Raises `UpstreamError`; `FormatError` when an event is over the limit."""
        ...

    def finish(self) -> str | None:
        """At the end of the body: what is missing when the stream was cut, None when it was complete."""
        ...

    @property
    def data_sha256(self) -> str: ...
    @property
    def dropped_members(self) -> tuple[str, ...]: ...
    @property
    def uncovered(self) -> tuple[str, ...]: ...

    def reply(self) -> Reply: ...


class ResponseRule(Protocol):
    """How the answers of a network are read."""

    def whole(self, asked: Question, receipt: bytes | None, problem: str | None, body: bytes) -> Read:
        """An answer in one piece. `receipt` and `problem` are what the adapter found outside of the body. Total."""
        ...

    def reader(self, asked: Question, wire: Wire, body_salt: bytes, *, max_event: int) -> Reader: ...

    def left_out(self, asked: Question) -> LeftOut:
        """What of the request the network would not do."""
        ...
