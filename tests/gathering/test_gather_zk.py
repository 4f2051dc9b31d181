"""Zero-knowledge proofs that come with an answer, verified by a real worker under circuits that the tests make."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import zk_kit
from gathering_kit import policy
from zk_kit import Two

from gateway.proofs import Gathered, Proofs
from gateway.prover.circuits import load_circuits
from gateway.prover.verifier import Limits
from gateway.references import References
from gateway.upstream.pool import UpstreamPool
from gateway.verify.proofs.evidence import Assurance, ProofRecord, Verdict

pytestmark = pytest.mark.skipif(zk_kit.missing("py_ecc"), reason="py_ecc is not installed (extra zk)")
ZK = frozenset({"proof_zk"})
IN = {"pointer": "/x", "offset": 0, "count": 1, "scale": 0, "visibility": "public"}
OUT = {"pointer": "/c", "offset": 1, "count": 1, "scale": 0, "tolerance": 0.0, "on_release": "replace"}


@pytest.fixture(scope="module")
def world() -> Two:
    return Two()


@pytest.fixture(scope="module")
def key(world: Two) -> bytes:
    return world.key()


Make = Callable[..., Proofs]


@pytest.fixture
async def proofs(tmp_path: Path, key: bytes) -> AsyncIterator[Make]:
    """Makes what gathers, with one circuit whose manifest may be changed."""
    made: list[Proofs] = []

    def make(limits: Limits | None = None, **changes: Any) -> Proofs:
        folder = tmp_path / "circuits" / "one"
        folder.mkdir(parents=True, exist_ok=True)
        shape = {"n_instances": 2, "inputs": [IN], "outputs": [OUT]} | changes
        (folder / "circuit.toml").write_text(zk_kit.groth16_toml(key, **shape))
        (folder / "vk.json").write_bytes(key)
        made.append(Proofs(References((), UpstreamPool()), load_circuits(folder.parent), limits))
        return made[-1]

    yield make
    for one in made:
        await one.close()


def circuit_id(key: bytes) -> str:
    return f"sha256:{zk_kit.sha(key)}"


def answered(key: bytes, proof: Any, c: Any = 7, **members: Any) -> bytes:
    return json.dumps({"c": c, "zk": {"circuit": circuit_id(key), "proof": proof}} | members).encode()


async def gathered(
    proofs: Proofs, response: bytes, request: bytes = b'{"x":3}', **terms: Any
) -> tuple[ProofRecord, Gathered]:
    found = await proofs.gather(ZK, policy(**terms), "m", request, response)
    (record,) = found.records
    assert record.assurance is Assurance.CRYPTOGRAPHIC
    return record, found


async def test_proven_numbers_take_the_place_of_the_answers(proofs: Make, world: Two, key: bytes) -> None:
    """A proof about the request's number passes, and what is released holds the proven one."""
    response = answered(key, world.prove(3, 7), c=1000)
    record, found = await gathered(proofs(), response)
    assert (record.verdict, record.reason) == (Verdict.PASS, None)
    assert found.body is not None
    assert json.loads(found.body) == json.loads(response) | {"c": 7}
    assert record.response_sha256 == zk_kit.sha(found.body)
    named = {artefact.name: artefact.sha256 for artefact in record.artefacts}
    assert named["verifying key"] == zk_kit.sha(key)
    assert named["answer as it came"] == zk_kit.sha(response)
    assert "proof and instances" in named


async def test_numbers_that_are_compared(proofs: Make, world: Two, key: bytes) -> None:
    """Where the circuit says compare, the answer leaves as it came, or not at all."""
    made = proofs(outputs=[OUT | {"on_release": "compare"}])
    record, found = await gathered(made, answered(key, world.prove(3, 7)))
    assert (record.verdict, found.body) == (Verdict.PASS, None)
    record, found = await gathered(made, answered(key, world.prove(3, 7), c=8))
    assert (record.verdict, record.reason, found.body) == (Verdict.FAIL, "output_mismatch", None)


async def test_each_way_not_to_pass(proofs: Make, world: Two, key: bytes) -> None:
    """A missing, foreign or wrong proof has its reason, and no body."""
    proof = world.prove(3, 7)
    good = answered(key, proof)
    flipped = proof | {"proof": world.prove(3, 8)["proof"]}
    cases: list[tuple[bytes, bytes, dict[str, Any], dict[str, Any], Verdict, str]] = [
        (b'{"c":7}', b'{"x":3}', {}, {}, Verdict.ABSENT, "proof_absent"),
        (b'{"c":7,"zk":null}', b'{"x":3}', {}, {}, Verdict.ABSENT, "proof_absent"),
        (b'{"c":7,"zk":"ours"}', b'{"x":3}', {}, {}, Verdict.FAIL, "proof_malformed"),
        (b'{"c":7,"zk":{"circuit":1,"proof":{}}}', b'{"x":3}', {}, {}, Verdict.FAIL, "proof_malformed"),
        (b'{"c":7,"zk":{"circuit":"sha256:00","proof":{}}}', b'{"x":3}', {}, {}, Verdict.ABSENT, "circuit_not_pinned"),
        (b"{", b'{"x":3}', {}, {}, Verdict.FAIL, "response_malformed"),
        (b"[]", b'{"x":3}', {}, {}, Verdict.FAIL, "response_malformed"),
        (good, b'{"x":4}', {}, {}, Verdict.FAIL, "binding_failed"),
        (good, b"{}", {}, {}, Verdict.FAIL, "input_unbindable"),
        (answered(key, flipped), b'{"x":3}', {}, {}, Verdict.FAIL, "proof_rejected"),
        (answered(key, proof | {"proof": proof["proof"] + "00"}), b'{"x":3}', {}, {}, Verdict.FAIL, "proof_length"),
        (good, b'{"x":3}', {"circuits": frozenset({"sha256:11"})}, {}, Verdict.ABSENT, "circuit_not_allowed"),
        (good, b'{"x":3}', {"timeout_s": 0.01}, {}, Verdict.INCONCLUSIVE, "verifier_timeout"),
        (good, b'{"x":3}', {}, {"models": ["another"]}, Verdict.FAIL, "circuit_of_another_model"),
    ]
    for response, request, terms, changes, verdict, reason in cases:
        record, found = await gathered(proofs(**changes), response, request, **terms)
        assert (record.verdict, record.reason, found.body) == (verdict, reason, None), (response, reason)


async def test_a_circuit_that_keeps_its_inputs_private(proofs: Make, world: Two, key: bytes) -> None:
    """A proof that says nothing of the request decides nothing about its answer."""
    made = proofs(inputs=[], outputs=[OUT | {"offset": 0}, OUT | {"pointer": "/d"}])
    record, found = await gathered(made, answered(key, world.prove(3, 7), c=3, d=7))
    assert (record.verdict, record.reason, found.body) == (Verdict.INCONCLUSIVE, "inputs_private", None)


async def test_the_policy_names_the_circuit_and_the_model(proofs: Make, world: Two, key: bytes) -> None:
    """A circuit that the policy allows, and that is the model's, passes."""
    made = proofs(models=["m"])
    record, _ = await gathered(made, answered(key, world.prove(3, 7)), circuits=frozenset({circuit_id(key)}))
    assert record.verdict is Verdict.PASS


async def test_a_closed_prover(proofs: Make, world: Two, key: bytes) -> None:
    """While the gateway stops, a proof that still comes in is inconclusive."""
    made = proofs()
    await gathered(made, answered(key, world.prove(3, 7)))
    await made.close()
    record, _ = await gathered(made, answered(key, world.prove(3, 7)))
    assert (record.verdict, record.reason) == (Verdict.INCONCLUSIVE, "verifier_stopped")
