"""POST /v1/completions: the model goes on with a text."""

from __future__ import annotations

from typing import Any

from adapters.selfhosted.lm.engine import Done, Engine, Event, Job, Text
from adapters.selfhosted.lm.generate import Token
from gateway.errors import BadRequest

from . import fields
from .chat import usage
from .writer import Answer, Prepared, data_event, encode


def prepare(d: fields.Document, engine: Engine, label: str) -> Prepared:
    top = fields.integer(d, "logprobs", -1, 0, 20)
    n = fields.integer(d, "n", 1, 1, 16)
    text, tokens = _prompt(d.get("prompt"), engine)
    job = Job(
        prefix=tuple(tokens),
        sampling=fields.sampling(d),
        limits=fields.limits(d, "max_tokens", top=top, default=64),
        n=n,
    )
    echo = text if fields.flag(d, "echo") else ""
    options = fields.mapping(d.get("stream_options") or {}, "stream_options")
    writer = CompletionWriter(label, n, engine.fingerprint, top >= 0, fields.flag(options, "include_usage"), echo)
    return Prepared(job, fields.flag(d, "stream"), writer)


def _prompt(value: object, engine: Engine) -> tuple[str, list[int]]:
    """One prompt: a text, a list of one text, or a list of this model's token numbers."""
    tokenizer = engine.weights.tokenizer
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str):
        return value, tokenizer.encode(value)
    if isinstance(value, list) and value and all(isinstance(t, int) and 0 <= t < tokenizer.text_size for t in value):
        return tokenizer.decode(value), value
    raise BadRequest("prompt must be one text, or a list of this model's token numbers", param="prompt")


class CompletionWriter:
    def __init__(self, label: str, n: int, fingerprint: str, logprobs: bool, usage_chunk: bool, echo: str) -> None:
        self.answer = Answer("cmpl-", label, n)
        self._fingerprint = fingerprint
        self._logprobs = logprobs
        self._usage = usage_chunk
        self._echo = echo
        self._at = [len(echo)] * n

    def whole(self) -> bytes:
        choices = []
        for index, c in enumerate(self.answer.choices):
            self._at[index] = len(self._echo)
            choices.append(self._choice(index, self._echo + c.text, tuple(c.tokens), c.reason))
        return encode({**self._head(), "choices": choices, "usage": usage(self.answer)})

    def opening(self) -> list[bytes]:
        return [self._chunk(i, self._echo, (), None) for i in range(len(self.answer.choices))] if self._echo else []

    def step(self, event: Event) -> list[bytes]:
        match event:
            case Text(choice, piece):
                return [self._chunk(choice, piece.text, piece.tokens, None)]
            case Done(choice, reason):
                return [self._chunk(choice, "", (), reason)]
            case _:
                return []

    def closing(self) -> list[bytes]:
        last = [data_event({**self._head(), "choices": [], "usage": usage(self.answer)})] if self._usage else []
        return [*last, b"data: [DONE]\n\n"]

    def _head(self) -> dict[str, Any]:
        a = self.answer
        return {
            "id": a.id,
            "object": "text_completion",
            "created": a.created,
            "model": a.model,
            "system_fingerprint": self._fingerprint,
        }

    def _chunk(self, choice: int, text: str, tokens: tuple[Token, ...], reason: str | None) -> bytes:
        return data_event({**self._head(), "choices": [self._choice(choice, text, tokens, reason)]})

    def _choice(self, index: int, text: str, tokens: tuple[Token, ...], reason: str | None) -> dict[str, Any]:
        logprobs = None
        if self._logprobs and tokens:
            names = [t.data.decode("utf-8", "replace") for t in tokens]
            offsets = []
            for name in names:
                offsets.append(self._at[index])
                self._at[index] += len(name)
            logprobs = {
                "tokens": names,
                "token_logprobs": [t.logprob for t in tokens],
                "top_logprobs": [{d.decode("utf-8", "replace"): p for d, p in t.top} for t in tokens],
                "text_offset": offsets,
            }
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
