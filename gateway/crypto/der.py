"""A small strict reader of DER (ITU-T X.690): what the attestation certificates of AMD need, and no more.

    reader = Reader(der)
    body = reader.enter(SEQUENCE)     # a reader over the contents
    serial = body.integer()
    reader.end()                      # nothing may follow

There is one way to write each value: lengths are definite and minimal, tags are one byte, integers have no padding,
TRUE is 0xFF. Nothing here recurses; a caller descends by name, so nesting in the data costs nothing. Everything raises
`FormatError` and nothing else. Certificates of other vendors go through `gateway.crypto.certificates`.
"""

from __future__ import annotations

from datetime import UTC, datetime

from gateway.errors import FormatError

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, OID = 0x01, 0x02, 0x03, 0x04, 0x06
UTF8_STRING, PRINTABLE_STRING, IA5_STRING = 0x0C, 0x13, 0x16
UTC_TIME, GENERALIZED_TIME = 0x17, 0x18
SEQUENCE, SET = 0x30, 0x31

_TEXT = {UTF8_STRING: "utf-8", PRINTABLE_STRING: "ascii", IA5_STRING: "ascii"}
_TIMES = {UTC_TIME: 13, GENERALIZED_TIME: 15}


def explicit(number: int) -> int:
    """The tag byte of the context-specific, constructed tag `[number]`."""
    return 0xA0 | number


class Reader:
    """Reads the elements between `at` and `stop` of `data`, one after the other."""

    __slots__ = ("at", "data", "stop")

    def __init__(self, data: bytes, at: int = 0, stop: int | None = None) -> None:
        self.data = data
        self.at = at
        self.stop = len(data) if stop is None else stop

    @property
    def more(self) -> bool:
        """Whether anything is left."""
        return self.at < self.stop

    def next_is(self, tag: int) -> bool:
        """Whether the next element has this tag; False at the end."""
        return self.at < self.stop and self.data[self.at] == tag

    def end(self) -> None:
        """Raises `FormatError` when anything is left."""
        if self.at != self.stop:
            raise FormatError(f"DER: {self.stop - self.at} bytes too many at byte {self.at}")

    def _header(self, tag: int) -> tuple[int, int]:
        """Step over one element; where its contents begin and end."""
        data, at, stop = self.data, self.at, self.stop
        if at + 2 > stop:
            raise FormatError(f"DER: cut short at byte {at}")
        if data[at] != tag:
            raise FormatError(f"DER: tag {data[at]:#04x} at byte {at} where {tag:#04x} belongs")
        length = data[at + 1]
        begin = at + 2
        if length >= 0x80:
            begin += length & 0x7F
            length = self._long_length(at + 2, begin)
        if begin + length > stop:
            raise FormatError(f"DER: an element at byte {at} runs past its end")
        self.at = begin + length
        return begin, begin + length

    def _long_length(self, at: int, begin: int) -> int:
        # 0x80 (indefinite) has no octets here; three octets are 16 MiB, more than any caller's size cap.
        if not 1 <= begin - at <= 3 or begin > self.stop:
            raise FormatError(f"DER: a length at byte {at} is indefinite, too long or cut short")
        length = int.from_bytes(self.data[at:begin], "big")
        if length < 0x80 or self.data[at] == 0:
            raise FormatError(f"DER: the length at byte {at} is not minimal")
        return length

    def element(self, tag: int) -> bytes:
        """The next element whole, header included."""
        start = self.at
        _, stop = self._header(tag)
        return self.data[start:stop]

    def contents(self, tag: int) -> bytes:
        """The contents of the next element."""
        begin, stop = self._header(tag)
        return self.data[begin:stop]

    def enter(self, tag: int) -> Reader:
        """A reader over the contents of the next element."""
        begin, stop = self._header(tag)
        return Reader(self.data, begin, stop)

    def integer(self, max_bytes: int = 20) -> int:
        """A non-negative INTEGER of at most `max_bytes` octets, a sign octet not counted."""
        value = self.contents(INTEGER)
        if not value or value[0] >= 0x80 or (len(value) > 1 and value[0] == 0 and value[1] < 0x80):
            raise FormatError("DER: an integer is empty, negative or padded")
        if len(value) - (len(value) > 1 and value[0] == 0) > max_bytes:
            raise FormatError(f"DER: an integer has more than {max_bytes} bytes")
        return int.from_bytes(value, "big")

    def true(self) -> bool:
        """`BOOLEAN DEFAULT FALSE`: True when it is there, which DER allows for TRUE alone."""
        if not self.next_is(BOOLEAN):
            return False
        if self.contents(BOOLEAN) != b"\xff":
            raise FormatError("DER: a BOOLEAN that is FALSE by default says something other than TRUE")
        return True

    def bits(self) -> bytes:
        """A BIT STRING of whole octets."""
        value = self.contents(BIT_STRING)
        if not value or value[0] != 0:
            raise FormatError("DER: a BIT STRING does not hold whole octets")
        return value[1:]

    def text(self) -> str:
        """A UTF8String, PrintableString or IA5String."""
        tag = self.data[self.at] if self.more else -1
        codec = _TEXT.get(tag)
        if codec is None:
            raise FormatError(f"DER: no text at byte {self.at}")
        try:
            return self.contents(tag).decode(codec)
        except UnicodeDecodeError:
            raise FormatError("DER: text is not in its alphabet") from None

    def time(self) -> float:
        """A UTCTime or GeneralizedTime in the one form of RFC 5280 section 4.1.2.5, in Unix seconds."""
        tag = self.data[self.at] if self.more else -1
        if tag not in _TIMES:
            raise FormatError(f"DER: no time at byte {self.at}")
        value = self.contents(tag)
        if len(value) != _TIMES[tag] or not value[:-1].isdigit() or value[-1:] != b"Z":
            raise FormatError("DER: a time has another form than YYMMDDHHMMSSZ or YYYYMMDDHHMMSSZ")
        year = _four_digits(int(value[:2])) if tag == UTC_TIME else int(value[:4])
        month, day, hour, minute, second = (int(value[i : i + 2]) for i in range(len(value) - 11, len(value) - 1, 2))
        try:
            return datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()
        except (ValueError, OverflowError):
            raise FormatError("DER: a time is not in the calendar") from None


def _four_digits(year: int) -> int:
    return 2000 + year if year < 50 else 1900 + year
