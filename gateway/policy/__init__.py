"""Appraisal policy (RFC 9334): which checks must be affirming, and what follows when they are not.

    policies = load_policies({"signed.toml": data})         files -> policies, or PolicyError with file:line
    in_force = tighten(policies["signed"], requested)       a caller may only tighten
    decision = prospect(session, in_force)                  before a prompt leaves
    decision = decide(answer, in_force, Phase.RESPONSE, node=session)

Pure: nothing here opens a file. `gateway.policy_files` reads the built-in files and an operator's directory.
"""

from gateway.verify.checks import Phase

from .decide import Decision, decide
from .load import Beside, inspect_policies, inspect_policy, load_policies, parse_policy
from .prospect import prospect
from .request import requested_policy
from .schema import CompiledPolicy, PolicyRef
from .tighten import demand_verified, loosens, meet, tighten

__all__ = [
    "Beside",
    "CompiledPolicy",
    "Decision",
    "Phase",
    "PolicyRef",
    "decide",
    "demand_verified",
    "inspect_policies",
    "inspect_policy",
    "load_policies",
    "loosens",
    "meet",
    "parse_policy",
    "prospect",
    "requested_policy",
    "tighten",
]
