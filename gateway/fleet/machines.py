"""Which machine stood behind each node, so that a node that moves to another one is noticed.

    move = machines.saw(node.id, session)          # Move(before, after), once for each pair; None otherwise

Evidence proves that a machine is genuine and not that it is the same as before: a relayed or restored node is. What
that means is for people, so a move refuses nothing (`tee.machines` pins); it is told, in the log and as an alarm. A
cloud that starts an enclave anew gives it another identity, so a move is no proof of anything bad. What was seen is
forgotten with the process.
"""

from __future__ import annotations

import msgspec

from gateway.model.node import AttestedSession
from gateway.model.tee import BindingStatus

#: Moves of one node that are remembered as told. One that changes machines with every appraisal stops being told.
MAX_TOLD = 64


class Move(msgspec.Struct, frozen=True):
    """From one machine to another, by `machine_id` (64 hex digits; several of them joined by +)."""

    before: str
    after: str


class Machines:
    """The last machine of every node."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}
        self._told: dict[str, set[Move]] = {}

    def saw(self, node: str, session: AttestedSession) -> Move | None:
        """The move that this session is the first to show; None when there is none, or it was told before. A session
        whose evidence shows no machine leaves what is known."""
        after = machine_of(session)
        if after is None:
            return None
        before = self._last.get(node)
        self._last[node] = after
        if before is None or before == after:
            return None
        move, told = Move(before, after), self._told.setdefault(node, set())
        if move in told or len(told) >= MAX_TOLD:
            return None
        told.add(move)
        return move


def machine_of(session: AttestedSession) -> str | None:
    """The machine that genuine evidence shows. An identity of another kind is another identity: what a chip and an
    enclave call themselves has nothing to do with one another. Evidence that is not bound to what was asked about is
    anybody's to show."""
    bound = [tee for tee in session.tee if tee.authentic and tee.binding.status is BindingStatus.BOUND]
    found = {claims.machine_id for claims in bound if claims.machine_id is not None}
    return "+".join(sorted(found)) or None
