"""A receipt that nobody waits for any more is written all the same."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from agents import good_script
from behind_front import ask, behind_front
from policy_kit import write_policy
from scripted import ScriptedNode

from gateway.errors import LogUnavailable
from gateway.log.audit_rows import read_envelope
from gateway.model.entry import Committed
from gateway.model.verdict import Outcome, Release
from gateway.offline.epochs import Epochs
from gateway.recorder import Ending
from gateway.relay.book import Book
from gateway.storage.scan import Scan


class Recorder:
    """The log takes an intent when the test says so; what comes behind it is kept."""

    def __init__(self) -> None:
        self.intended: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        self.appended: list[str] = []
        self.kept: list[str] = []

    def intent(self, x: object) -> asyncio.Future[Committed]:
        return self.intended

    def entry(self, x: object, ending: Ending) -> tuple[str, str]:
        return str(ending.reason or ending.release), "sealed"

    def intent_later(self, x: object, error: object) -> bool:
        self.kept.append("intent")
        return True

    def receipt(self, x: object, ending: Ending) -> tuple[asyncio.Future[Committed], str, str]:
        return self.append(str(ending.release)), str(ending.release), "sealed"

    def receipt_later(self, x: object, ending: Ending, error: object) -> str:
        self.kept.append(str(ending.release))
        return "sealed"

    def keep(self, entry: str, error: object) -> bool:
        self.kept.append(entry)
        return True

    def append(self, entry: str) -> asyncio.Future[Committed]:
        self.appended.append(entry)
        return asyncio.get_running_loop().create_future()


async def test_a_receipt_that_waits_for_its_intent_outlives_who_waits_for_it() -> None:
    """A stop gives an exchange a second for its last words; what has left has a receipt however long the log takes."""
    recorder, policy = Recorder(), SimpleNamespace(audit=SimpleNamespace(durability="async"))
    book = Book(cast(Any, recorder), cast(Any, None), cast(Any, policy), {})
    assert await book.intend() is None
    ending = Ending(verdict=Outcome.NONE, release=Release.FAILED, status=500, reason="stopped")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await book.record(ending)
    assert recorder.appended == []
    recorder.intended.set_result(cast(Any, None))
    await asyncio.sleep(0)
    assert recorder.appended == ["stopped"]


async def test_a_receipt_does_not_overtake_an_intent_that_has_just_failed() -> None:
    """The log refuses the intent in the very turn in which the answer is recorded: both are owed, in their order."""
    audit = SimpleNamespace(durability="async", on_log_failure="degrade")
    recorder, policy = Recorder(), SimpleNamespace(audit=audit)
    book = Book(cast(Any, recorder), cast(Any, None), cast(Any, policy), {})
    assert await book.intend() is None
    recorder.intended.set_exception(LogUnavailable("the disk is full"))
    await book.record(Ending(verdict=Outcome.AFFIRMING, release=Release.RELEASED, status=200))
    await asyncio.sleep(0)
    assert (recorder.appended, recorder.kept) == ([], ["intent", "released"])


@pytest.mark.parametrize(("hangs", "ends"), [(True, "failed"), (False, "released")])
async def test_a_stop_reveals_no_seed_before_the_receipts_that_a_slow_log_has_yet_to_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool, ends: str
) -> None:
    """Else whoever recomputes the audits finds an honest gateway to have taken answers under a revealed seed."""
    node = ScriptedNode()
    good = good_script(node)

    async def hanging(of: Any) -> Any:
        await asyncio.sleep(30)
        yield b""

    path = write_policy(tmp_path / "policies", "sampled", durability='"async"')
    path.write_text(path.read_text("utf-8") + "[sampled]\nrate = 1\n", "utf-8")
    text = f"""
    auth.mode = "none"
    server.drain_s = 0.2
    storage.url = "sqlite:///{tmp_path}/audit.db"
    policy = {{dir = "{tmp_path}/policies", default = "sampled"}}
    nodes = [{{id = "n", base_url = "{node.url}", models = ["m"], pin = "{node.pin}"}}]
    """
    free = threading.Event()  # set, the log's writer goes on
    async with behind_front(text, monkeypatch) as gateway:
        node.script = good
        assert (await ask(gateway)).status == 200
        node.script = hanging if hangs else good
        gateway.sequencer.submit(lambda _: free.wait(10))
        asking = asyncio.create_task(ask(gateway))
        closing = asyncio.create_task(gateway.close())
        await asyncio.sleep(1.5)  # the exchange has its last second
        free.set()
        await asyncio.gather(asking, closing, return_exceptions=True)
    node.close()
    epochs = Epochs()
    with Scan(f"{tmp_path}/audit.db") as scan:
        rows = scan.rows(0, scan.size, 1000)
    for row in rows:
        epochs.take(row)
    assert [row.kind for row in rows][-3:] == ["audit", "reveal", "stop"]
    assert {line.step: line.outcome.value for line in epochs.lines(0, None)} == {
        **{"commitment": "affirming", "reveal": "affirming", "selection": "affirming"},
        "audits": "none",
    }
    said = [read_envelope(row.envelope).payload for row in rows if row.kind == "receipt" and row.envelope is not None]
    assert [json.loads(payload)["predicate"]["release"] for payload in said] == ["released", ends]
