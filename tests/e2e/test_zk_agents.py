"""A policy that asks for a zero-knowledge proof, end to end: real proofs of the reference node's classifier."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import zk_kit
from running import MODEL, Gateway, Process, node_table, reference_nodes

pytestmark = pytest.mark.skipif(zk_kit.missing("ezkl"), reason="ezkl is not installed (extra zk)")

CLASSIFIER = "veriroute-moderation-1"
POLICY = """
name = "proven"
version = 1
summary = "Numbers that a pinned circuit computed."
require = {{ all = ["malformed", "shape", "signature", "request_bound", "response_bound", "proof_zk"] }}
{more}
"""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Process]]:
    """One that proves, one that does not, and two that lie under genuine proofs; they share the circuit."""
    folder = tmp_path_factory.mktemp("zk-nodes")
    proving = ["--prove", str(folder / "zk")]
    ways = {"proving": proving, "plain": [], "other-text": [*proving, "--dishonest", "other-text"]}
    ways["wrong-score"] = [*proving, "--dishonest", "wrong-score"]
    with reference_nodes(folder, ways) as started:
        yield started


@pytest.fixture
def gateway_of(
    nodes: dict[str, Process], make_gateway: Callable[..., Gateway], tmp_path: Path
) -> Callable[..., Gateway]:
    def make(node: str, *, pinned: bool = True, more: str = "") -> Gateway:
        (tmp_path / "proven.toml").write_text(POLICY.format(more=more), "utf-8")
        circuits = tmp_path / "circuits"
        circuits.mkdir()
        made = Path(nodes["proving"].ready["circuit_folder"])
        if pinned:
            shutil.copytree(made, circuits / made.name)
        return make_gateway(
            [node_table(nodes[node], node, [CLASSIFIER, MODEL])],
            policy={"default": "proven", "dir": str(tmp_path)},
            proofs={"circuits": str(circuits)},
        ).start()

    return make


def moderate(gateway: Gateway) -> Any:
    with gateway.sdk(max_retries=0) as sdk:
        raw = sdk.moderations.with_raw_response.create(model=CLASSIFIER, input="you are an idiot")
        return json.loads(raw.content)


def refused(gateway: Gateway) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """The status, the error, and the one proof of its receipt."""
    with pytest.raises(openai.APIStatusError) as error:
        moderate(gateway)
    body = error.value.body
    assert isinstance(body, dict)
    (part,) = gateway.receipt(body["receipt"])["proofs"]
    return error.value.status_code, body, part


def test_a_proven_answer_is_released(nodes: dict[str, Process], gateway_of: Callable[..., Gateway]):
    """The only kind that is called a proof: cryptographic, of the circuit that the settings pin, for these numbers."""
    gateway = gateway_of("proving")
    answer = moderate(gateway)
    found = answer["verification"]
    assert (found["verdict"], found["claims"]["model_bound"]) == ("affirming", "asserted")
    (part,) = found["proofs"]
    assert (part["kind"], part["assurance"], part["verdict"]) == ("zk", "cryptographic", "pass")
    assert gateway.receipt(found["receipt"])["proofs"] == [part]
    assert answer["results"][0]["flagged"] is True


@pytest.mark.parametrize(("node", "reason"), [("other-text", "binding_failed"), ("wrong-score", "output_mismatch")])
def test_a_lie_under_a_genuine_proof_is_refused(gateway_of: Callable[..., Gateway], node: str, reason: str):
    """A proof of another text, or numbers other than the proven ones, under a signature that holds."""
    status, error, part = refused(gateway_of(node))
    assert (status, error["code"], error["reason"]) == (502, "evidence_rejected", "proof_zk")
    assert (part["verdict"], part["reason"]) == ("fail", reason)


@pytest.mark.parametrize(
    ("node", "made", "reason"),
    [
        ("plain", {}, "proof_absent"),
        ("proving", {"pinned": False}, "circuit_not_pinned"),
        ("proving", {"more": f'[zk]\ncircuits = ["sha256:{"0" * 64}"]'}, "circuit_not_allowed"),
    ],
)
def test_what_was_not_proven_is_no_pass(
    gateway_of: Callable[..., Gateway], node: str, made: dict[str, Any], reason: str
):
    """No proof, or one of a circuit that nobody pinned or policy does not take: withheld as not shown."""
    status, error, part = refused(gateway_of(node, **made))
    assert (status, error["code"], error["reason"]) == (502, "evidence_missing", "proof_zk")
    assert (part["verdict"], part["reason"]) == ("absent", reason)


def test_words_of_a_language_model_are_never_proven(gateway_of: Callable[..., Gateway]):
    """A chat answer has no proof, so the policy withholds it, however well it is signed."""
    gateway = gateway_of("proving")
    with gateway.sdk(max_retries=0) as sdk, pytest.raises(openai.APIStatusError) as error:
        sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hello"}], max_tokens=8)
    assert error.value.body["reason"] == "proof_zk"  # type: ignore[index]
