"""The one answer that a stream amounts to, so that evidence is judged on it as on an answer that came whole.

    data: {"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hel"}}]}
    data: {"id": "c", "choices": [{"index": 0, "delta": {"content": "lo"}, "finish_reason": "stop"}]}
    data: [DONE]

becomes `{"id": "c", "object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content":
"Hello"}, "finish_reason": "stop"}]}`. Texts are put together, also those of tool calls (by their index) and reasoning;
lists of log-probs and token ids are joined; members of the answer itself (`usage`, `prompt_token_ids`, `toploc`, …) are
taken from the event that has them, the last one counting. Streams of /v1/completions have `text` in place of `delta`.

What the agent saw and what is judged must be the same, so nothing is guessed: a stream with events that cannot be put
together is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError

DONE = b"[DONE]"
MAX_BYTES = 64 * 1024 * 1024
MAX_EVENTS = 1_000_000
MAX_CHOICES = 128
MAX_CALLS = 256
#: Members of a message that come in pieces.
_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")
#: Members of a tool call that are objects, and members of those that come in pieces.
_INNER, _PIECES = ("function", "custom"), ("name", "arguments", "input")
#: Members of a choice that are read here; any other is taken as it stands, the last one counting.
_OWN = frozenset({"index", "delta", "text", "logprobs", "token_ids"})


def assemble(events: Sequence[bytes]) -> bytes:
    """The chat completion, or completion, that the `data` payloads of a stream amount to, `[DONE]` among them or not.

    Raises `FormatError` for payloads that are no strict JSON objects, are too many or too large, hold an error, or
    cannot be put together; also for a stream without any choice.
    """
    if len(events) > MAX_EVENTS or sum(map(len, events)) > MAX_BYTES:
        raise FormatError(f"a stream has at most {MAX_EVENTS} events and {MAX_BYTES} bytes")
    document: dict[str, Any] = {}
    choices: dict[int, _Choice] = {}
    for event in events:
        if event != DONE:
            _take(_object(strict_json(event, max_bytes=MAX_BYTES), "an event"), document, choices)
    if not choices:
        raise FormatError("the stream has no choices")
    if document.get("object") in (None, "chat.completion.chunk"):
        document["object"] = "chat.completion"
    document["choices"] = [choices[index].document() for index in sorted(choices)]
    return msgspec.json.encode(document)


def _take(event: Mapping[str, Any], document: dict[str, Any], choices: dict[int, _Choice]) -> None:
    if event.get("error") is not None:
        raise FormatError("the stream holds an error")
    for name, value in event.items():
        if name != "choices" and (value is not None or name not in document):
            document[name] = value
    seen: set[int] = set()
    for entry in _list(event.get("choices"), "choices"):
        choice = _object(entry, "a choice")
        index = _index(choice.get("index", 0), MAX_CHOICES)
        if index in seen:  # most agents read the first one alone, and would miss what the second adds
            raise FormatError("an event has one choice twice")
        seen.add(index)
        choices.setdefault(index, _Choice(index)).take(choice)


class _Choice:
    """One choice as far as it came."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._message: dict[str, Any] | None = None
        self._texts: dict[str, list[str]] = {}
        self._calls: dict[int, _Call] = {}
        self._function: _Call | None = None
        self._lists: dict[str, list[Any]] = {}
        self._rest: dict[str, Any] = {}

    def take(self, choice: Mapping[str, Any]) -> None:
        if "message" in choice:  # an agent that reads deltas would see another answer than the one that is judged
            raise FormatError("a choice of a stream has a whole message")
        for name, value in choice.items():
            if name not in _OWN and (value is not None or name not in self._rest):
                self._rest[name] = value
        self._append("text", choice.get("text"))
        if choice.get("delta") is not None:
            self._delta(_object(choice["delta"], "delta"))
        if choice.get("logprobs") is not None:
            logprobs = _object(choice["logprobs"], "logprobs")
            for name in ("content", "refusal", "tokens", "token_logprobs", "top_logprobs", "text_offset"):
                self._extend(f"logprobs.{name}", logprobs.get(name))
        self._extend("token_ids", choice.get("token_ids"))

    def _delta(self, delta: Mapping[str, Any]) -> None:
        message = self._message = {} if self._message is None else self._message
        for name, value in delta.items():
            if name in _TEXTS:
                self._append(name, value)
            elif name == "tool_calls":
                self._tool_calls(_list(value, name))
            elif name == "function_call":
                if value is not None:
                    self._function = self._function or _Call()
                    self._function.take(_object(value, name))
            elif value is not None or name not in message:
                message[name] = value

    def _tool_calls(self, calls: Sequence[Any]) -> None:
        for entry in calls:
            call = _object(entry, "a tool call")
            index = _index(call.get("index", 0), MAX_CALLS)
            self._calls.setdefault(index, _Call()).take(call)

    def _append(self, name: str, value: object) -> None:
        if value is not None:
            self._texts.setdefault(name, []).append(_text(value, name))

    def _extend(self, name: str, value: object) -> None:
        if value is not None:
            self._lists.setdefault(name, []).extend(_list(value, name))

    def document(self) -> dict[str, Any]:
        texts = {name: "".join(parts) for name, parts in self._texts.items()}
        found: dict[str, Any] = {"index": self._index}
        text = texts.pop("text", None)
        if text is not None:
            found["text"] = text
        if self._message is not None or text is None:
            found["message"] = self._whole(texts)
        logprobs = {name[9:]: value for name, value in self._lists.items() if name.startswith("logprobs.")}
        found |= {"logprobs": logprobs} if logprobs else {}
        found |= {"token_ids": self._lists["token_ids"]} if "token_ids" in self._lists else {}
        return found | self._rest

    def _whole(self, texts: dict[str, str]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": None} | (self._message or {}) | texts
        if self._calls:
            message["tool_calls"] = [self._calls[index].document() for index in sorted(self._calls)]
        if self._function is not None:
            message["function_call"] = self._function.document()
        return message


class _Call:
    """A tool call, or what it calls: names, arguments and inputs come in pieces."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._inner: dict[str, _Call] = {}
        self._rest: dict[str, Any] = {}

    def take(self, call: Mapping[str, Any]) -> None:
        for name, value in call.items():
            if name in _INNER:
                if value is not None:
                    self._inner.setdefault(name, _Call()).take(_object(value, name))
            elif name in _PIECES:
                if value is not None:
                    self._texts.setdefault(name, []).append(_text(value, name))
            elif name != "index" and (value is not None or name not in self._rest):
                self._rest[name] = value

    def document(self) -> dict[str, Any]:
        texts = {name: "".join(parts) for name, parts in self._texts.items()}
        return self._rest | texts | {name: inner.document() for name, inner in self._inner.items()}


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"{what} is not a JSON object")
    return value


def _list(value: object, what: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise FormatError(f"{what} is not a list")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{what} is not a text")
    return value


def _index(value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value < most:
        raise FormatError(f"an index is not a number below {most}")
    return value
