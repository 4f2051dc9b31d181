"""How a quorum is heard: nodes that hang, fail, lie, copy or answer nonsense, before a gateway in this process.

The nodes are servers of OpenAI's API without evidence, so the policy is the built-in `quorum` or one made of it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from agents import Answer, prompt
from ledger import Ledger
from scripted import Received, ScriptedNode

from gateway.app import Gateway
from gateway.errors import LogUnavailable
from gateway.fleet.attest import Attestation
from gateway.model.receipt import millis
from gateway.model.verdict import AttestationResult, Check, Outcome
from gateway.payer import Payer
from gateway.payment.policy import Asset, Caps, SpendingRules
from gateway.payment.sign import Wallet
from gateway.routing import CIRCUIT_S, FAILURES_TO_OPEN
from gateway.settings import load
from gateway.storage.ledger import Ledger as Money
from gateway.storage.scan import Scan

Script = Callable[[Received], AsyncIterator[bytes | float]]

WORDS = ("A", " receipt", " says", " what", " was", " shown", " and", " by", " whom", ".")
HANG = 30.0
TOOLS = [{"type": "function", "function": {"name": "pay", "parameters": {"type": "object"}}}]


def scored(words: tuple[str, ...], logprob: Any = -0.25) -> dict[str, Any]:
    """The log-probs of `words`, each with a far alternative."""
    return {
        "content": [
            {"token": w, "logprob": logprob, "bytes": list(w.encode()),
             "top_logprobs": [{"token": w, "logprob": logprob, "bytes": None},
                              {"token": "zzz", "logprob": -9.0, "bytes": None}]}
            for w in words
        ]
    }  # fmt: skip


def choice(words: tuple[str, ...] = WORDS, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "".join(words)}
    return {"index": 0, "message": message, "finish_reason": "stop", "logprobs": scored(words), **more}


def called(arguments: str, content: str | None = None, name: str = "pay") -> dict[str, Any]:
    call = {"id": f"call_{len(arguments)}", "type": "function", "function": {"name": name, "arguments": arguments}}
    message = {"role": "assistant", "content": content, "tool_calls": [call]}
    return {"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": None}


def document(*choices: dict[str, Any]) -> bytes:
    whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": list(choices)}
    return json.dumps(whole).encode()


def sends(body: bytes, status: int = 200, *headers: str, after_s: float = 0.0) -> Script:
    async def script(of: Received) -> AsyncIterator[bytes | float]:
        if after_s:
            yield after_s
        lines = [f"HTTP/1.1 {status} X", "content-type: application/json", f"content-length: {len(body)}", *headers]
        yield "\r\n".join([*lines, "connection: close", "", ""]).encode() + body

    return script


def hangs(first: bytes = b"") -> Script:
    async def script(of: Received) -> AsyncIterator[bytes | float]:
        yield first
        yield HANG

    return script


HONEST = sends(document(choice()))
LIAR = sends(document(choice(("No", "thing", " at", " all", " is", " shown", " to", " any", "one", "."))))


class World:
    """A gateway in this process and the nodes before it."""

    def __init__(self, gateway: Gateway, nodes: list[ScriptedNode], database: Path) -> None:
        self.gateway, self.nodes, self.database = gateway, nodes, database

    async def ask(
        self, body: bytes | None = None, *, policy: str = "quorum", path: str = "/v1/chat/completions",
        leave: asyncio.Event | None = None, headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> Answer:  # fmt: skip
        messages: list[dict[str, Any]] = []
        unread = [{"type": "http.request", "body": body or prompt("x"), "more_body": False}]

        async def receive() -> dict[str, Any]:
            if not unread:
                await (leave or asyncio.Event()).wait()
                return {"type": "http.disconnect"}
            return unread.pop()

        async def send(message: dict[str, Any]) -> None:
            if leave is not None and leave.is_set():
                raise OSError("the agent left")
            messages.append(message)

        self.gateway.terms.default = policy
        scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers)}
        await self.gateway.inference(scope, receive, send)
        if not messages:
            return Answer(0, {}, b"")
        head = {n.decode(): v.decode() for n, v in messages[0]["headers"]}
        return Answer(messages[0]["status"], head, b"".join(m.get("body", b"") for m in messages[1:]))

    def asked(self) -> list[int]:
        return [len(node.received) for node in self.nodes]

    def health(self, name: str) -> Any:
        return self.gateway.fleet.members[name].view.health

    def ledger(self) -> Ledger:
        """The log, once nothing is under way: each exchange and each prompt has one receipt."""
        ledger = Ledger(self.database).check()
        own = [row for row in ledger.receipts if "parent" not in row.predicate]
        assert len(own) == self.gateway.inference.accepted
        return ledger


def outcomes(answer: Answer) -> dict[str, str]:
    """What each node came to, of an answer or an error."""
    if answer.status != 200:
        return {n["node"]: n["reason"] for n in answer.error["nodes"]}
    return {a["node"]: a["outcome"] for a in answer.verification["proofs"][0]["answers"]}


def made_of_quorum(name: str, *changes: tuple[str, str]) -> str:
    text = (resources.files("policies") / "quorum.toml").read_text("utf-8")
    for old, new in (('name = "quorum"', f'name = "{name}"'), *changes):
        assert old in text
        text = text.replace(old, new)
    return text


POLICIES = {
    "two-of-two": [("m = 3", "m = 2")],
    "three-of-five": [("n = 2", "n = 3"), ("m = 3", "m = 5")],
    "warns": [('on_inconclusive = "refuse"', 'on_inconclusive = "warn"')],
    "silent": [("m = 3", "m = 4\n\n[deadlines]\nfirst_byte_s = 4")],
    "short": [("m = 3", "m = 3\n\n[deadlines]\ntotal_s = 1.2")],
    "plain": [
        ('on_failure = "refuse"', 'on_failure = "flag"'),
        ('  "proof_quorum",', ""),
        ('[proofs]\nrequest = "complete"\non_inconclusive = "refuse"', ""),
        ("[quorum]\nn = 2\nm = 3", ""),
    ],
    "later": [('durability = "durable"', 'durability = "async"')],
    "alone": [('  "proof_quorum",', '  "proof_reexec",'), ("[quorum]\nn = 2\nm = 3", "[reexec]\nmin_tokens = 16")],
    "elsewhere": [
        ('  "proof_quorum",', '  "proof_reexec",'),
        ('on_failure = "refuse"', 'on_failure = "next_node"\nretry_after_send = true'),
        ("[quorum]\nn = 2\nm = 3", "[reexec]\nmin_tokens = 16"),
    ],
    "quorum-audited": [("n = 2\nm = 3", "n = 2\nm = 2\n\n[sampled]\nrate = 1")],
    "plain-audited": [
        ('on_failure = "refuse"', 'on_failure = "flag"'),
        ('  "proof_quorum",', ""),
        ("[quorum]\nn = 2\nm = 3", "[sampled]\nrate = 1"),
    ],
    "again": [
        ('on_failure = "refuse"', 'on_failure = "next_node"\nretry_after_send = true'),
        ('  "proof_quorum",', '  "proof_quorum", "proof_reexec",'),
    ],
}


@pytest.fixture
async def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Any]]:
    monkeypatch.setattr(Gateway, "_front", lambda self: None)  # what is asked here is asked behind it
    (tmp_path / "policies").mkdir()
    for name, changes in POLICIES.items():
        (tmp_path / "policies" / f"{name}.toml").write_text(made_of_quorum(name, *changes), "utf-8")
    made: list[World] = []

    async def start(*scripts: Script | None, operators: tuple[str, ...] | None = None) -> World:
        """Nodes `n0`, `n1`, … of operators of their own, in this order of preference; None is a node that is gone."""
        nodes, tables = [], []
        for n, script in enumerate(scripts):
            node = ScriptedNode()
            operator = operators[n] if operators else f"op{n}"
            tables.append(
                f'{{id = "n{n}", network = "openai", base_url = "{node.url}", models = ["m"], operator = "{operator}"}}'
            )
            nodes.append(node)
            if script is None:
                node.close()
            else:
                node.script = script
        text = f"""
        auth.mode = "none"
        storage.url = "sqlite:///{tmp_path}/audit.db"
        policy = {{dir = "{tmp_path}/policies", default = "quorum"}}
        nodes = [{", ".join(tables)}]
        """
        gateway = Gateway(load(text))
        await gateway.open()
        for n in range(len(nodes)):  # the quicker a node was, the earlier it is asked
            gateway.fleet.members[f"n{n}"].served(float(10**n))
        monkeypatch.setattr("gateway.api.openai._pick", lambda _: 0.0)
        made.append(World(gateway, nodes, tmp_path / "audit.db"))
        return made[-1]

    yield start
    for world in made:
        await world.gateway.close()
        assert world.gateway.relay.pool.open_count == 0
        for node in world.nodes:
            if node._thread.is_alive():
                node.close()


async def test_a_node_that_hangs_is_replaced_and_ranks_behind(make: Callable[..., Any]) -> None:
    """One more is asked after half a second; the hung one's exchange ends, and the next request begins elsewhere."""
    world = await make(hangs(), HONEST, HONEST)
    begun = time.monotonic()
    answer = await world.ask()
    assert time.monotonic() - begun < 5
    assert outcomes(answer) == {"n0": "not_waited_for", "n1": "agrees", "n2": "agrees"}
    assert answer.verification["verdict"] == "affirming"
    receipts = world.ledger().receipts
    ended = {r.predicate["served"]["node"]: (r.release, r.reason) for r in receipts}
    assert ended["n0"] == ("abandoned", "not_waited_for")
    begins = {
        r.predicate["served"]["node"]: r.predicate["timings"]["received"] for r in receipts if "parent" in r.predicate
    }
    assert millis(begins["n0"]) + 400 < millis(begins["n2"])  # its times count from when it was asked
    assert world.health("n0").ewma_ms > 400
    assert world.health("n0").failures == 0
    assert world.health("n2").ewma_ms <= 100  # its own time, without the half second that it was not asked
    begun = time.monotonic()
    assert outcomes(await world.ask()) == {"n1": "agrees", "n2": "agrees"}
    assert time.monotonic() - begun < 0.45


async def test_two_that_hang_are_replaced_before_their_deadline(make: Callable[..., Any]) -> None:
    """While nobody says anything, one more is asked after a quarter of the time for a first byte."""
    world = await make(hangs(), hangs(b"HTTP/1.1 200 OK\r\n"), HONEST, HONEST)
    begun = time.monotonic()
    answer = await world.ask(policy="silent")
    assert 1.0 < time.monotonic() - begun < 3.5
    late = "not_waited_for"
    assert outcomes(answer) == {"n0": late, "n1": late, "n2": "agrees", "n3": "agrees"}
    world.ledger()


async def test_a_hearing_ends_with_the_exchange_s_deadline(make: Callable[..., Any]) -> None:
    """`total_s` bounds the whole exchange, however many nodes are asked one after the other."""
    world = await make(hangs(), hangs(), hangs())
    begun = time.monotonic()
    answer = await world.ask(policy="short")
    assert time.monotonic() - begun < 3
    assert (answer.status, answer.error["reason"]) == (502, "proof_quorum")
    assert {r.release for r in world.ledger().receipts} == {"abandoned", "withheld"}


async def test_a_node_that_fails_is_replaced_at_once(make: Callable[..., Any]) -> None:
    """Nobody waits for the slow one's answer before the third is asked."""
    world = await make(sends(b"{}", 500), sends(document(choice()), after_s=1.0), HONEST)
    answering = asyncio.ensure_future(world.ask())
    async with asyncio.timeout(0.9):
        while world.asked() != [1, 1, 1]:
            await asyncio.sleep(0.01)
    assert outcomes(await answering) == {"n0": "status_500", "n1": "agrees", "n2": "agrees"}


async def test_when_all_are_down_no_prompt_left_and_trying_again_may_help(make: Callable[..., Any]) -> None:
    """The error says that nobody could be asked, and not that the nodes disagree."""
    world = await make(None, None, None)
    answer = await world.ask()
    assert (answer.status, answer.error["code"], answer.error["reason"]) == (503, "no_eligible_node", "connect_failed")
    assert answer.headers.get("x-should-retry") != "false"
    assert set(outcomes(answer).values()) == {"connect_failed"}
    assert [(r.release, r.intent) for r in world.ledger().receipts] == [("refused", None)]
    assert answer.headers["retry-after"] == "1"
    for _ in range(1, FAILURES_TO_OPEN):
        answer = await world.ask()
    assert answer.error["reason"] == "connect_failed"
    assert 1 < int(answer.headers["retry-after"]) <= CIRCUIT_S


async def test_the_agent_leaves_while_nodes_are_asked(make: Callable[..., Any]) -> None:
    """Every exchange with a node ends, the nodes see the connection go, and no task is left."""
    world = await make(hangs(), hangs(b"HTTP/1.1 200 OK\r\n"), HONEST)
    before = asyncio.all_tasks()
    leave = asyncio.Event()
    asking = asyncio.ensure_future(world.ask(leave=leave))
    async with asyncio.timeout(5):
        while sum(world.asked()) < 2:
            await asyncio.sleep(0.01)
        leave.set()
        await asking
        while any(node.playing for node in world.nodes):
            await asyncio.sleep(0.01)
    assert not asyncio.all_tasks() - before
    assert world.gateway.relay.pool.open_count == 0
    assert all(member.view.in_flight == 0 for member in world.gateway.fleet.members.values())
    receipts = world.ledger().receipts
    assert {r.release for r in receipts} == {"abandoned"}
    assert [r.reason for r in receipts if "parent" not in r.predicate] == ["client_left"]


async def test_agents_that_leave_at_any_moment_leave_nothing_behind(make: Callable[..., Any]) -> None:
    """Before an intent, during an answer or in the last receipt: one receipt each, and no task is left."""
    slow = sends(document(choice()), after_s=0.02)
    world = await make(slow, slow, LIAR)
    before = asyncio.all_tasks()

    async def one(n: int) -> None:
        leave = asyncio.Event()
        asyncio.get_running_loop().call_later(n * 0.001, leave.set)
        await world.ask(prompt(f"r{n}"), leave=leave)

    async with asyncio.timeout(20):
        await asyncio.gather(*[one(n) for n in range(60)])
    assert not asyncio.all_tasks() - before
    assert all(member.view.in_flight == 0 for member in world.gateway.fleet.members.values())
    assert {"abandoned"} <= {r.release for r in world.ledger().receipts}


@pytest.mark.parametrize("policy", ["quorum", "later"])
@pytest.mark.parametrize("after_ms", [1, 25, 40])
async def test_a_stop_at_any_moment_has_every_receipt(make: Callable[..., Any], after_ms: int, policy: str) -> None:
    """When the last exchange has ended, so have those with its nodes, and their receipts are on their way."""
    slow = sends(document(choice()), after_s=0.02)
    world = await make(slow, slow, hangs())
    before = asyncio.all_tasks()
    asyncio.get_running_loop().call_later(after_ms / 1000, world.gateway.relay.stop)
    async with asyncio.timeout(20):
        await asyncio.gather(*[world.ask(prompt(f"r{n}"), policy=policy) for n in range(20)], return_exceptions=True)
        assert not asyncio.all_tasks() - before
        while world.gateway.sequencer.lag:
            await asyncio.sleep(0.01)
    world.ledger()


@pytest.mark.parametrize("kind", ["intent", "receipt"])
async def test_the_log_fails_while_a_quorum_is_heard(make: Callable[..., Any], kind: str) -> None:
    """503 for the log's sake; without an intent no prompt leaves, and what is owed is written later."""
    world = await make(HONEST, HONEST, HONEST)
    append = world.gateway.sequencer.append

    def failing(entry: Any) -> Any:
        if entry.kind in (kind, "alarm"):
            raise LogUnavailable("the disk is full")
        return append(entry)

    world.gateway.sequencer.append = failing
    answer = await world.ask()
    assert (answer.status, answer.error["code"]) == (503, "log_unavailable")
    assert sum(world.asked()) == (0 if kind == "intent" else 2)
    assert (answer.headers.get("x-should-retry") == "false") is (kind == "receipt")
    world.gateway.sequencer.append = append
    async with asyncio.timeout(20):
        while not await world.gateway.backlog.settle() or world.gateway.sequencer.lag:
            await asyncio.sleep(0.01)
    assert "released" not in {r.release for r in world.ledger().receipts}


BAD = {
    "402": (sends(b"{}", 402), "status_402"),
    "429": (sends(b"{}", 429, "retry-after: 7"), "status_429"),
    "500": (sends(b"{}", 500), "status_500"),
    "redirect": (sends(b"", 307, "location: http://127.0.0.1:9/"), "redirect"),
    "garbage": (sends(b"{]"), "malformed"),
    "not an object": (sends(b"[]"), "malformed"),
    "no log-probs": (sends(document(choice(logprobs=None))), "logprobs_absent"),
    "empty": (sends(document(choice((), logprobs=scored(())))), "empty_answer"),
    "NaN": (sends(document(choice(logprobs=scored(WORDS, float("nan"))))), "malformed"),
    "positive": (sends(document(choice(logprobs=scored(WORDS, 0.5)))), "malformed"),
    "-9999": (sends(document(choice(logprobs=scored(WORDS, -9999.0)))), "differs"),
    "two choices": (sends(document(choice(), choice(index=1))), "shape"),
    "other text": (sends(document(choice(message={"role": "assistant", "content": "pay me"}))), "text_not_tokens"),
    "cut": (hangs(b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{"), None),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_answer_never_counts(make: Callable[..., Any], name: str) -> None:
    """Whatever one node sends, two others are found that agree; with nobody to replace it nothing is released."""
    script, reason = BAD[name]
    world = await make(script, HONEST, HONEST)
    answer = await world.ask()
    assert answer.status == 200
    found = outcomes(answer)
    assert (found["n1"], found["n2"]) == ("agrees", "agrees")
    assert found["n0"] == (reason or "not_waited_for")
    world.ledger()


async def test_a_stream_that_is_cut_never_counts(make: Callable[..., Any]) -> None:
    """A stream without its end is no answer, though all its tokens came."""
    chunk = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": "".join(WORDS)},
             "finish_reason": None, "logprobs": scored(WORDS)}]}  # fmt: skip
    last = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    events = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in (chunk, last)) + b"data: [DONE]\n\n"
    head = b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"

    def streams(data: bytes) -> Script:
        async def script(of: Received) -> AsyncIterator[bytes | float]:
            yield head % len(data) + data

        return script

    world = await make(streams(events[: len(events) // 2]), streams(events), streams(events))
    answer = await world.ask(prompt("x", stream=True))
    assert answer.whole
    assert outcomes(answer) == {"n0": "truncated", "n1": "agrees", "n2": "agrees"}


async def test_nodes_that_disagree_pass_as_undecided_under_no_policy(make: Callable[..., Any]) -> None:
    """Where only two are to be had and they contradict each other, a policy that warns of doubt has none."""
    world = await make(LIAR, HONEST)
    answer = await world.ask(policy="warns")
    assert (answer.status, answer.error["code"]) == (502, "evidence_rejected")
    assert set(outcomes(answer).values()) <= {"no_near_tie", "logprob_drift"}
    assert not any(world.health(n).quarantined_until for n in ("n0", "n1"))


async def test_an_undecided_quorum_lets_no_call_out(make: Callable[..., Any]) -> None:
    """Where policy lets doubt pass with a warning, a call that one node alone made is withheld all the same."""
    world = await make(sends(document(called("{}"))), sends(b"{}", 500))
    answer = await world.ask(prompt("x", tools=TOOLS), policy="warns")
    assert answer.status == 502


async def test_a_single_text_may_pass_with_a_warning(make: Callable[..., Any]) -> None:
    """The same policy releases a text of which the others are down, never as affirming."""
    world = await make(HONEST, sends(b"{}", 500))
    answer = await world.ask(policy="warns")
    assert (answer.status, answer.verification["verdict"]) == (200, "warning")


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        (called('{"to":"a","sum":1}'), called('{"sum": 1.0, "to": "a"}'), 200),
        (called('{"to":"a","sum":1}'), called('{"to":"b","sum":1}'), 502),
        (called('{"to":"a"}', "I pay."), called('{"to":"a"}', "I pay."), 200),
        (called('{"to":"a"}', "I pay."), called('{"to":"a"}', "I do not."), 502),
        (called('{"to":"a"}'), choice(), 502),
        (called('{"to":"a"}', name="burn"), called('{"to":"a"}', name="burn"), 502),
    ],
    ids=["order", "value", "beside text", "other text", "call and text", "undeclared"],
)
async def test_calls_are_compared_by_value(make: Callable[..., Any], first: Any, second: Any, status: int) -> None:
    """Two nodes without evidence release a call that both made, whatever its spelling, and no other."""
    world = await make(sends(document(first)), sends(document(second)))
    answer = await world.ask(prompt("x", tools=TOOLS))
    assert answer.status == status
    if status == 200:
        assert answer.document["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "pay"
        assert answer.verification["verdict"] == "affirming"


async def test_another_value_is_outvoted_and_put_aside(make: Callable[..., Any]) -> None:
    """Of three calls the one with another value is named, and its node serves nobody for a while."""
    honest = sends(document(called('{"to":"a"}')))
    world = await make(sends(document(called('{"to":"thief"}'))), honest, honest)
    answer = await world.ask(prompt("x", tools=TOOLS))
    assert outcomes(answer) == {"n0": "differs", "n1": "agrees", "n2": "agrees"}
    assert "thief" not in answer.body.decode()
    assert world.health("n0").quarantined_until > 0
    assert world.health("n1").quarantined_until == 0


async def test_json_is_compared_by_value(make: Callable[..., Any]) -> None:
    """Under `response_format` the order of members is no difference, and another value is."""

    def says(text: str) -> Script:
        return sends(document(choice((text,), logprobs=None)))

    world = await make(says('{"a":1,"b":[2]}'), says('{"b": [2], "a": 1}'), says('{"a":1,"b":[3]}'))
    body = prompt("x", response_format={"type": "json_object"})
    assert outcomes(await world.ask(body)) == {"n0": "agrees", "n1": "agrees"}
    world.nodes[1].script = says('{"a":1,"b":[3]}')
    world.nodes[2].script = says("no JSON")
    answer = await world.ask(body)
    assert answer.status == 502


async def test_three_nodes_of_one_operator_are_asked_nothing(make: Callable[..., Any]) -> None:
    """They are one voice however many there are."""
    world = await make(HONEST, HONEST, HONEST, operators=("o", "o", "o"))
    answer = await world.ask()
    assert (answer.status, answer.error["reason"]) == (503, "operators_too_few")
    assert sum(world.asked()) == 0


async def test_a_node_that_is_missing_from_a_quorum(make: Callable[..., Any]) -> None:
    """Where it keeps the quorum from being asked, the agent is told why it has no session."""
    world = await make(HONEST, operators=("o",))
    member = world.gateway.fleet.members["n0"]
    member.view.lease_until = 0.0
    member.last = Attestation(AttestationResult((Check("evidence", Outcome.NONE, "connect_failed"),)), None, None)
    member.next_try = world.gateway.fleet.mono() + 60
    answer = await world.ask()
    told = {"node": "n0", "reason": "session_expired", "cause": "connect_failed"}
    assert (answer.error["reason"], answer.error["nodes"]) == ("operators_too_few", [told])
    assert "n0: session_expired (connect_failed)" in answer.error["message"]


async def test_an_operator_s_second_node_stands_in_for_its_first(make: Callable[..., Any]) -> None:
    """A node that failed may be replaced by one of the same operator, and one that answered never is."""
    world = await make(sends(b"{}", 500), HONEST, HONEST, operators=("o", "p", "o"))
    assert outcomes(await world.ask()) == {"n0": "status_500", "n1": "agrees", "n2": "agrees"}
    world.nodes[0].script = LIAR
    answer = await world.ask()
    assert answer.status == 502
    assert set(outcomes(answer)) == {"n0", "n1"}


async def test_two_of_two(make: Callable[..., Any]) -> None:
    """Both have to agree; where one is down the third is not asked."""
    world = await make(HONEST, HONEST, HONEST)
    assert outcomes(await world.ask(policy="two-of-two")) == {"n0": "agrees", "n1": "agrees"}
    world.nodes[1].script = sends(b"{}", 500)
    answer = await world.ask(policy="two-of-two")
    assert (answer.status, answer.error["code"]) == (502, "evidence_missing")
    assert world.asked()[2] == 0


async def test_three_of_five(make: Callable[..., Any]) -> None:
    """With two that lie in the same words and three that don't, the three are found and the two named."""
    world = await make(LIAR, LIAR, HONEST, HONEST, HONEST)
    answer = await world.ask(policy="three-of-five")
    assert answer.verification["proofs"][0]["culprits"] == ["n0", "n1"]
    assert answer.verification["proofs"][0]["statistic"] == 3.0
    assert len(world.ledger().receipts) == 6


async def test_a_policy_that_would_try_the_next_node_is_refused_in_words(make: Callable[..., Any]) -> None:
    """A quorum whose answer lacks another proof has nobody left to try: it says what is missing, and is no failure."""
    world = await make(HONEST, HONEST)
    answer = await world.ask(policy="again")
    assert (answer.status, answer.error["code"]) == (502, "evidence_missing")
    assert "proof_reexec" in answer.error["message"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/responses", "/v1/completions"])
async def test_what_cannot_be_compared_is_refused_before_a_prompt_leaves(make: Callable[..., Any], path: str) -> None:
    """An endpoint at which no quorum can be judged: the error names the one that can."""
    world = await make(HONEST, HONEST)
    bodies = {"/v1/embeddings": {"input": "x"}, "/v1/responses": {"input": "x"}, "/v1/completions": {"prompt": "x"}}
    answer = await world.ask(json.dumps({"model": "m", **bodies[path]}).encode(), path=path)
    assert (answer.status, answer.error["reason"]) == (400, "endpoint_unsupported")
    assert "/v1/chat/completions" in answer.error["message"]
    assert sum(world.asked()) == 0


async def test_a_caller_may_ask_for_a_quorum_on_top(make: Callable[..., Any]) -> None:
    """The header adds the quorum to the policy in force, and several nodes are asked."""
    world = await make(HONEST, HONEST)
    assert len((await world.ask(policy="plain")).verification.get("proofs", [])) == 0
    assert world.asked() == [1, 0]
    answer = await world.ask(policy="plain", headers=((b"x-veriroute-policy", b"quorum"),))
    assert answer.headers["x-veriroute-policy"] == "plain+quorum"
    assert outcomes(answer) == {"n0": "agrees", "n1": "agrees"}


async def test_fifty_at_once_each_have_their_quorum(make: Callable[..., Any]) -> None:
    """No answer is mixed up with another's, and nothing is left under way."""

    async def echo(of: Received) -> AsyncIterator[bytes | float]:
        words = (*WORDS[:-1], json.loads(of.body)["messages"][0]["content"])
        async for part in sends(document(choice(words)))(of):
            yield part

    world = await make(echo, echo, echo)
    answers = await asyncio.gather(*[world.ask(prompt(f"<{n}>")) for n in range(50)])
    for n, answer in enumerate(answers):
        assert answer.document["choices"][0]["message"]["content"].endswith(f"<{n}>")
        assert sorted(outcomes(answer).values())[:2] == ["agrees", "agrees"]
    assert all(member.view.in_flight == 0 for member in world.gateway.fleet.members.values())
    world.ledger()


NETWORK, TOKEN, PAYEE = "eip155:4242", "0x" + "c0" * 20, "0x" + "11" * 20


def paid(node: ScriptedNode, body: bytes) -> Script:
    """Answers `body` to who pays 400, and asks the others to."""
    asked = {
        "scheme": "exact", "network": NETWORK, "asset": TOKEN, "amount": "400", "payTo": PAYEE,
        "maxTimeoutSeconds": 60, "extra": {"name": "Test Coin", "version": "1"},
    }  # fmt: skip
    url = f"{node.url}/v1/chat/completions"
    terms = {"x402Version": 2, "error": "pay", "resource": {"url": url}, "accepts": [asked]}
    demand = sends(b"{}", 402, "payment-required: " + base64.b64encode(json.dumps(terms).encode()).decode())
    answer = sends(body)

    async def script(of: Received) -> AsyncIterator[bytes | float]:
        async for part in (answer if of.header(b"payment-signature") else demand)(of):
            yield part

    return script


@pytest.mark.parametrize(("request_cap", "cap"), [(800, 2000), (799, 2000), (800, 500)])
async def test_a_quorum_reserves_for_each_node(
    make: Callable[..., Any], tmp_path: Path, request_cap: int, cap: int
) -> None:
    """Each node is paid by itself and in its own receipt, all of them within the cap of one request; a budget for one
    of them pays one, and releases nothing."""
    world = await make(HONEST, HONEST)
    rules = SpendingRules(
        networks=(NETWORK,),
        schemes=("exact",),
        pay_to=(PAYEE,),
        assets=(Asset(NETWORK, TOKEN, 6, "usd", Caps(request_cap, cap, cap, cap)),),
    )
    money = Money(str(tmp_path / "payments"), unsettled=rules.unsettled)
    world.gateway.relay.payer = Payer(rules, Wallet(b"\x61" * 32), money, time.time, os.urandom)
    for n, node in enumerate(world.nodes):
        node.script = paid(node, document(choice()))
        world.gateway.fleet.members[f"n{n}"].adapter.x402 = True
    answer = await world.ask()
    receipts = world.ledger().receipts
    seats = [r.predicate for r in receipts if "parent" in r.predicate]
    payments = {seat["payment"]["id"]: seat["parent"] for seat in seats if "payment" in seat}
    states = []
    for payment in payments:
        row = await money.find(payment)
        assert row is not None
        assert row.request_id == payments[payment]
        states.append(row.state)
    if request_cap == 800 and cap == 2000:
        assert answer.status == 200
        assert states == ["signed", "signed"]
        assert answer.verification["payment"]["id"] in payments
    else:
        assert answer.status == 502
        assert states == ["paid_unverified"]
    money.close()


async def test_a_node_that_leaves_out_what_proofs_need_is_put_aside(make: Callable[..., Any]) -> None:
    """Without token ids nothing can be run again: five in a row are failures like any other, and others are asked."""
    bare = {**choice(), "logprobs": None}
    world = await make(sends(document(bare)))
    for _ in range(5):
        answer = await world.ask(policy="alone")
        assert (answer.error["code"], answer.error["reason"]) == ("evidence_missing", "proof_reexec")
    assert (await world.ask(policy="alone")).error["code"] == "no_eligible_node"
    assert world.health("n0").circuit_until > 0
    assert world.health("n0").quarantines == 0


async def test_that_there_is_no_reference_is_no_fault_of_a_node(make: Callable[..., Any]) -> None:
    """A node that tells all that is asked for stays in service, however often nobody can hold it against anything."""
    told = {**choice(), "token_ids": list(range(len(WORDS)))}
    whole = json.loads(document(told)) | {"prompt_token_ids": [1, 2]}
    world = await make(sends(json.dumps(whole).encode()))
    for _ in range(6):
        answer = await world.ask(policy="alone")
        assert (answer.error["code"], answer.error["reason"]) == ("evidence_missing", "proof_reexec")
    assert world.health("n0").failures == 0


async def test_the_next_node_has_proofs_of_its_own(make: Callable[..., Any]) -> None:
    """What was found of one node's answer is not held against the next one's, nor kept in its receipt."""
    bare = {**choice(), "logprobs": None}
    told = json.loads(document({**choice(), "token_ids": list(range(len(WORDS)))})) | {"prompt_token_ids": [1, 2]}
    world = await make(sends(document(bare)), sends(json.dumps(told).encode()))
    answer = await world.ask(policy="elsewhere")
    assert answer.error["code"] == "no_eligible_node"
    assert {n["node"]: n["reason"] for n in answer.error["nodes"]} == {"n0": "proof_reexec", "n1": "proof_reexec"}
    (receipt,) = [row.predicate for row in world.ledger().receipts]
    assert [(p["kind"], p["reason"]) for p in receipt["proofs"]] == [("reexec", "reference_absent")]


@pytest.mark.parametrize("policy", ["quorum-audited", "plain-audited"])
async def test_an_answer_falls_under_the_epoch_that_its_first_intent_finds(make: Any, policy: str) -> None:
    """An epoch that ends while a node is chosen is not named: by the log's order another was in force already."""
    world = await make(HONEST, HONEST)
    epochs, choose = world.gateway.auditor._epochs, world.gateway.fleet.choose

    async def slow(*of: Any) -> Any:
        epochs._newest.until = 0.0
        return await choose(*of)

    world.gateway.fleet.choose = slow
    answer = await world.ask(policy=policy)
    assert answer.status == 200, answer.body
    with Scan(str(world.database)) as scan:
        kinds = [row.kind for row in scan.rows(0, scan.size, 1000) if row.kind in ("epoch", "intent")]
    assert kinds == ["epoch", "epoch", *["intent"] * (2 if policy == "quorum-audited" else 1)]
    (own,) = [row for row in world.ledger().receipts if "parent" not in row.predicate]
    assert own.predicate["audit"]["epoch"] == epochs.current().id
