"""Several endpoints of one real chain: what they agree on, and what becomes of those that lie, lag or fail."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from opengradient_world.evm import CHAIN_ID, Chain, Endpoint, Refused, Returns, Reverts, contract, error_string, serving

from adapters.opengradient import quorum
from adapters.opengradient.quorum import Quorum
from adapters.opengradient.rpc import RpcClient
from adapters.opengradient.rpc_errors import NoContract, QuorumError, Reverted, WrongChain
from gateway.errors import ConfigError
from gateway.upstream.pool import UpstreamPool
from gateway.upstream.transport import control_client
from gateway.verify.opengradient.rpc_agreement import Answer, agree

ASK, REFUSED = b"ask!", b"no!!"
ANSWER = b"A" * 32
NOBODY = "0x" + "99" * 20


class World:
    """A chain with one contract, behind three endpoints `a`, `b` and `c`."""

    def __init__(self, chain: Chain, endpoints: list[Endpoint], client: httpx.AsyncClient) -> None:
        self.chain = chain
        self.contract = chain.deploy(contract({ASK: Returns(ANSWER), REFUSED: Reverts(error_string("no"))}))
        chain.mine(5)
        self.a, self.b, self.c = endpoints
        self.client = client
        self.time = float(chain.time_of(chain.height))

    def quorum(self, k: int = 2, **how: Any) -> Quorum:
        clients = [
            RpcClient(self.client, name, endpoint.url, chain_id=how.get("chain_id", CHAIN_ID), timeout_s=2)
            for name, endpoint in zip("abc", (self.a, self.b, self.c), strict=True)
        ]
        how.pop("chain_id", None)
        return Quorum(clients, k, **{"confirmations": 2, "clock": lambda: self.time, **how})


@pytest.fixture
async def world() -> AsyncIterator[World]:
    chain, pool = Chain(), UpstreamPool()
    async with contextlib.AsyncExitStack() as stack:
        endpoints = [await stack.enter_async_context(serving(chain)) for _ in range(3)]
        client = await stack.enter_async_context(control_client(pool, allow_private=True))
        yield World(chain, endpoints, client)
        await pool.close()


def says(method: str, changed: Any) -> Any:
    """A lie: `method` gives `changed`, or what `changed` makes of the true result."""

    def lie(asked: str, params: list[Any], result: Any) -> Any:
        if asked != method:
            return result
        return changed(result) if callable(changed) else changed

    return lie


def down(method: str, params: list[Any], result: Any) -> Any:
    raise Refused(-32000, "busy")


async def test_a_call_is_agreed_on_at_one_block(world: World) -> None:
    """All are asked at the newest block less confirmations, by number, and the read says everything that was said."""
    round_ = await world.quorum().round()
    assert round_.block.number == world.chain.height - 2
    read = await round_.call(world.contract, ASK)
    assert read.require() == ANSWER
    assert (read.chain_id, read.block_number, read.block_hash) == (CHAIN_ID, round_.block.number, round_.block.hash)
    assert (read.to, read.data, read.reason, read.dissent) == (world.contract, ASK, None, ())
    assert read.answers == tuple(Answer(name, ANSWER) for name in "abc")


async def test_a_liar_alone_changes_nothing(world: World) -> None:
    """Two of three agree; the third is named, and the read can be judged again from its answers."""
    world.b.lie = says("eth_call", "0x" + "42" * 32)
    read = await (await world.quorum().round()).call(world.contract, ASK)
    assert (read.require(), read.dissent) == (ANSWER, ("b",))
    assert agree(read.answers, 2).result == ANSWER


async def test_endpoints_that_disagree_give_nothing(world: World) -> None:
    """Three answers of three: `rpc_disagree`, with the digest of what each said."""
    world.b.lie, world.c.lie = says("eth_call", "0x" + "42" * 32), says("eth_call", "0x" + "43" * 32)
    read = await (await world.quorum().round()).call(world.contract, ASK)
    with pytest.raises(QuorumError, match="disagree") as caught:
        read.require()
    assert (caught.value.reason, read.agreed) == ("rpc_disagree", None)
    assert [name for name, _ in caught.value.said] == ["a", "b", "c"]
    assert len({said for _, said in caught.value.said}) == 3
    assert all(said.startswith("sha256:") for _, said in caught.value.said)


async def test_an_outage_is_not_a_disagreement(world: World) -> None:
    """One answer where two are needed is `rpc_quorum`, with the reason of each that failed."""
    round_ = await world.quorum().round()
    world.a.lie = world.b.lie = down
    with pytest.raises(QuorumError, match="too few") as caught:
        (await round_.call(world.contract, ASK)).require()
    assert caught.value.reason == "rpc_quorum"
    assert caught.value.said[:2] == (("a", "rpc_error"), ("b", "rpc_error"))
    with pytest.raises(QuorumError) as caught:
        await world.quorum().round()
    assert caught.value.reason == "rpc_quorum"


async def test_a_revert_is_an_answer(world: World) -> None:
    """All revert: agreed. One that reverts alone only dissents."""
    round_ = await world.quorum().round()
    with pytest.raises(Reverted):
        (await round_.call(world.contract, REFUSED)).require()

    def reverts(method: str, params: list[Any], result: Any) -> Any:
        raise Refused(3, "execution reverted", "0x")

    world.a.lie = reverts
    read = await round_.call(world.contract, ASK)
    assert (read.require(), read.dissent) == (ANSWER, ("a",))


async def test_an_address_without_code_is_an_error(world: World) -> None:
    """Neither the code nor the empty answer of a call is ever taken for data."""
    round_ = await world.quorum().round()
    with pytest.raises(NoContract):
        await round_.code(NOBODY)
    with pytest.raises(NoContract):
        (await round_.call(NOBODY, ASK)).require()
    assert await round_.code(world.contract)


async def test_the_block_is_one_that_k_endpoints_have(world: World) -> None:
    """Neither an endpoint far ahead nor one far behind moves the block."""
    height = world.chain.height
    for heads, k, expected in (
        ((height + 1000, height, height - 1), 2, height),
        ((height + 1000, height - 1, 0), 2, height - 1),
        ((height, height, 0), 2, height),
        ((height, height - 1, height - 3), 3, height - 3),
        ((height, 0, 0), 1, height),
    ):
        for endpoint, head in zip((world.a, world.b, world.c), heads, strict=True):
            endpoint.lie = says("eth_blockNumber", hex(head))
        assert (await world.quorum(k, confirmations=0).round()).block.number == expected
    assert (await world.quorum(3, confirmations=9).round()).block.number == 0


async def test_an_endpoint_on_another_fork_is_left_out(world: World) -> None:
    """One that has another hash for the block is named in every read and not asked again."""
    world.c.lie = says("eth_getBlockByNumber", lambda block: {**block, "hash": "0x" + "00" * 32})
    round_ = await world.quorum().round()
    assert round_.failed == {"c": "rpc_other_block"}
    world.c.asked.clear()
    read = await round_.call(world.contract, ASK)
    assert (read.require(), read.answers[2]) == (ANSWER, Answer("c", error="rpc_other_block"))
    assert world.c.asked == []
    world.b.lie = says("eth_getBlockByNumber", lambda block: {**block, "hash": "0x" + "01" * 32})
    with pytest.raises(QuorumError) as caught:
        await world.quorum().round()
    assert caught.value.reason == "rpc_disagree"


async def test_an_endpoint_that_fails_at_the_start_is_left_out(world: World) -> None:
    """It keeps its reason in every read of the round."""
    world.a.lie = says("eth_getBlockByNumber", None)
    world.b.lie = says("eth_chainId", "0x1")
    with pytest.raises(QuorumError, match="a: rpc_malformed; b: wrong_chain"):
        await world.quorum().round()
    world.a.lie = None
    round_ = await world.quorum().round()
    assert (await round_.call(world.contract, ASK)).answers[1] == Answer("b", error="wrong_chain")


async def test_an_endpoint_that_floods_is_asked_once(world: World) -> None:
    """It may cost one limit in a round, not one for every question; one that merely errs is asked again."""
    round_ = await world.quorum().round()
    world.a.lie, world.b.lie = says("eth_call", "0x" + "00" * (2**20 + 32)), down
    await round_.call(world.contract, ASK)
    assert round_.failed == {"a": "rpc_too_large"}
    world.a.lie = world.b.lie = None
    world.a.asked.clear()
    read = await round_.call(world.contract, ASK)
    assert (read.require(), read.answers[0], world.a.asked) == (ANSWER, Answer("a", error="rpc_too_large"), [])


async def test_an_endpoint_that_dawdles_is_waited_for_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer comes inside its deadline and is compared, until all together have cost the round its patience."""
    monkeypatch.setattr(quorum, "PATIENCE_S", 1.0)
    round_ = await world.quorum().round()
    world.c.delay, world.c.lie = 0.4, says("eth_call", "0x" + "42" * 32)
    world.c.asked.clear()
    reads = [await round_.call(world.contract, ASK) for _ in range(5)]
    assert [read.require() for read in reads] == [ANSWER] * 5
    assert [read.dissent for read in reads] == [("c",)] * 3 + [()] * 2
    assert [read.answers[2].error for read in reads] == [None] * 3 + ["rpc_timeout"] * 2
    assert (round_.failed, len(world.c.asked)) == ({"c": "rpc_timeout"}, 3)
    assert (await world.quorum(3).round()).failed == {}
    world.c.delay = 0.0
    assert (await world.quorum().round()).failed == {}


async def test_a_slow_endpoint_that_is_needed_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where fewer than k of the others say the same, its answer is the one that counts."""
    monkeypatch.setattr(quorum, "PATIENCE_S", 0.1)
    round_ = await world.quorum().round()
    world.c.delay = 0.2
    for lie in (down, says("eth_call", "0x" + "42" * 32)):
        world.b.lie = lie
        assert (await round_.call(world.contract, ASK)).require() == ANSWER
    world.a.lie = down
    assert (await round_.call(world.contract, ASK)).reason == "rpc_disagree"
    assert round_.failed == {}
    world.a.lie, world.b.lie = (says("eth_call", "0x" + f"{n}{n}" * 32) for n in (3, 4))
    assert (await round_.call(world.contract, ASK)).reason == "rpc_disagree"
    assert round_.failed == {"c": "rpc_timeout"}


async def test_a_chain_that_stands_still_is_stale(world: World) -> None:
    """A block that is old, or of the future, is not read from; the limits are to the second."""
    quorum = world.quorum(max_block_age_s=100.0, confirmations=0)
    newest = world.time
    for offset, stale in ((100, False), (101, True), (-300, False), (-301, True)):
        world.time = newest + offset
        if stale:
            with pytest.raises(QuorumError, match="old") as caught:
                await quorum.round()
            assert caught.value.reason == "rpc_stale"
        else:
            assert (await quorum.round()).block.number == world.chain.height


async def test_the_block_never_goes_back(world: World) -> None:
    """Where an endpoint is gone the last block is read again; where k do not have it, that is `rpc_rollback`."""
    quorum, height = world.quorum(), world.chain.height
    assert (await quorum.round()).block.number == height - 2
    world.a.lie, world.b.lie = down, says("eth_blockNumber", hex(height - 1))
    assert (await quorum.round()).block.number == height - 2
    world.b.lie = says("eth_blockNumber", hex(height - 3))
    with pytest.raises(QuorumError) as caught:
        await quorum.round()
    assert caught.value.reason == "rpc_rollback"


async def test_logs_and_transactions_need_agreement_too(world: World) -> None:
    """A log that one endpoint makes up, or keeps back, is not believed."""
    round_ = await world.quorum(k=3).round()
    assert await round_.logs(world.contract, [[b"t" * 32]], 0, round_.block.number) == ()
    made_up = {
        "address": world.contract,
        "topics": ["0x" + (b"t" * 32).hex()],
        "data": "0x",
        "blockNumber": "0x1",
        "logIndex": "0x0",
        "transactionHash": "0x" + "00" * 32,
    }
    world.a.lie = says("eth_getLogs", [made_up])
    with pytest.raises(QuorumError) as caught:
        await round_.logs(world.contract, [[b"t" * 32]], 0, round_.block.number)
    assert caught.value.reason == "rpc_disagree"


async def test_another_chain_stops_the_start(world: World) -> None:
    """One endpoint of another chain is enough; too few that answer at all are a quorum's failure."""
    await world.quorum().connect()
    with pytest.raises(WrongChain, match="a, b, c"):
        await world.quorum(chain_id=10740).connect()
    world.b.lie = says("eth_chainId", "0x1")
    with pytest.raises(WrongChain, match=f"not chain {CHAIN_ID}: b"):
        await world.quorum().connect()
    world.a.lie = world.b.lie = down
    with pytest.raises(QuorumError):
        await world.quorum().connect()


@pytest.mark.parametrize(
    ("k", "change"),
    [
        (0, {}),
        (3, {}),
        (1, {"confirmations": -1}),
        (1, {"names": "aa"}),
        (1, {"urls": ("https://one.example/x", "https://one.example:443/y")}),
        (1, {"urls": ("http://one.example.", "http://ONE.example:80/y")}),
        (1, {"chains": (1, 2)}),
    ],
)
def test_a_quorum_that_proves_nothing_is_refused(k: int, change: dict[str, Any]) -> None:
    """No k outside of 1 to n, no endpoint twice, no two chains."""
    names, chains = change.get("names", "ab"), change.get("chains", (1, 1))
    urls = change.get("urls", ("https://one.example", "https://two.example"))
    client = httpx.AsyncClient(transport=httpx.MockTransport(lambda request: httpx.Response(200)))
    clients = [RpcClient(client, *row, chain_id=chain) for *row, chain in zip(names, urls, chains, strict=True)]
    with pytest.raises(ConfigError):
        Quorum(clients, k, confirmations=change.get("confirmations", 0))
