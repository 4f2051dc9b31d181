"""A zero-knowledge proof as it comes with an answer, and the record of the verdict on it.

    {"id": "…", "results": […], "zk": {"circuit": "sha256:<the verifying key's hash>", "proof": {…}}}

`proof` is the object of the proof system's own file (`zk_proof`). Which circuit it is under is the node's word, so it
has to be one that the operator pinned, and the policy allows.
"""

from __future__ import annotations

import hashlib

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError

from .evidence import Artefact, Assurance, Kind, ProofRecord, Subject, Verdict
from .zk import ZkResult, ZkVerdict
from .zk_instances import MAX_DOCUMENT


class Member(msgspec.Struct, frozen=True):
    """`circuit` as the node names it, and the bytes of the proof's object as they stand in the answer."""

    circuit: str
    proof: bytes


class _Zk(msgspec.Struct):
    circuit: str
    proof: msgspec.Raw


class _Answer(msgspec.Struct):
    zk: _Zk | None = None


def read_member(response: bytes) -> Member | None:
    """The member `zk` of an answer; None where there is none.

    Raises `FormatError` with the reason response_malformed for an answer that is no strict JSON object of at most
    16 MiB, proof_malformed for a member of another form.
    """
    try:
        document = strict_json(response, max_bytes=MAX_DOCUMENT)
    except FormatError as error:
        raise FormatError(error.message, reason="response_malformed") from None
    if not isinstance(document, dict):
        raise FormatError("the answer is no JSON object", reason="response_malformed")
    try:
        found = msgspec.json.decode(response, type=_Answer).zk
    except msgspec.ValidationError:
        raise FormatError("the member zk is not a circuit and its proof", reason="proof_malformed") from None
    return None if found is None else Member(found.circuit, bytes(found.proof))


def zk_record(
    request: bytes, response: bytes, circuit: str | None, result: ZkResult, *, ms: int | None = None
) -> ProofRecord:
    """The record of `result`; `circuit` is the SHA-256 of the verifying key, None where there was none to verify under.

    A pass is about the answer that is released, which may have the proven numbers in place of its own.
    """
    released = response if result.response is None else result.response
    named = [] if circuit is None else [Artefact("verifying key", circuit)]
    if result.identity is not None:
        named.append(Artefact("proof and instances", result.identity.hex()))
    if released != response:
        named.append(Artefact("answer as it came", hashlib.sha256(response).hexdigest()))
    subject = Subject(
        hashlib.sha256(request).hexdigest(), hashlib.sha256(released).hexdigest(), artefacts=tuple(named), ms=ms
    )
    verdict, reason = Verdict(result.verdict.value), result.reason
    if result.verdict is ZkVerdict.PASS and not result.inputs_bound:
        # The proof holds, and says nothing of this request: as good for any other answer to anybody.
        verdict, reason = Verdict.INCONCLUSIVE, "inputs_private"
    return subject.record(Kind.ZK, verdict, reason, assurance=Assurance.CRYPTOGRAPHIC)
