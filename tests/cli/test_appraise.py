"""`veriroute appraise`: one item, and folders of cases."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tee_worlds import intel, nodes, nvidia, tokens
from tee_worlds.nitro import World, der
from tee_worlds.nvidia import NOW as TOKENS_NOW

from gateway.cli import main
from gateway.cli._appraise_inputs import parameters
from gateway.cli._appraise_show import human
from gateway.model.tee import Platform, Root, TeeResult
from gateway.model.verdict import Check, Outcome

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


# -- whole nodes, and whom they speak for


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("node")
    (folder / "report.json").write_bytes(nodes.as_json(nodes.report()))
    (folder / "collateral.json").write_bytes(nodes.collateral())
    (folder / "intel.der").write_bytes(nodes.machine().root_der)
    (folder / "nvidia.der").write_bytes(nvidia.der_of(nvidia.issuers()[0]))
    pem, _ = nodes.certificate()
    (folder / "tls.pem").write_text(pem)
    return folder


def whole(node: Path, *, collateral: bool = True) -> list[str | Path]:
    args: list[str | Path] = ["--kind", "dstack", "--evidence", node / "report.json", "--now", str(nodes.NOW)]
    args += ["--trust-test-root", node / "intel.der", "--trust-test-root", node / "nvidia.der"]
    return [*args, "--collateral", node / "collateral.json"] if collateral else args


def test_a_nodes_report(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What runs there has a section of its own, what nobody asked is one line, and long values are broken."""
    code, out, _ = appraise(capsys, *whole(node))
    assert code == 1  # the roots are test roots
    assert "What runs there, and what belongs to it?" in out
    assert "not asked: " in out
    assert "accelerators          1, genuine" in out
    assert "For whom it speaks was not asked" in out
    assert "genuine, and refused: test_root (exit 1)" in out
    assert max(map(len, out.splitlines())) <= 140


def test_a_report_without_collateral_says_what_to_give(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The log replays, the whole is refused, and the last lines say which file is missing."""
    code, out, _ = appraise(capsys, *whole(node, collateral=False))
    assert code == 1
    assert "Replaying the log gives the registers" in out
    assert "refused: not_authentic: no_collateral (exit 1)" in out
    assert "--collateral FILE" in out
    assert "What it states:" not in out


def test_a_failed_check_behind_genuine_evidence_refuses(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An application document that is not the measured one is a violation, in words and in JSON."""
    (node / "compose.json").write_text("{}")
    code, out, _ = appraise(capsys, *whole(node), "--input", f"app_compose={node / 'compose.json'}", "--json")
    found = json.loads(out)
    assert (code, found["claims"]["authentic"], found["accepted"]) == (1, True, False)
    assert found["violations"] == ["test_root", "compose_mismatch"]


@pytest.mark.parametrize(
    ("key", "status", "words"),
    [
        (nodes.KEY.hex(), "bound", "binding               bound by dstack-report-data"),
        ("0x" + "11" * 20, "mismatch", "do not rely on it"),
        ("11", "unbound", "name your key or nonce"),
    ],
)
def test_whom_it_speaks_for(node: Path, capsys: pytest.CaptureFixture[str], key: str, status: str, words: str) -> None:
    """--bind holds it to a key and a nonce; what is not bound is refused, and what is bound is fresh."""
    asked = ["--bind", "dstack-report-data", "--key", key, "--nonce", nodes.NONCE.hex()]
    code, out, _ = appraise(capsys, *whole(node), *asked)
    assert code == 1
    assert words in out
    _, out, _ = appraise(capsys, *whole(node), *asked, "--json")
    found = json.loads(out)
    assert found["claims"]["binding"]["status"] == status
    assert found["violations"] == ["test_root"] + ([] if status == "bound" else [status])
    assert found["claims"]["freshness"]["class"] == ("challenge" if status == "bound" else "undated")


def test_the_rules_that_need_other_inputs(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A certificate gives both of its digests; other inputs are named, and a text may stand in a file."""
    (node / "adapter.txt").write_text("some-adapter\n")
    asked = ["--bind", "veriroute-bind-v1", "--certificate", str(node / "tls.pem"), "--nonce", nodes.NONCE.hex()]
    for adapter in ("adapter=some-adapter", f"adapter=@{node / 'adapter.txt'}"):
        _, out, _ = appraise(capsys, *whole(node), *asked, "--bind-input", adapter, "--json")
        binding = json.loads(out)["claims"]["binding"]
        assert (binding["status"], binding["kind"]) == ("mismatch", "veriroute-bind-v1")
    spki = ["--bind", "secretvm-certificate-gpu", "--bind-input", f"certificate_sha256={'11' * 32}"]
    _, out, _ = appraise(capsys, *whole(node), *spki, "--bind-input", f"gpu_nonce={nodes.NONCE.hex()}", "--json")
    assert json.loads(out)["claims"]["binding"]["detail"] == "report_data differs in its first half"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--key", "00"], "give --bind RULE"),
        (["--bind", "dstack-report-data", "--key", "xyz"], "--key is not hex"),
        (["--bind", "tinfoil-spki-hpke", "--certificate", "REPORT"], "is no certificate"),
        (["--bind", "aci-statement", "--bind-input", "color=red"], "--bind-input knows"),
        (["--bind", "aci-statement", "--bind-input", "gpu_nonce=red"], "--bind-input gpu_nonce is not hex"),
        (["--input", "quote=TWO"], "holds 2 PEM blocks"),
        (["--input", "quote=ODD"], "is not hex"),
        (["--input", "quote=PEM"], "is damaged"),
    ],
)
def test_wrong_bindings_and_files(node: Path, capsys: pytest.CaptureFixture[str], args: list[str], words: str) -> None:
    """What cannot be read is wrong usage and never an unbound verdict."""
    (node / "TWO").write_text(nodes.certificate()[0] * 2)
    (node / "ODD").write_text("abc")
    (node / "PEM").write_text("-----BEGIN X-----\n!\n-----END X-----\n")
    given = [arg.replace("REPORT", str(node / "report.json")) for arg in args]
    given = [re.sub(r"=(TWO|ODD|PEM)$", lambda m: f"={node / m[1]}", arg) for arg in given]
    code, _, err = appraise(capsys, *whole(node), *given)
    assert code == 2
    assert words in err


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("hex", lambda data: data.hex().encode() + b"\n"),
        ("0x", lambda data: b"0x" + data.hex().upper().encode()),
        ("base64", lambda data: base64.encodebytes(data)),
        (
            "pem",
            lambda data: b"A report:\n-----BEGIN REPORT-----\n" + base64.encodebytes(data) + b"-----END REPORT-----\n",
        ),
        ("raw", lambda data: data),
    ],
)
def test_evidence_in_text_form(
    files: Path, capsys: pytest.CaptureFixture[str], name: str, spelled: Callable[[bytes], bytes]
) -> None:
    """The same evidence is found in hex, base64 and PEM."""
    path = files / f"doc.{name}"
    path.write_bytes(spelled((files / "doc.bin").read_bytes()))
    args = ["--kind", "nitro", "--evidence", path, "--now", str(NOW + 5), "--trust-test-root", files / "root.der"]
    _, out, _ = appraise(capsys, *args, "--json")
    digest = hashlib.sha256((files / "doc.bin").read_bytes()).hexdigest()
    assert json.loads(out)["claims"]["evidence_sha256"] == digest


@pytest.mark.parametrize("content", [b"", b"   ", b"!", b"text, and no encoding of anything"])
def test_text_that_spells_nothing_is_appraised_as_it_stands(
    files: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    """It is malformed evidence, not an error of the command."""
    (files / "doc.bin").write_bytes(content)
    code, out, _ = appraise(capsys, *item(files))
    assert code == 1
    assert "refused: not_authentic: nitro_" in out


def test_parameters_have_their_types(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seconds and evaluation numbers are numbers, `historical` is yes or nothing, policy hashes a list."""
    found = parameters(
        ["max_age_s=5", "lowest_evaluation=18", "historical=yes", "policy_hashes=a,b", "aud=x", "future_skew_s=soon"]
    )
    assert found == {
        "max_age_s": 5.0,
        "lowest_evaluation": 18,
        "historical": True,
        "policy_hashes": ["a", "b"],
        "aud": "x",
        "future_skew_s": "soon",
    }
    code, out, _ = appraise(
        capsys,
        *item(files)[:4],
        "--now",
        str(NOW + 900),
        "--trust-test-root",
        files / "root.der",
        "--param",
        "max_age_s=5",
    )
    assert code == 1
    assert "give that time with --now" in out


def test_a_kind_without_collateral_and_times_out_of_any_calendar(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A time that no calendar has is shown as seconds."""
    _, out, _ = appraise(capsys, "--kind", "nitro", "--input", f"doc={files / 'doc.bin'}", "--now", "1e300")
    assert "at      1" in out
    assert " s\n" in out


def test_a_manifest_of_nodes(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A case is held to what runs behind the evidence too: a log that does not replay is not accepted."""
    wrong = nodes.report(event_log=nodes.dstack.booted().system(b"\1" * 32).json().decode())
    (node / "wrong.json").write_bytes(nodes.as_json(wrong))

    def case(name: str, report: str, accept: bool) -> dict[str, Any]:
        expected = {"authentic": True, "default_policy": {"accept": accept}}
        inputs = {"report": report, "collateral": "collateral.json"}
        return {"id": name, "inputs": inputs, "evaluation_time": nodes.NOW, "expected": expected}

    cases = [case("good", "report.json", True), case("log", "wrong.json", False), case("odd", "wrong.json", True)]
    roots = {"intel": "intel.der", "nvidia": "nvidia.der"}
    (node / "manifest.json").write_text(json.dumps({"kind": "dstack", "roots": roots, "cases": cases}))
    code, out, _ = appraise(capsys, "--manifest", node)
    assert (code, out.splitlines()[-1]) == (1, "2 passed, 1 failed")
    assert "authentic, refused: replay_mismatch" in out
    assert "policy: replay_mismatch, expected accept True" in out


# -- the conformance suite

KEYS = {"schema_version": "1", "report_data_hex": "11" * 32 + "22" * 32, "offered_hpke_public_key_hex": "22" * 32}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Four cases of two stages: one that agrees, one that differs, one refused earlier, one cut."""

    def case(name: str, given: object, exit_code: int, stage: str = "verify-ehbp-key-binding") -> None:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "input.json").write_text(json.dumps(given))
        (folder / "manifest.yaml").write_text(f"stage: {stage}\nexpects:\n  exit_code: {exit_code}\n")

    case("keys/1-same", KEYS, 0)
    case("keys/2-other", KEYS, 10)
    (tmp_path / "keys/1-same/expected.json").write_text('{"accepted": true, "outputs": {}}')
    tdx = "verify-attestation-tdx"
    case("tdx/3-early", nodes.suite_input(intel.World(extension=b"\x30\x00").quote()), 0, tdx)
    case("tdx/4-cut", nodes.suite_input(nodes.machine().quote() + b"junk"), 0, tdx)
    return tmp_path


def test_the_conformance_suite(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a case; what differs, what was refused earlier, and what was cut are counted apart."""
    code, out, _ = appraise(capsys, "--conformance", suite)
    assert code == 1
    assert "ok   keys/1-same" in out
    assert "FAIL keys/2-other" in out
    assert "early tdx/3-early" in out
    assert "(judged without 4 unsigned bytes behind its quote)" in out
    assert out.splitlines()[-2:] == [
        "2 passed, 1 failed, 1 refused earlier than the suite asks",
        "1 of those that passed were judged without the unsigned bytes behind their quote",
    ]
    code, out, _ = appraise(capsys, "--conformance", suite / "keys", "--case", "1-same", "--json")
    found = json.loads(out)
    assert (code, found["passed"], [case["id"] for case in found["cases"]]) == (0, 1, ["1-same"])
    _, out, _ = appraise(capsys, "--conformance", suite, "--case", "keys/1-same")
    assert out.splitlines()[-1] == "1 passed, 0 failed, 0 refused earlier than the suite asks"


def test_a_case_of_the_suite_that_cannot_be_read(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is a failure that says why, and never left out."""
    (suite / "keys/2-other/manifest.yaml").unlink()
    (suite / "keys/1-same/input.json").write_text("[]")
    code, out, _ = appraise(capsys, "--conformance", suite / "keys")
    assert (code, out.splitlines()[-1]) == (1, "0 passed, 2 failed, 0 refused earlier than the suite asks")
    assert out.count("not judged") == 2
    assert "cannot read" in out


def test_a_folder_that_is_no_suite(tmp_path: Path, suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without cases, an unknown case, and two folders at once are wrong usage."""
    (tmp_path / "empty").mkdir()
    for args, words in (
        (["--conformance", tmp_path / "empty"], "an input.json"),
        (["--conformance", suite, "--case", "none"], "no case 'none'"),
        (["--conformance", suite, "--manifest", suite], "one or the other"),
    ):
        code, _, err = appraise(capsys, *args)
        assert code == 2
        assert words in err


# -- what a person reads


def test_what_stands_on_the_screen_for_evidence_that_is_accepted() -> None:
    """Exit 0 is said in words; advisories and refused accelerators are named, and zero registers listed in one line."""
    claims = nodes.dstack.claims([b"\1" * 48] * 4, advisory_ids=("INTEL-SA-1",), root=Root("a root", "00"))
    gpu = msgspec.structs.replace(
        claims, platform=Platform.NVIDIA_GPU, authentic=False, reject_code="spdm_bad_signature"
    )
    result = TeeResult((), msgspec.structs.replace(claims, children=(gpu,)))
    rows = human("A quote", result, (), ())
    assert "  root    a root" in rows
    assert "  advisory              INTEL-SA-1" in rows
    assert "  accelerators          1, refused: spdm_bad_signature" in rows
    assert "  all zero              mr_config_id" in rows
    assert "genuine, and nothing that was asked speaks against it (exit 0)" in rows
    bare = msgspec.structs.replace(claims, measurements={"mr_td": "11" * 48}, root=None)
    rows = human("A quote", TeeResult((), bare), (), ())
    assert "  root    none reached" in rows
    assert not [row for row in rows if "all zero" in row]


def test_hostile_text_is_made_inert() -> None:
    """An escape sequence in a finding does not reach the terminal."""
    check = Check("tee_format", Outcome.CONTRAINDICATED, "malformed", "\x1b]0;x\x07", "\u202ex")
    result = TeeResult((check,), nodes.dstack.claims([bytes(48)] * 4, authentic=False, reject_code="malformed"))
    text = "\n".join(human("A quote", result, (), ("not_authentic",)))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b]0;x" in text


def test_a_time_in_rfc_3339(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The time given is the time of the examination."""
    _, out, _ = appraise(capsys, *item(files)[:4], "--now", "2025-06-15T15:06:45+00:00")
    assert "at      2025-06-15T15:06:45Z" in out
