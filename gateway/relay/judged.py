"""An appraised answer under a policy: what was found, what follows, and how both are written."""

from __future__ import annotations

import msgspec

from gateway.exchange.render import claims_map, executed_in
from gateway.exchange.reply import Reply
from gateway.model.node import AttestedSession
from gateway.model.verdict import AttestationResult, Check, Claim, Outcome
from gateway.policy.decide import Decision, decide
from gateway.policy.machine import under
from gateway.policy.schema import CompiledPolicy
from gateway.verify.checks import CHECKS, PROOFS, Phase
from gateway.verify.response import BOUND, OTHER_KEYSET, bound_claim

_SIGNED = ("signature", "key_bound", "response_bound")
#: The reason of what we failed at ourselves.
FAILED = "appraisal_failed"

#: What was found of an answer at which the verifier itself failed: of no check that applies anything.
UNJUDGED = AttestationResult(
    tuple(
        [
            Check(entry.id, Outcome.NONE, FAILED)
            for entry in CHECKS.values()
            if Phase.RESPONSE in entry.phases and entry.id not in PROOFS
        ]
    ),
    tuple([Claim(name, "unknown", None, FAILED) for name in BOUND]),
)


class Judged(msgspec.Struct, frozen=True):
    """A result under a policy: the decision, and the checks and claims of node and answer as they are written.
    `signed`: a key of the session signed the answer that came."""

    result: AttestationResult
    session: AttestedSession
    decision: Decision
    checks: msgspec.Raw
    claims: msgspec.Raw
    claims_shown: msgspec.Raw
    executed_in: str
    signed: bool

    @classmethod
    def of(cls, result: AttestationResult, session: AttestedSession, policy: CompiledPolicy) -> Judged:
        claims = (*session.claims, *result.claims)
        shown = claims_map(claims)
        return cls(
            result,
            session,
            decide(result, policy, Phase.RESPONSE, node=session),
            msgspec.Raw(msgspec.json.encode((*under(session, policy), *result.checks))),
            msgspec.Raw(msgspec.json.encode(claims)),
            msgspec.Raw(msgspec.json.encode(shown)),
            executed_in(shown),
            _affirmed(result, _SIGNED),
        )


class Facts(msgspec.Struct, frozen=True):
    """An answer and its judgement. `body` is the JSON that the receipt commits to; of a stream, `data_sha256`."""

    judged: Judged
    reply: Reply
    body: bytes | None
    data_sha256: str | None

    @property
    def covered(self) -> bool:
        """Whether a key of the session signed every byte of the answer that came."""
        return self.judged.signed and self.reply.signs_body


class Got(msgspec.Struct, frozen=True):
    """A complete answer and its judgement, not released yet. `body` is what leaves then: the answer in one piece, or
    what of a stream has not left; `end` is the stream's terminator, None for an answer in one piece. `answer` is the
    answer as one JSON document, which proofs are about; None where nobody asked, or a stream does not amount to one."""

    facts: Facts
    form: str
    body: bytes
    end: bytes | None
    dropped: tuple[str, ...]
    uncovered: tuple[str, ...]
    answer: bytes | None = None


def with_chain(result: AttestationResult, problem: str) -> AttestationResult:
    """A broken chain is a signature that does not hold, whatever the final receipt says."""
    bad = {check.reason for check in result.checks if check.outcome is Outcome.CONTRAINDICATED and _of_the_node(check)}
    # The final receipt already names the cause, and the chain adds nothing to it. That of another keyset explains
    # signatures by another key, and neither their order nor their form.
    if bad and (bad != {OTHER_KEYSET} or problem == "chain_signature"):
        return result
    broken = Check("signature", Outcome.CONTRAINDICATED, problem, over="running signatures of the stream")
    # What no signature covers has nothing beside it: the verifiers leave it open where the signature fails, too.
    open_ = Check("coverage", Outcome.NONE, broken.id)
    checks = {check.id: check for check in result.checks} | {broken.id: broken, open_.id: open_}
    claims = [bound_claim(checks[c.name], signed=False) if c.name in BOUND else c for c in result.claims]
    return AttestationResult(tuple(checks.values()), tuple(claims))


def is_signed(result: AttestationResult) -> bool:
    """Whether a key of the session signed the statement that came with the answer."""
    return _affirmed(result, ("signature",))


def names_another_keyset(result: AttestationResult) -> bool:
    """Whether the statement that came with the answer is under a keyset that the session does not know."""
    return any(check.id == "key_bound" and check.reason == OTHER_KEYSET for check in result.checks)


def seen_lately(result: AttestationResult) -> AttestationResult:
    """`result` of an answer whose statement was first seen so shortly before its request was sent that an honest node
    whose clock is behind could have signed both in one second of its own. It stays withheld, and convicts nobody."""
    told = [
        msgspec.structs.replace(check, reason="seen_lately")
        if check.id == "replay" and check.outcome is Outcome.CONTRAINDICATED
        else check
        for check in result.checks
    ]
    return msgspec.structs.replace(result, checks=tuple(told))


def _of_the_node(check: Check) -> bool:
    """Whether `check` is on what the node did: of what the model wrote, a policy may make a mere warning."""
    return not CHECKS[check.id].model_output


def _affirmed(result: AttestationResult, names: tuple[str, ...]) -> bool:
    return {c.id for c in result.checks if c.outcome is Outcome.AFFIRMING}.issuperset(names)
