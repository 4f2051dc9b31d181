from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.policy_files import builtin_files

SIGNED = builtin_files()["policies/signed.toml"].decode()


def ours(folder: Path, name: str = "ours", text: str | None = None) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text if text is not None else SIGNED.replace('name = "signed"', f'name = "{name}"'))
    return path


def test_check_without_files_checks_the_built_in_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """`policy check` alone lists the built-in policies and succeeds."""
    assert main(["policy", "check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(builtin_files())


def test_check_names_each_problem_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Problems come as file:line, good files beside them are listed, and the exit code is 1."""
    good = ours(tmp_path)
    bad = ours(tmp_path, "bad", 'name = "bad"\nversion = 0\n[require]\nall = ["evidence", "signatur"]\n')
    assert main(["policy", "check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert f"{bad}:2: version must be" in out
    assert f"{bad}:4: unknown check 'signatur'; did you mean 'signature'?" in out
    assert f"{good}: ours 2 sha256:" in out
    assert main(["policy", "check", str(bad), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [problem["where"] for problem in report["problems"]] == [f"{bad}:2", f"{bad}:4"]
    assert report["problems"][1]["key"] == "require.all.1"
    assert report["policies"] == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every name is UTF-8")
@pytest.mark.parametrize("action", ["check", "show"])
def test_a_folder_whose_name_is_not_text(tmp_path: Path, capsys: pytest.CaptureFixture[str], action: str) -> None:
    """Bytes of a path that are not UTF-8 come out as escapes, in words and as JSON."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    path = str(ours(folder))
    assert main(["policy", action, path]) == 0
    assert "\\udcff/ours.toml" in capsys.readouterr().out
    assert main(["policy", action, path, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    report = json.loads(out)
    assert (report["policies"][0] if action == "check" else report)["source"] == path


def test_check_of_one_good_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A good file gives its name, version and digest."""
    assert main(["policy", "check", str(ours(tmp_path)), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["files"], report["problems"]) == (1, [])
    assert report["policies"][0]["name"] == "ours"


def test_check_of_what_is_not_there_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file and a folder without policies are usage errors."""
    for path, words in ((tmp_path / "no.toml", "cannot be read"), (tmp_path, "there is no *.toml")):
        assert main(["policy", "check", str(path)]) == 2
        assert words in capsys.readouterr().err


def test_list_shows_the_built_in_and_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`policy list --dir` lists both; `--json` gives the digests."""
    ours(tmp_path)
    assert main(["policy", "list", "--dir", str(tmp_path)]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["audited", "observe", "ours", "quorum", "reexec", "regulated", "signed", "strict"]
    assert main(["policy", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["audited", "observe", "quorum", "reexec", "regulated", "signed", "strict"]
    assert all(len(row["digest"]) == 64 for row in rows)


def test_list_of_a_bad_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is missing is wrong usage; one with a bad policy is a failure with its line."""
    assert main(["policy", "list", "--dir", str(tmp_path / "no")]) == 2
    ours(tmp_path, "bad", "x")
    assert main(["policy", "list", "--dir", str(tmp_path)]) == 1
    assert "bad.toml:1: not TOML" in capsys.readouterr().err


def test_show_by_name_and_by_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A policy is shown in words, by name or path, and as JSON."""
    assert main(["policy", "show", "strict"]) == 0
    assert "The node runs in a trusted execution environment" in capsys.readouterr().out
    path = ours(tmp_path)
    assert main(["policy", "show", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["on_failure"]) == ("ours", "refuse")
    assert "signature" in shown["require"]["all"]
    assert main(["policy", "show", "ours", "--dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("ours, version 2\n")


def test_show_tightened(capsys: pytest.CaptureFixture[str]) -> None:
    """`--tighten` shows what would be in force, and refuses what would loosen."""
    assert main(["policy", "show", "regulated", "--tighten", "strict", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [ref["name"] for ref in shown["refs"]] == ["regulated", "strict"]
    assert main(["policy", "show", "regulated", "--tighten", "strict"]) == 0
    assert "from    strict 2 sha256:" in capsys.readouterr().out
    assert main(["policy", "show", "strict", "--tighten", "observe"]) == 1
    assert "'observe' is looser than 'strict' in require, on_failure" in capsys.readouterr().err


def test_show_of_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown name is answered with the names there are; escape codes in it do not reach the terminal."""
    assert main(["policy", "show", "str\x1b[1mict"]) == 2
    err = capsys.readouterr().err
    assert "there are audited, observe, quorum, reexec, regulated, signed, strict" in err
    assert "\x1b" not in err
    assert main(["policy", "show", str(tmp_path / "no.toml")]) == 2
    assert "there is no file" in capsys.readouterr().err
    assert main(["policy", "show", str(ours(tmp_path, "bad", "x"))]) == 1
    assert "bad.toml:1: not TOML" in capsys.readouterr().err


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` shows examples and exit codes; without an action it is wrong usage."""
    with pytest.raises(SystemExit) as done:
        main(["policy", "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert "veriroute policy check policies.d/" in text
    assert "Exit codes" in text
    with pytest.raises(SystemExit) as wrong:
        main(["policy"])
    assert wrong.value.code == 2


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_k01_no_file_name_steers_the_terminal(
    form: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A policy file's name is shown with escapes, also where it is told of a problem in it."""
    ours(tmp_path, "a\x9b2J\u202elmot", SIGNED.replace('name = "signed"', 'name = "ours"'))
    ours(tmp_path, "b\x1b]0;x\x07", "version = 0")
    assert main(["policy", "check", str(tmp_path), *form]) == 1
    shown = capsys.readouterr().out
    assert shown.replace("\n", "").isprintable()
    assert "2J" in shown
