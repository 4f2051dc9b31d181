"""The command line of the TUI: which source it opens, and what it says when it cannot."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from gateway.admin_client import AdminClient
from gateway.errors import ConfigError, FormatError, InvalidKey, LogRefused, NotFound, ScopeDenied, ServiceError
from tui.command import command, open_source
from tui.demo_source import TRUST, DemoSource
from tui.file_source import FileSource
from tui.http_source import HttpSource
from tui.screens.trouble import advise
from tui.source import NO_GATEWAY


def _args(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    return parser.parse_args(argv)


def test_the_default_is_the_gateway_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments it is the gateway on this machine, with the key from the environment."""
    monkeypatch.setenv("VERIROUTE_ADMIN_KEY", "k")
    source, pins = open_source(_args())
    assert isinstance(source, HttpSource)
    assert source.name == "127.0.0.1:8080"
    assert pins.trust is None


def test_a_missing_key_says_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no connection; the sentence names the command that makes one."""
    monkeypatch.delenv("VERIROUTE_ADMIN_KEY", raising=False)
    with pytest.raises(ConfigError, match="keys create"):
        open_source(_args())
    assert isinstance(open_source(_args("--key", "k"))[0], HttpSource)


def test_the_key_stays_off_clear_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine in clear text needs to be asked for."""
    monkeypatch.setenv("VERIROUTE_ADMIN_KEY", "k")
    with pytest.raises(ConfigError, match="clear text"):
        open_source(_args("http://gateway.example"))
    assert isinstance(open_source(_args("http://gateway.example", "--clear-text"))[0], HttpSource)


def test_demo_and_file(tmp_path: Path) -> None:
    """--demo needs nothing and brings its own keys; a path is a database; both at once is refused."""
    source, pins = open_source(_args("--demo"))
    assert isinstance(source, DemoSource)
    assert pins.path == "the demo"
    trust = tmp_path / "trust.txt"
    trust.write_text(TRUST)
    assert open_source(_args("--demo", "--trust", str(trust)))[1].path == str(trust)
    assert isinstance(open_source(_args("audit.db"))[0], FileSource)
    with pytest.raises(ConfigError):
        open_source(_args("--demo", "audit.db"))


@pytest.mark.parametrize("named", ["127.0.0.1:29380", "localhost:8080/", "[::1]:8080"])
def test_an_address_without_its_scheme_is_no_file(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks like one is given back with http://, unless there is a file of that name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as refused:
        open_source(_args(named))
    assert str(refused.value) == f"there is no file {named}; did you mean http://{named}?"
    (tmp_path / "db:1").touch()
    assert isinstance(open_source(_args("db:1"))[0], FileSource)


def test_without_a_terminal_it_says_what_to_use() -> None:
    """In a pipe it names the commands that work there, and exits with 2."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "tui", "--demo"], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "needs a terminal" in done.stderr


def test_help_does_not_import_textual() -> None:
    """`--help` is quick: it shows examples and loads no terminal library."""
    code = "import sys; from tui.command import command; print(command.__doc__); sys.exit('textual' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert "veriroute tui --demo" in done.stdout


@pytest.mark.parametrize(
    ("error", "command_named"),
    [
        (InvalidKey("x"), "keys create"),
        (ScopeDenied("x"), "admin"),
        (ConfigError("x"), "--help"),
        (NotFound("x"), "ls"),
        (FormatError("x"), "veriroute tui http"),
        (LogRefused("x"), "veriroute tui http"),
        (ServiceError("x"), "veriroute serve"),
        (ServiceError("x", reason=NO_GATEWAY), "veriroute tui http"),
    ],
)
def test_each_trouble_has_a_next_command(error: Exception, command_named: str) -> None:
    """Whatever went wrong, there is a sentence and something to type."""
    advice = advise(error)  # type: ignore[arg-type]
    assert advice.sentence.endswith((".", "?"))
    assert any(command_named in typed for typed, _ in advice.commands)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(404, json={"error": {"message": "no such path"}}),
        httpx.Response(404, text="nginx"),
        httpx.Response(200, text="<html>"),
    ],
)
async def test_something_else_that_answers_is_told_from_no_gateway(answer: httpx.Response) -> None:
    """A node's port, or a web server: neither a missing file nor a log, and not out of reach."""
    client = AdminClient("http://127.0.0.1:1", "k", transport=httpx.MockTransport(lambda request: answer))
    with pytest.raises(ServiceError) as met:
        await HttpSource("http://127.0.0.1:1", "k", client=client).info()
    assert "it is not a veriroute gateway. Is it a node's port?" in advise(met.value).sentence
