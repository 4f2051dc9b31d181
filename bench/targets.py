"""The programs that are compared: how each is started, when it is ready, and how a request reaches it."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any

from measure import tree

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent


class BenchError(Exception):
    """Something that stops the run, in a sentence for a person."""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def pinned(core: int | None, command: list[str]) -> list[str]:
    return command if core is None else ["taskset", "-c", str(core), *command]


def environment() -> dict[str, str]:
    """Where things are, and nothing else: a `VERIROUTE_STORAGE_URL` of its caller would win over the run's own file."""
    keep = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name in keep}


def find_nginx() -> str | None:
    """Debian has it in /usr/sbin, which is in root's search path and in no other user's."""
    return shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")


def start(
    command: list[str], log: pathlib.Path, core: int | None, stdout=None, more: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start `command` in a session of its own, pinned to `core`; stderr goes to `log`."""
    with log.open("ab") as sink:
        process = subprocess.Popen(
            pinned(core, command),
            env=environment() | (more or {}),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=stdout or sink,
            stderr=sink,
            start_new_session=True,
            text=True,
        )
    share_priority(process.pid)
    return process


def share_priority(pid: int) -> None:
    """Give the session of `pid` our own niceness: with autogroups a nice value counts only inside its session."""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    if nice:
        with contextlib.suppress(OSError):
            pathlib.Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def stop(process: subprocess.Popen[str], seconds: float = 40.0) -> None:
    """Ask, then insist. Only processes that this run started."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    if process.poll() is None:
        process.kill()
        process.wait(5)


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Whatever asks this run to end is a KeyboardInterrupt: what it started is in sessions of its own, and would stay."""
    asked = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
    with handled(asked, signal.default_int_handler):
        yield


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """For what must be done to its end: nobody's impatience leaves a program behind."""
    with handled(ENDING, signal.SIG_IGN):
        yield


@contextlib.contextmanager
def handled(numbers: Iterable[int], handler: Any) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)


class SigningNode:
    """bench/src/node.c, the one upstream of every target."""

    def __init__(self, folder: pathlib.Path, core: int | None) -> None:
        seed = folder / "node.seed"
        seed.write_bytes(bytes(range(32)))
        command = [str(HERE / "bin/node"), "--seed", str(seed)]
        if not (HERE / "bin/node").exists():
            raise BenchError("the benchmark's C programs are not built: make -C bench")
        self.process = start(command, folder / "node.log", core, subprocess.PIPE)
        try:
            line = self.process.stdout.readline() if self.process.stdout else ""
        except BaseException:
            stop(self.process)
            raise
        if not line:
            raise BenchError(f"the benchmark's node did not start, see {folder / 'node.log'}")
        ready = json.loads(line)
        self.url, self.pin, self.model = ready["url"], ready["pin"], ready["model"]
        self.port = int(self.url.rsplit(":", 1)[1])

    def set(self, **values: int) -> None:
        query = "&".join(f"{name}={value}" for name, value in values.items())
        with urllib.request.urlopen(f"{self.url}/__set?{query}", timeout=5) as answer:
            answer.read()


class Target:
    """One program under test. `verified` says that each answer must carry a verification that released it."""

    name = "?"
    what = "?"
    verified = False
    path = "/v1/chat/completions"
    ready_path = "/health"
    start_limit_s = 30.0

    def __init__(self, folder: pathlib.Path, core: int | None, node: SigningNode) -> None:
        self.folder, self.core, self.node = folder, core, node
        self.port = free_port()
        self.headers: list[str] = []
        self.model = node.model  # as its callers name it
        self.process: subprocess.Popen[str] | None = None
        self.start_s = 0.0
        self.asked = 0  # requests sent to it, all runs together
        self.answered = 0

    def prepare(self) -> None:
        """Whatever has to be there before the start is timed. Raises BenchError when the target cannot run here."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def start(self) -> None:
        self.prepare()
        begun = time.monotonic()
        log = self.folder / f"{self.name}.log"
        self.process = start(self.command(), log, self.core, more=self.environment())
        try:
            self.wait(begun)
        except BaseException:  # whatever it was, nothing that was started stays behind
            self.stop()
            raise
        self.start_s = round(time.monotonic() - begun, 2)

    def wait(self, begun: float) -> None:
        while not self.is_ready():
            if self.process is None or self.process.poll() is not None:
                raise BenchError(f"{self.name} ended while starting, see {self.folder / (self.name + '.log')}")
            if time.monotonic() - begun > self.start_limit_s:
                raise BenchError(f"{self.name} was not ready within {self.start_limit_s:.0f} s")
            time.sleep(0.01)

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self.ready_path}", timeout=2):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def pids(self) -> list[int]:
        return tree(self.process.pid) if self.process else []

    def stop(self) -> None:
        if self.process:
            stop(self.process)


class Direct(Target):
    name, what = "direct", "no proxy: the load generator at the signing node"

    def start(self) -> None:
        self.port = self.node.port


NGINX = """
worker_processes 1; daemon off; error_log stderr error; pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/nginx-body; proxy_temp_path {folder}/nginx-proxy; fastcgi_temp_path {folder}/nginx-f;
  uwsgi_temp_path {folder}/nginx-u; scgi_temp_path {folder}/nginx-s;
  client_body_buffer_size 1m; keepalive_requests 100000000;
  upstream node {{ server 127.0.0.1:{node}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /health {{ return 200 "ok"; }}
    location / {{
      proxy_pass http://node; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


class Nginx(Target):
    name, what = "nginx", "nginx, one worker, passing bytes: what the machine allows"

    def prepare(self) -> None:
        if not find_nginx():
            raise BenchError("nginx is not installed (Debian: apt-get install nginx-light)")
        self.folder.chmod(0o755)  # its worker may run as another user
        text = NGINX.format(folder=self.folder, node=self.node.port, port=self.port)
        (self.folder / "nginx.conf").write_text(text)

    def command(self) -> list[str]:
        return [find_nginx() or "nginx", "-c", str(self.folder / "nginx.conf")]


class PassThrough(Target):
    name, what = "passthrough", "bare ASGI on stock uvicorn with our pool, no evidence: what Python costs by itself"

    def command(self) -> list[str]:
        return [
            sys.executable,
            str(HERE / "passthrough.py"),
            "--upstream",
            self.node.url,
            "--port",
            str(self.port),
        ]


CONFIG = """
[server]
host = "127.0.0.1"
port = {port}

[storage]
url = "sqlite:///{database}"

[log]
origin = "bench.veriroute.local/log"

[auth]
mode = "keys"

[policy]
default = "{policy}"

[[nodes]]
id = "bench"
network = "aci"
base_url = "{url}"
models = ["{model}"]
pin = "{pin}"
operator = "bench"
"""


class Veriroute(Target):
    """The gateway, as anyone starts it, with everything on: key, policy, signature, receipt, durable log, proof."""

    name, what = "veriroute", "policy, node signature verified, receipt signed, durable commit, proof, on every request"
    verified = True
    ready_path = "/healthz"

    def __init__(
        self, folder: pathlib.Path, core: int | None, node: SigningNode, policy: str, data: pathlib.Path
    ) -> None:
        super().__init__(folder, core, node)
        self.policy = policy
        self.config = folder / "veriroute.toml"
        self.database = data / "veriroute.db"

    def veriroute(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "gateway", *arguments]

    def prepare(self) -> None:
        text = CONFIG.format(
            port=self.port,
            database=self.database,
            policy=self.policy,
            url=self.node.url,
            model=self.node.model,
            pin=self.node.pin,
        )
        self.config.write_text(text)
        made = self.run("keys", "create", "--name", "bench", "--config", str(self.config), "--json")
        self.headers = [f"Authorization: Bearer {find_key(made)}"]

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            self.veriroute(*arguments),
            env=environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise BenchError(f"veriroute {' '.join(arguments[:2])} failed ({done.returncode}): {said}")
        return done.stdout

    def command(self) -> list[str]:
        return self.veriroute("serve", "--config", str(self.config))

    def audit(self) -> dict[str, object]:
        """After the stop: does the log hold one receipt for each request, and does it verify?"""
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as database:
            receipts = database.execute("SELECT count(*) FROM receipt").fetchone()[0]
            leaves = database.execute("SELECT count(*) FROM leaf").fetchone()[0]
            size = database.execute("SELECT max(size) FROM checkpoint").fetchone()[0]
        found: dict[str, object] = {
            "requests": self.asked,
            "answered": self.answered,
            "receipts": receipts,
            "leaves": leaves,
            "log_size": size,
            "bytes_per_receipt": round(self.database.stat().st_size / max(1, receipts)),
        }
        begun = time.monotonic()
        try:
            self.run("audit", "verify", str(self.database), "--trust-stored-keys")
            found["audit_verify"] = "ok"
        except (BenchError, subprocess.TimeoutExpired) as error:
            found["audit_verify"] = str(error)
        found["audit_verify_s"] = round(time.monotonic() - begun, 2)
        found["ok"] = receipts == self.asked and leaves == size and found["audit_verify"] == "ok"
        return found


def find_key(text: str) -> str:
    """The secret in the JSON that `veriroute keys create --json` prints."""
    made = json.loads(text.strip().splitlines()[-1])
    for name in ("key", "secret", "api_key"):
        if isinstance(made.get(name), str):
            return made[name]
    raise BenchError("`veriroute keys create --json` printed no key")
