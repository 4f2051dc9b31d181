"""Quorums end to end: real nodes of several operators, a real gateway, the stock SDK; one of the nodes may lie."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from running import MODEL, Gateway, Process, node_table, reference_nodes

QUORUM = """
name = "two"
version = 1
summary = "Two operators agree."
require = {{ all = ["malformed", "shape", "signature", "request_bound", "response_bound", "proof_quorum"] }}
{more}
[quorum]
n = {n}
m = {m}
"""
PROMPT = [{"role": "user", "content": "Once upon a time there was a"}]


def policy(folder: Path, *, n: int = 2, m: int = 3, more: str = "") -> dict[str, str]:
    (folder / "two.toml").write_text(QUORUM.format(n=n, m=m, more=more), "utf-8")
    return {"default": "two", "dir": str(folder)}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Process]]:
    """Two honest nodes with numerics of their own, and one that serves another model under the same name."""
    folder = tmp_path_factory.mktemp("quorum-nodes")
    ways = {"a": ["--precision", "fp32"], "b": ["--precision", "bf16"], "liar": ["--model-variant", "other"]}
    ways["liar2"] = ["--precision", "int3"]
    with reference_nodes(folder, ways) as started:
        yield started


@pytest.fixture
def gateway_of(
    nodes: dict[str, Process], make_gateway: Callable[..., Gateway], tmp_path: Path
) -> Callable[..., Gateway]:
    def make(names: dict[str, str | None], **terms: Any) -> Gateway:
        """A gateway before the named nodes, each with its operator."""
        tables = []
        for name, operator in names.items():
            who = {} if operator is None else {"operator": operator}
            tables.append(node_table(nodes[name], name, [MODEL], **who))
        return make_gateway(tables, policy=policy(tmp_path, **terms)).start()

    return make


def ask(gateway: Gateway, **more: Any) -> Any:
    request = {"model": MODEL, "messages": PROMPT, "max_tokens": 32, **more}
    with gateway.sdk(max_retries=0) as sdk:
        answer = sdk.chat.completions.create(**request)
        return list(answer) if more.get("stream") else answer


def proofs(answer: Any) -> dict[str, Any]:
    return {part["kind"]: part for part in answer.model_extra["verification"]["proofs"]}


def test_two_honest_nodes_agree_and_the_receipt_names_both(gateway_of: Callable[..., Gateway]):
    """An ordinary request is asked of two nodes, released once, and every exchange has a receipt that verifies."""
    gateway = gateway_of({"a": "op-a", "b": "op-b"})
    answer = ask(gateway)
    found = answer.model_extra["verification"]
    assert (found["verdict"], found["level"]) == ("affirming", "logged")
    assert found["added_params"] == ["temperature=0", "logprobs=true", "top_logprobs=5"]
    quorum = proofs(answer)["quorum"]
    assert (quorum["verdict"], quorum["assurance"], quorum["statistic"]) == ("pass", "statistical", 2.0)
    assert {(a["node"], a["operator"], a["outcome"]) for a in quorum["answers"]} == {
        ("a", "op-a", "agrees"),
        ("b", "op-b", "agrees"),
    }
    receipt = gateway.receipt(found["receipt"])
    assert receipt["proofs"] == [quorum]
    assert "forwarded" not in receipt["request"]
    for told in quorum["answers"]:
        child = gateway.receipt(told["receipt"])
        assert child["parent"] == found["receipt"]
        assert (child["release"], child["reason"]) == ("withheld", "held_for_quorum")
        assert child["request"]["forwarded"]["added"] == found["added_params"]
        assert child["request"]["forwarded"]["verbatim"] is False
    assert gateway.run("audit", "verify", str(gateway.database), "--trust", str(gateway.trust)).returncode in (0, 3)


def test_a_liar_is_outvoted_named_and_shunned(gateway_of: Callable[..., Gateway]):
    """With a liar among three, an answer of the honest ones is released, and the liar serves nobody for a while."""
    gateway = gateway_of({"liar": "op-l", "a": "op-a", "b": "op-b"})
    seen = set()
    for _ in range(6):
        answer = ask(gateway)
        quorum = proofs(answer)["quorum"]
        assert answer.model_extra["verification"]["node"] in ("a", "b")
        seen |= {a["node"]: a["outcome"] for a in quorum["answers"]}.items()
        if ("liar", "differs") in seen:
            break
    assert ("liar", "differs") in seen
    assert quorum["culprits"] == ["liar"]
    later = proofs(ask(gateway))["quorum"]
    assert {a["node"] for a in later["answers"]} == {"a", "b"}


def test_a_request_that_servers_read_in_their_own_ways_takes_no_node_from_others(gateway_of: Callable[..., Gateway]):
    """A node that contradicts a quorum over a member that not every server knows is named, and goes on serving."""
    gateway = gateway_of({"liar": "op-l", "a": "op-a", "b": "op-b"})
    for _ in range(3):
        answer = ask(gateway, extra_body={"presence_penalty": 0.01})
        told = {a["node"]: a["outcome"] for a in proofs(answer)["quorum"]["answers"]}
        if told.get("liar") == "differs":
            break
    with gateway.http(gateway.admin_key) as client:
        found = client.get("/admin/v1/nodes").json()["nodes"]
    assert told["liar"] == "differs"
    assert [node["id"] for node in found if node["quarantined_s"]] == []


def test_audits_beside_a_quorum_have_the_tokens_that_they_need(gateway_of: Callable[..., Gateway]):
    """Where answers are audited afterwards as well, a request asks for what both need."""
    gateway = gateway_of({"a": "op-a", "b": "op-b"}, more="[sampled]\nrate = 1\n\n")
    assert "return_token_ids=true" in ask(gateway).model_extra["verification"]["added_params"]


def test_a_dishonest_node_is_refused_where_nobody_can_outvote_it(gateway_of: Callable[..., Gateway]):
    """One honest node against one with another model: nothing is released, and the error names what each came to."""
    gateway = gateway_of({"a": "op-a", "liar": "op-l"}, m=2)
    with pytest.raises(openai.APIStatusError) as refused:
        ask(gateway)
    error = refused.value.body
    assert refused.value.status_code == 502
    assert (error["code"], error["reason"]) == ("evidence_rejected", "proof_quorum")  # type: ignore[index]
    assert refused.value.response.headers["x-should-retry"] == "false"
    receipt = gateway.receipt(error["receipt"])  # type: ignore[index]
    assert (receipt["verdict"], receipt["release"]) == ("contraindicated", "withheld")
    assert receipt["proofs"][0]["verdict"] == "fail"
    assert receipt["route"]["decision"] == "primary"


def test_two_different_liars_make_no_quorum(gateway_of: Callable[..., Gateway]):
    """Two nodes that lie in ways of their own do not agree with each other or with the honest one."""
    gateway = gateway_of({"a": "op-a", "liar": "op-l", "liar2": "op-m"})
    with pytest.raises(openai.APIStatusError) as refused:
        ask(gateway)
    assert refused.value.body["reason"] == "proof_quorum"  # type: ignore[index]


@pytest.mark.parametrize("operators", [{"a": "same", "b": "same"}, {"a": None, "b": "op-b"}], ids=["one", "unknown"])
def test_nodes_of_one_operator_are_one_voice(gateway_of: Callable[..., Gateway], operators: dict[str, str | None]):
    """Two nodes of one operator, or one whose operator nobody named, are asked nothing: no prompt leaves."""
    gateway = gateway_of(operators)
    with pytest.raises(openai.APIStatusError) as refused:
        ask(gateway)
    error = refused.value.body
    assert (error["code"], error["reason"]) == ("no_eligible_node", "operators_too_few")  # type: ignore[index]
    assert gateway.receipt(error["receipt"])["release"] == "refused"  # type: ignore[index]
    assert len(gateway.receipts()) == 1


def test_a_stream_waits_for_its_quorum(gateway_of: Callable[..., Gateway]):
    """The agent that asks for a stream gets one, all of it after the verdict, with the quorum in its last event."""
    gateway = gateway_of({"a": "op-a", "b": "op-b"})
    chunks = ask(gateway, stream=True)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == ask(gateway).choices[0].message.content
    last = [c.model_extra["verification"] for c in chunks if "verification" in (c.model_extra or {})]
    assert [p["verdict"] for p in last[0]["proofs"]] == ["pass"]
    assert gateway.receipt(last[0]["receipt"])["delivery"]["mode"] == "buffer"


def test_a_request_that_cannot_be_judged_goes_nowhere(gateway_of: Callable[..., Gateway]):
    """At a temperature over 0 two honest nodes differ: the agent is told before a prompt leaves."""
    gateway = gateway_of({"a": "op-a", "b": "op-b"})
    with pytest.raises(openai.BadRequestError) as refused:
        ask(gateway, temperature=0.7)
    error = refused.value.body
    assert (error["code"], error["reason"]) == ("unsupported_parameter", "not_greedy")  # type: ignore[index]
    assert "Send temperature 0" in error["message"]  # type: ignore[index]
    assert [r["release"] for r in gateway.receipts()] == ["refused"]


def test_a_node_that_is_down_is_replaced(
    nodes: dict[str, Process], make_gateway: Callable[..., Gateway], run_node: Callable[..., Process], tmp_path: Path
):
    """A node that died after it was attested is asked in vain, and a third one in its place."""
    dead = run_node()
    tables = [node_table(dead, "dead", [MODEL], operator="op-d")]
    tables += [node_table(nodes[n], n, [MODEL], operator=f"op-{n}") for n in ("a", "b")]
    gateway = make_gateway(tables, policy=policy(tmp_path)).start()
    dead.stop()
    asked = set()
    for _ in range(4):
        found = proofs(ask(gateway))["quorum"]
        asked |= {(a["node"], a["outcome"]) for a in found["answers"]}
        assert found["verdict"] == "pass"
    assert {("a", "agrees"), ("b", "agrees")} <= asked


def test_an_undecided_quorum_may_pass_with_a_warning(gateway_of: Callable[..., Gateway]):
    """Where policy says so, an answer of too few tokens to compare leaves with the verdict warning, and says why."""
    gateway = gateway_of({"a": "op-a", "b": "op-b"}, more='[proofs]\non_inconclusive = "warn"\n\n')
    found = ask(gateway, max_tokens=1)
    part = proofs(found)["quorum"]
    assert (found.model_extra["verification"]["verdict"], part["verdict"]) in (
        ("affirming", "pass"),  # one equal token is an equal answer
        ("warning", "inconclusive"),
    )


def test_each_receipt_of_a_quorum_opens_to_what_the_node_was_sent(gateway_of: Callable[..., Gateway], tmp_path: Path):
    """What the node signed is the agent's bytes with the added members behind them, as an auditor makes them again."""
    gateway = gateway_of({"a": "op-a", "b": "op-b"}, more='[audit]\nstore_payload = "full"\n\n')
    found = ask(gateway).model_extra["verification"]
    child = proofs_of(found)["quorum"]["answers"][0]["receipt"]
    with gateway.http() as client:
        bundle = client.get(f"/v1/receipts/{child}/bundle").json()
    body = base64.b64decode(bundle["openings"]["request.body"]["bytes"])
    assert json.loads(body)["messages"] == PROMPT
    assert "temperature" not in json.loads(body)
    saved = tmp_path / "child.json"
    saved.write_text(json.dumps(bundle), "utf-8")
    shown = json.loads(gateway.cli("verify", str(saved), "--trust", str(gateway.trust), "--json", check=False))
    again = {line["about"]: line["outcome"] for line in shown["files"][0]["lines"] if line["step"] == "appraisal"}
    assert again["request_bound"] == "affirming"


def proofs_of(verification: dict[str, Any]) -> dict[str, Any]:
    return {part["kind"]: part for part in verification["proofs"]}
