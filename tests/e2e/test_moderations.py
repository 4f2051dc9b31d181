"""The reference node's classifier through a gateway, and its proofs against the folder that the node wrote."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import zk_kit
from running import Gateway, Process, node_table

from adapters.selfhosted.moderation.prover import Prover
from gateway.errors import PolicyError
from gateway.prover.circuits import load_circuit, load_circuits
from gateway.prover.verifier import Verifier
from gateway.verify.proofs import field
from gateway.verify.proofs.zk import Statement, ZkResult, ZkVerdict, conclude, prepare
from gateway.verify.proofs.zk_circuit import Circuit

MODEL = "veriroute-moderation-1"
PATH = "/v1/moderations"
TEXT = "you are an idiot"
REQUEST = json.dumps({"model": MODEL, "input": TEXT}).encode()
needs_ezkl = pytest.mark.skipif(zk_kit.missing("ezkl"), reason="ezkl is not installed (extra zk)")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, node: Process) -> Iterator[Gateway]:
    made = Gateway(tmp_path_factory.mktemp("gateway"), [node_table(node, "honest", [MODEL])]).start()
    yield made
    assert made.stop() == 0


def test_the_sdk_asks_a_gateway(gateway: Gateway) -> None:
    """`client.moderations.create` gets the node's result, released under the policy signed, with a receipt."""
    with gateway.sdk() as client:
        raw = client.moderations.with_raw_response.create(model=MODEL, input=TEXT)
        (result,) = raw.parse().results
    assert result.flagged
    assert result.categories.harassment
    assert raw.headers["x-veriroute-verdict"] == "affirming"
    predicate = gateway.receipt(raw.headers["x-veriroute-receipt"])
    assert predicate["request"]["endpoint"] == PATH
    assert predicate["request"]["model"] == MODEL


def test_a_gateway_needs_to_know_the_model(gateway: Gateway) -> None:
    """Without `model` nobody could say which nodes may answer, so the request is refused by that name."""
    with gateway.sdk() as client, pytest.raises(openai.BadRequestError, match="which nodes may answer") as caught:
        client.moderations.create(input=TEXT)
    assert caught.value.param == "model"


class Proved:
    """A node that proves, the circuit that it wrote, and one answer."""

    def __init__(self, node: Process) -> None:
        self.node = node
        self.folder = Path(node.ready["circuit_folder"])
        self.circuit = load_circuit(self.folder)
        self.response = httpx.post(node.url + PATH, content=REQUEST, timeout=60, trust_env=False).content
        self.zk = json.loads(self.response)["zk"]


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proved]:
    folder = tmp_path_factory.mktemp("prove")
    process = Process(["node", "--port", "0", "--json", "--prove", str(folder / "zk")], cwd=folder)
    yield Proved(process)
    assert process.stop() == 0
    assert process.stderr_path.read_bytes() == b""


def evidence(zk: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps({**zk["proof"], **changes}).encode()


def judged(circuit: Circuit, request: bytes, proof: bytes | None, response: bytes) -> ZkResult:
    """The whole verdict, with a real worker."""

    async def run(statement: Statement) -> ZkResult:
        verifier = Verifier()
        try:
            return conclude(circuit.manifest, statement, await verifier.verify(circuit, statement), response)
        finally:
            await verifier.aclose()

    found = prepare(circuit, request, proof)
    return found if isinstance(found, ZkResult) else asyncio.run(run(found))


@needs_ezkl
def test_the_proof_is_of_this_answer(proved: Proved) -> None:
    """The proof verifies under the folder that the node wrote, and the answer's bytes can be released as they are."""
    assert proved.zk["circuit"] == proved.node.ready["circuit"] == proved.circuit.manifest.id
    assert proved.zk["proof"].keys() == {"instances", "proof"}
    found = judged(proved.circuit, REQUEST, evidence(proved.zk), proved.response)
    assert (found.verdict, found.reason, found.inputs_bound) == (ZkVerdict.PASS, None, True)
    assert found.response == proved.response
    scores = json.loads(proved.response)["results"][0]["category_scores"]
    assert [value for (value,) in found.outputs] == list(scores.values())


@needs_ezkl
def test_the_proof_reaches_the_agent(proved: Proved, make_gateway: Callable[..., Gateway]) -> None:
    """`zk` comes through a gateway as the node sent it, under the node's signature."""
    gateway = make_gateway([node_table(proved.node, "proving", [MODEL])]).start()
    with gateway.http() as client:
        answer = client.post(PATH, content=REQUEST, headers={"content-type": "application/json"})
    document = answer.json()
    assert list(document) == ["id", "model", "results", "zk", "verification"]
    assert document["verification"]["verdict"] == "affirming"
    assert judged(proved.circuit, REQUEST, evidence(document["zk"]), answer.content).verdict is ZkVerdict.PASS


@needs_ezkl
def test_the_command_verifies_it(proved: Proved, tmp_path: Path) -> None:
    """`veriroute proof verify --circuit` accepts the saved exchange, from the files alone."""
    files = {"proof.json": evidence(proved.zk), "request.json": REQUEST, "answer.json": proved.response}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    command = [
        sys.executable, "-m", "gateway", "proof", "verify", "proof.json", "--circuit", str(proved.folder),
        "--request", "request.json", "--response", "answer.json",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "128 numbers" in done.stdout


def change(proved: Proved, how: str) -> tuple[bytes, bytes, bytes]:
    """Request, proof and response with one thing wrong."""
    proof, response = proved.zk["proof"], json.loads(proved.response)
    (result,) = response["results"]
    first, *rest = proof["instances"][0]
    given: dict[str, Any] = {}
    request = REQUEST
    if how == "another text":
        request = REQUEST.replace(b"idiot", b"angel")
    elif how == "trailing byte":
        given = {"proof": [*proof["proof"], 0]}
    elif how == "flipped byte":
        given = {"proof": [proof["proof"][0] ^ 1, *proof["proof"][1:]]}
    elif how == "other output":
        given = {"instances": [[first, *rest[:-1], field.to_bytes(128).hex()]]}
    elif how == "not canonical":
        value = int.from_bytes(bytes.fromhex(first), "little") + field.R
        given = {"instances": [[value.to_bytes(32, "little").hex(), *rest]]}
    elif how == "one public value more":
        given = {"instances": [[first, *rest, "00" * 32]]}
    elif how == "oversize":
        given = {"hex_proof": "0x" + "0" * 200_000}
    elif how == "another score":
        result["category_scores"]["harassment"] += 1 / 128
    elif how == "another flag":
        result["flagged"] = False
    elif how == "another category":
        result["categories"]["violence"] = True
    else:
        given = {"pretty_public_inputs": {"rescaled_outputs": [["0", "0", "0"]]}, "version": "1", "timestamp": 0}
    return request, evidence(proved.zk, **given), json.dumps(response).encode()


@needs_ezkl
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("altered words for people", None),
        ("another text", "binding_failed"),
        ("trailing byte", "proof_length"),
        ("flipped byte", "proof_rejected"),
        ("other output", "proof_rejected"),
        ("not canonical", "instance_not_canonical"),
        ("one public value more", "instance_count"),
        ("oversize", "proof_oversize"),
        ("another score", "output_mismatch"),
        ("another flag", "output_mismatch"),
        ("another category", "output_mismatch"),
    ],
)
def test_a_change_has_its_reason(proved: Proved, how: str, reason: str | None) -> None:
    """What is wrong with request, proof or answer is named; what nobody reads may be anything."""
    found = judged(proved.circuit, *change(proved, how))
    assert (found.verdict, found.reason) == (ZkVerdict.FAIL if reason else ZkVerdict.PASS, reason)


@needs_ezkl
@pytest.mark.parametrize(("lie", "reason"), [("other-text", "binding_failed"), ("wrong-score", "output_mismatch")])
def test_a_lie_under_a_genuine_proof_is_found(
    proved: Proved, run_node: Callable[..., Process], lie: str, reason: str
) -> None:
    """A node that holds the keys and lies proves another statement than the one its answer makes."""
    liar = run_node("--prove", str(proved.folder.parents[1]), "--dishonest", lie)
    assert liar.ready["circuit"] == proved.circuit.manifest.id  # the keys are there and are used again
    response = httpx.post(liar.url + PATH, content=REQUEST, timeout=60, trust_env=False).content
    found = judged(proved.circuit, REQUEST, evidence(json.loads(response)["zk"]), response)
    assert (found.verdict, found.reason) == (ZkVerdict.FAIL, reason)


@needs_ezkl
async def test_another_setup_is_another_circuit(proved: Proved, tmp_path: Path) -> None:
    """The same model under other keys has another id, and a proof made with them fails under the pinned ones."""
    said: list[str] = []
    prover = Prover(tmp_path / "zk", said.append)
    await prover.open()
    await prover.close()
    assert "for tests only" in "".join(said)
    (other,) = load_circuits(tmp_path / "zk" / "circuits").values()
    assert other.manifest.id == prover.circuit != proved.circuit.manifest.id
    for circuit, expected in ((other, ZkVerdict.FAIL), (proved.circuit, ZkVerdict.PASS)):
        verifier = Verifier()
        statement = prepare(circuit, REQUEST, evidence(proved.zk))
        assert isinstance(statement, Statement)
        assert (await verifier.verify(circuit, statement)).verdict is expected
        await verifier.aclose()


@needs_ezkl
@pytest.mark.parametrize("name", ["vk.key", "settings.json", "verifier.srs"])
def test_a_folder_with_a_foreign_file_is_no_circuit(proved: Proved, tmp_path: Path, name: str) -> None:
    """A key, settings or powers that are not the pinned ones are refused before any proof is looked at."""
    folder = Path(shutil.copytree(proved.folder, tmp_path / "circuit"))
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(PolicyError, match=name.replace(".", r"\.")):
        load_circuit(folder)
