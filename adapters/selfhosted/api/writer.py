"""What the writers of all APIs share: the identity of an answer, and collecting events into whole choices."""

from __future__ import annotations

import base64
import secrets
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from adapters.selfhosted.lm.engine import CallOpen, CallPart, Committed, Done, Event, Job, Read, Text, Usage
from adapters.selfhosted.lm.generate import Token
from adapters.selfhosted.lm.score import Place
from adapters.selfhosted.lm.tokenizer import Tokenizer
from adapters.selfhosted.lm.toploc import BATCH, TOP_K

encode = msgspec.json.Encoder().encode


@dataclass
class Call:
    id: str
    name: str
    arguments: str = ""


@dataclass
class Choice:
    """One choice as it stands so far. `ids` stays None for an answer that was not made token by token."""

    text: str = ""
    ids: list[int] | None = None
    tokens: list[Token] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    reason: str = "stop"
    stopped_by: str | None = None
    proofs: tuple[bytes, ...] | None = None


class Answer:
    """All of an answer, gathered from its events."""

    def __init__(self, prefix: str, label: str, n: int = 1) -> None:
        self.id = f"{prefix}{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.model = label
        self.choices = [Choice() for _ in range(n)]
        self.usage = Usage(0, 0)
        self.read = Read(())

    def take(self, event: Event) -> None:
        match event:
            case Read():
                self.read = event
            case Text(choice, piece):
                if piece.ids is not None:
                    self.choices[choice].ids = [*(self.choices[choice].ids or ()), *piece.ids]
                self.choices[choice].text += piece.text
                self.choices[choice].tokens += piece.tokens
            case CallOpen(choice, _, call_id, name):
                self.choices[choice].calls.append(Call(call_id, name))
            case CallPart(choice, number, text):
                self.choices[choice].calls[number].arguments += text
            case Done(choice, reason, stopped_by):
                self.choices[choice].reason = reason
                self.choices[choice].stopped_by = stopped_by
            case Committed(choice, proofs):
                self.choices[choice].proofs = proofs
            case Usage():
                self.usage = event


class Writer(Protocol):
    """Turns engine events into an API's bytes. `whole` is the JSON body after the last event; the three others make
    the event stream: before the first event, for each event, after the last."""

    answer: Answer

    def whole(self) -> bytes: ...
    def opening(self) -> list[bytes]: ...
    def step(self, event: Event) -> list[bytes]: ...
    def closing(self) -> list[bytes]: ...


@dataclass(frozen=True)
class Prepared:
    job: Job
    stream: bool
    writer: Writer


def toploc(answer: Answer) -> dict[str, Any]:
    """The member `toploc` of an answer of one choice. `proofs` is null for one that was not made token by token."""
    proofs = answer.choices[0].proofs
    said = None if proofs is None else [base64.b64encode(proof).decode() for proof in proofs]
    return {"toploc": {"topk": TOP_K, "batch_tokens": BATCH, "prefill": True, "proofs": said}}


def prompt_logprobs(answer: Answer, tokenizer: Tokenizer, count: int) -> list[dict[str, Any] | None]:
    """vLLM's form: null for the first token, then for each the given token and the `count` likeliest, by number."""
    return [None if place is None else _place(place, tokenizer, count) for place in answer.read.places]


def _place(place: Place, tokenizer: Tokenizer, count: int) -> dict[str, Any]:
    told = {place.token: (place.logprob, place.rank)}
    told |= {token: (logprob, rank) for rank, (token, logprob) in enumerate(place.top[:count], 1)}
    return {
        str(token): {
            "logprob": logprob,
            "rank": rank,
            "decoded_token": tokenizer.shown(token).decode("utf-8", "replace"),
        }
        for token, (logprob, rank) in told.items()
    }


def data_event(value: Any) -> bytes:
    return b"data: " + encode(value) + b"\n\n"


def named_event(name: str, value: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + encode(value) + b"\n\n"
