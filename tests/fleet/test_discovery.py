"""A network with a registry: its nodes come and go, and a registry that fails takes nothing away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import Any, cast

import pytest

from gateway.adapter import Adapter, Alarm, Discovered, RawEvidence
from gateway.errors import ModelUnknown, UpstreamFailed
from gateway.exchange.head import Head
from gateway.fleet.attest import Attestation, Attester
from gateway.fleet.fleet import Fleet
from gateway.model.node import Node
from gateway.model.receipt import Rejected
from gateway.model.verdict import AttestationResult
from gateway.policy_files import read_policies

WANTED = Node("any", "reg", "", ("m",))
HEAD = Head("/v1/chat/completions", "m", False, 1, frozenset())


def node(name: str, port: int = 9001) -> Node:
    return Node(name, "reg", f"http://127.0.0.1:{port}", ("m",))


class Registry:
    """An adapter whose registry says what the test wants."""

    network, refresh_s = "reg", 60.0

    def __init__(self, *answers: Discovered | BaseException) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def discover(self, configured: Iterable[Node], client: object) -> Discovered:
        assert list(configured) == [WANTED]
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Static:
    """An adapter without a registry."""

    network, refresh_s = "static", None


class Unable:
    """An attester that finds nothing."""

    async def attest(self, node: Node, adapter: object) -> Attestation:
        return Attestation(AttestationResult(()), None, None)

    async def get(self, node: Node, target: str) -> RawEvidence:
        raise AssertionError


class World:
    def __init__(self, *answers: Discovered | BaseException) -> None:
        self.mono = 1000.0
        self.registry = Registry(*answers)
        self.alarms: list[tuple[str, Alarm]] = []
        self.fleet = Fleet(
            [WANTED],
            {"reg": cast("Adapter", self.registry)},
            cast("Attester", Unable()),
            mono=lambda: self.mono,
            lifetime_s=60,
            allow_http=False,
            allow_private=True,
            archive=lambda node, attestation: None,
            alarm=lambda network, alarm: self.alarms.append((network, alarm)),
        )

    async def look(self, later: float = 61.0) -> list[str]:
        self.mono += later
        await self.fleet.discover()
        return sorted(self.fleet.members)

    async def reasons(self) -> tuple[Rejected, ...]:
        choice = await self.fleet.choose(HEAD, read_policies(None)["signed"], None, 0.5)
        return choice.dropped


async def test_nodes_come_stay_and_go() -> None:
    """What the registry names is a member; one that is unchanged stays the same, a moved one is new, a lost one goes."""
    world = World(
        Discovered((node("a"), node("b", 9002))), Discovered((node("a"), node("b", 9003))), Discovered((node("a"),))
    )
    assert await world.look() == ["a", "b"]
    first, moved = world.fleet.members["a"], world.fleet.members["b"]
    assert await world.look() == ["a", "b"]
    assert world.fleet.members["a"] is first
    assert world.fleet.members["b"] is not moved
    assert await world.look() == ["a"]


async def test_a_quarantine_outlasts_another_address_and_an_absence() -> None:
    """A node that is quarantined and has its registry entry changed, or taken out for a while, comes back quarantined."""
    both = node("one"), node("two")
    world = World(Discovered(both), Discovered((node("one", 9002), node("two"))), Discovered(()), Discovered(both))
    await world.look()
    world.fleet.shun("one", "audit_failed")
    assert await world.look() == ["one", "two"]
    assert {r.node: r.reason for r in await world.reasons()}["one"] == "quarantined"
    assert await world.look() == []
    world.fleet.shun("two", "audit_failed")
    assert await world.look() == ["one", "two"]
    assert {r.node: r.reason for r in await world.reasons()} == {"one": "quarantined", "two": "quarantined"}


async def test_whoever_goes_with_an_answer_unsettled_comes_back_quarantined() -> None:
    """Its registry entry is the owner's to change: evidence that would tell whether it signed is not got round so."""
    world = World(Discovered((node("one"),)), Discovered((node("one", 9002),)))
    await world.look()
    world.fleet.members["one"].rekeyed("signature", lambda session: False)
    assert await world.look() == ["one"]
    assert [r.reason for r in await world.reasons()] == ["quarantined"]


@pytest.mark.parametrize("between", [node("one", 9002), None], ids=["another address", "gone"])
@pytest.mark.parametrize("how", ["contradicted", "rekeyed"])
async def test_an_answer_that_was_under_way_convicts_whoever_has_its_node_s_name(
    how: str, between: Node | None
) -> None:
    """Its registry entry changed before the answer was whole: that is no way round a quarantine, and not two of them."""
    world = World(
        Discovered((node("one"),)), Discovered(() if between is None else (between,)), Discovered((node("one"),))
    )
    await world.look()
    member = world.fleet.members["one"]
    await world.look()
    if how == "contradicted":
        member.contradicted("signature")
    else:
        member.rekeyed("signature", lambda session: True)  # no evidence of it will come any more
    await world.look()
    assert [r.reason for r in await world.reasons()] == ["quarantined"]
    assert world.fleet.members["one"].view.health.quarantines == 1


async def test_a_registry_is_asked_when_it_is_due_and_not_before() -> None:
    """Within the refresh time nothing is asked again."""
    world = World(Discovered((node("a"),)), Discovered(()))
    assert await world.look() == ["a"]
    assert await world.look(later=59.0) == ["a"]
    assert world.registry.asked == 1
    assert await world.look(later=2.0) == []


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (UpstreamFailed("no", reason="rpc_quorum"), "rpc_quorum"),
        (UpstreamFailed("no"), "discovery_failed"),
        (UpstreamFailed("no", reason="see \x1b[2J my page"), "unlisted"),
        (ValueError("SECRET"), "adapter_failed"),
        (SystemExit("SECRET"), "adapter_failed"),
        (asyncio.CancelledError(), "adapter_failed"),
    ],
)
async def test_a_registry_that_fails_takes_nothing_away(failure: BaseException, reason: str) -> None:
    """What stands stays; a network that was never looked up says why, and its models are known all the same."""
    world = World(failure, Discovered((node("a"),)), failure)
    world.fleet.known(HEAD)
    assert await world.reasons() == (Rejected("any", "discovery_pending"),)
    assert await world.look() == []
    assert await world.reasons() == (Rejected("any", reason),)
    assert await world.look() == ["a"]
    assert [r.node for r in await world.reasons()] == ["a"]
    assert await world.look() == ["a"]
    with pytest.raises(ModelUnknown):
        world.fleet.known(Head("/v1/chat/completions", "other", False, 1, frozenset()))


@pytest.mark.parametrize(
    "odd",
    [
        cast("Discovered", None),
        Discovered(cast("tuple[Node, ...]", None)),
        Discovered((node("b"),), cast("dict[str, str]", None)),
        Discovered((node("b"),), cast("dict[str, str]", object())),
        Discovered((node("b"),), {}, (cast("Alarm", None),)),
        Discovered((Node("b", "reg", cast("str", None), ("m",)),)),
        Discovered((node("b"), Node("c", "static", "http://127.0.0.1:9001", ("m",)))),
    ],
)
async def test_what_is_no_list_of_its_nodes_changes_nothing(odd: Discovered) -> None:
    """An adapter that gives back something else, or another network's nodes, has failed; nothing of it is taken."""
    world = World(odd, Discovered((node("a"),)), odd)
    world.fleet._adapters["static"] = cast("Adapter", Static())
    assert await world.look() == []
    assert await world.reasons() == (Rejected("any", "adapter_failed"),)
    assert await world.look() == ["a"]
    assert await world.look() == ["a"]
    assert world.alarms == []


class Listed(Node, frozen=True):
    """A node with what an adapter keeps of it for itself."""

    record: int = 0


async def test_what_fits_the_contract_is_taken_as_it_came() -> None:
    """Any mapping says what is unresolved; a node of the adapter's own class comes back to it as that. One with a list
    where a tuple is promised is read as if it had one."""
    listed = Listed("a", "reg", "http://127.0.0.1:9001", ("m",), record=7)
    loose = Node("b", "reg", "http://127.0.0.1:9002", cast("tuple[str, ...]", ["m"]))
    world = World(Discovered((listed, loose), MappingProxyType({"any": "unlisted"})))
    assert await world.look() == ["a", "b"]
    assert world.fleet.members["a"].node is listed
    assert world.fleet.members["b"].node == node("b", 9002)
    assert Rejected("any", "unlisted") in await world.reasons()


@pytest.mark.parametrize("words", ["no such TEE", "a\n", "", "x" * 65, "\x1b[2J"])
async def test_what_a_registry_says_of_a_node_is_a_code_or_unlisted(words: str) -> None:
    """It stands in errors and receipts, where nobody else's text belongs."""
    world = World(Discovered((), {"any": words}))
    assert await world.look() == []
    assert await world.reasons() == (Rejected("any", "unlisted"),)


async def test_a_lookup_that_is_cancelled_ends() -> None:
    """Whoever stops the fleet stops the adapter: that cancellation is not the adapter's."""
    world = World()

    async def hang(configured: object, client: object) -> Discovered:
        await asyncio.sleep(10)
        raise AssertionError

    world.registry.discover = cast("Callable[..., Any]", hang)  # type: ignore[method-assign]
    task = asyncio.ensure_future(world.look())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await world.reasons() == (Rejected("any", "discovery_pending"),)


async def test_a_registry_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking nodes up ends in time."""
    monkeypatch.setattr("gateway.fleet.attest.DISCOVERY_S", 0.01)
    world = World()

    async def hang(configured: object, client: object) -> Discovered:
        await asyncio.sleep(10)
        raise AssertionError

    world.registry.discover = cast("Callable[..., Any]", hang)  # type: ignore[method-assign]
    assert await world.look() == []
    assert await world.reasons() == (Rejected("any", "discovery_timeout"),)


async def test_what_the_registry_lacks_and_what_it_warns_of() -> None:
    """A configured node that the registry does not name has its reason; alarms are handed on; a bad address is none."""
    alarm = Alarm("pcr_approved", {"pcr_hash": "0x00"})
    bad = Node("bad", "reg", "http://192.0.2.1", ("m",))
    world = World(Discovered((bad,), {"any": "tee_not_registered"}, (alarm,)))
    assert await world.look() == []
    assert await world.reasons() == (Rejected("any", "tee_not_registered"),)
    assert world.alarms == [("reg", alarm)]


async def test_a_registry_puts_no_node_into_the_place_of_another() -> None:
    """A name that a node of another network has, or one that stands twice, is the first one's."""
    world = World(Discovered((node("mine", 9005), node("theirs", 9005), node("a"), node("a", 9006))))
    mine = Node("mine", "static", "http://127.0.0.1:9004", ("m",))
    registry = cast("Adapter", world.registry)
    fleet = world.fleet = Fleet(
        [WANTED, mine], {"reg": registry, "static": cast("Adapter", Static())}, cast("Attester", Unable()),
        mono=lambda: world.mono, lifetime_s=60, allow_http=False, allow_private=True, archive=lambda *_: None,
    )  # fmt: skip
    fleet.members["theirs"] = fleet._member(Node("theirs", "static", "http://127.0.0.1:9007", ("m",)))
    assert await world.look() == ["a", "mine", "theirs"]
    ports = {name: member.origin.port for name, member in fleet.members.items()}
    assert ports == {"a": 9001, "mine": 9004, "theirs": 9007}
