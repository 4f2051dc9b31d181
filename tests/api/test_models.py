"""The entries of models: what each says of the nodes that offer it, and what a list of many costs."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.api import health
from gateway.fleet.member import Member
from gateway.model.node import AttestedSession, Node, SigningKey
from gateway.model.verdict import Check, Claim, Outcome
from gateway.policy.prospect import prospect
from gateway.policy_files import read_policies

SIGNED = read_policies()["signed"]
SOUND = ("evidence", "key_bound", "key_weak", "keyset_valid", "fresh", "channel_bound")


def member(name: str, *models: str, bound: bool = True, known: bool = True) -> Member:
    """A node with a session, whose key is `bound` or not; `known`: the decision about it was worked out before."""
    made = Member(Node(name, "net", "https://x", models), None, None, lambda: 1.0)  # type: ignore[arg-type]
    checks = [Check(i, Outcome.AFFIRMING if bound or i != "key_bound" else Outcome.NONE, "why") for i in SOUND]
    keys = (SigningKey("k", "ed25519", b"\1" * 32),)
    session = AttestedSession(
        name, name, "net", "https://x", "d", keys, (), "e", 0, 9, Outcome.AFFIRMING, tuple(checks),
        (Claim(f"claim-{name}", "asserted", "verifier_derived"),), frozenset({f"can-{name}"}),
    )  # fmt: skip
    made.view.session, made.view.appraised_at, made.view.lease_until = session, 0.0, 9.0
    if known:
        made.view.decisions = {SIGNED.digest: prospect(session, SIGNED)}
    return made


def said(entries: list[dict[str, Any]]) -> dict[str, tuple[int, int, list[str]]]:
    """Of each model how many nodes offer it, how many may serve it, and which extensions they have."""
    return {e["id"]: tuple(e["veriroute"][k] for k in ("nodes", "permitted", "extensions")) for e in entries}  # type: ignore[misc]


@pytest.mark.parametrize("known", [True, False])
def test_each_model_has_what_its_own_nodes_give(known: bool) -> None:
    """Models of the same nodes, of some of them and of one: each entry counts its own, in order of the names."""
    members = [member("a", "m1", "m2", "m3", known=known), member("b", "m2", "m3", "m4", bound=False, known=known)]
    entries = health._models(members, SIGNED)
    assert [entry["id"] for entry in entries] == ["m1", "m2", "m3", "m4"]
    assert said(entries) == {
        "m1": (1, 1, ["can-a"]),
        "m2": (2, 1, ["can-a", "can-b"]),
        "m3": (2, 1, ["can-a", "can-b"]),
        "m4": (1, 0, ["can-b"]),
    }
    assert set(entries[1]["veriroute"]["claims"]) == {"claim-a", "claim-b"}


def test_without_a_policy_none_is_permitted() -> None:
    """A key whose policy is gone is shown the models, and that nobody may serve them."""
    assert said(health._models([member("a", "m")], None)) == {"m": (1, 0, ["can-a"])}


def test_a_list_of_many_models_looks_at_each_node_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty nodes that offer the same hundred models are looked at twenty times, not two thousand, and nothing is
    decided about them that routing has decided already."""
    looked: list[str] = []
    decided: list[object] = []
    permitted = health._permitted
    monkeypatch.setattr(health, "_permitted", lambda m, policy: looked.append(m.node.id) or permitted(m, policy))
    monkeypatch.setattr(health, "prospect", lambda *given: decided.append(given))
    models = [f"m{n:03}" for n in range(100)]
    nodes = [member(f"n{n}", *models) for n in range(20)]
    entries = health._models(nodes, SIGNED)
    assert [(entry["id"], entry["veriroute"]["permitted"]) for entry in entries] == [(name, 20) for name in models]
    assert (sorted(looked), decided) == (sorted(m.node.id for m in nodes), [])
