"""The report of a dstack node, taken apart: which bytes are the quote, the log, the document, the GPU evidence.

    JSON       {"intel_quote" | "quote" | "intel_attestation_report": hex, "event_log": text or list,
               "nvidia_payload": text, "info": {"tcb_info": {"app_compose": text, "event_log": list}}, ...}
    envelope   version 00 | platform u8 (2 Nitro, 3 SEV-SNP) | evidence, counted | ...         (SCALE)
               on SEV-SNP: 00 (no certificates) | the document that HOST_DATA commits to, counted | ...

A count is SCALE's compact integer. Phala, 0G, NEAR and dstack's own tools put the same parts under several names; a
report that names two different quotes is refused, for nobody could say which one was judged. All else in a report (its
registers, hashes, report data, nonce) is the node's word, and is not read.
See docs/verification.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError
from gateway.verify.aci import MAX_REPORT

from .findings import MAX_EVIDENCE_BYTES

_QUOTES = ("intel_quote", "quote", "intel_attestation_report")
_HEX = re.compile(r"(?:0x)?((?:[0-9a-fA-F]{2})+)")
_PLATFORMS = {2: "nitro", 3: "snp"}


class NodeReport(msgspec.Struct, frozen=True):
    """The parts of a JSON report; None for one that it does not have."""

    quote: bytes
    event_log: bytes | None = None
    app_compose: bytes | None = None
    nvidia_payload: bytes | None = None


class Envelope(msgspec.Struct, frozen=True):
    """The evidence inside dstack's binary form. `platform` is nitro|snp; `mr_config` is there on SEV-SNP alone."""

    platform: str
    evidence: bytes
    mr_config: bytes | None = None


def is_envelope(data: bytes) -> bool:
    """Whether `data` begins like dstack's binary form; no JSON does."""
    return data[:1] == b"\0"


def read_report(data: bytes) -> NodeReport:
    """The parts of a report in JSON. Raises `FormatError` with the reason report_malformed|report_ambiguous."""
    try:
        document = strict_json(data, max_bytes=MAX_REPORT)
    except FormatError as error:
        raise _malformed(error.message) from None
    if not isinstance(document, dict):
        raise _malformed("it is no object")
    places = list(_places(document))
    # Beside the quote of an ACI report a gateway looks, and nowhere else: what it did not see is not the node's word.
    beside = places[:1] if places[0].get("quote") is not None else places
    return NodeReport(
        _quote(places),
        text_of("event_log", *beside),
        text_of("app_compose", *beside),
        text_of("nvidia_payload", *beside),
    )


def _places(document: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """The objects that may hold the parts: ACI's, where a gateway looks (`node_evidence`), then the outermost first."""
    attestation = _object(document.get("attestation"))
    yield _object(attestation.get("evidence"))
    yield document
    yield _object(document.get("tcb_info"))
    yield _object(_object(document.get("info")).get("tcb_info"))


def _object(value: object) -> Mapping[str, Any]:
    """An object, or the text of one (0G writes `tcb_info` as text); an empty one for anything else."""
    if isinstance(value, str):
        try:
            value = strict_json(value.encode("utf-8", "replace"), max_bytes=MAX_EVIDENCE_BYTES)
        except FormatError:
            return {}
    return value if isinstance(value, dict) else {}


def _quote(places: list[Mapping[str, Any]]) -> bytes:
    found = {_unhex(place[name]) for place in places for name in _QUOTES if place.get(name) is not None}
    if len(found) > 1:
        raise FormatError("the report names two different quotes", reason="report_ambiguous")
    if not found:
        raise _malformed(f"it has no quote ({', '.join(_QUOTES)})")
    return found.pop()


def _unhex(value: object) -> bytes:
    match = _HEX.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise _malformed("its quote is not hex")
    return bytes.fromhex(match[1])


def text_of(name: str, *places: Mapping[str, Any]) -> bytes | None:
    """The first part of that name: a text as it stands, a list or an object as JSON; None where no place has one."""
    value = next((place[name] for place in places if place.get(name) is not None), None)
    if value is None:
        return None
    return value.encode("utf-8", "replace") if isinstance(value, str) else msgspec.json.encode(value)


def _malformed(why: str) -> FormatError:
    return FormatError(f"not a node's report: {why}", reason="report_malformed")


def read_envelope(data: bytes) -> Envelope:
    """The evidence in dstack's binary form; what follows it is unsigned and stays unread.

    Raises `FormatError` with the reason envelope_malformed, or envelope_unsupported for another version or platform.
    """
    if len(data) > MAX_EVIDENCE_BYTES:
        raise _broken(f"it has {len(data)} bytes; at most {MAX_EVIDENCE_BYTES} are read")
    platform = _PLATFORMS.get(data[1]) if data[:1] == b"\0" and len(data) > 1 else None
    if platform is None:
        raise FormatError("dstack's envelope is of another version or platform", reason="envelope_unsupported")
    evidence, at = _counted(data, 2)
    if platform != "snp":
        return Envelope(platform, evidence)
    certificates, at = _counted(data, at)
    if certificates:
        raise FormatError("dstack's envelope brings its own certificates", reason="envelope_unsupported")
    return Envelope(platform, evidence, _counted(data, at)[0])


def _counted(data: bytes, at: int) -> tuple[bytes, int]:
    """A SCALE byte vector at `at`, and where it ends."""
    if at >= len(data):
        raise _broken(f"it ends at byte {at}, where a count should stand")
    size = (1, 2, 4, 0)[data[at] & 3]  # the fourth mode is for counts that no evidence has
    if not size or at + size > len(data):
        raise _broken(f"the count at byte {at} is not one that is read")
    count = int.from_bytes(data[at : at + size], "little") >> 2
    end = at + size + count
    if end > len(data):
        raise _broken(f"the {count} bytes announced at byte {at} run past its end")
    return data[at + size : end], end


def _broken(why: str) -> FormatError:
    return FormatError(f"dstack's envelope is broken: {why}", reason="envelope_malformed")
