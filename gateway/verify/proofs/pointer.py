"""JSON Pointer (RFC 6901), for finding a circuit's numbers in a document and putting proven ones in their place."""

from __future__ import annotations

import re

from gateway.errors import FormatError

MAX_POINTER = 256
MAX_TOKENS = 16
_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)*")
_INDEX = re.compile(r"0|[1-9][0-9]{0,5}")


def tokens(pointer: str) -> tuple[str, ...]:
    """The reference tokens of `pointer`. Raises `FormatError` for one that is malformed, too long or too deep."""
    if len(pointer) > MAX_POINTER or _POINTER.fullmatch(pointer) is None:
        raise FormatError(f"a JSON pointer is empty or starts with /, and has at most {MAX_POINTER} characters")
    parts = tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])
    if len(parts) > MAX_TOKENS:
        raise FormatError(f"a JSON pointer has at most {MAX_TOKENS} parts")
    return parts


def resolve(document: object, pointer: str) -> object:
    """The value at `pointer` in `document`. Raises `FormatError` when there is none."""
    value = document
    for token in tokens(pointer):
        if isinstance(value, dict) and token in value:
            value = value[token]
        elif isinstance(value, list):
            value = value[_index(value, token)]
        else:
            raise FormatError("the document has nothing at the pointer")
    return value


def replaced(document: object, pointer: str, value: object) -> object:
    """`document` with `value` at `pointer`, where it has something; `document` itself stays as it is."""
    return _replaced(document, tokens(pointer), value)


def _replaced(document: object, path: tuple[str, ...], value: object) -> object:
    if not path:
        return value
    token, rest = path[0], path[1:]
    if isinstance(document, dict) and token in document:
        return {**document, token: _replaced(document[token], rest, value)}
    if isinstance(document, list):
        index = _index(document, token)
        return [*document[:index], _replaced(document[index], rest, value), *document[index + 1 :]]
    raise FormatError("the document has nothing at the pointer")


def _index(array: list[object], token: str) -> int:
    if _INDEX.fullmatch(token) is None or int(token) >= len(array):
        raise FormatError("the document has nothing at the pointer")
    return int(token)
