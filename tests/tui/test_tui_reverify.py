"""Checking a bundle here, and saying when it does not bear out what was claimed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tui_kit import NOON_MS, row

from gateway.errors import ConfigError
from gateway.log.bundle import Bundle, format_bundle
from gateway.model.line import RECORDED
from gateway.offline import STEPS
from tui.chain import HERE
from tui.demo_source import TRUST, DemoSource, demo_pins
from tui.filters import Filter
from tui.reverify import MEANINGS, TITLES, Findings, Pins, load_pins, reverify, step_lines
from tui.screens.receipt import banner
from tui.source import Row

NOW = NOON_MS / 1000


async def _bundle(index: int) -> tuple[Row, bytes]:
    source = DemoSource(60, now_ms=NOON_MS, live=False)
    row = (await source.page(Filter(), before=index + 1, limit=1)).rows[0]
    return row, await source.bundle(row.id)


async def test_a_genuine_record_holds() -> None:
    """With the reader's own keys every line that counts affirms, also for an answer that was refused."""
    for index in (0, 4, 19, 71):
        row, data = await _bundle(index % 60)
        found = reverify(data, row, demo_pins(), NOW)
        assert found.holds is True
        assert found.differs == ()
        assert "the record holds: re-verified here" in banner(row, found).plain


async def test_keys_from_the_bundle_are_not_enough() -> None:
    """Without a trust file the record is not said to hold, and the screen says why."""
    row, data = await _bundle(0)
    found = reverify(data, row, Pins(), NOW)
    assert found.holds is None
    assert "THAT CAME WITH IT" in banner(row, found).plain
    assert "--trust" in banner(row, found).plain


async def test_an_altered_record_differs() -> None:
    """A receipt changed after signing is shouted about, although the list calls it affirming."""
    row, data = await _bundle(48)
    assert row.verdict == "affirming"
    found = reverify(data, row, demo_pins(), NOW)
    assert found.holds is False
    assert any(sentence.startswith("signature:") for sentence in found.differs)
    assert "THE RECORD DOES NOT HOLD" in banner(row, found).plain


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("verdict", "affirming"),
        ("release", "released"),
        ("reason", None),
        ("node", "somebody-else"),
        ("key_id", "another-agent"),
        ("id", "01M7Q4QBX0D78M3GH913VXWK8S"),
        ("endpoint", "/v1/embeddings"),
    ],
)
async def test_the_list_must_say_what_the_receipt_says(name: str, value: object) -> None:
    """A list that makes a receipt look better, or hands out another one, is caught."""
    row, data = await _bundle(4)
    lying = msgspec.structs.replace(row, **{name: value})
    found = reverify(data, lying, demo_pins(), NOW)
    assert found.holds is False
    assert len(found.differs) == 1


async def test_bytes_that_are_no_bundle_are_an_error() -> None:
    """What cannot be read is said to be unreadable, and is not verified."""
    row, _ = await _bundle(0)
    for data in (b"", b"{}", b"\xff", b"[" * 100_000):
        found = reverify(data, row, demo_pins(), NOW)
        assert found.holds is False
        assert found.error is not None
        assert "not re-verified" in banner(row, found).plain


async def test_a_bundle_with_a_broken_receipt_is_listed_step_by_step() -> None:
    """Malformed parts are lines, and what hangs on them is `not looked at`."""
    row, _ = await _bundle(0)
    found = reverify(format_bundle(Bundle(receipt=b'{"payload":1}', proof="no proof")), row, demo_pins(), NOW)
    assert found.holds is False
    assert found.statement is None
    assert {step.step for step in found.steps} == set(STEPS)


async def test_each_step_finds_its_branch() -> None:
    """Every line of the check stands in the tree once, told as re-verified here."""
    row, data = await _bundle(0)
    found = reverify(data, row, demo_pins(), NOW)
    placed = step_lines(found)
    assert set(placed) <= {"request", "policy", "node", "response", "receipt"}
    lines = [line for branch in placed.values() for line in branch]
    assert len(lines) == sum(step.step not in RECORDED for step in found.steps)
    assert all(line.told == HERE for line in lines)
    assert [line.outcome for line in placed["receipt"] if line.key == "witnessed"] == [None]


def test_every_step_has_words() -> None:
    """Each step of the offline check has a title and says what its failure means."""
    assert set(TITLES) == set(MEANINGS) == set(STEPS) - set(RECORDED)


def test_undecided_in_part_is_said() -> None:
    """With own keys and something undecided, `n` is offered."""
    assert "in part" in banner(row(), Findings(keys="trust.txt", holds=None)).plain


def test_trust_files(tmp_path: Path) -> None:
    """No file, no pins; a file that is missing or malformed is refused with its name."""
    assert load_pins(None).trust is None
    with pytest.raises(ConfigError, match="cannot be read"):
        load_pins(str(tmp_path / "nowhere"))
    bad = tmp_path / "bad"
    bad.write_text("log nonsense\n")
    with pytest.raises(ConfigError, match="malformed"):
        load_pins(str(bad))
    good = tmp_path / "good"
    good.write_text(TRUST)
    assert load_pins(str(good)).path == str(good)
