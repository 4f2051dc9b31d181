"""Reading a stream of an OpenGradient node, and writing the one that the agent gets.

The node sends `data: {"choices": [{"delta": …, "index": 0}], "model": …}` frames, without id, object or time, then one
frame with the reason to stop and the signed members, then `[DONE]`. Every frame that goes on is written anew from what
was read, so that nothing that a client of the stream could read differs from what was hashed.

Text goes on as it comes. Where it may turn out to stand beside tool calls, and so to be covered by nothing (the request
declares tools, or the first fragment of a call has come), it waits for the end, unless such text is wanted and
labelled. Calls are gathered from their fragments and go on whole, after the last frame.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError
from gateway.model.observation import Call, Observation
from gateway.verify.opengradient.answer import SignedAnswer
from gateway.verify.opengradient.canonical import Surface, toolcall_outputs
from gateway.verify.opengradient.record import evidence_record
from gateway.verify.opengradient.statement import MEMBERS, Statement, parse_statement

from .answer import Content, reads_as_call, toolcall_bytes
from .head import Head
from .opengradient_frames import Calls, FrameWriter
from .opengradient_members import (
    MAX_DEPTH,
    Choice,
    Frame,
    Function,
    Message,
    Sorted,
    Uncovered,
    deliverable,
    finish_of,
    observed,
    usage_of,
)
from .sse import Block, Framer
from .strays import IN_EVENT, NOWHERE, stray_calls
from .stream import DONE, END, ERROR, Piece, UpstreamError

_TEE = frozenset(MEMBERS)
_END = Piece(END, b"data: [DONE]\n\n")


class OpenGradientReader:
    """Observes one stream of `/v1/chat/completions` as it passes, in the manner of `exchange.stream.StreamReader`.

    Problems are kept for the appraisal; only `UpstreamError` is raised, and `FormatError` for an event over the limit.
    `created` is in Unix seconds; id and time of the answer are ours, the node gives none.
    """

    rebuilt = True
    dropped: tuple[str, ...] = ()

    def __init__(
        self,
        head: Head,
        body_salt: bytes,
        *,
        max_event: int,
        uncovered: Uncovered = "withhold",
        created: int = 0,
        answer_id: str | None = None,
    ) -> None:
        self.ended = False
        self.statement: Statement | None = None
        self.receipt_problem: str | None = "evidence_missing"
        self.answer_id = answer_id or "chatcmpl-" + hashlib.sha256(b"answer id" + body_salt).hexdigest()[:24]
        self._head = head
        self._framer = Framer(max_event)
        self._covered = hashlib.sha256()
        self._data = hashlib.sha256(body_salt)
        self._beside = Sorted(uncovered)
        self._malformed: str | None = None
        self._grammar: str | None = None
        self._started = self._final = self._others = self._stated = False
        self._writer = FrameWriter(head.model, self.answer_id, created)
        self._models: dict[str, None] = {}
        self._finish: str | None = None
        self._usage: dict[str, Any] | None = None
        self._text: list[str] = []
        self._waiting: list[str] = []  # read, and not yet written
        self._passed = False  # some text was written
        self._waits = bool(head.tools) and not self._beside.label
        self._calls = Calls()
        self._legacy: Function | None = None
        self._strays: list[Call] = []

    # -- bytes in, pieces out -----------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that `data` completes. Raises `UpstreamError`; `FormatError` when an event is over the limit."""
        self._covered.update(data)
        pieces: list[Piece] = []
        for block in self._framer.feed(data):
            if block.data is not None:
                self._block(block, block.data, pieces)
        return pieces

    def finish(self) -> str | None:
        """Call at the end of the body. Says what is missing when the stream was cut, None when it was complete."""
        if not self.ended:
            return "the stream ended without its terminator"
        if self._framer.rest.strip(b"\r\n"):
            return "the stream ended inside an event"
        return None

    def _block(self, block: Block, data: bytes, pieces: list[Piece]) -> None:
        if self.ended:
            self._grammar = self._grammar or "data after the terminator"
            return
        if data == DONE:
            self._end(pieces)
            return
        self._data.update(data + b"\n")
        if block.event == ERROR:
            raise UpstreamError
        if block.event not in (b"", b"message"):
            self._beside.withheld.add("event " + block.event[:80].decode("ascii", "replace"))
            return
        try:
            document = strict_json(data, max_bytes=len(data), max_depth=MAX_DEPTH)
            if not isinstance(document, dict):
                raise FormatError("an event is not a JSON object")
        except FormatError as error:
            self._malformed = self._malformed or str(error)
            return
        try:
            frame = msgspec.convert(document, Frame)
        except msgspec.ValidationError as error:
            self._malformed = self._malformed or f"an event is not what it should be: {error}"
            self._strays += stray_calls(document, data, NOWHERE, any_case=True)
            return
        self._strays += stray_calls(document, data, IN_EVENT[self._head.endpoint], any_case=True)
        self._frame(document, frame, pieces)

    # -- one frame ----------------------------------------------------------------------------------------------------

    def _frame(self, document: dict[str, Any], frame: Frame, pieces: list[Piece]) -> None:
        if frame.error is not None:
            raise UpstreamError
        self._started = True
        if frame.model is not None and len(self._models) < 4:
            if self._models.keys() - {frame.model}:
                self._grammar = self._grammar or "the model changes between events"
            self._models[frame.model] = None
        if frame.usage is not None:
            self._usage = usage_of(frame.usage) or self._usage
        self._beside.top(document)
        choices = frame.choices or ()
        if choices:
            self._beside.choice(document["choices"][0])
        for place, choice in enumerate(choices):
            if place or choice.index != 0:
                self._others = True
            else:
                self._choice(choice, frame.model, pieces)
        if not _TEE.isdisjoint(document):
            self._take(document)

    def _choice(self, choice: Choice, model: str | None, pieces: list[Piece]) -> None:
        delta = choice.delta
        if delta is not None:
            if self._final and (delta.content or delta.tool_calls or delta.function_call):
                self._grammar = self._grammar or "content after the last frame"
            self._fragments(delta)
            if delta.content:
                self._content(delta.content, model, pieces)
        if choice.message is not None or choice.text is not None:
            self._others = True  # not what streams have, and some clients read it
        if choice.finish_reason is not None:
            self._final = True
            self._finish = self._finish or finish_of(choice.finish_reason)

    def _content(self, text: str, model: str | None, pieces: list[Piece]) -> None:
        self._text.append(text)
        if self._final:
            return  # hashed, so that the output cannot fit, and never written
        if self._waits:
            self._waiting.append(text)
            return
        self._passed = True
        pieces.append(self._writer.text(text, model))

    def _fragments(self, delta: Message) -> None:
        for fragment in delta.tool_calls or ():
            problem = self._calls.add(fragment)
            self._malformed = self._malformed or problem
            self._waits = self._waits or not self._beside.label
        if delta.function_call is not None:
            self._legacy = self._legacy or delta.function_call

    def _take(self, document: dict[str, Any]) -> None:
        self._final = True
        second, self._stated = self._stated, True
        if second:
            self.statement, self.receipt_problem = None, "malformed_encoding"  # two: which one speaks?
            return
        try:
            self.statement, self.receipt_problem = parse_statement(document), None
        except FormatError as error:
            self.receipt_problem = error.reason

    # -- what is written ----------------------------------------------------------------------------------------------

    def _end(self, pieces: list[Piece]) -> None:
        self.ended = True
        if not self._started:
            self._grammar = self._grammar or "the terminator came first"
        model = next(iter(self._models), None)
        self._pass_text(pieces, model)
        if self._calls_signed():
            calls = deliverable(self._calls.signed())
            pieces.extend(self._writer.call(number, call, model) for number, call in enumerate(calls))
        if self._final:
            pieces.append(self._last(model))
        pieces.append(_END)

    def _pass_text(self, pieces: list[Piece], model: str | None) -> None:
        """What waited goes on if it was signed after all; what is beside is named."""
        text = "".join(self._waiting)
        self._waiting.clear()
        if text and not self._calls_signed():
            self._passed = True
            pieces.append(self._writer.text(text, model))
        elif text:
            self._beside.withheld.add("content")
        if self._passed and self._calls_signed():
            self._beside.uncovered.add("content")
        for name in self._beside_names():
            if name != "content":
                self._beside.withheld.add(name)

    def _last(self, model: str | None) -> Piece:
        more: dict[str, Any] = dict(self._beside.labelled)
        if self._usage is not None:
            self._beside.uncovered.add("usage")
            more["usage"] = self._usage
        self._beside.uncovered.add("finish_reason")
        if self._models:
            self._beside.uncovered.add("model")
        return self._writer.last(self._finish, more, model)

    # -- what was found -----------------------------------------------------------------------------------------------

    @property
    def covered_sha256(self) -> str:
        """Hex digest of all bytes of the body, as they came."""
        return self._covered.hexdigest()

    @property
    def data_sha256(self) -> str:
        """Hex digest of salt || data LF data LF …, the receipt's `response.body` in form `salt32||sse-data-lf`."""
        return self._data.hexdigest()

    @property
    def receipt(self) -> bytes | None:
        """The statement's record, without what only the request can show; None without a statement."""
        return None if self.statement is None else evidence_record(self.statement, self.answer())

    @property
    def uncovered(self) -> tuple[str, ...]:
        """What went on and no signature covers."""
        return self._beside.uncovered.tuple()

    @property
    def withheld(self) -> tuple[str, ...]:
        """What the node sent and did not go on."""
        return self._beside.withheld.tuple()

    def answer(self) -> SignedAnswer:
        """For the appraisal. The output is known once the stream has ended."""
        outputs = None
        if self.ended:
            outputs = toolcall_outputs(self._calls.signed()) if self._calls_signed() else ("".join(self._text),)
        return SignedAnswer(Surface.CHAT, outputs, self.observation(), self._calls_signed(), self._beside_names())

    def observation(self) -> Observation:
        calls = observed(self._calls.signed())
        if self._legacy is not None:
            calls += (Call("function_call", self._legacy.name or "", self._legacy.arguments),)
        calls += tuple(self._strays)
        usage = self._usage or {}
        return Observation(
            malformed=self._malformed,
            shape=self._shape_problem(),
            stream_grammar=self._grammar,
            models=tuple(self._models),
            answer_id=self.answer_id,
            calls=calls,
            declared=self._head.tools,
            text_is_call=bool(self._head.tools) and not calls and reads_as_call("".join(self._text)),
            stream=True,
            input_tokens=usage.get("prompt_tokens"),
            output_tokens=usage.get("completion_tokens"),
        )

    def content(self) -> Content:
        """What went on: the text of choice 0 and the calls."""
        if not self._calls_signed():
            return Content("".join(self._text))
        text = "".join(self._text) if self._passed else ""
        return Content(text, toolcall_bytes(observed(self._calls.signed())))

    def _calls_signed(self) -> bool:
        return self._finish == "tool_calls" and bool(self._calls)

    def _shape_problem(self) -> str | None:
        if self._others or self._head.n != 1:
            return f"more than the one choice that is signed, where {self._head.n} were asked for"
        return None

    def _beside_names(self) -> tuple[str, ...]:
        found = ["choices"] if self._others else []
        if self._legacy is not None:
            found.append("function_call")
        found += dict.fromkeys(call.kind for call in self._strays)
        if self._calls and not self._calls_signed():
            found.append("tool_calls")
        if self._calls_signed() and "".join(self._text).strip():
            found.append("content")
        return tuple(found)
