"""When proofs are gathered, and when nothing that they show could change the decision."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from agents import good_script
from behind_front import ask
from scripted import ScriptedNode
from test_stale_connection import node

from gateway.app import Gateway
from gateway.policy.schema import CompiledPolicy
from gateway.proofs import Gathered
from gateway.settings import load
from gateway.verify.proofs.evidence import Kind, Subject, Verdict

__all__ = ["node"]

EITHER = '{any = ["signature", "proof_reexec"]}'
BOTH = '"signature", "proof_reexec"'
BOUND = '"signature", "proof_reexec", {claim = "model_bound", status = "asserted", source = ["verifier_derived"]}'


class Prover:
    """Re-executes nothing: each answer gets the verdict that a test wants."""

    def __init__(self) -> None:
        self.verdict, self.reason, self.calls = Verdict.FAIL, "text_not_tokens", 0

    async def gather(
        self, kinds: frozenset[str], policy: CompiledPolicy, model: str, request: bytes, response: bytes
    ) -> Gathered:
        self.calls += 1
        about = Subject(hashlib.sha256(request).hexdigest(), hashlib.sha256(response).hexdigest())
        record = about.record(Kind.REEXEC, self.verdict, self.reason, statistic=0.0, threshold=0.1, tokens=40)
        return Gathered((record,))


@pytest.fixture
async def gateway(tmp_path: Path, node: ScriptedNode, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    monkeypatch.setattr(Gateway, "_front", lambda self: None)
    node.script = good_script(node)
    (tmp_path / "policies").mkdir()
    for name, parts in (("either", EITHER), ("both", BOTH), ("bound", BOUND)):
        text = f'name = "{name}"\nversion = 1\n[require]\nall = ["evidence", "key_bound", {parts}]\n'
        (tmp_path / "policies" / f"{name}.toml").write_text(text, "utf-8")
    gateway = Gateway(
        load(f"""
        auth.mode = "none"
        storage.url = "sqlite:///{tmp_path}/audit.db"
        policy = {{dir = "{tmp_path}/policies", default = "either"}}
        nodes = [{{id = "n", base_url = "{node.url}", models = ["m"], pin = "{node.pin}"}}]
        """)
    )
    await gateway.open()
    gateway.relay.prover = Prover()
    yield gateway
    await gateway.close()


@pytest.mark.parametrize("policy", ["either", "both", "bound"])
async def test_a_proof_that_fails_keeps_the_answer_back(gateway: Gateway, policy: str) -> None:
    """Also one inside `any` whose other member is met, as docs/policy.md says."""
    gateway.terms.default = policy
    answer = await ask(gateway)
    assert (answer.status, answer.error["reason"]) == (502, "proof_reexec")
    assert gateway.relay.prover.calls == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("policy", ["either", "both", "bound"])
async def test_a_proof_that_passes_lets_it_go(gateway: Gateway, policy: str) -> None:
    """Also where policy wants the claim that the proof settles."""
    prover = gateway.relay.prover
    assert isinstance(prover, Prover)
    prover.verdict, prover.reason = Verdict.PASS, "margin_in_bounds"
    gateway.terms.default = policy
    answer = await ask(gateway)
    assert (answer.status, answer.verification["verdict"]) == (200, "affirming")
    assert answer.verification["claims"]["model_bound"] == "asserted"
    assert prover.calls == 1


async def test_an_answer_that_is_lost_anyway_is_not_proved(gateway: Gateway, node: ScriptedNode) -> None:
    """A reference is not asked about an answer that no proof could save."""
    node.script = node.json(b'{"choices":[]}')
    gateway.terms.default = "both"
    assert (await ask(gateway)).status == 502
    assert gateway.relay.prover.calls == 0  # type: ignore[union-attr]
