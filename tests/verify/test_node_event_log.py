"""The event log beside a node's TDX quote: replayed online as it is for a saved report, and what a policy can name of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from tee_worlds.dstack import Guest, Log, booted
from tee_worlds.intel import NOW, World
from tee_worlds.reports import NONCE, Keyset

from gateway.model.node import AttestedSession, Node
from gateway.model.tee import TeeResult
from gateway.model.verdict import Check, Outcome
from gateway.policy.build import with_test_roots
from gateway.policy.decide import decide
from gateway.policy.load import parse_policy
from gateway.verify import aci
from gateway.verify.appraise import appraise_node, attested_session
from gateway.verify.checks import Phase
from gateway.verify.node_evidence import read_evidence, verify_evidence
from gateway.verify.tee.kinds import kind_of
from gateway.verify.tee.rtmr import MAX_EVENTS, MAX_LOG_BYTES
from gateway.verify.tee.rules import TeeRules, judge, violations

W = World()
COLLATERAL = {"collateral": W.collateral()}
NODE = Node("n", "aci", "https://n.example", ("m",))
KEYSET = Keyset("5a" * 32)
DIGEST, BOUND, report = KEYSET.digest, KEYSET.bound, KEYSET.report
GUEST = Guest()
APPROVED = GUEST.hash.hex()
OTHER = hashlib.sha256(b"another document").digest()


def shown(guest: Guest = GUEST, **members: Any) -> dict[str, Any]:
    """The evidence of a guest; a member that is None is left out."""
    quote = W.quote(report_data=BOUND, rtmrs=guest.log.rtmrs(), mr_config_id=guest.mr_config_id)
    both = {"event_log": guest.log.json().decode(), "app_compose": guest.app_compose.decode()}
    evidence = {"platform": "tdx", "quote": quote.hex(), **both, **members}
    return {name: value for name, value in evidence.items() if value is not None}


def online(raw: bytes) -> TeeResult:
    item = read_evidence(aci.parse_report(raw))
    assert item is not None
    return verify_evidence(item, COLLATERAL, keyset_digest=DIGEST, nonce=NONCE, roots=W.roots, now=NOW)


def offline(raw: bytes) -> TeeResult:
    return kind_of("dstack").verify({"report": raw, **COLLATERAL}, {}, W.roots, NOW)


def session(raw: bytes, tee: TeeResult | None, problem: str | None = None) -> AttestedSession:
    result, read = appraise_node(NODE, raw, problem, NONCE, now=NOW, spki=b"\x5a" * 32, tls=True, tee=tee)
    assert read is not None
    return attested_session(
        NODE, read, result, evidence_digest="00", established=NOW, lifetime_s=60, tee=tee.claims if tee else None
    )


def found(raw: bytes) -> Check:
    """The check `event_log` of the session."""
    (check,) = [check for check in session(raw, online(raw)).checks if check.id == "event_log"]
    return check


def altered(change: Callable[[list[dict[str, Any]]], object], guest: Guest = GUEST) -> str:
    """The guest's log after `change` of its entries."""
    entries = json.loads(guest.log.json())
    change(entries)
    return json.dumps(entries)


def compose_event(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return next(entry for entry in entries if entry["event"] == "compose-hash")


#: What the log is -> reason. In those of B29 the registers still replay.
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "b29-type": (
        {"event_log": altered(lambda log: compose_event(log).update(event_type=4, event_payload=OTHER.hex()))},
        "event_relabelled",
    ),
    "b29-name": ({"event_log": altered(lambda log: compose_event(log).update(event="app-name"))}, "event_digest"),
    "b29-payload": (
        {"event_log": altered(lambda log: compose_event(log).update(event_payload=OTHER.hex()))},
        "event_digest",
    ),
    "b29-boot": ({"event_log": altered(lambda log: log[0].update(event="compose-hash"))}, "event_relabelled"),
    "other-registers": ({"event_log": Guest(b"{}").log.json().decode()}, "replay_mismatch"),
    "too-long": ({"event_log": " " * MAX_LOG_BYTES + "[]"}, "malformed"),
    "too-many": ({"event_log": json.dumps(json.loads(GUEST.log.json())[:1] * (MAX_EVENTS + 1))}, "malformed"),
    "no-json": ({"event_log": "[{"}, "malformed"),
    "number": ({"event_log": 7}, "malformed"),
    "other-document": ({"app_compose": "{}"}, "compose_mismatch"),
}


@pytest.mark.parametrize("row", WRONG)
def test_b29_a_log_that_is_not_what_was_measured(row: str) -> None:
    """The node is refused for its log, whatever policy requires; a saved report fails for the same reason."""
    members, reason = WRONG[row]
    raw = report(shown(**members))
    assert (found(raw).outcome, found(raw).reason) == (Outcome.CONTRAINDICATED, reason)
    assert reason in [check.reason for check in offline(raw).checks if check.outcome is Outcome.CONTRAINDICATED]
    refused = decide(session(raw, online(raw)), policy(), Phase.NODE)
    assert (refused.verdict, refused.permit, refused.reason) == (Outcome.CONTRAINDICATED, False, "event_log")


#: Logs that replay, of guests whose system measured in another way -> reason.
UNTOLD: dict[str, Guest] = {
    "system_not_ready": Guest(log=booted().runtime("compose-hash", GUEST.hash)),
    "event_twice": Guest(log=booted().runtime("os-image-hash", bytes(32)).system(GUEST.hash)),
    "event_name": Guest(log=booted().system(GUEST.hash).runtime("an:event")),
    "event_payload": Guest(log=booted().system(GUEST.hash, mr_kms=b"k")),
}


@pytest.mark.parametrize("reason", UNTOLD)
def test_a_log_that_does_not_tell_what_was_measured_is_worth_none(reason: str) -> None:
    """It may be true, so it is held against nobody; and nothing is taken from it, so whoever asks for it is not served."""
    raw = report(shown(UNTOLD[reason]))
    tee = online(raw)
    assert (found(raw).outcome, found(raw).reason) == (Outcome.NONE, reason)
    assert "compose_hash" not in tee.claims.measurements
    assert decide(session(raw, tee), policy(), Phase.NODE).permit
    missed = decide(session(raw, tee), policy(', "event_log"'), Phase.NODE)
    assert (missed.verdict, missed.permit, missed.missing) == (Outcome.NONE, False, ("event_log",))
    assert violations(judge(tee.claims, rules(APPROVED))) == ("measurement_unknown",)


def policy(require: str = "", tee: str = "") -> Any:
    """One that takes the test root and asks for no channel."""
    text = f'name = "p"\nversion = 1\n[require]\nall = ["evidence", "key_bound", "fresh"{require}]\n[tee]\n{tee}\n'
    read = parse_policy("p.toml", text.encode())
    return with_test_roots(read, W.roots.test_fingerprints)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"event_log": json.loads(GUEST.log.json())},
        {"event_log": json.dumps(GUEST.log.json().decode())},
        {"app_compose": None},
        *(members for members, _ in WRONG.values()),
    ],
)
def test_a_report_says_the_same_online_and_saved(members: dict[str, Any]) -> None:
    """Checks, measurements and what is kept of the guest are those of the kind `dstack` for the archived report."""
    raw = report(shown(**members))
    now, then = online(raw), offline(raw)
    assert now.checks == tuple(check for check in then.checks if check.id != "gpu_evidence")
    assert (now.claims.measurements, now.claims.raw) == (then.claims.measurements, then.claims.raw)


def test_a_log_elsewhere_in_a_report_is_looked_at_by_nobody() -> None:
    """What stands outside of the evidence no gateway saw, so it is not found in the archived report either."""
    document = json.loads(report(shown(event_log=None, app_compose=None)))
    log = GUEST.log.json().decode()
    raw = json.dumps({**document, "event_log": log, "tcb_info": {"app_compose": "{}"}}).encode()
    assert (found(raw).outcome, found(raw).reason) == (Outcome.NONE, "no_event_log")
    assert "no_event_log" in [check.reason for check in offline(raw).checks]
    assert "compose_hash" not in offline(raw).claims.measurements


def test_a_log_that_holds() -> None:
    """It is affirmed, and what the system measured is among the measurements."""
    raw = report(shown())
    tee = online(raw)
    assert (found(raw).outcome, session(raw, tee).outcome) == (Outcome.AFFIRMING, Outcome.AFFIRMING)
    assert tee.claims.measurements["compose_hash"] == APPROVED
    assert decide(session(raw, tee), policy(', "event_log"'), Phase.NODE).permit


def test_what_is_not_shown_is_missed_only_where_it_is_asked_for() -> None:
    """Without a log nothing is held against the node, and a policy that requires it or names what it holds refuses."""
    raw = report(shown(event_log=None))
    tee = online(raw)
    assert (found(raw).outcome, found(raw).reason) == (Outcome.NONE, "no_event_log")
    without = session(raw, tee)
    assert without.outcome is Outcome.AFFIRMING
    assert decide(without, policy(), Phase.NODE).permit
    missed = decide(without, policy(', "event_log"'), Phase.NODE)
    assert (missed.verdict, missed.permit, missed.missing) == (Outcome.NONE, False, ("event_log",))
    assert violations(judge(tee.claims, rules(APPROVED))) == ("measurement_unknown",)
    unread = session(raw, None, "collateral_unavailable")
    assert [check.reason for check in unread.checks if check.id == "event_log"] == ["no_evidence"]


def test_registers_without_boot_entries_are_a_warning() -> None:
    """A log of RTMR3 alone says what it says, and not how the machine started."""
    guest = Guest()
    raw = report(shown(guest, event_log=altered(lambda log: log.__delitem__(slice(0, 4)), guest)))
    assert (found(raw).outcome, found(raw).reason) == (Outcome.WARNING, "boot_log_missing")


def test_other_platforms_have_no_log() -> None:
    """Beside other evidence it can be held against nothing, so it is not read and the check is not listed."""
    raw = report({"platform": "software", "event_log": "[{"})
    assert "event_log" not in {check.id for check in session(raw, None).checks}
    item = read_evidence(aci.parse_report(report({"platform": "snp", "report": "00", "event_log": "[{"}, "sev-snp")))
    assert item is not None
    assert item.event_log is None


def rules(compose: str) -> TeeRules:
    """A system that is known, running the document of that hash."""
    known = {name: online(report(shown())).claims.measurements[name] for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2")}
    return TeeRules(test_roots="allow", measurements=({**known, "compose_hash": compose},))


@pytest.mark.parametrize(
    ("measured", "repeated", "refused"),
    [
        (GUEST.hash, None, ()),
        (GUEST.hash, OTHER, ()),
        (OTHER, GUEST.hash, ("measurement",)),
        (OTHER, None, ("measurement",)),
    ],
)
def test_b30_the_measured_event_counts(measured: bytes, repeated: bytes | None, refused: tuple[str, ...]) -> None:
    """What an application writes after `system-ready`, under whatever name, approves nothing and disproves nothing."""
    log: Log = booted().system(measured)
    if repeated is not None:
        log.runtime("compose-hash", repeated)
    guest = Guest(log=log)
    guest.mr_config_id = bytes(48)  # which is legal: then the log alone says what runs
    tee = online(report(shown(guest, app_compose=None)))
    assert tee.claims.authentic
    assert tee.claims.measurements["compose_hash"] == measured.hex()
    assert violations(judge(tee.claims, rules(APPROVED))) == refused
