"""One connection to one node: writes a request verbatim, reads its answer strictly, keeps every deadline.

    head = await connection.request(b"POST", target, headers, body, deadlines)      # ResponseHead
    body = await connection.read_all(max_bytes)                                     # all of it, or
    while chunk := await connection.read_some(): ...                                # as it comes; b"" is the end
    pool.release(connection)                                                        # kept only if all was clean

Promises: bytes are handed out as they came, never decoded or cut anew; no byte behind the answer's own end is taken
for another answer (E17); at most `Limits.high_water` and one read of unread bytes are held, then the peer waits. Trying
again, following and believing are the caller's business; `sent` says whether trying again could pay twice. The peer's
key is compared with the pins in `connection_made`, before there is any request.
"""

from __future__ import annotations

import asyncio
import enum
import re
import select
import ssl
from collections.abc import AsyncIterator, Callable
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

from .answer import AnswerReader
from .errors import AnswerRefused, ChannelClosed, ChannelError, ChannelRefused, ChannelTimeout, TlsFailed
from .head import Headers, ResponseHead
from .limits import Deadlines, Limits
from .origin import Origin
from .tls import peer_key

#: Accepts any TLS key: for fetching evidence, which proves itself, from a peer whose key it is about to name.
#: Never for a prompt. `Connection.spki` then says which key it was.
DANGEROUS_ANY_KEY: Final = frozenset({b"any key"})

DEFAULT_DEADLINES: Final = Deadlines()

#: Header fields that this class writes, or that would change how the connection behaves.
_OURS = frozenset(
    b"host content-length transfer-encoding accept-encoding connection keep-alive proxy-connection te trailer "
    b"upgrade expect cookie".split()
)
_TARGET = re.compile(rb"[\x21-\x7e]+")
_NAMES = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:\n[!#$%&'*+.^_`|~0-9A-Za-z-]+)*|")
_NEVER = float("inf")
_name = itemgetter(0)
_JOIN_BELOW = 64 * 1024  # a larger body is not copied behind its head
_HOLD_BELOW = 16 * 1024  # so much may come unparsed while a reader gathers
_LAST_CHUNK = b"0\r\n\r\n"


class State(enum.Enum):
    """How far the exchange on a connection has come. Only `UNSENT` may be tried elsewhere."""

    UNSENT = "unsent"
    SENT = "sent"
    ANSWERED = "answered"


class Connection(asyncio.Protocol):
    """Made by `UpstreamPool.acquire`; one exchange at a time, one consumer.

    `request`, `read_some` and `read_all` raise `ChannelError` only (and `request` `ValueError`, before it sends, for
    what cannot be sent). After an error the connection is gone; give it back all the same.
    """

    __slots__ = (
        "_answer",
        "_away_since",
        "_collecting",
        "_deadlines",
        "_error",
        "_first_at",
        "_gathering",
        "_held",
        "_held_bytes",
        "_in_head",
        "_limits",
        "_loop",
        "_on_lost",
        "_on_surplus",
        "_paused",
        "_pins",
        "_poll",
        "_progress_at",
        "_rx",
        "_timer",
        "_timer_at",
        "_took_at",
        "_total_at",
        "_transport",
        "_waiter",
        "counted",
        "idle_since",
        "is_open",
        "key",
        "origin",
        "parked",
        "sent",
        "spki",
        "surplus",
    )

    def __init__(
        self,
        key: str,
        origin: Origin,
        pins: frozenset[bytes] | None,
        limits: Limits,
        on_lost: Callable[[Connection], None],
        on_surplus: Callable[[Connection], None],
    ) -> None:
        self.key = key  # the pool's name for connections like this one
        self.origin = origin
        self.spki: bytes | None = None  # SHA-256 of the peer's TLS key; None without TLS
        self.sent = False  # was any byte of the request handed to the transport
        self.surplus = False  # the peer sent bytes that belong to no answer of ours: an alarm
        self.is_open = False
        self.parked = False  # in the pool, nobody's
        self.counted = False  # it has a place in the pool's count
        self.idle_since = 0.0
        self._pins, self._limits, self._on_lost, self._on_surplus = pins, limits, on_lost, on_surplus
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None  # an asyncio.Transport from connection_made on
        self._poll = select.poll()
        self._answer: AnswerReader | None = None
        self._error: ChannelError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadlines = DEFAULT_DEADLINES
        self._timer_at = self._rx = self._first_at = self._total_at = self._progress_at = self._away_since = 0.0
        self._took_at = 0.0
        self._in_head = self._paused = self._collecting = self._gathering = False
        self._held: list[bytes] = []  # came while a reader gathers: parsed together, when it looks
        self._held_bytes = 0

    # --------------------------------------------------------------------------------------------- the caller's side

    @property
    def state(self) -> State:
        if self._answer is not None and self._answer.head is not None:
            return State.ANSWERED
        return State.SENT if self.sent else State.UNSENT

    @property
    def received(self) -> int:
        """Body bytes of this answer that have come so far."""
        return self._answer.received if self._answer is not None else 0

    @property
    def complete(self) -> bool:
        """Whether the answer's last byte has come (it may still be unread)."""
        return self._answer is not None and self._answer.done

    async def request(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: bytes = b"",
        deadlines: Deadlines = DEFAULT_DEADLINES,
        *,
        max_body: int | None = None,
        started: float | None = None,
    ) -> ResponseHead:
        """Write one request in one go and wait for the final head of its answer.

        Host, Content-Length and `Accept-Encoding: identity` are written here; `headers` may not hold them, nor any
        other field that governs the connection (`ValueError`). `max_body` caps the answer's body (default: the pool's
        limit); `started` is the loop time from which the total deadline counts (default: now).
        """
        if self._answer is not None or not self.is_open:
            raise self._error or ChannelClosed("closed", sent=self.sent)
        head = self._encode(method, target, headers, len(body))
        self._answer = answer = AnswerReader(self._limits, self._limits.body_bytes if max_body is None else max_body)
        now = self._loop.time()
        self._deadlines = deadlines
        self._first_at = now + deadlines.first_byte_s
        self._total_at = (now if started is None else started) + deadlines.total_s
        self._in_head = True
        self._arm(min(self._first_at, self._total_at))
        self.sent = True
        if len(body) < _JOIN_BELOW:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        while answer.head is None:
            if self._error is not None:
                raise self._error
            await self._wait()
        return answer.head

    async def read_some(self, gather_s: float = 0.0) -> bytes:
        """The body bytes that have come and were not yet read, at least one; b"" when the body has ended.

        With `gather_s`, no sooner than that many seconds after the last such call returned, unless the body ends, an
        error comes or the buffer is full before: what comes in many small pieces then costs one turn, not one each.
        """
        answer = self._answered()
        if gather_s:
            await self._gather(answer, self._took_at + gather_s)
        progress_s = self._deadlines.progress_s
        if progress_s != _NEVER and self._away_since:  # the time that the consumer took is not the peer's
            self._progress_at += self._loop.time() - self._away_since
        while not answer.buffered:
            if self._error is not None:
                raise self._error
            if answer.done:
                return b""
            self._away_since = 0.0
            if progress_s != _NEVER:
                self._arm(self._progress_at + progress_s)
            await self._wait()
        data = answer.take()
        if self._paused:
            self._resume()
        if progress_s != _NEVER:
            self._away_since = self._loop.time()
        if gather_s:
            self._took_at = self._loop.time()
        return data

    async def _gather(self, answer: AnswerReader, until: float) -> None:
        if answer.done or self._error is not None or self._paused or self._loop.time() >= until:
            return
        self._gathering = True
        alarm = self._loop.call_at(until, self._wake)
        try:
            await self._wait()
        finally:
            self._gathering = False
            alarm.cancel()
            if self._held:
                self._feed(answer, self._unheld())

    async def read_all(self, max_bytes: int | None = None) -> bytes:
        """The rest of the body, whole. More than `max_bytes` is refused; before reading, where its length was said.

        The progress deadline does not run: what a whole body is good for shows at its end.
        """
        answer = self._answered()
        if max_bytes is not None:
            try:
                answer.check_cap(max_bytes)
            except AnswerRefused as error:
                self._fail(error)
        self._collecting = True
        if self._paused:
            self._resume()
        while True:
            if self._error is not None:
                raise self._error
            if answer.done:
                return answer.take()
            await self._wait()

    async def chunks(self) -> AsyncIterator[bytes]:
        """`read_some` until the end."""
        while data := await self.read_some():
            yield data

    def progress(self) -> None:
        """Say that something of use came: restarts the progress deadline, which runs while `read_some` waits."""
        self._progress_at = self._loop.time()
        if self._away_since:
            self._away_since = self._progress_at

    def abort(self) -> None:
        """End it at once, whatever was under way; whoever waits gets `ChannelClosed`. Does no harm twice."""
        self._unheld()
        self._fail(ChannelClosed("closed", sent=self.sent))
        if self._answer is not None:
            self._answer.drop()

    # ----------------------------------------------------------------------------------------------- the pool's side

    @property
    def reusable(self) -> bool:
        """Whether nothing was on it, or one exchange that ended so cleanly that another may follow."""
        if not self.is_open or self._error is not None or self.surplus:
            return False
        answer = self._answer
        if answer is None:
            return True
        head = answer.head
        return answer.done and head is not None and head.keep_alive and self._transport.get_write_buffer_size() == 0

    def recycle(self, now: float) -> None:
        """Forget the exchange that ended; idle since `now`. Only after `reusable`."""
        self._answer = None
        self.sent = self._in_head = self._paused = self._collecting = False
        self._took_at = 0.0
        self.parked = True
        self.idle_since = now

    def untouched(self) -> bool:
        """Whether nothing came while idle. Asks the socket, since what came may not have been read yet.

        An end, a TLS alert and a premature answer all make it readable; in none of these may a request follow.
        """
        return self.is_open and self._error is None and not self._poll.poll(0)

    @property
    def refusal(self) -> ChannelError | None:
        """Why the connection cannot be used, if it cannot: after the handshake, that the peer's key was refused."""
        return self._error

    # ----------------------------------------------------------------------------------------- the event loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.is_open = True
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        try:
            if tls is not None:
                self.spki = peer_key(tls.getpeercert(binary_form=True))
            if self._pins is not None and not accepts(self._pins, self.spki):
                raise ChannelRefused
        except (TlsFailed, ChannelRefused) as error:
            self._fail(error)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if self._error is not None:
            return
        if answer is None or answer.done:
            self._poison()
            return
        self._rx = self._loop.time()
        if self._gathering and answer.chunked:
            # A chunked body says itself where it ends, so nothing is missed but by its last chunk.
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes <= _HOLD_BELOW and not data.endswith(_LAST_CHUNK):
                return
            data = self._unheld()
        self._feed(answer, data)

    def _unheld(self) -> bytes:
        data = b"".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        return data

    def _feed(self, answer: AnswerReader, data: bytes) -> None:
        try:
            answer.feed(data)
        except AnswerRefused as error:
            self._fail(error)
        if self._in_head and answer.head is not None:
            self._in_head = False
            self._progress_at = self._away_since = self._rx
            self._arm(self._rx + self._deadlines.idle_s)
        if answer.surplus:
            self._poison()
        if not answer.done:
            if self._collecting:
                return
            if answer.buffered > self._limits.high_water and not self._paused and self.is_open:
                self._paused = True
                self._transport.pause_reading()
            if self._gathering and not self._paused:
                return
        self._wake()

    def eof_received(self) -> None:
        self._ended(clean=True)
        self.is_open = False
        self._transport.abort()  # not close: over TLS that would wait for a peer that is done with us

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(clean=exc is None)
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._on_lost(self)

    # ------------------------------------------------------------------------------------------------ ends and errors

    def _ended(self, *, clean: bool) -> None:
        """The peer closed its side, or the connection was lost."""
        if self._held and self._answer is not None:
            self._feed(self._answer, self._unheld())
        if self._error is not None:
            return
        if self._answer is None:
            self._fail(ChannelClosed("closed", sent=False))
            return
        try:
            self._answer.eof(clean=clean)
        except ChannelClosed as error:
            self._fail(error)
        self._wake()

    def _poison(self) -> None:
        """Bytes that belong to no answer: never read on, never reuse, tell the operator. A whole answer is kept."""
        if not self.surplus:
            self.surplus = True
            self._on_surplus(self)
        if self._answer is None:
            self._fail(ChannelClosed("closed", sent=False))
        elif self.is_open:
            self.is_open = False
            self._transport.abort()

    def _fail(self, error: ChannelError) -> None:
        """The exchange failed: what was read before may still be taken, then `error` is raised."""
        if self._error is None:
            self._error = error
            if self.is_open:
                self.is_open = False
                self._transport.abort()
            self._wake()

    # -------------------------------------------------------------------------------------------------------- deadlines

    def _arm(self, at: float) -> None:
        """See to it that the timer fires by `at`. One timer lives across exchanges: an honest answer costs none."""
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._error is not None or self._answer is None or self._answer.done:
            return  # idle, or nothing left to wait for: the next request arms it again
        at, reason = self._total_at, "timeout_total"
        if self._in_head:
            if self._first_at < at:
                at, reason = self._first_at, "timeout_first_byte"
        elif not self._paused:
            idle_at, progress_at = self._rx + self._deadlines.idle_s, self._progress_at + self._deadlines.progress_s
            if idle_at < at:
                at, reason = idle_at, "timeout_idle"
            if progress_at < at and not self._away_since:
                at, reason = progress_at, "timeout_progress"
        if at <= self._loop.time():
            error = ChannelTimeout(reason, sent=True)
            error.ours = self._paused
            self._fail(error)
        else:
            self._arm(at)

    # ---------------------------------------------------------------------------------------------------- small things

    async def _wait(self) -> None:
        self._waiter = waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _answered(self) -> AnswerReader:
        if self._answer is None:
            raise self._error or ChannelClosed("closed", "nothing was asked", sent=False)
        return self._answer

    def _resume(self) -> None:
        """Let the peer go on; the time it was made to wait is not its own."""
        self._paused = False
        if self.is_open:
            self._rx = self._loop.time()
            self._arm(min(self._rx + self._deadlines.idle_s, self._total_at))
            self._transport.resume_reading()

    def _encode(self, method: bytes, target: bytes, headers: Headers, length: int) -> bytes:
        fields = b"\r\n".join([b"%b: %b" % field for field in headers])
        ours = max(0, 2 * len(headers) - 2)  # of the bytes that no value may hold, those between the fields
        clean = len(fields.translate(None, b"\0\r\n")) == len(fields) - ours
        if not clean or not _may_be_sent(method, target, tuple(map(_name, headers))):
            raise ValueError("request line or header fields cannot be sent as given")
        return b"%b %b HTTP/1.1\r\nhost: %b\r\naccept-encoding: identity\r\n%b%b%b\r\n" % (
            method,
            target,
            self.origin.authority,
            fields,
            b"\r\n" if headers else b"",
            b"content-length: %d\r\n" % length if length or method != b"GET" else b"",
        )


@lru_cache(maxsize=256)  # a network's requests go to a few places, and have the same few names
def _may_be_sent(method: bytes, target: bytes, names: tuple[bytes, ...]) -> bool:
    """Whether that is a method and a target that may be asked for, and all of `names` are header names, none of them
    ours to write."""
    whole = all(names) and _NAMES.fullmatch(b"\n".join(names)) is not None
    return (
        whole
        and _OURS.isdisjoint(map(bytes.lower, names))
        and _TARGET.fullmatch(target) is not None
        and method.isalpha()
        and method not in (b"HEAD", b"CONNECT")
    )


def accepts(pins: frozenset[bytes], spki: bytes | None) -> bool:
    """Whether a peer whose key has the digest `spki` may be talked to under `pins`."""
    return pins is DANGEROUS_ANY_KEY or spki in pins
