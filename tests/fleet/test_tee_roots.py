"""Test roots are believed only where two settings and every node's address say that this is a test bed, and loudly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import structlog
from running import Gateway
from tee_worlds import amd, intel

from gateway.errors import ConfigError
from gateway.fleet.tee_roots import VENDORS, trust_roots
from gateway.settings import Settings, is_local, load
from gateway.verify.tee.intel import verify_intel
from gateway.verify.tee.kinds import KINDS
from gateway.verify.tee.roots import VENDOR_ROOTS


def settings(*paths: Path, allow: bool = True, nodes: tuple[str, ...] = ()) -> Settings:
    lines = ["[tee]", f"dangerous_test_roots = {json.dumps([str(path) for path in paths])}"]
    lines += ["dangerous_allow_test_roots = true"] * allow
    for place, url in enumerate(nodes):
        lines += ["[[nodes]]", f'id = "n{place}"', f'base_url = "{url}"', 'models = ["m"]']
    return load("\n".join(lines))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root.der"
    path.write_bytes(intel.World().root_der)
    return path


def test_the_vendors_roots_alone_are_the_default() -> None:
    """Nothing of the settings is believed unless it is written there."""
    with structlog.testing.capture_logs() as logs:
        assert trust_roots(Settings()) is VENDOR_ROOTS
    assert not logs


def test_a_test_root_is_believed_marked_and_told(root: Path, tmp_path: Path) -> None:
    """Evidence under it holds, its claims say test, and the start warns with digest and path; the vendors' stay."""
    other = tmp_path / "ark.der"
    other.write_bytes(amd.World().ark)
    with structlog.testing.capture_logs() as logs:
        roots = trust_roots(settings(root, other))
    world = intel.World()
    claims = verify_intel(world.quote(), world.collateral(), roots=roots, now=world.now).claims
    assert claims.authentic
    assert claims.root is not None
    assert claims.root.test
    assert claims.root.name.startswith("TEST ")
    assert set(VENDOR_ROOTS.anchors) < set(roots.anchors)
    (told,) = logs
    assert (told["event"], told["log_level"], told["count"]) == ("tee.test_roots", "warning", 2)
    assert told["path"] == [str(root), str(other)]
    assert world.anchor.sha256 in told["key"]


def test_a_test_root_is_one_for_every_vendor(root: Path) -> None:
    """Whatever kind of evidence a test bed makes, its root is known."""
    with structlog.testing.capture_logs():
        roots = trust_roots(settings(root))
    asked = {vendor for kind in KINDS.values() for vendor in kind.vendors} | {a.vendor for a in VENDOR_ROOTS.anchors}
    assert asked <= set(VENDORS)
    found = [roots.find(vendor, root.read_bytes()) for vendor in VENDORS]
    assert all(one is not None and one.test for one in found)


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----", bytes(20_000)])
def test_a_file_that_is_no_certificate_refuses_the_start(tmp_path: Path, content: bytes | None) -> None:
    """Missing, empty, PEM, too large."""
    path = tmp_path / "root.der"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="test root"):
        trust_roots(settings(path))


def test_test_roots_need_a_second_setting(root: Path) -> None:
    """A path alone refuses the start, and names the other setting; that one alone changes nothing."""
    with pytest.raises(ConfigError, match=r"tee\.dangerous_allow_test_roots = true"):
        settings(root, allow=False)
    assert trust_roots(settings()) is VENDOR_ROOTS


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:9001", True),
        ("http://localhost:9001", True),
        ("https://[::1]:9001", True),
        ("https://10.1.2.3", True),
        ("https://192.168.0.9/tenant", True),
        ("https://[fd00::1]", True),
        ("https://node.example", False),
        ("https://localhost.example", False),
        ("https://localhost@node.example", False),
        ("https://8.8.8.8", False),
        ("https://[2606:4700::1111]", False),
        ("https://0.0.0.0", False),
        ("https://node", False),
        ("https://[::1", False),
        ("node", False),
        ("", False),
    ],
)
def test_test_roots_are_refused_beside_a_node_elsewhere(root: Path, url: str, local: bool) -> None:
    """Every node must be written as a loopback or private address: a name can lead anywhere."""
    assert is_local(url) == local
    nodes = ("http://127.0.0.1:9001", url)
    if local:
        assert settings(root, nodes=nodes).tee.dangerous_test_roots
    else:
        with pytest.raises(ConfigError, match="'n1' is not on a loopback or private address"):
            settings(root, nodes=nodes)


@pytest.mark.parametrize("key", ["refresh_s", "timeout_s"])
@pytest.mark.parametrize("value", ["0.0", "-1.0", "inf", "nan"])
def test_a_time_of_nothing_refuses_the_start(key: str, value: str) -> None:
    """Seconds are more than none and end."""
    with pytest.raises(ConfigError, match=f"collateral.{key}"):
        load(f"[collateral]\n{key} = {value}")


def test_a_gateway_with_test_roots_says_so(root: Path, tmp_path: Path) -> None:
    """/readyz and /v1/models show root TEST while the settings name one, and nothing otherwise."""
    tee = {"dangerous_test_roots": [str(root)], "dangerous_allow_test_roots": True}
    for name, changes, expected in (("plain", {}, None), ("test", {"tee": tee}, "TEST")):
        folder = tmp_path / name
        folder.mkdir()
        gateway = Gateway(folder, [], **changes).start()
        try:
            with gateway.http() as client:
                assert client.get("/readyz").json().get("root") == expected
                assert client.get("/v1/models").json().get("root") == expected
        finally:
            assert gateway.stop() == 0
