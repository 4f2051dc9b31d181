"""A request's work: choose between text and tool calls, run the network, and say what happens as plain events.

`Engine.run(job, gone)` is a blocking generator for a worker thread:

    Read(ids, places)            first, when the job asks for it: the prompt as it was read, and scored
    Text(choice, piece)          text that may leave, with its tokens
    CallOpen(choice, n, id, name), CallPart(choice, n, text)     a tool call, its arguments bit by bit
    Done(choice, reason)         stop, length or tool_calls; one for each choice
    Committed(choice, proofs)    when the job asks for it: TOPLOC proofs over what was computed
    Usage(prompt, completion)    last
"""

# ruff: noqa: SIM905 - word lists read better as text
from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gateway.errors import BadRequest

from .embed import DIMENSIONS, embed
from .generate import Limits, Piece, generate
from .model import CONTEXT, F32, State, Weights, prefill
from .prompt import Turn, encode_open, encode_prompt, encode_turns
from .sampling import Sampling, log_softmax
from .schema import Builder, dumps, words
from .score import Place, score
from .toploc import Batch, batches, prove

MODEL, EMBED_MODEL = "veriroute-lm-1", "veriroute-embed-1"
_VERBS = frozenset(
    "get set list find fetch search look lookup create make run do call send read write the a of for".split()
)


@dataclass(frozen=True)
class Tool:
    name: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What to do. `turns` is a conversation; for plain completion `prefix` (a text) or `exact` (all tokens that the
    model is to see) is set instead.

    `choose` is `auto`, `none`, `required` or the name of a tool. `opening` says how the conversation's tokens end: with
    an open turn of the `assistant`, with the last turn `ended`, or with it `open`, for the answer to continue.
    `scored` likely tokens are told for each place of the prompt; below 0, none.
    """

    turns: tuple[Turn, ...] = ()
    prefix: str | None = None
    exact: tuple[int, ...] | None = None
    opening: str = "assistant"
    sampling: Sampling = field(default_factory=Sampling)
    limits: Limits = field(default_factory=lambda: Limits(256))
    n: int = 1
    tools: tuple[Tool, ...] = ()
    choose: str = "auto"
    parallel: bool = True
    schema: dict[str, Any] | None = None
    scored: int = -1
    ids: bool = False
    toploc: bool = False


@dataclass(frozen=True)
class Read:
    """The prompt's tokens, and for each what the model thought of it; no places when that was not asked."""

    ids: tuple[int, ...]
    places: tuple[Place | None, ...] = ()


@dataclass(frozen=True)
class Text:
    choice: int
    piece: Piece


@dataclass(frozen=True)
class CallOpen:
    choice: int
    number: int
    id: str
    name: str


@dataclass(frozen=True)
class CallPart:
    choice: int
    number: int
    text: str


@dataclass(frozen=True)
class Done:
    choice: int
    reason: str
    stopped_by: str | None = None


@dataclass(frozen=True)
class Committed:
    """One proof for the prompt, then one for every 32 tokens begun."""

    choice: int
    proofs: tuple[bytes, ...]


@dataclass(frozen=True)
class Usage:
    prompt: int
    completion: int


Event = Read | Text | CallOpen | CallPart | Done | Committed | Usage
Gone = Callable[[], bool]


class ContextTooLong(BadRequest):
    code = "context_length_exceeded"


@dataclass
class _Count:
    tokens: int = field(default=0)


class Engine:
    """The model, ready to answer. Safe to use from several threads: weights are only read."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.fingerprint = weights.fingerprint

    def run(self, job: Job, gone: Gone = lambda: False) -> Iterator[Event]:
        """The events of one answer. Raises `BadRequest` before the first event, never after it."""
        prompt = self._prompt(job)
        tools = self._chosen(job)
        written = _Count()
        if job.ids or job.scored >= 0:
            places = score(self.weights, prompt, job.scored) if job.scored >= 0 else []
            yield Read(tuple(prompt), tuple(places))
        if tools:
            calls = [(tool.name, dumps(self._arguments(job, tool))) for tool in tools]
            for choice in range(job.n):
                yield from self._calls(choice, calls, written)
        elif job.schema is not None:
            text = dumps(self._document(job, gone))
            for choice in range(job.n):
                yield from self._given(choice, text, job, written)
        else:
            yield from self._texts(job, prompt, written, gone)
        yield Usage(len(prompt), written.tokens)

    def embed(self, text: str, dimensions: int = DIMENSIONS) -> F32:
        return embed(self.weights, text, dimensions)

    def activations(self, prompt: Sequence[int], answer: Sequence[int]) -> list[Batch]:
        """What TOPLOC proofs of this answer to this prompt should state, read in one go. Raises `ContextTooLong`."""
        if len(prompt) + len(answer) > CONTEXT:
            raise ContextTooLong(f"this model's context is {CONTEXT} tokens", param="token_ids")
        states = prefill(self.weights, [*prompt, *answer])
        return batches(states[: len(prompt)], states[len(prompt) :])

    def admit(self, texts: Iterable[str], most: int = CONTEXT, param: str = "messages") -> None:
        """Raise `ContextTooLong` for texts with over `most` tokens however they are cut: cutting takes seconds."""
        size = sum(len(text.encode("utf-8", "replace")) for text in texts)
        if size > most * self.weights.tokenizer.longest:
            raise ContextTooLong(f"{size} bytes are over {most} tokens, the most that is read here", param=param)

    def count(self, text: str) -> int:
        return len(self.weights.tokenizer.encode(text))

    def _prompt(self, job: Job) -> list[int]:
        tokenizer = self.weights.tokenizer
        if job.exact is not None:
            tokens = list(job.exact)
        elif job.prefix is not None:
            self.admit([job.prefix], param="prompt")
            tokens = [tokenizer.special["<start>"], tokenizer.special["<text>"], *tokenizer.encode(job.prefix)]
        else:
            self.admit(text for _, text in job.turns)
            encode = {"assistant": encode_prompt, "open": encode_open, "ended": encode_turns}[job.opening]
            tokens = encode(tokenizer, job.turns)
        if len(tokens) + min(1, job.limits.max_tokens) > CONTEXT:
            raise ContextTooLong(
                f"this model's context is {CONTEXT} tokens and the prompt alone has {len(tokens)}", param="messages"
            )
        return tokens

    def _texts(self, job: Job, prompt: list[int], written: _Count, gone: Gone) -> Iterator[Event]:
        state = State(self.weights, room=min(CONTEXT, len(prompt) + min(job.limits.max_tokens, 128)))
        state.seen = [] if job.toploc else None
        logits = state.extend(prompt)
        sampling = job.sampling
        if sampling.seed is None:
            sampling = replace(sampling, seed=secrets.randbits(63))
        for choice in range(job.n):
            own = state.copy() if choice + 1 < job.n else state
            last, ids = None, []
            for piece in generate(own, logits, sampling, choice, job.limits, gone):
                last = piece
                ids += piece.ids or ()
                if piece.text or piece.tokens or (job.ids and (piece.ids or not piece.count)):
                    yield Text(choice, piece)
            if last is None or last.finish is None:  # nobody listens any more
                return
            written.tokens += last.count
            yield Done(choice, last.finish, last.stopped_by)
            if own.seen is not None:
                yield Committed(choice, _proofs(own, len(prompt), ids))

    def _chosen(self, job: Job) -> list[Tool]:
        """The tools that this answer calls; empty for text."""
        if not job.tools or job.choose == "none":
            return []
        if job.choose not in ("auto", "required"):
            return [tool for tool in job.tools if tool.name == job.choose][:1]
        role, text = job.turns[-1] if job.turns else ("", "")
        said = named(job.tools, text) if role == "user" else []
        if not said and job.choose == "required":
            scores = self._rank(job, '{"name": ', [dumps(tool.name) for tool in job.tools])
            said = [job.tools[scores.index(max(scores))]]
        return said if job.parallel else said[:1]

    def _arguments(self, job: Job, tool: Tool) -> dict[str, Any]:
        opening = f'{{"name": {dumps(tool.name)}, "arguments": '
        builder = Builder(
            _said(job), lambda so_far, options: self._rank(job, opening + so_far, options), name=tool.name
        )
        value = _build(builder, {"type": "object", **tool.parameters}, f"tools: {tool.name}")
        return value if isinstance(value, dict) else {}

    def _document(self, job: Job, gone: Gone) -> Any:
        """A value for the schema that was asked for as the answer's form; prose members are the model's own answer."""

        def write(_: str) -> str:
            plain = replace(job, schema=None, tools=(), n=1, limits=Limits(64))
            return "".join(e.piece.text for e in self.run(plain, gone) if isinstance(e, Text)).strip()

        builder = Builder(_said(job), lambda so_far, options: self._rank(job, so_far, options, "assistant"), write)
        return _build(builder, job.schema or {}, "response_format")

    def _rank(self, job: Job, so_far: str, options: Sequence[str], role: str = "call") -> list[float]:
        """Log probability of each option after `so_far` in a turn of `role`."""
        tokenizer = self.weights.tokenizer
        turns = [t for t in job.turns if t[0] != "system"][-4:]
        start = encode_prompt(tokenizer, turns, role, so_far)[-1024:]
        state = State(self.weights, room=len(start) + 64)
        first = state.extend(start)
        scores = []
        for option in options:
            # The closing brace follows a member as in training; an option that ends there wins over a longer one.
            tokens = tokenizer.encode(" " + option.strip() + "}}")[:96]
            rows = state.copy().hidden(tokens[:-1]) @ self.weights.unembed if len(tokens) > 1 else np.zeros((0, 1))
            total = float(log_softmax(first)[tokens[0]])
            total += sum(float(log_softmax(row)[t]) for row, t in zip(rows, tokens[1:], strict=True))
            scores.append(total)
        return scores

    def _calls(self, choice: int, calls: list[tuple[str, str]], written: _Count) -> Iterator[Event]:
        for number, (name, arguments) in enumerate(calls):
            yield CallOpen(choice, number, f"call_{secrets.token_hex(12)}", name)
            for part in self._parts(self.weights.tokenizer.encode(arguments), written):
                yield CallPart(choice, number, part)
        yield Done(choice, "tool_calls")

    def _given(self, choice: int, text: str, job: Job, written: _Count) -> Iterator[Event]:
        tokens = self.weights.tokenizer.encode(text)
        for part in self._parts(tokens[: job.limits.max_tokens], written):
            yield Text(choice, Piece(part))
        yield Done(choice, "stop" if len(tokens) <= job.limits.max_tokens else "length")

    def _parts(self, tokens: Sequence[int], written: _Count) -> list[str]:
        """The text of `tokens`, cut where they end, letters kept whole; a letter of which the end lacks is left out."""
        tokenizer = self.weights.tokenizer
        parts, held = [], b""
        for token in tokens:
            written.tokens += 1
            held += tokenizer.bytes_of[token]
            try:
                parts.append(held.decode())
            except UnicodeDecodeError:
                continue
            held = b""
        return parts


def _proofs(state: State, prompt: int, ids: list[int]) -> tuple[bytes, ...]:
    """TOPLOC proofs of what `state` computed for `prompt` tokens and then `ids`, of which the last was not yet read."""
    assert state.seen is not None
    unread = ids[state.length - prompt :]
    if unread:
        state.hidden(unread)
    states = np.concatenate(state.seen)
    return tuple(prove(batch) for batch in batches(states[:prompt], states[prompt:]))


def named(tools: Sequence[Tool], text: str) -> list[Tool]:
    """The tools that `text` names: by their full names, in order of mention; else the one whose own words all occur."""
    lowered = text.lower()
    spoken = " " + " ".join(words(text)) + " "
    full = []
    for tool in tools:
        at = lowered.find(tool.name.lower())
        if at < 0:
            at = spoken.find(" " + " ".join(words(tool.name)) + " ")
        if at >= 0:
            full.append((at, tool))
    if full:
        return [tool for _, tool in sorted(full, key=lambda found: found[0])]
    said = {w.removesuffix("s") for w in words(text)}
    for tool in tools:
        own = [w.removesuffix("s") for w in words(tool.name) if w not in _VERBS]
        if own and all(w in said for w in own):
            return [tool]
    return []


def _build(builder: Builder, schema: dict[str, Any], where: str) -> Any:
    """A value for a caller's schema. Whatever is wrong with the schema itself is the caller's error."""
    try:
        return builder.build(schema)
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        raise BadRequest(f"{where}: this is not a JSON Schema that can be read ({error})", param=where) from None


def _said(job: Job) -> str:
    return next((text for role, text in reversed(job.turns) if role == "user"), "")
