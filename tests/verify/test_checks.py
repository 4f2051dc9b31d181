"""The vocabulary of checks and claims."""

from __future__ import annotations

import pytest

from gateway.verify.checks import CHECKS, CLAIMS, claim_title, title_of


@pytest.mark.parametrize(("title", "known"), [(title_of, CHECKS), (claim_title, CLAIMS)])
def test_every_word_has_a_title_and_a_new_one_is_its_own(title, known) -> None:
    """A known id has its definition's title; one of a newer receipt stands for itself."""
    for word, entry in known.items():
        assert title(word) == entry.title != word
    assert title("of_a_newer_version") == "of_a_newer_version"
