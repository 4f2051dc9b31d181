"""Were the audits held that had to be? Recomputed from the stored log alone, epoch by epoch. Pure.

    epochs = Epochs()
    for row in rows: epochs.take(row)               # in the order of the log
    lines = epochs.lines(now_ms)                    # for each epoch the steps below, `about` its id

 commitment   the epoch's entry comes before the first request that was taken under it, and keeps its promises short
 reveal       the seed was revealed, is the one that was committed to, and nothing was taken under it afterwards
 selection    exactly the released answers that the seed selects were audited, each once, before the reveal; each was
              drawn under the epoch that was in force, and at its policy's rate
 audits       what the audits found; every failed one has its alarm, and names the node that answered

One epoch is in force at any moment of the log's order: the one that was committed to last. Otherwise whoever has the
seeds of two could see which of them spares an answer, and name that one. An answer falls under the one that was in
force at its intent. Of a request that was under way without one when the epoch changed, only its own time can tell: it
was received before the newer epoch began, and hardly after the first answer under that.

Rows are believed as far as `gateway.log.audit` finds them genuine, which is to be asked of the same rows. Of an epoch
that runs, only the ids of its answers are kept in memory; of one that is over, counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import msgspec

from gateway.errors import FormatError, ProofError
from gateway.log.audit_rows import StoredRow, read_envelope
from gateway.log.predicates import UNREADABLE, predicates
from gateway.log.receipt import parse_leaf
from gateway.model.audits import (
    AUDIT_FAILED,
    MAX_EPOCH_MS,
    MAX_REVEAL_MS,
    AuditEntry,
    EpochEntry,
    FailedAudit,
    RevealEntry,
)
from gateway.model.line import Line
from gateway.model.receipt import AuditPart, PolicyRef, instant, millis
from gateway.model.verdict import Outcome
from gateway.verify.proofs.sampling import Review, check_reveal, parse_rate, review

STEPS = ("commitment", "reveal", "selection", "audits")
#: How many ids a sentence names at most.
NAMED = 3
#: How much later than the first answer under an epoch one may be received that falls under the epoch before it. Between
#: a request's time and the naming of its epoch there are milliseconds; the rest is for clocks that are being corrected.
LEEWAY_MS = 60_000


class Summary(msgspec.Struct, rename="camel", kw_only=True):
    """An epoch in numbers, for JSON. `extra` were audited and need not have been, `foreign` are no released answers.

    `undecided` counts inconclusive audits by their reason.
    """

    epoch: str
    begin: str | None = None
    end: str | None = None
    commitment: str | None = None
    seed: str | None = None
    receipts: int = 0
    selected: int = 0
    audited: int = 0
    passed: int = 0
    failed: int = 0
    undecided: dict[str, int] = {}
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    doubted: tuple[FailedAudit, ...] = ()


class _Answer(msgspec.Struct):
    """A released answer that was taken under an epoch."""

    node: str
    rate: str


class _Epoch:
    """One epoch, as the log has told of it so far."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.place = self.first_use = -1
        self.newer: _Epoch | None = None  # was in force from its own entry on
        self.first_received: int | None = None
        self.entry: EpochEntry | None = None
        self.reveal: RevealEntry | None = None
        self.answers: dict[str, _Answer] = {}
        self.audits: dict[str, AuditEntry] = {}
        self.review: Review | None = None
        self.receipts = self.late = self.audited = 0
        self.verdicts: Counter[str] = Counter()
        self.undecided: Counter[str] = Counter()
        self.unreported: dict[str, AuditEntry] = {}
        self.doubted: list[FailedAudit] = []
        self.faults: dict[str, list[str]] = {step: [] for step in STEPS}


class _Served(msgspec.Struct):
    node: str = ""


class _Log(msgspec.Struct):
    backfilled: bool = False


class _Predicate(msgspec.Struct, rename="camel"):
    """The members of an intent or an alarm that are looked at."""

    receipt_id: str = ""
    alarm: str = ""
    parent: str = ""


class _Verifier(msgspec.Struct, frozen=True):
    policies: tuple[PolicyRef, ...] = ()


class _Timings(msgspec.Struct, frozen=True):
    received: str = ""


class _Receipt(msgspec.Struct, rename="camel"):
    """The members of a receipt that are looked at."""

    receipt_id: str = ""
    release: str = ""
    audit: AuditPart | None = None
    served: _Served | None = None
    log: _Log | None = None
    verifier: _Verifier = _Verifier()
    timings: _Timings = _Timings()

    @property
    def backfilled(self) -> bool:
        return self.log is not None and self.log.backfilled


_any_of = predicates(_Predicate)
_receipt_of = predicates(_Receipt)
_epoch_of = predicates(EpochEntry)
_audit_of = predicates(AuditEntry)
_reveal_of = predicates(RevealEntry)
_alarm_of = predicates(FailedAudit)


class Epochs:
    """All epochs of a log, from its rows in order. `take` never raises for what is stored."""

    def __init__(self) -> None:
        self._epochs: dict[str, _Epoch] = {}
        self._intents: dict[str, int] = {}
        self._rates: dict[str, str] = {}  # by the policy's digest
        self._newest: _Epoch | None = None
        self._started = self._ended = -1

    def take(self, row: StoredRow) -> None:
        """The next entry of the log. What cannot be read is passed over: `gateway.log.audit` names it."""
        try:
            kind = parse_leaf(row.leaf).kind
            if kind in ("start", "stop"):
                self._ended = row.place
                self._started = row.place if kind == "start" else self._started
            elif kind in _READERS and row.envelope is not None:
                _READERS[kind](self, row.place, read_envelope(row.envelope).payload)
        except (FormatError, *UNREADABLE):
            return

    def ids(self) -> list[str]:
        """The epochs that the log speaks of, in the order in which it does."""
        return [*self._epochs]

    def lines(self, now_ms: int, only: str | None = None) -> list[Line]:
        """Each step of each epoch, or of `only` one. `now_ms` is the reader's clock, for reveals that are overdue."""
        chosen = [epoch for epoch in self._epochs.values() if only in (None, epoch.id)]
        return [line for epoch in chosen for line in self._judged(epoch, now_ms)]

    def summaries(self, only: str | None = None) -> list[Summary]:
        """The same epochs in numbers."""
        return [_summary(epoch) for epoch in self._epochs.values() if only in (None, epoch.id)]

    # -- what the log tells -------------------------------------------------------------------------------------------

    def _epoch(self, id: str) -> _Epoch:
        return self._epochs.setdefault(id, _Epoch(id))

    def _intent(self, place: int, payload: bytes) -> None:
        said = _any_of(payload)
        self._intents[said.receipt_id] = place
        if said.parent:  # that exchange's prompt left by this one first, and it has no intent of its own
            self._intents.setdefault(said.parent, place)

    def _receipt(self, place: int, payload: bytes) -> None:
        said = _receipt_of(payload)
        first = self._intents.pop(said.receipt_id, place)
        if said.audit is None:
            return
        epoch = self._epoch(said.audit.epoch)
        if epoch.first_use < 0 or first < epoch.first_use:
            epoch.first_use = first
        self._rate(epoch, place, said)
        if epoch.reveal is not None:
            # Only a log that could not be written explains it, and the receipt has to say so.
            epoch.late += 1
            if not said.backfilled:
                _fault(epoch, "reveal", f"receipt {said.receipt_id} (entry {place}) was taken under a revealed seed")
            return
        epoch.receipts += 1
        if said.release == "released" and said.served is not None:
            if said.receipt_id in epoch.answers:
                _fault(epoch, "selection", f"the log has the answer {said.receipt_id} twice")
            epoch.answers[said.receipt_id] = _Answer(said.served.node, said.audit.rate)
            self._in_force(epoch, first, said)

    def _rate(self, epoch: _Epoch, place: int, said: _Receipt) -> None:
        """A policy's digest is that of its bytes, which have one rate."""
        assert said.audit is not None
        for policy in said.verifier.policies[:1]:
            rate = self._rates.setdefault(policy.digest.sha256, said.audit.rate)
            if rate != said.audit.rate:
                sentence = f"{said.receipt_id} (entry {place}) was drawn at {said.audit.rate!a}, and others"
                _fault(epoch, "selection", f"{sentence} under the same policy {policy.name!a} at {rate!a}")

    def _in_force(self, epoch: _Epoch, first: int, said: _Receipt) -> None:
        """Whether the epoch of an answer whose first entry is `first` was the one to name."""
        received, newer = _millis(said.timings.received), epoch.newer
        if received is not None and (epoch.first_received is None or received < epoch.first_received):
            epoch.first_received = received
        if epoch.entry is not None and epoch.place < self._started < first:
            sentence = f"the answer {said.receipt_id} was drawn under it after its run had ended, at entry {first}"
            _fault(epoch, "selection", sentence)
        elif newer is not None and newer.place < first and said.backfilled:
            epoch.late += 1
        elif newer is not None and newer.place < first and not _under_way(newer, received):
            sentence = f"the answer {said.receipt_id} was drawn under it at entry {first}, though epoch {newer.id}"
            _fault(epoch, "selection", f"{sentence} was in force from entry {newer.place} on")

    def _announced(self, place: int, payload: bytes) -> None:
        entry = _epoch_of(payload)
        epoch = self._epoch(entry.epoch)
        if epoch.entry is not None:
            _fault(epoch, "commitment", f"entry {place} commits to a seed a second time")
            return
        if epoch.reveal is not None:  # whoever knows the seed can choose what it selects
            _fault(epoch, "commitment", f"entry {place} commits to a seed that was revealed before")
        epoch.place, epoch.entry = place, entry
        if self._newest is not None:
            self._newest.newer = epoch
        self._newest = epoch

    def _audit(self, place: int, payload: bytes) -> None:
        entry = _audit_of(payload)
        epoch = self._epoch(entry.epoch)
        if epoch.reveal is not None:
            _fault(epoch, "selection", f"entry {place} audits {entry.receipt_id} after the seed was revealed")
        elif entry.receipt_id in epoch.audits:
            _fault(epoch, "audits", f"entry {place} audits {entry.receipt_id} a second time")
        else:
            _count(epoch, entry)

    def _revealed(self, place: int, payload: bytes) -> None:
        entry = _reveal_of(payload)
        epoch = self._epoch(entry.epoch)
        if epoch.reveal is not None:
            _fault(epoch, "reveal", f"entry {place} reveals a seed a second time")
            return
        epoch.reveal = entry
        _recompute(epoch)

    def _alarm(self, place: int, payload: bytes) -> None:
        said = _any_of(payload)
        if said.alarm == AUDIT_FAILED:
            failed = _alarm_of(payload)
            epoch = self._epoch(failed.epoch)
            epoch.unreported.pop(failed.receipt_id, None)
            epoch.doubted.append(failed)

    # -- what is made of it -------------------------------------------------------------------------------------------

    def _judged(self, epoch: _Epoch, now_ms: int) -> Iterator[Line]:
        yield _line(epoch, "commitment", *_commitment(epoch))
        revealed = _reveal(epoch, now_ms, ended=epoch.place < self._ended)
        yield _line(epoch, "reveal", *revealed)
        running = revealed[0] is Outcome.WARNING and epoch.reveal is None
        yield _line(epoch, "selection", *_selection(epoch), claimed=not running)
        outcome, sentence = _found(epoch)
        yield _line(epoch, "audits", outcome, sentence, claimed=bool(epoch.audited or epoch.faults["audits"]))


#: How an entry of each kind is read.
_READERS = {
    "intent": Epochs._intent,
    "receipt": Epochs._receipt,
    "epoch": Epochs._announced,
    "audit": Epochs._audit,
    "reveal": Epochs._revealed,
    "alarm": Epochs._alarm,
}


def _under_way(newer: _Epoch, received: int | None) -> bool:
    """Whether a request that was `received` then can have been under way when the epoch `newer` began."""
    assert newer.entry is not None
    if received is None or received >= newer.entry.begin_ms:
        return False
    return newer.first_received is None or received <= newer.first_received + LEEWAY_MS


def _millis(text: str) -> int | None:
    try:
        return millis(text)
    except FormatError:
        return None


def _fault(epoch: _Epoch, step: str, sentence: str) -> None:
    if len(epoch.faults[step]) < NAMED:
        epoch.faults[step].append(sentence)


def _count(epoch: _Epoch, entry: AuditEntry) -> None:
    epoch.audits[entry.receipt_id] = entry
    epoch.audited += 1
    epoch.verdicts[entry.verdict] += 1
    if entry.verdict == "inconclusive":
        epoch.undecided[entry.reason or "no_reason"] += 1
    elif entry.verdict == "fail":
        epoch.unreported[entry.receipt_id] = entry


def _recompute(epoch: _Epoch) -> None:
    """The seed is known: who had to be audited, and who was. Nothing else of the answers is kept then."""
    reveal, entry = epoch.reveal, epoch.entry
    assert reveal is not None
    if entry is not None:
        try:
            epoch.review = _review(entry.commitment, bytes.fromhex(reveal.seed), epoch.answers, epoch.audits)
        except (ProofError, FormatError) as error:
            _fault(epoch, "reveal", f"{error}")
    for id, audit in epoch.audits.items():
        if id in epoch.answers and epoch.answers[id].node != audit.node:
            _fault(epoch, "audits", f"the audit of {id} names the node {audit.node!a}, which did not answer it")
    epoch.answers, epoch.audits = {}, {}


def _review(committed: str, seed: bytes, answers: Mapping[str, _Answer], audits: Mapping[str, AuditEntry]) -> Review:
    """`sampling.review` over answers of several rates: each rate by itself, since a policy has its own."""
    check_reveal(committed, seed)
    by_rate: dict[str, list[str]] = {}
    for id, answer in answers.items():
        by_rate.setdefault(answer.rate, []).append(id)
    parts = [
        review(committed, seed, parse_rate(rate), ids, [id for id in ids if id in audits])
        for rate, ids in by_rate.items()
    ]
    return Review(
        selected=tuple(id for part in parts for id in part.selected),
        missing=tuple(id for part in parts for id in part.missing),
        extra=tuple(id for part in parts for id in part.extra),
        foreign=tuple(sorted(id for id in audits if id not in answers)),
    )


def _commitment(epoch: _Epoch) -> tuple[Outcome, str]:
    if epoch.faults["commitment"]:
        return Outcome.CONTRAINDICATED, epoch.faults["commitment"][0]
    if epoch.entry is None:
        return Outcome.CONTRAINDICATED, "no entry of the log commits to its seed"
    if 0 <= epoch.first_use < epoch.place:
        sentence = f"a request was taken under it at entry {epoch.first_use}, before its commitment at {epoch.place}"
        return Outcome.CONTRAINDICATED, sentence
    promised = _promised(epoch.entry)
    if promised is not None:
        return Outcome.CONTRAINDICATED, promised
    if epoch.first_use < 0:
        return Outcome.AFFIRMING, f"its seed was committed to at entry {epoch.place}; no request was taken under it"
    sentence = f"its seed was committed to at entry {epoch.place}, before the first request at {epoch.first_use}"
    return Outcome.AFFIRMING, sentence


def _promised(entry: EpochEntry) -> str | None:
    """What is wrong with an epoch's times: one that lasts, or waits, longer than any policy lets it is never judged."""
    if not 0 <= entry.end_ms - entry.begin_ms <= MAX_EPOCH_MS:
        return f"it takes requests from {_time(entry.begin_ms)} to {_time(entry.end_ms)}, and a day is the most"
    if not 0 <= entry.reveal_by_ms - entry.end_ms <= MAX_REVEAL_MS:
        after = f"it ends at {_time(entry.end_ms)} and its seed is due by {_time(entry.reveal_by_ms)}"
        return f"{after}, which no policy's times come to"
    return None


def _reveal(epoch: _Epoch, now_ms: int, *, ended: bool) -> tuple[Outcome, str]:
    if epoch.faults["reveal"]:
        return Outcome.CONTRAINDICATED, epoch.faults["reveal"][0]
    if epoch.reveal is not None and epoch.late:
        return Outcome.WARNING, f"{epoch.late} answers were entered late, when the log could be written again"
    if epoch.reveal is not None:
        return Outcome.AFFIRMING, "its seed was revealed, and nothing was taken under it afterwards"
    if ended or epoch.entry is None:
        return Outcome.CONTRAINDICATED, "its seed was never revealed, and the run that it belongs to is over"
    if now_ms > epoch.entry.reveal_by_ms:
        return Outcome.CONTRAINDICATED, f"its seed had to be revealed by {_time(epoch.entry.reveal_by_ms)}"
    return Outcome.WARNING, f"it runs; its seed will be revealed by {_time(epoch.entry.reveal_by_ms)}"


def _selection(epoch: _Epoch) -> tuple[Outcome, str]:
    if epoch.faults["selection"]:
        return Outcome.CONTRAINDICATED, epoch.faults["selection"][0]
    if epoch.review is None:
        return Outcome.NONE, "not looked at: its seed is not known"
    found = epoch.review
    if found.kept:
        return Outcome.AFFIRMING, f"the seed selects {len(found.selected)} answers; exactly these were audited"
    parts = [
        f"{len(ids)} {what} ({', '.join(ids[:NAMED])})"
        for what, ids in (("MISSING", found.missing), ("extra", found.extra), ("foreign", found.foreign))
        if ids
    ]
    return Outcome.CONTRAINDICATED, f"of {len(found.selected)} selected answers: " + ", ".join(parts)


def _found(epoch: _Epoch) -> tuple[Outcome, str]:
    if epoch.faults["audits"]:
        return Outcome.CONTRAINDICATED, epoch.faults["audits"][0]
    if epoch.unreported:
        return Outcome.CONTRAINDICATED, f"the failed audit of {next(iter(epoch.unreported))} raised no alarm"
    passed, failed, open_ = (epoch.verdicts[verdict] for verdict in ("pass", "fail", "inconclusive"))
    if not epoch.audited:
        return Outcome.NONE, "no answer was audited"
    sentence = f"{passed} passed, {failed} failed, {open_} decided nothing{_reasons(epoch)}"
    if epoch.doubted:
        most = max(failed.doubted.count for failed in epoch.doubted)
        nodes = ", ".join(sorted({failed.node for failed in epoch.doubted})[:NAMED])
        sentence += f"; up to {most} answers of {nodes!a} are in doubt"
    if not passed and not failed:
        return Outcome.NONE, sentence
    return Outcome.WARNING if failed or open_ else Outcome.AFFIRMING, sentence


def _reasons(epoch: _Epoch) -> str:
    if not epoch.undecided:
        return ""
    return " (" + ", ".join(f"{count} {reason}" for reason, count in sorted(epoch.undecided.items())) + ")"


def _line(epoch: _Epoch, step: str, outcome: Outcome, sentence: str, *, claimed: bool = True) -> Line:
    more = len(epoch.faults[step]) - 1
    return Line(step, outcome, sentence, epoch.id, "; ".join(epoch.faults[step][1:]) if more > 0 else None, claimed)


def _summary(epoch: _Epoch) -> Summary:
    entry, found = epoch.entry, epoch.review or Review((), (), (), ())
    return Summary(
        epoch=epoch.id,
        begin=None if entry is None else _time(entry.begin_ms),
        end=None if entry is None else _time(entry.end_ms),
        commitment=None if entry is None else entry.commitment,
        seed=None if epoch.reveal is None else epoch.reveal.seed,
        receipts=epoch.receipts,
        selected=len(found.selected),
        audited=epoch.audited,
        passed=epoch.verdicts["pass"],
        failed=epoch.verdicts["fail"],
        undecided=dict(epoch.undecided),
        missing=found.missing,
        extra=found.extra,
        foreign=found.foreign,
        doubted=tuple(epoch.doubted),
    )


def _time(ms: int) -> str:
    return instant(ms) if ms <= _LAST_MS else f"{ms} ms"


_LAST_MS = 253402300799999  # the year 9999 ends
