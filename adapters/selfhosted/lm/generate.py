"""One answer, token by token: text as it becomes whole UTF-8, stop strings, and log probabilities when asked for."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .model import CONTEXT, F32, State
from .sampling import Sampler, Sampling, log_softmax, top
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Token:
    """One chosen token: its bytes, its log probability, and the most likely ones in its place.

    A special token, which has no text, has the bytes of its name.
    """

    data: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...]
    special: bool = False


@dataclass(frozen=True)
class Piece:
    """Text that may leave, and the tokens behind it. The last piece has a `finish`: `stop` or `length`.

    `stopped_by` is the stop string that ended the answer, None when the model ended it itself. `count` is the number of
    tokens made so far, with the one that ends the turn. `ids` are the numbers of the tokens since the last piece, with
    that one too; None for text that was not made token by token.
    """

    text: str
    tokens: tuple[Token, ...] = ()
    finish: str | None = None
    stopped_by: str | None = None
    count: int = 0
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Limits:
    """Where an answer ends, besides the end of the turn. `top` likely tokens go with each one; below 0, none.

    `list_end` lists the token that ends the turn like any other, so that there is one for each of the answer's ids.
    """

    max_tokens: int
    stop: tuple[str, ...] = ()
    top: int = -1
    list_end: bool = False


def generate(
    state: State, logits: F32, sampling: Sampling, choice: int, limits: Limits, gone: Callable[[], bool]
) -> Iterator[Piece]:
    """Continue from `logits`, the network's word after `state`'s tokens. Ends early, with no finish, once `gone()`."""
    tokenizer = state.weights.tokenizer
    end = tokenizer.special["<end>"]
    forbidden = tuple(number for name, number in tokenizer.special.items() if name != "<end>")
    sampler = Sampler(sampling, choice, tokenizer.size, forbidden)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    waiting: list[Token] = []
    made: list[int] = []
    held, count = "", 0
    room = min(limits.max_tokens, CONTEXT - state.length)
    while count < room:
        if gone():
            return
        token = sampler.choose(logits)
        count += 1
        made.append(token)
        if limits.top >= 0 and (token != end or limits.list_end):
            waiting.append(_token(token, logits, limits.top, tokenizer))
        if token == end:
            text = held + decoder.decode(b"", final=True)
            yield Piece(text, tuple(waiting), "stop", None, count, tuple(made))
            return
        data = tokenizer.bytes_of[token]
        held += decoder.decode(data)
        found = _first_stop(held, limits.stop)
        if found is not None:
            yield Piece(held[: found[0]], tuple(waiting), "stop", found[1], count, tuple(made))
            return
        keep = _could_begin_stop(held, limits.stop)
        ready, held = held[: len(held) - keep], held[len(held) - keep :]
        if ready:
            yield Piece(ready, tuple(waiting), None, None, count, tuple(made))
            waiting, made = [], []
        if count < room:
            logits = state.extend([token])
    yield Piece(held + decoder.decode(b"", final=True), tuple(waiting), "length", None, count, tuple(made))


def _token(token: int, logits: F32, count: int, tokenizer: Tokenizer) -> Token:
    log_probabilities = log_softmax(logits)
    ranked = [(tokenizer.shown(t), p) for t, p in top(log_probabilities, count)]
    special = token >= tokenizer.text_size
    return Token(tokenizer.shown(token), float(log_probabilities[token]), tuple(ranked), special)


def _first_stop(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    found = [(at, stop) for stop in stops if (at := text.find(stop)) >= 0]
    return min(found) if found else None


def _could_begin_stop(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of `text` might be the beginning of a stop string."""
    longest = max((len(s) for s in stops), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return size
    return 0
