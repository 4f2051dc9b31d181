"""A saved exchange as the commands about proofs take it: files, and the request's body."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from gateway.errors import FormatError
from gateway.text import plain
from gateway.verify.proofs.answer import read_object
from gateway.verify.proofs.tokens import MAX_BODY

from ._appraise_inputs import Usage


class Request(msgspec.Struct, frozen=True):
    """The body that was sent: `document` is its JSON, `model` the one that it names."""

    body: bytes
    document: Mapping[str, Any]
    model: str


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises `Usage`."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BODY + 1)
    except OSError as error:
        raise Usage(f"cannot read {plain(str(path))}: {error.strerror}") from None
    if len(data) > MAX_BODY:
        raise Usage(f"{plain(str(path))} is over {MAX_BODY >> 20} MB")
    return data


def read_request(path: Path) -> Request:
    """The request in a file, which is the operator's own. Raises `Usage` for what is no request."""
    body = read_file(path)
    try:
        document = read_object(body)
    except FormatError as error:
        raise Usage(f"{plain(str(path))} is no request: {error.message}") from None
    model = document.get("model")
    if not isinstance(model, str) or not model:
        raise Usage(f"{plain(str(path))} is no request: it names no model")
    return Request(body, document, model)


def sha(data: bytes) -> str:
    """SHA-256 as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()
