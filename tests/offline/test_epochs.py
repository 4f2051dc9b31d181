"""Sampled audits recomputed from a log: what a gateway could do wrong with them is named, each by its step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from receipt_world import T0_MS, World

from gateway.auditing import Limits
from gateway.log.audit_rows import StoredRow
from gateway.log.dsse import wrap
from gateway.log.receipt import event_statement, leaf
from gateway.model.audits import (
    MAX_EPOCH_MS,
    MAX_REVEAL_MS,
    AuditEntry,
    Doubted,
    EpochEntry,
    FailedAudit,
    RevealEntry,
)
from gateway.model.line import exit_code
from gateway.model.receipt import PAYLOAD_TYPE, AuditPart, LogRef, PolicyRef, Receipt, Sha256, Timings, instant
from gateway.model.ulid import encode
from gateway.model.verdict import Release
from gateway.offline.epochs import STEPS, Epochs
from gateway.policy.schema import BY_PATH
from gateway.verify.proofs.sampling import commitment, parse_rate, selected

SEED = hashlib.sha256(b"an epoch").digest()
EPOCH = encode(1 << 90)
OTHER = encode(1 << 91)
END = T0_MS + 3_600_000
REVEAL_BY = END + 600_000
GOOD = dict.fromkeys(STEPS, "affirming")
NOTHING_YET = {"selection": "none", "audits": "none"}


class Log:
    """The rows of a log, as they are told."""

    def __init__(self) -> None:
        self.world = World()
        self.rows: list[StoredRow] = []
        self.number = 0

    def add(self, kind: str, predicate: Any) -> Log:
        return self._row(kind, self.world.add(kind, event_statement(kind, None, msgspec.to_builtins(predicate))))

    def _row(self, kind: str, place: int) -> Log:
        envelope = self.world.envelopes[place]
        self.rows.append(StoredRow(place, b"", self.world.leaves[place], kind, None, envelope, None, None, None, None))
        return self

    def epoch(self, seed: bytes = SEED, epoch: str = EPOCH, **times: int) -> Log:
        begin = times.get("begin_ms", T0_MS)
        entry = EpochEntry(
            epoch=epoch,
            commitment=commitment(seed),
            kind="reexec",
            begin_ms=begin,
            end_ms=times.get("end_ms", begin + 3_600_000),
            reveal_by_ms=times.get("reveal_by_ms", begin + 4_200_000),
        )
        return self.add("epoch", entry)

    def reveal(self, seed: bytes = SEED, epoch: str = EPOCH) -> Log:
        return self.add("reveal", RevealEntry(epoch=epoch, seed=seed.hex(), time_ms=END))

    def receipt(self, wanted: bool | None = None, *, rate: str = "0.5", intent: bool = False, **changes: Any) -> str:
        """A receipt under the epoch, whose id the seed selects or not, as wanted; its id."""
        self.number += 1
        while wanted is not None and selected(SEED, self._id(), parse_rate(rate)) is not wanted:
            self.number += 1
        predicate = self.made(rate, **changes)
        if intent:
            self._row("intent", self.world.add_intent(predicate))
        self._row("receipt", self.world.add_receipt(predicate))
        return predicate.receipt_id

    def made(self, rate: str, *, policy: str = "0", at_ms: int = T0_MS, **changes: Any) -> Receipt:
        """A predicate; `policy` is a digit of its digest, and it was received `at_ms`."""
        ref = PolicyRef("p", "veriroute:policy/p@1", Sha256(policy * 64))
        made = self.world.predicate(self.number, **{"audit": AuditPart(EPOCH, "reexec", rate), **changes})
        return msgspec.structs.replace(
            made,
            verifier=msgspec.structs.replace(made.verifier, policies=(ref,)),
            timings=msgspec.structs.replace(made.timings, received=instant(at_ms)),
        )

    def under(self, epoch: str, at_ms: int = T0_MS, **options: Any) -> str:
        """A receipt under `epoch` that needs no audit, received `at_ms`."""
        return self.receipt(False, audit=AuditPart(epoch, "reexec", "0.5"), at_ms=at_ms, **options)

    def _id(self) -> str:
        return encode((T0_MS << 80) + self.number)

    def audit(self, receipt_id: str, verdict: str = "pass", reason: str | None = None, node: str = "node-1") -> Log:
        entry = AuditEntry(
            receipt_id=receipt_id,
            epoch=EPOCH,
            node=node,
            network="aci",
            time_ms=T0_MS,
            nonce="n",
            kind="reexec",
            verdict=verdict,  # type: ignore[arg-type]
            reason=reason,
        )
        return self.add("audit", entry)

    def alarm(self, receipt_id: str) -> Log:
        entry = FailedAudit(
            alarm="audit_failed",
            node="node-1",
            network="aci",
            receipt_id=receipt_id,
            epoch=EPOCH,
            time_ms=T0_MS,
            nonce="n",
            action="quarantine",
            doubted=Doubted(first=0, last=9, count=4, receipt_ids=()),
        )
        return self.add("alarm", entry)

    def event(self, kind: str) -> Log:
        return self.add(kind, {"nonce": str(len(self.rows))})

    def judged(self, now_ms: int = T0_MS) -> Epochs:
        epochs = Epochs()
        for row in self.rows:
            epochs.take(row)
        return epochs

    def outcomes(self, now_ms: int = T0_MS) -> dict[str, str]:
        return {line.step: line.outcome.value for line in self.judged().lines(now_ms)}

    def sentence(self, step: str, now_ms: int = T0_MS) -> str:
        return next(line.sentence for line in self.judged().lines(now_ms) if line.step == step)


def good() -> tuple[Log, str, str]:
    """A log with one selected answer and one that is not; the epoch is not revealed yet. Their ids."""
    log = Log().event("start").epoch()
    due, free = log.receipt(True, intent=True), log.receipt(False)
    log.receipt(True, release=Release.WITHHELD)
    log.receipt(True, audit=None)
    return log, due, free


def test_a_kept_epoch_affirms_every_step() -> None:
    """Only released answers that name the epoch and that the seed selects had to be audited."""
    log, due, _ = good()
    log.audit(due).reveal().event("stop")
    assert log.outcomes() == GOOD
    assert exit_code(log.judged().lines(T0_MS)) == 0
    (summary,) = log.judged().summaries(EPOCH)
    assert (summary.epoch, summary.receipts, summary.selected, summary.audited) == (EPOCH, 3, 1, 1)
    assert (summary.passed, summary.failed, summary.undecided) == (1, 0, {})
    assert (summary.commitment, summary.seed) == (commitment(SEED), SEED.hex())
    assert (summary.begin, summary.end) == ("2025-11-24T16:00:00.000Z", "2025-11-24T17:00:00.000Z")
    assert log.judged().ids() == [EPOCH]
    assert log.judged().lines(T0_MS, OTHER) == log.judged().summaries(OTHER) == []


def _missing(log: Log, due: str, free: str) -> None:
    log.reveal()


def _extra(log: Log, due: str, free: str) -> None:
    log.audit(due).audit(free).reveal()


def _foreign(log: Log, due: str, free: str) -> None:
    log.audit(due).audit(encode(5)).reveal()


def _after(log: Log, due: str, free: str) -> None:
    log.reveal().audit(due)


def _twice_logged(log: Log, due: str, free: str) -> None:
    log._row("receipt", next(r.place for r in log.rows if r.kind == "receipt"))
    log.audit(due).reveal()


def _twice(log: Log, due: str, free: str) -> None:
    log.audit(due, "fail", "margin_too_large").audit(due).alarm(due).reveal()


def _silent(log: Log, due: str, free: str) -> None:
    log.audit(due, "fail", "margin_too_large").reveal()


def _other_node(log: Log, due: str, free: str) -> None:
    log.audit(due, node="node-9").reveal()


def _other_seed(log: Log, due: str, free: str) -> None:
    log.audit(due).reveal(b"x" * 32)


def _revealed_twice(log: Log, due: str, free: str) -> None:
    log.audit(due).reveal().reveal(b"x" * 32)


def _used_after(log: Log, due: str, free: str) -> None:
    log.audit(due).reveal()
    log.receipt(False)


def _announced_twice(log: Log, due: str, free: str) -> None:
    log.epoch(b"x" * 32).audit(due).reveal()


def _never(log: Log, due: str, free: str) -> None:
    log.audit(due).event("stop")


def _never_and_on(log: Log, due: str, free: str) -> None:
    log.audit(due).event("start")


@pytest.mark.parametrize(
    ("act", "step", "words"),
    [
        (_missing, "selection", "1 MISSING"),
        (_extra, "selection", "1 extra"),
        (_foreign, "selection", "1 foreign"),
        (_after, "selection", "after the seed was revealed"),
        (_twice_logged, "selection", "twice"),
        (_twice, "audits", "a second time"),
        (_silent, "audits", "raised no alarm"),
        (_other_node, "audits", "did not answer it"),
        (_other_seed, "reveal", "not the one that was logged"),
        (_revealed_twice, "reveal", "a second time"),
        (_used_after, "reveal", "was taken under a revealed seed"),
        (_announced_twice, "commitment", "a second time"),
        (_never, "reveal", "never revealed"),
        (_never_and_on, "reveal", "never revealed"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else None,
)
def test_each_breach_is_named_by_its_step(act: Callable[[Log, str, str], None], step: str, words: str) -> None:
    """A gateway that audits others than the seed selects, hides a failure or moves a seed is contraindicated."""
    log, due, free = good()
    act(log, due, free)
    assert log.outcomes()[step] == "contraindicated"
    assert words in log.sentence(step)
    assert exit_code(log.judged().lines(T0_MS)) == 1


@pytest.mark.parametrize("intent", [True, False])
def test_a_commitment_has_to_come_first(intent: bool) -> None:
    """A request that was announced or answered before the commitment was logged is named; so is a missing one."""
    log = Log()
    place = log.receipt(True, intent=intent)
    log.epoch().audit(place).reveal()
    assert log.outcomes()["commitment"] == "contraindicated"
    assert "before its commitment" in log.sentence("commitment")
    bare = Log()
    bare.audit(bare.receipt(True)).reveal()
    assert bare.outcomes() == {
        "commitment": "contraindicated",
        "reveal": "affirming",
        "selection": "none",
        "audits": "affirming",
    }
    assert (bare.judged().summaries()[0].begin, bare.judged().summaries()[0].commitment) == (None, None)
    alone = Log()
    alone.receipt(True)
    assert alone.outcomes()["reveal"] == "contraindicated"
    late = Log().reveal(b"x" * 32).epoch()
    assert late.outcomes()["commitment"] == "contraindicated"
    assert "was revealed before" in late.sentence("commitment")


def test_a_running_epoch_is_no_breach_until_its_time_is_over() -> None:
    """Of the present run an epoch may be unrevealed until the time that its entry promised."""
    log, due, _ = good()
    log.audit(due)
    assert log.outcomes(REVEAL_BY) == {**GOOD, "reveal": "warning", "selection": "none"}
    assert exit_code(log.judged().lines(REVEAL_BY)) == 0
    assert log.outcomes(REVEAL_BY + 1)["reveal"] == "contraindicated"
    far = Log().add(
        "epoch",
        EpochEntry(epoch=EPOCH, commitment="0" * 64, kind="reexec", begin_ms=0, end_ms=2**53, reveal_by_ms=2**53),
    )
    assert far.outcomes() == {**GOOD, "commitment": "contraindicated", "reveal": "warning", **NOTHING_YET}
    assert far.judged().summaries()[0].end == f"{2**53} ms"


def test_answers_that_the_log_could_not_take_in_time_are_a_warning() -> None:
    """A receipt that says it was entered late may follow the reveal; it is counted."""
    log, due, _ = good()
    log.audit(due).reveal()
    log.receipt(True, log=LogRef("x", backfilled=True))
    assert log.outcomes() == {**GOOD, "reveal": "warning"}
    assert "1 answers were entered late" in log.sentence("reveal")


@pytest.mark.parametrize(
    ("verdicts", "outcome", "words"),
    [
        ([("pass", None)], "affirming", "1 passed"),
        ([("pass", None), ("fail", "margin_too_large")], "warning", "1 failed"),
        ([("pass", None), ("inconclusive", "stopped")], "warning", "(1 stopped)"),
        ([("inconclusive", "crash"), ("inconclusive", "crash")], "none", "(2 crash)"),
        ([("inconclusive", None)], "none", "(1 no_reason)"),
        ([], "none", "no answer was audited"),
    ],
)
def test_what_audits_found_is_counted(verdicts: list[tuple[str, str | None]], outcome: str, words: str) -> None:
    """A reported failure and an undecided audit are warnings; nothing decided is nothing affirmed."""
    log = Log().epoch()
    for verdict, reason in verdicts:
        due = log.receipt(True)
        log.audit(due, verdict, reason)
        if verdict == "fail":
            log.alarm(due)
    log.reveal()
    assert log.outcomes() == {**GOOD, "audits": outcome}
    assert words in log.sentence("audits")
    assert exit_code(log.judged().lines(T0_MS)) == (3 if outcome == "none" and verdicts else 0)
    if "fail" in dict(verdicts):
        assert "up to 4 answers of 'node-1' are in doubt" in log.sentence("audits")


def test_an_epoch_without_requests_is_affirmed() -> None:
    """Nothing was taken under it and nothing audited: its seed was committed to and revealed all the same."""
    log = Log().epoch().reveal()
    assert "no request was taken under it" in log.sentence("commitment")
    assert exit_code(log.judged().lines(T0_MS)) == 0


def test_rates_are_reviewed_each_by_itself() -> None:
    """Policies with rates of their own share an epoch's seed."""
    log = Log().epoch()
    for rate in ("1", "0.25"):
        log.audit(log.receipt(True, rate=rate, policy=rate[-1]))
        if rate != "1":
            log.receipt(False, rate=rate, policy=rate[-1])
    log.reveal()
    assert log.outcomes() == GOOD


@pytest.mark.parametrize("rate", ["2", "x"])
def test_a_rate_that_is_none_is_a_fault(rate: str) -> None:
    """A receipt with an impossible rate leaves the selection undecided, and the epoch is not affirmed."""
    log = Log().epoch()
    log.receipt(audit=AuditPart(EPOCH, "reexec", rate))
    log.reveal()
    assert log.outcomes()["reveal"] == "contraindicated"
    assert log.outcomes()["selection"] == "none"


def test_several_faults_of_a_step_are_told() -> None:
    """The first stands in the sentence, two more in the detail, and no more are kept."""
    log = Log().epoch().reveal()
    for _ in range(6):
        log.receipt(True)
    (line,) = [line for line in log.judged().lines(T0_MS) if line.step == "reveal"]
    assert line.detail is not None
    assert line.detail.count("was taken under a revealed seed") == 2


@pytest.mark.parametrize("kind", ["epoch", "audit", "reveal", "alarm", "receipt", "intent"])
def test_what_cannot_be_read_is_passed_over(kind: str) -> None:
    """A document without its members, or none at all, is for the log's own audit to name; nothing is raised."""
    log, due, _ = good()
    for payload in (b"{}", b"no json", b'{"predicate": {"alarm": "audit_failed", "audit": 1, "receiptId": 1}}'):
        envelope = wrap(payload, PAYLOAD_TYPE).envelope
        row = StoredRow(99, b"", leaf(kind, PAYLOAD_TYPE, payload), kind, None, envelope, None, None, None, None)
        log.rows += [row, row._replace(envelope=None), row._replace(envelope=b"\xff"), row._replace(leaf=b"x")]
    log.audit(due).reveal()
    assert log.outcomes() == GOOD


def test_an_alarm_of_another_kind_reports_no_failure() -> None:
    """Only the alarm of a failed audit stands for one."""
    log, due, _ = good()
    log.audit(due, "fail", "margin_too_large").add("alarm", {"alarm": "surplus_bytes", "receiptId": due}).reveal()
    assert log.outcomes()["audits"] == "contraindicated"


def selections(log: Log) -> list[str]:
    """What becomes of the step for each epoch, all revealed."""
    epochs = log.reveal().reveal(epoch=OTHER).judged()
    assert all(
        line.outcome.value == "affirming" for line in epochs.lines(T0_MS) if line.step in ("commitment", "reveal")
    )
    return [line.outcome.value for line in epochs.lines(T0_MS) if line.step == "selection"]


def test_who_has_two_epochs_cannot_choose_between_them() -> None:
    """Once the log has another epoch, an answer to a request that comes then cannot be drawn under the one before."""
    log = Log().epoch().epoch(epoch=OTHER)
    spared = log.under(EPOCH, T0_MS + 1, intent=True)
    log.under(OTHER, T0_MS + 2, intent=True)
    assert selections(log) == ["contraindicated", "affirming"]
    assert f"the answer {spared} was drawn under it at entry 2, though epoch {OTHER} was in" in log.sentence(
        "selection"
    )


def test_an_answer_is_drawn_under_the_epoch_that_its_intent_found() -> None:
    """What was announced before the next epoch's commitment belongs to the epoch before, however late its answer."""
    log = Log().epoch()
    old = log.made("0.5")
    log._row("intent", log.world.add_intent(old))
    log.epoch(epoch=OTHER).under(OTHER, T0_MS - 3_600_000)  # and somebody set the clock back
    log._row("receipt", log.world.add_receipt(old))
    if selected(SEED, old.receipt_id, parse_rate("0.5")):
        log.audit(old.receipt_id)
    assert selections(log) == ["affirming", "affirming"]


@pytest.mark.parametrize("intended", [True, False])
def test_the_answer_of_a_quorum_is_announced_by_its_nodes_intents(intended: bool) -> None:
    """An exchange that asks through others has no intent of its own: theirs name it."""
    log = Log().epoch()
    log.number = 7
    while selected(SEED, log._id(), parse_rate("0.5")):
        log.number += 1
    whole = log.made("0.5", at_ms=END + 1)
    if intended:
        for child in "12":
            log.add("intent", {"receiptId": encode(int(child)), "parent": whole.receipt_id})
    log.epoch(epoch=OTHER, begin_ms=END)
    log._row("receipt", log.world.add_receipt(whole))
    assert selections(log) == ["affirming" if intended else "contraindicated", "affirming"]


@pytest.mark.parametrize(
    ("received", "first", "outcome"),
    [
        (END - 1, None, "affirming"),
        (END, None, "contraindicated"),
        (END - 1, END - 1, "affirming"),
        (END - 1, END - 60_001, "affirming"),
        (END - 1, END - 60_002, "contraindicated"),
    ],
)
def test_a_request_that_was_under_way_tells_by_its_time(received: int, first: int | None, outcome: str) -> None:
    """Without an earlier intent it was received before the newer epoch began, and before that was made use of."""
    log = Log().epoch().epoch(epoch=OTHER, begin_ms=END)
    if first is not None:
        log.under(OTHER, END + 5)
        log.under(OTHER, first)
    log.under(EPOCH, received)
    assert selections(log)[0] == outcome


@pytest.mark.parametrize(("first", "outcome"), [(END - 60_001, "affirming"), (END - 60_002, "contraindicated")])
@pytest.mark.parametrize("order", [1, -1])
def test_the_earliest_answer_under_the_newer_epoch_counts(first: int, outcome: str, order: int) -> None:
    """In whatever order they are entered; one without a time changes nothing."""
    log = Log().epoch().epoch(epoch=OTHER, begin_ms=END)
    for at_ms in (END + 5, first)[::order]:
        log.under(OTHER, at_ms)
    made = log.made("0.5", audit=AuditPart(OTHER, "reexec", "0.5"), receipt_id=encode(7))
    log._row("receipt", log.world.add_receipt(msgspec.structs.replace(made, timings=Timings("yesterday"))))
    log.under(EPOCH, END - 1)
    assert selections(log)[0] == outcome


def test_a_request_without_a_time_was_not_under_way() -> None:
    """A time that is none excuses nothing."""
    log = Log().epoch().epoch(epoch=OTHER, begin_ms=END)
    for number, audit in enumerate((EPOCH, OTHER)):
        made = log.made("0.000000001", audit=AuditPart(audit, "reexec", "0.000000001"), receipt_id=encode(number))
        log._row("receipt", log.world.add_receipt(msgspec.structs.replace(made, timings=Timings("yesterday"))))
    assert selections(log) == ["contraindicated", "affirming"]


def test_an_answer_that_the_log_could_not_take_in_time_is_drawn_as_it_was() -> None:
    """It says that it was entered late, which is a warning, and its intent may have been entered late as well."""
    log = Log().epoch().epoch(epoch=OTHER, begin_ms=END)
    log.under(EPOCH, END + 1, log=LogRef("x", backfilled=True))
    log.reveal().reveal(epoch=OTHER)
    assert log.outcomes() == {**GOOD, "audits": "none"}
    assert [line.outcome.value for line in log.judged().lines(T0_MS, EPOCH)] == [
        *("affirming", "warning", "affirming", "none"),
    ]


def test_a_late_answer_whose_intent_came_in_time_is_none() -> None:
    """Its receipt alone waited for the log: the epoch that it names was in force. Late ones are counted."""
    log = Log().epoch()
    made = log.made("0.000000001", audit=AuditPart(EPOCH, "reexec", "0.000000001"), log=LogRef("x", backfilled=True))
    log.add("intent", {"receiptId": made.receipt_id})
    log.epoch(epoch=OTHER, begin_ms=END)
    log._row("receipt", log.world.add_receipt(made))
    log.reveal()
    assert log.sentence("reveal") == "its seed was revealed, and nothing was taken under it afterwards"
    late = Log().epoch().epoch(epoch=OTHER, begin_ms=END)
    for _ in range(2):
        late.under(EPOCH, END + 1, log=LogRef("x", backfilled=True))
    assert late.reveal().sentence("reveal").startswith("2 answers were entered late")


def test_nothing_is_drawn_under_the_epoch_of_an_earlier_run() -> None:
    """A start ends the epochs of the run before: their seeds are revealed, and no answer of theirs comes any more."""
    log = Log().event("start").epoch()
    log.under(EPOCH, intent=True)
    log.event("start").under(EPOCH, intent=True)
    log.reveal()
    assert log.outcomes()["selection"] == "contraindicated"
    assert "after its run had ended" in log.sentence("selection")


def test_a_policy_has_one_rate() -> None:
    """Two answers under the same policy file that were drawn at different rates: one of them was not at the file's."""
    log = Log().epoch()
    log.audit(log.receipt(True, rate="0.5"))
    other = log.receipt(False, rate="0.01")
    log.receipt(False, rate="0.01", policy="1")
    log.receipt(False, rate="0.5", verifier=msgspec.structs.replace(log.world.predicate().verifier, policies=()))
    log.reveal()
    assert log.outcomes() == {**GOOD, "selection": "contraindicated"}
    assert f"{other} (entry 3) was drawn at '0.01'" in log.sentence("selection")
    assert "under the same policy 'p' at '0.5'" in log.sentence("selection")


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ({"end_ms": T0_MS - 1}, "takes requests from"),
        ({"end_ms": T0_MS + MAX_EPOCH_MS + 1, "reveal_by_ms": T0_MS + MAX_EPOCH_MS + 2}, "a day is the most"),
        ({"reveal_by_ms": END - 1}, "no policy's times"),
        ({"reveal_by_ms": END + MAX_REVEAL_MS + 1}, "no policy's times"),
    ],
)
def test_an_epoch_promises_its_reveal_in_the_time_that_policies_allow(times: dict[str, int], words: str) -> None:
    """One that need never be revealed, since its day never comes, is contraindicated; the longest that can be is not."""
    log = Log().epoch(**times).reveal()
    assert log.outcomes()["commitment"] == "contraindicated"
    assert words in log.sentence("commitment")
    end = T0_MS + MAX_EPOCH_MS
    longest = Log().epoch(end_ms=end, reveal_by_ms=end + MAX_REVEAL_MS).reveal()
    assert longest.outcomes()["commitment"] == "affirming"


def test_the_longest_epoch_is_that_of_the_longest_policy() -> None:
    """What bounds an epoch's promises is what policies may ask for, and what the gateway adds to it."""
    high = {path: 1000 * int(BY_PATH[path].high) for path in TIMES}
    assert high.pop("sampled.epoch_s") == MAX_EPOCH_MS
    assert sum(high.values()) + 5_000 + round(2000 * Limits().judge_s) == MAX_REVEAL_MS


TIMES = ("sampled.epoch_s", "deadlines.total_s", "proofs.timeout_s", "sampled.delay_max_s")
