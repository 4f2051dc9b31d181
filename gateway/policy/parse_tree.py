"""The `require` of a policy file as a tree. Whatever would require nothing, or less than it seems to, is an error."""

from __future__ import annotations

from gateway.verify.checks import CHECKS, CLAIM_SOURCES, CLAIMS

from .build import IDLE
from .document import Document, did_you_mean, quoted
from .lines import Path
from .tree import All, Any, AtLeast, Leaf, Tree, leaves, normal

MAX_DEPTH = 6
MAX_LEAVES = 100
_GROUPS = ("all", "any", "at_least", "of")
_LEAF = ("check", "claim", "status", "source")


def parse_tree(document: Document, path: Path, value: object) -> Tree | None:
    """The tree that `value`, at `path`, describes; None when it has a problem, which is noted in the document."""
    if not isinstance(value, dict) or not set(value) & {*_GROUPS, "not", "none"}:
        document.note(path, "require must hold one of all, any, or at_least with of")
        return None
    tree = _node(document, path, value, 0, False)
    if tree is not None and sum(1 for _ in leaves(tree)) > MAX_LEAVES:
        document.note(path, f"more than {MAX_LEAVES} checks and claims; nobody could say what that means")
        return None
    return tree


def _node(document: Document, path: Path, value: object, depth: int, choice: bool) -> Tree | None:
    """`choice`: the node stands somewhere below `any` or `at_least`, where a member can stand in for another."""
    if depth > MAX_DEPTH:
        document.note(path, f"more than {MAX_DEPTH} levels of all, any and at_least")
        return None
    if isinstance(value, str):
        return _check(document, path, value, choice)
    if not isinstance(value, dict):
        document.note(path, f"must be a check id or a table, not {quoted(value)}")
        return None
    for key in value:
        if key in ("not", "none"):
            document.note((*path, key), f"there is no `{key}`: the absence of evidence shows nothing")
            return None
        if not document.known((*path, key), (*_GROUPS, *_LEAF)):
            return None
    return (
        _group(document, path, value, depth, choice)
        if set(value) & set(_GROUPS)
        else _leaf(document, path, value, choice)
    )


def _group(document: Document, path: Path, value: dict[str, object], depth: int, choice: bool) -> Tree | None:
    keys = set(value)
    if keys not in ({"all"}, {"any"}, {"at_least", "of"}):
        document.note(path, f"one of all, any, or at_least with of; not {', '.join(sorted(keys))} together")
        return None
    kind = "of" if "of" in keys else next(iter(keys))
    members = value[kind]
    if not isinstance(members, list):
        document.note((*path, kind), f"{kind} must be a list, not {quoted(members)}")
        return None
    if not members:
        document.note((*path, kind), f"{kind} of nothing requires nothing")
        return None
    n = value.get("at_least", 1)
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= len(members):
        document.note(
            (*path, "at_least"), f"at_least must be 1 to {len(members)}, the number of members, not {quoted(n)}"
        )
        return None
    below = choice or kind != "all"
    parts = [_node(document, (*path, kind, index), item, depth + 1, below) for index, item in enumerate(members)]
    trees = tuple(part for part in parts if part is not None)
    if len(trees) < len(parts):
        return None
    if len({normal(tree) for tree in trees}) < len(trees):
        document.note((*path, kind), f"{kind} lists something twice, which would count it twice")
        return None
    if kind == "all":
        return All(trees)
    return Any(trees) if kind == "any" else AtLeast(n, trees)


def _leaf(document: Document, path: Path, value: dict[str, object], choice: bool) -> Tree | None:
    if "check" in value:
        if set(value) != {"check"}:
            document.note(path, "a check stands alone: status and source belong to a claim")
            return None
        return _check(document, (*path, "check"), value["check"], choice)
    if "claim" not in value:
        document.note(path, "an empty requirement: name a check or a claim")
        return None
    name, status, source = value["claim"], value.get("status", "asserted"), value.get("source")
    if not isinstance(name, str) or name not in CLAIMS:
        document.note((*path, "claim"), f"unknown claim {quoted(name)}{did_you_mean(name, CLAIMS)}")
        return None
    if status != "asserted":
        document.note((*path, "status"), f"status must be asserted, not {quoted(status)}: unknown is never a pass")
        return None
    if not isinstance(source, list) or not source or len({str(item) for item in source}) < len(source):
        known = ", ".join(CLAIM_SOURCES)
        document.note((*path, "source"), f"source must list whose word is enough: one or more of {known}")
        return None
    for index, item in enumerate(source):
        if item not in CLAIM_SOURCES:
            document.note((*path, "source", index), f"unknown source {quoted(item)}{did_you_mean(item, CLAIM_SOURCES)}")
            return None
    return Leaf(claim=name, status="asserted", sources=tuple(sorted(source)))


def _check(document: Document, path: Path, value: object, choice: bool) -> Leaf | None:
    if not isinstance(value, str) or value not in CHECKS:
        hint = did_you_mean(value, CHECKS)
        if isinstance(value, str) and value in CLAIMS:
            hint = f'; it is a claim: write {{claim = "{value}", status = "asserted", source = [...]}}'
        document.note(path, f"unknown check {quoted(value)}{hint}")
        return None
    if choice and value in IDLE:
        document.note(path, f"{value} does not apply to every answer, so it cannot stand in for another check")
        return None
    return Leaf(check=value)
