"""`--sigstore-root`: the trust root of Sigstore's public instance by name, from a package whose code is not run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tee_worlds import amd, nodes, sigstore

from gateway.cli import main
from gateway.cli._appraise_inputs import Usage
from gateway.cli._sigstore_root import trust_root

WORLD = amd.World("Genoa")
STORE = "sigstore/_store/https%3A%2F%2Ftuf-repo-cdn.sigstore.dev/trusted_root.json"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation of a package `sigstore` that holds our test world's root, and cannot be imported."""
    folder = tmp_path / "site"
    (folder / STORE).parent.mkdir(parents=True)
    (folder / STORE).write_bytes(sigstore.genuine()[1])
    (folder / "sigstore" / "__init__.py").write_text("raise RuntimeError('its code is run')")
    (folder / "sigstore-4.9.dist-info").mkdir()
    (folder / "sigstore-4.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.4\nName: sigstore\nVersion: 4.9\n")
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_the_root_that_the_package_brings_along_is_read(package: Path, tmp_path: Path) -> None:
    """By its name; a path is the operator's own file."""
    assert trust_root("public-good") == sigstore.genuine()[1]
    own = tmp_path / "own.json"
    own.write_bytes(b"{}")
    assert trust_root(str(own)) == b"{}"
    with pytest.raises(Usage, match="cannot read"):
        trust_root(str(tmp_path / "none.json"))


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named, and the other way."""
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(Usage, match=r'pip install "veriroute\[sigstore\]", or give the path'):
        trust_root("public-good")


def test_another_layout_of_the_package_is_said(package: Path) -> None:
    """The path is none that the package promises."""
    (package / STORE).unlink()
    with pytest.raises(Usage, match=r"sigstore 4\.9 has no trusted_root\.json where releases 4 keep it"):
        trust_root("public-good")


def test_a_build_is_judged_by_it(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The check of the build holds under this root, which its digest names; without the option it is not looked at."""
    files = {"bundle.json": nodes.as_json(nodes.tinfoil()), "ask.der": WORLD.ask, "ark.der": WORLD.ark}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    args = ["appraise", "--kind", "tinfoil", "--evidence", str(tmp_path / "bundle.json"), "--json"]
    args += ["--input", f"ask={tmp_path / 'ask.der'}", "--trust-test-root", str(tmp_path / "ark.der")]
    args += ["--now", str(amd.NOW), "--param", f"repository={sigstore.REPOSITORY}"]

    def build(*more: str) -> tuple[str, str | None]:
        main([*args, *more])
        checks = json.loads(capsys.readouterr().out)["checks"]
        return next((check["outcome"], check.get("reason")) for check in checks if check["id"] == "build_attested")

    assert build("--sigstore-root", "public-good") == ("affirming", None)
    assert build() == ("none", "no_trust_root")


def test_evidence_without_a_build_takes_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A root that nothing would look at is a mistake, and said to be one."""
    (tmp_path / "doc").write_bytes(b"\0")
    given = ["appraise", "--kind", "nitro", "--evidence", str(tmp_path / "doc"), "--sigstore-root", "public-good"]
    assert main(given) == 2
    assert "has no build" in capsys.readouterr().err
