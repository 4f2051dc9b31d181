"""Baselines on disk: kept, updated, reset, and never begun anew because a file is damaged."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gateway import baselines
from gateway.baselines import Baseline, Baselines
from gateway.errors import FormatError

FIRST = Baseline(
    node="n", model="m", keyset="sha256:1", prompt="x", set_ms=1000, samples=({"a": -0.5},) * 5, since_ms=1000, last_ms=1000
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Baselines:
    return Baselines(tmp_path / "canaries")


def test_what_was_kept_is_read(store: Baselines) -> None:
    """A baseline is read as it was written, by its owner alone, and others are none."""
    assert store.read("n", "m") is None
    assert store.all() == []
    assert store.begin(FIRST)
    assert store.read("n", "m") == FIRST
    assert store.read("n", "other") is store.read("other", "m") is None
    assert store.all() == [FIRST]
    (path,) = store.folder.iterdir()
    assert (path.stat().st_mode & 0o777, store.folder.stat().st_mode & 0o777) == (0o600, 0o700)


def test_names_are_no_paths(store: Baselines) -> None:
    """Nodes and models may be called anything; two pairs whose names run together are two."""
    names = [("../../x", "/etc/passwd"), ("a:b", "c"), ("a", "b:c"), ("\ud800", "m"), ("é" * 300, "m")]
    for node, model in names:
        assert store.read(node, model) is None
    kept = [msgspec.structs.replace(FIRST, node=node, model=model) for node, model in names if node != "\ud800"]
    assert all(store.begin(baseline) for baseline in kept)
    assert len(list(store.folder.iterdir())) == len(kept) == len(store.all())


def test_an_update_needs_the_same_baseline(store: Baselines) -> None:
    """What came of a comparison is kept with the baseline that it was made with, and not after a reset."""
    store.begin(FIRST)
    later = msgspec.structs.replace(FIRST, state="stable", runs=1, p=1.0)
    assert store.update(later)
    assert store.read("n", "m") == later
    assert store.reset("n", ["m", "unknown"]) == ["m"]
    assert not store.update(later)
    store.begin(msgspec.structs.replace(FIRST, set_ms=2000))
    assert not store.update(later)
    assert store.reset("n", ["m"]) == ["m"]
    assert store.reset("n", ["m"]) == []


GOOD = msgspec.json.encode(FIRST)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[" * 100_000, b"\xff", b"null", GOOD[:-1], GOOD.replace(b'"samples":[', b'"samples":["x",'),
     GOOD.replace(b'"prompt":"x"', b'"prompt":""'), GOOD.replace(b"1000", b"-1"), GOOD.replace(b'"m"', b'"other"'),
     GOOD.replace(b'"set"', b'"fine"'), GOOD.replace(b'{"node"', b'{"more":1,"node"'), GOOD.replace(b'{"a":-0.5}', b"{}"),
     b" " * (baselines.MAX_FILE + 1)],
    ids=range(14),
)  # fmt: skip
def test_a_damaged_file_is_not_replaced(store: Baselines, data: bytes) -> None:
    """It is refused until somebody resets it, and then begun anew; it hides no other in the list."""
    store.begin(FIRST)
    store.begin(msgspec.structs.replace(FIRST, model="whole"))
    store._path("n", "m").write_bytes(data)
    with pytest.raises(FormatError):
        store.read("n", "m")
    with pytest.raises(FormatError):
        store.update(FIRST)
    assert "whole" in [baseline.model for baseline in store.all()]
    assert store.reset("n", ["m"]) == ["m"]
    assert store.read("n", "m") is None


def test_a_file_that_cannot_be_read(store: Baselines) -> None:
    """A folder in its place is an error, not an absence."""
    store._path("n", "m").mkdir(parents=True)
    with pytest.raises(FormatError, match="cannot be read"):
        store.read("n", "m")
    assert store.all() == []


def test_there_is_an_end_to_them(store: Baselines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where as many are kept as may be, no further one begins."""
    monkeypatch.setattr(baselines, "MAX_BASELINES", 2)
    kept = [msgspec.structs.replace(FIRST, model=model) for model in "abc"]
    assert [store.begin(baseline) for baseline in kept] == [True, True, False]


def test_a_full_disk_leaves_what_there_was(store: Baselines, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails leaves the old file and no other."""
    store.begin(FIRST)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gateway.durable.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        store.update(msgspec.structs.replace(FIRST, runs=9))
    assert store.read("n", "m") == FIRST
    assert len(list(store.folder.iterdir())) == 1
