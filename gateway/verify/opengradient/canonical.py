"""The exact bytes that OpenGradient's tee-gateway hashes: CPython's `json.dumps(value, sort_keys=True)`.

    chat        model, messages, temperature (0.0 when absent); max_tokens, stop, tools, response_format, web_search
                where given; nothing else, so `tool_choice`, `top_p`, `n`, `seed`, `stream`, `user` are not covered
    completion  model, prompt, temperature (1.0; 0.0 for null), max_tokens (16; none for null); stop where given
    web_search  the whole body as it was received

Three builds differ in how they see the content of a user's message that is a list of parts, and say nothing on the wire
about which they are:

    v3  text is kept, of every other part its type and file name: attached bytes are NOT covered
    v2  the list as it came
    v1  the text that Python's repr makes of the list

The output is the assistant's text as it stands; or, when the answer stops for tool calls, the JSON of the calls.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from gateway.errors import FormatError

PROFILES = ("v3", "v2", "v1")
_REPEATED = ("stop", "tools", "response_format")


class Surface(enum.StrEnum):
    """The node's signed surfaces; a chat that streams is signed as one that does not."""

    CHAT = "chat"
    COMPLETION = "completion"
    WEB_SEARCH = "web_search"


#: The surface behind each path of the node.
SURFACES: Mapping[str, Surface] = {
    "/v1/chat/completions": Surface.CHAT,
    "/v1/completions": Surface.COMPLETION,
    "/v1/web_search": Surface.WEB_SEARCH,
}


class SignedCall(msgspec.Struct, frozen=True):
    """One tool call as the node saw it. `id` and `name` are None for null, `UNSET` where the answer has none."""

    id: str | msgspec.UnsetType | None
    name: str | msgspec.UnsetType | None
    arguments: str


def candidates(surface: Surface, document: object) -> list[tuple[str, bytes]]:
    """The bytes that a node may have hashed for the request `document` (as `strict_json` gives it), newest build first.

    Each comes with the name of its profile; equal bytes come once. Raises `FormatError` for a body that the node would
    not take: what it hashes for such a one is not known.
    """
    if not isinstance(document, dict):
        raise FormatError("a request is one JSON object")
    if surface is Surface.WEB_SEARCH:
        return [(surface.value, _dumps(document))]
    if surface is Surface.COMPLETION:
        return [(surface.value, _dumps(_completion(document)))]
    found: dict[bytes, str] = {}
    for profile in PROFILES if _has_parts(document) else PROFILES[:1]:
        found.setdefault(_dumps(_chat(document, profile)), profile)
    return [(profile, data) for data, profile in found.items()]


def attachments(document: Mapping[str, Any]) -> int:
    """How many parts of a chat's messages the profile v3 names without covering their bytes. `document` has passed
    `candidates`."""
    parts = [part for message in document["messages"] for part in _parts(message)]
    return sum(isinstance(part, dict) and part.get("type") != "text" for part in parts)


def toolcall_outputs(calls: tuple[SignedCall, ...]) -> tuple[str, ...]:
    """The text that is hashed for `calls`, in order. Of an id or name that never came a build may have made null or
    an empty text, so there may be two."""
    texts = [_calls_text(calls, None)]
    if any(call.id is msgspec.UNSET or call.name is msgspec.UNSET for call in calls):
        texts.append(_calls_text(calls, ""))
    return tuple(texts)


def _calls_text(calls: tuple[SignedCall, ...], absent: str | None) -> str:
    def given(value: str | msgspec.UnsetType | None) -> str | None:
        return absent if isinstance(value, msgspec.UnsetType) else value

    items = [
        {"id": given(c.id), "type": "function", "function": {"name": given(c.name), "arguments": c.arguments}}
        for c in calls
    ]
    return json.dumps(items, sort_keys=True)


def _dumps(value: dict[str, Any]) -> bytes:
    try:
        return json.dumps(value, sort_keys=True).encode()
    except (RecursionError, TypeError, ValueError) as error:
        raise FormatError(f"the request has no canonical form: {type(error).__name__}") from None


def _has_parts(document: dict[str, Any]) -> bool:
    return any(not isinstance(m.get("content"), str) for m in _messages(document) if m.get("role") == "user")


def _parts(message: Any) -> list[Any]:
    content = message.get("content") if message.get("role") == "user" else None
    return content if isinstance(content, list) else []


def _messages(document: dict[str, Any]) -> list[dict[str, Any]]:
    messages = document.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise FormatError("messages must be a list of objects")
    return messages


def _chat(document: dict[str, Any], profile: str) -> dict[str, Any]:
    found = {
        "model": _member(document, "model"),
        "messages": [_message(message, profile) for message in _messages(document)],
        "temperature": _temperature(document, 0.0),
    }
    if document.get("max_tokens") is not None:
        found["max_tokens"] = document["max_tokens"]
    found.update((name, document[name]) for name in _REPEATED if document.get(name))
    if document.get("web_search"):
        found["web_search"] = True
    return found


def _completion(document: dict[str, Any]) -> dict[str, Any]:
    found = {
        "model": _member(document, "model"),
        "prompt": _member(document, "prompt"),
        # The node's defaults are for absent members: a null takes their place, and then is 0, or left out.
        "temperature": _temperature(document, 0.0 if "temperature" in document else 1.0),
    }
    limit = document.get("max_tokens", 16)
    if limit is not None:
        found["max_tokens"] = limit
    if document.get("stop"):
        found["stop"] = document["stop"]
    return found


def _member(document: dict[str, Any], name: str) -> object:
    if name not in document:
        raise FormatError(f"the request has no {name}")
    return document[name]


def _temperature(document: dict[str, Any], default: float) -> float:
    value = document.get("temperature")
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise FormatError("temperature must be a number")
    try:
        return float(value)
    except OverflowError:
        raise FormatError("temperature is beyond a double") from None


def _message(message: dict[str, Any], profile: str) -> dict[str, Any]:
    role = message.get("role")
    build = _ROLES.get(role) if isinstance(role, str) else None
    if build is None:
        raise FormatError("a message has a role that the node does not know")
    return build(message, profile)


def _system(message: dict[str, Any], profile: str) -> dict[str, Any]:
    return {"role": "system", "content": message.get("content")}


def _user(message: dict[str, Any], profile: str) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, str) or profile == "v2":
        return {"role": "user", "content": content}
    if profile == "v3" and isinstance(content, list):
        return {"role": "user", "content": [_part(part) for part in content]}
    return {"role": "user", "content": _repr(content)}


def _part(part: object) -> dict[str, Any]:
    if not isinstance(part, dict):
        return {"type": "text", "text": _repr(part)}
    if part.get("type") == "text":
        return {"type": "text", "text": part.get("text") or ""}
    file = part.get("file")
    name = (file.get("filename") if isinstance(file, dict) else None) or part.get("filename")
    return {"type": part.get("type"), **({"filename": name} if name else {})}


def _repr(value: object) -> str:
    try:
        return str(value)
    except RecursionError:
        raise FormatError("a message's content is nested too deep") from None


def _assistant(message: dict[str, Any], profile: str) -> dict[str, Any]:
    found: dict[str, Any] = {"role": "assistant", "content": message.get("content") or ""}
    calls = message.get("tool_calls")
    if calls:
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
            raise FormatError("tool_calls must be a list of objects")
        found["tool_calls"] = [_call(call) for call in calls]
    return found


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function", {})
    if not isinstance(function, dict):
        raise FormatError("a tool call's function must be an object")
    # What is absent is null there; the network's own client fills it in before it sends, where we send what we got.
    named = {"name": function.get("name"), "arguments": function.get("arguments")}
    return {"id": call.get("id"), "type": call.get("type"), "function": named}


def _tool(message: dict[str, Any], profile: str) -> dict[str, Any]:
    return {"role": "tool", "content": message.get("content"), "tool_call_id": message.get("tool_call_id")}


def _function(message: dict[str, Any], profile: str) -> dict[str, Any]:
    return {"role": "function", "content": message.get("content"), "name": message.get("name")}


_ROLES: Mapping[str, Callable[[dict[str, Any], str], dict[str, Any]]] = {
    "system": _system,
    "developer": _system,
    "user": _user,
    "assistant": _assistant,
    "tool": _tool,
    "function": _function,
}
