"""The schema as DDL text, so that starting the gateway imports no ORM. A test holds it equal to what `tables.py` emits.

There are two files: the log's, and the ledger of payments beside it, each with its own number and version. `VERSION`
is kept in the file's `user_version`, `APPLICATION_ID` in its header, where `file` and we look for it.
"""

from __future__ import annotations

from typing import NamedTuple

#: 2: documents are packed (`gateway.storage.packing`), which a program that writes version 1 cannot read. One of
#: version 1 is read as it is, and is of version 2 from when it is first opened for writing.
VERSION = 2
READ = (1, VERSION)
APPLICATION_ID = 0x7672_3031  # "vr01"

#: What documents are packed against; a database of version 1 has none.
DICTIONARY = """CREATE TABLE dictionary (
        id INTEGER NOT NULL,
        bytes BLOB NOT NULL,
        PRIMARY KEY (id)
    )"""

#: What sampled audits keep beside the log. A database that was begun before there were any gets these tables when it is
#: opened for writing, under the same version: a program that does not know them is not disturbed by them.
AUDITS: tuple[str, ...] = (
    """CREATE TABLE audit_epoch (
        id VARCHAR NOT NULL,
        seed BLOB NOT NULL,
        first INTEGER NOT NULL,
        begin_ms INTEGER NOT NULL,
        end_ms INTEGER NOT NULL,
        reveal_by_ms INTEGER NOT NULL,
        PRIMARY KEY (id)
    )""",
    """CREATE TABLE audited (
        idx INTEGER NOT NULL,
        node VARCHAR NOT NULL,
        passed INTEGER NOT NULL,
        PRIMARY KEY (idx)
    )""",
    """CREATE TABLE doubt (
        idx INTEGER NOT NULL,
        node VARCHAR NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL,
        PRIMARY KEY (idx)
    )""",
)

#: Statements in the order in which they run, inside one transaction.
DDL: tuple[str, ...] = (
    """CREATE TABLE log_state (
        id INTEGER NOT NULL,
        origin VARCHAR NOT NULL,
        vkey VARCHAR NOT NULL,
        created_ms INTEGER NOT NULL,
        settled INTEGER NOT NULL,
        PRIMARY KEY (id)
    )""",
    """CREATE TABLE leaf (
        idx INTEGER NOT NULL,
        hash BLOB NOT NULL,
        leaf BLOB NOT NULL,
        PRIMARY KEY (idx)
    )""",
    """CREATE TABLE node (
        level INTEGER NOT NULL,
        n INTEGER NOT NULL,
        hash BLOB NOT NULL,
        PRIMARY KEY (level, n)
    ) WITHOUT ROWID""",
    """CREATE TABLE checkpoint (
        size INTEGER NOT NULL,
        note BLOB NOT NULL,
        created_ms INTEGER NOT NULL,
        PRIMARY KEY (size)
    )""",
    """CREATE TABLE record (
        idx INTEGER NOT NULL,
        kind VARCHAR NOT NULL,
        id VARCHAR NOT NULL,
        created_ms INTEGER NOT NULL,
        envelope BLOB NOT NULL,
        PRIMARY KEY (idx)
    )""",
    """CREATE TABLE receipt (
        idx INTEGER NOT NULL,
        id VARCHAR NOT NULL,
        intent INTEGER,
        key_id VARCHAR NOT NULL,
        client_request_id VARCHAR,
        created_ms INTEGER NOT NULL,
        verdict VARCHAR NOT NULL,
        release VARCHAR NOT NULL,
        reason VARCHAR,
        policy VARCHAR NOT NULL,
        network VARCHAR,
        node VARCHAR,
        model VARCHAR,
        endpoint VARCHAR NOT NULL,
        stream INTEGER NOT NULL,
        status INTEGER NOT NULL,
        latency_ms FLOAT NOT NULL,
        envelope BLOB NOT NULL,
        evidence BLOB,
        PRIMARY KEY (idx),
        UNIQUE (id)
    )""",
    "CREATE INDEX receipt_key ON receipt (key_id)",
    "CREATE INDEX receipt_request ON receipt (client_request_id, key_id) WHERE client_request_id IS NOT NULL",
    "CREATE INDEX receipt_verdict ON receipt (verdict) WHERE verdict <> 'affirming'",
    """CREATE TABLE opening (
        idx INTEGER NOT NULL,
        seed BLOB NOT NULL,
        request BLOB,
        response BLOB,
        PRIMARY KEY (idx)
    )""",
    """CREATE TABLE evidence (
        sha256 VARCHAR NOT NULL,
        media_type VARCHAR NOT NULL,
        created_ms INTEGER NOT NULL,
        bytes BLOB NOT NULL,
        PRIMARY KEY (sha256)
    )""",
    """CREATE TABLE session (
        id VARCHAR NOT NULL,
        node VARCHAR NOT NULL,
        created_ms INTEGER NOT NULL,
        document BLOB NOT NULL,
        PRIMARY KEY (id)
    )""",
    """CREATE TABLE api_key (
        id VARCHAR NOT NULL,
        name VARCHAR NOT NULL,
        digest BLOB NOT NULL,
        policy VARCHAR,
        scopes VARCHAR NOT NULL,
        created_ms INTEGER NOT NULL,
        revoked_ms INTEGER,
        last4 VARCHAR NOT NULL,
        PRIMARY KEY (id)
    )""",
    """CREATE TABLE admin_event (
        seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        kind VARCHAR NOT NULL,
        document BLOB NOT NULL,
        created_ms INTEGER NOT NULL,
        done INTEGER NOT NULL
    )""",
    """CREATE TABLE counter (
        name VARCHAR NOT NULL,
        value INTEGER NOT NULL,
        PRIMARY KEY (name)
    )""",
    *AUDITS,
    DICTIONARY,
)

#: Rows that every database begins with.
SEED: tuple[str, ...] = ("INSERT INTO counter VALUES ('generation', 0)",)

#: The ledger is a file of its own. SQLite has one writer a file, and a payment that waits for its sync must never make
#: the log wait; and so a log that was begun before there were payments opens as it is.
LEDGER_VERSION = 1
LEDGER_APPLICATION_ID = 0x7672_3070  # "vr0p"

LEDGER_DDL: tuple[str, ...] = (
    """CREATE TABLE payment (
        id VARCHAR NOT NULL,
        request_id VARCHAR NOT NULL,
        key_id VARCHAR NOT NULL,
        node VARCHAR NOT NULL,
        network VARCHAR NOT NULL,
        asset VARCHAR NOT NULL,
        pay_to VARCHAR NOT NULL,
        amount VARCHAR NOT NULL,
        counted VARCHAR NOT NULL,
        nonce BLOB NOT NULL,
        salt BLOB NOT NULL,
        valid_after INTEGER NOT NULL,
        valid_before INTEGER NOT NULL,
        state VARCHAR NOT NULL,
        due INTEGER NOT NULL,
        header BLOB,
        tx VARCHAR,
        reason VARCHAR,
        session BLOB,
        created_ms INTEGER NOT NULL,
        PRIMARY KEY (id),
        UNIQUE (request_id, node),
        UNIQUE (nonce)
    )""",
    "CREATE INDEX payment_due ON payment (valid_before) WHERE due = 1",
    """CREATE TABLE budget (
        scope VARCHAR NOT NULL,
        name VARCHAR NOT NULL,
        day INTEGER NOT NULL,
        asset VARCHAR NOT NULL,
        total VARCHAR NOT NULL,
        PRIMARY KEY (scope, name, day, asset)
    ) WITHOUT ROWID""",
)


class Layout(NamedTuple):
    """What a file of ours holds when it is new, and the numbers by which it is known again.

    `read`: the versions that can be opened. `added`: tables among them that an older file may lack.
    """

    what: str
    statements: tuple[str, ...]
    application_id: int
    version: int
    read: tuple[int, ...]
    added: tuple[str, ...] = ()


LOG = Layout("database", (*DDL, *SEED), APPLICATION_ID, VERSION, READ, (*AUDITS, DICTIONARY))
LEDGER = Layout("ledger of payments", LEDGER_DDL, LEDGER_APPLICATION_ID, LEDGER_VERSION, (LEDGER_VERSION,))
