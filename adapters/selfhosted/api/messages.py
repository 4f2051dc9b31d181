"""POST /v1/messages: the Messages API, with content blocks and its own event names."""

from __future__ import annotations

import json
from typing import Any

from adapters.selfhosted.lm.engine import CallOpen, CallPart, Done, Engine, Event, Job, Text, Tool
from adapters.selfhosted.lm.prompt import Turn, encode_prompt
from gateway.errors import BadRequest

from . import fields
from .writer import Answer, Prepared, encode, named_event


def prepare(d: fields.Document, engine: Engine, label: str) -> Prepared:
    if d.get("max_tokens") is None:
        raise BadRequest("max_tokens is needed", param="max_tokens")
    tools = tuple(_tool(t, f"tools[{i}]") for i, t in enumerate(fields.items(d, "tools", 256)))
    turns = _turns(d)
    choice = fields.mapping(d.get("tool_choice") or {}, "tool_choice")
    job = Job(
        turns=turns,
        sampling=fields.sampling(d),
        limits=fields.limits(d, "max_tokens", stop="stop_sequences"),
        tools=tools,
        choose=_choose(choice, tools),
        parallel=choice.get("disable_parallel_tool_use") is not True,
    )
    return Prepared(job, fields.flag(d, "stream"), MessageWriter(label, engine, turns))


def _turns(d: fields.Document) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    if d.get("system") is not None:
        turns.append(("system", fields.content(d["system"], "system")))
    messages = fields.items(d, "messages")
    if not messages:
        raise BadRequest("messages must be a list of at least one message", param="messages")
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        message = fields.mapping(message, where)
        role = fields.text(message, "role", f"{where}.")
        if role not in ("user", "assistant"):
            raise BadRequest(f"{where}.role must be user or assistant", param=f"{where}.role")
        content = message.get("content")
        if isinstance(content, str):
            turns.append((role, content))
            continue
        if not isinstance(content, list):
            raise BadRequest(f"{where}.content must be a string or a list of blocks", param=f"{where}.content")
        turns += [_block(fields.mapping(b, f"{where}.content[]"), role, f"{where}.content") for b in content]
    return tuple(turns)


def _block(block: dict[str, Any], role: str, where: str) -> Turn:
    match block.get("type"):
        case "text":
            return role, fields.text(block, "text", f"{where}.")
        case "tool_use":
            return "call", fields.call_text(fields.text(block, "name", f"{where}."), json.dumps(block.get("input")))
        case "tool_result":
            return "tool", fields.content(block.get("content"), where)
        case kind:
            raise BadRequest(f"{where}: this model reads text only, not {kind!r:.40}", param=where)


def _tool(value: object, where: str) -> Tool:
    given = fields.mapping(value, where)
    if given.get("type", "custom") != "custom":
        raise BadRequest(f"{where}: only tools with an input_schema are served", param=where)
    return fields.tool(given.get("name"), given.get("input_schema"), where)


def _choose(value: dict[str, Any], tools: tuple[Tool, ...]) -> str:
    match value.get("type", "auto"):
        case "auto" | "none" as word:
            return str(word)
        case "any":
            return "required"
        case "tool" if value.get("name") in [tool.name for tool in tools]:
            return str(value["name"])
        case _:
            raise BadRequest("tool_choice is auto, any, none, or a tool that is among the tools", param="tool_choice")


class MessageWriter:
    """One message: a text block, or a tool_use block per call. The opening tells how many tokens `turns` have."""

    def __init__(self, label: str, engine: Engine, turns: tuple[Turn, ...]) -> None:
        self.answer = Answer("msg_", label)
        self._tokenizer = engine.weights.tokenizer
        self._turns = turns
        self._open = False

    def whole(self) -> bytes:
        return encode({**self._message(), "content": self._content(), **self._end(), "usage": self._usage()})

    def opening(self) -> list[bytes]:
        usage = {"input_tokens": len(encode_prompt(self._tokenizer, self._turns)), "output_tokens": 0}
        message = {**self._message(), "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        return [named_event("message_start", {"type": "message_start", "message": message})]

    def step(self, event: Event) -> list[bytes]:
        match event:
            case Text(_, piece):
                begin = [] if self._open else [self._begin(0, {"type": "text", "text": ""})]
                return [*begin, _delta(0, {"type": "text_delta", "text": piece.text})]
            case CallOpen(_, number, call_id, name):
                before = [_stop(number - 1)] if number else []
                block = {"type": "tool_use", "id": f"toolu_{call_id[5:]}", "name": name, "input": {}}
                return [*before, self._begin(number, block)]
            case CallPart(_, number, text):
                return [_delta(number, {"type": "input_json_delta", "partial_json": text})]
            case Done():
                begin = [] if self._open else [self._begin(0, {"type": "text", "text": ""})]
                return [*begin, _stop(max(0, len(self.answer.choices[0].calls) - 1))]
            case _:
                return []

    def closing(self) -> list[bytes]:
        delta = {"type": "message_delta", "delta": self._end(), "usage": self._usage()}
        return [named_event("message_delta", delta), named_event("message_stop", {"type": "message_stop"})]

    def _begin(self, index: int, block: dict[str, Any]) -> bytes:
        self._open = True
        start = {"type": "content_block_start", "index": index, "content_block": block}
        return named_event("content_block_start", start)

    def _message(self) -> dict[str, Any]:
        return {"id": self.answer.id, "type": "message", "role": "assistant", "model": self.answer.model}

    def _content(self) -> list[dict[str, Any]]:
        choice = self.answer.choices[0]
        if choice.calls:
            return [
                {"type": "tool_use", "id": f"toolu_{c.id[5:]}", "name": c.name, "input": json.loads(c.arguments)}
                for c in choice.calls
            ]
        return [{"type": "text", "text": choice.text}]

    def _end(self) -> dict[str, Any]:
        choice = self.answer.choices[0]
        reason = {"length": "max_tokens", "tool_calls": "tool_use"}.get(choice.reason, "end_turn")
        if choice.stopped_by is not None:
            reason = "stop_sequence"
        return {"stop_reason": reason, "stop_sequence": choice.stopped_by}

    def _usage(self) -> dict[str, int]:
        return {"input_tokens": self.answer.usage.prompt, "output_tokens": self.answer.usage.completion}


def _delta(index: int, delta: dict[str, Any]) -> bytes:
    return named_event("content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta})


def _stop(index: int) -> bytes:
    return named_event("content_block_stop", {"type": "content_block_stop", "index": index})
