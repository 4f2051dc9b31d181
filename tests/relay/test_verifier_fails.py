"""H13: a verifier that raises has shown nothing, whatever it raises, of an answer as of a node."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import structlog
from behind_front import ask
from ledger import Ledger
from scripted import ScriptedNode
from test_stale_connection import gateway, node

from gateway.app import Gateway
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
