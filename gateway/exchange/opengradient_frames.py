"""Writing the frames of a stream for the agent, and gathering tool calls from their fragments."""

from __future__ import annotations

import msgspec

from gateway.verify.opengradient.canonical import SignedCall

from .opengradient_members import MAX_CALLS, ToolCall
from .stream import CALL, FINISH, TEXT, Piece

_encode = msgspec.json.Encoder().encode


class FrameWriter:
    """Writes `chat.completion.chunk` frames of choice 0. `model` is what the node's frame names, None for ours."""

    def __init__(self, model: str, answer_id: str, created: int) -> None:
        self._model = model
        self._id = answer_id
        self._created = created
        self._prefixes: dict[str, bytes] = {}
        self._role = b'"role":"assistant",'  # in the first frame that has a delta

    def text(self, text: str, model: str | None) -> Piece:
        return Piece(TEXT, self._delta(model, b'"content":' + _encode(text)))

    def call(self, number: int, call: dict[str, object], model: str | None) -> Piece:
        return Piece(CALL, self._delta(model, b'"tool_calls":' + _encode([{"index": number, **call}])))

    def last(self, finish: str | None, more: dict[str, object], model: str | None) -> Piece:
        """The frame that says why the answer stops; `more` are members of the frame itself."""
        tail = b"," + _encode(more)[1:] if more else b"}"
        out = (self._start(model), b'},"finish_reason":', _encode(finish), b"}]", tail, b"\n\n")
        return Piece(FINISH, b"".join(out))

    def _delta(self, model: str | None, member: bytes) -> bytes:
        role, self._role = self._role, b""
        return b"".join((self._start(model), role, member, b'},"finish_reason":null}]}\n\n'))

    def _start(self, model: str | None) -> bytes:
        """The frame up to the members of its delta."""
        name = self._model if model is None else model
        prefix = self._prefixes.get(name)
        if prefix is None:
            shell = {"id": self._id, "object": "chat.completion.chunk", "created": self._created, "model": name}
            prefix = b"data: " + _encode(shell)[:-1] + b',"choices":[{"index":0,"delta":{'
            self._prefixes = {name: prefix}  # one: a node that changes the name with every frame fills nothing
        return prefix


class _Gathering:
    """One call in the making."""

    def __init__(self) -> None:
        self.id: str | msgspec.UnsetType | None = msgspec.UNSET
        self.name: str | msgspec.UnsetType | None = msgspec.UNSET
        self.arguments: list[str] = []


class Calls:
    """Tool calls, put together as the node does it: the last id and name that are something count, arguments are
    joined, calls stand in the order of their index."""

    def __init__(self) -> None:
        self._calls: dict[int, _Gathering] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, fragment: ToolCall) -> str | None:
        """Take a fragment in; what is wrong with it, if anything."""
        index = fragment.index or 0
        if not 0 <= index < MAX_CALLS:
            return f"a tool call's index is not 0 to {MAX_CALLS - 1}"
        call = self._calls.setdefault(index, _Gathering())
        if fragment.id is not msgspec.UNSET and (fragment.id or not call.id):
            call.id = fragment.id
        function = fragment.function
        if function is not None:
            if function.name is not msgspec.UNSET and (function.name or not call.name):
                call.name = function.name
            if function.arguments:
                call.arguments.append(function.arguments)
        return None

    def signed(self) -> tuple[SignedCall, ...]:
        return tuple(SignedCall(c.id, c.name, "".join(c.arguments)) for _, c in sorted(self._calls.items()))
