"""A caller may ask for a stricter policy than the one its key carries, and never for a looser one.

`tighten` refuses what would loosen and names it; what is left is the meet: for every key the stricter of the two
values, and both requirements. So the result never permits what either of the two refuses.

What counts as asking for something looser is what the requested file *writes*: a key that it leaves out has no opinion.
`require` is always written, and a tree that does not imply the one in force is looser. Lists of what is denied add up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import cast

from gateway.errors import PolicyLoosens
from gateway.model.tee import HostTrust
from gateway.verify.checks import PROOFS

from .build import compile_policy, guards_prompt, roots_for_tests_of, value_of
from .key import Key, Order, Scalar
from .proof_keys import PROOF_KEYS, READ_BY
from .schema import BY_PATH, KEYS, MODES, CompiledPolicy, digest_of
from .tree import All, Leaf, both, implies

#: What a node shows of itself at the least: evidence that holds, and that its key is in it.
_SHOWN = All((Leaf(check="evidence"), Leaf(check="key_bound")))

#: Terms by which proofs are decided, and the proofs that read each.
_TERMS = {
    key.path: READ_BY.get(key.path.partition(".")[0], PROOFS)
    for key in PROOF_KEYS
    if not key.path.startswith("sampled.") and key.path != "proofs.on_inconclusive"
}


def tighten(base: CompiledPolicy, requested: CompiledPolicy) -> CompiledPolicy:
    """The policy in force when a caller whose key carries `base` asks for `requested`.

    Raises `PolicyLoosens`, naming every key that would loosen `base`.
    """
    if set(requested.refs) <= set(base.refs):
        return base
    looser = loosens(base, requested)
    if looser:
        raise PolicyLoosens(
            f"the policy {requested.name!r} is looser than {base.name!r} in {', '.join(looser)}; "
            "a caller may only ask for a stricter one",
            param="policy",
            reason=looser[0],
        )
    return meet(base, requested)


def loosens(base: CompiledPolicy, requested: CompiledPolicy) -> tuple[str, ...]:
    """The paths in which `requested` asks for less than `base` has in force; empty when it may be granted."""
    paths = [] if implies(requested.require, base.require) else ["require"]
    for key in KEYS:
        held = value_of(base, key.path)
        if key.floor is not None:
            held = max(_size(held), _size(value_of(base, key.floor)), _size(value_of(requested, key.floor)))
        if key.path in requested.stated and _looser(key, held, value_of(requested, key.path)):
            paths.append(key.path)
    return tuple(paths)


def meet(left: CompiledPolicy, right: CompiledPolicy) -> CompiledPolicy:
    """The loosest policy that is as strict as both: commutative, idempotent, and it permits only what both permit."""
    refs = tuple(sorted({*left.refs, *right.refs}))
    values = {key.path: _meet(key, value_of(left, key.path), value_of(right, key.path)) for key in KEYS}
    for key in KEYS:
        if key.floor is not None:
            # three that agree are not to be found among two
            values[key.path] = max(_size(values[key.path]), _size(values[key.floor]))
    names = [ref.name for ref in refs if ref.is_policy]
    values["tee.host_trust"] = _meet_host_trust(left, right)
    if left.refs != right.refs:
        # What the narrower terms of one leave undecided, the other alone might have found false.
        values["proofs.on_inconclusive"] = "refuse"
    return compile_policy(
        refs,
        digest_of(refs),
        " + ".join(sorted({*left.source.split(" + "), *right.source.split(" + ")})),
        f"In every point the stricter of {' and '.join(names)}." if len(names) > 1 else left.summary,
        both(both(left.require, right.require), All((*_narrowed(left, values), *_narrowed(right, values)))),
        values,
        left.stated | right.stated,
        roots_for_tests_of(left) & roots_for_tests_of(right),
    )


def demand_verified(policy: CompiledPolicy) -> CompiledPolicy:
    """`policy` as it is under ACI's `aci_verified: true`: what failed is not released, whatever the policy says. Where
    it asks nothing before a prompt leaves, which only a policy that flags may, the node has to show itself as well.

    The same object unless it flags. The files stay the same, so `refs` does; `digest` changes, because it is the name
    by which decisions under a policy are kept.
    """
    if policy.on_failure != "flag":
        return policy
    values = {key.path: value_of(policy, key.path) for key in KEYS}
    values["on_failure"] = "refuse"
    digest = hashlib.sha256(f"veriroute verified v1\n{policy.digest}\n".encode()).hexdigest()
    require = policy.require if guards_prompt(policy.require) else both(policy.require, _SHOWN)
    roots = roots_for_tests_of(policy)
    return compile_policy(policy.refs, digest, policy.source, policy.summary, require, values, policy.stated, roots)


def _looser(key: Key, base: Scalar, asked: Scalar) -> bool:
    if key.order is Order.FREE or key.order is Order.MORE:
        return False
    if key.path == "on_failure":
        # To try the next node is not less strict than to refuse: either way what failed is not released.
        return asked == "flag" and base != "flag"
    if key.order is Order.FEWER:
        return base is not None and (asked is None or not set(_names(asked)) <= set(_names(base)))
    if key.order is Order.MODES:
        return _looser_modes(_names(base), _names(asked))
    return _meet(key, base, asked) != asked


def _meet(key: Key, left: Scalar, right: Scalar) -> Scalar:
    if key.order in (Order.LATER, Order.FREE):
        return max(str(left), str(right), key=key.choices.index)
    if key.order is Order.MORE:
        return tuple(sorted({*_names(left), *_names(right)}))
    if key.order is Order.FEWER:
        if left is None or right is None:
            return right if left is None else left
        return tuple(sorted(set(_names(left)) & set(_names(right))))
    if key.order is Order.MODES:
        return _meet_modes(_names(left), _names(right))
    pick = min if key.order is Order.LOWER else max
    return pick(_size(left), _size(right))


def _narrowed(side: CompiledPolicy, values: Mapping[str, Scalar]) -> tuple[Leaf, ...]:
    """The proofs of `side` whose terms in `values` are not its own. One that fails convicts wherever it stands, so
    where narrower terms may leave it undecided, no other member of an `any` makes up for it."""
    proofs = sorted(side.plan.proofs)
    return tuple(
        Leaf(check=proof)
        for proof in proofs
        if any(value_of(side, path) != values[path] for path, readers in _TERMS.items() if proof in readers)
    )


def _meet_host_trust(left: CompiledPolicy, right: CompiledPolicy) -> Scalar:
    """Who may hold the machine. A list of machines makes those on it known, so it narrows one rule and widens this
    one: a side without a list, to which no machine is known, must not come to know those of the other."""
    sides = []
    for side, other in ((left, right), (right, left)):
        trusted = side.tee.host_trust
        if trusted is not None and side.tee.machines is None and other.tee.machines is not None:
            trusted = trusted - {HostTrust.KNOWN_MACHINE.value}
        sides.append(None if trusted is None else tuple(sorted(trusted)))
    return _meet(BY_PATH["tee.host_trust"], *sides)


def _meet_modes(left: tuple[str, ...], right: tuple[str, ...]) -> tuple[str, ...]:
    """For nodes that chain and for those that do not, the stricter one of the modes that their streams get."""
    if left == right:
        return left
    chaining, others = ([_mode(side, chains=chains) for side in (left, right)] for chains in (True, False))
    first = max(filter(None, chaining), key=MODES.index)
    if first != "chained":
        return (first,)  # the other nodes get no stricter one: only `buffer` is stricter than `chained`
    return (first,) if None in others else (first, max(filter(None, others), key=MODES.index))


def _looser_modes(base: tuple[str, ...], asked: tuple[str, ...]) -> bool:
    pairs = [(_mode(base, chains=chains), _mode(asked, chains=chains)) for chains in (True, False)]
    return any(then is not None and MODES.index(then) < MODES.index(now or "chained") for now, then in pairs)


def _mode(modes: tuple[str, ...], *, chains: bool) -> str | None:
    """The mode that a stream gets from a node that chains or does not: the first that it can do. All but `chained` can
    be done with any node, so what stands behind another one is never come to: were it to count, a caller could ask for
    what no stream gets now. None: such a node is not used."""
    return next((mode for mode in modes if chains or mode != "chained"), None)


def _size(value: Scalar) -> float:
    return cast("float", value)


def _names(value: Scalar) -> tuple[str, ...]:
    # `Order` and kind of a key go together, so that what is asked for here is there
    return cast("tuple[str, ...]", value)
