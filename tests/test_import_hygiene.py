"""What a command imports is what it needs: each is looked at in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gateway

ROOT = Path(__file__).resolve().parent.parent
#: Prints the top-level packages that are loaded after the statement has run.
_REPORT = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"

SERVER = {"litestar", "uvicorn", "uvloop", "httptools", "starlette", "fastapi"}
DATABASE = {"sqlalchemy", "sqlmodel", "pydantic"}
OTHERS = {"textual", "rich", "openai", "httpx", "numpy", "structlog"}
OUTER = {"adapters", "tui"}


def loaded(statement: str, *, isolated: bool = True) -> set[str]:
    """The packages that a fresh interpreter has loaded after `statement`."""
    done = subprocess.run(
        [sys.executable, *(["-I"] if isolated else []), "-c", f"{statement}\n{_REPORT}"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "module",
    [
        "gateway",
        "gateway.errors",
        "gateway.cli",
        "gateway.cli.verify",
        "gateway.offline",
        "gateway.offline.reappraise",
        "gateway.verify.appraise",
        "gateway.verify.response",
        "gateway.log.audit",
        "gateway.log.audit_rows",
        "gateway.policy",
    ],
)
def test_what_an_auditor_runs_is_small(module: str) -> None:
    """Verifying needs no server, no database layer, no UI, no HTTP client, and nothing of a network's adapter."""
    found = loaded(f"import {module}")
    assert not found & (SERVER | DATABASE | OTHERS | OUTER), module


@pytest.mark.parametrize("module", ["gateway.cli.audit", "gateway.cli.policy"])
def test_reading_a_log_takes_sqlite_and_no_more(module: str) -> None:
    """Auditing a database reads it with the standard library."""
    found = loaded(f"import {module}")
    assert not found & (SERVER | DATABASE | OTHERS | OUTER)


def test_verify_runs_without_what_it_must_not_need(tmp_path: Path) -> None:
    """`veriroute verify` gives its answer in an interpreter where the large libraries cannot be imported."""
    banned = sorted(SERVER | DATABASE | OTHERS | OUTER)
    file = tmp_path / "answer.json"
    file.write_text('{"verification": {"receipt": "01J"}}', "utf-8")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys\nfor name in {banned!r}: sys.modules[name] = None\n"
            f"from gateway.cli import main\nraise SystemExit(main(['verify', {str(file)!r}, '--json']))",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["files"][0]["lines"][0]["step"] == "format"


def test_serving_loads_no_orm_ui_or_client_sdk() -> None:
    """The gateway's process holds neither the ORM nor the UI, nor a client SDK, nor an adapter that no node needs."""
    found = loaded("import gateway.app, gateway.cli.serve, gateway.api.application, gateway.api.protocol")
    assert {"litestar", "uvicorn"} <= found
    assert not found & ({"sqlalchemy", "sqlmodel", "textual", "openai", "numpy", "fastapi"} | OUTER)


def test_help_is_lazy() -> None:
    """`veriroute --help` and `--version` load no command's module."""
    for argument in ("--help", "--version"):
        found = loaded(f"from gateway.cli import main\nassert main([{argument!r}]) == 0")
        assert not found & (SERVER | DATABASE | OTHERS | OUTER | {"msgspec", "nacl", "cryptography", "sqlite3"})


def test_a_wrong_command_is_told_before_anything_is_loaded() -> None:
    """An unknown command costs nothing but a look at the entry points."""
    found = loaded("from gateway.cli import main\nassert main(['sevre']) == 2")
    assert not found & (SERVER | DATABASE | OTHERS | OUTER)


def test_the_terminal_ui_is_listed_without_textual() -> None:
    """Loading the command, as `--help` of it does, loads no Textual."""
    found = loaded("import tui.command", isolated=False)
    assert "textual" not in found


def test_versions_agree() -> None:
    """The package, the project file and the installed distribution say the same version."""
    from importlib.metadata import version

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert gateway.__version__ == project["version"] == version("veriroute")


@pytest.mark.parametrize("module", ["gateway.app", "gateway.cli.serve", "gateway.cli.appraise"])
def test_what_serves_loads_no_test_material(module: str) -> None:
    """The worlds that make evidence under roots of their own are not even loaded where evidence is judged."""
    statement = f"import sys, {module}; assert not [n for n in sys.modules if n.startswith('gateway.testing')]"
    loaded(statement)
