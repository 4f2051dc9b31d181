"""How `veriroute appraise` shows one item to a person: what was asked, what was found, and what to do next."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterable, Mapping, Sequence

from gateway.model.tee import TeeClaims, TeeResult
from gateway.model.verdict import Check, Outcome
from gateway.text import plain
from gateway.verify.tee.findings import MANDATORY
from gateway.verify.tee.kinds import BEHIND
from gateway.verify.tee.rules import RULES

from .terminal import mark

_INDENT = " " * 21
#: Long values are broken into lines of so many characters: a digest of 32 bytes is one.
_WIDTH = 64
#: Reasons of checks that were not made because nobody asked, or because another one did not hold: one line for all.
_QUIET = frozenset(("not_asked", "not_reached", "quote_not_authentic", "log_not_bound", "compose_not_bound"))

#: Reason -> what whoever reads it can do.
NEXT: Mapping[str, str] = {
    "no_collateral": "Give Intel's documents for this platform with --collateral FILE: one JSON object with TCB info, "
    "QE identity, revocation lists and their chains. docs/verification.md names where they come from.",
    "cert_expired_or_not_yet_valid": "Archived evidence holds only near its own time: give that time with --now.",
    "tcb_expired": "The collateral is of another time: fetch it anew, or give its own time with --now.",
    "qe_expired": "The collateral is of another time: fetch it anew, or give its own time with --now.",
    "crl_expired": "The revocation list is of another time: fetch it anew, or give its own time with --now.",
    "nitro_stale": "Archived evidence holds only near its own time: give that time with --now.",
    "nitro_untrusted_root": "The chain ends in a root that is not Amazon's. --trust-test-root FILE is for your tests.",
    "chain_untrusted_root": "The chain ends in a root that is not the vendor's. --trust-test-root is for your tests.",
    "jwt_unknown_kid": "The key that signed this token is not in the key set: give the set of the token's own day.",
    "quote_trailing_bytes": "Nobody signed what follows the quote. Ask whoever served it for the quote alone.",
    "test_root": "A test root proves nothing outside a test.",
    "unbound": "Nothing that was given is what the evidence commits to: name your key or nonce, and the right rule.",
    "mismatch": "The evidence is genuine and speaks for another key or nonce than yours: do not rely on it.",
    "tcb_status": "The vendor does not take the platform's firmware as current: its operator has to update it.",
    "debug": "A host can read the memory of an environment in debug mode.",
    "image_by_tag": "Whoever publishes behind that tag decides what runs: the operator must name images by digest.",
}
_NOT_TIED = "For whom it speaks was not asked: --bind RULE holds it to your key, nonce or connection."


def human(title: str, result: TeeResult, ruled: Sequence[Check], bad: Sequence[str]) -> list[str]:
    """The lines for one item. `ruled` are the policy's checks, `bad` the reasons why it is refused."""
    claims = result.claims
    rows = [f"{title}: {claims.platform.value} {plain(claims.product or '', 80)}".rstrip()]
    rows += [f"  sha256  {claims.evidence_sha256}", f"  at      {instant(claims.evaluated_at)}"]
    rows += [f"  root    {_root(claims)}", "", "Is it genuine?"]
    rows += check_rows([check for check in result.checks if check.id not in BEHIND], MANDATORY)
    if behind := [check for check in result.checks if check.id in BEHIND]:
        rows += ["", "What runs there, and what belongs to it?", *check_rows(behind, BEHIND)]
    rows += ["", "Is it acceptable?", *check_rows(ruled, RULES)]
    if claims.authentic:
        rows += ["", "What it states:"]
        rows += [row for name, value in _facts(claims) for row in _fact(name, value)]
    return [*rows, "", *_verdict(claims, bad), *_hints(result, ruled)]


def check_rows(checks: Iterable[Check], titles: Mapping[str, str]) -> list[str]:
    """A row for each check, and one for all those that nobody asked for or that were not reached."""
    shown, quiet = [], dict[str, list[str]]()
    for check in checks:
        if check.outcome is Outcome.NONE and check.reason in _QUIET and not _says_more(check):
            quiet.setdefault(str(check.reason), []).append(check.id.removeprefix("tee_"))
        else:
            shown.append(_row(check, titles))
    for reason, ids in quiet.items():
        first, *rest = _wrapped(f"{reason.replace('_', ' ')}: {', '.join(ids)}")
        shown.append(f"  {mark(Outcome.NONE, sys.stdout)}  {first}")
        shown += [f"{_INDENT}{line.strip()}" for line in rest]
    return shown


def _says_more(check: Check) -> bool:
    """A rule that was not asked for and found something worth a line: who holds the machine, which advisories."""
    return check.id in ("tee_advisories", "tee_binding") and check.found not in (None, "none")


def _row(check: Check, titles: Mapping[str, str]) -> str:
    about = titles.get(check.id, check.id)
    reason = f" [{check.reason}]" if check.reason else ""
    rows = [f"  {mark(check.outcome, sys.stdout)}  {plain(about + reason, 200)}"]
    for label, text in (("found", check.found), ("expected", check.expected)):
        if text and not (label == "expected" and text == check.found):
            rows += [f"{_INDENT}{line}" for line in _wrapped(f"{label} {plain(text, 300)}")]
    return "\n".join(rows)


def _wrapped(text: str) -> list[str]:
    """`text` in lines of about a terminal's width, broken at spaces; what follows the first is indented."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > 96:
            lines.append("  " + word)
        else:
            lines[-1] += f" {word}" if lines[-1] else word
    return lines


def _fact(name: str, value: str) -> list[str]:
    if " " in value:
        pieces = [line.strip() for line in _wrapped(value)]
    else:
        pieces = [value[at : at + _WIDTH] for at in range(0, len(value), _WIDTH)]
    return [f"  {name if at == 0 else '':<22}{piece}" for at, piece in enumerate(pieces)]


def _root(claims: TeeClaims) -> str:
    if claims.root is None:
        return "none reached"
    return f"root=TEST ({plain(claims.root.name, 80)})" if claims.root.test else plain(claims.root.name, 80)


def _facts(claims: TeeClaims) -> Iterable[tuple[str, str]]:
    yield "tcb status", claims.tcb_status.value if claims.tcb_status else "unknown"
    yield "debug", {None: "unknown", True: "ON", False: "off"}[claims.debug]
    for name, value in claims.flags.items():
        yield name, str(value).lower()
    for name, text in claims.measurements.items():
        if text.strip("0"):
            yield name, text
    if zero := [name for name, text in claims.measurements.items() if not text.strip("0")]:
        yield "all zero", ", ".join(zero)
    labelled = (("report data", claims.report_data), ("nonce", claims.nonce), ("machine", claims.machine_id))
    for label, value in labelled:
        if value:
            yield label, plain(value, 300)
    yield "binding", _bound(claims)
    yield "freshness", _freshness(claims)
    yield "host", claims.host_trust.value
    for advisory in claims.advisory_ids:
        yield "advisory", plain(advisory, 80)
    for child in claims.children:
        parts = child.children or (child,)
        yield "accelerators", f"{len(parts)}, {'genuine' if child.authentic else f'refused: {child.reject_code}'}"


def _bound(claims: TeeClaims) -> str:
    binding = claims.binding
    why = f": {plain(binding.detail, 120)}" if binding.detail else ""
    return f"{binding.status.value} {f'by {binding.kind}' if binding.kind else ''}".rstrip() + why


def _freshness(claims: TeeClaims) -> str:
    age = claims.freshness.age_s
    return claims.freshness.kind.value + ("" if age is None else f", {age:.0f} s old")


def _verdict(claims: TeeClaims, bad: Sequence[str]) -> list[str]:
    if not bad:
        return ["genuine, and nothing that was asked speaks against it (exit 0)"]
    why = f": {claims.reject_code}" if claims.reject_code else ""
    return [f"{'genuine, and ' if claims.authentic else ''}refused: {', '.join(bad)}{why} (exit 1)"]


def _hints(result: TeeResult, ruled: Sequence[Check]) -> list[str]:
    reasons = [c.reason for c in (*result.checks, *ruled) if c.outcome is Outcome.CONTRAINDICATED]
    reasons.append(result.claims.reject_code)
    hints = list(dict.fromkeys(NEXT[reason] for reason in reasons if reason in NEXT))
    if result.claims.authentic and result.claims.binding.kind is None and "unbound" not in reasons:
        hints.append(_NOT_TIED)
    return [f"  {line}" for hint in hints for line in _wrapped(f"→ {hint}")]


def instant(at: float) -> str:
    """A time in Unix seconds as RFC 3339."""
    try:
        return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{at:.0f} s"
