"""`veriroute audit verify` on stored databases that somebody changed: each change is found, and its place is named."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from receipt_world import ORIGIN, T0_MS, World
from stored_log import StoredLog, entry

from gateway.cli import audit as command
from gateway.cli import main
from gateway.cli.audit_files import outside
from gateway.crypto.merkle import leaf_hash
from gateway.errors import LogRefused
from gateway.log.bundle import format_bundle
from gateway.log.checkpoint import Checkpoint, sign_checkpoint
from gateway.log.dsse import Sealed, parse_envelope, sign_envelope
from gateway.log.note import NoteSigner
from gateway.model.receipt import PAYLOAD_TYPE, instant
from gateway.storage.memory import SLOT, Slot, encode_slot
from gateway.storage.packing import Packer, Unpacker
from gateway.storage.reads import Reader


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> StoredLog:
    """A good log of 600 entries: more than two tiles."""
    return StoredLog(tmp_path_factory.mktemp("log"), 300, batch=40)


class Copy:
    """A copy of the good log that a test may change."""

    def __init__(self, pristine: StoredLog, folder: Path) -> None:
        shutil.copytree(os.path.dirname(pristine.path), folder, dirs_exist_ok=True)
        self.world = pristine.world
        self.path = str(folder / "veriroute.db")
        self.memory = self.path + ".checkpoint"
        self.trust = str(folder / "trust")

    @contextmanager
    def sql(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path)
        yield connection
        connection.commit()
        connection.close()

    def audit(self, *args: str, beside: bool = False) -> tuple[int, dict[str, Any]]:
        """The exit code and the lines by step; the memory is named, unless it is left `beside` the database."""

        out = StringIO()
        named = () if beside or not os.path.exists(self.memory) else ("--memory", self.memory)
        with redirect_stdout(out):
            code = main(["audit", "verify", self.path, "--trust", self.trust, "--json", *named, *args])
        return code, {line["step"] + (line["about"] or ""): line for line in json.loads(out.getvalue())["lines"]}


@pytest.fixture
def log(pristine: StoredLog, tmp_path: Path) -> Copy:
    return Copy(pristine, tmp_path / "copy")


def bad(lines: dict[str, Any]) -> set[str]:
    return {step for step, line in lines.items() if line["outcome"] == "contraindicated"}


def test_a_good_log_passes(log: Copy, capsys: pytest.CaptureFixture[str]):
    """Every step is affirming, and its line says what was counted."""
    assert main(["audit", "verify", log.path, "--trust", log.trust, "--memory", log.memory]) == 0
    out = capsys.readouterr().out
    assert "601 entries" in out
    assert "300 intents, each with its one receipt" in out
    assert "\x1b" not in out


Act = Callable[[sqlite3.Connection], object]


def flip(column: str, table: str, index: int) -> Act:
    """Change one bit of what is stored; to the payload of a packed document a byte is added."""

    def act(connection: sqlite3.Connection) -> None:
        (data,) = connection.execute(f"SELECT {column} FROM {table} WHERE idx = ?", (index,)).fetchone()
        whole = Unpacker(connection)(data)
        assert isinstance(whole, bytes)
        if whole == data:
            changed = data[:-8] + bytes((data[-8] ^ 1,)) + data[-7:]
        else:
            envelope = parse_envelope(whole, unsigned=True)
            keyid, signature = envelope.signatures[0] if envelope.signatures else ("", b"")
            sealed = Sealed(envelope.payload + b" ", envelope.payload_type, keyid, signature, b"")
            changed = Packer(0, b"", lambda *_: pytest.fail("nothing is to be stored")).pack(sealed)
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE idx = ?", (changed, index))

    return act


def swap(table: str, first: int, second: int) -> Act:
    def act(connection: sqlite3.Connection) -> None:
        for old, new in ((first, -5), (second, first), (-5, second)):
            connection.execute(f"UPDATE {table} SET idx = ? WHERE idx = ?", (new, old))

    return act


def run(*statements: str) -> Act:
    def act(connection: sqlite3.Connection) -> None:
        for statement in statements:
            connection.execute(statement)

    return act


CHANGES: dict[str, tuple[Act, str, str]] = {
    "receipt_byte_edited": (flip("envelope", "receipt", 400), "documents", "400"),
    "intent_byte_edited": (flip("envelope", "record", 401), "documents", "401"),
    "receipt_no_text": (
        run("UPDATE receipt SET envelope = CAST(x'7bff00fe' AS TEXT) WHERE idx = 400"),
        "documents",
        "400",
    ),
    "receipt_a_number": (run("UPDATE receipt SET envelope = 7 WHERE idx = 400"), "documents", "400"),
    "dictionary_deleted": (run("DELETE FROM dictionary WHERE id = 1"), "documents", "entry"),
    "entry_edited": (flip("leaf", "leaf", 300), "leaves", "300"),
    "hash_edited": (lambda c: c.execute("UPDATE leaf SET hash = zeroblob(32) WHERE idx = 77"), "leaves", "77"),
    "two_entries_swapped": (swap("leaf", 100, 102), "documents", "100"),
    "two_receipts_swapped": (swap("receipt", 100, 102), "documents", "100"),
    "gap": (run("DELETE FROM leaf WHERE idx = 256"), "leaves", "256"),
    "gap_of_billions": (run("UPDATE leaf SET idx = 1 << 60 WHERE idx = 600"), "leaves", "600"),
    "tail_of_entries_cut": (run("DELETE FROM leaf WHERE idx > 590"), "head", "591"),
    "document_deleted": (run("DELETE FROM receipt WHERE idx = 50"), "documents", "50"),
    "document_without_entry": (
        run("INSERT INTO record SELECT 9000, kind, id, created_ms, envelope FROM record WHERE idx = 0"),
        "documents",
        "9000",
    ),
    "document_twice": (
        run("INSERT INTO record SELECT 50, kind, id, created_ms, envelope FROM record WHERE idx = 0"),
        "documents",
        "50",
    ),
    "filed_under_another_kind": (run("UPDATE record SET kind = 'alarm' WHERE idx = 51"), "documents", "51"),
    "checkpoint_edited": (
        run("UPDATE checkpoint SET note = replace(CAST(note AS TEXT), char(10) || '80', char(10) || '81')"),
        "tree",
        "80",
    ),
    "checkpoints_deleted": (run("DELETE FROM checkpoint"), "head", "no checkpoint"),
    "checkpoint_misfiled": (run("UPDATE checkpoint SET size = 81 WHERE size = 80"), "tree", "81"),
    "newest_checkpoints_deleted": (run("DELETE FROM checkpoint WHERE size > 570"), "head", "never signed"),
    "tile_root_edited": (run("UPDATE node SET hash = zeroblob(32) WHERE n = 1"), "tree", "tile 1"),
    "tile_root_deleted": (run("DELETE FROM node WHERE n = 0"), "tree", "tile 0"),
    "tile_root_too_many": (run("INSERT INTO node VALUES (8, 2, zeroblob(32))"), "tree", "level 8"),
    "verdict_column_edited": (
        run("UPDATE receipt SET verdict = 'contraindicated' WHERE idx = 60"),
        "columns",
        "verdict",
    ),
    "key_column_edited": (run("UPDATE receipt SET key_id = 'other' WHERE idx = 60"), "columns", "key_id"),
    "time_column_edited": (run("UPDATE receipt SET created_ms = 1 WHERE idx = 60"), "columns", "created_ms"),
    "node_column_edited": (run("UPDATE receipt SET node = CAST(x'ff00' AS TEXT) WHERE idx = 60"), "columns", "node"),
    "id_column_edited": (run("UPDATE receipt SET id = 'X' WHERE idx = 60"), "columns", "60"),
    "verdict_column_a_blob": (
        run("UPDATE receipt SET verdict = CAST(verdict AS BLOB) WHERE idx = 60"),
        "columns",
        "`verdict` of `receipt` at 60 is stored as another type",
    ),
    "id_column_a_blob": (
        run("UPDATE receipt SET id = CAST(id AS BLOB) WHERE idx = 60"),
        "columns",
        "`id` of `receipt`",
    ),
    "time_column_text": (run("UPDATE receipt SET created_ms = 'x' WHERE idx = 60"), "columns", "created_ms"),
    "stream_column_two": (run("UPDATE receipt SET stream = 2 WHERE idx = 60"), "columns", "stream"),
    "status_column_text": (run("UPDATE receipt SET status = 'x' WHERE idx = 60"), "columns", "`status` of `receipt`"),
    "kind_column_a_blob": (
        run("UPDATE record SET kind = CAST(kind AS BLOB) WHERE idx = 51"),
        "columns",
        "`kind` of `record` at 51",
    ),
    "intent_column_nulled": (
        run("UPDATE receipt SET intent = NULL WHERE idx = 60"),
        "columns",
        "entry 60: the stored intent is None, that of the log is 59",
    ),
    "intent_column_edited": (run("UPDATE receipt SET intent = 1 WHERE idx = 60"), "columns", "the stored intent is 1"),
    "intent_column_text": (run("UPDATE receipt SET intent = 'x' WHERE idx = 60"), "columns", "intent"),
    "id_twice_once_a_blob": (
        run("UPDATE receipt SET id = CAST((SELECT id FROM receipt WHERE idx = 60) AS BLOB) WHERE idx = 62"),
        "documents",
        "two receipts are stored under the id",
    ),
    "checkpoints_shifted_back": (
        run("UPDATE checkpoint SET created_ms = 1763900000000 WHERE size BETWEEN 1 AND 120"),
        "columns",
        "the time stored for the checkpoint of size 40 is before that of what it covers",
    ),
    "checkpoints_shifted_ahead": (
        run("UPDATE checkpoint SET created_ms = created_ms + 86400000 WHERE size <= 120"),
        "columns",
        "the time stored for the checkpoint of size 160 is before that of the one before it",
    ),
    "all_checkpoints_shifted_ahead": (
        run("UPDATE checkpoint SET created_ms = created_ms + 86400000 WHERE size > 120"),
        "columns",
        "the time stored for the checkpoint of size 160 is after that of what it covers and of what follows",
    ),
    "last_checkpoint_shifted_ahead": (
        run("UPDATE checkpoint SET created_ms = created_ms + 86400000 WHERE size = 601"),
        "columns",
        "the checkpoint of size 601 is after",
    ),
    "checkpoint_time_text": (run("UPDATE checkpoint SET created_ms = 'x' WHERE size = 80"), "columns", "size 80"),
    "opening_deleted": (run("DELETE FROM opening WHERE idx = 40"), "openings", "MISSING"),
    "opening_edited": (run("UPDATE opening SET response = x'00' WHERE idx = 40"), "openings", "40"),
    "opening_bodies_taken_out": (
        run("UPDATE opening SET request = NULL, response = NULL WHERE idx = 40"),
        "openings",
        "MISSING: the opening of receipt 01",
    ),
    "opening_response_taken_out": (
        run("UPDATE opening SET response = NULL WHERE idx = 40"),
        "openings",
        "(entry 40), or a body of it",
    ),
    "opening_seed_emptied": (
        run("UPDATE opening SET seed = x'', request = NULL, response = NULL WHERE idx = 40"),
        "openings",
        "entry 40: the kept seed has 0 bytes",
    ),
    "opening_seed_edited": (run("UPDATE opening SET seed = zeroblob(32) WHERE idx = 40"), "openings", "40"),
    "entry_before_the_first": (run("INSERT INTO leaf VALUES (-1, x'00', x'00')"), "documents", "index -1"),
    "receipt_before_the_first": (
        run(
            "CREATE TEMP TABLE forged AS SELECT * FROM receipt WHERE idx = 4",
            "UPDATE forged SET idx = -1, id = 'X'",
            "INSERT INTO receipt SELECT * FROM forged",
        ),
        "documents",
        "index -1",
    ),
    "record_before_the_first": (
        run("INSERT INTO record SELECT -7, kind, id, created_ms, envelope FROM record WHERE idx = 0"),
        "documents",
        "index -7",
    ),
    "opening_before_the_first": (
        run("INSERT INTO opening SELECT -1, seed, request, response FROM opening WHERE idx = 40"),
        "documents",
        "index -1",
    ),
    "checkpoint_before_the_first": (run("INSERT INTO checkpoint VALUES (-1, x'00', 0)"), "documents", "size -1"),
    "opening_without_receipt": (run("UPDATE opening SET idx = 9000 WHERE idx = 40"), "documents", "9000"),
    "archived_evidence_deleted": (
        run("DELETE FROM evidence WHERE CAST(bytes AS TEXT) LIKE '%keyset%'"),
        "archive",
        "MISSING: the attestation",
    ),
    "archived_evidence_edited": (
        run("UPDATE evidence SET bytes = x'7b7d' WHERE CAST(bytes AS TEXT) LIKE '%keyset%'"),
        "archive",
        "is another: its digest is 44136fa3",
    ),
    "archived_evidence_under_a_blob": (
        run("UPDATE evidence SET sha256 = CAST(sha256 AS BLOB)"),
        "columns",
        "`sha256` of `evidence`",
    ),
    "policy_text_deleted": (
        run("DELETE FROM evidence WHERE CAST(bytes AS TEXT) LIKE 'name = %'"),
        "archive",
        "which entry 2 names, is not in the archive",
    ),
    "session_deleted": (run("DELETE FROM session"), "archive", "MISSING: the attested session"),
    "session_edited": (
        run("UPDATE session SET document = replace(CAST(document AS TEXT), 'node-1', 'node-2')"),
        "archive",
        "is another: its id is ",
    ),
    "session_no_json": (run("UPDATE session SET document = x'00'"), "archive", "is none: "),
    "session_no_object": (run("UPDATE session SET document = '[]'"), "archive", "is none: "),
    "node_receipt_taken_out": (
        run("UPDATE receipt SET evidence = NULL WHERE idx = 40"),
        "archive",
        "MISSING: what the node sent for the answer of entry 40",
    ),
    "node_receipt_edited": (
        run("UPDATE receipt SET evidence = x'00' WHERE idx = 40"),
        "archive",
        "entry 40: what is stored as sent by the node",
    ),
    "node_receipt_text": (
        run("UPDATE receipt SET evidence = 'x' WHERE idx = 40"),
        "archive",
        "entry 40: what is stored as sent by the node",
    ),
}


@pytest.mark.parametrize(("act", "step", "place"), CHANGES.values(), ids=CHANGES.keys())
def test_j18_a_changed_row_is_found_and_named(
    log: Copy, act: Callable[[sqlite3.Connection], None], step: str, place: str
):
    """One edited, swapped, missing or added row makes the audit fail, and the line names the first bad place."""
    with log.sql() as connection:
        act(connection)
    code, lines = log.audit()
    assert code == 1
    assert step in bad(lines), lines
    assert place in lines[step]["sentence"] + (lines[step]["detail"] or "")


def test_a_forged_receipt_before_the_first_entry_is_found(log: Copy):
    """A receipt that nobody signed, put below the log together with an entry, is shown by lists and named."""
    with log.sql() as connection:
        connection.execute("INSERT INTO leaf VALUES (-1, x'00', x'00')")
        connection.execute("CREATE TEMP TABLE forged AS SELECT * FROM receipt WHERE idx = 4")
        connection.execute("UPDATE forged SET idx = -1, id = '01M80MPVC0RR2SPDZF6D85670Z', node = 'forged-node'")
        connection.execute("INSERT INTO receipt SELECT * FROM forged")
    with Reader(log.path) as reader:
        assert [row.index for row in reader.rows(node="forged-node")] == [-1]
    code, lines = log.audit()
    assert (code, bad(lines)) == (1, {"documents"})
    assert lines["documents"]["sentence"] == "an entry is stored at index -1, which is no place in a log"


@pytest.mark.parametrize("place", ["9223372036854775807", "4611686018427387905"])
def test_an_index_at_the_end_of_numbers_is_reported(log: Copy, place: str):
    """Entries and checkpoints with the highest numbers there are do not stop the audit, and are named."""
    with log.sql() as connection:
        connection.execute(f"INSERT INTO leaf VALUES ({place}, x'00', x'00')")
    code, lines = log.audit()
    assert (code, bad(lines)) == (1, {"documents"})
    assert lines["documents"]["sentence"] == f"an entry is stored at index {place}, which is no place in a log"
    with log.sql() as connection:
        connection.execute(f"DELETE FROM leaf WHERE idx = {place}")
        connection.execute(f"INSERT INTO checkpoint VALUES ({place}, x'00', 0)")
    code, lines = log.audit()
    assert (code, bad(lines)) == (1, {"documents"})
    assert place in lines["documents"]["sentence"]


@pytest.mark.parametrize(
    ("table", "columns", "row", "word"),
    [
        ("leaf", "idx, hash, leaf", "'zz', x'00', x'00'", "index 'zz'"),
        ("leaf", "idx, hash, leaf", "3.5, x'00', x'00'", "index 3.5"),
        ("leaf", "idx TEXT, hash, leaf", "'zz', x'00', x'00'", "index '0'"),
        ("checkpoint", "size, note, created_ms", "'abc', x'00', 0", "size 'abc'"),
        ("checkpoint", "size, note, created_ms", "NULL, x'00', 0", "size None"),
    ],
)
def test_a_place_that_is_no_number_is_reported(log: Copy, table: str, columns: str, row: str, word: str):
    """In a table that was made anew without types, text where a place belongs is named and stops nothing."""
    with log.sql() as connection:
        connection.execute(f"ALTER TABLE {table} RENAME TO old")
        connection.execute(f"CREATE TABLE {table} ({columns})")
        connection.execute(f"INSERT INTO {table} SELECT * FROM old")
        connection.execute(f"INSERT INTO {table} VALUES ({row})")
    code, lines = log.audit()
    assert code == 1
    assert word in lines["documents"]["sentence"]


def test_an_edited_entry_is_found_by_the_signed_root_too(log: Copy):
    """Entry and hash changed together still differ from the signed root, and the line says from where on."""
    with log.sql() as connection:
        other = World().leaves or [b"veriroute/1 alarm sha256:" + b"ab" * 32 + b"\n"]
        connection.execute("UPDATE leaf SET leaf = ?, hash = ? WHERE idx = 300", (other[0], leaf_hash(other[0])))
    code, lines = log.audit()
    assert (code, bad(lines) >= {"tree", "documents", "outsidecheckpoint memory"}) == (1, True)
    assert "the root signed at size 320" in lines["tree"]["sentence"]
    assert "entry 280 on" in lines["tree"]["sentence"]


def test_a_document_signed_by_another_key_is_not_ours(log: Copy, tmp_path: Path):
    """An entry by a key that is not among the trust roots cannot be decided; a bad signature is refused."""
    stranger = World()
    stranger.receipts = NoteSigner("stranger", b"else" * 8)
    Path(log.trust).write_text(stranger.trust_text())
    code, lines = log.audit()
    assert (code, lines["signatures"]["outcome"]) == (3, "none")
    forged = NoteSigner(ORIGIN + "/receipts", b"rcpt" * 8)
    envelope = json.loads(sign_envelope(b"{}", PAYLOAD_TYPE, forged))
    with log.sql() as connection:
        connection.create_function("unpacked", 1, Unpacker(connection))
        (stored,) = connection.execute("SELECT unpacked(envelope) FROM receipt WHERE idx = 60").fetchone()
        document = json.loads(stored)
        document["signatures"] = envelope["signatures"]
        connection.execute("UPDATE receipt SET envelope = ? WHERE idx = 60", (json.dumps(document).encode(),))
    Path(log.trust).write_text(log.world.trust_text())
    code, lines = log.audit()
    assert (code, bad(lines)) == (1, {"signatures"})
    assert "entry 60" in lines["signatures"]["sentence"]


def test_j23_a_tail_that_was_cut_cleanly_needs_something_from_outside(log: Copy, tmp_path: Path):
    """A log cut together with its checkpoints agrees with itself; memory, proof or checkpoint show both heads."""
    head = tmp_path / "yesterday"
    head.write_bytes(log.world.checkpoint())
    proof = tmp_path / "kept.tlog-proof"
    proof.write_text(log.world.proof(600))
    early = tmp_path / "early"
    early.write_bytes(log.world.checkpoint(100))
    with log.sql() as connection:
        for table in ("leaf", "receipt", "record", "opening"):
            connection.execute(f"DELETE FROM {table} WHERE idx >= 560")
        connection.execute("DELETE FROM checkpoint WHERE size > 560")
    code, lines = log.audit()
    assert (code, bad(lines)) == (1, {"outsidecheckpoint memory"})
    os.remove(log.memory)
    code, lines = log.audit()
    assert (code, bad(lines), lines["outside"]["outcome"]) == (3, set(), "none")
    code, lines = log.audit("--kept", str(early))
    assert code == 0
    for kept in (head, proof):
        code, lines = log.audit("--kept", str(kept))
        assert (code, bad(lines)) == (1, {f"outside{kept}"})
        line = lines[f"outside{kept}"]
        assert "ROLLED BACK" in line["sentence"]
        assert "theirs: size 601" in line["detail"]
        assert "stored head: size 560" in line["detail"]


def test_the_quorum_of_the_trust_file_is_asked_for(log: Copy, tmp_path: Path):
    """Of the checkpoints that were kept the one that enough witnesses cosigned counts, also where a longer one has
    fewer; without one it is not decided, and a cosignature that does not hold refuses what it stands on."""
    trust = Path(log.trust)
    assert log.audit()[1]["witnessed"]["claimed"] is False
    trust.write_text(log.world.trust_text(quorum=2))
    os.remove(log.memory)

    def kept(size: int, witnesses: int) -> tuple[str, str]:
        path = tmp_path / f"{size}-{witnesses}"
        path.write_bytes(log.world.checkpoint(size, witnesses=witnesses))
        return "--kept", str(path)

    for given, code, sentence in (
        ((), 3, "no checkpoint of this log was given that could be cosigned; the trust file has quorum 'ws'"),
        (kept(601, 0), 3, "witnessed 0/3: short of quorum 'ws'; of 601 entries, the first 601"),
        (kept(601, 1), 3, "witnessed 1/3: short of quorum 'ws'; of 601 entries, the first 601"),
        (
            (*kept(601, 1), *kept(80, 2), *kept(100, 3)),
            0,
            "witnessed 3/3: meets quorum 'ws'; of 601 entries, the first 100",
        ),
    ):
        found, lines = log.audit(*given)
        assert (found, bad(lines), lines["witnessed"]["sentence"]) == (code, set(), sentence)
    forged = tmp_path / "forged"
    note = log.world.checkpoint(witnesses=1)
    forged.write_bytes(note[:-24] + b"A" * 16 + note[-8:])
    code, lines = log.audit("--kept", str(forged))
    assert (code, bad(lines)) == (1, {f"outside{forged}"})


def test_a_memory_beside_the_database_affirms_nothing(log: Copy, tmp_path: Path):
    """Whoever cuts the log can put its older head into the memory beside it, so that memory may only contradict."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copy(log.memory, elsewhere)
    with log.sql() as connection:
        for table in ("leaf", "receipt", "record", "opening"):
            connection.execute(f"DELETE FROM {table} WHERE idx >= 560")
        connection.execute("DELETE FROM checkpoint WHERE size > 560")
        (note,) = connection.execute("SELECT note FROM checkpoint WHERE size = 560").fetchone()
    code, lines = log.audit(beside=True)
    assert (code, bad(lines)) == (1, {"outsidecheckpoint memory"})
    Path(log.memory).write_bytes(encode_slot(Slot(1, note)).ljust(2 * SLOT, b"\0"))
    code, lines = log.audit(beside=True)
    line = lines["outsidecheckpoint memory"]
    assert (code, bad(lines), line["outcome"], line["claimed"]) == (3, set(), "none", True)
    assert "IT LAY BESIDE THE DATABASE" in line["sentence"]
    assert "--kept" in line["sentence"]
    code, lines = log.audit("--memory", str(elsewhere), beside=True)
    assert (code, bad(lines)) == (1, {"outsidecheckpoint memory"})


def test_a_memory_beside_the_database_can_be_accepted(log: Copy, tmp_path: Path):
    """--trust-stored-keys makes it a warning; beside a kept checkpoint that shows the log, nobody asks for it."""
    code, lines = log.audit("--trust-stored-keys", beside=True)
    assert (code, lines["outsidecheckpoint memory"]["outcome"]) == (0, "warning")
    kept = tmp_path / "yesterday"
    kept.write_bytes(log.world.checkpoint(100))
    code, lines = log.audit("--kept", str(kept), beside=True)
    assert (code, lines[f"outside{kept}"]["outcome"]) == (0, "affirming")
    line = lines["outsidecheckpoint memory"]
    assert (line["outcome"], line["claimed"]) == ("none", False)


def test_j23_a_log_signed_again_with_the_real_key_is_a_fork(tmp_path: Path):
    """A suffix replaced and signed anew with the stolen log key is found by any proof that somebody kept."""
    folder = tmp_path / "a"
    folder.mkdir()
    first = StoredLog(folder, 10)
    kept = tmp_path / "kept.tlog-proof"
    kept.write_text(first.world.proof(20))
    other = tmp_path / "b"
    other.mkdir()
    second = StoredLog(other, 9)
    second.add_exchange(11)
    second.add_exchange(12)
    second.commit()
    code = main(["audit", "verify", second.path, "--trust", second.trust, "--memory", second.memory])
    assert code == 0
    assert main(["audit", "verify", second.path, "--trust", second.trust, "--kept", str(kept)]) == 1


def test_drop_everything(log: Copy):
    """An emptied database is not a log, and the memory says what it was."""
    with log.sql() as connection:
        for table in ("leaf", "receipt", "record", "opening", "checkpoint", "node"):
            connection.execute(f"DELETE FROM {table}")
    code, lines = log.audit()
    assert code == 1
    assert bad(lines) == {"head", "outsidecheckpoint memory"}


def test_a_kept_checkpoint_of_another_log_is_said(log: Copy, tmp_path: Path):
    """It contradicts: this is not the log of which it was kept."""
    other = World("other.test/log")
    kept = tmp_path / "other"
    kept.write_bytes(sign_checkpoint(Checkpoint("other.test/log", 0, World().root(0)), other.log))
    code, lines = log.audit("--kept", str(kept))
    assert (code, bad(lines)) == (1, {f"outside{kept}"})


@pytest.mark.parametrize(
    "data", [b"hello", b"", b"c2sp.org/tlog-proof@v1\n\xff", b"[server]\nport = 1\n", b'{"id": "x"}', None]
)
@pytest.mark.parametrize("act", ["verify", "epochs"])
def test_kept_files_that_are_none_are_usage(log: Copy, tmp_path: Path, capsys, data: bytes | None, act: str):
    """The wrong file, or none, says nothing about the log; the error names it and what is wanted."""
    kept = tmp_path / "kept"
    if data is not None:
        kept.write_bytes(data)
    assert main(["audit", act, log.path, "--trust", log.trust, "--kept", str(kept)]) == 2
    out, said = capsys.readouterr()
    assert out == ""
    wanted = f"cannot read {kept}" if data is None else f"--kept {kept} is no checkpoint, tlog-proof or bundle: "
    assert said.startswith(f"veriroute audit: {wanted}")


def test_a_kept_bundle_is_held_against_the_log(log: Copy, tmp_path: Path):
    """The file that an agent has of one exchange is worth as much as its proof alone."""
    kept = tmp_path / "answer.bundle.json"
    kept.write_bytes(format_bundle(log.world.bundle(600)))
    os.remove(log.memory)
    code, lines = log.audit("--kept", str(kept))
    assert (code, lines[f"outside{kept}"]["outcome"]) == (0, "affirming")
    with log.sql() as connection:
        for table in ("leaf", "receipt", "record", "opening"):
            connection.execute(f"DELETE FROM {table} WHERE idx >= 560")
        connection.execute("DELETE FROM checkpoint WHERE size > 560")
    code, lines = log.audit("--kept", str(kept))
    assert (code, bad(lines)) == (1, {f"outside{kept}"})
    assert "ROLLED BACK" in lines[f"outside{kept}"]["sentence"]


def test_without_a_trust_file_nothing_is_decided(log: Copy):
    """The keys beside the database are said to be that; accepting them is a flag; with none, signatures are open."""
    verify = ["audit", "verify", log.path]
    assert main(verify) == 3
    assert main([*verify, "--trust-stored-keys"]) == 0
    shutil.rmtree(log.path + ".keys")
    assert main(verify) == 3
    assert main([*verify, "--trust-stored-keys"]) == 3
    Path(log.trust).write_text(f"log {log.world.log.vkey}\nquorum none\n")
    code, lines = log.audit()
    assert (code, lines["signatures"]["outcome"]) == (3, "none")


@pytest.mark.parametrize("name", ["absent", "empty", "foreign"])
def test_what_is_no_database_of_ours_is_usage(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]):
    """A missing, empty or foreign file ends with 2 and a sentence."""
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "foreign").write_bytes(b"not a database" * 100)
    assert main(["audit", "verify", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err.startswith("veriroute audit: ")


def test_a_url_names_a_database_too(log: Copy):
    """sqlite:/// URLs are taken as in the settings."""
    assert main(["audit", "verify", f"sqlite:///{log.path}", "--trust", log.trust, "--memory", log.memory]) == 0


def test_a_memory_that_was_asked_for_must_be_there(log: Copy, tmp_path: Path):
    """--memory of a file without a checkpoint is refused, and so is a damaged memory in the usual place."""
    assert main(["audit", "verify", log.path, "--memory", str(tmp_path / "none")]) == 2
    Path(log.memory).write_bytes(b"x" * 8192)
    assert main(["audit", "verify", log.path]) == 2


def test_a_memory_without_a_name_is_not_the_one_beside_the_database(log: Copy):
    """`outside` takes only None for none given: the memory in the usual place would count as one kept elsewhere."""
    assert [kept.standing for kept in outside(log.path, [], None, accept=False)] == ["beside"]
    with pytest.raises(LogRefused):
        outside(log.path, [], "", accept=False)


def test_intents_and_receipts_pair_up(tmp_path: Path):
    """An intent without a receipt is a warning in the present run, and a fault once another run began."""
    stored = StoredLog(tmp_path, 3)
    predicate = stored.world.predicate(99)
    stored.entries.append(entry(stored.world, stored.world.add_intent(predicate), predicate))
    stored.commit()
    verify = ["audit", "verify", stored.path, "--trust", stored.trust, "--memory", stored.memory]
    assert main(verify) == 0
    stored.add_event("start", {"nonce": "m"})
    stored.commit()
    assert main(verify) == 1


def test_a_receipt_that_was_forwarded_needs_its_intent(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A prompt that went to a node without an announcement is named; a refused request needs none."""
    stored = StoredLog(tmp_path, 3)
    refused = stored.world.predicate().request
    stored.add_exchange(50, intent=False, request=type(refused)(refused.digest, refused.endpoint, "m", False))
    stored.commit()
    verify = ["audit", "verify", stored.path, "--trust", stored.trust, "--memory", stored.memory]
    assert main(verify) == 0
    place = stored.add_exchange(51, intent=False)
    stored.commit()
    assert main(verify) == 1
    assert f"the request of entry {place} was sent to a node" in capsys.readouterr().out


def test_an_intent_announced_twice_is_a_fault(tmp_path: Path):
    """Two intents of one request are named."""
    stored = StoredLog(tmp_path, 1)
    predicate = stored.world.predicate(9)
    for _ in range(2):
        stored.entries.append(entry(stored.world, stored.world.add_intent(predicate), predicate))
    stored.commit(1)
    assert main(["audit", "verify", stored.path, "--trust", stored.trust]) == 1


def test_j24_erasure_is_told_from_loss(tmp_path: Path):
    """An opening that an erasure entry names is erased; another that is gone is missing; none that was never kept."""
    stored = StoredLog(tmp_path, 4)
    stored.add_exchange(80, stored="none")
    stored.add_exchange(81, stored=None)
    first, second = (stored.world.predicate(n).receipt_id for n in (0, 1))
    stored.add_event("erasure", {"receiptIds": [first, second], "actor": "dpo", "ground": "Art. 17"})
    stored.commit()
    copy = Copy(stored, tmp_path / "copy")
    code, lines = copy.audit()
    assert (code, lines["openings"]["outcome"]) == (0, "warning")
    with copy.sql() as connection:
        connection.execute(
            "DELETE FROM opening WHERE idx IN (SELECT idx FROM receipt WHERE id IN (?, ?))", (first, second)
        )
    code, lines = copy.audit()
    assert (code, lines["openings"]["outcome"]) == (0, "warning")  # what the node sent has digests without a salt
    assert "2 openings" in lines["openings"]["sentence"]
    with copy.sql() as connection:
        connection.execute("UPDATE receipt SET evidence = NULL WHERE id IN (?, ?)", (first, second))
    code, lines = copy.audit()
    assert (code, lines["archive"]["outcome"]) == (0, "affirming")
    assert "what nodes sent for 2 answers was erased" in lines["archive"]["sentence"]
    counts = "2 intact, 2 erased by entries of the log, 1 never kept"
    assert lines["openings"]["sentence"] == f"{counts}, 1 seeds without a body, with which nothing was opened"
    with copy.sql() as connection:
        connection.execute("DELETE FROM opening")
    code, lines = copy.audit()
    assert (code, bad(lines)) == (1, {"openings"})
    assert "1 not stored whose receipts do not say" in lines["openings"]["detail"]


def test_what_an_outage_had_no_room_for_is_a_warning(tmp_path: Path):
    """An alarm says that not all could be kept: what was first named within a day of it may be absent, nothing else."""
    stored = StoredLog(tmp_path, 0)
    for hours, unrecorded in ((-72, 1), (-1, 0)):
        since, until = instant(T0_MS + hours * 3_600_000), instant(T0_MS + hours * 3_600_000 + 60_000)
        alarm = {"alarm": "log_unavailable", "since": since, "until": until, "unrecorded": unrecorded}
        stored.add_event("alarm", alarm)
    stored.add_event("alarm", {"alarm": "audit_failed", "since": 7})
    stored.add_exchange(1)
    stored.commit()
    copy = Copy(stored, tmp_path / "copy")
    with copy.sql() as connection:
        connection.execute("DELETE FROM session")
    assert copy.audit()[0] == 1
    stored.add_event("alarm", {"alarm": "log_unavailable", "since": "yesterday", "until": "x", "unrecorded": 1})
    stored.add_event("alarm", {**alarm, "unrecorded": 1})
    stored.commit()
    with Copy(stored, tmp_path / "other").sql() as connection:
        connection.execute("DELETE FROM session")
    copy.path, copy.memory = str(tmp_path / "other/veriroute.db"), str(tmp_path / "other/veriroute.db.checkpoint")
    code, lines = copy.audit()
    assert (code, lines["archive"]["outcome"]) == (0, "warning")
    assert lines["archive"]["sentence"].startswith("1 documents are not there; in an outage, says the log")


def test_what_is_known_to_be_archived_is_forgotten_at_times(log: Copy, monkeypatch: pytest.MonkeyPatch):
    """What is remembered of the archive is bounded, and forgetting changes nothing."""
    monkeypatch.setattr("gateway.log.audit_archive.KNOWN", 1)
    assert log.audit()[0] == 0


def test_other_processes_find_the_same(log: Copy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Checking in several processes gives the same lines, and progress goes to standard error."""
    with log.sql() as connection:
        flip("envelope", "receipt", 400)(connection)
    alone = log.audit("--jobs", "1")
    monkeypatch.setattr(command, "MANY", 1)
    monkeypatch.setattr(command, "RUN", 64)
    assert log.audit("--jobs", "2", "--progress") == alone
    assert "601/601" in capsys.readouterr().err


def test_many_checkpoints_are_sampled(log: Copy, monkeypatch: pytest.MonkeyPatch):
    """Beyond a number, evenly spread checkpoints are looked at, the newest among them, and the line says how many."""
    monkeypatch.setattr("gateway.log.audit.MAX_CHECKPOINTS", 5)
    code, lines = log.audit()
    assert code == 0
    assert (
        lines["tree"]["sentence"].startswith("7 of 17 checkpoints") or " of 17 checkpoints" in lines["tree"]["sentence"]
    )


def test_two_receipts_under_one_id_are_found(log: Copy):
    """A unique index that was taken away does not hide a doubled receipt."""
    with log.sql() as connection:
        rows = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'receipt'").fetchone()[0]
        connection.execute("ALTER TABLE receipt RENAME TO old")
        connection.execute(rows.replace("UNIQUE (id)", "CHECK (1)"))
        connection.execute("INSERT INTO receipt SELECT * FROM old")
        connection.execute("UPDATE receipt SET id = (SELECT id FROM receipt WHERE idx = 2) WHERE idx = 4")
    code, lines = log.audit()
    assert code == 1
    assert "two receipts are stored under the id" in lines["documents"]["sentence"]


def test_a_log_that_grows_meanwhile_is_whole_at_every_moment(tmp_path: Path):
    """Auditing beside a gateway that commits finds one consistent log, each time a longer one."""
    stored = StoredLog(tmp_path, 2)
    for number in range(100, 400):
        stored.add_exchange(number)
    writer = threading.Thread(target=stored.commit, args=(2,))
    writer.start()
    sizes, copy = set(), Copy.__new__(Copy)
    copy.path, copy.trust, copy.memory = stored.path, stored.trust, stored.memory
    while writer.is_alive():
        code, lines = copy.audit()
        assert (code, bad(lines)) == (0, set()), lines
        sizes.add(lines["leaves"]["sentence"])
    writer.join()
    assert len(sizes) > 1


def test_the_command_needs_no_orm_and_no_server(log: Copy):
    """Auditing loads the driver and nothing heavier."""
    heavy = ("litestar", "sqlalchemy", "sqlmodel", "textual", "openai", "pydantic", "httpx", "uvicorn")
    script = (
        "import sys\nfrom gateway.cli import main\ncode = main(sys.argv[1:])\n"
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)\nraise SystemExit(code)"
    )
    command = [sys.executable, "-c", script, "audit", "verify", log.path, "--trust", log.trust]
    command += ["--memory", log.memory]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
