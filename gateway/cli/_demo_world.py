"""What the demo keeps in its folder, and what it starts from there.

    .demo/veriroute.toml             the gateway's settings, written anew by each run
    .demo/veriroute.db               receipts and the log; a later run continues it
    .demo/veriroute.db.keys/         the log key and the receipt key, and trust.txt with their public halves
    .demo/veriroute.db.checkpoint    the newest checkpoint, kept outside the database
    .demo/api-keys.json              the API keys `agent`, `voter` and `ops`, made by the first run
    .demo/nodes/<node>.json          the nodes' identities, so that their pins stay the same
    .demo/logs/<process>.log         what each process wrote to stderr

The gateway's files have the names that they have by default, so that every command finds them without an option.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gateway.api.auth import key_digest
from gateway.errors import ConfigError, LogRefused
from gateway.settings import database, keys_dir, read
from gateway.storage.lock import WriterLock
from gateway.storage.reads import Reader
from gateway.text import plain

from ._demo_children import GATEWAY, Children, NotStarted, command, environment

ORIGIN = "demo.veriroute.local/log"
MODEL, EMBED = "veriroute-lm-1", "veriroute-embed-1"
#: Offered by an honest node and by the dishonest one; and by the dishonest one alone.
SHARED, TAMPERED = "shared-lm", "tampered-lm"
#: Asked of all three processes, as of nodes that sign nothing: what they answer is held against each other.
VOTED = "voted-lm"
#: The keys, with what `veriroute keys create` is told beside their names.
KEYS = {
    "agent": ("--scope", "inference"),
    "voter": ("--policy", "quorum"),
    "ops": ("--scope", "admin", "--scope", "inference"),
}


@dataclass(frozen=True)
class NodePlan:
    """A node of the demo: the models that the gateway routes to it, and further arguments of `veriroute node`."""

    name: str
    models: tuple[str, ...]
    arguments: tuple[str, ...] = ()


NODES = (
    NodePlan("honest-1", (MODEL, EMBED), ("--model-name", VOTED)),
    NodePlan("honest-2", (MODEL, EMBED, SHARED), ("--model-name", SHARED, "--model-name", VOTED)),
    NodePlan(
        "dishonest",
        (TAMPERED, SHARED),
        ("--model-name", TAMPERED, "--model-name", SHARED, "--model-name", VOTED, "--dishonest", "tamper"),
    ),
)
#: The same processes under other names, each of an operator of its own. While none was asked yet, a quorum asks in this
#: order, so the one that lies is among the first two.
VOTERS = (("plain-3", "dishonest"), ("plain-1", "honest-1"), ("plain-2", "honest-2"))


@dataclass(frozen=True)
class RunningNode:
    plan: NodePlan
    url: str
    pin: str


@dataclass(frozen=True)
class World:
    """A gateway that serves, and what one needs to use it and to check it."""

    folder: Path
    url: str
    nodes: tuple[RunningNode, ...]
    keys: dict[str, str]
    trust: Path

    @property
    def config(self) -> Path:
        return self.folder / "veriroute.toml"


def fetch(world: World, path: str) -> bytes:
    """One page of the gateway, with the agent's key. Raises `NotStarted`."""
    headers = {"authorization": f"Bearer {world.keys['agent']}"}
    try:
        answer = httpx.get(f"{world.url}{path}", headers=headers, timeout=30, trust_env=False)
    except httpx.HTTPError as error:
        raise NotStarted(f"the gateway did not answer {path}: {error}") from None
    if answer.status_code != 200:
        raise NotStarted(f"the gateway answered {path} with HTTP status {answer.status_code}")
    return answer.content


def log_size(world: World) -> int:
    """How many entries the log has, as its newest checkpoint says."""
    return int(fetch(world, "/log/checkpoint").split(b"\n")[1])


def save_bundle(world: World, receipt: str) -> Path:
    """Everything that a stranger needs to check `receipt` offline, in a file of the demo's folder."""
    path = world.folder / "chat.veriroutebundle.json"
    path.write_bytes(fetch(world, f"/v1/receipts/{receipt}/bundle"))
    return path


def verify(world: World, bundle: Path) -> tuple[int, list[dict[str, Any]]]:
    """What `veriroute verify` says of a bundle: its exit code and its lines."""
    done = subprocess.run(  # noqa: S603 - our own command, no shell
        command(["verify", str(bundle), "--trust", str(world.trust), "--json"]),
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    try:
        return done.returncode, list(json.loads(done.stdout)["files"][0]["lines"])
    except (ValueError, LookupError):
        raise NotStarted(f"`veriroute verify` failed: {done.stderr.strip()}") from None


class Folder:
    """The demo's folder, for one demo at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock = WriterLock(str(self.path / "demo"))

    def __enter__(self) -> Path:
        try:
            for part in (self.path, self.path / "nodes", self.path / "logs"):
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.path / ".gitignore").write_text("*\n", "utf-8")  # it holds keys
        except OSError as error:
            raise ConfigError(f"cannot use the folder {plain(str(self.path))}: {error.strerror}; see --dir") from None
        try:
            self._lock.acquire()
        except LogRefused:
            raise ConfigError(
                f"another demo runs in {plain(str(self.path))}; stop it, or give this one a folder with --dir"
            ) from None
        return self.path

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def start(folder: Path, port: int, children: Children) -> World:
    """Start the nodes, then the gateway before them. Raises `NotStarted` or `ConfigError`."""
    nodes = []
    for plan in NODES:
        identity = folder / "nodes" / f"{plan.name}.json"
        arguments = ["node", "--port", "0", "--identity", str(identity), "--json", *plan.arguments]
        nodes.append((plan, children.start(plan.name, arguments)))
    running = []
    for plan, child in nodes:
        line = child.ready()
        running.append(RunningNode(plan, line["url"], line["pin"]))
    config = folder / "veriroute.toml"
    write_settings(config, folder, port, running)
    keys = api_keys(folder, config)
    line = children.start(GATEWAY, ["serve", "--config", str(config)]).ready()
    return World(folder, line["url"], tuple(running), keys, _trust(config))


def attach(folder: Path, url: str) -> World:
    """A gateway that runs already, with the settings in `folder` and nodes like the demo's."""
    config = folder / "veriroute.toml"
    settings = read(str(config), {})
    tables = {node.id: node for node in settings.nodes}
    wanted = [*(plan.name for plan in NODES), *(name for name, _ in VOTERS)]
    missing = [name for name in wanted if name not in tables]
    if missing:
        raise ConfigError(f"{config} has no node {missing[0]!r}; --gateway needs one with the demo's nodes")
    nodes = tuple(RunningNode(p, tables[p.name].base_url, tables[p.name].pin or "none") for p in NODES)
    keys = api_keys(folder, config)
    _wait_for_key(url, keys["agent"])
    return World(folder, url.rstrip("/"), nodes, keys, _trust(config))


def _trust(config: Path) -> Path:
    """The gateway's public keys, where it writes them when it starts."""
    return Path(keys_dir(read(str(config), {}))) / "trust.txt"


def write_settings(path: Path, folder: Path, port: int, nodes: list[RunningNode]) -> None:
    """The settings file. Raises `ConfigError`."""
    tables: list[tuple[str, dict[str, Any]]] = [
        ("[server]", {"port": port, "drain_s": 5.0}),
        ("[storage]", {"url": f"sqlite:///{folder / 'veriroute.db'}"}),
        ("[log]", {"origin": ORIGIN}),
    ]
    for node in nodes:
        values = {"id": node.plan.name, "base_url": node.url, "pin": node.pin, "models": node.plan.models}
        tables.append(("[[nodes]]", values))
    urls = {node.plan.name: node.url for node in nodes}
    for name, plan in VOTERS:
        values = {"id": name, "network": "openai", "base_url": urls[plan], "models": [VOTED]}
        tables.append(("[[nodes]]", {**values, "operator": f"{name}.example", "endpoints": ["/v1/chat/completions"]}))
    lines = ["# Written by `veriroute demo`; the next run writes it anew.", ""]
    for head, values in tables:
        lines += [head, *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()), ""]
    try:
        path.write_text("\n".join(lines), "utf-8")
    except (OSError, UnicodeEncodeError) as error:
        raise ConfigError(f"cannot write {plain(str(path))}: {error}") from None


def api_keys(folder: Path, config: Path) -> dict[str, str]:
    """The demo's keys: those of an earlier run while they are in force, else new ones."""
    path = folder / "api-keys.json"
    kept: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        kept = dict(json.loads(path.read_text("utf-8")))
    known = _in_force(database(read(str(config), {})))
    keys = {n: kept[n] for n in KEYS if n in kept and key_digest(kept[n].encode()) in known}
    if len(keys) < len(KEYS):
        for name, options in KEYS.items():
            if name not in keys:
                keys[name] = _create_key(config, name, options)
        _write_secret(path, json.dumps(keys, indent=1) + "\n")
    return keys


def _in_force(path: str) -> set[bytes]:
    if not os.path.exists(path):
        return set()
    with Reader(path) as reader:
        return {key.digest for key in reader.api_keys() if key.revoked_ms is None}


def _create_key(config: Path, name: str, options: tuple[str, ...]) -> str:
    done = subprocess.run(  # noqa: S603 - our own command, no shell
        command(["keys", "create", "--name", name, *options, "--json", "--config", str(config)]),
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    if done.returncode != 0:
        raise NotStarted(f"the API key {name!r} could not be made: {done.stderr.strip()}")
    return str(json.loads(done.stdout)["key"])


def _write_secret(path: Path, text: str) -> None:
    try:
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"cannot write {plain(str(path))}: {error.strerror}") from None


def _wait_for_key(url: str, key: str, within_s: float = 5.0) -> None:
    """A running gateway takes a new key over within half a second. Raises `NotStarted`."""
    end = time.monotonic() + within_s
    with httpx.Client(headers={"authorization": f"Bearer {key}"}, trust_env=False, timeout=10) as client:
        while True:
            try:
                status = client.get(f"{url.rstrip('/')}/v1/models").status_code
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise NotStarted(f"no gateway answers at {plain(url)}: {error}") from None
            if status == 200:
                return
            if time.monotonic() > end:
                raise NotStarted(f"the gateway at {plain(url)} does not know the demo's key (HTTP status {status})")
            time.sleep(0.1)
