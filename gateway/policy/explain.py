"""A policy in words, for a person, and as plain values, for a program. What is said is what is in force."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any as Anything

from gateway.text import plain
from gateway.verify.checks import Phase, claim_title, title_of

from .build import value_of
from .key import Key, Scalar
from .schema import KEYS, CompiledPolicy
from .tree import All, Any, AtLeast, Leaf, Tree, conjuncts

_PHASES = {
    (Phase.NODE,): "node",
    (Phase.RESPONSE,): "answer",
    (Phase.NODE, Phase.RESPONSE): "both",
}

_FAILURE = {
    "refuse": "What is not shown is refused: the agent gets an error, and a receipt that says what failed.",
    "next_node": "A node that is not shown to be right is passed over for the next one{after}.",
    "flag": "Nothing is held back: what fails is released with its true verdict. This policy only looks.",
}


def explain(policy: CompiledPolicy) -> str:
    """`policy` in words: what it requires with the title of each check, what follows, and every value in force."""
    lines = [f"{policy.name}, version {policy.version}", policy.summary, ""]
    lines += [f"file    {plain(policy.source)}", f"digest  sha256:{policy.digest}"]
    if len(policy.refs) > 1:
        lines += [f"from    {ref.name} {ref.version} sha256:{ref.digest}" for ref in policy.refs]
    lines += ["", "An answer is affirming when all of these are shown:", ""]
    for part in conjuncts(policy.require):
        lines += _tree_lines(part, "  ")
    lines += ["", "A contraindicated check makes the verdict contraindicated, also one that is not listed here.", ""]
    lines += [*_proof_lines(policy)]
    after = ", also after the prompt was sent" if policy.retry_after_send else ", while the prompt has not left"
    lines += [_FAILURE[policy.on_failure].format(after=after), "", "In force (* written in the file):", ""]
    width = max(len(key.path) for key in KEYS)
    for key in KEYS:
        mark = "*" if key.path in policy.stated else " "
        lines.append(f"  {mark} {key.path:<{width}}  {shown(key, value_of(policy, key.path))}")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _proof_lines(policy: CompiledPolicy) -> Iterator[str]:
    """What an answer's proofs cost and what follows from them; nothing where policy asks for none."""
    proofs, sampled = policy.plan.proofs, policy.sampled
    if proofs:
        yield "Each proof that is named is gathered for every answer, which is held back until then."
        if "proof_quorum" in proofs:
            n, m = policy.quorum.n, policy.quorum.m
            yield f"The prompt goes to {n} nodes, and to {m} at most while they do not agree."
        undecided = "a warning" if policy.proofs.on_inconclusive == "warn" else "not shown"
        yield f"A proof that was tried and did not decide is {undecided}; one that fails contraindicates."
    if policy.plan.unasked:
        yield "Nothing is required of a node before it gets the prompt: a proof is of the answer."
    if sampled.rate:
        share = _decimal(sampled.rate * 100)
        yield f"{share} % of the released answers are run again afterwards, within {sampled.delay_max_s:g} s."
    if proofs or sampled.rate:
        yield ""


def as_values(policy: CompiledPolicy) -> dict[str, Anything]:
    """`policy` as values that JSON can hold: the effective values, with the tree as the file format writes it."""
    values: dict[str, Anything] = {
        "name": policy.name,
        "version": policy.version,
        "digest": policy.digest,
        "source": policy.source,
        "summary": policy.summary,
        "refs": [{"name": ref.name, "version": ref.version, "digest": ref.digest} for ref in policy.refs],
        "require": _tree_values(policy.require),
    }
    for key in KEYS:
        value = value_of(policy, key.path)
        section, _, name = key.path.rpartition(".")
        (values.setdefault(section, {}) if section else values)[name] = (
            list(value) if isinstance(value, tuple) else value
        )
    values["stated"] = sorted(policy.stated)
    return values


def shown(key: Key, value: Scalar) -> str:
    """A value as a person writes it, with its unit."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "any"
    if isinstance(value, tuple):
        return ", ".join(value) if value else "none"
    if key.kind == "seconds" and isinstance(value, int | float):
        return f"{value:g} s"
    if key.kind == "number" and isinstance(value, int | float):
        return _decimal(value)
    return str(value)


def _decimal(value: float) -> str:
    """All of its up to nine decimals, and never an exponent."""
    return f"{value:.9f}".rstrip("0").rstrip(".")


def _tree_lines(tree: Tree, indent: str) -> Iterator[str]:
    if isinstance(tree, Leaf) and tree.check is not None:
        yield f"{indent}{tree.check:<22}{_PHASES[tree.phases]:<8}{title_of(tree.check)}"
    elif isinstance(tree, Leaf):
        who = " or ".join(source.replace("_", " ") for source in tree.sources)
        yield f"{indent}{tree.id:<22}{_PHASES[tree.phases]:<8}{claim_title(tree.id)} (claim: {who})"
    else:
        yield indent + _joined(tree)
        for member in tree.of:
            yield from _tree_lines(member, indent + "  ")


def _joined(tree: All | Any | AtLeast) -> str:
    if isinstance(tree, AtLeast):
        return f"at least {tree.n} of these {len(tree.of)}, and none contraindicated:"
    return "one of these, and none contraindicated:" if isinstance(tree, Any) else "all of these:"


def _tree_values(tree: Tree) -> Anything:
    if isinstance(tree, Leaf):
        if tree.check is not None:
            return tree.check
        return {"claim": tree.claim, "status": tree.status, "source": list(tree.sources)}
    members = [_tree_values(member) for member in tree.of]
    if isinstance(tree, AtLeast):
        return {"at_least": tree.n, "of": members}
    return {"any" if isinstance(tree, Any) else "all": members}
