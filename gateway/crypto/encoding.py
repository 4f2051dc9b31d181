"""Base64 and decimals that have one spelling only.

Every text format of the log (notes, checkpoints, proofs, envelopes) is signed or compared as bytes, so a value that can
be written in two ways is an ambiguity: padding bits, whitespace, the URL-safe alphabet, signs and leading zeros are
refused. RFC 4648 section 4 with section 3.5 ("canonical encoding").
"""

from __future__ import annotations

import binascii

from gateway.errors import FormatError

#: Sizes and indices are at most 2**63 - 1, so that they fit a signed 64-bit column and any other reader.
MAX_COUNT = 2**63 - 1


def b64(data: bytes) -> str:
    """`data` in standard padded base64."""
    return binascii.b2a_base64(data, newline=False).decode()


def unb64(text: str, what: str, *, length: int | None = None) -> bytes:
    """The bytes that `text` spells in canonical standard base64, `length` of them if given.

    Raises `FormatError` naming `what` for any other spelling or length.
    """
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):  # ValueError: not ASCII
        raise FormatError(f"{what} is not base64") from None
    if b64(data) != text:
        raise FormatError(f"{what} is not base64 in canonical form")
    if length is not None and len(data) != length:
        raise FormatError(f"{what} has {len(data)} bytes, not {length}")
    return data


def decimal(text: str, what: str) -> int:
    """The number that `text` spells in ASCII decimal without sign or leading zeros, at most `MAX_COUNT`.

    Raises `FormatError` naming `what` for anything else.
    """
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or (text[0] == "0" and text != "0"):
        raise FormatError(f"{what} is not a plain decimal number")
    value = int(text)
    if value > MAX_COUNT:
        raise FormatError(f"{what} is over {MAX_COUNT}")
    return value
