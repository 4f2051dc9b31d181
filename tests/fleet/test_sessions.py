"""When a node is appraised again, and what becomes of what was found."""

from __future__ import annotations

from typing import cast

from gateway.adapter import Adapter
from gateway.fleet.attest import Attestation, Attester
from gateway.fleet.fleet import RETRY_MAX_S, RETRY_S, Fleet, Member
from gateway.model.node import Node
from gateway.model.verdict import Check, Outcome

NODE = Node("n", "net", "http://127.0.0.1:9001", ("m",))


class Row:
    """An adapter without a registry."""

    network, refresh_s = "net", None


class Scripted:
    """An attester that finds what the test says, or fails with it."""

    def __init__(self) -> None:
        self.finds: Attestation | Exception = ValueError("SECRET")

    async def attest(self, node: Node, adapter: object) -> Attestation:
        if isinstance(self.finds, Exception):
            raise self.finds
        return self.finds


class World:
    """One node; `turn` appraises it once."""

    def __init__(self) -> None:
        self.mono = 1000.0
        self.attester = Scripted()
        self.archived: list[Attestation] = []
        self.fleet = Fleet(
            [NODE],
            {"net": cast("Adapter", Row())},
            cast("Attester", self.attester),
            mono=lambda: self.mono,
            lifetime_s=600,
            allow_http=False,
            allow_private=True,
            archive=lambda node, attestation: self.archived.append(attestation),
        )

    @property
    def member(self) -> Member:
        return self.fleet.members["n"]

    async def turn(self) -> float:
        """Appraise when it is due; how long until the next time."""
        self.mono = max(self.mono, self.member.next_try)
        await self.fleet.attest_all(5.0)
        return self.member.next_try - self.mono


async def test_an_attester_that_fails_has_found_nothing() -> None:
    """An exception that nobody foresaw is an appraisal without a result, asked again later and later."""
    world = World()
    waits = [await world.turn() for _ in range(7)]
    assert waits == [RETRY_S, 4.0, 8.0, 16.0, 32.0, RETRY_MAX_S, RETRY_MAX_S]
    assert world.member.last is not None
    assert world.member.last.result.checks == (Check("evidence", Outcome.NONE, "appraisal_failed"),)
    assert (world.member.session, world.archived) == (None, [])
