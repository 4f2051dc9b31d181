"""Real nodes and a real gateway, as subprocesses on loopback, and the stock SDK in front of them."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import openai

from gateway.cli import main

MODEL, EMBED = "veriroute-lm-1", "veriroute-embed-1"


class Process:
    """A command of ours under way. `ready` is its ready line."""

    def __init__(self, arguments: list[str], *, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
        self.stderr_path = Path(os.devnull)
        keep = {k: v for k, v in os.environ.items() if not k.startswith("VERIROUTE_") and k not in ("NO_COLOR",)}
        self._log = open((cwd or Path()) / f"err-{time.monotonic_ns()}.log", "w+b") if cwd else None  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway", *arguments],
            stdout=subprocess.PIPE,
            stderr=self._log or subprocess.DEVNULL,
            env={**keep, **(env or {})},
            cwd=cwd,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(10)
            raise AssertionError(f"{arguments} did not start: {self.errors()}")
        self.ready = json.loads(line)
        self.url: str = self.ready["url"]

    def errors(self) -> str:
        if self._log is None:
            return ""
        self._log.flush()
        return Path(self._log.name).read_text("utf-8", "replace")

    def stop(self, how: int = signal.SIGTERM, within: float = 15.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
            raise AssertionError(f"the process did not stop: {self.errors()}") from None
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()
            if self._log is not None:
                self._log.close()


def command(
    *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What `veriroute ARGUMENTS` says and ends with, run in this process: its start would cost more than what it does.

    That a command works as a process of its own is for tests/cli/test_command_line.py and those beside it to show.
    """
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd or "."),
        mock.patch.dict(os.environ, env or {}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main([*arguments])
        except SystemExit as end:  # of argparse
            code = int(end.code or 0)
    return subprocess.CompletedProcess(["veriroute", *arguments], code, out.getvalue(), err.getvalue())


def toml(value: Any) -> str:
    """A value as TOML writes it; tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


class Gateway:
    """A gateway with its folder, an inference key and an admin key."""

    def __init__(self, folder: Path, nodes: list[dict[str, Any]], **settings: dict[str, Any]) -> None:
        self.folder = folder
        self.config = folder / "veriroute.toml"
        tables: dict[str, dict[str, Any]] = {
            "server": {"port": 0, "drain_s": 5.0},
            "storage": {"url": f"sqlite:///{folder / 'audit.db'}"},
            "log": {"origin": "test.example/log"},
        }
        for name, values in settings.items():
            tables.setdefault(name, {}).update(values)
        lines = []
        for name, values in tables.items():
            lines.append(f"[{name}]")
            lines += [f"{key} = {toml(value)}" for key, value in values.items()]
        for node in nodes:
            lines.append("[[nodes]]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in node.items()]
        self.config.write_text("\n".join(lines) + "\n", "utf-8")
        self.key = self.create_key("agent")
        self.admin_key = self.create_key("ops", "--scope", "admin", "--scope", "inference")
        self.process: Process | None = None

    def create_key(self, name: str, *more: str) -> str:
        return str(
            json.loads(self.cli("keys", "create", "--name", name, "--json", *more, "--config", str(self.config)))["key"]
        )

    def cli(self, *arguments: str, check: bool = True, env: dict[str, str] | None = None) -> str:
        done = self.run(*arguments, env=env)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return command(*arguments, cwd=self.folder, env=env)

    def start(self, *more: str, env: dict[str, str] | None = None) -> Gateway:
        self.process = Process(["serve", "--config", str(self.config), *more], env=env, cwd=self.folder)
        return self

    def stop(self, how: int = signal.SIGTERM) -> int:
        assert self.process is not None
        try:
            return self.process.stop(how)
        finally:
            self.process = None

    @property
    def url(self) -> str:
        assert self.process is not None
        return self.process.url

    @property
    def database(self) -> Path:
        return self.folder / "audit.db"

    @property
    def trust(self) -> Path:
        return self.folder / "audit.db.keys" / "trust.txt"

    def sdk(self, key: str | None = None, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key or self.key, timeout=30, **options)

    def http(self, key: str | None = None) -> httpx.Client:
        headers = {"authorization": f"Bearer {key or self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False)

    def receipt(self, receipt_id: str) -> dict[str, Any]:
        """The predicate of a receipt, after `veriroute verify` found its record authentic."""
        return self.receipt_of(receipt_id, None)

    def receipt_of(self, receipt_id: str, key: str | None) -> dict[str, Any]:
        """The same for the receipt of another key."""

        with self.http(key) as client:
            bundle = client.get(f"/v1/receipts/{receipt_id}/bundle")
        assert bundle.status_code == 200, bundle.text
        path = self.folder / f"{receipt_id}.json"
        path.write_bytes(bundle.content)
        done = command("verify", str(path), "--trust", str(self.trust), "--authenticity-only")
        assert done.returncode == 0, done.stdout + done.stderr
        payload = base64.b64decode(bundle.json()["receipt"]["payload"])
        return dict(json.loads(payload)["predicate"])

    def receipts(self, **query: Any) -> list[dict[str, Any]]:
        with self.http() as client:
            return list(client.get("/v1/receipts", params=query).json()["data"])


def node_table(process: Process, name: str, models: list[str] | None = None, **more: Any) -> dict[str, Any]:
    table = {"id": name, "base_url": process.url, "models": models or [MODEL, EMBED], "pin": process.ready["pin"]}
    return {**table, **more}


@contextlib.contextmanager
def reference_nodes(folder: Path, ways: dict[str, list[str]]) -> Iterator[dict[str, Process]]:
    """Reference nodes by name, each started with its own arguments; they stop at the end."""
    started: dict[str, Process] = {}
    try:
        for name, way in ways.items():
            arguments = ["node", "--port", "0", "--identity", str(folder / f"{name}.json"), "--json", *way]
            started[name] = Process(arguments, cwd=folder)
        yield started
    finally:
        for process in started.values():
            process.stop()
