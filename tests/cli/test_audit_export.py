"""`veriroute audit export` and `verify-export`: whole or not there, and every change to one is found."""

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import sqlite3
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from receipt_world import ORIGIN, World, post_quantum
from stored_log import StoredLog

from gateway.cli import audit_export, main
from gateway.csv_cells import uncell
from gateway.errors import LogRefused
from gateway.log.dsse import sign_envelope
from gateway.log.export import PAYLOAD_TYPE
from gateway.log.note import NoteSigner
from gateway.model.receipt import Caller
from gateway.model.verdict import Outcome
from gateway.storage.reads import Reader


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> StoredLog:
    """A log of 41 entries."""
    return StoredLog(tmp_path_factory.mktemp("exported"), 20)


def export(log: StoredLog, out: Path, *args: str) -> int:
    return main(["audit", "export", log.path, "--out", str(out), *args])


def check(log: StoredLog, out: Path) -> int:
    return main(["audit", "verify-export", str(out), "--trust", log.trust])


def test_an_export_is_shown_to_be_that_part_of_the_log(
    log: StoredLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A range exported as JSON lines holds the stored envelopes and checks against the signed tree head."""
    assert export(log, tmp_path / "x", "--from", "5", "--to", "30") == 0
    lines = (tmp_path / "x" / "entries.jsonl").read_bytes().splitlines()
    assert lines == log.world.envelopes[5:30]
    assert check(log, tmp_path / "x") == 0
    out = capsys.readouterr().out
    assert "the entries [5, 30) of the 41 signed" in out
    assert stat_mode(tmp_path / "x") == 0o700


def stat_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_long_check_says_how_far_it_is(log: StoredLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """On standard error, where it is asked to or that is a terminal; what it finds is the same."""
    assert export(log, tmp_path / "x", "--from", "5", "--to", "30") == 0
    capsys.readouterr()
    assert check(log, tmp_path / "x") == 0
    silent = capsys.readouterr()
    assert main(["audit", "verify-export", str(tmp_path / "x"), "--trust", log.trust, "--progress"]) == 0
    told = capsys.readouterr()
    assert (told.out, silent.err) == (silent.out, "")
    assert "entries 25/25 100%" in told.err


def test_without_trust_nothing_is_decided(log: StoredLog, tmp_path: Path):
    """Without a trust file the answer is 3, though files and entries agree with the manifest."""
    assert export(log, tmp_path / "x") == 0
    assert main(["audit", "verify-export", str(tmp_path / "x")]) == 3
    stranger = tmp_path / "trust"
    stranger.write_text(World("other.test/log").trust_text())
    assert main(["audit", "verify-export", str(tmp_path / "x"), "--trust", str(stranger)]) == 1


def test_the_quorum_of_the_trust_file_is_asked_for(log: StoredLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A tree head that too few witnesses cosigned is not decided; a cosignature that does not hold refuses it."""
    folder, trust = tmp_path / "x", tmp_path / "trust"
    trust.write_text(log.world.trust_text(quorum=2))
    args = ["audit", "verify-export", str(folder), "--trust", str(trust)]
    assert export(log, folder) == 0
    assert main(args) == 3
    assert "witnessed 0/3: short of quorum 'ws'" in capsys.readouterr().out
    signed_again(log, folder, checkpoint=log.world.checkpoint(witnesses=2).decode())
    assert main(args) == 0
    assert "witnessed 2/3: meets quorum 'ws'" in capsys.readouterr().out
    note = log.world.checkpoint(witnesses=1)
    signed_again(log, folder, checkpoint=(note[:-24] + b"A" * 16 + note[-8:]).decode())
    assert check(log, folder) == 1


def test_a_post_quantum_key_of_the_log_beside_its_own_changes_nothing(log: StoredLog, tmp_path: Path):
    """The tree head needs one key of the log, of whichever kind; by one that did not sign it, it does not hold."""
    assert export(log, tmp_path / "x") == 0
    trust, text = tmp_path / "trust", log.world.trust_text()
    trust.write_text(f"log {post_quantum(ORIGIN)}\n{text}")
    assert main(["audit", "verify-export", str(tmp_path / "x"), "--trust", str(trust)]) == 0
    trust.write_text(text.replace(log.world.log.vkey, str(post_quantum(ORIGIN))))
    assert main(["audit", "verify-export", str(tmp_path / "x"), "--trust", str(trust)]) == 1


def test_an_unsigned_manifest_is_asked_for_and_called_so(log: StoredLog, tmp_path: Path):
    """Without a readable key the export is refused, unless --unsigned; its manifest then decides nothing."""
    assert export(log, tmp_path / "x", "--key", str(tmp_path / "absent")) == 2
    assert export(log, tmp_path / "x", "--unsigned", "--key", "k") == 2
    assert not (tmp_path / "x").exists()
    assert export(log, tmp_path / "x", "--unsigned", "--json") == 0
    assert check(log, tmp_path / "x") == 3


@pytest.mark.parametrize("content", ["", "not a key", "\xe9"])
def test_a_key_that_cannot_sign_is_refused(log: StoredLog, tmp_path: Path, content: str):
    """A key file that is empty, no key or readable by others is refused with the reason."""
    key = tmp_path / "key"
    key.write_text(content)
    os.chmod(key, 0o600)
    assert export(log, tmp_path / "x", "--key", str(key)) == 2
    key.write_text(log.world.receipts.skey)
    os.chmod(key, 0o644)
    assert export(log, tmp_path / "x", "--key", str(key)) == 2


@pytest.mark.parametrize("span", [("5", "5"), ("-1", "5"), ("0", "42"), ("9", "3")])
def test_a_range_must_be_within_what_is_signed(log: StoredLog, tmp_path: Path, span: tuple[str, str]):
    """An empty range, or one beyond the newest checkpoint, is refused."""
    assert export(log, tmp_path / "x", "--from", span[0], "--to", span[1]) == 2


def test_an_export_up_to_now_ends_at_the_head_that_it_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A gateway that writes on between two reads of an export neither lengthens its range nor stops it."""
    log = StoredLog(tmp_path, 5)
    indexed = audit_export._indexed

    def meanwhile(*args: Any) -> None:
        log.add_exchange(5)
        log.commit()
        indexed(*args)

    monkeypatch.setattr(audit_export, "_indexed", meanwhile)
    assert export(log, tmp_path / "x", "--to", "2100-01-01") == 0
    assert check(log, tmp_path / "x") == 0
    assert "the entries [0, 11) of the 11 signed" in capsys.readouterr().out


def edit(name: str, change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = folder / name
        path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))

    return act


J26: dict[str, Callable[[Path], None]] = {
    "cut_short": edit("entries.jsonl", lambda lines: lines[:-3]),
    "cut_inside_a_line": edit("entries.jsonl", lambda lines: [*lines[:-1], lines[-1][:-9]]),
    "reordered": edit("entries.jsonl", lambda lines: [lines[1], lines[0], *lines[2:]]),
    "doubled": edit("entries.jsonl", lambda lines: lines * 2),
    "one_line_doubled": edit("entries.jsonl", lambda lines: [lines[0], *lines[:-1]]),
    "one_byte": edit("entries.jsonl", lambda lines: [lines[0].replace(b"A", b"B", 1), *lines[1:]]),
    "file_gone": lambda folder: (folder / "entries.jsonl").unlink(),
    "file_added": lambda folder: (folder / "more.jsonl").write_text("{}\n") and None,
    "manifest_edited": edit("manifest.dsse.json", lambda lines: [lines[0].replace(b"ey", b"eY", 1)]),
    "manifest_malformed": edit("manifest.dsse.json", lambda lines: [b"{}"]),
    "second_manifest": lambda folder: shutil.copy(folder / "manifest.dsse.json", folder / "manifest.json") and None,
}


@pytest.mark.parametrize("act", J26.values(), ids=J26.keys())
def test_j26_a_changed_export_is_found(log: StoredLog, tmp_path: Path, act: Callable[[Path], None]):
    """An export that was cut, reordered, doubled, joined or edited does not check."""
    assert export(log, tmp_path / "x", "--from", "3", "--to", "20") == 0
    act(tmp_path / "x")
    assert check(log, tmp_path / "x") == 1


def signed_again(log: StoredLog, folder: Path, **changes: object) -> None:
    """Rewrite the manifest in `folder` to fit its file, signed with the real receipt key."""
    path = folder / "manifest.dsse.json"
    manifest = json.loads(_payload(path))
    data = (folder / "entries.jsonl").read_bytes()
    count = data.count(b"\n")
    file = {"name": "entries.jsonl", "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "count": count}
    manifest.update({"files": [file], "count": count, **changes})
    path.write_bytes(sign_envelope(json.dumps(manifest).encode(), PAYLOAD_TYPE, log.world.receipts))


def _payload(path: Path) -> bytes:
    return base64.b64decode(json.loads(path.read_bytes())["payload"])


@pytest.mark.parametrize("name", ["reordered", "one_line_doubled", "cut_short", "cut_inside_a_line", "doubled"])
def test_j26_the_signed_tree_finds_what_a_signed_manifest_hides(log: StoredLog, tmp_path: Path, name: str):
    """Entries changed by somebody who can sign manifests still do not give the signed root."""
    folder = tmp_path / "x"
    assert export(log, folder, "--from", "3", "--to", "20") == 0
    J26[name](folder)
    signed_again(log, folder)
    assert check(log, folder) == 1


def test_j26_two_exports_joined_are_not_one(log: StoredLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Lines of two exports under one manifest do not give the signed root."""
    assert export(log, tmp_path / "x", "--from", "8", "--to", "25") == 0
    assert export(log, tmp_path / "y", "--from", "27", "--to", "32") == 0
    joined = (tmp_path / "x" / "entries.jsonl").read_bytes() + (tmp_path / "y" / "entries.jsonl").read_bytes()
    (tmp_path / "x" / "entries.jsonl").write_bytes(joined)
    assert export(log, tmp_path / "z", "--from", "29", "--to", "30") == 0
    right = json.loads(_payload(tmp_path / "z" / "manifest.dsse.json"))["right"]
    signed_again(log, tmp_path / "x", range={"from": 8, "to": 30}, right=right)
    assert check(log, tmp_path / "x") == 1
    assert "not those that the tree head was signed over" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"left": []}, "entries"),
        ({"right": []}, "range"),
        ({"checkpoint": "x"}, "checkpoint"),
        ({"origin": "other.test/log"}, "checkpoint"),
        ({"count": 5}, "files"),
    ],
)
def test_a_manifest_whose_parts_do_not_fit_is_refused(
    log: StoredLog, tmp_path: Path, changes: dict[str, object], step: str, capsys: pytest.CaptureFixture[str]
):
    """Missing covers, another checkpoint or a wrong count are found behind a good signature."""
    assert export(log, tmp_path / "x", "--from", "3", "--to", "20") == 0
    signed_again(log, tmp_path / "x", **changes)
    capsys.readouterr()
    assert main(["audit", "verify-export", str(tmp_path / "x"), "--trust", log.trust, "--json"]) == 1
    lines = {line["step"]: line["outcome"] for line in json.loads(capsys.readouterr().out)["lines"]}
    assert lines[step] == "contraindicated"
    assert lines["manifest"] == "affirming"


def test_a_manifest_that_counts_what_is_not_there_is_refused(log: StoredLog, tmp_path: Path):
    """Counts that add up and are not the file's are found when the entries are read."""
    folder = tmp_path / "x"
    assert export(log, folder, "--from", "3", "--to", "20") == 0
    file = {**json.loads(_payload(folder / "manifest.dsse.json"))["files"][0], "count": 18}
    signed_again(log, folder, files=[file], count=18)
    assert check(log, folder) == 1


def test_a_file_that_is_too_large_for_what_it_is_is_refused(
    log: StoredLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Trust files and manifests are small; reading stops at a limit."""
    assert export(log, tmp_path / "x") == 0
    monkeypatch.setattr("gateway.cli.audit_files.MAX_FILE", 100)
    assert check(log, tmp_path / "x") == 2
    assert "limit" in capsys.readouterr().err


def test_a_trust_file_that_is_none_is_usage(log: StoredLog, tmp_path: Path):
    """A trust file that does not parse ends with 2 and the line."""
    assert export(log, tmp_path / "x") == 0
    (tmp_path / "trust").write_text("hello\n")
    assert main(["audit", "verify-export", str(tmp_path / "x"), "--trust", str(tmp_path / "trust")]) == 2


def test_a_manifest_of_another_type_or_key_is_refused(log: StoredLog, tmp_path: Path):
    """A signature over another payload type, or by a key that is not trusted, does not make a manifest."""
    folder = tmp_path / "x"
    assert export(log, folder) == 0
    payload = _payload(folder / "manifest.dsse.json")
    (folder / "manifest.dsse.json").write_bytes(sign_envelope(payload, "text/plain", log.world.receipts))
    assert check(log, folder) == 1
    stranger = NoteSigner("stranger", b"else" * 8)
    (folder / "manifest.dsse.json").write_bytes(sign_envelope(payload, PAYLOAD_TYPE, stranger))
    assert check(log, folder) == 3


def parts_of(folder: Path, parts: dict[str, list[bytes]]) -> list[dict[str, object]]:
    """Write each part's lines to its file, and give what a manifest says of them."""
    found: list[dict[str, object]] = []
    for name, lines in parts.items():
        data = b"".join(lines)
        (folder / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        found.append({"name": name, "sha256": digest, "bytes": len(data), "count": len(lines)})
    return found


def test_every_file_of_the_manifest_is_part_of_the_log(log: StoredLog, tmp_path: Path):
    """All files that a signed manifest names are read as entries, in order: none is believed for being named."""
    folder = tmp_path / "x"
    assert export(log, folder, "--from", "3", "--to", "20") == 0
    lines = (folder / "entries.jsonl").read_bytes().splitlines(keepends=True)
    signed_again(log, folder, files=parts_of(folder, {"entries.jsonl": lines[:7], "more.jsonl": lines[7:]}), count=17)
    assert check(log, folder) == 0
    signed_again(
        log, folder, files=parts_of(folder, {"entries.jsonl": lines, "more.jsonl": [b'{"a":"lie"}\n']}), count=18
    )
    assert check(log, folder) == 1
    files = parts_of(folder, {"entries.jsonl": lines, "more.jsonl": [b'{"a":"lie"}\n']})
    signed_again(log, folder, files=[files[0], {**files[1], "count": 0}], count=17)
    assert check(log, folder) == 1
    signed_again(log, folder, files=[], count=0)
    for file in files:
        (folder / str(file["name"])).unlink()
    assert check(log, folder) == 1


@pytest.mark.parametrize("name", ["entries.jsonl", "manifest.dsse.json"])
def test_what_is_no_file_is_not_read(log: StoredLog, tmp_path: Path, name: str):
    """A link to a device, or a pipe, in an export from elsewhere does not keep the check for ever."""
    assert export(log, tmp_path / "x") == 0
    (tmp_path / "x" / name).unlink()
    (tmp_path / "x" / name).symlink_to("/dev/zero")
    expected = 1 if name == "entries.jsonl" else 2
    assert check(log, tmp_path / "x") == expected
    (tmp_path / "x" / name).unlink()
    os.mkfifo(tmp_path / "x" / name)
    assert check(log, tmp_path / "x") == expected


def test_what_is_no_export_is_usage(tmp_path: Path):
    """A folder without a manifest, or none at all, ends with 2."""
    assert main(["audit", "verify-export", str(tmp_path)]) == 2
    assert main(["audit", "verify-export", str(tmp_path / "absent")]) == 2


def test_the_log_is_asked_for_an_export_entry(log: StoredLog, tmp_path: Path):
    """Who exported which range lies in the outbox for the gateway, unless --unrecorded."""

    def events() -> list[dict[str, object]]:
        with Reader(log.path) as reader:
            return [json.loads(e.document) for e in reader.pending_events(10_000) if e.kind == "export"]

    before = len(events())
    assert export(log, tmp_path / "x", "--from", "3", "--to", "20") == 0
    assert export(log, tmp_path / "y", "--unrecorded") == 0
    (event,) = events()[before:]
    assert (event["range"], event["count"], event["format"]) == ({"from": 3, "to": 20}, 17, "jsonl")
    assert event["actor"]


@pytest.mark.parametrize("kind", ["file", "folder", "symlink", "dangling"])
def test_k12_nothing_that_exists_is_overwritten(log: StoredLog, tmp_path: Path, kind: str):
    """An existing file, folder or link in the way is refused and stays as it was."""
    target = tmp_path / "x"
    if kind == "file":
        target.write_text("mine")
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to(tmp_path / "elsewhere")
        if kind == "symlink":
            (tmp_path / "elsewhere").mkdir()
    assert export(log, target) == 2
    assert kind != "file" or target.read_text() == "mine"
    assert not list((tmp_path / "elsewhere").glob("*"))
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".export")] == []


def test_k12_a_path_through_dots_is_the_path_it_names(log: StoredLog, tmp_path: Path):
    """../../x is written there, whole."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert export(log, tmp_path / "a" / "b" / ".." / ".." / "x") == 0
    assert check(log, tmp_path / "x") == 0


def test_k12_a_full_disk_leaves_nothing(log: StoredLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """When writing fails half way, neither the export nor a temporary folder is left."""
    calls = 0

    def fail(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gateway.cli.audit_export.os.fsync", fail)
    assert export(log, tmp_path / "x") == 2
    assert calls == 1
    assert list(tmp_path.iterdir()) == []


def test_k12_a_folder_that_cannot_be_written_is_refused(
    log: StoredLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """An output folder below one that is not there, or below a file, is refused with what to do."""
    assert export(log, tmp_path / "absent" / "x") == 2
    assert f"there is no folder {tmp_path / 'absent'} to put the export into: make it first" in capsys.readouterr().err
    assert not (tmp_path / "absent").exists()
    (tmp_path / "file").touch()
    assert export(log, tmp_path / "file" / "x") == 2
    assert f"cannot write beside {tmp_path / 'file' / 'x'}: Not a directory" in capsys.readouterr().err


def test_a_gap_is_not_exported(tmp_path: Path):
    """A range with a missing entry is refused, not shortened."""
    log = StoredLog(tmp_path, 5)
    with closing(sqlite3.connect(log.path)) as connection, connection:
        connection.execute("DELETE FROM leaf WHERE idx = 4")
    assert export(log, tmp_path / "x") == 2
    assert not (tmp_path / "x").exists()


def test_a_database_without_a_checkpoint_is_not_exported(tmp_path: Path):
    """Without a signed tree head there is nothing to be part of."""
    log = StoredLog(tmp_path, 1)
    with closing(sqlite3.connect(log.path)) as connection, connection:
        connection.execute("DELETE FROM checkpoint")
    assert export(log, tmp_path / "x") == 2


def test_k11_damaged_entries_are_exported_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Stored bytes that are no document are exported by rule; the check says which entry it was, and the root holds."""
    log = StoredLog(tmp_path, 5)
    with closing(sqlite3.connect(log.path)) as connection, connection:
        connection.execute("UPDATE receipt SET envelope = x'ff00fe' WHERE idx = 4")
        connection.execute("UPDATE receipt SET node = CAST(x'00ff41' AS TEXT), model = ? WHERE idx = 6", ("a\0b",))
    assert export(log, tmp_path / "x") == 0
    assert export(log, tmp_path / "y", "--format", "csv") == 0
    capsys.readouterr()
    assert check(log, tmp_path / "x") == 1
    out = capsys.readouterr().out
    assert "entry 4 was damaged in the database already" in out
    assert "✓ affirming        range" in out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "y" / "receipts.csv").read_text())))
    damaged = next(row for row in rows if row["idx"] == "6")
    assert uncell(damaged["node"]) == "\0\udcffA"
    assert uncell(damaged["model"]) == "a\0b"


def test_k08_csv_cells_are_inert_and_read_back(tmp_path: Path):
    """Hostile text in a column cannot begin a formula, and comes back by the rule."""
    log = StoredLog(tmp_path, 1)
    hostile = '=HYPERLINK("http://x";"y")\n@x'
    log.add_exchange(5, caller=Caller("+key", hostile), verdict=Outcome.WARNING)
    log.commit()
    assert export(log, tmp_path / "x", "--format", "csv") == 0
    assert check(log, tmp_path / "x") == 0
    text = (tmp_path / "x" / "receipts.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 2
    assert rows[1]["client_request_id"].startswith("'=")
    assert uncell(rows[1]["client_request_id"]) == hostile
    assert uncell(rows[1]["key_id"]) == "+key"
    assert rows[1]["leaf"].startswith("veriroute/1 receipt sha256:")
    assert "\n@" not in text


@pytest.mark.parametrize("size", ["'zz'", "x'ff00'", "9e999"])
def test_a_place_that_is_no_number_is_a_sentence(
    log: StoredLog, tmp_path: Path, capsys: pytest.CaptureFixture[str], size: str
):
    """In tables that were made anew without types, text where a place belongs ends an export by times with 2."""
    folder = tmp_path / "log"
    shutil.copytree(Path(log.path).parent, folder)
    path = str(folder / Path(log.path).name)
    with closing(sqlite3.connect(path)) as connection, connection:
        for table, columns in (("leaf", "idx, hash, leaf"), ("checkpoint", "size, note, created_ms")):
            connection.execute(f"ALTER TABLE {table} RENAME TO old")
            connection.execute(f"CREATE TABLE {table} ({columns})")
            connection.execute(f"INSERT INTO {table} SELECT * FROM old")
            connection.execute("DROP TABLE old")
        connection.execute(f"INSERT INTO leaf VALUES ({size}, x'', x'')")
    command = ["audit", "export", path, "--from", "0", "--to", "2030-01-01"]
    assert main([*command, "--out", str(tmp_path / "x"), "--unrecorded"]) == 0
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"INSERT INTO checkpoint SELECT {size}, note, 0 FROM checkpoint WHERE size = 41")
    assert main([*command, "--out", str(tmp_path / "y"), "--unrecorded"]) == 2
    assert "where a place in it belongs" in capsys.readouterr().err
    with Reader(path) as reader, pytest.raises(LogRefused, match="where a place in it belongs"):
        reader.size()


def test_k10_each_line_is_one_record(tmp_path: Path):
    """Separators of other formats, and what some readers take for the end of a line, are inside of a record."""
    log = StoredLog(tmp_path, 1)
    hostile = "a|b=c\\d\n{}\r\u2028\u2029\x85\x1e,\"'<134>1 "
    log.add_exchange(5, caller=Caller("key_1", hostile), verdict=Outcome.WARNING)
    log.commit()
    assert export(log, tmp_path / "x", "--json") == 0
    assert check(log, tmp_path / "x") == 0
    text = (tmp_path / "x" / "entries.jsonl").read_text()
    lines = text.splitlines()
    with Reader(log.path) as reader:
        assert text.count("\n") == len(lines) == reader.size()
    said = [json.loads(base64.b64decode(json.loads(line)["payload"]))["predicate"] for line in lines]
    assert [p["caller"]["clientRequestId"] for p in said if p.get("caller", {}).get("clientRequestId")] == [hostile]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_k13_an_export_is_not_held_in_memory(
    log: StoredLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
):
    """A log of fifteen times as many entries takes no more memory to export, and a fraction of what is written."""
    monkeypatch.setattr(audit_export, "PAGE", 20)
    larger = StoredLog(tmp_path, 300)
    peaks = []
    for number, source in enumerate((log, log, larger)):  # the first one imports, and fills caches
        tracemalloc.start()
        try:
            assert export(source, tmp_path / f"x{number}", "--format", form, "--unrecorded") == 0
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    written = sum(path.stat().st_size for path in (tmp_path / "x2").glob("[er]*"))
    assert peaks[2] - peaks[1] < written / 3
