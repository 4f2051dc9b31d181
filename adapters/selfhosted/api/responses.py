"""POST /v1/responses. Nothing is stored: `store` is answered with false and `previous_response_id` is refused."""

from __future__ import annotations

import secrets
from typing import Any

from adapters.selfhosted.lm.engine import CallOpen, CallPart, Done, Engine, Event, Job, Text, Tool
from adapters.selfhosted.lm.prompt import Turn
from gateway.errors import BadRequest

from . import fields
from .writer import Answer, Prepared, encode, named_event


def prepare(d: fields.Document, engine: Engine, label: str) -> Prepared:
    if d.get("previous_response_id") is not None:
        raise BadRequest("this node stores no responses; send the whole input", param="previous_response_id")
    tools = tuple(_tool(t, f"tools[{i}]") for i, t in enumerate(fields.items(d, "tools", 256)))
    job = Job(
        turns=_turns(d),
        sampling=fields.sampling(d),
        limits=fields.limits(d, "max_output_tokens"),
        tools=tools,
        choose=_choose(d.get("tool_choice"), tools),
        parallel=d.get("parallel_tool_calls") is not False,
        schema=_schema(d.get("text")),
    )
    return Prepared(job, fields.flag(d, "stream"), ResponseWriter(label, d))


def _turns(d: fields.Document) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    if d.get("instructions") is not None:
        turns.append(("system", fields.text(d, "instructions")))
    given = d.get("input")
    if isinstance(given, str):
        return (*turns, ("user", given))
    if not isinstance(given, list) or not given:
        raise BadRequest("input must be a text or a list of items", param="input")
    roles = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
    for i, item in enumerate(given):
        where = f"input[{i}]"
        item = fields.mapping(item, where)
        match item.get("type", "message"):
            case "message":
                role = roles.get(fields.text(item, "role", f"{where}."))
                if role is None:
                    raise BadRequest(f"{where}.role is not known", param=f"{where}.role")
                turns.append((role, fields.content(item.get("content"), f"{where}.content")))
            case "function_call":
                said = fields.call_text(fields.text(item, "name", f"{where}."), str(item.get("arguments") or ""))
                turns.append(("call", said))
            case "function_call_output":
                turns.append(("tool", fields.content(item.get("output"), f"{where}.output")))
            case "reasoning":
                continue
            case kind:
                raise BadRequest(f"{where}: items of type {kind!r:.40} are not served", param=where)
    return tuple(turns)


def _tool(value: object, where: str) -> Tool:
    given = fields.mapping(value, where)
    if given.get("type") != "function":
        raise BadRequest(f"{where}: only tools of type function are served", param=where)
    return fields.tool(given.get("name"), given.get("parameters"), where)


def _choose(value: object, tools: tuple[Tool, ...]) -> str:
    if value is None or value in ("auto", "none", "required"):
        return str(value or "auto")
    name = fields.mapping(value, "tool_choice").get("name")
    if name not in [tool.name for tool in tools]:
        raise BadRequest(f"tool_choice names {name!r:.80}, which is not among the tools", param="tool_choice")
    return str(name)


def _schema(value: object) -> dict[str, Any] | None:
    form = fields.mapping(fields.mapping(value or {}, "text").get("format") or {}, "text.format")
    if form.get("type") == "json_schema":
        return fields.mapping(form.get("schema"), "text.format.schema")
    if form.get("type") == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    return None


class ResponseWriter:
    """One response: a message item, or a function_call item per call. Events carry rising sequence numbers."""

    def __init__(self, label: str, request: fields.Document) -> None:
        self.answer = Answer("resp_", label)
        self._request = request
        self._item = f"msg_{secrets.token_hex(12)}"
        self._number = 0
        self._open = False

    def whole(self) -> bytes:
        return encode(self._response(self._status(), self._output()))

    def opening(self) -> list[bytes]:
        started = self._response("in_progress", [])
        return [
            self._event("response.created", {"response": started}),
            self._event("response.in_progress", {"response": started}),
        ]

    def step(self, event: Event) -> list[bytes]:
        at = {"item_id": self._item, "output_index": 0, "content_index": 0}
        match event:
            case Text(_, piece):
                begin = [] if self._open else self._begin_text(at)
                delta = {**at, "delta": piece.text, "logprobs": []}
                return [*begin, self._event("response.output_text.delta", delta)]
            case CallOpen(_, number, call_id, name):
                before = self._end_call(number - 1) if number else []
                item = self._call(call_id, name, "", "in_progress")
                return [*before, self._event("response.output_item.added", {"output_index": number, "item": item})]
            case CallPart(_, number, text):
                call_id = self.answer.choices[0].calls[number].id
                part = {"item_id": f"fc_{call_id[5:]}", "output_index": number, "delta": text}
                return [self._event("response.function_call_arguments.delta", part)]
            case Done():
                calls = self.answer.choices[0].calls
                if calls:
                    return self._end_call(len(calls) - 1)
                begin = [] if self._open else self._begin_text(at)
                return [*begin, *self._end_text(at)]
            case _:
                return []

    def closing(self) -> list[bytes]:
        status = self._status()
        return [self._event(f"response.{status}", {"response": self._response(status, self._output())})]

    def _begin_text(self, at: dict[str, Any]) -> list[bytes]:
        self._open = True
        item = {"id": self._item, "type": "message", "status": "in_progress", "role": "assistant", "content": []}
        return [
            self._event("response.output_item.added", {"output_index": 0, "item": item}),
            self._event("response.content_part.added", {**at, "part": _part("")}),
        ]

    def _end_text(self, at: dict[str, Any]) -> list[bytes]:
        text = self.answer.choices[0].text
        return [
            self._event("response.output_text.done", {**at, "text": text, "logprobs": []}),
            self._event("response.content_part.done", {**at, "part": _part(text)}),
            self._event("response.output_item.done", {"output_index": 0, "item": self._output()[0]}),
        ]

    def _end_call(self, number: int) -> list[bytes]:
        call = self.answer.choices[0].calls[number]
        item = self._call(call.id, call.name, call.arguments, "completed")
        place = {"item_id": item["id"], "output_index": number}
        done = {**place, "name": call.name, "arguments": call.arguments}
        return [
            self._event("response.function_call_arguments.done", done),
            self._event("response.output_item.done", {"output_index": number, "item": item}),
        ]

    def _event(self, name: str, value: dict[str, Any]) -> bytes:
        self._number += 1
        return named_event(name, {"type": name, "sequence_number": self._number - 1, **value})

    def _status(self) -> str:
        return "incomplete" if self.answer.choices[0].reason == "length" else "completed"

    def _output(self) -> list[dict[str, Any]]:
        choice = self.answer.choices[0]
        if choice.calls:
            return [self._call(c.id, c.name, c.arguments, "completed") for c in choice.calls]
        return [
            {
                "id": self._item,
                "type": "message",
                "status": self._status(),
                "role": "assistant",
                "content": [_part(choice.text)],
            }
        ]

    @staticmethod
    def _call(call_id: str, name: str, arguments: str, status: str) -> dict[str, Any]:
        return {
            "id": f"fc_{call_id[5:]}",
            "type": "function_call",
            "status": status,
            "call_id": call_id,
            "name": name,
            "arguments": arguments,
        }

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        a, r = self.answer, self._request
        done = status != "in_progress"
        usage = {
            "input_tokens": a.usage.prompt,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": a.usage.completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": a.usage.prompt + a.usage.completion,
        }
        return {
            "id": a.id,
            "object": "response",
            "created_at": a.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": r.get("instructions"),
            "max_output_tokens": r.get("max_output_tokens"),
            "model": a.model,
            "output": output,
            "parallel_tool_calls": r.get("parallel_tool_calls") is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": r.get("temperature", 0.3),
            "tool_choice": r.get("tool_choice") or "auto",
            "tools": r.get("tools") or [],
            "top_p": r.get("top_p", 1.0),
            "usage": usage if done else None,
            "metadata": r.get("metadata") or {},
        }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
