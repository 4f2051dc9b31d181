"""What a worker runs, run here: its verdicts, its files, and circuits read from a directory."""

from __future__ import annotations

import builtins
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import zk_kit

from gateway.errors import PolicyError
from gateway.prover import jobs, systems
from gateway.prover.circuits import load_circuit, load_circuits
from gateway.prover.verifier import Verifier
from gateway.verify.proofs import field
from gateway.verify.proofs.zk import Ran, Statement, ZkVerdict
from gateway.verify.proofs.zk_circuit import Circuit
from gateway.verify.proofs.zk_instances import Hashed
from gateway.verify.proofs.zk_manifest import EZKL_VERSION

STATEMENT = Statement(zk_kit.PROOF, zk_kit.INSTANCES, (), bytes(32))


def job(found: Statement = STATEMENT, circuit: Circuit | None = None) -> jobs.Job:
    data = jobs.job(circuit or zk_kit.circuit(), found, seconds=1.0, with_files=True)
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    return jobs.read_job(data[4:])


def library(monkeypatch: pytest.MonkeyPatch, answer: object, version: str = EZKL_VERSION) -> list[Any]:
    """A stand-in for ezkl that answers or raises `answer`; returns what it was asked."""
    asked: list[Any] = []

    def verify(proof: str, settings: str, vk: str, srs: str, reduced: bool) -> object:
        asked.append(([Path(name).read_bytes() for name in (proof, settings, vk, srs)], reduced))
        if isinstance(answer, Exception):
            raise answer
        return answer

    module = types.ModuleType("ezkl")
    module.verify = verify  # type: ignore[attr-defined]
    module.poseidon_hash = lambda values: [field.to_bytes(len(values)).hex()]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ezkl", module)
    monkeypatch.setattr(systems, "version", lambda name: version)
    return asked


def run(tmp_path: Path, found: Statement = STATEMENT) -> Ran:
    folder = tmp_path / "circuit"
    systems.store(job(found), folder)
    ran = systems.run_ezkl(job(found), folder)
    assert sorted(path.name for path in folder.iterdir()) == ["settings", "srs", "vk"]
    return ran


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (True, Ran(ZkVerdict.PASS)),
        (False, Ran(ZkVerdict.FAIL, "proof_rejected")),
        (1, Ran(ZkVerdict.FAIL, "proof_rejected")),
        (RuntimeError("Failed to run verify: [halo2] The constraint system is not satisfied"), Ran(ZkVerdict.FAIL, "proof_rejected")),
        (RuntimeError("Failed to run verify: [srs] failed to read srs"), Ran(ZkVerdict.INCONCLUSIVE, "verifier_error")),
        (RuntimeError("[halo2]"), Ran(ZkVerdict.INCONCLUSIVE, "verifier_error")),
    ],
    ids=str,
)  # fmt: skip
def test_what_ezkl_says_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: object, expected: Ran) -> None:
    """Only True passes; a complaint about anything but the proof is no verdict on the node."""
    asked = library(monkeypatch, answer)
    assert run(tmp_path) == expected
    ((proof, settings, vk, srs), reduced) = asked[0]
    assert (settings, vk, srs, reduced) == (zk_kit.SETTINGS, zk_kit.VK, zk_kit.SRS, True)
    assert proof == zk_kit.proof_json()[: len(proof)]


def test_a_hashed_input_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash of our values must be the proof's instance before the proof is run at all."""
    asked = library(monkeypatch, True)
    good = Statement(zk_kit.PROOF, (2, *zk_kit.INSTANCES[1:]), (Hashed(0, (5, 6)),), bytes(32))
    assert run(tmp_path, good) == Ran(ZkVerdict.PASS)
    bad = Statement(zk_kit.PROOF, (3, *zk_kit.INSTANCES[1:]), (Hashed(0, (5, 6)),), bytes(32))
    assert run(tmp_path, bad) == Ran(ZkVerdict.FAIL, "binding_failed")
    assert len(asked) == 1


def test_another_ezkl_judges_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version other than the one that was examined is not trusted with a verdict."""
    library(monkeypatch, True, version="24.0.0")
    assert run(tmp_path) == Ran(ZkVerdict.INCONCLUSIVE, "verifier_version")


def refuse(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    real = builtins.__import__

    def importing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == missing:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)


def test_without_ezkl_there_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, proofs of ezkl are inconclusive."""
    refuse(monkeypatch, "ezkl")
    assert run(tmp_path) == Ran(ZkVerdict.INCONCLUSIVE, "verifier_missing")


def groth16_circuit(tmp_path: Path, world: zk_kit.Groth16) -> Circuit:
    tmp_path.joinpath("vk.json").write_bytes(world.key())
    tmp_path.joinpath("circuit.toml").write_text(zk_kit.groth16_toml(world.key()))
    return load_circuit(tmp_path)


async def test_groth16_runs_in_a_worker(tmp_path: Path) -> None:
    """A real worker accepts a proof of its statement, refuses it for another, and names a point that is none."""
    zk_kit.need_py_ecc()
    world = zk_kit.Groth16()
    circuit, proof = groth16_circuit(tmp_path, world), world.proof(12)
    verifier = Verifier()
    try:
        assert await verifier.verify(circuit, Statement(proof, (12,), (), b"")) == Ran(ZkVerdict.PASS)
        wrong = await verifier.verify(circuit, Statement(proof, (13,), (), b""))
        assert wrong == Ran(ZkVerdict.FAIL, "proof_rejected")
        nowhere = await verifier.verify(circuit, Statement(bytes(256), (12,), (), b""))
        assert nowhere == Ran(ZkVerdict.FAIL, "point_not_on_curve")
    finally:
        await verifier.aclose()


def test_groth16_without_its_library_is_inconclusive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without py_ecc a Groth16 proof is not judged; with it, the verdict is the equation's."""
    zk_kit.need_py_ecc()
    world = zk_kit.Groth16()
    circuit = groth16_circuit(tmp_path, world)
    found = job(Statement(world.proof(12), (12,), (), b""), circuit)
    systems.store(found, tmp_path)
    assert systems.run_groth16(found, tmp_path) == Ran(ZkVerdict.PASS)
    refuse(monkeypatch, "py_ecc")
    assert systems.run_groth16(found, tmp_path) == Ran(ZkVerdict.INCONCLUSIVE, "verifier_missing")


def write(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "circuit.toml").write_text(zk_kit.ezkl_toml(**changes))
    for name, data in (("vk.key", zk_kit.VK), ("settings.json", zk_kit.SETTINGS), ("verifier.srs", zk_kit.SRS)):
        (folder / name).write_bytes(data)
    return folder


def test_circuits_are_read_from_a_directory(tmp_path: Path) -> None:
    """Each folder with a manifest is a circuit, found by its id."""
    write(tmp_path / "a")
    (tmp_path / "notes").mkdir()
    circuit = zk_kit.circuit()
    assert load_circuits(tmp_path) == {circuit.manifest.id: circuit}


def test_a_circuit_stands_there_once(tmp_path: Path) -> None:
    """Two folders of one verifying key could pin it differently, so that is an error."""
    write(tmp_path / "a")
    write(tmp_path / "b")
    with pytest.raises(PolicyError, match="two folders"):
        load_circuits(tmp_path)


@pytest.mark.parametrize("name", ["circuit.toml", "vk.key", "settings.json", "verifier.srs"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    """The error says which file could not be read."""
    folder = write(tmp_path / "a")
    (folder / name).unlink()
    with pytest.raises(PolicyError, match=name):
        load_circuit(folder)


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    """A file with another hash than the pinned one is named with its manifest; a huge one is not read."""
    folder = write(tmp_path / "a")
    (folder / "vk.key").write_bytes(b"another")
    with pytest.raises(PolicyError, match=r"circuit\.toml: vk\.key has the SHA-256"):
        load_circuit(folder)
    (folder / "circuit.toml").write_bytes(b" " * 65_537)
    with pytest.raises(PolicyError, match="more than 65536 bytes"):
        load_circuit(folder)


def test_the_public_powers_come_with_the_package(tmp_path: Path) -> None:
    """A circuit of the public ceremony needs no file of its own."""
    folder = write(tmp_path / "a", srs="public-kzg-k1")
    (folder / "verifier.srs").unlink()
    assert len(load_circuit(folder).srs) == 516


def test_the_public_powers_are_powers(tmp_path: Path) -> None:
    """The 516 bytes hold G, sG, their Lagrange form, H and sH for one s, by the pairing."""
    lib = zk_kit.need_py_ecc("py_ecc.optimized_bn128")
    srs = load_circuit(write(tmp_path / "a", srs="public-kzg-k1")).srs
    q = lib.field_modulus
    words = [int.from_bytes(srs[at : at + 32], "little") * pow(2**256, -1, q) % q for at in range(4, 516, 32)]
    one = lib.FQ(1)
    g, sg, l0, l1 = ((lib.FQ(words[i]), lib.FQ(words[i + 1]), one) for i in (0, 2, 4, 6))
    h, sh = ((lib.FQ2(words[i : i + 2]), lib.FQ2(words[i + 2 : i + 4]), lib.FQ2([1, 0])) for i in (8, 12))
    assert srs[:4] == b"\1\0\0\0"
    assert lib.eq(g, lib.G1)
    assert lib.eq(h, lib.G2)
    assert lib.eq(lib.add(l0, l1), g)
    assert lib.eq(lib.add(l0, lib.neg(l1)), sg)
    assert lib.pairing(h, sg) == lib.pairing(sh, g)
