"""What one exchange pays: the node's 402 is answered once, within the rules, and what came of it is known.

A 402 is no answer: nothing was served, so the same request may go to the same node again, with a payment. It goes once.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.errors import EvidenceRejected
from gateway.fleet.member import Member
from gateway.model.receipt import PaymentPart
from gateway.payer import Payer, Payment
from gateway.policy.schema import CompiledPolicy
from gateway.recorder import Exchange

Headers = Sequence[tuple[bytes, bytes]]

#: Reasons for not paying that lie in the request or in what was spent before it. The others are the node's terms, which
#: are not those that the operator allows, for whoever asks.
OF_THE_REQUEST = frozenset(
    (
        "payment_cap",
        "payment_conflict",
        "payment_over",
        "payment_nonce_used",
        "budget_request",
        "budget_key",
        "budget_node",
        "budget_global",
    )
)


class Unpaid(Exception):
    """The node asks to be paid; it may be asked again once it is."""

    def __init__(self, headers: Headers, body: bytes) -> None:
        super().__init__("payment_required")
        self.headers = headers
        self.body = body


class Till:
    """The payments of one exchange. Without a payer it does nothing."""

    def __init__(self, payer: Payer | None, x: Exchange, policy: CompiledPolicy) -> None:
        self._payer = payer
        self._x = x
        self._policy = policy
        self._payment: Payment | None = None
        self._node: str | None = None  # that a payment or a session's token went to

    def pays(self, member: Member) -> bool:
        """Whether a 402 of this node can be answered."""
        return self._payer is not None and member.adapter.x402 and self._payment is None

    def denied(self, member: Member) -> bool:
        """Whether the way of settling that is set is one that the policy in force does not let be."""
        return (
            self._payer is not None
            and member.adapter.x402
            and self._payer.settlement not in self._policy.payment.settlement
        )

    def headers(self, member: Member) -> list[tuple[bytes, bytes]]:
        """What a request to `member` carries to be paid for."""
        if self._payer is None:
            return []
        if self._node != member.node.id:  # what another node was to be paid is not for this one, nor for its answer
            self._payment = self._x.payment = None
        if not member.adapter.x402:
            return []
        self._node = member.node.id
        if self._payment is not None:
            return list(self._payment.headers)
        return self._payer.headers(self._x.key_id, member.node.id)

    async def pay(self, member: Member, url: str, sha256: str, demand: Unpaid) -> None:
        """Sign what the node asks for, if the rules let it. Raises `PaymentRefused`, `LogUnavailable`."""
        assert self._payer is not None
        assert self._x.session is not None
        payment = await self._payer.pay(
            receipt_id=self._x.parent or self._x.receipt_id,  # a quorum's nodes are paid for one request: one cap
            key_id=self._x.key_id,
            node=member.node.id,
            node_pay_to=self._x.session.payee or None,
            url=url,
            request_sha256=bytes.fromhex(sha256),
            headers=demand.headers,
            body=demand.body,
        )
        self._payment = payment
        wanted = payment.chosen.requirement
        self._x.payment = PaymentPart(payment.id, wanted.network, wanted.asset, str(wanted.amount), wanted.pay_to)

    async def answered(self, status: int, headers: Headers) -> None:
        """Take in what an answer to the paid request says of its payment. Raises `EvidenceRejected`.

        A receipt that does not hold is the node's lie about money, and what lies about that is not relied on.
        """
        if self._payment is None or self._payer is None:
            return
        if status == 402:
            await self._payer.failed(self._payment, "asked_again")
        if status != 200:
            return
        told = await self._payer.settled(self._payment, headers)
        assert self._x.payment is not None
        tx = told.settlement.transaction if told.settlement is not None else None
        self._x.payment = PaymentPart(
            self._x.payment.id,
            self._x.payment.network,
            self._x.payment.asset,
            self._x.payment.amount,
            self._x.payment.pay_to,
            tx or None,
            told.receipt.status,
        )
        if told.receipt.status == "invalid":
            raise EvidenceRejected("The node's receipt for its payment does not hold.", reason=told.receipt.reason)

    async def withheld(self, reason: str) -> None:
        """What was paid for did not reach the agent: the node may earn less today, and its session is over."""
        payment, node = self._payment, self._node
        self._payment = self._node = None
        if self._payer is None or node is None:
            return
        if payment is not None:
            await self._payer.unverified(payment, reason)
        else:
            self._payer.forget(self._x.key_id, node)
