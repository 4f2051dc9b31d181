"""OpenGradient's statement as it is kept beside a receipt, so that an auditor can run the checks again.

The record is one JSON object in JCS (RFC 8785), so that it has one spelling:

    {"computed_output_hash": hex | null, "computed_request_hash": hex | null, "output_hash": hex,
     "profile": text | null, "request_hash": hex, "schema": "opengradient-statement/1", "signature": base64,
     "surface": text, "tee_id": 0x hex, "timestamp": seconds}

The `computed_` hashes are ours, over what we sent and received; `profile` is the canonical form that fitted. With the
request's body, the output and the key, `reverify` needs nothing else. Text that is kept stays where it is kept: the
record holds none.
"""

from __future__ import annotations

import base64

import msgspec

from gateway.crypto.canonical import jcs, strict_json
from gateway.errors import FormatError
from gateway.model.node import SigningKey
from gateway.model.observation import Observation
from gateway.model.verdict import Check

from .answer import SignedAnswer
from .canonical import PROFILES, Surface
from .response import Binding, appraise_opengradient, bind
from .statement import Statement, parse_statement

SCHEMA = "opengradient-statement/1"
MAX_RECORD = 4096
_TEE = {
    "tee_id": "tee_id",
    "tee_request_hash": "request_hash",
    "tee_output_hash": "output_hash",
    "tee_timestamp": "timestamp",
    "tee_signature": "signature",
}
_UNBOUND = Binding(None, None, None)
_MEMBERS = frozenset(
    {
        "schema", "surface", "profile", "tee_id", "request_hash", "output_hash", "timestamp", "signature",
        "computed_request_hash", "computed_output_hash",
    }
)  # fmt: skip


class Record(msgspec.Struct, frozen=True):
    """A record that was read: the statement, and how it stood to what we sent and received."""

    statement: Statement
    surface: Surface
    binding: Binding


def evidence_record(statement: Statement, answer: SignedAnswer, request_document: object = None) -> bytes:
    """The record of `statement`. Without the request, or with one that has no canonical form, nothing is computed."""
    try:
        binding = _UNBOUND if request_document is None else bind(statement, request_document, answer)
    except FormatError:
        binding = _UNBOUND
    return jcs(
        {
            "schema": SCHEMA,
            "surface": answer.surface.value,
            "profile": binding.profile,
            "tee_id": statement.tee_id,
            "request_hash": statement.request_hash.hex(),
            "output_hash": statement.output_hash.hex(),
            "timestamp": statement.timestamp,
            # An empty signature is how the network's placeholder is read, and is written as it came.
            "signature": base64.b64encode(statement.signature).decode() or "0x",
            "computed_request_hash": _hex(binding.request_hash),
            "computed_output_hash": _hex(binding.output_hash),
        }
    )


def parse_record(data: bytes) -> Record:
    """The record in `data`. Raises `FormatError` for anything that `evidence_record` would not have written."""
    document = strict_json(data, max_bytes=MAX_RECORD, max_depth=2)
    if not isinstance(document, dict) or document.keys() != _MEMBERS or document["schema"] != SCHEMA:
        raise FormatError("not a record of an OpenGradient statement")
    if document["surface"] not in list(Surface) or jcs(document) != data:
        raise FormatError("the record is not spelled as records are")
    surface = Surface(document["surface"])
    statement = parse_statement({tee: document[name] for tee, name in _TEE.items()})
    return Record(statement, surface, Binding(_profile(document["profile"], surface), *_computed(document)))


def reverify(record: Record, request_document: object, outputs: tuple[str, ...], spki: bytes) -> tuple[Check, ...]:
    """Run checks 4 to 7 again (signature, key_bound, request_bound, response_bound) over the request's body, the texts
    one of which must be the output, and the key's SPKI in DER. Freshness and replay were questions of their time."""
    answer = SignedAnswer(record.surface, outputs, Observation())
    key = SigningKey(record.statement.tee_id, "rsa-pss-sha256", spki)
    now = float(record.statement.timestamp)
    result = appraise_opengradient([key], record.statement, None, request_document, answer, now=now, seen_before=False)
    wanted = ("signature", "key_bound", "request_bound", "response_bound")
    return tuple(check for check in result.checks if check.id in wanted)


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def _profile(value: object, surface: Surface) -> str | None:
    known = PROFILES if surface is Surface.CHAT else (surface.value,)
    if value is not None and value not in known:
        raise FormatError("the record names a profile that its surface does not have")
    return value  # type: ignore[return-value]  # one of `known`, or None


def _computed(document: dict[str, object]) -> tuple[bytes | None, bytes | None]:
    found = []
    for name in ("computed_request_hash", "computed_output_hash"):
        value = document[name]
        if value is not None and (not isinstance(value, str) or not _is_hash(value)):
            raise FormatError(f"{name} is not a digest")
        found.append(None if value is None else bytes.fromhex(value))
    return found[0], found[1]


def _is_hash(text: str) -> bool:
    return len(text) == 64 and not set(text) - set("0123456789abcdef")
