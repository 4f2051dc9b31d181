"""Following a stream: the grammar of each API, what its events carry, and which bytes the node's evidence must cover.

`StreamReader.feed(data)` turns the node's bytes into `Piece`s, each the exact bytes that may go on to the agent and the
kind that the release rules need:

    text     an ordinary event
    call     part of an executable member, or what could be one: held to the verdict in every release mode
    finish   says that the answer is complete: held, so that no success is announced before the verdict
    end      the protocol's own terminator
    chain    not for the agent: a running signature, over all covered bytes before it

Of an event that is not strict JSON, or not of the API's form, nothing goes on: readers differ on such bytes, and a
client could find in them what was not seen here. It is a `call` of no bytes, so that what follows waits too.

Covered bytes are all bytes of the body but chain comments and the receipt event (docs/node-profile.md, section 4). The
digest that the receipt commits to runs over `data` + LF of every event, the `[DONE]` left out, so that it does not
depend on framing.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError
from gateway.model.observation import Call, Observation

from .alike import Alike, alike
from .answer import (
    Answer,
    Content,
    Custom,
    Function,
    Part,
    ToolCall,
    Usage,
    calls_problem,
    foreign_members,
    part_call,
    parts_calls,
    parts_text,
    reads_as_call,
    refuse_bad_id,
    tool_call,
    toolcall_bytes,
    without,
    without_inside,
)
from .head import Head
from .sse import Block, Framer, format_event
from .strays import IN_EVENT, stray_calls

DONE = b"[DONE]"
#: As many names of members as a receipt holds.
MOST_DROPPED = 64
#: How the names of events begin that only we may send.
OURS_EVENTS = b"veriroute"
#: How servers name the event of an error, in whatever form they tell it.
ERROR = b"error"
TEXT, CALL, FINISH, END, CHAIN = "text", "call", "finish", "end", "chain"
#: After so many events that were like none before, none is looked for any more.
UNLIKE = 8


class Wire(msgspec.Struct, frozen=True):
    """Where a network's evidence stands in a stream: the event that holds the receipt, the comment of the chain."""

    receipt_event: bytes
    chain_comment: bytes


class Piece(msgspec.Struct, frozen=True):
    """`out` may go to the agent under the release rules for `kind`. For CHAIN, `out` is the comment's text, and
    `covered` the SHA-256, not yet asked for its digest, over all covered bytes before it; None when a later one came
    with it, which covers all that it does."""

    kind: str
    out: bytes
    covered: Any = None

    @property
    def digest(self) -> str:
        """For CHAIN: hex SHA-256 of all covered bytes before it."""
        return cast("str", self.covered.hexdigest())


class UpstreamError(Exception):
    """The node reported an error inside the stream. Its text is not for the agent."""


class StreamReader:
    """Observes one stream as it passes. Problems are kept for the appraisal; only `UpstreamError` is raised."""

    def __init__(self, head: Head, wire: Wire, body_salt: bytes, *, max_event: int) -> None:
        self.receipt: bytes | None = None
        self.receipt_problem: str | None = None
        self.ended = False
        self._done = False  # `[DONE]` came behind the terminator of an API that has another
        self.rebuilt = False
        self.dropped_members: tuple[str, ...] = ()  # the first of them: a node may send as many as it likes
        self.uncovered: tuple[str, ...] = ()
        self._foreign: tuple[str, ...] = ()
        self._inside: tuple[str, ...] = ()  # of the answer that the event holds
        self._head = head
        self._wire = wire
        self._chain_prefix = wire.chain_comment + b" "
        self._framer = Framer(max_event)
        self._covered = hashlib.sha256()
        self._data = hashlib.sha256(body_salt)
        self._said: list[bytes] = []  # what `_data` has yet to take in
        self._alike: Alike | None = None
        self._unlike = 0
        self._protocol: _Protocol = _PROTOCOLS[head.endpoint](head)
        self._strays: list[Call] = []
        self._malformed: str | None = None
        self._grammar: str | None = None

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that `data` completes. Raises `UpstreamError`; `FormatError` when an event is over the limit."""
        pieces: list[Piece] = []
        covered: list[bytes] = []
        chains = before = 0
        for block in self._framer.feed(data):
            piece = self._block(block, covered)
            if piece is not None:
                pieces.append(piece)
                if piece.kind == CHAIN:
                    chains, before = len(pieces), len(covered)
        if chains:
            self._covered.update(b"".join(covered[:before]))
            pieces[chains - 1] = Piece(CHAIN, pieces[chains - 1].out, self._covered.copy())
        self._covered.update(b"".join(covered[before:]))
        if self._said:
            self._data.update(b"\n".join([*self._said, b""]))
            self._said.clear()
        return pieces

    def finish(self) -> str | None:
        """Call at the end of the body. Says what is missing when the stream was cut, None when it was complete."""
        if not self.ended:
            return "the stream ended without its terminator"
        if self._framer.rest.strip(b"\r\n"):
            return "the stream ended inside an event"
        return None

    @property
    def covered_sha256(self) -> str:
        return self._covered.hexdigest()

    @property
    def data_sha256(self) -> str:
        """Hex digest of salt || data LF data LF …, the receipt's `response.body` in form `salt32||sse-data-lf`."""
        return self._data.hexdigest()

    def observation(self) -> Observation:
        p = self._protocol
        text = "".join(p.text)
        calls = self._calls()
        return Observation(
            malformed=self._malformed,
            shape=p.shape(),
            stream_grammar=self._grammar or p.problem,
            models=tuple(p.models),
            answer_id=p.answer_id,
            calls=calls,
            declared=self._head.tools,
            custom=self._head.custom,
            text_is_call=bool(self._head.tools) and not calls and reads_as_call(text),
            stream=True,
            input_tokens=p.input_tokens,
            output_tokens=p.output_tokens,
        )

    def content(self) -> Content:
        return Content("".join(self._protocol.text), toolcall_bytes(self._calls()))

    def _calls(self) -> tuple[Call, ...]:
        return (*self._protocol.finished_calls(), *self._strays)

    def _block(self, block: Block, covered: list[bytes]) -> Piece | None:
        if block.event == self._wire.receipt_event:
            self._take_receipt(block)
            return None
        if block.data is None:
            chain = self._chain(block)
            if chain is None:
                covered.append(block.raw)
                self.rebuilt = True  # comments, retry and empty blocks stay here
            return chain
        covered.append(block.raw)
        if self.ended:
            if block.data == DONE and self._protocol.named and not self._done:
                self._done = self.rebuilt = True  # some servers end the streams of all APIs with it, too
            else:
                self._grammar = self._grammar or "data after the terminator"
            return None
        try:
            kind = self._event(block)
        except FormatError as error:
            self._malformed = self._malformed or str(error)
            self.rebuilt = True
            return Piece(CALL, b"")
        if kind == END:
            self.ended = True
        if block.plain and not (block.event and not self._protocol.named) and not self._foreign and not self._inside:
            return Piece(kind, block.raw)
        return self._rewrite(kind, block)

    def _event(self, block: Block) -> str:
        data = block.data
        assert data is not None
        if data == DONE:
            if not self._protocol.started:
                self._grammar = self._grammar or "the terminator came first"
            if not self._protocol.named:
                return END
        elif block.event == ERROR:
            raise UpstreamError
        self._said.append(data)
        protocol = self._protocol
        if self._alike is not None and (text := self._alike.text(data)) is not None:
            protocol.another(text)
            self._unlike = 0
            return TEXT
        texts = len(protocol.text)
        document = strict_json(data, max_bytes=len(data), max_depth=256)
        if not isinstance(document, dict):
            raise FormatError("an event is not a JSON object")
        strays = stray_calls(document, data, IN_EVENT[self._head.endpoint])
        try:
            kind = protocol.event(block.event, document)
        except msgspec.ValidationError as error:
            raise FormatError(f"an event is not what it should be: {error}") from None
        if strays:
            self._strays += strays
            kind = CALL if kind == TEXT else kind
        self._foreign = foreign_members(document)
        if not protocol.answer:
            refuse_bad_id(document)
        elif answer := document.get(protocol.answer):
            refuse_bad_id(answer)
            self._inside = foreign_members(answer)
        self._alike = None
        said = kind == TEXT and len(protocol.text) == texts + 1 and not self._foreign
        if said and protocol.way and self._unlike < UNLIKE:
            self._unlike += 1
            self._alike = alike(data, document, *protocol.way)
        return kind

    def _rewrite(self, kind: str, block: Block) -> Piece:
        """The event re-written by allow-list: its name where the API has names, and its data less what is ours."""
        self.rebuilt = True
        data = block.data or b""
        if self._inside:
            data = without_inside(data, self._protocol.answer, self._inside)
            self._dropped(f"{self._protocol.answer}.{name}" for name in self._inside)
            self._inside = ()
        if self._foreign:
            data = without(data, self._foreign)
            self._dropped(self._foreign)
            self._foreign = ()
        # On one line: outside of strings, which have none, a line feed is white space, and an agent that reads line by
        # line would take what stands on one of several for an event of its own.
        data = data.replace(b"\n", b" ")
        return Piece(kind, format_event(data, block.event if self._protocol.named else b""))

    def _dropped(self, names: Iterable[str]) -> None:
        if len(self.dropped_members) < MOST_DROPPED:
            self.dropped_members = tuple(dict.fromkeys((*self.dropped_members, *names)))[:MOST_DROPPED]

    def _chain(self, block: Block) -> Piece | None:
        """A chain comment, when the block, which has no data, is exactly one; any other is covered like the rest."""
        if len(block.comments) != 1:
            return None
        comment = block.comments[0]
        if not comment.startswith(self._chain_prefix) or block.raw != b": " + comment + b"\n\n":
            return None
        return Piece(CHAIN, comment)

    def _take_receipt(self, block: Block) -> None:
        if not self.ended:
            self.receipt_problem = "malformed: the receipt came before the terminator"
        elif self.receipt is not None:
            self.receipt_problem = "malformed: two receipts"
        self.receipt = block.data or b""


class _Protocol(ABC):
    """What one API's events mean. `event` gives the kind of a piece and keeps the facts."""

    named = False  # whether events carry `event:` names
    started = False
    answer = ""  # the member that SDKs make the whole answer of, where an event has one
    way: tuple[str, ...] = ()  # from an event's one choice to its text; empty: its events have no such thing

    def __init__(self, head: Head) -> None:
        self.head = head
        self.text: list[str] = []
        self.models: list[str] = []
        self.answer_id: str | None = None
        self.problem: str | None = None
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None

    @abstractmethod
    def event(self, name: bytes, document: dict[str, Any]) -> str: ...

    def another(self, text: str) -> None:
        """An event like one before that gave TEXT, with `text` in place of its text."""
        if text:
            self.text.append(text)

    @abstractmethod
    def shape(self) -> str | None: ...

    @abstractmethod
    def finished_calls(self) -> list[Call]: ...

    def _model(self, model: str | None) -> None:
        if model and model not in self.models and len(self.models) < 4:
            if self.models:
                self.problem = self.problem or "the model changes between events"
            self.models.append(model)

    def _usage(self, usage: Usage | None) -> None:
        if usage is not None:
            given = usage.prompt_tokens if usage.prompt_tokens is not None else usage.input_tokens
            made = usage.completion_tokens if usage.completion_tokens is not None else usage.output_tokens
            self.input_tokens = given if given is not None else self.input_tokens
            self.output_tokens = made if made is not None else self.output_tokens


class _Chat(_Protocol):
    """/v1/chat/completions and /v1/completions: nameless chunks, `[DONE]` at the end."""

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        self._chat = head.endpoint == "/v1/chat/completions"
        self.way = ("delta", "content") if self._chat else ("text",)
        self._finished: set[int] = set()
        self._seen: set[int] = set()
        self._calls: dict[tuple[int, str, int], list[ToolCall]] = {}

    def event(self, name: bytes, document: dict[str, Any]) -> str:
        self.started = True
        chunk = msgspec.convert(document, Answer)
        if chunk.error is not None or chunk.object == "error":
            raise UpstreamError
        if chunk.id:  # empty where a server says something of the request first, as Azure does
            if self.answer_id is not None and chunk.id != self.answer_id:
                self.problem = self.problem or "the id changes between events"
            self.answer_id = chunk.id
        self._model(chunk.model)
        self._usage(chunk.usage)
        kind = TEXT
        choices = chunk.choices or ()
        if len(choices) > 1 and len({choice.index for choice in choices}) < len(choices):
            self.problem = self.problem or "an event has one choice twice"
        for choice in choices:
            kind = self._choice(choice, kind)
        return FINISH if kind == TEXT and self._finished else kind

    def _choice(self, choice: Any, kind: str) -> str:
        if choice.error is not None:
            raise UpstreamError
        index = choice.index
        if not 0 <= index < self.head.n:
            self.problem = self.problem or f"choice {index} where {self.head.n} were asked for"
        self._seen.add(index)
        if choice.message is not None:  # some agents look there, too
            self.problem = self.problem or "a whole message in a stream"
            kind = CALL
        delta = choice.delta
        content = None if self._chat else choice.text
        calls = more = False
        if delta is not None:
            more = bool(delta.content or delta.refusal or delta.reasoning_content or delta.reasoning)
            if self._chat and isinstance(delta.content, str):
                content = delta.content
            calls = bool(delta.tool_calls) or delta.function_call is not None
            for call in delta.tool_calls or ():
                self._calls.setdefault((index, "tool_calls", call.index or 0), []).append(call)
            if delta.function_call is not None:
                call = ToolCall(function=delta.function_call)
                self._calls.setdefault((index, "function_call", 0), []).append(call)
        if index in self._finished and (content or calls or more):
            self.problem = self.problem or "content after the finish event"
        if content and index == 0:
            self.text.append(content)
        if choice.finish_reason:  # some servers write "" for null
            self._finished.add(index)
        return CALL if calls else kind

    def shape(self) -> str | None:
        if self._seen != set(range(self.head.n)):
            return f"choices {sorted(self._seen)[:8]} where {self.head.n} were asked for"
        return calls_problem(map(_joined, self._calls.values()))

    def finished_calls(self) -> list[Call]:
        found = []
        for (_, kind, _), deltas in self._calls.items():
            call = tool_call(_joined(deltas))
            found.append(Call(call.kind if kind == "tool_calls" else kind, call.name, call.arguments))
        return found


def _joined(deltas: list[ToolCall]) -> ToolCall:
    """The call that `deltas` amount to, as SDKs put it together: texts one behind the other, of types the last."""
    call = ToolCall(type=next((d.type for d in reversed(deltas) if d.type), None))
    if functions := [d.function for d in deltas if d.function is not None]:
        call.function = Function(_text(f.name for f in functions), _said(f.arguments for f in functions))
    if customs := [d.custom for d in deltas if d.custom is not None]:
        call.custom = Custom(_text(c.name for c in customs), _said(c.input for c in customs))
    return call


def _text(parts: Iterable[str | None]) -> str:
    return _said(parts) or ""


def _said(parts: Iterable[str | None]) -> str | None:
    """`parts` as one text; None where there is none, which to an agent is no text, and not an empty one."""
    texts = [part for part in parts if part is not None]
    return "".join(texts) if texts else None


class _Named(_Protocol):
    """An API whose events say what they are twice: by their name, and by their member `type`."""

    named = True
    form: type[msgspec.Struct]

    def event(self, name: bytes, document: dict[str, Any]) -> str:
        event: Any = msgspec.convert(document, self.form)
        if event.error is not None:  # nameless, as many servers send it: SDKs look for it in any event
            raise UpstreamError
        if name.startswith(OURS_EVENTS) or (event.type or "").startswith(OURS_EVENTS.decode()):
            raise FormatError("an event has a name that only the gateway may use")
        found = self._read(event.type or name.decode("ascii", "replace"), event)
        if not name or event.type is None or name == event.type.encode():
            return found
        self.problem = self.problem or "an event's name and type differ"
        return CALL if found == TEXT else found  # read here by its type, it may be another thing to who goes by names

    @abstractmethod
    def _read(self, kind: str, event: Any) -> str: ...


class _Item(msgspec.Struct):
    item: Part | None = None
    response: Answer | None = None
    delta: Any = None
    type: str | None = None
    output_index: int | None = None
    item_id: Any = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    error: Any = None

    @property
    def place(self) -> int | str:
        """Which item it is about: some servers (llama.cpp) number none, and tell items apart by their ids."""
        if self.output_index is not None:
            return self.output_index
        ids = (self.item_id,) if self.item is None else (self.item.id, self.item.call_id)
        return next((name for name in ids if isinstance(name, str)), 0)


#: How the names of events end that say arguments, or the input, of a call: a piece of them, or all.
_ARGUMENTS = ("_arguments.delta", "_arguments.done", "_input.delta", "_input.done")


class _Responses(_Named):
    """/v1/responses: named events; `response.completed` or `response.incomplete` ends the stream.

    A call is said up to four times: as it begins, in pieces of its arguments, when it is done, and in the response at
    the end. Agents rely on any of them, so each counts, and they have to agree.
    """

    form = _Item
    answer = "response"

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        self._begun: dict[int | str, tuple[Call, list[str]]] = {}  # by place; the texts are the arguments
        self._calls: list[Call] = []
        self._times: Counter[Call] = Counter()  # how often each of them is in there

    def _read(self, kind: str, event: _Item) -> str:
        self.started = True
        if kind in ("error", "response.failed"):
            raise UpstreamError
        found = CALL if "_call" in kind else TEXT
        if event.item is not None and (call := part_call(event.item)) is not None:
            found = CALL
            self._item(kind, event.place, call)
        if kind.endswith(_ARGUMENTS):
            self._arguments(event)
        ended = kind in ("response.completed", "response.incomplete")
        if ended:
            for call in self._unfinished():
                self._take(call)
            self._begun.clear()
        if event.response is not None and self._response(event.response):
            found = CALL
        if kind == "response.output_text.delta" and isinstance(event.delta, str):
            self.text.append(event.delta)
        if ended and event.response is not None:
            self._final_text(parts_text(event.response.output or [], "output_text"))
        return END if ended else found

    def _response(self, response: Answer) -> bool:
        """Whether there are calls in `response`. Those that were not streamed are added."""
        if response.error is not None:
            raise UpstreamError
        if response.id is not None:
            if self.answer_id is not None and response.id != self.answer_id:
                self.problem = self.problem or "the id changes between events"
            self.answer_id = response.id
        self._model(response.model)
        self._usage(response.usage)
        calls = parts_calls(response.output or [])
        streamed = bool(self._calls)
        here: Counter[Call] = Counter()
        for call in calls:
            here[call] += 1
            if here[call] > self._times[call]:
                if streamed:
                    self.problem = self.problem or "the response has a call that was not streamed"
                self._take(call)
        return bool(calls)

    def _take(self, call: Call) -> None:
        self._calls.append(call)
        self._times[call] += 1

    def _final_text(self, said: str) -> None:
        """The text of the response at the end, which agents take for the answer: what was streamed, where any was."""
        streamed = "".join(self.text)
        if streamed and said and streamed != said:
            self.problem = self.problem or "the response has another text than was streamed"
        if said:
            self.text[:] = [said]

    def _item(self, kind: str, at: int | str, call: Call) -> None:
        if kind != "response.output_item.done":
            if at in self._begun:
                self.problem = self.problem or "an output item begins twice"
            self._begun[at] = call, []
            return
        begun, parts = self._begun.pop(at, (call, []))
        said = Call(begun.kind, begun.name, "".join(parts) or begun.arguments or call.arguments, begun.server)
        if said != call:
            self.problem = self.problem or "a call differs from what was streamed of it"
        self._take(call)

    def _arguments(self, event: _Item) -> None:
        whole = event.input if event.arguments is None else event.arguments
        at = event.place
        if at not in self._begun:
            self.problem = self.problem or "arguments of no call"
            return
        begun, parts = self._begun[at]
        if isinstance(event.delta, str):
            parts.append(event.delta)
        if whole is not None:
            if "".join(parts) not in ("", whole) or event.name not in (None, "", begun.name):
                self.problem = self.problem or "a call differs from what was streamed of it"
            parts[:] = [whole]

    def _unfinished(self) -> list[Call]:
        begun = self._begun.values()
        return [Call(c.kind, c.name, "".join(parts) or c.arguments, c.server) for c, parts in begun]

    def shape(self) -> str | None:
        return None if self.answer_id is not None else "no response in the stream"

    def finished_calls(self) -> list[Call]:
        return [*self._calls, *self._unfinished()]


class _BlockStart(msgspec.Struct):
    type: str | None = None
    index: int = 0
    message: Answer | None = None
    content_block: Part | None = None
    delta: dict[str, Any] | None = None
    usage: Usage | None = None
    error: Any = None


class _Messages(_Named):
    """/v1/messages: named events from `message_start` to `message_stop`."""

    form = _BlockStart
    answer = "message"

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        self._blocks: list[tuple[Call | None, list[str]]] = []  # as SDKs list them; the texts are a call's input
        self._stopped = False

    def _read(self, kind: str, event: _BlockStart) -> str:
        if kind == "error":
            raise UpstreamError
        if kind == "message_start":
            return self._start(event.message or Answer())
        if kind != "ping" and not self.started:
            self.problem = self.problem or f"{kind[:40]} before message_start"
        self._usage(event.usage)
        if kind == "message_stop":
            return END
        if kind == "message_delta":
            self._stopped = self._stopped or bool(event.delta and event.delta.get("stop_reason"))
            return FINISH
        if self._stopped and kind in ("content_block_start", "content_block_delta"):
            self.problem = self.problem or "content after the finish event"
        return self._content(kind, event)

    def _start(self, message: Answer) -> str:
        if self.started:
            self.problem = self.problem or "a second message_start"
        self.started = True
        self.answer_id = message.id
        self._model(message.model)
        self._usage(message.usage)
        kinds = [self._begin(part) for part in message.content or ()]
        return CALL if CALL in kinds else TEXT

    def _begin(self, block: Part) -> str:
        call = part_call(block)
        self._blocks.append((call, []))
        if call is None and block.text:
            self.text.append(block.text)
        return TEXT if call is None else CALL

    def _content(self, kind: str, event: _BlockStart) -> str:
        at = event.index
        if kind == "content_block_start" and event.content_block is not None:
            if at != len(self._blocks):
                self.problem = self.problem or f"content block {at} where {len(self._blocks)} is the next"
            return self._begin(event.content_block)
        call, parts = self._blocks[at] if 0 <= at < len(self._blocks) else (None, [])
        if kind == "content_block_delta" and event.delta is not None:
            partial, text = event.delta.get("partial_json"), event.delta.get("text")
            if call is not None and isinstance(partial, str):
                parts.append(partial)
            elif call is None and isinstance(text, str):
                self.text.append(text)
        return TEXT if call is None else CALL

    def shape(self) -> str | None:
        return None if self.started else "no message in the stream"

    def finished_calls(self) -> list[Call]:
        calls = [(call, "".join(parts)) for call, parts in self._blocks if call is not None]
        return [Call(c.kind, c.name, said or c.arguments or "{}", c.server) for c, said in calls]


_PROTOCOLS: dict[str, type[_Protocol]] = {
    "/v1/chat/completions": _Chat,
    "/v1/completions": _Chat,
    "/v1/responses": _Responses,
    "/v1/messages": _Messages,
}
STREAMABLE = frozenset(_PROTOCOLS)
