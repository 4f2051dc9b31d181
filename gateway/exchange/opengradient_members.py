"""The members of an answer of OpenGradient's nodes that are read, and those that may go on to the agent.

An answer is rebuilt by allow-list. Text, or the tool calls, are signed; of the rest some is of use and goes on named as
uncovered (`usage`, `finish_reason`, …), some only where the operator asked to have it labelled, and everything else
stays here and is named as withheld.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from gateway.model.observation import Call
from gateway.verify.opengradient.canonical import SignedCall
from gateway.verify.opengradient.response import printable
from gateway.verify.opengradient.statement import MEMBERS

#: What becomes of uncovered members that are content: they stay here, or go on and are named.
Uncovered = Literal["withhold", "label"]

MAX_ANSWER = 16 * 1024 * 1024
MAX_DEPTH = 128
MAX_CALLS = 128
#: Names of members that are kept for a person; a hostile answer can have any number.
MAX_NAMES = 16

_TOP = frozenset({*MEMBERS, "id", "object", "created", "model", "choices", "usage", "error"})
_SEARCH_TOP = frozenset({*MEMBERS, "id", "object", "created", "query", "content", "error"})
_CHOICE = frozenset({"index", "message", "delta", "text", "finish_reason"})
_MESSAGE = frozenset({"role", "content", "tool_calls", "function_call"})
#: Content that no signature covers, of use to people: on the message, and on the answer or the last frame.
LABELLED = frozenset({"images", "citations", "opengradient", "moderation"})
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
_DETAILS = ("prompt_tokens_details", "completion_tokens_details")
_LARGEST = 2**53 - 1


class Function(msgspec.Struct):
    name: str | msgspec.UnsetType | None = msgspec.UNSET
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | msgspec.UnsetType | None = msgspec.UNSET
    type: Literal["function"] | None = None
    function: Function | None = None


class Message(msgspec.Struct):
    content: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None


class Choice(msgspec.Struct):
    index: int = 0
    message: Message | None = None
    delta: Message | None = None
    text: str | None = None
    finish_reason: str | None = None


class Frame(msgspec.Struct):
    """An answer, or one frame of a stream. `query` and `content` are a web search's."""

    id: str | None = None
    created: int | None = None
    model: str | None = None
    choices: list[Choice] | None = None
    usage: Any = None
    error: Any = None
    query: str | None = None
    content: str | None = None


class Names:
    """Names of members in the order in which they were met, each once, `MAX_NAMES` at most, fit for a person."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def add(self, name: str) -> None:
        if len(self._names) < MAX_NAMES:
            self._names[printable(name)] = None

    def tuple(self) -> tuple[str, ...]:
        return tuple(self._names)


class Sorted:
    """Sorts what stands beside the signed output: `labelled` may go on, `withheld` and `uncovered` are names."""

    def __init__(self, uncovered: Uncovered) -> None:
        self.label = uncovered == "label"
        self.labelled: dict[str, Any] = {}
        self.withheld = Names()
        self.uncovered = Names()

    def top(self, document: Mapping[str, Any], *, search: bool = False) -> None:
        """The members of an answer or frame itself."""
        self._extra(document, _SEARCH_TOP if search else _TOP)

    def choice(self, choice: Mapping[str, Any]) -> None:
        """The members of choice 0 and of its message or delta."""
        self._extra(choice, _CHOICE)
        for name in ("message", "delta"):
            inner = choice.get(name)
            if isinstance(inner, dict):
                self._extra(inner, _MESSAGE)

    def _extra(self, document: Mapping[str, Any], known: frozenset[str]) -> None:
        if document.keys() <= known:
            return
        for name, value in document.items():
            if name in known or value is None or value in ("", [], {}):
                continue
            if self.label and name in LABELLED:
                self.labelled[name] = value
                self.uncovered.add(name)
            else:
                self.withheld.add(name)


def usage_of(value: object) -> dict[str, Any] | None:
    """The counts of tokens in `usage`, rebuilt; None where there are none. Nobody signs them."""
    if not isinstance(value, dict):
        return None
    found: dict[str, Any] = {name: value[name] for name in _COUNTS if _is_count(value.get(name))}
    for name in _DETAILS:
        inner = value.get(name)
        if isinstance(inner, dict):
            found[name] = {k: v for k, v in inner.items() if _is_count(v) and k.isidentifier() and k.isascii()}
    return found or None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def signed_calls(calls: Iterable[ToolCall]) -> tuple[SignedCall, ...]:
    """`calls` in the terms of the signed output."""
    found = []
    for call in calls:
        function = call.function or Function()
        found.append(SignedCall(call.id, function.name, function.arguments or ""))
    return tuple(found)


def observed(calls: tuple[SignedCall, ...]) -> tuple[Call, ...]:
    return tuple(Call("tool_calls", call.name or "", call.arguments) for call in calls)


def deliverable(calls: tuple[SignedCall, ...]) -> list[dict[str, Any]]:
    """`calls` as an agent expects them. A call without an id gets one that no other call has: agents answer to ids."""
    taken = {call.id for call in calls}
    found = []
    for number, call in enumerate(calls):
        name = call.id or f"call_{number}"
        while not call.id and name in taken:
            name += "_"
        found.append(
            {"id": name, "type": "function", "function": {"name": call.name or "", "arguments": call.arguments}}
        )
    return found


def finish_of(value: str | None) -> str | None:
    """A reason to stop, where it is one plain word; nobody signs it."""
    return value if value is not None and len(value) <= 40 and value.isascii() and value.isidentifier() else None
