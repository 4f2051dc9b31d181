"""The composition root: settings in, everything wired, an ASGI application out. No other module builds collaborators.

    settings -> keys -> log -> recorder -> pool -> fleet -> relay -> front

`Gateway.open` does it in that order and undoes it in reverse; `Gateway.close` drains: no further exchange is taken,
those under way end within `server.drain_s`, the log is flushed with a `stop` entry, and the lock is given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import structlog

from . import __version__, aws_lc
from .adapter import Adapter, Alarm
from .adapter import load_usable as load_adapters
from .api.auth import KeyRing, StoredKey
from .api.live import LiveFeed
from .api.openai import Inference
from .api.refusals import Refusals
from .api.services import Services
from .api.strict import Rules, Strict
from .api.terms import TermsBook
from .auditing import Auditor, Journal, audited_by
from .backlog import LOG_FAILED, TOGETHER, Backlog
from .baselines import Baselines
from .canaries import Canaries
from .clock import lease_clock
from .crypto.signatures import accelerate
from .entropy import fresh
from .errors import ConfigError, FormatError, VerirouteError
from .exchange.head import Head
from .fleet.attest import Attestation, open_attester
from .fleet.collateral import CollateralService, open_collateral
from .fleet.fleet import Fleet
from .fleet.machines import Move
from .fleet.tee_roots import trust_roots
from .keyfiles import load_or_make
from .log.acts import read_document
from .model.entry import Committed, Entry
from .model.node import Node
from .model.ulid import RANDOM_BYTES, UlidFactory
from .policy.build import with_test_roots
from .policy_files import builtin_files, directory_files, files_beside, read_policies
from .proofs import open_proofs
from .recorder import Recorder
from .relay import Relay, Terms
from .settings import Settings, canaries_dir, database, dump, keys_dir, memory_path
from .spending import open_payer, rules_and_wallet
from .storage.blobs import mark_done, put_evidence, put_session
from .storage.engine import has_log
from .storage.reads import Reader
from .storage.sequencer import Sequencer
from .storage.startup import open_log
from .storage.writer import Job
from .trust_file import write_trust
from .upstream.limits import Limits
from .upstream.pool import UpstreamPool
from .verify.tee.roots import TrustRoots

log = structlog.get_logger("veriroute")

#: How often the keys and events that other processes wrote are looked for.
POLL_S = 0.2


class Gateway:
    """Everything that runs while the gateway serves."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.ulids = UlidFactory()
        self.keys = KeyRing(open_to_local=settings.auth.mode == "none")
        self.refusals = Refusals()
        self._stack = contextlib.AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._acted = 0  # acts of other processes up to this number have their entry in the log, or are none
        self.sequencer: Sequencer
        self.fleet: Fleet
        self.inference: Inference
        self.app: Any = None

    async def open(self, *, accept_rollback: bool = False) -> None:
        """Start everything. Raises `ConfigError` or `LogRefused` with what to do; nothing is left running then."""
        try:
            await self._open(accept_rollback)
        except BaseException:
            await self._stack.aclose()
            raise

    async def _open(self, accept_rollback: bool) -> None:
        settings = self.settings
        directory = Path(settings.policy.dir) if settings.policy.dir else None
        roots = trust_roots(settings)
        policies = {
            name: with_test_roots(policy, roots.test_fingerprints) for name, policy in read_policies(directory).items()
        }
        self.terms = TermsBook(policies, settings.policy.default)
        if settings.canaries.policy is not None and settings.canaries.policy not in policies:
            raise ConfigError(f"canaries.policy names {settings.canaries.policy!r}, which there is not")
        adapters, unusable = load_adapters(settings.node_values, settings.networks)
        for network, error in unusable.items():  # of whoever wrote it: the others' nodes serve
            log.error("adapter.disabled", network=network, error=error.message)
        # Settings that cannot be used are found before the log is opened: such a start, which a supervisor makes again
        # and again, leaves no entry there.
        self._rules = Rules.of(settings.server.allowed_hosts, max_body=settings.server.max_body_bytes)
        rules_and_wallet(settings)
        self.pool = pool = UpstreamPool(
            Limits(body_bytes=settings.upstream.max_response_bytes), on_surplus=self._surplus
        )
        prover = open_proofs(settings, pool, os.environ)
        await self._open_log(accept_rollback)
        self._stack.push_async_callback(pool.close)
        collateral = open_collateral(settings, pool, roots=roots, now=time.time, alarm=self._collateral_alarm)
        self._stack.push_async_callback(collateral.close)
        self._open_fleet(adapters, collateral, roots)
        self.fleet.use_policies(policies.values())
        folders = [directory] if directory else []
        own = {name: data for folder in folders for name, data in directory_files(folder).items()}
        # The lists of advisories too: a receipt names them by their digests, as it does the policies.
        self._archive_policies({**builtin_files(), **own, **files_beside(*folders).advisories})
        self._stack.push_async_callback(prover.close)
        journal = Journal(self.reader, lambda: self.sequencer.size, self._id, self._event, self.sequencer.submit)
        self.auditor = Auditor(journal, audited_by(prover), self._take_out, policies.values(), now_ms=_now_ms)
        await self.auditor.open()
        paying = open_payer(settings)
        if paying is not None:
            self._stack.callback(paying[1].close)
        self.relay = Relay(
            self.fleet,
            pool,
            self.recorder,
            now=time.time,
            mono=time.perf_counter,
            max_response=settings.upstream.max_response_bytes,
            max_event=settings.upstream.max_event_bytes,
            payer=None if paying is None else paying[0],
            new_id=self._id,
            prover=prover,
            auditor=self.auditor,
        )
        self.inference = Inference(
            self.relay,
            self.keys,
            self.terms,
            self.ulids,
            max_body=settings.server.max_body_bytes,
            max_in_flight=settings.server.max_in_flight,
            max_memory=settings.server.max_body_memory_bytes,
            refusals=self.refusals,
        )
        self.canaries = Canaries(
            settings.canaries, self.fleet, self.relay, self._canary_terms, Baselines(Path(canaries_dir(settings))),
            self.ulids,
        )  # fmt: skip
        self.app = self._front()
        await self.fleet.attest_all(5.0)
        self._spawn(self.fleet.run())
        self._spawn(collateral.run())
        self._spawn(self._watch_other_processes())
        self._spawn(self.backlog.run())
        self._asking = self._begin(self.canaries.run())
        self._spawn(self.auditor.run())
        self._warn()

    async def _open_log(self, accept_rollback: bool) -> None:
        """The log with its keys, what writes into it and what reads it."""
        settings = self.settings
        path = database(settings)
        memory = memory_path(settings)
        self._ed25519 = "aws-lc" if accelerate(aws_lc.load()) else "libsodium"  # before the first signer is made
        signers = load_or_make(keys_dir(settings), settings.log.origin, log_exists=has_log(path, memory))
        self.sequencer = await open_log(
            settings.storage.url, signers.log, settings.log.origin, memory, accept_rollback=accept_rollback
        )
        self._stack.push_async_callback(self.sequencer.close)
        self.signers = signers
        with Reader(path) as reader:
            trust = Path(keys_dir(settings)) / "trust.txt"
            for notice in write_trust(trust, signers, reader, self.sequencer.size):
                log.warning("storage.notice", notice=notice)
        self.live = LiveFeed(self.keys.in_force)
        self.backlog = Backlog(self._alarm, now_ms=_now_ms)
        self.recorder = Recorder(
            self._append,
            signers.receipt,
            settings.log.origin,
            backlog=self.backlog,
            now_ms=_now_ms,
            mono=time.perf_counter,
            packer=self.sequencer.packer,
        )
        await self._begin_log()
        self.reader = Reader(path)
        self._stack.callback(self.reader.close)
        self._reload_keys()

    def _open_fleet(self, adapters: dict[str, Adapter], collateral: CollateralService, roots: TrustRoots) -> None:
        """The nodes, and what attests them."""
        settings = self.settings
        attester = open_attester(settings, self.pool, endorse=collateral.endorse, roots=roots)
        self._stack.push_async_callback(attester.close)
        self.fleet = Fleet(
            settings.node_values,
            adapters,
            attester,
            mono=lease_clock,
            lifetime_s=2 * settings.upstream.refresh_s,
            allow_http=settings.upstream.allow_http,
            allow_private=settings.upstream.allow_private,
            archive=self._archive,
            alarm=self._registry_alarm,
            only_local=bool(settings.tee.dangerous_test_roots),
            moved=self._machine_changed,
        )

    def _warn(self) -> None:
        """Say what is missing where nobody can be served."""
        settings = self.settings
        if not settings.nodes:
            log.warning("nodes.none", notice="the settings name no node, so nobody is served: see [[nodes]], --config")
        if settings.auth.mode == "keys" and not len(self.keys):
            log.warning("keys.none", notice="no API key is in force; make one with `veriroute keys create --name NAME`")

    def _front(self) -> Any:
        from .api.application import Front

        return Strict(Front(self.services()), self._rules, self.refusals)

    def services(self) -> Services:
        return Services(
            settings=self.settings,
            keys=self.keys,
            terms=self.terms,
            fleet=self.fleet,
            reader=self.reader,
            sequencer=self.sequencer,
            inference=self.inference,
            refusals=self.refusals,
            relay=self.relay,
            pool=self.pool,
            live=self.live,
            backlog=self.backlog,
            signers=self.signers,
            canaries=self.canaries.of,
        )

    def hurry(self) -> None:
        """Wait no longer for exchanges that run: `close` ends them."""
        self.inference.hurry()

    async def close(self) -> bool:
        """Drain and stop; whether every exchange ended by itself."""
        self._asking.cancel()  # nobody waits for a canary; the one under way gets its receipt
        await asyncio.gather(self._asking, return_exceptions=True)
        drained = await self.inference.drain(self.settings.server.drain_s)
        if not drained:
            log.warning("stop.not_drained")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.live.close()
        await self._log_has_answered()
        if not await self.backlog.settle():
            log.error("stop.unrecorded", count=len(self.backlog))
        await self.auditor.close()  # behind the last receipt, and before the log ends
        with contextlib.suppress(VerirouteError):
            await self.recorder.event("stop", self._id(), {"timeCreated": _now_ms(), "drained": drained})
        await self._stack.aclose()
        return drained

    async def _log_has_answered(self) -> None:
        """What was handed to the log is in it, or owed: what policy does not wait for, and then the receipts that wait
        for their intents. A seed that was revealed before one of them would convict us."""
        with contextlib.suppress(VerirouteError):  # then all of it is owed
            for _ in range(2):
                await self.sequencer.submit(lambda _: None)

    # -- the log's beginning ------------------------------------------------------------------------------------------

    async def _begin_log(self) -> None:
        """The start entry; an alarm when a rollback was accepted; and the intents that a crash left open."""
        rollback = self.sequencer.rollback
        if rollback is not None:
            predicate = {"alarm": "rollback_accepted", "reason": rollback.reason, "knownSize": rollback.known_size}
            await self.recorder.event("alarm", self._id(), {**predicate, "storedSize": rollback.stored_size})
            known = rollback.known_size
            log.error("log.rollback_accepted", reason=rollback.reason, known_size=known, size=rollback.stored_size)
        for notice in self.sequencer.notices:
            log.warning("storage.notice", notice=notice)
        start = {
            "timeMs": _now_ms(),
            "version": __version__,
            "nonce": fresh(16).hex(),
            "policies": {n: p.digest for n, p in sorted(self.terms.policies.items())},
            "settings": dump(self.settings),
            "openIntents": len(self.sequencer.open_intents),
        }
        await self.recorder.event("start", self._id(), start)
        left = self.sequencer.open_intents
        for at in range(0, len(left), TOGETHER):  # there may be more than the log's queue holds
            await asyncio.gather(*[self.recorder.crashed(envelope) for _, envelope in left[at : at + TOGETHER]])
        for intent_id, _ in left:
            log.warning("intent.abandoned", receipt=intent_id, reason="crash")
        log.info("log.opened", size=self.sequencer.size, origin=self.sequencer.origin, ed25519=self._ed25519)

    # -- what goes on beside the exchanges ----------------------------------------------------------------------------

    def _append(self, entry: Entry) -> asyncio.Future[Committed]:
        future = self.sequencer.append(entry)
        if entry.row is not None and self.live.listeners:
            row = entry.row
            future.add_done_callback(lambda done: self.live.publish(row, done))
        return future

    def _archive(self, node: Node, attestation: Attestation) -> None:
        """Keep evidence and sessions by digest, so that any answer can be judged again later."""
        session, document = attestation.session, attestation.document
        if session is None:
            return
        now = _now_ms()
        record = msgspec.json.encode(session)
        if document is not None:  # a node without evidence has a session all the same
            self._submit(put_evidence(session.evidence_digest, "application/json", now, document), len(document))
        for data in attestation.endorsements.values():  # judged again years later, it is by these that it has to be
            digest = sha256(data).hexdigest()
            self._submit(put_evidence(digest, "application/octet-stream", now, data), len(data))
        self._submit(put_session(session.id, node.id, now, record), len(record))

    def _archive_policies(self, files: Mapping[str, bytes]) -> None:
        """Keep every policy file by digest, so that a bundle can hold the one that was in force."""
        for data in files.values():
            self._submit(put_evidence(sha256(data).hexdigest(), "application/toml", _now_ms(), data), len(data))

    def _submit(self, job: Job, size: int) -> None:
        """Store what receipts refer to; when the log fails, as soon as it takes it."""

        def later(error: VerirouteError) -> None:
            self.backlog.failed(error)
            self.backlog.keep(lambda: self.sequencer.submit(job), size, due=True)

        def done(future: asyncio.Future[object]) -> None:
            error = None if future.cancelled() else future.exception()
            if isinstance(error, LOG_FAILED):
                later(error)
            elif error is not None:
                log.error("archive.failed", error=str(error))

        try:
            self.sequencer.submit(job).add_done_callback(done)
        except LOG_FAILED as error:
            later(error)

    def _event(self, kind: str, predicate: Mapping[str, object]) -> asyncio.Future[Committed]:
        return self.recorder.event(kind, self._id(), predicate)

    def _alarm(self, predicate: Mapping[str, object]) -> asyncio.Future[Committed]:
        return self._event("alarm", predicate)

    def _take_out(self, node: str, reason: str) -> None:
        """A later audit of the node's answers failed: it serves nobody for a while, and is asked for evidence anew."""
        self.fleet.shun(node, reason)

    def _registry_alarm(self, network: str, alarm: Alarm) -> None:
        log.warning("network.alarm", network=network, kind=alarm.kind, notice=_words(alarm.about))
        predicate = {"alarm": alarm.kind, "network": network, "timeMs": _now_ms(), **alarm.about}
        with contextlib.suppress(VerirouteError):
            self._alarm(predicate).add_done_callback(asyncio.Future.exception)

    def _collateral_alarm(self, alarm: Alarm) -> None:
        predicate = {"alarm": alarm.kind, "timeMs": _now_ms(), **alarm.about}
        with contextlib.suppress(VerirouteError):
            self._alarm(predicate).add_done_callback(asyncio.Future.exception)

    def _surplus(self, origin: Any) -> None:
        log.warning("node.surplus_bytes", url=origin.key)
        predicate = {"alarm": "surplus_bytes", "origin": origin.key, "timeMs": _now_ms()}
        with contextlib.suppress(VerirouteError):
            self._alarm(predicate).add_done_callback(asyncio.Future.exception)

    def _machine_changed(self, node: Node, move: Move) -> None:
        predicate = {"alarm": "machine_changed", "node": node.id, "before": move.before, "after": move.after}
        with contextlib.suppress(VerirouteError):
            self._alarm({**predicate, "timeMs": _now_ms()}).add_done_callback(asyncio.Future.exception)

    async def _watch_other_processes(self) -> None:
        """Keys and events that `veriroute keys` and `veriroute audit` wrote while we run; and the memory's failures."""
        failing = held = told = None
        while True:
            try:
                if self.reader.generation() != self._generation:
                    self._reload_keys()
                if self.sequencer.memory_failing != failing:
                    failing = self.sequencer.memory_failing
                    log.warning("storage.notice", notice=failing or "the checkpoint memory is written again")
                if self.sequencer.wal_held != held:
                    held = self.sequencer.wal_held
                    log.warning("storage.notice", notice=held or "the database's write-ahead log is emptied again")
                await self._log_events()
                told = None
            except Exception as error:  # noqa: BLE001 - whatever another process wrote: a key may be revoked next
                said = str(error) or type(error).__name__
                if said != told:  # five times a second, an outage of the log would fill the disk that it waits for
                    log.error("watch.failed", error=said)
                told = said
            await asyncio.sleep(POLL_S)

    def _reload_keys(self) -> None:
        generation = self.reader.generation()  # before the keys: what changes in between is then read again
        self.keys.replace(
            StoredKey(k.id, k.name, k.digest, k.policy, k.scopes, k.revoked_ms) for k in self.reader.api_keys()
        )
        self.live.recheck()
        self._generation = generation  # behind them: a read that failed is made again

    async def _log_events(self) -> None:
        """Put what other processes asked for into the log, each once. What none of them leaves is not signed."""
        for event in self.reader.pending_events(after=self._acted):
            try:
                document = read_document(event.kind, event.document)
            except FormatError as error:
                log.error("act.refused", seq=event.seq, kind=str(event.kind), error=str(error))
            else:
                await self.recorder.event(event.kind, self._id(), document)
                await self.sequencer.submit(mark_done(event.seq))
            self._acted = event.seq  # behind both: what failed is tried again

    def _canary_terms(self, head: Head) -> Terms:
        return self.terms.resolve(self.settings.canaries.policy, [], head)

    def _spawn(self, coroutine: Any) -> None:
        self._tasks.append(self._begin(coroutine))

    def _begin(self, coroutine: Any) -> asyncio.Task[None]:
        """Start what runs until it is cancelled. Nobody waits for it before the stop, so an event tells of its end."""
        task: asyncio.Task[None] = asyncio.create_task(coroutine)
        task.add_done_callback(_ended)
        return task

    def _id(self) -> str:
        return self.ulids.mint(_now_ms(), fresh(RANDOM_BYTES))


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task.failed", exc_info=error)


def _words(about: Mapping[str, str | int]) -> str:
    """What an alarm is about, in one field of a log line: its members are the network's own."""
    return ", ".join(f"{name}={value}" for name, value in about.items())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


__all__ = ["Gateway"]
