"""The fuzzing that `make fuzz` does at length, for a moment; and what it ever found, again."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fuzzing import campaign, discover
from fuzzing.attempt import FINDS, attempt, keep, smaller
from fuzzing.mutate import BLOWN_UP, MUTATORS, mutated
from fuzzing.worlds import documents, receipts

WORLDS = discover.names()
STORED = sorted(FINDS.glob("*/*"))


@pytest.mark.parametrize("path", STORED, ids=[f"{path.parent.name}-{path.stem}" for path in STORED])
def test_a_find_stays_mended(path: Path) -> None:
    """What once made a world raise, or take too long, does so no more."""
    assert attempt(discover.world(path.parent.name).run, path.read_bytes()) is None


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_stands_two_hundred_mutations(name: str) -> None:
    """The genuine items, nothing at all, and two hundred neighbours go through without a failure."""
    world = discover.world(name)
    dice = random.Random(f"suite:{name}")
    for data in (*world.seeds, b"", *(mutated(world.seeds, dice) for _ in range(200))):
        wrong = attempt(world.run, data)
        assert wrong is None, wrong


@pytest.mark.parametrize("module", [receipts, documents], ids=lambda module: module.__name__)
def test_readers_start_from_what_they_accept(module) -> None:
    """The item that a reader's mutations start from is one that it takes, so that they reach deep."""
    for item, read in module.readers().values():
        read(item)


def test_every_family_is_fuzzed() -> None:
    """Each kind of evidence, and each reader of receipts, answers and documents, has a world."""
    assert {"amd", "azure", "cca", "dstack", "intel", "keys", "nitro", "nvidia", "sigstore", "tokens"} <= WORLDS.keys()
    assert {"receipts", "answers", "documents"} <= WORLDS.keys()


@pytest.mark.parametrize("mutator", MUTATORS, ids=lambda mutator: mutator.__name__)
def test_a_mutator_takes_any_bytes(mutator) -> None:
    """From nothing, and from an item of any format, comes an item; of a hundred, some are others."""
    seeds = [seed for name in ("nitro", "tokens", "sigstore") for seed in discover.world(name).seeds]
    dice = random.Random(7)
    assert isinstance(mutator(b"", dice, seeds), bytes)
    assert any(mutator(seed, dice, seeds) != seed for _ in range(100) for seed in seeds)


def test_the_same_dice_make_the_same_input() -> None:
    """A block can be run again; no input is endless."""
    seeds = discover.world("nitro").seeds
    made = [[mutated(seeds, random.Random(f"{n}")) for n in range(300)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 250
    assert max(map(len, made[0])) < 2 * BLOWN_UP


def test_failures_are_told_apart_made_small_and_kept(tmp_path: Path) -> None:
    """An exception is named by its place; a slow input and an endless one are failures too."""

    def run(data: bytes) -> None:
        if b"bad" in data:
            raise ValueError(data)

    wrong = attempt(run, b"something bad here")
    assert wrong is not None
    assert wrong.what.startswith("ValueError at test_fuzz_finds.py:")
    assert smaller(run, b"something bad here", wrong.what) == b"bad"
    assert keep("world", b"bad", tmp_path).read_bytes() == b"bad"
    assert attempt(run, b"good") is None
    slow = attempt(lambda data: sum(range(2_000_000)), b"", slow_s=1e-6)
    assert slow is not None
    assert slow.what == "slow"


def test_an_endless_input_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What never ends is cut off, even where the code under test catches exceptions."""
    monkeypatch.setattr("fuzzing.attempt.STOP_S", 0.05)

    def run(data: bytes) -> None:
        while True:
            try:
                sum(range(1000))
            except Exception:  # noqa: BLE001 - as bad code does
                continue

    wrong = attempt(run, b"", slow_s=0.05)
    assert wrong is not None
    assert wrong.what.startswith("Endless")


def test_the_work_is_shared_fairly_and_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """Every world gets its part, every input is run once, and the growth is that of the second half."""
    work = campaign.blocks(["a", "b", "c"], 4000)
    assert sum(block.size for block in work) == 4000
    assert {name: sum(b.size for b in work if b.world == name) for name in "abc"} == {"a": 1334, "b": 1333, "c": 1333}
    assert len({block.number for block in work}) == len(work)
    report = campaign.Report(4)
    for rss in (5, 9, 20, 23):
        report.add(campaign.Done(0, campaign.Block("a", 0, 1), 0.5, 0.1, [("slow", "", "x")], rss))
    assert report.growth() == 3
    assert report.finds == {("a", "slow"): 4}
    assert report.table().splitlines()[1].split() == ["a", "4", "2", "100.0", "4"]
    assert campaign.main(["--world-block", "nitro:0"]) == 0
    assert "slowest" in capsys.readouterr().out
