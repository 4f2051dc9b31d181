"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from adapters.selfhosted.lm.engine import CallOpen, CallPart, Done, Engine, Event, Job, Text, Tool
from adapters.selfhosted.lm.generate import Token
from adapters.selfhosted.lm.prompt import Turn
from gateway.errors import BadRequest

from . import fields
from .writer import Answer, Prepared, data_event, encode, prompt_logprobs, toploc


def prepare(d: fields.Document, engine: Engine, label: str) -> Prepared:
    top = -1
    if fields.flag(d, "logprobs"):
        top = fields.integer(d, "top_logprobs", 0, 0, 20)
    tools = tuple(_tool(t, f"tools[{i}]") for i, t in enumerate(fields.items(d, "tools", 256)))
    n = fields.integer(d, "n", 1, 1, 16)
    extras = fields.extras(d, n)
    turns = _turns(d)
    job = Job(
        turns=turns,
        opening=_opening(d, turns),
        sampling=fields.sampling(d),
        limits=fields.limits(d, "max_completion_tokens", "max_tokens", top=top, ids=extras.ids),
        n=n,
        tools=tools,
        choose=_choose(d.get("tool_choice"), tools),
        parallel=d.get("parallel_tool_calls") is not False,
        schema=_schema(d.get("response_format")),
        scored=extras.scored,
        ids=extras.ids,
        toploc=extras.toploc,
    )
    options = d.get("stream_options")
    usage = fields.flag(fields.mapping(options or {}, "stream_options"), "include_usage")
    echo = turns[-1][1] if fields.flag(d, "echo") and turns and turns[-1][0] == "assistant" else ""
    return Prepared(job, fields.flag(d, "stream"), ChatWriter(job, engine, label, top >= 0, usage, echo))


def _opening(d: fields.Document, turns: tuple[Turn, ...]) -> str:
    """How the conversation ends, as vLLM's `add_generation_prompt` and `continue_final_message` say it."""
    ended = d.get("add_generation_prompt") is not None and not fields.flag(d, "add_generation_prompt")
    if not fields.flag(d, "continue_final_message"):
        return "ended" if ended else "assistant"
    where = "continue_final_message"
    if fields.flag(d, "add_generation_prompt"):
        raise BadRequest(f"{where} and add_generation_prompt cannot both be true", param=where)
    if not turns or turns[-1][0] != "assistant":
        raise BadRequest(f"{where}: the last message must be the assistant's, and its text", param=where)
    if d.get("response_format") is not None or d.get("tools"):
        raise BadRequest(f"{where} does not go with tools or response_format", param=where)
    return "open"


def _turns(d: fields.Document) -> tuple[Turn, ...]:
    messages = fields.items(d, "messages")
    if not messages:
        raise BadRequest("messages must be a list of at least one message", param="messages")
    turns: list[Turn] = []
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        message = fields.mapping(message, where)
        role = fields.text(message, "role", f"{where}.")
        text = fields.content(message.get("content"), f"{where}.content")
        if role in ("system", "developer"):
            turns.append(("system", text))
        elif role == "user":
            turns.append(("user", text))
        elif role in ("tool", "function"):
            turns.append(("tool", text))
        elif role == "assistant":
            if text:
                turns.append(("assistant", text))
            for call in fields.items(message, "tool_calls", 256):
                function = fields.mapping(fields.mapping(call, where).get("function"), f"{where}.tool_calls[].function")
                said = fields.call_text(fields.text(function, "name", where), str(function.get("arguments") or ""))
                turns.append(("call", said))
        else:
            raise BadRequest(f"{where}.role {role!r:.40} is not known", param=f"{where}.role")
    return tuple(turns)


def _tool(value: object, where: str) -> Tool:
    outer = fields.mapping(value, where)
    if outer.get("type") != "function":
        raise BadRequest(f"{where}: only tools of type function are served", param=where)
    function = fields.mapping(outer.get("function"), f"{where}.function")
    return fields.tool(function.get("name"), function.get("parameters"), where)


def _choose(value: object, tools: tuple[Tool, ...]) -> str:
    if value is None or value in ("auto", "none", "required"):
        if value == "required" and not tools:
            raise BadRequest("tool_choice is required, but there are no tools", param="tool_choice")
        return str(value or "auto")
    function = fields.mapping(value, "tool_choice").get("function", {})
    name = function.get("name") if isinstance(function, dict) else None
    if name not in [tool.name for tool in tools]:
        raise BadRequest(f"tool_choice names {name!r:.80}, which is not among the tools", param="tool_choice")
    return str(name)


def _schema(value: object) -> dict[str, Any] | None:
    if value is None:
        return None
    form = fields.mapping(value, "response_format")
    if form.get("type") == "json_schema":
        inner = fields.mapping(form.get("json_schema"), "response_format.json_schema")
        return fields.mapping(inner.get("schema"), "response_format.json_schema.schema")
    if form.get("type") == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    return None


class ChatWriter:
    """Bodies and chunks of the chat API. `usage` asks for the extra chunk before `[DONE]`; `echo` is text that stands
    before the answer's own."""

    def __init__(self, job: Job, engine: Engine, label: str, logprobs: bool, usage: bool, echo: str) -> None:
        self.answer = Answer("chatcmpl-", label, job.n)
        self._job = job
        self._tokenizer = engine.weights.tokenizer
        self._fingerprint = engine.fingerprint
        self._logprobs = logprobs
        self._usage = usage
        self._echo = echo

    def whole(self) -> bytes:
        choices = []
        for index, c in enumerate(self.answer.choices):
            message: dict[str, Any] = {"role": "assistant", "content": self._echo + c.text, "refusal": None}
            if c.calls:
                message["content"] = None
                message["tool_calls"] = [
                    {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                    for call in c.calls
                ]
            logprobs = {"content": list(map(_logprob, c.tokens)), "refusal": None} if self._logprobs else None
            choice = {"index": index, "message": message, "logprobs": logprobs, "finish_reason": c.reason}
            choices.append({**choice, "token_ids": c.ids} if self._job.ids else choice)
        body = {**self._head("chat.completion"), "choices": choices, "usage": usage(self.answer)}
        return encode({**body, **self._about_prompt(), **(toploc(self.answer) if self._job.toploc else {})})

    def _about_prompt(self) -> dict[str, Any]:
        said: dict[str, Any] = {}
        if self._job.ids:
            said["prompt_token_ids"] = self.answer.read.ids
        if self._job.scored >= 0:
            said["prompt_logprobs"] = prompt_logprobs(self.answer, self._tokenizer, self._job.scored)
        return said

    def opening(self) -> list[bytes]:
        first = {"role": "assistant", "content": self._echo, "refusal": None}
        return [self._chunk(index, first, about=self._about_prompt()) for index in range(len(self.answer.choices))]

    def step(self, event: Event) -> list[bytes]:
        match event:
            case Text(choice, piece):
                return [self._chunk(choice, {"content": piece.text}, piece.tokens, ids=piece.ids)]
            case CallOpen(choice, number, call_id, name):
                function = {"name": name, "arguments": ""}
                call = {"index": number, "id": call_id, "type": "function", "function": function}
                return [self._chunk(choice, {"tool_calls": [call]})]
            case CallPart(choice, number, text):
                return [self._chunk(choice, {"tool_calls": [{"index": number, "function": {"arguments": text}}]})]
            case Done(choice, reason):
                return [self._chunk(choice, {}, (), reason)]
            case _:
                return []

    def closing(self) -> list[bytes]:
        out = []
        if self._usage:
            head = self._head("chat.completion.chunk")
            out.append(data_event({**head, "choices": [], "usage": usage(self.answer)}))
        if self._job.toploc:
            out.append(data_event({**self._head("chat.completion.chunk"), "choices": [], **toploc(self.answer)}))
        return [*out, b"data: [DONE]\n\n"]

    def _head(self, kind: str) -> dict[str, Any]:
        a = self.answer
        return {
            "id": a.id,
            "object": kind,
            "created": a.created,
            "model": a.model,
            "system_fingerprint": self._fingerprint,
        }

    def _chunk(
        self,
        choice: int,
        delta: dict[str, Any],
        tokens: tuple[Token, ...] = (),
        reason: str | None = None,
        *,
        ids: tuple[int, ...] | None = None,
        about: Mapping[str, Any] = MappingProxyType({}),
    ) -> bytes:
        logprobs = {"content": list(map(_logprob, tokens)), "refusal": None} if self._logprobs and tokens else None
        said = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        choices = [{**said, "token_ids": ids} if self._job.ids else said]
        return data_event({**self._head("chat.completion.chunk"), "choices": choices, **about})


def usage(answer: Answer) -> dict[str, int]:
    prompt, completion = answer.usage.prompt, answer.usage.completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _logprob(token: Token) -> dict[str, Any]:
    named = _named(token.data, token.logprob)
    named["top_logprobs"] = [_named(data, value) for data, value in token.top]
    return named


def _named(data: bytes, value: float) -> dict[str, Any]:
    return {"token": data.decode("utf-8", "replace"), "logprob": value, "bytes": list(data)}
