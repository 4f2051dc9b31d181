"""The main benchmark: what it counts, what it says of that, and what it leaves behind."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import support_bench

BENCH = Path(__file__).resolve().parents[2] / "bench"


def load(name: str) -> ModuleType:
    sys.path.insert(0, str(BENCH))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCH))


def samples(n: int, value: float) -> dict[str, float]:
    return {"n": n, "p50": value, "p99": 10 * value}


def row(target: str, scenario: str = "json-16", **more: Any) -> dict[str, Any]:
    made = {"target": target, "scenario": scenario, "round": 0, "ok": 200, "failed": 0, "rate": 100.0, "cpu_us": 500.0}
    return made | {"latency_us": samples(200, 100.0), "others": 0.0} | more


def result(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    audit = {"requests": 200, "receipts": 200, "leaves": 401, "log_size": 401, "audit_verify": "ok"}
    info = {r["target"]: {"start_s": 1.0, "memory_idle_mb": {"rss": 2.0, "pss": 1.0}} for r in rows}
    return {"rows": list(rows), "info": info, "machine": {"fsync_ms": 0.1}, "audit": audit} | more


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of some tenths of a second, as it was written down, by somebody who has a gateway of their own configured."""
    support_bench.build()
    out = tmp_path_factory.mktemp("results")
    short = ["--seconds", "0.05", "--rounds", "1", "--memory-requests", "40", "--chunks", "3", "--interval-us", "500"]
    command = [sys.executable, str(BENCH / "run.py"), "--targets", "direct,veriroute", "--scenarios", "json-1,sse-1"]
    env = os.environ | {"VERIROUTE_STORAGE_URL": f"sqlite:///{out}/own.db"}
    done = subprocess.run([*command, *short, "--out", str(out)], env=env, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr  # 1: a target was missed
    (written,) = out.glob("*.json")
    return json.loads(written.read_text()) | {"said": done.stdout, "out": out}


def test_a_chunk_is_what_the_node_sent(whole: dict[str, Any]) -> None:
    """The gateway's own event of a stream is no chunk, neither of the rate nor of what the CPU is divided by."""
    rows = {r["target"]: r for r in whole["rows"] if r["scenario"] == "sse-1"}
    assert rows["direct"]["events"] == 4 * rows["direct"]["ok"]
    assert rows["veriroute"]["events"] == 5 * rows["veriroute"]["ok"]  # the last: its verification
    for found in rows.values():
        assert found["chunk_rate"] * found["seconds"] == pytest.approx(4 * found["ok"], rel=0.01)


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """What is started heeds SIGINT, also where this runs behind a shell's `&` and inherits that nobody does."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_leaves_nothing_behind(number: int, tmp_path: Path) -> None:
    """Ctrl-C or a SIGTERM in the middle: the node has ended too, and the folder of the database is gone."""
    support_bench.build()
    data = tmp_path / "data"
    data.mkdir()
    command = [sys.executable, "-u", str(BENCH / "run.py"), "--targets", "direct", "--out", str(tmp_path / "out")]
    with subprocess.Popen(
        [*command, "--data", str(data)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout
        assert run.stderr
        assert "direct: ready" in run.stdout.readline()
        started = load("measure").tree(run.pid)[1:]
        assert started
        assert list(data.iterdir())
        run.send_signal(number)
        assert run.wait(60) == 130
        assert run.stderr.read() == "bench: stopped, and everything that it started\n"
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
    assert not list(data.iterdir())


def test_what_cannot_run_is_said_in_a_line(tmp_path: Path) -> None:
    """No make, no folder for results or data, no node, no such target: exit 2 and a sentence, before anything starts."""
    support_bench.build()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "taskset").write_text("#!/bin/sh\nexit 1\n")
    (broken / "taskset").chmod(0o755)
    file = tmp_path / "file"
    file.touch()
    path, out = os.environ["PATH"], str(tmp_path / "out")
    cases = [
        (["--out", out], "/nowhere", "bench: make is not installed"),
        (["--out", str(file / "out")], path, f"bench: {file}"),
        (["--out", out, "--data", str(file)], path, f"bench: {file}"),
        (["--out", out, "--targets", "direct,foo"], path, "run.py: error: no target foo; there are direct, nginx"),
    ]
    if shutil.which("taskset") and (os.cpu_count() or 1) > 1:
        cases.append((["--out", out], f"{broken}:{path}", "bench: the benchmark's node did not start, see "))
    for more, where, said in cases:
        done = subprocess.run(
            [sys.executable, str(BENCH / "run.py"), "--targets", "direct", *more],
            env={"PATH": where},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.splitlines()[-1].startswith(said)
        assert "Traceback" not in done.stderr


def test_the_database_of_whoever_runs_it_is_not_touched(whole: dict[str, Any]) -> None:
    """Settings in the environment are for their gateway: neither a key nor a receipt of the benchmark goes there."""
    assert not list(whole["out"].glob("own.db*"))
    assert "left_out" not in whole["info"]["veriroute"]


def test_nginx_is_found_where_only_root_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's search path on Debian has no /usr/sbin, where the package puts nginx."""
    asked = []
    targets = load("targets")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(targets.shutil, "which", lambda name, path: asked.append((name, path.split(":"))))
    assert targets.find_nginx() is None
    assert asked == [("nginx", ["/usr/bin", "/bin", "/usr/sbin", "/usr/local/sbin"])]


def test_cpu_of_a_thread_that_has_ended_counts() -> None:
    """15 ms of CPU in a thread that is gone by the second reading are in the difference, every time."""
    source = """if True:
    import sys, threading, time
    def burn():
        while time.thread_time() < 0.015: pass
    for _ in range(4):
        sys.stdin.readline()
        thread = threading.Thread(target=burn)
        thread.start()
        thread.join()
        print(flush=True)
    sys.stdin.readline()
    """
    measure = load("measure")
    with subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        for _ in range(4):
            before = measure.cpu_seconds([process.pid])
            process.stdin.write("\n")
            process.stdin.flush()
            process.stdout.readline()
            assert measure.cpu_seconds([process.pid]) - before >= 0.0149
        process.stdin.close()
    assert measure.cpu_seconds([process.pid]) == 0.0


def judged(found: dict[str, Any]) -> dict[str, Any]:
    return {line["what"]: line["met"] for line in load("report").judge(found)}


def test_a_log_that_its_checkpoint_does_not_count_is_missed() -> None:
    """As many receipts as requests are not enough: the newest checkpoint counts every leaf, or the run has failed."""
    assert judged(result(row("veriroute")))["leaves that the newest checkpoint does not count"] is True
    short = {"requests": 200, "receipts": 200, "leaves": 401, "log_size": 399, "audit_verify": "ok"}
    found = judged(result(row("veriroute"), audit=short))
    assert found["leaves that the newest checkpoint does not count"] is False


def test_two_cores_are_taken_of_those_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's set need not hold 0 and 1; with one core, or no taskset, nothing is pinned."""
    run = load("run")
    monkeypatch.setattr(run.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(run.os, "sched_getaffinity", lambda _: {6, 2, 5})
    assert run.cores() == (2, 5)
    monkeypatch.setattr(run.os, "sched_getaffinity", lambda _: {3})
    assert run.cores() == (None, None)
    monkeypatch.setattr(run.os, "sched_getaffinity", lambda _: {2, 5})
    monkeypatch.setattr(run.shutil, "which", lambda name: None)
    assert run.cores() == (None, None)


def test_a_rate_of_no_one_core_is_not_judged() -> None:
    """A gateway that was not pinned may have used several: its rate is not held against the target, and that is said."""
    what = "JSON requests a second, 16 connections, one core"
    free = result(row("veriroute"), machine={"fsync_ms": 0.1, "pinned": False})
    held = result(row("veriroute"), machine={"fsync_ms": 0.1, "pinned": True})
    assert (judged(free)[what], judged(held)[what]) == (None, False)
    report = load("report")
    said = [report.text(r | {"targets": report.judge(r)}) for r in (free, held)]
    assert ["nothing was pinned" in text for text in said] == [True, False]


def test_a_rate_that_is_the_node_s_shows(whole: dict[str, Any]) -> None:
    """Each line says how busy the target's core was, and that of node and load generator."""
    nginx = row("nginx", cpu_share=0.49, load_share=0.98)
    report = load("report")
    head, _, line = report.one_scenario(result(nginx), "json-16").splitlines()[1:]
    assert (head.split()[-5:], line.split()[-3:]) == (["core", "%", "node's", "%", "failed"], ["49", "98", "0"])
    assert all(0 < r["load_share"] < 2 for r in whole["rows"])


def test_memory_is_told_after_however_many_requests(whole: dict[str, Any]) -> None:
    """What --memory-requests asked for has its column, growth is from there on, and what cannot be read is no 0 MB."""
    assert "after 40" in whole["said"]
    found = result(row("veriroute"))
    found["info"]["veriroute"]["memory_after"] = [{"requests": 500, "pss": 60.0}, {"requests": 100_000, "pss": 63.0}]
    report = load("report")
    assert "after 500  after 100,500" in report.startup(found)
    assert judged(found)["growth over 100,000 requests (PSS)"] is False
    found["info"]["veriroute"] |= {"memory_after": [], "memory_idle_mb": load("measure").memory_mb([])}
    assert judged(found)["growth over 100,000 requests (PSS)"] is None
    assert judged(found)["memory idle (PSS)"] is None


def test_a_result_is_printed_again(whole: dict[str, Any], tmp_path: Path) -> None:
    """report.py says of a file what the run said; of no file, or one of something else, that it is none."""
    (written,) = whole["out"].glob("*.json")
    other = tmp_path / "other.json"
    other.write_text("[]")
    for given, status in (([str(written)], 0), ([], 2), ([str(tmp_path / "none")], 2), ([str(other)], 2)):
        done = subprocess.run(
            [sys.executable, str(BENCH / "report.py"), *given], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr.count("\n")) == (status, int(status > 0)), done.stderr
        assert done.stdout.strip() in whole["said"]


def test_programs_that_are_not_built_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts the node by another way than run.py, which builds it, is told how."""
    targets = load("targets")
    monkeypatch.setattr(targets, "HERE", tmp_path)
    with pytest.raises(targets.BenchError, match="make -C bench"):
        targets.SigningNode(tmp_path, None)


def test_a_wrong_answer_counts_wherever_it_was_given() -> None:
    """One that failed while the target warmed up, or in the memory run, is in no row and in the judgement all the same."""
    found = result(row("veriroute"))
    assert judged(found)["wrong or unverified answers"] is True
    found["info"]["veriroute"]["failed"] = 1
    assert judged(found)["wrong or unverified answers"] is False


def test_a_round_of_nothing_but_failures_is_shown() -> None:
    """It has no figures to take a median of, and its failures are in the table."""
    failed = row("nginx", ok=0, failed=101, cpu_us=None, latency_us={"n": 0, "p50": 0, "p99": 0})
    report = load("report")
    alone = report.one_scenario(result(row("direct"), failed), "json-16").splitlines()[-1].split()
    assert (alone[0], alone[1], alone[-1]) == ("nginx", "–", "101")
    both = report.one_scenario(result(row("nginx"), failed | {"round": 1}), "json-16").splitlines()[-1].split()
    assert (both[1], both[-1]) == ("100", "101")


def test_the_whole_run_is_accounted_for(whole: dict[str, Any]) -> None:
    """Every request of every run, the checks and the warm-up too, has a receipt in a log that verifies."""
    audit = whole["audit"]
    measured = sum(r["ok"] for r in whole["rows"] if r["target"] == "veriroute")
    assert audit["requests"] == audit["receipts"] == audit["answered"] > measured + 40 + 22
    assert audit["leaves"] == audit["log_size"]
    assert audit["ok"] is True
    assert {info["failed"] for info in whole["info"].values()} == {0}
    assert "wrong or unverified answers" in whole["said"]


def test_the_p99_of_a_few_samples_is_not_told() -> None:
    """Below 100 samples a p99 would be the slowest one: a dash stands in its place, and in that of what is added."""
    report = load("report")
    few = result(row("direct", latency_us=samples(99, 50.0)), row("veriroute", latency_us=samples(99, 100.0)))
    enough = result(row("direct", latency_us=samples(100, 50.0)), row("veriroute", latency_us=samples(100, 100.0)))
    assert report.added(few, "veriroute", "json-16", "latency_us", "p99") is None
    assert report.added(enough, "veriroute", "json-16", "latency_us", "p99") == 500.0
    assert report.added(few, "veriroute", "json-16", "latency_us", "p50") == 50.0
    assert "1,000" not in report.one_scenario(few, "json-16")
    assert "1,000" in report.one_scenario(enough, "json-16")
