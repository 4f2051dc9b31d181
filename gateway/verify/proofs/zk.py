"""The verdict on one zero-knowledge proof. The proof system itself runs elsewhere, on bytes that were checked here.

What has to be shown, in this order:
 1. there is a proof, and it is well formed: pinned length, pinned number of canonical instances     `prepare`
 2. its inputs are the numbers of the request that we sent                                          `prepare`
 3. it verifies under the pinned key                                                                 a worker process
 4. the answer's numbers are the proven ones, or are replaced by them                                `conclude`

The worker gets what `prepare` made: proof bytes of the pinned length, and instances of which every input is ours.
A proof has no time in it: it holds as long as its circuit does, for everyone who asks the same.
"""

from __future__ import annotations

import enum

import msgspec

from gateway.errors import FormatError

from .zk_circuit import Circuit
from .zk_instances import Hashed, Values, bind, proven, release
from .zk_manifest import Manifest
from .zk_proof import parse_proof


class ZkVerdict(enum.StrEnum):
    """Pass and fail are about the proof; inconclusive is about us; absent means that there was nothing to judge."""

    PASS = "pass"  # noqa: S105  (a verdict, no password)
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    ABSENT = "absent"


class Ran(msgspec.Struct, frozen=True):
    """What came of running the proof system: never `ABSENT`, and `reason` stands beside all but `PASS`."""

    verdict: ZkVerdict
    reason: str | None = None


class Statement(msgspec.Struct, frozen=True):
    """A proof and the instances under which it has to verify. `identity` is the SHA-256 of both, for records."""

    proof: bytes
    instances: tuple[int, ...]
    hashed: tuple[Hashed, ...]
    identity: bytes


class ZkResult(msgspec.Struct, frozen=True):
    """The verdict on an answer.

    `response` is the body to release, there only when the verdict is pass; `outputs` the proven numbers. Without
    `inputs_bound` the circuit keeps its inputs private: the proof says nothing of our request.
    """

    verdict: ZkVerdict
    reason: str | None = None
    identity: bytes | None = None
    outputs: Values = ()
    response: bytes | None = None
    inputs_bound: bool = False


def prepare(circuit: Circuit, request: bytes, evidence: bytes | None) -> Statement | ZkResult:
    """The statement to verify for `request`, the body that was sent, or the verdict when it is settled already."""
    if evidence is None:
        return ZkResult(ZkVerdict.ABSENT, "proof_absent")
    try:
        found = parse_proof(circuit.manifest, evidence)
        bound = bind(circuit.manifest, request)
    except FormatError as error:
        return ZkResult(ZkVerdict.FAIL, error.reason)
    ours = tuple(bound.public.get(index, value) for index, value in enumerate(found.instances))
    if ours != found.instances:
        return ZkResult(ZkVerdict.FAIL, "binding_failed", found.identity)
    return Statement(found.proof, ours, bound.hashed, found.identity)


def conclude(manifest: Manifest, statement: Statement, ran: Ran, response: bytes) -> ZkResult:
    """The verdict on `response`, a complete JSON body, after the proof system ran on `statement`."""
    if ran.verdict is not ZkVerdict.PASS:
        return ZkResult(ran.verdict, ran.reason, statement.identity)
    try:
        outputs = proven(manifest, statement.instances)
        body = release(manifest, outputs, response)
    except FormatError as error:
        return ZkResult(ZkVerdict.FAIL, error.reason, statement.identity)
    return ZkResult(ZkVerdict.PASS, None, statement.identity, outputs, body, bool(manifest.inputs))
