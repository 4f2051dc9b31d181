"""The nodes of a gateway as a tree of lines: what each can show, why it is not used, and what canaries found of it.

A node has the outcome of its attested session. What canaries found is a fact and never an outcome: that a baseline
changed decides nothing about a node, and nothing about any answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from gateway.model.admin import CanaryView, NodeView, SessionView
from gateway.model.verdict import Outcome

from .chain import Line, check_line, claim_line
from .columns import number
from .verdicts import outcome

TOLD = "claimed by the gateway, in its list of nodes"
#: How the states of a baseline read in a line.
_STATES = {
    "waiting": "no baseline yet",
    "set": "baseline set",
    "stable": "stable since",
    "changed": "BASELINE CHANGED at",
}
_DRIFT = (
    "Canaries ask a node the same short question now and then. A changed baseline is a reason to calibrate anew: new "
    "weights do it, and so does another kernel or another card. It accuses nobody and says nothing about any answer."
)


def nodes_tree(nodes: Sequence[NodeView]) -> Line:
    """Every node, in the order of their names."""
    ordered = sorted(nodes, key=lambda node: node.id)
    used = sum(node.state == "ok" for node in ordered)
    changed = sum(canary.state == "changed" for node in ordered for canary in node.canaries)
    words = f"{len(ordered)} known  {used} may serve" + (f"  {changed} baseline changed" if changed else "")
    return Line(
        key="nodes",
        text=words,
        told=TOLD,
        title="The nodes of this gateway",
        facts=[("known", str(len(ordered))), ("may serve", f"{used} under the default policy")],
        words=["A node has the worst outcome of what its attested session shows; whether that will do, policy says."],
        below=[node_line(node) for node in ordered],
    )


def node_line(node: NodeView) -> Line:
    """One node: its state, its session's checks and claims, and its canaries."""
    behind = (node.reason if node.reason != node.state else None, node.cause)
    why = f" ({': '.join(filter(None, behind))})" if any(behind) else ""
    text = f"{node.state}{why}  {node.network}"
    if node.canaries:
        text += "  " + "; ".join(_since(canary) for canary in node.canaries)
    session = node.session
    return Line(
        key=node.id,
        text=text,
        outcome=outcome(session.outcome) if session is not None else Outcome.NONE,
        told=TOLD,
        title=f"Node {node.id}",
        facts=[
            ("state", node.state + why),
            ("network", node.network),
            ("operator", node.operator or "–"),
            ("models", ", ".join(node.models) or "–"),
            ("endpoints", ", ".join(node.endpoints) or "–"),
            ("latency", "–" if node.ewma_ms is None else f"{number(node.ewma_ms)} ms to the first byte"),
            ("in flight", str(node.in_flight)),
            *_held(node),
        ],
        words=["The state is that under the gateway's default policy; a key of another policy may find another."],
        copy=node.id,
        below=[canary_line(canary) for canary in node.canaries] + (_session(session) if session is not None else []),
    )


def canary_line(canary: CanaryView) -> Line:
    """What canaries found of one model at a node."""
    reason = f"  ({canary.reason})" if canary.reason and not _says_it(canary) else ""
    p = "" if canary.p is None else f"  p {canary.p:.3g}"
    return Line(
        key=canary.model,
        text=f"{_since(canary)}{p}{reason}",
        told=TOLD,
        title="Does it answer as it used to?",
        facts=[
            ("model", canary.model),
            ("state", _since(canary)),
            ("newest run", canary.reason or ("set the baseline" if canary.state == "set" else "–")),
            *_comparison(canary),
        ],
        words=[_DRIFT, "veriroute nodes baseline reset NODE accepts what the node answers from now on."],
    )


def _comparison(canary: CanaryView) -> list[tuple[str, str]]:
    if not canary.samples:
        return []
    baseline = ("baseline", f"{canary.samples} samples, {moment(canary.baseline_ms)}")
    if canary.p is None:
        return [baseline]
    return [
        ("p value", f"{canary.p:.4g}, changed at 0.01 or less"),
        ("runs", f"{number(canary.runs)} with this finding, the last {moment(canary.last_ms)}"),
        baseline,
        ("keyset", "another than the baseline's" if canary.rekeyed else "that of the baseline"),
    ]


def moment(ms: float | None) -> str:
    """Local date and time, to the second; a dash where there is none or the calendar has no such day."""
    try:
        return "–" if ms is None else datetime.fromtimestamp(ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return "–"


def _since(canary: CanaryView) -> str:
    words = _STATES.get(canary.state, canary.state)
    return words if canary.since_ms is None else f"{words} {moment(canary.since_ms)}"


def _says_it(canary: CanaryView) -> bool:
    """Whether the reason is only the state in another word."""
    return canary.reason == {"stable": "baseline_unchanged", "changed": "baseline_changed"}.get(canary.state)


def _held(node: NodeView) -> list[tuple[str, str]]:
    held = [] if node.quarantined_s is None else [("quarantine", f"{number(node.quarantined_s)} s to go")]
    return held + ([] if node.circuit is None else [("circuit", node.circuit)])


def _session(session: SessionView) -> list[Line]:
    about = Line(
        key="session",
        text=f"until {moment(session.expires * 1000)}",
        told=TOLD,
        title="The attested session in force",
        facts=[
            ("session", session.id),
            ("established", moment(session.established * 1000)),
            ("expires", moment(session.expires * 1000)),
            ("outcome", session.outcome),
        ],
        words=["One appraisal of the node's channel. Prompts go to the node only under it."],
        copy=session.id,
        below=[check_line(check, told=TOLD) for check in session.checks],
    )
    claims = [claim_line(claim) for claim in session.claims]
    for claim in claims:
        claim.told = TOLD
    if not claims:
        return [about]
    return [about, Line(key="claims", text=str(len(claims)), told=TOLD, title="What the evidence says", below=claims)]
