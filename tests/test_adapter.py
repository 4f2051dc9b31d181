"""Loading adapters: ours like a stranger's, and whatever is wrong with a stranger's is told, not raised at somebody."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gateway.adapter import load, load_usable
from gateway.errors import AdapterUnusable, ConfigError
from gateway.model.node import Node

MODULE = """
from adapters.aci import AciAdapter

class Klass(AciAdapter):
    pass

class Older(AciAdapter):
    api_version = 2

class Partial:
    api_version = 3
    def configured(self, table, where):
        return self

class Forgetful(AciAdapter):
    def configured(self, table, where):
        pass

class Raising(AciAdapter):
    def configured(self, table, where):
        raise KeyError(table["token"])

class Taking(AciAdapter):
    def configured(self, table, where):
        return self

class Ruled(Taking):
    node_rule = ["none"]

class Exiting(Taking):
    def admit(self, nodes):
        raise SystemExit(0)

class Refusing(Taking):
    def admit(self, nodes):
        raise ConfigError("not such a node")

from gateway.errors import AdapterUnusable, ConfigError
older, partial, ruled, good = Older(), Partial(), Ruled(), AciAdapter()
forgetful, raising, exiting, refusing = Forgetful(), Raising(), Exiting(), Refusing()
"""


def install(folder: Path, name: str, points: dict[str, str]) -> None:
    """A distribution with adapters, as an installer lays it out."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", "utf-8")
    listed = "".join(f"{network} = {value}\n" for network, value in points.items())
    (info / "entry_points.txt").write_text(f"[gateway.adapters]\n{listed}", "utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that modules and distributions are found in."""
    (tmp_path / "strangers_adapters.py").write_text(MODULE, "utf-8")
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "strangers_adapters", raising=False)
    return tmp_path


def node(network: str) -> Node:
    return Node("n", network, "http://127.0.0.1:1", ("m",))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("leaves:adapter", r"\(leaves:adapter\) cannot be loaded: SystemExit"),
        ("strangers_adapters:absent", "cannot be loaded: AttributeError"),
        ("strangers_adapters", "lacks 'api_version'"),
        ("strangers_adapters:Klass", "is a class; an instance"),
        ("strangers_adapters:older", "speaks version 2 of the contract, not 3"),
        ("strangers_adapters:partial", "lacks 'network'"),
        ("strangers_adapters:ruled", "names a rule that is not in the registry"),
        ("strangers_adapters:forgetful", r"what configured\(\) of the adapter for 'net' .* lacks 'api_version'"),
        ("strangers_adapters:raising", "failed at the settings: KeyError$"),
        ("strangers_adapters:exiting", "failed at the settings: SystemExit$"),
        ("strangers_adapters:refusing", "^not such a node$"),
    ],
)
def test_what_is_wrong_with_an_adapter_is_told(site: Path, value: str, words: str) -> None:
    """A start with it is refused with a sentence that names it; what its table holds is not repeated."""
    install(site, "strangers", {"net": value})
    with pytest.raises(ConfigError, match=words) as caught:
        load([node("net")], {"net": {"token": "SECRET"}})
    assert "SECRET" not in str(caught.value)


def test_an_adapter_that_another_package_brings_too_is_not_taken(site: Path) -> None:
    """Which of two is found last is chance, so neither stands in for the other; one that is only listed twice may be."""
    install(site, "strangers", {"aci": "strangers_adapters:good", "openai": "adapters.openai.adapter:adapter"})
    with pytest.raises(ConfigError, match=r"'aci': adapters\.aci:adapter of veriroute, strangers_adapters:good of str"):
        load([node("aci")])
    assert load([node("openai")])["openai"].network == "openai"


def test_l05_an_adapter_that_fails_by_itself_costs_its_own_network(site: Path) -> None:
    """The others are there to be used; what is wrong with it is told by its network's name."""
    install(site, "strangers", {"net": "leaves:adapter", "other": "strangers_adapters:ruled"})
    adapters, unusable = load_usable([node("openai"), node("net"), node("other")])
    assert list(adapters) == ["openai"]
    assert {name: str(error).split(") ")[1][:14] for name, error in unusable.items()} == {
        "net": "cannot be load",
        "other": "names a rule t",
    }


def test_l05_where_no_adapter_is_left_the_start_is_refused(site: Path) -> None:
    """There would be nothing to serve with."""
    install(site, "strangers", {"net": "leaves:adapter"})
    with pytest.raises(AdapterUnusable, match="cannot be loaded"):
        load_usable([node("net")])


def test_l05_settings_that_cannot_be_used_are_refused_all_the_same(site: Path) -> None:
    """What an adapter says of its nodes or its table is for the operator to change."""
    install(site, "strangers", {"net": "strangers_adapters:refusing"})
    with pytest.raises(ConfigError, match="not such a node"):
        load_usable([node("openai"), node("net")])
