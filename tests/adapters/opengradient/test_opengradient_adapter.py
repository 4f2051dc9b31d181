"""The OpenGradient adapter against the test network, and what its dossiers come to once they are judged."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from opengradient_world import Network
from opengradient_world.chain import OWNER, REGISTRY
from opengradient_world.network import TOKEN

from adapters.opengradient import discover as listing
from adapters.opengradient.adapter import LLM_PROXY, OpenGradientAdapter, adapter
from adapters.opengradient.discover import discover
from adapters.opengradient.rpc_errors import QuorumError
from gateway.adapter import Discovered, RawEvidence, load
from gateway.crypto.ohttp_keys import parse_key_config
from gateway.errors import ConfigError, VerirouteError
from gateway.fleet import attest
from gateway.fleet.attest import Attester
from gateway.model.node import Node
from gateway.upstream.limits import Limits
from gateway.upstream.pool import UpstreamPool
from gateway.verify.opengradient import abi
from gateway.verify.opengradient.appraise import NodeTerms, appraise_dossier
from gateway.verify.opengradient.dossier import RPC_NAME

NONCE = "cd" * 32
ANY = Node("og", "opengradient", "", ("gpt-4.1",))
WHERE = "[networks.opengradient]"


def table(network: Network, **more: Any) -> dict[str, Any]:
    return {"rpc": network.rpc_urls, "registry": REGISTRY, "confirmations": 0, "relay_url": network.relay_url, **more}


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERIROUTE_OPENGRADIENT_TOKEN", TOKEN)


@pytest.fixture
async def client(network: Network) -> AsyncIterator[Attester]:
    pool = UpstreamPool(Limits())
    made = Attester(
        pool, now=time.time, lifetime_s=600, allow_http=False, allow_private=True, roots=network.nitro.roots
    )
    yield made
    await made.close()
    await pool.close()


def configured(network: Network, **more: Any) -> OpenGradientAdapter:
    return adapter.configured(table(network, **more), WHERE)


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"rpc": []}, "at least one JSON-RPC endpoint"),
        ({"rpc": ["https://a.example/x", "https://A.example/y"]}, "each on a host or port of its own"),
        ({"rpc": ["http://a.example", "http://a.example:80"]}, "each on a host or port of its own"),
        ({"rpc": ["https://" + "a" * 70 + end for end in (".x", ".y")]}, "each on a host or port of its own"),
        ({"rpc": ["http://["]}, "rpc: the RPC endpoint number 1: not an http"),
        ({"rpc": ["https://a.example", "https://me:secret@b.example"]}, "endpoint number 2: not an http"),
        ({"rpc": [f"https://a.example:{port}" for port in range(1, 18)]}, "rpc names 17 endpoints"),
        ({"rpc": ["https://-a.example/secret"]}, "'-a.example' is not a host"),
        ({"rpc_agree": 4}, "rpc_agree cannot be more"),
        ({"registry": "0x12"}, "registry must be 0x and 40 hex digits"),
        ({"transport": "ohttp", "relay_url": ""}, "needs relay_url"),
        ({"transport": "smoke"}, "Invalid enum value"),
        ({"refresh_s": 0}, "refresh_s must be"),
        ({"attestation_ttl_s": float("inf")}, "attestation_ttl_s must be"),
        ({"confirmations": -1}, "not negative"),
        ({"chain_id": 0}, "a chain id is positive"),
        ({"relay_token_env": "og-secret"}, "relay_token_env is the name of an environment variable"),
        ({"regsitry": "0x"}, "unknown field `regsitry`"),
        ({"pcr_table": "/nowhere/at/all"}, "pcr_table /nowhere/at/all cannot be read"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(network: Network, more: dict[str, Any], words: str) -> None:
    """The error names the section and what is wrong."""
    with pytest.raises(ConfigError, match=words) as caught:
        configured(network, **more)
    assert WHERE in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://RPC.example?key=Secret", "rpc.example"),
        ("https://rpc.example:8545/v1/Secret#x", "rpc.example:8545"),
        ("http://[::1]:8545", "[::1]:8545"),
    ],
)
def test_a_dossier_can_name_each_endpoint(network: Network, client: Attester, url: str, name: str) -> None:
    """By host and port alone: a key in its path or query is no part of the name."""
    (endpoint,) = configured(network, rpc=[url]).quorum(client).clients
    assert endpoint.name == name
    assert RPC_NAME.fullmatch(endpoint.name)


@pytest.mark.parametrize("value", ["", "two\nlines", "ü"])
def test_a_relay_needs_its_token(network: Network, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """The token comes from the environment, and is not shown."""
    monkeypatch.setenv("VERIROUTE_OPENGRADIENT_TOKEN", value)
    with pytest.raises(ConfigError, match="put it into the environment as VERIROUTE_OPENGRADIENT_TOKEN"):
        configured(network, transport="ohttp")


def test_it_is_found_by_its_entry_point(network: Network) -> None:
    """Loaded as a stranger's would be; a table for a network that no node names is an error."""
    assert isinstance(load([ANY], {"opengradient": table(network)})["opengradient"], OpenGradientAdapter)
    with pytest.raises(ConfigError, match=r"\[networks.opengradient\] is set, and no node"):
        load([Node("n", "aci", "", ("m",))], {"opengradient": table(network)})
    with pytest.raises(ConfigError, match="no settings of its own"):
        load([Node("n", "aci", "", ("m",))], {"aci": {"x": 1}})


def test_what_no_discovery_could_mend_is_refused_at_the_start(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place that is no one TEE's, and the missing extra; a discovery would fail for ever, and say as much."""
    with pytest.raises(ConfigError, match="'x': base_url says where one TEE answers, so pin has to say which"):
        load([Node("x", "opengradient", "https://x.example", ("m",))], {"opengradient": table(network)})
    monkeypatch.setitem(sys.modules, "eth_abi.abi", None)
    abi._codec.cache_clear()
    with pytest.raises(ConfigError, match="pip install 'veriroute"):
        load([ANY], {"opengradient": table(network)})
    abi._codec.cache_clear()


def test_how_many_have_to_agree(network: Network) -> None:
    """More than half of the endpoints, or as many as the settings say."""
    assert configured(network).table.agree == 2
    assert configured(network, rpc_agree=3).table.agree == 3
    assert configured(network, rpc=network.rpc_urls[:1]).table.agree == 1


# -- nodes -----------------------------------------------------------------------------------------------------------


async def test_records_become_nodes(network: Network, client: Attester) -> None:
    """By pin under the configured name, else under one of its own; where settings say the place, it is theirs."""
    tee_id = network.enclave.tee_id
    mine = Node("mine", "opengradient", "", ("m",), tee_id, "me", ("/v1/chat/completions", "/v1/messages"))
    own = Node("own", "opengradient", "https://127.0.0.1:9", ("m",), tee_id)
    other = Node("other", "opengradient", "", ("m",), "0x" + "00" * 32)
    found = await configured(network).discover([ANY, mine, own, other], client)
    nodes = {node.id: node for node in found.nodes}
    assert set(nodes) == {f"og-{tee_id[2:10]}", "mine", "own"}
    assert nodes["mine"].base_url == network.enclave.url
    assert (nodes["mine"].operator, nodes["mine"].endpoints) == ("me", ("/v1/chat/completions",))
    assert nodes["own"].base_url == "https://127.0.0.1:9"
    assert found.unresolved == {"other": "tee_not_registered"}


async def test_no_node_takes_the_name_of_another(
    network: Network, client: Attester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are made until their first digits are another's: who had the name first keeps it, for as long as we run."""
    from adapters.opengradient import adapter as module

    listed = (await discover(configured(network).quorum(client), REGISTRY, LLM_PROXY)).records
    (mine,) = listed
    copy = msgspec.structs.replace(
        mine, tee_id=mine.tee_id[:4] + b"\1" * 28, registered_at=mine.registered_at + 1, endpoint="https://127.0.0.1:7"
    )

    async def crowded(*args: Any) -> Any:
        return dataclasses.replace(await discover(*args), records=shown)

    monkeypatch.setattr(module, "discover", crowded)
    short = f"og-{mine.tee_id[:4].hex()}"
    long = short + "01" * 12
    made = configured(network)
    for shown in ((copy, mine), (mine, copy), (copy,)):  # the older registration is the first, wherever it stands
        nodes = {node.id: node.base_url for node in (await made.discover([ANY], client)).nodes}
        expected = {short: mine.endpoint, long: copy.endpoint}
        assert nodes == {name: url for name, url in expected.items() if url in {record.endpoint for record in shown}}


async def test_a_pinned_node_keeps_its_name(network: Network, client: Attester) -> None:
    """A pin under the name that a node has without one is in force, wherever it stands in the settings."""
    tee_id = network.enclave.tee_id
    name = f"og-{tee_id[2:10]}"
    pinned = Node(name, "opengradient", "", ("m",), tee_id)
    for wanted in ([ANY, pinned], [pinned, ANY]):
        found = await configured(network).discover(wanted, client)
        assert {node.id: node.pin for node in found.nodes} == {name: tee_id, f"og-{tee_id[2:34]}": None}


async def test_an_account_of_the_registry_is_no_operator(network: Network, client: Attester) -> None:
    """Accounts cost nothing: who runs a node is for the settings to say, and without their word it is not known."""
    named = msgspec.structs.replace(ANY, id="named", operator="me")
    found = await configured(network).discover([ANY, named], client)
    assert [(node.operator, node.owner) for node in found.nodes] == [(None, OWNER), ("me", OWNER)]


async def test_sealed_nodes_are_reached_through_the_relay(network: Network, client: Attester, token: None) -> None:
    """Chat alone can be sealed."""
    found = await configured(network, transport="ohttp").discover([ANY], client)
    (node,) = found.nodes
    assert (node.base_url, node.endpoints) == (network.relay_url, ("/v1/chat/completions",))


async def test_an_endpoint_that_contradicts_the_others_is_an_alarm(network: Network, client: Attester) -> None:
    """Two agree, the third lists an enclave of its own."""
    network.faults.add("lying_registry")
    found = await configured(network).discover([ANY], client)
    assert [alarm.kind for alarm in found.alarms] == ["rpc_dissent"]
    assert found.nodes[0].base_url == network.enclave.url


def told(found: Discovered) -> list[tuple[Any, ...]]:
    """What alarms say of unreadable records."""
    alarms = [alarm for alarm in found.alarms if alarm.kind == "registry_record_unreadable"]
    return [tuple(alarm.about.get(name) for name in ("severity", "index", "reason", "more")) for alarm in alarms]


async def test_a_record_that_cannot_be_used_is_an_alarm_once(
    network: Network, client: Attester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told when it appears, not again while it stands there, and again when it comes back."""
    mine = configured(network)
    good = network.chain.tees
    assert told(await mine.discover([ANY], client)) == []
    monkeypatch.setattr(network.chain, "tees", [*good, *good])
    twice = await mine.discover([ANY], client)
    assert told(twice) == [("warning", 1, "duplicate_tee", None)]
    assert twice.alarms[0].about["detail"] == "the same key stands in the list before"
    assert len(twice.nodes) == 1
    assert told(await mine.discover([ANY], client)) == []
    monkeypatch.setattr(network.chain, "tees", [*good, *good, *good])
    assert told(await mine.discover([ANY], client)) == [("warning", 2, "duplicate_tee", None)]
    monkeypatch.setattr(network.chain, "tees", good)
    assert told(await mine.discover([ANY], client)) == []
    monkeypatch.setattr(network.chain, "tees", [*good, *good])
    assert told(await mine.discover([ANY], client)) == [("warning", 1, "duplicate_tee", None)]


async def test_many_unreadable_records_are_a_few_alarms(
    network: Network, client: Attester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can register TEEs cannot fill the log: of many the first are named, and the others counted."""
    monkeypatch.setattr(network.chain, "tees", network.chain.tees * 12)
    named = told(await configured(network).discover([ANY], client))
    assert [(index, more) for _, index, _, more in named] == [(n, None) for n in range(1, 8)] + [(8, 3)]


async def test_changes_in_the_registry_are_alarms(
    network: Network, client: Attester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happened since the last look is told; the first look has nothing to compare with."""
    from adapters.opengradient import adapter as module
    from adapters.opengradient.watch import Alarm, Severity

    seen: list[int] = []

    async def events(round_: object, registry: str, block: int) -> list[Alarm]:
        seen.append(block)
        return [
            Alarm("pcr_approved", Severity.WARNING, "0xaa", 7, "0xbb", "version 2"),
            Alarm("x", Severity.INFO, "", 8, ""),
        ]

    monkeypatch.setattr(module, "events_since", events)
    mine = configured(network)
    assert (await mine.discover([ANY], client)).alarms == ()
    alarms = (await mine.discover([ANY], client)).alarms
    assert len(seen) == 1
    assert dict(alarms[0].about) == {
        "severity": "warning",
        "subject": "0xaa",
        "block": 7,
        "tx": "0xbb",
        "detail": "version 2",
    }
    assert "detail" not in alarms[1].about


async def test_what_a_round_could_not_tell_is_told_by_the_next(
    network: Network, client: Attester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that cannot be read, or not in time, are no reason not to see the nodes; they are told once they can be."""
    from adapters.opengradient import adapter as module
    from adapters.opengradient.watch import Alarm, Severity

    since: list[int] = []

    async def events(round_: object, registry: str, block: int) -> list[Alarm]:
        since.append(block)
        if len(since) < 3:
            said = (("a", "rpc_method_missing"), ("b", "rpc_method_missing"))
            raise QuorumError("too few endpoints answered", reason="rpc_quorum", said=said)
        if len(since) == 3:
            await asyncio.sleep(60)
        return [Alarm("pcr_revoked", Severity.CRITICAL, "0xaa", 7, "0xbb")]

    monkeypatch.setattr(module, "events_since", events)
    monkeypatch.setattr(module, "EVENTS_S", 0.2)
    mine = configured(network)
    await mine.discover([ANY], client)
    monkeypatch.setattr(network.chain, "tees", network.chain.tees * 2)
    found = await mine.discover([ANY], client)
    assert len(found.nodes) == 1
    assert [alarm.kind for alarm in found.alarms] == ["registry_record_unreadable", "events_unread"]
    assert found.alarms[1].about == {"severity": "warning", "reason": "rpc_method_missing"}
    assert (await mine.discover([ANY], client)).alarms == (), "said once"
    (late,) = (await mine.discover([ANY], client)).alarms
    assert late.about["reason"] == "rpc_timeout"
    assert [alarm.kind for alarm in (await mine.discover([ANY], client)).alarms] == ["pcr_revoked"]
    assert len(set(since)) == 1


@pytest.mark.parametrize(
    ("fault", "rpcs", "reason"),
    [("wrong_chain", 1, "wrong_chain"), ("rpc_redirect", 1, "rpc_redirect"), ("wrong_chain", 3, None)],
)
async def test_an_outage_says_what_it_is(
    network: Network, client: Attester, fault: str, rpcs: int, reason: str | None
) -> None:
    """Where all endpoints fail in one way that is the reason; one of three is outvoted."""
    network.faults.add(fault)
    mine = configured(network, rpc=network.rpc_urls[:rpcs])
    if reason is None:
        assert (await mine.discover([ANY], client)).nodes
        return
    with pytest.raises(VerirouteError) as caught:
        await mine.discover([ANY], client)
    assert caught.value.reason == reason


# -- evidence --------------------------------------------------------------------------------------------------------


async def dossier(network: Network, client: Attester, **more: Any) -> tuple[OpenGradientAdapter, Node, dict[str, Any]]:
    mine = configured(network, **more)
    (node,) = (await mine.discover([ANY], client)).nodes
    raw = await mine.evidence(node, NONCE, client)
    assert raw.document is not None
    return mine, node, {"document": raw.document, "spki": raw.spki, "tls": raw.tls}


def judged(network: Network, mine: OpenGradientAdapter, node: Node, raw: dict[str, Any], **more: Any) -> Any:
    assert isinstance(mine.node_terms, NodeTerms)
    arguments: dict[str, Any] = {
        "problem": None,
        "nonce": NONCE,
        "now": time.time(),
        "roots": network.nitro.roots,
        "terms": mine.node_terms,
        **raw,
        **more,
    }
    result, session = appraise_dossier(
        node, arguments.pop("document"), arguments.pop("problem"), arguments.pop("nonce"), **arguments
    )
    return (
        {c.id: (c.outcome.value, c.reason) for c in result.checks},
        {c.name: c.status for c in result.claims},
        session,
    )


async def test_a_dossier_makes_a_session(network: Network, client: Attester) -> None:
    """Every way of knowing the node is asserted; the session names the payee of its record, and no key to seal to."""
    mine, node, raw = await dossier(network, client)
    checks, claims, session = judged(network, mine, node, raw)
    assert checks["evidence"] == checks["fresh"] == checks["channel_bound"] == ("affirming", None)
    assert {claims[n] for n in ("identity_live", "identity_calldata", "identity_registry")} == {"asserted"}
    assert session.hpke == b""
    assert session.payee.startswith("0x")
    assert mine.sealing(session) is None
    assert mine.request(session, NONCE, chained=False) == []
    assert mine.response([]).receipt is None


async def test_a_sealed_session_names_the_key_that_the_enclave_signed(
    network: Network, client: Attester, token: None
) -> None:
    """The key configuration is verified and stands in the session; how to reach the relay comes with it."""
    mine, node, raw = await dossier(network, client, transport="ohttp")
    checks, _, session = judged(network, mine, node, raw)
    assert checks["channel_bound"] == ("affirming", None)
    assert len(parse_key_config(session.hpke).public_key) == 32
    sealing = mine.sealing(session)
    assert sealing is not None
    assert sealing.node == network.enclave.tee_id
    assert TOKEN not in repr(sealing)
    assert session.id != judged(network, mine, node, raw, lifetime_s=60.0)[2].id
    weak = mine.sealing(msgspec.structs.replace(session, keys=(), hpke=b""))  # of a record with a key that breaks
    assert weak is not None, "without a way to seal, the prompt would go to the relay in the clear"
    assert weak.node == ""


def changed(raw: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    document = json.loads(raw["document"])
    change(document)
    return {**raw, "document": json.dumps(document).encode()}


def _drop(view: str) -> Callable[[dict[str, Any]], None]:
    from gateway.verify.opengradient.registry_calldata import CALLS

    def change(document: dict[str, Any]) -> None:
        document["reads"] = [read for read in document["reads"] if CALLS.get(bytes.fromhex(read["data"][2:10])) != view]

    return change


def _answers(view: str, result: str) -> Callable[[dict[str, Any]], None]:
    from gateway.verify.opengradient.registry_calldata import CALLS

    def change(document: dict[str, Any]) -> None:
        for read in document["reads"]:
            if CALLS.get(bytes.fromhex(read["data"][2:10])) == view:
                read["answers"] = [{"rpc": a["rpc"], "result": result} for a in read["answers"]]
                read["agreed"] = result

    return change


NO, FEW = "0x" + "00" * 32, "0x" + "00" * 31 + "05"


def _elsewhere(document: dict[str, Any]) -> None:
    for read in document["reads"]:
        read["to"] = "0x" + "11" * 20


def _one_voice(document: dict[str, Any]) -> None:
    for read in document["reads"]:
        read["answers"] = [
            read["answers"][0],
            *({"rpc": a["rpc"], "error": "rpc_timeout"} for a in read["answers"][1:]),
        ]


def _doubted(document: dict[str, Any]) -> None:
    """The list does not have the TEE any more, and one endpoint of three says otherwise, the second nothing."""
    _answers("getActiveTEEs", "0x" + "00" * 31 + "20" + "00" * 32)(document)
    _answers("isTEEActive", NO)(document)
    for read in document["reads"]:
        if read["agreed"] == NO:
            read["answers"][1:] = [{"rpc": "b", "result": FEW[:-1] + "1"}, {"rpc": "c", "error": "rpc_timeout"}]


def _unasked(document: dict[str, Any]) -> None:
    _answers("getActiveTEEs", "0x" + "00" * 31 + "20" + "00" * 32)(document)
    _drop("isTEEActive")(document)
    document["problems"]["isTEEActive"] = "too_large"


@pytest.mark.parametrize(
    ("change", "check", "expected"),
    [
        (lambda d: d.update(chain_id=1), "evidence", ("none", "wrong_chain")),
        (lambda d: d.update(registry="0x" + "11" * 20), "evidence", ("none", "registry_other")),
        (lambda d: d.update(schema="x"), "evidence", ("none", "dossier_malformed")),
        (_elsewhere, "evidence", ("none", "tee_not_registered")),
        (_one_voice, "evidence", ("none", "rpc_quorum")),
        (lambda d: d.update(tee_id="0x" + "00" * 32), "evidence", ("none", "tee_not_registered")),
        (_drop("getTEE"), "evidence", ("affirming", None)),  # the list has it
        (_answers("getTEE", "0x01"), "evidence", ("affirming", None)),
        (_drop("isTEEActive"), "keyset_valid", ("none", "pcr_unknown")),  # the list has it
        (_doubted, "keyset_valid", ("none", "rpc_disagree")),
        (_unasked, "keyset_valid", ("none", "too_large")),
        (_answers("isTEEActive", NO), "keyset_valid", ("contraindicated", "tee_disabled")),
        (_answers("isPCRApproved", NO), "keyset_valid", ("contraindicated", "pcr_not_approved")),
        (_answers("heartbeatMaxAge", NO), "keyset_valid", ("contraindicated", "heartbeat_stale")),
        (lambda d: d.update(live=None), "evidence", ("warning", "only_registered_attestation")),
        (lambda d: d.update(live=None), "fresh", ("none", "no_attestation")),
        (lambda d: d.update(registration=None), "evidence", ("affirming", None)),
        (lambda d: d["registration"].update(input="0x01020304"), "evidence", ("affirming", None)),
    ],
)
async def test_a_stored_dossier_is_counted_again(
    network: Network, client: Attester, change: Callable[[dict[str, Any]], None], check: str, expected: tuple[str, str]
) -> None:
    """What each endpoint said decides, never what the dossier calls agreed; what is missing is not shown."""
    mine, node, raw = await dossier(network, client)
    checks, _, _ = judged(network, mine, node, changed(raw, change))
    assert checks[check] == expected


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.update(ohttp_config=None), "ohttp_config_unsigned"),
        (lambda d: d.update(ohttp_config=base64.b64encode(b"{}").decode()), "ohttp_config_malformed"),
    ],
)
async def test_a_key_that_nobody_signed_is_none_to_seal_to(
    network: Network, client: Attester, token: None, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    """The registry's word for a key does not bind the channel, and the session names no key."""
    mine, node, raw = await dossier(network, client, transport="ohttp")
    checks, _, session = judged(network, mine, node, changed(raw, change))
    assert checks["channel_bound"] == ("contraindicated", reason)
    assert session.hpke == b""


async def test_no_dossier_is_no_evidence(network: Network, client: Attester) -> None:
    """A node that is not registered any more, or could not be asked, has none."""
    mine, node, raw = await dossier(network, client)
    assert (
        await mine.evidence(Node("gone", "opengradient", "", ("m",)), NONCE, client)
    ).problem == "tee_not_registered"
    checks, _, session = judged(network, mine, node, {**raw, "document": None}, problem="evidence_timeout")
    assert (checks["evidence"], session) == (("none", "evidence_timeout"), None)


async def test_what_could_not_be_fetched_is_said(network: Network, client: Attester, token: None) -> None:
    """An enclave that does not answer leaves the chain's word; a chain that does not leaves what was read before."""
    mine = configured(network, transport="ohttp", rpc=network.rpc_urls[:1])
    unanswered = Node("og", "opengradient", "https://127.0.0.1:9", ("m",), network.enclave.tee_id)
    (node,) = (await mine.discover([unanswered], client)).nodes
    network.faults.add("rpc_redirect")
    raw = await mine.evidence(node, NONCE, client)
    document = json.loads(raw.document or b"")
    assert document["live"] is None
    assert document["problems"]["live"] == "connect_failed"
    assert document["problems"]["ohttp_config"] == "connect_failed"
    assert document["reads"]


async def test_an_enclave_that_floods_is_told(
    network: Network, client: Attester, token: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents too long for a dossier are missing from it, with the reason, and are no failure of the adapter."""
    mine = configured(network, transport="ohttp")
    (node,) = (await mine.discover([ANY], client)).nodes

    async def flooded(*_: object) -> RawEvidence:
        return RawEvidence(base64.b64encode(b"x" * 65537), None)

    monkeypatch.setattr(client, "get", flooded)
    document = json.loads((await mine.evidence(node, NONCE, client)).document or b"")
    assert (document["live"], document["ohttp_config"]) == (None, None)
    assert document["problems"] == {"live": "too_large", "ohttp_config": "too_large"}


async def test_a_registration_that_takes_too_long_is_gone_without(
    network: Network, client: Attester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow endpoints make the one claim unknown that rests on it, and not the node's whole evidence."""
    from adapters.opengradient import adapter as module

    async def slow(*_: object, **__: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(module, "registration", slow)
    monkeypatch.setattr(module, "REGISTRATION_S", 0.2)
    monkeypatch.setattr("gateway.fleet.attest.EVIDENCE_S", 10.0)
    mine = configured(network)
    (node,) = (await mine.discover([ANY], client)).nodes
    result = (await client.attest(node, mine)).result
    claims = {claim.name: (claim.status, claim.reason) for claim in result.claims}
    assert claims["identity_calldata"] == ("unknown", "rpc_timeout")
    assert claims["identity_live"] == ("asserted", None)


async def test_long_lists_are_read_and_judged_beside_the_loop(
    network: Network, client: Attester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry may list hundreds of enclaves; what others asked for goes on meanwhile."""
    turns, loop = [], asyncio.get_running_loop()

    def beside(work: Callable[..., Any]) -> Callable[..., Any]:
        def done(*of: Any, **more: Any) -> Any:
            turn = threading.Event()
            loop.call_soon_threadsafe(turn.set)
            turns.append(turn.wait(5))
            return work(*of, **more)

        return done

    for module, name in ((attest, "appraise_dossier"), (listing, "decode_tees"), (listing, "_with_ohttp")):
        monkeypatch.setattr(module, name, beside(getattr(module, name)))
    mine = configured(network)
    (node,) = (await mine.discover([ANY], client)).nodes
    await client.attest(node, mine)
    assert len(turns) >= 3
    assert all(turns)
