"""Invented nodes for `veriroute tui --demo`: one that is stable, one whose baseline changed, one that is kept away."""

from __future__ import annotations

from gateway.model.admin import CanaryView, NodeView, SessionView
from gateway.model.node import ENDPOINTS
from gateway.model.verdict import Check, Claim, Outcome

_DAY = 86_400_000
_CHECKS = ("evidence", "key_bound", "key_weak", "keyset_valid", "fresh", "channel_bound", "replayed_nonce")
_MODELS = ("demo-8b-instruct", "demo-70b-instruct")


def demo_nodes(now_ms: int) -> tuple[NodeView, ...]:
    """Three nodes as they would be at `now_ms`."""
    stable = CanaryView(
        model=_MODELS[0], state="stable", reason="baseline_unchanged", baseline_ms=now_ms - 9 * _DAY,
        since_ms=now_ms - 9 * _DAY + 3_600_000, last_ms=now_ms - 600_000, runs=215, samples=10, p=0.43,
    )  # fmt: skip
    changed = CanaryView(
        model=_MODELS[0], state="changed", reason="baseline_changed", baseline_ms=now_ms - 9 * _DAY,
        since_ms=now_ms - 2 * _DAY, last_ms=now_ms - 1_200_000, runs=47, samples=10, p=0.002, rekeyed=True,
    )  # fmt: skip
    silent = CanaryView(model=_MODELS[0], state="waiting", reason="logprobs_absent")
    return (
        _node("demo-node-a", "demo-operator", now_ms, stable),
        _node("demo-node-b", "demo-operator", now_ms, changed),
        _node("demo-node-x", "demo-stranger", now_ms, silent, reason="quarantined"),
    )


def _node(name: str, operator: str, now_ms: int, canary: CanaryView, *, reason: str | None = None) -> NodeView:
    session = SessionView(
        id=f"demo-session-{name[-1]}",
        established=now_ms / 1000 - 120,
        expires=now_ms / 1000 + 360,
        outcome="affirming",
        checks=tuple(Check(check, Outcome.AFFIRMING) for check in _CHECKS),
        claims=(Claim("tee_attested", "unknown", None, "the node shows no hardware evidence"),),
    )
    return NodeView(
        id=name,
        network="demo-net",
        operator=operator,
        models=_MODELS,
        endpoints=ENDPOINTS,
        state=reason or "ok",
        reason=reason,
        session=session,
        ewma_ms=412.0,
        quarantined_s=180.0 if reason else None,
        canaries=(canary,),
    )
