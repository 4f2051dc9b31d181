"""Real and recorded zero-knowledge and TOPLOC proofs: each gives its stated verdict."""

from __future__ import annotations

import asyncio
import base64
import copy
import hashlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import zk_kit

from gateway.errors import FormatError, PolicyError
from gateway.prover.circuits import load_circuit
from gateway.prover.verifier import Limits, Verifier
from gateway.verify.proofs import field, toploc, zk_settings
from gateway.verify.proofs.zk import Ran, Statement, ZkResult, ZkVerdict, conclude, prepare
from gateway.verify.proofs.zk_circuit import Circuit, hold_files
from gateway.verify.proofs.zk_instances import quantise
from gateway.verify.proofs.zk_manifest import Input, Number, Visibility, parse_manifest

FOLDER = Path(__file__).parents[2].parent / "shared/vectors/proofs"
EZKL, TOPLOC, GROTH16 = FOLDER / "ezkl", FOLDER / "toploc/vectors.json", FOLDER / "groth16/groth16_mul.json"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the proof vectors are not at {FOLDER}")

try:
    import ezkl
except ImportError:
    ezkl = None
needs_ezkl = pytest.mark.skipif(ezkl is None, reason="ezkl is not installed (extra zk)")
needs_py_ecc = pytest.mark.skipif(zk_kit.missing("py_ecc"), reason="py_ecc is not installed (extra zk)")

REAL_ID = "f5b6043594f46ae6bd176ce60c7a099291cc6a3f6436fecd46142b1b1ecca5fb"


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def circuit_of(name: str, **changes: Any) -> Circuit:
    """The circuit of one folder of vectors, its manifest written as its operator would."""
    files = {file: (EZKL / name / file).read_bytes() for file in ("vk.key", "settings.json", "verifier.srs")}
    text = zk_kit.ezkl_toml(
        files["vk.key"], files["settings.json"], files["verifier.srs"], **{"proof_len": 3072, **changes}
    )
    return hold_files(parse_manifest(f"{name}.toml", text.encode()), files)


PUBLIC = {"pointer": "/input_data/0", "offset": 0, "count": 4, "scale": 7, "visibility": "public"}
OUTPUT = {"pointer": "/output/0", "offset": 4, "count": 3, "scale": 7, "tolerance": 0.0078125, "on_release": "replace"}
HASHED = {
    "proof_len": 3840, "n_instances": 4, "inputs": [{**PUBLIC, "visibility": "hashed"}],
    "outputs": [{**OUTPUT, "offset": 1}],
}  # fmt: skip


@pytest.fixture
async def verifier() -> AsyncIterator[Verifier]:
    pool = Verifier(Limits(workers=2, seconds=60.0))
    yield pool
    await pool.aclose()


async def judge(verifier: Verifier, circuit: Circuit, evidence: bytes, request: bytes, response: bytes) -> ZkResult:
    found = prepare(circuit, request, evidence)
    if isinstance(found, ZkResult):
        return found
    return conclude(circuit.manifest, found, await verifier.verify(circuit, found), response)


def response(name: str) -> bytes:
    return json.dumps({"output": [read(EZKL / name / "expected.json")["float_model_output"]]}).encode()


@needs_ezkl
@pytest.mark.parametrize(
    ("name", "changes"), [("public", {"outputs": [OUTPUT]}), ("hashed", HASHED), ("other_model", {"outputs": [OUTPUT]})]
)
async def test_a_proof_holds_and_its_numbers_are_released(
    verifier: Verifier, name: str, changes: dict[str, Any]
) -> None:
    """Each circuit's own proof passes, and the released values are the ones that it proves."""
    circuit = circuit_of(name, **changes)
    request = (EZKL / name / "input.json").read_bytes()
    result = await judge(verifier, circuit, (EZKL / name / "proof.json").read_bytes(), request, response(name))
    expected = read(EZKL / name / "expected.json")["output_from_instances"]
    assert (result.verdict, result.reason, result.inputs_bound) == (ZkVerdict.PASS, None, True)
    assert result.outputs == (tuple(expected),)
    assert result.response is not None
    assert json.loads(result.response) == {"output": [expected]}


def set_at(name: str, index: int, prefix: str) -> Callable[[Any, Any], None]:
    def change(proof: Any, settings: Any) -> None:
        row = proof["instances"][0]
        row[index] = prefix + row[index][2:]

    return change


MUTATIONS: dict[str, Callable[[Any, Any], object]] = {
    "unchanged": lambda proof, settings: None,
    "output instance altered": set_at("output", -1, "14"),
    "input instance altered": set_at("input", 0, "21"),
    "instance appended": lambda proof, settings: proof["instances"][0].append("00" * 32),
    "proof byte flipped": lambda proof, settings: proof["proof"].append(proof["proof"].pop() ^ 1),
    "proof trailing byte": lambda proof, settings: proof["proof"].append(0),
    "hex_proof garbage": lambda proof, settings: proof.update(hex_proof="0x00"),
    "pretty_public_inputs lies": lambda proof, settings: proof["pretty_public_inputs"].update(rescaled_outputs=[["9"] * 3]),
    "version/timestamp lies": lambda proof, settings: proof.update(version="99", timestamp=1),
    "settings output scale changed": lambda proof, settings: settings.update(model_output_scales=[0]),
    "settings input_visibility changed": lambda proof, settings: settings["run_args"].update(input_visibility="Private"),
    "settings logrows changed": lambda proof, settings: settings["run_args"].update(logrows=13),
}  # fmt: skip


def cases() -> list[Any]:
    if not FOLDER.is_dir():
        return []
    return [pytest.param(case, id=case["case"]) for case in read(EZKL / "public/cases.json")]


@needs_ezkl
@pytest.mark.parametrize("case", cases())
async def test_every_case_ends_as_the_gateway_must(verifier: Verifier, case: dict[str, str]) -> None:
    """What the library lets through is refused where it must be, and what nobody checks is ignored."""
    proof = copy.deepcopy(read(EZKL / "public/proof.json"))
    original = (EZKL / "public/settings.json").read_bytes()
    settings = json.loads(original)
    MUTATIONS[case["case"]](proof, settings)
    circuit = circuit_of("public")
    if settings != json.loads(original):  # a node's settings are not taken; an operator's are held to their hash
        files = {name: (EZKL / "public" / name).read_bytes() for name in ("vk.key", "verifier.srs")}
        with pytest.raises(PolicyError, match="pins"):
            hold_files(circuit.manifest, {**files, "settings.json": json.dumps(settings).encode()})
        verdict = ZkVerdict.FAIL
    else:
        request = (EZKL / "public/input.json").read_bytes()
        found = await judge(verifier, circuit, json.dumps(proof).encode(), request, response("public"))
        verdict = found.verdict
        if verdict is ZkVerdict.PASS:
            assert found.outputs == (tuple(read(EZKL / "public/expected.json")["output_from_instances"]),)
    must = case["gateway_must"].split(":")[0].split(" ")[0].rstrip(";")
    assert verdict is {"accept": ZkVerdict.PASS, "ignore": ZkVerdict.PASS, "reject": ZkVerdict.FAIL}[must]


@needs_ezkl
async def test_another_models_proof_fails(verifier: Verifier) -> None:
    """A proof of a circuit of the same shape and other weights is refused under this one's key."""
    circuit = circuit_of("public")
    proof = (EZKL / "other_model/proof.json").read_bytes()
    request = (EZKL / "public/input.json").read_bytes()
    result = await judge(verifier, circuit, proof, request, response("public"))
    assert (result.verdict, result.reason) == (ZkVerdict.FAIL, "proof_rejected")
    own = circuit_of("other_model")
    with pytest.raises(PolicyError, match=r"vk\.key"):
        hold_files(circuit.manifest, {"vk.key": own.vk, "settings.json": circuit.settings, "verifier.srs": circuit.srs})


@needs_ezkl
@pytest.mark.parametrize(("name", "changes"), [("public", {}), ("hashed", HASHED)])
async def test_a_proof_of_another_request_fails(verifier: Verifier, name: str, changes: dict[str, Any]) -> None:
    """A request changed after the proof was made is not what the proof is about."""
    request = (EZKL / name / "input.json").read_bytes().replace(b"0.25", b"0.26")
    result = await judge(
        verifier, circuit_of(name, **changes), (EZKL / name / "proof.json").read_bytes(), request, response(name)
    )
    assert (result.verdict, result.reason) == (ZkVerdict.FAIL, "binding_failed")


@needs_ezkl
@pytest.mark.parametrize(
    ("mode", "value", "verdict"),
    [("compare", 0.15, "pass"), ("compare", 0.2, "fail"), ("replace", 0.2, "pass")],
)
async def test_an_answer_that_differs(verifier: Verifier, mode: str, value: float, verdict: str) -> None:
    """A number beyond the tolerance fails where it is compared, and is replaced where it is replaced."""
    circuit = circuit_of("public", outputs=[{**OUTPUT, "on_release": mode}])
    body = json.dumps({"output": [[0.0, -0.03, value]]}).encode()
    request = (EZKL / "public/input.json").read_bytes()
    result = await judge(verifier, circuit, (EZKL / "public/proof.json").read_bytes(), request, body)
    assert result.verdict == verdict
    if mode == "replace":
        assert result.response == b'{"output":[[0.0,-0.03125,0.1484375]]}'


def real_circuit(tmp_path: Path) -> Circuit:
    """The production circuit in an operator's folder: migrated settings, and the powers that come with the package."""
    source = EZKL / "sn2_lstm_real"
    for name in ("vk.key", "settings.json"):
        tmp_path.joinpath(name).write_bytes((source / name).read_bytes())
    text = zk_kit.ezkl_toml(
        (source / "vk.key").read_bytes(),
        (source / "settings.json").read_bytes(),
        ezkl_version="22.0.1",
        srs="public-kzg-k1",
        proof_len=4192,
        n_instances=1,
        inputs=[],
        outputs=[{**OUTPUT, "pointer": "/output", "offset": 0, "count": 1, "scale": 13}],
        migration={
            "ezkl_version": "23.0.5",
            "settings_sha256": hashlib.sha256((source / "settings_for_23.json").read_bytes()).hexdigest(),
        },
    )
    tmp_path.joinpath("circuit.toml").write_text(text)
    return load_circuit(tmp_path)


@needs_ezkl
async def test_the_production_proof_holds(verifier: Verifier, tmp_path: Path) -> None:
    """A real proof of a real network verifies within five seconds against 516 bytes of the public ceremony."""
    circuit = real_circuit(tmp_path)
    assert circuit.manifest.id == "sha256:" + REAL_ID == "sha256:" + hashlib.sha256(circuit.vk).hexdigest()
    assert circuit.settings == (EZKL / "sn2_lstm_real/settings_for_23.json").read_bytes()
    assert len(circuit.srs) == 516
    evidence = (EZKL / "sn2_lstm_real/proof.json").read_bytes()
    started = time.monotonic()
    result = await judge(verifier, circuit, evidence, b"{}", b'{"output":0}')
    assert time.monotonic() - started < 5.0
    assert (result.verdict, result.outputs, result.inputs_bound) == (ZkVerdict.PASS, ((-0.2071533203125,),), False)
    assert result.response == b'{"output":-0.2071533203125}'
    forged = json.loads(evidence)
    forged["instances"][0][0] = field.to_bytes(field.R - 1695).hex()
    result = await judge(verifier, circuit, json.dumps(forged).encode(), b"{}", b'{"output":0}')
    assert (result.verdict, result.reason) == (ZkVerdict.FAIL, "proof_rejected")


def test_migrated_settings_are_the_recorded_ones() -> None:
    """The migration of the production circuit's settings gives the recorded bytes."""
    source = EZKL / "sn2_lstm_real"
    assert (
        zk_settings.migrate((source / "settings.json").read_bytes()) == (source / "settings_for_23.json").read_bytes()
    )


@needs_ezkl
async def test_twenty_real_verifications_hold_up_nothing(verifier: Verifier) -> None:
    """A ticker of one millisecond is never 50 ms late while twenty proofs are verified."""
    circuit = circuit_of("public")
    found = prepare(circuit, (EZKL / "public/input.json").read_bytes(), (EZKL / "public/proof.json").read_bytes())
    assert isinstance(found, Statement)
    await asyncio.gather(*(verifier.verify(circuit, found) for _ in range(2)))
    loop, late, done = asyncio.get_running_loop(), [0.0], asyncio.Event()

    async def ticker() -> None:
        while not done.is_set():
            before = loop.time()
            await asyncio.sleep(0.001)
            late.append(loop.time() - before - 0.001)

    task = asyncio.create_task(ticker())
    ran = await asyncio.gather(*(verifier.verify(circuit, found) for _ in range(20)))
    done.set()
    await task
    assert ran == [Ran(ZkVerdict.PASS)] * 20
    assert max(late) < 0.05


@needs_ezkl
async def test_killed_in_the_middle_of_a_real_proof(tmp_path: Path) -> None:
    """The proof under way is inconclusive, the next passes."""
    circuit = real_circuit(tmp_path)
    found = prepare(circuit, b"{}", (EZKL / "sn2_lstm_real/proof.json").read_bytes())
    assert isinstance(found, Statement)
    pool = Verifier(Limits(seconds=60.0))
    try:
        assert await pool.verify(circuit, found) == Ran(ZkVerdict.PASS)
        running = asyncio.create_task(pool.verify(circuit, found))
        await asyncio.sleep(0.1)
        pid = pool.workers[0].pid
        assert pid
        os.kill(pid, signal.SIGKILL)
        assert await running == Ran(ZkVerdict.INCONCLUSIVE, "verifier_crashed")
        assert await pool.verify(circuit, found) == Ran(ZkVerdict.PASS)
    finally:
        await pool.aclose()


@needs_ezkl
async def test_too_little_memory_is_inconclusive(tmp_path: Path) -> None:
    """A proof that needs more memory than a worker has is not judged, however good it is."""
    circuit = real_circuit(tmp_path)
    found = prepare(circuit, b"{}", (EZKL / "sn2_lstm_real/proof.json").read_bytes())
    assert isinstance(found, Statement)
    pool = Verifier(Limits(seconds=60.0, memory=200 << 20))
    try:
        assert await pool.verify(circuit, found) == Ran(ZkVerdict.INCONCLUSIVE, "verifier_crashed")
    finally:
        await pool.aclose()


@needs_ezkl
def test_numbers_are_scaled_as_ezkl_scales_them() -> None:
    """Our rounding is the library's, also where adding a half would round up too far."""
    numbers = [0.49999999999999994, -0.5, 2.5, -2.5, 0.1, 1e-9, 12345.678, -0.0]
    for scale in (0, 7, 13, 30):
        entry = Input("", 0, 1, scale, Visibility.PUBLIC, Number.F64)
        for x in numbers:
            assert field.to_bytes(quantise(x, entry)).hex() == ezkl.float_to_felt(x, scale), (x, scale)


@needs_ezkl
def test_inputs_are_rounded_to_single_precision_first(tmp_path: Path) -> None:
    """A witness of a circuit with F32 inputs has the instances that we compute, at the edge between two of them."""
    numbers = [5.5 / 128 - 1e-12, 0.1 + 1e-9, -5.5 / 128, 0.49999999999999994]
    compiled, data = tmp_path / "compiled", tmp_path / "input.json"
    ezkl.compile_circuit(str(EZKL / "public/network.onnx"), str(compiled), str(EZKL / "public/settings.json"))
    data.write_text(json.dumps({"input_data": [numbers]}))
    ezkl.gen_witness(str(data), str(compiled), str(tmp_path / "witness.json"))
    entry = Input("", 0, 1, 7, Visibility.PUBLIC, Number.F32)
    ours = [field.to_bytes(quantise(x, entry)).hex() for x in numbers]
    assert read(tmp_path / "witness.json")["inputs"] == [ours]


@needs_py_ecc
async def test_the_groth16_vector(verifier: Verifier) -> None:
    """The recorded proof holds for 12 and not for 13."""
    vector = read(GROTH16)
    key = json.dumps(vector["vk"]).encode()
    circuit = hold_files(parse_manifest("m", zk_kit.groth16_toml(key).encode()), {"vk.json": key})
    for value, expected in (("12", ZkVerdict.PASS), ("13", ZkVerdict.FAIL)):
        evidence = json.dumps({"proof": vector["proof_be_hex"], "public": [value]}).encode()
        result = await judge(verifier, circuit, evidence, b"", b'{"c":%s}' % value.encode())
        assert result.verdict is expected


def toploc_cases(kind: str) -> list[Any]:
    if not TOPLOC.is_file():
        return []
    return [pytest.param(case, id=case.get("prover") or case.get("case")) for case in read(TOPLOC)[kind]]


@pytest.mark.parametrize("case", toploc_cases("vectors"))
def test_toploc_distances(case: dict[str, Any]) -> None:
    """Every recorded proof is as far from the trusted activations as stated, and judged so by the stated thresholds."""
    trusted = toploc.Activations(tuple(case["verifier_indices"]), tuple(case["verifier_bf16_bits"]))
    found = toploc.distance(toploc.decode(bytes.fromhex(case["proof_hex"])), trusted)
    expect = case["expect"]
    assert (found.exponents, found.signs) == (expect["exp_mismatches"], expect["sign_mismatches"])
    assert found.mantissa_mean == pytest.approx(expect["mant_err_mean"])
    assert found.mantissa_median == pytest.approx(expect["mant_err_median"])
    published = toploc.Thresholds("published", 38, 10.0, 8.0, 127)
    assert toploc.within(found, published) is expect["accept_default_thresholds"]


@pytest.mark.parametrize("case", toploc_cases("malformed"))
def test_toploc_malformed(case: dict[str, Any]) -> None:
    """What crashes the published verifier is refused."""
    with pytest.raises(FormatError) as caught:
        toploc.decode(bytes.fromhex(case["proof_hex"]))
    assert caught.value.reason == "toploc_malformed"


def test_toploc_proofs_of_the_library_decode() -> None:
    """Proofs published with the library decode, with their smaller number of activations."""
    library = read(TOPLOC)["library_format"]
    for proof in library["proofs_b64"]:
        assert toploc.decode(base64.b64decode(proof), top_k=library["topk"]).modulus > 1
