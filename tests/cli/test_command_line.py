"""`veriroute` itself: what commands do about output that cannot be written, Ctrl-C, and a database that is not there."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import BinaryIO

import pytest

from gateway import cli
from gateway.cli import doctor
from gateway.model.verdict import Check, Outcome

HOME = Path(cli.__file__).parents[2]
PRINTING = [
    ["--help"],
    ["--version"],
    ["keys", "--help"],
    ["config", "show"],
    ["config", "reference"],
    ["policy", "list"],
]


def veriroute(*args: str, folder: Path, stdout: int | None = subprocess.PIPE, **environ: str) -> tuple[int, str, str]:
    """The command in a process of its own, whose output is buffered as in a shell."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *args],
        stdout=stdout, stderr=subprocess.PIPE, cwd=folder, env={**kept, "PYTHONPATH": str(HOME), **environ}, timeout=60,
    )  # fmt: skip
    return done.returncode, (done.stdout or b"").decode("latin-1"), done.stderr.decode()


def without_a_reader() -> BinaryIO:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "wb")


@pytest.mark.parametrize("args", PRINTING, ids=" ".join)
def test_a_full_disk_is_told_in_one_sentence(args: list[str], tmp_path: Path):
    """Output that cannot be written ends with exit code 2, which says nothing about what was checked."""
    with open("/dev/full", "wb") as full:
        code, _, said = veriroute(*args, folder=tmp_path, stdout=full.fileno())
    assert (code, said) == (2, "veriroute: cannot read or write: No space left on device\n")


@pytest.mark.parametrize("args", PRINTING, ids=" ".join)
def test_a_reader_that_is_gone_ends_a_command_silently(args: list[str], tmp_path: Path):
    """The exit code is what a shell says of a program that SIGPIPE ended."""
    with without_a_reader() as pipe:
        assert veriroute(*args, folder=tmp_path, stdout=pipe.fileno()) == (141, "", "")


def test_a_new_key_is_told_with_the_database_that_has_it(tmp_path: Path):
    """Relative to the folder that one is in, the settings name another database, and no gateway serves from it."""
    for end in (", made now", ""):
        code, out, _ = veriroute("keys", "create", "--name", "a", folder=tmp_path)
        assert (code, f"\nstored  {tmp_path / 'veriroute.db'}{end}\n" in out) == (0, True)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_new_key_that_could_not_be_shown_is_named(tmp_path: Path, unbuffered: str):
    """It is in force, so its id is told, with the command that ends it, and that command works."""
    with open("/dev/full", "wb") as full:
        code, _, said = veriroute(
            "keys", "create", "--name", "a", folder=tmp_path, stdout=full.fileno(), PYTHONUNBUFFERED=unbuffered
        )
    assert code == 2
    found = re.match(
        r"veriroute keys: the key could not be shown, and (key_\w+) is in force; end it with `(.+)`\n", said
    )
    assert found is not None, said
    assert veriroute(*found[2].split()[1:], folder=tmp_path) == (0, f"{found[1]} is revoked\n", "")


def test_a_closed_output_is_refused(tmp_path: Path):
    """The next file to be opened would get its number, and what is printed."""
    kept = {**os.environ, "PYTHONPATH": str(HOME)}
    line = [sys.executable, "-m", "gateway", "keys", "create", "--name", "a"]
    done = subprocess.run(
        line, stderr=subprocess.PIPE, cwd=tmp_path, env=kept, preexec_fn=lambda: os.close(1), timeout=60
    )
    assert (done.returncode, done.stderr.decode().count("\n")) == (2, 1)
    assert b"standard output is closed" in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_error_that_nobody_hears_keeps_its_exit_code(tmp_path: Path):
    """Without standard error the sentence is lost, and the exit code stays what it is."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "sevre"],
            stderr=full, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(HOME)}, timeout=60,
        )  # fmt: skip
    assert done.returncode == 2


@pytest.mark.parametrize("args", [["keys", "list"], ["ml", "--help"], ["appraise", "--help"]], ids=" ".join)
@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_sign_that_the_terminal_lacks_is_escaped(args: list[str], encoding: str, tmp_path: Path):
    """Whatever the locale, a command prints all that it has to say."""
    veriroute("keys", "create", "--name", "a", folder=tmp_path)
    code, out, said = veriroute(*args, folder=tmp_path, PYTHONIOENCODING=encoding)
    assert (code, said) == (0, "")
    assert r"\u20" in out


def test_ctrl_c_while_a_command_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """It ends the command with 130 and without a word, as it does later on."""
    (tmp_path / "loads_for_long.py").write_text("raise KeyboardInterrupt")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli.COMMANDS, "long", ("loads_for_long", "takes its time"))
    assert cli.main(["long"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "args",
    [
        ["keys", "list"],
        ["keys", "revoke", "key_000000000000"],
        ["audit", "verify", "veriroute.db"],
        ["audit", "export", "veriroute.db", "--out", "out"],
    ],
    ids=" ".join,
)
def test_a_database_that_is_not_there_is_told_and_not_made(
    args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """In the wrong folder a command says so, before it asks for a key, and leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(args) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"veriroute {args[0]}: there is no database at {tmp_path / 'veriroute.db'}; ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("args", [["audit", "verify", "."], ["audit", "export", ".", "--out", "out"]], ids=" ".join)
def test_a_folder_is_no_database(
    args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """It is there, so what is said is that it is a folder."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(args) == 2
    assert capsys.readouterr().err == f"veriroute audit: {tmp_path} is a folder; name the database file in it\n"


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ('base_url = "http://127.0.0.1:9001/v1"', "veriroute.toml:2: node 'a': base_url ends in /v1, "),
        ('base_url = "127.0.0.1:9001"', "veriroute.toml:2: node 'a': base_url '127.0.0.1:9001': must start with "),
        ("", "node 'a': base_url is missing; this network has no registry that would say where it is"),
        ('network = "acl"', "node 'a': no adapter is installed for the network 'acl'; installed: "),
    ],
)
def test_a_node_that_cannot_be_used_is_told_before_the_log_begins(node: str, said: str, tmp_path: Path):
    """A start that fails over a node names it, and leaves neither a log nor an entry in one."""
    (tmp_path / "veriroute.toml").write_text(f'[[nodes]]\nid = "a"\nmodels = ["m"]\n{node}\n')
    code, out, told = veriroute("serve", folder=tmp_path, VERIROUTE_SERVER_PORT="0")
    assert (code, out) == (2, "")
    assert told.startswith(f"veriroute serve: {said}")
    assert [path.name for path in tmp_path.iterdir()] == ["veriroute.toml"]


def test_a_taken_port_is_told_before_the_log_begins(tmp_path: Path):
    """The address and the settings that say it are named, and no log is made, nor an entry in one."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, out, said = veriroute("serve", folder=tmp_path, VERIROUTE_SERVER_PORT=str(port))
    assert (code, out) == (2, "")
    assert said == (
        f"veriroute serve: cannot listen on 127.0.0.1:{port} (Address already in use); "
        "server.host and server.port say where\n"
    )
    assert not list(tmp_path.iterdir())


def test_an_address_of_another_machine_is_told_before_the_log_begins(tmp_path: Path):
    """What cannot be bound is said as the system says it."""
    code, _, said = veriroute("serve", folder=tmp_path, VERIROUTE_SERVER_HOST="192.0.2.1")
    assert (code, "cannot listen on 192.0.2.1:8080 (Cannot assign requested address)" in said) == (2, True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("args", [["keys"], ["keys", "create"], ["verify", "--no-such"]], ids=" ".join)
def test_a_wrong_argument_is_told_with_where_the_help_is(args: list[str], capsys):
    """A usage error names the command whose help explains, that of the act where there is one."""
    with pytest.raises(SystemExit) as ended:
        cli.main(args)
    assert ended.value.code == 2
    name = "veriroute verify" if args[0] == "verify" else f"veriroute {' '.join(args)}"
    assert f"; `{name} --help` explains\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["audit", "verify", "veriroute.db", "--memory", ""], "--memory"),
        (["audit", "export", "veriroute.db", "--out", "out", "--key="], "--key"),
        (["appraise", "--kind", "tdx", "--evidence", "quote", "--policy", ""], "--policy"),
        (["policy", "show", "signed", "--tighten", ""], "--tighten"),
        (["policy", "check", ""], "FILE|DIR"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_empty_value_is_not_an_option_left_out(args: list[str], named: str, capsys):
    """A variable that is not set asks for nothing less than was meant: it is a usage error."""
    with pytest.raises(SystemExit) as ended:
        cli.main(args)
    assert ended.value.code == 2
    assert re.search(rf"argument {re.escape(named)}.*: the value is empty", capsys.readouterr().err)


def test_a_key_id_that_is_no_text_is_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Bytes of a command line that are no UTF-8 name none, and are told in one sentence."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["keys", "create", "--name", "a"]) == 0
    assert cli.main(["keys", "revoke", "\udcff"]) == 2
    assert "there is no key " in capsys.readouterr().err


def test_a_finding_that_is_its_reason_is_told_once():
    """Doctor does not say that it found `connect_failed` where that is the reason."""
    (told,) = doctor._check(Check("evidence", Outcome.NONE, reason="connect_failed", found="connect_failed"))
    assert told.count("connect_failed") == 1
    assert doctor._check(Check("evidence", Outcome.NONE, reason="a", found="b"))[0].endswith("a, found b")


HOSTILE = "\x1b]52;c;ZXZpbA==\x07\x9b2J\u202egpj\u200b\x7f"


@pytest.mark.parametrize(
    "args",
    [
        ["keys", "list", HOSTILE],
        ["verify", "file", "--x" + HOSTILE],
        ["audit", "export", "a.db", "--from", HOSTILE, "--out", "x"],
        ["audit", HOSTILE],
        ["policy", "check", "missing" + HOSTILE],
        [HOSTILE],
    ],
    ids=lambda args: args[0].partition("\x1b")[0],
)
def test_k01_no_argument_steers_the_terminal(args: list[str], capsys: pytest.CaptureFixture[str]):
    """A shell's `*` makes arguments of names that others gave; what is said of a wrong one shows them as escapes."""
    with pytest.raises(SystemExit) if len(args) > 1 and args[0] != "policy" else contextlib.nullcontext():
        assert cli.main(args) == 2
    said = capsys.readouterr().err
    assert said.replace("\n", "").isprintable()
    assert r"\x1b]52;c;ZXZpbA==" in said


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_k01_no_name_in_the_settings_steers_the_terminal(
    form: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Keys and tables that an adapter may name as it likes are shown as TOML and JSON quote them."""
    monkeypatch.setenv("VERIROUTE_NETWORKS", json.dumps({HOSTILE: {HOSTILE: HOSTILE}}))
    monkeypatch.setenv("VERIROUTE_PAYMENT", json.dumps({HOSTILE: 1}))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["config", "show", *form]) == 0
    shown = capsys.readouterr().out
    assert shown.replace("\n", "").isprintable()
    found = json.loads(shown) if form else tomllib.loads(shown)
    assert found["networks"] == {HOSTILE: {HOSTILE: HOSTILE}}
    assert found["payment"] == {HOSTILE: 1}
