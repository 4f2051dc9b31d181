"""Gathering the proofs that a policy asks for about one answer, while the agent waits.

    proof_reexec, proof_logprob, proof_toploc   a reference reads the prompt, and scores prompt and answer once for all
    proof_zk                                    a worker process verifies the proof that came with the answer

The network is here, the judging in `verify.proofs`. Bodies are read in threads, for they may have megabytes; everything
ends within the policy's `proofs.timeout_s`, and each kind that was asked for gets exactly one record: what a reference,
a node or a prover does is a verdict, never an exception. Proofs of one kind do not wait for those of another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from gateway.entropy import fresh
from gateway.errors import ConfigError, FormatError, PolicyError
from gateway.exchange.amend import ZK
from gateway.policy.schema import CompiledPolicy
from gateway.prover.circuits import load_circuits
from gateway.prover.verifier import Limits, Verifier
from gateway.references import Calibrations, References, keys_of, load_calibrations
from gateway.settings import Settings
from gateway.upstream.pool import UpstreamPool
from gateway.verify.proofs import rescored, zk_member
from gateway.verify.proofs.evidence import ProofRecord, Verdict
from gateway.verify.proofs.zk import Ran, Statement, ZkResult, ZkVerdict, conclude, prepare
from gateway.verify.proofs.zk_circuit import Circuit

from .scoring import KINDS, Scoring


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
        entropy: Callable[[int], bytes] = fresh,
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
        strange = kinds - KINDS.keys()
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
        return await Scoring(self._references, policy, model, exchange, until, self._entropy).records(kinds)

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
    return Proofs(references, read_circuits(chosen.circuits), limits)


def read_circuits(folder: str | None) -> dict[str, Circuit]:
    """The circuits in the folder `proofs.circuits`, by id. Raises `ConfigError`."""
    if folder is None:
        return {}
    if not Path(folder).is_dir():
        raise ConfigError(f"proofs.circuits: there is no folder {folder}")
    try:
        return load_circuits(Path(folder))
    except PolicyError as error:
        raise ConfigError(f"proofs.circuits: {error.message}") from None
