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
from gateway.log.audit_marks import Later, StoredMark
from gateway.model.verdict import Release
from gateway.storage.scan import Scan

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


EXTRA = "INSERT INTO audited SELECT idx, 'node-1', 1 FROM receipt WHERE idx NOT IN (SELECT idx FROM audited) LIMIT 1"
MARKS = {
    "doubt_is_hidden": ("DELETE FROM doubt", "and that mark is not stored"),
    "doubt_is_narrowed": ("UPDATE doubt SET last = first", "is not the one of entry"),
    "doubt_is_moved": ("UPDATE doubt SET node = 'innocent'", "is not the one of entry"),
    "doubt_is_of_another_type": ("UPDATE doubt SET node = CAST(node AS BLOB)", "is not the one of entry"),
    "doubt_is_cast": ("INSERT INTO doubt VALUES (0, 'node-1', 0, 99)", "stored at 0 of `doubt`, and no entry made it"),
    "a_pass_is_made_up": ("UPDATE audited SET passed = 1 WHERE passed = 0", "is not the one of entry"),
    "a_pass_is_added": (EXTRA, "of `audited`, and no entry made it"),
    "a_pass_is_taken": ("DELETE FROM audited WHERE passed = 1", "(table `audited`), and that mark is not stored"),
}  # fmt: skip


async def judged(desk: Make) -> Desk:
    """A log of a pass, a failure and a refused answer, whose epoch runs."""
    d = await desk(policy(rate=1.0)).start()
    await d.answer(release=Release.REFUSED)
    await d.answer()
    await d.audited()
    d.finds["m"] = FAILED
    await d.answers(2)
    await d.audited()
    return d


def change(d: Desk, statement: str) -> None:
    connection = sqlite3.connect(d.path)
    assert connection.execute(statement).rowcount > 0
    connection.commit()
    connection.close()


@pytest.mark.parametrize(("statement", "sentence"), MARKS.values(), ids=MARKS.keys())
async def test_marks_of_doubt_are_those_of_entries(
    desk: Make, capsys: pytest.CaptureFixture[str], statement: str, sentence: str
) -> None:
    """What lists say of doubt, beside the log, is held against the signed audits and alarms."""
    d = await judged(desk)
    await d.stop()
    audited = Audited(d, capsys)
    code, found, _ = audited()
    (columns,) = [line for line in found["lines"] if line["step"] == "columns"]
    assert (code, columns["outcome"]) == (0, "affirming")
    assert "5 marks of sampled audits are those of their entries" in columns["sentence"]
    change(d, statement)
    code, found, _ = audited()
    (columns,) = [line for line in found["lines"] if line["step"] == "columns"]
    assert (code, columns["outcome"]) == (1, "contraindicated")
    assert sentence in columns["sentence"]


async def test_a_mark_may_wait_while_its_epoch_runs(desk: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """As after a crash: it is a warning, and none once the gateway has settled the epoch."""
    d = desk(policy(rate=1.0))
    d.clock = time.time_ns() // 1_000_000
    await judged(lambda *policies: d)
    change(d, "DELETE FROM doubt")
    audited = Audited(d, capsys)
    code, found, lines = audited()
    (columns,) = [line for line in found["lines"] if line["step"] == "columns"]
    assert (code, columns["outcome"]) == (0, "warning")
    assert columns["sentence"].startswith("2 marks of sampled audits are not stored, the first that of entry ")
    await d.stop()
    code, _, lines = audited()
    assert (code, lines["columns"]) == (0, "affirming")


async def test_a_scan_tells_what_was_entered_meanwhile(desk: Make) -> None:
    """Entries behind what it looks at come before the marks that they make."""
    d = await desk(policy(rate=1.0)).start()
    with Scan(d.path) as scan:
        d.finds["m"] = FAILED
        caught = await d.answer()
        await d.audited()
        found = list(scan.marks())
        assert [row.kind for row in found if isinstance(row, Later)] == ["audit", "alarm"]
        assert [(row.table, row.receipt) for row in found[2:] if isinstance(row, StoredMark)] == [
            ("audited", caught),
            ("doubt", caught),
        ]
        assert [scan.has_receipt(id) for id in (caught, "7" * 26)] == [True, False]
    with Scan(d.path) as scan:
        assert all(isinstance(row, StoredMark) for row in scan.marks())
    await d.stop()


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    """--help says what each step means, the exit codes, and how the command is called."""
    with pytest.raises(SystemExit):
        main(["audit", "epochs", "--help"])
    out = capsys.readouterr().out
    for words in ("commitment ", "reveal ", "selection ", "audits ", "Exit code: 0", "examples:", "--epoch"):
        assert words in out
