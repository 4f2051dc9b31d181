"""The same question to several endpoints, at the same block, and what they agree on (H1: one endpoint is one liar).

    quorum = Quorum(clients, k=2)
    await quorum.connect()                       # at start: WrongChain stops it
    round_ = await quorum.round()                # a block that k endpoints have, with one hash
    read = await round_.call(registry, calldata)
    read.require()                               # the agreed bytes, or the reason why there are none

The block is the k-th highest head less `confirmations`, so that fewer than k endpoints cannot move it up, and it never
goes back. An endpoint that fails while the block is settled, or that has another block under its number, is left out
of the round and named in every read. A read holds everything that was said: it can be judged again without the network
(`rpc_agreement.agree`).
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from gateway.errors import ConfigError
from gateway.verify.opengradient.registry_events import Log
from gateway.verify.opengradient.rpc_agreement import ANSWERING, Agreement, Answer, agree

from .rpc import Block, RpcClient, Transaction
from .rpc_errors import NoContract, QuorumError, Reverted, RpcError, RpcTimeout, WrongChain

T = TypeVar("T")

#: Failures that cost time or memory each time.
_COSTLY = frozenset({"rpc_timeout", "rpc_too_large"})

#: How much later than `k` that said the same an endpoint may be in a round, all its answers together, in seconds.
PATIENCE_S = 5.0
#: How old the settled block may be, in seconds. A chain that stands still, or endpoints that are kept behind.
MAX_BLOCK_AGE_S = 900.0
#: How far ahead of our clock a block's time may be, in seconds.
MAX_BLOCK_LEAD_S = 300.0
CONFIRMATIONS = 2


class Read(msgspec.Struct, frozen=True):
    """One question and all answers: enough to judge it again offline. `agreed` is None with a `reason`."""

    chain_id: int
    block_number: int
    block_hash: bytes
    to: str
    data: bytes
    answers: tuple[Answer, ...]
    agreed: bytes | None
    reason: str | None = None
    dissent: tuple[str, ...] = ()

    def require(self) -> bytes:
        """The agreed bytes. Raises `Reverted`, `NoContract` or `QuorumError`."""
        return _required(Agreement(self.agreed, self.reason, self.dissent), self.answers, "the call")


class Quorum:
    """`k` of the endpoints `clients` have to say the same. Raises `ConfigError` for a k that proves nothing."""

    def __init__(
        self,
        clients: Sequence[RpcClient],
        k: int,
        *,
        confirmations: int = CONFIRMATIONS,
        max_block_age_s: float = MAX_BLOCK_AGE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 1 <= k <= len(clients):
            raise ConfigError(f"{k} of {len(clients)} RPC endpoints cannot agree")
        for what in ("name", "place"):
            if len({getattr(client, what) for client in clients}) != len(clients):
                raise ConfigError(f"two RPC endpoints have the same {what}, and would be counted twice")
        if len({client.chain_id for client in clients}) != 1 or confirmations < 0:
            raise ConfigError("RPC endpoints are of one chain, and confirmations are not negative")
        self.clients, self.k, self.chain_id = tuple(clients), k, clients[0].chain_id
        self._confirmations, self._max_age, self._clock = confirmations, max_block_age_s, clock
        self._floor = 0

    async def connect(self) -> None:
        """Ask every endpoint for its chain. Raises `WrongChain` if any serves another, else `QuorumError`."""
        answers, _ = await _Asking(self).all(_connected)
        wrong = [answer.rpc for answer in answers if answer.error == WrongChain.default]
        if wrong:
            raise WrongChain(f"not chain {self.chain_id}: {', '.join(wrong)}")
        _required(agree(answers, self.k), answers, "the chain id")

    async def round(self) -> Round:
        """Settle on a block. Raises `QuorumError` (`rpc_stale`, `rpc_rollback`, `rpc_disagree`, `rpc_quorum`)."""
        asking = _Asking(self)
        failed = asking.failed
        heads, found = await asking.all(_head)
        failed.update({answer.rpc: answer.error for answer in heads if answer.error is not None})
        if len(found) < self.k:
            raise _quorum_error("the newest block", "rpc_quorum", heads)
        number = self._height(sorted(found.values(), reverse=True)[self.k - 1])
        answers, blocks = await asking.all(lambda client: client.block(number))
        agreement = agree(answers, self.k)
        agreed = _required(agreement, answers, f"block {number}")
        block = next(blocks[answer.rpc] for answer in answers if answer.result == agreed)
        failed.update({answer.rpc: answer.error for answer in answers if answer.error is not None})
        failed.update(dict.fromkeys(agreement.dissent, "rpc_other_block"))
        self._check_place(block, answers)
        self._floor = block.number
        return Round(self, block, asking)

    def _height(self, head: int) -> int:
        """The block to read at, where k endpoints have `head`: never before the last one, if they have that."""
        return max(head - self._confirmations, min(self._floor, head), 0)

    def _check_place(self, block: Block, answers: Sequence[Answer]) -> None:
        age = self._clock() - block.timestamp
        if not -MAX_BLOCK_LEAD_S <= age <= self._max_age:
            raise _quorum_error(f"block {block.number}, {age:.0f} s old,", "rpc_stale", answers)
        if block.number < self._floor:
            raise _quorum_error(f"block {block.number} after {self._floor}", "rpc_rollback", answers)


class Round:
    """Questions at one block. `failed` says which endpoints are left out, and why.

    One that hangs, dawdles or floods is left out of the rest of the round: it may cost one deadline, not one for each
    question.
    """

    def __init__(self, quorum: Quorum, block: Block, asking: _Asking) -> None:
        self.block, self.failed = block, asking.failed
        self._quorum, self._asking = quorum, asking

    @property
    def chain_id(self) -> int:
        return self._quorum.chain_id

    async def call(self, to: str, data: bytes) -> Read:
        """What the contract at `to` returns. Never raises: see `Read.require`."""
        answers, _ = await self._asking.all(lambda client: client.call(to, data, self.block.number))
        found = agree(answers, self._quorum.k)
        block = self.block
        return Read(
            self.chain_id, block.number, block.hash, to, data, answers, found.result, found.reason, found.dissent
        )

    async def code(self, address: str) -> bytes:
        """The code at `address`. Raises `NoContract`, `QuorumError`."""
        return await self._one(lambda client: client.code(address, self.block.number), "the code")

    async def block_at(self, number: int) -> Block:
        """Another block of the same chain. Raises `QuorumError`."""
        return await self._one(lambda client: client.block(number), f"block {number}")

    async def logs(self, address: str, topics: list[list[bytes]], first: int, last: int) -> tuple[Log, ...]:
        """Logs that k endpoints give alike. Raises `QuorumError`."""
        return await self._one(lambda client: client.logs(address, topics, first, last), "the logs")

    async def transaction(self, tx: bytes) -> Transaction:
        """The transaction `tx`. Raises `QuorumError`."""
        return await self._one(lambda client: client.transaction(tx), "the transaction")

    async def _one(self, ask: Callable[[RpcClient], Awaitable[T]], what: str) -> T:
        answers, values = await self._asking.all(ask)
        agreed = _required(agree(answers, self._quorum.k), answers, what)
        return next(values[answer.rpc] for answer in answers if answer.result == agreed)


class _Asking:
    """Questions to every endpoint that is not among `failed`, which says why."""

    def __init__(self, quorum: Quorum) -> None:
        self.failed: dict[str, str] = {}
        self._clients, self._k = quorum.clients, quorum.k
        self._late = {client.name: 0.0 for client in quorum.clients}

    async def all(self, ask: Callable[[RpcClient], Awaitable[T]]) -> tuple[tuple[Answer, ...], dict[str, T]]:
        """Every endpoint's answer, in their order, and the values behind those that answered."""
        values: dict[str, T] = {}
        took: dict[str, float] = {}
        begun = time.monotonic()

        async def one(client: RpcClient) -> Answer:
            if client.name in self.failed:
                return Answer(client.name, error=self.failed[client.name])
            try:
                values[client.name] = value = await ask(client)
            except RpcError as error:
                return Answer(client.name, error=error.reason)
            finally:
                took[client.name] = time.monotonic() - begun
            return Answer(client.name, value if isinstance(value, bytes) else msgspec.json.encode(value))

        answers = tuple(await asyncio.gather(*map(one, self._clients)))
        self.failed.update({answer.rpc: answer.error for answer in answers if answer.error in _COSTLY})
        self._charge(took, _settled(answers, took, self._k))
        return answers, values

    def _charge(self, took: Mapping[str, float], settled: float) -> None:
        """Count what was waited for each endpoint behind `settled`. One that answers just inside its deadline each time
        would otherwise end a discovery, which has a deadline of its own."""
        for name, seconds in took.items():
            self._late[name] += max(0.0, seconds - settled)
            if self._late[name] > PATIENCE_S:
                self.failed.setdefault(name, RpcTimeout.default)


def _settled(answers: Sequence[Answer], took: Mapping[str, float], k: int) -> float:
    """After how many seconds `k` endpoints had said the same; where no k do, when `k` had said anything."""
    times: dict[bytes | str | None, list[float]] = {}
    for answer in answers:
        if answer.result is not None or answer.error in ANSWERING:
            said = answer.error if answer.result is None else answer.result
            times.setdefault(said, []).append(took.get(answer.rpc, 0.0))
    anything = [seconds for group in times.values() for seconds in group]
    alike = [group for group in times.values() if len(group) >= k] or [[*anything, *[math.inf] * k]]
    return min(sorted(group)[k - 1] for group in alike)


async def _connected(client: RpcClient) -> int:
    await client.connect()
    return client.chain_id


async def _head(client: RpcClient) -> int:
    # Before every round, since a pool opens connections unseen: behind one name there may be another chain by now.
    await client.connect()
    return await client.block_number()


def _required(found: Agreement, answers: Sequence[Answer], what: str) -> bytes:
    if found.result is not None:
        return found.result
    if found.reason == Reverted.default:
        raise Reverted
    if found.reason == NoContract.default:
        raise NoContract("there is no contract at the address")
    raise _quorum_error(what, found.reason or "rpc_quorum", answers)


_SENTENCES = {
    "rpc_quorum": "too few RPC endpoints answered",
    "rpc_disagree": "RPC endpoints disagree",
    "rpc_stale": "RPC endpoints show an old block, or one of the future",
    "rpc_rollback": "too few RPC endpoints have the block that was read last",
}


def _quorum_error(what: str, reason: str, answers: Sequence[Answer]) -> QuorumError:
    said = tuple((answer.rpc, _said(answer)) for answer in answers)
    who = "; ".join(f"{name}: {text}" for name, text in said)
    return QuorumError(f"{_SENTENCES[reason]} ({what} {who})", reason=reason, said=said)


def _said(answer: Answer) -> str:
    if answer.result is None:
        return answer.error or "nothing"
    return "sha256:" + hashlib.sha256(answer.result).hexdigest()[:16]
