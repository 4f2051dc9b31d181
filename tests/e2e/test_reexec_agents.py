"""Re-execution before release, end to end: a trusted reference, honest nodes and others, the stock SDK."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from running import MODEL, Gateway, Process, node_table, reference_nodes

POLICY = """
name = "again"
version = 1
summary = "A reference of ours would have picked these tokens."
require = {require}
{more}
"""
SIGNED = '"malformed", "shape", "signature", "request_bound", "response_bound"'
BOTH = f'{{ all = [{SIGNED}, "proof_reexec", "proof_logprob"] }}'
ALONE = f'{{ all = [{SIGNED}, "proof_reexec"] }}'
PROMPT = [{"role": "user", "content": "Once upon a time there was a"}]
#: As `veriroute calibrate` measures them with these builds.
CALIBRATION = {
    "version": 1,
    "kind": "reexec",
    "statistic": "greedy_margin",
    "reference": "ref-1",
    "model": MODEL,
    "revision": "veriroute-lm/1",
    "made": "2026-01-31",
    "seeds": [1],
    "quantiles": [{"tokens": 16, "samples": 300, "p50": 0.0, "p95": 0.0006, "p99": 0.003}],
}
#: As `veriroute calibrate --toploc` measures them.
LIMITS = {
    "version": 1,
    "kind": "toploc",
    "reference": "ref-1",
    "model": MODEL,
    "revision": "veriroute-lm/1",
    "made": "2026-01-31",
    "seeds": [1],
    "batches": 1500,
    "exponents": 18,
    "mantissa_mean": 3.31,
    "mantissa_median": 3.0,
    "signs": 9,
}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Process]]:
    folder = tmp_path_factory.mktemp("reexec-nodes")
    ways = {"reference": [], "honest": ["--precision", "bf16"], "other": ["--model-variant", "other"]}
    ways["hot"] = ["--dishonest", "sample-hot"]
    with reference_nodes(folder, ways) as started:
        yield started


@pytest.fixture
def gateway_of(
    nodes: dict[str, Process], make_gateway: Callable[..., Gateway], tmp_path: Path
) -> Callable[..., Gateway]:
    def make(
        node: str, *, require: str = BOTH, more: str = "", reference: str | None = None, calibrated: bool = True
    ) -> Gateway:
        (tmp_path / "again.toml").write_text(POLICY.format(require=require, more=more), "utf-8")
        calibrations = tmp_path / "calibrations"
        calibrations.mkdir(exist_ok=True)
        if calibrated:
            (calibrations / "greedy.json").write_text(json.dumps(CALIBRATION), "utf-8")
            (calibrations / "toploc.json").write_text(json.dumps(LIMITS), "utf-8")
        gateway = make_gateway(
            [node_table(nodes[node], node, [MODEL])],
            policy={"default": "again", "dir": str(tmp_path)},
            proofs={"calibrations": str(calibrations)},
        )
        address = nodes["reference"].url if reference is None else reference
        with gateway.config.open("a", encoding="utf-8") as file:
            file.write(f'[[references]]\nid = "ref-1"\nbase_url = "{address}"\nmodels = ["{MODEL}"]\n')
        return gateway.start()

    return make


def ask(gateway: Gateway, **more: Any) -> Any:
    request = {"model": MODEL, "messages": PROMPT, "max_tokens": 48, **more}
    with gateway.sdk(max_retries=0) as sdk:
        answer = sdk.chat.completions.create(**request)
        return list(answer) if more.get("stream") else answer


def refused(gateway: Gateway, **more: Any) -> dict[str, Any]:
    with pytest.raises(openai.APIStatusError) as error:
        ask(gateway, **more)
    body = error.value.body
    assert isinstance(body, dict)
    return {**body, "status": error.value.status_code}


def proofs(verification: dict[str, Any]) -> dict[str, Any]:
    return {part["kind"]: part for part in verification["proofs"]}


def test_an_honest_answer_is_released_with_its_proofs(gateway_of: Callable[..., Gateway]):
    """Margins and log-probs are judged by one reference, and the receipt names it, the calibration and what was added."""
    gateway = gateway_of("honest")
    found = ask(gateway).model_extra["verification"]
    assert found["verdict"] == "affirming"
    assert found["claims"]["model_bound"] == "asserted"
    reexec, logprob = proofs(found)["reexec"], proofs(found)["logprob"]
    assert (reexec["verdict"], reexec["assurance"], reexec["referenceId"]) == ("pass", "statistical", "ref-1")
    assert reexec["statistic"] <= reexec["threshold"] == 0.003
    assert len(reexec["calibrationId"]) == 64
    assert logprob["verdict"] == "pass"
    receipt = gateway.receipt(found["receipt"])
    assert receipt["proofs"] == found["proofs"]
    assert receipt["request"]["forwarded"]["added"] == found["added_params"]
    assert "return_token_ids=true" in found["added_params"]
    outcomes = {check["id"]: check["outcome"] for check in receipt["checks"]}
    assert (outcomes["proof_reexec"], outcomes["proof_logprob"]) == ("affirming", "affirming")


@pytest.mark.parametrize("node", ["other", "hot"])
def test_a_dishonest_node_is_refused(gateway_of: Callable[..., Gateway], node: str):
    """Another model under the same name, or tokens drawn where the likeliest were asked for: withheld, every time."""
    gateway = gateway_of(node, require=ALONE)
    for seed in range(3):  # without one, a hot node draws the likeliest token each time in one answer of some hundreds
        error = refused(gateway, seed=seed)
        assert (error["status"], error["code"], error["reason"]) == (502, "evidence_rejected", "proof_reexec")
        receipt = gateway.receipt(error["receipt"])
        assert (receipt["verdict"], receipt["release"]) == ("contraindicated", "withheld")
        assert receipt["proofs"][0]["reason"] == "margin_too_large"
        assert next(c["status"] for c in receipt["claims"] if c["name"] == "model_bound") == "refuted"


def test_hidden_states_are_held_against_the_reference(gateway_of: Callable[..., Gateway]):
    """A node's TOPLOC proofs pass where the reference's model made them, and another model's fail."""
    states = f'{{ all = [{SIGNED}, "proof_toploc"] }}'
    found = ask(gateway_of("honest", require=states)).model_extra["verification"]
    part = proofs(found)["toploc"]
    assert (found["verdict"], part["verdict"], part["assurance"]) == ("affirming", "pass", "statistical")
    assert "toploc=true" in found["added_params"]
    error = refused(gateway_of("other", require=states))
    assert (error["code"], error["reason"]) == ("evidence_rejected", "proof_toploc")


def test_toploc_is_off_until_it_is_calibrated(gateway_of: Callable[..., Gateway]):
    """Without limits for this model no proof is looked at, and none passes."""
    error = refused(gateway_of("honest", require=f'{{ all = [{SIGNED}, "proof_toploc"] }}', calibrated=False))
    assert (error["code"], error["reason"]) == ("evidence_missing", "proof_toploc")


def test_a_stream_waits_for_its_reexecution(gateway_of: Callable[..., Gateway]):
    """Nothing of a stream leaves before the reference has read it; its last event has the proofs."""
    gateway = gateway_of("honest")
    chunks = ask(gateway, stream=True)
    found = next(c.model_extra["verification"] for c in chunks if "verification" in (c.model_extra or {}))
    assert [p["verdict"] for p in found["proofs"]] == ["pass", "pass"]
    assert gateway.receipt(found["receipt"])["delivery"]["mode"] == "buffer"


def test_a_stream_of_a_dishonest_node_never_begins(gateway_of: Callable[..., Gateway]):
    """The agent hears an ordinary error: no event of the answer was sent."""
    assert refused(gateway_of("other"), stream=True)["reason"] in ("proof_reexec", "proof_logprob")


@pytest.mark.parametrize(
    ("made", "asked", "reason"),
    [
        ({}, {"max_tokens": 4}, "too_few_tokens"),
        ({"calibrated": False}, {}, "not_calibrated"),
        ({"reference": "http://127.0.0.1:9"}, {}, "reference_unreachable"),
    ],
)
def test_what_decides_nothing_is_no_pass_and_no_fault_of_the_node(
    gateway_of: Callable[..., Gateway], made: dict[str, Any], asked: dict[str, Any], reason: str
):
    """Too short, not calibrated, reference down: withheld as not shown; the node stays in service, however often."""
    gateway = gateway_of("honest", require=ALONE, **made)
    began = time.monotonic()
    for _ in range(6):  # a node that failed so often in a row would not be asked again
        error = refused(gateway, **asked)
        assert (error["code"], error["reason"]) == ("evidence_missing", "proof_reexec")
    receipt = gateway.receipt(error["receipt"])
    assert (receipt["verdict"], receipt["proofs"][0]["verdict"]) == ("none", "inconclusive")
    assert receipt["proofs"][0]["reason"] == reason
    assert receipt["proofs"][0].get("statistic") is None
    assert time.monotonic() - began < 20


def test_an_undecided_answer_may_leave_with_a_warning(gateway_of: Callable[..., Gateway]):
    """Where policy says so, it leaves with the verdict `warning`, and what was not decided stands beside it."""
    gateway = gateway_of("honest", require=ALONE, more='[proofs]\non_inconclusive = "warn"')
    found = ask(gateway, max_tokens=4).model_extra["verification"]
    assert (found["verdict"], proofs(found)["reexec"]["reason"]) == ("warning", "too_few_tokens")


def test_reexecution_stands_in_for_known_weights(gateway_of: Callable[..., Gateway]):
    """Under `any`, a node whose weights nobody measured is used where a reference says that its answer is right."""
    claim = '{ claim = "model_weights_provenance", status = "asserted", source = ["hardware_proven"] }'
    either = f'{{ any = [{claim}, "proof_reexec"] }}'
    gateway = gateway_of("honest", require=f"{{ all = [{SIGNED}, {either}] }}")
    found = ask(gateway).model_extra["verification"]
    assert (found["verdict"], proofs(found)["reexec"]["verdict"]) == ("affirming", "pass")


def test_a_request_is_sent_as_it_is_where_policy_says_so(gateway_of: Callable[..., Gateway]):
    """With request = "as_sent" the agent has to ask for what a proof needs; then its bytes go out verbatim."""
    gateway = gateway_of("honest", require=ALONE, more='[proofs]\nrequest = "as_sent"')
    error = refused(gateway)
    assert (error["status"], error["code"], error["reason"]) == (400, "unsupported_parameter", "not_greedy")
    asked = {"temperature": 0, "logprobs": True, "top_logprobs": 5, "extra_body": {"return_token_ids": True}}
    found = ask(gateway, **asked).model_extra["verification"]
    assert (found["verdict"], "added_params" in found) == ("affirming", False)
    assert gateway.receipt(found["receipt"])["request"]["forwarded"]["verbatim"] is True
