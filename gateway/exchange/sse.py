"""Event-stream framing by bytes (WHATWG HTML, section 9.2): what each event says, and which bytes it stood in.

The stream of a node is cut into blocks that end at a blank line. A block knows its raw bytes, so that they can be
hashed and passed on untouched, and whether it is *plain* (one `data:` line, or one `event:` and one `data:` line, LF
ends), so that anything odd is re-written from what was parsed instead of being passed on.
"""

from __future__ import annotations

import re

import msgspec

from gateway.errors import FormatError

_BLANK = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n")
_LINE = re.compile(rb"\r\n|\n|\r")
#: Lines of one event. Honest ones have two or three, or those of a document; 4 MiB of short ones take seconds to read.
MAX_LINES = 10_000
#: Blocks of a stream that may be of any length, and bytes of it for each one beyond them. To read a block takes its
#: time however short it is: 32 MiB of blank lines would take minutes. Honest events have 60 bytes and more.
FREE_BLOCKS, BLOCK_BYTES = 10_000, 32
BOM = b"\xef\xbb\xbf"


class Block(msgspec.Struct, frozen=True):
    """One block of a stream: its `raw` bytes with the blank line, and what they say.

    `data` is None for a block that is no event, since it holds no data, or an empty one (comments, `retry`); `comments`
    are the texts after `:`.
    """

    raw: bytes
    data: bytes | None
    event: bytes = b""
    comments: tuple[bytes, ...] = ()
    plain: bool = True


class Framer:
    """Cuts a byte stream into blocks: `feed(data)` gives those that `data` completed, `rest` is what is unfinished."""

    def __init__(self, max_event: int) -> None:
        self._rest = bytearray()  # grows in place: to copy a long event for every read of it would cost its square
        self._max = max_event
        self._first = True
        self._blocks = self._bytes = 0  # so far

    @property
    def rest(self) -> bytes:
        """The bytes behind the last block, of which no blank line is known yet."""
        return bytes(self._rest)

    def feed(self, data: bytes) -> list[Block]:
        """Blocks completed by `data`. Raises `FormatError` when one block would exceed the limit, or too many of them
        come in too few bytes."""
        self._bytes += len(data)
        buffer = data
        if self._rest:
            if not self._completed(data):
                return []
            buffer = bytes(self._rest)
        blocks: list[Block] = []
        start = 0
        if b"\r" not in buffer:
            find, starts, longest = buffer.find, buffer.startswith, self._max - 2
            while (end := find(b"\n\n", start)) >= 0:
                raw = buffer[start : end + 2]
                # By far the most are one line of data or one comment, for which `parse_block` would say the same.
                one_line = not self._first and end - start <= longest and find(b"\n", start, end) < 0
                if one_line and starts(b"data: ", start):
                    blocks.append(Block(raw, raw[6:-2] or None))
                elif one_line and starts(b": ", start):
                    blocks.append(Block(raw, None, b"", (raw[2:-2],), False))
                else:
                    blocks.append(self._block(raw))
                start = end + 2
        else:
            while (match := _BLANK.search(buffer, start)) is not None:
                if _waits(match, buffer):
                    break
                blocks.append(self._block(buffer[start : match.end()]))
                start = match.end()
        if start < len(buffer) or self._rest:
            self._rest = bytearray(buffer[start:])
            self._check(len(self._rest))
        self._blocks += len(blocks)
        if self._blocks > FREE_BLOCKS and self._blocks * BLOCK_BYTES > self._bytes:
            raise FormatError(f"{self._blocks} events and comments in {self._bytes} bytes")
        return blocks

    def _completed(self, data: bytes) -> bool:
        """Whether the unfinished block, which gets `data`, has an end now. What was searched once is not again."""
        rest = self._rest
        at = max(0, len(rest) - 3)  # of an end, which is up to 4 bytes long, one is new
        rest += data
        if rest.find(b"\n\n", at) >= 0:
            return True
        match = _BLANK.search(rest, at) if rest.find(b"\r", at) >= 0 else None
        if match is not None and not _waits(match, rest):
            return True
        self._check(len(rest))
        return False

    def _check(self, length: int) -> None:
        if length > self._max:
            raise FormatError(f"one event is over the limit of {self._max} bytes")

    def _block(self, raw: bytes) -> Block:
        self._check(len(raw))
        if self._first:
            self._first = False
            if raw.startswith(BOM):
                parsed = parse_block(raw[3:])
                return Block(raw, parsed.data, parsed.event, parsed.comments, False)
        return parse_block(raw)


def _waits(match: re.Match[bytes], buffer: bytes | bytearray) -> bool:
    """Whether an end stands at the very end and ends in a CR, which may be half of a CRLF: what follows decides."""
    return match.end() == len(buffer) and buffer.endswith(b"\r")


def parse_block(raw: bytes) -> Block:
    """One block from its raw bytes (ending in a blank line). Raises `FormatError` for more than `MAX_LINES` lines."""
    data: list[bytes] = []
    comments: list[bytes] = []
    event = b""
    plain = b"\r" not in raw
    lines = _LINE.split(raw, MAX_LINES)
    if len(lines) > MAX_LINES:
        raise FormatError(f"one event has more than {MAX_LINES} lines")
    for line in filter(None, lines):
        name, colon, value = line.partition(b":")
        if value.startswith(b" "):
            value = value[1:]
        if not name and colon:
            comments.append(value)
            plain = False
        elif name == b"data":
            data.append(value)
        elif name == b"event":
            event = value
        else:
            plain = False  # id, retry and unknown fields are not passed on
    form = b"data: " + b"\n".join(data) + b"\n\n"
    if event:
        form = b"event: " + event + b"\n" + form
    plain = plain and len(data) == 1 and raw == form
    return Block(raw, b"\n".join(data) or None, event, tuple(comments), plain)


def format_event(data: bytes, event: bytes = b"") -> bytes:
    """The plain block that says `data` (and `event`)."""
    head = b"event: " + event + b"\n" if event else b""
    return head + b"".join(b"data: " + line + b"\n" for line in data.split(b"\n")) + b"\n"
