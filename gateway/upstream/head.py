"""One answer's head: from the exact bytes up to the empty line to a status, headers and one unambiguous framing.

httptools (llhttp, nothing lenient) parses; it already refuses bare CR and LF, NUL, folded lines, space before a colon,
doubled or signed Content-Length, and Content-Length beside Transfer-Encoding. What it lets pass is refused here:
HTTP/2.0, statuses beyond 599, any coding but exactly `chunked`, empty lines in front, too many fields, compressed
bodies, bodies where there can be none. Pure: bytes in, value or `AnswerRefused` out.
"""

from __future__ import annotations

import enum

import httptools

from .errors import AnswerRefused

Headers = list[tuple[bytes, bytes]]

_VERSIONS = (b"HTTP/1.1 ", b"HTTP/1.0 ")
_PARSER_ERRORS = (httptools.HttpParserError, httptools.HttpParserUpgrade)
_INTERIM = frozenset({100, 103})
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"content-encoding", b"connection"})
_MAX_LENGTH_DIGITS = 15


class Framing(enum.Enum):
    """How the end of the body is known."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


class ResponseHead:
    """The head of a final answer. Header names are lower-case, values as sent but for the white space around them."""

    __slots__ = ("_once", "content_length", "framing", "headers", "keep_alive", "status")

    def __init__(self, status: int, headers: Headers, framing: Framing, length: int | None, keep_alive: bool) -> None:
        self.status = status
        self.headers = headers
        once = dict(headers)
        self._once = once if len(once) == len(headers) else None  # no name stands twice
        self.framing = framing
        self.content_length = length
        self.keep_alive = keep_alive

    @property
    def delimited_by_close(self) -> bool:
        """Whether the end of the body is the end of the connection: a cut cannot be told from an end (E10)."""
        return self.framing is Framing.CLOSE

    def get(self, name: bytes) -> bytes | None:
        """The value of the header `name` (lower-case); None when it is absent or comes with differing values."""
        if self._once is not None:
            return self._once.get(name)
        found: bytes | None = None
        for field, value in self.headers:
            if field == name:
                if found is not None and found != value:
                    return None
                found = value
        return found

    def __repr__(self) -> str:
        return f"ResponseHead({self.status}, {len(self.headers)} headers, {self.framing.value})"


class HeadParser:
    """Parses the head of one answer; kept by the connection for the body when that is chunked.

    `body` collects what the chunks held, `pieces` is how many pieces the last bytes gave; `ended` says that the last
    chunk was seen, `surplus` that another message began behind it in the same bytes.
    """

    __slots__ = ("_fields", "_headers", "_in_head", "_parser", "body", "ended", "on_body", "pieces", "surplus")

    def __init__(self, max_fields: int) -> None:
        self._headers: Headers = []
        self._fields = max_fields
        self._in_head = True
        self.body: list[bytes] = []
        self.on_body = self.body.append
        self.pieces = 0
        self.ended = False
        self.surplus = False
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    # httptools' callbacks. An exception in one of them ends `feed_data` as an HttpParserCallbackError.

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # what comes later is a trailer, or the head of a second message: ignored (E09)
            self._headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self._in_head = False

    def on_message_begin(self) -> None:
        if self.ended:
            self.surplus = True
            raise _Surplus

    def on_message_complete(self) -> None:
        self.ended = True

    def head(self, data: bytes) -> ResponseHead | int:
        """The final head in `data`, which ends with the empty line, or the status (100, 103) of an interim one.

        Raises `AnswerRefused`.
        """
        if data[:9] not in _VERSIONS:
            raise AnswerRefused("bad_framing", "the status line is not that of HTTP/1.0 or 1.1", sent=True)
        if not data[9:12].isdigit():
            raise AnswerRefused("bad_framing", "the status is not a number", sent=True)
        status = int(data[9:12])
        if status not in _INTERIM and not 200 <= status <= 599:  # before llhttp, which would switch protocols at a 101
            raise AnswerRefused("status", str(status), sent=True)
        self._feed(data)
        if self._in_head:
            raise AnswerRefused("bad_framing", "the head does not end where it has to", sent=True)
        if len(self._headers) > self._fields:
            raise AnswerRefused("header_too_large", f"more than {self._fields} header fields", sent=True)
        if status in _INTERIM:
            return status
        return self._framed(status, old=data[:9] == _VERSIONS[1])

    def chunks(self, data: bytes) -> bytes:
        """The body bytes in the next `data` of a chunked body. Raises `AnswerRefused`; see `ended`, `surplus`."""
        body = self.body
        try:
            self._feed(data)
        except AnswerRefused:
            if not self.surplus:
                raise
        self.pieces = len(body)
        if self.pieces == 1:
            return body.pop()
        joined = b"".join(body)
        body.clear()
        return joined

    def drop(self) -> None:
        """Break the reference cycle with httptools, so that no answer waits for the garbage collector."""
        self._parser = None

    def _feed(self, data: bytes) -> None:
        assert self._parser is not None  # dropped by `drop` alone
        try:
            self._parser.feed_data(data)
        except _PARSER_ERRORS:
            detail = "bytes that are not HTTP after the answer's end" if self.ended else "malformed"
            raise AnswerRefused("bad_framing", detail, sent=True) from None

    def _framed(self, status: int, *, old: bool) -> ResponseHead:
        length: int | None = None
        chunked = False
        keep_alive = not old
        for name, value in self._headers:
            if name not in _FRAMING:
                continue
            if name == b"content-length":
                if length is not None or not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
                    raise AnswerRefused("bad_framing", "Content-Length", sent=True)
                length = int(value)
            elif name == b"transfer-encoding":
                if chunked or old or value.lower() != b"chunked":
                    raise AnswerRefused("bad_framing", "Transfer-Encoding is not exactly chunked", sent=True)
                chunked = True
            elif name == b"content-encoding":
                if value.lower() != b"identity":
                    raise AnswerRefused("content_encoding", sent=True)
            elif b"close" in value.lower():
                keep_alive = False
        if chunked and length is not None:
            raise AnswerRefused("bad_framing", "Content-Length beside Transfer-Encoding", sent=True)
        if status in (204, 304):
            if chunked or length:
                raise AnswerRefused("status", f"{status} with a body", sent=True)
            return ResponseHead(status, self._headers, Framing.NONE, 0, keep_alive)
        if chunked:
            return ResponseHead(status, self._headers, Framing.CHUNKED, None, keep_alive)
        if length is None:
            return ResponseHead(status, self._headers, Framing.CLOSE, None, False)
        return ResponseHead(status, self._headers, Framing.LENGTH, length, keep_alive)


class _Surplus(Exception):
    pass
