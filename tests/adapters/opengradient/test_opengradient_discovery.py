"""Discovery on a real chain: records, registrations, events and the dossier that carries them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import msgspec
import pytest
from eth_abi import encode
from eth_utils import keccak
from opengradient_world.evm import CHAIN_ID, Act, Chain, Emits, Endpoint, Refused, Returns, contract, serving
from opengradient_world.registry_answers import (
    INFO_10,
    INFO_11,
    KEY,
    OWNER,
    call,
    info,
    register,
    spki,
    tee_id,
    tees_10,
    tees_11,
    tees_v2,
)

from adapters.opengradient import dossier as dossiers
from adapters.opengradient import registration as registrations
from adapters.opengradient.discover import discover, tee_reads, unread
from adapters.opengradient.dossier import Live, build_dossier
from adapters.opengradient.quorum import Quorum, Read, Round
from adapters.opengradient.registration import registration
from adapters.opengradient.rpc import RpcClient
from adapters.opengradient.rpc_errors import NoContract, QuorumError, RegistrationProblem
from adapters.opengradient.watch import Severity, events_since
from gateway.errors import ConfigError, FormatError
from gateway.upstream.pool import UpstreamPool
from gateway.upstream.transport import control_client
from gateway.verify.opengradient import registry as reader
from gateway.verify.opengradient.abi import MAX_ANSWER
from gateway.verify.opengradient.registry import decode_answer
from gateway.verify.opengradient.registry_events import topic
from gateway.verify.opengradient.rpc_agreement import Answer, agree

U8, B32 = ["uint8"], ["bytes32"]
LIST, LIST_V2 = call("getActiveTEEs(uint8)", U8, [0]), call("getActiveTEERecordsWithOHTTPConfig(uint8)", U8, [0])
PCR = bytes(keccak(b"pcr"))
SHARED: dict[bytes, Act] = {
    call("heartbeatMaxAge()"): Returns(encode(["uint256"], [1800])),
    call("awsRootCertificate()"): Returns(encode(["bytes"], [b"root"])),
    call("getApprovedPCRs()"): Returns(encode(["(bytes32,uint8)[]"], [[(PCR, 0)]])),
}


def about(n: int, one: bytes) -> dict[bytes, Act]:
    return {
        call("getTEE(bytes32)", B32, [tee_id(n)]): Returns(one),
        call("isTEEActive(bytes32)", B32, [tee_id(n)]): Returns(encode(["bool"], [True])),
        call("isPCRApproved(uint8,bytes32)", U8 + B32, [0, PCR]): Returns(encode(["bool"], [True])),
        call("pcrRecords(uint8,bytes32)", U8 + B32, [0, PCR]): Returns(
            encode(["bool", "uint8", "uint256", "string"], [True, 0, 5, "v1"])
        ),
    }


def registered(n: int, **how: Any) -> Emits:
    owner = bytes(12) + bytes.fromhex(OWNER[2:])
    return Emits((topic("TEERegistered"), tee_id(n), owner), encode(["uint8"], [0]), **how)


ELEVEN = {**SHARED, **about(1, encode([INFO_11], [(*info(1), KEY)])), LIST: Returns(tees_11(info(1), info(2)))}


class World:
    """A chain and two endpoints, of which both have to agree."""

    def __init__(self, chain: Chain, endpoints: list[Endpoint], client: httpx.AsyncClient) -> None:
        self.chain, self.endpoints = chain, endpoints
        clients = [
            RpcClient(client, name, endpoint.url, chain_id=CHAIN_ID)
            for name, endpoint in zip("ab", endpoints, strict=True)
        ]
        self.quorum = Quorum(clients, 2, confirmations=0, clock=lambda: float(chain.time_of(chain.height)))

    def deploy(self, *epochs: Mapping[bytes, Act]) -> str:
        return self.chain.deploy(contract(*epochs))

    async def round(self) -> Round:
        return await self.quorum.round()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    chain, pool = Chain(), UpstreamPool()
    async with contextlib.AsyncExitStack() as stack:
        endpoints = [await stack.enter_async_context(serving(chain)) for _ in range(2)]
        client = await stack.enter_async_context(control_client(pool, allow_private=True))
        yield World(chain, endpoints, client)
        await pool.close()


def names(reads: tuple[Read, ...]) -> list[str]:
    return [decode_answer(read.data, read.require())[0] for read in reads]


async def test_the_registry_is_read(world: World) -> None:
    """Records, measurements, root and heartbeat age, all at one block; the address may have capital letters."""
    registry = world.deploy(ELEVEN)
    found = await discover(world.quorum, registry.upper().replace("0X", "0x"), 0)
    assert [record.tee_id for record in found.records] == [tee_id(1), tee_id(2)]
    assert found.records[0].ohttp is not None
    assert names(found.reads) == ["getActiveTEEs", "heartbeatMaxAge", "awsRootCertificate", "getApprovedPCRs"]
    assert {read.block_number for read in found.reads} == {found.block.number} == {world.chain.height}
    assert (found.registry, found.refused, found.dissent) == (registry, (), ())
    reads = await tee_reads(found.round, registry, found.records[0])
    assert names(reads) == ["getTEE", "isTEEActive", "isPCRApproved", "pcrRecords"]
    assert decode_answer(reads[0].data, reads[0].require())[1] == found.records[0]


async def test_ohttp_keys_of_the_second_registry_are_joined(world: World) -> None:
    """A registry of 10 fields is asked for OHTTP keys; one that has none keeps its records."""
    second = world.deploy({**SHARED, LIST: Returns(tees_10(info(1), info(2))), LIST_V2: Returns(tees_v2(info(2)))})
    found = await discover(world.quorum, second, 0)
    assert [(record.layout, record.ohttp is None) for record in found.records] == [
        ("tee-info-10", True),
        ("registry-v2", False),
    ]
    reads = await tee_reads(found.round, second, found.records[1])
    assert unread(reads)["getOHTTPConfig"] == "reverted"
    first = world.deploy({**SHARED, LIST: Returns(tees_10(info(1)))})
    found = await discover(world.quorum, first, 0)
    assert [(record.layout, record.ohttp) for record in found.records] == [("tee-info-10", None)]


async def test_empty_outage_and_disagreement_are_three_things(world: World) -> None:
    """Only the registry itself can say that there are no TEEs."""
    registry = world.deploy({**SHARED, LIST: Returns(tees_11())})
    assert (await discover(world.quorum, registry, 0)).records == ()
    a, _ = world.endpoints

    def lies(method: str, params: list[Any], result: Any) -> Any:
        return "0x" + tees_11(info(7)).hex() if method == "eth_call" else result

    a.lie = lies
    with pytest.raises(QuorumError) as caught:
        await discover(world.quorum, registry, 0)
    assert caught.value.reason == "rpc_disagree"

    def busy(method: str, params: list[Any], result: Any) -> Any:
        raise Refused(-32000, "busy")

    a.lie = busy
    with pytest.raises(QuorumError) as caught:
        await discover(world.quorum, registry, 0)
    assert caught.value.reason == "rpc_quorum"


async def test_a_registry_that_is_none_is_an_error(world: World) -> None:
    """No contract, another contract, and an address that is none."""
    with pytest.raises(NoContract):
        await discover(world.quorum, "0x" + "99" * 20, 0)
    with pytest.raises(FormatError):
        await discover(world.quorum, world.deploy({LIST: Returns(encode(["bool"], [True]))}), 0)
    for address, tee_type in (("0x1234", 0), ("0x" + "9" * 40, 256), ("0x" + "9" * 40, -1)):
        with pytest.raises(ConfigError):
            await discover(world.quorum, address, tee_type)


async def test_dissent_is_told(world: World) -> None:
    """An endpoint that was outvoted in any read, or has another block, is named."""
    found = await discover(world.quorum, world.deploy(ELEVEN), 0)
    outvoted = msgspec.structs.replace(found.reads[0], dissent=("b",))
    found.round.failed["z"] = "rpc_other_block"
    found.round.failed["y"] = "rpc_timeout"
    assert dataclasses.replace(found, reads=(outvoted,)).dissent == ("b", "z")


async def test_a_registration_is_found_by_its_time(world: World) -> None:
    """The block of the record's time is found by halving, and the calldata is that of its transaction."""
    registry = world.deploy({register(1): registered(1)})
    world.chain.mine(20)
    tx = world.chain.send(registry, register(1))
    block = world.chain.height
    world.chain.mine(20)
    round_ = await world.round()
    world.endpoints[0].asked.clear()
    found = await registration(round_, registry, tee_id(1), registered_at=world.chain.time_of(block))
    assert (found.tx, found.block, found.input) == (tx, block, register(1))
    assert world.endpoints[0].asked.count("eth_getLogs") == 1
    assert world.endpoints[0].asked.count("eth_getBlockByNumber") <= 6


@pytest.mark.parametrize("when", [None, 1, 2**40])
async def test_without_its_time_the_newest_registration_is_scanned_for(
    world: World, monkeypatch: pytest.MonkeyPatch, when: int | None
) -> None:
    """Ranges are looked through from the newest back; of two registrations the later one counts."""
    monkeypatch.setattr(registrations, "RANGE", 4)
    monkeypatch.setattr(registrations, "SAME_SECOND", 1)
    registry = world.deploy({register(1, b"old"): registered(1), register(1, b"new"): registered(1)})
    world.chain.send(registry, register(1, b"old"))
    world.chain.mine(6)
    world.chain.send(registry, register(1, b"new"))
    world.chain.mine(9)
    round_ = await world.round()
    assert (await registration(round_, registry, tee_id(1), registered_at=when)).input == register(1, b"new")
    for bounds in ({"max_ranges": 2}, {"first_block": world.chain.height - 1}):
        with pytest.raises(RegistrationProblem) as caught:
            await registration(round_, registry, tee_id(1), **bounds)
        assert caught.value.reason == "registration_not_found"


async def test_endpoints_without_old_headers_are_asked_for_logs(world: World) -> None:
    """Pruned headers stop the halving, not the search; endpoints that have no logs either stop it."""
    registry = world.deploy({register(1): registered(1)})
    world.chain.send(registry, register(1))
    world.chain.mine(4)
    round_ = await world.round()

    def pruned(method: str, params: list[Any], result: Any) -> Any:
        return None if method == "eth_getBlockByNumber" else result

    world.endpoints[0].lie = pruned
    assert (await registration(round_, registry, tee_id(1), registered_at=1)).input == register(1)

    def neither(method: str, params: list[Any], result: Any) -> Any:
        raise Refused(-32000, "pruned")

    world.endpoints[0].lie = neither
    with pytest.raises(QuorumError):
        await registration(round_, registry, tee_id(1), registered_at=1)


@pytest.mark.parametrize(
    ("data", "act", "reason"),
    [
        (b"other function", registered(1), "registration_unreadable"),
        (register(2), registered(1), "registration_mismatch"),
    ],
)
async def test_a_registration_that_is_none_is_refused(world: World, data: bytes, act: Act, reason: str) -> None:
    """A log whose transaction does something else, or registers another key, gives no document."""
    registry = world.deploy({data: act})
    world.chain.send(registry, data)
    with pytest.raises(RegistrationProblem) as caught:
        await registration(await world.round(), registry, tee_id(1))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("member", "value", "reason"),
    [
        ("to", "0x" + "77" * 20, "registration_indirect"),
        ("to", None, "registration_indirect"),
        ("blockNumber", "0x1", "registration_mismatch"),
    ],
)
async def test_the_transaction_is_the_one_of_the_log(world: World, member: str, value: Any, reason: str) -> None:
    """Another contract or another block has its own reason."""
    registry = world.deploy({register(1): registered(1)})
    world.chain.send(registry, register(1))

    def lie(method: str, params: list[Any], result: Any) -> Any:
        return {**result, member: value} if method == "eth_getTransactionByHash" else result

    for endpoint in world.endpoints:
        endpoint.lie = lie
    with pytest.raises(RegistrationProblem) as caught:
        await registration(await world.round(), registry, tee_id(1))
    assert caught.value.reason == reason


async def test_changes_become_alarms(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Roots, measurements, TEEs and OHTTP keys, in the chain's order; other events are none, unreadable ones are."""
    word = bytes(31) + b"\1"
    ohttp = encode(["uint8", "uint16", "uint16", "uint16", "bytes32", "bytes32"], [1, 32, 1, 3, PCR, PCR])
    happened = [
        (Emits((topic("AWSCertificateUpdated"), b"r" * 32)), "aws_root_changed", Severity.CRITICAL, ""),
        (
            Emits((topic("PCRApproved"), PCR, word), encode(["string"], ["v1\x1b[2J"])),
            "pcr_approved",
            Severity.WARNING,
            "type 1, version v1\\x1b[2J",
        ),
        (Emits((topic("PCRRevoked"), PCR, word)), "pcr_revoked", Severity.CRITICAL, ""),
        (Emits((topic("TEEDisabled"), tee_id(1))), "tee_disabled", Severity.WARNING, ""),
        (registered(1), None, None, ""),
        (Emits((topic("TEEEnabled"), tee_id(1))), "tee_enabled", Severity.INFO, ""),
        (Emits((topic("OHTTPConfigUpdated"), tee_id(1)), ohttp), "ohttp_config_changed", Severity.WARNING, ""),
        (Emits((topic("OHTTPConfigCleared"), tee_id(1))), "ohttp_config_cleared", Severity.WARNING, ""),
        (
            Emits((topic("TEEDisabled"), tee_id(1)), b"more"),
            "event_unreadable",
            Severity.WARNING,
            "bytes follow the arguments",
        ),
    ]
    registry = world.deploy({b"%04d" % n: act for n, (act, *_) in enumerate(happened)})
    before = world.chain.height
    sent = [world.chain.send(registry, b"%04d" % n) for n in range(len(happened))]
    expected = [
        (kind, severity, before + 1 + n, "0x" + sent[n].hex(), detail)
        for n, (_, kind, severity, detail) in enumerate(happened)
        if kind
    ]
    monkeypatch.setattr("adapters.opengradient.watch.RANGE", 4)
    round_ = await world.round()

    def shown(alarms: list[Any]) -> list[tuple[Any, ...]]:
        return [(alarm.kind, alarm.severity, alarm.block, alarm.tx, alarm.detail) for alarm in alarms]

    assert shown(await events_since(round_, registry, before)) == expected
    assert (await events_since(round_, registry, before))[0].subject == "0x" + (b"r" * 32).hex()
    assert shown(await events_since(round_, registry, before + 3)) == expected[3:]
    assert await events_since(round_, registry, world.chain.height) == []
    exactly = await events_since(round_, registry, world.chain.height - 8, max_ranges=2)
    assert "events_gap" not in {alarm.kind for alarm in exactly}
    gap, *rest = await events_since(round_, registry, before, max_ranges=1)
    assert (gap.kind, gap.severity, gap.block) == ("events_gap", Severity.WARNING, before + 1)
    assert gap.detail == f"blocks {before + 1} to {before + 5} unread"
    assert shown(rest) == expected[4:]


async def test_a_dossier_holds_all_of_it(world: World) -> None:
    """Every read with every answer, registration, live document and key config, and why a part is missing."""
    registry = world.deploy({**ELEVEN, register(1): registered(1)})
    tx = world.chain.send(registry, register(1))
    found = await discover(world.quorum, registry, 0)
    record = found.records[0]
    reads = await tee_reads(found.round, registry, record)
    made = build_dossier(
        found,
        record,
        reads=reads,
        registration=await registration(found.round, registry, record.tee_id),
        live=Live(b"n" * 20, b"document"),
        ohttp_config=b"{}",
        problems={"tls": "timeout"},
    )
    document = json.loads(made)
    assert made == json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    assert {key: document[key] for key in ("schema", "chain_id", "registry", "tee_type", "tee_id", "block")} == {
        "schema": "opengradient-dossier/1",
        "chain_id": CHAIN_ID,
        "registry": registry,
        "tee_type": 0,
        "tee_id": "0x" + tee_id(1).hex(),
        "block": {"number": found.block.number, "hash": "0x" + found.block.hash.hex()},
    }
    assert document["registration"] == {
        "tx": "0x" + tx.hex(),
        "block": world.chain.height,
        "input": "0x" + register(1).hex(),
    }
    assert document["live"] == {"nonce": "6e" * 20, "document": "ZG9jdW1lbnQ="}
    assert (document["ohttp_config"], document["problems"]) == ("e30=", {"tls": "timeout"})
    assert set(document) == {
        "schema", "chain_id", "registry", "tee_type", "tee_id", "block", "reads", "registration", "live",
        "ohttp_config", "problems",
    }  # fmt: skip
    for stored, read in zip(document["reads"], [*found.reads, *reads], strict=True):
        answers = [Answer(entry["rpc"], bytes.fromhex(entry["result"][2:])) for entry in stored["answers"]]
        assert agree(answers, 2).result == bytes.fromhex(stored["agreed"][2:]) == read.agreed
        assert (stored["to"], stored["data"]) == (registry, "0x" + read.data.hex())
        assert set(stored) == {"to", "data", "answers", "agreed"}


async def test_a_dossier_says_what_is_missing(world: World) -> None:
    """Parts that could not be had are null, reads without agreement keep their answers and give their reason."""
    registry = world.deploy({LIST: Returns(tees_11(info(1)))})
    found = await discover(world.quorum, registry, 0)
    document = json.loads(build_dossier(found, found.records[0]))
    assert (document["registration"], document["live"], document["ohttp_config"]) == (None, None, None)
    assert document["problems"] == {
        "heartbeatMaxAge": "reverted",
        "awsRootCertificate": "reverted",
        "getApprovedPCRs": "reverted",
    }
    assert document["reads"][1]["agreed"] is None
    assert document["reads"][1]["answers"] == [{"rpc": "a", "error": "reverted"}, {"rpc": "b", "error": "reverted"}]


async def test_a_dossier_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest reads are left out first, and named; single parts have a limit."""
    registry = world.deploy(ELEVEN)
    found = await discover(world.quorum, registry, 0)
    whole = build_dossier(found, found.records[0])
    monkeypatch.setattr(dossiers, "MAX_DOSSIER", len(whole))
    assert build_dossier(found, found.records[0]) == whole
    monkeypatch.setattr(dossiers, "MAX_DOSSIER", len(whole) - 1)
    less = json.loads(build_dossier(found, found.records[0]))
    assert (less["problems"], len(less["reads"])) == ({"getActiveTEEs": "too_large"}, 3)
    monkeypatch.setattr(dossiers, "MAX_DOSSIER", 1)
    assert json.loads(build_dossier(found, found.records[0]))["reads"] == []
    for part in ({"live": Live(b"n" * 20, b"x" * 65537)}, {"ohttp_config": b"x" * 65537}):
        with pytest.raises(FormatError, match="over the limit"):
            build_dossier(found, found.records[0], **part)


async def test_what_was_outvoted_crowds_nothing_out(world: World) -> None:
    """One endpoint of three that answers with as much as is read cannot make a dossier leave out what the others say."""
    registry = world.deploy(ELEVEN)
    found = await discover(world.quorum, registry, 0)
    record = found.records[0]
    honest = (*found.reads, *await tee_reads(found.round, registry, record))
    flooded = tuple(
        msgspec.structs.replace(read, answers=(*read.answers, Answer("c", b"\xff" * MAX_ANSWER)), dissent=("c",))
        for read in honest
    )
    shared = len(found.reads)
    made = json.loads(build_dossier(dataclasses.replace(found, reads=flooded[:shared]), record, reads=flooded[shared:]))
    assert made["problems"] == {}
    assert [read["agreed"] for read in made["reads"]] == ["0x" + read.require().hex() for read in honest]
    assert {"rpc": "c", "error": "rpc_too_large"} in made["reads"][0]["answers"]
    for read in made["reads"]:
        assert sum(answer.get("result") == read["agreed"] for answer in read["answers"]) == 2


async def test_the_same_call_gives_something_else_later(world: World) -> None:
    """A read is of its block: what the registry says afterwards does not change it."""
    changed: dict[bytes, Act] = {LIST: Returns(tees_11())}
    registry = world.deploy({**ELEVEN, b"next": Emits((topic("TEEDisabled"), tee_id(1)), epoch=1)}, changed)
    found = await discover(world.quorum, registry, 0)
    world.chain.send(registry, b"next")
    again = await found.round.call(registry, LIST)
    assert again.require() == found.reads[0].require()
    assert (await discover(world.quorum, registry, 0)).records == ()


def test_the_test_registry_is_not_its_own_judge() -> None:
    """The layouts of the tests are written down beside those of the reader, and are the same."""
    assert (INFO_10, INFO_11) == (reader.INFO_10, reader.INFO_11)
    assert spki(1) != spki(2)
