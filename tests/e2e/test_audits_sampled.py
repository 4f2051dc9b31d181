"""A gateway that audits half of its answers, before an honest node and one that runs another model."""

from __future__ import annotations

import json
import re
import signal
import time
from importlib import resources
from typing import Any

import httpx
import pytest
from running import MODEL, Gateway, node_table

from gateway.verify.proofs.calibration import Calibration, Quantiles, Statistic

RATE = 0.5
#: At this rate a node that always cheats lasts 20 answers once in a million times.
PATIENCE = 40
#: The dishonest node's model has a name of its own, so that each request is known to reach the one or the other.
CHEATED = "veriroute-lm-1b"
HONEST, LIAR = "honest", "liar"


def calibration(model: str) -> bytes:
    """What `veriroute calibrate` would find, about: honest nodes of these models are much alike."""
    return Calibration(
        version=1,
        kind="reexec",
        statistic=Statistic.GREEDY_MARGIN,
        reference="ref-1",
        model=model,
        revision="test",
        made="2026-01-31",
        seeds=(1,),
        quantiles=(Quantiles(tokens=16, samples=200, p50=0.0, p95=0.002, p99=0.01),),
    ).document()


def policy(on_fail: str) -> str:
    """The built-in policy `audited`, with audits of half of the answers and at once."""
    text = (resources.files("policies") / "audited.toml").read_text("utf-8")
    for key, value in {
        "name": '"audited-now"',
        "rate": str(RATE),
        "epoch_s": "60",
        "delay_min_s": "0",
        "delay_max_s": "0",
        "on_fail": f'"{on_fail}"',
    }.items():
        text, count = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
        assert count == 1, key
    return text


@pytest.fixture
def audited(make_gateway: Any, run_node: Any, node: Any, tmp_path: Any) -> Any:
    """Starts such a gateway. The reference is an honest node of its own."""

    def start(on_fail: str = "quarantine", liar: tuple[str, ...] = ("--model-variant", "other")) -> Gateway:
        cheat, reference = run_node(*liar, "--model-name", CHEATED), run_node("--model-name", CHEATED)
        for name, data in {
            "policies/audited-now.toml": policy(on_fail).encode(),
            **{f"calibrations/{model}.json": calibration(model) for model in (MODEL, CHEATED)},
        }.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        gateway: Gateway = make_gateway(
            [node_table(node, HONEST, [MODEL]), node_table(cheat, LIAR, [CHEATED])],
            policy={"dir": str(tmp_path / "policies"), "default": "audited-now"},
            proofs={"calibrations": str(tmp_path / "calibrations")},
        )
        with gateway.config.open("a", encoding="utf-8") as file:
            file.write(
                f'[[references]]\nid = "ref-1"\nbase_url = "{reference.url}"\nmodels = ["{MODEL}", "{CHEATED}"]\n'
            )
        return gateway.start()

    return start


def ask(client: httpx.Client, model: str, *, stream: bool = False) -> str | None:
    """One question; the receipt's id, or None when no node may serve it."""
    question = {"role": "user", "content": "Once upon a time there was a"}
    body = {"model": model, "messages": [question], "max_tokens": 32, "temperature": 0, "stream": stream}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code in (200, 503), answer.text
    return str(answer.headers["x-veriroute-receipt"]) if answer.status_code == 200 else None


def quarantined(gateway: Gateway) -> set[str]:
    with gateway.http(gateway.admin_key) as client:
        nodes = client.get("/admin/v1/nodes").json()["nodes"]
    return {found["id"] for found in nodes if found["quarantined_s"]}


def epochs(gateway: Gateway) -> tuple[int, dict[str, Any]]:
    memory = f"{gateway.database}.checkpoint"
    given = ("--trust", str(gateway.trust), "--memory", memory)
    done = gateway.run("audit", "epochs", str(gateway.database), *given, "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("liar", [("--model-variant", "other"), ("--precision", "int3")], ids=["other", "int3"])
def test_a_node_with_another_model_is_found_quarantined_and_reported(audited: Any, liar: tuple[str, ...]) -> None:
    """Within the requests that the arithmetic allows; its answers are marked, and the audits bear recomputing."""
    gateway = audited(liar=liar)
    lied: set[str] = set()
    with gateway.http() as client:
        for number in range(PATIENCE):
            assert ask(client, MODEL, stream=number % 2 == 1)
            receipt = ask(client, CHEATED, stream=number % 2 == 1)
            if receipt is None:
                break
            lied.add(receipt)
            time.sleep(0.05)
        else:
            pytest.fail(f"not found within {len(lied)} answers")
        assert quarantined(gateway) == {LIAR}
        assert ask(client, MODEL)
        rows = client.get("/v1/receipts", params={"limit": 200}).json()["data"]
    assert lied
    assert {row["receipt"] for row in rows if row["doubted"]} == lied
    code, found = epochs(gateway)
    assert code == 0, found
    gateway.stop()
    code, found = epochs(gateway)
    assert code == 0, found
    (epoch,) = found["epochs"]
    assert epoch["selected"] == epoch["audited"] == epoch["passed"] + epoch["failed"] + sum(epoch["undecided"].values())
    assert epoch["failed"] >= 1
    assert set(epoch["undecided"]) <= {"stopped"}
    assert (epoch["missing"], epoch["extra"], epoch["foreign"]) == ([], [], [])
    assert {alarm["node"] for alarm in epoch["doubted"]} == {LIAR}
    assert {alarm["action"] for alarm in epoch["doubted"]} == {"quarantine"}
    outcomes = {line["step"]: line["outcome"] for line in found["lines"]}
    assert (outcomes["commitment"], outcomes["reveal"], outcomes["selection"], outcomes["audits"]) == (
        *("affirming", "affirming", "affirming"),
        "warning",
    )
    given = ("--trust", str(gateway.trust), "--memory", f"{gateway.database}.checkpoint")
    assert gateway.run("audit", "verify", str(gateway.database), *given).returncode == 0


def test_after_a_kill_the_next_start_settles_the_epoch(audited: Any) -> None:
    """A killed gateway's audits are entered and its seed revealed by the next; the log then bears recomputing."""
    gateway = audited("report")
    with gateway.http() as client:
        for _ in range(8):
            assert ask(client, MODEL)
    assert gateway.stop(signal.SIGKILL) == -signal.SIGKILL
    gateway.start()
    with gateway.http() as client:
        assert ask(client, MODEL)
    gateway.stop()
    code, found = epochs(gateway)
    first, second = found["epochs"]
    assert first["seed"]
    assert second["seed"]
    assert code != 1, found
    kept = [line["outcome"] for line in found["lines"] if line["step"] in ("commitment", "reveal", "selection")]
    assert kept == ["affirming"] * 6
    assert set(first["undecided"]) <= {"crash"}
