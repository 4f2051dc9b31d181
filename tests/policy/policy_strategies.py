"""Random policies and results, and a second, slow fold to hold `decide` against."""

from __future__ import annotations

import hashlib

import msgspec
from hypothesis import strategies as st

from gateway.model.verdict import AttestationResult, Check, Claim, Outcome
from gateway.policy.build import IDLE, compile_policy
from gateway.policy.key import Key, Scalar
from gateway.policy.schema import BY_PATH, KEYS, CompiledPolicy, PolicyRef
from gateway.policy.tree import All, Any, AtLeast, Leaf, Tree, normal
from gateway.verify.checks import CHECKS, CLAIM_SOURCES, CLAIM_STATUSES, CLAIMS, Phase

#: A few of each kind, so that trees and results meet.
CHECK_IDS = ("evidence", "key_bound", "channel_bound", "fresh", "signature", "replay", "output_kind", "proof_quorum")
IDLE_IDS = ("tool_undeclared", "stream_grammar")
CLAIM_IDS = ("tee_attested", "request_bound", "gpu_attested")

OUTCOMES = st.sampled_from(list(Outcome))
CHECK_LEAVES = st.sampled_from(CHECK_IDS).map(lambda name: Leaf(check=name))
IDLE_LEAVES = st.sampled_from(IDLE_IDS).map(lambda name: Leaf(check=name))
CLAIM_LEAVES = st.builds(
    lambda name, sources: Leaf(claim=name, status="asserted", sources=tuple(sorted(sources))),
    st.sampled_from(CLAIM_IDS),
    st.sets(st.sampled_from(CLAIM_SOURCES), min_size=1, max_size=3),
)


def _group(children: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    members = st.lists(children, min_size=1, max_size=4, unique_by=normal)
    return st.one_of(
        members.map(lambda of: All(tuple(of))),
        members.map(lambda of: Any(tuple(of))),
        members.flatmap(lambda of: st.integers(1, len(of)).map(lambda n: AtLeast(n, tuple(of)))),
    )


CHOICES = st.recursive(st.one_of(CHECK_LEAVES, CLAIM_LEAVES), _group, max_leaves=6)
#: As the loader allows them: checks that may be idle stand in `all` at the top only.
TREES = st.lists(st.one_of(CHECK_LEAVES, IDLE_LEAVES, CHOICES), min_size=1, max_size=5).map(
    lambda parts: normal(All(tuple(parts)))
)


#: Names for the keys whose names have a form.
NAMES = {
    "tee.minimum_svn": ("ucode:7", "ucode:9", "snp:3"),
    "tee.measurements": ("mr_td:aa", "mr_td:bb/rtmr0:cc", "launch:dd"),
    "tee.advisories_file": ("advisories/a.toml", "advisories/b.toml"),
    "tee.machines": ("a" * 64, "b" * 64),
    "reexec.calibrations": ("a" * 64, "b" * 64),
    "toploc.calibrations": ("a" * 64, "b" * 64),
    "zk.circuits": ("sha256:" + "a" * 64, "sha256:" + "b" * 64),
}


def _value(key: Key) -> st.SearchStrategy[Scalar]:
    if key.kind == "choice":
        return st.sampled_from(key.choices)
    if key.kind == "flag":
        return st.booleans()
    if key.kind in ("seconds", "count"):
        return st.integers(max(1, int(key.low)), min(90, int(key.high)))
    if key.kind == "number":
        return st.sampled_from((key.low, round((key.low + key.high) / 2, 6), key.high))
    names = st.lists(st.sampled_from(key.choices or NAMES.get(key.path, ("a", "b", "c"))), min_size=1, unique=True).map(
        tuple
    )
    if key.kind == "modes":
        return names
    sets = names.map(lambda value: tuple(sorted(value)))
    return st.one_of(st.none(), sets) if key.default is None else st.one_of(st.just(()), sets)


def _values(*sections: str) -> st.SearchStrategy[dict[str, Scalar]]:
    keys = [key for key in KEYS if key.path.startswith(sections)]
    return st.fixed_dictionaries({}, optional={key.path: _value(key) for key in keys})


VALUES = _values("")
#: The keys of which the rules for machines are made (`compile_policy`).
MACHINE_VALUES = _values("tee.", "freshness.")


@st.composite
def policies(draw: st.DrawFn, of: st.SearchStrategy[dict[str, Scalar]] = VALUES) -> CompiledPolicy:
    tree, values = draw(TREES), draw(of)
    for key in KEYS:
        # As the loader has it: one bound is never under the other.
        if key.floor is not None and (key.path in values or key.floor in values):
            least, most = (values.get(path, BY_PATH[path].default) for path in (key.floor, key.path))
            values[key.path] = max(least, most)
    if values.get("on_failure") != "flag":
        # The loader asks for something that is decided before the prompt leaves, or for a proof of the answer.
        tree = normal(All((tree, Leaf(check=draw(st.sampled_from(("evidence", "proof_quorum")))))))
    name = draw(st.sampled_from("pqrs"))
    digest = hashlib.sha256(repr((name, tree, sorted(values.items()))).encode()).hexdigest()
    return compile_policy((PolicyRef(name, 1, digest),), digest, f"{name}.toml", name, tree, values, frozenset(values))


def with_leaf(policy: CompiledPolicy, check: str) -> CompiledPolicy:
    """`policy`, which requires `check` as well."""
    return msgspec.structs.replace(policy, require=normal(All((policy.require, Leaf(check=check)))))


@st.composite
def _checks(draw: st.DrawFn, phase: Phase) -> tuple[Check, ...]:
    names = [name for name in (*CHECK_IDS, *IDLE_IDS) if phase in CHECKS[name].phases]
    found = []
    for name in names:
        how = draw(st.sampled_from(["affirming", "affirming", "affirming", "any", "absent", "idle"]))
        if how == "affirming":
            found.append(Check(name, Outcome.AFFIRMING))
        elif how == "idle" and name in IDLE:
            found.append(Check(name, Outcome.NONE, IDLE[name]))
        elif how == "any":
            found.append(Check(name, draw(OUTCOMES), "because"))
    return tuple(found)


CLAIM_LISTS = st.lists(
    st.builds(
        Claim,
        st.sampled_from(CLAIM_IDS),
        st.sampled_from(["asserted", *CLAIM_STATUSES]),
        st.one_of(st.none(), st.sampled_from(CLAIM_SOURCES)),
    ),
    max_size=4,
).map(tuple)
NODE_RESULTS = st.builds(AttestationResult, _checks(Phase.NODE), CLAIM_LISTS)
RESPONSE_RESULTS = st.builds(AttestationResult, _checks(Phase.RESPONSE), CLAIM_LISTS)

_PLACE = {Outcome.AFFIRMING: 0, Outcome.WARNING: 1, Outcome.NONE: 2, Outcome.CONTRAINDICATED: 3}


def reference_verdict(
    policy: CompiledPolicy, phase: Phase, node: AttestationResult, response: AttestationResult | None
) -> Outcome:
    """The fold of docs/policy.md, written down a second time and without any thought of speed."""
    answer = response.checks if response else ()

    def seen(check: Check) -> Outcome:
        flags = (policy.executables.undeclared, policy.executables.arguments)
        if check.outcome is Outcome.CONTRAINDICATED and (check.id, "flag") in zip(
            ("tool_undeclared", "tool_arguments"), flags, strict=True
        ):
            return Outcome.WARNING
        if (
            check.id == "output_kind"
            and check.outcome is Outcome.WARNING
            and policy.output.text_as_tool_call == "refuse"
        ):
            return Outcome.CONTRAINDICATED
        if check.id == "replay" and check.outcome is Outcome.WARNING and policy.replay.nonce == "required":
            return Outcome.NONE
        return check.outcome

    def idle(check: Check) -> bool:
        return check.outcome is Outcome.NONE and check.reason == IDLE.get(check.id, "never")

    def one(checks: tuple[Check, ...], name: str) -> Outcome:
        found = [seen(check) for check in checks if check.id == name]
        return max(found, key=_PLACE.__getitem__) if found else Outcome.NONE

    def leaf(part: Leaf) -> Outcome | None:
        if part.claim:
            if phase is Phase.NODE and CLAIMS[part.claim].phase is Phase.RESPONSE:
                return None
            stated = [c for c in (*node.claims, *(response.claims if response else ())) if c.name == part.claim]
            if any(c.status == "refuted" for c in stated):
                return Outcome.CONTRAINDICATED
            good = [c for c in stated if c.status == "asserted" and c.source in part.sources]
            return Outcome.AFFIRMING if good and len(good) == len(stated) else Outcome.NONE
        name = part.check or ""
        if any(check.id == name and idle(check) for check in (*node.checks, *answer)):
            return None
        asked = [node.checks] if Phase.NODE in CHECKS[name].phases else []
        if phase is Phase.RESPONSE and Phase.RESPONSE in CHECKS[name].phases:
            asked.append(answer)
        return max((one(checks, name) for checks in asked), key=_PLACE.__getitem__) if asked else None

    def judge(part: Tree) -> Outcome | None:
        if isinstance(part, Leaf):
            return leaf(part)
        got = [judge(member) for member in part.of]
        if Outcome.CONTRAINDICATED in got:
            return Outcome.CONTRAINDICATED
        needed = len(got) if isinstance(part, All) else part.n if isinstance(part, AtLeast) else 1
        for tier, allowed in (
            (Outcome.AFFIRMING, [Outcome.AFFIRMING]),
            (Outcome.NONE, None),
            (Outcome.WARNING, [Outcome.AFFIRMING, Outcome.WARNING]),
        ):
            if allowed is None:
                if sum(item is not Outcome.NONE for item in got) < needed:
                    return Outcome.NONE
            elif sum(item in allowed for item in got) >= needed:
                return tier
        return None

    everything = [check for check in (*node.checks, *answer) if not idle(check)]
    required = judge(policy.require) if not isinstance(policy.require, All) else None
    parts = policy.require.of if isinstance(policy.require, All) else (policy.require,)
    verdicts = [required] if required else [judge(part) for part in parts]
    decided = [verdict for verdict in verdicts if verdict is not None]
    if Outcome.CONTRAINDICATED in [*decided, *map(seen, everything)]:
        return Outcome.CONTRAINDICATED
    if not decided or Outcome.NONE in decided:
        return Outcome.NONE
    softened = any(c.outcome is Outcome.CONTRAINDICATED and seen(c) is Outcome.WARNING for c in everything)
    return Outcome.WARNING if softened or Outcome.WARNING in decided else Outcome.AFFIRMING
