"""What a saved answer holds beside its text and its calls: members that no digest covers but the one over its bytes.

    {"choices": [{"message": {"content": "4", "tool_calls": […], "refusal": "no"}}, {…}], "usage": {…}, "model": "m"}
                              ^ text          ^ calls        ^ left             ^ left    ^ about       ^ about

Text and calls are what the gateway's own reader took when it wrote the receipt. `left` is everything else that could
speak or act for the node: another choice, a refusal, reasoning, an embedding, a member that is not known here. `about`
are known members that cannot (an id, a model's name, counts). Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from gateway.exchange.answer import READABLE, Content, read_answer
from gateway.exchange.head import Head
from gateway.model.receipt import RequestPart

#: Members that say something about an answer or a part of it, wherever they stand.
ABOUT = frozenset(
    {
        *("id", "object", "type", "role", "index", "status", "created", "created_at", "completed_at", "model", "usage"),
        *("system_fingerprint", "service_tier", "finish_reason", "stop_reason", "stop_sequence", "call_id"),
    }
)
#: What an answer of /v1/responses repeats of its request.
ECHOED = frozenset(
    {
        *("background", "conversation", "include", "instructions", "max_output_tokens", "max_tool_calls", "metadata"),
        *("parallel_tool_calls", "previous_response_id", "prompt", "prompt_cache_key", "reasoning", "store"),
        *("safety_identifier", "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p", "truncation"),
        "user",
    }
)
_OURS = "verification"
#: Where the last event of a stream of /v1/responses has the whole answer.
_HELD = "response"
#: Where an answer has its parts, or blocks, all of whose texts earlier versions committed to as one.
_PARTS = {"/v1/responses": "output", "/v1/messages": "content"}
_ANSWERS = ("choices", "output", "content", "data", "results")


class Saved(msgspec.Struct, frozen=True):
    """A saved answer, read. `there`: its text and calls can be compared, also where they are empty. `earlier`: its text
    as earlier versions took it for their receipts, reasoning and the findings of the server's tools with it; None where
    they took the same."""

    content: Content
    earlier: str | None = None
    there: bool = True
    left: tuple[str, ...] = ()
    about: tuple[str, ...] = ()


def read_saved(request: RequestPart, document: Mapping[str, Any], data: bytes) -> Saved:
    """The answer to `request` in `data`, which reads strictly as `document`: that, or a stream's last event. Total."""
    if request.endpoint not in READABLE:
        return Saved(Content(), there=False, left=("the whole answer: its endpoint is not known here",))
    if request.stream and request.endpoint == "/v1/responses" and isinstance(document.get(_HELD), dict):
        return _held(request, document)
    return _answer(request, document, data)


def _held(request: RequestPart, event: Mapping[str, Any]) -> Saved:
    """The answer within the last event of a stream, where SDKs find it, and what the event has beside it."""
    answer = event[_HELD]
    found = _answer(request, answer, msgspec.json.encode(answer))
    walk = _Walk()
    walk.event(event)
    if answer.get(_OURS) is not None:  # ours stands beside the answer: what has that name within it is somebody's word
        walk.left.append(f"{_HELD}.{_OURS}")
    left, about = (*walk.left, *found.left), dict.fromkeys((*walk.about, *found.about))
    return msgspec.structs.replace(found, left=left, about=tuple(about))


def _answer(request: RequestPart, document: Mapping[str, Any], data: bytes) -> Saved:
    observation, content, _ = read_answer(Head(request.endpoint, "", stream=False, n=1, tools=frozenset()), data)
    if observation.malformed is not None:
        return Saved(content, left=(f"the whole answer: {observation.malformed}",))
    walk = _Walk()
    _WALKS.get(request.endpoint, _Walk.whole)(walk, document)
    if "".join(walk.texts) != content.text:  # the reader found it elsewhere than a client looks for it
        walk.left.append("the text")
    if any("\0" in call.name + (call.arguments or "") or "\n" in call.name for call in observation.calls):
        walk.left.append("the calls: they hold control characters that part one call from another")
    # The event of a stream that brought the receipt has nothing of the answer, and does not say that it was empty.
    there = not request.stream or any(document.get(name) for name in _ANSWERS)
    parts = None if request.stream else document.get(_PARTS.get(request.endpoint, ""))
    earlier = None if parts is None else _every_text(parts)
    return Saved(content, earlier, there, tuple(walk.left), tuple(walk.about))


def _every_text(parts: Sequence[Mapping[str, Any]]) -> str:
    texts = []
    for part in parts:
        inner = part.get("content")
        if part.get("text") is not None:
            texts.append(part["text"])
        elif isinstance(inner, list):
            texts.append(_every_text(inner))
    return "".join(texts)


class _Walk:
    """Goes where the reader goes. What the reader takes as text is in `texts`; the rest is named."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.left: list[str] = []
        self.about: dict[str, None] = {}

    def whole(self, document: Mapping[str, Any]) -> None:
        self._members(document, "", (_OURS,))

    def event(self, document: Mapping[str, Any]) -> None:
        self._members(document, "", (_HELD, _OURS))

    def chat(self, document: Mapping[str, Any]) -> None:
        for choice in self._choice(document):
            self._members(choice, "choices[0].", ("message",))
            self._message(choice.get("message") or {}, "choices[0].message.")

    def completion(self, document: Mapping[str, Any]) -> None:
        for choice in self._choice(document):
            self.texts.append(choice.get("text") or "")
            self._members(choice, "choices[0].", ("text",))

    def responses(self, document: Mapping[str, Any]) -> None:
        self._members(document, "", ("output", _OURS), ABOUT | ECHOED)
        for number, item in enumerate(document.get("output") or ()):
            at = f"output[{number}]."
            if item.get("type") == "message" and isinstance(item.get("content"), list):
                self._members(item, at, ("content",))
                self._parts(item["content"], f"{at}content", {"output_text": ("text",)})
            elif item.get("type") == "function_call" and item.get("name"):
                self._members(item, at, ("name", "arguments"))
            else:
                self._members(item, at)

    def messages(self, document: Mapping[str, Any]) -> None:
        self._members(document, "", ("content", _OURS))
        self._parts(document.get("content") or (), "content", {"text": ("text",), "tool_use": ("name", "input")})

    def _choice(self, document: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """Choice 0, where it stands first: the one whose text is committed to, and that a client takes."""
        self._members(document, "", ("choices", _OURS))
        choices = document.get("choices") or []
        first = 1 if choices and choices[0].get("index", 0) == 0 else 0
        self.left += [f"choices[{number}]" for number in range(first, len(choices))]
        return choices[:first]

    def _parts(self, parts: Sequence[Mapping[str, Any]], at: str, read: Mapping[str, Sequence[str]]) -> None:
        for number, part in enumerate(parts):
            taken = read.get(part.get("type") or "", ())
            self.texts += [part.get("text") or ""] if "text" in taken else []
            self._members(part, f"{at}[{number}].", taken)

    def _message(self, message: Mapping[str, Any], at: str) -> None:
        text = message.get("content")
        if isinstance(text, str):
            self.texts.append(text)
        else:  # content parts are not read
            self._members({"content": text}, at)
        self._members(message, at, ("content", "tool_calls", "function_call"))
        for number, call in enumerate(message.get("tool_calls") or ()):
            inside = f"{at}tool_calls[{number}]."
            self._members(call, inside, ("function",))
            self._members(call.get("function") or {}, f"{inside}function.", ("name", "arguments"))
        self._members(message.get("function_call") or {}, f"{at}function_call.", ("name", "arguments"))

    def _members(
        self, value: Mapping[str, Any], at: str, taken: Sequence[str] = (), about: frozenset[str] = ABOUT
    ) -> None:
        for name, item in value.items():
            if name in taken or item is None or item in ("", [], {}):
                continue
            if name in about or isinstance(item, (bool, int, float)):
                self.about[name] = None
            else:
                self.left.append(at + name)


_WALKS: Mapping[str, Callable[[_Walk, Mapping[str, Any]], None]] = {
    "/v1/chat/completions": _Walk.chat,
    "/v1/completions": _Walk.completion,
    "/v1/responses": _Walk.responses,
    "/v1/messages": _Walk.messages,
}
