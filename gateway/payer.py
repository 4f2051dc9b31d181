"""Paying a node: rules, ledger and wallet joined, in the order that lets no crash and no crowd spend too much.

    1. parse the 402 and choose among its terms            nothing is written, nothing is signed
    2. reserve: caps and row in one transaction            a crash after this leaves a reservation that nobody can use
    3. sign                                                a crash after this leaves the same
    4. note the signed payment, durably                    only now may it leave the process
    5. send it; the same request to the same node is given the same payment again, never a second one
    6. note what came of it                                a ledger that cannot be written now costs this note alone

A spending session (`X-Upto-Session`) is a bearer token for the rest of an authorization. It is kept in memory only, for
one API key and one node, and forgotten after 100 idle seconds, at the end of its authorization, and on any 402.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog

from .errors import FormatError, LogUnavailable, PaymentRefused
from .payment.evm import checksummed
from .payment.policy import Chosen, Refused, SpendingRules, check_rules, choose
from .payment.receipts import Finding, Paid, check_receipt
from .payment.sign import (
    HEADER,
    SALT_BYTES,
    Authorization,
    Wallet,
    derive_nonce,
    digest_of,
    payment_header,
    window,
)
from .payment.terms import Settlement, Terms, parse_settlement, parse_terms
from .storage.ledger import Ledger
from .storage.payments import Denied, Held, Order
from .text import plain

log = structlog.get_logger("veriroute.payer")

Headers = Sequence[tuple[bytes, bytes]]

SESSION_IDLE_S = 100
SESSION_HEADER = b"x-upto-session"
SETTLEMENT_HEADER = b"x-settlement-type"
MAX_SESSIONS = 4096
ID_BYTES = 16
_SESSION = re.compile(rb"[A-Za-z0-9._~+/=:-]{1,256}")


class Payment(msgspec.Struct, frozen=True):
    """A payment that may be sent: `headers` go with the request, `id` names it in the ledger."""

    id: str
    key_id: str
    node: str
    headers: tuple[tuple[bytes, bytes], ...]
    chosen: Chosen
    created: float
    valid_before: int


class Told(msgspec.Struct, frozen=True):
    """What an answer said of its payment. `settlement` None: nothing, as where settlement comes later."""

    settlement: Settlement | None
    receipt: Finding


class _Session(msgspec.Struct):
    token: bytes
    used: float
    until: float


class Payer:
    """Pays within `rules`. `now` gives Unix seconds, `randomness(n)` n unpredictable bytes. Raises `ConfigError` for
    rules that cannot be meant."""

    def __init__(
        self,
        rules: SpendingRules,
        wallet: Wallet,
        ledger: Ledger,
        now: Callable[[], float],
        randomness: Callable[[int], bytes],
    ) -> None:
        check_rules(rules)
        self._rules = rules
        self._wallet = wallet
        self._ledger = ledger
        self._now = now
        self._randomness = randomness
        self._sessions: dict[tuple[str, str], _Session] = {}

    @property
    def settlement(self) -> str:
        """How a node is asked to settle: X-SETTLEMENT-TYPE."""
        return self._rules.settlement

    def headers(self, key_id: str, node: str) -> list[tuple[bytes, bytes]]:
        """What a request carries before anything was asked: how to settle, and a session where one is open."""
        headers = [(SETTLEMENT_HEADER, self._rules.settlement.encode())]
        session = self._session(key_id, node)
        if session is not None:
            session.used = self._now()
            headers.append((SESSION_HEADER, session.token))
        return headers

    async def pay(
        self,
        *,
        receipt_id: str,
        key_id: str,
        node: str,
        node_pay_to: str | None,
        url: str,
        request_sha256: bytes,
        headers: Headers,
        body: bytes,
    ) -> Payment:
        """The payment for a 402 with these `headers` and `body`, in answer to the request with this digest to `url`.

        Raises `PaymentRefused` with the reason, and then nothing was signed; `LogUnavailable` without a ledger.
        """
        self.forget(key_id, node)  # a node that asks for money holds no session of ours any more
        terms = _terms(headers, body)
        now = self._now()
        chosen = choose(terms, self._rules, node_pay_to=node_pay_to, url=url, now=now)
        if isinstance(chosen, Refused):
            raise _refusal(chosen.reason, chosen.found)
        held = await self._ledger.reserve(self._order(chosen, receipt_id, key_id, node, request_sha256, now))
        if isinstance(held, Denied):
            raise _refusal(held.reason, f"{chosen.requirement.amount} of {chosen.asset.id}")
        header = held.header or await self._sign(terms, chosen, held)
        sent = ((HEADER, header), (SETTLEMENT_HEADER, self._rules.settlement.encode()))
        return Payment(held.id, key_id, node, sent, chosen, now, held.valid_before)

    async def settled(self, payment: Payment, url_headers: Headers) -> Told:
        """Take from the headers of a 2xx answer what they say of the payment. A settlement that cannot be read is none.

        Nothing of it frees budget: it is the node's word.
        """
        await self._open_session(payment, url_headers)
        try:
            told = parse_settlement(url_headers)
        except FormatError:
            return Told(None, Finding("invalid", "settlement_malformed"))
        if told is None:
            return Told(None, Finding("absent", "receipt_absent"))
        if not self._is_ours(payment, told):
            return Told(None, Finding("invalid", "settlement_mismatch"))
        if told.success:
            await _noted(payment, self._ledger.settled(payment.id, told.transaction))
        else:
            await _noted(payment, self._ledger.failed(payment.id, told.error or "settlement_failed", told.transaction))
        return Told(told, self._check_receipt(payment, told))

    async def failed(self, payment: Payment, reason: str, tx: str | None = None) -> None:
        """The node refused the payment, or the chain says that its settlement reverted."""
        await _noted(payment, self._ledger.failed(payment.id, plain(reason, 80), tx))

    async def unverified(self, payment: Payment, reason: str) -> None:
        """The payment was sent and its answer withheld from the caller: the node may earn less today."""
        self.forget(payment.key_id, payment.node)
        await _noted(payment, self._ledger.unverified(payment.id, plain(reason, 80)))

    def forget(self, key_id: str, node: str) -> None:
        """Let go of a session: an answer that it paid for was withheld, or the node is not to be used any more."""
        self._sessions.pop((key_id, node), None)

    def _order(
        self, chosen: Chosen, receipt_id: str, key_id: str, node: str, request_sha256: bytes, now: float
    ) -> Order:
        salt = self._randomness(SALT_BYTES)
        after, before = window(chosen.requirement.max_timeout_s, self._rules, now)
        return Order(
            id="pay_" + self._randomness(ID_BYTES).hex(),
            request_id=receipt_id,
            key_id=key_id,
            node=node,
            asset=chosen.asset,
            pay_to="0x" + chosen.pay_to.hex(),
            amount=chosen.requirement.amount,
            nonce=derive_nonce(request_sha256, salt),
            salt=salt,
            valid_after=after,
            valid_before=before,
            created_ms=int(now * 1000),
        )

    async def _sign(self, terms: Terms, chosen: Chosen, held: Held) -> bytes:
        """Sign what is held, from the ledger's own values: signing it again makes the same bytes."""
        authorization = Authorization(chosen, self._wallet.address, held.nonce, held.valid_after, held.valid_before)
        header = payment_header(terms, authorization, self._wallet.sign(digest_of(authorization)))
        noted = await self._ledger.signed(held.id, header)
        if noted is None:
            raise _refusal("payment_over", "the reservation ended before it was signed")
        return noted

    def _session(self, key_id: str, node: str) -> _Session | None:
        session, now = self._sessions.get((key_id, node)), self._now()
        if session is not None and (now - session.used >= SESSION_IDLE_S or now >= session.until):
            del self._sessions[key_id, node]
            return None
        return session

    async def _open_session(self, payment: Payment, headers: Headers) -> None:
        tokens = [value for name, value in headers if name.lower() == SESSION_HEADER]
        if payment.chosen.requirement.scheme != "upto" or len(tokens) != 1 or _SESSION.fullmatch(tokens[0]) is None:
            return
        while len(self._sessions) >= MAX_SESSIONS:
            self._sessions.pop(next(iter(self._sessions)))
        self._sessions[payment.key_id, payment.node] = _Session(tokens[0], self._now(), payment.valid_before)
        await _noted(payment, self._ledger.opened(payment.id, hashlib.sha256(tokens[0]).digest()))

    def _is_ours(self, payment: Payment, told: Settlement) -> bool:
        """Whether a settlement is on the payment's chain and, where it names a payer, of our wallet."""
        payer = checksummed(self._wallet.address).lower()
        return told.network == payment.chosen.requirement.network and (told.payer or payer).lower() == payer

    def _check_receipt(self, payment: Payment, told: Settlement) -> Finding:
        chosen = payment.chosen
        paid = Paid(chosen.requirement, chosen.pay_to, self._wallet.address, payment.created, told.transaction)
        return check_receipt(told.receipt, paid, self._rules.offer_keys, self._now())


async def _noted(payment: Payment, note: Awaitable[bool]) -> None:
    """Wait for what the ledger is to hold of a payment that has left. Where it cannot be written the exchange ends as
    it would have: the whole amount counts since it was reserved, and the receipt is owed whatever the ledger does.
    """
    try:
        await note
    except LogUnavailable as error:
        log.error("payment.unnoted", node=payment.node, error=error.message)


def _terms(headers: Headers, body: bytes) -> Terms:
    try:
        return parse_terms(headers, body)
    except FormatError as error:
        raise _refusal(error.reason or "malformed", error.message) from None


def _refusal(reason: str, found: str) -> PaymentRefused:
    """Reasons of the rules stand under `payment_`: `cap` alone would say nothing beside those of other checks."""
    code = reason if reason.startswith(("payment_", "budget_")) else f"payment_{reason}"
    return PaymentRefused(f"the node's price is not paid ({code}): {plain(found, 80)}", reason=code)
