"""Checking a bundle here: `gateway.offline` over the stored bytes, its lines given their places in the tree.

No step is re-implemented. What this adds is the comparison that only a reader of *lists* can make: that the bundle is
the receipt that was asked for, and that the list said of it what its signed receipt says.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from gateway.errors import ConfigError, FormatError
from gateway.log.bundle import Bundle, parse_bundle
from gateway.log.trust import TrustPolicy, parse_trust
from gateway.model.admin import Row
from gateway.model.line import RECORDED
from gateway.model.receipt import Statement
from gateway.model.verdict import Outcome
from gateway.offline import Line as Step
from gateway.offline import exit_code, recorded, verify_bundle
from gateway.offline.reappraise import reappraise

from .chain import HERE, Line


class Pins(msgspec.Struct, frozen=True):
    """The reader's own trust roots: `trust` None means that only the keys inside a bundle are at hand."""

    trust: TrustPolicy | None = None
    path: str | None = None


class Findings(msgspec.Struct, kw_only=True):
    """What checking a bundle here found. `error` says why nothing could be checked.

    `differs` are the sentences that the screen shouts: where the stored bytes do not bear out what was claimed.
    `keys` names the reader's trust file, None when the keys came with the bundle. `holds` is True only when every line
    that counts is affirming; None when something could not be decided.
    """

    steps: tuple[Step, ...] = ()
    bundle: Bundle | None = None
    statement: Statement | None = None
    took_ms: float = 0.0
    holds: bool | None = None
    keys: str | None = None
    differs: tuple[str, ...] = ()
    error: str | None = None


def load_pins(path: str | None) -> Pins:
    """Read a trust file; ConfigError when it cannot be read or is none."""
    if path is None:
        return Pins()
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the trust file {path} cannot be read: {error}") from error
    try:
        return Pins(parse_trust(text), path)
    except FormatError as error:
        raise ConfigError(f"the trust file {path} is malformed: {error}") from error


def reverify(data: bytes, row: Row, pins: Pins, now: float) -> Findings:
    """Check the bundle `data`, which was given out as the receipt of `row`. Total; runs some tens of milliseconds."""
    start = time.perf_counter()
    try:
        bundle = parse_bundle(data)
    except FormatError as error:
        return Findings(error=f"the bundle cannot be read: {error}", holds=False)
    steps = tuple(verify_bundle(bundle, pins.trust, now=now, reappraise=reappraise))
    statement = recorded(bundle)
    took = (time.perf_counter() - start) * 1000
    code = exit_code(steps, authenticity_only=True)
    differs = (*_contradictions(row, statement), *_broken(steps))
    return Findings(
        steps=steps,
        bundle=bundle,
        statement=statement,
        took_ms=took,
        holds=False if differs or code == 1 else (True if code == 0 else None),
        keys=pins.path if pins.trust is not None else None,
        differs=differs,
    )


def step_lines(findings: Findings) -> dict[str, list[Line]]:
    """The lines of the check, by the branch of the tree that each belongs under."""
    placed: dict[str, list[Line]] = {}
    for step in findings.steps:
        if step.step not in RECORDED:  # the root of the tree says it, and the branch `evidence` below the answer
            placed.setdefault(_branch(step), []).append(_step_line(step))
    return placed


_BRANCHES = {"policy": "policy", "session": "node", "appraisal": "response", "intent": "request"}


def _branch(step: Step) -> str:
    if step.step == "opening":
        return "request" if (step.about or "").startswith("request") else "response"
    if step.step == "evidence":
        return "response" if step.about == "aci-receipt" else "node"
    return _BRANCHES.get(step.step, "receipt")


def _step_line(step: Step) -> Line:
    silent = step.outcome is Outcome.NONE and not step.claimed
    about = f" {step.about}" if step.about else ""
    facts = [(name, value) for name, value in (("about", step.about), ("detail", step.detail)) if value]
    return Line(
        key=f"{step.step}{about}",
        text=step.sentence,
        outcome=None if silent else step.outcome,
        told=HERE,
        title=TITLES.get(step.step, step.step),
        facts=[("step", step.step), *facts],
        words=[step.sentence, *([MEANINGS[step.step]] if step.step in MEANINGS else [])],
        copy=step.detail,
    )


def _contradictions(row: Row, statement: Statement | None) -> list[str]:
    """Where the list and the signed receipt disagree."""
    if statement is None:
        return []
    receipt = statement.predicate
    said = [
        ("receipt", row.id, receipt.receipt_id),
        ("verdict", row.verdict, receipt.verdict.value),
        ("release", row.release, receipt.release.value),
        ("reason", row.reason, receipt.reason),
        ("agent's key", row.key_id, receipt.caller.key_id),
        ("node", row.node, receipt.served.node if receipt.served else row.node),
        ("endpoint", row.endpoint, receipt.request.endpoint),
    ]
    return [
        f"the list says {name} {ours}, the signed receipt {theirs}" for name, ours, theirs in said if ours != theirs
    ]


def _broken(steps: Sequence[Step]) -> list[str]:
    return [
        f"{step.step}: {step.sentence}"
        for step in steps
        if step.outcome is Outcome.CONTRAINDICATED and step.step not in RECORDED
    ]


TITLES = {
    "trust": "Where the keys come from that everything below is checked with",
    "signature": "A trusted receipt key signed exactly this receipt",
    "checkpoint": "A trusted log key signed the head of the tree",
    "inclusion": "The leaf of exactly this receipt is in that tree",
    "witnessed": "Independent witnesses saw the same tree",
    "format": "The signed bytes are a receipt, and name this log",
    "time": "The receipt was made at a time that makes sense",
    "opening": "The payload kept in the bundle is the one the receipt commits to",
    "evidence": "The evidence kept in the bundle is the one the receipt names",
    "policy": "The policy file kept in the bundle is the one that was in force",
    "session": "The attested session is the one the answer came through",
    "intent": "That the prompt would leave was logged before it left",
    "appraisal": "The evidence, judged again here, gives what was recorded",
    "completeness": "Every check is listed, and none contradicts the verdict",
}
MEANINGS = {
    "trust": "Keys that come with a bundle were chosen by whoever made it. Start with --trust FILE, holding keys that"
    " you had from elsewhere, and this line becomes yours.",
    "signature": "If it fails, the receipt was changed after it was signed, or somebody else signed it.",
    "checkpoint": "If it fails, the tree head was not made by the log that you trust.",
    "inclusion": "If it fails, this receipt is not in the log: it may have been made up, or removed later.",
    "witnessed": "Without witnesses, a log could show different trees to different people. One signature cannot tell.",
    "format": "If it fails, the bytes were signed for another purpose, or for another log.",
    "time": "If it fails, one of the clocks is wrong, or the receipt was dated to fit.",
    "opening": "If it fails, this is not the request or answer that the exchange was about.",
    "evidence": "If it fails, this is not what the node showed at the time.",
    "policy": "If it fails, the answer was judged by other rules than those in this file.",
    "session": "If it fails, the appraisal of the node that stands here is of another channel.",
    "intent": "Without it, a crash could hide that a prompt left.",
    "appraisal": "If it fails, the gateway recorded an outcome that its own evidence does not give.",
    "completeness": "If it fails, a check was left out or says something else than the verdict.",
}
