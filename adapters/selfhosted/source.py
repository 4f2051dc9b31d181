"""Where answers come from: the values that a source gives, and the source that is our own model.

A source is asked with `answer(path, body, model)` and gives `Whole`, `Stream` or `Failed`; it raises `VerirouteError`
before it gives anything. The network runs in worker threads; the event loop only passes bytes on.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.errors import Busy, InternalError, ModelUnknown, VerirouteError

from .api import activations, chat, completions, embeddings, messages, moderations, responses
from .api.writer import Prepared
from .lm.engine import EMBED_MODEL, MODEL, Engine, Read
from .moderation.model import MODEL as MODERATION_MODEL
from .moderation.prover import Prover

_PREPARE: Mapping[str, Callable[[Any, Engine, str], Prepared]] = {
    "/v1/chat/completions": chat.prepare,
    "/v1/completions": completions.prepare,
    "/v1/responses": responses.prepare,
    "/v1/messages": messages.prepare,
}
STREAMED = tuple(_PREPARE)  #: the paths that have streams
MODERATIONS = "/v1/moderations"
PATHS = (*_PREPARE, "/v1/embeddings", MODERATIONS)
ACTIVATIONS = "/v1/toploc/activations"
_PLAIN: Mapping[str, Callable[[Any, Engine, str], Iterator[bytes]]] = {
    "/v1/embeddings": embeddings.respond,
    ACTIVATIONS: activations.respond,
}
_DEFAULTS = {ACTIVATIONS: MODEL, MODERATIONS: MODERATION_MODEL}  # where a request need not name its model
_WORKERS, _MOST_WAITING = 4, 256


@dataclass(frozen=True)
class Whole:
    """An answer in one piece. `forwarded` is the body that went to a backend."""

    body: bytes
    chat_id: str | None = None
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)
    forwarded: bytes | None = None


@dataclass
class Stream:
    """An event stream: `chunks` gives whole events; `chat_id` is known at the latest when it is through.

    `close` ends it, asked for or not: an async generator that was never begun runs no clean-up of its own.
    """

    chunks: AsyncIterator[bytes]
    chat_id: Callable[[], str | None]
    close: Callable[[], Awaitable[None]]
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"text/event-stream; charset=utf-8"),)
    forwarded: bytes | None = None
    status: int = 200


@dataclass(frozen=True)
class Failed:
    """No answer. `forwarded` is the body that went, or may have gone, to a backend before that was known."""

    error: VerirouteError
    forwarded: bytes | None


class Source(Protocol):
    """`document` is the decoded body, None when it is no JSON object (a backend may make sense of it).

    `paths` are those that it answers on.
    """

    paths: tuple[str, ...]

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    def models(self) -> list[str]: ...
    async def answer(
        self, path: str, headers: Mapping[bytes, bytes], body: bytes, document: dict[str, Any]
    ) -> Whole | Stream | Failed: ...


class LocalSource:
    """Our own models under their names. `aliases` are further names for all of their uses.

    With a `prover` every answer of the classifier is proved; it is opened and closed with the source.
    """

    fronts_backend = False
    paths = (*PATHS, ACTIVATIONS)

    def __init__(self, engine: Engine, aliases: tuple[str, ...] = (), prover: Prover | None = None) -> None:
        self._engine = engine
        self._chat = (MODEL, *aliases)
        self._embed = (EMBED_MODEL, *aliases)
        self._moderation = (MODERATION_MODEL, *aliases)
        self._prover = prover
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="lm")
        self._waiting = 0
        self.created = int(time.time())

    async def open(self) -> None:
        if self._prover is not None:
            await self._prover.open()
        await asyncio.get_running_loop().run_in_executor(self._pool, self._engine.count, "warm")

    async def close(self) -> None:
        if self._prover is not None:
            await self._prover.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def models(self) -> list[str]:
        return list(dict.fromkeys((*self._chat, *self._embed, *self._moderation)))

    async def answer(
        self, path: str, headers: Mapping[bytes, bytes], body: bytes, document: dict[str, Any]
    ) -> Whole | Stream:
        label = document.get("model", _DEFAULTS.get(path))
        known = {"/v1/embeddings": self._embed, MODERATIONS: self._moderation}.get(path, self._chat)
        if not isinstance(label, str) or label not in known:
            shown = f"{label!r:.80}" if isinstance(label, str) else "no name"
            raise ModelUnknown(
                f"the model {shown} is not served on {path}; there are {', '.join(known)}", param="model"
            )
        if self._waiting >= _MOST_WAITING:
            raise Busy("this node has too many requests waiting")
        if path == MODERATIONS:
            return Whole(*await moderations.respond(document, label, self._prover))
        if path in _PLAIN:
            feed = self._start(lambda gone: _PLAIN[path](document, self._engine, label))
            return Whole(await feed.joined())
        prepared = _PREPARE[path](document, self._engine, label)
        answer = prepared.writer.answer
        feed = self._start(lambda gone: _write(self._engine, prepared, gone))
        if not prepared.stream:
            return Whole(await feed.joined(), answer.id)
        await feed.ready()
        return Stream(feed.batches(), lambda: answer.id, feed.leave)

    def _start(self, make: Callable[[Callable[[], bool]], Iterator[bytes]]) -> _Feed:
        self._waiting += 1
        return _Feed(self._pool, make, self._finished)

    def _finished(self) -> None:
        self._waiting -= 1


def _write(engine: Engine, prepared: Prepared, gone: Callable[[], bool]) -> Iterator[bytes]:
    """The bytes of an answer, in a worker: one event each for a stream, else the body once."""
    writer = prepared.writer
    events = engine.run(prepared.job, gone)
    if not prepared.stream:
        for event in events:
            writer.answer.take(event)
        yield writer.whole()
        return
    opened = False
    for event in events:  # the opening waits for the first event: until then the request may still be refused
        if isinstance(event, Read):  # what the opening says of the prompt
            writer.answer.take(event)
            continue
        if not opened:
            opened = True
            yield from writer.opening()
        writer.answer.take(event)
        yield from writer.step(event)
    if not gone():
        yield from writer.closing()


class _Feed:
    """Carries a worker's bytes to the event loop. What has come since the last look leaves together."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        make: Callable[[Callable[[], bool]], Iterator[bytes]],
        finished: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._done = False
        self._gone = False
        self._error: VerirouteError | None = None
        self._finished = finished
        pool.submit(self._work, make)

    async def ready(self) -> None:
        """Wait for the first bytes. Raises what the worker raised before them."""
        try:
            await self._wake.wait()
        except asyncio.CancelledError:
            self._gone = True
            raise
        if self._error is not None:
            raise self._error

    async def leave(self) -> None:
        """Stop the worker: nobody reads on."""
        self._gone = True

    async def joined(self) -> bytes:
        return b"".join([part async for part in self.batches()])

    async def batches(self) -> AsyncIterator[bytes]:
        """What the worker gives, in batches. Raises what the worker raised. Leaving early stops the worker."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                done = self._done  # read before the queue: nothing is added after it is set
                if self._queue:
                    batch = b"".join(self._queue)
                    self._queue.clear()
                    yield batch
                if done:
                    break
            if self._error is not None:
                raise self._error
        finally:
            self._gone = True

    def _work(self, make: Callable[[Callable[[], bool]], Iterator[bytes]]) -> None:
        error: VerirouteError | None = InternalError("the model failed")  # unless the loop below comes to its end
        try:
            for part in make(lambda: self._gone):
                if self._gone:
                    break
                self._loop.call_soon_threadsafe(self._put, part)
            error = None
        except VerirouteError as problem:
            error = problem
        finally:
            self._loop.call_soon_threadsafe(self._end, error)

    def _put(self, part: bytes) -> None:
        self._queue.append(part)
        self._wake.set()

    def _end(self, error: VerirouteError | None) -> None:
        self._error = error
        self._done = True
        self._finished()
        self._wake.set()
