"""POST /v1/completions: the model goes on with a text, or with tokens exactly as they are given."""

from __future__ import annotations

import codecs
from typing import Any

from adapters.selfhosted.lm.engine import Done, Engine, Event, Job, Text
from adapters.selfhosted.lm.generate import Token
from adapters.selfhosted.lm.score import Place
from adapters.selfhosted.lm.tokenizer import Tokenizer
from gateway.errors import BadRequest

from . import fields
from .chat import usage
from .writer import Answer, Prepared, data_event, encode, prompt_logprobs, toploc


def prepare(d: fields.Document, engine: Engine, label: str) -> Prepared:
    top = fields.integer(d, "logprobs", -1, 0, 20)
    n = fields.integer(d, "n", 1, 1, 16)
    echo, extras = fields.flag(d, "echo"), fields.extras(d, n)
    if echo and top >= 0 and n != 1:
        raise BadRequest("echo with logprobs is for one choice: n must be 1", param="n")
    text, prefix, exact = _prompt(d.get("prompt"), engine)
    job = Job(
        prefix=prefix,
        exact=exact,
        sampling=fields.sampling(d),
        # Without a token of an answer there must be something about the prompt to tell.
        limits=fields.limits(
            d, "max_tokens", top=top, default=64, least=0 if echo or extras.scored >= 0 else 1, ids=extras.ids
        ),
        n=n,
        scored=max(extras.scored, top if echo else -1),
        ids=extras.ids,
        toploc=extras.toploc,
    )
    options = fields.mapping(d.get("stream_options") or {}, "stream_options")
    writer = CompletionWriter(job, engine, label, fields.flag(options, "include_usage"), text if echo else None)
    writer.told = extras.scored
    return Prepared(job, fields.flag(d, "stream"), writer)


def _prompt(value: object, engine: Engine) -> tuple[str, str | None, tuple[int, ...] | None]:
    """The prompt's text, and what the model reads: that text, before which it sees more, or all tokens it is to see.

    One prompt: a text, or a list of token numbers, which are taken as they are. Either may stand alone in a list.
    """
    tokenizer = engine.weights.tokenizer
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str):
        return value, value, None
    if not isinstance(value, list) or any(isinstance(part, str | list) for part in value):
        raise BadRequest("prompt must be one text, or a list of this model's token numbers", param="prompt")
    tokens = fields.token_ids(value, "prompt", tokenizer.size)
    return tokenizer.decode(tokens), None, tuple(tokens)


class CompletionWriter:
    """Bodies and chunks. `echo` is the prompt's text where it stands before the answer's. `told` likely tokens for each
    place of the prompt; below 0, none."""

    told = -1

    def __init__(self, job: Job, engine: Engine, label: str, usage_chunk: bool, echo: str | None) -> None:
        self.answer = Answer("cmpl-", label, job.n)
        self._job = job
        self._tokenizer = engine.weights.tokenizer
        self._fingerprint = engine.fingerprint
        self._logprobs = job.limits.top >= 0
        self._usage = usage_chunk
        self._echo = echo
        self._at = [0] * job.n  # characters of each choice so far; a letter counts with its last token
        self._decoders = [codecs.getincrementaldecoder("utf-8")("replace") for _ in range(job.n)]

    def whole(self) -> bytes:
        choices = []
        for index, c in enumerate(self.answer.choices):
            tokens = (*self._echoed(), *map(_told, c.tokens))
            choice = self._choice(index, (self._echo or "") + c.text, tokens, c.reason, c.ids)
            choices.append({**choice, **self._about_prompt()})
        body = {**self._head(), "choices": choices, "usage": usage(self.answer)}
        return encode({**body, **(toploc(self.answer) if self._job.toploc else {})})

    def opening(self) -> list[bytes]:
        if self._echo is None and not self._job.ids:
            return []
        about, out = self._about_prompt(), []
        for index in range(len(self.answer.choices)):
            choice = self._choice(index, self._echo or "", self._echoed(), None, [])
            out.append(data_event({**self._head(), "choices": [{**choice, **about}]}))
        return out

    def step(self, event: Event) -> list[bytes]:
        match event:
            case Text(choice, piece):
                return [self._chunk(choice, piece.text, piece.tokens, None, piece.ids)]
            case Done(choice, reason):
                return [self._chunk(choice, "", (), reason)]
            case _:
                return []

    def closing(self) -> list[bytes]:
        out = [data_event({**self._head(), "choices": [], "usage": usage(self.answer)})] if self._usage else []
        if self._job.toploc:
            out.append(data_event({**self._head(), "choices": [], **toploc(self.answer)}))
        return [*out, b"data: [DONE]\n\n"]

    def _head(self) -> dict[str, Any]:
        a = self.answer
        return {
            "id": a.id,
            "object": "text_completion",
            "created": a.created,
            "model": a.model,
            "system_fingerprint": self._fingerprint,
        }

    def _about_prompt(self) -> dict[str, Any]:
        said: dict[str, Any] = {}
        if self._job.ids:
            said["prompt_token_ids"] = self.answer.read.ids
        if self.told >= 0:
            said["prompt_logprobs"] = prompt_logprobs(self.answer, self._tokenizer, self.told)
        return said

    def _echoed(self) -> tuple[_Told, ...]:
        """The prompt's tokens, where they are to stand before the answer's."""
        if self._echo is None or not self._logprobs:
            return ()
        read = self.answer.read
        return tuple(
            _read(t, p, self._tokenizer, self._job.limits.top) for t, p in zip(read.ids, read.places, strict=True)
        )

    def _chunk(
        self, choice: int, text: str, tokens: tuple[Token, ...], reason: str | None, ids: tuple[int, ...] | None = ()
    ) -> bytes:
        said = self._choice(choice, text, tuple(map(_told, tokens)), reason, ids)
        return data_event({**self._head(), "choices": [said]})

    def _choice(self, index: int, text: str, tokens: tuple[_Told, ...], reason: str | None, ids: Any) -> dict[str, Any]:
        logprobs = None
        if self._logprobs and tokens:
            offsets = []
            for _, data, _, _ in tokens:
                offsets.append(self._at[index])
                self._at[index] += len(self._decoders[index].decode(data))
            logprobs = {
                "tokens": [name for name, _, _, _ in tokens],
                "token_logprobs": [logprob for _, _, logprob, _ in tokens],
                "top_logprobs": [top for _, _, _, top in tokens],
                "text_offset": offsets,
            }
        said = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return {**said, "token_ids": ids} if self._job.ids else said


#: A token as it is listed: its name, the bytes of its text (none for a special one), log probability and alternatives.
_Told = tuple[str, bytes, float | None, dict[str, float] | None]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _told(token: Token) -> _Told:
    return _text(token.data), b"" if token.special else token.data, token.logprob, {_text(d): p for d, p in token.top}


def _read(token: int, place: Place | None, tokenizer: Tokenizer, count: int) -> _Told:
    name, data = _text(tokenizer.shown(token)), tokenizer.decode_bytes([token])
    if place is None:
        return name, data, None, None
    return name, data, place.logprob, {_text(tokenizer.shown(t)): p for t, p in place.top[:count]}
