"""What a request has to ask for so that its answer can be judged, and putting that in without touching the rest.

    >>> amend(b'{"model": "m", "messages": []}', {"temperature": 0})
    (b'{"model": "m", "messages": [],"temperature":0}', ('temperature',))

The members go behind the body's last one; every other byte stays. A member that is there is never added again, whatever
its value: two copies would let two readers see two requests. That holds for null too, which to an API means its own
default: such a request has not asked for temperature 0, and `unprovable` says so before anything is sent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError
from gateway.verify.proofs.ask import ALTERNATIVES, CHAT, COMPLETIONS
from gateway.verify.proofs.claim import SEEDED, claim_by, claim_of, strange
from gateway.verify.proofs.structured import Form, form_of

QUORUM, REEXEC, LOGPROB = "proof_quorum", "proof_reexec", "proof_logprob"
TOPLOC, ZK = "proof_toploc", "proof_zk"
COMPLETE = "complete"
_WHITE = b" \t\n\r"
#: Where each kind can be judged; zk anywhere, for its circuits point into whatever JSON there is.
_ENDPOINTS: Mapping[str, tuple[str, ...]] = {
    QUORUM: (CHAT,),
    REEXEC: (CHAT, COMPLETIONS),
    LOGPROB: (CHAT,),
    TOPLOC: (CHAT, COMPLETIONS),
}
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Proofs(Protocol):
    @property
    def request(self) -> str: ...


class _Reexec(Protocol):
    @property
    def claims(self) -> Collection[str]: ...


class Terms(Protocol):
    """What is read of a compiled policy."""

    @property
    def proofs(self) -> _Proofs: ...

    @property
    def reexec(self) -> _Reexec: ...


def amend(body: bytes, members: Mapping[str, object]) -> tuple[bytes, tuple[str, ...]]:
    """`body`, a JSON object, with those of `members` that it leaves out, and their names in order.

    Values are what JSON holds. Raises `FormatError` for a body that is no JSON object.
    """
    try:
        there = _members(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"the body is no JSON object: {type(error).__name__}") from None
    added = {name: value for name, value in members.items() if name not in there}
    if not added:
        return body, ()
    # The body is one object and nothing but white space follows it, so its own brace is the last byte that is none.
    whole = body.rstrip(_WHITE)
    inside = whole[:-1].rstrip(_WHITE)
    text = msgspec.json.encode(added)[1:-1]
    return inside + (b"," if there else b"") + text + body[len(inside) :], tuple(added)


def needed(kinds: Collection[str], endpoint: str, *, seeded: bool = False) -> dict[str, object]:
    """The members that proofs of `kinds` (check ids) need in a request to `endpoint`, streamed or not.

    `seeded`: the answer will be judged by the request's own seed, so its temperature is left alone. Empty for an
    endpoint at which no kind can be judged. A stream brings its log-probs and token ids in its chunks, so it needs
    nothing else; a circuit's numbers cannot come in one at all.
    """
    asked = {kind for kind in kinds if endpoint in _ENDPOINTS.get(kind, ())}
    greedy = QUORUM in asked or (REEXEC in asked and not seeded)
    found: dict[str, object] = {"temperature": 0} if greedy else {}
    # Re-execution takes them where a reference has chat alone (`verify.proofs.prefixes`).
    if endpoint == CHAT and (asked & {QUORUM, LOGPROB} or greedy):
        found |= {"logprobs": True, "top_logprobs": ALTERNATIVES}
    if asked - {QUORUM}:
        found["return_token_ids"] = True
    return found | ({"toploc": True} if TOPLOC in asked else {})


def completed(kinds: Collection[str], policy: Terms, endpoint: str, request: bytes) -> tuple[bytes, tuple[str, ...]]:
    """`request` with what proofs of `kinds` need and it leaves out, where the policy lets us add; and the names.

    Raises `FormatError` for a request that is no strict JSON object.
    """
    return _completed(kinds, policy, endpoint, request, _read(request))


def unprovable(kinds: Collection[str], policy: Terms, endpoint: str, request: bytes) -> str | None:
    """Why the answer to `request` could not be judged by one of `kinds`, or None where nothing stands against it.

    `request` is as the agent wrote it, or completed already: what may be added is thought of as added. The first of the
    kinds (in alphabetical order) that cannot be had decides; where one of several would do, ask for each.
    """
    try:
        document = _read(request)
        document = _read(_completed(kinds, policy, endpoint, request, document)[0])
    except FormatError:
        return "malformed"
    for kind in sorted(kinds):
        reason = _unprovable(kind, policy, endpoint, document)
        if reason is not None:
            return reason
    return None


def _completed(
    kinds: Collection[str], policy: Terms, endpoint: str, request: bytes, document: Mapping[str, object]
) -> tuple[bytes, tuple[str, ...]]:
    if policy.proofs.request != COMPLETE:
        return request, ()
    members = needed(kinds, endpoint, seeded=_seeded(kinds, policy, document))
    if document.get("logprobs", True) is not True:  # alternatives without log-probs are an error to most servers
        members.pop("top_logprobs", None)
    return amend(request, members)


def _seeded(kinds: Collection[str], policy: Terms, document: Mapping[str, object]) -> bool:
    """Whether the request is to be judged by its seed: the policy takes that claim, and no other can or should hold."""
    claims = policy.reexec.claims
    return REEXEC in kinds and SEEDED in claims and (len(claims) == 1 or document.get("seed") is not None)


def _unprovable(kind: str, policy: Terms, endpoint: str, document: Mapping[str, object]) -> str | None:
    if kind == ZK:
        return "stream_unsupported" if document.get("stream") else None
    if endpoint not in _ENDPOINTS.get(kind, ()):
        return "endpoint_unsupported"
    if _many(document):
        return "more_choices"
    return _REASONS[kind](policy, document)


def _quorum(_policy: Terms, document: Mapping[str, object]) -> str | None:
    if claim_of(document, seeded=False) == "not_greedy":
        return "not_greedy"
    # Tool calls and JSON are compared by value; whether there will be any cannot be known here.
    by_value = form_of(document) is not Form.TEXT or document.get("tools") or document.get("functions")
    return None if by_value or document.get("logprobs") is True else "logprobs_not_asked"


def _reexec(policy: Terms, document: Mapping[str, object]) -> str | None:
    claim = claim_by(document, policy.reexec.claims)
    return claim if isinstance(claim, str) else _tokens(document)


def _logprob(_policy: Terms, document: Mapping[str, object]) -> str | None:
    if strange(document):
        return "sampling_unsupported"
    if document.get("logprobs") is not True:
        return "logprobs_not_asked"
    likeliest = document.get("top_logprobs")
    if type(likeliest) is not int or likeliest < 2:
        return "too_few_alternatives"
    return _tokens(document)


def _toploc(_policy: Terms, document: Mapping[str, object]) -> str | None:
    if strange(document):
        return "sampling_unsupported"
    return _tokens(document) if document.get("toploc") is True else "toploc_not_asked"


_REASONS = {QUORUM: _quorum, REEXEC: _reexec, LOGPROB: _logprob, TOPLOC: _toploc}


def _tokens(document: Mapping[str, object]) -> str | None:
    spelt = document.get("return_tokens_as_token_ids") is True and document.get("logprobs") is True
    return None if spelt or document.get("return_token_ids") is True else "token_ids_not_asked"


def _many(document: Mapping[str, object]) -> bool:
    """Whether the answer will have more than one choice: one would be judged and others released."""
    prompt = document.get("prompt")
    several = isinstance(prompt, list) and len(prompt) > 1 and not all(type(item) is int for item in prompt)
    return several or any(document.get(name) not in (None, 1) for name in ("n", "best_of"))


def _read(request: bytes) -> Mapping[str, object]:
    document = strict_json(request, max_bytes=len(request), max_depth=256)
    if not isinstance(document, dict):
        raise FormatError("the request is no JSON object")
    return document
