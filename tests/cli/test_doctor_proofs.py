"""`veriroute doctor` under policies that ask for proofs: is there what they need?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import MODEL, Process, toml
from zk_kit import SETTINGS, SRS, VK, ezkl_toml

from gateway.cli import main

CALIBRATION = {
    "version": 1,
    "kind": "reexec",
    "statistic": "greedy_margin",
    "reference": "ref-1",
    "model": MODEL,
    "revision": "veriroute-lm/1",
    "made": "2026-01-31",
    "seeds": [1],
    "quantiles": [{"tokens": 16, "samples": 300, "p50": 0.0, "p95": 0.0006, "p99": 0.003}],
}
PROVEN = 'name = "proven"\nversion = 1\n\n[require]\nall = ["model_echo", "malformed", "shape", "proof_zk"]\n'


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("reference")
    process = Process(["node", "--port", "0", "--identity", str(folder / "id.json"), "--json"], cwd=folder)
    yield process
    process.stop()


def nodes(*operators: str | None) -> list[dict[str, Any]]:
    """Nodes that attest nothing, so that none of them has to run."""
    made = []
    for number, operator in enumerate(operators):
        node = {"id": f"n{number}", "network": "openai", "base_url": "http://127.0.0.1:9", "models": [MODEL]}
        made.append(node if operator is None else {**node, "operator": operator})
    return made


class Doctor:
    """The command, over settings that are written anew for each question."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.config = folder / "veriroute.toml"
        self._capsys = capsys

    def told(self, under: str, *more: str, **settings: Any) -> tuple[int, str]:
        self.config.write_text("".join(f"{name} = {toml(value)}\n" for name, value in settings.items()), "utf-8")
        code = main(["doctor", "openai", "--policy", under, "--config", str(self.config), *more])
        return code, self._capsys.readouterr().out

    def __call__(self, under: str, **settings: Any) -> tuple[int, list[dict[str, Any]]]:
        code, out = self.told(under, "--json", **settings)
        return code, json.loads(out)["proofs"]


@pytest.fixture
def doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Doctor:
    return Doctor(tmp_path, capsys)


@pytest.mark.parametrize(
    ("operators", "code", "outcome", "words"),
    [
        (("a", "b"), 0, "affirming", "2 known (a, b)"),
        (("a", "b", None), 0, "warning", "2 known (a, b)"),
        (("a", "a", None), 1, "contraindicated", "1 known (a), and quorum.n asks for 2"),
        ((None, None), 1, "contraindicated", "none known"),
    ],
)
def test_a_quorum_needs_operators(
    doctor: Doctor, operators: tuple[str | None, ...], code: int, outcome: str, words: str
) -> None:
    """Distinct operators are counted, not nodes; a node without one is named, and too few end with exit code 1."""
    found, (line,) = doctor("quorum", nodes=nodes(*operators))
    assert (found, line["step"], line["about"], line["outcome"]) == (code, "operators", MODEL, outcome)
    assert words in line["sentence"]
    assert ("without `operator`" in (line["detail"] or "")) == (None in operators)


def test_re_execution_needs_a_reference_and_a_calibration(doctor: Doctor, tmp_path: Path, reference: Process) -> None:
    """What is missing is said, with the command that makes it; an audit that could decide nothing holds nothing up."""
    code, (line,) = doctor("reexec", nodes=nodes("a"))
    assert (code, line["step"], line["outcome"]) == (1, "references", "contraindicated")
    assert "reference_absent" in line["sentence"]

    known = {"nodes": nodes("a"), "references": [{"id": "ref-1", "base_url": reference.url, "models": [MODEL]}]}
    code, lines = doctor("reexec", **known)
    assert code == 1
    assert [(line["step"], line["outcome"]) for line in lines] == [
        ("reference", "affirming"),
        ("references", "affirming"),
        ("calibration", "contraindicated"),
    ]
    assert f"veriroute calibrate --reference {reference.url} --reference-id ref-1" in lines[-1]["detail"]
    assert [line["outcome"] for line in doctor("audited", **known)[1]] == ["affirming", "affirming", "warning"]

    folder = tmp_path / "calibrations"
    folder.mkdir()
    (folder / "greedy.json").write_text(json.dumps(CALIBRATION), "utf-8")
    whole = {**known, "proofs": {"calibrations": str(folder)}}
    code, lines = doctor("reexec", **whole)
    assert (code, {line["outcome"] for line in lines}) == (0, {"affirming"})
    assert "what policy reexec asks of answers" in doctor.told("reexec", **whole)[1]


def test_a_reference_that_is_down_is_said(doctor: Doctor) -> None:
    """Neither a closed port nor a key that is not there is passed over."""
    down = {"id": "ref-1", "base_url": "http://127.0.0.1:9", "models": [MODEL]}
    code, lines = doctor("reexec", nodes=nodes("a"), references=[down])
    assert (code, lines[0]["outcome"]) == (1, "contraindicated")
    assert "nothing usable at http://127.0.0.1:9" in lines[0]["sentence"]
    code, lines = doctor("reexec", nodes=nodes("a"), references=[{**down, "api_key_env": "NO_SUCH_KEY_HERE"}])
    assert "NO_SUCH_KEY_HERE holds no API key" in lines[0]["sentence"]


def test_zk_needs_a_pinned_circuit(doctor: Doctor, tmp_path: Path) -> None:
    """Without a circuit for the model no proof of it could be taken, and the doctor says so."""
    shared = {"nodes": nodes("a"), "policy": {"dir": str(tmp_path / "policies.d")}}
    (tmp_path / "policies.d").mkdir()
    (tmp_path / "policies.d" / "proven.toml").write_text(PROVEN, "utf-8")
    code, (line,) = doctor("proven", **shared)
    assert (code, line["step"], line["outcome"]) == (1, "circuits", "contraindicated")
    toy = tmp_path / "circuits" / "toy"
    toy.mkdir(parents=True)
    (toy / "circuit.toml").write_text(ezkl_toml(), "utf-8")
    for name, data in (("vk.key", VK), ("settings.json", SETTINGS), ("verifier.srs", SRS)):
        (toy / name).write_bytes(data)
    code, lines = doctor("proven", **shared, proofs={"circuits": str(tmp_path / "circuits")})
    assert (code, lines[-1]["step"], lines[-1]["outcome"]) == (0, "circuits", "affirming")


def test_a_policy_without_proofs_asks_for_nothing(doctor: Doctor) -> None:
    """Then there is no such part, and the exit code is what routing makes of the nodes."""
    assert doctor("observe", nodes=nodes("a")) == (0, [])
    assert doctor("signed", nodes=nodes("a")) == (1, [])
