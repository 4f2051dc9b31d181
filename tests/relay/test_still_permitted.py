"""What happens to a node between its choice and the prompt: another session, a quarantine, our own limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from agents import ANSWER, good_script
from behind_front import ask, asked_in_turn
from ledger import Ledger
from policy_kit import write_policy
from scripted import Received, ScriptedNode

from gateway.app import Gateway
from gateway.fleet.attest import Attestation
from gateway.fleet.member import Member
from gateway.model.verdict import AttestationResult, Check, Outcome
from gateway.policy_files import read_policy
from gateway.relay.till import Till
from gateway.routing import FAILURES_TO_OPEN, Health
from gateway.upstream.errors import ChannelRefused, ConnectFailed, TooManyConnections

Meanwhile = Callable[[Gateway], Awaitable[None]]


@pytest.fixture
def nodes() -> Any:
    nodes = [ScriptedNode(), ScriptedNode(b"\x22" * 32)]
    for node in nodes:
        node.script = good_script(node)
    yield nodes
    for node in nodes:
        node.close()


@pytest.fixture
async def gateway(tmp_path: Path, nodes: list[ScriptedNode], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    """`n0` is asked first, then `n1`."""
    async with asked_in_turn(tmp_path, nodes, '"next_node"', monkeypatch) as gateway:
        yield gateway


def while_connecting(gateway: Gateway, node: str, meanwhile: Meanwhile, *, fails: bool = False) -> None:
    """Let `meanwhile` happen while the first connection to `node` is being made, which then may fail."""
    acquire, origin = gateway.pool.acquire, gateway.fleet.members[node].origin
    waiting = [meanwhile]

    async def slow(to: Any, *of: Any, **how: Any) -> Any:
        if to == origin and waiting:
            await waiting.pop()(gateway)
            if fails:
                raise ConnectFailed
        return await acquire(to, *of, **how)

    gateway.pool.acquire = slow  # type: ignore[method-assign]


def reattested(node: ScriptedNode, name: str, **keyset: Any) -> Meanwhile:
    async def happens(gateway: Gateway) -> None:
        node.keyset.update(keyset)
        await gateway.fleet._fly(gateway.fleet.members[name])

    return happens


def convicted(name: str) -> Meanwhile:
    async def happens(gateway: Gateway) -> None:
        gateway.fleet.members[name].contradicted("signature")

    return happens


def prompts(node: ScriptedNode) -> int:
    return sum(received.method == b"POST" for received in node.received)


@pytest.mark.parametrize("how", ["another key", "convicted"])
async def test_the_next_node_is_judged_again_before_it_is_tried(
    gateway: Gateway, nodes: list[ScriptedNode], tmp_path: Path, how: str
) -> None:
    """One that stopped being permitted while another was tried gets no prompt."""
    change = reattested(nodes[1], "n1", subject="another") if how == "another key" else convicted("n1")
    while_connecting(gateway, "n0", change, fails=True)
    answer = await ask(gateway)
    assert (answer.status, answer.error["code"]) == (503, "no_eligible_node")
    assert prompts(nodes[1]) == 0
    row = Ledger(tmp_path / "audit.db").check().of("x")
    reason, cause = ("key_bound", "keyset_not_pinned") if how == "another key" else ("quarantined", "signature")
    assert row.predicate["route"]["rejected"] == [
        {"node": "n0", "reason": "connect_failed"},
        {"node": "n1", "reason": reason, "cause": cause},
    ]


@pytest.mark.parametrize("how", ["another key", "expired", "convicted"])
async def test_a_node_is_judged_again_once_it_was_waited_for(
    gateway: Gateway, nodes: list[ScriptedNode], tmp_path: Path, how: str
) -> None:
    """Whoever decides how long connecting takes cannot get a prompt under a session that ended meanwhile."""
    change = {
        "another key": reattested(nodes[0], "n0", subject="another"),
        "expired": reattested(nodes[0], "n0", not_after=int(time.time()) - 10),
        "convicted": convicted("n0"),
    }[how]
    while_connecting(gateway, "n0", change)
    answer = await ask(gateway)
    assert (answer.status, answer.verification["node"]) == (200, "n1")
    assert prompts(nodes[0]) == 0
    row = Ledger(tmp_path / "audit.db").check().of("x")
    assert [r["node"] for r in row.predicate["route"]["rejected"]] == ["n0"]
    assert row.predicate["served"]["node"] == "n1"


async def test_a_session_renewed_with_the_same_keys_is_as_good(
    gateway: Gateway, nodes: list[ScriptedNode], tmp_path: Path
) -> None:
    """The renewal of a session refuses nobody; the receipt names the session that the prompt left under."""
    before = gateway.fleet.members["n0"].session
    while_connecting(gateway, "n0", reattested(nodes[0], "n0"))
    answer = await ask(gateway)
    assert (answer.status, answer.verification["node"], answer.verification["verdict"]) == (200, "n0", "affirming")
    after = gateway.fleet.members["n0"].session
    assert before is not None
    assert after is not before
    assert Ledger(tmp_path / "audit.db").check().of("x").predicate["served"]["session"] == before.id


async def test_keys_that_changed_within_what_policy_permits_are_not_mixed(
    gateway: Gateway, nodes: list[ScriptedNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection made for the old keys carries nothing under the new ones."""
    monkeypatch.setattr("gateway.relay.run._keys", lambda session: id(session))
    while_connecting(gateway, "n0", reattested(nodes[0], "n0"))
    answer = await ask(gateway)
    assert (answer.status, answer.verification["node"]) == (200, "n1")
    assert prompts(nodes[0]) == 0


async def test_a_node_that_is_not_listed_any_more_gets_no_prompt(gateway: Gateway, nodes: list[ScriptedNode]) -> None:
    """A registry may take a node away while another one is tried."""

    async def taken_away(gateway: Gateway) -> None:
        del gateway.fleet.members["n1"]

    while_connecting(gateway, "n0", taken_away, fails=True)
    answer = await ask(gateway)
    assert [n["reason"] for n in answer.error["nodes"]] == ["connect_failed", "session_missing"]
    assert prompts(nodes[1]) == 0


async def test_our_own_limit_of_connections_does_not_count_against_a_node(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it to, callers could take a node from each other."""
    failed: list[str] = []
    monkeypatch.setattr(Member, "failed", lambda self, reason: failed.append(reason))

    async def full(*of: Any, **how: Any) -> Any:
        raise TooManyConnections

    monkeypatch.setattr(gateway.pool, "acquire", full)
    answer = await ask(gateway)
    assert [n["reason"] for n in answer.error["nodes"]] == ["busy", "busy"]
    assert not failed


@pytest.mark.parametrize(("error", "again"), [(ChannelRefused, True), (ConnectFailed, False)])
async def test_a_node_behind_another_tls_key_is_asked_for_evidence_anew(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, error: type[Exception], again: bool
) -> None:
    """It may have been started anew: until its next renewal it would serve nobody, although its evidence is sound."""
    monkeypatch.setattr(gateway.pool, "acquire", raises(error))
    await ask(gateway)
    now = time.monotonic()
    assert [member.next_try <= now for member in gateway.fleet.members.values()] == [again, again]


@pytest.mark.parametrize("how", ["once in quarantine", "renewed", "paid"])
async def test_the_probe_of_a_circuit_is_not_refused_for_being_one(
    gateway: Gateway, nodes: list[ScriptedNode], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A request that was let through a half-open circuit stays let in when its node is judged again."""
    n0 = half_open(gateway)
    if how == "once in quarantine":
        past = n0.view.health.circuit_until
        n0.view.health = msgspec.structs.replace(n0.view.health, quarantines=1, quarantined_until=past)
    elif how == "renewed":
        while_connecting(gateway, "n0", reattested(nodes[0], "n0"))
    else:
        asks_for_money(nodes[0], monkeypatch)
    answer = await ask(gateway)
    assert (answer.status, answer.verification["node"]) == (200, "n0")
    assert (n0.view.health.failures, n0.view.health.probe_until) == (0, 0.0)


@pytest.mark.parametrize("how", ["request at fault", "busy", "ended"])
async def test_a_probe_that_shows_nothing_stands_in_nobody_s_way(
    gateway: Gateway, nodes: list[ScriptedNode], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Else whoever sends such a request now and then keeps a node that works again from all the others."""
    n0 = half_open(gateway)
    good, acquire = nodes[0].script, gateway.pool.acquire
    if how == "request at fault":
        nodes[0].script = nodes[0].raw(b"HTTP/1.1 400 X\r\ncontent-length: 2\r\n\r\n{}")
        assert (await ask(gateway)).error["reason"] == "status_400"
    elif how == "busy":
        monkeypatch.setattr(gateway.pool, "acquire", raises(TooManyConnections))
        assert [n["reason"] for n in (await ask(gateway)).error["nodes"]] == ["quarantined", "busy"]
    else:
        monkeypatch.setattr(gateway.pool, "acquire", raises(asyncio.CancelledError))
        with pytest.raises(asyncio.CancelledError):
            await ask(gateway)
    nodes[0].script, gateway.pool.acquire = good, acquire  # type: ignore[method-assign]
    answer = await ask(gateway)
    assert (answer.status, answer.verification["node"], n0.view.health.failures) == (200, "n0", 0)


def half_open(gateway: Gateway) -> Member:
    """`n0`, whose circuit waits for a probe; `n1` is in quarantine."""
    gateway.fleet.members["n1"].contradicted("signature")
    n0 = gateway.fleet.members["n0"]
    n0.view.health = Health(failures=FAILURES_TO_OPEN, opened=1, circuit_until=time.monotonic() - 1)
    return n0


def raises(error: type[BaseException]) -> Callable[..., Awaitable[Any]]:
    async def call(*of: Any, **how: Any) -> Any:
        raise error

    return call


def asks_for_money(node: ScriptedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `node` ask to be paid before it answers, and let it be paid."""
    scripts = [node.script, node.raw(b"HTTP/1.1 402 X\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")]

    async def script(of: Received) -> AsyncIterator[bytes | float]:
        async for part in scripts.pop()(of):
            yield part

    async def paid(self: Till, *of: object) -> None:
        return None

    node.script = script
    monkeypatch.setattr(Till, "pays", lambda self, member: True)
    monkeypatch.setattr(Till, "pay", paid)


async def test_a_policy_that_refuses_tries_another_node_before_the_prompt_leaves(
    gateway: Gateway, nodes: list[ScriptedNode]
) -> None:
    """Under `on_failure = "refuse"` too: a node that is permitted like the first is asked where that cannot be reached."""

    async def nothing(gateway: Gateway) -> None: ...

    gateway.terms.default = "signed"
    assert gateway.terms.policies["signed"].on_failure == "refuse"
    while_connecting(gateway, "n0", nothing, fails=True)
    answer = await ask(gateway)
    assert (answer.status, answer.verification["node"], answer.verification["verdict"]) == (200, "n1", "affirming")
    assert [prompts(node) for node in nodes] == [0, 1]


async def test_an_answer_that_was_kept_back_is_not_forgotten_for_the_next_node(
    gateway: Gateway, nodes: list[ScriptedNode], tmp_path: Path
) -> None:
    """Where the prompt has left and no other node is to be had, the receipt says so and nobody is told to try again."""
    path = write_policy(tmp_path / "more", "again", on_failure='"next_node"\nretry_after_send = true')
    gateway.terms.replace({**gateway.terms.policies, "nexts": read_policy(path)})
    nodes[0].script = nodes[0].json(ANSWER, covered=b"another answer")

    async def nothing(gateway: Gateway) -> None: ...

    while_connecting(gateway, "n1", nothing, fails=True)
    answer = await ask(gateway)
    assert [n["reason"] for n in answer.error["nodes"]] == ["response_bound", "connect_failed"]
    assert "retry-after" not in answer.headers
    assert Ledger(tmp_path / "audit.db").check().of("x").release == "withheld"


async def test_an_answer_that_was_kept_back_has_no_cause_of_routing_s(
    gateway: Gateway, nodes: list[ScriptedNode], tmp_path: Path
) -> None:
    """That the node could not be asked for evidence anew is not why its answer was too old."""
    path = write_policy(tmp_path / "more", "again", on_failure='"next_node"\nretry_after_send = true')
    gateway.terms.replace({**gateway.terms.policies, "nexts": read_policy(path)})
    unreached = Attestation(AttestationResult((Check("evidence", Outcome.NONE, "connect_failed"),)), None, None)
    gateway.fleet.members["n0"].attested(unreached)
    nodes[0].script = nodes[0].json(ANSWER, served_at=1)

    async def nothing(gateway: Gateway) -> None: ...

    while_connecting(gateway, "n1", nothing, fails=True)
    told = [{"node": "n0", "reason": "fresh"}, {"node": "n1", "reason": "connect_failed"}]
    assert (await ask(gateway)).error["nodes"] == told
    assert Ledger(tmp_path / "audit.db").check().of("x").predicate["route"]["rejected"] == told


async def test_a_receipt_has_no_times_of_a_node_that_was_tried_before(
    gateway: Gateway, nodes: list[ScriptedNode], tmp_path: Path
) -> None:
    """The node that it names gave no whole answer, so it does not say when one was there and how long it was judged."""
    path = write_policy(tmp_path / "more", "again", on_failure='"next_node"\nretry_after_send = true')
    gateway.terms.replace({**gateway.terms.policies, "nexts": read_policy(path)})
    nodes[0].script = nodes[0].json(ANSWER, covered=b"another answer")
    nodes[1].script = nodes[1].json(b"{}", status=500)
    assert (await ask(gateway)).error["reason"] == "status_500"
    receipt = Ledger(tmp_path / "audit.db").check().of("x").predicate
    assert receipt["served"]["node"] == "n1"
    assert receipt["timings"].keys() == {"received", "upstreamFirstByteMs"}


async def test_all_nodes_that_are_tried_share_the_time_of_one_exchange(
    gateway: Gateway, nodes: list[ScriptedNode], tmp_path: Path
) -> None:
    """A node that takes its time and fails leaves the next one what is left of the total, and no more."""
    for node in nodes:
        node.script = late(node)
    path = write_policy(tmp_path / "more", "again", on_failure='"next_node"\nretry_after_send = true')
    path.write_text(path.read_text("utf-8") + "[deadlines]\ntotal_s = 1.5\n", "utf-8")
    policy = read_policy(path)
    gateway.terms.replace({**gateway.terms.policies, "nexts": policy})
    begun = time.monotonic()
    answer = await ask(gateway)
    assert time.monotonic() - begun < 1.9
    assert [(n["node"], n["reason"]) for n in answer.error["nodes"]] == [
        ("n0", "content_type"),
        ("n1", "timeout_total"),
    ]
    assert [prompts(node) for node in nodes] == [1, 1]
    assert [gateway.fleet.members[name].view.health.failures for name in ("n0", "n1")] == [1, 0]


async def test_the_latency_of_a_node_is_its_own_time_to_the_first_byte(
    gateway: Gateway, nodes: list[ScriptedNode]
) -> None:
    """Neither what an earlier node took nor how long an answer is makes a node slow."""
    good = good_script(nodes[1])

    async def slow(gateway: Gateway) -> None:
        await asyncio.sleep(0.5)

    async def long(of: Received) -> AsyncIterator[bytes | float]:
        async for part in good(of):
            assert isinstance(part, bytes)
            head, _, body = part.partition(b"\r\n\r\n")
            yield head + b"\r\n\r\n"
            yield 0.5
            yield body

    gateway.fleet.members["n1"].view.health = Health()
    nodes[1].script = long
    while_connecting(gateway, "n0", slow, fails=True)
    assert (await ask(gateway)).verification["node"] == "n1"
    latency = gateway.fleet.members["n1"].view.health.ewma_ms
    assert latency is not None
    assert latency < 400


async def test_no_prompt_leaves_when_the_time_of_the_exchange_is_over(
    gateway: Gateway, nodes: list[ScriptedNode], tmp_path: Path
) -> None:
    """Time that went by before a node was reached is not given back: a prompt whose answer cannot count stays here."""
    path = write_policy(tmp_path / "more", "brief")
    path.write_text(path.read_text("utf-8") + "[deadlines]\ntotal_s = 0.2\n", "utf-8")
    gateway.terms.replace({**gateway.terms.policies, "nexts": read_policy(path)})

    async def slow(gateway: Gateway) -> None:
        await asyncio.sleep(0.3)

    while_connecting(gateway, "n0", slow)
    answer = await ask(gateway)
    assert [n["reason"] for n in answer.error["nodes"]] == ["timeout_total", "timeout_total"]
    assert [prompts(node) for node in nodes] == [0, 0]


def late(node: ScriptedNode) -> Callable[[Received], AsyncIterator[bytes | float]]:
    """Answers after a second, in a media type that nobody asked for."""

    async def script(of: Received) -> AsyncIterator[bytes | float]:
        yield 1.0
        yield node.head(200, b"hello", media="text/plain") + b"hello"

    return script
