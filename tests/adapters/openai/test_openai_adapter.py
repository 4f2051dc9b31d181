"""The adapter `openai`: what its table may say, which nodes it takes, and where its keys go."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from adapters.openai.adapter import OpenAIAdapter, adapter
from gateway.adapter import Sealed, load
from gateway.errors import ConfigError
from gateway.fleet.attest import Attester
from gateway.model.node import Node
from gateway.settings import dump
from gateway.settings import load as load_settings
from gateway.upstream.limits import Limits
from gateway.upstream.pool import UpstreamPool

WHERE = "[networks.openai]"
NODE = Node("n", "openai", "https://api.example/openai", ("m", "m2"))
SECRET = "sk-do-not-show-0123456789"
KEYED: dict[str, Any] = {"nodes": {"n": {"api_key_env": "SOME_KEY"}}}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", SECRET)


@pytest.fixture
async def attester() -> AsyncIterator[Attester]:
    pool = UpstreamPool(Limits())
    made = Attester(pool, now=time.time, lifetime_s=600, allow_http=False, allow_private=True)
    yield made
    await made.close()
    await pool.close()


def configured(table: dict[str, Any], *nodes: Node) -> OpenAIAdapter:
    made = adapter.configured(table, WHERE)
    made.admit(nodes or (NODE,))
    return made


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"api_key": SECRET}, "unknown field `api_key`"),
        ({"nodes": {"n": {"api_key": SECRET}}}, "unknown field `api_key`"),
        ({"nodes": {"n": {"api_key_env": SECRET}}}, "name of an environment variable"),
        ({"nodes": {"n": {"api_key_env": "UNSET_KEY"}}}, "into the environment as UNSET_KEY"),
        ({"nodes": {"n": {"aliases": {"m": []}}}}, "1 to 16 names for 'm'"),
        ({"nodes": {"n": {"aliases": {"m": ["x"] * 17}}}}, "1 to 16 names for 'm'"),
        ({"nodes": {"n": {"aliases": {"m": [""]}}}}, "1 to 16 names for 'm'"),
        ({"nodes": {"n": {"aliases": {"M": ["x"]}}}}, "'M', which is not among its models"),
        ({"nodes": {"nn": {}}}, "no node of .* has that id"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(table: dict[str, Any], words: str) -> None:
    """The error names the section and what is wrong, and repeats no key that was put in the wrong place."""
    with pytest.raises(ConfigError, match=words) as caught:
        configured(table)
    assert WHERE in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("value", ["", "two\nlines", "key\n", "a b", "ü", "x" * 4097])
def test_a_key_has_to_be_one(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """What cannot be one header's value is refused at the start, by the variable's name; one that is there is told so."""
    monkeypatch.setenv("SOME_KEY", value)
    words = "SOME_KEY holds no API key: .* ends of lines" if value else "into the environment as SOME_KEY$"
    with pytest.raises(ConfigError, match=words):
        configured(KEYED)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"base_url": ""}, "base_url is missing"),
        ({"base_url": "https://api.example/v1"}, "without /v1"),
        ({"base_url": "https://api.example/v1/"}, "without /v1"),
        ({"pin": "sha256:" + "0" * 64}, "pin names a keyset"),
        ({"base_url": "http://api.example"}, "in the clear"),
        ({"base_url": "http://10.0.0.1"}, "in the clear"),
        ({"base_url": "http://localhost.example"}, "in the clear"),
        ({"base_url": "http://[oops"}, "in the clear"),
        ({"base_url": "https://api.example"}, None),
        ({"base_url": "http://127.0.0.1:8000"}, None),
        ({"base_url": "http://[::1]:8000"}, None),
        ({"base_url": "http://localhost:8000"}, None),
    ],
)
def test_a_node_that_it_cannot_have_is_refused(fields: dict[str, str], words: str | None) -> None:
    """At the start, before any key or prompt goes anywhere; a key goes over TLS, or stays on this machine."""
    node = msgspec.structs.replace(NODE, **fields)
    if words is None:
        configured(KEYED, node)
        return
    with pytest.raises(ConfigError, match=words):
        configured(KEYED, node)


def test_without_a_key_plain_http_is_for_the_settings_to_allow() -> None:
    """The table asks for nothing more where there is no key to lose."""
    configured({}, msgspec.structs.replace(NODE, base_url="http://10.0.0.1"))


async def test_a_key_goes_to_its_own_node_and_shows_nowhere_else(attester: Attester) -> None:
    """The header is for the node that it is set for; it is not in what prints the adapter, the session or settings."""
    made = configured(KEYED, NODE, msgspec.structs.replace(NODE, id="other"))
    (mine, others) = [await attester.attest(msgspec.structs.replace(NODE, id=i), made) for i in ("n", "other")]
    assert mine.session is not None
    assert others.session is not None
    assert made.request(mine.session, "nonce", chained=True) == [(b"authorization", f"Bearer {SECRET}".encode())]
    assert made.request(others.session, "nonce", chained=True) == []
    text = (
        '[networks.openai.nodes.n]\napi_key_env = "SOME_KEY"\n[[nodes]]\nid = "n"\nnetwork = "openai"\nmodels = ["m"]\n'
    )
    shown = (made, made.node_terms, mine, mine.session, msgspec.json.encode(mine.session), dump(load_settings(text)))
    assert not [value for value in shown if SECRET in repr(value) or SECRET in str(value)]


async def test_nothing_is_fetched_of_a_node(attester: Attester) -> None:
    """Its session stands without a word from it, with the aliases of the settings; an answer has nothing beside it."""
    made = configured({"nodes": {"n": {"aliases": {"m2": ["b", "a"], "m": ["c"]}}}})
    found = await attester.attest(NODE, made)
    assert (found.document, found.endorsements) == (None, {})
    assert found.session is not None
    assert found.session.aliases == (("m", "c"), ("m2", "b"), ("m2", "a"))
    assert (await made.evidence(NODE, "00", attester)).problem == "no_evidence"
    assert made.response([(b"x-aci-receipt", b"AAAA")]) == Sealed(None)
    assert made.sealing(found.session) is None
    assert (await made.discover([NODE], attester)).nodes == (NODE,)


def test_it_is_found_by_its_entry_point() -> None:
    """Loaded with the nodes that name it, and held to them; without a table it has no keys."""
    loaded = load([NODE])["openai"]
    assert isinstance(loaded, OpenAIAdapter)
    with pytest.raises(ConfigError, match="without /v1"):
        load([msgspec.structs.replace(NODE, base_url="https://api.example/v1")])
