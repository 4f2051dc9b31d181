"""`veriroute appraise`: one item, and folders of cases."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tee_worlds import tokens
from tee_worlds.nitro import World, der
from tee_worlds.nvidia import NOW as TOKENS_NOW

from gateway.cli import main

NOW = 1_750_000_000


@pytest.fixture(scope="module")
def world() -> World:
    return World(now=NOW)


@pytest.fixture
def files(tmp_path: Path, world: World) -> Path:
    (tmp_path / "doc.bin").write_bytes(world.document(nonce=b"n" * 32, user_data=b"u"))
    (tmp_path / "root.der").write_bytes(der(world.root))
    return tmp_path


def appraise(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    code = main(["appraise", *map(str, args)])
    out = capsys.readouterr()
    return code, out.out, out.err


def item(files: Path) -> list[str | Path]:
    return ["--kind", "nitro", "--evidence", files / "doc.bin", "--now", str(NOW + 5)]


def test_a_genuine_item_under_a_test_root(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every check holds, the root is called TEST on the screen, and that alone keeps it from being accepted."""
    code, out, _ = appraise(
        capsys, *item(files), "--trust-test-root", files / "root.der", "--param", f"nonce={(b'n' * 32).hex()}"
    )
    assert code == 1
    assert "root=TEST" in out
    assert "refused: test_root" in out
    assert "contraindicated" in out  # tee_root, and nothing else
    assert out.count("contraindicated") == 1


def test_the_claims_record_as_json(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--json gives the record, every check and every rule."""
    code, out, _ = appraise(capsys, *item(files), "--trust-test-root", files / "root.der", "--json")
    found = json.loads(out)
    assert code == 1
    assert (found["accepted"], found["violations"]) == (False, ["test_root"])
    assert found["claims"]["schema"] == "tee-claims/1"
    assert found["claims"]["root"]["test"] is True
    assert {check["id"] for check in found["rules"]} >= {"tee_debug", "tee_root", "tee_binding"}


def test_an_unknown_root_is_refused(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A root that is given and not pinned is not believed."""
    code, out, _ = appraise(capsys, *item(files), "--root", f"nitro={files / 'root.der'}")
    assert code == 1
    assert "refused: not_authentic" in out


def test_a_policy_judges(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The section [tee] of a policy is what is asked; a policy that wants another platform refuses this one."""
    policy = tmp_path / "p.toml"
    policy.write_text('name = "p"\nversion = 1\n[require]\nall = ["evidence"]\n[tee]\nplatforms = ["intel-tdx"]\n')
    code, out, _ = appraise(capsys, *item(files), "--trust-test-root", files / "root.der", "--policy", policy, "--json")
    assert code == 1
    assert {"platform", "unbound", "test_root"} <= set(json.loads(out)["violations"])
    code, out, _ = appraise(
        capsys, *item(files), "--trust-test-root", files / "root.der", "--policy", "strict", "--json"
    )
    assert "unbound" in json.loads(out)["violations"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "give --manifest DIR, or --kind and --evidence"),
        (["--kind", "nitro"], "give --manifest DIR, or --kind and --evidence"),
        (["--manifest", "x", "--kind", "nitro"], "one or the other"),
        (["--manifest", "nowhere"], "cannot read nowhere/manifest.json"),
        (["--kind", "nitro", "--evidence", "nowhere"], "cannot read nowhere"),
        (["--kind", "nitro", "--evidence", "DOC", "--collateral", "DOC"], "has no collateral"),
        (["--kind", "snp", "--evidence", "DOC"], "its inputs are report, ek, ask"),
        (["--kind", "nitro", "--evidence", "DOC", "--now", "yesterday"], "--now takes RFC 3339"),
        (["--kind", "nitro", "--evidence", "DOC", "--now", "nan"], "--now takes RFC 3339"),
        (["--kind", "nitro", "--evidence", "DOC", "--now", "1e999"], "--now takes RFC 3339"),
        (["--kind", "nitro", "--evidence", "DOC", "--param", "max_age_s=soon"], "max_age_s is not a number"),
        (
            ["--kind", "tdx", "--evidence", "DOC", "--collateral", "DOC", "--param", "lowest_evaluation=1.5"],
            "whole number",
        ),
        (["--kind", "nitro", "--evidence", "DOC", "--now", "2025-01-01T00:00:00"], "--now needs a time zone"),
        (["--kind", "nitro", "--evidence", "DOC", "--root", "x"], "--root takes NAME=VALUE"),
        (["--kind", "nitro", "--evidence", "DOC", "--policy", "nosuch"], "there is no policy 'nosuch'"),
        (["--kind", "nitro", "--evidence", "DOC", "--policy", "nosuch.toml"], "cannot be read"),
    ],
)
def test_wrong_usage_says_what_to_do(
    files: Path, capsys: pytest.CaptureFixture[str], args: list[str], words: str
) -> None:
    """Exit code 2, and one line that says what is wrong."""
    code, out, err = appraise(capsys, *[str(files / "doc.bin") if a == "DOC" else a for a in args])
    assert (code, out) == (2, "")
    assert words in err


def test_a_file_that_no_evidence_is(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file over the limit is not read."""
    monkeypatch.setattr("gateway.cli._appraise_inputs.MAX_FILE", 8)
    code, _, err = appraise(capsys, *item(files))
    assert code == 2
    assert "which no evidence is" in err


@pytest.fixture
def folder(files: Path) -> Path:
    def case(name: str, authentic: bool, **more: Any) -> dict[str, Any]:
        expected = {"authentic": authentic, "default_policy": {"accept": authentic, "violations": []}}
        return {"id": name, "inputs": {"doc": "doc.bin"}, "evaluation_time": NOW + 5, "expected": expected, **more}

    flip = [{"target": "doc", "op": "xor", "offset": 200, "mask": 1}]
    manifest = {
        "kind": "nitro",
        "roots": {"ours": "root.der"},
        "files": {"doc.bin": {"sha256": hashlib.sha256((files / "doc.bin").read_bytes()).hexdigest()}},
        "cases": [case("good", True), case("bit", False, mutations=flip), case("wrong", True, mutations=flip)],
    }
    (files / "manifest.json").write_text(json.dumps(manifest))
    return files


def test_a_folder_of_cases(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a case, what differs below it, and the count; exit code 1 when one is not as expected."""
    code, out, _ = appraise(capsys, "--manifest", folder)
    assert code == 1
    assert "ok   nitro/good" in out
    assert "authentic, accepted (root=TEST)" in out
    assert "ok   nitro/bit" in out
    assert "FAIL nitro/wrong" in out
    assert out.endswith("2 passed, 1 failed\n")
    code, out, _ = appraise(capsys, "--manifest", folder, "--json")
    found = json.loads(out)
    assert (found["passed"], found["failed"], code) == (2, 1, 1)
    assert [row["passed"] for row in found["cases"]] == [True, True, False]


def test_one_case_of_a_folder_with_every_check(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--case shows each check of that case."""
    code, out, _ = appraise(capsys, "--manifest", folder, "--case", "good")
    assert code == 0
    assert "1 passed, 0 failed" in out
    assert "The certified key signed exactly these bytes" in out
    assert appraise(capsys, "--manifest", folder, "--case", "none")[0] == 2


def test_a_manifest_cannot_reach_outside(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file name that leaves the folder is an error of that case."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["cases"] = [{**manifest["cases"][0], "inputs": {"doc": "../x"}}]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    code, out, _ = appraise(capsys, "--manifest", folder)
    assert code == 1
    assert "outside of its folder" in out


def test_pitfall_json_of_hostile_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text of the evidence that would command a terminal stands in the JSON as escapes, and is the same when read."""
    hostile = "\x9b31m\u202e\U000e0041\x1b]0;x\x07"
    (tmp_path / "token").write_bytes(tokens.gcs_token(hwmodel=hostile))
    (tmp_path / "root.der").write_bytes(tokens.gcs_chain()[-1].public_bytes(Encoding.DER))
    code, out, _ = appraise(
        capsys, "--kind", "gcs", "--evidence", tmp_path / "token", "--now", str(TOKENS_NOW), "--json",
        "--trust-test-root", tmp_path / "root.der", "--param", f"aud={tokens.AUDIENCE}",
    )  # fmt: skip
    assert code == 1
    assert out.isascii()
    assert "\x1b" not in out
    assert json.loads(out)["claims"]["raw"]["hwmodel"] == hostile


def test_numbers_of_the_command_line(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Limits are numbers, whole or not, and a number below zero is none."""
    given = [*item(files), "--trust-test-root", files / "root.der"]
    for age, word in (("4", "nitro_stale"), ("3.5", "nitro_stale"), ("6", "refused: test_root")):
        assert word in appraise(capsys, *given, "--param", f"max_age_s={age}")[1]
    assert appraise(capsys, *given, "--param", "max_age_s=-1")[0] == 2


@pytest.mark.parametrize("name", ["no\x1b]0;x\x07\x9b31m\u202efile", "no\nveriroute: accepted", "zero\0byte"])
def test_pitfall_the_name_of_a_file_is_text_from_outside(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """A manifest that names a file in escape sequences has them shown and not obeyed."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["cases"][0]["inputs"]["doc"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest))
    code, out, err = appraise(capsys, "--manifest", folder)
    assert code in (1, 2)
    assert all(line.isprintable() for line in (out + err).splitlines())
