"""The node rule `none`: a node that offers no evidence of itself, such as any server of OpenAI's API.

Every check of a node is listed, and each is `none` with the reason `no_evidence`: nothing was looked at, because there
is nothing to look at. No claim is settled either way. The session says what is known, which is the settings' word:
which node, where, through which adapter, and under which other names it may give a model. It has no key, so no answer
of it can be signed; `gateway.policy.prospect` keeps prompts back that could only come back unsigned in vain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from gateway.model.node import AttestedSession, Node
from gateway.model.verdict import AttestationResult, Check, Claim, Outcome

from .sessions import with_id

NO_EVIDENCE = "no_evidence"
#: The reason of an answer's checks that only a signature could settle.
NO_SIGNATURE = "no_signature"
#: What the evidence digest of a node without evidence is: that of no bytes.
NO_BYTES = hashlib.sha256(b"").hexdigest()

_CHECKS = ("evidence", "key_bound", "key_weak", "keyset_valid", "fresh", "channel_bound", "tee_rules")
_CLAIMS = (
    "key_bound", "fresh", "channel_bound", "tee_attested", "executed_in_tee", "gpu_attested", "tcb_up_to_date",
    "host_trust", "os_known_good", "serving_software_known_good", "model_weights_provenance",
)  # fmt: skip


class NoEvidenceTerms(msgspec.Struct, frozen=True):
    """What the settings say of nodes without evidence: node id -> pairs of a model and a name that it may answer by."""

    aliases: Mapping[str, tuple[tuple[str, str], ...]] = {}


def appraise_no_evidence(
    node: Node, terms: NoEvidenceTerms, *, now: float, lifetime_s: float
) -> tuple[AttestationResult, AttestedSession]:
    """The appraisal of a node that has nothing to show, and the session over which it can be used where policy lets it.

    `now` is in wall-clock seconds. Total.
    """
    checks = tuple([Check(name, Outcome.NONE, NO_EVIDENCE, _found(name, node)) for name in _CHECKS])
    result = AttestationResult(checks, tuple([Claim(name, "unknown", None, NO_EVIDENCE) for name in _CLAIMS]))
    session = AttestedSession(
        id="",
        node=node.id,
        network=node.network,
        endpoint=node.base_url,
        keyset_digest="",
        keys=(),
        spki_pins=(),
        evidence_digest=NO_BYTES,
        established=now,
        expires=now + lifetime_s,
        outcome=Outcome.NONE,
        checks=checks,
        claims=result.claims,
        aliases=terms.aliases.get(node.id, ()),
    )
    return result, with_id(session)


def _found(name: str, node: Node) -> str | None:
    # The channel is there, and it is the web's: a certificate for a name says nothing about a workload.
    if name != "channel_bound":
        return None
    return "TLS by the web's rules" if node.base_url.startswith("https:") else "plain HTTP"
