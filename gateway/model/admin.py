"""The values of the admin API, shared by the gateway that sends them and the clients that read them.

    GET /admin/v1/info            -> Info
    GET /admin/v1/receipts        -> Page      newest first; `before` and `after` are log indexes, both exclusive
    GET /admin/v1/receipts/{id}   -> a bundle (gateway.log.bundle)
    GET /admin/v1/nodes           -> Nodes
    GET /admin/v1/live            -> text/event-stream, one Row of JSON in each `data:`

What a gateway says here is its own claim. A reader that needs more opens the bundle and verifies it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .entry import Int64, ReceiptRow
from .receipt import Count
from .verdict import Check, Claim

#: Milliseconds since the epoch, of a year that every calendar has.
UnixMs = Annotated[int, msgspec.Meta(ge=0, lt=1 << 47)]


class Row(ReceiptRow, frozen=True, kw_only=True):
    """The query columns of one receipt, and the index of its leaf in the log.

    `doubted`: a later audit of the node failed, and none has passed this answer or a later one before it.
    """

    index: Int64
    doubted: bool = False


class Page(msgspec.Struct, frozen=True):
    """Some rows, and the `before` with which the next older page is asked for (None: there are no older ones)."""

    rows: tuple[Row, ...]
    next: Int64 | None = None


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway in one glance. `counts`: receipts by verdict; `time_ms`: its clock, since ages come from it."""

    version: str
    origin: str
    size: Count
    healthy: bool
    policy_default: str
    nodes: Count
    counts: dict[str, Count]
    time_ms: UnixMs


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """The attested session in force for a node. Times are wall-clock seconds."""

    id: str
    established: float
    expires: float
    outcome: str
    checks: tuple[Check, ...] = ()
    claims: tuple[Claim, ...] = ()


class CanaryView(msgspec.Struct, frozen=True, kw_only=True):
    """What canaries found of one model at a node (docs/proofs.md, Drift). Times are milliseconds since the epoch.

    `state` is what the last `runs` comparisons found, since `since_ms`: `stable` or `changed`; `set` when nothing was
    compared with the baseline yet, `waiting` when there is none. `reason` is of the newest run, and the only thing
    that is when it showed nothing; None when it set the baseline, or there was no run since the gateway's start.
    """

    model: str
    state: str
    reason: str | None = None
    baseline_ms: UnixMs | None = None
    since_ms: UnixMs | None = None
    last_ms: UnixMs | None = None
    runs: Count = 0
    samples: Count = 0
    p: float | None = None
    rekeyed: bool = False


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """One node as the gateway sees it now: whether it would be routed to, and if not, the one reason.

    `cause` is what is behind the reason, where more is known: why the last attempt to establish a session failed, say.
    """

    id: str
    network: str
    operator: str | None = None
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    state: str
    reason: str | None = None
    cause: str | None = None
    session: SessionView | None = None
    ewma_ms: float | None = None
    in_flight: Count = 0
    quarantined_s: float | None = None
    circuit: str | None = None
    canaries: tuple[CanaryView, ...] = ()


class Nodes(msgspec.Struct, frozen=True):
    """Every node, configured or discovered."""

    nodes: tuple[NodeView, ...]
