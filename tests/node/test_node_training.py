"""The trainer: its corpus follows from the seed, and its hand-written gradients are right."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "tools/train_lm"


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    if not FOLDER.is_dir():
        pytest.skip("tools/train_lm is not part of this distribution")
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])


def test_gradients(trainer: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Backward passes agree with finite differences."""
    from train import check

    assert check() == 0
    assert "largest relative difference" in capsys.readouterr().out


def test_corpus(trainer: None) -> None:
    """The same seed makes the same documents, of known roles, all of them text that can be tokenized."""
    from corpus import documents

    from adapters.selfhosted.lm.prompt import ROLES

    one = list(documents(5, 300))
    assert one == list(documents(5, 300))
    assert one != list(documents(6, 300))
    assert {role for turns in one for role, _ in turns} == set(ROLES)
    assert all(text for turns in one for _, text in turns)


def test_merges(trainer: None) -> None:
    """The tokenizer learns the most frequent pair first."""
    from bpe import learn

    merges = learn(["aaab aaab", "ab"], 3)
    assert merges[0] == (ord("a"), ord("a")) or merges[0] == (ord("a"), ord("b"))
    assert len(merges) == 3
