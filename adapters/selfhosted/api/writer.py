"""What the writers of all APIs share: the identity of an answer, and collecting events into whole choices."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from adapters.selfhosted.lm.engine import CallOpen, CallPart, Done, Event, Job, Text, Usage
from adapters.selfhosted.lm.generate import Token

encode = msgspec.json.Encoder().encode


@dataclass
class Call:
    id: str
    name: str
    arguments: str = ""


@dataclass
class Choice:
    """One choice as it stands so far."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    reason: str = "stop"
    stopped_by: str | None = None


class Answer:
    """All of an answer, gathered from its events."""

    def __init__(self, prefix: str, label: str, n: int = 1) -> None:
        self.id = f"{prefix}{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.model = label
        self.choices = [Choice() for _ in range(n)]
        self.usage = Usage(0, 0)

    def take(self, event: Event) -> None:
        match event:
            case Text(choice, piece):
                self.choices[choice].text += piece.text
                self.choices[choice].tokens += piece.tokens
            case CallOpen(choice, _, call_id, name):
                self.choices[choice].calls.append(Call(call_id, name))
            case CallPart(choice, number, text):
                self.choices[choice].calls[number].arguments += text
            case Done(choice, reason, stopped_by):
                self.choices[choice].reason = reason
                self.choices[choice].stopped_by = stopped_by
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


def data_event(value: Any) -> bytes:
    return b"data: " + encode(value) + b"\n\n"


def named_event(name: str, value: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + encode(value) + b"\n\n"
