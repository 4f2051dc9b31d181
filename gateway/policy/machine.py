"""What one policy makes of the machines behind a session: the check `tee_rules`, which no appraisal can make for all.

An appraisal is shared by every caller; what is asked of a machine is each policy's own. So the list of a session's
checks holds `tee_rules` unanswered, and here it is answered.
"""

from __future__ import annotations

from gateway.model.node import AttestedSession
from gateway.model.verdict import Check, Outcome
from gateway.verify.tee.rules import judge

from .schema import CompiledPolicy

TEE_RULES = "tee_rules"
_MOST_KEPT = 256
_kept: dict[tuple[int, int], tuple[AttestedSession, CompiledPolicy, tuple[Check, ...]]] = {}


def under(session: AttestedSession, policy: CompiledPolicy) -> tuple[Check, ...]:
    """The checks of `session`, with `tee_rules` answered by `policy`. A session without TEE evidence stays as it is."""
    if not session.tee:
        return session.checks
    # Asked twice for every answer of a session that lives for minutes. The kept values hold their keys, so that no
    # identity is used twice.
    found = _kept.get((id(session), id(policy)))
    if found is None:
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        found = _kept[id(session), id(policy)] = (session, policy, _under(session, policy))
    return found[2]


def _under(session: AttestedSession, policy: CompiledPolicy) -> tuple[Check, ...]:
    answer = _answer(session, policy)
    checks = tuple([answer if check.id == TEE_RULES else check for check in session.checks])
    return checks if answer in checks else (*checks, answer)  # a list without a place for it must not lose it


def _answer(session: AttestedSession, policy: CompiledPolicy) -> Check:
    # Which test roots there are is for the settings to say (`build.with_test_roots`), and the start says that they are
    # dangerous. A claim under any other is refused, wherever it came from.
    met = 0
    for claims in session.tee:
        for check in judge(claims, policy.tee_rules):
            if check.outcome is Outcome.CONTRAINDICATED:
                return Check(TEE_RULES, Outcome.CONTRAINDICATED, check.reason, check.found, check.expected, check.id)
            met += check.outcome is Outcome.AFFIRMING
    return Check(TEE_RULES, Outcome.AFFIRMING, None, f"{met} rules", over="section [tee]")
