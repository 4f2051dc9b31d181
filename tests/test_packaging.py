"""What is built is what runs: a wheel is made, installed apart from the checkout, and tried. And what is committed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
BUILT_IN = ["audited", "observe", "quorum", "reexec", "regulated", "signed", "strict"]


def run(arguments: list[str], **options: object) -> str:
    """Run Python with `arguments` from somewhere else than the checkout; what it printed."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=100, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without any network."""
    folder = tmp_path_factory.mktemp("dist")
    run(["-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed into a folder of its own."""
    target = tmp_path_factory.mktemp("site")
    arguments = ["--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check", "--quiet", "--target"]
    run(["-m", "pip", "install", *arguments, str(target), str(wheel)], cwd=target)
    return target


def from_wheel(installed: Path, tmp_path: Path, *arguments: str) -> str:
    """Run Python with the installed wheel before everything else; only the dependencies come from elsewhere."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VERIROUTE_", "PYTHON"))}
    return run(list(arguments), cwd=tmp_path, env={**kept, "PYTHONPATH": str(installed)})


def test_the_wheel_holds_what_runs_and_nothing_else(wheel: Path) -> None:
    """Policies, the model's weights, the style sheet and the typing marker are in it; tests and documents are not."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tracked = {name for name in committed() if name.startswith(("gateway/", "adapters/", "policies/", "tui/"))}
    assert {name for name in tracked if name.endswith(".py")} <= names
    policies = {f"policies/{name}.toml" for name in BUILT_IN}
    assert {*policies, "adapters/selfhosted/lm/weights.npz", "gateway/py.typed", "tui/app.tcss"} <= names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"gateway", "adapters", "policies", "tui", f"veriroute-{PROJECT['version']}.dist-info"}
    assert not [name for name in names if name.endswith((".pyc", ".db", ".key", ".orig"))]


def test_the_wheel_says_what_the_project_says(wheel: Path) -> None:
    """Version, licence, dependencies and extras of the metadata are those of pyproject.toml."""
    with zipfile.ZipFile(wheel) as archive:
        info = f"veriroute-{PROJECT['version']}.dist-info"
        metadata = message_from_bytes(archive.read(f"{info}/METADATA"))
        points = archive.read(f"{info}/entry_points.txt").decode()
        assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert metadata["Version"] == PROJECT["version"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert sorted(metadata.get_all("Provides-Extra", [])) == sorted(PROJECT["optional-dependencies"])
    required = [name for name in metadata.get_all("Requires-Dist", []) if "extra ==" not in name]
    assert len(required) == len(PROJECT["dependencies"])
    for group in ("gateway.adapters", "gateway.commands"):
        for name, target in PROJECT["entry-points"][group].items():
            assert f"{name} = {target}" in points
    assert "veriroute = gateway.cli:main" in points


def test_the_installed_wheel_runs(installed: Path, tmp_path: Path) -> None:
    """From elsewhere, and not from the checkout: help, version, policies, settings and every command's help."""
    where = from_wheel(installed, tmp_path, "-c", "import gateway, adapters, policies, tui; print(gateway.__file__)")
    assert Path(where.strip()).is_relative_to(installed)
    assert "usage: veriroute COMMAND" in from_wheel(installed, tmp_path, "-m", "gateway", "--help")
    assert from_wheel(installed, tmp_path, "-m", "gateway", "--version") == f"veriroute {PROJECT['version']}\n"
    listed = json.loads(from_wheel(installed, tmp_path, "-m", "gateway", "policy", "list", "--json"))
    assert [policy["name"] for policy in listed] == BUILT_IN
    for name in ("serve", "demo", "verify", "keys", "policy", "audit", "config", "node", "tui"):
        assert f"usage: veriroute {name}" in from_wheel(installed, tmp_path, "-m", "gateway", name, "--help")


def test_adapters_and_the_model_are_found_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    """Entry points lead to the wheel's own adapter; the node's weights load; start-up accepts the installation."""
    code = (
        "import sys; from gateway.adapter import load; from gateway.model.node import Node\n"
        "a = load([Node('n', 'aci', 'http://127.0.0.1:1', ('m',))])['aci']; print(a.network)\n"
        "print(sys.modules[type(a).__module__].__file__)\n"
        "from adapters.selfhosted.lm.model import Weights; Weights.open(); print('weights')\n"
        "from gateway.cli.serve import check_install; check_install(); print('install')\n"
    )
    network, file, weights, install = from_wheel(installed, tmp_path, "-c", code).splitlines()
    assert (network, weights, install) == ("aci", "weights", "install")
    assert Path(file).is_relative_to(installed)


@pytest.mark.parametrize(("package", "command"), [("adapters", "serve"), ("adapters", "node"), ("tui", "tui")])
def test_l04_another_package_in_the_place_of_ours_is_refused(
    installed: Path, tmp_path: Path, package: str, command: str
) -> None:
    """The command that needs it says so, and runs nothing of it."""
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("print('strange')", "utf-8")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VERIROUTE_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-m", "gateway", command],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={**kept, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(installed)])},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"the package {package!r} that Python finds is not veriroute's" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.db*"))


def test_the_source_archive_is_whole(tmp_path: Path) -> None:
    """Whoever unpacks it has what `make demo` and `make test` need: every committed file, and none beside them."""
    run(["-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)], cwd=ROOT)
    (built,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert set(committed()) <= names
    assert not [name for name in names if name.endswith((".pyc", ".db", ".key")) or name.startswith(".venv")]


def committed() -> list[str]:
    """The names of all files that git knows."""
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, timeout=60, cwd=ROOT, check=True).stdout
    return [name.decode() for name in listed.split(b"\0") if name and (ROOT / name.decode()).is_file()]


def test_the_lock_is_pinned_by_hash_and_names_no_address() -> None:
    """Every requirement has one exact version and at least one hash; there is no address of an index in it."""
    lines = [line for line in LOCK.replace("\\\n", " ").split("\n") if line and not line.lstrip().startswith("#")]
    pinned = re.compile(r"[a-z0-9._-]+(?:\[[a-z,]+\])?==[^ ;]+(?: ; [^-]+)?(?: +--hash=sha256:[0-9a-f]{64})+ *")
    assert len(lines) > 30
    assert [line for line in lines if not pinned.fullmatch(line)] == []
    assert not re.search(r"https?:|--index|--extra-index|--find-links|@ ", LOCK)


def test_the_lock_has_what_the_project_asks_for() -> None:
    """Each dependency, and each of an extra, stands in the lock: but for `zk`, whose ezkl states no licence, so that
    nobody gets it without asking."""
    extras = {name: extra for name, extra in PROJECT["optional-dependencies"].items() if name != "zk"}
    asked = [*PROJECT["dependencies"], *(d for extra in extras.values() for d in extra)]
    names = {re.split(r"[^A-Za-z0-9._-]", entry)[0].lower().replace("_", "-") for entry in asked} - {"veriroute"}
    locked = set(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==", LOCK, re.MULTILINE))
    assert names <= locked


def test_nothing_committed_names_an_index_or_a_machine() -> None:
    """No file holds the host of a package index, or a path of the machine on which it was written."""
    hosts = ["python" + "hosted.org", "py" + "pi.org", "py" + "pi.python.org"]
    paths = ["/" + folder + "/" for folder in ("root", "work", "home")]
    words = re.compile("|".join(map(re.escape, hosts)).encode())
    places = re.compile(rb"(?<![\w.~/-])(?:" + "|".join(map(re.escape, paths)).encode() + rb")[\w.]")
    for name in committed():
        data = (ROOT / name).read_bytes()
        assert not words.search(data), name
        assert b"\0" in data[:8000] or not places.search(data), name


def test_l08_nothing_runs_before_ours(wheel: Path) -> None:
    """Neither image nor wheel sets a path of modules, or brings what Python runs as it starts."""
    starts = re.compile(r"(^|/)(site|user)customize\b|\.pth$")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in [*archive.namelist(), *committed()] if starts.search(name)]
    for name in ("Dockerfile", "compose.yaml", "containers/setup.sh"):
        assert not re.search(r"PYTHON(PATH|HOME|STARTUP|USERBASE)", (ROOT / name).read_text("utf-8")), name


def test_l10_a_wheel_built_again_is_the_same(wheel: Path, tmp_path: Path) -> None:
    """Byte for byte, with nothing set for it."""
    run(["-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT)
    (again,) = tmp_path.glob("*.whl")
    assert again.read_bytes() == wheel.read_bytes()


def test_generated_files_are_not_committed() -> None:
    """Databases, keys, caches, builds and saved state stay out of the repository."""
    made = re.compile(r"\.(pyc|db|db-wal|db-shm|key|egg-info)$|(^|/)(__pycache__|\.venv|\.demo|dist)/")
    for name in committed():
        assert not made.search(name), name
        assert (ROOT / name).stat().st_size < 4 << 20, f"{name} is large"
