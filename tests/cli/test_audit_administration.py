"""`veriroute audit verify` on API keys and acts of administration: what was changed beside the log is found, and no
honest database is accused, whatever the gateway had no time to enter yet."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from stored_log import StoredLog

from gateway.cli import keys as keys_command
from gateway.cli import main
from gateway.model.receipt import Caller
from gateway.storage import scan
from gateway.storage.blobs import mark_done
from gateway.storage.reads import Reader
from gateway.storage.scan import Scan
from gateway.storage.writes import AdminWriter


class Administered:
    """A stored log, the command line on its database, and what a gateway does with what that leaves."""

    def __init__(self, folder: Path) -> None:
        self.log = StoredLog(folder, 2)
        self.path = self.log.path
        self.config = folder / "veriroute.toml"
        self.config.write_text(f'[storage]\nurl = "sqlite:///{self.path}"\n')

    def keys(self, *args: str) -> Any:
        out = StringIO()
        with redirect_stdout(out):
            assert main(["keys", *args, "--json", "--config", str(self.config)]) == 0
        return json.loads(out.getvalue())

    def create(self, name: str, *args: str) -> str:
        return str(self.keys("create", "--name", name, *args)["id"])

    def enter(self, *, mark: bool = True, limit: int = 100) -> None:
        """Enter what waits, and mark it, as a running gateway does."""
        with Reader(self.path) as reader:
            events = reader.pending_events(limit)
        for event in events:
            self.log.add_event(event.kind, json.loads(event.document))
        self.log.commit()
        if mark:
            with self.sql() as connection:
                for event in events:
                    mark_done(event.seq)(connection)

    @contextmanager
    def sql(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path)) as connection:
            yield connection
            connection.commit()

    def change(self, *statements: str) -> None:
        with self.sql() as connection:
            for statement in statements:
                assert connection.execute(statement).rowcount, statement

    def audit(self, *args: str) -> tuple[int, dict[str, Any]]:
        """The exit code, and the lines of both steps."""
        out = StringIO()
        command = ["audit", "verify", self.path, "--trust", self.log.trust, "--memory", self.log.memory, "--json"]
        with redirect_stdout(out):
            code = main([*command, *args])
        lines = {line["step"]: line for line in json.loads(out.getvalue())["lines"]}
        other = {step: line["outcome"] for step, line in lines.items() if step not in ("keys", "acts", "witnessed")}
        assert set(other.values()) == {"affirming"}, other
        return code, {step: lines[step] for step in ("keys", "acts")}

    def outcomes(self, *args: str) -> tuple[int, str, str]:
        code, lines = self.audit(*args)
        return code, lines["keys"]["outcome"], lines["acts"]["outcome"]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Administered:
    """Three keys, the second revoked, and an export, all entered."""
    found = Administered(tmp_path_factory.mktemp("administered"))
    found.create("one", "--policy", "signed")
    second = found.create("two", "--scope", "inference", "--scope", "admin")
    found.create("three")
    found.keys("revoke", second)
    out = str(Path(found.path).parent / "export")
    with redirect_stdout(StringIO()):
        assert main(["audit", "export", found.path, "--out", out]) == 0
    found.enter()
    return found


@pytest.fixture
def log(pristine: Administered, tmp_path: Path) -> Administered:
    shutil.copytree(Path(pristine.path).parent, tmp_path / "copy")
    copy = Administered.__new__(Administered)
    copy.log, copy.path, copy.config = StoredLog.__new__(StoredLog), str(tmp_path / "copy/veriroute.db"), tmp_path / "c"
    copy.log.path, copy.log.memory = copy.path, copy.path + ".checkpoint"
    copy.log.world, copy.log.entries, copy.log.trust = pristine.log.world, [], pristine.log.trust
    copy.config.write_text(f'[storage]\nurl = "sqlite:///{copy.path}"\n')
    return copy


def test_keys_and_acts_of_the_command_line_are_those_of_the_log(log: Administered):
    """What was made, revoked and exported is affirmed with its number."""
    code, lines = log.audit()
    assert (code, lines["keys"]["outcome"], lines["acts"]["outcome"]) == (0, "affirming", "affirming")
    assert lines["keys"]["sentence"].startswith("3 keys are stored as entries of the log made and revoked them")
    assert lines["acts"]["sentence"].startswith("5 acts of the command line")


KEY = "(SELECT id FROM api_key WHERE name = 'two')"
ANOTHER = "INSERT INTO api_key SELECT 'key_beef', 'four', zeroblob(32), NULL, 'admin', created_ms, NULL, 'abcd' FROM api_key LIMIT 1"
UNTYPED = (
    "ALTER TABLE api_key RENAME TO old",
    "CREATE TABLE api_key (id, name, digest, policy, scopes, created_ms, revoked_ms, last4)",
    "INSERT INTO api_key SELECT * FROM old",
)
CHANGES: dict[str, tuple[tuple[str, ...], set[str], str]] = {
    "unrevoked": (
        ("UPDATE api_key SET revoked_ms = NULL WHERE name = 'two'",),
        {"keys"},
        "is stored as in force, and entry 8 revoked it",
    ),
    "unrevoked_with_its_act": (
        ("UPDATE api_key SET revoked_ms = NULL WHERE name = 'two'", "DELETE FROM admin_event WHERE seq = 4"),
        {"keys", "acts"},
        "is stored as in force, and entry 8 revoked it",
    ),
    "revoked_at_another_time": (
        ("UPDATE api_key SET revoked_ms = 1 WHERE name = 'two'",),
        {"keys"},
        "another revoked_ms",
    ),
    "revoked": (
        ("UPDATE api_key SET revoked_ms = 1 WHERE name = 'one'",),
        {"keys"},
        "is stored as revoked, and no entry of the log revoked it",
    ),
    "wider_scope": (
        ("UPDATE api_key SET scopes = 'inference admin' WHERE name = 'one'",),
        {"keys"},
        "is stored with another scopes than that of entry 5",
    ),
    "other_space_between_scopes": (
        ("UPDATE api_key SET scopes = 'inference' || char(9) || 'admin' WHERE name = 'two'",),
        {"keys"},
        "another scopes",
    ),
    "another_policy": (("UPDATE api_key SET policy = 'lax' WHERE name = 'one'",), {"keys"}, "another policy than"),
    "no_policy": (("UPDATE api_key SET policy = NULL WHERE name = 'one'",), {"keys"}, "another policy than"),
    "another_secret": (
        ("UPDATE api_key SET digest = zeroblob(32) WHERE name = 'one'",),
        {"keys"},
        "another name, digest or last4",
    ),
    "secrets_swapped": (
        ("UPDATE api_key SET digest = (SELECT digest FROM api_key WHERE name = 'three') WHERE name = 'one'",),
        {"keys"},
        "another name, digest or last4",
    ),
    "another_name": (
        ("UPDATE api_key SET name = 'ops' WHERE name = 'one'",),
        {"keys"},
        "another name, digest or last4",
    ),
    "name_no_text": (
        ("UPDATE api_key SET name = CAST(x'ff' AS TEXT) WHERE name = 'one'",),
        {"keys"},
        "another name, digest or last4",
    ),
    "digest_text": (
        ("UPDATE api_key SET digest = 'x' WHERE name = 'one'",),
        {"keys"},
        "another name, digest or last4",
    ),
    "another_ending": (("UPDATE api_key SET last4 = 'zzzz' WHERE name = 'one'",), {"keys"}, "name, digest or last4"),
    "another_time": (("UPDATE api_key SET created_ms = 1 WHERE name = 'one'",), {"keys"}, "another created_ms"),
    "scopes_a_blob": (
        ("UPDATE api_key SET scopes = CAST(scopes AS BLOB) WHERE name = 'one'",),
        {"keys"},
        "another scopes",
    ),
    "another_id": (
        ("UPDATE api_key SET id = 'key_beef' WHERE name = 'one'",),
        {"keys"},
        "key 'key_beef' is stored, and no",
    ),
    "id_a_blob": (
        ("UPDATE api_key SET id = CAST(id AS BLOB) WHERE name = 'one'",),
        {"keys"},
        "is stored, and no entry of the log made it",
    ),
    "key_added": ((ANOTHER,), {"keys"}, "key 'key_beef' is stored, and no entry of the log made it"),
    "key_added_with_an_act": (
        (
            ANOTHER,
            "INSERT INTO admin_event SELECT 99, 'key', CAST(replace(CAST(document AS TEXT), '\"policy\"', '\"p\"') AS BLOB),"
            " created_ms, 1 FROM admin_event WHERE seq = 1",
        ),
        {"keys", "acts"},
        "key 'key_beef' is stored, and no entry of the log made it",
    ),
    "key_deleted": (("DELETE FROM api_key WHERE name = 'one'",), {"keys"}, "which entry 5 made, is not stored"),
    "revoked_key_deleted_with_its_acts": (
        ("DELETE FROM api_key WHERE name = 'two'", "DELETE FROM admin_event WHERE seq IN (2, 4)"),
        {"keys", "acts"},
        "which entry 6 made, is not stored",
    ),
    "keys_emptied": (("DELETE FROM api_key",), {"keys"}, "is not stored"),
    "key_twice": ((*UNTYPED, "INSERT INTO api_key SELECT * FROM old"), {"keys"}, "is stored twice"),
    "act_deleted": (("DELETE FROM admin_event WHERE seq = 1",), {"acts"}, "the act of entry 5 is not stored"),
    "newest_act_deleted": (("DELETE FROM admin_event WHERE seq = 5",), {"acts"}, "the act of entry 9 is not stored"),
    "acts_emptied": (("DELETE FROM admin_event",), {"acts"}, "the act of entry 5 is not stored"),
    "act_altered": (
        ("UPDATE admin_event SET document = replace(CAST(document AS TEXT), 'jsonl', 'csv') WHERE seq = 5",),
        {"acts"},
        "the document of act 5 (export) is none that a command leaves",
    ),
    "act_altered_in_its_type": (
        (
            "UPDATE admin_event SET document = CAST(replace(CAST(document AS TEXT), 'jsonl', 'csv') AS BLOB) WHERE seq = 5",
        ),
        {"acts"},
        "act 5 (export) is marked as logged, and no entry of the log has it",
    ),
    "act_no_json": (
        ("UPDATE admin_event SET document = x'5b5d' WHERE seq = 5",),
        {"acts"},
        "the document of act 5 (export)",
    ),
    "act_of_another_kind": (
        ("UPDATE admin_event SET kind = 'config' WHERE seq = 5",),
        {"acts"},
        "act 5 (config) is marked as logged",
    ),
    "act_of_no_kind": (
        ("UPDATE admin_event SET kind = 'erasure', done = 0 WHERE seq = 5",),
        {"acts"},
        "act 5 is of kind 'erasure', which no command leaves",
    ),
    "act_of_a_kind_that_is_no_text": (
        ("UPDATE admin_event SET kind = x'6b6579' WHERE seq = 5",),
        {"acts"},
        "act 5 is of kind b'key'",
    ),
    "act_at_another_time": (
        ("UPDATE admin_event SET created_ms = 1 WHERE seq = 1",),
        {"acts"},
        "act 1 (key) is stored with another time",
    ),
    "act_at_no_time": (
        ("UPDATE admin_event SET created_ms = 'x' WHERE seq = 5",),
        {"acts"},
        "act 5 (export) is stored with another time",
    ),
    "act_twice": (
        ("INSERT INTO admin_event SELECT 99, kind, document, created_ms, done FROM admin_event WHERE seq = 5",),
        {"acts"},
        "act 99 is that of entry 9, and stored twice",
    ),
    "act_that_would_never_be_entered": (
        ("UPDATE admin_event SET done = 2 WHERE seq = 5",),
        {"acts"},
        "act 5 (export) is marked neither as logged nor as waiting",
    ),
}


@pytest.mark.parametrize(("statements", "steps", "word"), CHANGES.values(), ids=CHANGES.keys())
def test_what_was_changed_beside_the_log_is_found(
    log: Administered, statements: tuple[str, ...], steps: set[str], word: str
):
    """One edited, added or missing key or act makes the audit fail, and the line says which."""
    with log.sql() as connection:
        for statement in statements:
            connection.execute(statement)
    code, lines = log.audit()
    assert code == 1
    assert {step for step, line in lines.items() if line["outcome"] == "contraindicated"} == steps, lines
    assert any(word in line["sentence"] for line in lines.values()), lines


def test_a_marked_act_that_waited_is_found(log: Administered):
    """Whoever marks an act that waits keeps the gateway from entering it; both are named."""
    key = log.create("four")
    log.change("UPDATE admin_event SET done = 1 WHERE seq = 6")
    code, lines = log.audit()
    assert (code, lines["acts"]["outcome"], lines["keys"]["outcome"]) == (1, "contraindicated", "contraindicated")
    assert lines["acts"]["sentence"] == "act 6 (key) is marked as logged, and no entry of the log has it"
    assert lines["keys"]["sentence"] == f"key '{key}' is stored, and no entry of the log made it"


def test_an_act_that_waits_cannot_explain_another_key(log: Administered):
    """What waits for its entry is the command line's alone: it makes no key anew, and none that was not made ends."""
    with closing(sqlite3.connect(log.path)) as connection:
        document, ms = connection.execute("SELECT document, created_ms FROM admin_event WHERE seq = 1").fetchone()
    wider = json.dumps({**json.loads(document), "scopes": ["admin"]}).encode()
    with AdminWriter(log.path) as admin:
        admin.add_event("key", wider, ms)
    log.change("UPDATE api_key SET scopes = 'admin' WHERE name = 'one'")
    code, lines = log.audit()
    assert (code, lines["keys"]["outcome"]) == (1, "contraindicated")
    assert lines["keys"]["sentence"].startswith("act 6, which waits, makes key")
    assert lines["keys"]["detail"] == "and 1 more"


def test_keys_made_while_no_gateway_ran_are_a_warning(log: Administered):
    """They are stored before they are in the log, and the next start enters them: said, and no fault."""
    log.create("four")
    new = log.create("five")
    log.keys("revoke", new)
    with closing(sqlite3.connect(log.path)) as connection:
        (old,) = connection.execute("SELECT id FROM api_key WHERE name = 'one'").fetchone()
    log.keys("revoke", old)
    code, lines = log.audit()
    assert (code, lines["keys"]["outcome"], lines["acts"]["outcome"]) == (0, "warning", "warning")
    assert lines["keys"]["sentence"].startswith("3 of 5 keys rest on acts that wait for their entry in the log")
    assert lines["acts"]["sentence"].startswith("4 of 9 acts wait for their entry in the log")
    assert lines["acts"]["sentence"].endswith("act 6 is the first")


def test_before_a_first_start_keys_wait(tmp_path: Path):
    """A database that has never seen a gateway's entry of them is no tampered one."""
    made = Administered(tmp_path)
    made.create("one")
    assert made.outcomes() == (0, "warning", "warning")
    made.enter()
    assert made.outcomes() == (0, "affirming", "affirming")


def test_a_crash_between_entry_and_mark_is_no_fault(tmp_path: Path):
    """An act that was entered and not marked is in the log; entered again after the restart, it is there twice."""
    made = Administered(tmp_path)
    made.keys("revoke", made.create("one"))
    made.enter(mark=False, limit=1)
    assert made.outcomes() == (0, "warning", "warning")  # the revocation waits
    made.enter(mark=False)
    assert made.outcomes() == (0, "affirming", "affirming")
    made.enter()
    assert made.outcomes() == (0, "affirming", "affirming")


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What is to happen after an audit has looked where the log ends."""
    acts: list[Any] = []
    opened = Scan.__init__

    def init(self: Scan, path: str) -> None:
        opened(self, path)
        while acts:
            acts.pop(0)()

    monkeypatch.setattr(Scan, "__init__", init)
    yield acts
    assert not acts


def test_a_gateway_that_serves_meanwhile_is_no_fault(log: Administered, meanwhile: list[Any]):
    """What was left, entered and marked while the audit ran stands behind what it looks at: it counts as waiting."""
    first = log.create("four")
    meanwhile += [log.enter, lambda: log.create("five"), lambda: log.keys("revoke", first), log.enter]
    code, lines = log.audit()
    assert (code, lines["keys"]["outcome"], lines["acts"]["outcome"]) == (0, "warning", "warning")
    assert lines["acts"]["sentence"].startswith("3 of 8 acts wait")
    assert log.outcomes() == (0, "affirming", "affirming")


def test_keys_of_an_earlier_version_are_undecided_while_they_are_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Their entries have no digest of name and secret: what they do have is checked, and the rest is not affirmed."""
    made = Administered(tmp_path)
    whole = keys_command._document
    with monkeypatch.context() as patch:
        patch.setattr(keys_command, "_document", lambda event: whole({k: v for k, v in event.items() if k != "row"}))
        old = made.create("old")
    made.create("new")
    made.enter()
    code, lines = made.audit()
    assert (code, lines["keys"]["outcome"], lines["acts"]["outcome"]) == (3, "none", "affirming")
    assert lines["keys"]["sentence"].startswith("1 keys in force were made by an earlier version")
    assert old in lines["keys"]["detail"]
    made.keys("revoke", old)
    made.enter()
    code, lines = made.audit()
    assert (code, lines["keys"]["outcome"]) == (0, "affirming")
    assert lines["keys"]["sentence"].endswith("of 1 revoked ones, made by an earlier version, without name and secret")
    for column, value in (("scopes", "admin"), ("name", b"x"), ("digest", "x"), ("last4", b"x"), ("revoked_ms", None)):
        with made.sql() as connection:
            (kept,) = connection.execute(f"SELECT {column} FROM api_key WHERE name = 'old'").fetchone()
            connection.execute(f"UPDATE api_key SET {column} = ? WHERE id = ?", (value, old))
        assert made.outcomes() == (1, "contraindicated", "affirming"), column
        with made.sql() as connection:
            connection.execute(f"UPDATE api_key SET {column} = ? WHERE id = ?", (kept, old))
    assert made.outcomes() == (0, "affirming", "affirming")


def test_many_acts_that_wait_are_undecided(log: Administered, monkeypatch: pytest.MonkeyPatch):
    """Beyond a number it is not kept which waited when the audit began: then nothing is affirmed, nor accused."""
    monkeypatch.setattr(scan, "MANY_ACTS", 2)
    assert log.outcomes() == (0, "affirming", "affirming")
    log.create("four")
    assert log.outcomes() == (0, "warning", "warning")
    log.create("five")
    assert log.outcomes() == (3, "none", "none")
    log.change("UPDATE api_key SET revoked_ms = NULL WHERE name = 'two'")
    assert log.outcomes() == (1, "contraindicated", "none")


def test_an_act_that_this_version_does_not_know_is_undecided(log: Administered):
    """A newer version may do more to keys than to make and revoke them: what came of it cannot be told."""
    with AdminWriter(log.path) as admin:
        admin.add_event("key", b'{"act": "rename", "keyId": "key_1", "timeMs": 5, "nonce": "n"}', 5)
    assert log.outcomes() == (3, "none", "warning")
    log.enter()
    code, lines = log.audit()
    assert (code, lines["keys"]["outcome"], lines["acts"]["outcome"]) == (3, "none", "affirming")
    assert lines["keys"]["sentence"] == "entry 10 says of a key what this version cannot read"


def test_receipts_are_of_keys_that_the_log_has(tmp_path: Path):
    """A key serves from its row on, so its entry may come later or wait; one that was put beside the log, and taken away
    again, is named by what it asked. Callers without a key have other names."""
    made = Administered(tmp_path)
    early, late = made.create("early"), made.create("late")
    made.enter(limit=1)
    for number, caller in enumerate(("local", "veriroute:canary", early, late, late), 2):
        made.log.add_exchange(number, caller=Caller(caller))
    made.log.commit()
    assert made.outcomes() == (0, "warning", "warning")
    made.enter()
    assert made.outcomes() == (0, "affirming", "affirming")
    for number in (7, 8):
        made.log.add_exchange(number, caller=Caller("key_0123456789ab"))
    made.log.commit()
    code, lines = made.audit()
    assert (code, lines["keys"]["outcome"], lines["acts"]["outcome"]) == (1, "contraindicated", "affirming")
    sentence = "the receipt of entry 18 is of key 'key_0123456789ab', which no entry of the log made"
    assert (lines["keys"]["sentence"], lines["keys"].get("detail")) == (sentence, None)
    with AdminWriter(made.path) as admin:  # of which key a newer version says something cannot be told
        admin.add_event("key", b'{"act": "rename", "keyId": "key_0123456789ab", "timeMs": 5, "nonce": "n"}', 5)
    assert made.outcomes() == (3, "none", "warning")


@pytest.mark.parametrize("table", ["api_key", "admin_event"])
def test_without_its_table_nothing_is_affirmed(log: Administered, table: str, capsys: pytest.CaptureFixture[str]):
    """A table that was dropped is no empty one."""
    with log.sql() as connection:
        connection.execute(f"DROP TABLE {table}")
    assert main(["audit", "verify", log.path, "--trust", log.log.trust, "--memory", log.log.memory]) == 2
    assert f"no such table: {table}" in capsys.readouterr().err


def test_other_processes_report_acts_too(log: Administered, monkeypatch: pytest.MonkeyPatch):
    """Checked in several processes, entries say the same of keys and acts."""
    monkeypatch.setattr("gateway.cli.audit.MANY", 1)
    assert log.outcomes("--jobs", "2") == (0, "affirming", "affirming")
    log.change("DELETE FROM admin_event WHERE seq = 1", "UPDATE api_key SET scopes = 'x' WHERE name = 'one'")
    assert log.outcomes("--jobs", "2") == (1, "contraindicated", "contraindicated")
