"""Audits of released answers: chosen by the seed alone, entered whatever becomes of them, and with consequences."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from audit_kit import ANSWER, FAILED, PROMPT, Desk, auditor_module, policy, record

from gateway.auditing import Limits, Released, audited_by
from gateway.auditing import epochs as epochs_module
from gateway.errors import InternalError, LogUnavailable, VerirouteError
from gateway.model.receipt import AuditPart, PolicyRef, Sha256, Verifier
from gateway.model.verdict import Release
from gateway.storage.packing import Unpacker
from gateway.verify.proofs.evidence import ProofRecord, Verdict

Make = Callable[..., Desk]


def recomputed(path: str) -> dict[str, tuple[set[str], set[str]]]:
    """What an auditor works out with nothing but the database's envelopes: who had to be audited, and who was."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.create_function("unpacked", 1, Unpacker(database))
        rows = database.execute(
            "SELECT idx, unpacked(envelope), 'receipt' FROM receipt"
            " UNION ALL SELECT idx, unpacked(envelope), kind FROM record ORDER BY 1"
        ).fetchall()
    said = [(kind, json.loads(base64.b64decode(json.loads(e)["payload"]))["predicate"]) for _, e, kind in rows]
    committed = {p["epoch"]: p["commitment"] for kind, p in said if kind == "epoch"}
    seeds = {p["epoch"]: bytes.fromhex(p["seed"]) for kind, p in said if kind == "reveal"}
    found: dict[str, tuple[set[str], set[str]]] = {}
    for epoch, seed in seeds.items():
        assert hashlib.sha256(seed).hexdigest() == committed[epoch]
        due = set()
        for kind, p in said:
            if kind == "receipt" and p.get("audit", {}).get("epoch") == epoch and p["release"] == "released":
                draw = int.from_bytes(hashlib.sha256(seed + p["receiptId"].encode()).digest()[:8], "big")
                if draw < float(p["audit"]["rate"]) * 2**64:
                    due.add(p["receiptId"])
        found[epoch] = due, {p["receiptId"] for kind, p in said if kind == "audit" and p["epoch"] == epoch}
    return found


async def test_what_the_seed_selects_is_audited_and_nothing_else(desk: Make) -> None:
    """Commitment, receipts, audits, reveal, in this order; a recomputation that shares no code finds the same answers."""
    d = await desk(policy(rate=0.25)).start()
    ids = await d.answers(60)
    await d.audited()
    await d.stop()
    kinds = [found["is"] for found in d.entries("epoch", "receipt", "audit", "reveal")]
    assert (kinds[0], kinds[-1]) == ("epoch", "reveal")
    ((due, done),) = recomputed(d.path).values()
    assert due == done < set(ids)
    assert 3 <= len(due) <= 30
    assert d.outcomes() == [(step, "affirming") for step in ("commitment", "reveal", "selection", "audits")]
    (reveal,) = d.entries("reveal")
    assert reveal["counts"] == {"selected": len(due), "passed": len(due), "failed": 0, "inconclusive": 0}
    assert d.reader.open_epochs() == []
    assert d.quarantined == []


async def test_rates_of_several_policies_share_an_epoch(desk: Make) -> None:
    """Each answer is drawn at the rate that its receipt names; one whose policy samples nothing names no epoch."""
    every, some, none = policy(rate=1.0), policy(rate=0.3), policy(rate=0.0)
    d = await desk(every, some, none).start()
    for number, by in enumerate((every, some, none)):
        ref = PolicyRef("p", "veriroute:policy/p@1", Sha256(f"{number:064x}"))
        await d.answers(20, by=by, verifier=Verifier("urn:veriroute:verifier:0.1.0", (ref,)))
    await d.audited()
    await d.stop()
    ((due, done),) = recomputed(d.path).values()
    assert due == done
    rates = [found.get("audit", {}).get("rate") for found in d.entries("receipt")]
    assert (rates.count("1"), rates.count("0.3"), rates.count(None)) == (20, 20, 20)
    assert len(done) >= 21
    assert {outcome for _, outcome in d.outcomes()} == {"affirming"}


@pytest.mark.parametrize(
    ("rate", "text"), [(0.03, "0.03"), (1.0, "1"), (0.5, "0.5"), (1e-9, "0.000000001"), (0.1 + 0.2, "0.3")]
)
def test_rates_are_written_as_decimals(rate: float, text: str) -> None:
    """A rate is written with no more than nine places and no zeros behind them."""
    assert auditor_module.rate_text(rate) == text


async def test_without_sampling_nothing_is_opened(desk: Make) -> None:
    """Where no policy samples, the log gets no epoch and receipts name none."""
    d = await desk(policy(rate=0.0)).start()
    await d.answers(2)
    assert await d.auditor.terms(policy(rate=0.0)) is None
    await d.stop()
    assert d.entries("epoch", "reveal") == []


async def test_entries_hold_no_digest_that_could_be_guessed(desk: Make) -> None:
    """An audit's entry has what was measured, and neither the digests of the bodies nor those of artefacts."""
    d = await desk(policy(rate=1.0)).start()
    d.finds["m"] = FAILED
    await d.answer()
    await d.audited()
    await d.stop()
    (audit,) = d.entries("audit")
    assert (audit["verdict"], audit["reason"], audit["tokens"]) == ("fail", "margin_too_large", 64)
    assert (audit["statistic"], audit["threshold"], audit["referenceId"]) == (0.002, 0.01, "ref-1")
    text = json.dumps(d.entries("audit", "alarm", "epoch", "reveal"))
    for secret in (hashlib.sha256(PROMPT).hexdigest(), hashlib.sha256(ANSWER).hexdigest(), "cd" * 32):
        assert secret not in text
    assert len({found["nonce"] for found in d.entries("audit", "alarm")}) == 2


async def test_a_failed_audit_quarantines_and_puts_the_past_in_doubt(desk: Make) -> None:
    """The node is taken out of service, the alarm names what it served since its last pass, and lists say so."""
    d = await desk(policy(rate=1.0)).start()
    early = await d.answers(3)
    await d.audited()
    later = await d.answers(2, offer=False)
    await d.answers(2, "node-2")
    await d.audited()
    refused = await d.answer(release=Release.WITHHELD)
    d.finds["m"] = FAILED
    caught = await d.answer()
    await d.audited()
    (alarm,) = d.entries("alarm")
    assert d.quarantined == [("node-1", "audit_failed")]
    assert (alarm["alarm"], alarm["action"], alarm["node"], alarm["receiptId"]) == (
        *("audit_failed", "quarantine", "node-1"),
        caught,
    )
    assert alarm["doubted"]["receiptIds"] == [*later, caught]
    assert alarm["doubted"]["count"] == 3
    doubted = {row.id for row in d.reader.rows(limit=100) if row.doubted}
    assert doubted == {*later, caught}
    assert not {refused, *early} & doubted
    row = d.reader.row(caught)
    assert row is not None
    assert row.doubted
    d.finds.clear()
    after = await d.answer()
    await d.audited()
    assert not d.reader.rows(limit=1)[0].doubted
    assert d.reader.rows(limit=1)[0].id == after
    await d.stop()
    assert [outcome for _, outcome in d.outcomes()] == ["affirming", "affirming", "affirming", "warning"]


async def test_a_failed_audit_that_is_only_reported(desk: Make) -> None:
    """Under on_fail = report the node goes on serving; the alarm is raised, and doubt is marked all the same."""
    d = await desk(policy(rate=1.0, on_fail="report")).start()
    d.finds["m"] = FAILED
    first = await d.answer()
    await d.audited()
    second = await d.answer()
    await d.audited()
    await d.stop()
    assert d.quarantined == []
    assert [alarm["action"] for alarm in d.entries("alarm")] == ["report", "report"]
    assert d.entries("alarm")[1]["doubted"]["receiptIds"] == [first, second]
    assert d.outcomes()[-1] == ("audits", "warning")
    (summary,) = d.epochs().summaries()
    assert (summary.failed, len(summary.doubted)) == (2, 2)


async def _hangs(_: object) -> ProofRecord:
    await asyncio.sleep(60)
    raise AssertionError


async def _breaks(_: object) -> ProofRecord:
    raise RuntimeError("a defect")


async def _undecided(_: object) -> ProofRecord:
    return record(Verdict.INCONCLUSIVE, "too_few_tokens")


async def _absent(_: object) -> ProofRecord:
    return record(Verdict.ABSENT, "reference_unreachable")


@pytest.mark.parametrize(
    ("judge", "reason"),
    [
        (_hangs, "judge_timeout"),
        (_breaks, "judge_failed"),
        (_undecided, "too_few_tokens"),
        (_absent, "reference_unreachable"),
    ],
)
async def test_what_does_not_decide_is_entered_and_passes_nobody(desk: Make, judge: Any, reason: str) -> None:
    """A judge that hangs, breaks or does not decide gives an inconclusive entry; the epoch is then not affirmed."""
    d = await desk(policy(rate=1.0), limits=Limits(judge_s=0.02)).start()
    d.judge = judge
    await d.answer()
    await d.audited()
    await d.stop()
    assert d.verdicts() == [("inconclusive", reason)]
    assert d.quarantined == []
    assert d.outcomes()[-1] == ("audits", "none")


async def test_a_node_that_pads_its_answers_leaves_others_their_audits(desk: Make) -> None:
    """Of one node's answers so many bytes wait at most; another's find their place all the same."""
    size = len(PROMPT) + len(ANSWER)
    limits = Limits(bytes=3 * size, node_bytes=size)
    d = await desk(policy(rate=1.0, delay_min_s=0.5, delay_max_s=0.5), limits=limits).start()
    await d.answers(2)
    await d.answer(node="another")
    await d.audited()
    await d.stop()
    assert sorted(d.verdicts(), key=str) == [("inconclusive", "queue_full"), ("pass", None), ("pass", None)]


@pytest.mark.parametrize("limits", [Limits(waiting=1), Limits(bytes=len(PROMPT) + len(ANSWER))], ids=["count", "bytes"])
async def test_a_full_queue_says_so(desk: Make, limits: Limits) -> None:
    """What finds no place is entered as inconclusive at once, and what waits is audited in its time."""
    d = await desk(policy(rate=1.0, delay_min_s=0.5, delay_max_s=0.5), limits=limits).start()
    await d.answers(3)
    await d.audited()
    await d.answer()
    await d.audited()
    await d.stop()
    assert d.verdicts() == [*[("inconclusive", "queue_full")] * 2, ("pass", None), ("pass", None)]
    assert d.outcomes()[-1] == ("audits", "warning")


async def test_no_more_than_allowed_are_judged_at_once(desk: Make) -> None:
    """Audits whose time has come wait for one another."""
    d = await desk(policy(rate=1.0), limits=Limits(at_once=2)).start()
    running = most = 0

    async def judge(_: object) -> ProofRecord:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.03)
        running -= 1
        return record()

    d.judge = judge
    await d.answers(8)
    await d.audited()
    await d.stop()
    assert (most, len(d.verdicts())) == (2, 8)


async def test_delays_lie_within_the_bounds_and_differ(desk: Make) -> None:
    """The time of a replay is drawn between the policy's bounds."""
    drawn = [auditor_module._delay(policy(delay_min_s=60.0, delay_max_s=3600.0)) for _ in range(300)]
    assert 60 <= min(drawn) < 400
    assert 3200 < max(drawn) <= 3600
    assert len(set(drawn)) > 290


async def test_an_offer_never_raises(desk: Make, caplog: pytest.LogCaptureFixture) -> None:
    """An answer of an unknown epoch or with a rate that is none is let go; nothing is judged."""
    d = await desk(policy(rate=1.0)).start()
    here = await d.terms()
    for part in (AuditPart("0" * 26, "reexec", "1"), AuditPart(here.epoch, "reexec", "two")):
        d.auditor.offer(Released("0" * 26, "node-1", "aci", "m", d.policies[0], PROMPT, ANSWER, part))
    await d.audited()
    assert d.judged == []
    await d.stop()


async def test_a_stop_enters_what_was_pending(desk: Make) -> None:
    """Audits that wait when the gateway stops are entered as stopped, and the seed is revealed."""
    d = await desk(policy(rate=0.5, delay_min_s=600.0, delay_max_s=900.0)).start()
    await d.answers(20)
    await d.stop()
    ((due, done),) = recomputed(d.path).values()
    assert due == done
    assert due
    assert set(d.verdicts()) == {("inconclusive", "stopped")}
    assert d.outcomes() == [
        ("commitment", "affirming"), ("reveal", "affirming"), ("selection", "affirming"), ("audits", "none"),
    ]  # fmt: skip


async def test_the_start_after_a_crash_enters_what_was_lost(desk: Make) -> None:
    """Answers whose audits a crash took are entered as such by the next start, which reveals the seed."""
    d = await desk(policy(rate=0.5, delay_min_s=600.0, delay_max_s=900.0)).start()
    await d.answers(20)
    await d.answers(5, offer=False)  # released, and the crash came before they were offered
    (row,) = d.reader.open_epochs()
    await d.crash()
    assert d.outcomes()[1] == ("reveal", "warning")
    await d.start()
    assert [r.id for r in d.reader.open_epochs()] != [row.id]
    found = recomputed(d.path)
    assert [*found] == [row.id]
    assert found[row.id][0] == found[row.id][1]
    assert found[row.id][0]
    assert set(d.verdicts()) == {("inconclusive", "crash")}
    await d.stop()
    assert [o for _, o in d.outcomes(row.id)] == ["affirming", "affirming", "affirming", "none"]


async def test_a_seed_that_was_never_announced_is_forgotten(desk: Make) -> None:
    """A crash between storing a seed and logging its commitment leaves no entry; a reveal is not made twice."""
    d = await desk().start()
    await d.answers(3)
    await d.audited()
    (row,) = d.reader.open_epochs()
    await d.auditor.close()
    stranger = epochs_module.EpochRow("7" * 26, b"s" * 32, 0, 0, 1, 2)
    for again in (row, stranger):
        await d.submit(epochs_module.put_epoch(again))
    await d.crash()
    await d.start()
    assert [found["epoch"] for found in d.entries("reveal")] == [row.id]
    assert row.id not in {r.id for r in d.reader.open_epochs()}
    assert stranger.id not in {r.id for r in d.reader.open_epochs()}
    await d.stop()


async def test_a_failure_that_nobody_was_told_of_is_told_at_the_start(desk: Make) -> None:
    """A crash between a failed audit's entry and its alarm: the next start raises the alarm and marks the answers."""
    d = await desk(policy(rate=1.0)).start()
    d.finds["m"] = FAILED
    writes = d.event
    d.event = lambda kind, predicate: (  # type: ignore[method-assign]
        writes(kind, predicate) if kind != "alarm" else asyncio.get_running_loop().create_future()
    )
    caught = await d.answer()
    while not d.verdicts():
        await asyncio.sleep(0.001)
    await d.crash()
    assert d.entries("alarm") == []
    assert d.outcomes()[-1] == ("audits", "contraindicated")
    d.event = writes  # type: ignore[method-assign]
    await d.start()
    (alarm,) = d.entries("alarm")
    assert (alarm["receiptId"], alarm["doubted"]["receiptIds"]) == (caught, [caught])
    assert d.reader.rows(limit=1)[0].doubted
    await d.stop()


async def test_epochs_follow_one_another(desk: Make) -> None:
    """The first request after an epoch's end opens the next; one is revealed when no request of it can run any more."""
    d = await desk(policy(rate=1.0, epoch_s=100.0)).start()
    assert d.entries("epoch") == []
    first, again = await asyncio.gather(d.terms(), d.terms())
    assert first == again == await d.terms()
    await d.answer()
    d.clock += 100_000
    second = await d.terms()
    assert second != first
    assert len(d.entries("epoch")) == 2
    await d.answer(part=first)  # it began before the end, and is entered after it
    await d.answer()
    await d.audited()
    tick = d.auditor._epochs.tick
    await tick()
    assert d.entries("reveal") == []
    d.clock += 65_000
    await tick()
    assert [found["epoch"] for found in d.entries("reveal")] == [first.epoch]
    await d.stop()
    assert {outcome for _, outcome in d.outcomes()} == {"affirming"}
    assert all(due == done for due, done in recomputed(d.path).values())
    assert len(d.verdicts()) == 3


HOUR_MS = 3_600_000


async def test_a_clock_that_is_set_back_opens_no_second_epoch(desk: Make) -> None:
    """An epoch goes on for its length by a clock that nobody can set; one that is over takes no request again."""
    d = await desk(policy(rate=1.0, epoch_s=100.0)).start()
    first = await d.terms()
    d.set_clock(-HOUR_MS)
    assert await d.terms() == first
    await d.answer()
    d.clock += 100_000
    second = await d.terms()
    assert second != first
    await d.answer()
    d.set_clock(-HOUR_MS)
    assert await d.terms() == second
    await d.answer()
    await d.audited()
    assert len(d.entries("epoch")) == 2
    await d.stop()
    assert [found["epoch"] for found in d.entries("reveal")] == [first.epoch, second.epoch]
    assert {outcome for _, outcome in d.outcomes()} == {"affirming"}


async def test_a_clock_that_is_set_forward_reveals_nothing_under_way(desk: Make) -> None:
    """The epoch is over, and its requests have the time all the same that they had."""
    d = await desk(policy(rate=1.0, epoch_s=100.0)).start()
    first = await d.terms()
    d.set_clock(24 * HOUR_MS)
    await d.auditor._epochs.tick()
    assert await d.terms() != first
    d.clock += 64_000
    await d.auditor._epochs.tick()
    assert d.entries("reveal") == []
    await d.answer(part=first)
    await d.audited()
    d.clock += 1_000
    await d.auditor._epochs.tick()
    assert [found["epoch"] for found in d.entries("reveal")] == [first.epoch]
    await d.stop()
    assert {outcome for _, outcome in d.outcomes(first.epoch)} == {"affirming"}


async def test_a_request_that_is_given_up_leaves_its_epoch_to_others(desk: Make) -> None:
    """The commitment is on its way into the log when the agent goes: the next request falls under it, not another."""
    d = await desk(policy(rate=1.0)).start()
    gone = asyncio.create_task(d.terms())
    while d.auditor._epochs._opening is None or not d.reader.open_epochs():
        await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    part = await d.terms()
    assert [found["epoch"] for found in d.entries("epoch")] == [part.epoch]
    await d.stop()
    assert [found["epoch"] for found in d.entries("reveal")] == [part.epoch]


@pytest.mark.parametrize("error", [LogUnavailable("no answer"), InternalError("a defect")])
async def test_a_commitment_of_unknown_fate_is_settled_before_the_next(desk: Make, error: VerirouteError) -> None:
    """What the log may have got, though it said otherwise, is revealed and then another epoch begins."""
    d = await desk(policy(rate=1.0)).start()
    writes = d.event

    async def lies(kind: str, predicate: Any) -> Any:
        await writes(kind, predicate)
        raise error

    d.event = lies  # type: ignore[method-assign, assignment]
    with contextlib.suppress(InternalError):
        assert await d.auditor.terms(d.policies[0]) is None
    d.event = writes  # type: ignore[method-assign]
    part = await d.terms()
    kinds = [(found["is"], found["epoch"] == part.epoch) for found in d.entries("epoch", "reveal")]
    assert kinds == [("epoch", False), ("reveal", False), ("epoch", True)]
    await d.stop()
    assert len(d.entries("reveal")) == 2


async def test_a_reveal_that_is_under_way_at_the_stop_is_not_made_twice(desk: Make) -> None:
    """The run is ended while the log writes a reveal: the stop waits for that one."""
    d = await desk(policy(rate=1.0)).start()
    part = await d.terms()
    d.clock = d.entries("epoch")[0]["revealByMs"]
    writes, begun = d.event, asyncio.Event()

    async def later(kind: str, predicate: Any) -> Any:
        await asyncio.sleep(0.02)
        return await writes(kind, predicate)

    def slowly(kind: str, predicate: Any) -> Any:
        begun.set()
        return asyncio.shield(asyncio.create_task(later(kind, predicate)))  # who waits may go; the entry is written

    d.event = slowly  # type: ignore[method-assign]
    running = asyncio.create_task(d.auditor.run())
    await begun.wait()
    assert d.auditor._epochs.find(part.epoch) is None
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await d.auditor.close()
    d.event = writes  # type: ignore[method-assign]
    assert [found["epoch"] for found in d.entries("reveal")] == [part.epoch]
    await d.stop()


async def test_behind_a_stop_no_epoch_begins(desk: Make) -> None:
    """One that is being opened is waited for and revealed; a request that comes later falls under none."""
    d = await desk(policy(rate=1.0)).start()
    late = asyncio.create_task(d.auditor.terms(d.policies[0]))
    await asyncio.sleep(0)
    await d.auditor.close()
    assert await late is None
    assert await d.auditor.terms(d.policies[0]) is None
    assert len(d.entries("epoch")) == len(d.entries("reveal")) == 1
    assert d.reader.open_epochs() == []
    await d.stop()


async def test_an_epoch_waits_for_proofs_that_are_gathered_after_an_answer(desk: Make) -> None:
    """A request may run as long as its answer and its proofs together; revealed before, its epoch would seem broken."""
    d = await desk(policy("proof_zk", rate=1.0, epoch_s=100.0)).start()
    part = await d.terms()
    d.clock += 100_000 + 60_000 + 15_000  # the answer came at the last moment, and its proofs are being gathered
    await d.auditor._epochs.tick()
    await d.answer(part=part)
    await d.audited()
    await d.stop()
    assert d.outcomes() == [(step, "affirming") for step in ("commitment", "reveal", "selection", "audits")]


async def test_an_epoch_waits_for_its_audits_but_not_for_ever(desk: Make) -> None:
    """Audits under way hold the reveal back until the time that the epoch's entry promised; then they are late."""
    d = await desk(policy(rate=1.0, epoch_s=100.0, delay_min_s=500.0, delay_max_s=500.0)).start()
    await d.answer()
    (epoch,) = d.entries("epoch")
    d.clock = epoch["revealByMs"] - 1
    await d.auditor._epochs.tick()
    assert d.entries("reveal") == []
    d.clock += 1
    await d.auditor._epochs.tick()
    assert d.verdicts() == [("inconclusive", "late")]
    assert [found["epoch"] for found in d.entries("reveal")] == [epoch["epoch"]]
    await d.stop()


async def test_a_log_that_fails_is_waited_for(desk: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quarantine does not wait for the log; entries do, and none is lost when it takes them again."""
    monkeypatch.setattr(auditor_module, "RETRY_S", 0.005)
    d = await desk(policy(rate=1.0)).start()
    d.finds["m"] = FAILED
    await d.answer(offer=True)
    d.error = LogUnavailable("no disk")
    while not d.quarantined:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    assert d.entries("audit") == []
    d.error = None
    await d.audited()
    assert d.verdicts() == [("fail", "margin_too_large")]
    assert len(d.entries("alarm")) == 1
    await d.stop()


async def test_no_epoch_is_named_that_the_log_does_not_have(desk: Make) -> None:
    """While no epoch can be committed to none is named; as soon as the log takes it, one is."""
    d = await desk(policy(rate=1.0)).start()
    d.error = LogUnavailable("no disk")
    assert await d.auditor.terms(d.policies[0]) is None
    d.error = None
    part = await d.terms()
    assert [found["epoch"] for found in d.entries("epoch")] == [part.epoch]
    await d.stop()


@pytest.mark.parametrize("error", [LogUnavailable("no disk"), InternalError("a defect")])
async def test_reveals_wait_for_the_log(desk: Make, monkeypatch: pytest.MonkeyPatch, error: VerirouteError) -> None:
    """An epoch that is over is revealed as soon as the log takes that."""
    monkeypatch.setattr(epochs_module, "TICK_S", 0.002)
    d = await desk(policy(rate=1.0)).start()
    await d.answer()
    await d.audited()
    d.clock = d.entries("epoch")[0]["revealByMs"]
    d.error = error
    running = asyncio.create_task(d.auditor.run())
    await asyncio.sleep(0.02)
    assert d.entries("reveal") == []
    d.error = None
    while not d.entries("reveal"):
        await asyncio.sleep(0.002)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await d.stop()
    assert len(d.entries("reveal")) == 1


async def test_a_stop_without_a_log_keeps_the_seed(desk: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stop cannot reveal stays stored, and the next start reveals it."""
    d = await desk(policy(rate=1.0)).start()
    await d.answer()
    await d.audited()
    d.error = LogUnavailable("no disk")
    await d.auditor.close()
    assert len(d.reader.open_epochs()) == 1
    d.error = None
    await d.crash()
    await d.start()
    assert len(d.entries("reveal")) == 1
    await d.stop()
    assert d.verdicts() == [("pass", None)]


async def test_the_database_that_holds_seeds_is_its_owners_alone(desk: Make) -> None:
    """The seed lies in a file that nobody else can read, and in no entry of the log before its reveal."""
    d = await desk().start()
    await d.terms()
    (row,) = d.reader.open_epochs()
    files = [p for p in d.folder.iterdir() if p.name.startswith("log.db") and p.suffix != ".checkpoint"]
    assert files
    assert all(p.stat().st_mode & 0o077 == 0 for p in files)
    assert row.seed.hex() not in json.dumps(d.entries("epoch", "start"))
    await d.stop()


async def test_a_failed_audit_of_no_receipt_marks_nothing(desk: Make) -> None:
    """Without its receipt in the log there is no span to doubt: the failure is entered, and the epoch not affirmed."""
    d = await desk(policy(rate=1.0)).start()
    part = await d.terms()
    d.finds["m"] = FAILED
    stranger = d.mint()
    d.auditor.offer(Released(stranger, "node-1", "aci", "m", d.policies[0], PROMPT, ANSWER, part))
    await d.audited()
    await d.stop()
    assert d.quarantined == [("node-1", "audit_failed")]
    assert d.verdicts() == [("fail", "margin_too_large")]
    assert d.entries("alarm") == []
    assert [o for _, o in d.outcomes()] == ["affirming", "affirming", "contraindicated", "contraindicated"]


async def test_an_entry_that_never_can_be_written_does_not_end_the_rest(desk: Make) -> None:
    """A defect in writing one entry is told, and the next audit goes on; settling enters what is missing."""
    d = await desk(policy(rate=1.0)).start()
    await d.terms()
    writes = d.event
    d.event = _refuses  # type: ignore[method-assign]
    await d.answer()
    await d.audited()
    d.event = writes  # type: ignore[method-assign]
    await d.answer()
    await d.audited()
    await d.stop()
    assert d.verdicts() == [("pass", None), ("inconclusive", "stopped")]


def _refuses(kind: str, predicate: Any) -> Any:
    raise InternalError("a defect")


async def test_marks_wait_for_the_log_too(desk: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept beside the log is written as soon as that can be, though its entry was written at once."""
    monkeypatch.setattr(auditor_module, "RETRY_S", 0.002)
    d = await desk(policy(rate=1.0)).start()
    await d.terms()
    writes, refused = d.submit, 0

    def submit(job: Any) -> Any:
        nonlocal refused
        refused += 1
        if refused < 3:
            raise LogUnavailable("no disk")
        return writes(job)

    d.submit = submit  # type: ignore[method-assign]
    d.finds["m"] = FAILED
    caught = await d.answer()
    await d.audited()
    assert {row.id for row in d.reader.rows() if row.doubted} == {caught}
    assert refused == 3
    await d.stop()


@pytest.mark.parametrize("found", [FAILED, record()])
async def test_a_mark_that_a_crash_left_out_is_made_at_the_start(desk: Make, found: ProofRecord) -> None:
    """Between an entry and its mark the gateway dies: the next start makes the mark, from the entry alone."""
    d = await desk(policy(rate=1.0)).start()
    await d.terms()
    d.finds["m"], writes = found, d.submit
    d.submit = lambda job: asyncio.get_running_loop().create_future()  # type: ignore[method-assign]
    caught = await d.answer()
    while not d.entries("alarm" if found is FAILED else "audit"):
        await asyncio.sleep(0.001)
    await d.crash()
    d.submit = writes  # type: ignore[method-assign]
    assert stored_marks(d) == ([], [])
    await d.start()
    (audit,), alarms = d.entries("audit"), d.entries("alarm")
    assert (audit["receiptId"], len(alarms)) == (caught, int(found is FAILED))
    place = next(row.index for row in d.reader.rows() if row.id == caught)
    doubt = [(place, "node-1", alarm["doubted"]["first"], alarm["doubted"]["last"]) for alarm in alarms]
    assert stored_marks(d) == ([(place, "node-1", int(found is not FAILED))], doubt)
    assert [row.id for row in d.reader.rows() if row.doubted] == [caught] * len(alarms)
    await d.stop()


def stored_marks(d: Desk) -> tuple[list[Any], list[Any]]:
    """The rows of both tables."""
    with contextlib.closing(sqlite3.connect(d.path)) as database:
        return tuple(database.execute(f"SELECT * FROM {table}").fetchall() for table in ("audited", "doubt"))  # type: ignore[return-value]


async def test_settling_passes_over_what_cannot_be_read(desk: Make) -> None:
    """A receipt with a rate that is none, and an alarm of another kind, owe no audit; the others are settled."""
    d = await desk(policy(rate=1.0, delay_min_s=600.0, delay_max_s=600.0)).start()
    part = await d.terms()
    await d.answer(part=AuditPart(part.epoch, "reexec", "two"), offer=False)
    await d.event("alarm", {"alarm": "surplus_bytes", "epoch": part.epoch, "nonce": "n"})
    await d.answer()
    await d.stop()
    assert d.verdicts() == [("inconclusive", "stopped")]
    assert d.reader.doubtful_span("0" * 26, "node-1", 5) is None


async def test_a_stop_does_not_wait_for_ever(desk: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that never answers is given up on in bounded time, and the seed is kept for the next start."""
    monkeypatch.setattr(auditor_module, "STOP_S", 0.05)
    d = await desk(policy(rate=1.0)).start()
    await d.terms()
    d.event = lambda kind, predicate: asyncio.get_running_loop().create_future()  # type: ignore[method-assign]
    await d.auditor.close()
    assert len(d.reader.open_epochs()) == 1


async def test_the_judge_asks_for_re_execution_alone() -> None:
    """What gathers proofs is asked for one kind, and its one record is the judgement."""

    class Gathered:
        records = (FAILED,)

    class Gatherer:
        async def gather(self, kinds: frozenset[str], *given: object) -> Gathered:
            assert kinds == {"proof_reexec"}
            assert given == (by, "m", PROMPT, ANSWER)
            return Gathered()

    by = policy()
    assert await audited_by(Gatherer())(by, "m", PROMPT, ANSWER) is FAILED
