"""Whether independent JSON-RPC endpoints said the same: the one place that judges it, live and from a stored record.

A single endpoint is a single liar. Of n endpoints that were asked the same thing at the same block, at least k have to
give byte-equal answers, and no other answer may reach k as well. That a contract reverts, or that there is no contract,
is an answer; that an endpoint is slow, down or unreadable is none.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.errors import FormatError

#: Errors that are answers of the chain: endpoints can agree on them.
ANSWERING = frozenset({"reverted", "no_contract"})
DISAGREE = "rpc_disagree"
TOO_FEW = "rpc_quorum"


class Answer(msgspec.Struct, frozen=True):
    """What the endpoint `rpc` said: `result` bytes, or a stable `error` reason."""

    rpc: str
    result: bytes | None = None
    error: str | None = None


class Agreement(msgspec.Struct, frozen=True):
    """The outcome: an agreed `result`, or the `reason` for none: of `ANSWERING`, `rpc_disagree` or `rpc_quorum`.

    `dissent` names the endpoints that answered otherwise although enough agreed: worth an alarm.
    """

    result: bytes | None
    reason: str | None
    dissent: tuple[str, ...] = ()


def agree(answers: Sequence[Answer], k: int) -> Agreement:
    """What at least `k` of `answers` have in common. Raises `FormatError` when one endpoint is counted twice.

    >>> agree([Answer("a", b"1"), Answer("b", b"1"), Answer("c", b"2")], 2)
    Agreement(result=b'1', reason=None, dissent=('c',))
    """
    if k < 1 or len({answer.rpc for answer in answers}) != len(answers):
        raise FormatError("endpoints that agree have different names, and at least one does")
    groups: dict[bytes | str, list[str]] = {}
    for answer in answers:
        said = answer.result if answer.result is not None else answer.error
        if isinstance(said, bytes) or said in ANSWERING:
            groups.setdefault(said, []).append(answer.rpc)
    reached = [said for said, names in groups.items() if len(names) >= k]
    if len(reached) != 1:
        return Agreement(None, DISAGREE if len(groups) > 1 else TOO_FEW)
    said = reached[0]
    dissent = tuple(answer.rpc for answer in answers if _answered(answer) and answer.rpc not in groups[said])
    return Agreement(said, None, dissent) if isinstance(said, bytes) else Agreement(None, said, dissent)


def _answered(answer: Answer) -> bool:
    return answer.result is not None or answer.error in ANSWERING
