"""The money rules, as steps of one transaction on the ledger's database; `gateway.storage.ledger` brings the thread.

    reserved ──► signed ──► settled ──► failed          the transaction was mined and reverted
        │           ├─────► paid_unverified             the answer was withheld; the money is gone
        │           ├─────► failed                      the node refused it; it still holds the authorization
        │           └─────► expired                     no word until its time was over
        └─────────► failed, expired                     never signed: nothing left this process

What counts: the full amount that was authorized, from the reservation on, in the day it was reserved. A node's word
never gives any of it back: neither a lower amount nor a failure does. Only two things do: a reservation that was never
signed, and a reading of the chain that the nonce is unused after its time (`unused`). With `unsettled="released"` the
end of an authorization's time does too, and then a settlement that a node kept quiet about is not in the sum.

Every function runs inside the caller's transaction and either does all of its step or, raising, nothing that commits.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Literal

import msgspec

from gateway.payment.policy import Asset

Unsettled = Literal["spent", "released"]
#: How far the clock of a chain may be behind ours: so much longer an authorization may still be settled there.
GRACE_S = 30
DAY_MS = 86_400_000


class Order(msgspec.Struct, frozen=True):
    """A payment that is about to be authorized. `amount` in atomic units; times in Unix seconds, `created_ms` in ms."""

    id: str
    request_id: str
    key_id: str
    node: str
    asset: Asset
    pay_to: str
    amount: int
    nonce: bytes
    salt: bytes
    valid_after: int
    valid_before: int
    created_ms: int


class Held(msgspec.Struct, frozen=True):
    """A payment that has its place in the budget. `header` is the signed payment, None before it is signed."""

    id: str
    nonce: bytes
    salt: bytes
    valid_after: int
    valid_before: int
    header: bytes | None


class Denied(msgspec.Struct, frozen=True):
    """Why nothing was reserved. `reason` is budget_request | budget_key | budget_node | budget_global |
    payment_conflict | payment_over | nonce_used."""

    reason: str


class Row(msgspec.Struct, frozen=True):
    """A payment as stored; the columns of `payment`."""

    id: str
    request_id: str
    key_id: str
    node: str
    network: str
    asset: str
    pay_to: str
    amount: int
    counted: int
    nonce: bytes
    salt: bytes
    valid_after: int
    valid_before: int
    state: str
    due: int
    header: bytes | None
    tx: str | None
    reason: str | None
    session: bytes | None
    created_ms: int

    @property
    def scopes(self) -> tuple[tuple[str, str], ...]:
        """The budgets that this payment draws on."""
        return (("key", self.key_id), ("node", self.node), ("all", ""))

    @property
    def day(self) -> int:
        return self.created_ms // DAY_MS

    @property
    def asset_id(self) -> str:
        return f"{self.network}/{self.asset}"


_COLUMNS = ", ".join(Row.__struct_fields__)
_INSERT = f"INSERT INTO payment ({_COLUMNS}) VALUES ({', '.join('?' * len(Row.__struct_fields__))})"  # noqa: S608


def reserve(connection: sqlite3.Connection, order: Order, unsettled: Unsettled) -> Held | Denied:
    """Hold `order` against every cap and enter it; the payment that this request has with this node already, if any."""
    now_s = order.created_ms // 1000
    expire(connection, now_s, unsettled)
    known = _find(connection, "request_id = ? AND node = ?", order.request_id, order.node)
    if known is not None:
        return _again(known, order, now_s)
    reason = _over(connection, order)
    if reason is not None:
        return Denied(reason)
    row = _row(order)
    values = msgspec.structs.astuple(row)
    connection.execute(
        _INSERT, [str(value) if name in _AMOUNTS else value for name, value in zip(_NAMES, values, strict=True)]
    )
    _count(connection, row, order.amount)
    return _held(row)


def signed(connection: sqlite3.Connection, id: str, header: bytes) -> bytes | None:
    """Note the signed payment; only after this commits may it leave the process.

    The one to be used: `header`, or the one that was noted first; None where the reservation has ended.
    """
    done = connection.execute(
        "UPDATE payment SET state = 'signed', header = ? WHERE id = ? AND state = 'reserved'", (header, id)
    )
    if done.rowcount:
        return header
    row = find(connection, id)
    return row.header if row is not None and row.state == "signed" else None


def settled(connection: sqlite3.Connection, id: str, tx: str | None) -> bool:
    """The node says that it was settled, in transaction `tx`. False where the payment is in no state for that."""
    row = find(connection, id)
    if (
        row is None
        or row.state not in ("signed", "expired", "failed", "settled", "paid_unverified")
        or row.header is None
    ):
        return False
    state = "paid_unverified" if row.state == "paid_unverified" else "settled"
    _move(connection, row, state, tx=tx or row.tx)
    _count(connection, row, row.amount)
    return True


def failed(connection: sqlite3.Connection, id: str, reason: str, tx: str | None = None) -> bool:
    """The payment did not go through. What was never signed is given back, the rest is held until nobody can use it."""
    row = find(connection, id)
    if row is None or row.state not in ("reserved", "signed", "settled"):
        return False
    if row.state == "reserved":
        _move(connection, row, "failed", reason=reason)
        _count(connection, row, 0)
    else:
        _move(connection, row, "failed", reason=reason, tx=tx or row.tx, due=1)
    return True


def unverified(connection: sqlite3.Connection, id: str, reason: str) -> bool:
    """The payment was made and its answer withheld; its amount is taken from what the node may earn that day, again."""
    row = find(connection, id)
    if row is None or row.state not in ("signed", "settled", "expired") or row.header is None:
        return False
    _move(connection, row, "paid_unverified", reason=reason)
    _count(connection, row, row.amount)
    _add(connection, ("withheld", row.node), row, row.amount)
    return True


def opened(connection: sqlite3.Connection, id: str, session_sha256: bytes) -> bool:
    """Note the spending session that a payment opened, by the digest of its token: the token itself can be spent."""
    done = connection.execute("UPDATE payment SET session = ? WHERE id = ?", (session_sha256, id))
    return done.rowcount == 1


def unused(connection: sqlite3.Connection, id: str) -> bool:
    """The chain was read, after the payment's time, and its nonce is not used: it cost nothing and never can."""
    row = find(connection, id)
    if row is None or row.due or row.state not in ("expired", "failed"):
        return False
    connection.execute("UPDATE payment SET reason = 'nonce_unused' WHERE id = ?", (id,))
    _count(connection, row, 0)
    return True


def expire(connection: sqlite3.Connection, now_s: float, unsettled: Unsettled) -> int:
    """End what is past its time at `now_s`; how many payments that were."""
    rows = _select(connection, "due = 1 AND valid_before < ?", int(now_s) - GRACE_S)
    for row in rows:
        _move(connection, row, "failed" if row.state == "failed" else "expired")
        if row.state == "reserved" or unsettled == "released":
            _count(connection, row, 0)
    return len(rows)


def find(connection: sqlite3.Connection, id: str) -> Row | None:
    """The payment with this id."""
    return _find(connection, "id = ?", id)


def spent(connection: sqlite3.Connection, scope: str, name: str, day: int, asset_id: str) -> int:
    """What a scope (`key`, `node`, `all`, `withheld`) has used of its budget on a day since 1970, in atomic units."""
    found = connection.execute(
        "SELECT total FROM budget WHERE scope = ? AND name = ? AND day = ? AND asset = ?", (scope, name, day, asset_id)
    ).fetchone()
    return 0 if found is None else int(found[0])


_NAMES = Row.__struct_fields__
_AMOUNTS = ("amount", "counted")


def _row(order: Order) -> Row:
    network, _, token = order.asset.id.rpartition("/")
    return Row(
        id=order.id,
        request_id=order.request_id,
        key_id=order.key_id,
        node=order.node,
        network=network,
        asset=token,
        pay_to=order.pay_to,
        amount=order.amount,
        counted=0,
        nonce=order.nonce,
        salt=order.salt,
        valid_after=order.valid_after,
        valid_before=order.valid_before,
        state="reserved",
        due=1,
        header=None,
        tx=None,
        reason=None,
        session=None,
        created_ms=order.created_ms,
    )


def _again(known: Row, order: Order, now_s: int) -> Held | Denied:
    """One request pays a node once: the same payment is given again, and no other."""
    if (known.asset_id, known.pay_to, known.amount) != (order.asset.id, order.pay_to, order.amount):
        return Denied("payment_conflict")
    if known.state not in ("reserved", "signed") or known.valid_before <= now_s:
        return Denied("payment_over")
    return _held(known)


def _held(row: Row) -> Held:
    return Held(row.id, row.nonce, row.salt, row.valid_after, row.valid_before, row.header)


def _over(connection: sqlite3.Connection, order: Order) -> str | None:
    """Which cap this order would pass."""
    caps, day, asset = order.asset.caps, order.created_ms // DAY_MS, order.asset.id
    same = _select(connection, "request_id = ?", order.request_id)
    if sum(row.counted for row in same if row.asset_id == asset) + order.amount > caps.per_request:
        return "budget_request"
    if spent(connection, "key", order.key_id, day, asset) + order.amount > caps.per_key_day:
        return "budget_key"
    withheld = spent(connection, "withheld", order.node, day, asset)
    if spent(connection, "node", order.node, day, asset) + withheld + order.amount > caps.per_node_day:
        return "budget_node"
    if spent(connection, "all", "", day, asset) + order.amount > caps.global_day:
        return "budget_global"
    if _find(connection, "nonce = ?", order.nonce) is not None:
        return "nonce_used"
    return None


def _count(connection: sqlite3.Connection, row: Row, counted: int) -> None:
    """Let `row` take `counted` from its budgets, whatever it took before."""
    if counted == row.counted:
        return
    connection.execute("UPDATE payment SET counted = ? WHERE id = ?", (str(counted), row.id))
    for scope in row.scopes:
        _add(connection, scope, row, counted - row.counted)


def _add(connection: sqlite3.Connection, scope: tuple[str, str], row: Row, amount: int) -> None:
    total = spent(connection, *scope, row.day, row.asset_id) + amount
    connection.execute(
        "INSERT OR REPLACE INTO budget (scope, name, day, asset, total) VALUES (?, ?, ?, ?, ?)",
        (*scope, row.day, row.asset_id, str(total)),
    )


def _move(
    connection: sqlite3.Connection,
    row: Row,
    state: str,
    *,
    reason: str | None = None,
    tx: str | None = None,
    due: int = 0,
) -> None:
    connection.execute(
        "UPDATE payment SET state = ?, due = ?, reason = ?, tx = ? WHERE id = ?",
        (state, due, reason or row.reason, tx or row.tx, row.id),
    )


def _find(connection: sqlite3.Connection, where: str, *values: object) -> Row | None:
    rows = _select(connection, where, *values)
    return rows[0] if rows else None


def _select(connection: sqlite3.Connection, where: str, *values: object) -> list[Row]:
    rows = []
    for found in connection.execute(f"SELECT {_COLUMNS} FROM payment WHERE {where}", values):  # noqa: S608
        members: dict[str, Any] = dict(zip(_NAMES, found, strict=True))
        members.update((name, int(members[name])) for name in _AMOUNTS)
        rows.append(Row(**members))
    return rows
