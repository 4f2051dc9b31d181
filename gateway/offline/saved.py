"""A saved answer as a bundle: the `verification` member beside the answer that it is about. Pure.

With `attach = "full"` an answer carries its receipt, proof and salts, and the answer itself is what two of the salts
open: the bytes as the node sent them (the answer without our member) and the text of choice 0. So a client that kept
the answer needs nothing else. When a client wrote the answer anew, its bytes are no longer those of the node: then the
text alone is opened. A changed text does not match its digest, and that is what the reader is told.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.crypto.encoding import unb64
from gateway.errors import FormatError
from gateway.log.bundle import Bundle, Opened
from gateway.log.dsse import parse_envelope
from gateway.log.receipt import SALT_LENGTH, parse_receipt, salted
from gateway.model.receipt import RESPONSE_BODY, RESPONSE_CONTENT

_MEMBER = b'"verification":'


class _Verification(msgspec.Struct):
    receipt: str
    proof: str | None = None
    openings: dict[str, str] = {}
    envelope: msgspec.Raw = msgspec.Raw()  # empty: absent


class _Answer(msgspec.Struct):
    verification: _Verification
    choices: list[dict[str, Any]] = []


def bundle_from_answer(data: bytes) -> Bundle:
    """The bundle that a saved answer amounts to. FormatError when it carries no receipt, or is not an answer."""
    try:
        answer = msgspec.json.decode(data, type=_Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"not an answer with a verification member: {error}") from error
    found = answer.verification
    envelope = bytes(found.envelope)
    if not envelope or found.proof is None:
        raise FormatError(
            f"the answer names receipt {found.receipt} but does not carry it (policy: attach = summary); "
            f"fetch /v1/receipts/{found.receipt}/bundle and verify that"
        )
    return Bundle(receipt=envelope, proof=found.proof, openings=_openings(data, answer, _committed(envelope)))


def _committed(envelope: bytes) -> dict[str, str]:
    """Name to digest. Only chooses what to open; the verifier reads the payload again, behind its signature."""
    statement = parse_receipt(parse_envelope(envelope).payload)
    return {s.name: s.digest.sha256 for s in statement.subject}


def _openings(data: bytes, answer: _Answer, committed: dict[str, str]) -> dict[str, Opened]:
    salts = {name: unb64(text, "a salt") for name, text in answer.verification.openings.items() if name in committed}
    if any(len(salt) != SALT_LENGTH for salt in salts.values()):
        raise FormatError(f"an opening's salt is not {SALT_LENGTH} bytes")
    opened: dict[str, Opened] = {}
    body = without_member(data)
    salt = salts.get(RESPONSE_BODY)
    if salt is not None and body is not None and salted(salt, body) == committed[RESPONSE_BODY]:
        opened[RESPONSE_BODY] = Opened(salt, body)
    text = _text(answer)
    salt = salts.get(RESPONSE_CONTENT)
    if salt is not None and text is not None:
        opened[RESPONSE_CONTENT] = Opened(salt, text.encode("utf-8", "surrogatepass"))
    return opened


def without_member(data: bytes) -> bytes | None:
    """`data` without its last member `verification`, byte for byte what it was before; None when it is not last."""
    at = data.find(_MEMBER)
    while at >= 0:
        end = data.rfind(b"}")
        if _is_object(data[at + len(_MEMBER) : end]):
            before = data[:at]
            return before.removesuffix(b",") + data[end:]
        at = data.find(_MEMBER, at + 1)
    return None


def _is_object(data: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(data), dict)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def _text(answer: _Answer) -> str | None:
    if not answer.choices:
        return None
    choice = answer.choices[0]
    message = choice.get("message")
    found = message.get("content") if isinstance(message, dict) else choice.get("text")
    return found if isinstance(found, str) else None
