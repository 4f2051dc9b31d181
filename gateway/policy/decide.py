"""From a list of checks to a decision: what the verdict is, and whether what was judged may leave.

Total: every list of checks and claims gives a decision. How the list is folded:

1. A contraindicated check makes the verdict `contraindicated`, whether policy requires it or not. So does a required
   claim that is refuted, also inside `any`: a good sign does not outweigh a bad one.
2. A required check or claim that is `none`, absent, unknown, or asserted by somebody whose word policy does not take,
   makes it `none`. `any` needs one of its members, `at_least` n of them.
3. A required check in the tier `warning` makes it `warning`. Checks that are not required do not.
4. Otherwise it is `affirming`. Nothing else leads there.

A check that says by its registered reason that there was nothing to look at (`idle`: not a stream, no tool call) is
left out. In the phase `NODE`, what only an answer can show is left open. `permit` follows from the verdict and from
`on_failure` and `warnings`; under `on_failure = "flag"` everything is permitted and the verdict stays what it is. Where
policy requires nothing of a node by itself and a proof of the answer (`plan.unasked`), a node against which nothing
speaks is permitted, and its verdict is `none`: nothing was shown yet.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.errors import PolicyFailed
from gateway.model.node import AttestedSession
from gateway.model.verdict import AttestationResult, Check, Claim, Outcome
from gateway.verify.checks import CHECKS, CLAIMS, Phase

from .build import IDLE
from .machine import under
from .schema import CompiledPolicy, Plan
from .tree import All, Any, AtLeast, Leaf, Tree, leaves

_AFFIRMING, _WARNING, _NONE, _CONTRA = Outcome.AFFIRMING, Outcome.WARNING, Outcome.NONE, Outcome.CONTRAINDICATED
_RANK = {_AFFIRMING: 0, _WARNING: 1, _NONE: 2, _CONTRA: 3}

#: Which failure is named first when there are several: what makes the others follow comes before them.
PRECEDENCE = (
    "malformed", "stream_grammar", "shape", "evidence", "event_log", "tee_rules", "key_weak", "signature", "key_bound",
    "replay", "request_bound", "response_bound", "model_echo", "fresh", "proof_zk", "proof_reexec", "proof_quorum",
    "proof_toploc", "proof_logprob", "coverage", "executable_uncovered", "tool_undeclared", "tool_arguments",
    "output_kind", "keyset_valid", "channel_bound", "replayed_nonce",
)  # fmt: skip
#: Checks whose failure may speak against nobody in particular, and the reasons that say so.
_BLAMELESS = {entry.id: entry.blameless for entry in CHECKS.values() if entry.blameless}
_ORDER = {name: place for place, name in enumerate(dict.fromkeys((*PRECEDENCE, *CHECKS, *CLAIMS)))}


class Decision(msgspec.Struct, frozen=True):
    """What policy makes of a result.

    `verdict` is the fold, whatever policy does about it; `permit` whether it may go on. `reason` is the id of the
    failure to name first, None for a verdict of `affirming` or an accepted `warning`. `failing` are the contraindicated
    checks and refuted claims (and refused warnings), `missing` the required ones that were not shown, `warned` those
    in the tier `warning`; each in the order of `PRECEDENCE`. `blameless` are those of `failing` whose reason says
    that nobody in particular is to blame.
    """

    verdict: Outcome
    permit: bool
    reason: str | None = None
    failing: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()
    blameless: tuple[str, ...] = ()


_AFFIRMED = Decision(_AFFIRMING, True)


def decide(
    result: AttestationResult | AttestedSession,
    policy: CompiledPolicy,
    phase: Phase,
    *,
    node: AttestationResult | AttestedSession | None = None,
) -> Decision:
    """Judge `result` under `policy`.

    In the phase `NODE`, `result` is the appraisal of the node. In the phase `RESPONSE`, `result` is the appraisal of
    the answer and `node` that of the node it came from: the decision is about both, since policy is. Without `node`,
    `result` must list the checks of both; a check that belongs to both phases is then listed twice.

    Raises `PolicyFailed` where it cannot tell, which is a defect, and no leave to go on.
    """
    try:
        return _decide(result, policy, phase, node)
    except Exception as error:
        raise PolicyFailed(f"the policy {policy.name!r} could not be applied", reason="policy_failed") from error


def _decide(
    result: AttestationResult | AttestedSession,
    policy: CompiledPolicy,
    phase: Phase,
    node: AttestationResult | AttestedSession | None,
) -> Decision:
    plan = policy.plan
    if phase is Phase.NODE:
        checks = _checks(result, policy)
        if plan.node_ids and _claimed(plan.node_claims, result.claims) and _settled(checks, plan.node_ids):
            return _AFFIRMED
        return _weigh(_Found(policy, checks, (), result.claims, phase), policy, plan.node)
    if node is None:
        mine, theirs = _split(result.checks)
        return _weigh(_Found(policy, mine, theirs, result.claims, phase), policy, plan.response)
    before = _checks(node, policy)
    claims = (*node.claims, *result.claims) if plan.claims != () else ()
    if _settled(result.checks, plan.response_ids) and _settled(before, plan.node_ids) and _claimed(plan.claims, claims):
        return _AFFIRMED
    return _weigh(_Found(policy, before, result.checks, claims, phase), policy, plan.response)


def _checks(node: AttestationResult | AttestedSession, policy: CompiledPolicy) -> tuple[Check, ...]:
    return under(node, policy) if isinstance(node, AttestedSession) else node.checks


def _settled(checks: Iterable[Check], needed: frozenset[str]) -> bool:
    # The common case: every check that is needed affirms or is idle, and no other is worse than `none`.
    met = set()
    for check in checks:
        outcome = check.outcome
        if outcome is _AFFIRMING:
            met.add(check.id)
        elif outcome is not _NONE:
            return False
        elif check.reason is not None and IDLE.get(check.id) == check.reason:
            met.add(check.id)
        elif check.id in needed:
            return False
    return needed <= met


def _claimed(wanted: tuple[Leaf, ...] | None, claims: tuple[Claim, ...]) -> bool:
    # None: the tree has groups, and only the full fold can say.
    return wanted is not None and all(_shown(leaf, claims) is _AFFIRMING for leaf in wanted)


def _shown(leaf: Leaf, claims: tuple[Claim, ...]) -> Outcome:
    """What `claims` show of the claim of `leaf`: every statement of its name counts, a refutation before all."""
    outcome = _NONE
    doubted = False
    for claim in claims:
        if claim.name != leaf.claim:
            continue
        if claim.status == "refuted":
            return _CONTRA
        if claim.status == "asserted" and claim.source in leaf.sources:
            outcome = _AFFIRMING
        else:
            doubted = True
    return _NONE if doubted else outcome


def _split(checks: Iterable[Check]) -> tuple[list[Check], list[Check]]:
    """The checks of one list by phase. The first check of an id with both phases is taken for the answer's."""
    node: list[Check] = []
    response: list[Check] = []
    answered: set[str] = set()
    for check in checks:
        entry = CHECKS.get(check.id)
        phases = entry.phases if entry else (Phase.RESPONSE,)
        if phases == (Phase.NODE,) or (len(phases) == 2 and check.id in answered):
            node.append(check)
        else:
            response.append(check)
            answered.add(check.id)
    return node, response


class _Found:
    """The outcomes that were found, as `policy` sees them, and the ids of those that are bad wherever they stand."""

    def __init__(
        self,
        policy: CompiledPolicy,
        node: Iterable[Check],
        response: Iterable[Check],
        claims: tuple[Claim, ...],
        phase: Phase,
    ) -> None:
        self.plan: Plan = policy.plan
        self.phase = phase
        self.failing: set[str] = set()
        self.warned: set[str] = set()
        self.blamed: set[str] = set()
        self.missing: set[str] = set()
        self.idle: set[str] = set()
        self.node = self._gather(node)
        self.response = self._gather(response)
        self.claims = claims

    def _gather(self, checks: Iterable[Check]) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        for check in checks:
            name = check.id
            # A verifier that says something else than a tier has said nothing.
            outcome = check.outcome if isinstance(check.outcome, Outcome) else _NONE
            if outcome is _NONE and check.reason is not None and IDLE.get(name) == check.reason:
                self.idle.add(name)
                continue
            seen = self.plan.adjust.get((name, outcome), outcome)
            if seen is _WARNING and outcome is _CONTRA:
                self.warned.add(name)
            if seen is _CONTRA:
                self.failing.add(name)
                if check.reason not in _BLAMELESS.get(name, ()):
                    self.blamed.add(name)
            before = outcomes.get(name)
            if before is None or _RANK[seen] > _RANK[before]:
                outcomes[name] = seen
        return outcomes

    def judge(self, tree: Tree) -> Outcome | None:
        """The outcome of `tree`; None when it is still open (or idle), so that it decides nothing."""
        if isinstance(tree, Leaf):
            return self._leaf(tree)
        outcomes = [self.judge(member) for member in tree.of]
        if _CONTRA in outcomes:
            return _CONTRA
        if isinstance(tree, All):
            if _NONE in outcomes:
                return _NONE
            if None in outcomes:
                return None
            return _WARNING if _WARNING in outcomes else _AFFIRMING
        return _group(tree, outcomes)

    def _leaf(self, leaf: Leaf) -> Outcome | None:
        outcome = self._claim(leaf) if leaf.check is None else self._check(leaf.check)
        if outcome is _WARNING:
            self.warned.add(leaf.id)
        elif outcome is _NONE:
            self.missing.add(leaf.id)
        elif outcome is _CONTRA:
            self.failing.add(leaf.id)
        return outcome

    def _check(self, name: str) -> Outcome | None:
        phases = CHECKS[name].phases
        if name in self.idle:
            return None
        worst = _AFFIRMING
        if Phase.NODE in phases:
            worst = self.node.get(name, _NONE)
        elif self.phase is Phase.NODE:
            return None
        if self.phase is Phase.RESPONSE and Phase.RESPONSE in phases:
            other = self.response.get(name, _NONE)
            worst = other if _RANK[other] > _RANK[worst] else worst
        return worst

    def _claim(self, leaf: Leaf) -> Outcome | None:
        if self.phase is Phase.NODE and CLAIMS[leaf.id].phase is Phase.RESPONSE:
            return None
        return _shown(leaf, self.claims)


def _group(tree: Any | AtLeast, outcomes: list[Outcome | None]) -> Outcome | None:
    needed = tree.n if isinstance(tree, AtLeast) else 1
    affirmed = outcomes.count(_AFFIRMING)
    met = affirmed + outcomes.count(_WARNING)
    if affirmed >= needed:
        return _AFFIRMING
    if met + outcomes.count(None) < needed:
        return _NONE
    return _WARNING if met >= needed else None


def _weigh(found: _Found, policy: CompiledPolicy, parts: tuple[Tree, ...]) -> Decision:
    outcomes = [found.judge(part) for part in parts]
    decided = [outcome for outcome in outcomes if outcome is not None]
    flag = policy.on_failure == "flag"
    failing, warned = _ranked(found.failing), _ranked(found.warned)
    if failing:
        verdict = _CONTRA
    elif _NONE in decided or not decided:
        verdict = _NONE
    elif _WARNING in decided or any(policy.plan.adjust.get((name, _CONTRA)) for name in warned):
        verdict = _WARNING
    else:
        return _AFFIRMED if not warned else Decision(_AFFIRMING, True, warned=warned)
    if verdict is not _WARNING:
        missing = _ranked(_unmet(found, parts, outcomes) if decided else found.idle)
        first = (failing or missing or (None,))[0]
        if policy.plan.unasked and found.phase is Phase.NODE and not (failing or decided):
            return Decision(verdict, True, warned=warned)
        blameless = tuple(name for name in failing if name in _BLAMELESS and name not in found.blamed)
        return Decision(verdict, flag, first, failing, missing, warned, blameless)
    if policy.warnings == "refuse":
        return Decision(verdict, flag, warned[0], warned, (), warned)
    return Decision(verdict, True, None, (), (), warned)


def _unmet(found: _Found, parts: tuple[Tree, ...], outcomes: list[Outcome | None]) -> set[str]:
    """What was not shown and stands in a part that is not met; a member that `any` did without is not among it."""
    short = {
        leaf.id for part, outcome in zip(parts, outcomes, strict=True) if outcome is _NONE for leaf in leaves(part)
    }
    return found.missing & short


def _ranked(names: set[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: (_ORDER.get(name, len(_ORDER)), name)))
