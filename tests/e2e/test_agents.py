"""Agents that leave, half leave, never read and come in crowds; networks whose adapter is broken. One receipt each."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from sqlite3 import connect as open_database
from typing import Any

import pytest
from agents import (
    ANSWER,
    STREAM,
    Agent,
    Answer,
    chunk,
    connect,
    good_script,
    prompt,
    prompt_of,
    raw_request,
    read_all,
    together,
)  # fmt: skip
from ledger import Ledger, audited, exactly_one_each, metric, metrics, settled
from policy_kit import write_policy
from running import Gateway
from scripted import Received, ScriptedNode

from gateway.crypto.merkle import leaf_hash, verify_inclusion
from gateway.log.checkpoint import open_checkpoint
from gateway.log.proof import parse_tlog_proof
from gateway.log.trust import parse_trust
from gateway.storage.reads import Reader


def build(folder: Path, nodes: list[dict[str, Any]], **server: Any) -> Gateway:
    """A gateway under `signed`, that streams as it comes."""
    write_policy(folder / "policies", "streaming", stream='["optimistic"]')
    policy = {"dir": str(folder / "policies"), "default": "streaming"}
    return Gateway(folder, nodes, policy=policy, server=server)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, ScriptedNode]]:
    """One gateway and one node for the agents that come one by one; what they leave behind is checked at the end."""
    node = ScriptedNode()
    node.script = good_script(node)
    gateway = build(tmp_path_factory.mktemp("agents"), [node.table()], write_s=1.0).start()
    try:
        yield gateway, node
        exactly_one_each(gateway, node)
        audited(gateway)
    finally:
        gateway.stop()
        node.close()


@pytest.fixture
def gateway(world: tuple[Gateway, ScriptedNode]) -> Gateway:
    return world[0]


@pytest.fixture
def node(world: tuple[Gateway, ScriptedNode]) -> ScriptedNode:
    world[1].script = good_script(world[1])
    return world[1]


def wait_for(what: Callable[[], Any], within_s: float = 15.0) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)
    return found


def received(node: ScriptedNode, name: str) -> Received | None:
    return next((r for r in node.received if prompt_of(r) == name), None)


def send(
    gateway: Gateway, name: str, *, stream: bool = False, buffer: int | None = None, **members: Any
) -> socket.socket:
    sock = connect(gateway.url, receive_buffer=buffer)
    sock.sendall(raw_request(gateway.url, gateway.key, name, prompt(name, stream=stream, **members)))
    return sock


def leave(sock: socket.socket, how: str) -> None:
    """`close`: an end, as closing and half-closing send it; `reset`: at once, whatever is under way."""
    if how == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def endless(node: ScriptedNode, event: bytes, pause: float, first: float = 0.0) -> Callable[[Received], Any]:
    """A stream that never ends by itself; JSON that never comes."""

    async def script(of: Received) -> Any:
        if first:
            yield first
        if json.loads(of.body)["stream"]:
            yield node.head(200, None, media="text/event-stream")
            while True:
                yield b"%x\r\n%b\r\n" % (len(event), event)
                yield pause
        while True:
            yield pause

    return script


# -- one agent -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("when", ["before-json", "before-json-to-300-kb", "before-stream", "during-stream"])
def test_i11_leaves_before_the_node_has_answered(gateway: Gateway, node: ScriptedNode, when: str, how: str) -> None:
    """The node is left within a second; the receipt says abandoned, that the prompt left, and how much came back."""
    name = f"i11-{when}-{how}"
    node.script = endless(node, chunk("x"), 0.05, first=0.0 if when == "during-stream" else 20.0)
    sock = send(gateway, name, stream="stream" in when, user="x" * (300_000 if "300" in when else 1))
    request = wait_for(lambda: received(node, name))
    if when == "during-stream":
        assert b"200 OK" in sock.recv(4096)
    leave(sock, how)
    left = time.monotonic()
    wait_for(lambda: request.left_after is not None)
    assert time.monotonic() - left < 1.0 + 1.0  # and a busy machine
    settled(gateway)
    row = Ledger(gateway.database).of(name)
    assert (row.verdict, row.release, row.reason, row.status) == ("none", "abandoned", "client_left", 499)
    assert "forwarded" in row.predicate["request"]
    assert (row.predicate["delivery"]["bytes"] > 0) is (when == "during-stream")


@contextmanager
def held(gateway: Gateway) -> Iterator[None]:
    """Nothing can be committed meanwhile."""
    with closing(open_database(gateway.database, isolation_level=None, timeout=10)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_i12_leaves_while_its_intent_is_written(gateway: Gateway, node: ScriptedNode, how: str) -> None:
    """The prompt never leaves: the intent is closed by a receipt that says so."""
    name = f"i12-intent-{how}"
    with held(gateway):
        sock = send(gateway, name)
        wait_for(lambda: metric(gateway, "veriroute_in_flight") == 1)
        leave(sock, how)
        time.sleep(0.8)
    settled(gateway)
    row = Ledger(gateway.database).of(name)
    assert (row.release, row.reason) == ("abandoned", "client_left")
    assert row.intent is not None
    assert "forwarded" not in row.predicate["request"]
    assert received(node, name) is None


@pytest.mark.parametrize("stream", [False, True])
def test_i12_leaves_while_its_receipt_is_written(gateway: Gateway, node: ScriptedNode, stream: bool) -> None:
    """What was decided stands: one receipt, `released`, with the bytes that were handed over, and no second one."""
    name = f"i12-receipt-{stream}"
    gate = threading.Event()
    good = good_script(node)

    async def script(of: Received) -> Any:
        while not gate.is_set():
            yield 0.02
        async for part in good(of):
            yield part

    node.script = script
    sock = send(gateway, name, stream=stream)
    request = wait_for(lambda: received(node, name))
    with held(gateway):
        gate.set()
        wait_for(lambda: node.playing == 0)
        wait_for(lambda: metric(gateway, "veriroute_log_queue") + 1)
        time.sleep(0.3)
        leave(sock, "reset")
        time.sleep(0.3)
    settled(gateway)
    row = Ledger(gateway.database).of(name)
    assert (row.verdict, row.release) == ("affirming", "released")
    assert row.predicate["delivery"]["bytes"] == len(STREAM if stream else ANSWER)
    assert request.left_after is None


def test_i12_leaves_after_the_commit(gateway: Gateway, node: ScriptedNode) -> None:
    """An answer that nobody reads was released all the same, once."""
    sock = send(gateway, "i12-after")
    wait_for(lambda: any(row.client == "i12-after" for row in Ledger(gateway.database).receipts))
    leave(sock, "reset")
    settled(gateway)
    assert Ledger(gateway.database).of("i12-after").release == "released"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("slow", [False, True])
def test_i13_half_closed_agents_are_served(gateway: Gateway, node: ScriptedNode, stream: bool, slow: bool) -> None:
    """An agent that shuts its sending side and reads on has its whole answer, behind an interim one."""
    good = good_script(node)

    async def script(of: Received) -> Any:
        if slow:
            yield 0.8
        async for part in good(of):
            yield part

    node.script = script
    name = f"i13-{stream}-{slow}"
    with send(gateway, name, stream=stream) as sock:
        sock.shutdown(socket.SHUT_WR)
        text = b"".join(read_all(sock))
    text = text.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert text.startswith(b"HTTP/1.1 200 OK\r\n")
    assert text.count(b"HTTP/1.1 ") == 1
    assert text.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n" if stream else b"}")
    assert b'"level":"logged"' in text
    assert Ledger(gateway.database).of(name).release == "released"


def test_i13_pipelined_and_half_closed(gateway: Gateway, node: ScriptedNode) -> None:
    """Both of two pipelined requests are answered, in order, after the sending side was shut."""
    names = ("i13-first", "i13-second")
    with connect(gateway.url) as sock:
        sock.sendall(b"".join(raw_request(gateway.url, gateway.key, name, prompt(name)) for name in names))
        sock.shutdown(socket.SHUT_WR)
        text = b"".join(read_all(sock))
    ledger = Ledger(gateway.database)
    places = [text.index(f"x-veriroute-receipt: {ledger.of(name).id}".encode()) for name in names]
    assert places == sorted(places)
    assert text.count(b"HTTP/1.1 200 OK\r\n") == 2


def test_f20_an_agent_that_never_reads(gateway: Gateway, node: ScriptedNode) -> None:
    """The node is made to wait, the agent is cut after server.write_s, the node is left; memory stays where it was."""
    node.script = endless(node, chunk("x" * 16_000), 0.0)
    before = metric(gateway, "veriroute_resident_bytes")
    socks = [send(gateway, f"f20-{n}", stream=True, buffer=4096) for n in range(4)]
    requests = [wait_for(lambda n=n: received(node, f"f20-{n}")) for n in range(4)]
    highest = before

    def all_left() -> bool:
        nonlocal highest
        highest = max(highest, metric(gateway, "veriroute_resident_bytes"))
        return all(request.left_after is not None for request in requests)

    wait_for(all_left)
    assert all(request.left_after < 8 for request in requests)
    for sock in socks:
        sock.close()
    settled(gateway)
    ledger = Ledger(gateway.database)
    for n in range(4):
        row = ledger.of(f"f20-{n}")
        assert (row.release, row.reason) == ("abandoned", "client_left")
    assert highest - before < 20e6, f"{(highest - before) / 1e6:.0f} MB"


# -- many ----------------------------------------------------------------------------------------------------------


def test_fifty_leavers(gateway: Gateway, node: ScriptedNode) -> None:
    """Fifty agents leave at random moments: no answer goes on upstream, one receipt each, all abandoned."""
    chance = random.Random(7)
    plans = [
        (chance.choice((False, True)), chance.choice(("close", "reset")), chance.uniform(0, 0.6)) for _ in range(50)
    ]
    node.script = endless(node, chunk("x"), 0.05, first=0.2)

    def work(n: int) -> None:
        stream, how, after = plans[n]
        sock = send(gateway, f"leaver-{n}", stream=stream)
        time.sleep(after)
        leave(sock, how)

    together(50, work)
    wait_for(lambda: node.playing == 0)
    settled(gateway)
    rows = {row.client: row for row in Ledger(gateway.database).receipts}
    # One that was reset before its request was read is no accepted request.
    known = [rows[f"leaver-{n}"] for n in range(50) if f"leaver-{n}" in rows]
    assert len(known) >= 40
    assert {row.release for row in known} == {"abandoned"}


def test_u1_two_hundred_at_once(tmp_path: Path) -> None:
    """Two hundred mixed requests: dense indices, every proof verifies, accepted = receipts = intents + refused early."""
    honest, lying = ScriptedNode(), ScriptedNode(b"\x22" * 32, models=("bad",))
    honest.script = good_script(honest)
    lying.script = lying.json(ANSWER.replace(b'"m"', b'"bad"'), covered=b"something else")
    gateway = build(tmp_path, [honest.table(), lying.table("lying")]).start()
    kinds = ("json", "stream", "json", "stream", "bad", "unknown model", "no JSON", "json")

    def work(n: int) -> tuple[str, str, Answer]:
        kind, name = kinds[n % len(kinds)], f"u1-{n}"
        model = {"bad": "bad", "unknown model": "nothing"}.get(kind, "m")
        body = b"{" if kind == "no JSON" else prompt(name, stream=kind == "stream", model=model)
        with Agent(gateway.url, gateway.key) as agent:
            return kind, name, agent.ask(name, body)

    try:
        answers = together(200, work)
        ledger = exactly_one_each(gateway, honest, lying)
        accepted = [(kind, name, answer) for kind, name, answer in answers if kind not in ("unknown model", "no JSON")]
        assert {answer.status for kind, _, answer in answers if kind == "unknown model"} == {404}
        assert {answer.status for kind, _, answer in answers if kind == "no JSON"} == {400}
        assert len(ledger.receipts) == len(accepted) == 150
        refused = [row for row in ledger.receipts if row.release == "refused"]
        # The liar may be quarantined while an intent for it is being written: then nothing leaves for it either.
        assert len(ledger.kind("intent")) + len([row for row in refused if row.intent is None]) == 150
        assert not [row for row in refused if "forwarded" in row.predicate["request"]]
        trust = parse_trust(gateway.trust.read_bytes())
        with Reader(str(gateway.database)) as reader:
            for kind, name, answer in accepted:
                row = ledger.of(name)
                if kind == "bad":
                    code = answer.error["code"]
                    assert (row.release, code) in {("withheld", "evidence_rejected"), ("refused", "no_eligible_node")}
                    assert answer.error["receipt"] == row.id
                    continue
                assert (answer.status, answer.whole, row.release) == (200, True, "released")
                found = answer.verification
                assert (found["receipt"], found["index"], found["level"]) == (row.id, row.index, "logged")
                proof = parse_tlog_proof(found["proof"])
                checkpoint = open_checkpoint(proof.checkpoint, trust.log_keys, "test.example/log")
                (leaf,) = reader.leaves(row.index, row.index + 1)
                verify_inclusion(leaf_hash(leaf), row.index, checkpoint.size, proof.hashes, checkpoint.root)
        audited(gateway)
    finally:
        gateway.stop()
        honest.close()
        lying.close()


def test_no_more_at_once_than_allowed(tmp_path: Path) -> None:
    """Beyond server.max_in_flight a request is 503 busy with Retry-After, also when all bodies arrive together."""
    node = ScriptedNode()
    gate = threading.Event()
    good = good_script(node)

    async def script(of: Received) -> Any:
        while not gate.is_set():
            yield 0.02
        async for part in good(of):
            yield part

    node.script = script
    gateway = build(tmp_path, [node.table()], max_in_flight=4).start()
    busy: list[Answer] = []
    served: list[Answer] = []

    def finish(sock: socket.socket, name: str) -> None:
        body = prompt(name)
        sock.sendall(raw_request(gateway.url, gateway.key, name, body)[-1:])
        text = b"".join(read_all(sock))
        sock.close()
        head, _, rest = text.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        answer = Answer(int(lines[0].split()[1]), dict(line.split(": ", 1) for line in lines[1:]), rest)
        (busy if answer.status == 503 else served).append(answer)

    try:
        socks = [connect(gateway.url) for _ in range(12)]
        for n, sock in enumerate(socks):  # all but the last byte of each
            sock.sendall(raw_request(gateway.url, gateway.key, f"n-{n}", prompt(f"n-{n}"), "connection: close")[:-1])
        time.sleep(0.3)
        with ThreadPoolExecutor(12) as pool:
            done = [pool.submit(finish, sock, f"n-{n}") for n, sock in enumerate(socks)]
            wait_for(lambda: len(busy) == 8)
            assert metric(gateway, "veriroute_in_flight") == 4
            gate.set()
            for future in done:
                future.result(30)
        assert {(answer.error["code"], answer.headers["retry-after"]) for answer in busy} == {("busy", "1")}
        assert [answer.status for answer in served] == [200] * 4
        assert metrics(gateway)['veriroute_refused_total{code="busy"}'] == 8
        assert len(exactly_one_each(gateway, node).receipts) == 4
    finally:
        gateway.stop()
        node.close()


# -- a broken adapter ----------------------------------------------------------------------------------------------

ADAPTER = """
from adapters.aci import AciAdapter


class Broken(AciAdapter):
    def __init__(self, network, duty, error):
        self.network, self.duty, self.error = network, duty, error

    def fail(self, duty):
        if duty == self.duty:
            raise self.error

    async def evidence(self, node, nonce, client):
        self.fail("evidence")
        return await super().evidence(node, nonce, client)

    def request(self, session, nonce, *, chained):
        self.fail("request")
        return super().request(session, nonce, chained=chained)

    def response(self, headers):
        self.fail("response")
        return super().response(headers)


value_error = Broken("value_error", "response", ValueError("SECRET"))
exits = Broken("exits", "response", SystemExit("SECRET"))
recursion = Broken("recursion", "response", RecursionError("SECRET"))
key_error = Broken("key_error", "request", KeyError("SECRET"))
attest = Broken("attest", "evidence", UnicodeError("SECRET"))
"""

BROKEN = {
    "value_error": (502, "evidence_missing", "withheld"),
    "exits": (502, "evidence_missing", "withheld"),
    "recursion": (502, "evidence_missing", "withheld"),
    "key_error": (503, "no_eligible_node", "refused"),  # nothing had left
    "attest": (503, "no_eligible_node", "refused"),
}


def install(folder: Path) -> None:
    """A third party's distribution with adapters, as an installer lays it out."""
    (folder / "broken_adapters.py").write_text(ADAPTER, "utf-8")
    info = folder / "broken_adapters-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-adapters\nVersion: 1.0\n", "utf-8")
    points = "".join(f"{name} = broken_adapters:{name}\n" for name in BROKEN)
    (info / "entry_points.txt").write_text(f"[gateway.adapters]\n{points}", "utf-8")


def test_h13_l05_an_adapter_that_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a stranger's adapter raises: an error with its receipt, verdict none, and nothing for anybody else."""
    (tmp_path / "site").mkdir()
    install(tmp_path / "site")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH")]))
    )
    nodes = {name: ScriptedNode(bytes([n]) * 32, models=(name,)) for n, name in enumerate(("m", *BROKEN), 1)}
    for name, node in nodes.items():
        node.script = good_script(node) if name == "m" else node.json(ANSWER.replace(b'"m"', f'"{name}"'.encode()))
    tables = [node.table(name, network="aci" if name == "m" else name) for name, node in nodes.items()]
    (tmp_path / "gateway").mkdir()
    gateway = build(tmp_path / "gateway", tables).start()
    names = [*BROKEN] * 3 + ["m"] * 15

    def work(n: int) -> tuple[str, str, Answer]:
        client = f"h13-{n}"
        with Agent(gateway.url, gateway.key) as agent:
            return names[n], client, agent.ask(client, prompt(client, model=names[n]))

    try:
        answers = together(len(names), work)
        ledger = exactly_one_each(gateway, *nodes.values())
        for model, client, answer in answers:
            row = ledger.of(client)
            if model == "m":
                assert (answer.status, answer.verification["level"], row.release) == (200, "logged", "released")
                continue
            status, code, release = BROKEN[model]
            assert b"SECRET" not in answer.body
            if (answer.status, answer.error["code"]) == (503, "no_eligible_node"):  # its circuit had opened by then
                assert (row.verdict, row.release) == ("none", "refused")
                continue
            assert (answer.status, answer.error["code"], answer.error["receipt"]) == (status, code, row.id)
            assert (row.verdict, row.release) == ("none", release)
        seen = {(model, answer.status) for model, _, answer in answers}
        assert {(model, expected[0]) for model, expected in BROKEN.items()} <= seen
        assert not nodes["attest"].received
        audited(gateway)
    finally:
        gateway.stop()
        for node in nodes.values():
            node.close()
