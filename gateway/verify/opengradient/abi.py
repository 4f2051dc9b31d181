"""The contract ABI (Solidity's, version 2), read strictly: an answer is the one canonical encoding of its values.

`eth_abi` does the encoding; it is an extra, `pip install 'veriroute[opengradient]'`, and is imported when first needed.
A decoder of ABI bytes follows offsets that the other side wrote, so two things are made sure of here. Lists of records
are cut into slices that neither overlap nor leave gaps before anything is decoded: 256 offsets that all point to one
megabyte would otherwise become 256 megabytes. And what was decoded has to encode to the very same bytes: dirty padding,
shared or reordered tails, booleans of 2 and trailing bytes are malformed. Solidity itself writes none of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from gateway.errors import ConfigError, FormatError

#: The longest answer of a contract that is read, in bytes.
MAX_ANSWER = 1024 * 1024
#: The most entries of one list.
MAX_RECORDS = 256
#: Times and counts of the contract are 256 bits wide; ours end where a signed 64-bit column does.
MAX_NUMBER = 2**63 - 1
#: The longest text (an endpoint, a version), in characters.
MAX_TEXT = 2048

WORD = 32


class _Codec(NamedTuple):
    encode: Callable[[Sequence[str], Sequence[Any]], bytes]
    decode: Callable[[Sequence[str], bytes], tuple[Any, ...]]
    raises: tuple[type[Exception], ...]


@functools.cache
def _codec() -> _Codec:
    """`eth_abi` and what it raises. Raises `ConfigError` where it is not installed."""
    try:
        from eth_abi.abi import decode, encode
        from eth_abi.exceptions import DecodingError, EncodingError
    except ImportError:
        raise ConfigError(
            "OpenGradient's registry is read with eth_abi: pip install 'veriroute[opengradient]'"
        ) from None
    # Beside its own: strings that are no UTF-8, offsets beyond what a stream can seek to, values out of range.
    foreign = (DecodingError, EncodingError, UnicodeError, OverflowError, ValueError, TypeError)
    return _Codec(encode, decode, foreign)


def require() -> None:
    """Raises `ConfigError` where `eth_abi` is missing, so that a service can refuse to start."""
    _codec()


def encode(types: Sequence[str], values: Sequence[Any]) -> bytes:
    """The canonical encoding of `values`. Raises `FormatError` for values that are not of `types`."""
    codec = _codec()
    try:
        return bytes(codec.encode(types, values))
    except codec.raises as error:
        raise FormatError(f"not of the types {', '.join(types)}: {type(error).__name__}") from None


def decode(types: Sequence[str], data: bytes) -> tuple[Any, ...]:
    """The values that `data`, at most `MAX_ANSWER` bytes, is the canonical encoding of.

    `address` comes as lower-case `0x` text, `bytes` and `bytesN` as bytes, numbers as int, tuples as tuples. Raises
    `FormatError` for everything else. Lists of dynamic records go through `dynamic_records` first.
    """
    _bounded(data)
    codec = _codec()
    try:
        values = codec.decode(types, data)
        again = codec.encode(types, values)
    except codec.raises as error:
        _malformed(type(error).__name__)
    if again != data:
        _malformed("not in canonical form")
    return tuple(values)


def dynamic_records(data: bytes) -> list[bytes]:
    """The encodings of the records of one `T[]`, `T` dynamic, that is the only value of `data`; at most `MAX_RECORDS`.

    Each comes as it stands in the list; `WORD`'s offset before it makes it an encoding of one `T` (`one_record`).
    """
    count = _list_head(data)
    if count == 0:
        return static_records(data, WORD)
    body = data[2 * WORD :]
    starts = [_number(body, WORD * index) for index in range(count)]
    ends = [*starts[1:], len(body)]
    if starts[0] != WORD * count:
        _malformed("the first record does not follow the list's head")
    if any(end <= start or start % WORD for start, end in zip(starts, ends, strict=True)):
        _malformed("records overlap or are out of order")
    return [body[start:end] for start, end in zip(starts, ends, strict=True)]


def static_records(data: bytes, size: int) -> list[bytes]:
    """The encodings of the records of one `T[]`, `T` of `size` bytes, that is the only value of `data`."""
    count = _list_head(data)
    if len(data) != 2 * WORD + count * size:
        _malformed("the list has another length than it says")
    return [data[start : start + size] for start in range(2 * WORD, len(data), size)]


def one_record(record_type: str, record: bytes) -> tuple[Any, ...]:
    """The fields of one record that `dynamic_records` cut out. Raises `FormatError`."""
    fields: tuple[Any, ...] = decode([record_type], WORD.to_bytes(WORD, "big") + record)[0]
    return fields


def number(value: int, what: str) -> int:
    """`value` if it is at most `MAX_NUMBER`. Raises `FormatError` naming `what`."""
    if value > MAX_NUMBER:
        raise FormatError(f"{what} is beyond 64 bits")
    return value


def text(value: str, what: str) -> str:
    """`value` if it has at most `MAX_TEXT` characters. Raises `FormatError` naming `what`."""
    if len(value) > MAX_TEXT:
        raise FormatError(f"{what} has more than {MAX_TEXT} characters", reason="field_too_long")
    return value


def _list_head(data: bytes) -> int:
    _bounded(data)
    if len(data) < 2 * WORD or _number(data, 0) != WORD:
        _malformed("not one list")
    count = _number(data, WORD)
    if count > MAX_RECORDS:
        raise FormatError(f"a list of more than {MAX_RECORDS} records", reason="too_many_records")
    if len(data) < 2 * WORD + count * WORD:
        _malformed("the list is cut short")
    return count


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + WORD], "big")


def _bounded(data: bytes) -> None:
    if len(data) > MAX_ANSWER:
        raise FormatError(f"ABI data of {len(data)} bytes is over the limit of {MAX_ANSWER}", reason="too_large")
    if len(data) % WORD:
        _malformed("not whole words")


def _malformed(what: str) -> NoReturn:
    raise FormatError(f"malformed ABI data: {what}", reason="abi_malformed")
