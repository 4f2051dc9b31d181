"""What docs/networks/openai.md says of settings and checks is what the code has."""

from __future__ import annotations

import docs_kit as kit
import msgspec
import pytest

from adapters.openai.settings import _MAX_ALIASES, NodeTable, admit, read
from gateway import settings
from gateway.policy.prospect import SIGNED
from gateway.verify.no_evidence import NO_EVIDENCE, NO_SIGNATURE

PAGE = kit.text("docs/networks/openai.md")


def test_every_setting_of_a_node_is_documented_as_it_is() -> None:
    """The page has a row for each key with its default, in order, and no other row; and the bound on aliases."""
    said = {row[0].strip("`"): row[1].strip("`") for row in kit.rows(PAGE, "### Every setting")[1:]}
    assert list(said.items()) == [
        (field.name, "none" if field.default is None else "{}") for field in msgspec.structs.fields(NodeTable)
    ]
    assert f"1 to {_MAX_ALIASES} for each" in PAGE


def test_the_example_is_a_settings_file() -> None:
    """It loads, and its nodes and its table are ones that the network takes."""
    (text,) = kit.blocks(PAGE, "toml")
    loaded = settings.load(text)
    table = read(loaded.networks["openai"], "example")
    admit(table, loaded.node_values, "example")
    assert [node.api_key_env for node in table.nodes.values()] == ["HOSTED_API_KEY"]


@pytest.mark.parametrize("word", [*sorted(SIGNED), NO_EVIDENCE, NO_SIGNATURE, "executable_uncovered", "model_echo"])
def test_what_is_not_shown_is_named(word: str) -> None:
    """Each check that only a signature settles stands on the page, with the reasons that are given."""
    assert word in kit.ticked(PAGE)
