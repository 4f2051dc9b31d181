"""What the log says of sampled audits: the predicates of the entries `epoch`, `reveal` and `audit`, and of their alarm.

    epoch    {"epoch": "<ULID>", "commitment": "<hex>", "kind": "reexec", "beginMs": …, "endMs": …, "revealByMs": …}
    audit    {"receiptId": "<ULID>", "epoch": …, "node": …, "verdict": "pass" | "fail" | "inconclusive", …}
    reveal   {"epoch": …, "seed": "<hex>", "timeMs": …, "counts": {"selected": …, "passed": …, …}}
    alarm    {"alarm": "audit_failed", "receiptId": …, "node": …, "doubted": {"first": …, "last": …, "count": …, …}}

The order that a reader of the log can hold to: the epoch's entry before the first receipt that names it, its audits
before its reveal, and nothing of it after that. No member holds a digest of a prompt or an answer: unsalted, it would
confirm a guess. An audit names its receipt, and that commits to both.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from .receipt import Code, Count, Hex256, UlidText

#: The `alarm` of a failed audit, and how many receipt ids stand in it at most.
AUDIT_FAILED: Literal["audit_failed"] = "audit_failed"
MAX_NAMED = 100

#: The longest that an epoch takes requests (`sampled.epoch_s`), and the longest from its end to its reveal: a request
#: that still runs with its proofs (`deadlines.total_s`, `proofs.timeout_s`, 5 s to be entered), then what an audit
#: waits for (`sampled.delay_max_s`) and takes (240 s). These are the most that a policy may ask for.
MAX_EPOCH_MS = 86_400_000
MAX_REVEAL_MS = 1000 * (86_400 + 600 + 5 + 86_400 + 240)

Text = Annotated[str, msgspec.Meta(max_length=256)]


class EpochEntry(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """An epoch begins: the SHA-256 of its seed, and when it takes requests (milliseconds, [begin, end)).

    The seed is revealed at `reveal_by_ms` at the latest.
    """

    epoch: UlidText
    commitment: Hex256
    kind: Text
    begin_ms: Count
    end_ms: Count
    reveal_by_ms: Count


class Counts(msgspec.Struct, frozen=True):
    """What became of the answers that an epoch's seed selected."""

    selected: Count = 0
    passed: Count = 0
    failed: Count = 0
    inconclusive: Count = 0


class RevealEntry(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """An epoch is over: its seed, from which everybody can tell who had to be audited."""

    epoch: UlidText
    seed: Hex256
    time_ms: Count
    counts: Counts = Counts()


class AuditEntry(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One answer, audited after it was released. `nonce` keeps the public leaf from confirming a guess.

    The numbers are those of the proof's record; `verdict` is `inconclusive` for whatever did not decide.
    """

    receipt_id: UlidText
    epoch: UlidText
    node: Text
    network: Text
    time_ms: Count
    nonce: Text
    kind: Text
    verdict: Literal["pass", "fail", "inconclusive"]
    reason: Code | None = None
    assurance: Text | None = None
    statistic: float | None = None
    threshold: float | None = None
    calibration_id: Hex256 | None = None
    reference_id: Text | None = None
    tokens: Count | None = None
    ms: Count | None = None


class Doubted(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The receipts of a node that a failed audit puts in doubt: those with log index in [first, last] that it served.

    They are those since the last one that passed. `receipt_ids` are the oldest of them, `count` is all.
    """

    first: Count
    last: Count
    count: Count
    receipt_ids: tuple[UlidText, ...]


class FailedAudit(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """The alarm of a failed audit: what was done about the node, and which earlier answers are in doubt."""

    alarm: Literal["audit_failed"]
    node: Text
    network: Text
    receipt_id: UlidText
    epoch: UlidText
    time_ms: Count
    nonce: Text
    reason: Code | None = None
    action: Literal["report", "quarantine"]
    doubted: Doubted
