"""A saved answer as a bundle: the `verification` member beside the answer that it is about. Pure.

With `attach = "full"` an answer carries its receipt, proof and salts, and the answer itself is what those salts open:
the bytes as the node sent them (the answer without our member), its text and its calls. So a client that kept the
answer needs nothing else. When a client wrote the answer anew, its bytes are no longer those of the node: then text and
calls are opened, and whatever else could be the node's word is named as what nothing covers. What was changed matches
no digest or is covered by none, and that is what the reader is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.crypto.encoding import unb64
from gateway.errors import FormatError
from gateway.exchange.render import VerificationPolicy, claims_map, executed_in
from gateway.log.bundle import Bundle, Opened
from gateway.log.dsse import parse_envelope
from gateway.log.proof import parse_tlog_proof
from gateway.log.receipt import SALT_LENGTH, parse_receipt, salted
from gateway.model.line import Line
from gateway.model.receipt import RESPONSE_BODY, RESPONSE_CONTENT, RESPONSE_TOOLCALLS, ProofPart, Receipt
from gateway.model.verdict import Check, Outcome

from .uncovered import Saved, read_saved

_MEMBER = b'"verification":'
#: Why a file does not hold the node's bytes: the gateway delivered others, or who saved it has changed them.
_ANEW = {"rebuilt": "the gateway wrote this answer anew, so no file of it has the node's bytes"}
_SAVED = "not the node's bytes: whoever saved the file wrote the answer anew, or changed it"
#: Names of members that a line quotes; a hostile answer can have any number.
_MAX_NAMES = 12


class _Verification(msgspec.Struct):
    """Our member. What it says of the answer is there to be read at once; signed is what the envelope says."""

    receipt: str
    verdict: str | None = None
    release: str | None = None
    reason: str | None = None
    policy: VerificationPolicy | None = None
    network: str | None = None
    node: str | None = None
    model: str | None = None
    executed_in: str | None = None
    claims: dict[str, str] | None = None
    checks: tuple[Check, ...] | None = None
    proofs: tuple[ProofPart, ...] | None = None
    index: int | None = None
    proof: str | None = None
    openings: dict[str, str] = {}
    envelope: msgspec.Raw = msgspec.Raw()  # empty: absent


class _Answer(msgspec.Struct):
    verification: _Verification


def bundle_from_answer(data: bytes) -> Bundle:
    """The bundle that a saved answer amounts to. FormatError when it carries no receipt, or has no one reading."""
    document, found = _read(data)
    envelope = bytes(found.envelope)
    if not envelope or found.proof is None:
        lacks = "its proof (it was not in the log yet)" if envelope else "it (policy: attach = summary)"
        raise FormatError(
            f"the answer names receipt {found.receipt} but does not carry {lacks}; "
            f"fetch /v1/receipts/{found.receipt}/bundle and verify that"
        )
    # Only chooses what to open; the verifier reads the payload again, behind its signature.
    statement = parse_receipt(parse_envelope(envelope).payload)
    committed = {s.name: s.digest.sha256 for s in statement.subject}
    salts = _salts(found.openings, committed)
    answer = read_saved(statement.predicate.request, document, data)
    opened = {**_body(data, salts, committed), **_contents(answer, salts, committed)}
    why = _ANEW.get(statement.predicate.delivery.form, _SAVED)
    uncovered = () if RESPONSE_BODY in opened else _uncovered(answer, opened, committed, why)
    told = _told(found, statement.predicate, found.proof)
    return Bundle(receipt=envelope, proof=found.proof, openings=opened, uncovered=(*told, *uncovered))


def _read(data: bytes) -> tuple[Mapping[str, Any], _Verification]:
    try:
        # Of a member that stands twice readers take one or the other, so what one was shown the other never saw.
        document = strict_json(data, max_bytes=len(data), max_depth=256)
        found = msgspec.json.decode(data, type=_Answer).verification
    except (FormatError, msgspec.MsgspecError) as error:
        raise FormatError(f"not an answer with a verification member: {error}") from error
    assert isinstance(document, dict)  # `_Answer` is an object
    return document, found


def _told(found: _Verification, receipt: Receipt, proof: str) -> tuple[Line, ...]:
    """Where the member says other than the receipt and the proof that it carries. What it leaves out says nothing."""
    claims, served = claims_map(receipt.claims), receipt.served
    policy = receipt.verifier.policies[0] if receipt.verifier.policies else None
    signed = {
        "receipt": receipt.receipt_id,
        "verdict": receipt.verdict.value,
        "release": receipt.release.value,
        "reason": receipt.reason,
        "policy": policy and VerificationPolicy(policy.name, policy.digest.sha256),
        "network": served and served.network,
        "node": served and served.node,
        "model": receipt.request.model,
        "executed_in": executed_in(claims),
        "claims": claims,
        "checks": receipt.checks,
        "proofs": receipt.proofs,
        "index": _index(proof),
    }
    other = [name for name, value in signed.items() if getattr(found, name) not in (None, value)]
    if not other:
        return ()
    sentence = "what it says is not what the signed receipt, or its proof, says"
    return (Line("opening", Outcome.CONTRAINDICATED, sentence, "verification", ", ".join(other)),)


def _index(proof: str) -> int | None:
    """The place that `proof` proves; None of one that is malformed, which the verifier says."""
    try:
        return parse_tlog_proof(proof).index
    except FormatError:
        return None


def _salts(openings: Mapping[str, str], committed: Mapping[str, str]) -> dict[str, bytes]:
    salts = {name: unb64(text, "a salt") for name, text in openings.items() if name in committed}
    if any(len(salt) != SALT_LENGTH for salt in salts.values()):
        raise FormatError(f"an opening's salt is not {SALT_LENGTH} bytes")
    return salts


def _body(data: bytes, salts: Mapping[str, bytes], committed: Mapping[str, str]) -> dict[str, Opened]:
    body, salt = without_member(data), salts.get(RESPONSE_BODY)
    if salt is None or body is None:
        return {}
    for found in (body, body.removesuffix(b"\n")):  # whoever saves text may end it with a line feed
        if salted(salt, found) == committed[RESPONSE_BODY]:
            return {RESPONSE_BODY: Opened(salt, found)}
    return {}


def _contents(answer: Saved, salts: Mapping[str, bytes], committed: Mapping[str, str]) -> dict[str, Opened]:
    """Text and calls as the file has them, also where it has none: a text that was taken out is no less changed."""
    if not answer.there:
        return {}
    text, salt = _bytes(answer.content.text), salts.get(RESPONSE_CONTENT)
    if salt is not None and answer.earlier is not None:
        earlier = _bytes(answer.earlier)
        text = earlier if salted(salt, earlier) == committed[RESPONSE_CONTENT] else text
    found = {RESPONSE_CONTENT: text, RESPONSE_TOOLCALLS: answer.content.toolcalls}
    return {name: Opened(salts[name], data) for name, data in found.items() if name in salts}


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _uncovered(answer: Saved, opened: Mapping[str, Opened], committed: Mapping[str, str], why: str) -> tuple[Line, ...]:
    """What no opening shows of an answer whose bytes are not those that the receipt commits to; `why` they are not."""
    lines = []
    if answer.content.toolcalls and RESPONSE_TOOLCALLS not in committed:
        sentence = "the answer has tool calls, and the receipt commits to none"
        lines.append(Line("opening", Outcome.CONTRAINDICATED, sentence, RESPONSE_TOOLCALLS))
    left = [*_closed(answer, opened, committed), *answer.left]
    if left:
        sentence = f"{why}; no digest that the file opens covers these parts, so nobody vouches for them"
        lines.append(Line("opening", Outcome.NONE, sentence, "answer", _names(left)))
    if answer.about:
        sentence = f"{why}; these members could not be compared, and hold neither text nor calls"
        lines.append(Line("opening", Outcome.NONE, sentence, "answer", _names(answer.about), claimed=False))
    return tuple(lines)


def _closed(answer: Saved, opened: Mapping[str, Opened], committed: Mapping[str, str]) -> list[str]:
    """Text and calls that no digest shows, of themselves alone: without one there is nothing to hold them against."""
    if not answer.there:
        return []
    closed = []
    if RESPONSE_CONTENT not in opened:
        closed.append("the text: no salt for it")
    elif opened[RESPONSE_CONTENT].data != _bytes(answer.content.text):  # and where one ends, that digest does not say
        closed.append("the text: its digest, by an earlier version, is of reasoning and findings with it")
    if RESPONSE_TOOLCALLS in committed and RESPONSE_TOOLCALLS not in opened:
        closed.append("the calls: no salt for them")
    return closed


def _names(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f", and {more} more" if more > 0 else "")


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
