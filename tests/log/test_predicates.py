"""Predicates of log entries, read for a few of their members."""

from __future__ import annotations

import msgspec
import pytest

from gateway.log.predicates import UNREADABLE, predicates
from gateway.model.audits import RevealEntry


class Named(msgspec.Struct):
    """One member of a predicate."""

    name: str = ""


def test_the_members_that_are_asked_for() -> None:
    read = predicates(Named)
    assert read(b'{"_type": "x", "predicate": {"name": "a", "other": [1]}, "subject": []}') == Named("a")
    assert read(b'{"predicate": {}}') == Named()
    assert bytes(predicates(msgspec.Raw)(b'{"predicate": {"a":  1}}')) == b'{"a":  1}'


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[]", b"{}", b'{"predicate": {"name": 1}}', b'{"predicate": {"name": "\xff"}}', b"[" * 100_000],
    ids=["empty", "cut", "list", "without", "type", "utf8", "deep"],
)
def test_what_cannot_be_read(payload: bytes) -> None:
    with pytest.raises(UNREADABLE):
        predicates(Named)(payload)


def test_each_form_by_itself() -> None:
    payload = b'{"predicate": {"name": "a", "epoch": "no ULID"}}'
    assert predicates(Named)(payload) == Named("a")
    with pytest.raises(UNREADABLE):
        predicates(RevealEntry)(payload)
