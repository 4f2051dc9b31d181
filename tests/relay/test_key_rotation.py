"""A node signs with keys that its session does not know: it has changed them, and shows so, or it lies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from agents import ANSWER, STREAM, prompt
from behind_front import ask, behind_front
from ledger import Ledger
from scripted import Received, ScriptedNode
from tee_node import Nitro, TeeNode

from gateway.app import Gateway
from gateway.crypto.signatures import Ed25519Signer

NEXT = Ed25519Signer(b"\x33" * 32)
LIAR = Ed25519Signer(b"\x44" * 32)


def key(name: str) -> dict[str, str]:
    return {"key_id": name, "algo": "ed25519", "public_key": NEXT.public_key.hex()}


def new_name(node: ScriptedNode) -> dict[str, Any]:
    """Another key under another name: what the receipt then says."""
    node.signer = NEXT
    node.keyset = {**node.keyset, "receipt_signing_keys": [key("k2")]}
    return {"key_id": "k2"}


def same_name(node: ScriptedNode) -> dict[str, Any]:
    node.signer = NEXT
    node.keyset = {**node.keyset, "receipt_signing_keys": [key("k")]}
    return {}


def announced(node: ScriptedNode) -> dict[str, Any]:
    """A key more, with which it does not sign yet."""
    node.keyset = {**node.keyset, "receipt_signing_keys": [*node.keyset["receipt_signing_keys"], key("k2")]}
    return {}


def longer(node: ScriptedNode) -> dict[str, Any]:
    """The same keys for another year."""
    node.keyset = {**node.keyset, "not_after": node.keyset["not_after"] + 31_536_000}
    return {}


CHANGES: list[Callable[[ScriptedNode], dict[str, Any]]] = [new_name, same_name, announced, longer]


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[TeeNode]:
    """A node that hardware vouches for, so that nobody pins its keyset."""
    node = TeeNode(tmp_path, Nitro("rotation", int(time.time())), "m")
    node.extensions = ["inline-receipt", "request-nonce"]
    yield node
    node.close()


@pytest.fixture
async def gateway(tmp_path: Path, machine: TeeNode, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    (tmp_path / "root.der").write_bytes(machine.machine.root)
    text = f"""
    auth.mode = "none"
    storage.url = "sqlite:///{tmp_path}/audit.db"
    policy.default = "strict"
    tee = {{dangerous_test_roots = ["{tmp_path}/root.der"], dangerous_allow_test_roots = true}}
    nodes = [{{id = "n", base_url = "{machine.url}", models = ["m"]}}]
    """
    async with behind_front(text, monkeypatch) as gateway:
        assert gateway.fleet.members["n"].current is not None
        yield gateway


def pinned(node: ScriptedNode, tmp_path: Path) -> str:
    """Settings with this node alone, by the keyset that it has now."""
    return f"""
    auth.mode = "none"
    storage.url = "sqlite:///{tmp_path}/audit.db"
    nodes = [{{id = "n", base_url = "{node.url}", models = ["m"], pin = "{node.pin}"}}]
    """


def quarantined(gateway: Gateway) -> bool:
    return gateway.fleet.members["n"].view.health.quarantined_until > time.monotonic()


async def until_asked(gateway: Gateway, node: ScriptedNode, attestations: int) -> None:
    """Until evidence was given so often, and judged."""
    while node.attestations < attestations or gateway.fleet.members["n"].flight is not None:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_of_keys_costs_one_answer(
    gateway: Gateway, machine: TeeNode, tmp_path: Path, change: Callable[[ScriptedNode], dict[str, Any]]
) -> None:
    """It is withheld, as its keys were shown after the prompt had left; the next request waits for them, and is served."""
    machine.answers(**change(machine))
    answer = await ask(gateway)
    assert (answer.status, answer.error["code"], answer.error["reason"]) == (502, "evidence_rejected", "other_keyset")
    assert "names another keyset than the attested session" in answer.error["message"]
    assert {"other_keyset"} == {c["reason"] for c in answer.error["checks"] if c["id"] in ("signature", "key_bound")}
    row = Ledger(tmp_path / "audit.db").check().of("x")
    assert (row.verdict, row.release, row.reason) == ("contraindicated", "withheld", "other_keyset")
    answer = await ask(gateway)
    assert (answer.status, answer.verification["verdict"]) == (200, "affirming")
    assert machine.attestations == 2
    assert not quarantined(gateway)


async def test_a_crowd_that_a_change_of_keys_meets_convicts_nobody(gateway: Gateway, machine: TeeNode) -> None:
    """Each answer under way is withheld, and evidence is asked for once for all of them."""

    async def script(of: Received) -> AsyncIterator[bytes | float]:
        if len(machine.received) == 4:
            machine.answers(**new_name(machine))
        while len(machine.received) < 4:
            yield 0.02
        async for part in machine.script(of):
            yield part

    machine.script = script
    answers = await asyncio.gather(*[ask(gateway) for _ in range(4)])
    assert [(a.status, a.error["reason"]) for a in answers] == [(502, "other_keyset")] * 4
    assert (await ask(gateway)).status == 200
    assert machine.attestations == 2
    assert not quarantined(gateway)


async def test_a_stream_under_other_keys_is_withheld_like_an_answer(
    gateway: Gateway, machine: TeeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it leaves, and the next one is served."""
    monkeypatch.setattr("behind_front.prompt", lambda name: prompt(name, stream=True))
    machine.script = machine.sse(STREAM)
    assert b"[DONE]" in (await ask(gateway)).body
    same_name(machine)
    answer = await ask(gateway)
    assert (answer.status, answer.error["reason"]) == (502, "other_keyset")
    assert b"[DONE]" in (await ask(gateway)).body
    assert not quarantined(gateway)


def other_key_than_shown(node: TeeNode) -> None:
    """It shows a new keyset, and signs with a key that is in none, under a name that is."""
    named = new_name(node)
    node.signer = LIAR
    node.answers(**named)


def shows_the_old(node: TeeNode) -> None:
    """It names a keyset that is none of its own, and shows the one of before."""
    node.signer = LIAR
    node.answers(workload_keyset_digest="sha256:" + "b" * 64)


def shows_no_new(node: TeeNode) -> None:
    """A keyset that no hardware vouches for."""
    node.evidence = lambda machine, ask: machine.evidence(ask.of_another_key().data, ask.nonce)
    node.answers(**new_name(node))


@pytest.mark.parametrize("lie", [other_key_than_shown, shows_the_old, shows_no_new])
async def test_another_keyset_is_no_way_round_a_quarantine(
    gateway: Gateway, machine: TeeNode, lie: Callable[[TeeNode], None]
) -> None:
    """Evidence that is asked for then has to know keyset, name and signature."""
    lie(machine)
    answer = await ask(gateway)
    assert (answer.status, answer.error["reason"]) == (502, "other_keyset")
    assert gateway.fleet.members["n"].current is None
    await until_asked(gateway, machine, 2)
    assert quarantined(gateway)
    assert gateway.fleet.members["n"].conviction == "signature"
    heard = len(machine.received)
    assert (await ask(gateway)).status == 503
    assert len(machine.received) == heard


@pytest.mark.parametrize(
    "members",
    [
        {"request_nonce": "ef" * 32},
        {"model": "other"},
        {"served_at": 1},
        {"event_log": [{"type": "request.received", "body_hash": "sha256:" + "c" * 64}]},
    ],
)
async def test_what_is_wrong_beside_the_keyset_convicts_at_once(
    gateway: Gateway, machine: TeeNode, members: dict[str, Any]
) -> None:
    """Also where the keys did change."""
    machine.answers(**new_name(machine), **members)
    answer = await ask(gateway)
    assert (answer.status, answer.error["reason"]) == (502, "signature")
    assert quarantined(gateway)


async def test_a_key_that_the_keyset_of_the_session_lacks_convicts_at_once(gateway: Gateway, machine: TeeNode) -> None:
    """Who names the very keyset that he showed contradicts himself."""
    machine.answers(key_id="k2")
    answer = await ask(gateway)
    assert (answer.error["reason"], [c["reason"] for c in answer.error["checks"]][:2]) == (
        "signature",
        ["unknown_key"] * 2,
    )
    assert quarantined(gateway)


async def test_a_pinned_keyset_that_changes_is_refused_for_its_pin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever pins has the last word: evidence that shows other keys refuses the node, and says why."""
    node = ScriptedNode()
    node.script = node.json(ANSWER)
    try:
        async with behind_front(pinned(node, tmp_path), monkeypatch) as gateway:
            assert (await ask(gateway)).status == 200
            node.script = node.json(ANSWER, **new_name(node))
            assert (await ask(gateway)).error["reason"] == "other_keyset"
            answer = await ask(gateway)
            assert (answer.status, answer.error["reason"]) == (503, "key_bound")
            assert answer.error["nodes"] == [{"node": "n", "reason": "key_bound", "cause": "keyset_not_pinned"}]
            assert len(node.received) == 2
    finally:
        node.close()


async def test_a_key_that_stands_in_the_keyset_already_may_sign_at_any_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keyset is what is pinned and attested: with the next key in it, the change costs nothing, neither pin."""
    node = ScriptedNode()
    announced(node)
    node.script = node.json(ANSWER)
    try:
        async with behind_front(pinned(node, tmp_path), monkeypatch) as gateway:
            assert (await ask(gateway)).verification["verdict"] == "affirming"
            node.signer = NEXT
            node.script = node.json(ANSWER, key_id="k2")
            assert (await ask(gateway)).verification["verdict"] == "affirming"
            assert node.attestations == 1
    finally:
        node.close()
