"""A compliance team's path over a gateway's real log: verify it, export it, check the export."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from running import MODEL, node_table


def run(*arguments: str, cwd: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *arguments], capture_output=True, text=True, timeout=60, cwd=cwd
    )
    return done.returncode, done.stdout + done.stderr


def test_verify_and_export(make_gateway: Any, node: Any) -> None:
    """A log that a gateway wrote verifies, beside it and after it; exports of it, whole and by time, verify too."""
    gateway = make_gateway([node_table(node, "n")]).start()
    with gateway.sdk() as client:
        for stream in (False, True):
            answer: Any = client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "=1+1"}], max_tokens=4, stream=stream
            )
            if stream:
                list(answer)
    database, trust = str(gateway.database), str(gateway.trust)
    kept = gateway.folder / "kept.checkpoint"
    with gateway.http() as http:
        kept.write_bytes(http.get("/log/checkpoint").content)
    verify = ("audit", "verify", database, "--trust", trust)
    code, said = run(*verify, cwd=gateway.folder)
    assert code == 3, said
    assert "IT LAY BESIDE THE DATABASE" in said
    code, said = run(*verify, "--kept", str(kept), cwd=gateway.folder)
    assert code == 0, said
    gateway.stop()
    code, said = run(*verify, "--kept", str(kept), "--json", cwd=gateway.folder)
    assert code == 0, said
    assert {line["outcome"] for line in json.loads(said)["lines"]} <= {"affirming", "none"}
    for name, options in {
        "all": (),
        "csv": ("--format", "csv"),
        "span": ("--from", "2", "--to", "4"),
        "time": ("--from", "2026-01-01", "--to", "2100-01-01T00:00:00+02:00"),
    }.items():
        code, said = run("audit", "export", database, "--out", name, "--unrecorded", *options, cwd=gateway.folder)
        assert code == 0, said
        code, said = run("audit", "verify-export", name, "--trust", trust, cwd=gateway.folder)
        assert code == 0, said
    assert len((gateway.folder / "span" / "entries.jsonl").read_text().splitlines()) == 2
    assert (gateway.folder / "time" / "entries.jsonl").read_bytes() == (
        gateway.folder / "all" / "entries.jsonl"
    ).read_bytes()
    code, said = run("audit", "export", database, "--out", "later", "--from", "2100-01-01", cwd=gateway.folder)
    assert code == 2
    assert "empty" in said
    assert not (gateway.folder / "later").exists()
    code, said = run("audit", "export", database, "--out", "bad", "--from", "yesterday", cwd=gateway.folder)
    assert code == 2
    assert "2026-11-01" in said


def test_a_key_put_in_force_again_is_found(make_gateway: Any, node: Any) -> None:
    """Keys that come and go while a gateway serves are those of the log; one un-revoked in the database is named."""
    gateway = make_gateway([node_table(node, "n")]).start()
    gateway.create_key("late")
    (key,) = [key["id"] for key in json.loads(gateway.cli("keys", "list", "--json")) if key["name"] == "late"]
    gateway.cli("keys", "revoke", key)
    with gateway.http() as http, closing(sqlite3.connect(gateway.database, isolation_level=None)) as connection:
        deadline = time.monotonic() + 20
        while connection.execute("SELECT count(*) FROM admin_event WHERE done = 0").fetchone()[0]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        kept = gateway.folder / "kept.checkpoint"
        kept.write_bytes(http.get("/log/checkpoint").content)
        verify = ["audit", "verify", str(gateway.database), "--trust", str(gateway.trust), "--json"]
        verify += ["--kept", str(kept)]
        code, said = run(*verify, cwd=gateway.folder)
        outcomes = {line["step"]: line["outcome"] for line in json.loads(said)["lines"]}
        assert (code, outcomes["keys"], outcomes["acts"]) == (0, "affirming", "affirming"), said
        connection.execute("UPDATE api_key SET revoked_ms = NULL WHERE name = 'late'")
        code, said = run(*verify, cwd=gateway.folder)
        assert (code, f"key '{key}' is stored as in force, and entry" in said) == (1, True), said


def test_what_no_command_leaves_is_not_signed(make_gateway: Any, node: Any) -> None:
    """The gateway enters acts of other processes, and not an alarm or erasure that somebody put among them; nor does
    one that cannot be read keep those behind it from the log."""
    gateway = make_gateway([node_table(node, "n")]).start()
    with closing(sqlite3.connect(gateway.database, isolation_level=None)) as connection:
        left = (("alarm", b'{"alarm":"machine_changed"}'), ("erasure", b'{"receiptIds":["x"]}'), ("key", b"no act"))
        for kind, document in left:
            connection.execute(
                "INSERT INTO admin_event (kind, document, created_ms, done) VALUES (?, ?, 1, 0)", (kind, document)
            )
        gateway.create_key("late")
        deadline = time.monotonic() + 20
        while connection.execute("SELECT count(*) FROM admin_event WHERE done = 0").fetchone()[0] > len(left):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    errors = [json.loads(line) for line in gateway.process.errors().splitlines()]
    gateway.stop()
    with closing(sqlite3.connect(gateway.database)) as connection:
        kinds = {kind for (kind,) in connection.execute("SELECT kind FROM record")}
    assert "key" in kinds
    assert not kinds & {"alarm", "erasure"}
    code, said = run("audit", "verify", str(gateway.database), "--trust", str(gateway.trust), cwd=gateway.folder)
    assert (code, "is of kind 'alarm', which no command leaves" in said) == (1, True), said
    refused = [line for line in errors if line["event"] == "act.refused"]
    assert [(line["seq"], line["kind"]) for line in refused] == [(3, "alarm"), (4, "erasure"), (5, "key")]


def test_a_changed_export_is_found(make_gateway: Any, node: Any) -> None:
    """One changed byte, and a file that lacks its last line, are named."""
    gateway = make_gateway([node_table(node, "n")]).start()
    gateway.stop()
    for place, change in enumerate((lambda b: b[:-40] + b[-39:], lambda b: b.replace(b"a", b"b", 1))):
        out = f"out{place}"
        assert run("audit", "export", str(gateway.database), "--out", out, cwd=gateway.folder)[0] == 0
        file = gateway.folder / out / "entries.jsonl"
        file.write_bytes(change(file.read_bytes()))
        code, said = run("audit", "verify-export", out, "--trust", str(gateway.trust), cwd=gateway.folder)
        assert code == 1, said


def test_a_changed_session_is_found(make_gateway: Any, node: Any) -> None:
    """What was checked of a node stands in no receipt's columns; the session's id, which receipts name, covers it."""
    gateway = make_gateway([node_table(node, "n")]).start()
    with gateway.sdk() as client:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "=1+1"}], max_tokens=4)
    gateway.stop()
    with closing(sqlite3.connect(gateway.database)) as connection, connection:
        ((before,),) = connection.execute("SELECT document FROM session")
        document = json.loads(before)
        (check,) = [check for check in document["checks"] if check["id"] == "channel_bound"]
        check |= {"outcome": "affirming", "reason": None}
        connection.execute("UPDATE session SET document = ?", (json.dumps(document).encode(),))
    verify = ("audit", "verify", str(gateway.database), "--trust", str(gateway.trust))
    code, said = run(*verify, cwd=gateway.folder)
    assert code == 1, said
    assert "is another: its id is" in said
    with closing(sqlite3.connect(gateway.database)) as connection, connection:
        connection.execute("UPDATE session SET document = ?", (before,))
    assert run(*verify, cwd=gateway.folder)[0] == 3  # nothing from outside was given, and nothing is wrong
