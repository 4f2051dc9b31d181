"""The tables, as SQLModel columns and nothing else: the one place where the schema is designed.

The writer and the readers use the driver directly (ten times less CPU a row) and never import this file;
`schema.py` holds the DDL that SQLModel makes of it, and a test compares the two.

Choices that cost or save on every commit:

- `idx`, the place in the log, is the primary key wherever a row belongs to a leaf: SQLite's own row number, so rows are
  appended at the end of one B-tree and there is no second one.
- `receipt.id` has the only unique index on the hot path; lookups by key use (key_id) alone, since an SQLite index ends
  in the row number, which is `idx`.
- `receipt_request` and `receipt_verdict` are partial: a receipt without a client's request id, or with the ordinary
  verdict, costs nothing there.
- There is no per-batch state row: the newest `checkpoint` is the state, signed; the frontier is recomputed at start.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, UniqueConstraint, text
from sqlmodel import Field, SQLModel


def _time(*, nullable: bool = False) -> Column:  # type: ignore[type-arg]
    """Milliseconds since the epoch; 64 bits also where INTEGER has 32."""
    return Column(BigInteger().with_variant(Integer(), "sqlite"), nullable=nullable)


class LogState(SQLModel, table=True):
    """Whose log this is. One row, written when the log is created; `settled`: every intent below it was closed."""

    __tablename__ = "log_state"
    id: int = Field(primary_key=True)
    origin: str
    vkey: str
    created_ms: int = Field(sa_column=_time())
    settled: int = Field(sa_column=_time())


class Leaf(SQLModel, table=True):
    """The log: exact entry bytes and their RFC 6962 leaf hash."""

    __tablename__ = "leaf"
    idx: int = Field(primary_key=True)
    hash: bytes
    leaf: bytes


class Node(SQLModel, table=True):
    """Roots of full tiles: the complete subtree of 2**level leaves (level 8, 16, …) number `n`."""

    __tablename__ = "node"
    __table_args__ = {"sqlite_with_rowid": False}
    level: int = Field(primary_key=True)
    n: int = Field(primary_key=True)
    hash: bytes


class Checkpoint(SQLModel, table=True):
    """Every signed checkpoint, as the note. The newest is the state of the log."""

    __tablename__ = "checkpoint"
    size: int = Field(primary_key=True)
    note: bytes
    created_ms: int = Field(sa_column=_time())


class Record(SQLModel, table=True):
    """The document behind every leaf that is no receipt; an intent's `id` is that of its receipt."""

    __tablename__ = "record"
    idx: int = Field(primary_key=True)
    kind: str
    id: str
    created_ms: int = Field(sa_column=_time())
    envelope: bytes


class Receipt(SQLModel, table=True):
    """Query columns of a receipt (`gateway.model.entry.ReceiptRow`), the place of its intent, its envelope, and the
    node's own receipt for the answer."""

    __tablename__ = "receipt"
    __table_args__ = (
        Index("receipt_key", "key_id"),
        Index("receipt_request", "client_request_id", "key_id", sqlite_where=text("client_request_id IS NOT NULL")),
        Index("receipt_verdict", "verdict", sqlite_where=text("verdict <> 'affirming'")),
    )
    idx: int = Field(primary_key=True)
    id: str = Field(sa_column_kwargs={"unique": True})
    intent: int | None
    key_id: str
    client_request_id: str | None
    created_ms: int = Field(sa_column=_time())
    verdict: str
    release: str
    reason: str | None
    policy: str
    network: str | None
    node: str | None
    model: str | None
    endpoint: str
    stream: int
    status: int
    latency_ms: float
    envelope: bytes
    evidence: bytes | None


class Opening(SQLModel, table=True):
    """What erasure deletes: the seed of a receipt's salts, and the payloads that policy kept. `idx` as in `receipt`."""

    __tablename__ = "opening"
    idx: int = Field(primary_key=True)
    seed: bytes
    request: bytes | None
    response: bytes | None


class Evidence(SQLModel, table=True):
    """Archived evidence by the hex SHA-256 of its bytes; quotes repeat across receipts and are stored once."""

    __tablename__ = "evidence"
    sha256: str = Field(primary_key=True)
    media_type: str
    created_ms: int = Field(sa_column=_time())
    bytes: bytes


class Session(SQLModel, table=True):
    """Attested sessions by their content address."""

    __tablename__ = "session"
    id: str = Field(primary_key=True)
    node: str
    created_ms: int = Field(sa_column=_time())
    document: bytes


class ApiKey(SQLModel, table=True):
    """API keys: a digest of the key, never the key. `scopes` is a list joined by spaces."""

    __tablename__ = "api_key"
    id: str = Field(primary_key=True)
    name: str
    digest: bytes
    policy: str | None
    scopes: str
    created_ms: int = Field(sa_column=_time())
    revoked_ms: int | None = Field(sa_column=_time(nullable=True))
    last4: str


class AdminEvent(SQLModel, table=True):
    """What other processes did and the running gateway still has to log (`done` = 0): an outbox for leaves."""

    __tablename__ = "admin_event"
    __table_args__ = {"sqlite_autoincrement": True}
    seq: int = Field(primary_key=True)
    kind: str
    document: bytes
    created_ms: int = Field(sa_column=_time())
    done: int


class Counter(SQLModel, table=True):
    """Named numbers; `generation` rises with every change that a running gateway has to notice."""

    __tablename__ = "counter"
    name: str = Field(primary_key=True)
    value: int


class AuditEpoch(SQLModel, table=True):
    """Epochs of sampled audits whose seed the log does not have yet: a secret until then. `first` is a log index below
    which the log has nothing of the epoch."""

    __tablename__ = "audit_epoch"
    id: str = Field(primary_key=True)
    seed: bytes
    first: int
    begin_ms: int = Field(sa_column=_time())
    end_ms: int = Field(sa_column=_time())
    reveal_by_ms: int = Field(sa_column=_time())


class Audited(SQLModel, table=True):
    """Receipts whose audit was decided, by their index: where the span of doubt of a later failure begins."""

    __tablename__ = "audited"
    idx: int = Field(primary_key=True)
    node: str
    passed: int


class Doubt(SQLModel, table=True):
    """For each failed audit (`idx` of its receipt) the receipts of the node that it puts in doubt: [first, last]."""

    __tablename__ = "doubt"
    idx: int = Field(primary_key=True)
    node: str
    first: int
    last: int


class Dictionary(SQLModel, table=True):
    """What documents are packed against (`gateway.storage.packing`)."""

    __tablename__ = "dictionary"
    id: int = Field(primary_key=True)
    bytes: bytes


class Payment(SQLModel, table=True):
    """One authorization to pay, in the ledger's own file. Amounts are decimal text: they may need 256 bits.

    `counted` is what it takes from the budgets of the day it was made; the sum of `counted` and the row of `budget`
    always agree. `due` = 1 while its expiry still decides something. `header` is the signed payment, once there is one;
    `session` the SHA-256 of the spending session that it opened.
    """

    __tablename__ = "payment"
    __table_args__ = (
        UniqueConstraint("request_id", "node"),
        UniqueConstraint("nonce"),
        Index("payment_due", "valid_before", sqlite_where=text("due = 1")),
    )
    id: str = Field(primary_key=True)
    request_id: str
    key_id: str
    node: str
    network: str
    asset: str
    pay_to: str
    amount: str
    counted: str
    nonce: bytes
    salt: bytes
    valid_after: int = Field(sa_column=_time())
    valid_before: int = Field(sa_column=_time())
    state: str
    due: int
    header: bytes | None
    tx: str | None
    reason: str | None
    session: bytes | None
    created_ms: int = Field(sa_column=_time())


class Budget(SQLModel, table=True):
    """What was spent in one scope (`key`, `node`, `all`, `withheld`) on one day of UTC, of one asset."""

    __tablename__ = "budget"
    __table_args__ = {"sqlite_with_rowid": False}
    scope: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    day: int = Field(primary_key=True)
    asset: str = Field(primary_key=True)
    total: str
