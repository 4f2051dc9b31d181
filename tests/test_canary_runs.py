"""The parts of a canary: its question, what counts as a sample, what a comparison changes; the settings; the commands."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from gateway import canaries, settings
from gateway.baselines import Baseline, Baselines
from gateway.canaries import MAX_ANSWER, PATH, Answer, Canaries, NoSample, compared, question, read_sample
from gateway.cli import main
from gateway.errors import Busy, ConfigError, EvidenceRejected
from gateway.model.ulid import UlidFactory
from gateway.relay import Incoming
from gateway.verify.proofs.evidence import Kind, Subject, Verdict

NODE = "n"


def answer(top: list[dict[str, Any]] | None, **more: Any) -> bytes:
    """A chat completion of one token with these alternatives."""
    entry = {"token": "t", "logprob": -0.25, "bytes": None, "top_logprobs": top}
    choice = {"index": 0, "message": {"role": "assistant", "content": "t"}, "logprobs": {"content": [entry]}, **more}
    return json.dumps({"choices": [choice]}).encode()


def alternatives(count: int, first: float = -0.5) -> list[dict[str, Any]]:
    return [{"token": f"t{n}", "logprob": first - n, "bytes": None} for n in range(count)]


def test_the_question_is_short() -> None:
    """One letter, one token, twenty alternatives; nothing in it differs from one time to the next."""
    asked = json.loads(question("m", "q"))
    assert asked == {
        "model": "m",
        "messages": [{"role": "user", "content": "q"}],
        "max_tokens": 1,
        "logprobs": True,
        "top_logprobs": 20,
    }
    assert question("m", "q") == question("m", "q")


def test_a_sample_is_the_alternatives() -> None:
    """The twenty likeliest, by log-prob; not the token that happened to be drawn."""
    assert read_sample(answer(alternatives(2))) == {"t0": -0.5, "t1": -1.5}
    flood = list(reversed(alternatives(30)))
    assert list(read_sample(answer(flood))) == [f"t{n}" for n in range(20)]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (answer(None), "logprobs_absent"),
        (answer([]), "logprobs_absent"),
        (answer([], logprobs=None), "logprobs_absent"),
        (answer([], logprobs={"content": []}), "empty_answer"),
        (answer([{"token": "x" * 257, "logprob": -1}]), "malformed"),
        (answer([{"token": "x", "logprob": "NaN"}]), "malformed"),
        (answer(alternatives(129)), "malformed"),
        (b'{"choices": []}', "malformed"),
        (b"{", "malformed"),
        (b"[" * 100_000, "malformed"),
        (b'{"a": "\\ud800"}', "malformed"),
        (b" " * (MAX_ANSWER + 1), "too_large"),
    ],
)
def test_what_is_no_sample(body: bytes, reason: str) -> None:
    """An answer without log-probs, with none that can be used, or with too much of anything has its reason."""
    with pytest.raises(NoSample, match=f"^{reason}$"):
        read_sample(body)


FIRST = Baseline(
    node=NODE, model="m", keyset="k", prompt="x", set_ms=1000, samples=({"a": -0.5},) * 5, since_ms=1000, last_ms=1000
)
PASS = Subject("0" * 64, None).record(Kind.DRIFT, Verdict.PASS, "baseline_unchanged", statistic=0.5, tokens=10)
TURN = Subject("0" * 64, None).record(Kind.DRIFT, Verdict.INCONCLUSIVE, "baseline_changed", statistic=0.002, tokens=10)


def test_since_when_and_how_often() -> None:
    """Runs that find the same are counted from the first of them; another finding begins to count anew."""
    one = compared(FIRST, PASS, 2000, "k")
    assert (one.state, one.since_ms, one.last_ms, one.runs, one.p) == ("stable", 2000, 2000, 1, 0.5)
    two = compared(one, PASS, 3000, "other")
    assert (two.since_ms, two.last_ms, two.runs, two.rekeyed) == (2000, 3000, 2, True)
    three = compared(two, TURN, 4000, "k")
    assert (three.state, three.since_ms, three.runs, three.p, three.rekeyed) == ("changed", 4000, 1, 0.002, False)
    back = compared(three, PASS, 5000, "k")
    assert (back.state, back.since_ms, back.runs) == ("stable", 5000, 1)
    assert back.samples == FIRST.samples
    assert back.set_ms == 1000


async def test_a_refusal_is_a_reason() -> None:
    """In place of an agent: the reason of a refusal, or its code where it has none."""
    told = Answer()
    await told.refuse(EvidenceRejected("no", reason="response_bound"), "01", {}, [])
    assert (told.body, told.reason) == (None, "response_bound")
    await told.refuse(Busy("no"), "01", {}, [])
    assert told.reason == "busy"


# -- runs over a relay that only counts ---------------------------------------------------------------------------------


class CountingRelay:
    """Answers as it is told to, and remembers what it was asked. The real relay stands in tests/e2e/test_canaries.py."""

    def __init__(self, *bodies: bytes) -> None:
        self.bodies = list(bodies)
        self.asked: list[Incoming] = []
        self.meanwhile: Callable[[], None] = lambda: None

    async def serve(self, incoming: Incoming, sink: Answer) -> None:
        self.asked.append(incoming)
        body = self.bodies[min(len(self.asked), len(self.bodies)) - 1]
        if body == b"raise":
            raise RuntimeError("a defect")
        self.meanwhile()
        await sink.answer([], body)


def member(node: str, models: tuple[str, ...] = ("m",), endpoints: tuple[str, ...] = (PATH,)) -> Any:
    session = SimpleNamespace(id=f"session-of-{node}", keyset_digest="k")
    return SimpleNamespace(node=SimpleNamespace(id=node, models=models, endpoints=endpoints), session=session)


def made(tmp_path: Path, relay: CountingRelay, *members: Any, **changes: Any) -> tuple[Canaries, Baselines, Any]:
    """Canaries over `relay`, their store, and the fleet."""
    store = Baselines(tmp_path / "canaries")
    fleet = SimpleNamespace(members={m.node.id: m for m in members or (member(NODE),)})
    chosen = settings.Canaries(**{"every_s": 1.0, "samples": 8, "models": ("m",), **changes})
    terms = SimpleNamespace(policy=None, use=None)
    runs = Canaries(chosen, fleet, relay, lambda head: terms, store, UlidFactory())  # type: ignore[arg-type]
    return runs, store, fleet


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between samples."""
    monkeypatch.setattr(canaries, "GAP_S", 0.0)


async def turn(runs: Canaries) -> dict[str, Any]:
    """One run, and what is known after it."""
    await runs._look()
    await runs._turn((NODE, "m"))
    return dict(msgspec.to_builtins(runs.of(NODE)[0]))


async def test_never_more_than_the_samples(tmp_path: Path) -> None:
    """A run asks as often as the settings say, always the one node, and a failing one asks no more."""
    relay = CountingRelay(answer(alternatives(3)))
    runs, store, _ = made(tmp_path, relay, samples=9)
    assert (await turn(runs))["state"] == "set"
    assert len(relay.asked) == 9
    assert {i.terms.sessions for i in relay.asked} == {("session-of-n",)}
    assert {i.key_id for i in relay.asked} == {"veriroute:canary"}
    assert len({i.receipt_id for i in relay.asked}) == len({i.randomness for i in relay.asked}) == 9
    kept = store.read(NODE, "m")
    assert kept is not None
    assert len(kept.samples) == 9
    second = await turn(runs)
    assert (second["state"], second["reason"], second["p"]) == ("stable", "baseline_unchanged", 1.0)
    assert len({i.body for i in relay.asked}) == 1, "the same prompt, drawn once"
    relay.bodies = [b"{}"]
    third = await turn(runs)
    assert (third["state"], third["reason"], third["runs"]) == ("stable", "malformed", 1)
    assert len(relay.asked) == 19


async def test_a_change_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log hears of a turn and not of every run that finds the same."""
    said: list[tuple[str, object]] = []
    tell = lambda event, **about: said.append((event, about["state"]))  # noqa: E731
    monkeypatch.setattr(canaries.log, "warning", tell, raising=False)
    relay = CountingRelay(answer(alternatives(3)))
    runs, _, _ = made(tmp_path, relay)
    await turn(runs)
    assert (await turn(runs))["state"] == "stable"
    relay.bodies = [answer(alternatives(3, first=-0.9))]
    assert (await turn(runs))["state"] == "changed"
    assert (await turn(runs))["runs"] == 2
    relay.bodies = [answer(alternatives(3))]
    assert (await turn(runs))["state"] == "stable"
    assert said == [("canary.turned", "stable"), ("canary.turned", "changed"), ("canary.turned", "stable")]


async def test_a_reset_in_the_midst_of_a_run(tmp_path: Path) -> None:
    """What was compared with a baseline that is gone is not kept; the next run begins anew."""
    relay = CountingRelay(answer(alternatives(3)))
    runs, store, _ = made(tmp_path, relay)
    await turn(runs)
    relay.meanwhile = lambda: store.reset(NODE, ["m"]) and None
    assert (await turn(runs))["reason"] == "baseline_reset"
    assert store.read(NODE, "m") is None
    relay.meanwhile = lambda: None
    assert (await turn(runs))["state"] == "set"


async def test_what_keeps_a_run_from_being_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged file, no room, a folder that cannot be written, a defect: each has its reason, and runs go on."""
    relay = CountingRelay(answer(alternatives(3)))
    runs, store, fleet = made(tmp_path, relay)
    await turn(runs)
    store._path(NODE, "m").write_bytes(b"{")
    assert (await turn(runs))["reason"] == "baseline_damaged"
    assert (await made(tmp_path, relay)[0]._first((NODE, "m"))) <= 1.0
    store.reset(NODE, ["m"])
    monkeypatch.setattr("gateway.baselines.MAX_BASELINES", 0)
    asked = len(relay.asked)
    assert (await turn(runs))["reason"] == "baselines_full"
    assert len(relay.asked) == asked  # what there is no room for is not asked for
    monkeypatch.setattr(Baselines, "full", lambda self: len(relay.asked) > asked)  # the room went meanwhile
    assert (await turn(runs))["reason"] == "baselines_full"
    monkeypatch.undo()
    monkeypatch.setattr(canaries, "GAP_S", 0.0)
    store.folder.rmdir()
    store.folder.write_bytes(b"")
    assert (await turn(runs))["reason"] == "baseline_damaged"
    store.folder = tmp_path / "canaries" / "below"
    monkeypatch.setattr(Baselines, "read", lambda *_: None)
    assert (await turn(runs))["reason"] == "baseline_unwritable"
    relay.bodies = [b"raise"]
    assert (await turn(runs))["reason"] == "internal_error"
    fleet.members[NODE].session = None
    assert (await turn(runs))["reason"] == "session_missing"
    fleet.members.clear()
    await runs._turn((NODE, "m"))
    assert runs._reasons[NODE, "m"] == "session_missing"


async def test_a_policy_that_refuses_everything(tmp_path: Path) -> None:
    """An error of ours is the reason."""
    runs, _, _ = made(tmp_path, CountingRelay(b""))

    def refuse(head: Any) -> Any:
        raise Busy("no")

    runs._resolve = refuse
    assert (await turn(runs))["reason"] == "busy"


async def test_who_is_asked(tmp_path: Path) -> None:
    """Chat models that are named, at nodes that offer them; a node that goes is forgotten, and its baseline kept."""
    relay = CountingRelay(answer(alternatives(3)))
    members = (member("a", ("m", "other")), member("b", ("other",)), member("c", endpoints=("/v1/embeddings",)))
    runs, store, fleet = made(tmp_path, relay, *members, member(NODE))
    await turn(runs)
    assert sorted(runs._due) == [("a", "m"), (NODE, "m")]
    assert (runs.of("b"), runs.of("c")) == ((), ())
    assert runs.of("a")[0].state == "waiting"
    del fleet.members[NODE]
    await runs._look()
    assert runs.of(NODE) == ()
    assert store.read(NODE, "m") is not None


@pytest.mark.parametrize(
    ("age_s", "least", "most"), [(0, 1800, 2400), (1200, 600, 1800), (10_000, 0, 60), (-5000, 1800, 2400)]
)
async def test_a_restart_brings_no_run_forward(tmp_path: Path, age_s: int, least: float, most: float) -> None:
    """The first run comes when it would have been due; soon where there was none, and never later than an interval."""
    runs, store, _ = made(tmp_path, CountingRelay(b""), every_s=2400.0)
    last = int((time.time() - age_s) * 1000)
    store.begin(msgspec.structs.replace(FIRST, last_ms=last))
    waits = [await runs._first((NODE, "m")) for _ in range(20)]
    assert least - 5 <= min(waits)
    assert max(waits) <= most
    assert len(set(waits)) > 5 or age_s <= 0, "the times are jittered"


async def test_off_is_off(tmp_path: Path) -> None:
    """Without an interval nothing runs, and the task is over at once."""
    relay = CountingRelay(b"")
    runs, _, _ = made(tmp_path, relay, every_s=0.0)
    await asyncio.wait_for(runs.run(), 1)
    assert (relay.asked, runs.of(NODE)) == ([], ())


async def test_runs_wait_for_their_time(tmp_path: Path) -> None:
    """Runs come one after the other, about an interval apart, until they are cancelled."""
    relay = CountingRelay(answer(alternatives(3)))
    runs, _, fleet = made(tmp_path, relay, every_s=0.2)
    fleet.members, there = {}, fleet.members
    canary = asyncio.ensure_future(runs.run())
    await asyncio.sleep(0.05)
    assert not relay.asked
    fleet.members = there
    try:
        async with asyncio.timeout(10):
            while not (runs.of(NODE) and runs.of(NODE)[0].runs >= 2):
                await asyncio.sleep(0.01)
    finally:
        canary.cancel()
        await asyncio.gather(canary, return_exceptions=True)
    assert len(relay.asked) >= 24
    assert max(i.received_ms for i in relay.asked) - relay.asked[0].received_ms >= 2 * 0.75 * 200 - 50


# -- settings and commands ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("every_s = -1", "0, or a number of seconds from 1 on"),
        ("every_s = 0.5", "from 1 on"),
        ("every_s = inf", "from 1 on"),
        ("every_s = nan", "from 1 on"),
        ("samples = 7", "8 to 50"),
        ("samples = 51", "8 to 50"),
        ("every_s = 60", "must name the chat models"),
    ],
)
def test_settings_that_ask_for_nonsense(text: str, words: str) -> None:
    """They are refused at the start, with what they have to be."""
    with pytest.raises(ConfigError, match=words):
        settings.load(f"[canaries]\n{text}\n")


def test_reset_and_list_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The commands work on the files beside the database: each baseline in two lines; one model, or all of a node."""
    monkeypatch.chdir(tmp_path)
    store = Baselines(Path("veriroute.db.canaries"))
    nothing = "no baselines yet; the settings canaries.every_s and canaries.models ask for canaries\n"
    assert main(["nodes", "baseline", "list"]) == 1
    assert capsys.readouterr().out == nothing
    store.begin(msgspec.structs.replace(FIRST, model="evil\x1b[2J"))
    store.begin(compared(FIRST, TURN, 2000, "other"))
    assert main(["nodes", "baseline", "list"]) == 0
    assert capsys.readouterr().out == (
        "n  evil\\x1b[2J  set 1970-01-01T00:00:01.000Z\n  5 samples; nothing was compared with them yet\n"
        "n  m  CHANGED since 1970-01-01T00:00:02.000Z\n  1 run, the last 1970-01-01T00:00:02.000Z: p 0.002, under "
        "another keyset; 5 samples of 1970-01-01T00:00:01.000Z\n"
    )
    assert main(["nodes", "baseline", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(b["model"], b["state"], b["samples"]) for b in listed] == [("evil\x1b[2J", "set", 5), ("m", "changed", 5)]
    assert main(["nodes", "baseline", "reset", NODE, "--model", "m"]) == 0
    assert capsys.readouterr().out == "n  m  forgotten; the next canaries set a new baseline\n"
    assert main(["nodes", "baseline", "reset", NODE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"node": NODE, "reset": ["evil\x1b[2J"]}
    assert main(["nodes", "baseline", "reset", NODE]) == 1
    assert capsys.readouterr().out == "there is no baseline of n\n"
    store._path(NODE, "m").mkdir()
    assert main(["nodes", "baseline", "reset", NODE, "--model", "m"]) == 2
    assert "cannot remove a baseline" in capsys.readouterr().err


def test_reset_reaches_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A file that cannot be read is found by the models of the settings."""
    monkeypatch.chdir(tmp_path)
    store = Baselines(Path("veriroute.db.canaries"))
    store.begin(FIRST)
    store._path(NODE, "m").write_bytes(b"{")
    monkeypatch.setenv("VERIROUTE_CANARIES_MODELS", "m")
    assert main(["nodes", "baseline", "reset", NODE]) == 0
    assert "forgotten" in capsys.readouterr().out
