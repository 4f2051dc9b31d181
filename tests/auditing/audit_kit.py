"""A real log for tests of audits: its writer, its reader, receipts of a small world, and an auditor with a clock."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
from receipt_world import NODE, ORIGIN, SESSION, T0_MS, World, sha256
from stored_log import archive, entry

from gateway.auditing import Auditor, Limits, Released
from gateway.auditing import auditor as auditor_module
from gateway.errors import VerirouteError
from gateway.log.audit_rows import read_envelope
from gateway.log.receipt import event_statement
from gateway.model.entry import Committed
from gateway.model.receipt import AuditPart, Served
from gateway.model.ulid import encode
from gateway.model.verdict import Release
from gateway.offline.epochs import Epochs
from gateway.policy.schema import CompiledPolicy
from gateway.storage.reads import Reader
from gateway.storage.scan import Scan
from gateway.storage.sequencer import Sequencer
from gateway.storage.startup import open_log
from gateway.verify import aci
from gateway.verify.proofs.evidence import Artefact, Kind, ProofRecord, Subject, Verdict

PROMPT, ANSWER = b'{"messages":[{"role":"user","content":"a secret of few words"}]}', b'{"choices":[]}'
SUBJECT = Subject(sha256(PROMPT), sha256(ANSWER), "ref-1", (Artefact("scores", "cd" * 32),))


class Sampled(msgspec.Struct):
    rate: float = 0.5
    epoch_s: float = 3600.0
    delay_min_s: float = 0.0
    delay_max_s: float = 0.0
    on_fail: str = "quarantine"


class Deadlines(msgspec.Struct):
    total_s: float = 60.0


class Proofs(msgspec.Struct):
    timeout_s: float = 20.0


class Plan(msgspec.Struct):
    proofs: frozenset[str] = frozenset()


class Policy(msgspec.Struct):
    """What audits read of a policy."""

    sampled: Sampled
    plan: Plan
    proofs: Proofs = msgspec.field(default_factory=Proofs)
    deadlines: Deadlines = msgspec.field(default_factory=Deadlines)


def policy(*proofs: str, **sampled: Any) -> CompiledPolicy:
    return cast("CompiledPolicy", Policy(Sampled(**sampled), Plan(frozenset(proofs))))


def record(verdict: Verdict = Verdict.PASS, reason: str | None = None) -> ProofRecord:
    return SUBJECT.record(Kind.REEXEC, verdict, reason, statistic=0.002, threshold=0.01, tokens=64)


FAILED = record(Verdict.FAIL, "margin_too_large")


class Desk:
    """One gateway's log and auditor. `judge` says what an audit finds; `error` makes the log fail."""

    def __init__(self, folder: Path, *policies: CompiledPolicy, limits: Limits | None = None) -> None:
        self.folder = folder
        self.path = str(folder / "log.db")
        self.world = World()
        self.clock = T0_MS
        self.set_by = 0  # how far somebody set the clock, in milliseconds
        self.number = 0
        self.error: VerirouteError | None = None
        self.quarantined: list[tuple[str, str]] = []
        self.judged: list[tuple[bytes, bytes]] = []
        self.judge: Callable[[Released | None], Awaitable[ProofRecord]] | None = None
        self.finds: dict[str, ProofRecord] = {}
        self.policies = policies or (policy(),)
        self.limits = limits
        self.log: Sequencer
        self.reader: Reader
        self.auditor: Auditor

    # -- gateway.auditing.Journal -------------------------------------------------------------------------------------

    def size(self) -> int:
        return self.log.size

    def mint(self) -> str:
        self.number += 1
        return encode((self.clock << 80) + (1 << 40) + self.number)

    def event(self, kind: str, predicate: Mapping[str, object]) -> asyncio.Future[Committed]:
        if self.error is not None:
            raise self.error
        place = self.world.add(kind, event_statement(kind, None, predicate))
        return self.log.append(entry(self.world, place, id=self.mint()))

    def submit(self, job: Any) -> asyncio.Future[None]:
        if self.error is not None:
            raise self.error
        return self.log.submit(job)

    # -- the run ------------------------------------------------------------------------------------------------------

    async def start(self) -> Desk:
        self.log = await open_log(
            f"sqlite:///{self.path}", self.world.log, ORIGIN, self.path + ".checkpoint", now=lambda: self.clock / 1000
        )
        await archive(self.log)
        self.reader = Reader(self.path)
        self.number += 1000
        await self.event("start", {"nonce": f"n{self.number}"})
        self.auditor = Auditor(
            self,
            self._judge,
            self._quarantine,
            self.policies,
            now_ms=lambda: self.clock,
            mono=lambda: (self.clock - self.set_by) / 1000,
            limits=self.limits,
        )
        await self.auditor.open()
        return self

    def set_clock(self, by_ms: int) -> None:
        """Somebody sets the clock; no time passes."""
        self.clock += by_ms
        self.set_by += by_ms

    async def terms(self) -> AuditPart:
        part = await self.auditor.terms(self.policies[0])
        assert part is not None
        return part

    async def crash(self) -> None:
        """End as a killed process does: nothing more is written."""
        for task in [*self.auditor._waiting, *self.auditor._writing]:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self.reader.close()
        await self.log.close()

    async def stop(self) -> None:
        await self.auditor.close()
        await self.event("stop", {"nonce": f"s{self.number}"})
        self.reader.close()
        await self.log.close()

    async def _judge(self, policy: CompiledPolicy, model: str, request: bytes, response: bytes) -> ProofRecord:
        self.judged.append((request, response))
        if self.judge is not None:
            return await self.judge(None)
        return self.finds.get(model, record())

    def _quarantine(self, node: str, reason: str) -> None:
        self.quarantined.append((node, reason))

    # -- requests -----------------------------------------------------------------------------------------------------

    async def answer(
        self,
        node: str = "node-1",
        model: str = "m",
        by: CompiledPolicy | None = None,
        *,
        release: Release = Release.RELEASED,
        offer: bool = True,
        part: AuditPart | None = None,
        **changes: Any,
    ) -> str:
        """One request and its receipt; its id."""
        by = by or self.policies[0]
        self.number += 1
        part = part or await self.auditor.terms(by)
        served = Served(
            network="aci",
            node=node,
            model=model,
            session=aci.session_id(SESSION),
            keyset_digest=NODE.keyset_digest,
            evidence_digest="sha256:" + sha256(NODE.report()),
        )
        made = self.world.predicate(self.number, served=served, release=release, audit=part, **changes)
        intent = entry(self.world, self.world.add_intent(made), made)
        await self.log.append(intent)
        await self.log.append(entry(self.world, self.world.add_receipt(made), made))
        if offer and part is not None and release is Release.RELEASED:
            self.auditor.offer(Released(made.receipt_id, node, "aci", model, by, PROMPT, ANSWER, part))
        return made.receipt_id

    async def answers(self, count: int, node: str = "node-1", model: str = "m", **options: Any) -> list[str]:
        return [await self.answer(node, model, **options) for _ in range(count)]

    async def audited(self) -> None:
        """Until nothing waits and everything is written."""
        while self.auditor._waiting or self.auditor._writing:
            await asyncio.sleep(0.001)

    # -- what the log has ---------------------------------------------------------------------------------------------

    def entries(self, *kinds: str) -> list[dict[str, Any]]:
        """The predicates of the entries of `kinds`, in order, each with its kind."""
        with Scan(self.path) as scan:
            rows = scan.rows(0, scan.size, 100_000)
        return [
            {"is": row.kind, **msgspec.json.decode(read_envelope(row.envelope).payload)["predicate"]}
            for row in rows
            if row.kind in kinds and row.envelope is not None
        ]

    def verdicts(self) -> list[tuple[str, str | None]]:
        return [(found["verdict"], found.get("reason")) for found in self.entries("audit")]

    def epochs(self) -> Epochs:
        found = Epochs()
        with Scan(self.path) as scan:
            for row in scan.rows(0, scan.size, 100_000):
                found.take(row)
        return found

    def outcomes(self, only: str | None = None) -> list[tuple[str, str]]:
        return [(line.step, line.outcome.value) for line in self.epochs().lines(self.clock, only)]


__all__ = ["ANSWER", "FAILED", "PROMPT", "Desk", "auditor_module", "policy", "record"]
