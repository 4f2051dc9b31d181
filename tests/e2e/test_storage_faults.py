"""What becomes of exchanges when the log cannot be written, and of a start on files that are not what they were."""

from __future__ import annotations

import copy
import json
import os
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from agents import ANSWER, STREAM, Agent, Answer, good_script, prompt, prompt_of, together
from ledger import Ledger, audited, exactly_one_each, settled
from policy_kit import write_policy
from running import Gateway
from scripted import Received, ScriptedNode

OPTIMISTIC = '["optimistic"]'


@pytest.fixture(scope="module")
def node() -> Iterator[ScriptedNode]:
    node = ScriptedNode()
    yield node
    node.close()


@pytest.fixture(autouse=True)
def honest(node: ScriptedNode) -> None:
    """Every test begins with a node that answers at once, and that was asked nothing."""
    node.script = good_script(node)
    node.received.clear()


def build(folder: Path, node: ScriptedNode, **settings: Any) -> Gateway:
    """A gateway under `signed` that streams as it comes, with a key whose policy degrades where `signed` refuses."""
    write_policy(folder / "policies", "refusing", stream=OPTIMISTIC)
    write_policy(folder / "policies", "degrading", stream=OPTIMISTIC, on_log_failure='"degrade"')
    policy = {"dir": str(folder / "policies"), "default": "refusing"}
    gateway = Gateway(folder, [node.table()], policy=policy, **settings)
    gateway.degrading = gateway.create_key("degrading", "--policy", "degrading")  # type: ignore[attr-defined]
    return gateway


def ask(gateway: Gateway, name: str, *, stream: bool = False, key: str | None = None) -> Answer:
    with Agent(gateway.url, key or gateway.key) as agent:
        return agent.ask(name, prompt(name, stream=stream))


def ready(gateway: Gateway) -> dict[str, Any]:
    with gateway.http() as client:
        return dict(client.get("/readyz").json())


def wait_for(what: Callable[[], Any], within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def refused_for_the_log(answer: Answer) -> None:
    assert (answer.status, answer.error["code"], answer.error["reason"]) == (503, "log_unavailable", "log_unavailable")
    assert answer.headers["x-veriroute-verdict"] == "none"
    assert answer.headers["x-veriroute-level"] == "degraded"
    assert b"hello" not in answer.body


# -- a log that is gone and comes back -----------------------------------------------------------------------------


class Outage:
    """One outage under way: exchanges that it met in every state, and what they were told."""

    def __init__(self, gateway: Gateway, node: ScriptedNode) -> None:
        self.gateway, self.node = gateway, node
        self.answers: dict[str, Answer | None] = {}
        self.partial = b""

    def run(self) -> None:
        """Four exchanges have reached the node when the database is moved away; four more come while it is gone."""
        gateway, node = self.gateway, self.node
        gate = threading.Event()
        node.script = self._gated(gate)
        keys = {"refuse": gateway.key, "degrade": gateway.degrading}  # type: ignore[attr-defined]
        names = [f"{when}-{kind}-{what}" for when in ("met", "new") for kind in keys for what in ("json", "stream")]

        def one(n: int) -> None:
            name = names[n]
            when, kind, what = name.split("-")
            if when == "new":
                wait_for(lambda: moved.is_set())
            try:
                self.answers[name] = ask(gateway, name, stream=what == "stream", key=keys[kind])
            except Exception:  # noqa: BLE001 - a stream that was cut; looked at raw elsewhere
                self.answers[name] = None

        moved = threading.Event()
        away = gateway.database.with_suffix(".away")
        agents = begin(*[lambda n=n: one(n) for n in range(len(names))])
        wait_for(lambda: len(node.received) == 4)
        self.seen_before = {prompt_of(received) for received in node.received}
        gateway.database.rename(away)
        moved.set()
        wait_for(lambda: sum(name.startswith("new") for name in self.answers) >= 2)
        self.readiness = ready(gateway)
        gate.set()
        join(agents)
        self.seen = {prompt_of(received) for received in node.received}
        self.created_empty = gateway.database.exists()
        away.rename(gateway.database)
        settled(gateway)
        self.ledger = exactly_one_each(gateway, node)

    def _gated(self, gate: threading.Event) -> Any:
        whole, streamed = self.node.json(ANSWER), self.node.sse(STREAM)

        async def script(of: Received) -> Any:
            stream = json.loads(of.body)["stream"]
            first = True
            async for part in (streamed if stream else whole)(of):
                if first and not stream:
                    while not gate.is_set():
                        yield 0.02
                yield part
                if stream and not first:
                    while not gate.is_set():
                        yield 0.02
                first = False

        return script


def begin(*works: Callable[[], None]) -> list[threading.Thread]:
    running = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in running:
        thread.start()
    return running


def join(running: list[threading.Thread]) -> None:
    for thread in running:
        thread.join(60)
        assert not thread.is_alive(), "an agent was left hanging"


@pytest.fixture(scope="module")
def outage(tmp_path_factory: pytest.TempPathFactory, node: ScriptedNode) -> Iterator[Outage]:
    gateway = build(tmp_path_factory.mktemp("outage"), node).start()
    node.script = good_script(node)
    node.received.clear()
    outage = Outage(gateway, node)
    try:
        outage.run()
        yield outage
        audited(gateway)
    finally:
        gateway.stop()


def test_j03_no_prompt_leaves_without_its_intent(outage: Outage) -> None:
    """While the log is gone no prompt of a policy that refuses reaches the node, and no new log is made."""
    assert outage.seen_before == {"met-refuse-json", "met-refuse-stream", "met-degrade-json", "met-degrade-stream"}
    assert outage.seen - outage.seen_before == {"new-degrade-json", "new-degrade-stream"}
    assert not outage.created_empty
    for what in ("json", "stream"):
        answer = outage.answers[f"new-refuse-{what}"]
        assert answer is not None
        refused_for_the_log(answer)
        assert answer.headers["retry-after"] == "1"  # nothing was paid for
        row = outage.ledger.of(f"new-refuse-{what}")
        assert (row.release, row.reason, row.intent) == ("refused", "log_unavailable", None)
        assert row.predicate["log"]["backfilled"] is True


def test_nothing_is_released_without_its_receipt(outage: Outage) -> None:
    """An answer whose receipt the log does not take stays here, and the agent is told not to pay for another."""
    answer = outage.answers["met-refuse-json"]
    assert answer is not None
    refused_for_the_log(answer)
    assert answer.headers["x-should-retry"] == "false"
    row = outage.ledger.of("met-refuse-json")
    assert (row.verdict, row.release, row.reason) == ("affirming", "withheld", "log_unavailable")
    assert row.predicate["delivery"]["bytes"] == 0
    assert row.intent is not None
    # A stream in `optimistic` has let text go; it is cut without its end, and the receipt counts what left.
    assert outage.answers["met-refuse-stream"] is None
    row = outage.ledger.of("met-refuse-stream")
    assert (row.release, row.reason) == ("withheld", "log_unavailable")
    assert 0 < row.predicate["delivery"]["bytes"] < len(STREAM)


@pytest.mark.parametrize("what", ["json", "stream"])
@pytest.mark.parametrize("when", ["met", "new"])
def test_j05_degraded_answers_are_backfilled(outage: Outage, when: str, what: str) -> None:
    """Under `degrade` the answer goes, says `degraded` and never `logged`, and its receipt is logged later, marked."""
    name = f"{when}-degrade-{what}"
    answer = outage.answers[name]
    assert answer is not None
    assert answer.status == 200
    assert answer.whole
    found = answer.verification
    assert (found["verdict"], found["level"], found["release"]) == ("affirming", "degraded", "released")
    assert not found.keys() & {"index", "proof"}
    assert b"logged" not in answer.body
    assert answer.headers["x-veriroute-level"] == ("pending" if what == "stream" else "degraded")
    row = outage.ledger.of(name)
    assert row.id == found["receipt"]
    assert (row.verdict, row.release, row.status) == ("affirming", "released", 200)
    assert row.predicate["log"] == {"origin": "test.example/log", "backfilled": True}
    (alarm,) = outage.ledger.alarms("log_unavailable")
    assert alarm["since"] <= row.predicate["timeCreated"] <= alarm["until"]
    assert row.predicate["timings"]["received"] <= row.predicate["timeCreated"]
    assert row.intent is not None


def test_the_outage_is_in_the_log(outage: Outage) -> None:
    """An alarm entry before the backfilled ones says since when the log was down, why, and how many waited."""
    (event,) = [e for e in outage.ledger.kind("alarm") if e.predicate["alarm"] == "log_unavailable"]
    alarm = event.predicate
    backfilled = [row for row in outage.ledger.receipts if row.predicate["log"].get("backfilled")]
    assert len(backfilled) == 8
    assert all(row.index > event.index for row in backfilled)
    # eight receipts, and the two intents of the answers that began while it was down
    assert (alarm["backfilled"], alarm["unrecorded"]) == (10, 0)
    assert "is gone" in alarm["reason"]


def test_readiness_follows_the_log(outage: Outage) -> None:
    """/readyz says that the log cannot be written and why, and is well again without a restart or a request."""
    assert outage.readiness["status"] == "not ready"
    assert "is gone" in outage.readiness["problems"][0]
    assert ready(outage.gateway)["status"] == "ready"


# -- locked, full, broken ------------------------------------------------------------------------------------------


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Another process's write transaction, as far as SQLite can tell."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=10)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def test_j04_g05_a_locked_database(tmp_path: Path, node: ScriptedNode) -> None:
    """A short lock is waited for; a long one is 503 in time, and nothing is sent; no bad key gets by; it recovers."""
    gateway = build(tmp_path, node).start()
    try:
        answers: dict[str, Answer] = {}

        def put(name: str, **how: Any) -> Callable[[], None]:
            return lambda: answers.__setitem__(name, ask(gateway, name, **how))

        with locked(gateway.database):
            agents = begin(put("short"), put("short-stream", stream=True))
            time.sleep(1.0)
            assert not answers
        join(agents)
        assert answers["short"].verification["level"] == answers["short-stream"].verification["level"] == "logged"
        node.received.clear()
        with locked(gateway.database):
            agents = begin(put("long"))
            time.sleep(2.5)
            assert ask(gateway, "bad key", key="vr-none").status == 401
            begun = time.monotonic()
            agents += begin(put("long-stream", stream=True))
            join(agents)
            assert 4.5 < time.monotonic() - begun < 5.0 + 2.0  # each waits for the writer's deadline, and no longer
        refused_for_the_log(answers["long"])
        refused_for_the_log(answers["long-stream"])
        assert not node.received
        assert ask(gateway, "after").status == 200
        ledger = exactly_one_each(gateway, node)
        assert ledger.of("long").reason == ledger.of("long-stream").reason == "log_unavailable"
        (alarm,) = ledger.alarms("log_unavailable")
        assert "locked" in alarm["reason"]
        audited(gateway)
    finally:
        gateway.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a small file system takes root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "veriroute-test", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """Take what is left of the disk."""
    filler = folder / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


def until_refused(gateway: Gateway, name: str) -> list[Answer]:
    """Good answers until the log fails, and then four that are refused for it."""
    answers: list[Answer] = []
    while not answers or answers[-1].status == 200:
        assert len(answers) < 400, "the log goes on"
        answers.append(ask(gateway, f"{name}-{len(answers)}"))
    for _ in range(3):
        answers.append(ask(gateway, f"{name}-{len(answers)}"))
    for answer in answers[-4:]:
        refused_for_the_log(answer)
    return answers


def test_j01_a_full_disk(small_disk: Path, node: ScriptedNode) -> None:
    """503 while the disk is full, which holds our log lines too; degraded under `degrade`; well with space again."""
    gateway = build(small_disk, node).start()
    try:
        assert ask(gateway, "before").status == 200
        filler = fill(small_disk)
        until_refused(gateway, "full")  # what is left of the write-ahead log may hold a few
        several = together(8, lambda n: ask(gateway, f"together-{n}"))
        assert {answer.status for answer in several} == {503}
        degraded = ask(gateway, "degraded", key=gateway.degrading)  # type: ignore[attr-defined]
        assert (degraded.status, degraded.verification["level"]) == (200, "degraded")
        assert "full" in ready(gateway)["problems"][0]
        with gateway.http() as client:
            assert client.get("/healthz").status_code == 200
        filler.unlink()
        wait_for(lambda: ready(gateway)["status"] == "ready")
        assert ask(gateway, "after").verification["level"] == "logged"
        ledger = exactly_one_each(gateway, node)
        assert ledger.of("degraded").predicate["log"]["backfilled"] is True
        assert ledger.of("together-3").reason == "log_unavailable"
        audited(gateway)
    finally:
        gateway.stop()
    ledger = Ledger(gateway.database).check()
    assert ledger.events[-1].kind == "stop"


def test_j02_a_disk_that_fails(tmp_path: Path, node: ScriptedNode) -> None:
    """After an I/O error nothing is tried again: 503 and not ready until a restart has checked the log."""
    gateway = build(tmp_path, node).start()
    assert gateway.process is not None
    try:
        good = [ask(gateway, f"good-{n}") for n in range(3)]
        assert {answer.status for answer in good} == {200}
        # No file of this process may grow any more: what SQLite writes behind the end fails, and not for want of space.
        pid = gateway.process.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (gateway.database.stat().st_size, limits[1]))
        answers = until_refused(gateway, "broken")
        assert "start again" in ready(gateway)["problems"][0]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
        assert ask(gateway, "still").status == 503
        assert "still" not in {prompt_of(received) for received in node.received}
        gateway.stop()
        gateway.start()
        assert ask(gateway, "after").status == 200
        ledger = Ledger(gateway.database).check()
        for answer in [*good, *answers[:-4]]:
            assert sum(row.id == answer.verification["receipt"] for row in ledger.receipts) == 1
        audited(gateway)
    finally:
        gateway.stop()


# -- what a start refuses ------------------------------------------------------------------------------------------


class Kept:
    """The files of a gateway that ran twice and stopped, and a copy of its database from between."""

    def __init__(self, gateway: Gateway, backup: Path) -> None:
        self.gateway, self.backup = gateway, backup

    def copy(self, folder: Path) -> Gateway:
        """The same gateway in a folder of the test's own."""
        shutil.copytree(self.gateway.folder, folder)
        clone = copy.copy(self.gateway)
        clone.folder, clone.config = folder, folder / self.gateway.config.name
        clone.config.write_text(clone.config.read_text("utf-8").replace(str(self.gateway.folder), str(folder)), "utf-8")
        return clone


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, node: ScriptedNode) -> Kept:
    folder = tmp_path_factory.mktemp("kept")
    node.script = good_script(node)
    (folder / "files").mkdir()
    gateway = Gateway(folder / "files", [node.table()])
    backup = folder / "backup.db"
    for name in ("first", "second"):
        gateway.start()
        for n in range(5):
            assert ask(gateway, f"{name}-{n}").status == 200
        assert gateway.stop() == 0
        if not backup.exists():
            shutil.copy(gateway.database, backup)
    return Kept(gateway, backup)


def refusal(gateway: Gateway, *more: str) -> str:
    """What `veriroute serve` says when it refuses: exit code 2, nothing on stdout, one line on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "serve", "--config", str(gateway.config), "--log-level", "error", *more],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("veriroute serve: ")
    assert "Traceback" not in done.stderr
    return done.stderr


def edit(gateway: Gateway, sql: str, *parameters: object) -> None:
    with closing(sqlite3.connect(gateway.database)) as connection, connection:
        assert connection.execute(sql, parameters).rowcount == 1


def other_log_key(gateway: Gateway) -> None:
    """The key of another log of the same name."""
    shutil.rmtree(gateway.folder / "audit.db.keys")
    from gateway.keyfiles import load_or_make

    load_or_make(str(gateway.folder / "audit.db.keys"), "test.example/log", log_exists=False)


RECEIPT = "UPDATE receipt SET envelope = CAST(envelope || 'A' AS BLOB) WHERE idx = (SELECT max(idx) FROM receipt)"
LEAF = "UPDATE leaf SET leaf = CAST(replace(CAST(leaf AS TEXT), 'a', 'b') AS BLOB) WHERE idx = 3"
HASH = "UPDATE leaf SET hash = zeroblob(32) WHERE idx = 3"
ALTERED = "the stored log was altered"


def in_keys(gateway: Gateway, name: str) -> Path:
    return gateway.folder / "audit.db.keys" / name


def other_origin(gateway: Gateway) -> None:
    text = gateway.config.read_text("utf-8")
    gateway.config.write_text(text.replace("test.example/log", "other.example/log"), "utf-8")


REFUSALS: list[tuple[str, Callable[[Gateway], Any], str]] = [
    ("a receipt altered", lambda g: edit(g, RECEIPT), ALTERED),
    ("a leaf altered", lambda g: edit(g, LEAF), ALTERED),
    ("a leaf hash altered", lambda g: edit(g, HASH), ALTERED),
    ("a leaf cut out", lambda g: edit(g, "DELETE FROM leaf WHERE idx = 4"), ALTERED),
    ("the database deleted, the memory kept", lambda g: g.database.unlink(), "is gone"),
    ("the memory deleted", lambda g: (g.folder / "audit.db.checkpoint").unlink(), "--accept-rollback"),
    ("not a database", lambda g: g.database.write_bytes(b"x" * 8192), "audit.db"),
    ("another log's key", other_log_key, "another log or key"),
    ("no log key", lambda g: in_keys(g, "log.key").unlink(), "log.key is missing"),
    ("no receipt key", lambda g: in_keys(g, "receipt.key").unlink(), "receipt.key is missing"),
    ("no keys at all", lambda g: shutil.rmtree(in_keys(g, "")), "log.key is missing"),
    ("a key that others can read", lambda g: in_keys(g, "log.key").chmod(0o644), "run: chmod 600"),
    ("an empty key", lambda g: in_keys(g, "receipt.key").write_text(""), "receipt.key is not usable"),
    ("another origin", other_origin, "log.origin"),
]


@pytest.mark.parametrize(("damage", "words"), [r[1:] for r in REFUSALS], ids=[r[0] for r in REFUSALS])
def test_j15_j18_j31_a_start_refuses(kept: Kept, tmp_path: Path, damage: Callable[[Gateway], Any], words: str) -> None:
    """Files that are not those of this log, whole: exit 2 with what to do, and no new log in place of the old one."""
    gateway = kept.copy(tmp_path / "copy")
    damage(gateway)
    before = gateway.database.read_bytes() if gateway.database.exists() else None
    assert words in refusal(gateway)
    assert (gateway.database.read_bytes() if gateway.database.exists() else None) == before


def test_j15_a_restored_backup(kept: Kept, tmp_path: Path) -> None:
    """An older database refuses to start and says `rolled back`; --accept-rollback starts it and leaves an alarm."""
    gateway = kept.copy(tmp_path / "copy")
    size = Ledger(gateway.database).size
    shutil.copy(kept.backup, gateway.database)
    stored = Ledger(gateway.database).size
    said = refusal(gateway)
    assert "rolled back" in said
    assert f"it has {stored} entries" in said
    assert f"remembers {size}" in said
    assert "--accept-rollback" in said
    gateway.start("--accept-rollback")
    assert ask(gateway, "after").status == 200
    assert gateway.stop() == 0
    (alarm,) = Ledger(gateway.database).check().alarms("rollback_accepted")
    assert (alarm["reason"], alarm["knownSize"], alarm["storedSize"]) == ("rolled_back", size, stored)
    gateway.start()  # once was enough
    assert gateway.stop() == 0
    assert len(Ledger(gateway.database).check().alarms("rollback_accepted")) == 1


def test_j12_a_second_gateway_on_the_same_files(kept: Kept, tmp_path: Path) -> None:
    """It refuses and names the process that writes; the first one goes on undisturbed."""
    gateway = kept.copy(tmp_path / "copy").start()
    assert gateway.process is not None
    said = refusal(gateway)
    assert f"process {gateway.process.process.pid} is already writing this log" in said
    assert ask(gateway, "undisturbed").verification["level"] == "logged"
    assert gateway.stop() == 0
    audited(gateway)


def test_j03_a_read_only_directory(small_disk: Path, node: ScriptedNode) -> None:
    """A place where nothing can be written: refused at the start, by name."""
    gateway = build(small_disk, node)
    (small_disk / "audit.db").unlink()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    said = refusal(gateway)
    assert str(small_disk) in said
    assert "Read-only file system" in said


def test_l03_a_database_that_others_can_read(kept: Kept, tmp_path: Path) -> None:
    """Its mode is put right, and the operator is told."""
    gateway = kept.copy(tmp_path / "copy")
    gateway.database.chmod(0o644)
    gateway.start()
    assert stat.S_IMODE(gateway.database.stat().st_mode) == 0o600
    assert gateway.process is not None
    assert "was open to other users" in gateway.process.errors()
    assert gateway.stop() == 0
