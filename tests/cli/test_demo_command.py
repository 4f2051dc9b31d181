"""`veriroute demo`: what it shows, what it leaves behind (nothing), and what it says when it cannot start."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from running import Process

from gateway.cli import demo, main
from gateway.cli._demo_show import TextShow
from gateway.cli._demo_story import End, Row
from gateway.model.receipt import Rejected
from gateway.model.ulid import is_ulid

GOOD = (200, "affirming", "released", None)
#: request -> HTTP status, verdict, release, reason, code of the error, nodes that may have answered
ROWS: dict[str, tuple[Any, ...]] = {
    "chat": (*GOOD, None, {"honest-1", "honest-2"}),
    "chat, streamed": (*GOOD, None, {"honest-1", "honest-2"}),
    "tool call": (*GOOD, None, {"honest-1", "honest-2"}),
    "tool call, streamed": (*GOOD, None, {"honest-1", "honest-2"}),
    "embeddings": (*GOOD, None, {"honest-1", "honest-2"}),
    "responses": (*GOOD, None, {"honest-1", "honest-2"}),
    "tampered-lm": (502, "contraindicated", "withheld", "response_bound", "evidence_rejected", {"dishonest"}),
    "tampered-lm again": (503, "none", "refused", "quarantined", "no_eligible_node", {None}),
    "shared-lm": (*GOOD, None, {"honest-2"}),
    "voted-lm": (*GOOD, None, {"plain-1", "plain-2"}),
    "policy strict": (503, "none", "refused", "tee_attested", "no_eligible_node", {None}),
    "policy observe": (400, None, None, "bad_request", "bad_request", {None}),
}


def spawn(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gateway", "demo", "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process: subprocess.Popen[str], within: float = 60.0) -> tuple[list[dict[str, Any]], str]:
    """Its events and its stderr, once it has ended."""
    out, err = process.communicate(timeout=within)
    assert "Traceback" not in err
    return [json.loads(line) for line in out.splitlines()], err


def wait_for(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        found: dict[str, Any] = json.loads(line)
        if found["event"] == event:
            return found
    raise AssertionError(process.communicate()[1])


def left_behind(folder: Path) -> list[str]:
    """Processes that have the folder in their arguments, as every child of a demo has, but no demo itself."""
    shown = subprocess.run(["ps", "-A", "-ww", "-o", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in shown.splitlines() if str(folder) in line and " demo " not in line]


def pid_of(argument: str, folder: Path) -> int:
    return next(int(line.split()[0]) for line in left_behind(folder) if argument in line)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """One whole run, and its events."""
    folder = tmp_path_factory.mktemp("once") / "state"
    process = spawn("--once", "--port", "0", "--dir", str(folder))
    events, err = finish(process)
    assert (process.returncode, err) == (0, "")
    return folder, events


@pytest.fixture
def up(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str], dict[str, Any]]]:
    """A demo that stays up: its folder, the process and its ready event."""
    folder = tmp_path / "state"
    process = spawn("--port", "0", "--dir", str(folder))
    try:
        yield folder, process, wait_for(process, "ready")
    finally:
        process.kill()
        process.communicate()


def test_every_request_ends_as_the_story_says(once: tuple[Path, list[dict[str, Any]]]) -> None:
    """Each row has its status, verdict, release, reason, code and node, and its receipt's id where it was accepted."""
    rows = {e["request"]: e for e in once[1] if e["event"] == "row"}
    assert list(rows) == list(ROWS)
    for name, (status, verdict, release, reason, code, nodes) in ROWS.items():
        row = rows[name]
        found = (row["status"], row["verdict"], row["release"], row["reason"], row["code"])
        assert found == (status, verdict, release, reason, code), row
        assert row["node"] in nodes
        assert row["receipt"] is None if status == 400 else is_ulid(row["receipt"])
        assert row["said"]
        assert row["expected"] is None
        assert 0 < row["ms"] < 60_000
    assert rows["chat"]["said"] == rows["chat, streamed"]["said"] == rows["shared-lm"]["said"]
    assert rows["shared-lm"]["passed_over"] == [
        {"node": "dishonest", "reason": "quarantined", "cause": "response_bound"}
    ]
    asked = {a["node"]: a["outcome"] for a in rows["voted-lm"]["asked"]}
    assert asked == {"plain-1": "agrees", "plain-2": "agrees", "plain-3": "text_not_tokens"}
    assert rows["tampered-lm"]["error"] == "InternalServerError"
    assert len({row["receipt"] for row in rows.values()}) == len(rows)


def test_a_receipt_is_checked_offline(once: tuple[Path, list[dict[str, Any]]]) -> None:
    """The bundle of the first row passes `veriroute verify` against the gateway's public keys, again and afterwards."""
    folder, events = once
    told = next(e for e in events if e["event"] == "verified")
    assert told["exit"] == 0
    assert told["checks"] > 10
    assert main(["verify", told["file"], "--trust", told["trust"]]) == 0
    assert Path(told["trust"]) == folder / "veriroute.db.keys" / "trust.txt"


def test_nothing_is_left_behind_but_the_folder(once: tuple[Path, list[dict[str, Any]]]) -> None:
    """No process outlives the demo, and what is secret in its folder is for its owner alone."""
    folder, events = once
    assert left_behind(folder) == []
    assert [e["name"] for e in events if e["event"] == "node"] == ["honest-1", "honest-2", "dishonest"]
    secret = [folder / "api-keys.json", folder / "veriroute.db.keys" / "log.key", *(folder / "nodes").iterdir()]
    assert {oct(path.stat().st_mode & 0o777) for path in (*secret,)} == {"0o600"}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / ".gitignore").read_text() == "*\n"


def test_a_second_run_goes_on(once: tuple[Path, list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]) -> None:
    """It has the same log, pins and keys, but for a key that was revoked meanwhile, which it makes anew."""
    folder, before = once
    first = before[-1]
    config = str(folder / "veriroute.toml")
    assert main(["keys", "list", "--json", "--config", config]) == 0
    agent = next(k for k in json.loads(capsys.readouterr().out) if k["name"] == "agent")
    assert main(["keys", "revoke", agent["id"], "--config", config]) == 0
    process = spawn("--once", "--port", "0", "--dir", str(folder), env={**os.environ, "VERIROUTE_SERVER_PORT": "1"})
    events, _ = finish(process)
    assert process.returncode == 0
    second = events[-1]
    assert second["log_size"] > next(e for e in events if e["event"] == "gateway")["log_size"] > first["log_size"]
    assert second["admin_key"] == first["admin_key"]
    assert second["api_key"] != first["api_key"]
    pins = [[e["pin"] for e in run if e["event"] == "node"] for run in (before, events)]
    assert pins[0] == pins[1]


def test_it_stays_up_until_told(up: tuple[Path, subprocess.Popen[str], dict[str, Any]]) -> None:
    """The gateway serves until SIGTERM; then everything stops and the demo exits 0 without a traceback."""
    folder, process, ready = up
    answer = httpx.get(
        f"{ready['base_url']}/models", headers={"authorization": f"Bearer {ready['api_key']}"}, trust_env=False
    )
    assert answer.status_code == 200
    assert {m["id"] for m in answer.json()["data"]} >= {"veriroute-lm-1", "tampered-lm", "shared-lm"}
    assert len(left_behind(folder)) == 4
    process.send_signal(signal.SIGTERM)
    events, err = finish(process)
    assert (process.returncode, err) == (0, "")
    assert [e["event"] for e in events] == ["stopped"]
    assert left_behind(folder) == []


def test_beside_a_running_demo(up: tuple[Path, subprocess.Popen[str], dict[str, Any]], tmp_path: Path) -> None:
    """One folder is for one demo; the requests alone can be sent again; a lax gateway is found out."""
    folder, _, ready = up
    url = ready["base_url"].removesuffix("/v1")
    second = spawn("--port", "0", "--dir", str(folder))
    assert "another demo runs" in finish(second)[1]
    assert second.returncode == 2

    again = spawn("--gateway", url, "--dir", str(folder))
    events, err = finish(again)
    assert (again.returncode, err) == (0, "")
    rows = {e["request"]: e for e in events if e["event"] == "row"}
    assert rows["tampered-lm"]["reason"] == "quarantined"  # since the first time

    lax = tmp_path / "lax"
    lax.mkdir()
    settings = (folder / "veriroute.toml").read_text().replace(
        str(folder), str(lax)
    ) + '[policy]\ndefault = "observe"\n'
    (lax / "veriroute.toml").write_text(settings)
    gateway = Process(["serve", "--config", str(lax / "veriroute.toml")], cwd=tmp_path)
    try:
        loose = spawn("--gateway", gateway.url, "--dir", str(lax))
        events, _ = finish(loose)
    finally:
        gateway.stop()
    assert loose.returncode == 1
    rows = {e["request"]: e for e in events if e["event"] == "row"}
    assert rows["chat"]["expected"] is None
    assert (rows["tampered-lm"]["status"], rows["tampered-lm"]["verdict"]) == (200, "contraindicated")
    assert rows["tampered-lm"]["expected"] == [502, "contraindicated", "withheld", "response_bound"]


def test_what_ends_by_itself(up: tuple[Path, subprocess.Popen[str], dict[str, Any]]) -> None:
    """A node that ends is told and the rest goes on; when the gateway ends, the demo stops the nodes and fails."""
    folder, process, _ = up
    os.kill(pid_of("honest-1.json", folder), signal.SIGTERM)
    assert wait_for(process, "lost") == {"event": "lost", "name": "honest-1", "exit": 0}
    os.kill(pid_of(" serve ", folder), signal.SIGKILL)
    _, err = finish(process)
    assert process.returncode == 1
    assert "the gateway stopped by itself (exit -9)" in err
    assert left_behind(folder) == []


def test_stopped_while_starting(tmp_path: Path) -> None:
    """SIGTERM before everything is up stops what is up; the exit code says that it was a signal."""
    process = spawn("--port", "0", "--dir", str(tmp_path / "state"))
    wait_for(process, "starting")
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, err = finish(process)
    assert (process.returncode, err) == (128 + signal.SIGTERM, "")
    assert left_behind(tmp_path / "state") == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent was killed")
def test_killed_outright(tmp_path: Path) -> None:
    """Even SIGKILL, which no program sees, leaves no node and no gateway behind."""
    folder = tmp_path / "state"
    process = spawn("--port", "0", "--dir", str(folder))
    wait_for(process, "gateway")
    assert len(left_behind(folder)) == 4
    process.kill()
    process.communicate()
    end = time.monotonic() + 20
    while left_behind(folder) and time.monotonic() < end:
        time.sleep(0.1)
    assert left_behind(folder) == []


def test_a_taken_port(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is noticed before anything is started, and the message names the option."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", "--port", str(port), "--dir", str(tmp_path / "state")]) == 2
    err = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1:{port}" in err
    assert "--port 0" in err
    assert not (tmp_path / "state").exists()
    assert main(["demo", "--port", "70000"]) == 2


def test_a_node_that_does_not_start(tmp_path: Path) -> None:
    """Its name, exit code and last words are told; the others are stopped."""
    folder = tmp_path / "state"
    (folder / "nodes").mkdir(parents=True)
    identity = folder / "nodes" / "honest-2.json"
    identity.write_text("{}")
    identity.chmod(0o644)
    process = spawn("--port", "0", "--dir", str(folder))
    _, err = finish(process)
    assert process.returncode == 1
    assert "honest-2 did not start (exit 2):\n" in err
    assert "chmod 600" in err
    assert left_behind(folder) == []


def test_a_folder_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file in the folder's place is a sentence that names the option; a folder without settings has no gateway."""
    (tmp_path / "state").write_text("")
    assert main(["demo", "--port", "0", "--dir", str(tmp_path / "state")]) == 2
    assert "see --dir" in capsys.readouterr().err
    assert main(["demo", "--gateway", "http://127.0.0.1:1", "--dir", str(tmp_path)]) == 2
    assert "veriroute.toml" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["openai", "numpy"])
def test_a_missing_extra(missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the SDK or NumPy the demo says which is missing, and what to install."""
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == missing else object())
    assert main(["demo", "--port", "0"]) == 2
    err = capsys.readouterr().err
    assert f"the demo needs {missing}:" in err
    assert "veriroute[demo]" in err


class Screen(io.StringIO):
    """A terminal, as far as the demo asks."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


HOSTILE = Row(
    request="chat",
    status=502,
    verdict="contraindicated",
    release="withheld",
    reason="\x1b[2Jgone",
    node="evil\u202e",
    receipt="01M7XXS9MTNWVV80PZRZZFDZ9C",
    ms=12.3,
    said="\x1b]0;title\x07 and a long tale " + "word " * 100,
    error="InternalServerError",
    code="evidence_rejected",
    passed_over=(Rejected("n\x1b[1m", "quarantined"),),
    expected=End(200, "affirming", "released", None),
)


@pytest.mark.parametrize("no_color", ["", "1"])
def test_the_table_is_inert(no_color: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a node or model says stays on its line within the width; NO_COLOR leaves no escape code at all."""
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    show = TextShow(recipes=False)
    show.heading("a part")
    show.row(HOSTILE)
    text = screen.getvalue()
    assert ("\x1b" in text) is (no_color == "")
    for code in ("\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[33m", "\x1b[0m"):
        text = text.replace(code, "")
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "✗ contraindicated" in text
    assert "\\x1b[2Jgone" in text
    assert "this had to end with 200 affirming released" in text
    assert max(map(len, text.splitlines())) <= 100


def test_who_was_passed_over_is_told_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below a row that was served, inert; a receipt without a cause is told by its reason alone."""
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "100")
    gone = (Rejected("a", "quarantined", "signature"), Rejected("b", "endpoint"), Rejected("c", "d", "\x1b[3m"))
    TextShow(recipes=False).row(msgspec.structs.replace(HOSTILE, error=None, passed_over=gone))
    told = "passed over: a (quarantined: signature), b (endpoint), c (d: \\x1b[3m)"
    assert told in " ".join(screen.getvalue().split())
