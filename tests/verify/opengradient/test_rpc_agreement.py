"""Whether endpoints said the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import FormatError
from gateway.verify.opengradient.rpc_agreement import Agreement, Answer, agree


def answers(*said: bytes | str) -> list[Answer]:
    return [
        Answer(f"rpc-{n}", what) if isinstance(what, bytes) else Answer(f"rpc-{n}", error=what)
        for n, what in enumerate(said)
    ]


@pytest.mark.parametrize(
    ("said", "k", "expected"),
    [
        ((b"a", b"a"), 2, Agreement(b"a", None)),
        ((b"", b""), 2, Agreement(b"", None)),
        ((b"a", b"a", "rpc_timeout"), 2, Agreement(b"a", None)),
        ((b"a", b"b", b"a"), 2, Agreement(b"a", None, ("rpc-1",))),
        ((b"a", "no_contract", b"a"), 2, Agreement(b"a", None, ("rpc-1",))),
        (("reverted", "reverted"), 2, Agreement(None, "reverted")),
        (("no_contract", "no_contract", b"a"), 2, Agreement(None, "no_contract", ("rpc-2",))),
        ((b"a", b"b"), 2, Agreement(None, "rpc_disagree")),
        ((b"a", b"b"), 1, Agreement(None, "rpc_disagree")),
        ((b"a", b"a", b"b", b"b"), 2, Agreement(None, "rpc_disagree")),
        ((b"a", "reverted"), 2, Agreement(None, "rpc_disagree")),
        ((b"a", b"b", "rpc_timeout"), 3, Agreement(None, "rpc_disagree")),
        ((b"a", "rpc_timeout"), 2, Agreement(None, "rpc_quorum")),
        (("rpc_timeout", "rpc_timeout"), 2, Agreement(None, "rpc_quorum")),
        ((), 1, Agreement(None, "rpc_quorum")),
    ],
)
def test_agreement(said: tuple[bytes | str, ...], k: int, expected: Agreement) -> None:
    """k equal answers agree, unless others do as well; failures are no answers, reverts are."""
    assert agree(answers(*said), k) == expected


def test_no_endpoint_counts_twice() -> None:
    """Two answers under one name are not two endpoints."""
    with pytest.raises(FormatError):
        agree([Answer("a", b"1"), Answer("a", b"1")], 2)
    with pytest.raises(FormatError):
        agree([], 0)


def test_an_answer_that_says_nothing_is_none() -> None:
    """Neither result nor error counts for nobody."""
    assert agree([Answer("a"), Answer("b")], 2) == Agreement(None, "rpc_quorum")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([b"a", b"b", "reverted", "rpc_timeout"]), max_size=7), st.integers(1, 5))
def test_fewer_than_k_liars_never_win(said: list[bytes | str], k: int) -> None:
    """What is agreed on was said by k, and by nobody less."""
    found = agree(answers(*said), k)
    if found.result is not None:
        assert said.count(found.result) >= k
    assert (found.result is None) == (found.reason is not None)
