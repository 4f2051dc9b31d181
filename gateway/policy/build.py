"""From the values of a policy to the policy: the one place where a `CompiledPolicy` is made.

The loader and `tighten` both end here, so that a policy's plan always follows from what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any as Anything

import msgspec

from gateway.model.verdict import Outcome
from gateway.verify.checks import CHECKS, PROOFS, Phase
from gateway.verify.tee.rules import TeeRules

from .key import Scalar
from .proof_keys import (
    LogprobTerms,
    ProofRules,
    QuorumTerms,
    ReexecTerms,
    SampledTerms,
    ToplocTerms,
    ZkTerms,
)
from .schema import (
    BY_PATH,
    KEYS,
    SECTIONS,
    Audit,
    CompiledPolicy,
    Deadlines,
    Denied,
    Executables,
    Freshness,
    Networks,
    Output,
    Payment,
    Plan,
    PolicyRef,
    ReleaseRules,
    Replay,
    Request,
    Tee,
)
from .tree import Leaf, Tree, conjuncts, leaves, needs, normal

_SECTION_TYPES: dict[str, type[msgspec.Struct]] = {
    "freshness": Freshness,
    "replay": Replay,
    "release": ReleaseRules,
    "audit": Audit,
    "executables": Executables,
    "output": Output,
    "request": Request,
    "payment": Payment,
    "networks": Networks,
    "operators": Denied,
    "nodes": Denied,
    "tee": Tee,
    "proofs": ProofRules,
    "quorum": QuorumTerms,
    "reexec": ReexecTerms,
    "logprob": LogprobTerms,
    "toploc": ToplocTerms,
    "zk": ZkTerms,
    "sampled": SampledTerms,
    "deadlines": Deadlines,
}
_GET = {key.path: attrgetter(key.path) for key in KEYS}


#: Checks that may find nothing to look at, and the reason with which the verifier says so.
IDLE = {entry.id: entry.idle for entry in CHECKS.values() if entry.idle is not None}


def value_of(policy: CompiledPolicy, path: str) -> Scalar:
    """The value in force for the key `path` (a sorted tuple for sets of names)."""
    value = _GET[path](policy)
    if isinstance(value, frozenset):
        return tuple(sorted(value))
    return value  # type: ignore[no-any-return]  # the Structs of schema.py hold nothing but Scalar and frozenset


def compile_policy(
    refs: tuple[PolicyRef, ...],
    digest: str,
    source: str,
    summary: str,
    require: Tree,
    values: Mapping[str, Scalar],
    stated: frozenset[str],
    test_roots: frozenset[str] = frozenset(),
) -> CompiledPolicy:
    """The policy with `values` by path (those that are absent have their defaults) and the tree `require`; under it no
    test root is taken but those of `test_roots`, by fingerprint."""
    filled: dict[str, Anything] = {}
    for path, key in BY_PATH.items():
        value = values.get(path, key.default)
        filled[path] = frozenset(value) if key.kind in ("names", "file") and isinstance(value, tuple) else value
    fields: dict[str, Anything] = {path: value for path, value in filled.items() if "." not in path}
    for section in SECTIONS:
        prefix = section + "."
        fields[section] = _SECTION_TYPES[section](
            **{path[len(prefix) :]: value for path, value in filled.items() if path.startswith(prefix)}
        )
    tree = normal(require)
    return CompiledPolicy(
        name="+".join(ref.name for ref in refs if ref.is_policy),
        version=max(ref.version for ref in refs if ref.is_policy),
        digest=digest,
        source=source,
        summary=summary,
        refs=refs,
        stated=stated,
        require=tree,
        plan=plan(tree, filled),
        tee_rules=msgspec.structs.replace(
            tee_rules(fields["tee"], fields["freshness"].evidence_max_age_s), test_roots=test_roots
        ),
        **fields,
    )


def with_test_roots(policy: CompiledPolicy, fingerprints: frozenset[str]) -> CompiledPolicy:
    """`policy` where the settings name test roots. No file can say so, and its digest stays what it is."""
    return msgspec.structs.replace(policy, tee_rules=msgspec.structs.replace(policy.tee_rules, test_roots=fingerprints))


def roots_for_tests_of(policy: CompiledPolicy) -> frozenset[str]:
    """The test roots that are taken under `policy`."""
    roots = policy.tee_rules.test_roots
    return roots if isinstance(roots, frozenset) else frozenset()


def plan(require: Tree, values: Mapping[str, Anything]) -> Plan:
    """What has to be judged in which phase, and what `values` make of single outcomes."""
    parts = conjuncts(require)
    single = [part for part in parts if isinstance(part, Leaf)]
    plain = [part for part in single if part.check is not None]
    claims = tuple(part for part in single if part.claim is not None)
    flat = len(single) == len(parts) and any(part.id not in IDLE for part in single)
    of_node = any(part.id not in IDLE and Phase.NODE in part.phases for part in single)
    return Plan(
        node=tuple(part for part in parts if any(Phase.NODE in leaf.phases for leaf in leaves(part))),
        response=parts,
        node_ids=frozenset(part.id for part in plain if Phase.NODE in part.phases),
        response_ids=frozenset(part.id for part in plain if Phase.RESPONSE in part.phases),
        claims=claims if flat else None,
        node_claims=tuple(leaf for leaf in claims if Phase.NODE in leaf.phases) if flat and of_node else None,
        adjust=_adjustments(values),
        nonce=_nonce(require, values),
        proofs=frozenset(leaf.id for leaf in leaves(require) if leaf.check in PROOFS),
        unasked=any(proves_answer(part) for part in parts) and not any(settles_node(part) for part in parts),
    )


def tee_rules(tee: Tee, max_age_s: float) -> TeeRules:
    """What the section `[tee]` asks of a machine. Of several least versions of one component the highest counts."""
    least: dict[str, int] = {}
    for item in tee.minimum_svn:
        name, _, number = item.partition(":")
        least[name] = max(least.get(name, 0), int(number))
    sets = [dict(part.split(":") for part in item.split("/")) for item in sorted(tee.measurements or ())]
    return TeeRules(
        platforms=tee.platforms,
        tcb_status=tee.tcb_status,
        advisories_deny=tee.advisories_deny,
        minimum_evaluation=tee.minimum_evaluation,
        minimum_svn=least,
        debug=tee.debug,
        configuration=tee.configuration,
        alias_check=tee.alias_check,
        provisional_firmware=tee.provisional_firmware,
        measurements=tuple(sets) if tee.measurements is not None else None,
        machines=tee.machines,
        host_trust=tee.host_trust,
        milan=tee.milan,
        freshness=tee.freshness,
        max_age_s=max_age_s,
        binding=tee.binding,
        revocation=tee.revocation,
        gpu=tee.gpu,
    )


def settles_node(part: Tree) -> bool:
    """Whether `part` is decided before a prompt leaves, whatever the answer may show later."""
    return all(Phase.NODE in leaf.phases for leaf in leaves(part))


def proves_answer(part: Tree) -> bool:
    """Whether `part` can be met by nothing but a proof of the answer, or what a node shows by itself."""
    return all(leaf.check in PROOFS or Phase.NODE in leaf.phases for leaf in leaves(part)) and not settles_node(part)


def guards_prompt(require: Tree) -> bool:
    """Whether something is asked of the node itself, or a proof of the answer: with neither, the prompt would leave
    before anything is shown, for an answer of which little is."""
    return any(settles_node(part) or proves_answer(part) for part in conjuncts(require))


def _nonce(require: Tree, values: Mapping[str, Anything]) -> bool:
    # Without our nonce `replay` is a warning at best (`no_nonce`): not enough where the nonce is asked for by name, nor
    # where `replay` is indispensable and no warning is taken.
    if values["on_failure"] == "flag":
        return False
    return values["replay.nonce"] == "required" or (values["warnings"] == "refuse" and needs(require, "replay"))


def _adjustments(values: Mapping[str, Anything]) -> dict[tuple[str, Outcome], Outcome]:
    adjust = {}
    if values["executables.undeclared"] == "flag":
        adjust["tool_undeclared", Outcome.CONTRAINDICATED] = Outcome.WARNING
    if values["executables.arguments"] == "flag":
        adjust["tool_arguments", Outcome.CONTRAINDICATED] = Outcome.WARNING
    if values["output.text_as_tool_call"] == "refuse":
        adjust["output_kind", Outcome.WARNING] = Outcome.CONTRAINDICATED
    if values["replay.nonce"] == "required":
        # An answer without our nonce is only not known to be a replay, which is not what was asked for.
        adjust["replay", Outcome.WARNING] = Outcome.NONE
    return adjust
