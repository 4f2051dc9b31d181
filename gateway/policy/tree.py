"""What a policy requires: a tree of checks and claims, joined by `all`, `any` and `at_least`.

    require.all = ["signature", {claim = "tee_attested", status = "asserted", source = ["hardware_proven"]},
                   {any = ["channel_bound", "request_bound"]}, {at_least = 2, of = ["a", "b", "c"]}]

There is no `not`: the absence of evidence is never evidence. Trees are values; two that mean the same in another order
are brought to one form by `normal`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from gateway.verify.checks import CHECKS, CLAIMS, Phase

_CHECK_ORDER = {name: place for place, name in enumerate(CHECKS)}
_CLAIM_ORDER = {name: place for place, name in enumerate(CLAIMS)}


class Leaf(msgspec.Struct, frozen=True, tag="leaf", omit_defaults=True):
    """One check that must be affirming, or one claim that must be asserted by one of `sources`.

    Exactly one of `check` and `claim` is set; `status` and `sources` belong to a claim.
    """

    check: str | None = None
    claim: str | None = None
    status: str | None = None
    sources: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The check id or claim name: what is written as the reason when this leaf fails."""
        return self.check or self.claim or ""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases in which this leaf is put to evidence."""
        if self.check is not None:
            return CHECKS[self.check].phases
        return (CLAIMS[self.claim or ""].phase,)


class All(msgspec.Struct, frozen=True, tag="all"):
    """Every one of `of`."""

    of: tuple[Tree, ...]


class Any(msgspec.Struct, frozen=True, tag="any"):
    """At least one of `of`, and none of them contraindicated."""

    of: tuple[Tree, ...]


class AtLeast(msgspec.Struct, frozen=True, tag="at_least"):
    """At least `n` of `of`, and none of them contraindicated. 1 <= n <= len(of)."""

    n: int
    of: tuple[Tree, ...]


Tree = Leaf | All | Any | AtLeast


def leaves(tree: Tree) -> Iterator[Leaf]:
    """Every leaf of `tree`, in writing order."""
    if isinstance(tree, Leaf):
        yield tree
    else:
        for child in tree.of:
            yield from leaves(child)


def needs(tree: Tree, check: str) -> bool:
    """Whether `tree` holds only where `check` does, whatever else is shown."""
    if isinstance(tree, Leaf):
        return tree.check == check
    needing = [needs(child, check) for child in tree.of]
    if isinstance(tree, AtLeast):
        return needing.count(False) < tree.n
    return any(needing) if isinstance(tree, All) else all(needing)


def conjuncts(tree: Tree) -> tuple[Tree, ...]:
    """The parts of `tree` that must each hold: nested `all`s opened, none twice."""
    if isinstance(tree, All):
        parts = [part for child in tree.of for part in conjuncts(child)]
        return tuple(dict.fromkeys(parts))
    return (tree,)


def normal(tree: Tree) -> Tree:
    """One form for all trees that differ only in order, repetition and nesting of `all`."""
    if isinstance(tree, Leaf):
        return msgspec.structs.replace(tree, sources=tuple(sorted(set(tree.sources))))
    children = [normal(child) for child in tree.of]
    if isinstance(tree, All):
        parts = _sorted(part for child in children for part in conjuncts(child))
        return parts[0] if len(parts) == 1 else All(parts)
    if isinstance(tree, Any):
        members = _sorted(children)
        return members[0] if len(members) == 1 else Any(members)
    if len(children) == 1:
        return children[0]
    # A member that stands twice must not count twice, so `at_least` keeps what the loader allowed: all different.
    return AtLeast(tree.n, _sorted(children))


def both(left: Tree, right: Tree) -> Tree:
    """The tree that holds when both do."""
    return normal(All((left, right)))


def implies(strong: Tree, weak: Tree) -> bool:
    """Whether whatever satisfies `strong` satisfies `weak`. Sound; a True may be missed in tangled trees."""
    # A refuted claim fails every tree that it stands in, also inside `any`, so `strong` must look at it too.
    looked_at = {leaf.claim for leaf in leaves(strong)}
    return all(leaf.claim in looked_at for leaf in leaves(weak) if leaf.claim) and _implies(strong, weak)


def _implies(strong: Tree, weak: Tree) -> bool:
    if strong == weak:
        return True
    if isinstance(weak, All):
        return all(_implies(strong, part) for part in weak.of)
    if isinstance(strong, Any):
        return all(_implies(part, weak) for part in strong.of)
    if isinstance(strong, Leaf) and isinstance(weak, Leaf):
        return strong.claim is not None and strong.claim == weak.claim and set(strong.sources) <= set(weak.sources)
    parts = conjuncts(strong)
    if isinstance(strong, All) and any(_implies(part, weak) for part in parts):
        return True
    if isinstance(weak, Any) and any(_implies(strong, part) for part in weak.of):
        return True
    if isinstance(weak, AtLeast) and sum(any(_implies(p, m) for p in parts) for m in weak.of) >= weak.n:
        return True
    return isinstance(strong, AtLeast) and _quorum_implies(strong, weak)


def _quorum_implies(strong: AtLeast, weak: Tree) -> bool:
    if strong.n == len(strong.of):
        return _implies(All(strong.of), weak)
    if not isinstance(weak, Any | AtLeast):
        return False
    # Whichever n members hold, at most the foreign ones among them do not count for `weak`.
    foreign = sum(member not in weak.of for member in strong.of)
    return strong.n - foreign >= (weak.n if isinstance(weak, AtLeast) else 1)


def _sorted(parts: Iterable[Tree]) -> tuple[Tree, ...]:
    return tuple(sorted(dict.fromkeys(parts), key=_place))


def _place(tree: Tree) -> tuple[int, int, str]:
    # checks and claims in the order of their registries, then groups
    if not isinstance(tree, Leaf):
        return (2, 0, repr(tree))
    if tree.check is not None:
        return (0, _CHECK_ORDER[tree.check], "")
    return (1, _CLAIM_ORDER[tree.id], repr(tree))
