"""H13: a verifier that raises has shown nothing, whatever it raises, of an answer as of a node."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import structlog
from agents import good_script, prompt
from behind_front import ask, asked_in_turn
from ledger import Ledger
from scripted import ScriptedNode
from test_stale_connection import gateway, node

from gateway.app import Gateway
from gateway.errors import ConfigError, FormatError
from gateway.verify.checks import CHECKS, PROOFS, Phase

__all__ = ["gateway", "node"]

RAISED = [
    ValueError("SECRET"),
    KeyError("SECRET"),
    RecursionError("SECRET"),
    MemoryError("SECRET"),
    UnicodeEncodeError("utf-8", "SECRET\ud800", 6, 7, "SECRET"),
    SystemExit("SECRET"),
]
ANSWER_CHECKS = {c.id for c in CHECKS.values() if Phase.RESPONSE in c.phases} - PROOFS


def raises(error: BaseException) -> Any:
    def verifier(*_: object, **__: object) -> None:
        raise error

    return verifier


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
async def test_h13_a_verifier_of_answers_that_raises(
    gateway: Gateway, node: ScriptedNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """502 evidence_missing, verdict none with the reason at every check, nothing of the error, and the next is served."""
    with monkeypatch.context() as broken, structlog.testing.capture_logs() as lines:
        broken.setattr("gateway.exchange.aci.appraise_response", raises(error))
        answer = await ask(gateway)
    assert (answer.status, answer.error["code"], answer.error["reason"]) == (502, "evidence_missing", "malformed")
    assert answer.headers["x-should-retry"] == "false"
    assert b"SECRET" not in answer.body
    assert {check["reason"] for check in answer.error["checks"]} == {"appraisal_failed"}
    (line,) = [line for line in lines if line["event"] == "appraisal.failed"]
    assert line["exc_info"] is error
    row = Ledger(tmp_path / "audit.db").check().of("x")
    assert (row.verdict, row.release) == ("none", "withheld")
    found = {c["id"]: (c["outcome"], c.get("reason")) for c in row.predicate["checks"]}
    assert found.items() >= dict.fromkeys(ANSWER_CHECKS - {"key_bound", "fresh"}, ("none", "appraisal_failed")).items()
    assert len(node.received) == 1
    assert (await ask(gateway)).status == 200


@pytest.mark.parametrize("error", [KeyError("SECRET"), SystemExit("SECRET"), FormatError("SECRET")], ids=repr)
@pytest.mark.parametrize(
    ("at", "stream"),
    [
        ("gateway.exchange.aci.read_answer", False),
        ("gateway.exchange.aci.AciReply.statement", False),
        ("gateway.exchange.aci.StreamReader.__init__", True),
        ("gateway.exchange.stream.StreamReader.feed", True),
        ("gateway.exchange.stream.StreamReader.finish", True),
    ],
)
async def test_h13_a_reader_of_answers_that_raises(
    gateway: Gateway, node: ScriptedNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    at: str, stream: bool, error: BaseException,
) -> None:  # fmt: skip
    """As a verifier that raises, before there is anything to verify; and it is not held against the node."""
    if at.endswith("feed") and isinstance(error, FormatError):
        return  # that is its word for an event that is too large
    health = gateway.fleet.members["n"].view.health
    with monkeypatch.context() as broken, structlog.testing.capture_logs() as lines:
        broken.setattr("behind_front.prompt", lambda name: prompt(name, stream=stream))
        broken.setattr(at, raises(error))
        answer = await ask(gateway)
    assert (answer.status, answer.error["code"], answer.error["reason"]) == (
        502,
        "evidence_missing",
        "appraisal_failed",
    )
    assert answer.headers["x-should-retry"] == "false"
    assert b"SECRET" not in answer.body
    assert b"hel" not in answer.body.replace(b"held", b"")
    (line,) = [line for line in lines if line["event"] == "appraisal.failed"]
    assert line["exc_info"] is error
    assert gateway.fleet.members["n"].view.health == health
    row = Ledger(tmp_path / "audit.db").check().of("x")
    assert (row.verdict, row.release, row.reason) == ("none", "withheld", "appraisal_failed")
    assert row.predicate["served"]["node"] == "n"
    found = {c["id"]: (c["outcome"], c.get("reason")) for c in row.predicate["checks"]}
    assert found.items() >= dict.fromkeys(ANSWER_CHECKS - {"key_bound", "fresh"}, ("none", "appraisal_failed")).items()
    assert len(node.received) == 1
    assert (await ask(gateway)).status == 200


async def test_h13_what_cannot_be_read_is_asked_of_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where policy lets another node have the prompt."""
    nodes = [ScriptedNode(), ScriptedNode()]
    for each in nodes:
        each.script = good_script(each)
    read, calls = sys.modules["gateway.exchange.aci"].read_answer, iter([True])

    def once(*of: Any) -> Any:
        if next(calls, False):
            raise KeyError("SECRET")
        return read(*of)

    async with asked_in_turn(tmp_path, nodes, '"next_node"\nretry_after_send = true', monkeypatch) as gateway:
        monkeypatch.setattr("gateway.exchange.aci.read_answer", once)
        assert (await ask(gateway)).status == 200
    row = Ledger(tmp_path / "audit.db").check().of("x")
    assert row.predicate["served"]["node"] == "n1"
    assert [len(each.received) for each in nodes] == [1, 1]
    for each in nodes:
        each.close()


class Failing:
    """The adapter of a network, of which one duty fails."""

    def __init__(self, adapter: Any, duty: str, error: BaseException) -> None:
        self._adapter = adapter
        setattr(self, duty, raises(error))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)


@pytest.mark.parametrize("error", [KeyError("SECRET"), SystemExit("SECRET"), ConfigError("SECRET")], ids=repr)
@pytest.mark.parametrize("duty", ["request", "sealing"])
async def test_h13_an_adapter_that_raises_before_a_prompt_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, duty: str, error: BaseException
) -> None:
    """The node is passed over and the next one asked, which nothing forbids: no byte has left. Alone, it is named."""
    nodes = [ScriptedNode(), ScriptedNode()]
    for each in nodes:
        each.script = good_script(each)
    async with asked_in_turn(tmp_path, nodes, '"refuse"', monkeypatch) as gateway:
        first, other = gateway.fleet.members["n0"], gateway.fleet.members["n1"]
        first.adapter = Failing(first.adapter, duty, error)  # type: ignore[assignment]
        assert (await ask(gateway)).status == 200
        assert (first.failure, first.view.health.failures) == ("adapter_failed", 1)
        row = Ledger(tmp_path / "audit.db").check().of("x")
        assert (row.release, row.predicate["served"]["node"]) == ("released", "n1")
        assert {"node": "n0", "reason": "adapter_failed"} in row.predicate["route"]["rejected"]
        other.adapter = first.adapter
        answer = await ask(gateway)
        assert (answer.status, answer.error["code"], answer.error["reason"]) == (
            503,
            "no_eligible_node",
            "adapter_failed",
        )
        assert b"SECRET" not in answer.body
    assert [len(each.received) for each in nodes] == [0, 1]
    for each in nodes:
        each.close()


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
async def test_h13_a_verifier_of_nodes_that_raises(
    gateway: Gateway, node: ScriptedNode, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """The node has shown nothing, the gateway lives on, and asks it again later."""
    member = gateway.fleet.members["n"]
    monkeypatch.setattr("gateway.fleet.attest.Attester.attest", raises(error))
    await gateway.fleet.attest_all(5.0)
    assert member.last is not None
    assert [check.reason for check in member.last.result.checks] == ["appraisal_failed"]
    assert member.flight is None


@pytest.mark.parametrize("error", RAISED[:-1], ids=lambda error: type(error).__name__)
async def test_h17_a_policy_engine_that_raises(
    gateway: Gateway, node: ScriptedNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """503 that is not to be retried, with its receipt; nothing of the answer or the error leaves."""
    with monkeypatch.context() as broken:
        broken.setattr(sys.modules["gateway.policy.decide"], "_settled", raises(error))
        answer = await ask(gateway)
    assert (answer.status, answer.error["code"], answer.error["reason"]) == (503, "internal_error", "policy_failed")
    assert answer.headers["x-should-retry"] == "false"
    assert b"SECRET" not in answer.body
    assert len(node.received) == 1
    row = Ledger(tmp_path / "audit.db").check().of("x")
    assert (row.verdict, row.release, row.reason) == ("none", "failed", "policy_failed")
