"""Reading a JSON answer: its model, choices, text and executable members, for each of the six APIs.

Reading is strict (UTF-8, one object, no member twice, finite numbers). What was read is an `Observation` for the
appraisal and `Content` for the receipt; the bytes are not changed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError
from gateway.model.observation import Call, Observation

from .head import Head
from .strays import EXECUTABLE_SUFFIXES, IN_ANSWER, NOWHERE, stray_calls

#: Ids that a person, a header and a log line can bear.
_ID = re.compile(r"[!-~]{0,512}")
_members_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_members_of_each = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_OF_CALLS = frozenset(("name", "function", "tool_calls"))
#: Members that only we may put on an answer. A node that sends one has it taken off.
OURS = ("verification", "receipt", "x_veriroute")
OURS_SET = frozenset(OURS)
#: Of the items that make an agent act, those that hold the name of what is run. In any other a name runs nothing.
NAMED = frozenset(("function_call", "custom_tool_call", "mcp_call", "mcp_approval_request"))


class Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class Custom(msgspec.Struct):
    name: str | None = None
    input: str | None = None


class ToolCall(msgspec.Struct):
    index: int | None = None
    type: str | None = None
    function: Function | None = None
    custom: Custom | None = None


class Message(msgspec.Struct):
    content: str | list[Any] | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None
    refusal: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None


class Choice(msgspec.Struct):
    index: int = 0
    message: Message | None = None
    delta: Message | None = None
    text: str | None = None
    finish_reason: str | None = None
    error: Any = None


class Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class Part(msgspec.Struct):
    """An output item, or a content part or block; the union of what the three APIs put there."""

    type: str | None = None
    id: Any = None
    call_id: Any = None
    text: str | None = None
    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    input: Any = msgspec.UNSET  # null is an input, and no object
    content: list[Part] | str | dict[str, Any] | None = None
    server_label: str | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        # Each is an object in one kind of part alone. Elsewhere readers would differ on what it means.
        if isinstance(self.arguments, dict) and self.type != "tool_search_call":
            raise ValueError("the arguments of a call are an object")
        if isinstance(self.content, dict) and not (self.type or "").endswith("_tool_result"):
            raise ValueError("the content of a part is an object")


class Answer(msgspec.Struct):
    id: str | None = None
    object: str | None = None
    model: str | None = None
    choices: list[Choice] | None = None
    output: list[Part] | None = None
    content: list[Part] | None = None
    data: list[Any] | None = None
    results: Any = None
    usage: Usage | None = None
    error: Any = None


class Content(msgspec.Struct, frozen=True):
    """What the receipt commits to beside the body: the text of choice 0, and each call as `name 00 arguments 0A`."""

    text: str = ""
    toolcalls: bytes = b""


def read_answer(head: Head, body: bytes) -> tuple[Observation, Content, tuple[str, ...]]:
    """What `body` holds, as an answer to a request with `head`; last, its members that only we may set.

    Total: a bad body is an observation that says so.
    """
    try:
        document, answer, strays = parse_answer(body, IN_ANSWER.get(head.endpoint, NOWHERE))
    except FormatError as error:
        return Observation(malformed=str(error), declared=head.tools), Content(), ()
    if answer.error is not None:
        seen = Observation(shape="an error object with a success status", declared=head.tools)
        return seen, Content(), foreign_members(document)
    shape, text, calls = _READERS[head.endpoint](head, answer)
    calls += strays
    usage = answer.usage or Usage()
    observation = Observation(
        shape=shape,
        models=(answer.model,) if answer.model else (),
        answer_id=answer.id,
        calls=calls,
        declared=head.tools,
        custom=head.custom,
        text_is_call=bool(head.tools) and not calls and reads_as_call(text),
        input_tokens=usage.prompt_tokens if usage.prompt_tokens is not None else usage.input_tokens,
        output_tokens=usage.completion_tokens if usage.completion_tokens is not None else usage.output_tokens,
    )
    return observation, Content(text, toolcall_bytes(calls)), foreign_members(document)


def parse_answer(body: bytes, read: frozenset[str]) -> tuple[dict[str, Any], Answer, tuple[Call, ...]]:
    """The whole document, the members we read, and calls at other places than `read`. Raises `FormatError` for anything
    but one strict JSON object."""
    document = strict_json(body, max_bytes=len(body), max_depth=256)
    if not isinstance(document, dict):
        raise FormatError("the answer is not a JSON object")
    refuse_bad_id(document)
    strays = stray_calls(document, body, read)
    try:
        return document, msgspec.convert(document, Answer), strays
    except msgspec.ValidationError as error:
        raise FormatError(f"the answer is not what it should be: {error}") from None


def refuse_bad_id(answer: dict[str, Any]) -> None:
    """Raise `FormatError` when `answer` has an id that is no text of up to 512 visible ASCII characters, or that climbs
    as a path does: agents write it into file names, paths and logs."""
    if "id" in answer:
        value = answer["id"]
        if not isinstance(value, str) or _ID.fullmatch(value) is None:
            raise FormatError("the id of the answer is not a text of at most 512 visible ASCII characters")
        if ".." in value and ".." in value.replace("\\", "/").split("/"):
            raise FormatError("the id of the answer is a path")


def foreign_members(document: dict[str, Any]) -> tuple[str, ...]:
    """The members of an answer that only we may set: a node must not be able to speak in our name."""
    if OURS_SET.isdisjoint(document) and "veriroute" not in "\n".join(document):
        return ()
    return tuple(name for name in document if name in OURS or name.startswith(("x_veriroute", "x-veriroute")))


def without(body: bytes, dropped: tuple[str, ...]) -> bytes:
    """`body` (already read strictly) without its top-level members `dropped`; every other member keeps its bytes."""
    return msgspec.json.encode({k: v for k, v in _members_of(body).items() if k not in dropped})


def without_inside(body: bytes, member: str, dropped: tuple[str, ...]) -> bytes:
    """`body` (already read strictly), whose member `member` is an object, with that one `without` its `dropped`."""
    members = _members_of(body)
    members[member] = msgspec.Raw(without(bytes(members[member]), dropped))
    return msgspec.json.encode(members)


def reads_as_call(text: str) -> bool:
    """Whether a text answer parses as a list of tool calls, which some frameworks would then run."""
    start = text.lstrip()[:1]
    if start not in ("{", "["):
        return False
    try:  # no value is read, only where each ends: a model may write numbers that take long to read
        items = _members_of_each(text) if start == "[" else [_members_of(text)]
    except (msgspec.MsgspecError, RecursionError):
        return False
    return bool(items) and not any(_OF_CALLS.isdisjoint(item) for item in items)


def toolcall_bytes(calls: tuple[Call, ...]) -> bytes:
    """Each call as `name 00 arguments 0A`, in order (receipt subject `response.toolcalls`)."""
    return b"".join([c.name.encode() + b"\0" + (c.arguments or "").encode() + b"\n" for c in calls])


def message_calls(message: Message) -> list[Call]:
    """The executable members of one chat message."""
    calls = [tool_call(call) for call in message.tool_calls or ()]
    if message.function_call is not None:
        calls.append(Call("function_call", message.function_call.name or "", message.function_call.arguments))
    return calls


def tool_call(call: ToolCall) -> Call:
    """What an agent runs of an entry of `tool_calls`: what its `type` says, and where it has none, what is there."""
    if call.type == "custom" or (not call.type and call.function is None):
        custom = call.custom or Custom()
        return Call("custom", custom.name or "", custom.input)
    function = call.function or Function()
    return Call("tool_calls", function.name or "", function.arguments)


def calls_problem(calls: Iterable[ToolCall]) -> str | None:
    """Why one of `calls` may be run as something else than `tool_call` says; None when none may."""
    for call in calls:
        if call.function is not None and call.custom is not None:
            return "a tool call is both a function's and a custom one"
        if call.type and call.type not in ("function", "custom"):
            return f"a tool call is of the type {call.type[:40]!r}"
    return None


def part_call(part: Part) -> Call | None:
    """The call that an output item or content block is, if it is one."""
    kind = part.type
    if kind is None or not kind.endswith(EXECUTABLE_SUFFIXES):
        return None
    if kind.endswith("tool_use"):
        given = None if part.input is msgspec.UNSET else msgspec.json.encode(part.input).decode()
        return Call(kind, part.name or "", given, part.server_name if kind == "mcp_tool_use" else None)
    if kind == "custom_tool_call":
        return Call(kind, part.name or "", part.input if isinstance(part.input, str) else None)
    if kind in NAMED:
        server = part.server_label if kind.startswith("mcp_") else None
        return Call(kind, part.name or "", part.arguments, server)  # type: ignore[arg-type]  # none of these has an object
    # Calls of built-in tools carry no name; their type without `_call` is what the request declares.
    return Call(kind, kind.removesuffix("_call"), "{}")


def _chat(head: Head, answer: Answer) -> tuple[str | None, str, tuple[Call, ...]]:
    choices = answer.choices or []
    text = ""
    calls: list[Call] = []
    problem = _choices_problem(head, choices)
    for choice in choices:
        message = choice.message or Message()
        if choice.index == 0:
            text = message.content if isinstance(message.content, str) else ""
        if message.tool_calls:
            problem = problem or calls_problem(message.tool_calls)
        calls += message_calls(message)
    return problem, text, tuple(calls)


def _completion(head: Head, answer: Answer) -> tuple[str | None, str, tuple[Call, ...]]:
    choices = answer.choices or []
    text = next((c.text or "" for c in choices if c.index == 0), "")
    messages = [c.message for c in choices if c.message is not None]  # some agents look there, too
    problem = _choices_problem(head, choices) or calls_problem(c for m in messages for c in m.tool_calls or ())
    return problem, text, tuple(call for message in messages for call in message_calls(message))


def _choices_problem(head: Head, choices: list[Choice]) -> str | None:
    if head.n == 1 and len(choices) == 1 and choices[0].index == 0:  # nearly every answer
        return None
    indices = sorted(c.index for c in choices)
    if indices != list(range(head.n)):
        return f"choices {indices[:8]} where {head.n} were asked for"
    return None


def _embeddings(head: Head, answer: Answer) -> tuple[str | None, str, tuple[Call, ...]]:
    return (None if answer.data else "no embeddings in the answer"), "", ()


def _moderations(head: Head, answer: Answer) -> tuple[str | None, str, tuple[Call, ...]]:
    found = answer.results
    return (None if isinstance(found, list) and found else "no results in the answer"), "", ()


def _responses(head: Head, answer: Answer) -> tuple[str | None, str, tuple[Call, ...]]:
    if answer.output is None:
        return "no output in the answer", "", ()
    return None, parts_text(answer.output, "output_text"), parts_calls(answer.output)


def _messages(head: Head, answer: Answer) -> tuple[str | None, str, tuple[Call, ...]]:
    if answer.content is None:
        return "no content in the answer", "", ()
    # What a tool of the server found is in the content of its block: no text of the answer.
    text = "".join([part.text for part in answer.content if part.type == "text" and part.text])
    return None, text, parts_calls(answer.content)


def parts_text(parts: list[Part], kind: str) -> str:
    """The text of those parts of output items that are of the type `kind`."""
    texts = []
    for part in parts:
        if part.text is not None:
            if part.type == kind:
                texts.append(part.text)
        elif isinstance(part.content, list):
            texts.append(parts_text(part.content, kind))
    return "".join(texts)


def parts_calls(parts: list[Part]) -> tuple[Call, ...]:
    """The calls among output items or content blocks."""
    return tuple(call for part in parts if (call := part_call(part)) is not None)


_READERS = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/embeddings": _embeddings,
    "/v1/moderations": _moderations,
    "/v1/responses": _responses,
    "/v1/messages": _messages,
}
#: Endpoints whose answers `read_answer` reads.
READABLE = frozenset(_READERS)
