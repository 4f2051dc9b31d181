"""`veriroute proof` on real and recorded proofs and answers: each gives its stated verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zk_kit

from gateway.cli import main

FOLDER = Path(__file__).parents[2].parent / "shared/vectors/proofs"
EZKL, PAIRS = FOLDER / "ezkl", FOLDER / "reexec/greedy_pairs.json"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the proof vectors are not at {FOLDER}")
needs_ezkl = pytest.mark.skipif(zk_kit.missing("ezkl"), reason="ezkl is not installed (extra zk)")

INPUT = {"pointer": "/input_data/0", "offset": 0, "count": 4, "scale": 7, "visibility": "public"}
HASHED: dict[str, Any] = {
    "proof_len": 3840, "n_instances": 4, "inputs": [{**INPUT, "visibility": "hashed"}],
    "outputs": [{"pointer": "/output/0", "offset": 1, "count": 3, "scale": 7, "tolerance": 0.0078125, "on_release": "compare"}],
}  # fmt: skip


def folder_of(name: str, place: Path, **changes: Any) -> Path:
    """The circuit of one folder of vectors, as an operator would pin it."""
    files = {file: (EZKL / name / file).read_bytes() for file in ("vk.key", "settings.json", "verifier.srs")}
    for file, data in files.items():
        (place / file).write_bytes(data)
    text = zk_kit.ezkl_toml(
        files["vk.key"], files["settings.json"], files["verifier.srs"], **({"proof_len": 3072} | changes)
    )
    (place / "circuit.toml").write_text(text)
    return place


def verify(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, Any]:
    code = main(["proof", "verify", *map(str, args), "--json"])
    return code, json.loads(capsys.readouterr().out)


@needs_ezkl
@pytest.mark.parametrize(
    ("name", "proof_of", "changes", "old", "new", "code", "reason"),
    [
        ("public", "public", {}, b"", b"", 0, None),
        ("hashed", "hashed", HASHED, b"", b"", 0, None),
        ("public", "public", {}, b"0.25", b"0.26", 1, "binding_failed"),
        ("hashed", "hashed", HASHED, b"0.25", b"0.26", 1, "binding_failed"),
        ("public", "other_model", {}, b"", b"", 1, "proof_rejected"),
    ],
)
def test_recorded_proofs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
    name: str, proof_of: str, changes: dict[str, Any], old: bytes, new: bytes, code: int, reason: str | None,
) -> None:  # fmt: skip
    """A circuit's own proof passes; one of another request, or of another model, is refused with its reason."""
    expected = json.loads((EZKL / name / "expected.json").read_bytes())
    (tmp_path / "request").write_bytes((EZKL / name / "input.json").read_bytes().replace(old, new))
    (tmp_path / "response").write_text(json.dumps({"output": [expected["float_model_output"]]}))
    got, document = verify(
        capsys, EZKL / proof_of / "proof.json", "--circuit", folder_of(name, tmp_path, **changes),
        "--request", tmp_path / "request", "--response", tmp_path / "response",
    )  # fmt: skip
    assert (got, document["record"].get("reason")) == (code, reason)
    if code == 0:
        assert document["proven"] == [expected["output_from_instances"]]


@needs_ezkl
def test_the_production_proof(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real proof of a real network holds; it keeps its inputs private, so it is not about any request."""
    source = EZKL / "sn2_lstm_real"
    for name in ("vk.key", "settings.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    migrated = zk_kit.sha((source / "settings_for_23.json").read_bytes())
    text = zk_kit.ezkl_toml(
        (source / "vk.key").read_bytes(), (source / "settings.json").read_bytes(), ezkl_version="22.0.1",
        srs="public-kzg-k1", proof_len=4192, n_instances=1, inputs=[],
        outputs=[{"pointer": "/output", "offset": 0, "count": 1, "scale": 13, "tolerance": 0.001, "on_release": "compare"}],
        migration={"ezkl_version": "23.0.5", "settings_sha256": migrated},
    )  # fmt: skip
    (tmp_path / "circuit.toml").write_text(text)
    (tmp_path / "response").write_text('{"output":-0.2071533203125}')
    args = [source / "proof.json", "--circuit", tmp_path, "--response", tmp_path / "response"]
    code, document = verify(capsys, *args)
    assert (code, document["proven"]) == (0, [[-0.2071533203125]])
    code, document = verify(capsys, *args, "--request", tmp_path / "response")
    assert code == 3
    (tmp_path / "response").write_text('{"output":0.5}')
    code, document = verify(capsys, *args)
    assert code == 1


def pairs() -> list[Any]:
    if not PAIRS.is_file():
        return []
    cases = enumerate(json.loads(PAIRS.read_bytes()))
    return [
        pytest.param(case["responses"], node, wanted, id=f"{node}-{number}")
        for number, case in cases
        for node, wanted in case["agree_with_ref(tau=0.5,delta=0.05)"].items()
    ]


@pytest.mark.parametrize(("responses", "node", "wanted"), pairs())
def test_recorded_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], responses: Any, node: str, wanted: Any
) -> None:
    """Two recorded answers, their text put together from their tokens, compare as the collection says."""
    (tmp_path / "r").write_text('{"model":"tinylm","temperature":0}')
    args = ["proof", "quorum", "--request", str(tmp_path / "r"), "--tau", "0.5"]
    for name in ("ref", node):
        answer = json.loads(json.dumps(responses[name]))
        (choice,) = answer["choices"]  # whose text has spaces that no token spells
        choice["message"]["content"] = "".join(token["token"] for token in choice["logprobs"]["content"])
        (tmp_path / name).write_text(json.dumps(answer))
        args += ["--response", str(tmp_path / name), "--operator", name]
    code = main([*args, "--json"])
    assert code == {"agree": 0, "disagree": 1, "inconclusive": 3}[wanted["verdict"]]
    assert json.loads(capsys.readouterr().out)["pairs"][0]["agreement"] == wanted["verdict"]
