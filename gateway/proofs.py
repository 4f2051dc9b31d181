"""Gathering the proofs that a policy asks for about one answer, while the agent waits.

    proof_reexec, proof_logprob, proof_toploc   a reference reads the prompt, and scores prompt and answer once for all
    proof_zk                                    a worker process verifies the proof that came with the answer

The network is here, the judging in `verify.proofs`. Bodies are read in threads, for they may have megabytes; everything
ends within the policy's `proofs.timeout_s`, and each kind that was asked for gets exactly one record: what a reference,
a node or a prover does is a verdict, never an exception. Proofs of one kind do not wait for those of another.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec

from .errors import ConfigError, FormatError, PolicyError, ServiceError
from .exchange.amend import LOGPROB, REEXEC, SEEDED, TOPLOC, ZK
from .policy.schema import CompiledPolicy
from .prover.circuits import load_circuits
from .prover.verifier import Limits, Verifier
from .references import Calibrations, References, keys_of, load_calibrations
from .settings import Reference, Settings
from .upstream.pool import UpstreamPool
from .verify.proofs import ask, continued, distance, prefixes, reexec, rescored, zk_member
from .verify.proofs.calibration import Calibration
from .verify.proofs.claim import Claim, claim_of
from .verify.proofs.evidence import Kind, ProofRecord, Verdict
from .verify.proofs.rescored import Exchange, Word
from .verify.proofs.toploc_judge import ToplocCalibration
from .verify.proofs.toploc_wire import Stated
from .verify.proofs.zk import Ran, Statement, ZkResult, ZkVerdict, conclude, prepare
from .verify.proofs.zk_circuit import Circuit

_KINDS = {REEXEC: Kind.REEXEC, LOGPROB: Kind.LOGPROB, TOPLOC: Kind.TOPLOC, ZK: Kind.ZK}


class Gathered(msgspec.Struct, frozen=True):
    """One record for each kind that was asked for; `body` is the answer with proven numbers in place, else None."""

    records: tuple[ProofRecord, ...]
    body: bytes | None = None


class Proofs:
    """Belongs to one event loop; close it with `close`."""

    def __init__(
        self,
        references: References,
        circuits: Mapping[str, Circuit] | None = None,
        limits: Limits | None = None,
        *,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._references = references
        self._circuits = dict(circuits or {})
        self._limits = limits or Limits()
        self._entropy = entropy
        self._verifier: Verifier | None = None

    async def gather(
        self, kinds: frozenset[str], policy: CompiledPolicy, model: str, request: bytes, response: bytes
    ) -> Gathered:
        """The records of `kinds` (check ids, without proof_quorum) for `response`, one JSON body, to `request`.

        `request` is the body as it was sent to the node; a stream was assembled before (`exchange.assemble`). Raises
        `ValueError` for a kind that is none of these four.
        """
        strange = kinds - _KINDS.keys()
        if strange:
            raise ValueError(f"no proofs of {sorted(strange)} are gathered here")
        until = asyncio.get_running_loop().time() + policy.proofs.timeout_s
        scored, (proven, body) = await asyncio.gather(
            self._scored(kinds - {ZK}, policy, model, request, response, until),
            self._zk(ZK in kinds, policy, model, request, response, until),
        )
        return Gathered(tuple(sorted((*scored, *proven), key=lambda record: record.kind)), body)

    async def close(self) -> None:
        await self._references.close()
        if self._verifier is not None:
            await self._verifier.aclose()

    async def _scored(
        self, kinds: frozenset[str], policy: CompiledPolicy, model: str, request: bytes, response: bytes, until: float
    ) -> list[ProofRecord]:
        if not kinds:
            return []
        exchange = await asyncio.to_thread(rescored.read_exchange, request, response)
        return await _Scoring(self._references, policy, model, exchange, until, self._entropy).records(kinds)

    async def _zk(
        self, asked: bool, policy: CompiledPolicy, model: str, request: bytes, response: bytes, until: float
    ) -> tuple[list[ProofRecord], bytes | None]:
        if not asked:
            return [], None
        started = time.perf_counter()
        circuit, result = await self._proven(policy, model, request, response, until)
        ms = int(1000 * (time.perf_counter() - started))
        record = zk_member.zk_record(request, response, circuit, result, ms=ms)
        released = result.response if record.verdict is Verdict.PASS else None
        return [record], released if released != response else None

    async def _proven(
        self, policy: CompiledPolicy, model: str, request: bytes, response: bytes, until: float
    ) -> tuple[str | None, ZkResult]:
        """The circuit whose key the proof was held against, and the verdict."""
        try:
            member = await asyncio.to_thread(zk_member.read_member, response)
        except FormatError as error:
            return None, ZkResult(ZkVerdict.FAIL, error.reason)
        if member is None:
            return None, ZkResult(ZkVerdict.ABSENT, "proof_absent")
        allowed = policy.zk.circuits
        circuit = self._circuits.get(member.circuit)
        if circuit is None or (allowed is not None and member.circuit not in allowed):
            # The node chose it, so it is no evidence that was tried: with a circuit of its own anybody proves anything.
            return None, ZkResult(ZkVerdict.ABSENT, "circuit_not_pinned" if circuit is None else "circuit_not_allowed")
        key = circuit.manifest.vk_sha256
        if circuit.manifest.models and model not in circuit.manifest.models:
            return key, ZkResult(ZkVerdict.FAIL, "circuit_of_another_model")
        statement = await asyncio.to_thread(prepare, circuit, request, member.proof)
        if isinstance(statement, ZkResult):
            return key, statement
        ran = await self._verified(circuit, statement, until)
        return key, await asyncio.to_thread(conclude, circuit.manifest, statement, ran, response)

    async def _verified(self, circuit: Circuit, statement: Statement, until: float) -> Ran:
        if self._verifier is None:
            self._verifier = Verifier(self._limits)
        try:
            async with asyncio.timeout_at(until):
                return await self._verifier.verify(circuit, statement)
        except TimeoutError:
            return Ran(ZkVerdict.INCONCLUSIVE, "verifier_timeout")


class _Scoring:
    """One answer before one reference: what is asked of it once, and what each kind makes of it."""

    def __init__(
        self,
        references: References,
        policy: CompiledPolicy,
        model: str,
        exchange: Exchange,
        until: float,
        entropy: Callable[[int], bytes],
    ) -> None:
        self._references = references
        self._policy = policy
        self._model = model
        self._exchange = exchange
        self._until = until
        self._entropy = entropy
        self._started = time.perf_counter()
        self._claim = _claim(policy, exchange)
        self._stated: Stated | None = None

    async def records(self, kinds: frozenset[str]) -> list[ProofRecord]:
        done, left = self._settled(kinds)
        if not left:
            return done
        candidates = self._candidates(left)
        if not candidates:
            return done + self._all(left, "reference_absent")
        reason, named = "", None
        for reference in candidates:
            named = reference
            try:
                body = await self._ask(reference, ask.ask_prompt(self._request))
                prompt = await asyncio.to_thread(ask.read_prompt, body)
            except ServiceError as error:
                reason = error.reason or ""
                continue
            except FormatError as error:
                if error.reason == "reference_incomplete" and REEXEC in left and isinstance(self._claim, Claim):
                    return done + await self._continued(reference, left)
                reason = error.reason or "reference_malformed"
                continue
            return done + await self._by_scores(reference, prompt, left)
        return done + self._all(left, reason, named)

    @property
    def _request(self) -> dict[str, object]:
        return {**self._exchange.request, "model": self._model}

    def _settled(self, kinds: frozenset[str]) -> tuple[list[ProofRecord], frozenset[str]]:
        """The kinds that need no reference to be told from, and the rest."""
        done: list[ProofRecord] = []
        for kind in sorted(kinds):
            record = self._settle(kind)
            done += [] if record is None else [record]
        return done, kinds - {f"proof_{record.kind.value}" for record in done}

    def _settle(self, kind: str) -> ProofRecord | None:
        exchange = self._exchange
        if exchange.problem == "malformed":
            return self._none(kind, "malformed")
        if kind == REEXEC and isinstance(self._claim, str):
            return self._none(kind, self._claim)
        if kind == LOGPROB and not exchange.scored.positions:
            return self._none(kind, exchange.scored.presence.value)
        if kind == TOPLOC:
            found = rescored.read_proofs(exchange)
            if isinstance(found, ProofRecord):
                return found
            self._stated = found
        # Where the reference has chat alone, texts and log-probs of the answer are enough.
        usable = kind == REEXEC and exchange.scored.positions
        return self._none(kind, exchange.problem) if exchange.problem is not None and not usable else None

    def _candidates(self, kinds: frozenset[str]) -> list[Reference]:
        """The references that may be asked, those first that everything is there for."""
        found = self._references.of(self._model, self._policy.reexec.references)
        return sorted(found, key=lambda reference: not self._calibrated(reference, kinds))

    def _calibrated(self, reference: Reference, kinds: frozenset[str]) -> bool:
        margins = REEXEC not in kinds or self._margins(reference) is not None
        return margins and (TOPLOC not in kinds or self._limits(reference) is not None)

    def _margins(self, reference: Reference) -> Calibration | None:
        assert isinstance(self._claim, Claim)
        calibrations, allowed = self._references.calibrations, self._policy.reexec.calibrations
        return calibrations.margins(self._claim.statistic, reference, self._model, allowed)

    def _limits(self, reference: Reference) -> ToplocCalibration | None:
        return self._references.calibrations.limits(reference, self._model, self._policy.toploc.calibrations)

    async def _by_scores(self, reference: Reference, prompt: ask.Prompt, kinds: frozenset[str]) -> list[ProofRecord]:
        """The records by the reference's scores, and for TOPLOC its activations, asked for side by side."""
        ids = self._exchange.ids
        if not ids:
            return self._all(kinds, self._exchange.problem or "empty_answer", reference)
        limits = self._limits(reference) if TOPLOC in kinds else None
        scores = ask.ask_scores(self._model, prompt.ids, ids, self._likeliest(kinds))
        states = ask.ask_activations(self._model, prompt.ids, ids)
        (body, why), (values, why_not) = await asyncio.gather(
            self._try(reference, scores),
            self._try(reference, states if limits is not None else None, "toploc_uncalibrated"),
        )
        # It answered for the prompt, so what it refuses is what the node sent.
        why = "tokens_refused" if why == "reference_refused" else why
        word = Word(reference.id, prompt, body, why, values, why_not, ms=self._ms())
        return await asyncio.to_thread(self._judge, reference, word, kinds, limits)

    def _judge(
        self, reference: Reference, word: Word, kinds: frozenset[str], limits: ToplocCalibration | None
    ) -> list[ProofRecord]:
        policy, exchange, model = self._policy, self._exchange, self._model
        found: list[ProofRecord] = []
        if REEXEC in kinds:
            assert isinstance(self._claim, Claim)
            terms = reexec.Terms(min_tokens=policy.reexec.min_tokens, max_mean_margin=policy.reexec.max_mean_margin)
            calibration = self._margins(reference)
            found.append(rescored.judge_margins(exchange, word, self._claim, calibration, terms, model))
        if LOGPROB in kinds:
            near = distance.Terms(policy.logprob.min_similarity, policy.logprob.min_tokens)
            found.append(rescored.judge_logprobs(exchange, word, near))
        if TOPLOC in kinds:
            assert self._stated is not None
            found.append(rescored.judge_states(exchange, self._stated, word, limits, model))
        return found

    def _likeliest(self, kinds: frozenset[str]) -> int:
        """How many tokens the reference has to tell of each place: the fewer, the shorter its answer."""
        if REEXEC in kinds and isinstance(self._claim, Claim) and self._claim.sampling is not None:
            return ask.LIKELIEST
        told = rescored.alternatives(self._exchange.scored.positions) if LOGPROB in kinds else 1
        return min(told, ask.LIKELIEST)

    async def _continued(self, reference: Reference, kinds: frozenset[str]) -> list[ProofRecord]:
        """Re-execution where the reference has chat alone; for the other kinds it is no reference."""
        others = self._all(kinds - {REEXEC}, "reference_incomplete", reference)
        exchange, terms = self._exchange, prefixes.Terms(min_tokens=self._policy.reexec.min_tokens)
        positions = exchange.scored.positions
        assert isinstance(self._claim, Claim)
        if self._claim.sampling is not None or not positions:
            return [*others, self._none(REEXEC, "reference_incomplete", reference)]
        cuts = prefixes.cut_points(self._entropy(prefixes.SEED_BYTES), exchange.response_sha256, len(positions), terms)
        try:
            questions = [continued.question(exchange, self._request, cut, terms.horizon) for cut in cuts]
        except FormatError as error:
            return [*others, self._none(REEXEC, error.reason or "malformed", reference)]
        bodies = await asyncio.gather(
            *(self._try(reference, question, "reference_incomplete") for question in questions)
        )
        told = {cut: body for cut, (body, _) in zip(cuts, bodies, strict=True) if body is not None}
        if cuts and not told:
            return [*others, self._none(REEXEC, bodies[0][1] or "reference_incomplete", reference)]
        record = await asyncio.to_thread(continued.judge_continued, exchange, told, terms, reference.id, ms=self._ms())
        return [*others, record]

    async def _ask(self, reference: Reference, question: ask.Ask) -> bytes:
        return await self._references.ask(reference, question, self._until)

    async def _try(
        self, reference: Reference, question: ask.Ask | None, unasked: str = ""
    ) -> tuple[bytes | None, str | None]:
        """The body of the answer, or the reason why there is none: `unasked` where there is no question."""
        if question is None:
            return None, unasked
        try:
            return await self._ask(reference, question), None
        except ServiceError as error:
            return None, error.reason

    def _all(self, kinds: Collection[str], reason: str, reference: Reference | None = None) -> list[ProofRecord]:
        return [self._none(kind, reason, reference) for kind in sorted(kinds)]

    def _none(self, kind: str, reason: str, reference: Reference | None = None) -> ProofRecord:
        id_ = None if reference is None else reference.id
        return rescored.unjudged(self._exchange, _KINDS[kind], reason, reference_id=id_)

    def _ms(self) -> int:
        return int(1000 * (time.perf_counter() - self._started))


def open_proofs(settings: Settings, pool: UpstreamPool, environ: Mapping[str, str]) -> Proofs:
    """What the settings name. Raises `ConfigError` for calibrations, circuits and keys that cannot be used."""
    chosen = settings.proofs
    references = References(
        settings.references,
        pool,
        keys=keys_of(settings.references, environ),
        calibrations=load_calibrations(chosen.calibrations) if chosen.calibrations is not None else Calibrations(),
        allow_http=settings.upstream.allow_http,
    )
    limits = Limits(workers=chosen.zk_workers, seconds=chosen.zk_seconds, memory=chosen.zk_memory_bytes)
    return Proofs(references, _circuits(chosen.circuits), limits)


def _circuits(folder: str | None) -> dict[str, Circuit]:
    if folder is None:
        return {}
    if not Path(folder).is_dir():
        raise ConfigError(f"proofs.circuits: there is no folder {folder}")
    try:
        return load_circuits(Path(folder))
    except PolicyError as error:
        raise ConfigError(f"proofs.circuits: {error.message}") from None


def _claim(policy: CompiledPolicy, exchange: Exchange) -> Claim | str:
    """What the request claims of how tokens were chosen, by the policy's claims; or why it cannot be asked again."""
    found = [claim_of(exchange.request, seeded=claim == SEEDED) for claim in sorted(policy.reexec.claims)]
    reasons = [claim for claim in found if isinstance(claim, str)]
    if "sampling_unsupported" in reasons and len(reasons) == len(found):
        return "sampling_unsupported"
    return next((claim for claim in found if isinstance(claim, Claim)), reasons[0] if reasons else "not_greedy")
