"""No interleaving of payments passes a cap, and no word of a node's gives money back."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from payment_kit import ASSET, NETWORK, NOW

from gateway.errors import ConfigError, LogRefused, LogUnavailable
from gateway.payment.policy import Asset, Caps
from gateway.storage import engine, payments, schema
from gateway.storage.ledger import Ledger, ledger_path
from gateway.storage.payments import DAY_MS, Denied, Held, Order, Unsettled

CAPS = Caps(per_request=100, per_key_day=250, per_node_day=300, global_day=450)
COIN = msgspec.structs.replace(ASSET, caps=CAPS)
OTHER = msgspec.structs.replace(ASSET, address="0x" + "c1" * 20, caps=CAPS)
NOW_MS = int(NOW * 1000)
DAY = NOW_MS // DAY_MS


def order(n: int, amount: int = 100, *, key: str = "k", node: str = "n", asset: Asset = COIN, **changes: Any) -> Order:
    return Order(
        **{
            "id": f"pay_{n}",
            "request_id": f"r{n}",
            "key_id": key,
            "node": node,
            "asset": asset,
            "pay_to": "0x" + "aa" * 20,
            "amount": amount,
            "nonce": n.to_bytes(32, "big"),
            "salt": n.to_bytes(16, "big"),
            "valid_after": int(NOW) - 5,
            "valid_before": int(NOW) + 60,
            "created_ms": NOW_MS,
            **changes,
        }
    )


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in schema.LEDGER_DDL:
        connection.execute(statement)
    yield connection
    connection.close()


def spent(db: sqlite3.Connection, scope: str = "all", name: str = "", day: int = DAY, asset: Asset = COIN) -> int:
    return payments.spent(db, scope, name, day, asset.id)


@pytest.mark.parametrize(
    ("before", "asked", "denied"),
    [
        ([], order(1, 100), None),
        ([], order(1, 101), "budget_request"),
        ([order(1, 60, request_id="r", node="a")], order(2, 41, request_id="r", node="b"), "budget_request"),
        ([order(1, 60, request_id="r", node="a")], order(2, 40, request_id="r", node="b"), None),
        ([order(n, node=f"n{n}") for n in (1, 2)], order(3, 51, node="x"), "budget_key"),
        ([order(n, node=f"n{n}") for n in (1, 2)], order(3, 50, node="x"), None),
        ([order(n, key=f"k{n}") for n in (1, 2, 3)], order(4, 1, key="x"), "budget_node"),
        ([order(n, key=f"k{n}", node=f"n{n}") for n in (1, 2, 3, 4)], order(5, 51, key="x", node="x"), "budget_global"),
        ([order(n, key=f"k{n}", node=f"n{n}") for n in (1, 2, 3, 4)], order(5, 50, key="x", node="x"), None),
        ([order(n, key=f"k{n}", node=f"n{n}") for n in (1, 2, 3, 4)], order(5, 100, key="x", node="x", asset=OTHER), None),
        ([order(1)], order(2, nonce=(1).to_bytes(32, "big")), "nonce_used"),
        ([order(n) for n in (1, 2)], order(3, created_ms=NOW_MS + DAY_MS, valid_before=int(NOW) + 86_460), None),
    ],
)  # fmt: skip
def test_each_cap_is_kept(db: sqlite3.Connection, before: list[Order], asked: Order, denied: str | None) -> None:
    """Request, key, node and all have caps of their own, for one asset and one day; equal to the cap is within it."""
    for one in before:
        assert isinstance(payments.reserve(db, one, "spent"), Held)
    rows = db.execute("SELECT count(*) FROM payment").fetchone()[0]
    found = payments.reserve(db, asked, "spent")
    assert (found.reason if isinstance(found, Denied) else None) == denied
    assert db.execute("SELECT count(*) FROM payment").fetchone()[0] == rows + (denied is None)


def test_amounts_of_256_bits_are_exact(db: sqlite3.Connection) -> None:
    """Sums beyond 64 bits, and beyond what a float holds, are exact to the last unit."""
    top = 2**256 - 1
    whole = msgspec.structs.replace(ASSET, caps=Caps(top, top, top, top))
    assert isinstance(payments.reserve(db, order(1, top - 1, asset=whole), "spent"), Held)
    assert payments.reserve(db, order(2, 2, asset=whole), "spent") == Denied("budget_key")
    assert isinstance(payments.reserve(db, order(3, 1, asset=whole), "spent"), Held)
    assert spent(db) == top


def test_one_request_pays_a_node_once(db: sqlite3.Connection) -> None:
    """The same request to the same node is given the same payment, and no other amount, payee or asset."""
    first = payments.reserve(db, order(1), "spent")
    assert isinstance(first, Held)
    assert first.header is None
    again = order(2, request_id="r1", nonce=b"\x09" * 32, salt=b"\x09" * 16)
    assert payments.reserve(db, again, "spent") == first
    assert payments.signed(db, first.id, b"header") == b"header"
    assert payments.signed(db, first.id, b"another") == b"header"
    found = payments.reserve(db, again, "spent")
    assert found == msgspec.structs.replace(first, header=b"header")
    for changes in ({"amount": 99}, {"pay_to": "0x" + "bb" * 20}, {"asset": OTHER}):
        assert payments.reserve(db, msgspec.structs.replace(again, **changes), "spent") == Denied("payment_conflict")
    late = msgspec.structs.replace(again, created_ms=NOW_MS + 60_000)
    assert payments.reserve(db, late, "spent") == Denied("payment_over")
    payments.failed(db, first.id, "no")
    assert payments.reserve(db, again, "spent") == Denied("payment_over")
    assert spent(db) == 100


def held(db: sqlite3.Connection, state: str, unsettled: Unsettled = "spent") -> str:
    """A payment brought into `state`."""
    found = payments.reserve(db, order(1), unsettled)
    assert isinstance(found, Held)
    if state in ("void", "lapsed"):
        _ = payments.failed(db, found.id, "x") if state == "void" else payments.expire(db, NOW + 91, unsettled)
        return found.id
    if state != "reserved":
        assert payments.signed(db, found.id, b"h") == b"h"
    moves = {
        "settled": lambda: payments.settled(db, found.id, "0xt"),
        "failed": lambda: payments.failed(db, found.id, "reverted", "0xt"),
        "paid_unverified": lambda: payments.unverified(db, found.id, "bad"),
        "expired": lambda: payments.expire(db, NOW + 91, unsettled) == 1,
    }
    if state in moves:
        assert moves[state]()
    return found.id


STATES = ("reserved", "signed", "settled", "failed", "paid_unverified", "expired", "void", "lapsed")
MOVES = {
    "settled": {"signed": "settled", "settled": "settled", "failed": "settled", "expired": "settled", "paid_unverified": "paid_unverified"},
    "failed": {"reserved": "failed", "signed": "failed", "settled": "failed"},
    "unverified": {"signed": "paid_unverified", "settled": "paid_unverified", "expired": "paid_unverified"},
    "expire": {"reserved": "expired", "signed": "expired"},
}  # fmt: skip
NAMED = {"void": "failed", "lapsed": "expired"}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("move", MOVES)
def test_payments_move_as_drawn(db: sqlite3.Connection, state: str, move: str) -> None:
    """Each state has the moves of the drawing, and every other one changes nothing."""
    id = held(db, state)
    before = payments.find(db, id)
    done = {
        "settled": lambda: payments.settled(db, id, "0xt"),
        "failed": lambda: payments.failed(db, id, "why"),
        "unverified": lambda: payments.unverified(db, id, "why"),
        "expire": lambda: bool(payments.expire(db, NOW + 91, "spent")),
    }[move]()
    after = payments.find(db, id)
    assert before is not None
    assert after is not None
    assert after.state == MOVES[move].get(state, NAMED.get(state, state))
    assert done is (state in MOVES[move] or (move == "expire" and state == "failed"))
    if not done:
        assert after == before


@pytest.mark.parametrize(
    ("state", "unsettled", "counted"),
    [
        ("reserved", "spent", 0), ("signed", "spent", 100), ("settled", "spent", 100), ("failed", "spent", 100),
        ("paid_unverified", "spent", 100), ("void", "spent", 0), ("lapsed", "spent", 0),
        ("reserved", "released", 0), ("signed", "released", 0), ("settled", "released", 100), ("failed", "released", 0),
        ("paid_unverified", "released", 100),
    ],
)  # fmt: skip
def test_what_counts_after_its_time(db: sqlite3.Connection, state: str, unsettled: Unsettled, counted: int) -> None:
    """A promise that was signed counts until its time is over, and after it unless the rules say otherwise."""
    held(db, state, unsettled)
    first = spent(db)
    assert first == (0 if state in ("void", "lapsed") else 100)
    assert payments.expire(db, NOW + 60 + 30, unsettled) == 0
    assert spent(db) == first
    payments.expire(db, NOW + 60 + 31, unsettled)
    assert spent(db) == spent(db, "key", "k") == spent(db, "node", "n") == counted


def test_a_late_settlement_counts_again(db: sqlite3.Connection) -> None:
    """What was released because nobody spoke counts as soon as it turns out to be spent."""
    id = held(db, "expired", "released")
    assert spent(db) == 0
    assert payments.settled(db, id, "0xt")
    assert spent(db) == 100


def test_a_settlement_that_reverted_is_recorded(db: sqlite3.Connection) -> None:
    """A node's settlement that the chain reverted becomes failed, with its transaction, and still counts."""
    id = held(db, "settled")
    assert payments.failed(db, id, "reverted")
    row = payments.find(db, id)
    assert row is not None
    assert (row.state, row.tx, row.reason, row.counted, row.due) == ("failed", "0xt", "reverted", 100, 1)


def test_only_the_chain_gives_a_signed_payment_back(db: sqlite3.Connection) -> None:
    """A nonce that is unused after its time frees the budget; before that, or after a settlement, it does not."""
    id = held(db, "signed")
    assert not payments.unused(db, id)
    payments.expire(db, NOW + 91, "spent")
    assert spent(db) == 100
    assert payments.unused(db, id)
    assert spent(db) == 0
    assert payments.settled(db, id, "0xt")
    assert not payments.unused(db, id)
    assert spent(db) == 100
    assert not payments.unused(db, "pay_none")


def test_a_withheld_answer_lowers_the_nodes_cap(db: sqlite3.Connection) -> None:
    """A node that was paid for an answer nobody could use may earn that much less on the day; others may not."""
    held(db, "paid_unverified")
    assert spent(db, "withheld", "n") == 100
    assert isinstance(payments.reserve(db, order(2, 100, key="x"), "spent"), Held)
    assert payments.reserve(db, order(3, 1, key="y"), "spent") == Denied("budget_node")
    assert isinstance(payments.reserve(db, order(4, 100, key="y", node="m"), "spent"), Held)


def test_a_session_is_noted_by_its_digest(db: sqlite3.Connection) -> None:
    """The digest of a spending session stands with its payment."""
    id = held(db, "signed")
    assert payments.opened(db, id, b"d" * 32)
    assert not payments.opened(db, "pay_none", b"d" * 32)
    row = payments.find(db, id)
    assert row is not None
    assert row.session == b"d" * 32


def test_what_is_not_there_does_not_move(db: sqlite3.Connection) -> None:
    """An unknown id has no moves and is not signed."""
    assert payments.signed(db, "x", b"h") is None
    assert not payments.settled(db, "x", None)
    assert not payments.failed(db, "x", "y")
    assert not payments.unverified(db, "x", "y")
    id = held(db, "lapsed")
    assert payments.signed(db, id, b"h") is None


class Money(RuleBasedStateMachine):
    """Any steps in any order: reservations, signatures, every word of a node, time."""

    unsettled: Unsettled = "spent"

    def __init__(self) -> None:
        super().__init__()
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        for statement in schema.LEDGER_DDL:
            self.db.execute(statement)
        self.now_ms = (DAY + 1) * DAY_MS - 200_000  # midnight comes during the run
        self.count = 0

    def teardown(self) -> None:
        self.db.close()

    ids = st.integers(1, 30).map(lambda n: f"pay_{n}")

    @rule(
        amount=st.integers(1, 130),
        key=st.sampled_from("kl"),
        node=st.sampled_from("mn"),
        asset=st.sampled_from([COIN, OTHER]),
        request=st.integers(1, 12),
        seconds=st.integers(1, 90),
    )
    def reserve(self, amount: int, key: str, node: str, asset: Asset, request: int, seconds: int) -> None:
        self.count += 1
        asked = order(
            self.count, amount, key=key, node=node, asset=asset, request_id=f"r{request}", created_ms=self.now_ms,
            valid_before=self.now_ms // 1000 + seconds,
        )  # fmt: skip
        payments.reserve(self.db, asked, self.unsettled)

    @rule(id=ids)
    def sign(self, id: str) -> None:
        payments.signed(self.db, id, id.encode())

    @rule(id=ids)
    def settle(self, id: str) -> None:
        payments.settled(self.db, id, None)

    @rule(id=ids)
    def fail(self, id: str) -> None:
        payments.failed(self.db, id, "x")

    @rule(id=ids)
    def withhold(self, id: str) -> None:
        payments.unverified(self.db, id, "x")

    @precondition(lambda self: self.unsettled == "released")
    @rule(id=ids)
    def prove_unused(self, id: str) -> None:
        payments.unused(self.db, id)

    @rule(seconds=st.integers(1, 120))
    def wait(self, seconds: int) -> None:
        self.now_ms += seconds * 1000

    @rule()
    def expire(self) -> None:
        payments.expire(self.db, self.now_ms / 1000, self.unsettled)

    def rows(self) -> list[payments.Row]:
        return payments._select(self.db, "1 = 1")

    @invariant()
    def budgets_are_the_sum_of_what_counts(self) -> None:
        sums: dict[tuple[str, str, int, str], int] = defaultdict(int)
        for row in self.rows():
            for scope, name in row.scopes:
                sums[scope, name, row.day, row.asset_id] += row.counted
            if row.state == "paid_unverified":
                sums["withheld", row.node, row.day, row.asset_id] += row.amount
        found = self.db.execute("SELECT scope, name, day, asset, total FROM budget").fetchall()
        assert {tuple(key): int(total) for *key, total in found if total != "0"} == {k: v for k, v in sums.items() if v}

    @invariant()
    def no_cap_is_passed(self) -> None:
        if self.unsettled == "released":
            return  # a settlement that a node told late may pass one: it happened all the same
        limits = {"key": CAPS.per_key_day, "node": CAPS.per_node_day, "all": CAPS.global_day}
        sums: dict[tuple[str, str, int, str], int] = defaultdict(int)
        requests: dict[tuple[str, str], int] = defaultdict(int)
        for row in self.rows():
            # Whatever left the process may be spent, and what is reserved may still leave it.
            if row.header is not None or row.state == "reserved":
                for scope, name in row.scopes:
                    sums[scope, name, row.day, row.asset_id] += row.amount
                requests[row.request_id, row.asset_id] += row.amount
                assert row.counted == row.amount
        assert all(total <= limits[scope] for (scope, *_), total in sums.items())
        assert all(total <= CAPS.per_request for total in requests.values())


class MoneyReleased(Money):
    unsettled: Unsettled = "released"


TestMoney = Money.TestCase
TestMoney.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMoneyReleased = MoneyReleased.TestCase
TestMoneyReleased.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


async def test_a_hundred_at_once_get_ten_places(tmp_path: Path) -> None:
    """Of a hundred parallel orders against a budget for ten, exactly ten are held, and a new start still counts them."""
    path = str(tmp_path / "log.db-payments")
    asset = msgspec.structs.replace(ASSET, caps=Caps(100, 1000, 1000, 1000))
    ledger = Ledger(path)
    found = await asyncio.gather(*[ledger.reserve(order(n, asset=asset)) for n in range(1, 101)])
    assert sum(isinstance(one, Held) for one in found) == 10
    assert await ledger.spent("all", "", DAY, asset.id) == 1000
    ledger.close()
    ledger = Ledger(path)
    assert await ledger.reserve(order(200, 1, asset=asset)) == Denied("budget_key")
    row = await ledger.find("pay_1")
    assert row is not None
    assert row.network == NETWORK
    ledger.close()


async def test_every_step_goes_through_the_thread(tmp_path: Path) -> None:
    """Each method of the ledger does its step on the stored rows."""
    ledger = Ledger(str(tmp_path / "p"))
    for n in (1, 2):
        assert isinstance(await ledger.reserve(order(n)), Held)
        assert await ledger.signed(f"pay_{n}", b"h") == b"h"
    assert await ledger.settled("pay_1", "0xt")
    assert await ledger.opened("pay_1", b"d" * 32)
    assert await ledger.unverified("pay_1", "bad")
    assert await ledger.failed("pay_2", "no", "0xu")
    assert await ledger.expire(NOW + 91) == 1
    assert await ledger.unused("pay_2")
    states = [(row.state, row.tx) for row in (await ledger.find("pay_1"), await ledger.find("pay_2")) if row]
    assert states == [("paid_unverified", "0xt"), ("failed", "0xu")]
    assert ledger.healthy
    ledger.close()
    ledger.close()
    assert not ledger.healthy
    with pytest.raises(LogUnavailable, match="closed"):
        await ledger.find("pay_1")


async def test_one_bad_step_leaves_the_others_alone(tmp_path: Path) -> None:
    """A step that cannot be done takes back what it wrote and disturbs nobody in its transaction."""
    ledger = Ledger(str(tmp_path / "p"))
    taken = order(3, id="pay_1")
    first, bad, last = await asyncio.gather(
        ledger.reserve(order(1)), ledger.reserve(taken), ledger.reserve(order(2)), return_exceptions=True
    )
    assert isinstance(first, Held)
    assert isinstance(bad, LogUnavailable)
    assert isinstance(last, Held)
    assert await ledger.spent("all", "", DAY, COIN.id) == 200
    ledger.close()


async def test_a_caller_that_goes_away_first_reserved_nothing(tmp_path: Path) -> None:
    """An order that was cancelled before its turn is not entered."""
    ledger = Ledger(str(tmp_path / "p"))
    turn = asyncio.Event()
    loop = asyncio.get_running_loop()
    ahead = asyncio.ensure_future(ledger._do(lambda _: asyncio.run_coroutine_threadsafe(turn.wait(), loop).result()))
    await asyncio.sleep(0.05)
    waiting = asyncio.ensure_future(ledger.reserve(order(1)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    turn.set()
    await ahead
    assert await ledger.find("pay_1") is None
    ledger.close()


class Broken:
    """A connection that fails at one statement."""

    def __init__(self, connection: sqlite3.Connection, statement: str, code: int) -> None:
        self.connection, self.statement, self.code = connection, statement, code

    @property
    def in_transaction(self) -> bool:
        return self.connection.in_transaction

    def execute(self, text: str, *values: Any) -> Any:
        if text == self.statement:
            error = sqlite3.OperationalError("made to fail")
            error.sqlite_errorcode = self.code
            raise error
        return self.connection.execute(text, *values)

    def close(self) -> None:
        self.connection.close()


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "COMMIT"])
@pytest.mark.parametrize(("code", "healthy"), [(sqlite3.SQLITE_FULL, True), (sqlite3.SQLITE_IOERR, False)])
async def test_a_failing_disk_reserves_nothing(tmp_path: Path, statement: str, code: int, healthy: bool) -> None:
    """A full disk fails what waits and passes; an I/O error ends the ledger. Neither leaves a row."""
    ledger = Ledger(str(tmp_path / "p"))
    sound = ledger._connection
    ledger._connection = Broken(sound, statement, code)  # type: ignore[assignment]
    with pytest.raises(LogUnavailable):
        await ledger.reserve(order(1))
    ledger._connection = sound
    assert ledger.healthy is healthy
    if healthy:
        assert await ledger.find("pay_1") is None
    else:
        with pytest.raises(LogUnavailable, match="failed"):
            await ledger.find("pay_1")
    assert sound.execute("SELECT count(*) FROM payment").fetchone() == (0,)
    ledger.close()


async def test_what_waits_behind_a_failure_is_refused(tmp_path: Path) -> None:
    """Steps that were queued when the ledger ended are not done."""
    ledger = Ledger(str(tmp_path / "p"))

    def fail(_: sqlite3.Connection) -> None:
        ledger._refuse("ended")

    first = asyncio.ensure_future(ledger._do(fail))
    await first

    future: Future[object] = Future()
    ledger._queue.put((lambda connection: payments.reserve(connection, order(1), "spent"), future))
    with pytest.raises(LogUnavailable, match="ended"):
        await asyncio.wrap_future(future)
    ledger.close()


def test_the_ledger_has_one_owner_and_its_own_file(tmp_path: Path) -> None:
    """A second process is refused, and so are the log's database in its place and a folder that is not there."""
    path = str(tmp_path / "p")
    ledger = Ledger(path)
    assert (tmp_path / "p").stat().st_mode & 0o777 == 0o600
    with pytest.raises(LogRefused, match="already"):
        Ledger(path)
    ledger.close()
    Ledger(path).close()
    log = str(tmp_path / "log.db")
    engine.open_writer(log).close()
    for _ in range(2):  # the lock is free again after a refusal
        with pytest.raises(LogRefused, match="not a veriroute ledger"):
            Ledger(log)
    with pytest.raises(ConfigError):
        Ledger(str(tmp_path / "none" / "p"))
    assert ledger_path(f"sqlite:///{log}") == log + "-payments"
