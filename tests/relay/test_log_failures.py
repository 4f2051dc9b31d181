"""The log fails at every point of an exchange, at once or later, and the exchange ends as policy says, with its receipt.

The gateway runs in this process, behind its own ASGI interface; only the log's `append` is got at.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from agents import ANSWER, STREAM, Answer, good_script, prompt, prompt_of
from ledger import Ledger
from policy_kit import write_policy
from scripted import ScriptedNode

from gateway.app import Gateway
from gateway.errors import Busy, InternalError, LogUnavailable, VerirouteError
from gateway.model.entry import Entry
from gateway.relay.run import Run
from gateway.relay.till import Till
from gateway.settings import load

POLICIES = {
    "refuse": {},
    "degrade": {"on_log_failure": '"degrade"'},
    "async": {"durability": '"async"'},
    "async-degrade": {"durability": '"async"', "on_log_failure": '"degrade"'},
}


class Exchange(NamedTuple):
    answer: Answer
    ended: bool  # as HTTP does; False: the server would cut the connection


class World:
    """A gateway, its node, and what the log is made to say. `fail(entry)` gives an error, or None."""

    def __init__(self, gateway: Gateway, node: ScriptedNode, database: Path) -> None:
        self.gateway, self.node, self.database = gateway, node, database
        self.fail: Callable[[Entry], VerirouteError | None] = lambda entry: None
        self.at_once = True
        self._append = gateway.sequencer.append
        gateway.sequencer.append = self.append  # type: ignore[method-assign]

    def append(self, entry: Entry) -> Any:
        error = self.fail(entry)
        if error is None:
            return self._append(entry)
        if self.at_once:
            raise error
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.01, lambda: future.done() or future.set_exception(error))
        return future

    async def ask(
        self, name: str, policy: str, *, stream: bool = False, leave: asyncio.Event | None = None
    ) -> Exchange:
        body = prompt(name, stream=stream)
        messages: list[dict[str, Any]] = []
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if not unread:
                await (leave or asyncio.Event()).wait()
                return {"type": "http.disconnect"}
            return unread.pop()

        async def send(message: dict[str, Any]) -> None:
            messages.append(message)

        headers = [(b"x-client-request-id", name.encode()), (b"content-type", b"application/json")]
        terms = self.gateway.terms
        terms.default = policy
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
        await self.gateway.inference(scope, receive, send)
        assert messages, "the agent was left without an answer"
        head = {n.decode(): v.decode() for n, v in messages[0]["headers"]}
        text = b"".join(message.get("body", b"") for message in messages[1:])
        return Exchange(Answer(messages[0]["status"], head, text), not messages[-1].get("more_body", False))

    async def recover(self) -> Ledger:
        """The log takes entries again; what it is owed is written, and every exchange has its one receipt."""
        self.fail = lambda entry: None
        async with asyncio.timeout(20):
            while not await self.gateway.backlog.settle() or self.gateway.sequencer.lag:
                await asyncio.sleep(0.01)
        ledger = Ledger(self.database).check()
        assert len(ledger.receipts) == self.gateway.inference.accepted
        assert sum(self.gateway.relay.counts.values()) == self.gateway.inference.accepted
        return ledger

    def seen(self) -> set[str]:
        return {prompt_of(received) for received in self.node.received}


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(Gateway, "_front", lambda self: None)  # what is asked here is asked behind it
    node = ScriptedNode()
    node.script = good_script(node)
    for name, keys in POLICIES.items():
        write_policy(tmp_path / "policies", name, stream='["optimistic"]', **keys)
    table = node.table()
    text = f"""
    auth.mode = "none"
    storage.url = "sqlite:///{tmp_path}/audit.db"
    policy = {{dir = "{tmp_path}/policies", default = "refuse"}}
    nodes = [{{id = "n", base_url = "{table["base_url"]}", models = ["m"], pin = "{table["pin"]}"}}]
    """
    gateway = Gateway(load(text))
    await gateway.open()
    world = World(gateway, node, tmp_path / "audit.db")
    yield world
    world.fail = lambda entry: None
    await gateway.close()
    node.close()


def on(kind: str, error: VerirouteError) -> Callable[[Entry], VerirouteError | None]:
    return lambda entry: error if entry.kind in (kind, "alarm") else None


ERRORS = [Busy("the queue is full"), LogUnavailable("the disk is full")]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("error", ERRORS, ids=["busy", "unavailable"])
@pytest.mark.parametrize("stream", [False, True])
async def test_refused_when_the_intent_fails(world: World, stream: bool, error: VerirouteError, at_once: bool) -> None:
    """503 that may be tried again; not one byte of the prompt left."""
    world.fail, world.at_once = on("intent", error), at_once
    answer, ended = await world.ask("x", "refuse", stream=stream)
    assert ended
    assert (answer.status, answer.error["code"]) == (503, "log_unavailable")
    assert answer.headers["retry-after"] == "1"
    assert not world.node.received
    row = (await world.recover()).of("x")
    assert (row.verdict, row.release, row.reason, row.intent) == ("none", "refused", "log_unavailable", None)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("error", ERRORS, ids=["busy", "unavailable"])
@pytest.mark.parametrize("stream", [False, True])
async def test_refused_when_the_receipt_fails(world: World, stream: bool, error: VerirouteError, at_once: bool) -> None:
    """The answer stays here, or its end where text had left; no second payment is suggested; the receipt is truthful."""
    world.fail, world.at_once = on("receipt", error), at_once
    answer, ended = await world.ask("x", "refuse", stream=stream)
    row = (await world.recover()).of("x")
    assert (row.verdict, row.release, row.reason) == ("affirming", "withheld", "log_unavailable")
    assert row.predicate["log"]["backfilled"] is True
    sent = row.predicate["delivery"]["bytes"]
    if stream:
        assert not ended
        assert b'"code":"log_unavailable"' in answer.body
        assert not answer.whole
        assert 0 < sent < len(STREAM)
        assert answer.body[:sent] == STREAM[:sent]
    else:
        assert ended
        assert (answer.status, answer.error["code"], sent) == (503, "log_unavailable", 0)
        assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("policy", ["degrade", "async-degrade"])
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("kind", ["intent", "receipt", "both"])
@pytest.mark.parametrize("stream", [False, True])
async def test_degraded_and_written_later(world: World, stream: bool, kind: str, at_once: bool, policy: str) -> None:
    """The answer goes whole, says `degraded` wherever it says a level, and is in the log once that works, in order."""
    error, kinds = Busy("full"), ("intent", "receipt") if kind == "both" else (kind,)
    world.fail, world.at_once = lambda entry: error if entry.kind in (*kinds, "alarm") else None, at_once
    answer, ended = await world.ask("x", policy, stream=stream)
    assert (answer.status, answer.whole, ended) == (200, True, True)
    found = answer.verification
    assert (found["verdict"], found["level"]) == ("affirming", "degraded")
    assert answer.headers["x-veriroute-level"] in ("degraded", "pending")
    await asyncio.sleep(0.05)
    ledger = await world.recover()
    row = ledger.of("x")
    assert (row.id, row.verdict, row.release) == (found["receipt"], "affirming", "released")
    assert row.intent is not None
    assert row.predicate["delivery"]["bytes"] == len(STREAM if stream else ANSWER)
    assert len(ledger.alarms("log_unavailable")) == 1


async def test_async_answers_are_owed_when_they_fail_later(world: World) -> None:
    """Policy did not wait for the log; the receipt that it then did not take is written later all the same."""
    world.fail, world.at_once = on("receipt", LogUnavailable("the disk is full")), False
    answer, _ = await world.ask("x", "async")
    assert (answer.status, answer.verification["level"]) == (200, "degraded")
    await asyncio.sleep(0.05)
    assert len(world.gateway.backlog) == 1
    assert (await world.recover()).of("x").release == "released"


@pytest.mark.parametrize("stream", [False, True])
async def test_no_room_for_another_receipt(world: World, stream: bool) -> None:
    """A backlog that is full makes `degrade` refuse: nothing is released that could not be written later."""
    world.fail = lambda entry: Busy("full")
    world.gateway.backlog._entries = 4
    answers = [await world.ask(f"x-{n}", "degrade", stream=stream) for n in range(4)]
    assert [answer.status for answer, _ in answers] == [200, 200, 503, 503]
    assert world.seen() == {"x-0", "x-1"}
    assert world.gateway.backlog.unrecorded > 0
    world.fail = lambda entry: None
    assert await world.gateway.backlog.settle()
    ledger = Ledger(world.database).check()
    assert {row.client for row in ledger.receipts} == {"x-0", "x-1"}
    (alarm,) = ledger.alarms("log_unavailable")
    assert alarm["unrecorded"] == world.gateway.backlog.unrecorded


async def test_a_receipt_that_can_never_be_stored(world: World) -> None:
    """The answer stays here; the exchange has another receipt, which says that the gateway failed."""
    left = [InternalError("its text is no Unicode")]
    world.at_once = False
    world.fail = lambda entry: left.pop() if entry.kind == "receipt" and left else None
    answer, ended = await world.ask("x", "refuse")
    assert ended
    assert (answer.status, answer.error["code"]) == (500, "internal_error")
    row = (await world.recover()).of("x")
    assert (row.id, row.verdict, row.release) == (answer.error["receipt"], "none", "failed")


async def test_leaving_while_the_log_fails(world: World) -> None:
    """An agent that is gone by then has its one receipt, too."""
    leave = asyncio.Event()
    world.at_once = False

    def fail(entry: Entry) -> VerirouteError | None:
        if entry.kind == "receipt":
            leave.set()
        return LogUnavailable("no") if entry.kind in ("receipt", "alarm") else None

    world.fail = fail
    with pytest.raises(AssertionError, match="without an answer"):
        await world.ask("x", "refuse", leave=leave)
    row = (await world.recover()).of("x")
    assert (row.release, row.reason) == ("withheld", "log_unavailable")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_idle_connection_that_ends_behind_the_intent(world: World, stream: bool) -> None:
    """A node may close a connection that was idle, also between our choosing it and our using it: another one is made."""
    good = good_script(world.node)

    async def script(of: Any) -> Any:
        async for part in good(of):
            yield part
        yield 0.3  # how long the connection stays open after the answer

    world.node.script, world.node.closes = script, False
    assert (await world.ask("first", "refuse")).answer.status == 200
    await asyncio.sleep(0.1)
    append = world.gateway.sequencer.append

    def late(entry: Entry) -> Any:
        async def later() -> Any:
            if entry.kind == "intent":
                await asyncio.sleep(0.5)
            return await append(entry)

        return asyncio.ensure_future(later())

    world.gateway.sequencer.append = late  # type: ignore[method-assign]
    answer, _ = await world.ask("second", "refuse", stream=stream)
    assert (answer.status, answer.whole) == (200, True)
    assert len(world.node.received) == 2
    await world.recover()


async def test_stopped_before_the_prompt_left(world: World) -> None:
    """A stop that finds an exchange waiting for its intent ends it; nothing was paid for, so it may be tried again."""
    world.gateway.sequencer.append = (  # type: ignore[method-assign]
        lambda entry: asyncio.get_running_loop().create_future() if entry.kind == "intent" else world.append(entry)
    )
    asking = asyncio.create_task(world.ask("x", "refuse"))
    await asyncio.sleep(0.1)
    assert not await world.gateway.inference.drain(0.05)
    with pytest.raises(asyncio.CancelledError):
        await asking
    row = (await world.recover()).of("x")
    assert (row.release, row.reason, row.status) == ("failed", "stopped", 503)
    assert not world.node.received


@pytest.mark.parametrize("late", ["receipt", "payment"])
async def test_a_stop_outlasts_the_last_words(world: World, monkeypatch: pytest.MonkeyPatch, late: str) -> None:
    """An exchange that is ended has a second to say so. However long log and ledger take, it has its receipt: what the
    log refuses by then is owed."""
    monkeypatch.setattr("gateway.relay.ends.STOP_S", 0.05)
    loop = asyncio.get_running_loop()

    def append(entry: Entry) -> Any:
        future: asyncio.Future[Any] = loop.create_future()
        error = LogUnavailable("another process keeps the log's database locked")
        loop.call_later(0.3, lambda: future.done() or future.set_exception(error))
        return future

    async def withheld(till: Till, reason: str) -> None:
        await asyncio.sleep(0.3)

    world.gateway.sequencer.append = append  # type: ignore[method-assign]
    if late == "payment":
        monkeypatch.setattr(Till, "withheld", withheld)
    asking = asyncio.create_task(world.ask("x", "refuse"))
    await asyncio.sleep(0.1)
    assert not await world.gateway.inference.drain(0.05)
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.sleep(0.5)
    assert len(world.gateway.backlog) == 1
    world.gateway.sequencer.append = world.append  # type: ignore[method-assign]
    row = (await world.recover()).of("x")
    assert (row.release, row.reason) == ("failed", "stopped")


async def test_a_stop_finds_the_gateway_telling_of_a_failure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the ledger of payments is waited for, the exchange has no receipt yet: it gets it as one that was stopped."""
    begun = asyncio.Event()

    def fails(self: Run) -> None:
        raise RuntimeError

    async def withheld(till: Till, reason: str) -> None:
        if not begun.is_set():  # what was paid is noted once
            begun.set()
            await asyncio.sleep(60)

    monkeypatch.setattr(Run, "all", fails)
    monkeypatch.setattr(Till, "withheld", withheld)
    asking = asyncio.create_task(world.ask("x", "refuse"))
    await begun.wait()
    assert not await world.gateway.inference.drain(0.05)
    with pytest.raises(asyncio.CancelledError):
        await asking
    row = (await world.recover()).of("x")
    assert (row.release, row.reason, row.status) == ("failed", "stopped", 503)


async def test_a_stop_waits_for_a_commit(world: World) -> None:
    """An exchange whose receipt is being written when the grace time ends has its answer all the same."""

    def late(entry: Entry) -> Any:
        async def later() -> Any:
            if entry.kind == "receipt":
                await asyncio.sleep(0.4)
            return await world.append(entry)

        return asyncio.ensure_future(later())

    world.gateway.sequencer.append = late  # type: ignore[method-assign]
    asking = asyncio.create_task(world.ask("x", "refuse"))
    await asyncio.sleep(0.2)
    await world.gateway.inference.drain(0.05)
    answer, ended = await asking
    assert (answer.status, answer.verification["level"], ended) == (200, "logged", True)
    assert (await world.recover()).of("x").release == "released"


async def test_archives_are_kept_for_the_log_too(world: World) -> None:
    """Evidence that receipts refer to is stored once the log takes it, as if nothing had been."""
    submit = world.gateway.sequencer.submit
    failing = True

    def fail(job: Any) -> Any:
        if failing:
            raise LogUnavailable("no disk")
        return submit(job)

    world.gateway.sequencer.submit = fail  # type: ignore[method-assign]
    world.fail = lambda entry: LogUnavailable("no disk") if entry.kind == "alarm" else None
    await world.gateway.fleet.attest_all(5.0)
    assert len(world.gateway.backlog) == 2
    (member,) = world.gateway.fleet.members.values()
    assert member.session is not None
    assert world.gateway.reader.evidence(member.session.evidence_digest) is None
    failing = False
    await world.recover()
    stored = world.gateway.reader.evidence(member.session.evidence_digest)
    assert stored is not None
    assert json.loads(stored.data)["api_version"] == "aci/1"
