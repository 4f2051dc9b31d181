"""Answers whose meaning is exact: tool calls, JSON, labels. They are equal or they are not.

A program will act on them, and near is no good: what is compared is the canonical form (JCS, RFC 8785), which does not
see the order of members or the spelling of numbers and sees everything else. The ids of tool calls are not part of it,
being made up by the server. Log-probs are not needed.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from gateway.crypto.canonical import jcs, strict_json
from gateway.errors import FormatError

MAX_JSON = 4 * 1024 * 1024
MAX_CALLS = 256
#: Members of a message that are compared, or that make no agent act. Any other might be what an agent goes by.
_KNOWN = frozenset({"role", "content", "tool_calls", "function_call", "reasoning", "reasoning_content"})


class Form(enum.StrEnum):
    """How answers are to be compared. Tool calls are compared by value whatever the form."""

    TEXT = "text"  # by tokens and log-probs
    JSON = "json"  # the text is one JSON document
    LABEL = "label"  # the text is one of a few words


def form_of(request: object) -> Form:
    """The form that a chat `request`, as JSON, asks for by its `response_format`."""
    asked = request.get("response_format") if isinstance(request, Mapping) else None
    kind = asked.get("type") if isinstance(asked, Mapping) else None
    return Form.JSON if kind in ("json_object", "json_schema") else Form.TEXT


def canonical(choice: Mapping[str, object], form: Form) -> bytes | None:
    """What of a chat `choice` must be equal, as bytes; None when it is free text and has to be compared by tokens.

    Raises `FormatError` for tool calls, JSON or a label that are not what they should be.
    """
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise FormatError("the answer has no message")
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        raise FormatError("the answer's content is not a text")
    if any(value for name, value in message.items() if name not in _KNOWN):
        raise FormatError("the answer holds what cannot be compared", reason="not_comparable")
    if message.get("tool_calls") and message.get("function_call"):
        raise FormatError("the answer has tool calls of both forms")
    if message.get("tool_calls") or message.get("function_call"):
        return jcs({"calls": _calls(message), "content": content or ""})
    if form is Form.TEXT:
        return None
    if not content or not content.strip():
        raise FormatError("the answer is empty", reason="empty_answer")
    if form is Form.LABEL:
        return jcs({"label": content.strip()})
    return jcs({"json": _json(content)})


def _calls(message: Mapping[str, object]) -> list[object]:
    if message.get("function_call"):
        return [_call(message["function_call"])]
    calls = message["tool_calls"]
    if not isinstance(calls, list) or len(calls) > MAX_CALLS:
        raise FormatError(f"tool_calls is not a list of at most {MAX_CALLS} calls")
    return [_tool_call(call) for call in calls]


def _tool_call(call: object) -> dict[str, object]:
    if not isinstance(call, Mapping):
        raise FormatError("a tool call is not an object")
    # Of a call of another type, an agent reads another member than the function that is compared.
    if call.get("type") not in (None, "function") or call.get("custom") is not None:
        raise FormatError("a tool call is of another type than function", reason="not_comparable")
    return _call(call.get("function"))


def _call(function: object) -> dict[str, object]:
    name = function.get("name") if isinstance(function, Mapping) else None
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not isinstance(arguments, str):
        raise FormatError("a tool call has no name and arguments")
    return {"name": name, "arguments": _json(arguments) if arguments.strip() else {}}


def _json(text: str) -> object:
    return strict_json(text.encode("utf-8", "surrogatepass"), max_bytes=MAX_JSON)
