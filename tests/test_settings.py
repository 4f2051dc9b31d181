"""Sections of the settings that one variable of the environment replaces as a whole."""

from __future__ import annotations

import json
import re

import docs_kit as kit
import pytest

from gateway import settings, spending
from gateway.errors import ConfigError

FILE = """
[networks.opengradient]
rpc = ["https://file.example"]

[payment]
wallet_file = "file.hex"
max_timeout_s = 7

[[nodes]]
id = "file"
network = "opengradient"
models = ["m"]
"""
PAYMENT = {"wallet_file": "other.hex", "networks": ["eip155:8453"], "assets": []}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("networks", {"opengradient": {"rpc": ["https://other.example"]}}),
        ("networks", {}),
        ("payment", PAYMENT),
        ("payment", {}),
    ],
)
def test_one_variable_replaces_a_section(name: str, value: dict[str, object]) -> None:
    """What the file says of the section is gone, key by key; other sections stay."""
    loaded = settings.load(FILE, environ={f"VERIROUTE_{name}".upper(): json.dumps(value)})
    unchanged = settings.load(FILE)
    assert getattr(loaded, name) == value != getattr(unchanged, name)
    other = "payment" if name == "networks" else "networks"
    assert getattr(loaded, other) == getattr(unchanged, other)
    assert loaded.nodes == unchanged.nodes


def test_nodes_of_the_environment_replace_those_of_the_file() -> None:
    """The list of the variable is all the nodes that there are."""
    (node,) = settings.load(FILE, environ={"VERIROUTE_NODES": '[{"id": "n", "models": ["m"]}]'}).nodes
    assert node.id == "n"


@pytest.mark.parametrize("name", ["NODES", "NETWORKS", "PAYMENT"])
def test_what_is_not_json_is_refused(name: str) -> None:
    """The error names the variable and says what it has to hold."""
    with pytest.raises(ConfigError, match=f"VERIROUTE_{name} must hold a JSON (list|object)"):
        settings.load("", environ={f"VERIROUTE_{name}": "wallet.hex"})


@pytest.mark.parametrize(
    ("name", "value"), [("NODES", "{}"), ("NETWORKS", "[]"), ("PAYMENT", "[]"), ("PAYMENT", "null")]
)
def test_json_of_another_type_is_refused(name: str, value: str) -> None:
    """A list is no section, and an object no list."""
    with pytest.raises(ConfigError, match=rf"Expected `(array|object)`.*\$\.{name.lower()}"):
        settings.load("", environ={f"VERIROUTE_{name}": value})


def test_the_page_s_example_of_a_section_pays_nobody() -> None:
    """The variable as docs/configuration.md shows it takes the section away."""
    shown = re.search(r"^VERIROUTE_PAYMENT='(.*)' veriroute serve", kit.text("docs/configuration.md"), re.MULTILINE)
    assert shown is not None
    loaded = settings.load(FILE, environ={"VERIROUTE_PAYMENT": shown[1]})
    assert spending.open_payer(loaded) is None
