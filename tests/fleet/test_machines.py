"""A node whose genuine evidence comes from another machine than before is noticed, once."""

from __future__ import annotations

import msgspec
import pytest

from gateway.fleet.machines import MAX_TOLD, Machines, Move, machine_of
from gateway.model.node import AttestedSession
from gateway.model.tee import Binding, BindingStatus, Platform, TeeClaims
from gateway.model.verdict import Outcome

A, B, C = "aa" * 32, "bb" * 32, "cc" * 32


def claims(machine: str | None, *, authentic: bool = True, status: BindingStatus = BindingStatus.BOUND) -> TeeClaims:
    return TeeClaims(
        platform=Platform.AMD_SEV_SNP,
        evidence_sha256="00" * 32,
        authentic=authentic,
        machine_id=machine,
        binding=Binding(status),
        evaluated_at=0.0,
    )


def session(*tee: TeeClaims) -> AttestedSession:
    return AttestedSession(
        "s", "n", "aci", "http://n", "sha256:00", (), (), "00", 0.0, 1.0, Outcome.AFFIRMING, (), (), tee=tee
    )


@pytest.mark.parametrize(
    ("seen", "moves"),
    [
        ([A, A, A], []),
        ([A, B, B], [Move(A, B)]),
        ([A, None, A], []),
        ([A, None, B], [Move(A, B)]),
        ([None, A], []),
        ([A, B, A, B, A], [Move(A, B), Move(B, A)]),
        ([A, B, C], [Move(A, B), Move(B, C)]),
    ],
)
def test_each_move_is_told_once(seen: list[str | None], moves: list[Move]) -> None:
    """The first machine is none, nor is a session that shows none; going back and forth is told once each way."""
    machines = Machines()
    found = [machines.saw("n", session(claims(machine))) for machine in seen]
    assert [move for move in found if move is not None] == moves


def test_nodes_are_apart() -> None:
    """One node's machine says nothing of another's, and the same move of another is told too."""
    machines = Machines()
    for node in ("n", "m"):
        assert machines.saw(node, session(claims(A))) is None
    assert [machines.saw(node, session(claims(B))) for node in ("n", "m")] == [Move(A, B)] * 2


def test_only_genuine_evidence_shows_a_machine() -> None:
    """Whoever writes a report could write any chip into it; a node without evidence shows none."""
    assert machine_of(session(claims(A, authentic=False))) is None
    assert machine_of(session()) is None
    for status in (BindingStatus.UNBOUND, BindingStatus.MISMATCH):  # genuine, and anybody's: another machine's, shown
        assert machine_of(session(claims(A, status=status))) is None
    assert machine_of(session(claims(B), claims(A), claims(B), claims(None))) == f"{A}+{B}"


def test_a_node_that_never_rests_stops_being_told() -> None:
    """What is remembered of a node is bounded, and so is what it can write into the log; others are told as before."""
    machines = Machines()
    found = [machines.saw("n", session(claims(f"{n:064x}"))) for n in range(MAX_TOLD + 10)]
    assert sum(move is not None for move in found) == MAX_TOLD
    assert [machines.saw("m", session(claims(machine))) for machine in (A, B)] == [None, Move(A, B)]


def test_moves_are_values() -> None:
    """They are kept in a set."""
    assert msgspec.structs.replace(Move(A, B)) == Move(A, B)
