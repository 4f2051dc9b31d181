"""`veriroute audit epochs` on a log that an auditor wrote, also beside it, and after somebody changed it."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from audit_kit import FAILED, Desk, policy

from gateway.cli import main

Make = Callable[..., Desk]


class Audited:
    """Runs the command and reads what it says."""

    def __init__(self, desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self.capsys = desk.path, capsys
        self.trust = str(desk.folder / "trust")
        Path(self.trust).write_text(desk.world.trust_text())

    def __call__(self, *arguments: str) -> tuple[int, dict[str, Any], dict[str, str]]:
        self.capsys.readouterr()
        memory = self.path + ".checkpoint"
        code = main(["audit", "epochs", self.path, "--trust", self.trust, "--memory", memory, "--json", *arguments])
        found = json.loads(self.capsys.readouterr().out)
        lines = {f"{line['step']} {line['about'] or ''}".strip(): line["outcome"] for line in found["lines"]}
        return code, found, lines


async def test_a_kept_epoch_and_a_running_one(desk: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the running gateway the epoch that runs is a warning; after it, everything is affirming."""
    d = await desk(policy(rate=0.5)).start()
    d.clock += 1000  # a start of long ago would be overdue by the reader's clock
    audited = Audited(d, capsys)
    await d.answers(12)
    await d.audited()
    await d.stop()
    code, found, lines = audited()
    (epoch,) = found["epochs"]
    assert code == found["exit"] == 0
    assert {step for step, outcome in lines.items() if outcome != "affirming"} == {"witnessed"}  # nobody asked for it
    assert {"trust", "signatures", "outside checkpoint memory", f"selection {epoch['epoch']}"} <= set(lines)
    assert epoch["selected"] == epoch["audited"] == epoch["passed"] > 0
    assert (epoch["missing"], epoch["receipts"]) == ([], 12)
    assert main(["audit", "epochs", audited.path, "--trust", audited.trust, "--memory", d.path + ".checkpoint"]) == 0
    shown = capsys.readouterr().out
    assert "1 epochs" in shown
    assert "exactly these were audited" in shown


async def test_beside_a_running_gateway(desk: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """An epoch of the present run is overdue by the reader's clock, or a warning, and never silently passed."""

    d = desk(policy(rate=1.0))
    d.clock = time.time_ns() // 1_000_000
    await d.start()
    await d.answers(3)
    await d.audited()
    code, found, lines = Audited(d, capsys)()
    epoch = found["epochs"][0]["epoch"]
    assert (code, lines[f"reveal {epoch}"], lines[f"selection {epoch}"]) == (0, "warning", "none")
    assert found["epochs"][0]["seed"] is None
    await d.stop()


async def test_one_epoch_of_two(desk: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """--epoch shows one alone; one that the log does not have is a usage error."""
    d = await desk(policy(rate=1.0)).start()
    await d.answer()
    await d.audited()
    await d.stop()
    await d.start()
    d.finds["m"] = FAILED
    await d.answer()
    await d.audited()
    await d.stop()
    audited = Audited(d, capsys)
    code, found, _ = audited()
    first, second = (epoch["epoch"] for epoch in found["epochs"])
    assert code == 0
    code, found, lines = audited("--epoch", second)
    assert (code, lines[f"audits {second}"], f"audits {first}" in lines) == (0, "warning", False)
    (doubt,) = found["epochs"][0]["doubted"]
    assert (doubt["node"], doubt["doubted"]["count"]) == ("node-1", 1)
    assert main(["audit", "epochs", audited.path, "--trust", audited.trust, "--epoch", "7" * 26]) == 2
    assert "it has 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "code", "step"),
    [
        ("DELETE FROM record WHERE kind = 'audit'", 1, "documents"),
        ("UPDATE record SET envelope = CAST(envelope || 'a' AS BLOB) WHERE kind = 'reveal'", 1, "documents"),
        ("DELETE FROM leaf WHERE idx = 2", 1, "leaves"),
    ],
)
async def test_a_changed_log_is_found_first(
    desk: Make, capsys: pytest.CaptureFixture[str], change: str, code: int, step: str
) -> None:
    """What the epochs rest on is checked as `audit verify` does, and its faults count."""
    d = await desk(policy(rate=1.0)).start()
    await d.answers(2)
    await d.audited()
    await d.stop()
    connection = sqlite3.connect(d.path)
    connection.execute(change)
    connection.commit()
    connection.close()
    got, _, lines = Audited(d, capsys)()
    assert (got, lines[step]) == (code, "contraindicated")


async def test_without_your_keys_nothing_is_decided(desk: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """No trust file, and a log without epochs: 3, and a line that nothing was to be audited."""
    d = await desk(policy(rate=0.0)).start()
    await d.stop()
    assert main(["audit", "epochs", d.path]) == 3
    assert "nothing was to be audited by sample" in capsys.readouterr().out
    Audited(d, capsys)
    given = ["--trust", str(d.folder / "trust")]
    assert main(["audit", "epochs", d.path, *given]) == 3
    assert "IT LAY BESIDE THE DATABASE" in capsys.readouterr().out
    assert main(["audit", "epochs", d.path, *given, "--trust-stored-keys"]) == 0
    assert main(["audit", "epochs", d.path, *given, "--memory", d.path + ".checkpoint"]) == 0


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    """--help says what each step means, the exit codes, and how the command is called."""
    with pytest.raises(SystemExit):
        main(["audit", "epochs", "--help"])
    out = capsys.readouterr().out
    for words in ("commitment ", "reveal ", "selection ", "audits ", "Exit code: 0", "examples:", "--epoch"):
        assert words in out
