"""`veriroute verify`: files in, lines and an exit code out; light, and safe for the terminal."""

import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from receipt_world import SEED, World, small_world

from gateway.cli import main
from gateway.crypto.encoding import b64
from gateway.log.bundle import format_bundle, open_all
from gateway.log.receipt import salt_for
from gateway.model.verdict import Check, Outcome, Release

WORLD, INTENT, RECEIPT = small_world()
BUNDLE = format_bundle(WORLD.bundle(RECEIPT, INTENT))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """The good files of the world, by what they are."""
    contents: dict[str, bytes] = {
        "bundle": BUNDLE,
        "receipt": WORLD.envelopes[RECEIPT],
        "proof": WORLD.proof(RECEIPT).encode(),
        "trust": WORLD.trust_text().encode(),
        "junk": b"hello",
        "edited": BUNDLE.replace(b'"salt":"', b'"salt":"AAAA', 1),
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    return {name: str(tmp_path / name) for name in contents}


def run(*args: str) -> int:
    return main(["verify", *args])


def test_a_good_bundle_is_0_and_every_check_has_its_line(files: dict[str, str], capsys: pytest.CaptureFixture[str]):
    """Each line shows sign, word, step and sentence, without colour when it is not a terminal."""
    assert run(files["bundle"], "--trust", files["trust"]) == 0
    out = capsys.readouterr().out
    assert "✓ affirming        inclusion" in out
    assert "RECORDED VERDICT: affirming" in out
    assert "\x1b" not in out


def test_a_receipt_goes_with_its_proof(files: dict[str, str]):
    """Two files or --proof are the same; without the proof nothing about the log can be decided."""
    trust = ("--trust", files["trust"])
    assert run(files["receipt"], files["proof"], *trust) == 0
    assert run(files["proof"], files["receipt"], *trust) == 0
    assert run(files["receipt"], "--proof", files["proof"], *trust) == 0
    assert run(files["receipt"], *trust) == 3


def test_keys_from_the_file_are_called_that(files: dict[str, str], capsys: pytest.CaptureFixture[str]):
    """Without a trust file the answer is 3 and says loudly why; accepting them is a flag of its own."""
    assert run(files["bundle"]) == 3
    assert "THE KEYS CAME WITH THE FILE" in capsys.readouterr().out
    assert run(files["bundle"], "--trust-bundle-keys") == 0


def test_a_malformed_bundle_is_1(files: dict[str, str], capsys: pytest.CaptureFixture[str]):
    """A file that calls itself a bundle and is none is rejected, and says what is wrong."""
    assert run(files["edited"], "--trust", files["trust"]) == 1
    assert "✗ contraindicated" in capsys.readouterr().out


def test_several_files_give_the_worst_answer(files: dict[str, str]):
    """One rejected file among good ones is 1."""
    assert run(files["bundle"], files["edited"], "--trust", files["trust"]) == 1
    assert run(files["bundle"], files["receipt"], "--trust", files["trust"]) == 3


@pytest.mark.parametrize(
    "names",
    [
        ["junk"],
        ["missing"],
        ["proof"],
        ["receipt", "receipt", "proof"],
        ["bundle", "--trust", "junk"],
        ["bundle", "--trust", "missing"],
        ["receipt", "--proof", "binary"],
    ],
)
def test_usage_is_2(files: dict[str, str], names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """What cannot be read or paired is a usage error with one sentence on standard error."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    extra = {"missing": str(tmp_path / "missing\x1b[2J"), "binary": str(tmp_path / "binary")}
    assert run(*[{**files, **extra}.get(name, name) for name in names]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("veriroute verify: ")
    assert "\x1b" not in captured.err + captured.out


def test_the_recorded_verdict_decides_unless_it_is_left_out(
    tmp_path: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str]
):
    """A genuine receipt of a withheld answer is 1; --authenticity-only asks only whether it is genuine."""
    world = World()
    checks = (Check("signature", Outcome.AFFIRMING), Check("fresh", Outcome.CONTRAINDICATED, "served_at"))
    predicate = world.predicate(verdict=Outcome.CONTRAINDICATED, release=Release.WITHHELD, checks=checks)
    path = tmp_path / "withheld"
    bundle = world.bundle(world.add_receipt(predicate), evidence=())
    path.write_bytes(format_bundle(bundle))
    assert run(str(path), "--trust", files["trust"]) == 1
    assert run(str(path), "--trust", files["trust"], "--authenticity-only") == 0
    said = capsys.readouterr().out
    assert "contraindicated" in said
    assert "every check is affirming" not in said


def test_require_affirming_takes_nothing_less(tmp_path: Path, files: dict[str, str]):
    """A recorded warning passes by default and fails with --require affirming."""
    world = World()
    path = tmp_path / "warned"
    bundle = world.bundle(world.add_receipt(world.predicate(verdict=Outcome.WARNING)))
    path.write_bytes(format_bundle(bundle))
    assert run(str(path), "--trust", files["trust"]) == 0
    assert run(str(path), "--trust", files["trust"], "--require", "affirming") == 1


def test_json_is_one_document(files: dict[str, str], capsys: pytest.CaptureFixture[str]):
    """--json gives every line with its members, and the exit code."""
    assert run(files["bundle"], files["edited"], "--trust", files["trust"], "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["exit"] == 1
    good, bad = document["files"]
    assert (good["exit"], good["recordedVerdict"], good["recordedRelease"]) == (0, "affirming", "released")
    assert {"step", "outcome", "about", "sentence", "detail", "claimed"} == set(good["lines"][0])
    assert (bad["exit"], bad["receipt"], bad["lines"][0]["outcome"]) == (1, None, "contraindicated")


def test_standard_input_is_a_file(files: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    """`-` reads the bundle from standard input."""
    stdin: Any = io.TextIOWrapper(io.BytesIO(BUNDLE))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run("-", "--trust", files["trust"]) == 0


def test_a_file_over_the_limit_is_refused(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Reading stops at the limit."""
    monkeypatch.setattr("gateway.cli.verify.MAX_BUNDLE", 100)
    assert run(files["bundle"]) == 2
    assert "limit" in capsys.readouterr().err


def test_k01_hostile_names_and_reasons_do_not_reach_the_terminal(
    tmp_path: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str]
):
    """Escape codes in a node's words, an opening's name or a file's name are shown, not sent."""
    world = World()
    hostile = "\x1b]52;c;x\x07\x9b2J\u202e✓ affirming"
    checks = (Check("signature", Outcome.NONE, hostile),)
    predicate = world.predicate(verdict=Outcome.NONE, reason=hostile, checks=checks)
    openings = open_all(SEED, {hostile: b""})
    path = tmp_path / "x\x1b[2J"
    path.write_bytes(format_bundle(world.bundle(world.add_receipt(predicate), openings=openings)))
    assert run(str(path), "--trust", files["trust"]) == 1
    out = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in out)
    assert "\\x1b]52" in out


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_colour_goes_to_a_terminal_and_no_color_is_honoured(files: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    """Colour beside sign and word on a terminal, none with NO_COLOR or a dumb terminal."""

    def output() -> str:
        stream = Terminal()
        monkeypatch.setattr(sys, "stdout", stream)
        assert run(files["bundle"], "--trust", files["trust"]) == 0
        return stream.getvalue()

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[32m✓ affirming" in output()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in output()
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in output()


def test_a_stream_without_the_signs_gets_ascii(files: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    """On an ASCII stream the signs are ASCII and nothing fails."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert run(files["bundle"], "--trust", files["trust"]) == 0
    stream.seek(0)
    assert "+ affirming" in stream.read()


HEAVY = ("litestar", "sqlalchemy", "sqlmodel", "textual", "openai", "pydantic", "httpx", "asyncio", "uvicorn")


def test_it_imports_little_and_starts_at_once(files: dict[str, str]):
    """Checking a bundle loads no server, database or UI code and takes less than half a second of CPU."""
    script = (
        "import sys\nfrom gateway.cli import main\n"
        "code = main(sys.argv[1:])\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\nraise SystemExit(code)"
    )
    command = [sys.executable, "-c", script, "verify", files["bundle"], "--trust", files["trust"]]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 0.5


def test_a_saved_answer_is_checked_too(tmp_path: Path, files: dict[str, str]):
    """An answer with a full verification member is a bundle; one that only names its receipt decides nothing."""
    member = {
        "receipt": WORLD.predicate(1).receipt_id,
        "proof": WORLD.proof(RECEIPT),
        "openings": {"response.content": b64(salt_for(SEED, "response.content"))},
        "envelope": json.loads(WORLD.envelopes[RECEIPT]),
    }
    path = tmp_path / "answer.json"
    choice = {"index": 0, "message": {"role": "assistant", "content": "4"}}
    path.write_text(json.dumps({"choices": [choice], "verification": member}))
    assert run(str(path), "--trust", files["trust"]) == 0
    path.write_text(json.dumps({"choices": [], "verification": member}))
    assert run(str(path), "--trust", files["trust"]) == 1
    path.write_bytes(msgspec.json.encode({"choices": [], "verification": {"receipt": member["receipt"]}}))
    assert run(str(path), "--trust", files["trust"]) == 3
