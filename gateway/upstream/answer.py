"""One answer, read from bytes as they come: interim heads dropped, the final head, then the body to its exact end.

    answer = AnswerReader(limits, max_body)
    answer.feed(data)                # any cut of the bytes; `AnswerRefused` when they break a rule
    answer.head, answer.take(), answer.done, answer.surplus

No socket, no clock. Bodies are counted here when their length was said, and by llhttp when they are chunked; what comes
behind the end is never parsed as part of anything. After an exception the reader is not fed again.
"""

from __future__ import annotations

from .errors import AnswerRefused, ChannelClosed
from .head import Framing, HeadParser, ResponseHead
from .limits import Limits

_PER_CHUNK = 32  # bytes of framing that one honest chunk may need: 16 digits, two line ends, a little more
_STATUS_LINE = b"HTTP/1."


class AnswerReader:
    """`done`: the body is complete. `surplus`: the peer sent bytes behind it. `buffered`: body bytes not taken yet."""

    __slots__ = (
        "_buffer",
        "_framing_bytes",
        "_head_bytes",
        "_interim",
        "_limits",
        "_parser",
        "_partial",
        "_remaining",
        "_tail",
        "buffered",
        "done",
        "head",
        "max_body",
        "received",
        "surplus",
    )

    def __init__(self, limits: Limits, max_body: int) -> None:
        self._limits = limits
        self.max_body = max_body
        self.head: ResponseHead | None = None
        self.done = False
        self.surplus = False
        self.received = 0  # body bytes so far
        self.buffered = 0
        self._buffer: list[bytes] = []
        self._partial = bytearray()
        self._parser: HeadParser | None = None  # while a chunked body is read
        self._tail = b""
        self._remaining = self._framing_bytes = self._head_bytes = self._interim = 0

    @property
    def chunked(self) -> bool:
        """Whether what comes next is part of a chunked body."""
        return self._parser is not None

    def feed(self, data: bytes) -> None:
        """The next bytes, at least one. Not to be called once `done`. Raises `AnswerRefused`."""
        head = self.head
        if head is None:
            self._heads(data)
        elif self._parser is not None:
            self._chunked(self._parser, data)
        elif head.framing is Framing.LENGTH:
            self._counted(data)
        else:
            self._accept(data)

    def eof(self, *, clean: bool) -> None:
        """The peer ended the connection, by closing its side (`clean`) or by a reset. Raises `ChannelClosed`."""
        if self.done:
            return
        if self.head is None:
            raise ChannelClosed("closed", sent=True)
        if not (clean and self.head.framing is Framing.CLOSE):
            raise ChannelClosed("truncated", sent=True)
        self.done = True

    def take(self) -> bytes:
        """The body bytes not taken yet; b"" when there are none."""
        self.buffered = 0
        buffer = self._buffer
        if len(buffer) == 1:
            return buffer.pop()
        data = b"".join(buffer)
        buffer.clear()
        return data

    def drop(self) -> None:
        """Let go of the parser and of what was not taken."""
        self._buffer.clear()
        self.buffered = 0
        if self._parser is not None:
            self._parser.drop()
            self._parser = None

    def check_cap(self, max_body: int) -> None:
        """Lower the cap on the body to `max_body`. Raises `AnswerRefused` when it is, or will be, larger."""
        self.max_body = min(self.max_body, max_body)
        length = self.head.content_length if self.head is not None else None
        if self.received > self.max_body or (length or 0) > self.max_body:
            raise AnswerRefused("too_large", sent=True)

    # -------------------------------------------------------------------------------------------------------- the head

    def _heads(self, data: bytes) -> None:
        """Zero or more interim heads, then the final one."""
        if self._partial:
            seen = len(self._partial)
            self._partial += data
            if self._partial.find(b"\r\n\r\n", max(0, seen - 3)) < 0:
                self._incomplete(self._partial)
                return
            data = bytes(self._partial)
            self._partial = bytearray()
        while data:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                self._incomplete(data)
                self._partial += data
                return
            self._head_bytes += end
            if self._head_bytes > self._limits.head_bytes:
                raise AnswerRefused("header_too_large", sent=True)
            parser = HeadParser(self._limits.head_fields)
            head = parser.head(data[:end])
            data = data[end:]
            if isinstance(head, ResponseHead):
                self._begin(head, parser, data)
                return
            self._interim += 1
            if self._interim > self._limits.interim:
                raise AnswerRefused("status", f"more than {self._limits.interim} interim answers", sent=True)

    def _incomplete(self, head: bytes | bytearray) -> None:
        """Refuse early what cannot become a head."""
        if self._head_bytes + len(head) > self._limits.head_bytes:
            raise AnswerRefused("header_too_large", sent=True)
        line = head.find(b"\n")
        if head[: len(_STATUS_LINE)] != _STATUS_LINE[: len(head)] or (line >= 0 and head[line - 1 : line] != b"\r"):
            raise AnswerRefused("bad_framing", "the answer does not begin with an HTTP/1 status line", sent=True)

    def _begin(self, head: ResponseHead, parser: HeadParser, rest: bytes) -> None:
        length = head.content_length
        if length is not None and length > self.max_body:
            raise AnswerRefused("too_large", f"Content-Length {length}", sent=True)
        self.head = head
        if head.framing is Framing.CHUNKED:
            self._parser = parser
        else:
            parser.drop()
        if length == 0:
            self._finish(rest)
            return
        self._remaining = length or 0
        if rest:
            self.feed(rest)

    # -------------------------------------------------------------------------------------------------------- the body

    def _counted(self, data: bytes) -> None:
        left = self._remaining - len(data)
        if left > 0:
            self._remaining = left
            self._accept(data)
        elif left == 0:
            self._accept(data)
            self.done = True
        else:
            self._accept(data[:left])
            self._finish(data[left:])

    def _chunked(self, parser: HeadParser, data: bytes) -> None:
        body = parser.chunks(data)
        # Sizes, extensions and trailers have no bound in the parser: what is neither body nor the framing that so many
        # pieces need is counted against one allowance (a 1 MB chunk extension, E04). What small chunks leave of theirs
        # is not saved up: a million of them would pay for a trailer of 27 MB.
        framing = self._framing_bytes + len(data) - len(body) - _PER_CHUNK * parser.pieces
        self._framing_bytes = framing if framing > 0 else 0
        if framing > self._limits.chunk_overhead:
            raise AnswerRefused("bad_framing", "chunk extensions or trailers beyond the cap", sent=True)
        if body:
            self._accept(body)
        self._tail = data if len(data) > 3 else (self._tail + data)[-4:]
        if parser.ended:
            self._parser = None
            parser.drop()
            if parser.surplus:  # where it began is not known; whether it is an answer decides only what becomes of ours
                self._finish(_STATUS_LINE if b"\r\n\r\n" + _STATUS_LINE in data else b"?")
            else:  # llhttp skips empty lines in front of a message: four bytes of them are ours
                self._finish(self._tail[len(self._tail.rstrip(b"\r\n")) :][4:])

    def _accept(self, body: bytes) -> None:
        size = len(body)
        self.received += size
        if self.received > self.max_body:
            raise AnswerRefused("too_large", sent=True)
        self._buffer.append(body)
        self.buffered += size

    def _finish(self, behind: bytes) -> None:
        """The body is complete. `behind`: what came after its end in the same bytes; a clean peer sends nothing.

        What looks like another answer is dropped and marked (E17): ours is complete and stands or falls with its
        evidence. Other bytes mean that the framing lied (E11): ours is refused.
        """
        self.surplus = bool(behind)
        if behind and not (behind.startswith(_STATUS_LINE) or _STATUS_LINE.startswith(behind)):
            raise AnswerRefused("bad_framing", "bytes after the answer's end", sent=True)
        self.done = True
