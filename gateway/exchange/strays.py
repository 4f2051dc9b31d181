"""Members that lead to a call where, or as, the reader of an API does not look for one.

`mcp_call` in a chat's message, or `tool_calls` beside the message and not in it: no API has these, and some agent may
run what it finds. So each counts as a call: it waits for the verdict in every release mode, and has to be covered,
declared and well-formed like any other. A member that differs from one of the API by its case makes the answer
unreadable: Go's reader takes `Tool_Calls` for `tool_calls`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.errors import FormatError
from gateway.model.observation import Call

#: Output items of /v1/responses and content blocks of /v1/messages that make an agent act.
EXECUTABLE_SUFFIXES = ("_call", "tool_use", "_approval_request")
_MEMBER_SUFFIXES = (*EXECUTABLE_SUFFIXES, "_calls")
#: Members that lead to calls, and what says there what is called, with what.
_HOLDING = frozenset(
    {
        *("choices", "message", "delta", "tool_calls", "function_call", "function", "custom"),
        *("output", "item", "response", "content", "content_block", "part"),
    }
)
_READ = _HOLDING | {
    *("type", "name", "arguments", "input", "partial_json", "index", "output_index", "item_id", "id", "call_id"),
    *("server_label", "server_name"),
}
_CHAT, _COMPLETIONS, _RESPONSES, _MESSAGES = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages",
)  # fmt: skip
_OF_MESSAGE = frozenset((".choices.message.tool_calls", ".choices.message.function_call"))
_OF_DELTA = frozenset((".choices.delta.tool_calls", ".choices.delta.function_call"))
NOWHERE: frozenset[str] = frozenset()
#: Where readers look, by endpoint: the paths of members that are calls, and of objects that are calls by their type.
IN_ANSWER = {
    _CHAT: _OF_MESSAGE,
    _COMPLETIONS: _OF_MESSAGE,
    _RESPONSES: frozenset((".output",)),
    _MESSAGES: frozenset((".content",)),
}
IN_EVENT = {
    _CHAT: _OF_DELTA,
    _COMPLETIONS: _OF_DELTA,
    _RESPONSES: frozenset(("", ".item", ".response.output")),  # an event's own type says what it is about
    _MESSAGES: frozenset(("", ".content_block", ".message.content")),
}


def stray_calls(
    document: dict[str, Any], data: bytes, read: frozenset[str], *, any_case: bool = False
) -> tuple[Call, ...]:
    """The calls in `document`, read strictly from `data`, at other places than those of `read`.

    Raises `FormatError` for a member on the way to a call that is one of ours but for its case, unless `any_case`.
    """
    find = data.lower().find  # `in` on bytes is slower
    named = find(b"_call") >= 0 or find(b"tool_use") >= 0 or find(b"_approval_request") >= 0
    if not named and find(b"partial_j") < 0 and find(b"\\") < 0:
        return ()  # by one of these, a member or a type, a call or a piece of its input is named, unless with escapes
    return tuple(_found(document, read, any_case))


def _found(document: dict[str, Any], read: frozenset[str], any_case: bool) -> Iterator[Call]:
    waiting: list[tuple[str, Any]] = [("", document)]
    while waiting:
        path, value = waiting.pop()
        if type(value) is list:
            waiting += [(path, item) for item in value]
        elif type(value) is dict:
            kind = value.get("type")
            if type(kind) is str and kind.endswith(EXECUTABLE_SUFFIXES) and path not in read:
                yield _call(kind, value)
            for name, inner in value.items():
                place, folded = f"{path}.{name}", name.casefold()
                if not any_case and name not in _READ and folded in _READ:
                    raise FormatError(f"{name[:40]!a} differs from a member of the API by its case alone")
                if folded.endswith(_MEMBER_SUFFIXES) and place not in read:
                    yield from _calls(name, inner)
                elif name in _HOLDING:
                    waiting.append((place, inner))


def _calls(name: str, value: Any) -> Iterator[Call]:
    for item in value if type(value) is list else (value,):
        if type(item) is dict:  # of a text or a number nobody makes a call
            yield _call(name, item)


def _call(kind: str, said: dict[str, Any]) -> Call:
    """What `said` calls, as far as it says so in one of the ways that APIs have."""
    inside = next((said[name] for name in ("function", "custom") if type(said.get(name)) is dict), said)
    name, given = inside.get("name"), inside.get("arguments", inside.get("input"))
    if type(name) is not str:
        name = kind.removesuffix("s").removesuffix("_call")
    if given is not None and type(given) is not str:
        given = msgspec.json.encode(given).decode()
    return Call(kind, name, given)
