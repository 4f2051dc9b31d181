"""Reading a whole answer of an OpenGradient node, and writing the one that the agent gets.

No byte of the node's goes on. The answer is read strictly, what the statement speaks about is taken out of it, and a
new object is written from that: one choice, with the text or the tool calls that were hashed, in OpenAI's form. What
else went along is named in `uncovered`, what did not in `withheld`.

    reads   POST /v1/chat/completions, /v1/completions, /v1/web_search, each as JSON (streams: `OpenGradientReader`)
    signed  text: choices[0].message.content, choices[0].text, content; calls: when it stops for `tool_calls`
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError
from gateway.model.observation import Call, Observation
from gateway.verify.opengradient.answer import SignedAnswer
from gateway.verify.opengradient.canonical import SURFACES, SignedCall, Surface, toolcall_outputs
from gateway.verify.opengradient.record import evidence_record
from gateway.verify.opengradient.statement import Statement, parse_statement

from .answer import Content, reads_as_call, toolcall_bytes
from .head import Head
from .opengradient_members import (
    MAX_ANSWER,
    MAX_CALLS,
    MAX_DEPTH,
    Frame,
    Message,
    Sorted,
    Uncovered,
    deliverable,
    finish_of,
    observed,
    signed_calls,
    usage_of,
)
from .opengradient_stream import OpenGradientReader
from .strays import IN_ANSWER, NOWHERE, stray_calls

__all__ = ["OpenGradientReader", "Whole", "read_opengradient"]

_encode = msgspec.json.Encoder().encode
_PREFIX = {Surface.CHAT: "chatcmpl-", Surface.COMPLETION: "cmpl-", Surface.WEB_SEARCH: "websearch-"}
_OBJECT = {
    Surface.CHAT: "chat.completion",
    Surface.COMPLETION: "text_completion",
    Surface.WEB_SEARCH: "web_search.result",
}


class Whole(msgspec.Struct, frozen=True):
    """One JSON answer, read.

    `statement` is None with a `problem` (evidence_missing, malformed_encoding, upstream_error) when there is none to
    appraise; `answer` is for the appraisal, `content` for the receipt. `deliver` is the body that the agent may get
    under the verdict; `uncovered` names what of it no signature covers, `withheld` what was left out of it.
    """

    observation: Observation
    content: Content
    statement: Statement | None
    problem: str | None
    answer: SignedAnswer
    deliver: bytes
    uncovered: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()

    @property
    def receipt(self) -> bytes | None:
        """The statement's record, without what only the request can show; None without a statement."""
        return None if self.statement is None else evidence_record(self.statement, self.answer)


class _Read(msgspec.Struct):
    """What was found in the answer, before it is judged or written."""

    shape: str | None = None
    text: str | None = None
    calls: tuple[SignedCall, ...] = ()
    legacy: tuple[Call, ...] = ()  # and those that stand where no API has one
    others: bool = False
    finish: str | None = None

    @property
    def calls_signed(self) -> bool:
        return self.finish == "tool_calls" and bool(self.calls)

    def outputs(self) -> tuple[str, ...]:
        return toolcall_outputs(self.calls) if self.calls_signed else (self.text or "",)

    def beside(self) -> tuple[str, ...]:
        found = ["choices"] if self.others else []
        found += dict.fromkeys(call.kind for call in self.legacy)
        if self.calls and not self.calls_signed:
            found.append("tool_calls")
        if self.calls_signed and (self.text or "").strip():
            found.append("content")
        return tuple(found)


def read_opengradient(
    head: Head, body: bytes, *, uncovered: Uncovered = "withhold", created: int = 0, answer_id: str | None = None
) -> Whole:
    """Read `body`, the answer to a request with `head` (its endpoint one of `SURFACES`).

    `created` (Unix seconds) and `answer_id` are filled in where the node gave none. Total: a body that cannot be read
    gives an observation that says so, no statement, and an answer to deliver that is empty.
    """
    surface = SURFACES[head.endpoint]
    try:
        document = strict_json(body, max_bytes=MAX_ANSWER, max_depth=MAX_DEPTH)
        if not isinstance(document, dict):
            raise FormatError("the answer is not a JSON object")
    except FormatError as error:
        return _unread(head, surface, str(error))
    try:
        frame = msgspec.convert(document, Frame)
    except msgspec.ValidationError as error:
        calls = stray_calls(document, body, NOWHERE, any_case=True)
        return _unread(head, surface, f"the answer is not what it should be: {error}", calls)
    if answer_id is None:
        answer_id = _PREFIX[surface] + hashlib.sha256(body).hexdigest()[:24]
    strays = stray_calls(document, body, IN_ANSWER.get(head.endpoint, NOWHERE), any_case=True)
    return _whole(head, surface, document, frame, strays, uncovered, answer_id, created)


def _whole(
    head: Head,
    surface: Surface,
    document: dict[str, Any],
    frame: Frame,
    strays: tuple[Call, ...],
    uncovered: Uncovered,
    name: str,
    created: int,
) -> Whole:
    beside = Sorted(uncovered)
    beside.top(document, search=surface is Surface.WEB_SEARCH)
    if surface is Surface.WEB_SEARCH:
        read = _Read("no content in the answer" if frame.content is None else None, frame.content)
    else:
        read = _choices(head, surface, frame)
        if frame.choices:
            beside.choice(document["choices"][0])
    read.legacy += strays
    statement, problem = _statement(document)
    if frame.error is not None:
        read.shape, statement, problem = "an error object with a success status", None, "upstream_error"
    observation = _observation(head, frame, read)
    answer = SignedAnswer(surface, read.outputs(), observation, read.calls_signed, read.beside())
    written = _written(surface, frame, read, beside)
    shell = {
        "id": _id(frame.id, beside) or name,
        "object": _OBJECT[surface],
        "created": _created(frame, beside, created),
    }
    text = (read.text or "") if not read.calls_signed or beside.label else ""
    content = Content(text, toolcall_bytes(observed(read.calls)) if read.calls_signed else b"")
    return Whole(
        observation, content, statement, problem, answer, _encode(shell | written),
        beside.uncovered.tuple(), beside.withheld.tuple(),
    )  # fmt: skip


def _unread(head: Head, surface: Surface, problem: str, calls: tuple[Call, ...] = ()) -> Whole:
    observation = Observation(malformed=problem, calls=calls, declared=head.tools)
    shell = {"id": _PREFIX[surface] + "unread", "object": _OBJECT[surface], "created": 0, "model": head.model}
    deliver = _encode(shell | {"choices": []})
    return Whole(observation, Content(), None, "malformed_encoding", SignedAnswer(surface, None, observation), deliver)


def _statement(document: dict[str, Any]) -> tuple[Statement | None, str | None]:
    try:
        return parse_statement(document), None
    except FormatError as error:
        return None, error.reason


def _choices(head: Head, surface: Surface, frame: Frame) -> _Read:
    choices = frame.choices or []
    if not choices or choices[0].index != 0:
        return _Read("no choice 0 at the first place", others=bool(choices))
    first = choices[0]
    read = _Read(finish=finish_of(first.finish_reason), others=len(choices) > 1)
    if len(choices) != 1 or head.n != 1:
        read.shape = f"{len(choices)} choices where {head.n} were asked for, and one is signed"
    message = first.message
    # Members of other surfaces are not what was hashed, and some clients read them.
    foreign = message if surface is Surface.COMPLETION else first.text
    read.others = read.others or first.delta is not None or foreign is not None
    if surface is Surface.COMPLETION:
        read.text = first.text
        read.shape = read.shape or ("no text in the choice" if first.text is None else None)
        return read
    if message is None:
        read.shape = read.shape or "no message in the choice"
        return read
    return _message(read, message)


def _message(read: _Read, message: Message) -> _Read:
    read.text = message.content
    calls = message.tool_calls or []
    if len(calls) > MAX_CALLS:
        read.shape = read.shape or f"more than {MAX_CALLS} tool calls"
    read.calls = signed_calls(calls[:MAX_CALLS])
    if message.function_call is not None:
        function = message.function_call
        read.legacy = (Call("function_call", function.name or "", function.arguments),)
    return read


def _observation(head: Head, frame: Frame, read: _Read) -> Observation:
    usage = usage_of(frame.usage) or {}
    calls = observed(read.calls) + read.legacy
    return Observation(
        shape=read.shape,
        models=() if frame.model is None else (frame.model,),
        answer_id=frame.id,
        calls=calls,
        declared=head.tools,
        text_is_call=bool(head.tools) and not calls and reads_as_call(read.text or ""),
        input_tokens=usage.get("prompt_tokens"),
        output_tokens=usage.get("completion_tokens"),
    )


def _written(surface: Surface, frame: Frame, read: _Read, beside: Sorted) -> dict[str, Any]:
    """The members of the new answer, but for id, object and time."""
    if surface is Surface.WEB_SEARCH:
        beside.uncovered.add("query")
        return {"query": frame.query or "", "content": read.text or "", **beside.labelled}
    for name in read.beside():
        if name != "content":
            beside.withheld.add(name)
    choice: dict[str, Any] = {"index": 0, "finish_reason": read.finish}
    if surface is Surface.COMPLETION:
        choice |= {"text": read.text or "", "logprobs": None}
    else:
        choice["message"] = _written_message(read, beside)
    beside.uncovered.add("finish_reason")
    found: dict[str, Any] = {"model": frame.model, "choices": [choice]}
    if frame.model is not None:
        beside.uncovered.add("model")
    usage = usage_of(frame.usage)
    if usage is not None:
        beside.uncovered.add("usage")
        found["usage"] = usage
    found.update((name, value) for name, value in beside.labelled.items() if name not in _ON_MESSAGE)
    return found


#: Labelled members that belong to the message, wherever the node put them.
_ON_MESSAGE = ("images", "citations")


def _written_message(read: _Read, beside: Sorted) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": read.text or ""}
    if read.calls_signed:
        message["tool_calls"] = deliverable(read.calls)
        message["content"] = None
        if read.text and beside.label:
            message["content"] = read.text
            beside.uncovered.add("content")
        elif read.text:
            beside.withheld.add("content")
    message.update((name, beside.labelled[name]) for name in _ON_MESSAGE if name in beside.labelled)
    return message


def _id(value: str | None, beside: Sorted) -> str | None:
    if not value or len(value) > 128 or not value.isascii() or not value.isprintable():
        return None
    beside.uncovered.add("id")
    return value


def _created(frame: Frame, beside: Sorted, created: int) -> int:
    if frame.created is None:
        return created
    beside.uncovered.add("created")
    return frame.created
