"""The bench of the statistical tests, in a short run: honest nodes pass, coarse and swapped ones are caught."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "bench/proofs_nodes.py"
CHEATS = ("weights in 4 bits", "weights in 3 bits", "another model")


@pytest.fixture(scope="module")
def bench() -> Iterator[dict[str, Any]]:
    before = list(sys.path)
    yield runpy.run_path(str(SCRIPT))
    sys.path[:] = before


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """What four prompts to each node print, and the figures behind it."""
    file = tmp_path_factory.mktemp("bench") / "figures.json"
    few = ["--prompts", "4", "--calibrate", "36", "--json", str(file)]
    done = subprocess.run([sys.executable, str(SCRIPT), *few], capture_output=True, text=True, timeout=300)
    return done, json.loads(file.read_bytes())


def both(rows: list[dict[str, Any]]) -> int:
    return sum(row["refused"]["margin 0.005"] or row["refused"]["distance 0.005"] for row in rows)


def test_what_is_found(ran: tuple[Any, dict[str, Any]]) -> None:
    """Of four answers each of the coarse and swapped nodes at least three are refused, of an honest one at most one."""
    done, figures = ran
    assert done.returncode == int(not all(well for well, _ in figures["held"])), done.stderr
    found = figures["found"]
    for statistic in ("greedy_margin", "seeded_margin"):
        assert both(found[f"{statistic}: honest, bfloat16"]) <= 1
        for name in CHEATS:
            rows = found.get(f"{statistic}: {name}")
            assert rows is None or (len(rows) == 4 and both(rows) >= 3), (statistic, name)
    assert both(found["seeded_margin: another seed"]) >= 3
    assert sum(row["refused"]["distance 0.005"] for row in found["seeded_margin: another seed"]) <= 1


def test_toploc_and_pairs(ran: tuple[Any, dict[str, Any]]) -> None:
    """TOPLOC refuses what quorums contradict, and neither does so with an honest node."""
    found = ran[1]["found"]
    for name, least, most in (("honest, float16", 0, 1), *((cheat, 2, 4) for cheat in CHEATS)):
        assert least <= sum(row["refused"]["toploc"] for row in found[f"greedy_margin: {name}"]) <= most, name
        pairs = [row["agreement"][0] for row in found[f"quorum: {name}"]]
        assert least <= pairs.count("disagree") <= most, name


def test_tables(ran: tuple[Any, dict[str, Any]]) -> None:
    """Every node has a row in each table, with as many cells as the head has."""
    tables = [block.splitlines() for block in ran[0].stdout.split("\n\n") if block.startswith("|")]
    assert [len(rows) for rows in tables] == [2 + 8, 2 + 4, 2 + 8, 2 + 8]
    assert all(len({row.count("|") for row in rows}) == 1 for rows in tables)


@pytest.mark.parametrize(
    ("hits", "low", "high"), [(0, 0.0, 0.0370), (1, 0.0018, 0.0545), (50, 0.4038, 0.5962), (100, 0.9630, 1.0)]
)
def test_interval(bench: dict[str, Any], hits: int, low: float, high: float) -> None:
    """Wilson's interval of a share of a hundred, as its formula gives it by hand."""
    assert bench["wilson"](hits, 100) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_promises(bench: dict[str, Any]) -> None:
    """One disagreeing honest pair in a hundred, a cheat that gets by in six, and one honest answer in ten are misses."""

    def rows(refused: int, count: int = 100) -> list[Any]:
        made = []
        for kind in bench["KINDS"]:
            flags = {f"{what} {share}": False for what in ("margin", "distance") for share in (0.01, 0.005)}
            made += [bench["Found"](kind, 1.0, 0.0, 0.0, flags | {"margin 0.005": i < refused}) for i in range(count)]
        return made

    def pairs(disagree: int) -> list[Any]:
        words = ["disagree"] * disagree + ["agree"] * (100 - disagree)
        return [bench["Paired"](kind, True, 64, (word, word)) for kind in bench["KINDS"] for word in words]

    def missed(cheat: int, honest: int, disagree: int) -> int:
        found: dict[Any, Any] = {("quorum", name): pairs(disagree) for name in bench["HONEST_PAIRS"]}
        for statistic, nodes in bench["NODES"].items():
            found |= {(statistic, name): rows(honest if name == bench["HONEST"] else cheat) for name in nodes}
        return sum(not well for well, _ in bench["promises"](found))

    assert missed(95, 2, 0) == 0
    assert missed(94, 2, 0) == 2 * 5  # two kinds of prompts; three cheats at temperature 0 and two with a seed
    assert missed(95, 10, 0) == 2  # over both kinds of prompts, at temperature 0 and with a seed
    assert missed(95, 2, 1) == 2 * 2


def test_prompts(bench: dict[str, Any]) -> None:
    """Prompts follow from the seed, none comes twice, and none of the calibration's is judged."""
    own, others = bench["drawn"](40, 3)
    again = bench["drawn"](40, 3)
    assert (own, others) == again
    texts = [asked.text for asked in own + others]
    assert len(texts) == len(set(texts)) == 80
    assert {asked.text for asked in bench["drawn"](40, 10)[0]} - set(texts)
    assert all(asked.misread != asked.text for asked in own)
