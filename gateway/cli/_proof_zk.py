"""`veriroute proof verify --circuit`: a zero-knowledge proof against a pinned circuit, step by step.

Each step is the verifier's own (`gateway.verify.proofs.zk`); the proof system runs in a worker process.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import msgspec

from gateway.errors import FormatError
from gateway.model.verdict import Outcome
from gateway.prover.circuits import load_circuit
from gateway.prover.verifier import Limits, Verifier
from gateway.verify.proofs.evidence import Artefact, Assurance, Kind, Subject, Verdict
from gateway.verify.proofs.zk import Ran, Statement, ZkResult, ZkVerdict, conclude, prepare
from gateway.verify.proofs.zk_circuit import Circuit
from gateway.verify.proofs.zk_instances import Values, proven, release
from gateway.verify.proofs.zk_manifest import Manifest, OnRelease

from ._proof_show import Report

_STEPS = ("zk_proof_form", "zk_inputs", "zk_verifies", "zk_outputs")
_OF_INPUTS = frozenset(("input_unbindable", "binding_failed"))
#: Proven numbers that are shown of each output.
_SHOWN = 16


def verify_zk(evidence: bytes, folder: Path, request: bytes | None, response: bytes | None, seconds: float) -> Report:
    """Every step for one proof. Raises `PolicyError` for a folder that is no pinned circuit."""
    circuit = load_circuit(folder)
    manifest = circuit.manifest
    report = Report(f"zero-knowledge proof, {manifest.system.value}, {len(evidence)} bytes")
    report.held("zk_circuit", manifest.id)
    if request is None and manifest.inputs:
        return _stop(report, "zk_inputs", ZkResult(ZkVerdict.INCONCLUSIVE, "request_absent"), None)
    subject = _subject(circuit, request, response)
    statement = prepare(circuit, request or b"", evidence)
    if isinstance(statement, ZkResult):
        step = "zk_inputs" if statement.reason in _OF_INPUTS else "zk_proof_form"
        return _stop(report, step, statement, subject)
    report.held("zk_proof_form", f"{manifest.proof_len} bytes, {manifest.n_instances} public values")
    return _run(report, circuit, statement, response, subject, seconds)


def _run(
    report: Report,
    circuit: Circuit,
    statement: Statement,
    response: bytes | None,
    subject: Subject | None,
    seconds: float,
) -> Report:
    manifest = circuit.manifest
    ran = asyncio.run(_verified(circuit, statement, seconds))
    if ran.verdict is not ZkVerdict.PASS:
        if ran.reason in _OF_INPUTS:  # the hash of hashed inputs is the proof system's to compute
            return _stop(report, "zk_inputs", ZkResult(ran.verdict, ran.reason), subject)
        _bound(report, manifest, subject)
        return _stop(report, "zk_verifies", ZkResult(ran.verdict, ran.reason), subject)
    _bound(report, manifest, subject)
    report.held("zk_verifies", f"sha256:{statement.identity.hex()}")
    if response is None:
        _proven(report, manifest, proven(manifest, statement.instances))
        return _stop(report, "zk_outputs", ZkResult(ZkVerdict.INCONCLUSIVE, "response_absent"), subject)
    result = conclude(manifest, statement, ran, response)
    if result.verdict is not ZkVerdict.PASS:
        return _stop(report, "zk_outputs", result, subject)
    _outputs(report, manifest, result.outputs, response)
    _proven(report, manifest, result.outputs)
    released = result.response or b""
    report.more["released"] = released.decode()
    if subject is None:
        return report
    proof = Artefact("proof and instances", statement.identity.hex())
    named = Subject(subject.request_sha256, _sha(released), artefacts=(*subject.artefacts, proof))
    return report.judged(named.record(Kind.ZK, Verdict.PASS, None, assurance=Assurance.CRYPTOGRAPHIC))


async def _verified(circuit: Circuit, statement: Statement, seconds: float) -> Ran:
    verifier = Verifier(Limits(seconds=seconds))
    try:
        return await verifier.verify(circuit, statement)
    finally:
        await verifier.aclose()


def _bound(report: Report, manifest: Manifest, subject: Subject | None) -> None:
    if manifest.inputs:
        report.held("zk_inputs", f"{sum(entry.count for entry in manifest.inputs)} numbers")
        return
    report.add("zk_inputs", Outcome.NONE, "inputs_private")
    if subject is None:  # whoever gave a request asked whether the proof is about it, and cannot be told
        report.unasked.add("zk_inputs")


def _outputs(report: Report, manifest: Manifest, outputs: Values, response: bytes) -> None:
    """Whether the saved answer's own numbers are the proven ones, also where a gateway would put those in their place.

    Nobody puts anything in place here: an answer with other numbers is no failure then, and must not pass either.
    """
    as_they_are = tuple(msgspec.structs.replace(o, on_release=OnRelease.COMPARE) for o in manifest.outputs)
    try:
        release(msgspec.structs.replace(manifest, outputs=as_they_are), outputs, response)
    except FormatError:
        report.add("zk_outputs", Outcome.NONE, "output_replaced")
        return
    report.held("zk_outputs", f"{sum(map(len, outputs))} numbers")


def _stop(report: Report, step: str, result: ZkResult, subject: Subject | None) -> Report:
    """The step that did not hold, those that were therefore not taken, and the record."""
    if step == "zk_inputs" and result.reason in _OF_INPUTS and not _has(report, "zk_proof_form"):
        report.held("zk_proof_form")
    outcome = Outcome.CONTRAINDICATED if result.verdict is ZkVerdict.FAIL else Outcome.NONE
    report.add(step, outcome, result.reason or "")
    for later in _STEPS:
        if not _has(report, later):
            report.add(later, Outcome.NONE, "not_reached")
    if subject is None:
        return report
    verdict = Verdict(result.verdict.value)
    return report.judged(subject.record(Kind.ZK, verdict, result.reason, assurance=Assurance.CRYPTOGRAPHIC))


def _has(report: Report, step: str) -> bool:
    return any(check.id == step for check in report.checks)


def _proven(report: Report, manifest: Manifest, outputs: Values) -> None:
    for output, values in zip(manifest.outputs, outputs, strict=True):
        more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
        report.facts.append(f"proven {output.pointer}: {', '.join(f'{x:.12g}' for x in values[:_SHOWN])}{more}")
    report.more["proven"] = [list(values) for values in outputs]


def _subject(circuit: Circuit, request: bytes | None, response: bytes | None) -> Subject | None:
    if request is None:
        return None
    key = Artefact("verifying key", circuit.manifest.vk_sha256)
    return Subject(_sha(request), None if response is None else _sha(response), artefacts=(key,))


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
