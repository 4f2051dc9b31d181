"""The image and compose.yaml, as far as that can be seen without a container engine: what they run is run here."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import docs_kit as kit
import pytest
import yaml
from running import Process

from adapters.selfhosted.command import command as node_command
from gateway.cli import COMMANDS
from gateway.settings import Settings, database, keys_dir, memory_path, read

SETUP = kit.ROOT / "containers" / "setup.sh"
NODES = ("node-1", "node-2", "node-dishonest")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """What compose.yaml starts."""
    return dict(yaml.safe_load(kit.text("compose.yaml"))["services"])


def parsed(service: dict[str, Any]) -> Any:
    """The service's command, read by the parser of the `veriroute` command that it names."""
    name, *words = service["command"]
    command = node_command if name == "node" else importlib.import_module(COMMANDS[name][0])
    return kit.parser(name, command).parse_args(words)


def set_up(identities: Path, data: Path) -> Settings:
    """Run the one-shot service's script on folders of ours."""
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", str(SETUP)],
        env={**os.environ, "PATH": tools, "IDENTITIES": str(identities), "DATA": str(data)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return read(str(data / "veriroute.toml"), {})


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The places of the two volumes."""
    found = tmp_path / "identities", tmp_path / "data"
    for path in found:
        path.mkdir(mode=0o700)
    return found


def mount(service: dict[str, Any], target: str) -> list[str]:
    """Source, target and options of the mount that holds `target`."""
    for volume in service["volumes"]:
        parts = str(volume).split(":")
        if PurePosixPath(target).is_relative_to(parts[1]):
            return parts
    raise AssertionError(f"nothing is mounted where {target} is")


def test_every_command_is_one_of_ours(services: dict[str, Any]) -> None:
    """Each service's command parses, and listens where the others look for it."""
    assert set(services) == {"setup", *NODES, "gateway", "demo"}
    for name in NODES:
        arguments = parsed(services[name])
        assert (arguments.host, arguments.port) == ("0.0.0.0", 9001)
        assert "9001" in "".join(services[name]["healthcheck"]["test"])
    assert [parsed(services[name]).dishonest for name in NODES] == [None, None, "tamper"]
    assert parsed(services["gateway"]).config == "/data/veriroute.toml"
    demo = parsed(services["demo"])
    assert (demo.gateway, demo.dir) == ("http://127.0.0.1:8080", Path("/data"))
    assert services["demo"]["network_mode"] == "service:gateway"
    assert services["demo"]["profiles"]  # not part of `up`


def test_what_is_mounted(services: dict[str, Any]) -> None:
    """Identities and state lie in volumes; a node can't change its identity, and nobody else gets at the gateway's."""
    document = yaml.safe_load(kit.text("compose.yaml"))
    for name in NODES:
        source, _, mode = mount(services[name], str(parsed(services[name]).identity))
        assert (source, mode) == ("identities", "ro")
        assert [volume.split(":")[0] for volume in services[name]["volumes"]] == ["identities"]
    assert mount(services["gateway"], "/data/veriroute.db") == ["gateway", "/data"]
    assert [volume.split(":")[0] for volume in services["gateway"]["volumes"]] == ["gateway"]
    assert {volume.split(":")[1] for volume in services["setup"]["volumes"]} == {"/setup.sh", "/identities", "/data"}
    assert set(document["volumes"]) == {"identities", "gateway"}
    local = services["setup"]["volumes"][0].split(":")[0]
    assert (kit.ROOT / local).resolve() == SETUP


def test_nothing_is_open_to_others(services: dict[str, Any]) -> None:
    """One port is published, on loopback; the nodes' network leads nowhere; no service gains rights."""
    document = yaml.safe_load(kit.text("compose.yaml"))
    assert [name for name, service in services.items() if "ports" in service] == ["gateway"]
    assert all(port.startswith("127.0.0.1:") for port in services["gateway"]["ports"])
    assert document["networks"]["nodes"] == {"internal": True}
    assert all(services[name]["networks"] == ["nodes"] for name in NODES)
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_order_of_starting(services: dict[str, Any]) -> None:
    """Nodes wait for their identities, the gateway for its settings and the nodes, the demo for the gateway."""
    after = {name: {n: c["condition"] for n, c in s.get("depends_on", {}).items()} for name, s in services.items()}
    done, healthy = "service_completed_successfully", "service_healthy"
    assert all(after[name] == {"setup": done} for name in NODES)
    assert after["gateway"] == {"setup": done, **dict.fromkeys(NODES, healthy)}
    assert after["demo"] == {"gateway": healthy}
    assert after["setup"] == {}
    grace = services["gateway"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > Settings().server.drain_s


def test_one_service_builds_the_image(services: dict[str, Any]) -> None:
    """All run one image that one service builds, before each of the others: builds of one name would race.

    No registry is asked for it: what runs with the keys is what was built here.
    """
    assert {(service["image"], service["pull_policy"]) for service in services.values()} == {
        ("veriroute:local", "never")
    }
    assert [name for name, service in services.items() if "build" in service] == ["setup"]
    after: dict[str, set[str]] = {}
    for name in ("setup", *NODES, "gateway", "demo"):
        needed = set(services[name].get("depends_on", {}))
        after[name] = needed.union(*(after[other] for other in needed))
    assert [name for name, before in after.items() if "setup" not in before] == ["setup"]


def test_the_setup_writes_settings_that_fit(services: dict[str, Any], folders: tuple[Path, Path]) -> None:
    """The settings name each node's service, port, models and pin; a second run keeps the identities."""
    identities, data = folders
    settings = set_up(identities, data)
    assert {path.name for path in identities.iterdir()} == {f"{name}.json" for name in NODES}
    for path in (*identities.iterdir(), data / "veriroute.toml"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert (settings.server.host, settings.server.port, settings.auth.mode) == ("0.0.0.0", 8080, "keys")
    assert "gateway" in settings.server.allowed_hosts
    assert settings.upstream.allow_http
    for place in (database(settings), keys_dir(settings), memory_path(settings)):
        assert Path(place).parent == data
    signing, voting = settings.nodes[: len(NODES)], settings.nodes[len(NODES) :]
    assert [node.base_url for node in signing] == [f"http://{name}:9001" for name in NODES]
    assert {node.base_url for node in voting} == {node.base_url for node in signing}
    assert len({node.operator for node in voting}) == len(voting)
    assert all("voted-lm" in parsed(services[name]).model_name for name in NODES)
    for node, name in zip(signing, NODES, strict=True):
        served = {"veriroute-lm-1", "veriroute-embed-1", *parsed(services[name]).model_name}
        assert set(node.models) <= served
        assert node.pin == print_pin(identities / f"{name}.json")
    assert set_up(identities, data) == settings


def print_pin(identity: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "node", "--identity", str(identity), "--print-pin", "--json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return str(json.loads(done.stdout)["pin"])


def test_a_setup_that_fails_leaves_the_settings(folders: tuple[Path, Path]) -> None:
    """When an identity can't be read, the script ends with an error and the settings of the last run stand."""
    identities, data = folders
    set_up(identities, data)
    before = (data / "veriroute.toml").read_bytes()
    (identities / "node-2.json").write_text("{}")
    with pytest.raises(AssertionError, match="damaged"):
        set_up(identities, data)
    assert (data / "veriroute.toml").read_bytes() == before


@pytest.fixture
def world(services: dict[str, Any], folders: tuple[Path, Path], tmp_path: Path) -> Iterator[dict[str, Process]]:
    """The services of compose.yaml as processes: its commands, with free ports of loopback in place of its names."""
    identities, data = folders
    set_up(identities, data)
    settings = data / "veriroute.toml"
    with ExitStack() as stack:
        started: dict[str, Process] = {}
        for name in NODES:
            shown = " ".join(services[name]["command"])
            shown = shown.replace("/identities", str(identities)).replace("0.0.0.0", "127.0.0.1").replace("9001", "0")
            started[name] = Process([*shown.split(), "--json"], cwd=tmp_path)
            stack.callback(started[name].stop)
            text = settings.read_text("utf-8").replace(f"http://{name}:9001", started[name].url)
            settings.write_text(text.replace("port = 8080", "port = 0"), "utf-8")
        shown = " ".join(services["gateway"]["command"]).replace("/data", str(data))
        started["gateway"] = Process(shown.split(), cwd=tmp_path)
        stack.callback(started["gateway"].stop)
        yield started


def test_the_services_work_together(
    services: dict[str, Any], world: dict[str, Process], folders: tuple[Path, Path]
) -> None:
    """With what the setup wrote, the demo's requests end as they have to; each health check tells a live service."""
    gateway = f"http://127.0.0.1:{port_of(world['gateway'])}"
    shown = " ".join(services["demo"]["command"]).replace("/data", str(folders[1]))
    words = shown.replace("http://127.0.0.1:8080", gateway).split()
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *words, "--json"], capture_output=True, text=True, timeout=90
    )
    assert (done.returncode, done.stderr) == (0, "")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(e["event"] == "row" for e in events) == 12
    assert events[-1]["as_expected"] is True
    for name in ("node-1", "gateway"):
        port = port_of(world[name])
        assert health(services[name], port) == 0
        world[name].stop()
        assert health(services[name], port) != 0


def port_of(process: Process) -> int:
    return int(process.url.rsplit(":", 1)[1])


def health(service: dict[str, Any], port: int) -> int:
    """The exit code of a service's health check, asked of another port."""
    how, program, *words = service["healthcheck"]["test"]
    assert (how, program) == ("CMD", "python")
    words = [re.sub(r"\b(9001|8080)\b", str(port), word) for word in words]
    return subprocess.run([sys.executable, *words], capture_output=True, timeout=30).returncode


def test_a_pin_needs_an_identity(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """`veriroute node --print-pin` prints the pin alone and serves nothing; without a file there is no pin to print."""
    from gateway.cli import main

    identity = tmp_path / "node.json"
    assert main(["node", "--identity", str(identity), "--print-pin"]) == 0
    pin = capsys.readouterr().out
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", pin)
    assert main(["node", "--identity", str(identity), "--print-pin", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"pin": pin.strip()}
    assert main(["node", "--print-pin"]) == 2
    assert "--identity" in capsys.readouterr().err


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continued lines joined."""
    text = re.sub(r"^#.*\n", "", kit.text("Dockerfile"), flags=re.MULTILINE).replace("\\\n", " ")
    found = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(word.upper(), rest) for word, rest in found]


def test_the_image_is_built_from_what_is_there() -> None:
    """Everything that is copied exists and is let through by .dockerignore, and nothing else is: no keys, no log."""
    copied = set()
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from"):
            copied |= set(rest.split()[:-1])
    assert {"requirements.lock", "pyproject.toml", "gateway", "adapters", "policies", "tui"} <= copied
    ignored = [line for line in kit.text(".dockerignore").splitlines() if line and not line.startswith("#")]
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert all((kit.ROOT / name).exists() for name in copied)
    assert any(fnmatch("gateway/__pycache__", line) for line in ignored)


def test_the_image_takes_packages_by_hash_alone() -> None:
    """The lock is installed by hash, later steps have no index, and no index host is named anywhere."""
    steps = instructions()
    network = next(at for at, (_, rest) in enumerate(steps) if "pip download" in rest)
    assert "--require-hashes" in steps[network][1]
    assert "--only-binary :all:" in steps[network][1]
    offline = next(at for at, (word, rest) in enumerate(steps) if word == "ENV" and "PIP_NO_INDEX=1" in rest)
    others = [at for at, (_, rest) in enumerate(steps) if "pip install" in rest or "pip wheel" in rest]
    assert others
    assert all(network < offline < at for at in others)
    for name in ("Dockerfile", "compose.yaml", "containers/setup.sh"):
        assert not re.search(r"index-url|extra-index|trusted-host|https?://(?!127\.0\.0\.1|%s:9001)", kit.text(name)), (
            name
        )


def test_the_image_does_not_run_as_root() -> None:
    """The last stage ends as a user of its own, who owns the places that volumes are mounted on."""
    steps = instructions()
    stage = steps[max(at for at, (word, _) in enumerate(steps) if word == "FROM") :]
    assert [rest for word, rest in stage if word == "USER"] == ["10001:10001"]
    made = next(rest for word, rest in stage if word == "RUN")
    assert re.search(r"install .*--owner veriroute .*--mode 0700 /data /identities", made)
    assert ("ENTRYPOINT", '["veriroute"]') in stage
    assert json.loads(next(rest for word, rest in stage if word == "CMD"))[0] in COMMANDS
    bases = {rest.split()[0] for word, rest in steps if word == "FROM"}
    assert bases == {"python:3.11-slim"}


def test_compose_itself_accepts_the_file() -> None:
    """`docker compose config` reads the file, every profile included. It needs the client alone, no engine."""
    if shutil.which("docker") is None:
        pytest.skip("there is no docker client here")
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode != 0:
        pytest.skip("the docker client here has no compose plugin")
    done = subprocess.run(
        ["docker", "compose", "--profile", "*", "config", "--quiet"], capture_output=True, text=True, cwd=kit.ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
