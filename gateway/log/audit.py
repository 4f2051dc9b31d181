"""Auditing a stored log: is it the one log that was signed, whole, and does everything beside it agree with it? Pure.

    for item in audit(source, reports, roots=roots, standing="yours", outside=[Kept("yesterday.checkpoint", note)]):
        ...                                    # Progress as it goes; at the end one Line a step, in this order

 1. trust       the keys come from the reader
 2. leaves      entries are dense from 0, each with its stored hash                        (gateway.log.audit_rows)
 3. tree        every checkpoint that was looked at is signed, and its root is that of the entries below its size;
                stored tile roots are those of the entries
 4. head        the newest checkpoint covers exactly what is stored
 5. outside     what was kept elsewhere (memory file, checkpoints and proofs) is part of this log
 6. witnessed   as many witnesses cosigned one of those as the trust file asks for
 7. documents   every entry has its signed document, and no document is without entry      (gateway.log.audit_rows)
 8. signatures  receipt keys signed them                                                   (gateway.log.audit_rows)
 9. intents     every request that was sent to a node was announced before, and has one receipt
10. columns     what lists and filters show is what was signed, in the schema's types, beside the intent's place; the
                times of checkpoints fit those of the entries; marks of audits are theirs   (gateway.log.audit_rows)
11. openings    payloads: intact, erased by an erasure entry, or missing
12. archive     what entries name by digest is there, and is what its digest says        (gateway.log.audit_archive)
13. keys        API keys are those that entries made and did not revoke                     (gateway.log.audit_keys)
14. acts        what other processes left for the log is in it, and what it has is stored   (gateway.log.audit_acts)

A log that was cut at its tail, with the checkpoints above the cut deleted too, is consistent in itself. Only something
from outside shows it, so without any the outside line is `none` and the audit is undecided: never "intact". A memory
that lay beside the database may contradict it; that it agrees shows nothing, for whoever cut the one could write the
other, with an older checkpoint out of the database itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

from gateway.errors import FormatError
from gateway.model.line import Line
from gateway.model.verdict import Outcome

from .audit_acts import Acts, Administered
from .audit_archive import Archive, Archived
from .audit_marks import Marked, Marks
from .audit_pairs import INTENTS, Openings, Pairs, Times
from .audit_rows import ARCHIVE, COLUMNS, DOCUMENTS, LEAVES, OPENINGS, SIGNATURES, Report
from .audit_tree import TREE, AuditTree, Stored
from .checkpoint import Checkpoint
from .cosignature import CosignedCheckpoint, open_cosigned
from .note import Vkey
from .trust import TrustPolicy, witnessed_line

STEPS = (
    *("trust", "leaves", "tree", "head", "outside", "witnessed", "documents", "signatures", "intents", "columns"),
    *("openings", "archive", "keys", "acts"),
)
#: Checkpoints whose signature and root are looked at; beyond that many, evenly spread ones, the first and the last.
MAX_CHECKPOINTS = 10_000


_BESIDE = (
    "IT LAY BESIDE THE DATABASE: whoever cut the one could write the other, so a cut tail would not be seen; give a "
    "checkpoint, proof or memory that was kept elsewhere (--kept, --memory)"
)
_MISSING = "MISSING: the opening of receipt {} (entry {}), or a body of it, erased by no entry"

#: Where keys or a checkpoint come from: the reader; beside the database; the same, and the reader accepts that.
Standing = Literal["yours", "beside", "accepted"]


class Kept(NamedTuple):
    """A signed checkpoint (`data`) that was kept outside the database, and where it comes from (`gateway.log.kept`)."""

    name: str
    data: bytes
    standing: Standing = "yours"


class Source(Stored, Archived, Administered, Marked, Protocol):
    """What is asked of a stored log beside its rows. `size` is one more than the highest index."""

    size: int

    def checkpoint_count(self) -> int: ...

    def times(self) -> Iterator[tuple[int, int]]:
        """Size and time in milliseconds of every checkpoint, by rising size."""

    def mistyped(self) -> str | None:
        """A sentence about the first row with a query column of another type than the schema's."""

    def stray(self) -> str | None:
        """A sentence about the first document or opening without an entry, or receipt id in use twice."""

    def still_open(self, ids: Sequence[str]) -> list[str]:
        """Those of these receipts that have an opening, or what the node sent for the answer."""


class Progress(msgspec.Struct, frozen=True):
    """`done` of `total` entries were looked at."""

    done: int
    total: int


def audit(
    source: Source,
    reports: Iterable[Report],
    *,
    roots: TrustPolicy | None,
    standing: Standing,
    outside: Sequence[Kept] = (),
) -> Iterator[Progress | Line]:
    """Progress while `reports` (in the order of the log) come in, then the lines of the audit, each step once.

    `roots` are the keys to check with and `standing` where they come from; without any, signatures cannot be decided.
    `outside` are checkpoints and proofs to hold the log against.
    """
    run = _Run(source, roots, outside)
    done = 0
    for report in reports:
        run.take(report)
        done += len(report.hashes)
        yield Progress(done, max(source.size, done))
    run.finish()
    yield _trust_line(roots, standing)
    yield run.line(LEAVES, f"{done} entries, dense, each with its stored hash")
    yield run.line(TREE, run.tree_sentence())
    yield run.head_line()
    yield from run.outside_lines()
    yield run.witnessed_line()
    yield run.line(DOCUMENTS, f"{done} entries have their documents, and commit to them")
    yield run.signature_line()
    yield run.intent_line()
    yield run.column_line()
    yield run.opening_line()
    yield run.archive_line()
    yield from run.act_lines()


def _trust_line(roots: TrustPolicy | None, standing: Standing) -> Line:
    if roots is None:
        return Line("trust", Outcome.NONE, "there is no trust file: no signature can be decided")
    keys = ", ".join(k.keyid for k in (*roots.log_keys, *roots.receipt_keys))
    if standing == "yours":
        return Line("trust", Outcome.AFFIRMING, "the keys come from your trust file", detail=keys)
    sentence = "THE KEYS LAY BESIDE THE DATABASE: whoever could change the one could change the other"
    return Line("trust", Outcome.WARNING if standing == "accepted" else Outcome.NONE, sentence, detail=keys)


class _Run:
    def __init__(self, source: Source, roots: TrustPolicy | None, outside: Sequence[Kept]) -> None:
        self.source = source
        self.roots = roots
        self.bad: dict[str, int] = {}
        self.first_bad: dict[str, tuple[int, str]] = {}
        self.unknown_keys = 0
        self.receipts = 0
        self.pairs = Pairs()
        self.openings = Openings()
        self.archive = Archive(source)
        self.acts = Acts(source)
        self.marks = Marks(source)
        self.times = Times(source.times())
        witnesses = () if roots is None else roots.witness_keys
        self.outside = [_outside(kept, self.log_keys(), witnesses, source.origin) for kept in outside]
        every = max(1, -(-source.checkpoint_count() // MAX_CHECKPOINTS))
        wanted = {o.cosigned.checkpoint.size for o in self.outside if o.cosigned is not None}
        self.tree = AuditTree(source, self.log_keys(), every, wanted, self.fail)

    def log_keys(self) -> tuple[Vkey, ...]:
        return () if self.roots is None else tuple(k for k in self.roots.log_keys if k.name == self.source.origin)

    def fail(self, step: str, place: int, sentence: str) -> None:
        self.bad[step] = self.bad.get(step, 0) + 1
        self.first_bad.setdefault(step, (place, sentence))

    def take(self, report: Report) -> None:
        for step, (place, sentence) in report.first_bad.items():
            self.first_bad.setdefault(step, (place, sentence))
        for step, count in report.bad.items():
            self.bad[step] = self.bad.get(step, 0) + count
        self.unknown_keys += report.unknown_keys
        self.tree.grow(report.hashes)
        for outage in report.outages:
            self.times.outage(outage)
        for seen in report.seen:
            self.pairs.take(seen, self.fail)
            self.openings.take(seen)
            self.times.take(seen, self.fail)
            self.receipts += seen.kind == "receipt"
        self.openings.erased.update(report.erased)
        self.archive.take(report)
        self.acts.take(report, self.fail)
        self.marks.take(report)

    def finish(self) -> None:
        self.tree.finish()
        self.pairs.close(self.fail)
        self.times.close(self.fail)
        mistyped = self.source.mistyped()
        if mistyped is not None:
            self.fail(COLUMNS, self.tree.size, mistyped)
        self.archive.close(self.openings.erased, self.fail)
        for place, receipt in self.openings.missing:
            self.fail(OPENINGS, place, _MISSING.format(receipt, place))
        self.acts.close(self.tree.size, self.fail)
        self.marks.close(self.fail)
        stray = self.source.stray()
        if stray is not None:
            self.fail(DOCUMENTS, self.tree.size, stray)

    def line(self, step: str, good: str) -> Line:
        if not self.bad.get(step):
            return Line(step, Outcome.AFFIRMING, good)
        sentence = self.first_bad[step][1]
        more = self.bad[step] - 1
        return Line(step, Outcome.CONTRAINDICATED, sentence, detail=f"and {more} more" if more else None)

    def tree_sentence(self) -> str:
        looked = f"{self.tree.looked} of {self.source.checkpoint_count()} checkpoints"
        signed = "are signed and " if self.log_keys() else ""
        return f"{looked} {signed}have the root of the entries below their size; tile roots too"

    def head_line(self) -> Line:
        size, newest = self.tree.size, self.tree.newest
        if newest is None:
            sentence = f"{size} entries and no checkpoint: nothing says that this is a log"
            return Line("head", Outcome.CONTRAINDICATED, sentence)
        if newest.size > size:
            sentence = f"THE TAIL IS CUT: the newest checkpoint is of {newest.size} entries, {size} are stored"
            return Line("head", Outcome.CONTRAINDICATED, sentence, detail=f"signed root {newest.root.hex()}")
        if newest.size < size:
            sentence = (
                f"the newest checkpoint is of {newest.size} entries, {size} are stored: the rest was never signed"
            )
            return Line("head", Outcome.CONTRAINDICATED, sentence, detail=f"signed root {newest.root.hex()}")
        detail = f"log {newest.origin}, size {size}, root {newest.root.hex()}"
        outcome = Outcome.AFFIRMING if self.log_keys() else Outcome.NONE
        if outcome is Outcome.AFFIRMING:
            return Line("head", outcome, "the newest signed checkpoint covers exactly what is stored", detail=detail)
        named = f"of log {self.source.origin!a}"
        sentence = f"the newest checkpoint covers exactly what is stored; no key {named} to check its signature with"
        return Line("head", outcome, sentence, detail=detail)

    def outside_lines(self) -> Iterator[Line]:
        if not self.outside:
            sentence = "nothing from outside the database was given (--memory, --kept): a cut tail would not be seen"
            yield Line("outside", Outcome.NONE, sentence)
        lines = [self._outside_line(outside) for outside in self.outside]
        decided = any(line.outcome is Outcome.AFFIRMING for line in lines)
        for outside, line in zip(self.outside, lines, strict=True):
            # Beside something that does show it, nobody asks what lay beside the database.
            asked = outside.standing == "yours" or not decided
            yield msgspec.structs.replace(line, claimed=asked or line.outcome is not Outcome.NONE)

    def witnessed_line(self) -> Line:
        """The first entries that are witnessed: those of the largest checkpoint that a quorum cosigned."""
        roots = self.roots
        if roots is None:
            return Line("witnessed", Outcome.NONE, "no trust file says whose cosignatures count", claimed=False)
        opened = [o.cosigned for o in self.outside if o.cosigned is not None]
        found = [cosigned for cosigned in opened if self._is_part(cosigned.checkpoint)]
        if not found:
            asked = "quorum none" if roots.quorum is None else f"quorum {roots.quorum!a}"
            sentence = f"no checkpoint of this log was given that could be cosigned; the trust file has {asked}"
            return Line("witnessed", Outcome.NONE, sentence, claimed=roots.quorum is not None)
        best = max(found, key=lambda c: (roots.quorum_met(w.key for w in c.cosignatures), c.checkpoint.size))
        line = witnessed_line(best, roots)
        sentence = f"{line.sentence}; of {self.tree.size} entries, the first {best.checkpoint.size}"
        return msgspec.structs.replace(line, sentence=sentence)

    def _is_part(self, head: Checkpoint) -> bool:
        return head.size <= self.tree.size and self.tree.roots[head.size] == head.root

    def _outside_line(self, outside: _Outside) -> Line:
        if outside.cosigned is None:
            return Line("outside", outside.outcome, outside.problem, outside.name)
        head = outside.cosigned.checkpoint
        theirs = f"theirs: size {head.size}, root {head.root.hex()}"
        if head.size > self.tree.size:
            sentence = f"ROLLED BACK: it is of {head.size} entries, {self.tree.size} are stored"
            return Line("outside", Outcome.CONTRAINDICATED, sentence, outside.name, self._heads(theirs))
        if not self._is_part(head):
            sentence = f"FORK: the tree of {head.size} entries that was signed is not the one that is stored"
            return Line("outside", Outcome.CONTRAINDICATED, sentence, outside.name, self._heads(theirs))
        sentence = f"its {head.size} entries are the first {head.size} of this log"
        if outside.standing == "yours":
            return Line("outside", Outcome.AFFIRMING, sentence, outside.name)
        outcome = Outcome.WARNING if outside.standing == "accepted" else Outcome.NONE
        return Line("outside", outcome, f"{_BESIDE}; {sentence}", outside.name)

    def _heads(self, theirs: str) -> str:
        newest = self.tree.newest
        ours = "none" if newest is None else f"size {newest.size}, root {newest.root.hex()}"
        return f"{theirs}; stored head: {ours}"

    def signature_line(self) -> Line:
        if self.roots is None or not self.roots.receipt_keys:
            return Line(SIGNATURES, Outcome.NONE, "no receipt key to check signatures with")
        if self.unknown_keys and not self.bad.get(SIGNATURES):
            sentence = f"{self.first_bad['unknown_keys'][1]}, which is no receipt key of the trust roots"
            return Line(SIGNATURES, Outcome.NONE, sentence, detail=f"{self.unknown_keys} such entries")
        return self.line(SIGNATURES, "a receipt key signed every document")

    def intent_line(self) -> Line:
        running = self.pairs.running
        if running and not self.bad.get(INTENTS):
            sentence = f"{len(running)} intents of the present run have no receipt yet, the first at entry {running[0]}"
            return Line(INTENTS, Outcome.WARNING, sentence)
        return self.line(INTENTS, f"{self.pairs.intents} intents, each with its one receipt; {self.receipts} receipts")

    def column_line(self) -> Line:
        good = f"the columns of {self.receipts} receipts are those that were signed"
        if self.marks.stored:
            good += f"; {self.marks.stored} marks of sampled audits are those of their entries"
        waiting = self.marks.waiting
        if waiting and not self.bad.get(COLUMNS):
            sentence = f"{len(waiting)} marks of sampled audits are not stored, the first that of entry {waiting[0]}"
            return Line(COLUMNS, Outcome.WARNING, f"{sentence}; a gateway stores them before it reveals the seed")
        return self.line(COLUMNS, good)

    def opening_line(self) -> Line:
        found = self.openings
        counts = f"{found.kept} intact, {found.erased_count} erased by entries of the log, {found.never} never kept"
        if found.seeds:
            counts += f", {found.seeds} seeds without a body, with which nothing was opened"
        if found.unexplained:
            counts += f", {found.unexplained} not stored whose receipts do not say whether they were"
        still = self.source.still_open(sorted(found.erased))
        if self.bad.get(OPENINGS):
            return msgspec.structs.replace(self.line(OPENINGS, counts), detail=f"{self.bad[OPENINGS]} in all; {counts}")
        if still:
            sentence = (
                f"{len(still)} openings are erased by the log's word, and they or what the node sent still stored"
            )
            sentence += f", {still[0]} among them"
            return Line(OPENINGS, Outcome.WARNING, sentence, detail=counts)
        return Line(OPENINGS, Outcome.AFFIRMING, counts)

    def archive_line(self) -> Line:
        line = self.archive.line()
        return self.line(ARCHIVE, line.sentence) if self.bad.get(ARCHIVE) else line

    def act_lines(self) -> Iterator[Line]:
        for line in self.acts.lines():
            yield self.line(line.step, line.sentence) if self.bad.get(line.step) else line


class _Outside(msgspec.Struct, frozen=True):
    """A checkpoint from outside, opened; or why it could not be."""

    name: str
    standing: Standing
    cosigned: CosignedCheckpoint | None
    outcome: Outcome = Outcome.AFFIRMING
    problem: str = ""


def _outside(kept: Kept, keys: tuple[Vkey, ...], witnesses: tuple[Vkey, ...], origin: str | None) -> _Outside:
    name, data, standing = kept
    if not keys:
        return _Outside(name, standing, None, Outcome.NONE, "not compared: no key to check its signature with")
    try:
        return _Outside(name, standing, open_cosigned(data, keys, witnesses, origin))
    except FormatError as error:
        problem = f"it is no checkpoint of this log: {error}"
        return _Outside(name, standing, None, Outcome.CONTRAINDICATED, problem)
